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
