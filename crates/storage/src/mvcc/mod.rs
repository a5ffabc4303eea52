//! What every in-process backend is made of: versions of keys, a log with watchers, behind one lock.
//!
//! A backend decides and makes durable; then it publishes here, in revision order. Reads and watches see
//! only what was published. Knows nothing of files, and starts no task or thread.

mod groups;
mod state;
mod ttl;
mod waiting;
mod watch;

use std::fmt;
use std::sync::{Arc, OnceLock};

use futures::stream::BoxStream;
use parking_lot::{Mutex, RwLock};

pub use self::state::{EMPTY_REV, Version};
use self::state::{State, Window};
pub use self::ttl::TtlClock;
pub use self::waiting::PROGRESS_LAG;
use self::waiting::{Pins, Waiting, wake};
use self::watch::Watch;
use crate::{
    At, Batch, Expect, Key, Kv, MAX_KEY_BYTES, MAX_VALUE_BYTES, Page, RangeReq, Rev, StorageError,
};

/// How many keys a long read looks at before it lets others have the lock.
const SCAN_KEYS_MAX: usize = 1024;
/// How many log entries a compaction forgets before it lets others have the lock.
const COMPACT_WRITES_MAX: usize = 1024;

/// The published state of a store.
pub struct Mvcc {
    state: RwLock<State>,
    waiting: Mutex<Waiting>,
    pins: Mutex<Pins>,
    failure: OnceLock<String>,
}

/// A revision that stays readable while this is held.
#[derive(Debug)]
pub struct Pin {
    mvcc: Arc<Mvcc>,
    rev: Rev,
}

impl Mvcc {
    /// An empty state whose log keeps about `log_bytes_max` bytes of keys and values.
    #[must_use]
    pub fn new(log_bytes_max: usize) -> Self {
        Self {
            state: RwLock::new(State::new(log_bytes_max)),
            waiting: Mutex::default(),
            pins: Mutex::default(),
            failure: OnceLock::new(),
        }
    }

    /// The revision of the newest published write.
    pub fn current(&self) -> Rev {
        self.state.read().current()
    }

    /// The oldest revision that can be read.
    pub fn oldest(&self) -> Rev {
        self.state.read().oldest()
    }

    /// How many keys there are, and the bytes of them with their values.
    pub fn live(&self) -> Live {
        let state = self.state.read();
        Live { keys: state.live_keys(), bytes: state.live_bytes() }
    }

    /// Runs `decide` on the newest published versions: what a writer checks preconditions against.
    pub fn inspect<T>(&self, decide: impl FnOnce(&Newest<'_>) -> T) -> T {
        decide(&Newest(&self.state.read()))
    }

    /// Makes writes visible, in revision order, and wakes those who watch them.
    pub fn publish(&self, versions: impl IntoIterator<Item = Arc<Version>>) {
        let mut woken = Vec::new();
        let forgotten = {
            let mut state = self.state.write();
            state.begin_publication();
            let mut writes = 0;
            for version in versions {
                state.apply(version, &mut woken);
                writes += 1;
            }
            let forgotten = state.evict(writes, self.pins.lock().oldest());
            state.trim_groups(&woken);
            forgotten
        };
        if !woken.is_empty() {
            let wakers = self.waiting.lock().take(&woken);
            wake(wakers);
        }
        drop(forgotten);
    }

    /// Takes in a snapshot's versions, before anything is published.
    pub fn restore(&self, versions: impl IntoIterator<Item = Arc<Version>>, rev: Rev) {
        let mut state = self.state.write();
        for version in versions {
            state.restore(version);
        }
        state.restored_to(rev);
    }

    /// Ends the store: every later call and every watch gets this reason.
    pub fn fail(&self, reason: String) {
        let _ = self.failure.set(reason);
        self.report_progress();
    }

    /// Whether the store still works.
    ///
    /// # Errors
    /// `Unavailable` once [`Self::fail`] was called.
    pub fn check_alive(&self) -> Result<(), StorageError> {
        match self.failure.get() {
            Some(reason) => Err(StorageError::Unavailable(reason.clone())),
            None => Ok(()),
        }
    }

    /// [`crate::Store::get`].
    ///
    /// # Errors
    /// `Compacted`, `Future`, and `Unavailable` once the store has failed.
    pub fn get(&self, key: &Key, at: At) -> Result<(Option<Kv>, Rev), StorageError> {
        self.check_alive()?;
        let state = self.state.read();
        let rev = resolve(&state, at)?;
        let version = state.get_at(key.as_bytes(), rev);
        Ok((version.and_then(|version| version.live().cloned()), rev))
    }

    /// [`crate::Store::range`]. A long one lets other tasks and the writer in between.
    ///
    /// # Errors
    /// `Compacted`, `Future`, and `Unavailable` once the store has failed.
    pub async fn range(self: &Arc<Self>, request: RangeReq) -> Result<Page, StorageError> {
        self.check_alive()?;
        let pin = self.pin(request.at)?;
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        let mut kvs = Vec::new();
        let mut remaining = 0;
        let mut after = request.after;
        loop {
            after = pin.scan(&request.prefix, after.as_ref(), |version| {
                if kvs.len() == limit {
                    remaining += 1;
                } else if let Some(kv) = version.live() {
                    kvs.push(if request.keys_only { without_value(kv) } else { kv.clone() });
                }
            })?;
            if after.is_none() {
                return Ok(Page { kvs, rev: pin.rev, more: remaining > 0, remaining });
            }
            tokio::task::yield_now().await;
        }
    }

    /// [`crate::Store::count`].
    ///
    /// # Errors
    /// `Unavailable` once the store has failed.
    pub async fn count(self: &Arc<Self>, prefix: &Key) -> Result<u64, StorageError> {
        self.check_alive()?;
        let pin = self.pin(At::Latest)?;
        let mut count = 0;
        let mut after = None;
        loop {
            after = pin.scan(prefix, after.as_ref(), |_| count += 1)?;
            if after.is_none() {
                return Ok(count);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Keeps a revision readable.
    ///
    /// # Errors
    /// `Compacted` or `Future` where it is not.
    pub fn pin(self: &Arc<Self>, at: At) -> Result<Pin, StorageError> {
        // The state's lock is held until the pin is in place, so that no eviction comes in between.
        let state = self.state.read();
        let rev = resolve(&state, at)?;
        self.pins.lock().add(rev);
        Ok(Pin { mvcc: Arc::clone(self), rev })
    }

    /// [`crate::Store::watch`].
    pub fn watch(
        self: &Arc<Self>,
        prefix: Key,
        after: Rev,
    ) -> BoxStream<'static, Result<Batch, StorageError>> {
        Box::pin(Watch::new(Arc::clone(self), prefix, after))
    }

    /// [`crate::Store::progress`]: asks every watcher to report how far it is.
    ///
    /// # Errors
    /// `Unavailable` once the store has failed.
    pub async fn progress(&self) -> Result<Rev, StorageError> {
        self.check_alive()?;
        let current = self.current();
        loop {
            let told = self.waiting.lock().tell_now(current);
            match told {
                Ok(wakers) => {
                    wake(wakers);
                    return Ok(current);
                }
                Err(until) => tokio::time::sleep_until(until).await,
            }
        }
    }

    /// [`crate::Store::progress_under`].
    ///
    /// # Errors
    /// `Unavailable` once the store has failed.
    pub fn progress_under(&self, prefix: &Key) -> Result<Option<Rev>, StorageError> {
        self.check_alive()?;
        Ok(self.state.read().changed_under(prefix))
    }

    /// Whether watchers of quiet prefixes have not heard of the newest revision.
    pub fn is_progress_due(&self) -> bool {
        let current = self.current();
        self.waiting.lock().is_behind(current)
    }

    /// Lets every watcher report how far it is. A backend calls this [`PROGRESS_LAG`] after a write.
    pub fn report_progress(&self) {
        let current = self.current();
        let wakers = self.waiting.lock().begin_round(current);
        wake(wakers);
    }

    /// [`crate::Store::compact`].
    ///
    /// # Errors
    /// `Future` for a revision that does not exist yet.
    pub fn compact(&self, before: Rev) -> Result<(), StorageError> {
        {
            let mut state = self.state.write();
            if before > state.current() {
                return Err(StorageError::Future { asked: before, current: state.current() });
            }
            state.compact(before);
        }
        loop {
            let forgotten = self.state.write().evict(COMPACT_WRITES_MAX, self.pins.lock().oldest());
            if forgotten.is_empty() {
                return Ok(());
            }
        }
    }

    /// When the next key expires, in milliseconds of wall time since 1970.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.state.read().next_expiry_ms()
    }

    /// The keys whose time has come, at most `keys_max`, each with the revision it must still have when it
    /// is deleted.
    pub fn expired(&self, now_ms: u64, keys_max: usize) -> Vec<(Key, Rev)> {
        self.state.read().expired(now_ms, keys_max)
    }
}

impl fmt::Debug for Mvcc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (current, live) = (self.current(), self.live());
        f.debug_struct("Mvcc")
            .field("current", &current)
            .field("live", &live)
            .finish_non_exhaustive()
    }
}

impl Pin {
    /// The revision that stays readable.
    #[must_use]
    pub fn rev(&self) -> Rev {
        self.rev
    }

    /// Visits some of the live versions under `prefix` after `after`, in key order. Returns the key to go on
    /// after, or `None` at the end.
    ///
    /// # Errors
    /// `Compacted` when the log outgrew what a pin may hold.
    pub fn scan(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        visit: impl FnMut(&Arc<Version>),
    ) -> Result<Option<Key>, StorageError> {
        let state = self.mvcc.state.read();
        if state.kept_from() > self.rev {
            return Err(StorageError::Compacted { oldest: state.oldest() });
        }
        Ok(state.scan(&Window { prefix, after, rev: self.rev }, SCAN_KEYS_MAX, visit))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.mvcc.pins.lock().remove(self.rev);
    }
}

/// How much is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Keys.
    pub keys: usize,
    /// Bytes of keys and values.
    pub bytes: usize,
}

/// The newest published versions.
#[derive(Debug)]
pub struct Newest<'a>(&'a State);

impl Newest<'_> {
    /// The newest version of `key`: a delete counts as none.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<Version>> {
        self.0.newest(key.as_bytes()).filter(|version| version.live().is_some())
    }

    /// The revision of the newest write.
    #[must_use]
    pub fn current(&self) -> Rev {
        self.0.current()
    }
}

fn resolve(state: &State, at: At) -> Result<Rev, StorageError> {
    match at {
        At::Latest => Ok(state.current()),
        At::Exactly(rev) => state.check_readable(rev).map(|()| rev),
    }
}

fn without_value(kv: &Kv) -> Kv {
    Kv { key: kv.key.clone(), value: bytes::Bytes::new(), ..*kv }
}

/// Whether a put may happen where `current` is what is there.
///
/// # Errors
/// `Exists`, `NotFound` or `Conflict`.
pub fn check_put(key: &Key, expect: Expect, current: Option<&Kv>) -> Result<(), StorageError> {
    match (expect, current) {
        (Expect::Any, _) | (Expect::Absent, None) => Ok(()),
        (Expect::Absent, Some(current)) => Err(exists(current)),
        (Expect::ModRev(rev), Some(current)) => check_mod_rev(rev, current),
        (Expect::ModRev(_), None) => Err(StorageError::NotFound { key: key.clone() }),
    }
}

/// Whether a delete may happen where `current` is what is there.
///
/// # Errors
/// `Exists`, `NotFound` or `Conflict`.
pub fn check_delete(key: &Key, expect: Expect, current: Option<&Kv>) -> Result<(), StorageError> {
    match (expect, current) {
        (_, None) => Err(StorageError::NotFound { key: key.clone() }),
        (Expect::Any, Some(_)) => Ok(()),
        (Expect::Absent, Some(current)) => Err(exists(current)),
        (Expect::ModRev(rev), Some(current)) => check_mod_rev(rev, current),
    }
}

fn exists(current: &Kv) -> StorageError {
    StorageError::Exists { current: Box::new(current.clone()) }
}

fn check_mod_rev(rev: Rev, current: &Kv) -> Result<(), StorageError> {
    if current.mod_rev == rev {
        return Ok(());
    }
    Err(StorageError::Conflict { current: Box::new(current.clone()) })
}

/// Whether key and value are within their limits.
///
/// # Errors
/// `TooLarge`.
pub fn check_sizes(key: &Key, value: &[u8]) -> Result<(), StorageError> {
    let sizes =
        [("key", key.as_bytes().len(), MAX_KEY_BYTES), ("value", value.len(), MAX_VALUE_BYTES)];
    for (what, bytes, limit) in sizes {
        if bytes > limit {
            return Err(StorageError::TooLarge { what, bytes, limit });
        }
    }
    Ok(())
}
