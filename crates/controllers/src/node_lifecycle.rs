//! Nodes that do not report: their conditions become Unknown, taints keep pods away, and their pods stop being ready.
//! Upstream: `pkg/controller/nodelifecycle`.
//!
//! Taints that evict come as fast as a node's zone allows ([`zones`]); everything else comes at once.

mod metrics;
mod renewals;
mod zones;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::call::PatchKind;
use client::events::{EventType, ObjectReference};
use client::indexes::BY_NODE;
use client::reflector::{Cached, StoreChange};
use client::{ObjectKey, Resource};
use compact_str::CompactString;
use component_base::Clock;
use controller::{Action, Controller, Event, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease as NodeLease;
use k8s_openapi::api::core::v1::{Node, Pod};

use parking_lot::Mutex;

use crate::owner::{key_of, reference_to};

pub use metrics::Metrics;
use renewals::{Lease, Renewals};
pub use zones::Rates;
use zones::{Change, Turn, Zones};

/// How the controller judges nodes.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long a node may be silent (upstream: `--node-monitor-grace-period`, 50 s).
    pub grace_seconds: i64,
    /// How long a new node may take to say its first word (upstream: `--node-startup-grace-period`, 60 s).
    pub startup_grace_seconds: i64,
    /// How fast pods are evicted.
    pub rates: Rates,
}

impl Default for Options {
    fn default() -> Self {
        Self { grace_seconds: 50, startup_grace_seconds: 60, rates: Rates::default() }
    }
}

/// The controller.
#[derive(Debug, Clone)]
pub struct NodeLifecycle {
    options: Options,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    /// An index of the cached nodes.
    zones: Arc<Mutex<Zones>>,
    /// One of their leases.
    renewals: Arc<Mutex<Renewals>>,
    /// Pods that came to a node that was not ready, or into another phase there, by node.
    moved: Moved,
}

type Moved = Arc<Mutex<BTreeMap<CompactString, BTreeSet<ObjectKey>>>>;

impl NodeLifecycle {
    /// A controller that has seen no node yet.
    #[must_use]
    pub fn new(options: Options, metrics: Metrics, clock: Arc<dyn Clock>) -> Self {
        Self {
            options,
            metrics,
            clock,
            zones: Arc::default(),
            renewals: Arc::default(),
            moved: Arc::default(),
        }
    }
}

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";
/// Conditions with the status that taints a node, and the taint.
const CONDITION_TAINTS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Labels whose older names go on being written.
const OLDER_LABELS: &[(&str, &str)] = &[
    ("kubernetes.io/os", "beta.kubernetes.io/os"),
    ("kubernetes.io/arch", "beta.kubernetes.io/arch"),
];
/// The conditions that a silent node has, in upstream's order.
const CONDITIONS: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What is remembered of a node: when it last showed a sign of life, by this process' clock.
#[derive(Debug, Default)]
pub struct Memory {
    /// What its status said last, and when that was seen.
    last: Option<(String, Timestamp)>,
    /// The version of the node for which nothing was to be done.
    settled: Option<u64>,
    /// Whether it was told that the node is there.
    registered: bool,
    /// Since when the pods were ready that were told, once, that their silent node is not, by uid. Who says that they are
    /// all the same, as a node's agent does once it is back, is not answered.
    told: BTreeMap<String, Option<Timestamp>>,
}

impl Memory {
    /// Whether a ready pod of a silent node is to be told so: once, and again only if it has been ready ever since.
    fn tells(&mut self, pod: &Pod) -> bool {
        let since = crate::pods::ready_since(pod);
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match self.told.get(uid) {
            Some(before) => since.is_some() && *before == since,
            None => {
                self.told.insert(uid.to_owned(), since);
                true
            }
        }
    }
}

/// What it sees of a node's name.
#[derive(Debug)]
pub enum Observed {
    /// There is no such node.
    Gone(String),
    /// A node.
    Present(Box<Present>),
}

/// What it sees of a node.
#[derive(Debug)]
pub struct Present {
    node: Arc<Cached>,
    /// Whether it is ready.
    ready: bool,
    /// Its pods, where it is not ready.
    pods: Vec<Arc<Pod>>,
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-lifecycle-controller";
    const ACCOUNT: &'static str = "node-controller";
    const SOURCE: &'static str = "node-controller";
    const QUEUE: &'static str = "node_lifecycle_controller";
    /// A node.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        let (zones, metrics) = (Arc::clone(&self.zones), self.metrics.clone());
        let (of_pods, of_leases) = (Arc::clone(&self.zones), Arc::clone(&self.zones));
        let (renewals, clock) = (Arc::clone(&self.renewals), Arc::clone(&self.clock));
        let moved = Arc::clone(&self.moved);
        watches
            .on::<Node>(move |change, _| nodes_of(&mut zones.lock(), &metrics, change))
            .on::<NodeLease>(move |change, _| match renewals.lock().see(change, clock.now()) {
                Lease::Renewed(node) if of_leases.lock().is_ready(node) => Vec::new(),
                Lease::Renewed(node) | Lease::Other(node) => vec![ObjectKey::new("", node)],
                Lease::Nothing => Vec::new(),
            })
            .on::<Pod>(move |change, _| node_of(&of_pods, &moved, change))
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let Some(node) = snapshot.store::<Node>().get(key) else {
            return Some(Observed::Gone(key.name.to_string()));
        };
        let ready = self.zones.lock().is_ready(&key.name);
        let pods = if ready { Vec::new() } else { snapshot.by_index(BY_NODE, &key.name) };
        Some(Observed::Present(Box::new(Present { node, ready, pods })))
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        match observed {
            Observed::Present(present) => self.plan_node(present, memory, now),
            Observed::Gone(name) => {
                let mut plan = Plan::nothing();
                if std::mem::take(&mut memory.registered) {
                    let about = ObjectReference {
                        api_version: "v1".into(),
                        kind: "Node".into(),
                        name: name.clone(),
                        ..ObjectReference::default()
                    };
                    let message =
                        format!("Node {name} event: Removing Node {name} from Controller");
                    plan.event(about, EventType::Normal, "RemovingNode", message);
                }
                self.moved.lock().remove(name.as_str());
                plan.forget = true;
                plan
            }
        }
    }
}

impl NodeLifecycle {
    fn plan_node(&self, observed: &Present, memory: &mut Memory, now: Timestamp) -> Plan {
        let version = observed.node.resource_version();
        if observed.ready && memory.settled == Some(version) {
            let plan = self.still_well(&observed.node.key.name, memory, now);
            if let Some(plan) = plan {
                return plan;
            }
        }
        let plan = self.judge(observed, memory, now);
        let settled = plan.stages.is_empty() && plan.events.is_empty();
        memory.settled = settled.then_some(version);
        plan
    }

    /// What there is to do for a node that was ready, is as it was, and has gone on renewing its lease.
    fn still_well(&self, name: &str, memory: &Memory, now: Timestamp) -> Option<Plan> {
        let seen = self.renewals.lock().seen(name).max(memory.last.as_ref().map(|it| it.1))?;
        let grace = SignedDuration::from_secs(self.options.grace_seconds);
        let deadline = seen.checked_add(grace).ok().filter(|it| *it > now)?;
        let mut plan = Plan::nothing();
        plan.requeue_by(deadline);
        Some(plan)
    }

    fn judge(&self, observed: &Present, memory: &mut Memory, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let object = &*observed.node.value();
        let name = object.str_at(&["metadata", "name"]);
        let about = || ObjectReference::of(object);
        if !std::mem::replace(&mut memory.registered, true) {
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            plan.event(about(), EventType::Normal, "RegisteredNode", message);
        }
        if label(&mut plan, object) {
            // What follows is planned from the node as it is then.
            return plan;
        }
        let seen = self.last_seen(object, memory, now);
        let options = &self.options;
        let grace = match has_reported(object) {
            true => options.grace_seconds,
            false => options.startup_grace_seconds,
        };
        let deadline = seen.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
        let mut wanted = Cow::Borrowed(object);
        if deadline <= now {
            silence(wanted.to_mut(), now);
        } else {
            plan.requeue_by(deadline);
        }
        if matches!(&wanted, Cow::Owned(wanted) if wanted.get("status") != object.get("status")) {
            plan.act(Action::Update {
                resource: Resource::of::<Node>(),
                subresource: "status",
                object: wanted.into_owned(),
            });
            if ready_status(object) == "True" {
                let message = format!("Node {name} status is now: NodeNotReady");
                plan.event(about(), EventType::Normal, "NodeNotReady", message);
            }
            // The taints follow from the conditions as they are stored.
            return plan;
        }
        self.taint(&mut plan, &wanted, now);
        // A node that says itself that it is not ready looks after the pods that it has: only what comes to it is not ready.
        let moved = self.moved.lock().remove(name).unwrap_or_default();
        let status = ready_status(&wanted);
        if status != "Unknown" {
            memory.told.clear();
        }
        for pod in observed.pods.iter().filter(|it| crate::pods::is_ready(it)) {
            let touched = match status {
                "Unknown" => memory.tells(pod),
                "False" => moved.contains(&key_of(&pod.metadata)),
                _ => false,
            };
            if touched {
                not_ready(&mut plan, pod, now);
            }
        }
        plan
    }

    /// When the node last said something new. A restart of this process counts as a sign of life.
    fn last_seen(&self, object: &Value, memory: &mut Memory, now: Timestamp) -> Timestamp {
        let heartbeat = object
            .items_at(&["status", "conditions"])
            .iter()
            .map(|it| it.str_at(&["lastHeartbeatTime"]))
            .max();
        let said = heartbeat.unwrap_or_default();
        let renewed = self.renewals.lock().seen(object.str_at(&["metadata", "name"]));
        let mut zones = self.zones.lock();
        // Whether silence is the node's own is not known while all are silent.
        zones.all_ill(now);
        match &memory.last {
            Some((before, at)) if before == said => {
                let signs = [Some(*at), renewed, zones.resumed()];
                signs.into_iter().flatten().max().unwrap_or(*at)
            }
            _ => {
                memory.last = Some((said.to_owned(), now));
                now
            }
        }
    }

    /// Brings the taints in line with the conditions.
    fn taint(&self, plan: &mut Plan, node: &Value, now: Timestamp) {
        let mut wanted = wanted_taints(node);
        let before = node.items_at(&["spec", "taints"]);
        let evicts = |taint: &Value| {
            let key = taint.str_at(&["key"]);
            taint.str_at(&["effect"]) == NO_EXECUTE && (key == NOT_READY || key == UNREACHABLE)
        };
        let mut evicted = None;
        if wanted.iter().any(|it| it.1 == NO_EXECUTE) {
            let mut zones = self.zones.lock();
            // One evicting taint takes the place of another at once.
            let turn = match before.iter().any(evicts) {
                _ if zones.all_ill(now) => Turn::Held,
                true => Turn::Now,
                false => {
                    let zone = zones::name(node);
                    let turn = zones.turn(&zone, &self.options.rates, now);
                    evicted = (turn == Turn::Now).then_some(zone);
                    turn
                }
            };
            if turn != Turn::Now {
                wanted.retain(|it| it.1 != NO_EXECUTE);
            }
            if let Turn::At(at) = turn {
                plan.requeue_by(at);
            }
        }
        if let Some(zone) = evicted {
            self.metrics.evicts(&zone);
        }
        write_taints(plan, node, &wanted, now);
    }
}

/// The nodes that a node's change concerns: others too, where it changes how fast they may be evicted.
fn nodes_of(zones: &mut Zones, metrics: &Metrics, change: &StoreChange) -> Vec<ObjectKey> {
    let key = change.key();
    let now = change.new.as_ref().map(|it| {
        let node = it.value();
        (zones::name(&node), ready_status(&node) == "True")
    });
    let key_of = |name: &str| ObjectKey::new("", name);
    let others: Vec<ObjectKey> = match zones.see(&key.name, now.as_ref()) {
        Change::Nothing => return vec![key],
        Change::Counts => zones.not_ready().map(key_of).collect(),
        Change::AllIll => zones.names().map(key_of).collect(),
    };
    metrics.zones(zones);
    std::iter::once(key).chain(others).collect()
}

/// The node of a pod, unless it is ready: only on others pods matter.
fn node_of(zones: &Mutex<Zones>, moved: &Moved, change: &StoreChange) -> Vec<ObjectKey> {
    let Some(pod) = &change.new else { return Vec::new() };
    let place = |it: &Cached| (it.pod().node.clone(), it.pod().phase);
    let stays = change.old.as_ref().is_some_and(|old| place(old) == place(pod));
    match pod.pod().node.as_str() {
        "" => Vec::new(),
        name if zones.lock().is_ready(name) => Vec::new(),
        name => {
            if !stays {
                moved.lock().entry(name.into()).or_default().insert(change.key());
            }
            vec![ObjectKey::new("", name)]
        }
    }
}

fn ready_status(node: &Value) -> &str {
    let conditions = node.items_at(&["status", "conditions"]);
    conditions
        .iter()
        .find(|it| it.str_at(&["type"]) == "Ready")
        .map_or("", |it| it.str_at(&["status"]))
}

fn has_reported(node: &Value) -> bool {
    !ready_status(node).is_empty()
}

/// Makes every condition of a silent node Unknown.
fn silence(node: &mut Value, now: Timestamp) {
    let now = time::format_time(now);
    let created = node.str_at(&["metadata", "creationTimestamp"]).to_owned();
    let status = node.object_at_mut(&["status"]);
    let conditions = status.entry("conditions");
    if conditions.is_null() {
        *conditions = Value::Array(Vec::new());
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    for kind in CONDITIONS {
        match conditions.iter_mut().find(|it| it.str_at(&["type"]) == *kind) {
            None => conditions.push(value!({
                "type": (*kind), "status": "Unknown", "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": (created.as_str()), "lastTransitionTime": (now.clone())
            })),
            Some(condition) if condition.str_at(&["status"]) != "Unknown" => {
                condition.set_at(&["status"], "Unknown");
                condition.set_at(&["reason"], "NodeStatusUnknown");
                condition.set_at(&["message"], "Kubelet stopped posting node status.");
                condition.set_at(&["lastTransitionTime"], now.clone());
            }
            Some(_) => {}
        }
    }
}

/// Labels by their older names say what those by their present names say; says whether any is written.
fn label(plan: &mut Plan, node: &Value) -> bool {
    let mut labels = value!({});
    for (name, older) in OLDER_LABELS {
        let text = node.str_at(&["metadata", "labels", name]);
        let present = node.at(&["metadata", "labels", name]).is_some();
        if present && node.at(&["metadata", "labels", older]).and_then(Value::as_str) != Some(text)
        {
            labels.set_at(&[*older], text);
        }
    }
    if labels.as_object().is_none_or(apimachinery::Object::is_empty) {
        return false;
    }
    plan.act(Action::Patch {
        resource: Resource::of::<Node>(),
        key: ObjectKey::new("", node.str_at(&["metadata", "name"])),
        subresource: "",
        kind: PatchKind::Strategic,
        patch: value!({"metadata": {"labels": labels}}),
        gone_is_fine: true,
    });
    true
}

/// The taints that the conditions ask for.
fn wanted_taints(node: &Value) -> Vec<(&'static str, &'static str)> {
    let status_of = |kind: &str| {
        let conditions = node.items_at(&["status", "conditions"]);
        conditions
            .iter()
            .find(|it| it.str_at(&["type"]) == kind)
            .map_or("", |it| it.str_at(&["status"]))
    };
    let mut wanted = Vec::new();
    for (kind, status, key) in CONDITION_TAINTS {
        if status_of(kind) == *status {
            wanted.push((*key, NO_SCHEDULE));
            if *kind == "Ready" {
                wanted.push((*key, NO_EXECUTE));
            }
        }
    }
    // A node that never reported is not ready.
    if status_of("Ready").is_empty() {
        wanted.push((NOT_READY, NO_SCHEDULE));
    }
    if node.bool_at(&["spec", "unschedulable"]) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    wanted
}

/// Writes the taints, where they are others than those that are there.
fn write_taints(plan: &mut Plan, node: &Value, wanted: &[(&str, &str)], now: Timestamp) {
    let ours = |taint: &Value| {
        let key = taint.str_at(&["key"]);
        key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, it)| *it == key)
    };
    let same = |taint: &Value, (key, effect): &(&str, &str)| {
        taint.str_at(&["key"]) == *key && taint.str_at(&["effect"]) == *effect
    };
    let before = node.items_at(&["spec", "taints"]);
    let mut taints: Vec<Value> = before
        .iter()
        .filter(|taint| !ours(taint) || wanted.iter().any(|it| same(taint, it)))
        .cloned()
        .collect();
    for it in wanted {
        if !before.iter().any(|taint| same(taint, it)) {
            let added = time::format_time(now);
            taints.push(value!({"key": (it.0), "effect": (it.1), "timeAdded": added}));
        }
    }
    if taints.as_slice() == before {
        return;
    }
    let name = node.str_at(&["metadata", "name"]);
    let version = node.str_at(&["metadata", "resourceVersion"]);
    let taints = if taints.is_empty() { Value::Null } else { Value::Array(taints) };
    plan.act(Action::Patch {
        resource: Resource::of::<Node>(),
        key: ObjectKey::new("", name),
        subresource: "",
        kind: PatchKind::Merge,
        patch: value!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}}),
        gone_is_fine: true,
    });
}

/// A pod on a node that is not ready is not ready either.
fn not_ready(plan: &mut Plan, pod: &Pod, now: Timestamp) {
    let patch = value!({"status": {"conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": (time::format_time(now))}]}});
    plan.act(Action::Patch {
        resource: Resource::of::<Pod>(),
        key: key_of(&pod.metadata),
        subresource: "status",
        kind: PatchKind::Strategic,
        patch,
        gone_is_fine: true,
    })
    .on_success = Some(Event {
        about: reference_to("v1", "Pod", &pod.metadata),
        kind: EventType::Warning,
        reason: "NodeNotReady",
        message: "Node is not ready".into(),
    });
}
