//! What happens to a pod next: the rules, pure.

use std::net::Ipv4Addr;

use apimachinery::{Value, duration, time, value};
use client::call::PatchKind;
use client::{ObjectKey, Resource};
use controller::{Action, Plan};
use jiff::{SignedDuration, Timestamp};

/// The annotation that says after how long a Job's pod has succeeded, as `1m30s`; at once without it. Any other pod that has
/// it ends too, unless it is always restarted. kwok's name for it.
pub const COMPLETES_AFTER: &str = "pod-complete.stage.kwok.x-k8s.io/delay";

/// Where a pod is.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The address of its node.
    pub node: Ipv4Addr,
    /// Its own; `None` where the node has none left.
    pub pod: Option<Ipv4Addr>,
}

/// Whether nothing of a pod runs any more.
#[must_use]
pub fn is_over(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
}

/// What happens to a bound pod next.
#[must_use]
pub fn next(pod: &Value, place: &Place, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if pod.at(&["metadata", "deletionTimestamp"]).is_some_and(|it| !it.is_null()) {
        end(pod, now, &mut plan);
        return plan;
    }
    if is_over(pod) {
        return plan;
    }
    let is_running = pod.str_at(&["status", "phase"]) == "Running";
    let ready = gates_are_open(pod);
    if !is_running || is_ready(pod) != ready {
        match place.pod {
            Some(address) => {
                plan.act(patch(pod, running(pod, place.node, address, ready, now)));
            }
            None => plan.error = Some("the node has no address left".into()),
        }
        return plan;
    }
    if let Some(delay) = completes_after(pod) {
        let began: Option<Timestamp> = pod.str_at(&["status", "startTime"]).parse().ok();
        let at = began.and_then(|it| it.checked_add(delay).ok()).unwrap_or(now);
        if at <= now {
            plan.act(patch(pod, over(pod, "Succeeded", 0, now)));
        } else {
            plan.requeue_by(at);
        }
    }
    plan
}

/// A pod that is to go. Who waits for how it ended, as Jobs do by a finalizer, is told.
fn end(pod: &Value, now: Timestamp, plan: &mut Plan) {
    let kept = !pod.items_at(&["metadata", "finalizers"]).is_empty();
    if kept && !is_over(pod) {
        // As of a process that ends by a signal.
        plan.act(patch(pod, over(pod, "Failed", 137, now)));
        plan.then();
    }
    if pod.i64_at(&["metadata", "deletionGracePeriodSeconds"]) == Some(0) {
        // Whoever put a finalizer there has to take it away.
        return;
    }
    plan.act(Action::Delete {
        resource: Resource::built_in("", "pods"),
        key: key(pod),
        uid: pod.str_at(&["metadata", "uid"]).to_owned(),
        propagation: None,
        grace_period_seconds: Some(0),
        resource_version: String::new(),
    });
}

fn key(pod: &Value) -> ObjectKey {
    let text = |name| pod.str_at(&["metadata", name]);
    ObjectKey::new(text("namespace"), text("name"))
}

fn patch(pod: &Value, status: Value) -> Action {
    let uid = pod.str_at(&["metadata", "uid"]);
    Action::Patch {
        resource: Resource::built_in("", "pods"),
        key: key(pod),
        subresource: "status",
        kind: PatchKind::Strategic,
        patch: value!({"metadata": {"uid": uid}, "status": status}),
        gone_is_fine: true,
    }
}

fn condition<'p>(pod: &'p Value, name: &str) -> Option<&'p Value> {
    pod.items_at(&["status", "conditions"]).iter().find(|it| it.str_at(&["type"]) == name)
}

fn holds(pod: &Value, name: &str) -> bool {
    condition(pod, name).is_some_and(|it| it.str_at(&["status"]) == "True")
}

fn is_ready(pod: &Value) -> bool {
    holds(pod, "Ready")
}

/// Whether all conditions hold that the pod's readiness waits for.
fn gates_are_open(pod: &Value) -> bool {
    let gates = pod.items_at(&["spec", "readinessGates"]);
    gates.iter().all(|gate| holds(pod, gate.str_at(&["conditionType"])))
}

/// After how long a pod has done its work; `None` for one that goes on.
fn completes_after(pod: &Value) -> Option<SignedDuration> {
    if pod.str_at(&["spec", "restartPolicy"]) == "Always" {
        return None;
    }
    let said = pod.str_at(&["metadata", "annotations", COMPLETES_AFTER]);
    if let Ok(said) = duration::Duration::parse(said) {
        return Some(SignedDuration::from_nanos(said.as_nanos()));
    }
    let owners = pod.items_at(&["metadata", "ownerReferences"]);
    owners.iter().any(|it| it.str_at(&["kind"]) == "Job").then_some(SignedDuration::ZERO)
}

/// The status of a pod that runs.
fn running(pod: &Value, node: Ipv4Addr, address: Ipv4Addr, ready: bool, now: Timestamp) -> Value {
    let now = time::format_time(now);
    let (node, address) = (node.to_string(), address.to_string());
    let started = pod.at(&["status", "startTime"]).cloned();
    let mut status = value!({
        "phase": "Running", "hostIP": (node.as_str()), "hostIPs": [{"ip": (node.as_str())}],
        "podIP": (address.as_str()), "podIPs": [{"ip": (address.as_str())}],
        "startTime": (started.unwrap_or_else(|| now.as_str().into())),
        "observedGeneration": (generation(pod))
    });
    let why = if ready { "" } else { "ReadinessGatesNotReady" };
    let conditions = [
        ("PodReadyToStartContainers", true),
        ("Initialized", true),
        ("Ready", ready),
        ("ContainersReady", true),
    ];
    let why = |holds| if holds { "" } else { why };
    let conditions = conditions.map(|(name, holds)| is_so(pod, name, holds, why(holds), &now));
    status.set_at(&["conditions"], conditions.to_vec());
    let state = value!({"running": {"startedAt": (now.as_str())}});
    let statuses = |list: &str| -> Vec<Value> {
        let all = pod.items_at(&["spec", list]).iter();
        all.map(|it| container(pod, it, true, &state)).collect()
    };
    status.set_at(&["containerStatuses"], statuses("containers"));
    let first = pod.items_at(&["spec", "initContainers"]).iter().map(|it| {
        if it.str_at(&["restartPolicy"]) == "Always" {
            return container(pod, it, true, &state);
        }
        container(pod, it, true, &terminated(0, &now, &now))
    });
    let first: Vec<Value> = first.collect();
    if !first.is_empty() {
        status.set_at(&["initContainerStatuses"], first);
    }
    status
}

/// The status of a pod of which nothing runs any more.
fn over(pod: &Value, phase: &str, code: i64, now: Timestamp) -> Value {
    let now = time::format_time(now);
    let why = if phase == "Succeeded" { "PodCompleted" } else { "PodFailed" };
    let conditions = ["Ready", "ContainersReady"];
    let conditions = conditions.map(|name| is_so(pod, name, false, why, &now));
    let began = pod.str_at(&["status", "startTime"]);
    let began = if began.is_empty() { now.as_str() } else { began };
    let state = terminated(code, began, &now);
    let all = pod.items_at(&["spec", "containers"]).iter();
    let all: Vec<Value> = all.map(|it| container(pod, it, false, &state)).collect();
    value!({"phase": phase, "startTime": began, "observedGeneration": (generation(pod)),
        "conditions": (conditions.to_vec()), "containerStatuses": all})
}

fn generation(pod: &Value) -> i64 {
    pod.i64_at(&["metadata", "generation"]).unwrap_or(1)
}

/// A condition, with the time at which it last changed.
fn is_so(pod: &Value, name: &str, is: bool, why: &str, now: &str) -> Value {
    let status = if is { "True" } else { "False" };
    let before = condition(pod, name).filter(|it| it.str_at(&["status"]) == status);
    let since = before.map_or(now, |it| it.str_at(&["lastTransitionTime"]));
    let mut condition = value!({"type": name, "status": status, "lastProbeTime": (Value::Null),
        "lastTransitionTime": since, "observedGeneration": (generation(pod))});
    if !why.is_empty() {
        condition.set_at(&["reason"], why);
    }
    condition
}

fn terminated(code: i64, began: &str, now: &str) -> Value {
    let reason = if code == 0 { "Completed" } else { "Error" };
    value!({"terminated": {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": now}})
}

fn container(pod: &Value, container: &Value, lives: bool, state: &Value) -> Value {
    let (name, image) = (container.str_at(&["name"]), container.str_at(&["image"]));
    let id = format!("fake://{}/{name}", pod.str_at(&["metadata", "uid"]));
    let started = lives && state.get("running").is_some();
    let mut status = value!({"name": name, "image": image, "imageID": image, "containerID": id,
        "restartCount": 0, "ready": lives, "started": started, "state": (state.clone())});
    if started {
        // Without them a container cannot be given other resources.
        let resources = container.get("resources").cloned();
        status.set_at(&["resources"], resources.unwrap_or_else(Value::object));
    }
    status
}

#[cfg(test)]
mod tests;
