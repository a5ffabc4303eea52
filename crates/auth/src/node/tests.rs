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
    for (group, resource, text) in [
        (
            "storage.k8s.io",
            "volumeattachments",
            r#"{"metadata":{"name":"va1"},"spec":{"nodeName":"n1"}}"#,
        ),
        (
            "resource.k8s.io",
            "resourceslices",
            r#"{"metadata":{"name":"own"},"spec":{"nodeName":"n1"}}"#,
        ),
        (
            "resource.k8s.io",
            "resourceslices",
            r#"{"metadata":{"name":"theirs"},"spec":{"nodeName":"n2"}}"#,
        ),
        ("resource.k8s.io", "resourceslices", r#"{"metadata":{"name":"all"},"spec":{}}"#),
        (
            "certificates.k8s.io",
            "podcertificaterequests",
            r#"{"metadata":{"name":"own","namespace":"ns"},"spec":{"nodeName":"n1"}}"#,
        ),
        (
            "certificates.k8s.io",
            "podcertificaterequests",
            r#"{"metadata":{"name":"theirs","namespace":"ns"},"spec":{"nodeName":"n2"}}"#,
        ),
    ] {
        put(&objects, group, resource, text);
    }
    objects
}

/// `asked` is `verb group/resource/subresource namespace name`, with `-` for empty parts.
fn check(asked: &str, expected: Result<(), &str>) {
    let rule = Rule::of(
        &json::parse(br#"{"verbs":["get"],"apiGroups":[""],"resources":["services"]}"#).unwrap(),
    );
    let authorizer = NodeAuthorizer::new(Arc::new(cluster()), vec![rule], Metrics::default());
    check_of(&authorizer, asked, expected);
}

fn check_of(authorizer: &NodeAuthorizer, asked: &str, expected: Result<(), &str>) {
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
    check(
        "get -/persistentvolumeclaims/status ns data",
        Err("can only get/update/patch this type"),
    );
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
        Err("can only create token subresource of serviceaccount"),
    );
    check("get -/serviceaccounts ns robot", Ok(()));
    check("get -/serviceaccounts ns default", UNRELATED);
    check(
        "list -/serviceaccounts ns robot",
        Err("can only create tokens for individual service accounts"),
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
    check("list -/pods - - spec.nodeName!=n1", all);
    check("list -/pods - - metadata.name=web,spec.nodeName=n1", Ok(()));
    check("list -/pods - - metadata.namespace=spec.nodeName=n1", all);
    check("watch -/pods ns web", Ok(()));
    check("watch -/pods ns other", UNRELATED);
    check("update -/pods ns web", Err(""));
    check("patch -/pods/ephemeralcontainers ns web", Err(""));
    check("create -/pods/exec ns web", Err(""));
    check("get -/pods ns web", Ok(()));
    check("get -/pods ns other", UNRELATED);
}

#[test]
fn a_node_s_slices_and_requests_are_those_that_name_it() {
    let slices = "resource.k8s.io/resourceslices";
    check(&format!("create {slices} - -"), Ok(()));
    for verb in ["get", "update", "patch", "delete"] {
        check(&format!("{verb} {slices} - own"), Ok(()));
        check(&format!("{verb} {slices} - theirs"), UNRELATED);
        check(&format!("{verb} {slices} - all"), UNRELATED);
    }
    let why = "can only list/watch/deletecollection resourceslices with nodeName field selector";
    for verb in ["list", "watch", "deletecollection"] {
        check(&format!("{verb} {slices} - - spec.nodeName=n1"), Ok(()));
        check(&format!("{verb} {slices} - - spec.nodeName=n2"), Err(why));
        check(&format!("{verb} {slices} - -"), Err(why));
    }
    let subresource = Err("cannot authorize ResourceSlice subresources");
    check(&format!("get {slices}/status - own"), subresource);
    let requests = "certificates.k8s.io/podcertificaterequests";
    check(&format!("create {requests} ns -"), Ok(()));
    check(&format!("get {requests} ns own"), Ok(()));
    check(&format!("get {requests} ns theirs"), UNRELATED);
    check(&format!("get {requests} elsewhere own"), UNRELATED);
    check(&format!("list {requests} - - spec.nodeName=n1"), Ok(()));
    let why = "can only list/watch podcertificaterequests with nodeName field selector";
    check(&format!("watch {requests} - -"), Err(why));
    let why = "nodes may not delete podcertificaterequests";
    check(&format!("delete {requests} ns own"), Err(why));
    let why = "nodes may not access the status subresource of PodCertificateRequests";
    check(&format!("update {requests}/status ns own"), Err(why));
    check("watch certificates.k8s.io/clustertrustbundles - -", Ok(()));
    check("update certificates.k8s.io/clustertrustbundles - x", Err(""));
}

#[test]
fn a_mirror_pod_gives_its_node_nothing() {
    let pod = |annotations: &str| {
        let mut pod: Value = json::parse(POD.as_bytes()).unwrap();
        let annotations: Value = json::parse(annotations.as_bytes()).unwrap();
        pod.set_at(&["metadata", "annotations"], annotations);
        pod.set_at(
            &["spec", "resourceClaims"],
            json::parse(br#"[{"name":"a","resourceClaimName":"gpu"}]"#).unwrap(),
        );
        json::to_string(&pod)
    };
    for (annotations, expected) in
        [("{}", Ok(())), (r#"{"kubernetes.io/config.mirror":""}"#, UNRELATED)]
    {
        let objects = cluster();
        put(&objects, "", "pods", &pod(annotations));
        let authorizer = NodeAuthorizer::new(Arc::new(objects), Vec::new(), Metrics::default());
        for asked in [
            "get -/secrets ns pull",
            "get -/secrets ns all",
            "get -/secrets ns mounted",
            "get -/secrets vault stage",
            "get -/configmaps ns one",
            "get -/persistentvolumeclaims ns data",
            "get -/persistentvolumes - pv1",
            "create -/serviceaccounts/token ns robot",
            "get resource.k8s.io/resourceclaims ns gpu",
        ] {
            check_of(&authorizer, asked, expected);
        }
        check_of(&authorizer, "get -/pods ns web", Ok(()));
    }
}

/// `volume` is the spec of pv1, which the claim of a pod of n1 names.
fn check_volume(volume: &str, asked: &str, expected: Result<(), &str>) {
    let objects = cluster();
    let text = format!(r#"{{"metadata":{{"name":"pv1"}},"spec":{volume}}}"#);
    put(&objects, "", "persistentvolumes", &text);
    let authorizer = NodeAuthorizer::new(Arc::new(objects), Vec::new(), Metrics::default());
    check_of(&authorizer, asked, expected);
}

#[test]
fn a_volume_s_secrets_are_for_nodes_of_its_claim() {
    let stage = |claim: &str| {
        format!(r#"{{{claim}"csi":{{"nodeStageSecretRef":{{"namespace":"v","name":"s"}}}}}}"#)
    };
    let own = r#""claimRef":{"namespace":"ns","name":"data"},"#;
    check_volume(&stage(own), "get -/secrets v s", Ok(()));
    let others = r#""claimRef":{"namespace":"other","name":"data"},"#;
    for claim in ["", others, r#""claimRef":{"namespace":"ns","name":"theirs"},"#] {
        check_volume(&stage(claim), "get -/secrets v s", UNRELATED);
        check_volume(&stage(claim), "get -/persistentvolumes - pv1", UNRELATED);
    }
    let source = |source: &str| format!("{{{own}{source}}}");
    for (member, expected) in [
        ("nodePublishSecretRef", Ok(())),
        ("nodeExpandSecretRef", Ok(())),
        ("controllerPublishSecretRef", UNRELATED),
        ("controllerExpandSecretRef", UNRELATED),
    ] {
        let csi = format!(r#""csi":{{"{member}":{{"namespace":"v","name":"s"}}}}"#);
        check_volume(&source(&csi), "get -/secrets v s", expected);
    }
    for name in ["cephfs", "flexVolume", "rbd", "scaleIO", "iscsi"] {
        let it = format!(r#""{name}":{{"secretRef":{{"name":"s"}}}}"#);
        check_volume(&source(&it), "get -/secrets ns s", Ok(()));
        let it = format!(r#""{name}":{{"secretRef":{{"name":"s","namespace":"v"}}}}"#);
        check_volume(&source(&it), "get -/secrets ns s", UNRELATED);
        check_volume(&source(&it), "get -/secrets v s", Ok(()));
    }
    for name in ["cinder", "storageos"] {
        let it = format!(r#""{name}":{{"secretRef":{{"name":"s"}}}}"#);
        check_volume(&source(&it), "get -/secrets ns s", UNRELATED);
        let it = format!(r#""{name}":{{"secretRef":{{"name":"s","namespace":"v"}}}}"#);
        check_volume(&source(&it), "get -/secrets v s", Ok(()));
    }
    let azure = r#""azureFile":{"secretName":"s"}"#;
    check_volume(&source(azure), "get -/secrets ns s", Ok(()));
    let azure = r#""azureFile":{"secretName":"s","secretNamespace":"v"}"#;
    check_volume(&source(azure), "get -/secrets v s", Ok(()));
    check_volume(&source(azure), "get -/secrets ns s", UNRELATED);
}

#[test]
fn what_a_pod_needs_follows_it() {
    let objects = cluster();
    let authorizer = NodeAuthorizer::new(Arc::new(objects.clone()), Vec::new(), Metrics::default());
    let pod = |rest: &str| {
        format!(r#"{{"metadata":{{"name":"late","namespace":"ns","uid":"u"}},"spec":{{{rest}}}"#)
    };
    let asked = "get resource.k8s.io/resourceclaims ns made";
    put(&objects, "", "pods", &pod("}"));
    check_of(&authorizer, "get -/pods ns late", UNRELATED);
    let claims =
        r#""nodeName":"n1","resourceClaims":[{"name":"a","resourceClaimTemplateName":"t"}]}"#;
    put(&objects, "", "pods", &pod(claims));
    check_of(&authorizer, "get -/pods ns late", Ok(()));
    check_of(&authorizer, asked, UNRELATED);
    let status = r#","status":{"resourceClaimStatuses":[{"name":"a","resourceClaimName":"made"}]}"#;
    put(&objects, "", "pods", &pod(&format!("{claims}{status}")));
    check_of(&authorizer, asked, Ok(()));
    let again = pod(r#""nodeName":"n2"}"#).replace(r#""u""#, r#""v""#);
    put(&objects, "", "pods", &again);
    check_of(&authorizer, "get -/pods ns late", UNRELATED);
    objects.delete("", "pods", "ns", "web");
    check_of(&authorizer, "get -/secrets ns mounted", UNRELATED);
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
