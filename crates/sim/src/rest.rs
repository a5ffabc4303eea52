//! What is so once faults have stopped and everything has come to rest.
//!
//! Each check says what is not as it is to be, in words; nothing to say is rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use apimachinery::Value;
use compact_str::CompactString;
use jiff::Timestamp;

use crate::hardware::{LATE, MANUAL, unique_name};
use crate::observer::{LAG_IN_STORMS, Place, State};
use crate::reality::Reality;
use crate::rules::{
    claims_of, controller, is_active, is_deleting, is_ready, is_retained, is_terminal, uid,
};
use crate::workload::is_ours;

/// A check, and what it is about.
type Check = fn(&State, &mut Vec<String>);

const CHECKS: &[Check] = &[
    namespaces,
    nodes,
    deployments,
    replica_sets,
    replication_controllers,
    stateful_sets,
    daemon_sets,
    jobs,
    pods,
    orphans,
    budgets,
    endpoints,
    claims,
    volumes,
    attachments,
    devices,
    autoscalers,
];

/// Everything that is not at rest.
pub(crate) fn unrest(state: &State, reality: &Reality) -> Vec<String> {
    let mut all = Vec::new();
    CHECKS.iter().for_each(|check| check(state, &mut all));
    processes(state, reality, &mut all);
    all
}

fn number(object: &Value, path: &[&str]) -> i64 {
    object.i64_at(path).unwrap_or(0)
}

/// The named counts of a status, each with what it is to be.
fn counts(
    kind: &str,
    place: &Place,
    object: &Value,
    wanted: &[(&str, i64)],
    all: &mut Vec<String>,
) {
    let Place { namespace, name } = place;
    let generation = number(object, &["metadata", "generation"]);
    let observed = number(object, &["status", "observedGeneration"]);
    if observed != generation {
        all.push(format!("{kind} {namespace}/{name}: {observed} of generation {generation} seen"));
    }
    for (field, wanted) in wanted {
        let is = number(object, &["status", field]);
        if is != *wanted {
            all.push(format!("{kind} {namespace}/{name}: {field} is {is}, not {wanted}"));
        }
    }
}

fn namespaces(state: &State, all: &mut Vec<String>) {
    let names: BTreeSet<&str> = state.all("Namespace").map(|it| it.0.name.as_str()).collect();
    for (place, namespace) in state.all("Namespace") {
        if is_deleting(namespace) {
            all.push(format!("namespace {} is going", place.name));
        }
    }
    for (kind, objects) in &state.kinds {
        let lost = objects
            .keys()
            .filter(|it| !it.namespace.is_empty() && !names.contains(it.namespace.as_str()));
        all.extend(lost.map(|it| format!("{kind} {}/{} has no namespace", it.namespace, it.name)));
    }
}

fn nodes(state: &State, all: &mut Vec<String>) {
    for (place, node) in state.all("Node") {
        if !is_ready(node) || !node.items_at(&["spec", "taints"]).is_empty() {
            all.push(format!("node {} is not ready, or tainted", place.name));
        }
        if node.items_at(&["spec", "podCIDRs"]).is_empty() {
            all.push(format!("node {} has no range", place.name));
        }
    }
}

fn deployments(state: &State, all: &mut Vec<String>) {
    for (place, it) in state.all("Deployment") {
        let asked = it.i64_at(&["spec", "replicas"]).unwrap_or(1);
        let fields = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
        counts("deployment", place, it, &fields.map(|field| (field, asked)), all);
    }
}

fn replica_sets(state: &State, all: &mut Vec<String>) {
    replicas("ReplicaSet", state, all);
}

fn replication_controllers(state: &State, all: &mut Vec<String>) {
    replicas("ReplicationController", state, all);
}

fn replicas(kind: &str, state: &State, all: &mut Vec<String>) {
    for (place, it) in state.all(kind) {
        let asked = it.i64_at(&["spec", "replicas"]).unwrap_or(1);
        let fields = ["replicas", "readyReplicas", "availableReplicas"];
        counts(kind, place, it, &fields.map(|field| (field, asked)), all);
        let own = state.all("Pod").filter(|(_, pod)| controller(pod, kind) == Some(uid(it)));
        let own = own.filter(|(_, pod)| is_active(pod)).count();
        if i64::try_from(own).unwrap_or(i64::MAX) != asked {
            all.push(format!(
                "{kind} {}/{} has {own} pods, not {asked}",
                place.namespace, place.name
            ));
        }
    }
}

fn stateful_sets(state: &State, all: &mut Vec<String>) {
    for (place, it) in state.all("StatefulSet") {
        let own = |pod: &Value| controller(pod, "StatefulSet") == Some(uid(it));
        if state.all("Pod").any(|(at, pod)| own(pod) && !never_bound(state, at, pod).is_empty()) {
            continue;
        }
        let asked = it.i64_at(&["spec", "replicas"]).unwrap_or(1);
        let fields = ["replicas", "readyReplicas", "availableReplicas"];
        counts("stateful set", place, it, &fields.map(|field| (field, asked)), all);
        let partition = ["spec", "updateStrategy", "rollingUpdate", "partition"];
        let kept = number(it, &partition).min(asked);
        let (current, update) =
            (it.str_at(&["status", "currentRevision"]), it.str_at(&["status", "updateRevision"]));
        if kept == 0 && current != update {
            let name = format!("{}/{}", place.namespace, place.name);
            all.push(format!("stateful set {name} is at {current}, not at {update}"));
        }
    }
}

fn daemon_sets(state: &State, all: &mut Vec<String>) {
    let nodes = i64::try_from(state.all("Node").count()).unwrap_or(i64::MAX);
    for (place, it) in state.all("DaemonSet") {
        let fields =
            ["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "numberAvailable"];
        let mut wanted = fields.map(|field| (field, nodes)).to_vec();
        if it.str_at(&["spec", "updateStrategy", "type"]) != "OnDelete" {
            wanted.push(("updatedNumberScheduled", nodes));
        }
        counts("daemon set", place, it, &wanted, all);
    }
}

fn jobs(state: &State, all: &mut Vec<String>) {
    let mut uids = BTreeSet::new();
    for (place, job) in state.all("Job") {
        let conditions = job.items_at(&["status", "conditions"]);
        let over = conditions.iter().any(|it| {
            matches!(it.str_at(&["type"]), "Complete" | "Failed")
                && it.str_at(&["status"]) == "True"
        });
        let name = format!("{}/{}", place.namespace, place.name);
        if !over {
            all.push(format!("job {name} is not over"));
            uids.insert(uid(job));
        }
        let waiting = job.at(&["status", "uncountedTerminatedPods"]).and_then(Value::as_object);
        if waiting.is_some_and(|it| {
            it.iter().any(|(_, pods)| pods.as_array().is_some_and(|it| !it.is_empty()))
        }) {
            all.push(format!("job {name} has not counted all its pods"));
        }
    }
    for (place, it) in state.all("CronJob") {
        for active in it.items_at(&["status", "active"]) {
            if !uids.contains(active.str_at(&["uid"])) {
                let name = active.str_at(&["name"]);
                all.push(format!(
                    "cron job {}/{}: {name} is not active",
                    place.namespace, place.name
                ));
            }
        }
    }
}

fn pods(state: &State, all: &mut Vec<String>) {
    for (place, pod) in state.all("Pod").filter(|it| is_ours(it.0)) {
        let name = format!("{}/{}", place.namespace, place.name);
        if is_deleting(pod) {
            all.push(format!("pod {name} is going"));
        } else if !is_terminal(pod) && !is_ready(pod) && never_bound(state, place, pod).is_empty() {
            let node = pod.str_at(&["spec", "nodeName"]);
            all.push(format!("pod {name} on {node:?} is not ready"));
        }
    }
}

/// What belongs to nobody that is there.
fn orphans(state: &State, all: &mut Vec<String>) {
    let everything = state.kinds.values().flat_map(BTreeMap::values);
    let uids: BTreeSet<&str> = everything.map(|it| uid(&it.value)).collect();
    for (kind, objects) in &state.kinds {
        for (place, known) in objects {
            let owners = known.value.items_at(&["metadata", "ownerReferences"]);
            let gone = |it: &Value| !uids.contains(it.str_at(&["uid"]));
            if !owners.is_empty() && owners.iter().all(gone) {
                all.push(format!("{kind} {}/{} belongs to nobody", place.namespace, place.name));
            }
            // A volume that was given up stays as long as a claim has it.
            let held =
                kind == "PersistentVolume" && known.value.str_at(&["status", "phase"]) == "Bound";
            if is_deleting(&known.value) && kind != "Pod" && kind != "Namespace" && !held {
                all.push(format!("{kind} {}/{} is going", place.namespace, place.name));
            }
        }
    }
}

/// Whether `labels` are among those of an object.
fn has_labels(object: &Value, labels: Option<&Value>) -> bool {
    let Some(labels) = labels.and_then(Value::as_object).filter(|it| !it.is_empty()) else {
        return false;
    };
    let own = object.at(&["metadata", "labels"]);
    labels.iter().all(|(key, value)| own.and_then(|it| it.get(key)) == Some(value))
}

fn budgets(state: &State, all: &mut Vec<String>) {
    for (place, budget) in state.all("PodDisruptionBudget") {
        let labels = budget.at(&["spec", "selector", "matchLabels"]);
        let own = state
            .all("Pod")
            .filter(|(it, pod)| it.namespace == place.namespace && has_labels(pod, labels));
        let healthy = own.filter(|(_, pod)| !is_deleting(pod) && is_ready(pod)).count();
        let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
        let expected = number(budget, &["status", "expectedPods"]);
        let wanted = number(budget, &["status", "desiredHealthy"]);
        let allowed = if expected == 0 { 0 } else { (healthy - wanted).max(0) };
        let wanted = [("currentHealthy", healthy), ("disruptionsAllowed", allowed)];
        counts("budget", place, budget, &wanted, all);
    }
}

/// Endpoints that are ready are the pods that are.
fn endpoints(state: &State, all: &mut Vec<String>) {
    for (place, service) in state.all("Service").filter(|it| is_ours(it.0)) {
        let labels = service.at(&["spec", "selector"]);
        let own = state
            .all("Pod")
            .filter(|(it, pod)| it.namespace == place.namespace && has_labels(pod, labels));
        let own = own.filter(|(_, pod)| is_active(pod) && is_ready(pod));
        let wanted: BTreeSet<CompactString> = own.map(|(_, pod)| uid(pod).into()).collect();
        let told = told_endpoints(state, place);
        if told != wanted {
            let name = format!("{}/{}", place.namespace, place.name);
            all.push(format!("service {name} has {} endpoints, not {}", told.len(), wanted.len()));
        }
    }
}

fn told_endpoints(state: &State, service: &Place) -> BTreeSet<CompactString> {
    let label = "kubernetes.io/service-name";
    let slices = state.all("EndpointSlice").filter(|(place, it)| {
        place.namespace == service.namespace
            && it.str_at(&["metadata", "labels", label]) == service.name
    });
    let endpoints = slices.flat_map(|(_, it)| it.items_at(&["endpoints"]));
    let ready = endpoints.filter(|it| it.bool_at(&["conditions", "ready"]));
    ready.map(|it| it.str_at(&["targetRef", "uid"]).into()).collect()
}

/// The label of pods that sets made.
const OF_SET: &str = "statefulset.kubernetes.io/pod-name";

/// The claims of a pod that are never bound, as upstream's are not: those whose volume was taken away before, and those that
/// were made, in place of others, when the pod had its node already, or the scheduler did not see that yet (seed 90046). Disks that are made where the pod is to be wait for the
/// scheduler to say where that is, which is done with it. Nor does anybody make the claim again that a set's pod has lost,
/// which its set has left behind, before it had a node, or while the scheduler that gave it one did not see that yet (seed
/// 500027): it never began.
fn never_bound(state: &State, place: &Place, pod: &Value) -> Vec<Place> {
    let conditions = pod.items_at(&["status", "conditions"]);
    let placed = conditions
        .iter()
        .find(|it| it.str_at(&["type"]) == "PodScheduled" && it.str_at(&["status"]) == "True");
    let time = |it: &Value, path: &[&str]| it.str_at(path).parse::<Timestamp>().ok();
    let placed = placed.and_then(|it| time(it, &["lastTransitionTime"]));
    let is_late = |place: &Place, claim: &Value| {
        // The scheduler may have taken it for the one before.
        let made_again = state.claims_gone.contains(place);
        let lag = if made_again { LAG_IN_STORMS } else { Duration::ZERO };
        let made = time(claim, &["metadata", "creationTimestamp"]);
        let is_later = |placed: Timestamp| made.is_some_and(|made| made + lag >= placed);
        claim.str_at(&["spec", "storageClassName"]) == LATE && placed.is_some_and(is_later)
    };
    let is_left_behind = pod.items_at(&["metadata", "ownerReferences"]).is_empty()
        && pod.str_at(&["status", "phase"]) == "Pending"
        && pod.at(&["metadata", "labels", OF_SET]).is_some();
    let is_never = |place: &Place| match state.get("PersistentVolumeClaim", place) {
        None => is_left_behind,
        Some(claim) => {
            let claim = &claim.value;
            claim.str_at(&["status", "phase"]) == "Pending"
                && (is_late(place, claim) || has_lost_its_volume(state, claim))
        }
    };
    claims_of(place, pod).into_iter().filter(is_never).collect()
}

/// Whether the volume that a claim is to have is going.
fn has_lost_its_volume(state: &State, claim: &Value) -> bool {
    let mut volumes = state.all("PersistentVolume");
    volumes.any(|(_, it)| is_deleting(it) && it.str_at(&["spec", "claimRef", "uid"]) == uid(claim))
}

/// Claims are bound, but for those that nobody needs yet and those that there is nothing for.
fn claims(state: &State, all: &mut Vec<String>) {
    for (place, claim) in state.all("PersistentVolumeClaim") {
        let name = format!("claim {}/{}", place.namespace, place.name);
        let volume = Place {
            namespace: CompactString::default(),
            name: claim.str_at(&["spec", "volumeName"]).into(),
        };
        match claim.str_at(&["status", "phase"]) {
            "Bound" => {
                let its = state.get("PersistentVolume", &volume).is_some_and(|it| {
                    it.value.str_at(&["spec", "claimRef", "uid"]) == uid(claim)
                        && it.value.str_at(&["status", "phase"]) == "Bound"
                });
                if !its {
                    all.push(format!("{name} is bound to {}, which is not its", volume.name));
                }
            }
            "Lost" if state.get("PersistentVolume", &volume).is_none() => {}
            "Pending" if has_lost_its_volume(state, claim) => {}
            "Pending" => {
                let class = claim.str_at(&["spec", "storageClassName"]);
                let used = state.all("Pod").any(|(it, pod)| {
                    !is_terminal(pod)
                        && claims_of(it, pod).contains(place)
                        && !never_bound(state, it, pod).contains(place)
                });
                if (class == LATE && used) || (class != LATE && class != MANUAL) {
                    all.push(format!("{name} is pending"));
                }
            }
            other => all.push(format!("{name} is {other:?}")),
        }
    }
}

/// Volumes say whose they are, and what goes with its claim is gone.
fn volumes(state: &State, all: &mut Vec<String>) {
    for (place, volume) in state.all("PersistentVolume") {
        let reference = |member| volume.str_at(&["spec", "claimRef", member]);
        let claim =
            Place { namespace: reference("namespace").into(), name: reference("name").into() };
        let there = state.get("PersistentVolumeClaim", &claim).is_some_and(|it| {
            let name = it.value.str_at(&["spec", "volumeName"]);
            uid(&it.value) == reference("uid")
                && (name == place.name || (name.is_empty() && is_deleting(volume)))
        });
        let wanted = match (reference("uid").is_empty(), there) {
            (true, _) => "Available",
            (false, true) => "Bound",
            (false, false) => "Released",
        };
        let phase = volume.str_at(&["status", "phase"]);
        if phase != wanted {
            all.push(format!("volume {} is {phase:?}, not {wanted}", place.name));
        }
        if wanted == "Released" && !is_retained(volume) {
            all.push(format!("volume {} is there, and its claim is gone", place.name));
        }
    }
}

/// Disks are attached where their pods are, and nowhere else; nodes say so.
fn attachments(state: &State, all: &mut Vec<String>) {
    let mut wanted: BTreeSet<(CompactString, CompactString)> = BTreeSet::new();
    for (place, pod) in state.all("Pod").filter(|(_, pod)| !is_terminal(pod)) {
        for claim in claims_of(place, pod) {
            let Some(claim) = state.get("PersistentVolumeClaim", &claim) else { continue };
            let volume = claim.value.str_at(&["spec", "volumeName"]);
            if !volume.is_empty() {
                wanted.insert((volume.into(), pod.str_at(&["spec", "nodeName"]).into()));
            }
        }
    }
    let mut told = BTreeSet::new();
    for (place, order) in state.all("VolumeAttachment") {
        let volume = order.str_at(&["spec", "source", "persistentVolumeName"]);
        let node = order.str_at(&["spec", "nodeName"]);
        if !order.bool_at(&["status", "attached"]) {
            all.push(format!("{volume} is not attached to {node} ({})", place.name));
        }
        told.insert((CompactString::from(volume), CompactString::from(node)));
    }
    if told != wanted {
        let text = |it: &(CompactString, CompactString)| format!("{} to {}", it.0, it.1);
        let differ: Vec<String> = told.symmetric_difference(&wanted).map(text).collect();
        all.push(format!("attached or wanted, and not both: {}", differ.join(", ")));
    }
    for (place, node) in state.all("Node") {
        let says: BTreeSet<&str> = node
            .items_at(&["status", "volumesAttached"])
            .iter()
            .map(|it| it.str_at(&["name"]))
            .collect();
        let own = told.iter().filter(|it| it.1 == place.name).map(|it| unique_name(&it.0));
        let own: BTreeSet<String> = own.collect();
        if says != own.iter().map(String::as_str).collect() {
            all.push(format!("node {} says that it has {says:?}, and has {own:?}", place.name));
        }
    }
}

/// Devices are given to pods that are there. A claim that was given some and whose pod was not bound keeps them for the
/// next one, as upstream's does.
fn devices(state: &State, all: &mut Vec<String>) {
    let pods: BTreeSet<&str> =
        state.all("Pod").filter(|(_, pod)| !is_terminal(pod)).map(|it| uid(it.1)).collect();
    for (place, claim) in state.all("ResourceClaim") {
        let name = format!("claim {}/{}", place.namespace, place.name);
        let users = claim.items_at(&["status", "reservedFor"]);
        if users.iter().any(|it| !pods.contains(it.str_at(&["uid"]))) {
            all.push(format!("{name} is for pods that are not there"));
        }
    }
}

/// What is scaled by itself is within its bounds, where it is not off.
fn autoscalers(state: &State, all: &mut Vec<String>) {
    for (place, it) in state.all("HorizontalPodAutoscaler") {
        let name = it.str_at(&["spec", "scaleTargetRef", "name"]);
        let target = Place { namespace: place.namespace.clone(), name: name.into() };
        let kind = it.str_at(&["spec", "scaleTargetRef", "kind"]);
        let Some(target) = state.get(kind, &target) else { continue };
        let asked = target.value.i64_at(&["spec", "replicas"]).unwrap_or(1);
        let (least, most) =
            (number(it, &["spec", "minReplicas"]), number(it, &["spec", "maxReplicas"]));
        if asked != 0 && !(least..=most).contains(&asked) {
            let name = format!("{}/{}", place.namespace, place.name);
            all.push(format!("{kind} {name} has {asked} replicas, not {least} to {most}"));
        }
    }
}

/// What runs is what the API says.
fn processes(state: &State, reality: &Reality, all: &mut Vec<String>) {
    let running = state.all("Pod").filter(|(_, pod)| is_ready(pod) && is_active(pod));
    let told: BTreeSet<CompactString> = running.map(|(_, pod)| uid(pod).into()).collect();
    for uid in reality.uids().iter().filter(|it| !told.contains(*it)) {
        all.push(format!("something runs for pod {uid}, which is not ready or not there"));
    }
}
