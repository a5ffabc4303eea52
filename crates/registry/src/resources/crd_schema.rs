//! Checks of a custom resource's schema: that it is structural, that its defaults are of their types, and what its rules
//! are.

use apimachinery::{FieldErrors, Path, Value, json};

use crate::check;
use crate::rules::each;

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const LIST_TYPES: &[&str] = &["atomic", "map", "set"];
/// How deep a schema may be nested.
const DEPTH_MAX: usize = 100;

/// Checks the schema of whole objects.
pub(super) fn root(schema: &Value, with_status: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let (kind, at) = (schema.str_at(&["type"]), path.child("type"));
    if kind.is_empty() {
        errors.required(&at, "must not be empty at the root");
    } else if kind != "object" {
        if with_status {
            let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            errors.invalid_text(&at, kind, detail);
        }
        errors.invalid_text(&at, kind, "must be object at the root");
    }
    if schema.bool_at(&["nullable"]) {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
    let before = errors.len();
    node(schema, DEPTH_MAX, path, errors);
    if errors.len() == before {
        crate::custom::rules_check::check(schema, path, errors);
    }
}

/// Checks a schema and what lies in it.
fn node(schema: &Value, depth: usize, path: &Path<'_>, errors: &mut FieldErrors) {
    if depth == 0 {
        errors.invalid_text(path, "", "must not be nested deeper");
        return;
    }
    let kind = schema.str_at(&["type"]);
    if !kind.is_empty() && !TYPES.contains(&kind) {
        check::one_of(schema, "type", TYPES, path, errors);
    }
    if let Some(default) = schema.get("default") {
        of_type(default, schema, &path.child("default"), errors);
    }
    validations(schema, path, errors);
    properties(schema, depth, path, errors);
    list(schema, depth, path, errors);
}

fn is_free(schema: &Value) -> bool {
    schema.bool_at(&["x-kubernetes-int-or-string"])
        || schema.bool_at(&["x-kubernetes-preserve-unknown-fields"])
}

fn properties(schema: &Value, depth: usize, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("properties");
    let members = schema.get("properties").and_then(Value::as_object);
    for (name, property) in members.into_iter().flat_map(apimachinery::Object::iter) {
        let place = at.key(name);
        if property.str_at(&["type"]).is_empty() && !is_free(property) {
            let detail = "must not be empty for specified object fields";
            errors.required(&place.child("type"), detail);
        }
        node(property, depth - 1, &place, errors);
    }
    let place = path.child("additionalProperties");
    if let Some(additional @ Value::Object(_)) = schema.get("additionalProperties") {
        if members.is_some() {
            let detail = "additionalProperties and properties are mutual exclusive";
            errors.forbidden(&place, detail);
        }
        if additional.str_at(&["type"]).is_empty() && !is_free(additional) {
            let detail = "must not be empty for specified object fields";
            errors.required(&place.child("type"), detail);
        }
        node(additional, depth - 1, &place, errors);
    }
}

fn list(schema: &Value, depth: usize, path: &Path<'_>, errors: &mut FieldErrors) {
    let items = path.child("items");
    match schema.get("items") {
        Some(item @ Value::Object(_)) => {
            if item.str_at(&["type"]).is_empty() && !is_free(item) {
                let detail = "must not be empty for specified array items";
                errors.required(&items.child("type"), detail);
            }
            node(item, depth - 1, &items, errors);
        }
        Some(Value::Array(_)) => {
            let detail = "items must be a schema object and not an array";
            errors.forbidden(&items, detail);
        }
        _ if schema.str_at(&["type"]) == "array" => errors.required(&items, "must be specified"),
        _ => {}
    }
    check::optional_one_of(schema, "x-kubernetes-list-type", LIST_TYPES, path, errors);
    let keys = schema.items_at(&["x-kubernetes-list-map-keys"]);
    let at = path.child("x-kubernetes-list-map-keys");
    if schema.str_at(&["x-kubernetes-list-type"]) == "map" {
        if keys.is_empty() {
            errors.required(&at, "must not be empty if x-kubernetes-list-type is map");
        }
    } else if !keys.is_empty() {
        let kind = path.child("x-kubernetes-list-type");
        errors.required(&kind, "must be map if x-kubernetes-list-map-keys is non-empty");
    }
}

fn validations(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    each(schema, "x-kubernetes-validations", path, errors, |rule, at, errors| {
        crate::custom::rules_check::members(schema, rule, at, errors);
    });
}

/// Checks that a value is of the type of its schema and within its bounds.
fn of_type(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (kind, found) = (schema.str_at(&["type"]), value.schema_type());
    let fits = kind.is_empty() || kind == found || (kind == "number" && found == "integer");
    let may_be_null = schema.bool_at(&["nullable"]) && value.is_null();
    if !(fits || may_be_null) {
        let detail = format!(" in body must be of type {kind}: {found:?}");
        errors.type_invalid(path, &found.into(), &detail);
        return;
    }
    bounds(value, schema, path, errors);
    if let Some(members) = value.as_object() {
        for (name, member) in members.iter() {
            if let Some(property) = schema.at(&["properties", name]) {
                of_type(member, property, &path.child(name), errors);
            }
        }
    }
    if let Some(item) = schema.get("items") {
        for (index, it) in value.as_array().unwrap_or_default().iter().enumerate() {
            of_type(it, item, &path.index(index), errors);
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(number) => json::to_string(&Value::Int(*number)).parse().ok(),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}

fn bounds(value: &Value, schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let shown = |limit: &str| json::to_string(&schema[limit]);
    if let Some(it) = number(value) {
        if number(&schema["minimum"]).is_some_and(|limit| it < limit) {
            let detail =
                format!(" in body should be greater than or equal to {}", shown("minimum"));
            errors.invalid(path, value, &detail);
        }
        if number(&schema["maximum"]).is_some_and(|limit| it > limit) {
            let detail = format!(" in body should be less than or equal to {}", shown("maximum"));
            errors.invalid(path, value, &detail);
        }
    }
    if let Some(text) = value.as_str() {
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if schema.i64_at(&["maxLength"]).is_some_and(|limit| length > limit) {
            let detail = format!(" in body should be at most {} chars long", shown("maxLength"));
            errors.invalid(path, value, &detail);
        }
        if schema.i64_at(&["minLength"]).is_some_and(|limit| length < limit) {
            let detail = format!(" in body should be at least {} chars long", shown("minLength"));
            errors.invalid(path, value, &detail);
        }
    }
    let allowed = schema.items_at(&["enum"]);
    if !allowed.is_empty() && !allowed.contains(value) {
        let all: Vec<String> = allowed.iter().map(json::to_string).collect();
        errors.not_supported(path, value, all.iter().map(String::as_str));
    }
}
