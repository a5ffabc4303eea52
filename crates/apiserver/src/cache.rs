//! The watch cache: every object of a resource, and the last changes, as reads and watches see them.
//!
//! One task reads the store's changes and applies them ([`Hub`]); readers take snapshots under a short lock. A watcher
//! is a cursor into the log of changes; nothing is queued for it. It is woken when something in its scope changes,
//! and when half of the log has been overwritten, so that a watcher of a quiet scope never falls out of a busy log.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use apimachinery::obj::Obj;
use bytes::Bytes;
use compact_str::CompactString;
use parking_lot::{Mutex, RwLock};
use registry::AnyResource;
use tokio::sync::Notify;

use crate::leaves::Leaves;
use crate::listing::{Listing, Pages};

/// How many bytes of changes a resource keeps. Beyond this the oldest go, and a watcher that has not read them
/// starts again from the store's own history.
const LOG_BYTES: usize = 4 << 20;
/// How many changes a resource keeps at most, whatever their size.
const LOG_EVENTS: usize = 20_000;

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It is different.
    Modified,
    /// It is gone; the event holds its last state at the revision of the deletion.
    Deleted,
}

impl Change {
    /// The type of its watch events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// The revision of the change.
    pub revision: u64,
    /// What happened.
    pub change: Change,
    /// The object after it (before it, for a deletion).
    pub object: Arc<Obj>,
    /// The object before it.
    pub previous: Option<Arc<Obj>>,
    /// The JSON text that most watchers get, made once.
    json: OnceLock<Bytes>,
}

impl Event {
    fn new(revision: u64, change: Change, object: Arc<Obj>, previous: Option<Arc<Obj>>) -> Self {
        Self { revision, change, object, previous, json: OnceLock::new() }
    }

    /// The same change told with other objects: those of another version.
    pub(crate) fn with_objects(&self, object: Arc<Obj>, previous: Option<Arc<Obj>>) -> Self {
        Self::new(self.revision, self.change, object, previous)
    }

    /// An event of the store's history; `None` where neither state is known.
    #[must_use]
    pub fn from_history(
        revision: u64,
        now: Option<Arc<Obj>>,
        previous: Option<Arc<Obj>>,
    ) -> Option<Self> {
        Some(match (now, previous) {
            (Some(object), None) => Self::new(revision, Change::Added, object, None),
            (Some(object), Some(previous)) => {
                Self::new(revision, Change::Modified, object, Some(previous))
            }
            (None, Some(previous)) => {
                let last = Arc::new(previous.at_version(revision));
                Self::new(revision, Change::Deleted, last, Some(previous))
            }
            (None, None) => return None,
        })
    }

    /// The watch frame in JSON, in the storage version, for a watcher without selector.
    pub fn json_frame(&self) -> Bytes {
        let make = || {
            let mut out = Vec::new();
            write_frame(self.change.as_str(), &self.object, &mut out);
            out.into()
        };
        self.json.get_or_init(make).clone()
    }
}

/// Appends a watch frame in JSON.
pub fn write_frame(kind: &str, object: &Obj, out: &mut Vec<u8>) {
    out.reserve(object.stored().len() + 96);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    object.write(out);
    out.extend_from_slice(b"}\n");
}

/// The name of an object in a cache: `namespace/name`, or `name`.
pub type CacheKey = CompactString;

/// The cache key of an object.
#[must_use]
pub fn cache_key(namespace: &str, name: &str) -> CacheKey {
    if namespace.is_empty() {
        name.into()
    } else {
        compact_str::format_compact!("{namespace}/{name}")
    }
}

/// What the keys of a namespace's objects begin with (of all, where it is empty).
fn prefix_of(namespace: &str) -> CacheKey {
    if namespace.is_empty() { CacheKey::default() } else { cache_key(namespace, "") }
}

/// What a watcher wants to be woken for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everything.
    All,
    /// Objects of a namespace.
    Namespace(CompactString),
    /// One object.
    Object(CacheKey),
    /// Objects whose selectable field (by index) has this value.
    Field(usize, CompactString),
}

/// A change: of what, at which revision, and what it is now.
type Early = (CacheKey, u64, Option<Arc<Obj>>);

#[derive(Debug, Default)]
struct State {
    objects: Leaves,
    /// The weight of all objects.
    bytes: u64,
    log: VecDeque<Arc<Event>>,
    log_bytes: usize,
    /// The sequence number of the first event in the log; cursors count events since the start.
    first: u64,
    /// Every change after this revision is in the log.
    complete_after: u64,
    /// Bytes that went through the log since all watchers were woken.
    since_wake: usize,
    /// The revision of the last change that was applied.
    last: u64,
    /// How many events were put where watchers find them.
    dispatched: u64,
    /// How often all objects were read.
    filled: u64,
    /// Changes that came while the objects were still being read. They hold nothing that would not be in the cache.
    early: Option<Vec<Early>>,
    /// The revision of objects that took the place of all others while they were still being read.
    replaced: u64,
    /// What is stored and could not be decrypted.
    hidden: BTreeSet<CacheKey>,
    /// How many objects each namespace has.
    namespaces: BTreeMap<CompactString, u64>,
    /// The lists of this moment that somebody reads.
    listings: Mutex<Vec<Known>>,
}

/// A list that somebody reads: of which namespace, with which limit, and how many objects follow.
#[derive(Debug)]
struct Known {
    namespace: CompactString,
    limit: usize,
    listing: Weak<Listing>,
    remaining: u64,
}

/// How many lists of one moment are shared; those with other limits or namespaces are made for who asks.
const MAX_LISTINGS: usize = 64;

/// The cache of one resource.
pub struct Cache {
    resource: Arc<dyn AnyResource>,
    state: RwLock<State>,
    waiting: Mutex<BTreeMap<Scope, Arc<Notify>>>,
    hub: Arc<Progress>,
    retired: AtomicBool,
    /// How many changes it was told of.
    received: AtomicU64,
}

/// How far the hub has come; shared by all caches.
#[derive(Debug, Default)]
pub struct Progress {
    revision: AtomicU64,
    moved: Notify,
    /// Somebody waits for progress.
    waiters: AtomicU64,
    /// The pages that were read last.
    pages: Pages,
}

impl Progress {
    /// Every change up to this revision is in the caches.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(crate) fn advance(&self, revision: u64) {
        self.revision.fetch_max(revision, Ordering::AcqRel);
        if self.waiters.load(Ordering::Acquire) > 0 {
            self.moved.notify_waiters();
        }
    }

    /// Waits until the caches hold every change up to `revision`.
    pub async fn reached(&self, revision: u64) {
        if self.revision() >= revision {
            return;
        }
        self.waiters.fetch_add(1, Ordering::AcqRel);
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            if self.revision() >= revision {
                break;
            }
            moved.await;
        }
        self.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(u64);

/// What a cursor finds.
#[derive(Debug)]
pub enum Next {
    /// These events, and the cursor after them.
    Events(Vec<Arc<Event>>, Cursor),
    /// The log has moved past the cursor.
    FellOut,
}

/// The state of a cache at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// The objects in order of their keys.
    pub objects: Arc<Listing>,
    /// Changes after this snapshot are those after this cursor.
    pub cursor: Cursor,
    /// The revision it is of: every change up to it is here, and none after it.
    pub revision: u64,
    /// How many objects follow, where a limit cut it; 1 for any number of selected ones.
    pub remaining: u64,
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new(resource: Arc<dyn AnyResource>, hub: Arc<Progress>) -> Self {
        let (state, waiting, retired, received) = Default::default();
        Self { resource, state, waiting, hub, retired, received }
    }

    /// A change has come from the store.
    pub(crate) fn receive(&self) {
        self.received.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have come.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// One whose objects are still to be read: changes wait until [`Cache::fill`].
    #[must_use]
    pub fn filling(resource: Arc<dyn AnyResource>, hub: Arc<Progress>) -> Self {
        let cache = Self::new(resource, hub);
        cache.state.write().early = Some(Vec::new());
        cache
    }

    /// How many events watchers could find here since the start.
    pub(crate) fn dispatched(&self) -> u64 {
        self.state.read().dispatched
    }

    /// How often all objects were read: once, and again whenever the store has forgotten changes before they came.
    pub(crate) fn filled(&self) -> u64 {
        self.state.read().filled
    }

    /// What it caches.
    #[must_use]
    pub fn resource(&self) -> &Arc<dyn AnyResource> {
        &self.resource
    }

    /// How far this and all other caches have come.
    #[must_use]
    pub fn progress(&self) -> &Arc<Progress> {
        &self.hub
    }

    /// One object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<Obj>> {
        self.state.read().objects.get(key).cloned()
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// How many objects there are, and how many bytes they have together.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        let state = self.state.read();
        (state.objects.len() as u64, state.bytes)
    }

    /// How many watch what happens to an object of this namespace and key.
    #[must_use]
    pub fn watchers(&self, namespace: &str, key: Option<CacheKey>) -> u64 {
        let waiting = self.waiting.lock();
        let count = |scope: &Scope| {
            waiting.get(scope).map_or(0, |it| Arc::strong_count(it).saturating_sub(1) as u64)
        };
        let mut all = count(&Scope::All);
        if !namespace.is_empty() {
            all += count(&Scope::Namespace(namespace.into()));
        }
        all + key.map_or(0, |key| count(&Scope::Object(key)))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of a namespace (of all, where it is empty) that `matches` takes, at most `limit` of them (0: all). Of
    /// those that follow one is counted: whether there are any costs less than how many.
    #[must_use]
    pub fn snapshot(
        &self,
        namespace: &str,
        limit: usize,
        matches: impl Fn(&Obj) -> bool,
    ) -> Snapshot {
        let state = self.state.read();
        let prefix = prefix_of(namespace);
        let mut range = state.objects.of(&prefix).filter(|object| matches(object));
        let most = if limit == 0 { usize::MAX } else { limit };
        let objects: Vec<Arc<Obj>> = range.by_ref().take(most).cloned().collect();
        let remaining = u64::from(limit > 0 && range.next().is_some());
        drop(range);
        self.as_of_now(&state, Arc::new(objects.into()), remaining)
    }

    /// The objects of a namespace (of all, where it is empty), for who looks at them at once.
    #[must_use]
    pub fn all_in(&self, namespace: &str) -> Vec<Arc<Obj>> {
        self.state.read().objects.of(&prefix_of(namespace)).cloned().collect()
    }

    /// All objects of a namespace (of all, where it is empty), at most `limit` of them (0: all). Whoever asks at the same
    /// moment gets the same list.
    #[must_use]
    pub fn everything(&self, namespace: &str, limit: usize) -> Snapshot {
        let state = self.state.read();
        let mut listings = state.listings.lock();
        let known = listings.iter().find(|it| it.limit == limit && it.namespace == namespace);
        if let Some((listing, remaining)) =
            known.and_then(|it| Some((it.listing.upgrade()?, it.remaining)))
        {
            drop(listings);
            return self.as_of_now(&state, listing, remaining);
        }
        let (all, prefix) = (state.count(namespace), prefix_of(namespace));
        let listing = Arc::new(if limit == 0 {
            let count = usize::try_from(all).unwrap_or(usize::MAX);
            Listing::all(state.objects.share(&prefix, count))
        } else {
            Listing::page(state.objects.of(&prefix).take(limit).cloned().collect())
        });
        let remaining = all.saturating_sub(listing.len() as u64);
        listings.retain(|it| it.listing.strong_count() > 0);
        if listings.len() < MAX_LISTINGS {
            let (namespace, listing) = (namespace.into(), Arc::downgrade(&listing));
            listings.push(Known { namespace, limit, listing, remaining });
            drop(listings);
        }
        self.hub.pages.keep(&listing);
        self.as_of_now(&state, listing, remaining)
    }

    fn as_of_now(&self, state: &State, objects: Arc<Listing>, remaining: u64) -> Snapshot {
        // A change is here a moment before the caches as a whole are said to be as far.
        let revision = self.hub.revision().max(state.last);
        Snapshot { objects, cursor: state.end(), revision, remaining }
    }

    /// The cursor after every change up to `revision`; `None` where the log does not reach back that far.
    #[must_use]
    pub fn cursor_after(&self, revision: u64) -> Option<Cursor> {
        let state = self.state.read();
        if revision < state.complete_after {
            return None;
        }
        let index = state.log.partition_point(|event| event.revision <= revision);
        Some(Cursor(state.first + index as u64))
    }

    /// The cursor after every change so far.
    #[must_use]
    pub fn end(&self) -> Cursor {
        self.state.read().end()
    }

    /// The events from a cursor on, at most `limit` of them. Also reports how far the caches are, so that a reader
    /// that found nothing knows up to which revision that holds.
    #[must_use]
    pub fn read(&self, cursor: Cursor, limit: usize) -> (Next, u64) {
        // Read before the lock is taken: whatever is applied up to here is visible below.
        let revision = self.hub.revision();
        let state = self.state.read();
        let Some(skip) = cursor.0.checked_sub(state.first) else {
            return (Next::FellOut, revision);
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let events: Vec<_> = state.log.iter().skip(skip).take(limit).cloned().collect();
        let cursor = Cursor(cursor.0 + events.len() as u64);
        (Next::Events(events, cursor), revision)
    }

    /// What is notified when something in this scope changes.
    #[must_use]
    pub fn wake_for(&self, scope: Scope) -> Arc<Notify> {
        Arc::clone(self.waiting.lock().entry(scope).or_default())
    }

    /// Forgets scopes that nobody waits for.
    fn forget_idle_scopes(waiting: &mut BTreeMap<Scope, Arc<Notify>>) {
        waiting.retain(|_, notify| Arc::strong_count(notify) > 1);
    }

    /// Takes an object that was there when the server started.
    pub(crate) fn load(&self, key: CacheKey, object: Arc<Obj>) {
        self.state.write().put(key, object);
    }

    /// Takes the objects as they were at a revision; the changes since that came early follow at once.
    pub(crate) fn fill(&self, objects: Vec<(CacheKey, Arc<Obj>)>, revision: u64) {
        let mut state = self.state.write();
        // Objects that were read later are here already, and changes up to them were not told.
        let at_least = state.replaced.max(revision);
        if at_least == revision {
            state.set(objects);
            state.filled += 1;
        }
        state.complete_after = at_least;
        for (key, at, object) in state.early.take().unwrap_or_default() {
            if at > at_least {
                let _woken = state.take(&key, at, object);
            }
        }
    }

    /// Takes the objects as they are at a revision in place of all others: what led there is not known. Whoever follows the
    /// changes falls out of the log.
    pub(crate) fn replace(&self, objects: Vec<(CacheKey, Arc<Obj>)>, revision: u64) {
        {
            let mut state = self.state.write();
            state.hidden.clear();
            state.set(objects);
            state.filled += 1;
            state.restart(revision);
            if let Some(early) = &mut state.early {
                early.clear();
                state.replaced = revision;
            }
        }
        self.waiting.lock().values().for_each(|notify| notify.notify_waiters());
    }

    /// Notes an object that cannot be read; says whether it is the first.
    pub(crate) fn hide(&self, key: CacheKey) -> bool {
        let mut state = self.state.write();
        state.remove(&key);
        state.hidden.insert(key);
        state.hidden.len() == 1
    }

    /// Whether there is an object of this key that could not be read when it came.
    pub(crate) fn is_hidden(&self, key: &CacheKey) -> bool {
        self.state.read().hidden.contains(key)
    }

    /// Forgets the changes up to a revision: whoever follows them falls out of the log.
    pub(crate) fn forget(&self, revision: u64) {
        self.state.write().restart(revision);
        self.waiting.lock().values().for_each(|notify| notify.notify_waiters());
    }

    /// The objects of a namespace (of all, where it is empty) that could not be read when they came.
    pub(crate) fn hidden(&self, namespace: &str) -> Vec<CacheKey> {
        let state = self.state.read();
        if state.hidden.is_empty() {
            return Vec::new();
        }
        let prefix = prefix_of(namespace);
        state.hidden.iter().filter(|it| it.starts_with(prefix.as_str())).cloned().collect()
    }

    /// Takes an object that can be read after all, where nothing has become of it meanwhile.
    pub(crate) fn reveal(&self, key: &CacheKey, object: Option<Arc<Obj>>) {
        let mut state = self.state.write();
        if state.hidden.remove(key)
            && let Some(object) = object
        {
            state.put(key.clone(), object);
        }
    }

    /// Says that no more changes will come: the resource is gone, or another cache has taken over. Watches end.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.waiting.lock().values().for_each(|notify| notify.notify_waiters());
    }

    /// Whether no more changes will come.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// Every change after `revision` will come through [`Cache::apply`].
    pub(crate) fn loaded(&self, revision: u64) {
        let mut state = self.state.write();
        state.complete_after = revision;
        state.filled += 1;
    }

    /// Takes a change.
    pub(crate) fn apply(&self, key: &CacheKey, revision: u64, object: Option<Arc<Obj>>) {
        let taken = {
            let mut state = self.state.write();
            if let Some(early) = &mut state.early {
                early.push((key.clone(), revision, object));
                return;
            }
            state.take(key, revision, object)
        };
        if let Some((event, wake_all)) = taken {
            self.wake(key, &event, wake_all);
        }
    }

    fn wake(&self, key: &CacheKey, event: &Event, wake_all: bool) {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            return;
        }
        if wake_all {
            Self::forget_idle_scopes(&mut waiting);
            waiting.values().for_each(|notify| notify.notify_waiters());
            return;
        }
        let facts = &event.object.facts;
        let notify = |scope: Scope| {
            if let Some(notify) = waiting.get(&scope) {
                notify.notify_waiters();
            }
        };
        notify(Scope::All);
        if !facts.namespace.is_empty() {
            notify(Scope::Namespace(facts.namespace.clone()));
        }
        notify(Scope::Object(key.clone()));
        let before = event.previous.as_ref().map(|it| it.facts.fields());
        for (index, value) in facts.fields().iter().enumerate() {
            notify(Scope::Field(index, value.into()));
            if let Some(old) =
                before.and_then(|fields| fields.get(index)).filter(|old| *old != value)
            {
                notify(Scope::Field(index, old.into()));
            }
        }
    }
}

impl State {
    fn end(&self) -> Cursor {
        Cursor(self.first + self.log.len() as u64)
    }

    /// How many objects a namespace has (all, where it is empty).
    fn count(&self, namespace: &str) -> u64 {
        match namespace {
            "" => self.objects.len() as u64,
            namespace => self.namespaces.get(namespace).copied().unwrap_or_default(),
        }
    }

    /// These objects and no others.
    fn set(&mut self, objects: Vec<(CacheKey, Arc<Obj>)>) {
        self.objects.clear();
        self.namespaces.clear();
        self.bytes = 0;
        self.listings.get_mut().clear();
        for (key, object) in objects {
            self.put(key, object);
        }
    }

    /// An empty log that begins after a revision; every cursor so far is before its beginning.
    fn restart(&mut self, revision: u64) {
        self.first += self.log.len() as u64 + 1;
        self.log.clear();
        (self.log_bytes, self.since_wake) = (0, 0);
        self.complete_after = revision;
        self.last = revision;
    }

    fn put(&mut self, key: CacheKey, object: Arc<Obj>) -> Option<Arc<Obj>> {
        self.listings.get_mut().clear();
        self.bytes += object.weight() as u64;
        let namespace = object.facts.namespace.clone();
        let previous = self.objects.insert(key, object);
        match &previous {
            Some(previous) => {
                self.bytes = self.bytes.saturating_sub(previous.weight() as u64);
            }
            None if namespace.is_empty() => {}
            None => *self.namespaces.entry(namespace).or_default() += 1,
        }
        previous
    }

    fn remove(&mut self, key: &CacheKey) -> Option<Arc<Obj>> {
        self.listings.get_mut().clear();
        let gone = self.objects.remove(key)?;
        self.bytes = self.bytes.saturating_sub(gone.weight() as u64);
        let namespace = &gone.facts.namespace;
        if let Some(count) = self.namespaces.get_mut(namespace) {
            *count -= 1;
            if *count == 0 {
                self.namespaces.remove(namespace);
            }
        }
        Some(gone)
    }

    /// Takes a change: the event that it is, and whether every watcher is to be woken.
    fn take(
        &mut self,
        key: &CacheKey,
        revision: u64,
        object: Option<Arc<Obj>>,
    ) -> Option<(Arc<Event>, bool)> {
        self.last = revision;
        if !self.hidden.is_empty() {
            self.hidden.remove(key);
        }
        let previous = match &object {
            Some(object) => self.put(key.clone(), Arc::clone(object)),
            None => self.remove(key),
        };
        let event = Arc::new(Event::from_history(revision, object, previous)?);
        let wake_all = self.push(Arc::clone(&event));
        Some((event, wake_all))
    }

    /// Appends an event; says whether every watcher is to be woken so that it keeps up with the log.
    fn push(&mut self, event: Arc<Event>) -> bool {
        let weight = event.object.weight();
        self.dispatched += 1;
        self.log.push_back(event);
        self.log_bytes += weight;
        self.since_wake += weight;
        while self.log_bytes > LOG_BYTES || self.log.len() > LOG_EVENTS {
            let Some(gone) = self.log.pop_front() else { break };
            self.log_bytes = self.log_bytes.saturating_sub(gone.object.weight());
            self.first += 1;
            self.complete_after = gone.revision;
        }
        let wake = self.since_wake > LOG_BYTES / 2;
        if wake {
            self.since_wake = 0;
        }
        wake
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({:?}, {} objects)", self.resource, self.len())
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;
    use registry::Registry;

    use super::*;

    #[test]
    fn a_snapshot_is_never_newer_than_it_says() {
        let registry = Registry::built_in();
        let (index, _) = registry.find("", "v1", "configmaps").expect("a built-in resource");
        let progress = Arc::new(Progress::default());
        progress.advance(6);
        let cache = Cache::new(Arc::clone(&registry.resources()[index]), Arc::clone(&progress));
        let object = Obj::of(&value!({"metadata": {"name": "new", "resourceVersion": "7"}}));
        let object = object.expect("an object");
        // The change is applied, and the caches as a whole are not said to be as far.
        cache.apply(&cache_key("default", "new"), 7, Some(Arc::new(object)));
        let snapshot = cache.everything("", 0);
        assert_eq!((snapshot.objects.len(), snapshot.revision), (1, 7));
        progress.advance(9);
        assert_eq!(cache.everything("", 0).revision, 9);
    }
}
