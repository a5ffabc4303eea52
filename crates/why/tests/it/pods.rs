//! Pods that wait for a node, for others, or for themselves.

use crate::cluster::{change, cluster, explain, explain_by, findings, has, node, pod, running};

/// The state of a pod `p`, and what its summary says.
fn check(text: &str, state: &str, wanted: &[&str]) {
    let explanation = explain(&cluster(text), "Pod", "p");
    assert_eq!(explanation.str_at(&["state"]), state, "{explanation:?}");
    has(explanation.str_at(&["summary"]), wanted);
}

#[test]
fn gates_are_named_and_what_comes_after_them() {
    let gated = pod("p", "1", "  schedulingGates: [{name: example.com/quota}]");
    check(
        &[node("a", "2", "4Gi"), gated.clone()].concat(),
        "Gated",
        &["its scheduling gates example.com/quota", "would fit on node a"],
    );
    check(&[node("a", "500m", "4Gi"), gated].concat(), "Gated", &["it would not fit: 0/1 nodes"]);
}

#[test]
fn one_that_fits_waits_for_the_scheduler_and_one_of_another_scheduler_for_that() {
    let a = node("a", "2", "4Gi");
    check(&[a.clone(), pod("p", "1", "")].concat(), "Waiting", &["fits on node a now"]);
    let other = pod("p", "1", "  schedulerName: volcano");
    check(&[a, other].concat(), "Waiting", &["waits for scheduler volcano"]);
}

#[test]
fn a_member_waits_for_its_group() {
    let config = scheduler::Configuration {
        features: scheduler::config::Features { pod_groups: true, ..Default::default() },
        ..Default::default()
    };
    let explainer = why::Explainer::new(config.profiles().unwrap());
    let check = |text: &str, state: &str, wanted: &[&str]| {
        let explanation = explain_by(&explainer, &cluster(text), "Pod", "p");
        assert_eq!(explanation.str_at(&["state"]), state, "{explanation:?}");
        has(explanation.str_at(&["summary"]), wanted);
    };
    let member = "  schedulingGroup: {podGroupName: g}";
    let mut text = [node("a", "1", "4Gi"), pod("p", "1", member)].concat();
    check(&text, "Gated", &["waits for its group and enough pods in it", "would fit on node a"]);
    text += "apiVersion: scheduling.k8s.io/v1beta1\nkind: PodGroup\nmetadata: {name: g}\n\
             spec: {schedulingPolicy: {gang: {minCount: 2}}}\n---\n";
    check(&text, "Gated", &["waits for its group and enough pods in it"]);
    text += &pod("q", "1", member);
    check(&text, "Waiting", &["alone fits on node a now", "its group g"]);
    // Where nobody schedules in groups none is waited for.
    self::check(&text, "Waiting", &["waits for the scheduler"]);
}

#[test]
fn each_node_is_told_with_its_plugin_and_a_cluster_without_nodes_too() {
    let tainted = node("b", "2", "4Gi")
        .replace("spec: {}", "spec: {taints: [{key: gpu, effect: NoSchedule}]}");
    let text = [node("a", "500m", "4Gi"), tainted, pod("p", "1", "")].concat();
    let explanation = explain(&cluster(&text), "Pod", "p");
    let mut verdicts: Vec<String> = explanation
        .items_at(&["scheduling", "nodes"])
        .iter()
        .map(|it| {
            let reasons = it.items_at(&["reasons"]).iter().filter_map(apimachinery::Value::as_str);
            let reasons: Vec<&str> = reasons.collect();
            format!("{} {} {}", it.str_at(&["node"]), it.str_at(&["plugin"]), reasons.join(", "))
        })
        .collect();
    verdicts.sort();
    assert_eq!(
        verdicts,
        [
            "a NodeResourcesFit Insufficient cpu",
            "b TaintToleration node(s) had untolerated taint(s)",
        ]
    );
    check(&pod("p", "1", ""), "Unschedulable", &["no nodes available to schedule pods"]);
}

#[test]
fn the_priority_it_would_need_names_who_goes() {
    let low =
        running("low", "1500m", "a", "low").replace("nodeName: a", "nodeName: a\n  priority: 10");
    let class = "kind: PriorityClass\nmetadata: {name: high}\nvalue: 500\n---\nkind: PriorityClass\n\
                 metadata: {name: higher}\nvalue: 900\n---\n";
    let text = [node("a", "2", "4Gi"), low, class.to_owned(), pod("p", "1", "")].concat();
    let explanation = explain(&cluster(&text), "Pod", "p");
    let it = explanation.at(&["scheduling", "preemption"]).unwrap();
    assert_eq!((it.i64_at(&["priority"]), it.bool_at(&["hasPriority"])), (Some(11), false));
    assert_eq!((it.str_at(&["node"]), it.str_at(&["priorityClassName"])), ("a", "high"));
    assert_eq!(it.items_at(&["victims"])[0].str_at(&["name"]), "low");
    let mut raised = cluster(&text);
    change(&mut raised, "Pod", "p", |pod| pod.set_at(&["spec", "priority"], 11));
    let explanation = explain(&raised, "Pod", "p");
    assert!(explanation.bool_at(&["scheduling", "preemption", "hasPriority"]));
    change(&mut raised, "Pod", "p", |pod| pod.set_at(&["spec", "preemptionPolicy"], "Never"));
    assert!(explain(&raised, "Pod", "p").at(&["scheduling", "preemption"]).is_none());
}

#[test]
fn claims_that_are_not_bound_are_told() {
    let uses = pod("p", "1", "  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]");
    let claim = |class: &str| {
        format!(
            "kind: PersistentVolumeClaim\nmetadata: {{name: data}}\nspec: {{{class}}}\nstatus: {{phase: Pending}}\n---\n"
        )
    };
    let class = "kind: StorageClass\nmetadata: {name: fast}\nprovisioner: csi.example.com\n---\n"
        .to_owned();
    let by_hand = "kind: StorageClass\nmetadata: {name: fast}\nprovisioner: kubernetes.io/no-provisioner\n---\n".to_owned();
    let named = claim("storageClassName: fast");
    for (objects, reason) in [
        (String::new(), "ClaimMissing"),
        (claim(""), "NoDefaultClass"),
        (claim("storageClassName: ''"), "NoClass"),
        (named.clone(), "ClassMissing"),
        ([named.clone(), by_hand].concat(), "NoProvisioner"),
        ([named.clone(), class].concat(), "WaitsForProvisioner"),
        (named.replace("Pending", "Lost"), "ClaimLost"),
    ] {
        let text = [node("a", "2", "4Gi"), objects, uses.clone()].concat();
        let all = findings(&explain(&cluster(&text), "Pod", "p"));
        assert!(
            all[0].starts_with(&format!("{reason} persistentvolumeclaims/data")),
            "{reason}: {all:?}"
        );
    }
}

/// A pod on a node whose container has this status.
fn on_node(status: &str) -> String {
    let pod = pod("p", "1", "  nodeName: a");
    let status = format!(
        "status: {{phase: Running, containerStatuses: [{{name: main, image: img, restartCount: 3, {status}}}]}}\n---\n"
    );
    [node("a", "2", "4Gi"), pod.replace("---\n", &status)].concat()
}

#[test]
fn containers_say_why_they_are_not_ready() {
    for (status, wanted) in [
        (
            "state: {waiting: {reason: ImagePullBackOff, message: 'no such image'}}",
            "cannot get its image img: ImagePullBackOff: no such image",
        ),
        (
            "state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 137, reason: OOMKilled}}",
            "ends again and again (3 restarts): exit code 137, OOMKilled",
        ),
        (
            "state: {waiting: {reason: ContainerCreating}}",
            "container main waits: ContainerCreating",
        ),
        (
            "state: {running: {}}, started: false, ready: false",
            "startup probe has not succeeded yet",
        ),
        ("state: {running: {}}, started: true, ready: false", "readiness probe does not succeed"),
        (
            "state: {terminated: {exitCode: 2, reason: Error}}",
            "container main has ended: exit code 2, Error",
        ),
    ] {
        check(&on_node(status), "NotReady", &["pod p on node a is not ready: ", wanted]);
    }
}

#[test]
fn its_node_and_its_gates_may_be_the_reason() {
    let running = on_node("state: {running: {}}, started: true, ready: true");
    let lost = running
        .replace("type: Ready, status: 'True'", "type: Ready, status: Unknown, message: silent");
    check(&lost, "NotReady", &["node a is not ready: silent"]);
    let gated = running.replace(
        "  nodeName: a",
        "  nodeName: a\n  readinessGates: [{conditionType: example.com/lb}]",
    );
    check(&gated, "NotReady", &["readiness gate example.com/lb is not true"]);
    let gone = running.replace("nodeName: a", "nodeName: b");
    check(&gone, "NotReady", &["node b does not exist"]);
}

#[test]
fn those_that_run_or_have_ended_say_so() {
    let ready = running("p", "1", "a", "p");
    check(&[node("a", "2", "4Gi"), ready.clone()].concat(), "Settled", &["is ready on node a"]);
    let evicted =
        ready.replace("phase: Running", "phase: Failed, reason: Evicted, message: 'low memory'");
    check(&evicted, "Ended", &["has ended: Failed, Evicted: low memory"]);
}
