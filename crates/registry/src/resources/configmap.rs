//! ConfigMap.

use apimachinery::{FieldErrors, Path, Value, value};
use jiff::Timestamp;

use crate::declaration::Declaration;
use crate::table;

/// The most that data and binary data may hold together, in bytes (upstream's `MaxSecretSize`).
const MAX_DATA_BYTES: usize = 1 << 20;

pub(super) fn resource() -> Declaration {
    Declaration { resource: "configmaps", validate, validate_update, row, ..Declaration::PLAIN }
}

fn validate(value: &Value, errors: &mut FieldErrors) {
    let mut total = 0;
    for member in ["data", "binaryData"] {
        let path = Path::new(member);
        let Some(entries) = value.get(member).and_then(Value::as_object) else { continue };
        for (key, text) in entries.iter() {
            let at = path.key(key);
            errors.invalid_all(&at, key, apimachinery::validation::config_map_key(key));
            if member == "data" && value.get("binaryData").is_some_and(|it| it.get(key).is_some()) {
                errors.invalid_text(&at, key, "duplicate of key present in binaryData");
            }
            total += text.as_str().map_or(0, str::len);
        }
    }
    if total > MAX_DATA_BYTES {
        errors.too_long(&Path::new(""), MAX_DATA_BYTES);
    }
}

fn validate_update(value: &Value, old: &Value, errors: &mut FieldErrors) {
    if !old.bool_at(&["immutable"]) {
        return;
    }
    if !value.bool_at(&["immutable"]) {
        errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
    }
    for member in ["data", "binaryData"] {
        if value.get(member) != old.get(member) {
            errors.forbidden(&Path::new(member), "field is immutable when `immutable` is set");
        }
    }
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    let count =
        |member| value.get(member).and_then(Value::as_object).map_or(0, apimachinery::Object::len);
    let total = i64::try_from(count("data") + count("binaryData")).unwrap_or(i64::MAX);
    vec![value.str_at(&["metadata", "name"]).into(), value!(total), table::created(value, now)]
}
