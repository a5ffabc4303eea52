//! Disruption budgets: how many of the pods that a budget selects may go now. Upstream: `pkg/controller/disruption`.

mod plan;

use std::sync::Arc;

use client::ObjectKey;
use client::reflector::StoreChange;
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::owner;
use crate::select::{self, Selector};

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct Disruption;

/// What it plans for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A budget.
    Budget(ObjectKey),
    /// A pod that was to go, and may have stayed.
    Pod(ObjectKey),
}

/// How many pods the controller of a pod wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scale {
    /// So many. Pods of one uid count once.
    Wanted {
        /// Whose count it is: the deployment's for a pod of its set.
        uid: String,
        /// How many.
        replicas: i32,
    },
    /// The pod is nobody's.
    Unmanaged,
    /// It cannot be told, and why.
    Unknown(String),
}

/// What it sees.
#[derive(Debug)]
pub enum Observed {
    /// A budget with its pods, each with how many its controller wants.
    Budget(Box<PodDisruptionBudget>, Vec<(Arc<Pod>, Scale)>),
    /// A pod.
    Pod(Box<Pod>),
}

impl Controller for Disruption {
    const NAME: &'static str = "disruption-controller";
    const SOURCE: &'static str = "controllermanager";
    const QUEUE: &'static str = "disruption";
    type Key = Key;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<Key>) -> Watches<Key> {
        watches
            .on::<PodDisruptionBudget>(|change, _| vec![Key::Budget(change.key())])
            .on::<Pod>(of_pod)
            .on::<ReplicaSet>(of_owner)
            .on::<ReplicationController>(of_owner)
            .on::<StatefulSet>(of_owner)
            .on::<Deployment>(of_deployment)
    }

    fn observe(&self, snapshot: &Snapshot, key: &Key) -> Option<Observed> {
        let key = match key {
            Key::Budget(key) => key,
            Key::Pod(key) => return Some(Observed::Pod(Box::new(snapshot.get(key)?))),
        };
        let budget: PodDisruptionBudget = snapshot.get(key)?;
        let pods = match budget.spec.as_ref().and_then(|it| it.selector.as_ref()) {
            Some(selector) => select::pods(snapshot, &key.namespace, &Selector::of(selector)),
            None => Vec::new(),
        };
        let scaled = |pod: Arc<Pod>| {
            let scale = scale(snapshot, &pod);
            (pod, scale)
        };
        Some(Observed::Budget(Box::new(budget), pods.into_iter().map(scaled).collect()))
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        match observed {
            Observed::Budget(budget, pods) => plan::budget(budget, pods, now),
            Observed::Pod(pod) => plan::stayed(pod, now),
        }
    }
}

/// The budgets that select a pod, and the pod itself where it was to go.
fn of_pod(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let mut keys: Vec<Key> = budgets(snapshot, change).into_iter().map(Key::Budget).collect();
    let targeted = change.new.as_ref().filter(|it| it.mentions(plan::TARGET)).is_some_and(|it| {
        let pod = it.value();
        let conditions = pod.items_at(&["status", "conditions"]);
        conditions.iter().any(|it| it.str_at(&["type"]) == plan::TARGET)
    });
    if targeted {
        keys.push(Key::Pod(change.key()));
    }
    keys
}

fn budgets(snapshot: &Snapshot, change: &StoreChange) -> Vec<ObjectKey> {
    select::selecting::<PodDisruptionBudget>(snapshot, change, |budget| {
        budget.spec.as_ref().and_then(|it| it.selector.as_ref()).map(Selector::of)
    })
}

/// The budgets of the pods of an object whose scale changed.
fn of_owner(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let resized = match (&change.old, &change.new) {
        (Some(old), Some(new)) => {
            old.value().at(&["spec", "replicas"]) != new.value().at(&["spec", "replicas"])
        }
        _ => true,
    };
    let owner = change.new.as_ref().or(change.old.as_ref());
    match owner.filter(|_| resized) {
        Some(owner) => budgets_of_pods(snapshot, &owner.uid),
        None => Vec::new(),
    }
}

fn budgets_of_pods(snapshot: &Snapshot, uid: &str) -> Vec<Key> {
    let pods = snapshot.store::<Pod>().by_index(client::indexes::BY_CONTROLLER, uid);
    // Pods of one owner have the same labels, save by hand: those of the first stand for all.
    let first = pods.first().map(|pod| StoreChange { old: None, new: Some(Arc::clone(pod)) });
    first.iter().flat_map(|it| budgets(snapshot, it)).map(Key::Budget).collect()
}

fn of_deployment(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let Some(deployment) = change.new.as_ref().or(change.old.as_ref()) else { return Vec::new() };
    let before = change.old.as_ref().map(|it| it.value());
    let after = change.new.as_ref().map(|it| it.value());
    let size = |it: &Option<Arc<apimachinery::Value>>| it.as_ref()?.i64_at(&["spec", "replicas"]);
    if size(&before) == size(&after) {
        return Vec::new();
    }
    let sets =
        snapshot.store::<ReplicaSet>().by_index(client::indexes::BY_CONTROLLER, &deployment.uid);
    sets.iter().flat_map(|set| budgets_of_pods(snapshot, &set.uid)).collect()
}

/// How many pods the controller of a pod wants.
fn scale(snapshot: &Snapshot, pod: &Pod) -> Scale {
    let Some(owner) = owner::controller_of(&pod.metadata) else { return Scale::Unmanaged };
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let key = |name: &str| ObjectKey::new(namespace.as_str(), name);
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    let wanted = |uid: &Option<String>, replicas: Option<i32>| {
        let is_it = uid.as_deref() == Some(owner.uid.as_str());
        is_it.then(|| Scale::Wanted { uid: owner.uid.clone(), replicas: replicas.unwrap_or(1) })
    };
    let found = match (group, owner.kind.as_str()) {
        ("apps", "ReplicaSet") => snapshot
            .get::<ReplicaSet>(&key(&owner.name))
            .filter(|set| set.metadata.uid.as_deref() == Some(owner.uid.as_str()))
            .and_then(|set| of_set(snapshot, &set)),
        ("apps", "StatefulSet") => snapshot
            .get::<StatefulSet>(&key(&owner.name))
            .and_then(|it| wanted(&it.metadata.uid, it.spec.replicas)),
        ("", "ReplicationController") => snapshot
            .get::<ReplicationController>(&key(&owner.name))
            .and_then(|it| wanted(&it.metadata.uid, it.spec.and_then(|it| it.replicas))),
        _ => return Scale::Unknown(without_scale(owner, group)),
    };
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    found.unwrap_or_else(|| Scale::Unknown(format!("found no controllers for pod \"{name}\"")))
}

/// The size of a set; its deployment's where it has one.
fn of_set(snapshot: &Snapshot, set: &ReplicaSet) -> Option<Scale> {
    let Some(owner) = owner::controller_of(&set.metadata).filter(|it| it.kind == "Deployment")
    else {
        let replicas = set.spec.replicas.unwrap_or(1);
        return Some(Scale::Wanted { uid: set.metadata.uid.clone()?, replicas });
    };
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let deployment: Deployment = snapshot.get(&ObjectKey::new(namespace, owner.name.as_str()))?;
    let uid = deployment.metadata.uid.clone().filter(|uid| *uid == owner.uid)?;
    Some(Scale::Wanted { uid, replicas: deployment.spec.replicas.unwrap_or(1) })
}

/// Why the pods of a kind cannot be counted.
fn without_scale(owner: &OwnerReference, group: &str) -> String {
    let facts = api::resources().iter().find(|it| it.group == group && it.kind == owner.kind);
    match facts {
        Some(facts) if facts.group.is_empty() => {
            format!("{} does not implement the scale subresource", facts.resource)
        }
        Some(facts) => {
            format!("{}.{} does not implement the scale subresource", facts.resource, facts.group)
        }
        None => {
            format!("no matches for kind \"{}\" in version \"{}\"", owner.kind, owner.api_version)
        }
    }
}
