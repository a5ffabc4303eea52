//! Objects that are being deleted and stay.

use crate::cluster::{cluster, explain, findings, has, node, pod, running};

const GOING: &str = "deletionTimestamp: '2026-01-01T00:05:00Z', deletionGracePeriodSeconds: 0";

/// What is found about an object with one finalizer, among others.
fn check(kind: &str, finalizer: &str, body: &str, others: &str, wanted: &[&str]) {
    let text = format!(
        "kind: {kind}\nmetadata: {{name: it, {GOING}, finalizers: [{finalizer}]}}\n{body}\n---\n{others}"
    );
    let explanation = explain(&cluster(&text), kind, "it");
    assert_eq!(explanation.str_at(&["state"]), "Terminating");
    has(explanation.str_at(&["summary"]), &["is being deleted since 5m and still there: "]);
    has(&findings(&explanation).join("\n"), wanted);
}

fn owned(kind: &str, name: &str, owner: &str, more: &str) -> String {
    format!(
        "kind: {kind}\nmetadata: {{name: {name}, ownerReferences: [{{uid: {owner}, blockOwnerDeletion: true}}]{more}}}\n---\n"
    )
}

#[test]
fn each_known_finalizer_says_what_it_waits_for() {
    let user = pod("u", "1", "  volumes: [{name: v, persistentVolumeClaim: {claimName: it}}]");
    for (kind, finalizer, body, others, wanted) in [
        (
            "PersistentVolumeClaim",
            "kubernetes.io/pvc-protection",
            "",
            user,
            "1 pod in use of it: u",
        ),
        (
            "PersistentVolumeClaim",
            "kubernetes.io/pvc-protection",
            "",
            String::new(),
            "no pod uses it; the controller removes it next",
        ),
        (
            "PersistentVolume",
            "kubernetes.io/pv-protection",
            "spec: {claimRef: {namespace: default, name: data}}\nstatus: {phase: Bound}",
            String::new(),
            "volume claim default/data has it",
        ),
        (
            "Service",
            "service.kubernetes.io/load-balancer-cleanup",
            "",
            String::new(),
            "no controller of this cluster removes it",
        ),
        (
            "ResourceClaim",
            "resource.kubernetes.io/delete-protection",
            "status: {reservedFor: [{name: trainer}]}",
            String::new(),
            "it is reserved for 1 user: trainer",
        ),
        (
            "CustomResourceDefinition",
            "customresourcecleanup.apiextensions.k8s.io",
            "spec: {group: example.com, names: {plural: widgets}}",
            "kind: Widget\nmetadata: {name: w, finalizers: [example.com/x]}\n".to_owned(),
            "1 object left: default/w",
        ),
    ] {
        check(kind, finalizer, body, &others, &[wanted]);
    }
}

#[test]
fn dependants_that_block_are_listed_with_who_holds_them() {
    let others = [
        owned("ReplicaSet", "set", "deployments-it", ", finalizers: [example.com/slow]"),
        owned("ReplicaSet", "other", "deployments-other", ""),
    ];
    check(
        "Deployment",
        "foregroundDeletion",
        "",
        &others.concat(),
        &[
            "1 dependant blocking its deletion: replicasets/set",
            "replicasets/set has finalizers example.com/slow",
        ],
    );
    check("Deployment", "foregroundDeletion", "", "", &["nothing is left blocking its deletion"]);
    check("Deployment", "orphan", "", &others[0], &["1 dependant naming it as their owner"]);
}

#[test]
fn a_foreign_finalizer_leads_to_workloads_that_may_be_its_controller() {
    let controller = "kind: Deployment\nmetadata: {name: widget-operator, namespace: acme-system}\n\
                      spec: {replicas: 1}\nstatus: {readyReplicas: 0}\n";
    check(
        "ConfigMap",
        "widgets.acme.io/cleanup",
        "",
        controller,
        &[
            "finalizer widgets.acme.io/cleanup: nothing built in removes it; 1 workload may be its controller",
            "deployments/widget-operator in acme-system: 0 of 1 pods ready",
        ],
    );
    check(
        "ConfigMap",
        "widgets.acme.io/cleanup",
        "",
        "",
        &["no workload of this cluster looks like its controller"],
    );
}

#[test]
fn a_pod_goes_when_its_node_says_so() {
    let begun = GOING.replace("Seconds: 0", "Seconds: 30");
    let going = running("p", "1", "a", "p").replace("{name: p,", &format!("{{name: p, {begun},"));
    let text = [node("a", "2", "4Gi"), going.clone()].concat();
    has(
        &findings(&explain(&cluster(&text), "Pod", "p")).join("\n"),
        &["node a has not confirmed its end; its time to end is over"],
    );
    let lost =
        text.replace("type: Ready, status: 'True'}]\n---", "type: Ready, status: Unknown}]\n---");
    has(
        &findings(&explain(&cluster(&lost), "Pod", "p")).join("\n"),
        &["node a is not ready; its agent has to say that the pod's containers have ended"],
    );
    has(&findings(&explain(&cluster(&going), "Pod", "p")).join("\n"), &["node a does not exist"]);
    // What the node had to say is said.
    let over = lost.replace("Seconds: 30", "Seconds: 0, finalizers: [example.com/slow]");
    let over = explain(&cluster(&over), "Pod", "p");
    let told = findings(&over);
    assert!(told.len() == 1 && told[0].contains("example.com/slow"), "{told:?}");
}

#[test]
fn a_namespace_says_what_is_left_and_which_api_is_down() {
    let text = format!(
        "kind: Namespace\nmetadata: {{name: gone, {GOING}}}\nspec: {{finalizers: [kubernetes]}}\n\
         status: {{phase: Terminating, conditions: [{{type: NamespaceDeletionDiscoveryFailure, status: 'True', \
         reason: DiscoveryFailed, message: no answer}}]}}\n---\n\
         kind: ConfigMap\nmetadata: {{name: plain, namespace: gone}}\n---\n\
         kind: Widget\nmetadata: {{name: w, namespace: gone, finalizers: [example.com/slow]}}\n---\n\
         kind: APIService\nmetadata: {{name: v1.metrics.example.com}}\n\
         status: {{conditions: [{{type: Available, status: 'False', reason: MissingEndpoints, message: none}}]}}\n"
    );
    let explanation = explain(&cluster(&text), "Namespace", "gone");
    let all = findings(&explanation);
    has(
        &all.join("\n"),
        &[
            "APIServiceUnavailable apiservices/v1.metrics.example.com",
            "NamespaceDeletionDiscoveryFailure: DiscoveryFailed: no answer",
            "1 widgets.example.com left, 1 with finalizers: w",
            "widgets/w has finalizers example.com/slow",
            "1 configmaps left: plain",
        ],
    );
    let empty = format!(
        "kind: Namespace\nmetadata: {{name: gone, {GOING}}}\nspec: {{finalizers: [kubernetes, example.com/own]}}\n"
    );
    has(
        &findings(&explain(&cluster(&empty), "Namespace", "gone")).join("\n"),
        &[
            "nothing is left in it",
            "spec.finalizers has example.com/own: nothing built in removes it",
        ],
    );
}

#[test]
fn what_is_not_being_deleted_tells_its_conditions() {
    let text = "kind: Widget\nmetadata: {name: w}\nstatus: {conditions: [{type: Synced, status: 'False', reason: R, message: m}]}\n";
    let explanation = explain(&cluster(text), "Widget", "w");
    assert_eq!(findings(&explanation), ["Condition  condition Synced is False: R m"]);
    assert_eq!(explanation["state"].as_str(), Some("NotReady"));
    // Some are well when they are false.
    let text = "kind: Widget\nmetadata: {name: w}\nstatus: {conditions: [{type: MemoryPressure, status: 'False'}, \
                {type: DiskPressure, status: 'True', reason: R, message: m}, {type: Ready, status: 'True'}]}\n";
    let explanation = explain(&cluster(text), "Widget", "w");
    assert_eq!(findings(&explanation), ["Condition  condition DiskPressure is True: R m"]);
}

#[test]
fn a_claim_that_names_its_volume_tells_what_is_with_that() {
    let claim = "kind: PersistentVolumeClaim\nmetadata: {name: c, uid: u}\nspec: {volumeName: v}\nstatus: {phase: Pending}\n";
    let check = |volume: &str, wanted: &str| {
        let text = format!("{claim}---\nkind: PersistentVolume\nmetadata: {{name: {volume}}}\n");
        has(
            &findings(&explain(&cluster(&text), "PersistentVolumeClaim", "c")).join("\n"),
            &[wanted],
        );
    };
    check("other", "names volume v, which does not exist");
    check("v}\nspec: {claimRef: {namespace: a, name: b}", "which belongs to claim a/b");
    check("v", "names volume v: it is bound once that fits it");
}
