//! From the store to the caches: one task reads every change under `/registry/` and applies it.

mod anew;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apimachinery::Value;
use apimachinery::obj::{self, Facts, Obj, ObjError};
use arc_swap::ArcSwap;
use bytes::Bytes;
use compact_str::CompactString;
use component_base::ShutdownSignal;
use futures::StreamExt;
use registry::{AnyResource, Registry};
use storage::{At, Damage, Key, Kv, RangeReq, Rev, StorageError, Store};

use crate::cache::{Cache, Progress};
use crate::noted::{Note, Noted};

/// What every key begins with.
const ROOT: &str = "/registry/";
/// How many objects are read from the store at once when the server starts.
const LOAD_PAGE: usize = 2_000;
/// How many of the objects that changed last stay decoded, for those in this process who follow the changes.
const KEPT: usize = 64;

/// All caches.
#[derive(Debug)]
pub struct Hub {
    store: Arc<dyn Store>,
    caches: Vec<Arc<Cache>>,
    /// Storage prefix to cache, for demultiplexing.
    by_prefix: BTreeMap<String, usize>,
    /// The same for resources that come and go. While one cache takes over from another both are fed.
    custom: ArcSwap<BTreeMap<String, Vec<Arc<Cache>>>>,
    progress: Arc<Progress>,
    noted: Noted,
    /// Changes are being applied.
    runs: AtomicBool,
}

impl Hub {
    /// The caches of a registry, filled from the store.
    ///
    /// # Errors
    /// When the store cannot be read, or holds what is not an object.
    pub async fn load(store: Arc<dyn Store>, registry: &Registry) -> Result<Self, StorageError> {
        let progress = Arc::new(Progress::default());
        let caches: Vec<_> = registry
            .resources()
            .iter()
            .map(|resource| Arc::new(Cache::new(Arc::clone(resource), Arc::clone(&progress))))
            .collect();
        let by_prefix: BTreeMap<String, usize> = caches
            .iter()
            .enumerate()
            .map(|(index, cache)| (cache.resource().storage_prefix().to_owned(), index))
            .collect();
        assert_eq!(
            by_prefix.len(),
            caches.len(),
            "no two resources may be stored under one prefix"
        );
        let (custom, noted, runs) = Default::default();
        let hub = Self { store, caches, by_prefix, custom, progress, noted, runs };
        let revision = hub.read_all().await?;
        hub.caches.iter().for_each(|cache| cache.loaded(revision.0));
        hub.progress.advance(revision.0);
        Ok(hub)
    }

    async fn read_all(&self) -> Result<Rev, StorageError> {
        let mut request = everything();
        loop {
            let page = self.store.range(request.clone()).await?;
            for kv in &page.kvs {
                let Some((Route::BuiltIn(cache), key)) = self.route(&kv.key) else { continue };
                match object_of(cache.resource().as_ref(), kv) {
                    Ok(object) => cache.load(key, object),
                    Err(error) => hide(cache, key, &unread(error)?),
                }
            }
            if !page.more {
                return Ok(page.rev);
            }
            request.after = page.kvs.last().map(|kv| kv.key.clone());
            request.at = At::Exactly(page.rev);
        }
    }

    /// The cache of the resource with this place in the registry.
    #[must_use]
    pub fn cache(&self, index: usize) -> &Arc<Cache> {
        &self.caches[index]
    }

    /// All caches of built-in resources.
    #[must_use]
    pub fn caches(&self) -> &[Arc<Cache>] {
        &self.caches
    }

    /// A cache of a resource that is new while the server runs, filled from the store and fed from now on.
    ///
    /// # Errors
    /// When the store cannot be read, or holds what is not an object.
    pub(crate) async fn add(
        &self,
        resource: Arc<dyn AnyResource>,
    ) -> Result<Arc<Cache>, StorageError> {
        let prefix = resource.storage_prefix().to_owned();
        let cache = Arc::new(Cache::filling(resource, Arc::clone(&self.progress)));
        self.feed(&prefix, |caches| caches.push(Arc::clone(&cache)));
        let filled = self.fill(&prefix, &cache).await;
        if filled.is_err() {
            self.remove(&cache);
        }
        filled.map(|()| cache)
    }

    /// Feeds a cache no more; its watches end.
    pub(crate) fn remove(&self, cache: &Arc<Cache>) {
        let prefix = cache.resource().storage_prefix().to_owned();
        self.feed(&prefix, |caches| caches.retain(|it| !Arc::ptr_eq(it, cache)));
        cache.retire();
    }

    fn feed(&self, prefix: &str, change: impl Fn(&mut Vec<Arc<Cache>>)) {
        self.custom.rcu(|custom| {
            let mut custom = BTreeMap::clone(custom);
            let caches = custom.entry(prefix.to_owned()).or_default();
            change(caches);
            if caches.is_empty() {
                custom.remove(prefix);
            }
            custom
        });
    }

    /// Reads the objects as they are now: the cache is fed already, so that every later change comes through it, and what
    /// was not routed to it before is in the store. Before the hub runs, that is where the caches are.
    async fn fill(&self, prefix: &str, cache: &Cache) -> Result<(), StorageError> {
        let loaded = Rev(self.progress.revision());
        let at = if self.runs.load(Ordering::Acquire) { At::Latest } else { At::Exactly(loaded) };
        let mut request = RangeReq {
            prefix: Key::from(prefix),
            after: None,
            limit: LOAD_PAGE,
            keys_only: false,
            at,
        };
        let mut objects = Vec::new();
        loop {
            let page = self.store.range(request.clone()).await?;
            for kv in &page.kvs {
                let name = String::from_utf8_lossy(&kv.key.as_bytes()[prefix.len()..]);
                let name: CompactString = name.as_ref().into();
                match object_of(cache.resource().as_ref(), kv) {
                    Ok(object) => objects.push((name, object)),
                    Err(error) => hide(cache, name, &unread(error)?),
                }
            }
            request.after = page.kvs.last().map(|kv| kv.key.clone());
            request.at = At::Exactly(page.rev);
            if !page.more {
                cache.fill(objects, page.rev.0);
                // A list of this cache says how far all caches are: it may not be ahead of them.
                self.progress.reached(page.rev.0).await;
                return Ok(());
            }
        }
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// How far the caches are.
    #[must_use]
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// The objects of a namespace (of all, where it is empty) that cannot be read, at most `most` of them: what could not be
    /// when it came is tried again.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub(crate) async fn reveal(
        &self,
        cache: &Cache,
        namespace: &str,
        most: usize,
    ) -> Result<Vec<Hidden>, StorageError> {
        let prefix = cache.resource().storage_prefix();
        let mut hidden = Vec::new();
        for name in cache.hidden(namespace) {
            if hidden.len() >= most {
                break;
            }
            let key = Key::from(format!("{prefix}{name}"));
            let kv = match self.store.get(&key, At::Latest).await {
                Ok((kv, _)) => kv,
                Err(StorageError::Transform(why)) => {
                    hidden.push(Hidden { key, at: Rev(0), damage: Damage::Sealed(why) });
                    continue;
                }
                Err(error) => return Err(error),
            };
            let read = kv.as_ref().map(|kv| object_of(cache.resource().as_ref(), kv)).transpose();
            match (read, kv) {
                (Err(error), Some(kv)) => {
                    let why = unread(error)?;
                    let damage = kv.damage().unwrap_or(Damage::Broken(why));
                    hidden.push(Hidden { key, at: kv.mod_rev, damage });
                }
                (Ok(object), _) => cache.reveal(&name, object),
                (Err(error), None) => return Err(error),
            }
        }
        Ok(hidden)
    }

    /// Waits until the caches hold everything that was acknowledged before this call.
    ///
    /// # Errors
    /// When the store cannot tell its revision.
    pub async fn catch_up(&self) -> Result<u64, StorageError> {
        let now = self.store.progress().await?.0;
        self.progress.reached(now).await;
        Ok(now)
    }

    /// The cache a key belongs to, and its name there. A key is `/registry/` resource `/` and the rest; resources of other
    /// groups than the core one may have the group in between.
    fn route(&self, key: &Key) -> Option<(Route<'_>, CompactString)> {
        let text = std::str::from_utf8(key.as_bytes()).ok()?;
        let mut end = ROOT.len();
        // One or two segments name the resource.
        for _ in 0..2 {
            end += text.get(end..)?.find('/')? + 1;
            if let Some(index) = self.by_prefix.get(&text[..end]) {
                return Some((Route::BuiltIn(&self.caches[*index]), text[end..].into()));
            }
        }
        // Those of custom resources are always two.
        let caches = self.custom.load().get(&text[..end])?.clone();
        Some((Route::Custom(caches), text[end..].into()))
    }

    /// Remembers a value that is about to be stored as these bytes.
    pub(crate) fn note(&self, resource: &dyn AnyResource, value: Value, bytes: &Bytes) {
        self.noted.add(bytes, Note { facts: facts(resource, &value), value });
    }

    /// Forgets what was noted of a value that was not stored.
    pub(crate) fn forget(&self, bytes: &Bytes) {
        let _note = self.noted.take(bytes);
    }

    /// The object of a change, decoded where its writer is another process or was an earlier one.
    fn written(&self, resource: &dyn AnyResource, kv: &Kv) -> Result<Arc<Obj>, StorageError> {
        match self.noted.take(&kv.value) {
            // Where the definition has changed since, other fields may be selectable now.
            Some(Note { facts, value })
                if facts.fields().len() == resource.selectable_fields().len() =>
            {
                let object = Obj::with_facts(kv.value.clone(), kv.mod_rev.0, facts);
                stored(kv, object.inspect(|object| object.keep_value(value)))
            }
            Some(_) | None => object_of(resource, kv),
        }
    }

    fn apply(
        &self,
        cache: &Cache,
        key: &CompactString,
        event: &storage::Event,
    ) -> Result<Option<Arc<Obj>>, StorageError> {
        cache.receive();
        let object = match &event.value {
            Some(kv) => match self.written(cache.resource().as_ref(), kv) {
                Ok(object) => Some(object),
                Err(error) => {
                    hide(cache, key.clone(), &unread(error)?);
                    return Ok(None);
                }
            },
            None => None,
        };
        let unknown = object.is_none() && cache.is_hidden(key);
        cache.apply(key, event.rev.0, object.clone());
        if unknown {
            // Nobody can be told what went: who may have known it lists again.
            cache.forget(event.rev.0);
        }
        Ok(object)
    }

    /// Applies changes until the server stops. Where the store has forgotten changes before they were read, the objects are
    /// read anew.
    ///
    /// # Errors
    /// When the store's changes cannot be followed any more.
    pub async fn run(&self, stop: ShutdownSignal) -> Result<(), StorageError> {
        self.runs.store(true, Ordering::Release);
        loop {
            match self.follow(&stop).await {
                Err(StorageError::Compacted { oldest }) => {
                    tracing::warn!(
                        oldest = oldest.0,
                        "the store has forgotten changes before they were read: everything is read anew"
                    );
                    self.read_until_it_is_read(&stop).await?;
                }
                over => return over,
            }
        }
    }

    async fn follow(&self, stop: &ShutdownSignal) -> Result<(), StorageError> {
        let mut changes = self.store.watch(Key::from(ROOT), Rev(self.progress.revision()));
        let mut kept = VecDeque::with_capacity(KEPT + 1);
        loop {
            let batch = tokio::select! {
                biased;
                batch = changes.next() => batch,
                () = stop.requested() => return Ok(()),
            };
            let Some(batch) = batch else {
                return Err(StorageError::Unavailable("the store ended its watch".into()));
            };
            let batch = batch?;
            for event in &batch.events {
                match self.route(&event.key) {
                    Some((Route::BuiltIn(cache), key)) => {
                        kept.extend(self.apply(cache, &key, event)?);
                    }
                    Some((Route::Custom(caches), key)) => {
                        for cache in &caches {
                            kept.extend(self.apply(cache, &key, event)?);
                        }
                    }
                    None => continue,
                }
                while kept.len() > KEPT {
                    kept.pop_front().inspect(|object: &Arc<Obj>| object.unkeep());
                }
            }
            self.progress.advance(batch.progress.0);
        }
    }
}

/// The first page of all there is, as it is now.
fn everything() -> RangeReq {
    RangeReq {
        prefix: Key::from(ROOT),
        after: None,
        limit: LOAD_PAGE,
        keys_only: false,
        at: At::Latest,
    }
}

/// An object that is stored and cannot be read.
#[derive(Debug)]
pub(crate) struct Hidden {
    pub(crate) key: Key,
    /// Where it was written; 0 where that is not known.
    pub(crate) at: Rev,
    pub(crate) damage: Damage,
}

impl Hidden {
    /// What reading it says.
    pub(crate) fn error(&self) -> StorageError {
        let (Damage::Sealed(why) | Damage::Broken(why)) = &self.damage;
        StorageError::Transform(format!("unable to transform key \"{}\": {why}", self.key))
    }
}

/// Why an object cannot be read, where it is the object's fault.
fn unread(error: StorageError) -> Result<String, StorageError> {
    match error {
        StorageError::Transform(why) | StorageError::Corrupt(why) => Ok(why),
        other => Err(other),
    }
}

/// Notes an object that cannot be read. The others of its resource can. The first is told, since there may be thousands.
fn hide(cache: &Cache, key: CompactString, why: &str) {
    if cache.hide(key) {
        tracing::warn!(
            error = why,
            "a stored object cannot be read, and maybe others of its resource"
        );
    }
}

/// Whom a key belongs to.
enum Route<'h> {
    BuiltIn(&'h Arc<Cache>),
    Custom(Vec<Arc<Cache>>),
}

impl Route<'_> {
    fn caches(&self) -> &[Arc<Cache>] {
        match self {
            Self::BuiltIn(cache) => std::slice::from_ref(*cache),
            Self::Custom(caches) => caches,
        }
    }
}

/// The object of a stored value.
///
/// # Errors
/// When the value is not an object.
pub fn object_of(resource: &dyn AnyResource, kv: &Kv) -> Result<Arc<Obj>, StorageError> {
    kv.readable()?;
    if resource.is_custom() {
        let value = apimachinery::json::parse(&kv.value);
        let mut value = value.map_err(|error| corrupt(kv, &error))?;
        if resource.ingest(&mut value) {
            let bytes = obj::encode_custom(&value).into();
            let facts = facts(resource, &value);
            return stored(kv, Obj::with_facts(bytes, kv.mod_rev.0, facts));
        }
    }
    let object = Obj::from_stored(kv.value.clone(), kv.mod_rev.0, |value| facts(resource, value));
    stored(kv, object)
}

/// What reads select the objects of a resource by.
fn facts(resource: &dyn AnyResource, value: &Value) -> Facts {
    obj::facts(value, &resource.field_values(value))
}

fn stored(kv: &Kv, object: Result<Obj, ObjError>) -> Result<Arc<Obj>, StorageError> {
    object.map(Arc::new).map_err(|error| corrupt(kv, &error))
}

fn corrupt(kv: &Kv, error: &dyn std::fmt::Display) -> StorageError {
    StorageError::Corrupt(format!("{}: {error}", kv.key))
}
