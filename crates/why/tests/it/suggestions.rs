//! The smallest change for every plugin that knows one.

use crate::cluster::{change, cluster, explain, has, node, pod, prove, running, suggestions};

/// What is said first of a pod `p` in a cluster, all of it proved.
fn check(text: &str, wanted: &[&str]) {
    let cluster = cluster(text);
    let explanation = explain(&cluster, "Pod", "p");
    let said = suggestions(&explanation);
    assert_eq!(explanation.str_at(&["state"]), "Unschedulable", "{explanation:?}");
    assert!(prove(&cluster, "p", &explanation) > 0, "nothing is said to help");
    for it in wanted {
        assert!(said.iter().any(|said| said == it), "{it:?} is not in {said:#?}");
    }
}

#[test]
fn too_little_is_left() {
    let text = [node("a", "2", "4Gi"), node("b", "1500m", "4Gi"), pod("p", "3", "")].concat();
    check(
        &text,
        &["lower the cpu request of container main from 3 to 2", "give node a 1 more cpu (2 -> 3)"],
    );
    let full = running("r", "1500m", "a", "r");
    check(
        &[node("a", "2", "4Gi"), full, pod("p", "1", "")].concat(),
        &[
            "lower the cpu request of container main from 1 to 500m",
            "give node a 500m more cpu (2 -> 2500m)",
        ],
    );
}

#[test]
fn memory_is_told_in_mebibytes_that_suffice() {
    let text = [node("a", "2", "100Mi"), pod("p", "1", "").replace("64Mi", "150000000")].concat();
    check(
        &text,
        &[
            "lower the memory request of container main from 143Mi to 100Mi",
            "give node a 44Mi more memory (100Mi -> 144Mi)",
        ],
    );
}

#[test]
fn a_node_takes_no_more_pods() {
    let full = node("a", "4", "4Gi").replace("pods: '10'", "pods: '1'");
    let text = [full, running("r", "1", "a", "r"), pod("p", "1", "")].concat();
    check(&text, &["let node a take 1 more pods (2)"]);
}

#[test]
fn an_extended_resource_is_missing() {
    let asks = pod("p", "1", "").replace("memory: 64Mi", "memory: 64Mi, example.com/gpu: '2'");
    check(
        &[node("a", "4", "4Gi"), asks].concat(),
        &["give node a 2 more example.com/gpu (0 -> 2)"],
    );
}

#[test]
fn taints_are_tolerated_or_removed() {
    let tainted = node("a", "2", "4Gi").replace(
        "spec: {}",
        "spec: {taints: [{key: gpu, value: 'yes', effect: NoSchedule}, {key: soft, effect: PreferNoSchedule}]}",
    );
    let wanted =
        ["tolerate taint gpu=yes:NoSchedule", "remove taint gpu=yes:NoSchedule from node a"];
    check(&[tainted.clone(), pod("p", "1", "")].concat(), &wanted);
    // The same where it tolerates something already.
    let more = "  tolerations: [{key: x, operator: Exists}]";
    check(&[tainted, pod("p", "1", more)].concat(), &wanted);
}

#[test]
fn a_cordon_is_lifted_with_its_taint() {
    let cordoned = node("a", "2", "4Gi").replace(
        "spec: {}",
        "spec: {unschedulable: true, taints: [{key: node.kubernetes.io/unschedulable, effect: NoSchedule}]}",
    );
    check(&[cordoned, pod("p", "1", "")].concat(), &["uncordon node a"]);
}

#[test]
fn node_selectors_and_labels() {
    let more = "  nodeSelector: {disk: ssd, kubernetes.io/hostname: a}";
    check(
        &[node("a", "2", "4Gi"), node("b", "2", "4Gi"), pod("p", "1", more)].concat(),
        &["remove the node selector disk=ssd", "label node a disk=ssd"],
    );
}

#[test]
fn required_node_affinity() {
    let terms = |expressions: &str| {
        format!(
            "  affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: \
             [{{matchExpressions: [{expressions}]}}]}}}}}}"
        )
    };
    let zone = "{key: zone, operator: In, values: [z-a]}";
    let disk = "{key: disk, operator: In, values: [ssd, nvme]}";
    check(
        &[node("a", "2", "4Gi"), pod("p", "1", &terms(disk))].concat(),
        &["remove the required node affinity (disk In (ssd, nvme))"],
    );
    check(
        &[node("a", "2", "4Gi"), pod("p", "1", &terms(&format!("{zone}, {disk}")))].concat(),
        &["remove disk In (ssd, nvme) from the required node affinity"],
    );
}

#[test]
fn ports_of_the_node() {
    let with_port = |pod: String| {
        pod.replace("image: x", "image: x\n    ports: [{containerPort: 80, hostPort: 80}]")
    };
    let text = [
        node("a", "2", "4Gi"),
        with_port(running("r", "1", "a", "r")),
        with_port(pod("p", "1", "")),
    ];
    check(&text.concat(), &["do without host port 80 of container main"]);
}

#[test]
fn spreading_and_other_pods() {
    let spread = "  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, \
                  labelSelector: {matchLabels: {app: p}}}]";
    let there = |name: &str| running(name, "100m", "a", "p");
    let cordoned = node("b", "2", "4Gi").replace("cpu: '2'", "cpu: '0'");
    let text = [node("a", "2", "4Gi"), cordoned, there("r1"), pod("p", "1", spread)];
    check(
        &text.concat(),
        &[
            "only prefer the spread over zone (whenUnsatisfiable: ScheduleAnyway)",
            "raise maxSkew of the spread over zone from 1 to 2",
        ],
    );
    let apart = "  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: \
                 [{labelSelector: {matchLabels: {app: p}}, topologyKey: zone}]}}";
    check(
        &[node("a", "2", "4Gi"), there("r1"), pod("p", "1", apart)].concat(),
        &["remove the required pod anti-affinity to pods app=p over zone"],
    );
    let near = apart.replace("podAntiAffinity", "podAffinity").replace("app: p}", "app: nobody}");
    check(
        &[node("a", "2", "4Gi"), pod("p", "1", &near)].concat(),
        &["remove the required pod affinity to pods app=nobody over zone"],
    );
}

#[test]
fn two_changes_are_told_where_one_is_not_enough_and_three_where_two_are_not() {
    let tainted = node("a", "2", "4Gi")
        .replace("spec: {}", "spec: {taints: [{key: gpu, effect: NoSchedule}]}");
    let text = [tainted, pod("p", "3", "")].concat();
    check(
        &text,
        &["tolerate taint gpu:NoSchedule, and lower the cpu request of container main from 3 to 2"],
    );
    let more = "  nodeSelector: {disk: ssd}";
    let text = text.replace("memory: 64Mi}}\n", &format!("memory: 64Mi}}}}\n{more}\n"));
    check(
        &text,
        &[
            "tolerate taint gpu:NoSchedule, and remove the node selector disk=ssd, and lower the cpu request of container \
           main from 3 to 2",
        ],
    );
}

#[test]
fn one_change_hides_larger_ones_and_fits_are_counted() {
    let selector = "  nodeSelector: {disk: ssd}";
    let text = [
        node("a", "2", "4Gi"),
        node("b", "2", "4Gi"),
        node("c", "500m", "4Gi"),
        pod("p", "1", selector),
    ];
    let cluster = cluster(&text.concat());
    let explanation = explain(&cluster, "Pod", "p");
    prove(&cluster, "p", &explanation);
    let first = &explanation.items_at(&["scheduling", "suggestions"])[0];
    assert_eq!(first.str_at(&["summary"]), "remove the node selector disk=ssd");
    assert_eq!(first.i64_at(&["fits"]), Some(2));
    let all = explanation.items_at(&["scheduling", "suggestions"]);
    assert!(all.iter().all(|it| it.items_at(&["changes"]).len() == 1), "{all:?}");
    has(
        explanation.str_at(&["summary"]),
        &[
            "pod p fits nowhere: 0/3 nodes are available: ",
            "; it would fit on 2 nodes if you remove the node selector disk=ssd (or 1 other way)",
        ],
    );
}

#[test]
fn what_no_change_helps_says_so() {
    let text = [
        node("a", "2", "4Gi"),
        pod("p", "1", "  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]"),
    ];
    let cluster = cluster(&text.concat());
    let explanation = explain(&cluster, "Pod", "p");
    assert_eq!(suggestions(&explanation), Vec::<String>::new());
    let text = why::text::render(&explanation, why::text::Style::Plain);
    has(&text, &["no change of up to three things", "volume claim data does not exist"]);
}

#[test]
fn many_nodes_are_told_in_groups_and_the_search_ends() {
    let nodes: String = (0..300).map(|nth| node(&format!("n{nth}"), "1", "4Gi")).collect();
    let mut cluster = cluster(&[nodes, pod("p", "2", "")].concat());
    change(&mut cluster, "Node", "n7", |node| {
        node.set_at(&["status", "allocatable", "cpu"], "1500m")
    });
    let explanation = explain(&cluster, "Pod", "p");
    assert_eq!(explanation.i64_at(&["scheduling", "nodeCount"]), Some(300));
    assert_eq!(explanation.items_at(&["scheduling", "nodes"]).len(), 100);
    let groups = explanation.items_at(&["scheduling", "groups"]);
    assert_eq!((groups.len(), groups[0].i64_at(&["count"])), (1, Some(300)));
    assert!(explanation.bool_at(&["scheduling", "searchEnded"]));
    assert!(prove(&cluster, "p", &explanation) > 0);
}
