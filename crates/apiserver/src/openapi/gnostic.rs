//! OpenAPI documents in the protobuf that client libraries read (gnostic's messages), piece by piece.
//!
//! A message is a table: JSON name, field number, form. Knows only what documents of this server hold.

use apimachinery::protobuf::{write_bytes, write_len, write_tag, write_varint};
use apimachinery::{Value, json};

use super::Version;

/// A message by its fields.
enum Message {
    /// Members by name, and where those that begin with `x-` go.
    Plain { fields: &'static [(&'static str, u32, Form)], extensions: u32 },
    /// One of two messages, told apart by a member.
    Either { member: &'static str, with: (u32, &'static Message), without: (u32, &'static Message) },
    /// A message around another one.
    Around(u32, &'static Message),
    /// Text with the number it has inside.
    Text(u32),
    /// An empty message.
    Empty,
}

/// How a member is written.
enum Form {
    Text,
    Flag,
    Texts,
    /// A number that is not negative.
    Count,
    Real,
    /// Any value, as YAML (of which JSON is a part).
    Any,
    Anys,
    One(&'static Message),
    Many(&'static Message),
    /// A message in which pairs of name and value have this number.
    Named(u32, &'static Message),
    /// A number, bool or text; nothing for other values.
    Default,
}

use Form::{Any, Anys, Count, Default, Flag, Many, Named, One, Real, Text, Texts};

static V2_SCHEMA: Message = Message::Plain {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Real),
        ("maximum", 7, Real),
        ("exclusiveMaximum", 8, Flag),
        ("minimum", 9, Real),
        ("exclusiveMinimum", 10, Flag),
        ("maxLength", 11, Count),
        ("minLength", 12, Count),
        ("pattern", 13, Text),
        ("maxItems", 14, Count),
        ("minItems", 15, Count),
        ("uniqueItems", 16, Flag),
        ("maxProperties", 17, Count),
        ("minProperties", 18, Count),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, One(&Message::Around(1, &V2_SCHEMA))),
        ("type", 22, One(&Message::Text(1))),
        ("items", 23, One(&Message::Around(1, &V2_SCHEMA))),
        ("allOf", 24, Many(&V2_SCHEMA)),
        ("properties", 25, Named(1, &V2_SCHEMA)),
        ("example", 30, Any),
    ],
    extensions: 31,
};

static V2_PATH_ITEM: Message = Message::Plain {
    fields: &[
        ("get", 2, One(&V2_OPERATION)),
        ("put", 3, One(&V2_OPERATION)),
        ("post", 4, One(&V2_OPERATION)),
        ("delete", 5, One(&V2_OPERATION)),
        ("options", 6, One(&V2_OPERATION)),
        ("head", 7, One(&V2_OPERATION)),
        ("patch", 8, One(&V2_OPERATION)),
        ("parameters", 9, Many(&V2_PARAMETERS_ITEM)),
    ],
    extensions: 10,
};

static V2_OPERATION: Message = Message::Plain {
    fields: &[
        ("tags", 1, Texts),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Many(&V2_PARAMETERS_ITEM)),
        ("responses", 9, Named(1, &Message::Around(1, &V2_RESPONSE))),
        ("schemes", 10, Texts),
    ],
    extensions: 13,
};

static V2_PARAMETERS_ITEM: Message = Message::Either {
    member: "$ref",
    with: (2, &Message::Plain { fields: &[("$ref", 1, Text)], extensions: 0 }),
    without: (1, &V2_PARAMETER),
};

static V2_PARAMETER: Message =
    Message::Either { member: "schema", with: (1, &V2_BODY), without: (2, &V2_NON_BODY) };

static V2_BODY: Message = Message::Plain {
    fields: &[
        ("description", 1, Text),
        ("name", 2, Text),
        ("in", 3, Text),
        ("required", 4, Flag),
        ("schema", 5, One(&V2_SCHEMA)),
    ],
    extensions: 6,
};

/// Only parameters of paths are required here.
static V2_NON_BODY: Message =
    Message::Either { member: "required", with: (4, &V2_PATH), without: (3, &V2_QUERY) };

static V2_PATH: Message = Message::Plain {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("uniqueItems", 19, Flag),
    ],
    extensions: 22,
};

static V2_QUERY: Message = Message::Plain {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("uniqueItems", 20, Flag),
    ],
    extensions: 23,
};

static V2_RESPONSE: Message = Message::Plain {
    fields: &[("description", 1, Text), ("schema", 2, One(&Message::Around(1, &V2_SCHEMA)))],
    extensions: 5,
};

static V2_HEAD: Message = Message::Plain {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, One(&Message::Plain { fields: INFO_V2, extensions: 7 })),
        ("security", 12, Many(&SECURITY)),
        ("securityDefinitions", 13, Named(1, &Message::Around(2, &V2_API_KEY))),
    ],
    extensions: 16,
};

const INFO_V2: &[(&str, u32, Form)] = &[("title", 1, Text), ("version", 2, Text)];
const INFO_V3: &[(&str, u32, Form)] = &[("title", 1, Text), ("version", 6, Text)];

static SECURITY: Message = Message::Around(1, &SECURITY_PAIR);
/// The one requirement there is; its scopes are empty.
static SECURITY_PAIR: Message = Message::Plain {
    fields: &[("name", 1, Text), ("value", 2, One(&Message::Empty))],
    extensions: 0,
};

static V2_API_KEY: Message = Message::Plain {
    fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)],
    extensions: 5,
};

static V3_SCHEMA: Message = Message::Plain {
    fields: &[
        ("nullable", 1, Flag),
        ("example", 7, Any),
        ("title", 9, Text),
        ("multipleOf", 10, Real),
        ("maximum", 11, Real),
        ("exclusiveMaximum", 12, Flag),
        ("minimum", 13, Real),
        ("exclusiveMinimum", 14, Flag),
        ("maxLength", 15, Count),
        ("minLength", 16, Count),
        ("pattern", 17, Text),
        ("maxItems", 18, Count),
        ("minItems", 19, Count),
        ("uniqueItems", 20, Flag),
        ("maxProperties", 21, Count),
        ("minProperties", 22, Count),
        ("required", 23, Texts),
        ("enum", 24, Anys),
        ("type", 25, Text),
        ("allOf", 26, Many(&V3_SCHEMA_ITEM)),
        ("oneOf", 27, Many(&V3_SCHEMA_ITEM)),
        ("anyOf", 28, Many(&V3_SCHEMA_ITEM)),
        ("not", 29, One(&V3_SCHEMA)),
        ("items", 30, One(&Message::Around(1, &V3_SCHEMA_ITEM))),
        ("properties", 31, Named(1, &V3_SCHEMA_ITEM)),
        ("additionalProperties", 32, One(&Message::Around(1, &V3_SCHEMA_ITEM))),
        ("default", 33, Default),
        ("description", 34, Text),
        ("format", 35, Text),
    ],
    extensions: 36,
};

static V3_SCHEMA_ITEM: Message = Message::Either {
    member: "$ref",
    with: (2, &Message::Plain { fields: &[("$ref", 1, Text)], extensions: 0 }),
    without: (1, &V3_SCHEMA),
};

static V3_PATH_ITEM: Message = Message::Plain {
    fields: &[
        ("get", 4, One(&V3_OPERATION)),
        ("put", 5, One(&V3_OPERATION)),
        ("post", 6, One(&V3_OPERATION)),
        ("delete", 7, One(&V3_OPERATION)),
        ("options", 8, One(&V3_OPERATION)),
        ("head", 9, One(&V3_OPERATION)),
        ("patch", 10, One(&V3_OPERATION)),
        ("parameters", 13, Many(&Message::Around(1, &V3_PARAMETER))),
    ],
    extensions: 14,
};

static V3_OPERATION: Message = Message::Plain {
    fields: &[
        ("tags", 1, Texts),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("parameters", 6, Many(&Message::Around(1, &V3_PARAMETER))),
        ("requestBody", 7, One(&Message::Around(1, &V3_REQUEST))),
        ("responses", 8, Named(2, &Message::Around(1, &V3_RESPONSE))),
    ],
    extensions: 13,
};

static V3_PARAMETER: Message = Message::Plain {
    fields: &[
        ("name", 1, Text),
        ("in", 2, Text),
        ("description", 3, Text),
        ("required", 4, Flag),
        ("schema", 10, One(&V3_SCHEMA_ITEM)),
    ],
    extensions: 14,
};

static V3_REQUEST: Message = Message::Plain {
    fields: &[("content", 2, Named(1, &V3_MEDIA)), ("required", 3, Flag)],
    extensions: 4,
};

static V3_RESPONSE: Message = Message::Plain {
    fields: &[("description", 1, Text), ("content", 3, Named(1, &V3_MEDIA))],
    extensions: 5,
};

static V3_MEDIA: Message =
    Message::Plain { fields: &[("schema", 1, One(&V3_SCHEMA_ITEM))], extensions: 5 };

static V3_HEAD: Message = Message::Plain {
    fields: &[
        ("openapi", 1, Text),
        ("info", 2, One(&Message::Plain { fields: INFO_V3, extensions: 7 })),
    ],
    extensions: 9,
};

/// In a document's components.
static V3_SECURITY: Message = Message::Plain {
    fields: &[("securitySchemes", 7, Named(1, &Message::Around(1, &V3_API_KEY)))],
    extensions: 10,
};

static V3_API_KEY: Message = Message::Plain {
    fields: &[("type", 1, Text), ("description", 2, Text), ("name", 3, Text), ("in", 4, Text)],
    extensions: 9,
};

/// What stands in a document beside paths and definitions.
pub(super) fn head(version: Version, value: &Value, out: &mut Vec<u8>) {
    match version {
        Version::V2 => V2_HEAD.write(value, out),
        Version::V3 => V3_HEAD.write(value, out),
    }
}

/// One path.
pub(super) fn path(version: Version, path: &str, value: &Value, out: &mut Vec<u8>) {
    match version {
        Version::V2 => write_len(8, out, |out| pair(2, path, &V2_PATH_ITEM, value, out)),
        Version::V3 => write_len(4, out, |out| pair(1, path, &V3_PATH_ITEM, value, out)),
    }
}

/// One definition.
pub(super) fn definition(version: Version, name: &str, value: &Value, out: &mut Vec<u8>) {
    match version {
        Version::V2 => write_len(9, out, |out| pair(1, name, &V2_SCHEMA, value, out)),
        Version::V3 => write_len(5, out, |out| {
            write_len(1, out, |out| pair(1, name, &V3_SCHEMA_ITEM, value, out));
        }),
    }
}

/// One parameter that operations refer to; 3.0 has none.
pub(super) fn parameter(key: &str, value: &Value, out: &mut Vec<u8>) {
    write_len(10, out, |out| pair(1, key, &V2_PARAMETER, value, out));
}

/// How clients authenticate; 2.0 has it in its head.
pub(super) fn security(value: &Value, out: &mut Vec<u8>) {
    write_len(5, out, |out| V3_SECURITY.write(value, out));
}

fn pair(number: u32, name: &str, message: &Message, value: &Value, out: &mut Vec<u8>) {
    write_len(number, out, |out| {
        write_bytes(1, name.as_bytes(), out);
        write_len(2, out, |out| message.write(value, out));
    });
}

impl Message {
    fn write(&self, value: &Value, out: &mut Vec<u8>) {
        match self {
            Self::Plain { fields, extensions } => {
                for (name, number, form) in *fields {
                    if let Some(value) = value.get(name) {
                        form.write(*number, value, out);
                    }
                }
                let members = value.as_object().into_iter().flat_map(|it| it.iter());
                for (name, value) in members.filter(|(name, _)| name.starts_with("x-")) {
                    write_len(*extensions, out, |out| {
                        write_bytes(1, name.as_bytes(), out);
                        write_len(2, out, |out| write_bytes(2, &json::to_vec(value), out));
                    });
                }
            }
            Self::Either { member, with, without } => {
                let (number, message) = if value.get(member).is_some() { with } else { without };
                write_len(*number, out, |out| message.write(value, out));
            }
            Self::Around(number, message) => {
                write_len(*number, out, |out| message.write(value, out));
            }
            Self::Text(number) => {
                write_bytes(*number, value.as_str().unwrap_or_default().as_bytes(), out);
            }
            Self::Empty => {}
        }
    }
}

fn real(number: u32, value: &Value, out: &mut Vec<u8>) {
    #[allow(clippy::cast_precision_loss, reason = "the message has doubles")]
    let real = match value {
        Value::Int(it) => *it as f64,
        Value::Float(it) => *it,
        _ => return,
    };
    write_tag(number, 1, out);
    out.extend_from_slice(&real.to_le_bytes());
}

impl Form {
    fn write(&self, number: u32, value: &Value, out: &mut Vec<u8>) {
        match self {
            Text => write_bytes(number, value.as_str().unwrap_or_default().as_bytes(), out),
            Flag => {
                write_tag(number, 0, out);
                write_varint(u64::from(value.as_bool() == Some(true)), out);
            }
            Texts => {
                for item in value.as_array().unwrap_or_default() {
                    Text.write(number, item, out);
                }
            }
            Count => {
                write_tag(number, 0, out);
                let count = value.as_i64().and_then(|it| u64::try_from(it).ok());
                write_varint(count.unwrap_or_default(), out);
            }
            Real => real(number, value, out),
            Any => write_len(number, out, |out| write_bytes(2, &json::to_vec(value), out)),
            Anys => {
                for item in value.as_array().unwrap_or_default() {
                    Any.write(number, item, out);
                }
            }
            One(message) => write_len(number, out, |out| message.write(value, out)),
            Many(message) => {
                for item in value.as_array().unwrap_or_default() {
                    write_len(number, out, |out| message.write(item, out));
                }
            }
            Named(at, message) => write_len(number, out, |out| {
                let members = value.as_object().into_iter().flat_map(|it| it.iter());
                members.for_each(|(name, value)| pair(*at, name, message, value, out));
            }),
            Default => match value {
                Value::String(text) => {
                    write_len(number, out, |out| write_bytes(3, text.as_bytes(), out));
                }
                Value::Bool(it) => write_len(number, out, |out| {
                    write_tag(2, 0, out);
                    write_varint(u64::from(*it), out);
                }),
                Value::Int(_) | Value::Float(_) => {
                    write_len(number, out, |out| real(1, value, out));
                }
                Value::Null | Value::Array(_) | Value::Object(_) => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::protobuf::{Reader, WireValue};
    use apimachinery::value;

    use super::*;

    #[test]
    fn bounds_and_enumerations_are_written() {
        let schema = value!({"type": "string", "enum": ["a", "b"], "pattern": "x", "maxLength": 300, "maximum": 1.5,
            "minimum": 0, "nullable": true, "not": {"format": "f"}});
        let mut message = Vec::new();
        V3_SCHEMA.write(&schema, &mut message);
        let mut reader = Reader::new(&message);
        let mut told = Vec::new();
        while let Some((number, value)) = reader.field().unwrap() {
            told.push(match value {
                WireValue::Bytes(bytes) => format!("{number} {}", bytes.escape_ascii()),
                WireValue::Varint(it) => format!("{number} {it}"),
                WireValue::Fixed64(it) => format!("{number} {}", f64::from_bits(it)),
                WireValue::Fixed32(it) => format!("{number} {it}"),
            });
        }
        let expected = [
            "1 1",
            "11 1.5",
            "13 0",
            "15 300",
            "17 x",
            r#"24 \x12\x03\"a\""#,
            r#"24 \x12\x03\"b\""#,
        ];
        assert_eq!(told[..7], expected);
        assert_eq!(told[7..], ["25 string", r"29 \x9a\x02\x01f"]);
    }
}
