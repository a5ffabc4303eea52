//! ResourceClaims of pods' templates, and who has which claim for how long. Upstream: `pkg/controller/resourceclaim`.

mod metrics;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use client::indexes::BY_CONTROLLER;
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Controller, Failure, Fetch, Plan, Snapshot, Watches};
use dynamic_resource_allocation::claim::{Consumer, POD_CLAIM_NAME};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};

pub use metrics::Metrics;

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct ResourceClaims {
    /// What it counts.
    pub metrics: Metrics,
}

/// In the text of every pod that has claims or was given some: `resourceClaims`, `extendedResourceClaimStatus`.
const CLAIMS: &str = "esourceClaim";

/// A pod, or a claim.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A pod that may need claims.
    Pod(ObjectKey),
    /// A claim that somebody may have let go of.
    Claim(ObjectKey),
}

/// What it sees.
#[derive(Debug)]
pub enum Observed {
    /// Of a pod.
    Pod(PodSeen),
    /// Of a claim.
    Claim(ClaimSeen),
}

/// What it sees of a pod.
#[derive(Debug)]
pub struct PodSeen {
    pod: Arc<Value>,
    /// The claims that the pod names or was given, by name.
    claims: BTreeMap<String, Arc<Value>>,
    /// The claims that were made for the pod, by the names that it has for them.
    made: BTreeMap<String, Arc<Value>>,
    /// The templates that it names.
    templates: BTreeMap<String, Arc<Value>>,
}

/// What it sees of a claim.
#[derive(Debug)]
pub struct ClaimSeen {
    claim: Arc<Value>,
    /// For each of those who have it, what is known.
    holders: Vec<Holder>,
    /// Whether the pod that it was made for will not need it any more.
    is_over: bool,
}

/// Somebody who has a claim.
#[derive(Debug, PartialEq, Eq)]
enum Holder {
    /// Needs it still.
    Needs,
    /// Does not need it any more.
    Gone,
    /// Nobody knows without asking.
    Ask(Box<Fetch>),
    /// Is of a sort that is not known here.
    Unknown(String),
}

/// What is remembered of a claim.
#[derive(Debug, Default)]
pub struct Memory {
    /// Whether it was told to give back what it was given, so that it need not be protected any more.
    released: bool,
    /// The claims that are being made.
    made: metrics::Made,
}

impl Controller for ResourceClaims {
    const NAME: &'static str = "resourceclaim-controller";
    const ACCOUNT: &'static str = "resource-claim-controller";
    const SOURCE: &'static str = "resource_claim";
    type Key = Key;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<Key>) -> Watches<Key> {
        // Templates are read, and a missing one is tried again.
        let none = |_: &StoreChange, _: &Snapshot| Vec::new();
        let metrics = self.metrics.clone();
        let seen = move |change: &StoreChange, snapshot: &Snapshot| {
            metrics.see(change);
            of_claim(change, snapshot)
        };
        watches.on::<Pod>(of_pod).on::<ResourceClaim>(seen).on::<ResourceClaimTemplate>(none)
    }

    fn observe(&self, snapshot: &Snapshot, key: &Key) -> Option<Observed> {
        match key {
            Key::Pod(key) => observe_pod(snapshot, key).map(Observed::Pod),
            Key::Claim(key) => observe_claim(snapshot, key).map(Observed::Claim),
        }
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, _now: Timestamp) -> Plan {
        match observed {
            Observed::Pod(seen) => {
                let plan = plan::pod(seen);
                memory.made = metrics::made(&plan);
                plan
            }
            Observed::Claim(seen) => plan::claim(seen, memory),
        }
    }

    fn applied(&self, memory: &mut Memory, failure: Option<&Failure>) {
        self.metrics.created(std::mem::take(&mut memory.made), failure.is_some());
    }
}

fn observe_pod(snapshot: &Snapshot, key: &ObjectKey) -> Option<PodSeen> {
    let pod = snapshot.store::<Pod>().get(key)?.value();
    let store = snapshot.store::<ResourceClaim>();
    let named = |name: &str| ObjectKey::new(key.namespace.clone(), name);
    let names = claim_names(&pod);
    let claims =
        names.iter().filter_map(|name| Some((name.clone(), store.get(&named(name))?.value())));
    let claims = claims.collect();
    let own = store.by_index(BY_CONTROLLER, pod.str_at(&["metadata", "uid"]));
    let made = own.iter().rev().filter_map(|claim| {
        let claim = claim.value();
        let name = claim.str_at(&["metadata", "annotations", POD_CLAIM_NAME]).to_owned();
        (!name.is_empty()).then_some((name, claim))
    });
    let made = made.collect();
    let templates = snapshot.store::<ResourceClaimTemplate>();
    let templates = pod
        .items_at(&["spec", "resourceClaims"])
        .iter()
        .map(|it| it.str_at(&["resourceClaimTemplateName"]))
        .filter_map(|name| Some((name.to_owned(), templates.get(&named(name))?.value())))
        .collect();
    Some(PodSeen { pod, claims, made, templates })
}

fn observe_claim(snapshot: &Snapshot, key: &ObjectKey) -> Option<ClaimSeen> {
    let claim = snapshot.store::<ResourceClaim>().get(key)?.value();
    let holders = claim.items_at(&["status", "reservedFor"]).iter();
    let holders = holders.map(|it| holder(snapshot, &key.namespace, it)).collect();
    let is_over = owner(&claim).is_some_and(|owner| {
        let (pods, uid) = (snapshot.store::<Pod>(), owner.str_at(&["uid"]));
        let pod = pods.get(&ObjectKey::new(key.namespace.clone(), owner.str_at(&["name"])));
        match pod.filter(|it| it.uid == uid) {
            Some(pod) => is_done(&pod.value()),
            None => pods.went(uid),
        }
    });
    Some(ClaimSeen { claim, holders, is_over })
}

fn holder(snapshot: &Snapshot, namespace: &str, entry: &Value) -> Holder {
    let consumer = Consumer::from_value(entry);
    if !consumer.is_pod() {
        let shown = String::from_utf8_lossy(&apimachinery::json::to_vec(entry)).into_owned();
        return Holder::Unknown(shown);
    }
    let key = ObjectKey::new(namespace, consumer.name.as_str());
    let needs = |pod: &Value| pod.str_at(&["metadata", "uid"]) == consumer.uid && !is_done(pod);
    let pods = snapshot.store::<Pod>();
    if pods.went(&consumer.uid) {
        return Holder::Gone;
    }
    if let Some(pod) = pods.get(&key).filter(|it| it.uid == consumer.uid) {
        return if needs(&pod.value()) { Holder::Needs } else { Holder::Gone };
    }
    // The cache may not know the pod yet, to which the scheduler is giving the claim, but another one of its name, or none:
    // that is made sure of (found by the simulation, seed 20016).
    let fetch = Fetch::read(Resource::of::<Pod>(), key);
    match snapshot.fetched(&fetch) {
        None => Holder::Ask(Box::new(fetch)),
        Some(Some(pod)) if needs(pod) => Holder::Needs,
        Some(_) => Holder::Gone,
    }
}

/// The pod that a claim was made for.
fn owner(claim: &Value) -> Option<&Value> {
    let owners = claim.items_at(&["metadata", "ownerReferences"]).iter();
    let mut pods = owners.filter(|it| {
        it.bool_at(&["controller"])
            && it.str_at(&["apiVersion"]) == "v1"
            && it.str_at(&["kind"]) == "Pod"
    });
    pods.next()
}

/// Whether none of a pod's containers runs or ever will.
fn is_done(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
        || (pod.at(&["metadata", "deletionTimestamp"]).is_some()
            && pod.str_at(&["spec", "nodeName"]).is_empty())
}

/// The claims that a pod names, or that its status says it was given; also that for its extended resources.
fn claim_names(pod: &Value) -> Vec<String> {
    let named = pod.items_at(&["spec", "resourceClaims"]).iter();
    let given = pod.items_at(&["status", "resourceClaimStatuses"]).iter();
    let extended = pod.at(&["status", "extendedResourceClaimStatus"]);
    let all = named.chain(given).chain(extended);
    let names = all.map(|it| it.str_at(&["resourceClaimName"]));
    names.filter(|it| !it.is_empty()).map(str::to_owned).collect()
}

/// The pod, and its claims where it does not need them any more.
fn of_pod(change: &StoreChange, _: &Snapshot) -> Vec<Key> {
    let has = change.new.as_ref().or(change.old.as_ref());
    if has.is_none_or(|it| !it.mentions(CLAIMS)) {
        return Vec::new();
    }
    let value = |it: &Option<Arc<client::reflector::Cached>>| it.as_ref().map(|it| it.value());
    let (old, new) = (value(&change.old), value(&change.new));
    let either = new.as_ref().or(old.as_ref());
    let extended = ["status", "extendedResourceClaimStatus"];
    let uses = |it: &Value| {
        !it.items_at(&["spec", "resourceClaims"]).is_empty() || it.at(&extended).is_some()
    };
    if either.is_none_or(|it| !uses(it)) {
        return Vec::new();
    }
    let uid = |it: &Value| it.str_at(&["metadata", "uid"]).to_owned();
    let replaced = old.as_deref().zip(new.as_deref()).is_some_and(|(a, b)| uid(a) != uid(b));
    let mut keys = Vec::new();
    if new.as_ref().is_none_or(|it| is_done(it)) || replaced {
        let names = old.iter().chain(&new).flat_map(|it| claim_names(it));
        let namespace = change.key().namespace;
        keys.extend(names.map(|name| Key::Claim(ObjectKey::new(namespace.clone(), name))));
    }
    if new.is_some() {
        keys.push(Key::Pod(change.key()));
    }
    keys
}

/// The claim, and the pods that may have waited for it.
fn of_claim(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let mut keys = vec![Key::Claim(change.key())];
    keys.extend(controller::watches::controllers(change, "Pod").into_iter().map(Key::Pod));
    let allocated = |it: &Option<Arc<client::reflector::Cached>>| {
        let value = it.as_ref().map(|it| it.value());
        value.is_some_and(|it| it.at(&["status", "allocation"]).is_some_and(|it| !it.is_null()))
    };
    // Pods that came to a node without the scheduler get a claim that others had it allocated for.
    if keys.len() == 1 && allocated(&change.new) && !allocated(&change.old) {
        let key = change.key();
        let pods = snapshot.store::<Pod>().list(&key.namespace);
        let waiting = pods.iter().filter(|pod| {
            pod.mentions("resourceClaims") && {
                let pod = pod.value();
                !pod.str_at(&["spec", "nodeName"]).is_empty()
                    && claim_names(&pod).iter().any(|it| *it == key.name)
            }
        });
        keys.extend(waiting.map(|it| Key::Pod(it.key.clone())));
    }
    keys
}

#[cfg(test)]
mod tests;
