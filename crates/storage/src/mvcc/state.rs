//! The versions of every key and the log of what changed, without locks and without waiting.
//!
//! Every write makes one [`Version`], which holds on to the version it replaced for as long as the log
//! keeps that write. So one allocation serves the index, the log, reads of an older revision and the
//! previous value in an event. Knows nothing of tasks, files or clocks.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use super::groups::{Group, Groups, Told};
use crate::{Event, Key, Kv, Rev, StorageError};

/// What one log entry costs beside its key and value: the version, its place in the log and in the index.
const VERSION_OVERHEAD_BYTES: usize = 256;
/// How many log entries one write may evict: two, so that a log over its limit shrinks while it is
/// written to, and no write pays for all of it.
const EVICTIONS_PER_WRITE: usize = 2;
/// How many times its limit the log may grow to while a reader is pinned. Beyond that the reader fails.
const PINNED_FACTOR: usize = 4;
/// The revision of a store nobody has written to. Not 0, which stands for "none" in requests.
pub const EMPTY_REV: Rev = Rev(1);

/// One write of one key.
#[derive(Debug)]
pub struct Version {
    kv: Kv,
    /// Whether this write was a delete; the value is empty then.
    deleted: bool,
    /// When the key expires, in milliseconds of wall time since 1970; 0 is never.
    expires_at_ms: u64,
    /// What was there before, until the log forgets this write. Changed only by the owner of the state.
    older: Mutex<Option<Arc<Version>>>,
}

impl Version {
    /// A put of `kv`.
    #[must_use]
    pub fn put(kv: Kv, expires_at_ms: u64) -> Arc<Self> {
        Arc::new(Self { kv, deleted: false, expires_at_ms, older: Mutex::new(None) })
    }

    /// A delete of `key`.
    #[must_use]
    pub fn delete(key: Key, rev: Rev) -> Arc<Self> {
        let kv = Kv { key, value: bytes::Bytes::new(), create_rev: rev, mod_rev: rev };
        Arc::new(Self { kv, deleted: true, expires_at_ms: 0, older: Mutex::new(None) })
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.kv.key
    }

    /// The revision of this write.
    #[must_use]
    pub fn rev(&self) -> Rev {
        self.kv.mod_rev
    }

    /// What a reader sees: nothing after a delete.
    #[must_use]
    pub fn live(&self) -> Option<&Kv> {
        (!self.deleted).then_some(&self.kv)
    }

    /// When the key expires, in milliseconds of wall time since 1970; 0 is never.
    #[must_use]
    pub fn expires_at_ms(&self) -> u64 {
        self.expires_at_ms
    }

    fn bytes(&self) -> usize {
        self.kv.key.as_bytes().len() + self.kv.value.len() + VERSION_OVERHEAD_BYTES
    }

    fn event(&self) -> Event {
        let previous = self.older.lock().as_ref().and_then(|older| older.live().cloned());
        Event {
            key: self.kv.key.clone(),
            rev: self.kv.mod_rev,
            value: self.live().cloned(),
            previous,
        }
    }
}

/// The newest version of a key, in the index: only its key is compared, so that no key is there twice.
#[derive(Debug)]
struct Indexed(Arc<Version>);

impl Borrow<[u8]> for Indexed {
    fn borrow(&self) -> &[u8] {
        self.0.key().as_bytes()
    }
}

impl PartialEq for Indexed {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for Indexed {}

impl PartialOrd for Indexed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Indexed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key().cmp(other.0.key())
    }
}

/// The version that a reader of `rev` sees, from the newest one down.
fn version_at(newest: &Arc<Version>, rev: Rev) -> Option<Arc<Version>> {
    if newest.rev() <= rev {
        return Some(Arc::clone(newest));
    }
    let mut at = newest.older.lock().clone()?;
    while at.rev() > rev {
        let older = at.older.lock().clone()?;
        at = older;
    }
    Some(at)
}

/// Where a watcher has got to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    /// The next place of the log to look at.
    pub(super) place: u64,
    /// What was reported last.
    pub(super) progress: Rev,
}

/// The state: an index of newest versions, and the log.
#[derive(Debug)]
pub(super) struct State {
    index: BTreeSet<Indexed>,
    live_keys: usize,
    live_bytes: usize,
    log: VecDeque<Arc<Version>>,
    /// The place of `log[0]`; places count writes since the store was opened and never restart.
    first_place: u64,
    /// What the log holds on to: its own versions, and those before them that nothing else keeps any more.
    log_bytes: usize,
    log_bytes_max: usize,
    current: Rev,
    /// The oldest revision whose state is still complete.
    kept_from: Rev,
    /// What was asked to be forgotten; may be ahead of `kept_from`.
    compacted: Rev,
    groups: Groups,
    /// Counts calls that publish.
    publication: u64,
    expiries: BTreeMap<(u64, Rev), Key>,
}

impl State {
    pub(super) fn new(log_bytes_max: usize) -> Self {
        Self {
            index: BTreeSet::new(),
            live_keys: 0,
            live_bytes: 0,
            log: VecDeque::new(),
            first_place: 0,
            log_bytes: 0,
            log_bytes_max,
            current: EMPTY_REV,
            kept_from: EMPTY_REV,
            compacted: EMPTY_REV,
            groups: Groups::default(),
            publication: 0,
            expiries: BTreeMap::new(),
        }
    }

    pub(super) fn current(&self) -> Rev {
        self.current
    }

    pub(super) fn live_keys(&self) -> usize {
        self.live_keys
    }

    pub(super) fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    /// The oldest revision that a new reader may ask for.
    pub(super) fn oldest(&self) -> Rev {
        self.kept_from.max(self.compacted)
    }

    /// The oldest revision that a reader who has started already can finish on.
    pub(super) fn kept_from(&self) -> Rev {
        self.kept_from
    }

    /// The newest version of a key, a delete included while the log keeps it.
    pub(super) fn newest(&self, key: &[u8]) -> Option<&Arc<Version>> {
        self.index.get(key).map(|Indexed(version)| version)
    }

    /// Whether a reader may start at `rev`.
    pub(super) fn check_readable(&self, rev: Rev) -> Result<(), StorageError> {
        if rev > self.current {
            return Err(StorageError::Future { asked: rev, current: self.current });
        }
        if rev < self.oldest() {
            return Err(StorageError::Compacted { oldest: self.oldest() });
        }
        Ok(())
    }

    pub(super) fn get_at(&self, key: &[u8], rev: Rev) -> Option<Arc<Version>> {
        version_at(self.newest(key)?, rev).filter(|version| !version.deleted)
    }

    /// Visits the versions under `prefix` after `after` that a reader of `rev` sees, at most `keys_max`
    /// keys of the index. Returns the key to go on after, or `None` at the end.
    pub(super) fn scan(
        &self,
        window: &Window<'_>,
        keys_max: usize,
        mut visit: impl FnMut(&Arc<Version>),
    ) -> Option<Key> {
        let from = match window.after {
            Some(after) if after.as_bytes() >= window.prefix.as_bytes() => {
                Bound::Excluded(after.as_bytes())
            }
            Some(_) | None => Bound::Included(window.prefix.as_bytes()),
        };
        let under = self
            .index
            .range::<[u8], _>((from, Bound::Unbounded))
            .take_while(|it| it.0.key().starts_with(window.prefix));
        for (seen, Indexed(newest)) in under.enumerate() {
            match version_at(newest, window.rev) {
                Some(version) if !version.deleted => visit(&version),
                Some(_) | None => {}
            }
            if seen + 1 == keys_max {
                return Some(newest.key().clone());
            }
        }
        None
    }

    /// Takes a write in. Returns the prefixes whose watchers have something to read.
    ///
    /// # Panics
    /// When revisions do not rise: the caller assigns them.
    pub(super) fn apply(&mut self, version: Arc<Version>, woken: &mut Vec<Key>) {
        assert!(version.rev() > self.current, "{} after {}", version.rev(), self.current);
        self.current = version.rev();
        let (place, publication) = (self.end(), self.publication);
        let told = Told { place, rev: self.current, publication };
        self.groups.tell(version.key().as_bytes(), told, woken);
        self.log_bytes += version.bytes();
        self.count_in(&version);
        if let Some(Indexed(older)) = self.index.replace(Indexed(Arc::clone(&version))) {
            self.count_out(&older);
            if !self.is_logged(&older) {
                self.log_bytes += older.bytes();
            }
            *version.older.lock() = Some(older);
        }
        self.log.push_back(version);
    }

    /// Whether the log has a place for this write still.
    fn is_logged(&self, version: &Version) -> bool {
        self.log.front().is_some_and(|first| first.rev() <= version.rev())
    }

    fn count_in(&mut self, version: &Version) {
        if version.deleted {
            return;
        }
        self.live_keys += 1;
        self.live_bytes += version.kv.key.as_bytes().len() + version.kv.value.len();
        if version.expires_at_ms != 0 {
            self.expiries.insert((version.expires_at_ms, version.rev()), version.key().clone());
        }
    }

    fn count_out(&mut self, version: &Version) {
        if version.deleted {
            return;
        }
        self.live_keys -= 1;
        self.live_bytes -= version.kv.key.as_bytes().len() + version.kv.value.len();
        if version.expires_at_ms != 0 {
            self.expiries.remove(&(version.expires_at_ms, version.rev()));
        }
    }

    /// Takes in what a snapshot holds: a version that no event of the log tells about.
    pub(super) fn restore(&mut self, version: Arc<Version>) {
        self.count_in(&version);
        self.index.replace(Indexed(version));
    }

    /// Says which revision the restored versions are the state of.
    pub(super) fn restored_to(&mut self, rev: Rev) {
        self.current = rev.max(EMPTY_REV);
        self.kept_from = self.current;
    }

    /// Forgets the oldest writes while the log is over its limit or holds what was compacted, but nothing
    /// that a reader pinned at `pinned` needs. What was forgotten is returned, to be dropped outside the lock.
    pub(super) fn evict(&mut self, writes: usize, pinned: Option<Rev>) -> Vec<Arc<Version>> {
        let pinned = pinned.filter(|_| self.log_bytes <= self.log_bytes_max * PINNED_FACTOR);
        let mut forgotten = Vec::new();
        for _ in 0..writes.saturating_mul(EVICTIONS_PER_WRITE) {
            let Some(oldest) = self.log.front().map(|version| version.rev()) else { break };
            let unwanted = self.log_bytes > self.log_bytes_max || oldest <= self.compacted;
            if !unwanted || pinned.is_some_and(|rev| oldest > rev) {
                break;
            }
            self.evict_oldest(&mut forgotten);
        }
        forgotten
    }

    fn evict_oldest(&mut self, forgotten: &mut Vec<Arc<Version>>) {
        let Some(version) = self.log.pop_front() else { return };
        self.first_place += 1;
        self.kept_from = version.rev();
        // It left the log before, and only this write still kept it.
        if let Some(older) = version.older.lock().take() {
            self.log_bytes -= older.bytes();
            forgotten.push(older);
        }
        let key = version.key().as_bytes();
        if self.newest(key).is_some_and(|newest| Arc::ptr_eq(newest, &version)) {
            self.log_bytes -= version.bytes();
            if version.deleted {
                self.index.remove(key);
            }
        }
        forgotten.push(version);
    }

    /// Forbids new readers before `before`.
    pub(super) fn compact(&mut self, before: Rev) {
        self.compacted = self.compacted.max(before);
    }

    /// A watcher of `prefix` joins.
    pub(super) fn join(&mut self, prefix: &Key) {
        self.groups.join(prefix, self.end(), self.current);
    }

    /// A watcher of `prefix` leaves.
    pub(super) fn leave(&mut self, prefix: &Key) {
        self.groups.leave(prefix);
    }

    /// Writes that are applied until the next call are published together.
    pub(super) fn begin_publication(&mut self) {
        self.publication += 1;
    }

    /// The place in the log of the first write after `rev`.
    pub(super) fn place_after(&self, rev: Rev) -> u64 {
        self.first_place + self.log.partition_point(|version| version.rev() <= rev) as u64
    }

    /// The events under `prefix` from the cursor on, within `limits`. Moves the cursor behind what it saw.
    pub(super) fn read_log(
        &self,
        prefix: &Key,
        cursor: &mut Cursor,
        limits: &ReadLimits,
    ) -> Result<Vec<Event>, StorageError> {
        let group = self.groups.get(prefix).expect("because its watcher has joined");
        let mut reading = Reading { events: Vec::new(), bytes: 0, limits };
        if cursor.place < group.covers_from {
            self.scan_log(prefix, group.covers_from, cursor, &mut reading)?;
        }
        if cursor.place >= group.covers_from {
            self.read_places(group, cursor, &mut reading)?;
        }
        cursor.progress = self.seen_by(cursor);
        Ok(reading.events)
    }

    /// Catches up by looking at every entry: what was written before the prefix was watched.
    fn scan_log(
        &self,
        prefix: &Key,
        covers_from: u64,
        cursor: &mut Cursor,
        reading: &mut Reading<'_>,
    ) -> Result<(), StorageError> {
        if cursor.place < self.first_place {
            return Err(StorageError::Compacted { oldest: self.oldest() });
        }
        let scan_to = covers_from.min(cursor.place + reading.limits.scan_max);
        while cursor.place < scan_to && !reading.is_full() {
            let version = self.at(cursor.place);
            cursor.place += 1;
            if version.key().starts_with(prefix) {
                reading.take(version);
            }
        }
        Ok(())
    }

    fn read_places(
        &self,
        group: &Group,
        cursor: &mut Cursor,
        reading: &mut Reading<'_>,
    ) -> Result<(), StorageError> {
        if cursor.place < group.forgotten_below {
            return Err(StorageError::Compacted { oldest: self.oldest() });
        }
        let unread = group.places.partition_point(|place| *place < cursor.place);
        for place in group.places.range(unread..) {
            if reading.is_full() {
                return Ok(());
            }
            if *place < self.first_place {
                return Err(StorageError::Compacted { oldest: self.oldest() });
            }
            reading.take(self.at(*place));
            cursor.place = place + 1;
        }
        cursor.place = self.end();
        Ok(())
    }

    fn end(&self) -> u64 {
        self.first_place + self.log.len() as u64
    }

    fn at(&self, place: u64) -> &Arc<Version> {
        let offset = usize::try_from(place - self.first_place)
            .expect("because the log is in memory, its length fits");
        &self.log[offset]
    }

    /// Up to which revision a watcher at this cursor knows everything.
    fn seen_by(&self, cursor: &Cursor) -> Rev {
        if cursor.place == self.end() {
            return self.current;
        }
        if cursor.place <= self.first_place {
            return cursor.progress;
        }
        self.at(cursor.place - 1).rev().max(cursor.progress)
    }

    /// Drops what the watched prefixes remember of writes that the log has forgotten.
    pub(super) fn trim_groups(&mut self, touched: &[Key]) {
        self.groups.forget(touched, self.first_place);
    }

    /// The revision of the newest write under a watched prefix, or of when it was first watched.
    pub(super) fn changed_under(&self, prefix: &Key) -> Option<Rev> {
        self.groups.get(prefix).map(|group| group.changed_at)
    }

    /// When the next key expires, in milliseconds of wall time since 1970.
    pub(super) fn next_expiry_ms(&self) -> Option<u64> {
        self.expiries.first_key_value().map(|((at_ms, _), _)| *at_ms)
    }

    /// The keys whose time has come, at most `keys_max`, with the revision they must still have.
    pub(super) fn expired(&self, now_ms: u64, keys_max: usize) -> Vec<(Key, Rev)> {
        let due = self.expiries.range(..=(now_ms, Rev(u64::MAX))).take(keys_max);
        due.map(|((_, rev), key)| (key.clone(), *rev)).collect()
    }
}

impl Drop for State {
    /// Unlinks versions one by one: a key written a million times must not be dropped by recursion.
    fn drop(&mut self) {
        while let Some(version) = self.log.pop_front() {
            let older = version.older.lock().take();
            drop(older);
        }
    }
}

/// What a scan looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window<'a> {
    pub(super) prefix: &'a Key,
    pub(super) after: Option<&'a Key>,
    pub(super) rev: Rev,
}

/// How much one read of the log may take.
#[derive(Debug)]
pub(super) struct ReadLimits {
    pub(super) events_max: usize,
    pub(super) bytes_max: usize,
    pub(super) scan_max: u64,
}

struct Reading<'a> {
    events: Vec<Event>,
    bytes: usize,
    limits: &'a ReadLimits,
}

impl Reading<'_> {
    fn is_full(&self) -> bool {
        self.events.len() >= self.limits.events_max || self.bytes >= self.limits.bytes_max
    }

    fn take(&mut self, version: &Version) {
        self.bytes += version.bytes();
        self.events.push(version.event());
    }
}
