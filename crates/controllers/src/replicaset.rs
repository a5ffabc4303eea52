//! ReplicaSet: as many pods of a template as are wanted. Upstream: `pkg/controller/replicaset`.

mod metrics;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use client::indexes::{BY_CONTROLLER, ORPHANS};
use client::reflector::{Cached, StoreChange};
use compact_str::CompactString;
use controller::{Controller, Failure, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;

use crate::owner;
use crate::select::{self, Selector};

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct ReplicaSets {
    /// What it counts.
    pub metrics: Metrics,
}

/// What keeps a number of pods: a ReplicaSet, or a ReplicationController, which is one by an older name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) group: &'static str,
    pub(crate) plural: &'static str,
    /// Whether its status counts pods on their way out.
    pub(crate) counts_terminating: bool,
}

const REPLICA_SET: Kind = Kind {
    api_version: "apps/v1",
    kind: "ReplicaSet",
    group: "apps",
    plural: "replicasets",
    counts_terminating: true,
};

/// What it sees of a ReplicaSet.
#[derive(Debug)]
pub struct Observed {
    /// What it really is.
    pub(crate) kind: &'static Kind,
    /// As it is stored.
    pub(crate) object: Arc<Value>,
    /// The ReplicaSet.
    pub set: ReplicaSet,
    /// The pods that it controls, of whatever labels, and the orphans of its namespace that fit its selector.
    pub pods: Vec<Arc<Cached>>,
    /// How many pods of the same owner run on each node, where pods are to go: of many on a node, one goes first.
    pub on_node: BTreeMap<CompactString, usize>,
}

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset-controller";
    const QUEUE: &'static str = "replicaset";
    type Key = ObjectKey;
    type Observed = Observed;
    /// Why the last plan failed.
    type Memory = Option<String>;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<ReplicaSet>().on::<Pod>(concerned)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let cached = snapshot.store::<ReplicaSet>().get(key)?;
        Some(observe(snapshot, &REPLICA_SET, cached.value(), cached.decode()?))
    }

    fn plan(&self, observed: &Observed, failure: &mut Option<String>, now: Timestamp) -> Plan {
        let plan = plan::plan(observed, failure.as_deref(), now);
        self.metrics.told(observed, &plan, now);
        plan
    }

    fn applied(&self, memory: &mut Option<String>, failure: Option<&Failure>) {
        *memory = failure.filter(|it| is_of_pods(it)).map(|it| it.why.clone());
    }
}

pub use metrics::Metrics;
pub(crate) use plan::plan;

/// Whether pods could not be made or taken: what is said in the condition `ReplicaFailure`, as in upstream's `manageReplicas`.
pub(crate) fn is_of_pods(failure: &Failure) -> bool {
    failure.is_of("create", "pods") || failure.is_of("delete", "pods")
}

/// What is seen of a set and its pods.
pub(crate) fn observe(
    snapshot: &Snapshot,
    kind: &'static Kind,
    object: Arc<Value>,
    set: ReplicaSet,
) -> Observed {
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let uid = set.metadata.uid.clone().unwrap_or_default();
    let selector = owner::selector(&set.spec.selector);
    let store = snapshot.store::<Pod>();
    let mut pods = store.by_index(BY_CONTROLLER, &uid);
    let orphans = store.by_index(ORPHANS, &namespace).into_iter();
    pods.extend(orphans.filter(|pod| !pod.is_deleting() && selector.matches(|it| pod.label(it))));
    let wanted = usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or_default();
    let surplus = pods.len() > wanted;
    let on_node = if surplus { on_node(snapshot, &set, &pods) } else { BTreeMap::new() };
    Observed { kind, object, set, pods, on_node }
}

/// The sets that a change of a pod concerns: its controller's, or those that might adopt it.
fn concerned(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let mut keys = controller::watches::controllers(change, "ReplicaSet");
    keys.extend(select::adopters::<ReplicaSet>(snapshot, change, |set| {
        Selector::of(&set.spec.selector)
    }));
    keys
}

/// Counts the active pods on each node that belong to the set or to another set of the same owner.
fn on_node(
    snapshot: &Snapshot,
    set: &ReplicaSet,
    pods: &[Arc<Cached>],
) -> BTreeMap<CompactString, usize> {
    let store = snapshot.store::<Pod>();
    let related: Vec<Arc<Cached>> = match owner::controller_of(&set.metadata) {
        None => pods.to_vec(),
        Some(owner) => {
            let siblings = snapshot.store::<ReplicaSet>().by_index(BY_CONTROLLER, &owner.uid);
            siblings.iter().flat_map(|it| store.by_index(BY_CONTROLLER, &it.uid)).collect()
        }
    };
    let mut counts = BTreeMap::new();
    for pod in related.iter().map(|it| it.pod()).filter(|it| it.is_active()) {
        *counts.entry(pod.node.clone()).or_insert(0) += 1;
    }
    counts
}
