//! Kubernetes' CBOR (RFC 8949): values to data items and back, as `k8s.io/apimachinery` writes and reads them.
//!
//! What is written is deterministic: shortest heads, map entries in the order of their encoded keys, shortest floats, text as
//! byte strings, no indefinite lengths, and [`MAGIC`] in front. What is read may be any well-formed data item within
//! limits; it is read into a type, whose errors are worded as upstream's decoder words them, or into no type at all.
//! Knows nothing of kinds.

mod decode;
mod encode;
#[cfg(test)]
mod tests;
mod wellformed;

pub use decode::{Unknown, decode, decode_own, kind_of, wrong_type};
pub use encode::{encode, to_vec, write_array_head, write_map_head, write_text};

use crate::schema::{NodeId, Schema};

/// Tag 55799, "self-described CBOR", which encloses every body.
pub const MAGIC: &[u8; 3] = b"\xd9\xd9\xf7";
/// How deep arrays, maps and tags may nest (upstream: `MaxNestedLevels`).
pub const DEPTH_MAX: usize = 64;
/// How many elements an array, and how many pairs a map may have (upstream: `MaxArrayElements`, `MaxMapPairs`).
pub const ELEMENTS_MAX: usize = 1024;

/// A type of a schema.
#[derive(Debug, Clone, Copy)]
pub struct Typed<'s> {
    /// Where types are.
    pub schema: &'s Schema,
    /// Which one.
    pub node: NodeId,
}

/// Why bytes are not what they should be, in the words of upstream's decoder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// There is nothing.
    #[error("EOF")]
    Empty,
    /// The bytes end too early.
    #[error("unexpected EOF")]
    UnexpectedEnd,
    /// Not well-formed, beyond a limit, or not accepted.
    #[error("cbor: {0}")]
    Refused(String),
    /// A data item that its type cannot take.
    #[error("cbor: cannot unmarshal {found} into Go {}{}", place(.field, .wanted), remark(.detail))]
    Type {
        /// What was found: `positive integer`.
        found: &'static str,
        /// The type of the field.
        wanted: String,
        /// `v1.PodSpec.hostNetwork`; empty where no field is known.
        field: String,
        /// What else there is to say; may be empty.
        detail: String,
    },
    /// A key of a map that is no field of the struct, by its place in the map.
    #[error("cbor: found unknown field at map element index {0}")]
    UnknownField(usize),
}

fn place(field: &str, wanted: &str) -> String {
    match field {
        "" => format!("value of type {wanted}"),
        field => format!("struct field {field} of type {wanted}"),
    }
}

fn remark(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(" ({text})") }
}

/// The major types, in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Major {
    Positive,
    Negative,
    Bytes,
    Text,
    Array,
    Map,
    Tag,
    Primitive,
}

impl Major {
    fn of(first: u8) -> Self {
        match first >> 5 {
            0 => Self::Positive,
            1 => Self::Negative,
            2 => Self::Bytes,
            3 => Self::Text,
            4 => Self::Array,
            5 => Self::Map,
            6 => Self::Tag,
            _ => Self::Primitive,
        }
    }

    /// What upstream's decoder calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Positive => "positive integer",
            Self::Negative => "negative integer",
            Self::Bytes => "byte string",
            Self::Text => "UTF-8 text string",
            Self::Array => "array",
            Self::Map => "map",
            Self::Tag => "tag",
            Self::Primitive => "primitives",
        }
    }
}

/// What a data item begins with.
#[derive(Debug, Clone, Copy)]
struct Head {
    major: Major,
    /// The low five bits of the first byte.
    info: u8,
    /// What the head says: the number, the length, the tag, the bits of a float.
    value: u64,
}

/// The low bits of a first byte that say that the length follows from a later break.
const INDEFINITE: u8 = 31;
/// The byte that ends what has no length.
const BREAK: u8 = 0xff;

impl Head {
    fn is_indefinite(self) -> bool {
        self.info == INDEFINITE
    }

    /// The number a float's head holds, if it is one.
    fn float(self) -> Option<f64> {
        match (self.major, self.info) {
            (Major::Primitive, 25) => {
                u16::try_from(self.value).ok().map(|bits| f64::from(half_to_f32(bits)))
            }
            (Major::Primitive, 26) => {
                u32::try_from(self.value).ok().map(|bits| f64::from(f32::from_bits(bits)))
            }
            (Major::Primitive, 27) => Some(f64::from_bits(self.value)),
            _ => None,
        }
    }
}

/// The number of a half-precision float.
fn half_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let (exponent, fraction) = (u32::from(bits >> 10) & 0x1f, u32::from(bits) & 0x3ff);
    match exponent {
        0 => {
            // A fraction of 2^-24; ten bits fit a float.
            #[allow(clippy::cast_precision_loss, reason = "ten bits are exact")]
            let size = fraction as f32 * f32::from_bits(0x3380_0000);
            f32::from_bits(size.to_bits() | sign)
        }
        31 => f32::from_bits(sign | 0x7f80_0000 | (fraction << 13)),
        _ => f32::from_bits(sign | ((exponent + 112) << 23) | (fraction << 13)),
    }
}

/// The half-precision float that is this number, if there is one.
fn f32_to_half(number: f32) -> Option<u16> {
    let bits = number.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let (exponent, fraction) = ((bits >> 23) & 0xff, bits & 0x7f_ffff);
    let half = match exponent {
        0 if fraction == 0 => sign,
        113..=142 if fraction & 0x1fff == 0 => sign | ((exponent - 112) << 10) | (fraction >> 13),
        103..=112 => {
            let (whole, shift) = (fraction | 0x80_0000, 126 - exponent);
            if whole & ((1 << shift) - 1) != 0 {
                return None;
            }
            sign | (whole >> shift)
        }
        _ => return None,
    };
    u16::try_from(half).ok()
}
