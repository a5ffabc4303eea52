//! Whether a schema is structural: that types stand outside of `allOf`, `anyOf`, `oneOf` and `not`, that what stands in these
//! is known outside of them, and that metadata is left alone. In upstream's words.

use apimachinery::{FieldErrors, Object, Path, Value};

/// Where a schema stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What no structural schema has, by its name, as the first one that is found is told.
const UNSUPPORTED: [(&str, &str); 7] = [
    ("id", "id"),
    ("$schema", "schema"),
    ("$ref", "$ref"),
    ("patternProperties", "patternProperties"),
    ("dependencies", "dependencies"),
    ("additionalItems", "additionalItems"),
    ("definitions", "definitions"),
];

/// The words that say what structural schemas say outside of junctors only, and how it is refused within them.
const FORBIDDEN_NESTED: [(&str, &str); 10] = [
    ("type", "must be empty to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

/// The junctors that have several schemas, in the order in which they are looked at.
const SEVERAL: [&str; 3] = ["anyOf", "allOf", "oneOf"];

/// Why a schema cannot be read as a structural one at all.
pub(super) fn unreadable(schema: &Value) -> Option<String> {
    for (member, said) in UNSUPPORTED {
        let is_there = match schema.get(member) {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Object(object)) => !object.is_empty(),
            Some(_) => true,
        };
        if is_there {
            return Some(format!("OpenAPIV3Schema '{said}' is not supported"));
        }
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let detail =
            "internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined";
        return Some(detail.into());
    }
    if matches!(schema.get("items"), Some(Value::Array(items)) if !items.is_empty()) {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".into());
    }
    let one = ["items", "additionalProperties", "not"].into_iter().filter_map(|it| schema.get(it));
    let several = SEVERAL.iter().flat_map(|it| schema.items_at(&[it]));
    one.chain(several).chain(properties(schema).map(|(_, it)| it)).find_map(unreadable)
}

/// Everything in which a schema is not structural, sorted as upstream sorts it.
pub(super) fn check(schema: &Value, path: &Path<'_>) -> FieldErrors {
    let mut errors = FieldErrors::new();
    invariants(schema, Level::Root, path, &mut errors);
    junctors_complete(schema, schema, path, path, &mut errors);
    let mut all: Vec<_> = errors.iter().cloned().collect();
    all.sort_by_cached_key(ToString::to_string);
    let mut sorted = FieldErrors::new();
    all.into_iter().for_each(|it| sorted.push(it));
    sorted
}

/// The named properties of a schema.
pub(super) fn properties(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Object::iter)
}

fn schema_at<'v>(schema: &'v Value, member: &str) -> Option<&'v Value> {
    schema.get(member).filter(|it| it.as_object().is_some())
}

fn invariants(schema: &Value, level: Level, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = schema.str_at(&["type"]);
    let flag = |member: &str| schema.bool_at(&[member]);
    let items = schema_at(schema, "items");
    if kind == "array" && items.is_none() {
        errors.required(&path.child("items"), "must be specified");
    }
    if let Some(items) = items {
        invariants(items, Level::Item, &path.child("items"), errors);
    }
    for (name, it) in properties(schema) {
        invariants(it, Level::Field, &path.child("properties").key(name), errors);
    }
    let additional = schema.get("additionalProperties").filter(|it| !it.is_null());
    if let Some(it) = additional {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.forbidden(&at, "must not be used at the root");
        }
        if it.as_object().is_some() {
            invariants(it, Level::Field, &at, errors);
        }
    }
    extensions(schema, path, errors);
    let skip = Skip {
        any_of: is_int_or_string(schema),
        first_all_of: schema.items_at(&["allOf"]).first().is_some_and(is_int_or_string),
    };
    values(schema, skip, path, errors);
    let embedded = flag("x-kubernetes-embedded-resource");
    types(schema, level, path, errors);
    if embedded && additional.is_some() {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid_text(&path.child("type"), kind, "must be object at the root");
    }
    meta(schema, level, path, errors);
    let is_open = flag("x-kubernetes-preserve-unknown-fields");
    if embedded && !is_open && properties(schema).next().is_none() {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(&path.child("properties"), detail);
    }
}

/// That there is a type where there has to be one.
fn types(schema: &Value, level: Level, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = schema.str_at(&["type"]);
    let flag = |member: &str| schema.bool_at(&[member]);
    let at = path.child("type");
    let free = flag("x-kubernetes-int-or-string") || flag("x-kubernetes-preserve-unknown-fields");
    if flag("x-kubernetes-embedded-resource") && kind != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() {
            errors.required(&at, detail);
        } else {
            errors.invalid_text(&at, kind, detail);
        }
    } else if kind.is_empty() && !free {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.required(&at, detail);
    }
}

fn extensions(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !schema.bool_at(&["x-kubernetes-int-or-string"]) {
        return;
    }
    for member in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if schema.bool_at(&[member]) {
            let detail = "must be false if x-kubernetes-int-or-string is true";
            errors.invalid(&path.child(member), &Value::Bool(true), detail);
        }
    }
}

/// That `anyOf` says "an integer or text", and no more: the one place in which types may stand in a junctor.
fn is_int_or_string(schema: &Value) -> bool {
    let only = |it: &Value, kind: &str| {
        it.str_at(&["type"]) == kind && it.as_object().is_some_and(|it| it.len() == 1)
    };
    matches!(schema.items_at(&["anyOf"]), [a, b] if only(a, "integer") && only(b, "string"))
}

/// Which junctors are not looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Skip {
    any_of: bool,
    /// `anyOf` within the first of `allOf`.
    first_all_of: bool,
}

fn values(schema: &Value, skip: Skip, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in SEVERAL {
        let at = path.child(member);
        if member == "anyOf" && skip.any_of {
            continue;
        }
        for (index, it) in schema.items_at(&[member]).iter().enumerate() {
            let any_of = member == "allOf" && index == 0 && skip.first_all_of;
            nested(it, Skip { any_of, first_all_of: false }, &at.index(index), errors);
        }
    }
    if let Some(not) = schema_at(schema, "not") {
        nested(not, Skip::default(), &path.child("not"), errors);
    }
    let pattern = schema.str_at(&["pattern"]);
    if let Err(problem) = cel::pattern(pattern) {
        let detail = format!("must be a valid regular expression, but isn't: {problem}");
        errors.invalid_text(&path.child("pattern"), pattern, &detail);
    }
}

/// A schema in a junctor.
fn nested(schema: &Value, skip: Skip, path: &Path<'_>, errors: &mut FieldErrors) {
    values(schema, skip, path, errors);
    if let Some(items) = schema_at(schema, "items") {
        nested(items, Skip::default(), &path.child("items"), errors);
    }
    for (name, it) in properties(schema) {
        nested(it, Skip::default(), &path.child("properties").key(name), errors);
    }
    for (member, detail) in FORBIDDEN_NESTED {
        if schema.get(member).is_some_and(|it| !is_zero(it)) {
            errors.forbidden(&path.child(member), detail);
        }
    }
    for member in ["x-kubernetes-list-type", "x-kubernetes-map-type"] {
        if schema.get(member).is_some() {
            errors.forbidden(&path.child(member), "must be undefined to be structural");
        }
    }
    if schema.get("additionalProperties").is_some_and(|it| !is_zero(it)) {
        let detail = "must be undefined to be structural";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
    if properties(schema).any(|(name, _)| name == "metadata") {
        let detail = "must not be specified in a nested context";
        errors.forbidden(&path.child("properties").key("metadata"), detail);
    }
}

/// What a field says that is not set.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// That what every object has is described as it is, if at all.
fn meta(schema: &Value, level: Level, path: &Path<'_>, errors: &mut FieldErrors) {
    let is_object = level == Level::Root || schema.bool_at(&["x-kubernetes-embedded-resource"]);
    let at = path.child("properties");
    for member in ["kind", "apiVersion"] {
        if let Some(it) = schema.at(&["properties", member]).filter(|_| is_object)
            && it.str_at(&["type"]) != "string"
        {
            let place = at.key(member);
            errors.invalid_text(&place.child("type"), it.str_at(&["type"]), "must be string");
        }
    }
    let Some(metadata) = schema.at(&["properties", "metadata"]) else { return };
    let at = at.key("metadata");
    let kind = metadata.str_at(&["type"]);
    if is_object && kind != "object" {
        errors.invalid_text(&at.child("type"), kind, "must be object");
    }
    let mut names = properties(metadata).map(|(name, _)| name);
    let only_names = names.all(|it| matches!(it, "name" | "generateName"));
    let said = |(member, it): (&str, &Value)| match member {
        "type" | "default" => false,
        "properties" => !only_names,
        "additionalProperties" => !it.is_null(),
        _ => !is_zero(it),
    };
    if level == Level::Root && metadata.as_object().is_some_and(|it| it.iter().any(said)) {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(&at, detail);
    }
}

/// That what the junctors of `values` speak of is known in `schema`.
fn junctors_complete(
    values: &Value,
    schema: &Value,
    path: &Path<'_>,
    said: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if let Some(not) = schema_at(values, "not") {
        complete(not, Some(schema), path, &said.child("not"), errors);
    }
    for member in SEVERAL {
        let at = said.child(member);
        for (index, it) in values.items_at(&[member]).iter().enumerate() {
            complete(it, Some(schema), path, &at.index(index), errors);
        }
    }
}

fn complete(
    values: &Value,
    schema: Option<&Value>,
    path: &Path<'_>,
    said: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let Some(schema) = schema else {
        return errors.required(path, &format!("because it is defined in {said}"));
    };
    junctors_complete(values, schema, path, said, errors);
    if let Some(items) = schema_at(values, "items") {
        let of = schema_at(schema, "items");
        complete(items, of, &path.child("items"), &said.child("items"), errors);
    }
    let (at, said) = (path.child("properties"), said.child("properties"));
    for (name, it) in properties(values) {
        complete(it, schema.at(&["properties", name]), &at.key(name), &said.key(name), errors);
    }
}
