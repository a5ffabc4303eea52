//! JSON merge patch (RFC 7386): what the patch names replaces, null takes away, objects merge.

use super::PatchError;
use crate::value::{Object, Value};

/// The value with the patch merged in.
///
/// # Errors
/// Where the patch is not an object, as upstream's.
pub fn apply(original: &Value, patch: &Value) -> Result<Value, PatchError> {
    match patch {
        Value::Object(patch) => {
            let mut merged = original.clone();
            merge(&mut merged, patch);
            Ok(merged)
        }
        Value::Null => Err(PatchError::BadRequest("Invalid JSON Patch".into())),
        other => Err(PatchError::BadRequest(format!("error decoding patch: {}", not_a_map(other)))),
    }
}

/// What Go's decoder says of a value that should have been an object.
pub(super) fn not_a_map(value: &Value) -> String {
    let kind = value.kind_name();
    format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
}

fn merge(target: &mut Value, patch: &Object) {
    if target.as_object().is_none() {
        *target = Value::object();
    }
    let Some(members) = target.as_object_mut() else { return };
    for (key, value) in patch.iter() {
        match value {
            Value::Null => {
                members.remove(key);
            }
            Value::Object(patch) => merge(members.entry(key), patch),
            other => {
                members.insert(key, other.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of RFC 7386, appendix A, that patch with an object, and the nasty ones.
    #[test]
    fn objects_merge_and_nulls_take_away() {
        for (original, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            (r#"{"a":1}"#, r#"{"a":{"b":{}}}"#, r#"{"a":{"b":{}}}"#),
            ("{}", r#"{"a":[null,{"b":null}]}"#, r#"{"a":[null,{"b":null}]}"#),
        ] {
            let parse = |text: &str| crate::json::parse(text.as_bytes()).unwrap();
            let merged = apply(&parse(original), &parse(patch)).unwrap();
            assert_eq!(crate::json::to_string(&merged), expected, "{original} with {patch}");
            assert_eq!(apply(&merged, &parse(patch)).unwrap(), merged, "a second time: {patch}");
        }
    }

    #[test]
    fn patches_that_are_no_objects_are_refused() {
        let error = |patch: Value| apply(&Value::object(), &patch).unwrap_err().to_string();
        assert_eq!(error(Value::Null), "Invalid JSON Patch");
        assert_eq!(
            error(Value::Array(vec![])),
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
    }
}
