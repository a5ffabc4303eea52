//! What a configuration file may say: the members of each object and the types of their values, checked strictly.
//!
//! Upstream reads such files with its strict decoder: what is unknown or said twice is an error that names the place.
//! Knows no file by name, and not what makes sense beyond the types.

use crate::value::Value;
use crate::{json, yaml};

/// The form of a value.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Text.
    Text,
    /// Yes or no.
    Bool,
    /// A whole number.
    Integer,
    /// Whatever is there.
    Any,
    /// Values of one form.
    List(&'static Shape),
    /// These members and no others; each may be left out.
    Object(&'static [(&'static str, Shape)]),
}

/// Reads a file in YAML or JSON.
///
/// # Errors
/// Where it is neither, or says what its shape does not have; every unknown and repeated member is told.
pub fn read(text: &[u8], shape: Shape) -> Result<Value, String> {
    let mut wrong = Vec::new();
    let value = if yaml::looks_like_json(text) {
        let (value, repeated) = json::parse_reporting(text).map_err(|error| error.to_string())?;
        wrong.extend(repeated.iter().map(|path| format!("duplicate field \"{path}\"")));
        value
    } else {
        let (value, repeated) = yaml::parse_reporting(text).map_err(|error| error.to_string())?;
        wrong.extend(yaml::strict_error(&repeated));
        value
    };
    check(&value, shape, &mut String::new(), &mut wrong)?;
    if wrong.is_empty() {
        Ok(value)
    } else {
        Err(format!("strict decoding error: {}", wrong.join(", ")))
    }
}

/// Adds what is unknown; what is of the wrong type ends it.
fn check(
    value: &Value,
    shape: Shape,
    path: &mut String,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    let begins = path.len();
    match (shape, value) {
        (Shape::Any, _)
        | (_, Value::Null)
        | (Shape::Text, Value::String(_))
        | (Shape::Bool, Value::Bool(_)) => {}
        (Shape::Integer, number) if number.as_i64().is_some() => {}
        (Shape::List(item), Value::Array(values)) => {
            for (index, value) in values.iter().enumerate() {
                path.push_str(&format!("[{index}]"));
                check(value, *item, path, unknown)?;
                path.truncate(begins);
            }
        }
        (Shape::Object(members), Value::Object(object)) => {
            for (key, value) in object.iter() {
                let dot = if begins == 0 { "" } else { "." };
                path.push_str(&format!("{dot}{key}"));
                match members.iter().find(|(name, _)| *name == key) {
                    Some((_, shape)) => check(value, *shape, path, unknown)?,
                    None => unknown.push(format!("unknown field \"{path}\"")),
                }
                path.truncate(begins);
            }
        }
        (shape, value) => {
            let at = if path.is_empty() { "the file" } else { path.as_str() };
            return Err(format!("{at} is {}, and must be {}", value.kind_name(), shape.name()));
        }
    }
    Ok(())
}

impl Shape {
    const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Bool => "true or false",
            Self::Integer => "a whole number",
            Self::Any => "a value",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Shape = Shape::Object(&[
        ("name", Shape::Text),
        ("list", Shape::List(&Shape::Object(&[("flag", Shape::Bool), ("count", Shape::Integer)]))),
        ("any", Shape::Any),
    ]);

    fn said(text: &str) -> String {
        match read(text.as_bytes(), FILE) {
            Ok(value) => json::to_string(&value),
            Err(why) => why,
        }
    }

    #[test]
    fn a_file_is_read_strictly() {
        for (text, expected) in [
            (
                "name: a\nlist: [{flag: true, count: 1}]\nany: {x: [1]}",
                "{\"any\":{\"x\":[1]},\"list\":[{\"count\":1,\"flag\":true}],\"name\":\"a\"}",
            ),
            ("{\"name\":null}", "{\"name\":null}"),
            (
                "nam: a\nlist: [{}, {other: 1}]",
                "strict decoding error: unknown field \"list[1].other\", unknown field \"nam\"",
            ),
            (
                "name: a\nname: b",
                "strict decoding error: yaml: unmarshal errors:\n  line 2: key \"name\" already set in map",
            ),
            ("{\"name\":\"a\",\"name\":\"b\"}", "strict decoding error: duplicate field \"name\""),
            ("name: [a]", "name is array, and must be text"),
            ("list: [{count: x}]", "list[0].count is string, and must be a whole number"),
            ("- a", "the file is array, and must be an object"),
        ] {
            assert_eq!(said(text), expected, "{text}");
        }
    }
}
