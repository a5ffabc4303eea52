//! The Store port: opaque bytes under keys, one global revision, watches without gaps.
//!
//! A store knows nothing of Kubernetes objects: no kind, no JSON, no labels. Values carry their own codec
//! tag and may be encrypted above this port. [`conformance`] holds what every backend must pass.

pub mod conformance;
pub mod memory;
pub mod mvcc;

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use smallvec::SmallVec;

/// The largest key, in bytes. A longer one is [`StorageError::TooLarge`].
pub const MAX_KEY_BYTES: usize = 1024;
/// The largest value, in bytes: a 3 MiB request body and what defaulting and managed fields add to it.
pub const MAX_VALUE_BYTES: usize = 8 << 20;

/// How long most keys are at most.
const USUAL_KEY_BYTES: usize = 160;

/// A key: bytes ordered as bytes, by convention `/registry/...`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<[u8]>);

impl Key {
    /// The key with these bytes.
    pub fn new(bytes: impl AsRef<[u8]>) -> Self {
        Self(bytes.as_ref().into())
    }

    /// The key that is these texts, one after the other.
    #[must_use]
    pub fn join(parts: &[&str]) -> Self {
        let mut bytes: SmallVec<[u8; USUAL_KEY_BYTES]> = SmallVec::new();
        parts.iter().for_each(|part| bytes.extend_from_slice(part.as_bytes()));
        Self::new(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the key starts with `prefix`.
    #[must_use]
    pub fn starts_with(&self, prefix: &Key) -> bool {
        self.0.starts_with(&prefix.0)
    }
}

// A key orders and compares as its bytes do, so that a map of keys can be searched by a slice.
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self(text.as_bytes().into())
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// A revision of the whole store: every write makes the next one. Never 0, never used twice, not even
/// after a crash. 0 stands for "none" in requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Rev(pub u64);

impl fmt::Display for Rev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long a key lives after its write, in whole seconds. Expiry is an ordinary delete with a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl {
    /// Seconds from the write.
    pub seconds: u32,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key exists and was last written at this revision.
    ModRev(Rev),
    /// Anything. For a delete the key must still exist.
    Any,
}

/// Which state a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest acknowledged one (linearizable).
    Latest,
    /// The state just after this revision was written.
    Exactly(Rev),
}

/// A key with its value and the revisions that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kv {
    /// The key.
    pub key: Key,
    /// Its value.
    pub value: Bytes,
    /// The revision of its creation.
    pub create_rev: Rev,
    /// The revision of its last write.
    pub mod_rev: Rev,
}

/// A successful put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// The revision of this write.
    pub rev: Rev,
    /// What was there before.
    pub previous: Option<Kv>,
}

/// A successful delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// The revision of the delete.
    pub rev: Rev,
    /// What was there before.
    pub previous: Kv,
}

/// A read of many keys, in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeReq {
    /// Only keys that start with this.
    pub prefix: Key,
    /// Only keys after this one.
    pub after: Option<Key>,
    /// At most this many; 0 means no limit.
    pub limit: usize,
    /// Leave the values empty.
    pub keys_only: bool,
    /// Which state.
    pub at: At,
}

/// One page of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The keys with their values.
    pub kvs: Vec<Kv>,
    /// The revision of the state that was read: the next page asks for exactly this one.
    pub rev: Rev,
    /// Whether more keys follow the last one.
    pub more: bool,
    /// How many keys follow the last one.
    pub remaining: u64,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Key,
    /// Its revision. Keys that expire together may share one; then their events are in one batch.
    pub rev: Rev,
    /// The new value; `None` for a delete (or an expiry).
    pub value: Option<Kv>,
    /// What was there before.
    pub previous: Option<Kv>,
}

/// Changes in revision order, or the news that there were none up to a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The changes under the watched prefix, in order; empty when the batch only reports progress.
    pub events: Vec<Event>,
    /// Every change under the prefix up to and including this revision has been delivered.
    pub progress: Rev,
}

/// What a store may answer instead.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// `Expect::Absent` on a key that exists; the current value comes along.
    #[error("key {} already exists", .current.key)]
    Exists {
        /// What is there.
        current: Box<Kv>,
    },
    /// The key does not exist.
    #[error("key {key} not found")]
    NotFound {
        /// The key asked for.
        key: Key,
    },
    /// `Expect::ModRev` on a key with another one; the current value comes along.
    #[error("key {} was modified at {}", .current.key, .current.mod_rev)]
    Conflict {
        /// What is there.
        current: Box<Kv>,
    },
    /// The revision asked for is older than what is kept.
    #[error("revision is compacted, the oldest kept is {oldest}")]
    Compacted {
        /// The oldest revision that can still be read.
        oldest: Rev,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {asked} is in the future, the current one is {current}")]
    Future {
        /// What was asked.
        asked: Rev,
        /// What is.
        current: Rev,
    },
    /// Key or value over its limit.
    #[error("{what} of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// `key` or `value`.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The request was not carried out, and may be sent again.
    #[error("store is unavailable: {0}")]
    Unavailable(String),
    /// The request may or may not have been carried out.
    #[error("outcome of the write is unknown: {0}")]
    Unknown(String),
    /// The request was not carried out and will not be: the reason in the store's own words, which a client is told.
    #[error("{0}")]
    Refused(String),
    /// What is stored cannot be read.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// A value cannot be encrypted or decrypted.
    #[error("{0}")]
    Transform(String),
}

/// How the values of keys begin that cannot be read; no other value does.
const UNREADABLE: &[u8] = b"\0unreadable\0";

/// Stands among others for a value that cannot be decrypted, so that those others can be had.
#[must_use]
pub fn unreadable(why: &str) -> Bytes {
    [UNREADABLE, why.as_bytes()].concat().into()
}

/// How the values of keys begin that say no object; no other value does.
const UNDECODABLE: &[u8] = b"\0undecodable\0";

/// Stands among others for a value that is no object, so that those others can be had.
#[must_use]
pub fn undecodable(why: &str) -> Bytes {
    [UNDECODABLE, why.as_bytes()].concat().into()
}

/// What is wrong with a value that cannot be read, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// It cannot be decrypted.
    Sealed(String),
    /// It is no object.
    Broken(String),
}

impl Kv {
    /// # Errors
    /// Where the value could not be read: why.
    pub fn readable(&self) -> Result<(), StorageError> {
        match self.damage() {
            None => Ok(()),
            Some(Damage::Sealed(why) | Damage::Broken(why)) => Err(StorageError::Transform(
                format!("unable to transform key \"{}\": {why}", self.key),
            )),
        }
    }

    /// Why the value cannot be read, where it stands for one that cannot.
    #[must_use]
    pub fn damage(&self) -> Option<Damage> {
        let text = |why| String::from_utf8_lossy(why).into_owned();
        let sealed = self.value.strip_prefix(UNREADABLE).map(|why| Damage::Sealed(text(why)));
        let broken = || self.value.strip_prefix(UNDECODABLE).map(|why| Damage::Broken(text(why)));
        sealed.or_else(broken)
    }
}

/// A store. Durable before visible, visible before acknowledged, acknowledged in revision order.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Writes one key.
    ///
    /// # Errors
    /// `Exists`, `NotFound` or `Conflict` where `expect` does not hold; `Unknown` when it may have happened.
    async fn put(
        &self,
        key: Key,
        value: Bytes,
        expect: Expect,
        ttl: Option<Ttl>,
    ) -> Result<Put, StorageError>;

    /// Deletes one key.
    ///
    /// # Errors
    /// `NotFound` or `Conflict` where `expect` does not hold; `Unknown` when it may have happened.
    async fn delete(&self, key: Key, expect: Expect) -> Result<Deleted, StorageError>;

    /// The answer of [`Store::get`] at [`At::Latest`], of a store that need not wait for it.
    fn get_at_once(&self, _key: &Key) -> Option<Result<(Option<Kv>, Rev), StorageError>> {
        None
    }

    /// Reads one key, and the revision of the state that was read.
    ///
    /// # Errors
    /// `Compacted` or `Future` for a revision that cannot be read.
    async fn get(&self, key: &Key, at: At) -> Result<(Option<Kv>, Rev), StorageError>;

    /// Reads many keys, in key order.
    ///
    /// # Errors
    /// `Compacted` or `Future` for a revision that cannot be read.
    async fn range(&self, request: RangeReq) -> Result<Page, StorageError>;

    /// How many keys start with `prefix` now.
    ///
    /// # Errors
    /// Only of the backend itself.
    async fn count(&self, prefix: &Key) -> Result<u64, StorageError>;

    /// Every change under `prefix` after a revision, without gaps or repeats, then progress on quiet
    /// prefixes. Ends with `Compacted` when the reader fell behind what is kept.
    fn watch(&self, prefix: Key, after: Rev) -> BoxStream<'static, Result<Batch, StorageError>>;

    /// A revision that is current now: a read of a cache that has reached it is linearizable.
    ///
    /// # Errors
    /// Only of the backend itself.
    async fn progress(&self) -> Result<Rev, StorageError>;

    /// A revision for consistent reads of one prefix: a cache fed by a watch of exactly this prefix is
    /// current once it has reached it. A store in the process answers with the last change under the prefix,
    /// which the cache mostly has already, where [`Self::progress`] would have every watcher report.
    ///
    /// # Errors
    /// Only of the backend itself.
    async fn progress_under(&self, _prefix: &Key) -> Result<Rev, StorageError> {
        self.progress().await
    }

    /// Whether a value that was read would be written otherwise now, though it says the same.
    ///
    /// # Errors
    /// When the value cannot be read again.
    async fn is_stale(&self, _kv: &Kv) -> Result<bool, StorageError> {
        Ok(false)
    }

    /// How many bytes it takes where it is kept; nothing where it cannot say.
    ///
    /// # Errors
    /// Only of the backend itself.
    async fn size_bytes(&self) -> Result<Option<u64>, StorageError> {
        Ok(None)
    }

    /// Forgets the history before a revision.
    ///
    /// # Errors
    /// `Future` for a revision that does not exist yet.
    async fn compact(&self, before: Rev) -> Result<(), StorageError>;
}
