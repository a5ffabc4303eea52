//! Taints of devices with the effect NoExecute: pods that have such a device and do not bear it go. Upstream:
//! `pkg/controller/devicetainteviction`.

mod plan;
mod rule;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use client::reflector::{Cached, StoreChange};
use controller::{Controller, Failure, Plan, Snapshot, Watches};
use dynamic_resource_allocation::claim::Given;
use dynamic_resource_allocation::taint::{Effect, Rule, Taint};
use dynamic_resource_allocation::{Claim, Slice, Slices};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{DeviceTaintRule, ResourceClaim, ResourceSlice};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// How many pods are remembered as evicted for one rule, to be counted once each.
const EVICTED_MAX: usize = 10_000;

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    deletions: Counter,
    latency: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let bounds = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0];
        Self { deletions: Counter::default(), latency: Histogram::new(bounds) }
    }
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("device_taint_eviction_controller");
        let help = "[ALPHA] Pods that went because of taints of their devices";
        registry.register("pod_deletions", help, self.deletions.clone());
        let help = "[ALPHA] Seconds from when a taint of a device was borne no longer to the end of its pod";
        registry.register("pod_deletion_duration_seconds", help, self.latency.clone());
    }
}

/// The controller.
#[derive(Debug, Default)]
pub struct DeviceTaintEviction {
    metrics: Metrics,
    slices: Arc<Mutex<Slices>>,
    /// For each rule, by its uid, the pods that went because of it since the start.
    evicted: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

/// A pod, or a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A pod that may have to go.
    Pod(ObjectKey),
    /// A rule whose status tells how far that is.
    Rule(ObjectKey),
}

/// A taint that somebody has to do with, and how it is borne.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Affecting {
    /// The uid of the rule that it comes from; empty where it is the device's own.
    rule: String,
    time_added: String,
    /// For how long it is borne.
    seconds: Option<i64>,
}

/// What it sees.
#[derive(Debug)]
pub enum Observed {
    /// Of a pod.
    Pod(PodSeen),
    /// Of a rule.
    Rule(RuleSeen),
}

/// A pod on a node, and the taints that it does not bear for ever.
#[derive(Debug)]
pub struct PodSeen {
    pod: Arc<Value>,
    taints: Vec<Affecting>,
}

/// A rule, and what it comes to.
#[derive(Debug)]
pub struct RuleSeen {
    rule: Arc<Value>,
    counts: rule::Counts,
}

/// What is remembered of a pod: since when taints are seen that do not say since when they are, and until when it stays.
#[derive(Debug, Default)]
pub struct Memory {
    seen: Option<Timestamp>,
    leave: Option<Timestamp>,
    /// How late it is being evicted.
    late: Option<SignedDuration>,
}

impl Controller for DeviceTaintEviction {
    const NAME: &'static str = "device-taint-eviction-controller";
    type Key = Key;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<Key>) -> Watches<Key> {
        let slices = Arc::clone(&self.slices);
        watches
            .on::<ResourceSlice>(move |change, snapshot| of_slice(&slices, change, snapshot))
            .on::<DeviceTaintRule>(of_rule)
            .on::<ResourceClaim>(of_claim)
            .on::<Pod>(of_pod)
    }

    fn observe(&self, snapshot: &Snapshot, key: &Key) -> Option<Observed> {
        match key {
            Key::Pod(key) => {
                let pod = snapshot.store::<Pod>().get(key)?.value();
                let taints = self.taints_of(snapshot, &pod, &rules(snapshot));
                Some(Observed::Pod(PodSeen { pod, taints }))
            }
            Key::Rule(key) => {
                let rule = snapshot.store::<DeviceTaintRule>().get(key)?.value();
                let counts = self.count(snapshot, &rule);
                Some(Observed::Rule(RuleSeen { rule, counts }))
            }
        }
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        match observed {
            Observed::Pod(seen) => {
                let (plan, evicted) = plan::plan(seen, memory, now);
                if evicted {
                    self.count_evicted(seen);
                }
                plan
            }
            Observed::Rule(seen) => rule::plan(seen, now),
        }
    }

    fn applied(&self, memory: &mut Memory, failure: Option<&Failure>) {
        if let Some(late) = memory.late.take().filter(|_| failure.is_none()) {
            self.metrics.deletions.inc();
            self.metrics.latency.observe(late.as_secs_f64().max(0.0));
        }
    }
}

impl DeviceTaintEviction {
    /// The controller, which counts here.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, ..Self::default() }
    }

    /// The taints with effect NoExecute of the devices of a pod that it does not bear for ever.
    fn taints_of(
        &self,
        snapshot: &Snapshot,
        pod: &Value,
        rules: &[(String, Rule)],
    ) -> Vec<Affecting> {
        if pod.str_at(&["spec", "nodeName"]).is_empty() {
            return Vec::new();
        }
        let claims = claims_of(snapshot, pod);
        let given = claims.iter().filter_map(|it| it.allocation.as_ref());
        given.flat_map(|it| &it.devices).flat_map(|it| self.affecting(it, rules)).collect()
    }

    fn affecting(&self, given: &Given, rules: &[(String, Rule)]) -> Vec<Affecting> {
        let mut taints: Vec<(String, Taint)> = Vec::new();
        let slices = self.slices.lock();
        let pool: Vec<&Arc<Slice>> = slices.pool(&given.id.driver, &given.id.pool).collect();
        let newest = pool.iter().map(|it| it.generation).max();
        let current = pool.iter().filter(|it| Some(it.generation) == newest);
        for device in current.flat_map(|it| &it.devices).filter(|it| it.id == given.id) {
            taints.extend(device.taints.iter().map(|it| (String::new(), it.clone())));
        }
        let selecting = rules.iter().filter(|(_, it)| it.selects(&given.id));
        taints.extend(selecting.map(|(uid, it)| (uid.clone(), it.taint.clone())));
        taints.retain(|(_, it)| it.effect == Effect::NoExecute);
        let borne = taints.into_iter().filter_map(|(rule, taint)| {
            let bearing = given
                .tolerations
                .iter()
                .filter(|it| it.effect.as_deref() == Some("NoExecute") && it.tolerates(&taint));
            let seconds: Vec<Option<i64>> = bearing.map(|it| it.seconds).collect();
            // Who bears it for ever is not affected.
            let for_ever = seconds.contains(&None);
            let shortest = seconds.iter().flatten().map(|it| (*it).max(0)).min();
            let time_added = taint.time_added.to_string();
            (!for_ever).then_some(Affecting { rule, time_added, seconds: shortest })
        });
        borne.collect()
    }

    /// What a rule comes to, if its taint had the effect NoExecute.
    fn count(&self, snapshot: &Snapshot, value: &Value) -> rule::Counts {
        let uid = value.str_at(&["metadata", "uid"]).to_owned();
        let mut evicting = Rule::from_value(value);
        evicting.taint.effect = Effect::NoExecute;
        let rules = [(uid.clone(), evicting)];
        let evicted = self.evicted.lock().get(&uid).map_or(0, BTreeSet::len);
        let mut counts = rule::Counts { evicted, ..rule::Counts::default() };
        let slices = self.slices.lock();
        let published = slices.iter().flat_map(|it| &it.devices);
        counts.published = published.filter(|it| rules[0].1.selects(&it.id)).count();
        drop(slices);
        let mut pods = BTreeSet::new();
        for claim in allocated(snapshot) {
            let given = claim.allocation.iter().flat_map(|it| &it.devices);
            let selected = given.filter(|it| rules[0].1.selects(&it.id)).count();
            counts.allocated += selected;
            if selected > 0 {
                pods.extend(holders(&claim));
            }
        }
        for key in pods {
            let Some(pod) = snapshot.store::<Pod>().get(&key).map(|it| it.value()) else {
                continue;
            };
            let going = pod.at(&["metadata", "deletionTimestamp"]).is_some();
            if !going && !self.taints_of(snapshot, &pod, &rules).iter().all(|it| it.rule.is_empty())
            {
                counts.pending += 1;
                counts.namespaces.insert(key.namespace.to_string());
            }
        }
        counts
    }

    fn count_evicted(&self, seen: &PodSeen) {
        let uid = seen.pod.str_at(&["metadata", "uid"]);
        let mut evicted = self.evicted.lock();
        for taint in seen.taints.iter().filter(|it| !it.rule.is_empty()) {
            let pods = evicted.entry(taint.rule.clone()).or_default();
            if pods.len() < EVICTED_MAX {
                pods.insert(uid.to_owned());
            }
        }
    }
}

/// The rules that evict, with their uids.
fn rules(snapshot: &Snapshot) -> Vec<(String, Rule)> {
    let rules = snapshot.store::<DeviceTaintRule>().list("");
    let read = rules.iter().map(|it| {
        let value = it.value();
        (value.str_at(&["metadata", "uid"]).to_owned(), Rule::from_value(&value))
    });
    read.filter(|(_, it)| it.taint.effect == Effect::NoExecute).collect()
}

/// The claims that a pod has.
fn claims_of(snapshot: &Snapshot, pod: &Value) -> Vec<Claim> {
    let store = snapshot.store::<ResourceClaim>();
    let (namespace, uid) =
        (pod.str_at(&["metadata", "namespace"]), pod.str_at(&["metadata", "uid"]));
    let named = pod.items_at(&["spec", "resourceClaims"]).iter();
    let given = pod.items_at(&["status", "resourceClaimStatuses"]).iter();
    let extended = pod.at(&["status", "extendedResourceClaimStatus"]);
    let all = named.chain(given).chain(extended);
    let names = all.map(|it| it.str_at(&["resourceClaimName"]));
    let claims = names.filter_map(|name| store.get(&ObjectKey::new(namespace, name)));
    let claims = claims.map(|it| Claim::from_value(&it.value()));
    claims.filter(|it| it.is_reserved_for(uid)).collect()
}

/// The claims that have been given something.
fn allocated(snapshot: &Snapshot) -> Vec<Claim> {
    let claims = snapshot.store::<ResourceClaim>().list("");
    let allocated = claims.iter().filter(|it| it.mentions("allocation"));
    let claims = allocated.map(|it| Claim::from_value(&it.value()));
    claims.filter(|it| it.allocation.is_some()).collect()
}

/// The pods that have a claim.
fn holders(claim: &Claim) -> Vec<ObjectKey> {
    let pods = claim.reserved_for.iter().filter(|it| it.is_pod());
    pods.map(|it| ObjectKey::new(claim.namespace.clone(), it.name.clone())).collect()
}

type Object = Option<Arc<Cached>>;

/// The pods with devices of a pool whose taints may have changed.
fn of_slice(slices: &Mutex<Slices>, change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let read = |it: &Object| it.as_ref().map(|it| Arc::new(Slice::from_value(&it.value())));
    let (old, new) = (read(&change.old), read(&change.new));
    slices.lock().set(&change.key().name, new.clone());
    let evicts = |it: &&Arc<Slice>| {
        let mut taints = it.devices.iter().flat_map(|it| &it.taints);
        taints.any(|it| it.effect == Effect::NoExecute)
    };
    let evicting: Vec<Arc<Slice>> = old.into_iter().chain(new).filter(|it| evicts(&it)).collect();
    if evicting.is_empty() {
        return Vec::new();
    }
    let concerned = |given: &Given| {
        evicting.iter().any(|it| it.driver == given.id.driver && it.pool == given.id.pool)
    };
    pods_with(snapshot, concerned)
}

/// A rule, and the pods with devices that it selects.
fn of_rule(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let mut keys = vec![Key::Rule(change.key())];
    let read = |it: &Object| it.as_ref().map(|it| Rule::from_value(&it.value()));
    let (old, new) = (read(&change.old), read(&change.new));
    if old != new {
        let rules: Vec<Rule> = old.into_iter().chain(new).collect();
        let evicting = rules.iter().filter(|it| it.taint.effect == Effect::NoExecute);
        let evicting: Vec<&Rule> = evicting.collect();
        keys.extend(pods_with(snapshot, |given| evicting.iter().any(|it| it.selects(&given.id))));
    }
    keys
}

fn pods_with(snapshot: &Snapshot, concerned: impl Fn(&Given) -> bool) -> Vec<Key> {
    let claims = allocated(snapshot);
    let with = claims.iter().filter(|claim| {
        claim.allocation.as_ref().is_some_and(|it| it.devices.iter().any(&concerned))
    });
    with.flat_map(holders).map(Key::Pod).collect()
}

/// The pods that have a claim or had it, and the rules that select its devices.
fn of_claim(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let read = |it: &Object| it.as_ref().map(|it| Claim::from_value(&it.value()));
    let claims: Vec<Claim> = read(&change.old).into_iter().chain(read(&change.new)).collect();
    let mut keys: Vec<Key> = claims.iter().flat_map(holders).map(Key::Pod).collect();
    let given = claims.iter().filter_map(|it| it.allocation.as_ref()).flat_map(|it| &it.devices);
    let given: Vec<&Given> = given.collect();
    if !given.is_empty() {
        for rule in snapshot.store::<DeviceTaintRule>().list("") {
            let read = Rule::from_value(&rule.value());
            let evicts = read.taint.effect == Effect::NoExecute;
            if evicts && given.iter().any(|it| read.selects(&it.id)) {
                keys.push(Key::Rule(rule.key.clone()));
            }
        }
    }
    keys
}

/// A pod that came to a node or got its claims; other changes do not matter.
fn of_pod(change: &StoreChange, _: &Snapshot) -> Vec<Key> {
    let relevant = |it: &Object| {
        it.as_ref().map(|it| {
            let pod = it.value();
            let uid = pod.str_at(&["metadata", "uid"]).to_owned();
            let node = pod.str_at(&["spec", "nodeName"]).to_owned();
            let given = |member| pod.at(&["status", member]).cloned();
            (uid, node, given("resourceClaimStatuses"), given("extendedResourceClaimStatus"))
        })
    };
    let claims = [&change.old, &change.new].into_iter().flatten();
    let uses = claims.into_iter().any(|it| it.mentions("esourceClaim"));
    let changed = uses && relevant(&change.old) != relevant(&change.new);
    if changed { vec![Key::Pod(change.key())] } else { Vec::new() }
}
