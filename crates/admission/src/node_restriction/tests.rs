//! Every branch of what a node may write, each with upstream's words.

use apimachinery::{json, value};
use auth::UserInfo;
use auth::always::AlwaysDeny;
use auth::fixed::FixedObjects;

use super::*;
use crate::tests::{Case, Fixed};

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes()).unwrap()
}

/// Node n1 (uid `nu`) with pod `mine` (uid `u`, whose account is `robot`, uid `ru`), node n2 with pod `theirs` (uid `v`).
fn cluster() -> FixedObjects {
    let objects = FixedObjects::default();
    for (group, resource, text) in [
        ("", "nodes", r#"{"metadata":{"name":"n1","uid":"nu"}}"#),
        ("", "serviceaccounts", r#"{"metadata":{"name":"robot","namespace":"ns","uid":"ru"}}"#),
        (
            "",
            "pods",
            r#"{"metadata":{"name":"mine","namespace":"ns","uid":"u"},"spec":{"nodeName":"n1","serviceAccountName":"robot",
                "volumes":[{"name":"token","projected":{"sources":[{"serviceAccountToken":{"path":"t"}},{"serviceAccountToken":{"audience":"vault"}},{"podCertificate":{"signerName":"example.com/own"}}]}}]}}"#,
        ),
        (
            "",
            "pods",
            r#"{"metadata":{"name":"theirs","namespace":"ns","uid":"v"},"spec":{"nodeName":"n2","serviceAccountName":"robot"}}"#,
        ),
        (
            "",
            "pods",
            r#"{"metadata":{"name":"mirror","namespace":"ns","uid":"w","annotations":{"kubernetes.io/config.mirror":""}},"spec":{"nodeName":"n1"}}"#,
        ),
        (
            "storage.k8s.io",
            "csidrivers",
            r#"{"metadata":{"name":"file.csi.azure.com"},"spec":{"tokenRequests":[{"audience":"azure"}]}}"#,
        ),
        (
            "",
            "persistentvolumeclaims",
            r#"{"metadata":{"name":"data","namespace":"ns"},"spec":{"volumeName":"pv"}}"#,
        ),
        (
            "",
            "persistentvolumeclaims",
            r#"{"metadata":{"name":"volumes-scratch","namespace":"ns"},"spec":{"volumeName":"pv"}}"#,
        ),
        (
            "",
            "persistentvolumes",
            r#"{"metadata":{"name":"pv"},"spec":{"azureFile":{"secretName":"s"}}}"#,
        ),
    ] {
        put(&objects, group, resource, parse(text));
    }
    objects
}

fn put(objects: &FixedObjects, group: &str, resource: &str, mut value: Value) {
    value.set_at(&["kind"], "Any");
    value.set_at(&["apiVersion"], "v1");
    objects.put(group, resource, &value);
}

/// What n1 is told of a write; empty where it may.
async fn tell(operation: Operation, path: &str, object: Value, old: Option<Value>) -> String {
    tell_of(&cluster(), Arc::new(AlwaysDeny), (operation, path), (object, old)).await
}

async fn tell_of(
    objects: &FixedObjects,
    authorizer: Arc<dyn Authorizer>,
    (operation, path): (Operation, &str),
    (object, old): (Value, Option<Value>),
) -> String {
    let plugin = NodeRestriction::new(Arc::new(Fixed(objects.clone())), authorizer);
    let node = UserInfo::node("n1");
    let mut case = Case::new(operation, path, object);
    case.old = old;
    let mut attributes = case.attributes(&node);
    if path.starts_with("leases") && operation == Operation::Delete {
        attributes.namespace = LEASES;
    }
    assert!(plugin.handles(&attributes));
    let Err(status) = plugin.mutate(&mut attributes).await else { return String::new() };
    let (_, why) = status.message.split_once(" is forbidden: ").unwrap_or(("", &status.message));
    assert_eq!(status.code == 403, status.message.contains(" is forbidden: "), "{status:?}");
    why.to_owned()
}

#[tokio::test]
async fn a_node_registers_and_changes_only_itself() {
    let create = async |object: &str, expected: &str| {
        assert_eq!(tell(Operation::Create, "nodes", parse(object), None).await, expected);
    };
    create(r#"{"metadata":{"name":"n2"}}"#, r#"node "n1" is not allowed to modify node "n2""#)
        .await;
    let why = r#"node "n1" is not allowed to create pods with a non-nil configSource"#;
    create(r#"{"metadata":{"name":"n1"},"spec":{"configSource":{}}}"#, why).await;
    for (label, allowed) in [
        ("kubernetes.io/os", true),
        ("topology.kubernetes.io/zone", true),
        ("failure-domain.beta.kubernetes.io/zone", true),
        ("node.kubernetes.io/windows-build", true),
        ("x.kubelet.kubernetes.io/y", true),
        ("example.com/x", true),
        ("x", true),
        ("failure-domain.kubernetes.io/zone", false),
        ("node-role.kubernetes.io/master", false),
        ("node-restriction.kubernetes.io/x", false),
        ("a.node-restriction.kubernetes.io/x", false),
        ("k8s.io/x", false),
        ("x.k8s.io/x", false),
    ] {
        let labelled = |value: &str| {
            let mut node = value!({"metadata": {"name": "n1"}});
            node.set_at(&["metadata", "labels", label], value);
            node
        };
        let why = if allowed {
            String::new()
        } else {
            format!(r#"node "n1" is not allowed to set the following labels: {label}"#)
        };
        assert_eq!(tell(Operation::Create, "nodes", labelled(""), None).await, why, "{label}");
        let why = if allowed {
            String::new()
        } else {
            format!("is not allowed to modify labels: {label}")
        };
        for path in ["nodes", "nodes/status"] {
            let old = Some(labelled("old"));
            let told = tell(Operation::Update, path, labelled("new"), old).await;
            assert_eq!(told, why, "{path} {label}");
        }
    }
}

#[tokio::test]
async fn a_node_changes_neither_taints_nor_owners() {
    let node = |rest: &str| parse(&format!(r#"{{"metadata":{{"name":"n1"{rest}}}"#));
    let plain = || node("}");
    let owned = || node(r#","ownerReferences":[{"kind":"Node","name":"nobody","uid":"1"}]}"#);
    let tainted = || node(r#"},"spec":{"taints":[{"key":"a"}]}"#);
    let configured = || node(r#"},"spec":{"configSource":{"configMap":{"name":"x"}}}"#);
    for (old, now, expected) in [
        (plain(), plain(), ""),
        (plain(), node(r#","ownerReferences":[]},"spec":{"taints":[]}"#), ""),
        (plain(), tainted(), "modify taints"),
        (tainted(), plain(), "modify taints"),
        (plain(), owned(), "modify ownerReferences"),
        (owned(), plain(), "modify ownerReferences"),
        (owned(), owned(), ""),
        (plain(), configured(), "update configSource to a new non-nil configSource"),
        (configured(), plain(), ""),
    ] {
        let told = tell(Operation::Update, "nodes", now.clone(), Some(old)).await;
        let expected = match expected {
            "" => String::new(),
            what => format!(r#"node "n1" is not allowed to {what}"#),
        };
        assert_eq!(told, expected, "{now:?}");
    }
}

/// A mirror pod that n1 may make, with `change` made to it.
fn mirror(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = parse(
        r#"{"metadata":{"name":"p","annotations":{"kubernetes.io/config.mirror":"h"},
        "ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"nu","controller":true}]},
        "spec":{"nodeName":"n1","containers":[{"name":"c"}],"volumes":[{"name":"h","hostPath":{"path":"/"}},{"name":"e","emptyDir":{}},
        {"name":"p","projected":{"sources":[{"downwardAPI":{}}]}}]}}"#,
    );
    change(&mut pod);
    pod
}

async fn check_mirror(change: impl FnOnce(&mut Value), expected: &str) {
    let pod = mirror(change);
    assert_eq!(tell(Operation::Create, "pods", pod.clone(), None).await, expected, "{pod:?}");
}

#[tokio::test]
async fn a_mirror_pod_is_its_node_s() {
    check_mirror(|_| {}, "").await;
    let why = r#"pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods"#;
    check_mirror(|it| drop(it.remove_at(&["metadata", "annotations"])), why).await;
    let why = r#"node "n1" can only create pods with spec.nodeName set to itself"#;
    check_mirror(|it| it.set_at(&["spec", "nodeName"], "n2"), why).await;
    let owners = |it: &mut Value, owners: Vec<Value>| {
        it.set_at(&["metadata", "ownerReferences"], owners);
    };
    let own = || value!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "nu", "controller": true});
    let only = |what: &str| format!(r#"node "n1" can only create pods with {what} set to itself"#);
    check_mirror(|it| owners(it, vec![]), &only("an owner reference")).await;
    check_mirror(|it| owners(it, vec![own(), own()]), &only("a single owner reference")).await;
    for (member, value) in [("apiVersion", "v2"), ("kind", "Pod"), ("name", "n2")] {
        let mut other = own();
        other.set_at(&[member], value);
        check_mirror(|it| owners(it, vec![other]), &only("an owner reference")).await;
    }
    let changed = |member: &str, value: Value| {
        let mut owner = own();
        owner.set_at(&[member], value);
        move |it: &mut Value| owners(it, vec![owner])
    };
    let why = only("a controller owner reference");
    check_mirror(changed("controller", false.into()), &why).await;
    check_mirror(changed("controller", Value::Null), &why).await;
    let why = r#"node "n1" must not set blockOwnerDeletion on an owner reference"#;
    check_mirror(changed("blockOwnerDeletion", true.into()), why).await;
    check_mirror(changed("blockOwnerDeletion", false.into()), "").await;
    let why = "node n1 UID mismatch: expected old got nu";
    check_mirror(changed("uid", "old".into()), why).await;
    let objects = cluster();
    objects.delete("", "nodes", "", "n1");
    let write = (Operation::Create, "pods");
    let told = tell_of(&objects, Arc::new(AlwaysDeny), write, (mirror(|_| {}), None)).await;
    assert_eq!(told, r#"node "n1" not found"#);
}

#[tokio::test]
async fn a_mirror_pod_names_nothing() {
    let refused = |what: &str| format!(r#"node "n1" can not create pods that reference {what}"#);
    let account = |it: &mut Value| it.set_at(&["spec", "serviceAccountName"], "robot");
    check_mirror(account, &refused("serviceaccounts")).await;
    let pull = |it: &mut Value| it.set_at(&["spec", "imagePullSecrets"], value!([{"name": "s"}]));
    check_mirror(pull, &refused("secrets")).await;
    let claims = |it: &mut Value| it.set_at(&["spec", "resourceClaims"], value!([{"name": "gpu"}]));
    check_mirror(claims, &refused("resourceclaims")).await;
    for (member, what) in [
        (r#""envFrom":[{"secretRef":{"name":"s"}}]"#, "secrets"),
        (r#""env":[{"valueFrom":{"secretKeyRef":{"name":"s"}}}]"#, "secrets"),
        (r#""envFrom":[{"configMapRef":{"name":"m"}}]"#, "configmaps"),
        (r#""env":[{"valueFrom":{"configMapKeyRef":{"name":"m"}}}]"#, "configmaps"),
    ] {
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            let containers = parse(&format!("[{{{member}}}]"));
            check_mirror(|it| it.set_at(&["spec", list], containers), &refused(what)).await;
        }
    }
    for (volume, what) in [
        (r#""secret":{"secretName":"s"}"#, "secrets"),
        (r#""secret":{}"#, "secrets (via secret volumes)"),
        (r#""csi":{"driver":"d","nodePublishSecretRef":{"name":"s"}}"#, "secrets"),
        (r#""csi":{"driver":"d"}"#, "csidrivers (via CSI volumes)"),
        (r#""flexVolume":{"secretRef":{"name":"s"}}"#, "secrets"),
        (r#""azureFile":{"secretName":"s"}"#, "secrets"),
        (r#""configMap":{"name":"m"}"#, "configmaps"),
        (r#""configMap":{}"#, "configmaps (via configmap volumes)"),
        (r#""glusterfs":{}"#, "endpoints (via glusterFS volumes)"),
        (r#""persistentVolumeClaim":{"claimName":"c"}"#, "persistentvolumeclaims"),
        (r#""ephemeral":{}"#, "persistentvolumeclaims (via ephemeral volumes)"),
        (
            r#""projected":{"sources":[{"downwardAPI":{}},{"serviceAccountToken":{}}]}"#,
            "serviceaccounts (via projected volumes)",
        ),
        (r#""projected":{"sources":[{"clusterTrustBundle":{}}]}"#, "clustertrustbundles"),
        (r#""projected":{"sources":[{"podCertificate":{}}]}"#, "podcertificates"),
        (r#""projected":{"sources":[{"secret":{"name":"s"}}]}"#, "secrets"),
        (r#""projected":{"sources":[{"configMap":{"name":"m"}}]}"#, "configmaps"),
        (r#""hostPath":{},"persistentVolumeClaim":{"claimName":"c"}"#, "persistentvolumeclaims"),
    ] {
        let volumes = parse(&format!(r#"[{{"name":"v",{volume}}}]"#));
        check_mirror(|it| it.set_at(&["spec", "volumes"], volumes), &refused(what)).await;
    }
    for (volume, why) in [
        (r#""new":{}"#, r#"unknown volume type for volume  "v""#),
        (r#""projected":{"sources":[{"new":{}}]}"#, r#"unknown source for projected volume "v""#),
    ] {
        let volumes = parse(&format!(r#"[{{"name":"v",{volume}}}]"#));
        check_mirror(|it| it.set_at(&["spec", "volumes"], volumes), why).await;
    }
}

/// A pod of a node with more in it.
fn pod_of(node: &str, rest: &str) -> Value {
    parse(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{{"nodeName":"{node}"}}{rest}}}"#))
}

#[tokio::test]
async fn a_node_ends_its_pods_and_changes_none() {
    let (delete, update) = (Operation::Delete, Operation::Update);
    let only = r#"node "n1" can only delete pods with spec.nodeName set to itself"#;
    let why = r#"unexpected operation "UPDATE", node "n1" can only create and delete mirror pods"#;
    let part = |name: &str| {
        format!("unexpected pod subresource {name:?}, only 'status' and 'eviction' are allowed")
    };
    for (operation, path, node, expected) in [
        (delete, "pods", "n1", String::new()),
        (delete, "pods", "n2", only.into()),
        (delete, "pods", "", only.into()),
        (update, "pods", "n1", why.into()),
        (update, "pods/ephemeralcontainers", "n1", part("ephemeralcontainers")),
        (update, "pods/resize", "n1", part("resize")),
        (Operation::Create, "pods/binding", "n1", part("binding")),
    ] {
        let now = if operation == delete { Value::Null } else { pod_of(node, "") };
        let told = tell(operation, path, now, Some(pod_of(node, ""))).await;
        assert_eq!(told, expected, "{path} {node}");
    }
    for (name, expected) in [
        ("mine", ""),
        ("theirs", "node n1 can only evict pods with spec.nodeName set to itself"),
        ("none", r#"pod "none" not found"#),
        ("", "could not determine pod from request data"),
    ] {
        let eviction = value!({"metadata": {"name": name}});
        assert_eq!(tell(Operation::Create, "pods/eviction", eviction, None).await, expected);
    }
}

#[tokio::test]
async fn a_node_tells_of_its_pods_and_not_of_their_claims() {
    let mine = || pod_of("n1", "");
    let claims = |name: &str| {
        let status =
            r#","status":{"resourceClaimStatuses":[{"name":"a","resourceClaimName":"NAME"}]}"#;
        pod_of("n1", &status.replace("NAME", name))
    };
    let extended = r#","status":{"extendedResourceClaimStatus":{"resourceClaimName":"e"}}"#;
    let mut labelled = mine();
    labelled.set_at(&["metadata", "labels", "x"], "");
    let of_claims = "cannot update resource claim statues";
    let of_others = "can only update pod status for pods with spec.nodeName set to itself";
    for (now, old, expected) in [
        (pod_of("n1", r#","status":{"phase":"Running"}"#), mine(), ""),
        (pod_of("n2", ""), pod_of("n2", ""), of_others),
        (labelled, mine(), "cannot update labels through pod status"),
        (claims("a"), claims("a"), ""),
        (claims("b"), claims("a"), of_claims),
        (claims("a"), mine(), of_claims),
        (mine(), claims("a"), of_claims),
        (pod_of("n1", extended), mine(), "cannot update extended resource claim status"),
    ] {
        let told = tell(Operation::Update, "pods/status", now.clone(), Some(old)).await;
        let expected = match expected {
            "" => String::new(),
            why => format!(r#"node "n1" {why}"#),
        };
        assert_eq!(told, expected, "{now:?}");
    }
}

#[tokio::test]
async fn a_node_tells_of_a_claim_only_how_large_its_volume_is() {
    let claim = || {
        parse(
            r#"{"metadata":{"name":"c","resourceVersion":"1"},"spec":{"volumeName":"pv"},"status":{"phase":"Bound"}}"#,
        )
    };
    for (path, value, different) in [
        (vec!["status", "capacity"], value!({"storage": "2Gi"}), ""),
        (vec!["status", "conditions"], value!([{"type": "x"}]), ""),
        (vec!["status", "allocatedResources"], value!({"storage": "2Gi"}), ""),
        (vec!["status", "allocatedResourceStatuses"], value!({"storage": "x"}), ""),
        (vec!["metadata", "resourceVersion"], "".into(), ""),
        (vec!["metadata", "managedFields"], value!([{"manager": "x"}]), ""),
        (vec!["metadata", "labels"], value!({}), ""),
        (vec!["metadata", "labels"], value!({"x": ""}), "metadata.labels"),
        (vec!["metadata", "finalizers"], value!(["x"]), "metadata.finalizers"),
        (vec!["status", "phase"], "Lost".into(), "status.phase"),
        (vec!["spec", "volumeName"], "other".into(), "spec.volumeName"),
    ] {
        let mut now = claim();
        now.set_at(&path, value);
        let told =
            tell(Operation::Update, "persistentvolumeclaims/status", now, Some(claim())).await;
        let expected = match different {
            "" => String::new(),
            what => format!(
                r#"node "n1" is not allowed to update fields other than status.quantity and status.conditions: {what}"#
            ),
        };
        assert_eq!(told, expected, "{path:?}");
    }
    let told = tell(Operation::Update, "persistentvolumeclaims", claim(), Some(claim())).await;
    assert_eq!(told, "may only update PVC status");
}

/// A request for a token that is bound to a pod.
fn token((name, uid): (&str, &str), audiences: &[&str]) -> Value {
    let audiences: Value = audiences.iter().copied().collect();
    value!({"metadata": {"name": "robot"}, "spec": {"audiences": audiences,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}}})
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_pods() {
    let path = "serviceaccounts/token";
    let unbound = "node requested token not bound to a pod";
    for (bound, expected) in [
        (("mine", "u"), ""),
        (
            ("mine", "old"),
            "the UID in the bound object reference (old) does not match the UID in record. The object might have been deleted and then recreated",
        ),
        (("theirs", "v"), "node requested token bound to a pod scheduled on a different node"),
        (("mine", ""), "node requested token with a pod binding without a uid"),
        (("", "u"), unbound),
        (("none", "u"), r#"pod "none" not found"#),
    ] {
        let told = tell(Operation::Create, path, token(bound, &[]), None).await;
        assert_eq!(told, expected, "{bound:?}");
    }
    for (member, value) in [("kind", "Secret"), ("apiVersion", "v2")] {
        let mut request = token(("mine", "u"), &[]);
        request.set_at(&["spec", "boundObjectRef", member], value);
        assert_eq!(tell(Operation::Create, path, request, None).await, unbound);
    }
    let request = parse(r#"{"metadata":{"name":"robot"},"spec":{}}"#);
    assert_eq!(tell(Operation::Create, path, request, None).await, unbound);
}

/// What n1 is told that asks for a token for a pod with these volumes.
async fn check_audience(volumes: &str, audiences: &[&str], expected: &str) {
    let objects = cluster();
    let text = format!(
        r#"{{"metadata":{{"name":"volumes","namespace":"ns","uid":"x"}},"spec":{{"nodeName":"n1","volumes":[{volumes}]}}}}"#
    );
    put(&objects, "", "pods", parse(&text));
    let write = (Operation::Create, "serviceaccounts/token");
    let request = (token(("volumes", "x"), audiences), None);
    let told = tell_of(&objects, Arc::new(AlwaysDeny), write, request).await;
    assert_eq!(told, expected, "{volumes} {audiences:?}");
}

fn not_found(audience: &str) -> String {
    format!(
        "audience {audience:?} not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience"
    )
}

#[tokio::test]
async fn a_token_is_for_those_whom_a_pod_s_volumes_say() {
    let projected = r#"{"projected":{"sources":[{"serviceAccountToken":{"audience":"vault"}}]}}"#;
    check_audience(projected, &["vault"], "").await;
    check_audience(projected, &["other"], &not_found("other")).await;
    check_audience(projected, &[], &not_found("")).await;
    let why = "node may only request 0 or 1 audiences";
    check_audience(projected, &["vault", "other"], why).await;
    let default = r#"{"projected":{"sources":[{"serviceAccountToken":{"path":"token"}}]}}"#;
    check_audience(default, &[], "").await;
    check_audience(default, &[""], "").await;
    check_audience("", &[], &not_found("")).await;
    for volume in [
        r#"{"csi":{"driver":"file.csi.azure.com"}}"#,
        r#"{"azureFile":{"shareName":"x"}}"#,
        r#"{"persistentVolumeClaim":{"claimName":"data"}}"#,
        r#"{"name":"scratch","ephemeral":{"volumeClaimTemplate":{}}}"#,
    ] {
        check_audience(volume, &["azure"], "").await;
        check_audience(volume, &["vault"], &not_found("vault")).await;
    }
    for (volume, why) in [
        (r#"{"csi":{"driver":"none"}}"#, r#"csidriver.storage.k8s.io "none" not found"#),
        (
            r#"{"persistentVolumeClaim":{"claimName":"none"}}"#,
            r#"persistentvolumeclaim "none" not found"#,
        ),
        (
            r#"{"csi":{"driver":"a"}},{"csi":{"driver":"a"}},{"csi":{"driver":"b"}}"#,
            r#"[csidriver.storage.k8s.io "a" not found, csidriver.storage.k8s.io "b" not found]"#,
        ),
    ] {
        let why = format!(r#"error validating audience "vault": {why}"#);
        check_audience(volume, &["vault"], &why).await;
        check_audience(&format!("{volume},{projected}"), &["vault"], "").await;
    }
}

#[tokio::test]
async fn a_token_is_for_those_whom_somebody_has_granted() {
    let objects = cluster();
    for (resource, text) in [
        (
            "roles",
            r#"{"metadata":{"name":"a","namespace":"ns"},"rules":[{"verbs":["request-serviceaccounts-token-audience"],"apiGroups":[""],"resources":["granted"],"resourceNames":["robot"]},
                {"verbs":["request-serviceaccounts-token-audience"],"apiGroups":[""],"resources":["*"],"resourceNames":["free"]}]}"#,
        ),
        (
            "rolebindings",
            r#"{"metadata":{"name":"a","namespace":"ns"},"roleRef":{"kind":"Role","name":"a"},"subjects":[{"kind":"Group","name":"system:nodes"}]}"#,
        ),
    ] {
        put(&objects, auth::rbac::GROUP, resource, parse(text));
    }
    let bare =
        r#"{"metadata":{"name":"bare","namespace":"ns","uid":"b"},"spec":{"nodeName":"n1"}}"#;
    put(&objects, "", "pods", parse(bare));
    let rbac: Arc<dyn Authorizer> = Arc::new(auth::rbac::Rbac::new(&objects));
    let write = (Operation::Create, "serviceaccounts/token");
    for (account, audience, expected) in [
        ("robot", "granted", String::new()),
        ("robot", "other", not_found("other")),
        ("robot", "", not_found("")),
        ("default", "granted", not_found("granted")),
        ("free", "other", String::new()),
        ("free", "", String::new()),
    ] {
        // This pod has no volume that says an audience.
        let mut request = token(("bare", "b"), &[audience]);
        request.set_at(&["metadata", "name"], account);
        let told = tell_of(&objects, Arc::clone(&rbac), write, (request, None)).await;
        assert_eq!(told, expected, "{account} {audience}");
    }
}

#[tokio::test]
async fn a_node_writes_what_has_its_name() {
    let named = |name: &str| value!({"metadata": {"name": name}});
    let slice = |node: &str| value!({"metadata": {"name": "s"}, "spec": {"nodeName": node}});
    let (create, delete) = (Operation::Create, Operation::Delete);
    let leases = "leases.coordination.k8s.io";
    let why = r#"can only access leases in the "kube-node-lease" system namespace"#;
    assert_eq!(tell(create, leases, named("n1"), None).await, why);
    assert_eq!(tell(delete, leases, named("n1"), None).await, "");
    let why = "can only access node lease with the same name as the requesting node";
    assert_eq!(tell(delete, leases, named("n2"), None).await, why);
    let nodes = "csinodes.storage.k8s.io";
    assert_eq!(tell(create, nodes, named("n1"), None).await, "");
    let why = "can only access CSINode with the same name as the requesting node";
    assert_eq!(tell(create, nodes, named("n2"), None).await, why);
    let slices = "resourceslices.resource.k8s.io";
    assert_eq!(tell(create, slices, slice("n1"), None).await, "");
    assert_eq!(tell(delete, slices, Value::Null, Some(slice("n1"))).await, "");
    for other in ["n2", ""] {
        let why = |verb| {
            format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")
        };
        assert_eq!(tell(create, slices, slice(other), None).await, why("create"));
        let told = tell(delete, slices, Value::Null, Some(slice(other))).await;
        assert_eq!(told, why("delete"));
    }
}

#[tokio::test]
async fn a_node_asks_for_certificates_in_its_name() {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    let request = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        BASE64_STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap())
    };
    let why = "can only create a node CSR with CN=system:node:n1";
    for (signer, request, expected) in [
        ("kubernetes.io/kubelet-serving", request("system:node:n1"), ""),
        ("kubernetes.io/kubelet-serving", request("system:node:n2"), why),
        ("kubernetes.io/kube-apiserver-client-kubelet", request("n1"), why),
        ("example.com/any", request("anybody"), ""),
        (
            "kubernetes.io/kubelet-serving",
            "none".into(),
            "unable to parse csr: PEM block type must be CERTIFICATE REQUEST",
        ),
    ] {
        let object =
            value!({"metadata": {"name": "c"}, "spec": {"signerName": signer, "request": request}});
        let path = "certificatesigningrequests.certificates.k8s.io";
        assert_eq!(tell(Operation::Create, path, object, None).await, expected, "{signer}");
    }
}

#[tokio::test]
async fn a_node_asks_for_certificates_of_its_pods() {
    let request = |changes: &[(&str, &str)]| {
        let mut request = value!({"metadata": {"name": "r"}, "spec": {"nodeName": "n1", "nodeUID": "nu",
            "signerName": "example.com/own", "podName": "mine", "podUID": "u", "serviceAccountName": "robot", "serviceAccountUID": "ru"}});
        for (member, value) in changes {
            request.set_at(&["spec", member], *value);
        }
        request
    };
    let path = "podcertificaterequests.certificates.k8s.io";
    for (changes, expected) in [
        (vec![], ""),
        (
            vec![("nodeName", "n2")],
            r#"PodCertificateRequest.Spec.NodeName="n2", which is not the requesting node "n1""#,
        ),
        (
            vec![("nodeUID", "x")],
            r#"PodCertificateRequest for pod "ns/mine" names node UID "x", inconsistent with the running node ("nu")"#,
        ),
        (
            vec![("podName", "none")],
            r#"while retrieving pod "ns/none" named in the PodCertificateRequest: pod "none" not found"#,
        ),
        (
            vec![("podUID", "x")],
            r#"PodCertificateRequest for pod "ns/mine" contains pod UID ("x") which differs from running pod "u""#,
        ),
        (
            vec![("podName", "theirs"), ("podUID", "v")],
            r#"pod "ns/theirs" is not running on node "n1" named in the PodCertificateRequest"#,
        ),
        (vec![("podName", "mirror"), ("podUID", "w")], r#"pod "ns/mirror" is a mirror pod"#),
        (
            vec![("serviceAccountName", "x")],
            r#"PodCertificateRequest for pod "ns/mine" contains serviceAccountName ("x") that differs from running pod ("robot")"#,
        ),
        (
            vec![("signerName", "example.com/other")],
            r#"signer "example.com/other" not found in volumes of pod "ns/mine""#,
        ),
        (
            vec![("serviceAccountUID", "x")],
            r#"PodCertificateRequest for pod "ns/mine" names service account UID "x", which differs from the running service account ("ru")"#,
        ),
    ] {
        let told = tell(Operation::Create, path, request(&changes), None).await;
        assert_eq!(told, expected, "{changes:?}");
    }
    let told = tell(Operation::Update, path, request(&[]), None).await;
    assert_eq!(told, "unexpected operation UPDATE");
    let told = tell(Operation::Create, &format!("{path}/status"), request(&[]), None).await;
    assert_eq!(told, "unexpected subresource status");
}

#[tokio::test]
async fn others_are_not_nodes_and_a_node_without_a_name_is_none() {
    let plugin = NodeRestriction::new(Arc::new(Fixed(cluster())), Arc::new(AlwaysDeny));
    let mut case = Case::new(Operation::Create, "pods", value!({"metadata": {"name": "p"}}));
    assert!(!plugin.handles(&case.attributes(&UserInfo::new("system:node:n1", &[]))));
    let node = UserInfo::node("n1");
    let mut stream = Case::new(Operation::Connect, "pods/exec", Value::Null);
    assert!(!plugin.handles(&stream.attributes(&node)));
    let nobody = UserInfo::node("");
    let mut attributes = case.attributes(&nobody);
    assert!(plugin.handles(&attributes));
    let status = plugin.mutate(&mut attributes).await.unwrap_err();
    let why = r#"pods "p" is forbidden: could not determine node from user "system:node:""#;
    assert_eq!(status.message, why);
}
