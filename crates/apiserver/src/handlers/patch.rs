//! PATCH: the patch is applied to the object in the request's version, then everything is as for PUT.

use std::sync::Arc;

use apimachinery::patch::{PatchError, json_patch, merge, strategic};
use apimachinery::{FieldErrors, Path, Status, Value, json};
use http::Response;
use http::header::CONTENT_TYPE;

use super::subresource;
use super::update::{Tracking, Write};
use crate::Server;
use crate::body::Body;
use crate::decode::{self, Patched};
use crate::exchange::{Exchange, RequestBody};
use crate::negotiate::negotiate;
use crate::options::{FieldValidation, WriteOptions, refuse};
use crate::persist;
use crate::respond;
use crate::target::Target;

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PatchKind {
    Json,
    Merge,
    Strategic,
    Apply,
}

/// Changes an object.
pub(crate) async fn patch(
    server: &Arc<Server>,
    exchange: &mut Exchange,
    target: &Target,
    body: RequestBody,
) -> Result<Response<Body>, Status> {
    let kind = kind_of(exchange, target)?;
    check_force(exchange, kind)?;
    if kind == PatchKind::Apply && !subresource::is_special(&exchange.info.subresource) {
        return super::apply::apply(server, exchange, target, body).await;
    }
    let subresource = exchange.info.subresource.clone();
    if subresource::is_special(&subresource) {
        return subresource::patch(server, exchange, target, body, kind).await;
    }
    let body = exchange.read(body).await?;
    let options = WriteOptions::of(exchange, "PatchOptions")?;
    let form = negotiate(exchange)?;
    let name = exchange.info.name.clone();
    let current = persist::current(server, target, &name).await?;
    let (patch, problems) = parse(exchange, kind, &body, options.field_validation)?;
    let strictly = (options.field_validation, problems.as_slice());
    let write = Write {
        name: &name,
        subresource: &subresource,
        options: &options,
        tracking: Tracking::Compare,
        of_live: true,
    };
    let change = |exchange: &mut Exchange, target: &Target, live: &Value| {
        let mut value = changed(target, kind, live, &patch)?;
        let origin = match kind {
            PatchKind::Strategic => Patched::Map(&patch),
            _ => Patched::Text,
        };
        decode::patched(exchange, target, &mut value, strictly, origin)?;
        super::create::place_in_namespace(target, &mut value)?;
        super::update::check_name(&value, &name)?;
        Ok(value)
    };
    let stored = write.run(server, exchange, target, current, change).await?;
    respond::written(server, target, form, 200, stored)
}

/// How the body says it is written.
pub(crate) fn kind_of(exchange: &Exchange, target: &Target) -> Result<PatchKind, Status> {
    let media = exchange.header(CONTENT_TYPE);
    match media.split(';').next().unwrap_or_default().trim() {
        "application/json-patch+json" => Ok(PatchKind::Json),
        "application/merge-patch+json" => Ok(PatchKind::Merge),
        "application/strategic-merge-patch+json" if !target.resource().is_custom() => {
            Ok(PatchKind::Strategic)
        }
        "application/apply-patch+yaml" => Ok(PatchKind::Apply),
        crate::cbor::APPLY_MEDIA_TYPE if exchange.cbor => Ok(PatchKind::Apply),
        _ if target.resource().is_custom() => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml{}",
            if exchange.cbor { ", application/apply-patch+cbor" } else { "" }
        ))),
        _ => Err(Status {
            details: Some(Box::default()),
            ..Status::unsupported_media_type("415: Unsupported Media Type")
        }),
    }
}

/// Only what is applied can be forced.
fn check_force(exchange: &Exchange, kind: PatchKind) -> Result<(), Status> {
    let mut errors = FieldErrors::new();
    if kind != PatchKind::Apply && exchange.query.get("force").is_some() {
        errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
    }
    refuse("PatchOptions", &errors)
}

/// The patch as a value, and what strict validation says of it itself: members that stand twice in it, or mean nothing.
pub(crate) fn parse(
    exchange: &Exchange,
    kind: PatchKind,
    body: &[u8],
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    let validated = validation != FieldValidation::Ignore;
    // What is left out of it for its depth is found in the object that comes out, unless it is dropped there too.
    let (patch, repeated) = json::parse_input(body).map_err(|error| {
        Status::bad_request(match kind {
            PatchKind::Merge if !validated => INVALID.to_owned(),
            PatchKind::Json | PatchKind::Merge if validated => {
                format!("error decoding patch: {error}")
            }
            _ => error.to_string(),
        })
    })?;
    let of = if kind == PatchKind::Json { "json patch " } else { "" };
    let repeated = repeated.iter().map(|path| format!("{of}duplicate field \"{path}\""));
    let mut problems: Vec<String> = repeated.collect();
    if kind == PatchKind::Json {
        if validated {
            json_patch::check(&patch).map_err(status)?;
        }
        problems.extend(json_patch::unknown_fields(&patch));
    }
    let scalar = !matches!(patch, Value::Object(_) | Value::Array(_));
    if kind == PatchKind::Merge && (patch.is_null() || scalar && !validated) {
        return Err(Status::bad_request(INVALID));
    }
    if let Some(audited) = &exchange.audit {
        audited.patch(&patch);
    }
    Ok((patch, problems))
}

/// What upstream's library says of a merge patch that it cannot read.
const INVALID: &str = "Invalid JSON Patch";

/// The object with the patch applied, which is written for what the client is shown.
fn changed(target: &Target, kind: PatchKind, live: &Value, patch: &Value) -> Result<Value, Status> {
    let (resource, served) = (target.resource(), &target.served);
    if resource.removed_in(served).is_none() {
        return apply(target, kind, live, patch);
    }
    let mut shown = live.clone();
    resource.to_removed(served, &mut shown);
    let mut value = apply(target, kind, &shown, patch)?;
    resource.from_removed(served, &mut value);
    Ok(value)
}

/// The object with the patch applied.
pub(crate) fn apply(
    target: &Target,
    kind: PatchKind,
    live: &Value,
    patch: &Value,
) -> Result<Value, Status> {
    let result = match kind {
        PatchKind::Json => json_patch::apply(live, patch),
        PatchKind::Merge => merge::apply(live, patch),
        PatchKind::Apply => {
            let what = "server-side apply to this subresource is not built yet";
            return Err(Status::unsupported_media_type(what));
        }
        PatchKind::Strategic => strategic::apply(live, patch, api::schema(), target.served.node),
    };
    result.map_err(status)
}

fn status(error: PatchError) -> Status {
    match error {
        PatchError::BadRequest(message) => Status::bad_request(message),
        PatchError::TooLarge(message) => {
            Status::too_large(format!("Request entity too large: {message}"))
        }
        PatchError::Unprocessable(_) | PatchError::TestFailed(_) => Status {
            code: 422,
            reason: "Invalid",
            message: "the server rejected our request due to an error in our request".into(),
            details: Some(Box::default()),
            success: false,
        },
        PatchError::Internal(message) => Status { code: 500, message, ..Status::default() },
    }
}
