//! Taints with the effect NoExecute: pods that do not tolerate them go, those that do for a while go after it. Upstream:
//! `pkg/controller/tainteviction`.

use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::call::PatchKind;
use client::events::EventType;
use client::indexes::BY_NODE;
use client::reflector::{Cached, StoreChange};
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Failure, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::nodes::tolerates;
use crate::owner::{self, key_of, reference_to};

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct TaintEviction {
    /// What it counts.
    pub metrics: Metrics,
}

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
        let help =
            "[ALPHA] Total number of Pods deleted by TaintEvictionController since its start.";
        registry.register("taint_eviction_controller_pod_deletions", help, self.deletions.clone());
        let help = "[ALPHA] Latency, in seconds, between the time when a taint effect has been activated for the Pod and its deletion via TaintEvictionController.";
        let name = "taint_eviction_controller_pod_deletion_duration_seconds";
        registry.register(name, help, self.latency.clone());
    }
}

const NO_EXECUTE: &str = "NoExecute";

/// What is remembered of a pod: until when it may stay.
#[derive(Debug, Default)]
pub struct Memory {
    leave: Option<Timestamp>,
    /// How late it is being evicted.
    late: Option<SignedDuration>,
}

/// What it sees of a pod.
#[derive(Debug)]
pub struct Observed {
    pod: Arc<Pod>,
    /// The taints of its node that evict; none where the node is gone.
    taints: Option<Vec<Taint>>,
}

impl Controller for TaintEviction {
    const NAME: &'static str = "taint-eviction-controller";
    const ACCOUNT: &'static str = "node-controller";
    const QUEUE: &'static str = "noexec_taint_pod";
    /// A pod.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.on::<Pod>(assigned).on::<Node>(pods_of_tainted)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let pod: Arc<Pod> = snapshot.shared(key)?;
        let name = pod.spec.as_ref()?.node_name.clone().filter(|it| !it.is_empty())?;
        let nodes = snapshot.store::<Node>();
        let taints = |node: Arc<Cached>| match node.mentions(NO_EXECUTE) {
            true => no_execute(&node.value()),
            false => Vec::new(),
        };
        let taints = nodes.get(&ObjectKey::new("", name)).map(taints);
        Some(Observed { pod, taints })
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let pod = &observed.pod;
        if pod.metadata.deletion_timestamp.is_some() {
            memory.leave = None;
            return plan;
        }
        let stay = match observed.taints.as_ref().map(|taints| stay(taints, pod)) {
            // A node that goes changes nothing for its pods: a time that runs goes on (upstream: `handleNodeUpdate`).
            None if memory.leave.is_none() => return plan,
            None => SignedDuration::ZERO,
            Some(Stay::Forever) => {
                cancel(&mut plan, pod, memory);
                return plan;
            }
            Some(Stay::No) => {
                if memory.leave.is_some_and(|until| now < until) {
                    cancel(&mut plan, pod, memory);
                }
                SignedDuration::ZERO
            }
            Some(Stay::Seconds(seconds)) => SignedDuration::from_secs(seconds),
        };
        // A time that runs already goes on as it is, whatever is tolerated for how long (upstream: `processPodOnNode`).
        let until = *memory.leave.get_or_insert(now.saturating_add(stay).unwrap_or(now));
        if now < until {
            plan.requeue_by(until);
        } else {
            evict(&mut plan, pod, now);
            memory.late = Some(now.duration_since(until));
        }
        plan
    }

    fn applied(&self, memory: &mut Memory, failure: Option<&Failure>) {
        if let (Some(late), None) = (memory.late.take(), failure) {
            self.metrics.deletions.inc();
            self.metrics.latency.observe(late.as_secs_f64());
        }
    }
}

/// A pod of a node with taints that evict, and one that is gone.
fn assigned(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let nodes = snapshot.store::<Node>();
    let tainted = change.new.as_ref().is_none_or(|pod| {
        let node = nodes.get(&ObjectKey::new("", pod.pod().node.clone()));
        node.is_some_and(|it| it.mentions(NO_EXECUTE))
    });
    if tainted { vec![change.key()] } else { Vec::new() }
}

/// The pods of a node whose evicting taints changed.
fn pods_of_tainted(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let taints = |it: &Option<Arc<Cached>>| {
        it.as_ref().map(|it| no_execute(&it.value())).unwrap_or_default()
    };
    if taints(&change.old) == taints(&change.new) {
        return Vec::new();
    }
    let pods = snapshot.store::<Pod>().by_index(BY_NODE, &change.key().name);
    pods.iter().map(|pod| pod.key.clone()).collect()
}

fn no_execute(node: &Value) -> Vec<Taint> {
    let taints = node.items_at(&["spec", "taints"]).iter();
    let evicting = taints.filter(|it| it.str_at(&["effect"]) == NO_EXECUTE);
    let taint = |it: &Value| Taint {
        effect: NO_EXECUTE.into(),
        key: it.str_at(&["key"]).into(),
        time_added: None,
        value: Some(it.str_at(&["value"]).into()),
    };
    evicting.map(taint).collect()
}

/// How long a pod may stay.
#[derive(Debug, PartialEq, Eq)]
enum Stay {
    /// It does not tolerate a taint.
    No,
    Forever,
    Seconds(i64),
}

fn stay(taints: &[Taint], pod: &Pod) -> Stay {
    let tolerations: Vec<&Toleration> =
        pod.spec.iter().flat_map(|it| it.tolerations.iter().flatten()).collect();
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let Some(toleration) = tolerations.iter().find(|it| tolerates(it, taint)) else {
            return Stay::No;
        };
        if let Some(seconds) = toleration.toleration_seconds {
            let seconds = seconds.max(0);
            shortest = Some(shortest.map_or(seconds, |other| other.min(seconds)));
        }
    }
    shortest.map_or(Stay::Forever, Stay::Seconds)
}

fn cancel(plan: &mut Plan, pod: &Pod, memory: &mut Memory) {
    if memory.leave.take().is_some() {
        let message = format!("Cancelling deletion of Pod {}", key_of(&pod.metadata));
        let about = reference_to("v1", "Pod", &pod.metadata);
        plan.event(about, EventType::Normal, "TaintManagerEviction", message);
    }
}

fn evict(plan: &mut Plan, pod: &Pod, now: Timestamp) {
    let key = key_of(&pod.metadata);
    let about = reference_to("v1", "Pod", &pod.metadata);
    let message = format!("Marking for deletion Pod {key}");
    plan.event(about, EventType::Normal, "TaintManagerEviction", message);
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let condition = value!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
        "observedGeneration": (pod.metadata.generation.unwrap_or_default()),
        "lastTransitionTime": (time::format_time(now))});
    plan.act(Action::Patch {
        resource: Resource::of::<Pod>(),
        key: key.clone(),
        subresource: "status",
        kind: PatchKind::Strategic,
        patch: value!({"metadata": {"uid": (uid.as_str())}, "status": {"conditions": [condition]}}),
        gone_is_fine: true,
    });
    plan.then();
    plan.act(owner::delete_at(Resource::of::<Pod>(), key, uid));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_runs_goes_on_when_the_node_is_gone() {
        let pod = r#"{"metadata":{"name":"p","namespace":"n"},"spec":{"containers":[],"tolerations":[{"operator":"Exists","tolerationSeconds":30}]}}"#;
        let pod: Arc<Pod> = Arc::new(serde_json::from_str(pod).unwrap());
        let taint = Taint { effect: NO_EXECUTE.into(), key: "k".into(), ..Taint::default() };
        let seen = |taints: Option<Vec<Taint>>| Observed { pod: Arc::clone(&pod), taints };
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let (controller, mut memory) = (TaintEviction::default(), Memory::default());
        let mut plan = |taints: Option<Vec<Taint>>, seconds: i64| {
            let plan = controller.plan(&seen(taints), &mut memory, at(seconds));
            let events = plan.events.iter().map(|it| it.message.as_str()).collect::<Vec<_>>();
            (plan.requeue_at.map(Timestamp::as_second), events.join(" "))
        };
        assert_eq!(plan(None, 0), (None, String::new()));
        assert_eq!(plan(Some(vec![taint.clone()]), 0), (Some(30), String::new()));
        assert_eq!(plan(Some(Vec::new()), 5), (None, "Cancelling deletion of Pod n/p".into()));
        assert_eq!(plan(Some(vec![taint]), 10), (Some(40), String::new()));
        assert_eq!(plan(None, 20), (Some(40), String::new()));
        assert_eq!(plan(None, 40), (None, "Marking for deletion Pod n/p".into()));
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let check = |taints: &str, tolerations: &str, expected: Stay| {
            let node = format!(r#"{{"spec":{{"taints":{taints}}}}}"#);
            let pod = format!(r#"{{"spec":{{"containers":[],"tolerations":{tolerations}}}}}"#);
            let node = apimachinery::json::parse(node.as_bytes()).unwrap();
            let pod: Pod = serde_json::from_str(&pod).unwrap();
            assert_eq!(stay(&no_execute(&node), &pod), expected, "{taints} {tolerations}");
        };
        let one = r#"[{"key":"k","value":"v","effect":"NoExecute"}]"#;
        let two =
            r#"[{"key":"k","value":"v","effect":"NoExecute"},{"key":"l","effect":"NoExecute"}]"#;
        check("[]", "[]", Stay::Forever);
        check(r#"[{"key":"k","effect":"NoSchedule"}]"#, "[]", Stay::Forever);
        check(one, "[]", Stay::No);
        check(one, r#"[{"operator":"Exists"}]"#, Stay::Forever);
        check(one, r#"[{"key":"k","value":"w"}]"#, Stay::No);
        check(one, r#"[{"key":"k","value":"v","effect":"NoSchedule"}]"#, Stay::No);
        check(one, r#"[{"key":"k","value":"v","tolerationSeconds":7}]"#, Stay::Seconds(7));
        check(one, r#"[{"key":"k","value":"v","tolerationSeconds":-7}]"#, Stay::Seconds(0));
        let both = r#"[{"key":"k","operator":"Exists","tolerationSeconds":7},{"key":"l","operator":"Exists","tolerationSeconds":3}]"#;
        check(two, both, Stay::Seconds(3));
        check(two, r#"[{"key":"k","operator":"Exists"}]"#, Stay::No);
    }
}
