//! The in-memory store: the whole contract but durability, in one thread, on virtual time.
//!
//! Writes happen in the caller's own poll, so that under a paused clock the same calls give the same
//! revisions. One task per store, started with the first write or watch, lets keys expire and quiet watchers
//! hear of progress; it sleeps unless there is a deadline.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use component_base::Clock;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::mvcc::{self, Mvcc, PROGRESS_LAG, TtlClock, Version};
use crate::{
    At, Batch, Deleted, Expect, Key, Kv, Page, Put, RangeReq, Rev, StorageError, Store, Ttl,
};

/// The history that is kept unless told otherwise, in bytes of keys and values.
pub const HISTORY_BYTES: usize = 32 << 20;
/// How many keys expire in one go.
const EXPIRE_KEYS_MAX: usize = 256;

/// A store that forgets everything with the process. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    mvcc: Arc<Mvcc>,
    clock: TtlClock,
    /// One writer at a time, from the check of the precondition to the publication.
    writing: Mutex<()>,
    housekeeping: Arc<Housekeeping>,
}

#[derive(Default)]
struct Housekeeping {
    is_started: AtomicBool,
    /// Whether the task will report progress of its own accord.
    is_armed: AtomicBool,
    wake: Notify,
}

impl MemoryStore {
    /// An empty store. Its keys expire by `clock`, and by tokio's time in between.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_history(clock, HISTORY_BYTES)
    }

    /// An empty store that keeps about `history_bytes` of old keys and values.
    #[must_use]
    pub fn with_history(clock: Arc<dyn Clock>, history_bytes: usize) -> Self {
        let shared = Shared {
            mvcc: Arc::new(Mvcc::new(history_bytes)),
            clock: TtlClock::new(clock),
            writing: Mutex::new(()),
            housekeeping: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    fn start_housekeeping(&self) {
        let housekeeping = &self.shared.housekeeping;
        if !housekeeping.is_started.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep_house(Arc::downgrade(&self.shared), Arc::clone(housekeeping)));
        }
    }
}

impl Shared {
    fn put(&self, kv: NewKv, expect: Expect, expires_at_ms: u64) -> Result<Put, StorageError> {
        let _writing = self.writing.lock();
        let (previous, rev) = self.previous(&kv.key);
        mvcc::check_put(&kv.key, expect, previous.as_ref())?;
        let create_rev = previous.as_ref().map_or(rev, |previous| previous.create_rev);
        let kv = Kv { key: kv.key, value: kv.value, create_rev, mod_rev: rev };
        self.mvcc.publish([Version::put(kv, expires_at_ms)]);
        Ok(Put { rev, previous })
    }

    fn delete(&self, key: Key, expect: Expect) -> Result<Deleted, StorageError> {
        let _writing = self.writing.lock();
        let (previous, rev) = self.previous(&key);
        mvcc::check_delete(&key, expect, previous.as_ref())?;
        let Some(previous) = previous else { return Err(StorageError::NotFound { key }) };
        self.mvcc.publish([Version::delete(key, rev)]);
        Ok(Deleted { rev, previous })
    }

    /// What is there, and the revision of the next write.
    fn previous(&self, key: &Key) -> (Option<Kv>, Rev) {
        self.mvcc.inspect(|newest| {
            let previous = newest.get(key).and_then(|version| version.live().cloned());
            (previous, Rev(newest.current().0 + 1))
        })
    }

    fn expire(&self) {
        loop {
            let expired = self.mvcc.expired(self.clock.now_ms(), EXPIRE_KEYS_MAX);
            if expired.is_empty() {
                return;
            }
            for (key, rev) in expired {
                // A key that was written in the meantime lives on.
                let _ = self.delete(key, Expect::ModRev(rev));
            }
        }
    }

    fn after_write(&self, has_ttl: bool) {
        let housekeeping = &self.housekeeping;
        if !housekeeping.is_armed.swap(true, Ordering::AcqRel) || has_ttl {
            housekeeping.wake.notify_one();
        }
    }
}

struct NewKv {
    key: Key,
    value: Bytes,
}

/// Lets keys expire and reports progress, until the store is gone.
async fn keep_house(store: Weak<Shared>, housekeeping: Arc<Housekeeping>) {
    loop {
        let next = {
            let Some(shared) = store.upgrade() else { return };
            shared.expire();
            housekeeping.is_armed.store(false, Ordering::Release);
            let is_progress_due = shared.mvcc.is_progress_due();
            if is_progress_due {
                housekeeping.is_armed.store(true, Ordering::Release);
            }
            let expiry = shared.mvcc.next_expiry_ms().map(|at_ms| shared.clock.until(at_ms));
            Next { expiry, is_progress_due }
        };
        if next.is_progress_due {
            tokio::time::sleep(next.expiry.map_or(PROGRESS_LAG, |d| d.min(PROGRESS_LAG))).await;
            let Some(shared) = store.upgrade() else { return };
            shared.expire();
            shared.mvcc.report_progress();
            continue;
        }
        match next.expiry {
            Some(expiry) => {
                // Elapsed or woken: both lead to another look.
                let _ = tokio::time::timeout(expiry, housekeeping.wake.notified()).await;
            }
            None => housekeeping.wake.notified().await,
        }
    }
}

struct Next {
    expiry: Option<Duration>,
    is_progress_due: bool,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.housekeeping.wake.notify_one();
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MemoryStore").field(&self.shared.mvcc).finish()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put(
        &self,
        key: Key,
        value: Bytes,
        expect: Expect,
        ttl: Option<Ttl>,
    ) -> Result<Put, StorageError> {
        mvcc::check_sizes(&key, &value)?;
        self.start_housekeeping();
        let expires_at_ms = self.shared.clock.expires_at_ms(ttl);
        let put = self.shared.put(NewKv { key, value }, expect, expires_at_ms)?;
        self.shared.after_write(ttl.is_some());
        Ok(put)
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<Deleted, StorageError> {
        mvcc::check_sizes(&key, &[])?;
        self.start_housekeeping();
        let deleted = self.shared.delete(key, expect)?;
        self.shared.after_write(false);
        Ok(deleted)
    }

    fn get_at_once(&self, key: &Key) -> Option<Result<(Option<Kv>, Rev), StorageError>> {
        Some(self.shared.mvcc.get(key, At::Latest))
    }

    async fn get(&self, key: &Key, at: At) -> Result<(Option<Kv>, Rev), StorageError> {
        self.shared.mvcc.get(key, at)
    }

    async fn range(&self, request: RangeReq) -> Result<Page, StorageError> {
        self.shared.mvcc.range(request).await
    }

    async fn count(&self, prefix: &Key) -> Result<u64, StorageError> {
        self.shared.mvcc.count(prefix).await
    }

    fn watch(&self, prefix: Key, after: Rev) -> BoxStream<'static, Result<Batch, StorageError>> {
        self.start_housekeeping();
        self.shared.mvcc.watch(prefix, after)
    }

    async fn progress(&self) -> Result<Rev, StorageError> {
        self.shared.mvcc.progress().await
    }

    async fn progress_under(&self, prefix: &Key) -> Result<Rev, StorageError> {
        match self.shared.mvcc.progress_under(prefix)? {
            Some(rev) => Ok(rev),
            None => self.progress().await,
        }
    }

    async fn compact(&self, before: Rev) -> Result<(), StorageError> {
        self.shared.mvcc.compact(before)
    }
}
