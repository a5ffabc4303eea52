//! Secret: what is written as text becomes data, which is what is stored.

use apimachinery::{FieldErrors, Path, Value, validation, value};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;

use crate::declaration::{Declaration, FieldLabel};
use crate::table;

/// The most that a secret may hold, in bytes.
const MAX_DATA_BYTES: usize = 1 << 20;

/// The selectable fields.
const FIELDS: &[FieldLabel] = &[FieldLabel::new("type", |it| it.str_at(&["type"]).into())];

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "secrets",
        default,
        validate,
        validate_update,
        fields: FIELDS,
        row,
        ..Declaration::PLAIN
    }
}

fn default(value: &mut Value) {
    value.default_at(&["type"], "Opaque");
    let Some(Value::Object(texts)) = value.remove_at(&["stringData"]) else { return };
    for (key, text) in texts {
        let encoded = BASE64_STANDARD.encode(text.as_str().unwrap_or_default());
        value.object_at_mut(&["data"]).insert(key, encoded);
    }
}

fn validate(value: &Value, errors: &mut FieldErrors) {
    let data = Path::new("data");
    let mut total = 0;
    for (key, bytes) in
        value.get("data").and_then(Value::as_object).into_iter().flat_map(|it| it.iter())
    {
        errors.invalid_all(&data.key(key), key, validation::config_map_key(key));
        total += bytes.as_str().map_or(0, |text| text.len() / 4 * 3);
    }
    if total > MAX_DATA_BYTES {
        errors.too_long(&data, MAX_DATA_BYTES);
    }
}

fn validate_update(value: &Value, old: &Value, errors: &mut FieldErrors) {
    if value.get("type") != old.get("type") {
        let kind = value.get("type").cloned().unwrap_or_default();
        errors.invalid(&Path::new("type"), &kind, "field is immutable");
    }
    if !old.bool_at(&["immutable"]) {
        return;
    }
    if !value.bool_at(&["immutable"]) {
        errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
    }
    if value.get("data") != old.get("data") {
        errors.forbidden(&Path::new("data"), "field is immutable when `immutable` is set");
    }
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    let count = value.get("data").and_then(Value::as_object).map_or(0, apimachinery::Object::len);
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let name = value.str_at(&["metadata", "name"]);
    vec![name.into(), value.str_at(&["type"]).into(), value!(count), table::created(value, now)]
}
