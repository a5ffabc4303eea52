//! Server-side apply: the applied fields are merged with what others have set, and owned by the applier from then on.

use std::sync::Arc;

use apimachinery::{FieldErrors, Path, Status, Value, managed_fields};
use bytes::Bytes;
use http::Response;

use super::create;
use super::update::{Tracking, Write};
use crate::Server;
use crate::body::Body;
use crate::decode;
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::negotiate;
use crate::options::{FieldValidation, WriteOptions, refuse};
use crate::persist::{self, tracked_write};
use crate::respond;
use crate::target::Target;

/// Applies a configuration; creates the object where there is none.
pub(crate) async fn apply(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let body = body.read().await?;
    let options = WriteOptions::of(exchange, "PatchOptions")?;
    check_options(exchange)?;
    let form = negotiate(&exchange.parts.headers)?;
    let force = exchange.query.flag("force");
    let applied = parse(exchange, &body, options.field_validation)?;
    let (name, subresource) = (exchange.info.name.clone(), exchange.info.subresource.clone());
    let now = apimachinery::time::format_time(server.clock.now());
    let merge = |live: Option<&Value>| {
        let version = target.served.facts.api_version();
        let write = tracked_write(target, &subresource, &options, &version, &now);
        managed_fields::apply(&write, live, &applied, force).map_err(Status::from)
    };
    let validation = options.field_validation;
    let Some(current) = persist::try_current(server, target, &name).await? else {
        if !subresource.is_empty() {
            return Err(Status::not_found(target.group_resource(), &name));
        }
        let mut value = merge(None)?.unwrap_or_else(|| applied.clone());
        value.default_at(&["metadata", "name"], name.as_str());
        decode::patched(exchange, target, &mut value, validation)?;
        let stored =
            create::new_object(server, exchange, target, &options, value, Tracking::Done).await?;
        return Ok(respond::object(server, target, form, 201, stored));
    };
    let write = Write {
        name: &name,
        subresource: &subresource,
        options: &options,
        tracking: Tracking::Done,
        of_live: true,
    };
    let change = |exchange: &mut Exchange, target: &Target, live: &Value| match merge(Some(live))? {
        None => Ok(live.clone()),
        Some(mut value) => {
            decode::patched(exchange, target, &mut value, validation)?;
            Ok(value)
        }
    };
    let stored = write.run(server, exchange, target, current, change).await?;
    Ok(respond::object(server, target, form, 200, stored))
}

/// An apply has to say who applies.
fn check_options(exchange: &Exchange) -> Result<(), Status> {
    let mut errors = FieldErrors::new();
    if exchange.query.get("fieldManager").unwrap_or_default().is_empty() {
        errors.required(&Path::new("fieldManager"), "is required for apply patch");
    }
    refuse("PatchOptions", &errors)
}

fn parse(
    exchange: &mut Exchange,
    body: &Bytes,
    validation: FieldValidation,
) -> Result<Value, Status> {
    let parsed = apimachinery::yaml::parse_reporting(body);
    let (value, repeated) = parsed.map_err(|error| {
        Status::bad_request(format!("error decoding YAML: error converting YAML to JSON: {error}"))
    })?;
    if let Some(problem) = apimachinery::yaml::strict_error(&repeated) {
        match validation {
            FieldValidation::Strict => {
                return Err(Status::bad_request(format!("error decoding YAML: {problem}")));
            }
            FieldValidation::Warn => exchange.warnings.push(problem),
            FieldValidation::Ignore => {}
        }
    }
    Ok(if value.is_null() { Value::object() } else { value })
}
