//! Server-side apply: the applied fields are merged with what others have set, and owned by the applier from then on.

use std::sync::Arc;

use apimachinery::{FieldErrors, Path, Status, Value, managed_fields, value, yaml};
use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use registry::Scale;

use super::create;
use super::subresource::scale_of;
use super::update::{Tracking, Write, check_name};
use crate::Server;
use crate::body::Body;
use crate::decode::{self, Patched};
use crate::error::MODIFIED;
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::negotiate;
use crate::options::{FieldValidation, WriteOptions, refuse};
use crate::persist::{self, Current, Written, tracked_write};
use crate::respond;
use crate::target::Target;

/// How often an apply is begun again because the object came or went meanwhile.
const ATTEMPTS: usize = 10;

/// Applies a configuration; creates the object where there is none.
pub(crate) async fn apply(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let body = exchange.read(body).await?;
    let options = WriteOptions::of(exchange, "PatchOptions")?;
    check_options(exchange)?;
    let form = negotiate(exchange)?;
    let mut applied = Applied::of(exchange, &body)?;
    target.resource().from_removed(&target.served, &mut applied.value);
    if ["apiVersion", "kind"].iter().all(|it| applied.value.str_at(&[it]).is_empty()) {
        return Err(Status::bad_request("invalid object type: /, Kind="));
    }
    check_kind(server, target, &applied.value)?;
    let (name, subresource) = (exchange.info.name.clone(), exchange.info.subresource.clone());
    for _ in 0..ATTEMPTS {
        let Some(current) = persist::try_current(server, target, &name).await? else {
            if !subresource.is_empty() {
                return Err(Status::not_found(target.group_resource(), &name));
            }
            match new_object(server, exchange, target, &options, &applied).await {
                // Somebody else was faster: what they made is what this is merged with.
                Err(status) if status.reason == create::EXISTS => continue,
                stored => return respond::written(server, target, form, 201, stored?),
            }
        };
        match replace(server, exchange, target, &options, &applied, current).await {
            // It went in that moment: it is made anew.
            Err(status) if status.reason == "NotFound" && subresource.is_empty() => {}
            stored => return respond::written(server, target, form, 200, stored?),
        }
    }
    Err(Status::conflict(target.group_resource(), &name, MODIFIED))
}

/// What is applied is of the kind that it is applied to; another version is told of where it is merged.
fn check_kind(server: &Server, target: &Target, applied: &Value) -> Result<(), Status> {
    let facts = target.served.facts;
    let kind = applied.str_at(&["kind"]);
    if kind == facts.kind || applied.str_at(&["apiVersion"]) != facts.api_version() {
        return Ok(());
    }
    let known = !target.resource().is_custom()
        && server.catalog.of_kind(facts.group, facts.version, kind).is_some();
    let message = if known {
        format!("expected objects of the same type, but got {} and {kind}", facts.kind)
    } else {
        let of = managed_fields::kind_text(applied);
        let text = |path: &[&str]| applied.str_at(path).to_owned();
        let (namespace, name) = (text(&["metadata", "namespace"]), text(&["metadata", "name"]));
        format!(
            "failed to create typed patch object ({namespace}/{name}; {of}): no corresponding type for {of}"
        )
    };
    Err(Status { code: 500, message, ..Status::default() })
}

/// Makes an object of what is applied.
async fn new_object(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    options: &WriteOptions,
    applied: &Applied,
) -> Result<Written, Status> {
    let uid = applied.value.str_at(&["metadata", "uid"]);
    if !uid.is_empty() {
        // What was meant is gone: it does not come to life again.
        let why = format!(
            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
        );
        return Err(Status::conflict(target.group_resource(), &exchange.info.name, &why));
    }
    create::may_create(server, exchange, Status::internal).await?;
    let merged = merge(server, exchange, target, options, applied, None)?;
    let mut value = merged.unwrap_or_else(|| applied.value.clone());
    let strictly = (options.field_validation, [].as_slice());
    decode::patched(exchange, target, &mut value, strictly, Patched::Applied)?;
    stays_in_its_place(target, &exchange.info.name, &mut value)?;
    // A version of what is not there is not looked at.
    value.remove_at(&["metadata", "resourceVersion"]);
    create::new_object(server, exchange, target, options, value, Tracking::Done).await
}

/// Applies a `Scale`: the same as applying an object with nothing but the count, under the name of the subresource.
pub(crate) async fn apply_scale(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
    scale: Scale,
) -> Result<Response<Body>, Status> {
    let body = exchange.read(body).await?;
    let options = WriteOptions::of(exchange, "PatchOptions")?;
    check_options(exchange)?;
    let form = negotiate(exchange)?;
    let mut applied = Applied::of(exchange, &body)?;
    let name = exchange.info.name.clone();
    applied.value = counted(target, &name, &scale, &applied.value)?;
    let current = persist::current(server, target, &name).await?;
    let stored = replace(server, exchange, target, &options, &applied, current).await?;
    Ok(respond::scale(server, target, form, scale_of(&scale, &stored.into_value()?)))
}

/// The object that says what a `Scale` says.
fn counted(target: &Target, name: &str, scale: &Scale, given: &Value) -> Result<Value, Status> {
    let (version, kind) = (given.str_at(&["apiVersion"]), given.str_at(&["kind"]));
    if (version, kind) != ("autoscaling/v1", "Scale") {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type Scale): {version}/{kind}"
        )));
    }
    let given_name = given.str_at(&["metadata", "name"]);
    if !given_name.is_empty() && given_name != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given_name}) does not match the name on the URL ({name})"
        )));
    }
    let facts = target.served.facts;
    let mut object = value!({"apiVersion": (facts.api_version()), "kind": (facts.kind),
        "metadata": {"name": name}});
    if facts.namespaced {
        object.set_at(&["metadata", "namespace"], target.namespace.as_str());
    }
    match given.at(&["spec", "replicas"]) {
        None => {}
        Some(Value::Int(replicas)) if *replicas >= 0 => {
            object.set_at(scale.spec_replicas, *replicas);
        }
        Some(other) => {
            let mut errors = FieldErrors::new();
            let at = Path::new("spec");
            errors.invalid(&at.child("replicas"), other, "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", name, &errors));
        }
    }
    Ok(object)
}

/// What is stored merged with what is applied; `None` where that changes nothing.
fn merge(
    server: &Server,
    exchange: &mut Exchange,
    target: &Target,
    options: &WriteOptions,
    applied: &Applied,
    live: Option<&Value>,
) -> Result<Option<Value>, Status> {
    let now = apimachinery::time::format_time(server.clock.now());
    let version = target.served.facts.api_version();
    let write = tracked_write(target, &exchange.info.subresource, options, &version, &now);
    let force = exchange.query.flag("force");
    let merged = managed_fields::apply(&write, live, &applied.value, force)?;
    // Upstream looks for repeated keys last, so that a conflict is told first.
    if let Some(problem) = &applied.repeated {
        match options.field_validation {
            FieldValidation::Strict => {
                let cause = "error strict decoding YAML: error converting YAML to JSON";
                return Err(Status::bad_request(format!("{cause}: {problem}")));
            }
            FieldValidation::Warn => decode::warn(exchange, problem),
            FieldValidation::Ignore => {}
        }
    }
    Ok(merged)
}

/// Writes an object that exists, merged with what is applied.
async fn replace(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    options: &WriteOptions,
    applied: &Applied,
    current: Current,
) -> Result<Written, Status> {
    let (name, subresource) = (exchange.info.name.clone(), exchange.info.subresource.clone());
    let write = Write {
        name: &name,
        subresource: &subresource,
        options,
        tracking: Tracking::Done,
        of_live: true,
    };
    let change = |exchange: &mut Exchange, target: &Target, live: &Value| match merge(
        server,
        exchange,
        target,
        options,
        applied,
        Some(live),
    )? {
        None => Ok(live.clone()),
        Some(mut value) => {
            let strictly = (options.field_validation, [].as_slice());
            decode::patched(exchange, target, &mut value, strictly, Patched::Applied)?;
            stays_in_its_place(target, &name, &mut value)?;
            Ok(value)
        }
    };
    write.run(server, exchange, target, current, change).await
}

/// What is applied is of the name and in the namespace of the URL.
fn stays_in_its_place(target: &Target, name: &str, value: &mut Value) -> Result<(), Status> {
    create::place_in_namespace(target, value)?;
    check_name(value, name)
}

/// An apply has to say who applies.
fn check_options(exchange: &Exchange) -> Result<(), Status> {
    let mut errors = FieldErrors::new();
    if exchange.query.get("fieldManager").unwrap_or_default().is_empty() {
        errors.required(&Path::new("fieldManager"), "is required for apply patch");
    }
    refuse("PatchOptions", &errors)
}

/// What is applied.
struct Applied {
    value: Value,
    /// What strict validation says of keys that occur twice.
    repeated: Option<String>,
}

impl Applied {
    fn of(exchange: &Exchange, body: &Bytes) -> Result<Self, Status> {
        let (value, repeated) =
            if exchange.header(CONTENT_TYPE).starts_with(crate::cbor::APPLY_MEDIA_TYPE) {
                (parse_cbor(body)?, None)
            } else {
                let (value, repeated) = yaml::parse_reporting(body).map_err(|error| {
                    let cause = "error decoding YAML: error converting YAML to JSON";
                    Status::bad_request(format!("{cause}: {error}"))
                })?;
                (value, yaml::strict_error(&repeated))
            };
        if let Some(audited) = &exchange.audit {
            audited.patch(&value);
        }
        match value {
            Value::Null => Ok(Self { value: Value::object(), repeated }),
            Value::Object(_) => Ok(Self { value, repeated }),
            other => Err(Status::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot \
                 unmarshal {} into Go value of type map[string]interface {{}}",
                other.kind_name()
            ))),
        }
    }
}

/// The same in CBOR, which knows no repeated members. Upstream calls what is wrong YAML here too.
fn parse_cbor(body: &Bytes) -> Result<Value, Status> {
    let bad =
        |why: &dyn std::fmt::Display| Status::bad_request(format!("error decoding YAML: {why}"));
    let value = crate::cbor::decode(body, None).map_err(|error| bad(&error))?;
    match &value {
        Value::Null | Value::Object(_) => Ok(value),
        other => Err(bad(&crate::cbor::no_map(body, other))),
    }
}
