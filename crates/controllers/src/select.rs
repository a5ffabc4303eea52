//! Which pods a selector takes, and which selectors take a pod: by index, never by walking a namespace where a label tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::labels;
use client::ObjectKey;
use client::indexes::{BY_LABEL, BY_SELECTOR, any_label, label_entry};
use client::reflector::{Cached, StoreChange};
use controller::{Snapshot, Typed};
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::owner;

/// A selector, with the labels that whatever it takes must have.
#[derive(Debug, Clone)]
pub struct Selector {
    labels: BTreeMap<String, String>,
    whole: labels::Selector,
}

impl Selector {
    /// The selector of a spec.
    #[must_use]
    pub fn of(selector: &LabelSelector) -> Self {
        let labels = selector.match_labels.clone().unwrap_or_default();
        Self { labels, whole: owner::selector(selector) }
    }

    /// No object.
    #[must_use]
    pub fn nothing() -> Self {
        Self { labels: BTreeMap::new(), whole: labels::Selector::NOTHING }
    }

    /// All of these labels.
    #[must_use]
    pub fn from_pairs(labels: &BTreeMap<String, String>) -> Self {
        let selector =
            LabelSelector { match_labels: Some(labels.clone()), match_expressions: None };
        Self::of(&selector)
    }

    /// Whether it takes an object of a cache.
    #[must_use]
    pub fn takes(&self, object: &Cached) -> bool {
        self.whole.matches(|key| object.label(key))
    }

    /// Whether it takes an object.
    #[must_use]
    pub fn matches(&self, metadata: &ObjectMeta) -> bool {
        owner::matches(&self.whole, metadata)
    }
}

/// The pods of a namespace that a selector takes.
#[must_use]
pub fn pods(snapshot: &Snapshot, namespace: &str, selector: &Selector) -> Vec<Arc<Pod>> {
    let store = snapshot.store::<Pod>();
    let with = |(key, value): (&String, &String)| {
        store.by_index(BY_LABEL, &label_entry(namespace, key, value))
    };
    // The rarest label leaves the fewest to look at.
    let candidates = selector.labels.iter().map(with).min_by_key(Vec::len);
    let candidates = candidates.unwrap_or_else(|| store.list(namespace));
    let decoded = candidates.iter().filter_map(|it| store.typed::<Pod>(it));
    decoded.filter(|pod| selector.matches(&pod.metadata)).collect()
}

/// The objects whose selectors take the object of a change, as it was or as it is.
pub fn selecting<K>(
    snapshot: &Snapshot,
    change: &StoreChange,
    selector: impl Fn(&K) -> Option<Selector>,
) -> Vec<ObjectKey>
where
    K: Typed + Metadata<Ty = ObjectMeta>,
{
    let mut keys = Vec::new();
    for object in [&change.old, &change.new].into_iter().flatten() {
        for key in takers(snapshot, object, &selector) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

/// The objects that might adopt the object of a change: nobody controls it, and their selectors take it.
pub fn adopters<K>(
    snapshot: &Snapshot,
    change: &StoreChange,
    selector: impl Fn(&K) -> Selector,
) -> Vec<ObjectKey>
where
    K: Typed + Metadata<Ty = ObjectMeta>,
{
    let Some(object) = &change.new else { return Vec::new() };
    if object.controller().is_some() {
        return Vec::new();
    }
    takers(snapshot, object, &|it: &K| Some(selector(it)))
}

fn takers<K>(
    snapshot: &Snapshot,
    object: &Cached,
    selector: &impl Fn(&K) -> Option<Selector>,
) -> Vec<ObjectKey>
where
    K: Typed + Metadata<Ty = ObjectMeta>,
{
    let namespace = object.key.namespace.as_str();
    let mut entries: Vec<_> =
        object.labels().map(|(key, value)| label_entry(namespace, key, value)).collect();
    entries.push(any_label(namespace));
    entries
        .iter()
        .flat_map(|entry| snapshot.by_index::<K>(BY_SELECTOR, entry))
        .filter(|taker| selector(taker).is_some_and(|it| it.takes(object)))
        .map(|taker| owner::key_of(taker.metadata()))
        .collect()
}
