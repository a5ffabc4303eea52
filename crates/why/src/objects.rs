//! Where the objects come from: a server's caches, or what a client has listed. Knows no transport.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use client::{ObjectKey, Resource};
use compact_str::CompactString;

/// The objects of a cluster at one moment.
pub trait Objects {
    /// An object, where it is there.
    fn get(&self, group: &str, resource: &str, key: &ObjectKey) -> Option<Arc<Value>>;

    /// All objects of a resource in a namespace; of all namespaces where that is empty.
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Value>>;

    /// Every kind that is served.
    fn kinds(&self) -> Vec<Resource>;
}

/// Objects that somebody has gathered.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    kinds: Vec<Resource>,
    objects: BTreeMap<(CompactString, CompactString), BTreeMap<ObjectKey, Arc<Value>>>,
}

impl Gathered {
    /// A cluster that serves these kinds and has no objects yet.
    #[must_use]
    pub fn serving(kinds: Vec<Resource>) -> Self {
        Self { kinds, objects: BTreeMap::new() }
    }

    /// Adds or replaces an object.
    pub fn set(&mut self, group: &str, resource: &str, object: Value) {
        let of = self.objects.entry((group.into(), resource.into())).or_default();
        of.insert(key_of(&object), Arc::new(object));
    }

    /// Forgets an object.
    pub fn remove(&mut self, group: &str, resource: &str, key: &ObjectKey) -> Option<Arc<Value>> {
        self.objects.get_mut(&(group.into(), resource.into()))?.remove(key)
    }
}

impl Objects for Gathered {
    fn get(&self, group: &str, resource: &str, key: &ObjectKey) -> Option<Arc<Value>> {
        self.objects.get(&(group.into(), resource.into()))?.get(key).cloned()
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let all = self.objects.get(&(group.into(), resource.into())).into_iter().flatten();
        let wanted = all.filter(|(key, _)| namespace.is_empty() || key.namespace == namespace);
        wanted.map(|(_, object)| Arc::clone(object)).collect()
    }

    fn kinds(&self) -> Vec<Resource> {
        self.kinds.clone()
    }
}

/// Where an object lies.
#[must_use]
pub fn key_of(object: &Value) -> ObjectKey {
    ObjectKey::new(object.str_at(&["metadata", "namespace"]), object.str_at(&["metadata", "name"]))
}

/// The uid of an object's controller; empty where it has none.
pub(crate) fn controller_uid(object: &Value) -> &str {
    controller_of(object).map_or("", |it| it.str_at(&["uid"]))
}

/// The owner reference of an object's controller.
pub(crate) fn controller_of(object: &Value) -> Option<&Value> {
    let mut owners = object.items_at(&["metadata", "ownerReferences"]).iter();
    owners.find(|it| it.bool_at(&["controller"]))
}

/// A condition of an object.
pub(crate) fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    let mut all = object.items_at(&["status", "conditions"]).iter();
    all.find(|it| it.str_at(&["type"]) == kind)
}

/// Whether a condition of an object is true.
pub(crate) fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|it| it.str_at(&["status"]) == "True")
}

/// Whether an object is being deleted.
pub(crate) fn is_going(object: &Value) -> bool {
    !object.str_at(&["metadata", "deletionTimestamp"]).is_empty()
}
