//! DELETE: at once, after a grace period (pods), or once the finalizers are done.

use std::sync::Arc;

use admission::Operation;
use apimachinery::status::{Details, GroupResource};
use apimachinery::{FieldErrors, Path, Status, Value, time, value};
use bytes::Bytes;
use http::Response;
use jiff::SignedDuration;
use registry::DeletionRule;
use storage::{Expect, Kv};
use tokio::sync::Mutex;

use super::admit::{Admission, admit, judge};
use crate::Server;
use crate::allocate;
use crate::body::Body;
use crate::corrupt;
use crate::decode;
use crate::error;
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::{Form, negotiate};
use crate::options::{self, given_number};
use crate::persist::{self, Current, Replaced, Written};
use crate::respond;
use crate::target::Target;
use crate::traces;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// The options of a delete, from the body and the query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) dry_run: bool,
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation: Option<String>,
    pub(crate) orphan_dependents: Option<bool>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    /// An object is meant that cannot be read.
    pub(crate) ignore_read_error: bool,
}

/// Deletes an object.
pub(crate) async fn delete(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let body = exchange.read(body).await?;
    let options = DeleteOptions::of(server, exchange, &body)?;
    options.warn(exchange, target);
    let form = negotiate(exchange)?;
    if options.ignore_read_error {
        let status = corrupt::delete(server, exchange, target, &options).await?;
        return Ok(told(exchange, form, status));
    }
    let name = exchange.info.name.clone();
    let deleted = remove(server, &Asking::new(exchange), target, &name, &options).await?;
    Ok(match deleted {
        Deleted::Object(written) => respond::written(server, target, form, 200, written)?,
        Deleted::Going(written) => {
            // Whoever asks in the old way for dependents to go first is told that this is not done yet.
            let code = if options.orphan_dependents == Some(false) { 202 } else { 200 };
            respond::written(server, target, form, code, written)?
        }
        Deleted::Status(status) => told(exchange, form, status),
    })
}

/// The answer that says no more than that it is done.
fn told(exchange: &mut Exchange, form: Form, status: Status) -> Response<Body> {
    let response = respond::plain(form, 200, &status.to_value());
    exchange.told = exchange.audit.is_some().then(|| Box::new(status));
    response
}

/// What a delete answers.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object, gone.
    Object(Written),
    /// The object, which something still holds.
    Going(Written),
    /// That it is gone.
    Status(Status),
}

impl DeleteOptions {
    pub(crate) fn of(server: &Server, exchange: &Exchange, body: &Bytes) -> Result<Self, Status> {
        let mut given =
            if body.is_empty() { Value::object() } else { decode::delete_options(exchange, body)? };
        let query = &exchange.query;
        if body.is_empty() {
            if let Some(number) = given_number(query, "gracePeriodSeconds")? {
                given.set_at(&["gracePeriodSeconds"], number);
            }
            if let Some(text) = query.get("propagationPolicy") {
                given.set_at(&["propagationPolicy"], text);
            }
            if query.get("orphanDependents").is_some() {
                given.set_at(&["orphanDependents"], query.flag("orphanDependents"));
            }
            if query.get(corrupt::OPTION).is_some() {
                given.set_at(&[corrupt::OPTION], query.flag(corrupt::OPTION));
            }
            for member in ["uid", "resourceVersion"] {
                if let Some(text) = query.get(member).filter(|text| !text.is_empty()) {
                    given.set_at(&["preconditions", member], text);
                }
            }
            let dry_run: Vec<&str> = query.all("dryRun").collect();
            if !dry_run.is_empty() {
                given.set_at(&["dryRun"], dry_run.into_iter().collect::<Value>());
            }
        }
        if !corrupt::is_known(server) {
            given.remove_at(&[corrupt::OPTION]);
        }
        Self::checked(&given)
    }

    /// The options as a body or another object has them.
    pub(crate) fn checked(given: &Value) -> Result<Self, Status> {
        let mut errors = FieldErrors::new();
        let dry_run = options::dry_run(
            given.items_at(&["dryRun"]).iter().filter_map(Value::as_str),
            &mut errors,
        );
        let propagation = given.get("propagationPolicy").and_then(Value::as_str);
        let orphan_dependents = given.get("orphanDependents").and_then(Value::as_bool);
        let at = Path::new("propagationPolicy");
        match propagation {
            Some(_) if orphan_dependents.is_some() => {
                errors.invalid_text(
                    &at,
                    propagation.unwrap_or_default(),
                    "orphanDependents and deletionPropagation cannot be both set",
                );
            }
            Some(policy) if !matches!(policy, "Foreground" | "Background" | "Orphan") => {
                errors.not_supported(
                    &at,
                    &Value::from(policy),
                    ["Foreground", "Background", "Orphan", "nil"],
                );
            }
            _ => {}
        }
        let ignore_read_error = given.bool_at(&[corrupt::OPTION]);
        // What such an object is like is not known: nothing can be said of it.
        let said = ["propagationPolicy", "orphanDependents", "gracePeriodSeconds", "preconditions"];
        for member in said.into_iter().filter(|it| ignore_read_error && given.get(it).is_some()) {
            let detail = format!("cannot be set together with .{member}");
            errors.invalid(&Path::new(corrupt::OPTION), &Value::from(true), &detail);
        }
        options::refuse("DeleteOptions", &errors)?;
        let preconditions = |member| {
            given.at(&["preconditions", member]).and_then(Value::as_str).map(str::to_owned)
        };
        Ok(Self {
            dry_run,
            grace_period_seconds: given.i64_at(&["gracePeriodSeconds"]),
            propagation: propagation.map(str::to_owned),
            orphan_dependents,
            uid: preconditions("uid"),
            resource_version: preconditions("resourceVersion"),
            ignore_read_error,
        })
    }
}

impl DeleteOptions {
    /// Warns who does not say what becomes of an object's dependents, where they stay.
    pub(super) fn warn(&self, exchange: &mut Exchange, target: &Target) {
        let warning = target.resource().rules().orphan_warning;
        if !warning.is_empty() && self.propagation.is_none() && self.orphan_dependents.is_none() {
            exchange.warnings.push(warning.into());
        }
    }

    /// The options as who judges the delete of an object sees them: with the grace period that it gets.
    pub(crate) fn as_reviewed(&self, target: &Target, value: &Value) -> Value {
        let given = self.grace_period_seconds.map(|it| if it < 0 { 1 } else { it });
        let graceful = target.resource().rules().deletion == DeletionRule::Graceful;
        let grace = match value.at(&["metadata", "deletionTimestamp"]) {
            _ if !graceful => given,
            Some(_) => given.or_else(|| value.i64_at(&["metadata", "deletionGracePeriodSeconds"])),
            None => Some(grace_period(target, self, value)),
        };
        let mut options = value!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(grace) = grace {
            options.set_at(&["gracePeriodSeconds"], grace);
        }
        for (member, precondition) in
            [("uid", &self.uid), ("resourceVersion", &self.resource_version)]
        {
            if let Some(wanted) = precondition {
                options.set_at(&["preconditions", member], wanted.as_str());
            }
        }
        if let Some(orphan) = self.orphan_dependents {
            options.set_at(&["orphanDependents"], orphan);
        }
        if let Some(policy) = &self.propagation {
            options.set_at(&["propagationPolicy"], policy.as_str());
        }
        if self.ignore_read_error {
            options.set_at(&[corrupt::OPTION], true);
        }
        if self.dry_run {
            options.set_at(&["dryRun"], ["All"].into_iter().collect::<Value>());
        }
        options
    }
}

/// A request that deletes several objects at once: admission is asked about one after the other.
pub(crate) type Asking<'e> = Mutex<&'e mut Exchange>;

/// Deletes an object by name, for one delete and for each of a collection.
pub(crate) async fn remove(
    server: &Arc<Server>,
    exchange: &Asking<'_>,
    target: &Target,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    attempt(server, Some(exchange), target, name, options).await
}

/// Deletes an object that admission was asked about as something else: an eviction.
pub(crate) async fn remove_unasked(
    server: &Arc<Server>,
    target: &Target,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    attempt(server, None, target, name, options).await
}

/// Tries until nobody else was faster; admission is asked about each state, in the name of `exchange`.
async fn attempt(
    server: &Arc<Server>,
    exchange: Option<&Asking<'_>>,
    target: &Target,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    let mut current = persist::current(server, target, name).await?;
    for _ in 0..super::update::ATTEMPTS {
        check_preconditions(target, name, options, &current.value)?;
        if let Some(exchange) = exchange {
            let mut exchange = exchange.lock().await;
            let admission = Admission {
                operation: Operation::Delete,
                target,
                subresource: "",
                name: name.into(),
                dry_run: options.dry_run,
                delete_options: options.as_reviewed(target, &current.value),
            };
            let (object, old) = (&mut Value::Null, Some(current.value.as_ref()));
            admit(server, &mut exchange, &admission, object, old).await?;
            judge(server, &mut exchange, &admission, object, old).await?;
        }
        match step(server, target, name, options, current).await? {
            Step::Done(deleted) => return Ok(deleted),
            Step::Conflict(newer) => current = newer,
            Step::Gone => return Err(Status::not_found(target.group_resource(), name)),
        }
    }
    Err(Status::conflict(target.group_resource(), name, error::MODIFIED))
}

enum Step {
    Done(Deleted),
    Conflict(Current),
    Gone,
}

/// The object is the one that the options mean, in the state that they mean.
pub(crate) fn check_preconditions(
    target: &Target,
    name: &str,
    options: &DeleteOptions,
    value: &Value,
) -> Result<(), Status> {
    let facts = target.served.facts;
    let uid_now = value.str_at(&["metadata", "uid"]);
    let is_definition = facts.resource == "customresourcedefinitions";
    if (target.resource().rules().deletion == DeletionRule::Namespace || is_definition)
        && let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid_now)
    {
        let why = super::update::uid_mismatch(wanted, uid_now);
        return Err(Status::conflict(target.group_resource(), name, &why));
    }
    // Here upstream names the kind, not the resource.
    let of = GroupResource { group: facts.group, resource: facts.kind };
    let (uid, version) =
        (value.str_at(&["metadata", "uid"]), value.str_at(&["metadata", "resourceVersion"]));
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        if target.resource().rules().deletion == DeletionRule::Namespace {
            let why = super::update::uid_mismatch(wanted, uid);
            return Err(Status::conflict(target.group_resource(), name, &why));
        }
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(of, name, &why));
    }
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        );
        return Err(Status::conflict(of, name, &why));
    }
    Ok(())
}

/// One attempt: marks the object as going, or takes it away.
async fn step(
    server: &Arc<Server>,
    target: &Target,
    name: &str,
    options: &DeleteOptions,
    current: Current,
) -> Result<Step, Status> {
    let Current { value, kv } = current;
    let mut value = Arc::unwrap_or_clone(value);
    target.resource().prepare_delete(&mut value, server.clock.now());
    let grace = grace_period(target, options, &value);
    let rules = target.resource().rules();
    let finalizers = set_finalizers(&mut value, options, rules.orphans);
    let namespace_finalizers = rules.deletion == DeletionRule::Namespace
        && !value.items_at(&["spec", "finalizers"]).is_empty();
    if grace > 0 || finalizers || namespace_finalizers {
        mark(server, target, &mut value, grace);
        let replaced = persist::replace(server, target, name, &kv, value, options.dry_run).await?;
        return Ok(match replaced {
            Replaced::Done(stored) => Step::Done(Deleted::Going(stored)),
            Replaced::Conflict(newer) => Step::Conflict(newer),
        });
    }
    // What is deleted with grace says when it went, even if that is at once.
    let marked = rules.deletion == DeletionRule::Graceful && mark(server, target, &mut value, 0);
    if options.dry_run {
        return Ok(Step::Done(answer(target, value)));
    }
    if marked {
        return mark_and_take_away(server, target, name, kv, value).await;
    }
    Ok(match take_away(server, target, name, &kv).await? {
        Taken::At(revision) => {
            allocate::release(server, target, &value).await;
            Step::Done(answer(target, at_version(value, revision)))
        }
        Taken::Conflict(newer) => Step::Conflict(newer),
        Taken::Gone => Step::Gone,
    })
}

fn at_version(mut value: Value, revision: storage::Rev) -> Value {
    value.set_at(&["metadata", "resourceVersion"], revision.0.to_string());
    value
}

/// As upstream: the mark is a write of its own, so that watchers see when and with which grace the object went, in the
/// last state before and in the deletion.
async fn mark_and_take_away(
    server: &Arc<Server>,
    target: &Target,
    name: &str,
    kv: Kv,
    value: Value,
) -> Result<Step, Status> {
    let marked = match persist::replace(server, target, name, &kv, value.clone(), false).await? {
        Replaced::Done(marked) => marked.revision(),
        Replaced::Conflict(newer) => return Ok(Step::Conflict(newer)),
    };
    let mut kv = Kv { mod_rev: marked, ..kv };
    let mut value = at_version(value, marked);
    for _ in 0..super::update::ATTEMPTS {
        match take_away(server, target, name, &kv).await? {
            Taken::At(revision) => {
                return Ok(Step::Done(answer(target, at_version(value, revision))));
            }
            Taken::Conflict(newer) if is_marked(&value, &newer.value) => {
                (value, kv) = (Arc::unwrap_or_clone(newer.value), newer.kv);
            }
            Taken::Conflict(newer) => return Ok(Step::Conflict(newer)),
            // Whoever saw the mark, such as a node, was faster: that is what was asked for.
            Taken::Gone => return Ok(Step::Done(answer(target, value))),
        }
    }
    Ok(Step::Conflict(Current { value: Arc::new(value), kv }))
}

/// Whether this is the marked object in a later state, with nobody to wait for.
fn is_marked(marked: &Value, newer: &Value) -> bool {
    let uid = |value: &Value| value.str_at(&["metadata", "uid"]).to_owned();
    uid(marked) == uid(newer) && newer.items_at(&["metadata", "finalizers"]).is_empty()
}

/// The grace period of this delete, in seconds. Upstream: pods have one unless they never ran or are over.
fn grace_period(target: &Target, options: &DeleteOptions, value: &Value) -> i64 {
    if target.resource().rules().deletion != DeletionRule::Graceful {
        return 0;
    }
    let wanted = options
        .grace_period_seconds
        .or_else(|| value.i64_at(&["spec", "terminationGracePeriodSeconds"]))
        .unwrap_or_default();
    // A negative period means the shortest there is.
    let wanted = if wanted < 0 { 1 } else { wanted };
    let never_ran = value.str_at(&["spec", "nodeName"]).is_empty();
    let over = matches!(value.str_at(&["status", "phase"]), "Failed" | "Succeeded");
    if never_ran || over { 0 } else { wanted }
}

/// Sets the finalizers that the wanted propagation needs; says whether any finalizer holds the object.
fn set_finalizers(value: &mut Value, options: &DeleteOptions, orphans: bool) -> bool {
    let mut finalizers: Vec<Value> = value.items_at(&["metadata", "finalizers"]).to_vec();
    let before = finalizers.clone();
    let has = |list: &[Value], name: &str| list.iter().any(|it| it.as_str() == Some(name));
    let (orphan, foreground) = match (options.propagation.as_deref(), options.orphan_dependents) {
        (Some("Orphan"), _) | (None, Some(true)) => (true, false),
        (Some("Foreground"), _) => (false, true),
        (Some(_), _) | (None, Some(false)) => (false, false),
        (None, None) if has(&finalizers, FOREGROUND) => (false, true),
        (None, None) => (orphans || has(&finalizers, ORPHAN), false),
    };
    finalizers.retain(|it| !matches!(it.as_str(), Some(ORPHAN | FOREGROUND)));
    if orphan {
        finalizers.push(ORPHAN.into());
    }
    if foreground {
        finalizers.push(FOREGROUND.into());
    }
    let holds = !finalizers.is_empty();
    let same = before.iter().all(|it| finalizers.contains(it))
        && finalizers.iter().all(|it| before.contains(it));
    if same {
        // Their order stays, too.
        return holds;
    }
    if holds {
        value.set_at(&["metadata", "finalizers"], Value::Array(finalizers));
    } else {
        value.remove_at(&["metadata", "finalizers"]);
    }
    holds
}

/// Sets when the object is to be gone. A later delete shortens the time, never lengthens it.
fn mark(server: &Server, target: &Target, value: &mut Value, grace: i64) -> bool {
    let going = value.at(&["metadata", "deletionTimestamp"]).is_some();
    let earlier = value.i64_at(&["metadata", "deletionGracePeriodSeconds"]);
    if going && earlier.is_none_or(|earlier| grace >= earlier) {
        return false;
    }
    let now = server.clock.now();
    let at = match (going, time::parse_time(value.str_at(&["metadata", "deletionTimestamp"]))) {
        (true, Ok(then)) => {
            then.checked_sub(SignedDuration::from_secs(earlier.unwrap_or_default() - grace))
        }
        _ => now.checked_add(SignedDuration::from_secs(grace)),
    };
    value.set_at(&["metadata", "deletionTimestamp"], time::format_time(at.unwrap_or(now)));
    let rules = target.resource().rules();
    if rules.deletion == DeletionRule::Namespace {
        value.set_at(&["status", "phase"], "Terminating");
    } else {
        value.set_at(&["metadata", "deletionGracePeriodSeconds"], grace);
    }
    if !going
        && rules.generation != registry::Generation::None
        && let Some(generation) = value.i64_at(&["metadata", "generation"]).filter(|it| *it > 0)
    {
        value.set_at(&["metadata", "generation"], generation + 1);
    }
    true
}

/// What became of an attempt to take an object away.
pub(super) enum Taken {
    /// It went with this revision.
    At(storage::Rev),
    /// Somebody else was faster; this is the object now.
    Conflict(Current),
    /// It was not there any more.
    Gone,
}

/// Takes an object away where it is still this one.
pub(super) async fn take_away(
    server: &Arc<Server>,
    target: &Target,
    name: &str,
    kv: &Kv,
) -> Result<Taken, Status> {
    let mut part = traces::storage("delete", target);
    let deleted = server.hub.store().delete(kv.key.clone(), Expect::ModRev(kv.mod_rev));
    let deleted = spans::run(&mut part, deleted).await;
    drop(part);
    match deleted {
        Ok(deleted) => {
            persist::settle(server, target, deleted.rev).await;
            Ok(Taken::At(deleted.rev))
        }
        Err(storage::StorageError::Conflict { current }) => {
            Ok(Taken::Conflict(persist::decode_current(server, target, &current).await?))
        }
        Err(storage::StorageError::NotFound { .. }) => Ok(Taken::Gone),
        Err(error) => Err(error::of_object(&error, target.group_resource(), name)),
    }
}

fn answer(target: &Target, value: Value) -> Deleted {
    if target.resource().rules().returns_deleted {
        return Deleted::Object(Written::Only(value));
    }
    let facts = target.served.facts;
    Deleted::Status(Status {
        success: true,
        details: Some(Box::new(Details {
            name: value.str_at(&["metadata", "name"]).into(),
            group: facts.group.into(),
            kind: facts.resource.into(),
            uid: value.str_at(&["metadata", "uid"]).into(),
            ..Details::default()
        })),
        ..Status::default()
    })
}

/// Takes away an object whose last finalizer a write has just removed; the object as written comes back.
pub(crate) async fn finish(
    server: &Arc<Server>,
    target: &Target,
    current: &Current,
    mut value: Value,
) -> Result<Value, Status> {
    let name = value.str_at(&["metadata", "name"]).to_owned();
    let deleted =
        server.hub.store().delete(current.kv.key.clone(), Expect::ModRev(current.kv.mod_rev)).await;
    let deleted =
        deleted.map_err(|error| error::of_object(&error, target.group_resource(), &name))?;
    allocate::release(server, target, &value).await;
    value.set_at(&["metadata", "resourceVersion"], deleted.rev.0.to_string());
    Ok(value)
}
