//! Caches fed by watches: what a controller, the scheduler or a node knows of a resource.
//!
//! A [`Store`] is read under a short lock and never waits for the network. A [`Reflector`] keeps it up to date: it lists
//! through the watch itself, resumes after a break where it was, and starts anew when the version is not kept any more.

use std::any::{Any, TypeId};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{self, AtomicBool};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use apimachinery::Value;
use apimachinery::obj::Obj;
use compact_str::CompactString;
use component_base::{Random, ShutdownSignal};
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::call::{Client, ListParams};
use crate::error::ClientError;
use crate::indexes::indexes;
use crate::pod::PodBrief;
use crate::resource::{ObjectKey, Resource};
use crate::watch::{Watch, WatchEvent};

/// The first pause after a failed watch; doubled up to [`MAX_BACKOFF`], with jitter.
const MIN_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How many of the objects that changed last a store keeps decoded: whoever works on a change looks at them soon, and
/// the next change of a young object needs them as its past.
const RECENT: usize = 64;
/// How many of those that went are remembered, of each resource (upstream's controllers: 500).
const GONE: usize = 512;

/// How much text the objects have whose typed forms a store keeps: those forms are some twice as large, and whoever works
/// on many objects at once (the pods of a set) looks at them again after each change of one.
const TYPED_BYTES: usize = 24 << 20;

/// An object in a store.
#[derive(Debug)]
pub struct Cached {
    /// Where it lies.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: CompactString,
    /// The object as it was read; in the server's process the very one that its own cache holds.
    object: Arc<Obj>,
    /// The object as a Rust type, while a store keeps it.
    typed: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
    deleting: OnceLock<bool>,
    finalizers: OnceLock<Box<[CompactString]>>,
    /// Of a thousand pods of one set there is one copy: see [`State::share_owners`].
    owners: OnceLock<Arc<[Owner]>>,
    brief: OnceLock<Box<PodBrief>>,
}

/// An owner that an object names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// `apps/v1`
    pub api_version: CompactString,
    /// `ReplicaSet`
    pub kind: CompactString,
    /// Its name.
    pub name: CompactString,
    /// Its uid.
    pub uid: CompactString,
    /// It controls the object.
    pub controller: bool,
    /// It cannot go before the object where it waits for its dependents.
    pub block_owner_deletion: bool,
}

impl Cached {
    /// An object as a store would hold it, for sources that are none.
    #[must_use]
    pub fn new(value: Value) -> Self {
        // Nothing but a size of gigabytes keeps a value from being one.
        let object = Obj::of(&value).unwrap_or_default();
        object.keep_value(value);
        Self::of(Arc::new(object))
    }

    fn of(object: Arc<Obj>) -> Self {
        Self {
            key: key_of(&object),
            uid: object.uid(),
            object,
            typed: Mutex::default(),
            deleting: OnceLock::new(),
            finalizers: OnceLock::new(),
            owners: OnceLock::new(),
            brief: OnceLock::new(),
        }
    }

    /// Its version.
    #[must_use]
    pub fn resource_version(&self) -> u64 {
        self.object.resource_version
    }

    /// The object as a value, which all who look at a change share.
    #[must_use]
    pub fn value(&self) -> Arc<Value> {
        // It was written by this process from a value.
        self.object.value().unwrap_or_default()
    }

    /// The object as a value of one's own.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Arc::unwrap_or_clone(self.value())
    }

    /// Whether its text has this in it, which is far cheaper to know than what the object holds.
    #[must_use]
    pub fn mentions(&self, text: &str) -> bool {
        self.object.mentions(text)
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.object.facts.label(key)
    }

    /// The labels, in order of their names.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.object.facts.labels()
    }

    /// Whether it is on its way out.
    #[must_use]
    pub fn is_deleting(&self) -> bool {
        *self.deleting.get_or_init(|| self.object.metadata_text("deletionTimestamp").is_some())
    }

    /// The finalizers that hold it.
    #[must_use]
    pub fn finalizers(&self) -> &[CompactString] {
        self.finalizers.get_or_init(|| {
            let text = self.object.metadata_text("finalizers");
            text.and_then(|it| serde_json::from_slice(it).ok()).unwrap_or_default()
        })
    }

    /// The owners that it names.
    #[must_use]
    pub fn owners(&self) -> &[Owner] {
        self.shared_owners()
    }

    fn shared_owners(&self) -> &Arc<[Owner]> {
        self.owners.get_or_init(|| {
            let owners = self.text_of_owners().and_then(|it| serde_json::from_slice(it).ok());
            owners.map_or_else(Arc::default, |it: Vec<Owner>| it.into())
        })
    }

    fn text_of_owners(&self) -> Option<&[u8]> {
        self.object.metadata_text("ownerReferences")
    }

    /// The owner that controls it.
    #[must_use]
    pub fn controller(&self) -> Option<&Owner> {
        self.owners().iter().find(|it| it.controller)
    }

    /// What is looked at of every pod of many, read once from the text; empty of what is no pod.
    #[must_use]
    pub fn pod(&self) -> &PodBrief {
        self.brief.get_or_init(|| {
            let mut json = Vec::new();
            self.object.write_unmanaged(&mut json);
            Box::new(PodBrief::of(&json))
        })
    }

    /// The object as a Rust type, without its managed fields; `None` where it does not fit, which the server's types prevent.
    #[must_use]
    pub fn decode<K: DeserializeOwned>(&self) -> Option<K> {
        let mut json = Vec::new();
        self.object.write_unmanaged(&mut json);
        match serde_json::from_slice(&json) {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::error!(key = %self.key, %error, "could not decode a cached object");
                None
            }
        }
    }
}

fn key_of(object: &Obj) -> ObjectKey {
    ObjectKey::new(object.facts.namespace.as_str(), object.facts.name.as_str())
}

/// A change as a listener sees it. The store already has it.
#[derive(Debug, Clone)]
pub struct StoreChange {
    /// The object before; `None` where it is new.
    pub old: Option<Arc<Cached>>,
    /// The object after; `None` where it is gone.
    pub new: Option<Arc<Cached>>,
}

impl StoreChange {
    /// The object's key.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        self.new.as_ref().or(self.old.as_ref()).map(|it| it.key.clone()).unwrap_or_default()
    }

    /// The same, in which one object goes and another comes where a list shows another object of the same name.
    fn of_one_object(&self) -> impl Iterator<Item = Self> {
        let (old, new) = (self.old.clone(), self.new.clone());
        let other = old.as_ref().zip(new.as_ref()).is_some_and(|(old, new)| old.uid != new.uid);
        let changes = if other {
            [Self { old, new: None }, Self { old: None, new }]
        } else {
            [Self { old, new }, Self { old: None, new: None }]
        };
        changes.into_iter().filter(|it| it.old.is_some() || it.new.is_some())
    }
}

/// The typed forms that a store keeps, the oldest first, each with the length of its text.
#[derive(Default)]
struct Typed {
    objects: VecDeque<(Weak<Cached>, usize)>,
    bytes: usize,
}

impl Typed {
    /// Notes one, and gives up the oldest until the rest may be kept.
    fn push(&mut self, object: &Arc<Cached>) {
        let length = object.object.stored().len();
        self.bytes += length;
        self.objects.push_back((Arc::downgrade(object), length));
        while self.bytes > TYPED_BYTES
            && let Some((oldest, length)) = self.objects.pop_front()
        {
            self.bytes -= length;
            if let Some(oldest) = oldest.upgrade() {
                oldest.typed.lock().take();
            }
        }
    }
}

/// Called for each change, in order, from the reflector's task: must be quick.
pub type Listener = Arc<dyn Fn(&StoreChange) + Send + Sync>;

/// Called when everything was read again; as quick.
pub type AfterList = Arc<dyn Fn() + Send + Sync>;

/// Finds the values under which an object is looked up. It should not decode those that lie under none: see
/// [`Cached::mentions`].
pub type Indexer = fn(&Cached) -> Vec<CompactString>;

/// An object, in the order of its key, which it has: a set of these is much smaller than a map.
struct ByKey(Arc<Cached>);

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

impl Borrow<ObjectKey> for ByKey {
    fn borrow(&self) -> &ObjectKey {
        &self.0.key
    }
}

#[derive(Default)]
struct State {
    objects: BTreeSet<ByKey>,
    indexes: BTreeMap<&'static str, Index>,
    /// Those whose decoded form is kept, the latest last.
    recent: VecDeque<Arc<Cached>>,
    /// The uids of those that went last, the latest last.
    gone: VecDeque<CompactString>,
    /// The version this is complete up to.
    revision: u64,
    synced: bool,
}

struct Index {
    indexer: Indexer,
    /// The objects themselves: whoever asks for ten thousand of them does not want as many searches.
    objects: BTreeMap<CompactString, BTreeSet<ByKey>>,
}

impl Index {
    fn remove(&mut self, value: &CompactString, key: &ObjectKey) {
        if let Some(objects) = self.objects.get_mut(value) {
            objects.remove(key);
            if objects.is_empty() {
                self.objects.remove(value);
            }
        }
    }

    fn put(&mut self, value: CompactString, object: &Arc<Cached>) {
        self.objects.entry(value).or_default().replace(ByKey(Arc::clone(object)));
    }
}

struct Shared {
    resource: Resource,
    state: RwLock<State>,
    listeners: Mutex<Vec<Listener>>,
    after_lists: Mutex<Vec<AfterList>>,
    typed: Mutex<Typed>,
    moved: Notify,
    /// Nobody keeps it up to date any more.
    over: AtomicBool,
}

/// What is known of a resource. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Store({}, {} objects)",
            self.0.resource.plural,
            self.0.state.read().objects.len()
        )
    }
}

impl Store {
    /// An empty store, for a [`Reflector`] to fill. `indexes` are names with what they look up by.
    #[must_use]
    pub fn new(resource: Resource, indexes: &[(&'static str, Indexer)]) -> Self {
        let indexes = indexes
            .iter()
            .map(|(name, indexer)| (*name, Index { indexer: *indexer, objects: BTreeMap::new() }));
        let state = State { indexes: indexes.collect(), ..State::default() };
        Self(Arc::new(Shared {
            resource,
            state: RwLock::new(state),
            listeners: Mutex::default(),
            after_lists: Mutex::default(),
            typed: Mutex::default(),
            moved: Notify::new(),
            over: AtomicBool::new(false),
        }))
    }

    /// Which resource this is of.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        &self.0.resource
    }

    /// An object.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<Cached>> {
        self.0.state.read().objects.get(key).map(|it| Arc::clone(&it.0))
    }

    /// Whether an object was seen going a short while ago. What was not may be there, be gone for longer, or be new.
    #[must_use]
    pub fn went(&self, uid: &str) -> bool {
        self.0.state.read().gone.iter().rev().any(|it| it == uid)
    }

    /// The objects of a namespace (of all, where it is empty), in order.
    #[must_use]
    pub fn list(&self, namespace: &str) -> Vec<Arc<Cached>> {
        let state = self.0.state.read();
        if namespace.is_empty() {
            return state.objects.iter().map(|it| Arc::clone(&it.0)).collect();
        }
        let from = ObjectKey::new(namespace, "");
        let objects = state.objects.range::<ObjectKey, _>(from..).map(|it| &it.0);
        objects.take_while(|it| it.key.namespace == namespace).map(Arc::clone).collect()
    }

    /// The objects that an index has under a value. An index that does not exist has none.
    #[must_use]
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<Cached>> {
        let state = self.0.state.read();
        let objects = state.indexes.get(index).and_then(|index| index.objects.get(value));
        objects.into_iter().flatten().map(|it| Arc::clone(&it.0)).collect()
    }

    /// Whether a namespace has any object.
    #[must_use]
    pub fn has_any(&self, namespace: &str) -> bool {
        let state = self.0.state.read();
        let first = state.objects.range::<ObjectKey, _>(ObjectKey::new(namespace, "")..).next();
        first.is_some_and(|it| it.0.key.namespace == namespace)
    }

    /// An object of this store as a Rust type, decoded once for all who ask while it is kept; `None` where it does not fit.
    #[must_use]
    pub fn typed<K: DeserializeOwned + Send + Sync + 'static>(
        &self,
        object: &Arc<Cached>,
    ) -> Option<Arc<K>> {
        let mut slot = object.typed.lock();
        if let Some(kept) = slot.clone().and_then(|it| it.downcast().ok()) {
            return Some(kept);
        }
        let made = Arc::new(object.decode::<K>()?);
        *slot = Some(Arc::clone(&made) as _);
        drop(slot);
        self.0.typed.lock().push(object);
        Some(made)
    }

    /// How many objects an index has under a value.
    #[must_use]
    pub fn count_index(&self, index: &str, value: &str) -> usize {
        let state = self.0.state.read();
        let objects = state.indexes.get(index).and_then(|index| index.objects.get(value));
        objects.map_or(0, BTreeSet::len)
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.state.read().objects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The version up to which every change is here, by events and bookmarks.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.state.read().revision
    }

    /// Whether everything there was at the start is here.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.0.state.read().synced
    }

    /// Whether nobody keeps it up to date any more: its resource is not there, or another store is kept of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.over.load(atomic::Ordering::Acquire)
    }

    /// Waits until the store is synced and has reached a version, or is over.
    pub async fn reached(&self, revision: u64) {
        loop {
            let mut moved = std::pin::pin!(self.0.moved.notified());
            moved.as_mut().enable();
            if self.is_over() {
                return;
            }
            {
                let state = self.0.state.read();
                if state.synced && state.revision >= revision {
                    return;
                }
            }
            moved.await;
        }
    }

    /// Calls `listener` for every change from now on, after it was told of all that is here.
    pub fn listen(&self, listener: Listener) {
        let mut listeners = self.0.listeners.lock();
        for object in self.list("") {
            listener(&StoreChange { old: None, new: Some(object) });
        }
        listeners.push(listener);
    }

    /// Calls `told` whenever everything was read again, because changes could not be followed any more: what came and went in
    /// the meantime was told to no listener.
    pub fn after_lists(&self, told: AfterList) {
        self.0.after_lists.lock().push(told);
    }

    /// Called with the lock on the listeners held, so that each sees every change once and in order.
    fn apply(&self, object: Option<Arc<Obj>>, key: &ObjectKey, revision: u64) {
        let listeners = self.0.listeners.lock();
        let new = object.map(|object| Arc::new(Cached::of(object)));
        if let Some(new) = &new {
            new.object.keep();
        }
        let change = {
            let mut state = self.0.state.write();
            state.revision = state.revision.max(revision);
            if let Some(new) = &new {
                state.share_owners(new);
            }
            let old = match &new {
                Some(object) => state.objects.replace(ByKey(Arc::clone(object))),
                None => state.objects.take(key),
            };
            let old = old.map(|it| it.0);
            if let Some(old) = &old {
                old.object.keep();
            }
            state.reindex(key, old.as_ref(), new.as_ref());
            if let Some(old) = &old
                && new.as_ref().is_none_or(|it| it.uid != old.uid)
            {
                state.bury(old);
            }
            StoreChange { old, new }
        };
        for change in change.of_one_object() {
            listeners.iter().for_each(|listener| listener(&change));
        }
        drop(listeners);
        if let Some(old) = &change.old {
            old.object.unkeep();
        }
        if let Some(new) = change.new {
            self.0.state.write().remember(new);
        }
        self.0.moved.notify_waiters();
    }

    fn bookmark(&self, revision: u64, synced: bool) {
        {
            let mut state = self.0.state.write();
            state.revision = state.revision.max(revision);
            state.synced |= synced;
        }
        self.0.moved.notify_waiters();
    }

    /// Forgets what a complete list did not name.
    fn retain(&self, seen: &BTreeSet<ObjectKey>) {
        let gone: Vec<ObjectKey> = {
            let state = self.0.state.read();
            let keys = state.objects.iter().map(|it| &it.0.key);
            keys.filter(|key| !seen.contains(*key)).cloned().collect()
        };
        for key in gone {
            self.apply(None, &key, 0);
        }
    }

    /// Everything was read, not followed: of what came and went in between there was no change to tell.
    fn listed(&self) {
        self.0.after_lists.lock().iter().for_each(|told| told());
    }
}

impl State {
    /// The decoded form of an object that just changed is kept until as many others have changed.
    fn remember(&mut self, object: Arc<Cached>) {
        self.recent.push_back(object);
        if self.recent.len() > RECENT
            && let Some(first) = self.recent.pop_front()
        {
            first.object.unkeep();
        }
    }

    /// An object went, and so did its uid for ever.
    fn bury(&mut self, object: &Cached) {
        if self.gone.len() == GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(object.uid.clone());
    }

    /// Gives an object the owners of one beside it that names the same: those that one owner has made lie side by side.
    fn share_owners(&self, new: &Cached) {
        let Some(text) = new.text_of_owners() else { return };
        let after = self.objects.range::<ObjectKey, _>(&new.key..).next();
        let before = self.objects.range::<ObjectKey, _>(..&new.key).next_back();
        let mut beside = after.into_iter().chain(before).map(|it| &it.0);
        if let Some(like) = beside.find(|it| it.text_of_owners() == Some(text)) {
            let _ = new.owners.set(Arc::clone(like.shared_owners()));
        }
    }

    /// What an object lies under follows from it, so that nothing of it is kept.
    fn reindex(&mut self, key: &ObjectKey, old: Option<&Arc<Cached>>, new: Option<&Arc<Cached>>) {
        for index in self.indexes.values_mut() {
            let before = old.map(|it| (index.indexer)(it)).unwrap_or_default();
            let now = new.map(|it| (index.indexer)(it)).unwrap_or_default();
            before.iter().filter(|it| !now.contains(it)).for_each(|it| index.remove(it, key));
            for (value, new) in now.into_iter().zip(std::iter::repeat(new).flatten()) {
                index.put(value, new);
            }
        }
    }
}

/// Keeps a store up to date.
#[derive(Debug)]
pub struct Reflector {
    client: Client,
    store: Store,
    namespace: String,
    params: ListParams,
    random: Arc<dyn Random>,
}

impl Reflector {
    /// Fills `store` with the objects of a namespace (of all, where it is empty) that `params` select.
    #[must_use]
    pub fn new(
        client: Client,
        store: Store,
        namespace: &str,
        params: ListParams,
        random: Arc<dyn Random>,
    ) -> Self {
        Self { client, store, namespace: namespace.into(), params, random }
    }

    /// Runs until `stop`. Failures are logged and tried again.
    pub async fn run(self, stop: ShutdownSignal) {
        let mut backoff = MIN_BACKOFF;
        let mut fresh = true;
        loop {
            let before = self.store.revision();
            let result = tokio::select! {
                biased;
                result = self.follow(&mut fresh) => result,
                () = stop.requested() => return,
            };
            if self.store.revision() > before {
                backoff = MIN_BACKOFF;
            }
            match result {
                // The server ended the watch in the ordinary way.
                Ok(()) => {
                    if self.store.revision() > before || before > 0 {
                        backoff = MIN_BACKOFF;
                    }
                }
                Err(error) => {
                    fresh |= error.is_expired();
                    if !error.is_expired() {
                        tracing::warn!(resource = %self.store.resource().plural, %error, "watch failed, will try again");
                    }
                }
            }
            let jitter = 0.5 + self.random.fraction();
            tokio::select! {
                biased;
                () = tokio::time::sleep(backoff.mul_f64(jitter)) => {}
                () = stop.requested() => return,
            }
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// Follows what changes from what the store has on, or, where that is too old or nothing, from what is there now:
    /// `fresh` says so until all of that was seen.
    async fn follow(&self, fresh: &mut bool) -> Result<(), ClientError> {
        let revision = self.store.revision();
        let resume = !*fresh && revision > 0;
        let mut params = self.params.clone();
        params.resource_version = if resume { revision.to_string() } else { String::new() };
        let mut watch =
            self.client.watch(self.store.resource(), &self.namespace, &params, !resume).await?;
        if !resume {
            self.initial(&mut watch).await?;
            *fresh = false;
        }
        while let Some(event) = watch.next().await? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let (key, revision) = (key_of(&object), object.resource_version);
                    self.store.apply(Some(object), &key, revision);
                }
                WatchEvent::Deleted(object) => {
                    self.store.apply(None, &key_of(&object), object.resource_version);
                }
                WatchEvent::Bookmark { resource_version, .. } => {
                    self.store.bookmark(resource_version, false);
                }
                WatchEvent::Error(status) => return Err(ClientError::Api(status)),
            }
        }
        Ok(())
    }

    /// Everything there is, up to the bookmark that says so. Objects come by name: until the last of them, the store is
    /// complete up to no version that is newer than what it had.
    async fn initial(&self, watch: &mut Watch) -> Result<(), ClientError> {
        let mut seen = BTreeSet::new();
        while let Some(event) = watch.next().await? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let key = key_of(&object);
                    let known = self
                        .store
                        .get(&key)
                        .is_some_and(|it| it.resource_version() == object.resource_version);
                    if !known {
                        self.store.apply(Some(object), &key, 0);
                    }
                    seen.insert(key);
                }
                WatchEvent::Deleted(object) => {
                    let key = key_of(&object);
                    seen.remove(&key);
                    self.store.apply(None, &key, 0);
                }
                WatchEvent::Bookmark { resource_version, initial_end } => {
                    if initial_end {
                        self.store.retain(&seen);
                        self.store.bookmark(resource_version, true);
                        self.store.listed();
                        return Ok(());
                    }
                }
                WatchEvent::Error(status) => return Err(ClientError::Api(status)),
            }
        }
        Err(ClientError::Decode("the watch ended before its initial events did".into()))
    }
}

/// The caches that components of one process share: one reflector a resource.
#[derive(Debug)]
pub struct Caches {
    client: Client,
    random: Arc<dyn Random>,
    stop: ShutdownSignal,
    stores: Mutex<BTreeMap<Resource, (Store, AbortHandle)>>,
    /// The same of built-in resources, which are never forgotten, by their Rust types.
    typed: RwLock<BTreeMap<TypeId, Store>>,
}

impl Caches {
    /// No caches yet; each begins when it is first asked for.
    #[must_use]
    pub fn new(client: Client, random: Arc<dyn Random>, stop: ShutdownSignal) -> Arc<Self> {
        Arc::new(Self { client, random, stop, stores: Mutex::default(), typed: RwLock::default() })
    }

    /// The cache of a resource, whose reflector runs from now on. It has the indexes of [`indexes`].
    pub fn store(&self, resource: &Resource) -> Store {
        let mut stores = self.stores.lock();
        if let Some((store, _)) = stores.get(resource) {
            return store.clone();
        }
        let store = Store::new(resource.clone(), &indexes(resource));
        let reflector = Reflector::new(
            self.client.clone(),
            store.clone(),
            "",
            ListParams::default(),
            Arc::clone(&self.random),
        );
        let running = tokio::spawn(reflector.run(self.stop.clone()));
        stores.insert(resource.clone(), (store.clone(), running.abort_handle()));
        store
    }

    /// Whether there are caches, and all of them are filled.
    #[must_use]
    pub fn are_synced(&self) -> bool {
        let stores = self.stores.lock();
        !stores.is_empty() && stores.values().all(|(store, _)| store.is_synced())
    }

    /// Follows a resource no more: it is not served any more. Who has its cache keeps it as it is.
    pub fn forget(&self, resource: &Resource) {
        if let Some((store, running)) = self.stores.lock().remove(resource) {
            running.abort();
            store.0.over.store(true, atomic::Ordering::Release);
            store.0.moved.notify_waiters();
        }
    }

    /// The cache of a resource, if there is one already.
    #[must_use]
    pub fn known(&self, resource: &Resource) -> Option<Store> {
        self.stores.lock().get(resource).map(|(store, _)| store.clone())
    }

    /// The cache of a Rust type's resource.
    pub fn store_of<K: k8s_openapi::Resource + 'static>(&self) -> Store {
        let of = TypeId::of::<K>();
        if let Some(store) = self.typed.read().get(&of) {
            return store.clone();
        }
        let store = self.store(&Resource::of::<K>());
        self.typed.write().insert(of, store.clone());
        store
    }

    /// Waits until every cache that was asked for is synced.
    pub async fn synced(&self) {
        let stores: Vec<Store> = self.stores.lock().values().map(|(it, _)| it.clone()).collect();
        for store in stores {
            store.reached(0).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;
    use async_trait::async_trait;
    use bytes::Bytes;
    use futures::StreamExt as _;
    use http::{Request, Response};

    use super::*;
    use crate::transport::{ResponseStream, Transport, TransportError};

    #[test]
    fn who_went_is_remembered_for_a_while() {
        let store = Store::new(Resource::built_in("", "pods"), &[]);
        let key = |name: &str| ObjectKey::new("ns", name);
        let put = |name: &str, uid: &str| {
            let metadata = value!({"namespace": "ns", "name": name, "uid": uid});
            let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata});
            let object = Cached::new(pod).object;
            store.apply(Some(object), &key(name), 1);
        };
        let went = |uids: &[&str]| uids.iter().map(|it| store.went(it)).collect::<Vec<_>>();
        put("a", "1");
        put("a", "1");
        assert_eq!(went(&["1", "2"]), [false, false]);
        // Another one with its name says that it is gone as well as its end does.
        put("a", "2");
        assert_eq!(went(&["1", "2"]), [true, false]);
        store.apply(None, &key("a"), 2);
        store.apply(None, &key("a"), 3);
        assert_eq!(went(&["1", "2", "3"]), [true, true, false]);
        for nth in 0..GONE {
            put("b", &format!("b{nth}"));
        }
        assert_eq!(went(&["1", "2", "b0"]), [false, true, true]);
    }

    /// Answers each watch with the lines that are next, and remembers what was asked.
    #[derive(Debug, Default)]
    struct Script {
        answers: Mutex<VecDeque<Vec<String>>>,
        asked: Mutex<Vec<String>>,
    }

    #[async_trait]
    impl Transport for Script {
        async fn send(
            &self,
            request: Request<Bytes>,
        ) -> Result<Response<ResponseStream>, TransportError> {
            self.asked.lock().push(request.uri().to_string());
            let Some(lines) = self.answers.lock().pop_front() else {
                return std::future::pending().await;
            };
            let lines = lines.into_iter().map(|it| Ok(Bytes::from(it + "\n")));
            Ok(Response::new(futures::stream::iter(lines).boxed()))
        }
    }

    fn event(kind: &str, name: &str, version: u64) -> String {
        format!(
            r#"{{"type":"{kind}","object":{{"apiVersion":"v1","kind":"Pod","metadata":{{"namespace":"ns","name":"{name}","uid":"{name}","resourceVersion":"{version}"}}}}}}"#
        )
    }

    fn end_of_list(version: u64) -> String {
        format!(
            r#"{{"type":"BOOKMARK","object":{{"apiVersion":"v1","kind":"Pod","metadata":{{"resourceVersion":"{version}","annotations":{{"k8s.io/initial-events-end":"true"}}}}}}}}"#
        )
    }

    /// A list that breaks off says nothing of what it had not come to: it is read again from its start, and the store is
    /// complete up to no newer version meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_list_that_breaks_off_is_read_again() {
        let expired =
            r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#;
        let script = Arc::new(Script::default());
        script.answers.lock().extend([
            vec![event("ADDED", "z", 3), end_of_list(5), expired.to_owned()],
            vec![event("ADDED", "a", 9)],
            vec![event("ADDED", "a", 9), event("ADDED", "z", 7), end_of_list(9)],
        ]);
        let stop = component_base::Shutdown::new();
        let random: Arc<dyn Random> = Arc::new(component_base::SeededRandom::new(1));
        let client = Client::new(Arc::clone(&script) as Arc<dyn Transport>, "test");
        let store = Store::new(Resource::built_in("", "pods"), &[]);
        let seen: Arc<Mutex<Vec<(String, u64)>>> = Arc::default();
        let (told, told_lists, of) = (Arc::clone(&seen), Arc::clone(&seen), store.clone());
        store.listen(Arc::new(move |change| {
            told.lock().push((change.key().name.to_string(), of.revision()));
        }));
        let of = store.clone();
        store.after_lists(Arc::new(move || told_lists.lock().push(("all".into(), of.revision()))));
        let reflector = Reflector::new(client, store.clone(), "", ListParams::default(), random);
        tokio::spawn(reflector.run(stop.signal()));
        store.reached(9).await;
        let expected = [("z", 0), ("all", 5), ("a", 5), ("z", 5), ("all", 9)];
        let expected = expected.map(|(name, revision)| (name.to_owned(), revision));
        tokio::task::yield_now().await;
        assert_eq!(*seen.lock(), expected);
        let asked = script.asked.lock();
        let lists = asked.iter().filter(|it| it.contains("sendInitialEvents=true")).count();
        assert_eq!(lists, 3, "{asked:?}");
    }
}
