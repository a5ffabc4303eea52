//! Protobuf's wire format, as far as etcd's messages need it: numbers and bytes. What is read shares the answer's memory.

use bytes::{Buf as _, Bytes};

/// A message cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no message of etcd's")]
pub(crate) struct Broken;

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    Number(u64),
    Bytes(Bytes),
    /// Of fixed size: none that is read here.
    Other,
}

impl Field {
    /// etcd's `int64` and `bool`; 0 where it is something else, as protobuf's readers do.
    pub(crate) fn number(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Bytes(_) | Self::Other => 0,
        }
    }

    pub(crate) fn bytes(self) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(_) | Self::Other => Bytes::new(),
        }
    }
}

/// The next field of a message, taken off it.
pub(crate) fn next(message: &mut Bytes) -> Result<Option<(u32, Field)>, Broken> {
    if message.is_empty() {
        return Ok(None);
    }
    let tag = varint(message)?;
    let number = u32::try_from(tag >> 3).map_err(|_| Broken)?;
    let field = match tag & 7 {
        0 => Field::Number(varint(message)?),
        1 => skip(message, 8)?,
        2 => {
            let length = usize::try_from(varint(message)?).map_err(|_| Broken)?;
            if length > message.len() {
                return Err(Broken);
            }
            Field::Bytes(message.split_to(length))
        }
        5 => skip(message, 4)?,
        _ => return Err(Broken),
    };
    Ok(Some((number, field)))
}

fn skip(message: &mut Bytes, count: usize) -> Result<Field, Broken> {
    if count > message.len() {
        return Err(Broken);
    }
    message.advance(count);
    Ok(Field::Other)
}

fn varint(message: &mut Bytes) -> Result<u64, Broken> {
    let mut value = 0;
    for (at, byte) in message.iter().enumerate().take(10) {
        value |=
            u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(at).unwrap_or(64)).unwrap_or(0);
        if byte & 0x80 == 0 {
            message.advance(at + 1);
            return Ok(value);
        }
    }
    Err(Broken)
}

/// A message being written.
#[derive(Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// Nothing is written for 0, protobuf's default.
    pub(crate) fn number(self, number: u32, value: u64) -> Self {
        if value == 0 { self } else { self.present_number(number, value) }
    }

    /// Written even where it is 0: a case of a choice.
    pub(crate) fn present_number(mut self, number: u32, value: u64) -> Self {
        self.varint(u64::from(number) << 3);
        self.varint(value);
        self
    }

    /// Nothing is written where there are none.
    pub(crate) fn bytes(self, number: u32, bytes: &[u8]) -> Self {
        if bytes.is_empty() { self } else { self.present_bytes(number, bytes) }
    }

    pub(crate) fn message(self, number: u32, message: &Message) -> Self {
        self.present_bytes(number, &message.0)
    }

    fn present_bytes(mut self, number: u32, bytes: &[u8]) -> Self {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let inner = Message::default().number(1, 300);
        let message = Message::default()
            .number(1, 0)
            .present_number(2, 0)
            .bytes(3, b"")
            .bytes(4, b"abc")
            .message(5, &inner)
            .number(6, u64::MAX);
        let mut bytes = Bytes::copy_from_slice(message.as_bytes());
        let mut fields = Vec::new();
        while let Some(field) = next(&mut bytes).unwrap() {
            fields.push(field);
        }
        let expected = [
            (2, Field::Number(0)),
            (4, Field::Bytes("abc".into())),
            (5, Field::Bytes(Bytes::from_static(b"\x08\xac\x02"))),
            (6, Field::Number(u64::MAX)),
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn broken_messages_are_errors() {
        let broken: [&[u8]; 6] =
            [b"\x0a\x05abc", b"\xff", b"\x08", b"\x0b", b"\x09abc", &[0xff; 11]];
        for bytes in broken {
            let mut bytes = Bytes::copy_from_slice(bytes);
            assert_eq!(next(&mut bytes), Err(Broken), "{bytes:?}");
        }
    }
}
