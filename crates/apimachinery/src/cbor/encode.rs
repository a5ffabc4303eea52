//! From a value to a data item.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{MAGIC, Major, Typed, f32_to_half};
use crate::schema::Node;
use crate::value::{Object, Value};

/// A body: the data item of a value, in the tag that says what it is.
#[must_use]
pub fn to_vec(value: &Value, typed: Option<Typed<'_>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(MAGIC);
    encode(value, typed, &mut out);
    out
}

/// Appends the data item of a value. Of its type is needed what JSON does not show: which text is bytes, and which whole
/// numbers are floats.
pub fn encode(value: &Value, typed: Option<Typed<'_>>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(false) => out.push(0xf4),
        Value::Bool(true) => out.push(0xf5),
        Value::Int(number) if typed.is_some_and(|it| matches!(it.node(), Node::Float64)) => {
            #[allow(clippy::cast_precision_loss, reason = "the field is a double")]
            write_float(*number as f64, out);
        }
        Value::Int(number) => write_int(*number, out),
        Value::Float(number) => write_float(*number, out),
        Value::String(text) if typed.is_some_and(|it| matches!(it.node(), Node::Bytes)) => {
            write_base64(text, out);
        }
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            write_array_head(items.len(), out);
            let typed = typed.and_then(|it| match it.node() {
                Node::List(list) => Some(it.at(list.item)),
                Node::SchemaOrArray(node) => Some(it.at(*node)),
                _ => None,
            });
            items.iter().for_each(|item| encode(item, typed, out));
        }
        Value::Object(object) => write_object(object, typed, out),
    }
}

fn write_object(object: &Object, typed: Option<Typed<'_>>, out: &mut Vec<u8>) {
    let typed = typed.map(|it| match it.node() {
        Node::SchemaOrBool(node) | Node::SchemaOrArray(node) | Node::SchemaOrStrings(node) => {
            it.at(*node)
        }
        _ => it,
    });
    write_map_head(object.len(), out);
    // Encoded keys are compared byte by byte, and their lengths come first.
    let mut members: Vec<(&str, &Value)> = object.iter().collect();
    members.sort_by_key(|(key, _)| key.len());
    for (key, value) in members {
        write_text(key, out);
        let typed = typed.and_then(|it| match it.node() {
            Node::Struct(of) => of.field(key).map(|field| it.at(field.node)),
            Node::Map(map) => Some(it.at(map.value)),
            _ => None,
        });
        encode(value, typed, out);
    }
}

/// Appends what an array of so many elements begins with.
pub fn write_array_head(len: usize, out: &mut Vec<u8>) {
    write_head(Major::Array, len as u64, out);
}

/// Appends what a map of so many pairs begins with. They have to follow in the order of their keys' lengths, then of their bytes.
pub fn write_map_head(pairs: usize, out: &mut Vec<u8>) {
    write_head(Major::Map, pairs as u64, out);
}

/// Appends text, which upstream writes as a byte string: so nobody has to check that it is UTF-8.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    write_bytes(text.as_bytes(), out);
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_head(Major::Bytes, bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Bytes, in the tag that says that they are base64 where they are text. What is no base64 stays text.
fn write_base64(text: &str, out: &mut Vec<u8>) {
    match BASE64_STANDARD.decode(text) {
        Ok(bytes) => {
            write_head(Major::Tag, 22, out);
            write_bytes(&bytes, out);
        }
        Err(_) => write_text(text, out),
    }
}

fn write_int(number: i64, out: &mut Vec<u8>) {
    match u64::try_from(number) {
        Ok(number) => write_head(Major::Positive, number, out),
        Err(_) => write_head(Major::Negative, (!number).cast_unsigned(), out),
    }
}

/// In the fewest bytes that hold all of it.
fn write_float(number: f64, out: &mut Vec<u8>) {
    #[allow(clippy::cast_possible_truncation, reason = "it is looked at whether it was exact")]
    let single = number as f32;
    #[allow(clippy::float_cmp, reason = "exact is what is asked for")]
    if f64::from(single) != number {
        out.push(0xfb);
        out.extend_from_slice(&number.to_bits().to_be_bytes());
    } else if let Some(half) = f32_to_half(single) {
        out.push(0xf9);
        out.extend_from_slice(&half.to_be_bytes());
    } else {
        out.push(0xfa);
        out.extend_from_slice(&single.to_bits().to_be_bytes());
    }
}

/// The shortest head that says so.
#[allow(clippy::cast_possible_truncation, reason = "the arms say what fits")]
fn write_head(major: Major, value: u64, out: &mut Vec<u8>) {
    let first = (major as u8) << 5;
    match value {
        0..24 => out.push(first | value as u8),
        24..=0xff => out.extend_from_slice(&[first | 24, value as u8]),
        0x100..=0xffff => {
            out.push(first | 25);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(first | 26);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(first | 27);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

impl<'s> Typed<'s> {
    pub(super) fn node(&self) -> &'s Node {
        self.schema.node(self.node)
    }

    pub(super) fn at(self, node: crate::schema::NodeId) -> Self {
        Self { node, ..self }
    }
}
