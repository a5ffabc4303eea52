//! The own-writes gate: a key is not planned for again until the caches show the controller's own last writes.
//!
//! It replaces upstream's expectations. Without it a plan made on an old cache would do the same writes again.

use apimachinery::Value;
use client::reflector::Store;
use client::{ObjectKey, Resource};

/// One thing that a cache must show. One that is over will not show it, and nothing is planned by it any more (found by the
/// simulation, seed 80115: a namespace had to wait for a custom resource whose definition had gone).
#[derive(Debug, Clone)]
pub enum Condition {
    /// The cache of a resource has reached a version.
    Reached(Store, u64),
    /// An object of this uid is not there any more, or is there in its last state.
    Gone(Store, ObjectKey, String),
}

impl Condition {
    /// What must be seen after a write that was answered with this object.
    #[must_use]
    pub fn after_write(store: &Store, answer: &Value) -> Option<Self> {
        let version = answer.str_at(&["metadata", "resourceVersion"]).parse().ok()?;
        Some(Self::Reached(store.clone(), version))
    }

    /// What must be seen after a delete of this object that was answered so; its uid is empty where any was meant.
    #[must_use]
    pub fn after_delete(
        store: Store,
        answer: &Value,
        (key, uid): (&ObjectKey, &str),
    ) -> Option<Self> {
        let reached = Self::after_write(&store, answer);
        let gone = || Self::Gone(store, key.clone(), uid.to_owned());
        reached.or_else(|| (!uid.is_empty()).then(gone))
    }

    /// Whose cache must show it.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        self.store().resource()
    }

    fn store(&self) -> &Store {
        match self {
            Self::Reached(store, _) | Self::Gone(store, _, _) => store,
        }
    }

    /// Whether the cache shows it, or is over.
    #[must_use]
    pub fn is_met(&self) -> bool {
        let store = self.store();
        let shows = match self {
            Self::Reached(_, revision) => store.revision() >= *revision,
            Self::Gone(_, key, uid) => store.get(key).is_none_or(|it| {
                it.uid != uid.as_str()
                    || !it.value().str_at(&["metadata", "deletionTimestamp"]).is_empty()
            }),
        };
        shows || store.is_over()
    }

    /// Resolves when it is met.
    pub async fn met(&self) {
        let store = self.store();
        match self {
            Self::Reached(_, revision) => store.reached(*revision).await,
            Self::Gone(..) => {
                while !self.is_met() {
                    store.reached(store.revision() + 1).await;
                }
            }
        }
    }
}
