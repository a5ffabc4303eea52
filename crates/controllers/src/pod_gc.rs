//! Pods that nobody else takes away: those of nodes that are gone, those that were to go and have no node, and the oldest
//! of those that are over when there are too many. Upstream: `pkg/controller/podgc`.

use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::call::PatchKind;
use client::indexes::{BY_NODE, BY_PHASE, OVER};
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Failure, Fetch, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::owner::{is_deleting, key_of};
use crate::pods;

/// The controller.
#[derive(Debug, Clone)]
pub struct PodGc {
    /// How many pods that are over may stay (upstream: `--terminated-pod-gc-threshold`, 12,500); 0 for any number.
    pub terminated_threshold: usize,
    /// What it counts.
    pub metrics: Metrics,
}

impl Default for PodGc {
    fn default() -> Self {
        Self { terminated_threshold: 12_500, metrics: Metrics::default() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    namespace: String,
    reason: &'static str,
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    deletes: Family<Labels, Counter>,
    errors: Family<Labels, Counter>,
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let help = "[ALPHA] Number of pods that are being forcefully deleted since the Pod GC Controller started.";
        registry.register("pod_gc_collector_force_delete_pods", help, self.deletes.clone());
        let help = "[ALPHA] Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started.";
        registry.register("pod_gc_collector_force_delete_pod_errors", help, self.errors.clone());
    }
}

/// What is remembered of a key.
#[derive(Debug, Default)]
pub struct Memory {
    /// Since when a pod is to be taken away.
    since: Option<Timestamp>,
    /// The namespaces of the pods that are being taken away, and why they are.
    going: Option<(Vec<String>, &'static str)>,
}

/// How long a node must have been missing (upstream: `quarantineTime`).
const QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
/// How long a pod without node may take to go by itself (upstream looks this often).
const PERIOD: SignedDuration = SignedDuration::from_secs(20);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// What it plans for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// One pod.
    Pod(ObjectKey),
    /// All pods that are over.
    Over,
}

/// What is known of a pod's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeState {
    /// It has none.
    None,
    /// It is there.
    Present,
    /// It is there, not ready and declared out of service.
    OutOfService,
    /// The cache does not have it.
    Missing,
    /// A live read did not find it either.
    Gone,
}

/// What it sees.
#[derive(Debug)]
pub enum Observed {
    /// A pod with its node.
    Pod(Box<Pod>, NodeState),
    /// The pods that are over, as many as are too many, oldest first.
    Surplus(Vec<Arc<Pod>>),
}

impl Controller for PodGc {
    const NAME: &'static str = "pod-garbage-collector-controller";
    const ACCOUNT: &'static str = "pod-garbage-collector";
    const QUEUE: &'static str = "orphaned_pods_nodes";
    type Key = Key;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<Key>) -> Watches<Key> {
        watches.on::<Pod>(of_pod).on::<Node>(|change, snapshot| {
            let pods = snapshot.store::<Pod>().by_index(BY_NODE, &change.key().name);
            let gone = change.new.is_none() || out_of_service(&change.new);
            pods.iter().filter(|_| gone).map(|pod| Key::Pod(pod.key.clone())).collect()
        })
    }

    fn observe(&self, snapshot: &Snapshot, key: &Key) -> Option<Observed> {
        let key = match key {
            Key::Over => return self.surplus(snapshot).map(Observed::Surplus),
            Key::Pod(key) => key,
        };
        let pod: Pod = snapshot.get(key)?;
        let name = pod.spec.as_ref().and_then(|it| it.node_name.clone()).unwrap_or_default();
        let node = if name.is_empty() { NodeState::None } else { node_state(snapshot, &name) };
        Some(Observed::Pod(Box::new(pod), node))
    }

    fn applied(&self, memory: &mut Memory, failure: Option<&Failure>) {
        let Some((namespaces, reason)) = memory.going.take() else { return };
        for namespace in namespaces {
            self.metrics.deletes.get_or_create(&Labels { namespace, reason }).inc();
        }
        if let Some(failure) = failure {
            let namespace = failure.namespace.to_string();
            self.metrics.errors.get_or_create(&Labels { namespace, reason }).inc();
        }
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        let plan = match observed {
            Observed::Pod(pod, node) => plan_pod(pod, *node, &mut memory.since, now),
            Observed::Surplus(pods) => {
                let mut plan = Plan::nothing();
                pods.iter().for_each(|pod| delete(&mut plan, pod));
                plan
            }
        };
        let namespace = |action: &Action| match action {
            Action::Delete { key, .. } => Some(key.namespace.to_string()),
            _ => None,
        };
        let actions = plan.stages.iter().flat_map(|it| &it.actions);
        let going: Vec<String> = actions.filter_map(|it| namespace(&it.action)).collect();
        memory.going = (!going.is_empty()).then(|| (going, reason(observed)));
        plan
    }
}

impl PodGc {
    fn surplus(&self, snapshot: &Snapshot) -> Option<Vec<Arc<Pod>>> {
        let store = snapshot.store::<Pod>();
        let count = store.count_index(BY_PHASE, OVER);
        if self.terminated_threshold == 0 || count <= self.terminated_threshold {
            return None;
        }
        let mut pods: Vec<Arc<Pod>> = snapshot.by_index(BY_PHASE, OVER);
        pods.retain(|pod| !is_deleting(&pod.metadata));
        let evicted =
            |pod: &Pod| pod.status.as_ref().and_then(|it| it.reason.as_deref()) == Some("Evicted");
        pods.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|it| it.0);
            (!evicted(pod), created, pod.metadata.name.clone())
        });
        pods.truncate(pods.len().saturating_sub(self.terminated_threshold));
        Some(pods)
    }
}

/// Why pods are taken away, in upstream's words.
fn reason(observed: &Observed) -> &'static str {
    match observed {
        Observed::Surplus(_) => "terminated",
        Observed::Pod(_, NodeState::OutOfService) => "out-of-service",
        Observed::Pod(_, NodeState::None) => "unscheduled",
        Observed::Pod(_, NodeState::Present | NodeState::Missing | NodeState::Gone) => "orphaned",
    }
}

fn node_state(snapshot: &Snapshot, name: &str) -> NodeState {
    let key = ObjectKey::new("", name);
    if let Some(node) = snapshot.store::<Node>().get(&key) {
        return if out_of_service(&Some(node)) {
            NodeState::OutOfService
        } else {
            NodeState::Present
        };
    }
    match snapshot.fetched(&fetch(name)) {
        None => NodeState::Missing,
        Some(None) => NodeState::Gone,
        Some(Some(_)) => NodeState::Present,
    }
}

fn fetch(node: &str) -> Fetch {
    Fetch::read(Resource::of::<Node>(), ObjectKey::new("", node))
}

fn out_of_service(node: &Option<std::sync::Arc<client::reflector::Cached>>) -> bool {
    let Some(node) = node.as_ref().filter(|it| it.mentions(OUT_OF_SERVICE)) else { return false };
    let node = node.value();
    let has = |list: &[&str], test: &dyn Fn(&Value) -> bool| node.items_at(list).iter().any(test);
    has(&["spec", "taints"], &|it| it.str_at(&["key"]) == OUT_OF_SERVICE)
        && !has(&["status", "conditions"], &|it| {
            it.str_at(&["type"]) == "Ready" && it.str_at(&["status"]) == "True"
        })
}

fn of_pod(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let Some(pod) = change.new.as_ref() else { return Vec::new() };
    if pod.pod().is_over() {
        return vec![Key::Over, Key::Pod(change.key())];
    }
    // Of a node that is there and in service nothing is to be done for a pod: should it go, its pods are looked at then.
    let concerned = match pod.pod().node.as_str() {
        "" => pod.is_deleting(),
        name => match snapshot.store::<Node>().get(&ObjectKey::new("", name)) {
            None => true,
            node => pod.is_deleting() && out_of_service(&node),
        },
    };
    if concerned { vec![Key::Pod(change.key())] } else { Vec::new() }
}

fn plan_pod(pod: &Pod, node: NodeState, since: &mut Option<Timestamp>, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let deleting = is_deleting(&pod.metadata);
    let wait = match node {
        NodeState::None if deleting => PERIOD,
        NodeState::OutOfService if deleting => SignedDuration::ZERO,
        NodeState::Missing | NodeState::Gone => QUARANTINE,
        NodeState::None | NodeState::Present | NodeState::OutOfService => {
            *since = None;
            return plan;
        }
    };
    let due = since.get_or_insert(now).saturating_add(wait).unwrap_or(now);
    if now < due {
        plan.requeue_by(due);
        return plan;
    }
    if node == NodeState::Missing {
        let name = pod.spec.as_ref().and_then(|it| it.node_name.clone()).unwrap_or_default();
        plan.fetches.push(fetch(&name));
        return plan;
    }
    let orphaned = node == NodeState::Gone;
    if !matches!(pods::phase(pod), "Succeeded" | "Failed") {
        fail(&mut plan, pod, orphaned, now);
        plan.then();
    }
    delete(&mut plan, pod);
    plan
}

/// Whoever counts the pod sees that it is over before it is gone.
fn fail(plan: &mut Plan, pod: &Pod, orphaned: bool, now: Timestamp) {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let mut patch = value!({"metadata": {"uid": uid}, "status": {"phase": "Failed"}});
    if orphaned {
        let generation = pod.metadata.generation.unwrap_or_default();
        patch.set_at(
            &["status", "conditions"],
            value!([{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists", "observedGeneration": generation,
                "lastTransitionTime": (time::format_time(now))}]),
        );
    }
    plan.act(Action::Patch {
        resource: Resource::of::<Pod>(),
        key: key_of(&pod.metadata),
        subresource: "status",
        kind: PatchKind::Strategic,
        patch,
        gone_is_fine: true,
    });
}

fn delete(plan: &mut Plan, pod: &Pod) {
    plan.act(Action::Delete {
        resource: Resource::of::<Pod>(),
        key: key_of(&pod.metadata),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        propagation: None,
        grace_period_seconds: Some(0),
        resource_version: String::new(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_taken_away_when_nobody_else_will() {
        let check = |pod: &str, node: NodeState, seconds: i64, expected: &str| {
            let pod: Pod = serde_json::from_str(pod).unwrap();
            let mut since = Some(Timestamp::UNIX_EPOCH);
            let now = Timestamp::from_second(seconds).unwrap();
            let plan = plan_pod(&pod, node, &mut since, now);
            let names = plan.stages.iter().flat_map(|it| &it.actions).map(|it| match &it.action {
                Action::Patch { .. } => "fail",
                Action::Delete { .. } => "delete",
                _ => "other",
            });
            let mut did: Vec<&str> = names.collect();
            did.extend(plan.requeue_at.map(|_| "wait"));
            did.extend(plan.fetches.first().map(|_| "look"));
            assert_eq!(did.join(" "), expected, "{node:?} after {seconds} s");
        };
        let plain = r#"{"metadata":{"name":"p"},"spec":{"containers":[],"nodeName":"n"},"status":{"phase":"Running"}}"#;
        check(plain, NodeState::Present, 100, "");
        check(plain, NodeState::Missing, 39, "wait");
        check(plain, NodeState::Missing, 40, "look");
        check(plain, NodeState::Gone, 40, "fail delete");
        check(plain, NodeState::OutOfService, 100, "");
        let going = r#"{"metadata":{"name":"p","deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{"containers":[]},"status":{"phase":"Pending"}}"#;
        check(going, NodeState::None, 19, "wait");
        check(going, NodeState::None, 20, "fail delete");
        check(going, NodeState::OutOfService, 0, "fail delete");
        check(going, NodeState::Present, 100, "");
        let over =
            r#"{"metadata":{"name":"p"},"spec":{"containers":[]},"status":{"phase":"Succeeded"}}"#;
        check(over, NodeState::None, 100, "");
        check(over, NodeState::Gone, 40, "delete");
    }

    #[test]
    fn pods_that_are_taken_away_are_counted_by_reason() {
        let pod = r#"{"metadata":{"name":"p","namespace":"n"},"spec":{"nodeName":"gone","containers":[]},"status":{"phase":"Failed"}}"#;
        let pod: Pod = serde_json::from_str(pod).unwrap();
        let (controller, mut memory) = (PodGc::default(), Memory::default());
        let mut registry = Registry::default();
        controller.metrics.register(&mut registry);
        let orphan = Observed::Pod(Box::new(pod.clone()), NodeState::Gone);
        let failure = Failure {
            why: "no".into(),
            is_final: false,
            of: None,
            namespace: "n".into(),
            code: Some(500),
        };
        for (seconds, failure) in [(0, None), (50, Some(&failure)), (60, None)] {
            controller.plan(&orphan, &mut memory, Timestamp::from_second(seconds).unwrap());
            controller.applied(&mut memory, failure);
        }
        controller.plan(
            &Observed::Surplus(vec![Arc::new(pod)]),
            &mut memory,
            Timestamp::UNIX_EPOCH,
        );
        controller.applied(&mut memory, None);
        let told = component_base::metrics::text(&registry);
        for line in [
            "pod_gc_collector_force_delete_pods_total{namespace=\"n\",reason=\"orphaned\"} 2",
            "pod_gc_collector_force_delete_pods_total{namespace=\"n\",reason=\"terminated\"} 1",
            "pod_gc_collector_force_delete_pod_errors_total{namespace=\"n\",reason=\"orphaned\"} 1",
        ] {
            assert!(told.contains(line), "{line}\n{told}");
        }
    }
}
