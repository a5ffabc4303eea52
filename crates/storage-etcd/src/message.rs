//! etcd's messages: `etcdserverpb` and `mvccpb`, the fields that are used.

use bytes::Bytes;
use storage::Rev;

use crate::wire::{Broken, Message, next};

/// etcd's order over all keys: from the first possible one, without an end.
pub(crate) const EVERYTHING: &[u8] = b"\0";

/// Keys from one on, up to another; a single one where there is no end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
}

impl Keys {
    pub(crate) fn one(key: &[u8]) -> Self {
        Self { from: key.to_vec(), to: Vec::new() }
    }

    /// Those that begin so; all where it is empty.
    pub(crate) fn under(prefix: &[u8]) -> Self {
        let from = if prefix.is_empty() { EVERYTHING } else { prefix };
        Self { from: from.to_vec(), to: after_prefix(prefix) }
    }

    pub(crate) fn all() -> Self {
        Self::under(b"")
    }

    /// Without those up to and including `key`.
    pub(crate) fn after(mut self, key: &[u8]) -> Self {
        let next = [key, b"\0"].concat();
        self.from = self.from.max(next);
        self
    }
}

/// The first key after all with a prefix.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff);
    let Some(last) = kept else { return EVERYTHING.to_vec() };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end
}

/// `KeyValue`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KeyValue {
    pub(crate) key: Bytes,
    pub(crate) create_rev: u64,
    pub(crate) mod_rev: u64,
    pub(crate) version: u64,
    pub(crate) value: Bytes,
}

impl KeyValue {
    fn read(mut message: Bytes) -> Result<Self, Broken> {
        let mut kv = Self::default();
        while let Some((number, field)) = next(&mut message)? {
            match number {
                1 => kv.key = field.bytes(),
                2 => kv.create_rev = field.number(),
                3 => kv.mod_rev = field.number(),
                4 => kv.version = field.number(),
                5 => kv.value = field.bytes(),
                _ => {}
            }
        }
        Ok(kv)
    }
}

/// The revision in a `ResponseHeader`.
fn header_rev(mut message: Bytes) -> Result<Rev, Broken> {
    let mut rev = Rev(0);
    while let Some((number, field)) = next(&mut message)? {
        if number == 3 {
            rev = Rev(field.number());
        }
    }
    Ok(rev)
}

/// `RangeRequest`
#[derive(Debug, Clone)]
pub(crate) struct Range {
    pub(crate) keys: Keys,
    pub(crate) limit: u64,
    /// 0 is the newest.
    pub(crate) rev: Rev,
    pub(crate) what: What,
}

/// What a range answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    All,
    Keys,
    Count,
}

impl Range {
    pub(crate) fn one(key: &[u8]) -> Self {
        Self { keys: Keys::one(key), limit: 0, rev: Rev(0), what: What::All }
    }

    pub(crate) fn encode(&self) -> Message {
        Message::default()
            .bytes(1, &self.keys.from)
            .bytes(2, &self.keys.to)
            .number(3, self.limit)
            .number(4, self.rev.0)
            .number(8, u64::from(self.what == What::Keys))
            .number(9, u64::from(self.what == What::Count))
    }
}

/// `RangeResponse`
#[derive(Debug, Clone, Default)]
pub(crate) struct Ranged {
    pub(crate) rev: Rev,
    pub(crate) kvs: Vec<KeyValue>,
    pub(crate) more: bool,
    pub(crate) count: u64,
}

impl Ranged {
    pub(crate) fn read(mut message: Bytes) -> Result<Self, Broken> {
        let mut ranged = Self::default();
        while let Some((number, field)) = next(&mut message)? {
            match number {
                1 => ranged.rev = header_rev(field.bytes())?,
                2 => ranged.kvs.push(KeyValue::read(field.bytes())?),
                3 => ranged.more = field.number() != 0,
                4 => ranged.count = field.number(),
                _ => {}
            }
        }
        Ok(ranged)
    }
}

/// `PutRequest`, which answers with what was there.
pub(crate) fn put(key: &[u8], value: &[u8], lease: u64) -> Message {
    Message::default().bytes(1, key).bytes(2, value).number(3, lease).number(4, 1)
}

/// `DeleteRangeRequest` of one key, which answers with what was there.
pub(crate) fn delete(key: &[u8]) -> Message {
    Message::default().bytes(1, key).number(3, 1)
}

/// What was there before a write: of `PutResponse`, or of `DeleteRangeResponse`, where it is the third field.
#[derive(Debug, Clone, Default)]
pub(crate) struct Written {
    pub(crate) rev: Rev,
    pub(crate) previous: Option<KeyValue>,
}

impl Written {
    pub(crate) fn of_put(message: Bytes) -> Result<Self, Broken> {
        Self::read(message, 2)
    }

    pub(crate) fn of_delete(message: Bytes) -> Result<Self, Broken> {
        Self::read(message, 3)
    }

    fn read(mut message: Bytes, previous: u32) -> Result<Self, Broken> {
        let mut written = Self::default();
        while let Some((number, field)) = next(&mut message)? {
            if number == 1 {
                written.rev = header_rev(field.bytes())?;
            } else if number == previous {
                written.previous = Some(KeyValue::read(field.bytes())?);
            }
        }
        Ok(written)
    }
}

/// What a transaction compares.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Compare {
    /// 0: the key does not exist.
    ModRev(Rev),
    /// How often the key was written.
    Version(u64),
}

/// The request of one step of a transaction.
#[derive(Debug)]
pub(crate) enum Step {
    Range(Message),
    Put(Message),
    Delete(Message),
}

impl Step {
    fn encode(&self) -> Message {
        let (number, message) = match self {
            Self::Range(message) => (1, message),
            Self::Put(message) => (2, message),
            Self::Delete(message) => (3, message),
        };
        Message::default().message(number, message)
    }
}

/// `TxnRequest`: one step where a key is as expected, another one where it is not.
pub(crate) fn transaction(key: &[u8], compare: Compare, then: &Step, otherwise: &Step) -> Message {
    let (target, number, value) = match compare {
        Compare::Version(version) => (0, 4, version),
        Compare::ModRev(rev) => (2, 6, rev.0),
    };
    let compare = Message::default().number(2, target).bytes(3, key).present_number(number, value);
    Message::default()
        .message(1, &compare)
        .message(2, &then.encode())
        .message(3, &otherwise.encode())
}

/// `TxnResponse` of one step.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transacted {
    pub(crate) rev: Rev,
    pub(crate) succeeded: bool,
    /// The answer of the step that was taken.
    pub(crate) answer: Bytes,
}

impl Transacted {
    pub(crate) fn read(mut message: Bytes) -> Result<Self, Broken> {
        let mut transacted = Self::default();
        while let Some((number, field)) = next(&mut message)? {
            match number {
                1 => transacted.rev = header_rev(field.bytes())?,
                2 => transacted.succeeded = field.number() != 0,
                3 => {
                    let mut answer = field.bytes();
                    if let Some((1..=3, field)) = next(&mut answer)? {
                        transacted.answer = field.bytes();
                    }
                }
                _ => {}
            }
        }
        Ok(transacted)
    }
}

/// `CompactionRequest`
pub(crate) fn compaction(before: Rev) -> Message {
    Message::default().number(1, before.0)
}

/// `LeaseGrantRequest`
pub(crate) fn lease(seconds: u64) -> Message {
    Message::default().number(1, seconds)
}

/// `LeaseGrantResponse`
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Granted {
    pub(crate) id: u64,
    pub(crate) seconds: u64,
}

impl Granted {
    pub(crate) fn read(mut message: Bytes) -> Result<Self, Broken> {
        let mut granted = Self::default();
        while let Some((number, field)) = next(&mut message)? {
            match number {
                2 => granted.id = field.number(),
                3 => granted.seconds = field.number(),
                _ => {}
            }
        }
        Ok(granted)
    }
}

/// The version in a `StatusResponse`: `3.5.13`.
pub(crate) fn status_version(mut message: Bytes) -> Result<String, Broken> {
    let mut version = String::new();
    while let Some((number, field)) = next(&mut message)? {
        if number == 2 {
            version = String::from_utf8_lossy(&field.bytes()).into_owned();
        }
    }
    Ok(version)
}

/// How many bytes the database has, in a `StatusResponse`.
pub(crate) fn status_size(mut message: Bytes) -> Result<u64, Broken> {
    let mut size = 0;
    while let Some((number, field)) = next(&mut message)? {
        if number == 3 {
            size = field.number();
        }
    }
    Ok(size)
}

/// `WatchRequest` that begins a watch with the changes of revision `from`.
pub(crate) fn watch(keys: &Keys, from: Rev) -> Message {
    let create = Message::default()
        .bytes(1, &keys.from)
        .bytes(2, &keys.to)
        .number(3, from.0.max(1))
        // With previous values, and in pieces where it is much.
        .number(6, 1)
        .number(8, 1);
    Message::default().message(1, &create)
}

/// `WatchRequest` that asks how far all watches of a stream are.
pub(crate) fn ask_progress() -> Message {
    Message::default().message(3, &Message::default())
}

/// One change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) is_delete: bool,
    pub(crate) kv: KeyValue,
    pub(crate) previous: Option<KeyValue>,
}

impl Change {
    fn read(mut message: Bytes) -> Result<Self, Broken> {
        let mut change = Self::default();
        while let Some((number, field)) = next(&mut message)? {
            match number {
                1 => change.is_delete = field.number() == 1,
                2 => change.kv = KeyValue::read(field.bytes())?,
                3 => change.previous = Some(KeyValue::read(field.bytes())?),
                _ => {}
            }
        }
        Ok(change)
    }
}

/// `WatchResponse`
#[derive(Debug, Clone, Default)]
pub(crate) struct Watched {
    pub(crate) rev: Rev,
    pub(crate) is_created: bool,
    pub(crate) is_canceled: bool,
    /// The oldest revision that is kept, where the watch is behind it.
    pub(crate) compact_rev: Rev,
    pub(crate) cancel_reason: String,
    /// More of the same follows.
    pub(crate) is_fragment: bool,
    pub(crate) changes: Vec<Change>,
}

impl Watched {
    pub(crate) fn read(mut message: Bytes) -> Result<Self, Broken> {
        let mut watched = Self::default();
        while let Some((number, field)) = next(&mut message)? {
            match number {
                1 => watched.rev = header_rev(field.bytes())?,
                3 => watched.is_created = field.number() != 0,
                4 => watched.is_canceled = field.number() != 0,
                5 => watched.compact_rev = Rev(field.number()),
                6 => watched.cancel_reason = String::from_utf8_lossy(&field.bytes()).into_owned(),
                7 => watched.is_fragment = field.number() != 0,
                11 => watched.changes.push(Change::read(field.bytes())?),
                _ => {}
            }
        }
        Ok(watched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_the_next_one_begins() {
        let cases: [(&[u8], &[u8], &[u8]); 5] = [
            (b"/a/", b"/a/", b"/a0"),
            (b"", b"\0", b"\0"),
            (b"a\xff", b"a\xff", b"b"),
            (b"\xff\xff", b"\xff\xff", b"\0"),
            (b"a", b"a", b"b"),
        ];
        for (prefix, from, to) in cases {
            let expected = Keys { from: from.to_vec(), to: to.to_vec() };
            assert_eq!(Keys::under(prefix), expected, "{prefix:?}");
        }
        assert_eq!(Keys::under(b"/a/").after(b"/a/x").from, b"/a/x\0");
        assert_eq!(Keys::under(b"/b/").after(b"/a/x").from, b"/b/");
    }
}
