//! The words of one node of a schema, apart from what makes it structural: which are not known, and which do not fit each
//! other.

use apimachinery::{FieldErrors, Path, Value};

use super::rules_check::Tolerance;
use super::structural::properties;
use crate::check::invalid_shown;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const LIST_TYPES: [&str; 3] = ["atomic", "set", "map"];
const MAP_TYPES: [&str; 2] = ["atomic", "granular"];
const LIST_TYPE: &str = "x-kubernetes-list-type";
const MAP_TYPE: &str = "x-kubernetes-map-type";
const KEYS: &str = "x-kubernetes-list-map-keys";

/// What is not allowed where a node stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forbidden<'p> {
    /// Types that are none are let through.
    pub(super) types: bool,
    /// The node describes what says what an object is.
    pub(super) in_meta: bool,
    /// Why there may be no default.
    pub(super) defaults: Option<&'p str>,
}

fn is_set(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(object)) => !object.is_empty(),
        Some(_) => true,
    }
}

/// Words that schemas of definitions do not have.
pub(super) fn unsupported(
    schema: &Value,
    forbidden: Forbidden<'_>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let kind = schema.str_at(&["type"]);
    if !forbidden.types && !kind.is_empty() && !TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), &kind.into(), TYPES);
    }
    if let Some(reason) = forbidden.defaults
        && schema.get("default").is_some_and(|it| !it.is_null())
    {
        errors.forbidden(&path.child("default"), &format!("must not be set {reason}"));
    }
    // Of these two it counts that they are there, also when they say nothing.
    let there = |it: &str| {
        matches!(it, "additionalItems" | "dependencies")
            && schema.get(it).is_some_and(|it| !it.is_null())
    };
    let words = ["id", "additionalItems", "patternProperties", "definitions", "dependencies"];
    for member in words.into_iter().filter(|it| there(it) || is_set(schema.get(it))) {
        errors.forbidden(&path.child(member), &format!("{member} is not supported"));
    }
    if schema.get("$ref").is_some_and(|it| !it.is_null()) {
        errors.forbidden(&path.child("$ref"), "$ref is not supported");
    }
    if kind == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.forbidden(&path.child("type"), detail);
    }
    if matches!(schema.get("items"), Some(Value::Array(items)) if !items.is_empty()) {
        let detail = "items must be a schema object and not an array";
        errors.forbidden(&path.child("items"), detail);
    }
    let embedded = "x-kubernetes-embedded-resource";
    if forbidden.in_meta && schema.bool_at(&[embedded]) {
        errors.forbidden(&path.child(embedded), "must not be used inside of resource meta");
    }
    if schema.bool_at(&["uniqueItems"]) {
        let detail =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), detail);
    }
    let closed =
        matches!(schema.get("additionalProperties"), Some(Value::Bool(false) | Value::Object(_)));
    if closed && properties(schema).next().is_some() {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&path.child("additionalProperties"), detail);
    }
}

/// What is said of how lists and maps are merged.
pub(super) fn lists_and_maps(
    schema: &Value,
    tolerance: Tolerance,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let open = "x-kubernetes-preserve-unknown-fields";
    if schema.get(open) == Some(&Value::Bool(false)) {
        errors.invalid(&path.child(open), &Value::Bool(false), "must be true or undefined");
    }
    let maps = Merged { word: MAP_TYPE, of: "object", values: &MAP_TYPES };
    maps.of_type(schema, path, errors);
    maps.known(schema, path, errors);
    let lists = Merged { word: LIST_TYPE, of: "array", values: &LIST_TYPES };
    let is_list = lists.of_type(schema, path, errors);
    if is_list && !tolerance.granular_sets && schema.str_at(&[LIST_TYPE]) == "set" {
        set_items(schema, path, errors);
    }
    lists.known(schema, path, errors);
    let (list, keys) = (schema.get(LIST_TYPE), schema.items_at(&[KEYS]));
    let is_map = list.and_then(Value::as_str) == Some("map");
    if !keys.is_empty() && !is_map {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match list {
            None => errors.required(&path.child(LIST_TYPE), detail),
            Some(other) => errors.invalid(&path.child(LIST_TYPE), other, detail),
        }
    }
    if is_map {
        keyed(schema, path, errors);
    }
    if !tolerance.loose_keys {
        strict_items(schema, path, errors);
    }
}

/// A word that says how something is merged.
struct Merged {
    word: &'static str,
    /// The type that it is for.
    of: &'static str,
    values: &'static [&'static str],
}

impl Merged {
    /// Whether it is said, and of a type that it is for.
    fn of_type(&self, schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
        let (kind, at) = (schema.str_at(&["type"]), path.child("type"));
        if schema.get(self.word).is_none() || kind == self.of {
            return schema.get(self.word).is_some();
        }
        let detail = format!("must be {} if {} is specified", self.of, self.word);
        if kind.is_empty() {
            errors.required(&at, &detail);
        } else {
            errors.invalid_text(&at, kind, &detail);
        }
        false
    }

    fn known(&self, schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
        if let Some(value) = schema.get(self.word)
            && !self.values.iter().any(|it| value.as_str() == Some(it))
        {
            errors.not_supported(&path.child(self.word), value, self.values.iter().copied());
        }
    }
}

/// The items of a set are compared as a whole.
fn set_items(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(items) = schema.get("items").filter(|it| it.as_object().is_some()) else { return };
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let at = path.child("items");
    let list = items.get(LIST_TYPE);
    match items.str_at(&["type"]) {
        "array" if list.is_some_and(|it| it.as_str() != Some("atomic")) => {
            errors.invalid(&at.child(LIST_TYPE), &items[LIST_TYPE], detail);
        }
        "object" if items.str_at(&[MAP_TYPE]) != "atomic" => {
            // Upstream shows the list's word here, which objects do not have.
            let shown = list.cloned().unwrap_or_default();
            errors.invalid(&at.child(MAP_TYPE), &shown, detail);
        }
        _ => {}
    }
}

/// A list whose items have keys.
fn keyed(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let keys = schema.items_at(&[KEYS]);
    if keys.is_empty() {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        errors.required(&path.child(KEYS), detail);
    }
    let at = path.child("items");
    let items = match schema.get("items") {
        None | Some(Value::Null) => {
            let detail = "must have a schema if x-kubernetes-list-type is map";
            return errors.required(&at, detail);
        }
        Some(items @ Value::Object(_)) => items,
        Some(items) => {
            let detail = "must only have a single schema if x-kubernetes-list-type is map";
            return invalid_shown(&at, &super::shown::items(items), detail, errors);
        }
    };
    let kind = items.str_at(&["type"]);
    if kind != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid_text(&at.child("type"), kind, detail);
    }
    let mut seen: Vec<&str> = Vec::new();
    for key in keys.iter().filter_map(Value::as_str) {
        match items.at(&["properties", key]) {
            Some(it) if matches!(it.str_at(&["type"]), "array" | "object") => {
                let detail =
                    "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let place = at.child("properties");
                let place = place.key(key);
                errors.invalid_text(&place.child("type"), kind, detail);
            }
            Some(_) => {}
            None => {
                let detail = "entries must all be names of item properties";
                errors.invalid(&path.child(KEYS), &schema[KEYS], detail);
            }
        }
        if seen.contains(&key) {
            let detail = "must not contain duplicate entries";
            errors.invalid(&path.child(KEYS), &schema[KEYS], detail);
        }
        seen.push(key);
    }
}

/// Items that are told apart are there, and so are their keys.
fn strict_items(schema: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = schema.str_at(&[LIST_TYPE]);
    let Some(items) = schema.get("items").filter(|it| it.as_object().is_some()) else { return };
    if !matches!(list, "set" | "map") {
        return;
    }
    let at = path.child("items");
    if items.bool_at(&["nullable"]) {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list}");
        errors.forbidden(&at.child("nullable"), &detail);
    }
    let keys = schema.items_at(&[KEYS]).iter().filter(|_| list == "map");
    let named = at.child("properties");
    for key in keys.filter_map(Value::as_str) {
        let Some(it) = items.at(&["properties", key]) else { continue };
        let place = named.key(key);
        let is_required = items.items_at(&["required"]).iter().any(|it| it.as_str() == Some(key));
        if !is_required && it.get("default").is_none_or(Value::is_null) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&place.child("default"), detail);
        }
        if it.bool_at(&["nullable"]) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&place.child("nullable"), detail);
        }
    }
}

/// Whether anything in a schema, however deep, is so.
fn has(schema: &Value, is_so: &dyn Fn(&Value) -> bool) -> bool {
    let one = ["items", "not", "additionalProperties"].into_iter().filter_map(|it| schema.get(it));
    let several = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|it| schema.items_at(&[it]));
    let named = properties(schema).map(|(_, it)| it);
    is_so(schema)
        || one.chain(several).chain(named).any(|it| it.as_object().is_some() && has(it, is_so))
}

/// What is wrong with a schema that was let in before there was a rule against it, which may stay as it is.
pub(crate) fn tolerance(schema: &Value) -> Tolerance {
    let found = |check: fn(&Value, &Path<'_>, &mut FieldErrors)| {
        has(schema, &|it| {
            let mut errors = FieldErrors::new();
            check(it, &Path::new(""), &mut errors);
            !errors.is_empty()
        })
    };
    let odd_type = |it: &Value| {
        let kind = it.str_at(&["type"]);
        !kind.is_empty() && !TYPES.contains(&kind)
    };
    Tolerance {
        types: has(schema, &odd_type),
        unpruned_defaults: super::defaults_check::has_unpruned(schema),
        granular_sets: found(|it, path, errors| {
            if it.str_at(&[LIST_TYPE]) == "set" {
                set_items(it, path, errors);
            }
        }),
        loose_keys: found(strict_items),
        cost: false,
    }
}
