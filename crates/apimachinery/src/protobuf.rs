//! Kubernetes' protobuf: values to messages and back, driven by the schema and a table of field numbers.
//!
//! A message says nothing of kinds: the envelope around it does ([`wrap`], [`unwrap`]). Some types have a form of their
//! own here (times, quantities, raw JSON), and structs that Go embeds are messages inside, which JSON does not show.

mod decode;
mod encode;
mod wire;

pub use decode::decode;
pub use encode::encode;
pub use wire::{ProtobufError, Reader, WireValue, write_bytes, write_len, write_tag, write_varint};

use crate::schema::NodeId;

/// What every message in an envelope begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// The field numbers of a schema's structs.
///
/// `words` holds for each struct how many fields follow, then number and place (in [`crate::schema::Struct::fields`]) of
/// each; [`INLINE`] instead of a place says that a message of the same form follows, whose fields are the struct's, and
/// [`LISTED`] beside it that a list is not repeated but a message with its items.
#[derive(Debug)]
pub struct Tags {
    /// By type: where its words begin; 0 where it is no message.
    pub at: &'static [u16],
    /// The numbers.
    pub words: &'static [u16],
}

/// Instead of a field's place: a message inside, which JSON does not show.
const INLINE: u16 = u16::MAX;
/// Beside a field's place: a list that is a message with its items, as that of an `APIResource`'s verbs.
const LISTED: u16 = 1 << 15;

/// One field of a message.
#[derive(Debug, Clone, Copy)]
enum Entry {
    Field { number: u32, place: usize },
    Listed { number: u32, place: usize },
    Inline { number: u32, fields: usize },
}

/// The fields of a message, in the order of their numbers.
struct Entries {
    words: &'static [u16],
    at: usize,
    left: u16,
}

impl Tags {
    /// Where the fields of a struct begin.
    fn fields(&self, node: NodeId) -> Option<usize> {
        match self.at.get(usize::from(node)) {
            None | Some(0) => None,
            Some(at) => Some(usize::from(*at)),
        }
    }

    fn entries(&self, fields: usize) -> Entries {
        Entries { words: self.words, at: fields + 1, left: self.words[fields] }
    }

    fn entry(&self, fields: usize, number: u32) -> Option<Entry> {
        self.entries(fields).find(|entry| match entry {
            Entry::Field { number: it, .. }
            | Entry::Listed { number: it, .. }
            | Entry::Inline { number: it, .. } => *it == number,
        })
    }
}

impl Iterator for Entries {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.left = self.left.checked_sub(1)?;
        let (number, place) = (u32::from(self.words[self.at]), self.words[self.at + 1]);
        self.at += 2;
        if place != INLINE {
            let (listed, place) = (place & LISTED != 0, usize::from(place & !LISTED));
            return Some(match listed {
                true => Entry::Listed { number, place },
                false => Entry::Field { number, place },
            });
        }
        let fields = self.at;
        self.at = end_of(self.words, fields);
        Some(Entry::Inline { number, fields })
    }
}

/// Where the words of a message end.
fn end_of(words: &[u16], fields: usize) -> usize {
    let mut at = fields + 1;
    for _ in 0..words[fields] {
        let inline = words[at + 1] == INLINE;
        at += 2;
        if inline {
            at = end_of(words, at);
        }
    }
    at
}

/// A message with its kind around it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope<'m> {
    /// `v1`, `apps/v1`
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// The message.
    pub raw: &'m [u8],
}

/// Puts kind and version around the message that `write` writes.
pub fn wrap(api_version: &str, kind: &str, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(MAGIC);
    write_len(1, out, |out| {
        write_bytes(1, api_version.as_bytes(), out);
        write_bytes(2, kind.as_bytes(), out);
    });
    write_len(2, out, write);
    // Encoding and type of the content: upstream writes both, empty.
    write_bytes(3, b"", out);
    write_bytes(4, b"", out);
}

/// Takes kind and version off.
///
/// # Errors
/// Where there is no envelope, or a broken one.
pub fn unwrap(bytes: &[u8]) -> Result<Envelope<'_>, ProtobufError> {
    if bytes.is_empty() {
        return Err(ProtobufError::Empty);
    }
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::NoEnvelope)?;
    let mut envelope = Envelope::default();
    let mut reader = Reader::new(body);
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, WireValue::Bytes(meta)) => {
                let mut reader = Reader::new(meta);
                while let Some((number, value)) = reader.field()? {
                    match (number, value) {
                        (1, WireValue::Bytes(text)) => envelope.api_version = wire::text(text)?,
                        (2, WireValue::Bytes(text)) => envelope.kind = wire::text(text)?,
                        _ => {}
                    }
                }
            }
            (2, WireValue::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}
