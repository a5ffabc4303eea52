//! The bytes of protobuf: tags, varints, lengths. Knows no types of Kubernetes.

/// Bytes that are not a message of the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// There are no bytes.
    #[error("empty data")]
    Empty,
    /// The first bytes are not those of an envelope.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    NoEnvelope,
    /// The bytes end inside of a field.
    #[error("unexpected EOF")]
    Eof,
    /// A number longer than ten bytes.
    #[error("proto: integer overflow")]
    Overflow,
    /// A tag with the number 0.
    #[error("proto: illegal tag {0} (wire type {1})")]
    Tag(u64, u8),
    /// A group, or a wire type that does not exist.
    #[error("proto: wiretype end group for non-group")]
    Group,
    /// A field in another form than its type has.
    #[error("proto: wrong wireType = {found} for field {field}")]
    Form {
        /// The form found.
        found: u8,
        /// The JSON name of the field.
        field: String,
    },
    /// Text that is not UTF-8.
    #[error("string field contains invalid UTF-8")]
    Utf8,
    /// Raw JSON inside that is not JSON.
    #[error("{0}")]
    Json(String),
    /// Messages inside of messages beyond the limit.
    #[error("proto: exceeded maximum nesting depth")]
    Depth,
    /// A time or duration beyond what can be told.
    #[error("{0}")]
    Range(String),
}

/// The value of a field as it is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireValue<'m> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'m [u8]),
    /// Wire type 5.
    Fixed32(u32),
}

impl WireValue<'_> {
    pub(super) fn wire_type(self) -> u8 {
        match self {
            Self::Varint(_) => 0,
            Self::Fixed64(_) => 1,
            Self::Bytes(_) => 2,
            Self::Fixed32(_) => 5,
        }
    }
}

/// Reads the fields of a message one by one.
#[derive(Debug)]
pub struct Reader<'m> {
    rest: &'m [u8],
}

impl<'m> Reader<'m> {
    /// A reader of a message.
    #[must_use]
    pub fn new(message: &'m [u8]) -> Self {
        Self { rest: message }
    }

    /// The number and value of the next field; `None` at the end.
    ///
    /// # Errors
    /// Where the bytes are no field.
    pub fn field(&mut self) -> Result<Option<(u32, WireValue<'m>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let form = u8::try_from(tag & 7).unwrap_or_default();
        let number = u32::try_from(tag >> 3).unwrap_or_default();
        if number == 0 {
            return Err(ProtobufError::Tag(tag >> 3, form));
        }
        let value = match form {
            0 => WireValue::Varint(self.varint()?),
            1 => WireValue::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Eof)?;
                WireValue::Bytes(self.take(len)?)
            }
            5 => WireValue::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(ProtobufError::Group),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0_u64;
        for (index, byte) in self.rest.iter().enumerate() {
            if index == 10 {
                return Err(ProtobufError::Overflow);
            }
            value |= u64::from(byte & 0x7f) << (7 * index).min(63);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(ProtobufError::Eof)
    }

    fn take(&mut self, len: usize) -> Result<&'m [u8], ProtobufError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(ProtobufError::Eof)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| ProtobufError::Eof)
    }
}

pub(super) fn text(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Utf8)
}

/// Writes a number seven bits a byte.
pub fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Writes a field's number and wire type.
pub fn write_tag(number: u32, wire_type: u8, out: &mut Vec<u8>) {
    write_varint(u64::from(number) << 3 | u64::from(wire_type), out);
}

/// Writes a field of text or bytes.
pub fn write_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    write_tag(number, 2, out);
    write_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Writes a field whose content `write` writes, with its length in front.
pub fn write_len(number: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    write_tag(number, 2, out);
    let start = out.len();
    // Most messages are shorter than 128 bytes: their length takes the one byte that is kept free.
    out.push(0);
    write(out);
    let len = out.len() - start - 1;
    if let Ok(short) = u8::try_from(len)
        && short < 0x80
    {
        out[start] = short;
        return;
    }
    let mut prefix = Vec::with_capacity(10);
    write_varint(len as u64, &mut prefix);
    out.splice(start..=start, prefix);
}
