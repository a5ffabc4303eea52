//! ReplicaSet: as many pods of a template as are wanted. Upstream: `pkg/controller/replicaset`.

mod plan;

use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use client::indexes::{BY_CONTROLLER, ORPHANS};
use client::reflector::StoreChange;
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;

use crate::owner;
use crate::select::{self, Selector};

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct ReplicaSets;

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
    pub pods: Vec<Arc<Pod>>,
    /// How many pods of the same owner run on the node of each of `pods`: of many on a node, one goes first.
    pub ranks: Vec<usize>,
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
        plan::plan(observed, failure.as_deref(), now)
    }

    fn applied(&self, memory: &mut Option<String>, failure: Option<&str>) {
        *memory = failure.map(str::to_owned);
    }
}

pub(crate) use plan::plan;

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
    let mut pods: Vec<Arc<Pod>> = snapshot.by_index(BY_CONTROLLER, &uid);
    let orphans = snapshot.by_index::<Pod>(ORPHANS, &namespace).into_iter().filter(|pod| {
        !owner::is_deleting(&pod.metadata) && owner::matches(&selector, &pod.metadata)
    });
    pods.extend(orphans);
    let ranks = ranks(snapshot, &set, &pods);
    Observed { kind, object, set, pods, ranks }
}

/// The sets that a change of a pod concerns: its controller's, or those that might adopt it.
fn concerned(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let mut keys = controller::watches::controllers(change, "ReplicaSet");
    keys.extend(select::adopters::<ReplicaSet>(snapshot, change, |set| {
        Selector::of(&set.spec.selector)
    }));
    keys
}

/// Counts, for each pod, the active pods on its node that belong to the set or to another set of the same owner.
fn ranks(snapshot: &Snapshot, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Vec<usize> {
    let owner = owner::controller_of(&set.metadata).map(|it| it.uid.clone());
    let related: Vec<Arc<Pod>> = match owner {
        None => pods.to_vec(),
        Some(uid) => snapshot
            .by_index::<ReplicaSet>(BY_CONTROLLER, &uid)
            .iter()
            .flat_map(|sibling| {
                snapshot.by_index::<Pod>(
                    BY_CONTROLLER,
                    sibling.metadata.uid.as_deref().unwrap_or_default(),
                )
            })
            .collect(),
    };
    let node =
        |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let mut counts = std::collections::BTreeMap::new();
    for pod in related.iter().filter(|pod| crate::pods::is_active(pod)) {
        *counts.entry(node(pod)).or_insert(0) += 1;
    }
    pods.iter().map(|pod| counts.get(&node(pod)).copied().unwrap_or_default()).collect()
}
