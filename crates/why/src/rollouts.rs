//! Workloads whose rollout does not move: Deployments, ReplicaSets, StatefulSets, DaemonSets, Jobs.

mod shared;

use std::sync::Arc;

use apimachinery::Value;

use crate::Case;
use crate::explanation::{Explanation, Finding, State, counted};
use crate::objects::{condition, controller_uid, is_true, key_of};
use crate::pods::of_pod;
use shared::{concluded, failed_create, not_seen, of_this, pods_of, unready};

const REVISION: &str = "deployment.kubernetes.io/revision";
const HASH: &str = "controller-revision-hash";

/// Why a Deployment is as it is.
pub(crate) fn deployment(case: &Case<'_>) -> Explanation {
    let it = case.object;
    let wanted = it.i64_at(&["spec", "replicas"]).unwrap_or(1);
    let count = |name: &str| it.i64_at(&["status", name]).unwrap_or_default();
    let (updated, available, all) =
        (count("updatedReplicas"), count("availableReplicas"), count("replicas"));
    let state = format!("{updated} of {wanted} pods are new, {available} available, {all} there");
    let mut findings = Vec::new();
    findings.extend(not_seen(it));
    if it.bool_at(&["spec", "paused"]) {
        findings
            .push(Finding::new("Paused", "it is paused (spec.paused): nothing new is rolled out"));
    }
    findings.extend(replica_failure(it));
    let newest = newest(case);
    if let Some(newest) = &newest {
        let pods = pods_of(case, newest.str_at(&["metadata", "uid"]));
        if findings.is_empty() {
            findings.extend(failed_create(case, newest.str_at(&["metadata", "uid"])));
        }
        findings.extend(unready(case, &pods, "new pod"));
    }
    if let Some(progress) =
        condition(it, "Progressing").filter(|it| it.str_at(&["status"]) == "False")
    {
        let message =
            format!("{}: {}", progress.str_at(&["reason"]), progress.str_at(&["message"]));
        findings.push(Finding::new("ProgressDeadline", message));
    }
    let done = updated >= wanted && available >= wanted && all <= wanted;
    concluded(case, done, &state, findings)
}

/// The ReplicaSet of a Deployment's newest revision.
fn newest(case: &Case<'_>) -> Option<Arc<Value>> {
    let uid = case.object.str_at(&["metadata", "uid"]);
    let sets = case.objects.list("apps", "replicasets", &case.subject.key.namespace);
    let revision = |it: &Value| {
        it.str_at(&["metadata", "annotations", REVISION]).parse::<i64>().unwrap_or_default()
    };
    sets.into_iter().filter(|it| controller_uid(it) == uid).max_by_key(|it| revision(it))
}

/// What the controller says of pods that it could not make.
fn replica_failure(object: &Value) -> Option<Finding> {
    let failure =
        condition(object, "ReplicaFailure").filter(|_| is_true(object, "ReplicaFailure"))?;
    let message = format!("pods cannot be created: {}", failure.str_at(&["message"]));
    Some(Finding::new("CreateFailed", message))
}

/// Why a ReplicaSet or ReplicationController is as it is.
pub(crate) fn replicas(case: &Case<'_>) -> Explanation {
    let it = case.object;
    let wanted = it.i64_at(&["spec", "replicas"]).unwrap_or(1);
    let ready = it.i64_at(&["status", "readyReplicas"]).unwrap_or_default();
    let all = it.i64_at(&["status", "replicas"]).unwrap_or_default();
    let uid = it.str_at(&["metadata", "uid"]);
    let mut findings: Vec<Finding> = not_seen(it).into_iter().collect();
    findings.extend(replica_failure(it));
    if findings.is_empty() && all < wanted {
        findings.extend(failed_create(case, uid));
    }
    findings.extend(unready(case, &pods_of(case, uid), "pod"));
    let state = format!("{ready} of {wanted} pods are ready, {all} there");
    concluded(case, ready >= wanted && all <= wanted, &state, findings)
}

/// Why a StatefulSet is as it is.
pub(crate) fn stateful_set(case: &Case<'_>) -> Explanation {
    let it = case.object;
    let count = |name: &str| it.i64_at(&["status", name]).unwrap_or_default();
    let wanted = it.i64_at(&["spec", "replicas"]).unwrap_or(1);
    let uid = it.str_at(&["metadata", "uid"]);
    let (ready, updated) = (count("readyReplicas"), count("updatedReplicas"));
    let new = it.str_at(&["status", "updateRevision"]);
    let mut pods = pods_of(case, uid);
    pods.sort_by_key(|it| ordinal(it));
    let old: Vec<&Arc<Value>> =
        pods.iter().filter(|it| it.str_at(&["metadata", "labels", HASH]) != new).collect();
    let mut findings: Vec<Finding> = not_seen(it).into_iter().collect();
    findings.extend(held_back(it, &old));
    let ordered = it.str_at(&["spec", "podManagementPolicy"]) != "Parallel";
    let waits = unready(case, &pods, "pod");
    if ordered && let Some(first) = pods.iter().find(|it| !is_true(it, "Ready")) {
        let name = key_of(first).name;
        let message = format!("it goes on in order, and pod {name} is not ready");
        findings.push(Finding::new("InOrder", message).because(vec![of_pod(case, first)]));
    } else {
        findings.extend(waits);
    }
    if i64::try_from(pods.len()).is_ok_and(|count| count < wanted) {
        findings.extend(failed_create(case, uid));
    }
    let state = format!("{ready} of {wanted} pods are ready, {updated} new");
    let partition = it.i64_at(&["spec", "updateStrategy", "rollingUpdate", "partition"]);
    let to_update = wanted - partition.unwrap_or_default().clamp(0, wanted);
    concluded(
        case,
        ready >= wanted && updated >= to_update && findings.is_empty(),
        &state,
        findings,
    )
}

/// Why old pods of a StatefulSet stay by its own word.
fn held_back(set: &Value, old: &[&Arc<Value>]) -> Option<Finding> {
    if old.is_empty() {
        return None;
    }
    let old_count = counted(old.len(), "pod");
    if set.str_at(&["spec", "updateStrategy", "type"]) == "OnDelete" {
        let message = format!(
            "{old_count} of an old revision: updateStrategy OnDelete replaces them only when somebody deletes them"
        );
        return Some(Finding::new("OnDelete", message));
    }
    let partition = set.i64_at(&["spec", "updateStrategy", "rollingUpdate", "partition"])?;
    let kept = old.iter().filter(|it| ordinal(it) < partition).count();
    (partition > 0 && kept > 0).then(|| {
        let message = format!(
            "partition {partition} keeps {} with lower ordinals at the old revision",
            counted(kept, "pod")
        );
        Finding::new("Partition", message)
    })
}

fn ordinal(pod: &Value) -> i64 {
    let name = pod.str_at(&["metadata", "name"]);
    name.rsplit_once('-').and_then(|(_, it)| it.parse().ok()).unwrap_or_default()
}

/// Why a DaemonSet is as it is.
pub(crate) fn daemon_set(case: &Case<'_>) -> Explanation {
    let it = case.object;
    let count = |name: &str| it.i64_at(&["status", name]).unwrap_or_default();
    let (wanted, there) = (count("desiredNumberScheduled"), count("currentNumberScheduled"));
    let (updated, ready) = (count("updatedNumberScheduled"), count("numberReady"));
    let uid = it.str_at(&["metadata", "uid"]);
    let mut findings: Vec<Finding> = not_seen(it).into_iter().collect();
    if wanted == 0 && findings.is_empty() {
        let message =
            "no node is to have one: its node selector, affinity and tolerations fit none";
        findings.push(Finding::new("NoNodes", message));
    }
    if updated < wanted && it.str_at(&["spec", "updateStrategy", "type"]) == "OnDelete" {
        let message = format!(
            "{} of an old revision: updateStrategy OnDelete replaces them only when somebody deletes them",
            counted(usize::try_from(wanted - updated).unwrap_or_default(), "pod")
        );
        findings.push(Finding::new("OnDelete", message));
    }
    if there < wanted {
        findings.extend(failed_create(case, uid));
    }
    findings.extend(unready(case, &pods_of(case, uid), "pod"));
    let state = format!("{ready} of {wanted} pods are ready, {updated} new, {there} there");
    concluded(case, wanted > 0 && ready >= wanted && updated >= wanted, &state, findings)
}

/// Why a Job is as it is.
pub(crate) fn job(case: &Case<'_>) -> Explanation {
    let it = case.object;
    let count = |name: &str| it.i64_at(&["status", name]).unwrap_or_default();
    let name = case.name();
    for (kind, what) in [("Complete", "is complete"), ("Failed", "has failed")] {
        if let Some(told) = condition(it, kind).filter(|it| it.str_at(&["status"]) == "True") {
            let (reason, message) = (told.str_at(&["reason"]), told.str_at(&["message"]));
            let summary = format!("{name} {what}: {reason} {message}");
            let finding = Finding::new("Condition", format!("{kind}: {reason}: {message}"));
            return Explanation::new(case.subject, State::Ended, summary.trim_end())
                .with(vec![finding]);
        }
    }
    let mut findings = Vec::new();
    if it.bool_at(&["spec", "suspend"]) {
        findings.push(Finding::new("Suspended", "it is suspended (spec.suspend): it has no pods"));
    }
    let failed = count("failed");
    if failed > 0 {
        let limit = it.i64_at(&["spec", "backoffLimit"]).unwrap_or(6);
        let message = format!(
            "{failed} of its pods failed (backoffLimit {limit}); the next one waits longer each time"
        );
        findings.push(Finding::new("PodsFailed", message));
    }
    let uid = it.str_at(&["metadata", "uid"]);
    let pods = pods_of(case, uid);
    if pods.is_empty() {
        findings.extend(failed_create(case, uid));
    }
    let stuck: Vec<Arc<Value>> = pods.into_iter().filter(|it| !of_this::runs(it)).collect();
    findings.extend(unready(case, &stuck, "pod"));
    let state =
        format!("{} succeeded, {} active, {failed} failed", count("succeeded"), count("active"));
    let running = count("active") > 0 && findings.is_empty();
    if running {
        return Explanation::new(case.subject, State::Progressing, format!("{name} runs: {state}"));
    }
    concluded(case, false, &state, findings)
}
