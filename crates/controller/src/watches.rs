//! What a controller watches, and which keys a change concerns.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use client::reflector::StoreChange;
use client::{ObjectKey, Resource};

use crate::snapshot::Snapshot;

type Mapper<K> = Arc<dyn Fn(&StoreChange, &Snapshot) -> Vec<K> + Send + Sync>;

/// What a change of a definition brings.
type Definer = Arc<dyn Fn(&StoreChange) -> Option<Resource> + Send + Sync>;
/// As [`Mapper`], of a resource that comes while the controller runs.
type ResourceMapper<K> = Arc<dyn Fn(&Resource, &StoreChange, &Snapshot) -> Vec<K> + Send + Sync>;

/// What is watched. Built by [`crate::Controller::watches`].
pub struct Watches<K> {
    pub(crate) entries: Vec<Watched<K>>,
    pub(crate) defined: Option<Defined<K>>,
}

/// A resource, whom its changes concern, and how long they are held back so that many of them make one piece of work.
pub(crate) struct Watched<K> {
    pub(crate) resource: Resource,
    pub(crate) mapper: Mapper<K>,
    pub(crate) held: Duration,
}

/// Resources that come and go while the controller runs.
pub(crate) struct Defined<K> {
    /// What defines them.
    pub(crate) by: Resource,
    pub(crate) definer: Definer,
    pub(crate) mapper: ResourceMapper<K>,
}

impl<K> Default for Watches<K> {
    fn default() -> Self {
        Self { entries: Vec::new(), defined: None }
    }
}

impl<K> fmt::Debug for Watches<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|it| &it.resource.plural)).finish()
    }
}

impl<K> Watches<K> {
    /// Watches the resource of a Rust type; `keys` says which keys a change concerns.
    #[must_use]
    pub fn on<T: k8s_openapi::Resource>(
        self,
        keys: impl Fn(&StoreChange, &Snapshot) -> Vec<K> + Send + Sync + 'static,
    ) -> Self {
        self.on_resource(Resource::of::<T>(), keys)
    }

    /// Watches a resource.
    #[must_use]
    pub fn on_resource(
        mut self,
        resource: Resource,
        keys: impl Fn(&StoreChange, &Snapshot) -> Vec<K> + Send + Sync + 'static,
    ) -> Self {
        self.entries.push(Watched { resource, mapper: Arc::new(keys), held: Duration::ZERO });
        self
    }

    /// Watches the resource of a Rust type, and lets a key's changes gather for so long.
    #[must_use]
    pub fn on_held<T: k8s_openapi::Resource>(
        mut self,
        held: Duration,
        keys: impl Fn(&StoreChange, &Snapshot) -> Vec<K> + Send + Sync + 'static,
    ) -> Self {
        let resource = Resource::of::<T>();
        self.entries.push(Watched { resource, mapper: Arc::new(keys), held });
        self
    }

    /// Watches resources that objects of `by` define: `which` says what a definition defines after a change.
    #[must_use]
    pub fn on_defined(
        mut self,
        by: Resource,
        which: impl Fn(&StoreChange) -> Option<Resource> + Send + Sync + 'static,
        keys: impl Fn(&Resource, &StoreChange, &Snapshot) -> Vec<K> + Send + Sync + 'static,
    ) -> Self {
        let (definer, mapper) = (Arc::new(which), Arc::new(keys));
        self.defined = Some(Defined { by, definer, mapper });
        self
    }
}

impl Watches<ObjectKey> {
    /// Watches objects that are keys themselves.
    #[must_use]
    pub fn own<T: k8s_openapi::Resource>(self) -> Self {
        self.on::<T>(|change, _| vec![change.key()])
    }

    /// Watches objects that are controlled by a key's object of this kind.
    #[must_use]
    pub fn owned_by<T: k8s_openapi::Resource>(self, kind: &'static str) -> Self {
        self.on::<T>(move |change, _| controllers(change, kind))
    }
}

/// The keys of the controllers of an object, before and after a change.
#[must_use]
pub fn controllers(change: &StoreChange, kind: &str) -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    for object in [&change.old, &change.new].into_iter().flatten() {
        let owner = object.owners().iter().find(|it| it.controller && it.kind == kind);
        if let Some(owner) = owner {
            let key = ObjectKey::new(object.key.namespace.clone(), owner.name.clone());
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}
