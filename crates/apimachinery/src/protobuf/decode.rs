//! From a message to a value. What is not known is skipped, as Go skips it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use compact_str::CompactString;
use jiff::Timestamp;

use super::wire::{ProtobufError, Reader, WireValue};
use super::{Entry, Tags};
use crate::duration::Duration;
use crate::schema::{Node, NodeId, Schema, Struct};
use crate::value::{Object, Value};
use crate::{json, time};

/// How many messages may lie inside of each other.
const DEPTH_MAX: usize = 100;

type Decoded<T = Value> = Result<T, ProtobufError>;

/// The value of a message of the type `node`.
///
/// # Errors
/// Where the bytes are not such a message.
pub fn decode(schema: &Schema, tags: &Tags, node: NodeId, message: &[u8]) -> Decoded {
    Decoder { schema, tags }.message(node, message, 0)
}

struct Decoder<'s> {
    schema: &'s Schema,
    tags: &'s Tags,
}

impl Decoder<'_> {
    fn message(&self, node: NodeId, bytes: &[u8], depth: usize) -> Decoded {
        if depth > DEPTH_MAX {
            return Err(ProtobufError::Depth);
        }
        match self.schema.node(node) {
            Node::Struct(it) => {
                let mut object = Object::new();
                if let Some(fields) = self.tags.fields(node) {
                    self.fields(it, fields, bytes, &mut object, depth)?;
                }
                Ok(Value::Object(object))
            }
            Node::Time => time_of(bytes, false),
            Node::MicroTime => time_of(bytes, true),
            Node::Duration => {
                let nanos = numbers(bytes)?[1];
                Ok(Value::from(Duration::from_nanos(nanos).to_string()))
            }
            Node::Quantity => match bytes_of(bytes, 1)? {
                Some(text) => text_of(text),
                None => Ok(Value::from("0")),
            },
            Node::IntOrString => {
                let numbers = numbers(bytes)?;
                match numbers[1] {
                    0 => Ok(Value::Int(numbers[2])),
                    _ => text_of(bytes_of(bytes, 3)?.unwrap_or_default()),
                }
            }
            Node::RawExtension | Node::FieldsV1 | Node::Any => match bytes_of(bytes, 1)? {
                None | Some([]) => Ok(Value::Null),
                Some(raw) => json::parse_input(raw)
                    .map(|(value, _)| value)
                    .map_err(|error| ProtobufError::Json(error.to_string())),
            },
            Node::SchemaOrBool(schema) => match bytes_of(bytes, 2)? {
                Some(inner) => self.message(*schema, inner, depth + 1),
                None => Ok(Value::Bool(numbers(bytes)?[1] != 0)),
            },
            Node::SchemaOrArray(schema) => match bytes_of(bytes, 1)? {
                Some(inner) => self.message(*schema, inner, depth + 1),
                None => all_of(bytes, 2, |inner| self.message(*schema, inner, depth + 1)),
            },
            Node::SchemaOrStrings(schema) => match bytes_of(bytes, 1)? {
                Some(inner) => self.message(*schema, inner, depth + 1),
                None => all_of(bytes, 2, text_of),
            },
            Node::List(list) => {
                let mut items = Vec::new();
                let mut reader = Reader::new(bytes);
                while let Some((number, value)) = reader.field()? {
                    if number == 1 {
                        items.push(self.value(list.item, value, "items", depth + 1)?);
                    }
                }
                Ok(Value::Array(items))
            }
            Node::Bool
            | Node::Int32
            | Node::Int64
            | Node::Float64
            | Node::String
            | Node::Bytes
            | Node::Map(_) => {
                Err(ProtobufError::Form { found: 2, field: self.schema.go_type(node) })
            }
        }
    }

    fn fields(
        &self,
        of: &Struct,
        fields: usize,
        bytes: &[u8],
        object: &mut Object,
        depth: usize,
    ) -> Decoded<()> {
        if depth > DEPTH_MAX {
            return Err(ProtobufError::Depth);
        }
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.field()? {
            match self.tags.entry(fields, number) {
                None => {}
                Some(Entry::Inline { fields, .. }) => {
                    let WireValue::Bytes(inner) = value else {
                        return Err(form(value, &of.name));
                    };
                    self.fields(of, fields, inner, object, depth + 1)?;
                }
                Some(Entry::Listed { place, .. }) => {
                    let field = &of.fields[place];
                    let value = self.value(field.node, value, &field.name, depth + 1)?;
                    object.insert(&*field.name, value);
                }
                Some(Entry::Field { place, .. }) => {
                    let field = &of.fields[place];
                    self.field(field.node, &field.name, value, object, depth)?;
                }
            }
        }
        Ok(())
    }

    fn field(
        &self,
        node: NodeId,
        name: &str,
        value: WireValue<'_>,
        object: &mut Object,
        depth: usize,
    ) -> Decoded<()> {
        match self.schema.node(node) {
            Node::List(list) => {
                let item = self.value(list.item, value, name, depth + 1)?;
                match object.entry(name) {
                    Value::Array(items) => items.push(item),
                    other => *other = Value::Array(vec![item]),
                }
            }
            Node::Map(map) => {
                let WireValue::Bytes(entry) = value else { return Err(form(value, name)) };
                let (key, value) = self.map_entry(map.value, entry, name, depth + 1)?;
                match object.entry(name) {
                    Value::Object(members) => {
                        members.insert(key, value);
                    }
                    other => {
                        let mut members = Object::new();
                        members.insert(key, value);
                        *other = Value::Object(members);
                    }
                }
            }
            _ => {
                let value = self.value(node, value, name, depth + 1)?;
                object.insert(name, value);
            }
        }
        Ok(())
    }

    fn map_entry(
        &self,
        node: NodeId,
        entry: &[u8],
        name: &str,
        depth: usize,
    ) -> Decoded<(CompactString, Value)> {
        let (mut key, mut found) = (CompactString::default(), None);
        let mut reader = Reader::new(entry);
        while let Some((number, value)) = reader.field()? {
            match (number, value) {
                (1, WireValue::Bytes(text)) => {
                    key = CompactString::from_utf8(text).map_err(|_| ProtobufError::Utf8)?;
                }
                (2, value) => found = Some(self.value(node, value, name, depth)?),
                _ => {}
            }
        }
        let zero = || crate::conform::zero(self.schema, node);
        Ok((key, found.unwrap_or_else(zero)))
    }

    fn value(&self, node: NodeId, value: WireValue<'_>, name: &str, depth: usize) -> Decoded {
        match (self.schema.node(node), value) {
            (Node::Bool, WireValue::Varint(it)) => Ok(Value::Bool(it != 0)),
            (Node::Int32, WireValue::Varint(it)) => {
                // Go's int32 takes the low half, whatever is above.
                #[allow(clippy::cast_possible_truncation, reason = "the low half is what counts")]
                let low = it as u32;
                Ok(Value::Int(i64::from(low.cast_signed())))
            }
            (Node::Int64, WireValue::Varint(it)) => Ok(Value::Int(it.cast_signed())),
            (Node::Float64, WireValue::Fixed64(it)) => Ok(Value::Float(f64::from_bits(it))),
            (Node::String, WireValue::Bytes(text)) => text_of(text),
            (Node::Bytes, WireValue::Bytes(bytes)) => {
                Ok(Value::from(BASE64_STANDARD.encode(bytes)))
            }
            (Node::Bool | Node::Int32 | Node::Int64 | Node::Float64, value) => {
                Err(form(value, name))
            }
            (_, WireValue::Bytes(inner)) => self.message(node, inner, depth),
            (_, value) => Err(form(value, name)),
        }
    }
}

fn form(value: WireValue<'_>, field: &str) -> ProtobufError {
    ProtobufError::Form { found: value.wire_type(), field: field.to_owned() }
}

fn text_of(bytes: &[u8]) -> Decoded {
    let text = CompactString::from_utf8(bytes).map_err(|_| ProtobufError::Utf8)?;
    Ok(Value::String(text))
}

/// The numbers of the fields 1 and 2 of a small message; 0 where one is absent.
fn numbers(bytes: &[u8]) -> Decoded<[i64; 3]> {
    let mut found = [0; 3];
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.field()? {
        if let (1 | 2, WireValue::Varint(it)) = (number, value) {
            found[if number == 1 { 1 } else { 2 }] = it.cast_signed();
        }
    }
    Ok(found)
}

/// The last value of a field of bytes.
fn bytes_of(message: &[u8], wanted: u32) -> Decoded<Option<&[u8]>> {
    let mut found = None;
    let mut reader = Reader::new(message);
    while let Some((number, value)) = reader.field()? {
        if let WireValue::Bytes(it) = value
            && number == wanted
        {
            found = Some(it);
        }
    }
    Ok(found)
}

fn all_of(message: &[u8], wanted: u32, decode: impl Fn(&[u8]) -> Decoded) -> Decoded {
    let mut items = Vec::new();
    let mut reader = Reader::new(message);
    while let Some((number, value)) = reader.field()? {
        if let WireValue::Bytes(it) = value
            && number == wanted
        {
            items.push(decode(it)?);
        }
    }
    Ok(Value::Array(items))
}

/// Go's zero time is the empty message.
fn time_of(bytes: &[u8], micro: bool) -> Decoded {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let numbers = numbers(bytes)?;
    let nanos = if micro { numbers[2].clamp(0, 999_999_999) } else { 0 };
    let at = i32::try_from(nanos)
        .ok()
        .and_then(|nanos| Timestamp::new(numbers[1], nanos).ok())
        .ok_or_else(|| ProtobufError::Range(format!("{} is no time", numbers[1])))?;
    let text = if micro { time::format_micro_time(at) } else { time::format_time(at) };
    Ok(Value::String(text))
}
