//! What a writer knows of the bytes it stores, for the task that gets them back from the store.
//!
//! A writer has the object as a value; the hub gets only bytes, and would decode each of them again for the few facts that
//! reads select by, as would those in this process who follow the changes.

use std::collections::BTreeMap;

use apimachinery::Value;
use apimachinery::obj::Facts;
use bytes::Bytes;
use parking_lot::Mutex;

/// How many writes are remembered. There are never as many in flight; the rest is what never came back.
const MAX_NOTED: usize = 4096;
/// How many bytes of them are held.
const MAX_NOTED_BYTES: usize = 8 << 20;

/// What is known of bytes.
#[derive(Debug, PartialEq)]
pub(crate) struct Note {
    /// What reads select by.
    pub(crate) facts: Facts,
    /// What was encoded.
    pub(crate) value: Value,
}

/// Notes by the address of the bytes they are of. Those bytes are held, so the address stays theirs.
#[derive(Debug, Default)]
pub(crate) struct Noted(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    by_address: BTreeMap<usize, (Bytes, Note)>,
    size: usize,
}

impl Noted {
    /// Remembers what is known of bytes that are about to be stored.
    pub(crate) fn add(&self, bytes: &Bytes, note: Note) {
        let mut noted = self.0.lock();
        if noted.by_address.len() >= MAX_NOTED || noted.size + bytes.len() > MAX_NOTED_BYTES {
            // Forgetting costs a decoding, no more.
            *noted = State::default();
        }
        noted.size += bytes.len();
        noted.by_address.insert(bytes.as_ptr().addr(), (bytes.clone(), note));
    }

    /// What is known of these very bytes, once.
    pub(crate) fn take(&self, bytes: &Bytes) -> Option<Note> {
        let mut noted = self.0.lock();
        let (written, note) = noted.by_address.remove(&bytes.as_ptr().addr())?;
        noted.size = noted.size.saturating_sub(written.len());
        (written.len() == bytes.len()).then_some(note)
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::{obj, value};

    use super::*;

    #[test]
    fn facts_are_known_of_the_very_bytes_only_and_once() {
        let noted = Noted::default();
        let bytes = Bytes::from(vec![b'x'; 8]);
        let note = |name: &str| Note {
            facts: obj::facts(&value!({"metadata": {"name": name}}), &[]),
            value: Value::Null,
        };
        noted.add(&bytes, note("a"));
        assert_eq!(noted.take(&Bytes::from(vec![b'x'; 8])), None, "equal, but others");
        assert_eq!(noted.take(&bytes.clone()), Some(note("a")));
        assert_eq!(noted.take(&bytes), None);
        noted.add(&bytes, note("b"));
        assert_eq!(noted.take(&bytes.slice(..4)), None, "a part of them");
    }

    #[test]
    fn what_never_comes_back_is_forgotten() {
        let noted = Noted::default();
        let all: Vec<Bytes> = (0..=MAX_NOTED).map(|it| Bytes::from(it.to_string())).collect();
        let add = |bytes: &Bytes| {
            noted.add(bytes, Note { facts: Facts::default(), value: Value::Null });
        };
        all.iter().for_each(add);
        assert_eq!(noted.0.lock().by_address.len(), 1);
        let large = Bytes::from(vec![b'x'; MAX_NOTED_BYTES]);
        add(&large);
        assert_eq!(noted.0.lock().by_address.len(), 1);
        assert!(noted.take(&large).is_some());
        assert_eq!(noted.0.lock().size, 0);
    }
}
