//! Changes of objects.

use apimachinery::{Value, json};
use registry::Part;

use super::{prepared, words};

/// Checks that a change (members to set, by path) is told what is wrong with it.
fn check(object: &str, path: &[&str], to: &str, expected: &[&str]) {
    let (resource, _, old) = prepared(object);
    let mut value = old.clone();
    value.set_at(path, json::parse(to.as_bytes()).unwrap());
    resource.prepare_update(Part::Main, &mut value, &old);
    let errors = resource.validate_update(Part::Main, &value, &old);
    assert_eq!(words(&errors), expected.join("\n"), "for {path:?} of {object}");
}

#[test]
fn what_may_not_change() {
    check(
        r#"{"kind":"ClusterRoleBinding","apiVersion":"rbac.authorization.k8s.io/v1","roleRef":{"kind":"ClusterRole","name":"r"}}"#,
        &["roleRef", "name"],
        "\"other\"",
        &[
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"other\"}: cannot change roleRef",
        ],
    );
    check(
        r#"{"kind":"PriorityClass","apiVersion":"scheduling.k8s.io/v1","value":1}"#,
        &["value"],
        "2",
        &["value: Forbidden: may not be changed in an update."],
    );
    check(
        r#"{"kind":"StorageClass","apiVersion":"storage.k8s.io/v1","provisioner":"p.example/x"}"#,
        &["parameters"],
        r#"{"a":"b"}"#,
        &["parameters: Forbidden: updates to parameters are forbidden."],
    );
    check(
        r#"{"kind":"PersistentVolumeClaim","apiVersion":"v1","spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"2"}}}}"#,
        &["spec", "accessModes"],
        r#"["ReadOnlyMany"]"#,
        &[
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n@@ -1,6 +1,6 @@\n {\n  \"AccessModes\": [\n-  \"ReadWriteOnce\"\n+  \"ReadOnlyMany\"\n  ],\n  \"Selector\": null,\n  \"Resources\": {\n",
        ],
    );
    check(
        r#"{"kind":"ServiceCIDR","apiVersion":"networking.k8s.io/v1","spec":{"cidrs":["10.0.0.0/24"]}}"#,
        &["spec", "cidrs"],
        r#"["10.0.0.0/2x"]"#,
        &["spec.cidrs[0]: Invalid value: \"10.0.0.0/2x\": field is immutable"],
    );
}

#[test]
fn who_knows_one_source_of_a_claim_may_leave_the_other_out() {
    let claim = r#"{"kind":"PersistentVolumeClaim","apiVersion":"v1","spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"2"}},"dataSource":{"apiGroup":"snapshot.storage.k8s.io","kind":"VolumeSnapshot","name":"s"}}}"#;
    check(claim, &["spec", "dataSourceRef"], "null", &[]);
    check(claim, &["spec", "dataSource"], "null", &[]);
}

#[test]
fn a_driver_of_a_node_may_take_more_volumes_and_is_the_same_else() {
    let node = r#"{"kind":"CSINode","apiVersion":"storage.k8s.io/v1","spec":{"drivers":[{"name":"d","nodeID":"n","topologyKeys":["z"]}]}}"#;
    let driver = |more: &str| format!(r#"[{{"name":"d","topologyKeys":["z"],{more}}}]"#);
    let path = ["spec", "drivers"];
    check(node, &path, &driver(r#""nodeID":"n","allocatable":{"count":5}"#), &[]);
    check(
        node,
        &path,
        &driver(r#""nodeID":"m","allocatable":{"count":5}"#),
        &[
            "spec.drivers: Invalid value: {\"Name\":\"d\",\"NodeID\":\"m\",\"TopologyKeys\":[\"z\"],\"Allocatable\":null}: field is immutable",
        ],
    );
}

#[test]
fn a_service_keeps_what_it_was_given() {
    let service = r#"{"kind":"Service","apiVersion":"v1","spec":{"type":"NodePort","clusterIP":"10.96.0.9","clusterIPs":["10.96.0.9"],"ports":[{"port":80,"nodePort":30080}]}}"#;
    let (resource, served, old) = prepared(service);
    let change = |change: fn(&mut Value)| {
        let mut value = old.clone();
        change(&mut value);
        resource.default(&served, &mut value);
        resource.prepare_update(Part::Main, &mut value, &old);
        value
    };
    let emptied = change(|it| {
        it.remove_at(&["spec", "clusterIP"]);
        it.remove_at(&["spec", "clusterIPs"]);
        it.set_at(&["spec", "ports"], json::parse(b"[{\"port\":81}]").unwrap());
    });
    assert_eq!(emptied.str_at(&["spec", "clusterIP"]), "10.96.0.9");
    assert_eq!(emptied.items_at(&["spec", "ports"])[0].i64_at(&["nodePort"]), Some(30080));
    let turned = change(|it| it.set_at(&["spec", "type"], "ClusterIP"));
    assert!(turned.at(&["spec", "externalTrafficPolicy"]).is_none());
    assert!(turned.items_at(&["spec", "ports"])[0].get("nodePort").is_none());
    assert_eq!(words(&resource.validate_update(Part::Main, &turned, &old)), "");
}

/// How often upstream says of a changed object that a label is wrong and that a finalizer comes too late: more than once,
/// where the kind's own checks look at the metadata again.
#[test]
fn metadata_is_checked_as_often_as_upstream_checks_it() {
    let rows = [
        ("PodDisruptionBudget policy/v1", 2, 1),
        ("LimitRange v1", 3, 1),
        ("EndpointSlice discovery.k8s.io/v1", 3, 1),
        ("PriorityLevelConfiguration flowcontrol.apiserver.k8s.io/v1", 3, 1),
        ("ValidatingWebhookConfiguration admissionregistration.k8s.io/v1", 3, 1),
        ("MutatingWebhookConfiguration admissionregistration.k8s.io/v1", 3, 1),
        ("PodTemplate v1", 3, 2),
        ("StatefulSet apps/v1", 3, 2),
        ("CSIDriver storage.k8s.io/v1", 3, 2),
        ("PriorityClass scheduling.k8s.io/v1", 3, 2),
        ("PersistentVolume v1", 4, 1),
        ("Role rbac.authorization.k8s.io/v1", 4, 2),
    ];
    for (kind, labels, finalizers) in rows {
        let (kind, version) = kind.split_once(' ').unwrap();
        let (resource, _, mut old) =
            prepared(&format!(r#"{{"kind":"{kind}","apiVersion":"{version}"}}"#));
        old.set_at(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        let mut value = old.clone();
        value.set_at(&["metadata", "labels"], json::parse(br#"{"a":"x y"}"#).unwrap());
        value.set_at(&["metadata", "finalizers"], json::parse(br#"["x.example/f"]"#).unwrap());
        let errors = words(&resource.validate_update(Part::Main, &value, &old));
        let told = |field: &str| errors.lines().filter(|it| it.starts_with(field)).count();
        let counted = (told("metadata.labels:"), told("metadata.finalizers:"));
        assert_eq!(counted, (labels, finalizers), "of {kind}: {errors}");
    }
}

#[test]
fn a_stateful_set_may_keep_what_it_cannot_change() {
    let set = |name: &str, container: &str| {
        format!(
            r#"{{"kind":"StatefulSet","apiVersion":"apps/v1","spec":{{"serviceName":"{name}","selector":{{"matchLabels":{{"a":"b"}}}},"template":{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{{"name":"{container}","image":"i"}}]}}}}}}}}"#
        )
    };
    check(&set("Not Valid!", "c"), &["spec", "replicas"], "3", &[]);
    // The template of one that was wrong is let be, labels excepted; of one that was right it is not.
    check(&set("s", "Not Valid!"), &["spec", "replicas"], "3", &[]);
    check(
        &set("s", "c"),
        &["spec", "template", "spec", "containers"],
        "[]",
        &["spec.template.spec.containers: Required value"],
    );
    check(
        &set("s", "c"),
        &["spec", "serviceName"],
        "\"Not Valid!\"",
        &[
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ],
    );
}
