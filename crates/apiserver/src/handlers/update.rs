//! PUT, and what it shares with PATCH: an object is read, changed, checked and replaced where it is still the same.

use std::borrow::Cow;
use std::sync::Arc;

use admission::Operation;
use apimachinery::{Status, Value};
use http::Response;
use registry::{Generation, Part};

use super::admit::{Admission, admit, judge};
use super::{create, owners, subresource};
use crate::Server;
use crate::allocate::{Reservation, Reserved, reserve};
use crate::body::Body;
use crate::decode;
use crate::error::MODIFIED;
use crate::exchange::{Exchange, RequestBody};
use crate::metrics::Issued;
use crate::negotiate::negotiate;
use crate::options::WriteOptions;
use crate::persist::{self, Current, Replaced, Written};
use crate::privileged;
use crate::respond;
use crate::shown;
use crate::target::Target;
use crate::unbuilt;

/// How often a write that lost a race is tried again, where the client did not name a version: each time somebody else's
/// write succeeded, and the request's deadline comes first (upstream's only limit).
pub(crate) const ATTEMPTS: usize = 200;

/// Replaces an object.
pub(crate) async fn update(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let subresource = exchange.info.subresource.clone();
    if subresource::is_special(&subresource) {
        return subresource::update(server, exchange, target, body).await;
    }
    let body = exchange.read(body).await?;
    let options = WriteOptions::of(exchange, "UpdateOptions")?;
    let form = negotiate(exchange)?;
    let mut given = decode::object(exchange, target, &body, options.field_validation)?;
    let name = exchange.info.name.clone();
    check_name(&given, &name)?;
    create::place_in_namespace(target, &mut given)?;
    let mut found = persist::try_current(server, target, &name).await?;
    if found.is_none() && target.resource().rules().create_on_update && subresource.is_empty() {
        match create::on_update(server, exchange, target, &options, given.clone()).await {
            Ok(stored) => return respond::written(server, target, form, 201, stored),
            // Somebody else was faster: theirs is what is replaced.
            Err(status) if status.reason == create::EXISTS => {
                found = persist::try_current(server, target, &name).await?;
            }
            Err(status) => return Err(status),
        }
    }
    let Some(current) = found else {
        let uid = given.str_at(&["metadata", "uid"]);
        if !uid.is_empty() {
            // Upstream compares before it notices that there is nothing to compare with.
            let why = refused_by_storage(target, &name, options.dry_run, &uid_mismatch(uid, ""))?;
            return Err(Status::conflict(target.group_resource(), &name, &why));
        }
        return Err(Status::not_found(target.group_resource(), &name));
    };
    let write = Write {
        name: &name,
        subresource: &subresource,
        options: &options,
        tracking: Tracking::Compare,
        of_live: false,
    };
    // A write that names a version is not tried again.
    let once = !given.str_at(&["metadata", "resourceVersion"]).is_empty();
    let change = |_: &mut Exchange, _: &Target, _: &Value| {
        Ok(if once { std::mem::take(&mut given) } else { given.clone() })
    };
    let stored = write
        .run(server, exchange, target, current, change)
        .await
        .map_err(|status| shown::with_empty_maps(exchange, target.served.node, &body, status))?;
    respond::written(server, target, form, 200, stored)
}

/// The object names itself as the URL does.
pub(crate) fn check_name(value: &Value, name: &str) -> Result<(), Status> {
    match value.str_at(&["metadata", "name"]) {
        "" => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given if given == name => Ok(()),
        given => Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
    }
}

/// A write to an object that exists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Write<'w> {
    pub(crate) name: &'w str,
    pub(crate) subresource: &'w str,
    pub(crate) options: &'w WriteOptions,
    pub(crate) tracking: Tracking,
    /// Whether the change is made of the object as it is, so that it can be made again where somebody was faster,
    /// although the object carries a version then.
    pub(crate) of_live: bool,
}

/// Whether managed fields are still to be brought up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// They are compared and updated.
    Compare,
    /// An apply has done it.
    Done,
    /// Nobody owns what this write sets.
    Nobody,
}

impl Write<'_> {
    /// Reads, changes, checks and replaces, again where somebody else was faster and the client named no version.
    /// `change` gets the object in the request's version and gives the wanted one in the same version.
    pub(crate) async fn run(
        &self,
        server: &Arc<Server>,
        exchange: &mut Exchange,
        target: &Target,
        mut current: Current,
        mut change: impl FnMut(&mut Exchange, &Target, &Value) -> Result<Value, Status>,
    ) -> Result<Written, Status> {
        for attempt in 1.. {
            let mut live = Cow::Borrowed(current.value.as_ref());
            if !target.is_storage_version() {
                target.resource().from_storage(&target.served, live.to_mut());
            }
            let mut value = change(exchange, target, &live)?;
            let named_version = self.check_preconditions(target, &value, &current.value)?;
            keep_system_fields(&mut value, &current.value);
            if self.tracking == Tracking::Compare {
                persist::track_fields(
                    server,
                    target,
                    self.subresource,
                    self.options,
                    &mut value,
                    Some(&live),
                );
            }
            target.resource().to_storage(&target.served, &mut value);
            let checked = self.check(server, exchange, target, value, &current.value).await?;
            let (checked, reserved) = checked;
            if is_finished(&checked, &current.value) && !self.options.dry_run {
                reserved.commit().await;
                let gone = super::delete::finish(server, target, &current, checked).await?;
                return Ok(Written::Only(gone));
            }
            let issued = Issued::of(target.served.facts, &current.value, &checked);
            let replaced = persist::replace(
                server,
                target,
                self.name,
                &current.kv,
                checked,
                self.options.dry_run,
            );
            match replaced.await {
                Ok(Replaced::Done(stored)) => {
                    reserved.commit().await;
                    if let Some(issued) = issued.filter(|_| !self.options.dry_run) {
                        server.metrics.issued(&issued);
                    }
                    return Ok(stored);
                }
                Ok(Replaced::Conflict(newer)) => {
                    reserved.take_back().await;
                    let again = attempt < ATTEMPTS && (self.of_live || !named_version);
                    if !again {
                        break;
                    }
                    current = newer;
                }
                Err(status) => {
                    reserved.failed(target, &status).await;
                    return Err(status);
                }
            }
        }
        Err(Status::conflict(target.group_resource(), self.name, MODIFIED))
    }

    /// Version and uid, where the client names them; says whether it named a version. What is made of the object as it is
    /// carries the uid that it is of: another one is a change, which validation refuses.
    fn check_preconditions(
        &self,
        target: &Target,
        value: &Value,
        current: &Value,
    ) -> Result<bool, Status> {
        let of = target.group_resource();
        let (uid, actual) =
            (value.str_at(&["metadata", "uid"]), current.str_at(&["metadata", "uid"]));
        if !self.of_live && !uid.is_empty() && uid != actual {
            let why = refused_by_storage(
                target,
                self.name,
                self.options.dry_run,
                &uid_mismatch(uid, actual),
            )?;
            return Err(Status::conflict(of, self.name, &why));
        }
        let version = value.str_at(&["metadata", "resourceVersion"]);
        if version.is_empty() || version == "0" {
            if target.resource().rules().unconditional_update {
                return Ok(false);
            }
            let mut errors = apimachinery::FieldErrors::new();
            let path = apimachinery::Path::new("metadata");
            errors.invalid(
                &path.child("resourceVersion"),
                &Value::Int(0),
                "must be specified for an update",
            );
            // The store knows resources, not kinds.
            let facts = target.storage().facts;
            return Err(Status::invalid(facts.group, facts.resource, self.name, &errors));
        }
        if version != current.str_at(&["metadata", "resourceVersion"]) {
            return Err(Status::conflict(of, self.name, MODIFIED));
        }
        Ok(true)
    }

    /// Admission, preparation and validation of a value of the storage version, and what a service gets.
    async fn check(
        &self,
        server: &Arc<Server>,
        exchange: &mut Exchange,
        target: &Target,
        mut value: Value,
        old: &Value,
    ) -> Result<(Value, Reserved), Status> {
        let part = part_of(self.subresource);
        let admission = Admission {
            operation: Operation::Update,
            target,
            subresource: self.subresource,
            name: self.name.into(),
            dry_run: self.options.dry_run,
            delete_options: Value::Null,
        };
        // A binding was admitted as what was posted.
        let asks = self.subresource != "binding";
        if asks {
            admit(server, exchange, &admission, &mut value, Some(old)).await?;
        }
        owners::once(exchange, &mut value, owners::When::Admitted);
        let version = old
            .get("metadata")
            .and_then(|it| it.get("resourceVersion"))
            .cloned()
            .unwrap_or_default();
        value.set_at(&["metadata", "resourceVersion"], version);
        target.resource().prepare_update(part, &mut value, old);
        target.resource().stamp(part, &mut value, old, server.clock.now());
        move_generation(target, part, &mut value, old);
        let mut errors = target.resource().validate_update(part, &value, old);
        privileged::check(server, target.served.facts, &value, &mut errors);
        if !errors.is_empty() {
            let facts = target.storage().facts;
            return Err(Status::invalid(facts.group, facts.kind, self.name, &errors));
        }
        let scaled = part == Part::Other("scale");
        if part == Part::Main || scaled || target.resource().is_custom() {
            exchange.warnings.extend(target.resource().warnings(&value, Some(old)));
        }
        if part == Part::Main {
            exchange.warnings.extend(unbuilt::warning(target.served.facts));
        }
        let mut reserved = Reserved::default();
        if part == Part::Main {
            let reservation = Reservation { target, old: Some(old), dry_run: self.options.dry_run };
            reserved = reserve(server, &reservation, &mut value).await?;
        }
        if asks
            && let Err(status) = judge(server, exchange, &admission, &mut value, Some(old)).await
        {
            reserved.take_back().await;
            return Err(status);
        }
        Ok((value, reserved))
    }
}

/// Which part of an object a subresource is.
pub(crate) fn part_of(subresource: &str) -> Part<'_> {
    match subresource {
        "" => Part::Main,
        "status" => Part::Status,
        other => Part::Other(other),
    }
}

/// How a failed precondition is told that upstream's storage checks.
pub(crate) fn refused_by_storage(
    target: &Target,
    name: &str,
    dry_run: bool,
    why: &str,
) -> Result<String, Status> {
    let key = target.key(name)?.to_string();
    // What is not to be stored is compared before the key is put below the prefix of all.
    let key = key.strip_prefix("/registry").filter(|_| dry_run).unwrap_or(&key);
    Ok(format!(
        "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: {why}"
    ))
}

/// What a failed uid precondition is told.
pub(crate) fn uid_mismatch(wanted: &str, actual: &str) -> String {
    format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {actual}")
}

/// What only the server sets stays as it is, whatever a client writes or leaves out.
fn keep_system_fields(value: &mut Value, old: &Value) {
    for member in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        let path = ["metadata", member];
        match old.at(&path) {
            Some(before)
                if member == "generation"
                    || value.at(&path).is_none()
                    || member == "deletionTimestamp" =>
            {
                value.set_at(&path, before.clone());
            }
            Some(_) => {}
            None if member == "generation" => {
                value.remove_at(&path);
            }
            None => {}
        }
    }
    value.remove_at(&["metadata", "selfLink"]);
}

/// What an object says besides its kind and metadata, with or without its status.
fn content(value: &Value, with_status: bool) -> impl Iterator<Item = (&str, &Value)> {
    let members = value.as_object().into_iter().flat_map(apimachinery::Object::iter);
    members.filter(move |(key, _)| match *key {
        "metadata" | "kind" | "apiVersion" => false,
        "status" => with_status,
        _ => true,
    })
}

/// The generation moves with every change outside metadata and status.
fn move_generation(target: &Target, part: Part<'_>, value: &mut Value, old: &Value) {
    // Neither a status nor the choice of a node is a change of what is wanted.
    let kept = matches!(part, Part::Status | Part::Other("binding"));
    let rules = target.resource().rules();
    if kept || matches!(rules.generation, Generation::None | Generation::Fixed) {
        return;
    }
    // Without a subresource of its own, a custom resource's status is as good as its spec.
    let with_status = target.resource().is_custom() && !rules.has_status;
    let before = old.i64_at(&["metadata", "generation"]).unwrap_or_default();
    let now = value.i64_at(&["metadata", "generation"]).unwrap_or_default();
    let labels = |value: &Value| value.at(&["metadata", "labels"]).cloned();
    let labelled = rules.generation == Generation::SpecAndLabels && labels(value) != labels(old);
    if now == before && (labelled || content(value, with_status).ne(content(old, with_status))) {
        value.set_at(&["metadata", "generation"], before + 1);
    }
}

/// Whether the last finalizer of an object that is being deleted is gone.
fn is_finished(value: &Value, old: &Value) -> bool {
    let deleting = value.at(&["metadata", "deletionTimestamp"]).is_some();
    let grace = value.i64_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or_default();
    let had = !old.items_at(&["metadata", "finalizers"]).is_empty()
        || !old.items_at(&["spec", "finalizers"]).is_empty();
    let has = !value.items_at(&["metadata", "finalizers"]).is_empty()
        || !value.items_at(&["spec", "finalizers"]).is_empty();
    deleting && had && !has && grace == 0
}
