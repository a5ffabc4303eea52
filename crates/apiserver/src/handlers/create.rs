//! POST of a new object: decode, default, own, admit, prepare, validate, judge, store.

use std::sync::Arc;

use admission::Operation;
use apimachinery::status::GroupResource;
use apimachinery::{Object, Status, Value, time};
use auth::{Attributes, Decision, UserInfo};
use http::Response;
use registry::Generation;

use super::admit::{Admission, admit};
use super::update::Tracking;
use super::{owners, subresource, update};
use crate::allocate::{Reservation, reserve};
use crate::body::Body;
use crate::decode;
use crate::exchange::{Exchange, RequestBody};
use crate::filters::request_attributes;
use crate::negotiate::negotiate;
use crate::options::WriteOptions;
use crate::persist::{self, Written};
use crate::privileged;
use crate::respond;
use crate::shown;
use crate::target::Target;
use crate::unbuilt;
use crate::{Server, admin_access};

/// How many letters a generated name ends in.
const SUFFIX_LENGTH: usize = 5;
/// The longest base a name is generated from, so that it fits in 63 bytes.
const MAX_GENERATED_BASE: usize = 63 - SUFFIX_LENGTH;
/// The reason of a refusal because there is an object of that name.
pub(super) const EXISTS: &str = "AlreadyExists";
/// How often a generated name that is taken is tried again (upstream: 8 attempts).
const NAME_ATTEMPTS: usize = 8;

/// Creates an object.
pub(crate) async fn create(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    if !exchange.info.subresource.is_empty() {
        return subresource::create(server, exchange, target, body).await;
    }
    if !exchange.info.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    decode::syntax_of(exchange)?;
    let body = exchange.read(body).await?;
    let options = WriteOptions::of(exchange, "CreateOptions")?;
    let form = negotiate(exchange)?;
    let value = decode::object(exchange, target, &body, options.field_validation)?;
    let stored = new_object(server, exchange, target, &options, value, Tracking::Compare)
        .await
        .map_err(|status| shown::with_empty_maps(exchange, target.served.node, &body, status))?;
    respond::written(server, target, form, 201, stored)
}

/// Everything after decoding: a value of the request's version becomes a stored object.
pub(crate) async fn new_object(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    options: &WriteOptions,
    mut value: Value,
    tracking: Tracking,
) -> Result<Written, Status> {
    place_in_namespace(target, &mut value)?;
    wipe_metadata(&mut value);
    owners::once(exchange, &mut value, owners::When::Sent);
    if tracking == Tracking::Compare {
        persist::track_fields(server, target, "", options, &mut value, None);
    }
    target.resource().to_storage(&target.served, &mut value);
    let generated = value.str_at(&["metadata", "name"]).is_empty()
        && !value.str_at(&["metadata", "generateName"]).is_empty();
    if !generated {
        return attempt_create(server, exchange, target, options, value).await;
    }
    let mut attempt = 1;
    loop {
        let result = attempt_create(server, exchange, target, options, value.clone()).await;
        match result {
            Err(status) if status.reason == EXISTS && attempt < NAME_ATTEMPTS => attempt += 1,
            other => return other,
        }
    }
}

async fn attempt_create(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    options: &WriteOptions,
    mut value: Value,
) -> Result<Written, Status> {
    wipe_metadata(&mut value);
    let versioned = !options.dry_run && is_versioned(&value);
    let mut admission = Admission {
        operation: Operation::Create,
        target,
        subresource: "",
        name: value.str_at(&["metadata", "name"]).into(),
        dry_run: options.dry_run,
        delete_options: Value::Null,
    };
    admit(server, exchange, &admission, &mut value, None).await?;
    owners::once(exchange, &mut value, owners::When::Admitted);
    // Admission may have moved it.
    place_in_namespace(target, &mut value)?;
    fill_metadata(server, target, &mut value);
    exchange.warnings.extend(target.resource().warnings_as_sent(&value));
    let labels = own_labels(exchange, target, &value);
    target.resource().prepare_create(&mut value);
    if let Some(labels) = labels {
        value.set_at(&["metadata", "labels"], labels);
    }
    if target.served.facts.resource == "certificatesigningrequests" {
        requested_by(&exchange.user, &mut value);
    }
    let name = value.str_at(&["metadata", "name"]).to_owned();
    admission.name.clone_from(&name);
    let mut errors = admin_access::check(server, target.served.facts, &value).await?;
    errors.extend(target.resource().validate(&target.served, &value));
    privileged::check(server, target.served.facts, &value, &mut errors);
    if !errors.is_empty() {
        let facts = target.storage().facts;
        return Err(Status::invalid(facts.group, facts.kind, &name, &errors));
    }
    exchange.warnings.extend(target.resource().warnings(&value, None));
    exchange.warnings.extend(unbuilt::warning(target.served.facts));
    // Those who judge see what a service got.
    let reservation = Reservation { target, old: None, dry_run: options.dry_run };
    let reserved = reserve(server, &reservation, &mut value).await?;
    let judged = super::admit::judge(server, exchange, &admission, &mut value, None).await;
    if let Err(status) =
        judged.and_then(|it| if versioned { Err(refuse_version()) } else { Ok(it) })
    {
        reserved.take_back().await;
        return Err(status);
    }
    match persist::create(server, target, &name, value, options.dry_run).await {
        Ok(stored) => {
            reserved.commit().await;
            Ok(stored)
        }
        Err(status) => {
            reserved.failed(target, &status).await;
            Err(in_the_way(server, target, &name, status).await)
        }
    }
}

/// That something has this name already, and where it is on its way out, that too.
async fn in_the_way(server: &Server, target: &Target, name: &str, status: Status) -> Status {
    if status.reason != EXISTS {
        return status;
    }
    let found = persist::try_current(server, target, name).await.ok().flatten();
    let is_going =
        |it: &persist::Current| it.value.at(&["metadata", "deletionTimestamp"]).is_some();
    if !found.as_ref().is_some_and(is_going) {
        return status;
    }
    Status { message: format!("object is being deleted: {}", status.message), ..status }
}

/// The labels of a job that brought them: it keeps them as they are, also where its template has the same. What it has by default is
/// its template's, and grows with those.
fn own_labels(exchange: &Exchange, target: &Target, job: &Value) -> Option<Value> {
    let facts = target.served.facts;
    let is_job = (facts.group, facts.resource) == ("batch", "jobs");
    let labels = job.at(&["metadata", "labels"]);
    labels.filter(|_| is_job && exchange.labelled).cloned()
}

/// A certificate signing request says who asks, whatever the client wrote.
fn requested_by(user: &UserInfo, value: &mut Value) {
    let spec = value.object_at_mut(&["spec"]);
    for key in ["username", "uid", "groups", "extra"] {
        spec.remove(key);
    }
    spec.insert("username", user.name.as_str());
    if !user.uid.is_empty() {
        spec.insert("uid", user.uid.as_str());
    }
    spec.insert("groups", Value::Array(user.groups.iter().map(|it| it.as_str().into()).collect()));
    let mut extra = Object::default();
    for (key, values) in &user.extra {
        extra.insert(
            key.as_str(),
            Value::Array(values.iter().map(|it| it.as_str().into()).collect()),
        );
    }
    if !extra.is_empty() {
        spec.insert("extra", Value::Object(extra));
    }
}

/// The namespace of the request is that of the object.
pub(crate) fn place_in_namespace(target: &Target, value: &mut Value) -> Result<(), Status> {
    let given = value.str_at(&["metadata", "namespace"]);
    if given == target.namespace {
        return Ok(());
    }
    if given.is_empty() {
        value.set_at(&["metadata", "namespace"], target.namespace.as_str());
        return Ok(());
    }
    if target.namespace.is_empty() {
        // Cluster-wide objects have none, whatever is written.
        value.remove_at(&["metadata", "namespace"]);
        return Ok(());
    }
    Err(Status::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

/// What only the server sets is not there while plugins change the object.
fn wipe_metadata(value: &mut Value) {
    let metadata = value.object_at_mut(&["metadata"]);
    for member in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"]
    {
        metadata.remove(member);
    }
}

/// Whether it says that it was stored already. What is no version at all says nothing, as none does.
fn is_versioned(value: &Value) -> bool {
    value.str_at(&["metadata", "resourceVersion"]).parse::<u64>().is_ok_and(|version| version != 0)
}

/// Upstream looks at the version of a new object when it stores it, after all else.
fn refuse_version() -> Status {
    Status {
        code: 500,
        message: "resourceVersion should not be set on objects to be created".into(),
        ..Status::default()
    }
}

fn fill_metadata(server: &Server, target: &Target, value: &mut Value) {
    let prefix = value.str_at(&["metadata", "generateName"]).to_owned();
    let metadata = value.object_at_mut(&["metadata"]);
    for member in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"]
    {
        metadata.remove(member);
    }
    metadata.insert("uid", server.random.uid().to_string());
    metadata.insert("creationTimestamp", time::format_time(server.clock.now()));
    let generation = target.resource().rules().generation;
    if !matches!(generation, Generation::None | Generation::Changes) {
        metadata.insert("generation", 1);
    } else {
        metadata.remove("generation");
    }
    let unnamed = metadata.get("name").and_then(Value::as_str).unwrap_or_default().is_empty();
    if unnamed && !prefix.is_empty() {
        let mut end = prefix.len().min(MAX_GENERATED_BASE);
        while !prefix.is_char_boundary(end) {
            end -= 1;
        }
        metadata
            .insert("name", format!("{}{}", &prefix[..end], server.random.suffix(SUFFIX_LENGTH)));
    }
}

/// Whether whoever asks may also create what the request is about, though its own verb is another: an update or an apply is no
/// way round the right to create (upstream: `withAuthorization`), and neither is a stream that a GET opens
/// (`ensureAuthorizedForVerb`). `failed` is how it is told that nobody could be asked.
///
/// # Errors
/// 403 where they may not, in the authorizer's words alone.
pub(crate) async fn may_create(
    server: &Server,
    exchange: &Exchange,
    failed: impl FnOnce(String) -> Status,
) -> Result<(), Status> {
    let attributes = Attributes { verb: "create", ..request_attributes(exchange) };
    match server.access.authorizer.authorize(&attributes).await {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            let of = GroupResource { group: attributes.group, resource: attributes.resource };
            Err(Status::forbidden(of, attributes.name, &reason))
        }
        Decision::Failed { why, .. } => Err(failed(why)),
    }
}

/// A create that came as an update of an object that does not exist.
pub(crate) async fn on_update(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    options: &WriteOptions,
    mut value: Value,
) -> Result<Written, Status> {
    let name = exchange.info.name.clone();
    let uid = value.str_at(&["metadata", "uid"]).to_owned();
    if !uid.is_empty() {
        let of: GroupResource<'_> = target.group_resource();
        let why = {
            let why = update::uid_mismatch(&uid, "");
            update::refused_by_storage(target, &name, options.dry_run, &why)?
        };
        return Err(Status::conflict(of, &name, &why));
    }
    may_create(server, exchange, Status::internal).await?;
    value.remove_at(&["metadata", "resourceVersion"]);
    new_object(server, exchange, target, options, value, Tracking::Compare).await
}
