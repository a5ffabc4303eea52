//! Rollouts that do not move.

use crate::cluster::{cluster, explain, findings, has, node, pod, running};

fn check(text: &str, kind: &str, state: &str, wanted: &[&str]) {
    let explanation = explain(&cluster(text), kind, "w");
    assert_eq!(explanation.str_at(&["state"]), state, "{explanation:?}");
    let all = [explanation.str_at(&["summary"]).to_owned(), findings(&explanation).join("\n")];
    has(&all.join("\n"), wanted);
}

fn workload(kind: &str, spec: &str, status: &str) -> String {
    format!(
        "kind: {kind}\nmetadata: {{name: w, generation: 2}}\nspec: {{{spec}}}\nstatus: {{{status}}}\n---\n"
    )
}

/// A pod of a workload, not ready: it fits nowhere.
fn pending(name: &str, owner: &str, uid: &str) -> String {
    let metadata = format!(
        "{{name: {name}, labels: {{app: {name}}}, ownerReferences: [{{kind: {owner}, uid: {uid}, controller: true}}]}}"
    );
    pod(name, "9", "").replace(&format!("{{name: {name}, labels: {{app: {name}}}}}"), &metadata)
}

fn set(revision: u32) -> String {
    format!(
        "kind: ReplicaSet\nmetadata: {{name: w-{revision}, annotations: {{deployment.kubernetes.io/revision: '{revision}'}}, \
         ownerReferences: [{{kind: Deployment, uid: deployments-w, controller: true}}]}}\n---\n"
    )
}

fn refused(uid: &str) -> String {
    format!(
        "kind: Event\nmetadata: {{name: e}}\ninvolvedObject: {{uid: {uid}}}\nreason: FailedCreate\n\
         lastTimestamp: '2026-01-01T00:00:00Z'\nmessage: 'exceeded quota: q'\n---\n"
    )
}

#[test]
fn deployments() {
    let behind = "observedGeneration: 2, replicas: 3, updatedReplicas: 1, availableReplicas: 2";
    let both = [set(1), set(2), node("a", "2", "4Gi")].concat();
    let it =
        |spec: &str, status: &str| workload("Deployment", &format!("replicas: 3, {spec}"), status);
    check(
        &[it("paused: true", behind), both.clone()].concat(),
        "Deployment",
        "Waiting",
        &["does not move (1 of 3 pods are new, 2 available, 3 there): it is paused"],
    );
    check(
        &[it("", behind), both.clone(), pending("new", "ReplicaSet", "replicasets-w-2")].concat(),
        "Deployment",
        "Waiting",
        &[
            "PodUnschedulable pods/new pod new fits nowhere: 0/1 nodes are available: 1 Insufficient cpu",
        ],
    );
    check(
        &[it("", behind), both.clone(), refused("replicasets-w-2")].concat(),
        "Deployment",
        "Waiting",
        &["pods cannot be created: exceeded quota: q"],
    );
    let late = format!(
        "{behind}, conditions: [{{type: Progressing, status: 'False', reason: ProgressDeadlineExceeded, message: late}}]"
    );
    check(
        &[it("", &late), both.clone()].concat(),
        "Deployment",
        "Waiting",
        &["ProgressDeadlineExceeded: late"],
    );
    check(
        &[it("", &behind.replace("Generation: 2", "Generation: 1")), both.clone()].concat(),
        "Deployment",
        "Waiting",
        &["has not seen generation 2 yet (it has seen 1)"],
    );
    check(&[it("", behind), both.clone()].concat(), "Deployment", "Progressing", &["moves"]);
    let done = "observedGeneration: 2, replicas: 3, updatedReplicas: 3, availableReplicas: 3";
    check(&[it("", done), both].concat(), "Deployment", "Settled", &["is rolled out"]);
}

#[test]
fn replica_sets() {
    let it = workload("ReplicaSet", "replicas: 2", "observedGeneration: 2, replicas: 0");
    check(
        &[it, refused("replicasets-w")].concat(),
        "ReplicaSet",
        "Waiting",
        &["exceeded quota: q"],
    );
}

#[test]
fn stateful_sets() {
    let of = |name: &str, hash: &str, ready: bool| {
        let it = running(name, "1", "a", "x").replace("uid: replicasets-x", "uid: statefulsets-w");
        let it = it
            .replace("labels: {app: x}", &format!("labels: {{controller-revision-hash: {hash}}}"));
        if ready {
            it
        } else {
            it.replace("type: Ready, status: 'True'", "type: Ready, status: 'False', reason: R")
        }
    };
    let status = "observedGeneration: 2, replicas: 2, readyReplicas: 2, updatedReplicas: 1, updateRevision: new";
    let a = node("a", "4", "4Gi");
    let pods = [of("w-0", "old", true), of("w-1", "new", true), a.clone()].concat();
    let it =
        |spec: &str, status: &str| workload("StatefulSet", &format!("replicas: 2, {spec}"), status);
    check(
        &[it("updateStrategy: {type: OnDelete}", status), pods.clone()].concat(),
        "StatefulSet",
        "Waiting",
        &["1 pod of an old revision: updateStrategy OnDelete"],
    );
    check(
        &[it("updateStrategy: {rollingUpdate: {partition: 1}}", status), pods].concat(),
        "StatefulSet",
        "Waiting",
        &["partition 1 keeps 1 pod with lower ordinals"],
    );
    let stuck = [of("w-0", "new", false), a].concat();
    let status = "observedGeneration: 2, replicas: 1, readyReplicas: 0, updatedReplicas: 1, updateRevision: new";
    check(
        &[it("", status), stuck].concat(),
        "StatefulSet",
        "Waiting",
        &["it goes on in order, and pod w-0 is not ready", "PodNotReady pods/w-0"],
    );
}

#[test]
fn daemon_sets() {
    let it = |spec: &str, status: &str| {
        workload("DaemonSet", spec, &format!("observedGeneration: 2, {status}"))
    };
    check(
        &it("", "desiredNumberScheduled: 0"),
        "DaemonSet",
        "Waiting",
        &["no node is to have one"],
    );
    check(
        &it(
            "updateStrategy: {type: OnDelete}",
            "desiredNumberScheduled: 2, currentNumberScheduled: 2, updatedNumberScheduled: 1, numberReady: 2",
        ),
        "DaemonSet",
        "Waiting",
        &["1 pod of an old revision"],
    );
    check(
        &it(
            "",
            "desiredNumberScheduled: 1, currentNumberScheduled: 1, updatedNumberScheduled: 1, numberReady: 1",
        ),
        "DaemonSet",
        "Settled",
        &["1 of 1 pods are ready"],
    );
}

#[test]
fn jobs() {
    let it = |spec: &str, status: &str| workload("Job", spec, status);
    check(&it("suspend: true", ""), "Job", "Waiting", &["it is suspended"]);
    check(
        &it("backoffLimit: 4", "failed: 2"),
        "Job",
        "Waiting",
        &["2 of its pods failed (backoffLimit 4)"],
    );
    check(
        &it(
            "",
            "conditions: [{type: Failed, status: 'True', reason: BackoffLimitExceeded, message: m}]",
        ),
        "Job",
        "Ended",
        &["has failed: BackoffLimitExceeded m"],
    );
    check(
        &[it("", "active: 1"), node("a", "2", "4Gi"), pending("w-x", "Job", "jobs-w")].concat(),
        "Job",
        "Waiting",
        &["pod w-x fits nowhere"],
    );
    check(&it("", "active: 1"), "Job", "Progressing", &["runs: 0 succeeded, 1 active"]);
    check(&[it("", ""), refused("jobs-w")].concat(), "Job", "Waiting", &["exceeded quota: q"]);
}

#[test]
fn what_has_no_conditions_is_told_by_its_last_warning() {
    let widget = "kind: Widget\nmetadata: {name: w}\n---\n";
    let settled = explain(&cluster(widget), "Widget", "w");
    assert_eq!(settled.str_at(&["state"]), "Settled");
    let event = refused("widgets-w").replace("FailedCreate", "InvalidSchedule\ntype: Warning");
    let told = explain(&cluster(&[widget.to_owned(), event].concat()), "Widget", "w");
    assert_eq!(told.str_at(&["state"]), "NotReady");
    let finding = told.items_at(&["findings"])[0].str_at(&["message"]);
    assert_eq!(finding, "its last warning is InvalidSchedule: exceeded quota: q");
}
