//! What an object says of itself first: its `apiVersion` and its `kind`. Whoever decodes looks at them before all else, and
//! tells what cannot be read in upstream's words (`runtime/serializer/json`).

use crate::Value;

/// An object whose apiVersion and kind are text, if they are there. Null is an object without members.
///
/// # Errors
/// What it is instead.
pub fn object(value: Value) -> Result<Value, String> {
    let object = match value {
        Value::Null => return Ok(Value::object()),
        Value::Object(object) => object,
        other => {
            return Err(unread(&format!(
                "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                other.kind_name()
            )));
        }
    };
    for member in ["apiVersion", "kind"] {
        match object.get(member) {
            None | Some(Value::Null | Value::String(_)) => {}
            Some(other) => {
                return Err(unread(&format!(
                    "json: cannot unmarshal {} into Go struct field .{member} of type string",
                    other.kind_name()
                )));
            }
        }
    }
    Ok(Value::Object(object))
}

/// That a text cannot be read as an object, and why.
#[must_use]
pub fn unread(why: &str) -> String {
    format!("couldn't get version/kind; json parse error: {why}")
}
