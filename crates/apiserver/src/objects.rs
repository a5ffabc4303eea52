//! The caches as admission and authorization read them.

use std::sync::Arc;

use admission::Objects;
use apimachinery::obj::{self, Obj};
use apimachinery::{Status, Value};
use async_trait::async_trait;
use registry::Registry;
use storage::{At, Expect, Key, StorageError};

use crate::cache::{Cache, cache_key};
use crate::error;
use crate::hub::{Hub, object_of};

/// Other objects, for those who judge a request.
#[derive(Debug)]
pub struct CachedObjects {
    hub: Arc<Hub>,
    registry: Registry,
}

impl CachedObjects {
    pub(crate) fn new(hub: Arc<Hub>, registry: Registry) -> Self {
        Self { hub, registry }
    }

    /// The cache of a resource, whatever version.
    #[must_use]
    pub fn cache(&self, group: &str, resource: &str) -> Option<&Arc<Cache>> {
        let index = self.registry.resources().iter().position(|it| {
            it.served()
                .iter()
                .any(|served| served.facts.group == group && served.facts.resource == resource)
        })?;
        Some(self.hub.cache(index))
    }
}

fn key(cache: &Cache, namespace: &str, name: &str) -> Key {
    Key::from(format!("{}{}", cache.resource().storage_prefix(), cache_key(namespace, name)))
}

#[async_trait]
impl Objects for CachedObjects {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Obj>> {
        self.cache(group, resource)?.get(&cache_key(namespace, name))
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Obj>> {
        let cache = self.cache(group, resource);
        cache.map(|cache| cache.snapshot(namespace, 0, |_| true).objects).unwrap_or_default()
    }

    async fn get_live(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Obj>>, Status> {
        let Some(cache) = self.cache(group, resource) else { return Ok(None) };
        let read = self.hub.store().get(&key(cache, namespace, name), At::Latest).await;
        let (kv, _) = read.map_err(|error| error::general(&error))?;
        kv.map(|kv| object_of(cache.resource().as_ref(), &kv))
            .transpose()
            .map_err(|error| error::general(&error))
    }

    async fn compare_and_set_status(
        &self,
        group: &str,
        resource: &str,
        value: Value,
    ) -> Result<bool, Status> {
        let Some(cache) = self.cache(group, resource) else { return Ok(false) };
        let (namespace, name) =
            (value.str_at(&["metadata", "namespace"]), value.str_at(&["metadata", "name"]));
        let key = key(cache, namespace, name);
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
}
