//! Answers in YAML.

use apimachinery::{Value, json};

/// The YAML text of a value; its JSON text, which is YAML too, should the writer refuse.
pub(crate) fn to_string(value: &Value) -> String {
    let text = json::to_string(value);
    serde_json::from_str::<serde_json::Value>(&text)
        .ok()
        .and_then(|value| serde_saphyr::to_string(&value).ok())
        .unwrap_or(text)
}
