//! Deployment: ReplicaSets of a template's versions, rolled from one to the next. Upstream: `pkg/controller/deployment`.

mod plan;
mod rollback;
mod rolling;
mod scale;
mod sets;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::ObjectKey;
use client::indexes::{BY_CONTROLLER, ORPHANS};
use client::reflector::StoreChange;
use controller::{Controller, Failure, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use crate::owner;
use crate::select::{self, Selector};

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct Deployments;

/// What it sees of a Deployment.
#[derive(Debug)]
pub struct Observed {
    /// The Deployment.
    pub deployment: Deployment,
    /// The sets that it controls, and the orphans of its namespace that fit its selector.
    pub sets: Vec<Arc<ReplicaSet>>,
    /// How many names of sets of its present template were taken by others.
    pub collisions: Option<i32>,
    /// By set, how many of its pods exist and are not over, those on their way out too.
    pub running_pods: BTreeMap<String, usize>,
}

/// What is remembered of a deployment from one plan to the next.
#[derive(Debug, Default)]
pub struct Memory {
    /// The set that the last plan was to make, where it did nothing before that.
    creating: Option<String>,
    /// Why it could not be made.
    refused: Option<String>,
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment-controller";
    const QUEUE: &'static str = "deployment";
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<Deployment>().on::<ReplicaSet>(concerned).on::<Pod>(owner_of_gone_pod)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let deployment: Deployment = snapshot.get(key)?;
        let uid = deployment.metadata.uid.clone().unwrap_or_default();
        let selector = owner::selector(&deployment.spec.selector);
        let mut sets: Vec<Arc<ReplicaSet>> = snapshot.by_index(BY_CONTROLLER, &uid);
        let store = snapshot.store::<Pod>();
        let running_of = |set: &Arc<ReplicaSet>| {
            let uid = set.metadata.uid.clone().unwrap_or_default();
            let pods = store.by_index(BY_CONTROLLER, &uid);
            (uid, pods.iter().filter(|it| !it.pod().is_over()).count())
        };
        let running_pods = sets.iter().map(running_of).collect();
        let orphans = snapshot.by_index::<ReplicaSet>(ORPHANS, &key.namespace);
        let orphans = orphans.into_iter().filter(|set| {
            !owner::is_deleting(&set.metadata) && owner::matches(&selector, &set.metadata)
        });
        sets.extend(orphans);
        let taken = |name: &str| snapshot.get(&ObjectKey::new(key.namespace.clone(), name));
        let collisions = sets::collisions(&deployment, taken);
        Some(Observed { deployment, sets, collisions, running_pods })
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        plan::plan(observed, memory, now)
    }

    fn applied(&self, memory: &mut Memory, failure: Option<&Failure>) {
        // A set that is there already is one that the cache does not show yet.
        let refused =
            |it: &&Failure| it.is_of("create", "replicasets") && !it.why.contains("already exists");
        memory.refused = failure.filter(refused).map(|it| it.why.clone());
    }
}

/// The deployments that a change of a set concerns: its controller's, or those that might adopt it.
fn concerned(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let mut keys = controller::watches::controllers(change, "Deployment");
    keys.extend(select::adopters::<Deployment>(snapshot, change, |deployment| {
        Selector::of(&deployment.spec.selector)
    }));
    keys
}

/// A pod that is gone or over may be what a Recreate deployment waits for.
fn owner_of_gone_pod(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let over = change.new.as_ref().is_none_or(|it| it.pod().is_over());
    if !over {
        return Vec::new();
    }
    controller::watches::controllers(change, "ReplicaSet")
        .iter()
        .filter_map(|key| snapshot.store::<ReplicaSet>().get(key))
        .filter_map(|set| {
            let owner = set.controller().filter(|it| it.kind == "Deployment")?;
            Some(ObjectKey::new(set.key.namespace.clone(), owner.name.clone()))
        })
        .collect()
}
