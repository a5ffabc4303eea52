//! What a controller sees: the caches, and the live reads it asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use client::reflector::{Cached, Caches, Store};
use client::{ObjectKey, Resource};
use serde::de::DeserializeOwned;

use crate::plan::Fetch;

/// A Rust type of a resource.
pub trait Typed: k8s_openapi::Resource + DeserializeOwned + Send + Sync + 'static {}

impl<K: k8s_openapi::Resource + DeserializeOwned + Send + Sync + 'static> Typed for K {}

/// The caches as they are now. Reads are synchronous and never wait.
#[derive(Debug, Clone)]
pub struct Snapshot {
    caches: Arc<Caches>,
    fetched: BTreeMap<Fetch, Option<Value>>,
}

impl Snapshot {
    pub(crate) fn new(caches: Arc<Caches>, fetched: BTreeMap<Fetch, Option<Value>>) -> Self {
        Self { caches, fetched }
    }

    /// The cache of a Rust type's resource. Only resources that the controller watches are kept up to date before
    /// it runs.
    #[must_use]
    pub fn store<K: k8s_openapi::Resource + 'static>(&self) -> Store {
        self.caches.store_of::<K>()
    }

    /// The cache of a resource.
    #[must_use]
    pub fn store_for(&self, resource: &Resource) -> Store {
        self.caches.store(resource)
    }

    /// An object.
    #[must_use]
    pub fn get<K: Typed>(&self, key: &ObjectKey) -> Option<K> {
        self.store::<K>().get(key)?.decode()
    }

    /// An object, shared with whoever else looks at it.
    #[must_use]
    pub fn shared<K: Typed>(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let store = self.store::<K>();
        store.typed(&store.get(key)?)
    }

    /// The objects of a namespace (of all, where it is empty).
    #[must_use]
    pub fn list<K: Typed>(&self, namespace: &str) -> Vec<Arc<K>> {
        let store = self.store::<K>();
        typed(&store, &store.list(namespace))
    }

    /// The objects that an index has under a value.
    #[must_use]
    pub fn by_index<K: Typed>(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let store = self.store::<K>();
        typed(&store, &store.by_index(index, value))
    }

    /// What a live read that the last plan asked for has found: `None` where it was not asked for, `Some(None)` where
    /// the object does not exist.
    #[must_use]
    pub fn fetched(&self, fetch: &Fetch) -> Option<Option<&Value>> {
        self.fetched.get(fetch).map(Option::as_ref)
    }
}

impl Snapshot {
    /// What all live reads of paths have found.
    #[must_use]
    pub fn answers(&self) -> BTreeMap<String, Value> {
        let answers = self.fetched.iter();
        answers.filter_map(|(fetch, it)| Some((fetch.path.clone()?, it.clone()?))).collect()
    }
}

fn typed<K: Typed>(store: &Store, objects: &[Arc<Cached>]) -> Vec<Arc<K>> {
    objects.iter().filter_map(|object| store.typed(object)).collect()
}
