//! The caches as admission and authorization read them.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock, Weak};

use api::ResourceFacts;
use apimachinery::obj::{self, Obj};
use apimachinery::{Status, Value};
use async_trait::async_trait;
use auth::objects::{Change, Changes, Feed};
use component_base::metrics::RestClient;
use storage::{At, Expect, Key, StorageError};

use crate::cache::{Cache, Change as CacheChange, Cursor, Next, cache_key};
use crate::catalog::Catalog;
use crate::conversion::{self, Direction};
use crate::error;
use crate::hub::{Hub, object_of};

/// How many changes a feed takes from a cache at once.
const FEED_EVENTS: usize = 1_000;

/// Other objects, for those who judge a request.
#[derive(Debug)]
pub struct CachedObjects {
    hub: Arc<Hub>,
    catalog: Arc<Catalog>,
}

impl CachedObjects {
    pub(crate) fn new(hub: Arc<Hub>, catalog: Arc<Catalog>) -> Self {
        Self { hub, catalog }
    }

    /// The cache of a resource, whatever version.
    #[must_use]
    pub fn cache(&self, group: &str, resource: &str) -> Option<Cow<'_, Arc<Cache>>> {
        match self.catalog.built_in().place(group, resource) {
            Some(place) => Some(Cow::Borrowed(self.hub.cache(place))),
            None => self.catalog.custom_cache(group, resource).map(Cow::Owned),
        }
    }

    /// Every resource that has objects, in the version in which they are stored: built-in ones, then custom ones.
    #[must_use]
    pub fn resources(&self) -> Vec<&'static ResourceFacts> {
        let built_in = self.catalog.built_in().resources().iter();
        let built_in = built_in.filter_map(|it| it.served().first()).map(|it| it.facts);
        let custom = self.catalog.custom();
        let custom = custom.installed().map(|it| it.definition.storage().facts());
        built_in.chain(custom).collect()
    }
}

/// Finds services without keeping the caches, which know who asks.
#[derive(Debug)]
pub(crate) struct Services {
    objects: Weak<CachedObjects>,
    /// Where calls of what is found are counted, once that is known.
    calls: OnceLock<RestClient>,
}

impl Services {
    pub(crate) fn new(objects: &Arc<CachedObjects>) -> Self {
        Self { objects: Arc::downgrade(objects), calls: OnceLock::new() }
    }

    /// Calls of what is found are counted there from now on.
    pub(crate) fn count_in(&self, calls: RestClient) {
        let _ = self.calls.set(calls);
    }
}

impl webhook::Resolver for Services {
    fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<String, String> {
        let objects = self.objects.upgrade().ok_or("the server is stopping")?;
        admission::services::Services::new(objects).resolve(namespace, name, port)
    }

    fn calls(&self) -> Option<&RestClient> {
        self.calls.get()
    }
}

/// A place in the changes of a cache; `None` before the first.
#[derive(Debug)]
struct CacheFeed {
    cache: Arc<Cache>,
    at: Option<Cursor>,
}

impl CacheFeed {
    fn all(&mut self) -> Changes {
        let snapshot = self.cache.everything("", 0);
        self.at = Some(snapshot.cursor);
        Changes::All(snapshot.objects.into_objects())
    }
}

impl Feed for CacheFeed {
    fn is_behind(&self) -> bool {
        self.at.is_none_or(|at| at != self.cache.end())
    }

    fn take(&mut self) -> Changes {
        let mut changes = Vec::new();
        loop {
            let Some(at) = self.at else { return self.all() };
            let (Next::Events(events, next), _) = self.cache.read(at, FEED_EVENTS) else {
                return self.all();
            };
            self.at = Some(next);
            if events.is_empty() {
                return Changes::Some(changes);
            }
            changes.extend(events.iter().map(|event| Change {
                object: Arc::clone(&event.object),
                deleted: event.change == CacheChange::Deleted,
            }));
        }
    }
}

fn key(cache: &Cache, namespace: &str, name: &str) -> Key {
    Key::from(format!("{}{}", cache.resource().storage_prefix(), cache_key(namespace, name)))
}

#[async_trait]
impl auth::Objects for CachedObjects {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Obj>> {
        self.cache(group, resource)?.get(&cache_key(namespace, name))
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Obj>> {
        let cache = self.cache(group, resource);
        cache.map(|cache| cache.all_in(namespace)).unwrap_or_default()
    }

    fn feed(&self, group: &str, resource: &str) -> Option<Box<dyn Feed>> {
        let cache = self.cache(group, resource)?.into_owned();
        Some(Box::new(CacheFeed { cache, at: None }))
    }

    async fn get_live(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Obj>>, Status> {
        let Some(cache) = self.cache(group, resource) else { return Ok(None) };
        let read = self.hub.store().get(&key(&cache, namespace, name), At::Latest).await;
        let (kv, _) = read.map_err(|error| error::general(&error))?;
        kv.map(|kv| object_of(cache.resource().as_ref(), &kv))
            .transpose()
            .map_err(|error| error::general(&error))
    }
}

#[async_trait]
impl admission::Objects for CachedObjects {
    async fn compare_and_set_status(
        &self,
        group: &str,
        resource: &str,
        value: Value,
    ) -> Result<bool, Status> {
        let Some(cache) = self.cache(group, resource) else { return Ok(false) };
        let (namespace, name) =
            (value.str_at(&["metadata", "namespace"]), value.str_at(&["metadata", "name"]));
        let key = key(&cache, namespace, name);
        let (kv, _) =
            self.hub.store().get(&key, At::Latest).await.map_err(|error| error::general(&error))?;
        let version = value.str_at(&["metadata", "resourceVersion"]);
        let Some(kv) = kv.filter(|kv| kv.mod_rev.0.to_string() == version) else {
            return Ok(false);
        };
        let mut stored = obj::decode(&kv.value, kv.mod_rev.0).map_err(Status::internal)?;
        stored.set_at(&["status"], value.get("status").cloned().unwrap_or_default());
        match self
            .hub
            .store()
            .put(key, obj::encode(&stored).into(), Expect::ModRev(kv.mod_rev), None)
            .await
        {
            Ok(_) => Ok(true),
            Err(StorageError::Conflict { .. } | StorageError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error::general(&error)),
        }
    }

    fn resource_of_kind(
        &self,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Option<&'static ResourceFacts> {
        self.catalog.of_kind(group, version, kind)
    }

    async fn in_version(
        &self,
        object: &Obj,
        version: &'static ResourceFacts,
    ) -> Result<Arc<Value>, String> {
        let value = object.value().map_err(|error| error.to_string())?;
        let found = self.catalog.find(version.group, version.version, version.resource);
        let found = found.ok_or_else(|| format!("{} is not served", version.api_version()))?;
        if value.str_at(&["apiVersion"]) == version.api_version() {
            return Ok(value);
        }
        if let Some(conversion) = &found.conversion {
            let (from, to) = (value.str_at(&["apiVersion"]), version.api_version());
            let direction = Direction { from, to: &to, kind: version.kind };
            let converted = conversion::one(conversion, direction, &value).await;
            let mut value = converted.map_err(|status| status.message)?;
            found.resource.ingest(&mut value);
            return Ok(Arc::new(value));
        }
        let mut value = Value::clone(&value);
        found.resource.from_storage(&found.served, &mut value);
        Ok(Arc::new(value))
    }
}
