//! Patches: JSON merge patch, JSON patch and strategic merge patch, each a function from value to value.
//!
//! Errors say which answer upstream gives. Checking the result against its type is the caller's.

pub mod json_patch;
pub mod merge;
pub mod strategic;

use std::fmt::Write as _;

use crate::value::Value;

/// Why a patch cannot be applied, by the answer that upstream gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// 400: the patch itself is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// 413: the patch has too many operations.
    #[error("Request entity too large: {0}")]
    TooLarge(String),
    /// 422: the patch does not fit this object. Upstream's client sees only
    /// `the server rejected our request due to an error in our request`; the text is for the log.
    #[error("{0}")]
    Unprocessable(String),
    /// The same where a `test` says that the patch is not meant for this object.
    #[error("{0}")]
    TestFailed(String),
    /// 500 with this text, as upstream answers for errors that it does not sort.
    #[error("{0}")]
    Internal(String),
}

/// A value as Go's `%v` prints it, which is how upstream shows patches: `map[a:1 b:[x y]]`.
#[must_use]
pub fn go_text(value: &Value) -> String {
    let mut text = String::new();
    write_go(value, &mut text);
    text
}

fn write_go(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(it) => out.push_str(if *it { "true" } else { "false" }),
        Value::Int(it) => {
            // Writing to a string does not fail.
            let _ = write!(out, "{it}");
        }
        Value::Float(it) => write_go_float(*it, out),
        Value::String(it) => out.push_str(it),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { " " });
                write_go(item, out);
            }
            out.push(']');
        }
        Value::Object(object) => {
            out.push_str("map[");
            for (index, (key, member)) in object.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { " " });
                out.push_str(key);
                out.push(':');
                write_go(member, out);
            }
            out.push(']');
        }
    }
}

/// A value as Go's `%#v` prints it: `map[string]interface {}{"a":1}`.
#[must_use]
pub fn go_syntax(value: &Value) -> String {
    match value {
        Value::Null => "interface {}(nil)".into(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => go_text(value),
        Value::String(text) => crate::field::quote(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(go_syntax).collect();
            format!("[]interface {{}}{{{}}}", items.join(", "))
        }
        Value::Object(object) => {
            let member =
                |(key, value)| format!("{}:{}", crate::field::quote(key), go_syntax(value));
            let members: Vec<String> = object.iter().map(member).collect();
            format!("map[string]interface {{}}{{{}}}", members.join(", "))
        }
    }
}

/// A value as Go's `%s` prints it, which complains of what is no string: `%!s(int64=1)`.
pub(super) fn go_string(value: &Value) -> String {
    match value {
        Value::Null => "%!s(<nil>)".into(),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            format!("%!s({}={})", value.go_type(), go_text(value))
        }
        Value::String(text) => text.to_string(),
        Value::Array(items) => {
            format!("[{}]", items.iter().map(go_string).collect::<Vec<_>>().join(" "))
        }
        Value::Object(object) => {
            let member = |(key, value)| format!("{key}:{}", go_string(value));
            format!("map[{}]", object.iter().map(member).collect::<Vec<_>>().join(" "))
        }
    }
}

fn write_go_float(number: f64, out: &mut String) {
    let size = number.abs();
    if size == 0.0 || (1e-4..1e21).contains(&size) {
        let _ = write!(out, "{number}");
        return;
    }
    let text = format!("{number:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    let _ = write!(out, "{mantissa}e{sign}{digits:0>2}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value;

    #[test]
    fn values_print_as_in_go() {
        let text = go_text(&value!({"b": [1, null, "x"], "a": {"t": true, "f": 1.5}}));
        assert_eq!(text, "map[a:map[f:1.5 t:true] b:[1 <nil> x]]");
        let list = value!([{"b": "x", "a": [1, true]}, null]);
        assert_eq!(
            go_syntax(&list),
            r#"[]interface {}{map[string]interface {}{"a":[]interface {}{1, true}, "b":"x"}, interface {}(nil)}"#
        );
        assert_eq!(go_string(&list), "[map[a:[%!s(int64=1) %!s(bool=true)] b:x] %!s(<nil>)]");
        assert_eq!(go_text(&Value::Float(1e21)), "1e+21");
        assert_eq!(go_text(&Value::Float(0.00001)), "1e-05");
    }
}
