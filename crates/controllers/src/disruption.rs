//! Disruption budgets: how many of the pods that a budget selects may go now. Upstream: `pkg/controller/disruption`.

mod plan;

use std::sync::Arc;

use apimachinery::Value;
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use compact_str::CompactString;
use controller::{Controller, Fetch, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::custom::{self, is_custom};
use crate::owner;
use crate::podautoscaler::Kinds;
use crate::select::{self, Selector};

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct Disruption {
    /// The kinds that controllers of pods may be of.
    kinds: Arc<Kinds>,
}

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
    /// The scale of a custom resource has to be read first.
    Unread(Fetch),
}

/// What it sees.
#[derive(Debug)]
pub enum Observed {
    /// A budget with its pods, each with how many its controller wants.
    Budget(Box<PodDisruptionBudget>, Vec<(Arc<Pod>, Scale)>),
    /// A pod, with the names of the budgets that select it.
    Pod(Box<Pod>, Vec<CompactString>),
}

impl Controller for Disruption {
    const NAME: &'static str = "disruption-controller";
    const SOURCE: &'static str = "controllermanager";
    const QUEUE: &'static str = "disruption";
    type Key = Key;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<Key>) -> Watches<Key> {
        let kinds = Arc::clone(&self.kinds);
        watches
            .on::<PodDisruptionBudget>(|change, _| vec![Key::Budget(change.key())])
            .on::<Pod>(of_pod)
            .on::<ReplicaSet>(of_owner)
            .on::<ReplicationController>(of_owner)
            .on::<StatefulSet>(of_owner)
            .on::<Deployment>(of_deployment)
            .on_resource(custom::definitions(), move |change, _| {
                kinds.learn(change);
                Vec::new()
            })
    }

    fn observe(&self, snapshot: &Snapshot, key: &Key) -> Option<Observed> {
        let key = match key {
            Key::Budget(key) => key,
            Key::Pod(key) => {
                let pod = snapshot.store::<Pod>().get(key)?;
                let change = StoreChange { old: None, new: Some(Arc::clone(&pod)) };
                let budgets = budgets(snapshot, &change).into_iter().map(|it| it.name).collect();
                return Some(Observed::Pod(Box::new(pod.decode()?), budgets));
            }
        };
        let budget: PodDisruptionBudget = snapshot.get(key)?;
        let pods = match budget.spec.as_ref().and_then(|it| it.selector.as_ref()) {
            Some(selector) => select::pods(snapshot, &key.namespace, &Selector::of(selector)),
            None => Vec::new(),
        };
        let scaled = |pod: Arc<Pod>| {
            let scale = self.scale(snapshot, &pod);
            (pod, scale)
        };
        Some(Observed::Budget(Box::new(budget), pods.into_iter().map(scaled).collect()))
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        match observed {
            Observed::Budget(budget, pods) => plan::budget(budget, pods, now),
            Observed::Pod(pod, budgets) => plan::pod(pod, budgets, now),
        }
    }
}

/// The budgets that select a pod, and the pod itself where it was to go, or is in several budgets.
fn of_pod(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let mut keys: Vec<Key> = budgets(snapshot, change).into_iter().map(Key::Budget).collect();
    let several = keys.len() > 1 && change.new.is_some();
    let targeted = change.new.as_ref().filter(|it| it.mentions(plan::TARGET)).is_some_and(|it| {
        let pod = it.value();
        let conditions = pod.items_at(&["status", "conditions"]);
        conditions.iter().any(|it| it.str_at(&["type"]) == plan::TARGET)
    });
    if targeted || several {
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

impl Disruption {
    /// How many pods the controller of a pod wants.
    fn scale(&self, snapshot: &Snapshot, pod: &Pod) -> Scale {
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
            _ => match self.custom_scale(snapshot, owner, &namespace) {
                Ok(found) => found,
                Err(why) => return Scale::Unknown(why),
            },
        };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        found.unwrap_or_else(|| Scale::Unknown(format!("found no controllers for pod \"{name}\"")))
    }

    /// What the scale of a custom resource says; `None` where it is not the owner's.
    ///
    /// # Errors
    /// When its kind cannot be scaled, or its scale not be read.
    fn custom_scale(
        &self,
        snapshot: &Snapshot,
        owner: &OwnerReference,
        namespace: &str,
    ) -> Result<Option<Scale>, String> {
        let OwnerReference { api_version, kind, .. } = owner;
        let unknown = || format!("no matches for kind {kind:?} in version {api_version:?}");
        let resource = self.kinds.find(api_version, kind).ok_or_else(unknown)?;
        let no_scale =
            || format!("{} does not implement the scale subresource", resource.full_name());
        if !is_custom(&resource) {
            return Err(no_scale());
        }
        let path = resource.path(namespace, &owner.name, "scale");
        let fetch = Fetch::path(resource.clone(), path);
        let Some(told) = snapshot.fetched(&fetch).flatten() else {
            return Ok(Some(Scale::Unread(fetch)));
        };
        if let Some(refused) = told.get("error") {
            return match refused.i64_at(&["code"]) {
                Some(404) if has_scale(snapshot, &resource) => Ok(None),
                Some(404) => Err(no_scale()),
                _ => Err(refused.str_at(&["message"]).to_owned()),
            };
        }
        let replicas = told.i64_at(&["answer", "spec", "replicas"]).unwrap_or(0);
        let replicas = i32::try_from(replicas).unwrap_or(i32::MAX);
        let uid = told.str_at(&["answer", "metadata", "uid"]).to_owned();
        Ok((uid == owner.uid).then_some(Scale::Wanted { uid, replicas }))
    }
}

/// Whether the definition of a custom resource says that it can be scaled.
fn has_scale(snapshot: &Snapshot, resource: &Resource) -> bool {
    let name = format!("{}.{}", resource.plural, resource.group);
    let definition = snapshot.store_for(&custom::definitions()).get(&ObjectKey::new("", name));
    definition.is_some_and(|it| {
        let definition = it.value();
        let versions = definition.items_at(&["spec", "versions"]).iter();
        let mut its = versions.filter(|it| it.str_at(&["name"]) == resource.version);
        its.any(|it: &Value| it.at(&["subresources", "scale"]).is_some_and(|it| !it.is_null()))
    })
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
