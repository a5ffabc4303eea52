//! From objects to answers, in the form the client accepts.

use std::sync::Arc;

use apimachinery::obj::Obj;
use apimachinery::{Object, Status, Value, json, value};
use bytes::Bytes;
use futures::StreamExt;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, Response, StatusCode};

use crate::Server;
use crate::body::Body;
use crate::error;
use crate::exchange::{AUDIT_ID, Exchange};
use crate::listing::{self, Listing};
use crate::negotiate::{Encoding, Form, Include, Transform};
use crate::persist::Written;
use crate::pretty::Indenter;
use crate::target::Target;
use crate::warnings;

/// An answer with these bytes.
pub(crate) fn bytes(
    code: u16,
    media_type: &'static str,
    bytes: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::full(bytes));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().reserve(HEADERS);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The client has it already. It says no type: caches take the headers of this answer for those of what they keep.
pub(crate) fn not_modified() -> Response<Body> {
    let mut response = Response::new(Body::full(Bytes::new()));
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

/// Plain text.
pub(crate) fn text(code: u16, content: impl Into<Bytes>) -> Response<Body> {
    bytes(code, "text/plain; charset=utf-8", content)
}

/// A value that is the object itself, in the form the client accepts.
pub(crate) fn plain(form: Form, code: u16, content: &Value) -> Response<Body> {
    match form.encoding {
        Encoding::Json if form.pretty => {
            bytes(code, "application/json", Indenter::default().feed(&json::to_vec(content)))
        }
        Encoding::Json => {
            let mut text = json::to_vec(content);
            text.push(b'\n');
            bytes(code, "application/json", text)
        }
        Encoding::Yaml => bytes(code, "application/yaml", apimachinery::yaml::to_string(content)),
        Encoding::Protobuf => match crate::proto::encode(content) {
            Some(message) => bytes(code, crate::proto::MEDIA_TYPE, message),
            None => plain(Form { encoding: Encoding::Json, ..form }, code, content),
        },
        Encoding::Cbor => bytes(code, crate::cbor::MEDIA_TYPE, crate::cbor::encode(content)),
    }
}

/// There was no place for a request: told as plain text, before anybody looks at what the client accepts.
pub(crate) fn turned_away(status: &Status) -> Response<Body> {
    let mut response = text(status.code, format!("{}\n", status.message));
    let after = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from(after));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A failure, in the form the client accepts.
pub(crate) fn failure(exchange: &Exchange, status: &Status) -> Response<Body> {
    if error::is_in_plain(status) {
        let mut response = text(status.code, format!("{}\n", status.message));
        let nosniff = HeaderValue::from_static("nosniff");
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, nosniff);
        return response;
    }
    let form = Form { transform: Transform::None, ..crate::negotiate::plain(exchange) };
    let mut response = if form.encoding == Encoding::Json && !form.pretty {
        let mut text = status.to_json();
        text.push(b'\n');
        bytes(status.code, "application/json", text)
    } else {
        plain(form, status.code, &status.to_value())
    };
    let after = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if after > 0 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after));
    }
    response
}

/// How many headers an answer has room for from the start: those of most.
const HEADERS: usize = 8;

/// Headers that every answer has.
pub(crate) fn add_headers(exchange: &Exchange, headers: &mut HeaderMap) {
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    }
    headers.insert(AUDIT_ID, exchange.audit_id.clone());
    for (name, uid) in exchange.flow.iter().flat_map(|it| it.headers()) {
        headers.insert(name, uid.clone());
    }
    warnings::add(&exchange.warnings, headers);
}

/// An object of the storage version, with its resource version, as the client asked for it.
pub(crate) fn object(
    server: &Server,
    target: &Target,
    form: Form,
    code: u16,
    mut content: Value,
) -> Response<Body> {
    match form.transform {
        Transform::None => {
            target.resource().show(&target.served, &mut content);
            plain(form, code, &content)
        }
        Transform::Table(version) => {
            let metadata =
                value!({"resourceVersion": (content.str_at(&["metadata", "resourceVersion"]))});
            let rows = vec![row(server, target, (form.include, version), content)];
            plain(form, code, &table(target, version, metadata, rows, true))
        }
        Transform::Partial(version) => plain(form, code, &partial(&content, version)),
    }
}

/// What a write left, as the client asked for it.
pub(crate) fn written(
    server: &Server,
    target: &Target,
    form: Form,
    code: u16,
    written: Written,
) -> Result<Response<Body>, Status> {
    match written {
        Written::Stored(object) => stored(server, target, form, code, &object),
        Written::Only(value) => Ok(self::object(server, target, form, code, value)),
    }
}

/// A stored object as the client asked for it, without decoding where that can be.
pub(crate) fn stored(
    server: &Server,
    target: &Target,
    form: Form,
    code: u16,
    object: &Obj,
) -> Result<Response<Body>, Status> {
    let direct =
        form.transform == Transform::None && form.encoding == Encoding::Json && !form.pretty;
    if direct && target.is_storage_version() {
        let mut out = Vec::with_capacity(object.stored().len() + 64);
        object.write(&mut out);
        out.push(b'\n');
        return Ok(bytes(code, "application/json", out));
    }
    let content = object.to_value().map_err(Status::internal)?;
    Ok(self::object(server, target, form, code, content))
}

/// Metadata alone.
pub(crate) fn partial(content: &Value, version: &str) -> Value {
    let mut partial = Object::new();
    partial.insert("kind", "PartialObjectMetadata");
    partial.insert("apiVersion", format!("meta.k8s.io/{version}"));
    partial.insert("metadata", registry::metadata::plain(content));
    Value::Object(partial)
}

/// A table's row for an object.
pub(crate) fn row(
    server: &Server,
    target: &Target,
    (include, version): (Include, &str),
    mut content: Value,
) -> Value {
    let cells = target.resource().row(&content, server.clock.now());
    let object = match include {
        Include::Metadata => partial(&content, version),
        Include::Object => {
            target.resource().show(&target.served, &mut content);
            content
        }
        Include::Nothing => Value::Null,
    };
    let mut row = Object::new();
    row.insert("cells", Value::Array(cells));
    row.insert("object", object);
    Value::Object(row)
}

/// A table of rows.
pub(crate) fn table(
    target: &Target,
    version: &str,
    metadata: Value,
    rows: Vec<Value>,
    columns: bool,
) -> Value {
    let columns = if columns { column_definitions(target) } else { Value::Null };
    table_of(version, metadata, columns, rows)
}

fn table_of(version: &str, metadata: Value, columns: Value, rows: Vec<Value>) -> Value {
    let mut table = Object::new();
    table.insert("kind", "Table");
    table.insert("apiVersion", format!("meta.k8s.io/{version}"));
    table.insert("metadata", metadata);
    table.insert("columnDefinitions", columns);
    table.insert("rows", Value::Array(rows));
    Value::Object(table)
}

/// A `Scale` of an object of the target, as the client asked for it.
pub(crate) fn scale(server: &Server, target: &Target, form: Form, scale: Value) -> Response<Body> {
    let version = match form.transform {
        Transform::None => return plain(form, 200, &scale),
        Transform::Partial(version) => return plain(form, 200, &partial(&scale, version)),
        Transform::Table(version) => version,
    };
    let metadata = value!({"resourceVersion": (scale.str_at(&["metadata", "resourceVersion"]))});
    let custom = target.resource().is_custom();
    // Of custom resources upstream reads the columns from what it sends, which leaves zero out.
    let desired = match scale.at(&["spec", "replicas"]) {
        None if custom => Value::Null,
        found => found.cloned().unwrap_or(Value::Int(0)),
    };
    let cells = vec![
        scale["metadata"]["name"].clone(),
        desired,
        scale["status"]["replicas"].clone(),
        registry::table::created(&scale, server.clock.now()),
    ];
    let object = match form.include {
        Include::Metadata => partial(&scale, version),
        Include::Object => scale,
        Include::Nothing => Value::Null,
    };
    let row = value!({"cells": (Value::Array(cells)), "object": (object)});
    plain(form, 200, &table_of(version, metadata, scale_columns(custom), vec![row]))
}

/// The columns of a `Scale`, which upstream describes in other words where the resource is a custom one.
fn scale_columns(custom: bool) -> Value {
    let facts = &crate::posted::SCALE_TABLE;
    let column = |column: &api::Column| {
        let (kind, description) = match column.name {
            "Desired" if custom => (column.kind, "Number of desired replicas"),
            "Available" if custom => (column.kind, "Number of actual replicas"),
            "Age" if custom => ("date", api::columns::description(facts, column.name)),
            name => (column.kind, api::columns::description(facts, name)),
        };
        value!({"name": (column.name), "type": kind, "format": (column.format),
            "description": description, "priority": (i64::from(column.priority))})
    };
    facts.columns.iter().map(column).collect()
}

/// The columns of a resource; name and creation time where it has none of its own.
fn column_definitions(target: &Target) -> Value {
    let describe = |place, name| target.resource().column_description(&target.served, place, name);
    const PLAIN: &[api::Column] = &[
        api::Column { name: "Name", kind: "string", format: "name", priority: 0 },
        api::Column { name: "Created At", kind: "date", format: "", priority: 0 },
    ];
    let columns = target.served.facts.columns;
    let columns = if columns.is_empty() { PLAIN } else { columns };
    columns
        .iter()
        .enumerate()
        .map(|(place, column)| {
            value!({"name": (column.name), "type": (column.kind), "format": (column.format),
                "description": (describe(place, column.name).as_ref()), "priority": (i64::from(column.priority))})
        })
        .collect()
}

/// A list of objects between a head that ends in `"items":[` and a tail that begins with `]`. A small one is one piece; of
/// others pieces are written as they are sent, so that memory does not grow with the list.
pub(crate) fn list(
    mut head: Vec<u8>,
    objects: &Arc<Listing>,
    form: listing::Form,
    tail: &'static [u8],
) -> Body {
    let (text, mut next) = objects.text(form, 0);
    if next == objects.len() && text.len() < listing::PIECE_BYTES {
        head.reserve(text.len() + tail.len());
        head.extend_from_slice(&text);
        head.extend_from_slice(tail);
        return Body::full(head);
    }
    let (objects, mut tail) = (Arc::clone(objects), Some(Bytes::from_static(tail)));
    let rest = std::iter::from_fn(move || {
        if next == objects.len() {
            return tail.take();
        }
        let (text, end) = objects.text(form, next);
        next = end;
        Some(text)
    });
    let all = [Bytes::from(head), text].into_iter().chain(rest);
    Body::Stream(futures::stream::iter(all).boxed())
}
