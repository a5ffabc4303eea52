//! From a value to a message.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::wire::{write_bytes, write_len, write_tag, write_varint};
use super::{Entry, Tags};
use crate::duration::Duration;
use crate::schema::{Node, NodeId, Schema, Struct};
use crate::value::{Object, Value};
use crate::{json, time};

/// Writes the message of a value, which conforms to the type `node`.
pub fn encode(schema: &Schema, tags: &Tags, node: NodeId, value: &Value, out: &mut Vec<u8>) {
    Encoder { schema, tags }.message(node, value, out);
}

struct Encoder<'s> {
    schema: &'s Schema,
    tags: &'s Tags,
}

impl Encoder<'_> {
    /// What lies inside of a field of this type, where that is a message or bytes.
    fn message(&self, node: NodeId, value: &Value, out: &mut Vec<u8>) {
        match (self.schema.node(node), value) {
            (Node::Struct(it), Value::Object(object)) => {
                if let Some(fields) = self.tags.fields(node) {
                    self.fields(it, fields, object, out);
                }
            }
            (Node::Time, Value::String(text)) => self.time(text, false, out),
            (Node::MicroTime, Value::String(text)) => self.time(text, true, out),
            (Node::Duration, Value::String(text)) => {
                if let Ok(it) = Duration::parse(text) {
                    number(1, it.as_nanos(), out);
                }
            }
            (Node::Quantity, Value::String(text)) => write_bytes(1, text.as_bytes(), out),
            (Node::Quantity, Value::Int(it)) => write_bytes(1, it.to_string().as_bytes(), out),
            (Node::IntOrString, Value::String(text)) => {
                number(1, 1, out);
                number(2, 0, out);
                write_bytes(3, text.as_bytes(), out);
            }
            (Node::IntOrString, Value::Int(it)) => {
                number(1, 0, out);
                number(2, *it, out);
                write_bytes(3, b"", out);
            }
            (Node::RawExtension | Node::FieldsV1 | Node::Any, value) => {
                write_bytes(1, &json::to_vec(value), out);
            }
            (Node::SchemaOrBool(schema), value) => {
                number(1, i64::from(*value != Value::Bool(false)), out);
                if !matches!(value, Value::Bool(_)) {
                    write_len(2, out, |out| self.message(*schema, value, out));
                }
            }
            (Node::SchemaOrArray(schema), Value::Array(items)) => {
                for item in items {
                    write_len(2, out, |out| self.message(*schema, item, out));
                }
            }
            (Node::SchemaOrStrings(_), Value::Array(items)) => {
                for item in items {
                    write_bytes(2, item.as_str().unwrap_or_default().as_bytes(), out);
                }
            }
            (Node::SchemaOrArray(schema) | Node::SchemaOrStrings(schema), value) => {
                write_len(1, out, |out| self.message(*schema, value, out));
            }
            // A list where only a message may stand (in a map) is a message with its items.
            (Node::List(list), Value::Array(items)) => {
                items.iter().for_each(|item| self.field(1, list.item, item, out));
            }
            _ => {}
        }
    }

    fn fields(&self, of: &Struct, fields: usize, object: &Object, out: &mut Vec<u8>) {
        for entry in self.tags.entries(fields) {
            match entry {
                Entry::Field { number, place } => {
                    let field = &of.fields[place];
                    if let Some(value) = object.get(&field.name) {
                        self.field(number, field.node, value, out);
                    }
                }
                Entry::Listed { number, place } => {
                    let field = &of.fields[place];
                    match object.get(&field.name) {
                        None | Some(Value::Null) => {}
                        Some(value) => self.item(number, field.node, value, out),
                    }
                }
                // Go embeds the struct, not a pointer to it: it is there even when nothing is in it.
                Entry::Inline { number, fields } => {
                    write_len(number, out, |out| self.fields(of, fields, object, out));
                }
            }
        }
    }

    /// One field with its number; nothing for null.
    fn field(&self, number: u32, node: NodeId, value: &Value, out: &mut Vec<u8>) {
        match (self.schema.node(node), value) {
            (_, Value::Null) => {}
            (Node::Bool, Value::Bool(it)) => self::number(number, i64::from(*it), out),
            (Node::Int32 | Node::Int64, Value::Int(it)) => self::number(number, *it, out),
            (Node::Float64, value) => {
                #[allow(clippy::cast_precision_loss, reason = "the field is a double")]
                let it = match value {
                    Value::Float(it) => *it,
                    Value::Int(it) => *it as f64,
                    _ => return,
                };
                write_tag(number, 1, out);
                out.extend_from_slice(&it.to_le_bytes());
            }
            (Node::String, Value::String(text)) => write_bytes(number, text.as_bytes(), out),
            (Node::Bytes, Value::String(text)) => {
                write_bytes(
                    number,
                    &BASE64_STANDARD.decode(text.as_str()).unwrap_or_default(),
                    out,
                );
            }
            (Node::List(list), Value::Array(items)) => {
                items.iter().for_each(|item| self.item(number, list.item, item, out));
            }
            (Node::Map(map), Value::Object(members)) => {
                for (key, value) in members.iter() {
                    write_len(number, out, |out| {
                        write_bytes(1, key.as_bytes(), out);
                        match value {
                            // Go has no absent values in maps: null is its zero.
                            Value::Null => write_bytes(2, b"", out),
                            value => self.item(2, map.value, value, out),
                        }
                    });
                }
            }
            _ => write_len(number, out, |out| self.message(node, value, out)),
        }
    }

    /// A list's item or a map's value: a list here is a message of its own.
    fn item(&self, number: u32, node: NodeId, value: &Value, out: &mut Vec<u8>) {
        match self.schema.node(node) {
            Node::List(_) => write_len(number, out, |out| self.message(node, value, out)),
            _ => self.field(number, node, value, out),
        }
    }

    fn time(&self, text: &str, micro: bool, out: &mut Vec<u8>) {
        let Ok(at) = time::parse_time(text) else { return };
        number(1, at.as_second(), out);
        let nanos = if micro { i64::from(at.subsec_nanosecond()) } else { 0 };
        number(2, nanos, out);
    }
}

/// A varint, negative ones in ten bytes.
fn number(number: u32, value: i64, out: &mut Vec<u8>) {
    write_tag(number, 0, out);
    write_varint(value.cast_unsigned(), out);
}
