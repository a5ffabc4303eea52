//! What a node may and may not.

use apimachinery::json;

use super::*;
use crate::fixed::FixedObjects;

fn put(objects: &FixedObjects, group: &str, resource: &str, text: &str) {
    let mut value: Value = json::parse(text.as_bytes()).unwrap();
    value.set_at(&["kind"], "Any");
    value.set_at(&["apiVersion"], "v1");
    objects.put(group, resource, &value);
}

const POD: &str = r#"{"metadata":{"name":"web","namespace":"ns"},"spec":{"nodeName":"n1","serviceAccountName":"robot",
    "imagePullSecrets":[{"name":"pull"}],
    "containers":[{"name":"c","envFrom":[{"secretRef":{"name":"all"}}],"env":[{"name":"E","valueFrom":{"configMapKeyRef":{"name":"one","key":"k"}}}]}],
    "volumes":[{"name":"s","secret":{"secretName":"mounted"}},{"name":"d","persistentVolumeClaim":{"claimName":"data"}},
    {"name":"scratch","ephemeral":{"volumeClaimTemplate":{}}},
    {"name":"p","projected":{"sources":[{"secret":{"name":"projected"}},{"configMap":{"name":"kube-root-ca.crt"}}]}}]}}"#;

fn cluster() -> FixedObjects {
    let objects = FixedObjects::default();
    put(&objects, "", "pods", POD);
    put(
        &objects,
        "",
        "pods",
        r#"{"metadata":{"name":"other","namespace":"ns"},"spec":{"nodeName":"n2","volumes":[{"name":"s","secret":{"secretName":"theirs"}}]}}"#,
    );
    put(
        &objects,
        "",
        "persistentvolumeclaims",
        r#"{"metadata":{"name":"data","namespace":"ns"},"spec":{"volumeName":"pv1"}}"#,
    );
    put(
        &objects,
        "",
        "persistentvolumes",
        r#"{"metadata":{"name":"pv1"},"spec":{"claimRef":{"namespace":"ns","name":"data"},"csi":{"nodeStageSecretRef":{"namespace":"vault","name":"stage"}}}}"#,
    );
    put(
        &objects,
        "storage.k8s.io",
        "volumeattachments",
        r#"{"metadata":{"name":"va1"},"spec":{"nodeName":"n1"}}"#,
    );
    objects
}

/// `asked` is `verb group/resource/subresource namespace name`, with `-` for empty parts.
fn check(asked: &str, expected: Result<(), &str>) {
    let rule = Rule::of(
        &json::parse(br#"{"verbs":["get"],"apiGroups":[""],"resources":["services"]}"#).unwrap(),
    );
    let authorizer = NodeAuthorizer::new(Arc::new(cluster()), vec![rule], Metrics::default());
    let user = UserInfo::node("n1");
    let parts: Vec<&str> = asked.split(' ').map(|it| if it == "-" { "" } else { it }).collect();
    let resource: Vec<&str> =
        parts[1].split('/').map(|it| if it == "-" { "" } else { it }).collect();
    let attributes = Attributes {
        verb: parts[0],
        group: resource[0],
        resource: resource[1],
        subresource: resource.get(2).copied().unwrap_or_default(),
        namespace: parts[2],
        name: parts[3],
        field_selector: parts.get(4).copied().unwrap_or_default(),
        ..Attributes::of(&user)
    };
    let expected = match expected {
        Ok(()) => Decision::Allow(String::new()),
        Err(reason) => Decision::NoOpinion(reason.into()),
    };
    assert_eq!(authorizer.decide(&attributes), Some(expected), "{asked}");
}

const UNRELATED: Result<(), &str> = Err("no relationship found between node 'n1' and this object");

#[test]
fn a_node_reads_what_its_pods_need() {
    for secret in ["pull", "all", "mounted", "projected"] {
        check(&format!("get -/secrets ns {secret}"), Ok(()));
    }
    check("get -/secrets ns theirs", UNRELATED);
    check("get -/secrets elsewhere mounted", UNRELATED);
    check("list -/secrets ns mounted", Ok(()));
    check("list -/secrets ns -", Err("No Object name found"));
    check("update -/secrets ns mounted", Err("can only read resources of this type"));
    check("list -/secrets - -", Err("can only read namespaced object of this type"));
    check("get -/configmaps ns one", Ok(()));
    check("get -/configmaps ns kube-root-ca.crt", Ok(()));
    check("get -/configmaps ns other", UNRELATED);
    check("get -/persistentvolumeclaims ns data", Ok(()));
    check("get -/persistentvolumeclaims ns web-scratch", Ok(()));
    check("patch -/persistentvolumeclaims/status ns data", Ok(()));
    check("get -/persistentvolumes - pv1", Ok(()));
    check("get -/persistentvolumes - pv2", UNRELATED);
    check("get -/secrets vault stage", Ok(()));
    check("get storage.k8s.io/volumeattachments - va1", Ok(()));
    check("get storage.k8s.io/volumeattachments - va2", UNRELATED);
    check("get -/services ns any", Ok(()));
    check("get -/endpoints ns any", Err(""));
}

#[test]
fn a_node_makes_tokens_for_its_pods_accounts_only() {
    check("create -/serviceaccounts/token ns robot", Ok(()));
    check("create -/serviceaccounts/token ns default", UNRELATED);
    check(
        "create -/serviceaccounts ns robot",
        Err("can only create token subresource of service account"),
    );
}

#[test]
fn a_node_has_its_own_objects() {
    check("get -/nodes - n1", Ok(()));
    check("get -/nodes - n2", Err("node 'n1' cannot read 'n2', only its own Node object"));
    check("list -/nodes - -", Err("node 'n1' cannot read all nodes, only its own Node object"));
    check("patch -/nodes/status - n1", Ok(()));
    check("delete -/nodes - n1", Err(""));
    check("update coordination.k8s.io/leases kube-node-lease n1", Ok(()));
    check(
        "update coordination.k8s.io/leases kube-node-lease n2",
        Err("can only access node lease with the same name as the requesting node"),
    );
    check(
        "get coordination.k8s.io/leases ns n1",
        Err("can only access leases in the \"kube-node-lease\" system namespace"),
    );
    check("get storage.k8s.io/csinodes - n1", Ok(()));
    check(
        "get storage.k8s.io/csinodes - n2",
        Err("can only access CSINode with the same name as the requesting node"),
    );
    check("list -/pods - - spec.nodeName=n1", Ok(()));
    let all = Err("can only list/watch pods with spec.nodeName field selector");
    check("list -/pods - - spec.nodeName=n2", all);
    check("list -/pods - -", all);
    check("get -/pods ns web", Ok(()));
    check("get -/pods ns other", UNRELATED);
}

#[test]
fn others_are_none_of_its_business() {
    let authorizer = NodeAuthorizer::new(Arc::new(cluster()), Vec::new(), Metrics::default());
    for user in [UserInfo::new("system:node:n1", &[]), UserInfo::new("jane", &["system:nodes"])] {
        let attributes = Attributes {
            verb: "get",
            resource: "secrets",
            namespace: "ns",
            name: "mounted",
            ..Attributes::of(&user)
        };
        assert_eq!(authorizer.decide(&attributes), Some(Decision::NoOpinion(String::new())));
    }
}
