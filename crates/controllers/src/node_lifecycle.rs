//! Nodes that do not report: their conditions become Unknown, taints keep pods away, and their pods stop being ready.
//! Upstream: `pkg/controller/nodelifecycle`. Zones and eviction rates are not built yet: every node is on its own.

use apimachinery::{Value, time, value};
use client::call::PatchKind;
use client::events::{EventType, ObjectReference};
use client::indexes::BY_NODE;
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Event, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::owner::{key_of, reference_to, to_value};

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct NodeLifecycle {
    /// How long a node may be silent (upstream: `--node-monitor-grace-period`, 50 s).
    pub grace_seconds: i64,
    /// How long a new node may take to say its first word (upstream: `--node-startup-grace-period`, 60 s).
    pub startup_grace_seconds: i64,
}

impl Default for NodeLifecycle {
    fn default() -> Self {
        Self { grace_seconds: 50, startup_grace_seconds: 60 }
    }
}

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
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
    /// What it last said, and when that was seen.
    last: Option<(String, Timestamp)>,
    /// Whether it was told that the node is there.
    registered: bool,
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
    node: Node,
    /// The renew time of its lease, as text.
    lease: String,
    /// Its pods, where it is not ready.
    pods: Vec<Pod>,
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-lifecycle-controller";
    const ACCOUNT: &'static str = "node-controller";
    const SOURCE: &'static str = "node-controller";
    /// A node.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches
            .own::<Node>()
            .on::<Lease>(|change, _| {
                let key = change.key();
                let of_node = key.namespace == "kube-node-lease";
                if of_node { vec![ObjectKey::new("", key.name)] } else { Vec::new() }
            })
            .on::<Pod>(node_of)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let Some(node) = snapshot.get::<Node>(key) else {
            return Some(Observed::Gone(key.name.to_string()));
        };
        let lease =
            snapshot.store::<Lease>().get(&ObjectKey::new("kube-node-lease", key.name.clone()));
        let lease = lease
            .map(|it| it.value().str_at(&["spec", "renewTime"]).to_owned())
            .unwrap_or_default();
        let ready = ready_status(&to_value(&node)) == "True";
        let pods = if ready { Vec::new() } else { snapshot.by_index(BY_NODE, &key.name) };
        Some(Observed::Present(Box::new(Present { node, lease, pods })))
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
                plan.forget = true;
                plan
            }
        }
    }
}

impl NodeLifecycle {
    fn plan_node(&self, observed: &Present, memory: &mut Memory, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let object = to_value(&observed.node);
        let name = observed.node.metadata.name.clone().unwrap_or_default();
        let about = || reference_to("v1", "Node", &observed.node.metadata);
        if !std::mem::replace(&mut memory.registered, true) {
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            plan.event(about(), EventType::Normal, "RegisteredNode", message);
        }
        if label(&mut plan, &object) {
            // What follows is planned from the node as it is then.
            return plan;
        }
        let seen = self.last_seen(observed, &object, memory, now);
        let grace =
            if has_reported(&object) { self.grace_seconds } else { self.startup_grace_seconds };
        let deadline = seen.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
        let mut wanted = object.clone();
        if deadline <= now {
            silence(&mut wanted, now);
        } else {
            plan.requeue_by(deadline);
        }
        if wanted.get("status") != object.get("status") {
            plan.act(Action::Update {
                resource: Resource::of::<Node>(),
                subresource: "status",
                object: wanted.clone(),
            });
            if ready_status(&object) == "True" {
                let message = format!("Node {name} status is now: NodeNotReady");
                plan.event(about(), EventType::Normal, "NodeNotReady", message);
            }
            // The taints follow from the conditions as they are stored.
            return plan;
        }
        taint(&mut plan, &wanted, now);
        if ready_status(&wanted) != "True" {
            for pod in &observed.pods {
                not_ready(&mut plan, pod, now);
            }
        }
        plan
    }

    /// When the node last said something new. A restart of this process counts as a sign of life.
    fn last_seen(
        &self,
        observed: &Present,
        object: &Value,
        memory: &mut Memory,
        now: Timestamp,
    ) -> Timestamp {
        let heartbeat = object
            .items_at(&["status", "conditions"])
            .iter()
            .map(|it| it.str_at(&["lastHeartbeatTime"]))
            .max();
        let said = format!("{}|{}", observed.lease, heartbeat.unwrap_or_default());
        match &memory.last {
            Some((before, at)) if *before == said => *at,
            _ => {
                memory.last = Some((said, now));
                now
            }
        }
    }
}

fn node_of(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    let Some(pod) = &change.new else { return Vec::new() };
    let value = pod.value();
    match value.str_at(&["spec", "nodeName"]) {
        "" => Vec::new(),
        name => vec![ObjectKey::new("", name)],
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

/// Brings the taints in line with the conditions.
fn taint(plan: &mut Plan, node: &Value, now: Timestamp) {
    let status_of = |kind: &str| {
        let conditions = node.items_at(&["status", "conditions"]);
        conditions
            .iter()
            .find(|it| it.str_at(&["type"]) == kind)
            .map_or("", |it| it.str_at(&["status"]))
    };
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, status, key) in CONDITION_TAINTS {
        if status_of(kind) == *status {
            wanted.push((key, "NoSchedule"));
            if *kind == "Ready" {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    // A node that never reported is not ready.
    if status_of("Ready").is_empty() {
        wanted.push((NOT_READY, "NoSchedule"));
    }
    if node.bool_at(&["spec", "unschedulable"]) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
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
    for it in &wanted {
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
    if !crate::pods::is_ready(pod) {
        return;
    }
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
