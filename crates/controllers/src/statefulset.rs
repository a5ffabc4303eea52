//! StatefulSet: pods with names and claims of their own, one after another. Upstream: `pkg/controller/statefulset`.

mod claims;
mod identity;
mod metrics;
mod plan;
mod revisions;
mod rolling;
mod status;

pub use metrics::Metrics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use client::indexes::{BY_CLAIM, BY_CONTROLLER, ORPHANS, claim_entry};
use client::reflector::StoreChange;
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::history::{Kept, keep};
use crate::owner;
use crate::select::{self, Selector};

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct StatefulSets {
    /// `MaxUnavailableStatefulSet`: whether several pods may be updated at a time, where a set says so.
    pub max_unavailable: bool,
    /// What it counts.
    pub metrics: Metrics,
}

/// What it sees of a StatefulSet.
#[derive(Debug)]
pub struct Observed {
    /// The StatefulSet.
    pub set: StatefulSet,
    /// The templates of its claims as they are stored.
    pub claim_templates: Vec<Value>,
    /// How its template is kept.
    pub kept: Kept,
    /// The pods that it controls, of whatever labels, and the orphans of its namespace that fit its selector and name.
    pub pods: Vec<Arc<Pod>>,
    /// The revisions that it controls, and the orphans that fit.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// The numbers of pods whose names are taken, by pods of the set or by others.
    pub taken: BTreeSet<i32>,
    /// The claims of its pods, by name.
    pub claims: BTreeMap<String, Arc<Value>>,
}

impl Controller for StatefulSets {
    const NAME: &'static str = "statefulset-controller";
    const QUEUE: &'static str = "statefulset";
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches
            .own::<StatefulSet>()
            .on::<Pod>(concerned)
            .on::<ControllerRevision>(concerned)
            .on::<PersistentVolumeClaim>(of_gone_claim)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let Some(cached) = snapshot.store::<StatefulSet>().get(key) else {
            self.metrics.forget(key);
            return None;
        };
        let set: StatefulSet = cached.decode()?;
        let value = cached.value();
        let template = value.at(&["spec", "template"]).cloned().unwrap_or_default();
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let selector = owner::selector(&set.spec.selector);
        let mut pods: Vec<Arc<Pod>> = snapshot.by_index(BY_CONTROLLER, &uid);
        let orphans = snapshot.by_index::<Pod>(ORPHANS, &key.namespace).into_iter();
        pods.extend(orphans.filter(|pod| {
            owner::matches(&selector, &pod.metadata) && identity::is_member(&key.name, pod)
        }));
        let mut revisions: Vec<Arc<ControllerRevision>> = snapshot.by_index(BY_CONTROLLER, &uid);
        revisions.extend(snapshot.by_index::<ControllerRevision>(ORPHANS, &key.namespace));
        revisions.retain(|it| owner::matches(&selector, &it.metadata));
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let claim_templates = value.items_at(&["spec", "volumeClaimTemplates"]).to_vec();
        let numbers: BTreeSet<i32> = pods.iter().filter_map(|it| identity::ordinal(it)).collect();
        let wanted = identity::looked_at(&set, numbers.iter().copied(), plan::BURST);
        let store = snapshot.store::<Pod>();
        let is_taken = |ordinal: &i32| {
            let name = identity::pod_name(&set, *ordinal);
            let key = ObjectKey::new(key.namespace.clone(), name);
            store.get(&key).is_some()
        };
        let taken = wanted.into_iter().filter(is_taken).collect();
        Some(Observed {
            taken,
            kept: keep(snapshot, key, &template, collisions),
            claims: claims::of_set(snapshot, &set, &claim_templates, &pods),
            set,
            claim_templates,
            pods,
            revisions,
        })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        let (plan, counts) = plan::plan(observed, self.max_unavailable, now);
        if let Some(counts) = counts {
            self.metrics.told(&observed.set, counts);
        }
        plan
    }
}

/// The sets that a change of a pod or revision concerns: its controller's, or those that might adopt it.
fn concerned(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let mut keys = controller::watches::controllers(change, "StatefulSet");
    keys.extend(select::adopters::<StatefulSet>(snapshot, change, |set| {
        Selector::of(&set.spec.selector)
    }));
    keys
}

/// The set that may have waited for a claim to go: the one that the pod's name is of whose the claim was.
fn of_gone_claim(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let (Some(old), None) = (&change.old, &change.new) else { return Vec::new() };
    let namespace = &old.key.namespace;
    let value = old.value();
    let owners = value.items_at(&["metadata", "ownerReferences"]).iter();
    let names = owners.filter_map(|it| match it.str_at(&["kind"]) {
        "StatefulSet" => Some(it.str_at(&["name"])),
        "Pod" => identity::split(it.str_at(&["name"])).map(|(set, _)| set),
        _ => None,
    });
    let mut keys: Vec<_> = names.map(|name| ObjectKey::new(namespace.clone(), name)).collect();
    // A pod that was made and waits for it: upstream makes it again when the pod changes next.
    let entry = claim_entry(namespace, &old.key.name);
    for pod in snapshot.store::<Pod>().by_index(BY_CLAIM, &entry) {
        let set = pod.controller().filter(|it| it.kind == "StatefulSet");
        keys.extend(set.map(|it| ObjectKey::new(namespace.clone(), it.name.clone())));
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}
