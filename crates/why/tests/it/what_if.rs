//! Drains, losses of nodes, and new workloads on small clusters.

use apimachinery::Value;
use why::what_if::{Action, Report, WhatIfError, play};
use why::{Explainer, Gathered};

use crate::cluster::{change, cluster, has, node, objects, running};

fn played(cluster: &Gathered, action: &Action) -> Report {
    play(&Explainer::default(), cluster, action).unwrap()
}

fn drain(text: &str, nodes: &[&str]) -> Report {
    played(&cluster(text), &Action::Drain(nodes.iter().map(|it| (*it).to_owned()).collect()))
}

fn lose(text: &str, nodes: &[&str]) -> Report {
    played(&cluster(text), &Action::Lose(nodes.iter().map(|it| (*it).to_owned()).collect()))
}

fn apply(text: &str, manifest: &str) -> Report {
    let objects = objects(manifest);
    played(&cluster(text), &Action::Apply { objects, namespace: "default".to_owned() })
}

fn budget(app: &str, allowed: i64, healthy: i64, wanted: i64) -> String {
    format!(
        "kind: PodDisruptionBudget\nmetadata: {{name: {app}}}\nspec: {{selector: {{matchLabels: {{app: {app}}}}}}}\n\
         status: {{disruptionsAllowed: {allowed}, currentHealthy: {healthy}, desiredHealthy: {wanted}}}\n---\n"
    )
}

fn places(report: &Report) -> Vec<String> {
    let mut all: Vec<String> =
        report.moves.iter().map(|it| format!("{} {} > {}", it.pod.name, it.from, it.to)).collect();
    all.sort();
    all
}

fn three_nodes() -> String {
    [node("a", "2", "4Gi"), node("b", "2", "4Gi"), node("c", "2", "4Gi")].concat()
}

#[test]
fn drained_pods_move_and_those_that_fit_nowhere_wait_with_what_would_help() {
    let pods = [
        running("w1", "1", "a", "w"),
        running("big", "1500m", "a", "big"),
        running("w2", "1", "b", "w"),
        running("w3", "1", "c", "w"),
    ];
    let text = [three_nodes(), pods.concat()].concat();
    let report = drain(&text, &["a"]);
    assert_eq!(places(&report).len(), 1, "{report:?}");
    assert!(report.moves.iter().all(|it| it.from == "a" && it.to != "a"));
    assert_eq!(report.waits.len(), 1);
    let wait = &report.waits[0];
    assert_eq!((wait.pod.name.as_str(), wait.owner.as_str()), ("big", "ReplicaSet/big"));
    has(
        &wait.why,
        &["0/3 nodes are available", "1 node(s) were unschedulable", "2 Insufficient cpu"],
    );
    has(&wait.help, &["lower the cpu request of container main from 1500m to 1"]);
}

#[test]
fn pods_are_placed_in_the_order_of_their_priority() {
    let high =
        running("high", "1500m", "a", "h").replace("nodeName: a", "nodeName: a\n  priority: 10");
    let text =
        [node("a", "4", "4Gi"), node("b", "2", "4Gi"), running("low", "1500m", "a", "l"), high]
            .concat();
    let report = drain(&text, &["a"]);
    assert_eq!(places(&report), ["high a > b"]);
    assert_eq!(report.waits[0].pod.name, "low");
}

#[test]
fn budgets_hold_pods_unless_those_before_them_have_found_a_place() {
    let pods = [running("w1", "1", "a", "w"), running("w2", "1", "a", "w")].concat();
    let none = drain(&[three_nodes(), pods.clone(), budget("w", 0, 2, 2)].concat(), &["a"]);
    assert_eq!((none.blocked.len(), none.moves.len()), (2, 0));
    has(
        &none.blocked[0].note,
        &["budget w allows no disruption: it wants 2 healthy pods and has 2"],
    );
    // One after the other, where there is room.
    let one = drain(&[three_nodes(), pods.clone(), budget("w", 1, 2, 1)].concat(), &["a"]);
    assert_eq!((one.blocked.len(), one.moves.len()), (0, 2));
    assert!(one.budgets.is_empty());
    // The first finds no place: the second stays.
    let full = [node("a", "2", "4Gi"), node("b", "500m", "4Gi"), pods, budget("w", 1, 2, 1)];
    let report = drain(&full.concat(), &["a"]);
    assert_eq!((report.blocked.len(), report.waits.len()), (1, 1));
}

#[test]
fn a_pod_that_is_not_ready_goes_as_its_budget_says() {
    let sick = running("w1", "1", "a", "w")
        .replace("type: Ready, status: 'True'", "type: Ready, status: 'False'");
    let text = |policy: &str, healthy| {
        let budget = budget("w", 0, healthy, 1).replace("spec: {", &format!("spec: {{{policy}"));
        [three_nodes(), sick.clone(), budget].concat()
    };
    assert_eq!(drain(&text("", 0), &["a"]).blocked.len(), 1);
    assert_eq!(drain(&text("", 1), &["a"]).moves.len(), 1);
    assert_eq!(drain(&text("unhealthyPodEvictionPolicy: AlwaysAllow, ", 0), &["a"]).moves.len(), 1);
    let two = [text("", 1), budget("w", 1, 1, 1).replace("name: w}", "name: other}")].concat();
    has(&drain(&two, &["a"]).blocked[0].note, &["more than one budget"]);
}

#[test]
fn what_drain_leaves_alone_and_warns_of() {
    let daemon = running("d", "1", "a", "d").replace("kind: ReplicaSet", "kind: DaemonSet");
    let mirror = running("m", "100m", "a", "m")
        .replace("labels:", "annotations: {kubernetes.io/config.mirror: x}, labels:");
    let bare = "kind: Pod\nmetadata: {name: bare}\nspec: {nodeName: a, containers: [{name: x}], volumes: [{name: tmp, emptyDir: {}}]}\n\
                status: {phase: Running}\n---\n";
    let text = [three_nodes(), daemon, mirror, bare.to_owned()].concat();
    let report = drain(&text, &["a"]);
    let ignored: Vec<&str> = report.ignored.iter().map(|it| it.pod.name.as_str()).collect();
    assert_eq!(ignored, ["d", "m"]);
    assert_eq!(report.lost.len(), 1);
    let warned: Vec<&str> = report.warnings.iter().map(|it| it.note.as_str()).collect();
    assert_eq!(
        warned,
        [
            "data of its emptyDir volumes is lost: tmp",
            "no controller makes it again: drain needs --force",
        ]
    );
}

#[test]
fn a_lost_node_breaks_budgets_and_its_pods_move() {
    let pods =
        [running("w1", "1", "a", "w"), running("w2", "1", "a", "w"), running("w3", "1", "b", "w")];
    let text = [three_nodes(), pods.concat(), budget("w", 1, 3, 2)].concat();
    let report = lose(&text, &["a"]);
    assert_eq!(report.moves.len(), 2);
    let broken = &report.budgets[0];
    assert_eq!((broken.wanted, broken.least, broken.then), (2, 1, 3));
    // With both other nodes full nothing comes back.
    let text = text.replace("cpu: '2', memory: 4Gi", "cpu: '1', memory: 4Gi");
    let report = lose(&text, &["a", "c"]);
    assert_eq!((report.waits.len(), report.budgets[0].then), (2, 1));
    assert_eq!(
        play(&Explainer::default(), &cluster(&text), &Action::Lose(vec!["x".to_owned()])),
        Err(WhatIfError::NoNode("x".to_owned()))
    );
}

fn deployment(replicas: i64, cpu: &str, more: &str) -> String {
    format!(
        "kind: Deployment\nmetadata: {{name: new}}\nspec:\n  replicas: {replicas}\n  template:\n    metadata: {{labels: {{app: new}}}}\n    \
         spec:\n      containers: [{{name: main, image: x, resources: {{limits: {{cpu: '{cpu}'}}}}}}]\n{more}\n"
    )
}

#[test]
fn new_workloads_are_placed_by_what_they_ask_and_push_others_away() {
    let text = three_nodes();
    let report = apply(&text, &deployment(4, "1500m", ""));
    assert_eq!((report.moves.len(), report.waits.len()), (3, 1));
    let low = running("low", "1500m", "a", "low");
    let class = "kind: PriorityClass\nmetadata: {name: high}\nvalue: 100\n---\n";
    let one = [node("a", "2", "4Gi"), node("b", "500m", "4Gi"), low, class.to_owned()].concat();
    let report = apply(&one, &deployment(1, "1", "      priorityClassName: high"));
    assert_eq!(report.preempted[0].pod.name, "low");
    assert_eq!(places(&report), ["new-0  > a"]);
    assert_eq!(report.waits[0].pod.name, "low");
}

#[test]
fn a_workload_that_is_there_is_replaced_with_its_pods() {
    let set = "kind: Deployment\nmetadata: {name: new}\n---\nkind: ReplicaSet\nmetadata: {name: r, ownerReferences: \
               [{uid: deployments-new, controller: true}]}\n---\n";
    let text = [node("a", "2", "4Gi"), set.to_owned(), running("old", "1500m", "a", "r")].concat();
    assert_eq!(places(&apply(&text, &deployment(1, "1500m", ""))), ["new-0  > a"]);
}

#[test]
fn daemons_sets_and_jobs_bring_their_pods() {
    let tainted =
        node("t", "2", "4Gi").replace("spec: {}", "spec: {taints: [{key: x, effect: NoSchedule}]}");
    let full = node("f", "500m", "4Gi");
    let text = [three_nodes(), tainted, full].concat();
    let daemon = deployment(1, "1", "").replace("kind: Deployment", "kind: DaemonSet");
    let report = apply(&text, &daemon);
    let to: Vec<&str> = report.moves.iter().map(|it| it.to.as_str()).collect();
    assert_eq!((to, report.waits.len()), (vec!["a", "b", "c"], 1));
    let job = deployment(1, "1", "")
        .replace("kind: Deployment", "kind: Job")
        .replace("replicas: 1", "parallelism: 2\n  completions: 5");
    assert_eq!(apply(&text, &job).moves.len(), 2);
    let config = apply(&text, "kind: ConfigMap\nmetadata: {name: c}\n");
    assert_eq!(config.ignored[0].note, "ConfigMap/c brings no pods");
    assert_eq!(config.ignored[0].pod.namespace, "default");
    let space = apply(&text, "apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n");
    assert_eq!(space.ignored[0].pod.namespace, "");
}

#[test]
fn claims_of_a_new_stateful_set_are_made_where_their_class_makes_them() {
    let set = deployment(2, "1", "").replace("kind: Deployment", "kind: StatefulSet")
        + "  volumeClaimTemplates: [{metadata: {name: data}, spec: {storageClassName: fast, resources: {requests: {storage: 1Gi}}}}]\n";
    let report = apply(&three_nodes(), &set);
    assert_eq!(report.waits.len(), 2, "{report:?}");
    let class = "kind: StorageClass\nmetadata: {name: fast}\nprovisioner: csi.example.com\nvolumeBindingMode: WaitForFirstConsumer\n";
    assert_eq!(apply(&[three_nodes(), class.to_owned()].concat(), &set).moves.len(), 2);
}

#[test]
fn the_report_is_the_same_in_json_and_text() {
    let text = [three_nodes(), running("w1", "1", "a", "w"), budget("w", 0, 1, 1)].concat();
    let mut cluster = cluster(&text);
    change(&mut cluster, "Node", "c", |node| node.set_at(&["spec", "unschedulable"], true));
    let report = played(&cluster, &Action::Drain(vec!["a".to_owned()])).to_value();
    assert_eq!(report.str_at(&["kind"]), "WhatIf");
    let text = why::text::render(&report, why::text::Style::Plain);
    has(
        &text,
        &[
            "drain a: 0 pods would be placed, 0 would wait, 1 kept by their budgets",
            "KEPT BY THEIR BUDGETS",
            "default/w1",
        ],
    );
    let coloured = why::text::render(&report, why::text::Style::Coloured);
    assert!(
        coloured.contains("\u{1b}[1mKEPT BY THEIR BUDGETS\u{1b}[0m") && !text.contains('\u{1b}')
    );
    assert!(matches!(report.at(&["moves"]), Some(Value::Array(it)) if it.is_empty()));
}
