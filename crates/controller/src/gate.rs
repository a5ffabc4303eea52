//! The own-writes gate: a key is not planned for again until the caches show the controller's own last writes.
//!
//! It replaces upstream's expectations. Without it a plan made on an old cache would do the same writes again.

use apimachinery::Value;
use client::reflector::Store;
use client::{ObjectKey, Resource};

use crate::snapshot::Snapshot;

/// One thing that the caches must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The cache of a resource has reached a version.
    Reached(Resource, u64),
    /// An object of this uid is not there any more, or is there in its last state.
    Gone(Resource, ObjectKey, String),
}

impl Condition {
    /// What must be seen after a write that was answered with this object.
    #[must_use]
    pub fn after_write(resource: &Resource, answer: &Value) -> Option<Self> {
        let version = answer.str_at(&["metadata", "resourceVersion"]).parse().ok()?;
        Some(Self::Reached(resource.clone(), version))
    }

    /// Whose cache must show it.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        match self {
            Self::Reached(resource, _) | Self::Gone(resource, _, _) => resource,
        }
    }

    fn store(&self, snapshot: &Snapshot) -> Store {
        snapshot.store_for(self.resource())
    }

    /// Whether the caches show it.
    #[must_use]
    pub fn is_met(&self, snapshot: &Snapshot) -> bool {
        let store = self.store(snapshot);
        match self {
            Self::Reached(_, revision) => store.revision() >= *revision,
            Self::Gone(_, key, uid) => store.get(key).is_none_or(|it| {
                it.uid != uid.as_str()
                    || !it.value().str_at(&["metadata", "deletionTimestamp"]).is_empty()
            }),
        }
    }

    /// Resolves when the caches show it.
    pub async fn met(&self, snapshot: &Snapshot) {
        let store = self.store(snapshot);
        match self {
            Self::Reached(_, revision) => store.reached(*revision).await,
            Self::Gone(..) => {
                while !self.is_met(snapshot) {
                    store.reached(store.revision() + 1).await;
                }
            }
        }
    }
}
