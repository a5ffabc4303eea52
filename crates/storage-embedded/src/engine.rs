//! One batch at a time: check preconditions, assign revisions, make durable, publish; then answer.
//!
//! Runs in the caller's thread and waits for nothing but the disk, so that a test can drive it step by step
//! under a simulated file system.

use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashTable;
use rustc_hash::FxHasher;
use storage::mvcc::{self, Mvcc, Newest, TtlClock, Version};
use storage::{Deleted, Expect, Key, Kv, Put, Rev, StorageError, Ttl};

use crate::format::{FrameBuilder, FrameFacts};
use crate::log::{AppendError, Appended, Log, Revs};
use crate::maintenance::{Maintenance, Wanted};

/// How many writes share one sync. Also how far revisions jump at a start, so that no number that a lost
/// write may have had is given again.
pub const BATCH_WRITES_MAX: usize = 1024;
/// How many bytes of keys and values share one sync, unless one value is larger.
pub const BATCH_BYTES_MAX: usize = 4 << 20;

/// A write that waits for its turn.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) op: Op,
    /// Who waits for the answer; nobody for an expiry.
    pub(crate) reply: Option<tokio::sync::oneshot::Sender<Result<Answer, StorageError>>>,
}

#[derive(Debug)]
pub(crate) enum Op {
    Put { key: Key, value: Bytes, expect: Expect, ttl: Option<Ttl> },
    Delete { key: Key, expect: Expect },
    Compact { before: Rev },
}

/// What a write is answered with.
#[derive(Debug)]
pub(crate) enum Answer {
    Put(Put),
    Deleted(Deleted),
    Compacted,
}

impl Op {
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Op::Put { key, value, .. } => key.as_bytes().len() + value.len(),
            Op::Delete { key, .. } => key.as_bytes().len(),
            Op::Compact { .. } => 0,
        }
    }
}

/// The disk failed in a way that leaves its contents unknown.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Fatal(pub(crate) String);

/// Where writes become durable and visible.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) mvcc: Arc<Mvcc>,
    log: Log,
    clock: TtlClock,
    maintenance: Arc<Maintenance>,
    revs: Revs,
    compacted: Rev,
    log_bytes: u64,
    snapshot_log_bytes: u64,
    frame: FrameBuilder,
    batch: Batch,
}

/// What an engine begins with.
pub(crate) struct EngineParts {
    pub(crate) mvcc: Arc<Mvcc>,
    pub(crate) log: Log,
    pub(crate) clock: TtlClock,
    pub(crate) maintenance: Arc<Maintenance>,
    pub(crate) revs: Revs,
    pub(crate) compacted: Rev,
    pub(crate) log_bytes: u64,
    pub(crate) snapshot_log_bytes: u64,
}

/// The batch in hand.
#[derive(Debug, Default)]
struct Batch {
    versions: Vec<Arc<Version>>,
    /// The place in `versions` of the newest write of each key.
    by_key: HashTable<usize>,
    answers: Vec<Pending>,
    compact: Option<Rev>,
}

#[derive(Debug)]
struct Pending {
    reply: Option<tokio::sync::oneshot::Sender<Result<Answer, StorageError>>>,
    answer: Result<Answer, StorageError>,
    /// Whether the answer is only true once the batch is durable.
    needs_batch: bool,
}

impl Engine {
    pub(crate) fn new(parts: EngineParts) -> Self {
        let EngineParts { mvcc, log, clock, maintenance, revs, compacted, .. } = parts;
        let EngineParts { log_bytes, snapshot_log_bytes, .. } = parts;
        Self {
            mvcc,
            log,
            clock,
            maintenance,
            revs,
            compacted,
            log_bytes,
            snapshot_log_bytes,
            frame: FrameBuilder::default(),
            batch: Batch::default(),
        }
    }

    /// Carries out requests, in order, with one sync, and answers them all.
    ///
    /// At most [`BATCH_WRITES_MAX`] requests: the caller cuts.
    pub(crate) fn commit(&mut self, requests: impl Iterator<Item = Request>) -> Result<(), Fatal> {
        self.prepare(requests);
        let batch = &mut self.batch;
        let next = Rev(self.revs.next.0 + batch.versions.len() as u64);
        if batch.versions.is_empty() && batch.compact.is_none() {
            batch.answer(None);
            return Ok(());
        }
        let compacted = self.compacted.max(batch.compact.unwrap_or_default());
        let facts = FrameFacts { first_rev: self.revs.next, extra: compacted.0 };
        match self.log.append(&mut self.frame, facts, self.revs) {
            Ok(appended) => {
                if !batch.versions.is_empty() {
                    self.revs = Revs { next, last: Rev(next.0 - 1) };
                }
                self.compacted = compacted;
                self.publish();
                self.batch.answer(None);
                self.want_maintenance(appended);
                Ok(())
            }
            Err(AppendError::NotWritten(error)) => {
                let what = format!("could not write to the store's log: {error}");
                tracing::error!(%error, "could not write to the store's log");
                batch.answer(Some(&StorageError::Unavailable(what)));
                Ok(())
            }
            Err(AppendError::Fatal(what)) => {
                self.mvcc.fail(format!("the store has ended: {what}"));
                batch.answer(Some(&StorageError::Unknown(what.clone())));
                Err(Fatal(what))
            }
        }
    }

    fn prepare(&mut self, requests: impl Iterator<Item = Request>) {
        self.frame.clear();
        let Self { mvcc, clock, revs, frame, batch, .. } = self;
        mvcc.inspect(|newest| {
            for Request { op, reply } in requests {
                let mut preparing = Preparing { newest, clock, next: revs.next, frame, batch };
                let prepared = preparing.op(op);
                batch.answers.push(Pending {
                    reply,
                    answer: prepared.answer,
                    needs_batch: prepared.needs_batch,
                });
            }
        });
    }

    fn publish(&mut self) {
        self.batch.by_key.clear();
        self.mvcc.publish(self.batch.versions.drain(..));
        if let Some(before) = self.batch.compact.take() {
            // It was checked against the same state.
            let _ = self.mvcc.compact(before.min(self.mvcc.current()));
        }
    }

    fn want_maintenance(&mut self, appended: Appended) {
        self.log_bytes += appended.bytes;
        let due = self.snapshot_log_bytes.max(self.mvcc.live().bytes as u64);
        let wants_snapshot = self.log_bytes > due;
        if wants_snapshot {
            self.log_bytes = 0;
        }
        if wants_snapshot || appended.is_rotated {
            let (spare, snapshot) = (appended.is_rotated, wants_snapshot);
            self.maintenance.want(Wanted { spare, snapshot, stop: false });
        }
    }

    /// Deletes the keys whose time has come.
    pub(crate) fn expire(&mut self) -> Result<(), Fatal> {
        loop {
            let expired = self.mvcc.expired(self.clock.now_ms(), BATCH_WRITES_MAX);
            if expired.is_empty() {
                return Ok(());
            }
            let last = self.revs.last;
            let deletes = expired.into_iter().map(|(key, rev)| Request {
                op: Op::Delete { key, expect: Expect::ModRev(rev) },
                reply: None,
            });
            self.commit(deletes)?;
            if self.revs.last == last {
                // The disk is full. The next look is at the next write or deadline.
                return Ok(());
            }
        }
    }
}

fn hash(key: &Key) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(key.as_bytes());
    hasher.finish()
}

impl Batch {
    /// What the batch itself has written last under a key.
    fn newest(&self, key: &Key) -> Option<&Arc<Version>> {
        let place = self.by_key.find(hash(key), |place| self.versions[*place].key() == key)?;
        Some(&self.versions[*place])
    }

    fn add(&mut self, version: Arc<Version>) {
        let Self { versions, by_key, .. } = self;
        let place = versions.len();
        let of = |place: &usize| versions[*place].key();
        match by_key.find_mut(hash(version.key()), |place| of(place) == version.key()) {
            Some(newest) => *newest = place,
            None => {
                by_key.insert_unique(hash(version.key()), place, |place| hash(of(place)));
            }
        }
        versions.push(version);
    }

    /// Answers everyone: with `failure` those whose answer rests on the batch.
    fn answer(&mut self, failure: Option<&StorageError>) {
        for Pending { reply, answer, needs_batch } in self.answers.drain(..) {
            let Some(reply) = reply else { continue };
            let answer = match failure {
                Some(failure) if needs_batch => Err(failure.clone()),
                Some(_) | None => answer,
            };
            // Who has gone away needs no answer.
            let _ = reply.send(answer);
        }
        self.versions.clear();
        self.by_key.clear();
        self.compact = None;
    }
}

struct Preparing<'a, 'b> {
    newest: &'a Newest<'b>,
    clock: &'a TtlClock,
    next: Rev,
    frame: &'a mut FrameBuilder,
    batch: &'a mut Batch,
}

struct Prepared {
    answer: Result<Answer, StorageError>,
    needs_batch: bool,
}

impl Preparing<'_, '_> {
    fn op(&mut self, op: Op) -> Prepared {
        match op {
            Op::Put { key, value, expect, ttl } => {
                let (current, in_batch) = self.current(&key);
                let answer = mvcc::check_put(&key, expect, current.as_ref())
                    .map(|()| Answer::Put(self.put(key, value, ttl, current)));
                Prepared { needs_batch: in_batch || answer.is_ok(), answer }
            }
            Op::Delete { key, expect } => {
                let (current, in_batch) = self.current(&key);
                let answer = mvcc::check_delete(&key, expect, current.as_ref())
                    .and_then(|()| current.ok_or(StorageError::NotFound { key: key.clone() }))
                    .map(|current| Answer::Deleted(self.delete(key, current)));
                Prepared { needs_batch: in_batch || answer.is_ok(), answer }
            }
            Op::Compact { before } => Prepared { answer: self.compact(before), needs_batch: true },
        }
    }

    /// What is there as of the batch in hand, and whether the batch wrote it.
    fn current(&self, key: &Key) -> (Option<Kv>, bool) {
        match self.batch.newest(key) {
            Some(version) => (version.live().cloned(), true),
            None => (self.newest.get(key).and_then(|version| version.live().cloned()), false),
        }
    }

    fn rev(&self) -> Rev {
        Rev(self.next.0 + self.batch.versions.len() as u64)
    }

    fn put(&mut self, key: Key, value: Bytes, ttl: Option<Ttl>, previous: Option<Kv>) -> Put {
        let rev = self.rev();
        let expires_at_ms = self.clock.expires_at_ms(ttl);
        self.frame.put(key.as_bytes(), &value, expires_at_ms);
        let create_rev = previous.as_ref().map_or(rev, |previous| previous.create_rev);
        self.batch.add(Version::put(Kv { key, value, create_rev, mod_rev: rev }, expires_at_ms));
        Put { rev, previous }
    }

    fn delete(&mut self, key: Key, previous: Kv) -> Deleted {
        let rev = self.rev();
        self.frame.delete(key.as_bytes());
        self.batch.add(Version::delete(key, rev));
        Deleted { rev, previous }
    }

    fn compact(&mut self, before: Rev) -> Result<Answer, StorageError> {
        let current = match self.batch.versions.last() {
            Some(version) => version.rev(),
            None => self.newest.current(),
        };
        if before > current {
            return Err(StorageError::Future { asked: before, current });
        }
        let compact = self.batch.compact.unwrap_or_default();
        self.batch.compact = Some(compact.max(before));
        Ok(Answer::Compacted)
    }
}
