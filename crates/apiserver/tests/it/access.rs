//! What a fresh cluster holds, and who may do what in it.

use apimachinery::{Value, value};
use apiserver::bootstrap::Summary;
use auth::UserInfo;

use crate::cluster::{As, Cluster, admin};

fn named(name: &str) -> Value {
    value!({"metadata": {"name": name}})
}

/// A namespace `ns` with the account `default`.
async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.done("POST /api/v1/namespaces", Some(&named("ns"))).await;
    cluster.done("POST /api/v1/namespaces/ns/serviceaccounts", Some(&named("default"))).await;
    cluster
}

async fn token(cluster: &Cluster, spec: Value) -> String {
    let path = "POST /api/v1/namespaces/ns/serviceaccounts/default/token";
    let answer = cluster.done(path, Some(&value!({"spec": spec}))).await;
    answer.str_at(&["status", "token"]).to_owned()
}

#[tokio::test]
async fn a_fresh_cluster_holds_what_every_cluster_has_once() {
    let cluster = Cluster::start().await;
    assert_eq!(cluster.bootstrap().await, Summary::default());
    for path in [
        "/api/v1/namespaces/kube-node-lease",
        "/api/v1/namespaces/default/services/kubernetes",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
        "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/catch-all",
    ] {
        cluster.done(&format!("GET {path}"), None).await;
    }
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:kube-scheduler";
    let whole = cluster.done(&format!("GET {path}"), None).await;
    let mut poor = whole.clone();
    let own = value!([{"verbs": ["get"], "apiGroups": ["own"], "resources": ["things"]}]);
    poor.set_at(&["rules"], own);
    cluster.done(&format!("PUT {path}"), Some(&poor)).await;
    assert_eq!(cluster.bootstrap().await, Summary { created: 0, updated: 1 });
    let mended = cluster.done(&format!("GET {path}"), None).await;
    let rules = mended.items_at(&["rules"]);
    assert_eq!(rules[0].items_at(&["apiGroups"])[0].as_str(), Some("own"));
    let rules: Vec<_> = auth::rbac::Rule::all_of(&mended);
    assert_eq!(auth::rbac::missing(&rules, &auth::rbac::Rule::all_of(&whole)), []);
}

#[tokio::test]
async fn strangers_see_little_and_bad_tokens_nothing() {
    let cluster = Cluster::start().await;
    for (path, code) in [
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/version", 200),
        ("/metrics", 403),
        ("/api", 403),
        ("/api/v1/pods", 403),
        ("/openid/v1/jwks", 403),
    ] {
        assert_eq!(cluster.send(&As::Nobody, &format!("GET {path}"), None).await.0, code, "{path}");
        let bad = cluster.send(&As::Token("nope"), &format!("GET {path}"), None).await;
        assert_eq!(bad.0, 401, "{path}");
    }
}

#[tokio::test]
async fn an_account_may_what_it_is_given_at_once_and_no_longer() {
    let cluster = cluster().await;
    let token = token(&cluster, value!({})).await;
    let robot = As::Token(&token);
    let path = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (_, me) = cluster.send(&robot, path, Some(&value!({}))).await;
    assert_eq!(me.str_at(&["status", "userInfo", "username"]), "system:serviceaccount:ns:default");
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/ns";
    let role = value!({"metadata": {"name": "r"},
        "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["secrets"]}]});
    let binding = value!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "ns"}]});
    for _ in 0..20 {
        let list = "GET /api/v1/namespaces/ns/secrets";
        assert_eq!(cluster.send(&robot, list, None).await.0, 403);
        cluster.done(&format!("POST {rbac}/roles"), Some(&role)).await;
        cluster.done(&format!("POST {rbac}/rolebindings"), Some(&binding)).await;
        assert_eq!(cluster.send(&robot, list, None).await.0, 200);
        cluster.done(&format!("DELETE {rbac}/roles/r"), None).await;
        assert_eq!(cluster.send(&robot, list, None).await.0, 403);
        cluster.done(&format!("DELETE {rbac}/rolebindings/b"), None).await;
    }
}

#[tokio::test]
async fn who_may_change_may_not_make() {
    let cluster = cluster().await;
    let token = token(&cluster, value!({})).await;
    let robot = As::Token(&token);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/ns";
    let role = value!({"metadata": {"name": "r"}, "rules": [
        {"verbs": ["patch", "update"], "apiGroups": ["", "coordination.k8s.io"], "resources": ["configmaps", "leases"]}]});
    let binding = value!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "ns"}]});
    cluster.done(&format!("POST {rbac}/roles"), Some(&role)).await;
    cluster.done(&format!("POST {rbac}/rolebindings"), Some(&binding)).await;
    let maps = "/api/v1/namespaces/ns/configmaps";
    let leases = "/apis/coordination.k8s.io/v1/namespaces/ns/leases";
    let map = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"a": "b"}});
    let lease = value!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}});
    let writes = [
        (format!("PATCH {maps}/m?fieldManager=f&force=true"), &map, format!("POST {maps}")),
        (format!("PUT {leases}/l"), &lease, format!("POST {leases}")),
    ];
    for (write, object, make) in writes {
        let (code, answer) = cluster.send(&robot, &write, Some(object)).await;
        let why = answer.str_at(&["message"]);
        // Upstream tells no more than what the authorizer says, and that of roles says nothing.
        assert!(code == 403 && why.ends_with("\" is forbidden: "), "{write}: {code} {why}");
        let made = cluster.done(&make, Some(object)).await;
        let again = if write.starts_with("PUT") { &made } else { object };
        let (code, answer) = cluster.send(&robot, &write, Some(again)).await;
        assert_eq!(code, 200, "{write}: {answer:?}");
    }
    let gone =
        value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "gone", "uid": "u"}});
    let apply = format!("PATCH {maps}/gone?fieldManager=f&force=true");
    let (code, answer) = cluster.send(&admin(), &apply, Some(&gone)).await;
    let why = "Operation cannot be fulfilled on configmaps \"gone\": uid mismatch: the provided object specified uid u, and no existing object was found";
    assert_eq!((code, answer.str_at(&["message"])), (409, why));
    let secret = value!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "m"}});
    let (code, answer) = cluster
        .send(&robot, &format!("PATCH {maps}/m?fieldManager=f&force=true"), Some(&secret))
        .await;
    let why = "expected objects of the same type, but got ConfigMap and Secret";
    assert_eq!((code, answer.str_at(&["message"])), (500, why));
}

#[tokio::test]
async fn who_writes_policies_reads_no_more_by_their_parameters() {
    let cluster = cluster().await;
    let token = token(&cluster, value!({})).await;
    let robot = As::Token(&token);
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = value!({"metadata": {"name": "policies"}, "rules": [
        {"verbs": ["*"], "apiGroups": ["admissionregistration.k8s.io"], "resources": ["*"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]}]});
    let binding = value!({"metadata": {"name": "policies"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "policies"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "ns"}]});
    cluster.done(&format!("POST {rbac}/clusterroles"), Some(&role)).await;
    cluster.done(&format!("POST {rbac}/clusterrolebindings"), Some(&binding)).await;
    let group = "/apis/admissionregistration.k8s.io/v1";
    let policy = |name: &str, kind: &str| {
        value!({"metadata": {"name": name}, "spec": {"paramKind": {"apiVersion": "v1", "kind": kind},
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
            "validations": [{"expression": "false", "messageExpression": "string(params.data.pw)"}]}})
    };
    let bound = |name: &str, policy: &str| {
        value!({"metadata": {"name": name}, "spec": {"policyName": policy, "validationActions": ["Deny"],
            "paramRef": {"name": "x", "namespace": "kube-system", "parameterNotFoundAction": "Deny"}}})
    };
    let post = async |who: &As<'_>, resource: &str, object: Value| {
        let (code, answer) =
            cluster.send(who, &format!("POST {group}/{resource}"), Some(&object)).await;
        (code, answer.str_at(&["message"]).to_owned())
    };
    let user = "user &{system:serviceaccount:ns:default ";
    let (code, why) =
        post(&robot, "validatingadmissionpolicies", policy("secrets", "Secret")).await;
    assert!(
        code == 422 && why.contains(&format!("spec.paramKind: Forbidden: {user}")),
        "{code} {why}"
    );
    let all = "must have \"get\" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)";
    assert!(why.ends_with(all), "{why}");
    assert_eq!(
        post(&admin(), "validatingadmissionpolicies", policy("secrets", "Secret")).await.0,
        201
    );
    cluster.server.hub().catch_up().await.unwrap();
    let (code, why) =
        post(&robot, "validatingadmissionpolicybindings", bound("b", "secrets")).await;
    assert!(
        code == 422 && why.contains(&format!("spec.paramRef: Forbidden: {user}")),
        "{code} {why}"
    );
    assert_eq!(
        post(&robot, "validatingadmissionpolicies", policy("maps", "ConfigMap")).await.0,
        201
    );
    cluster.server.hub().catch_up().await.unwrap();
    assert_eq!(post(&robot, "validatingadmissionpolicybindings", bound("c", "maps")).await.0, 201);
}

#[tokio::test]
async fn a_bound_token_dies_with_its_object() {
    let cluster = cluster().await;
    let secret = cluster.done("POST /api/v1/namespaces/ns/secrets", Some(&named("s"))).await;
    let reference = value!({"kind": "Secret", "apiVersion": "v1", "name": "s",
        "uid": (secret.str_at(&["metadata", "uid"]))});
    let token = token(&cluster, value!({"boundObjectRef": reference})).await;
    let path = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";
    let robot = As::Token(&token);
    assert_eq!(cluster.send(&robot, path, Some(&value!({}))).await.0, 201);
    cluster.done("DELETE /api/v1/namespaces/ns/secrets/s", None).await;
    cluster.server.hub().catch_up().await.unwrap();
    assert_eq!(cluster.send(&robot, path, Some(&value!({}))).await.0, 401);
    let review = value!({"spec": {"token": (token.as_str())}});
    let path = "POST /apis/authentication.k8s.io/v1/tokenreviews";
    let answer = cluster.done(path, Some(&review)).await;
    assert_eq!(answer.at(&["status", "authenticated"]), None);
    assert!(answer.str_at(&["status", "error"]).contains("not found"), "{answer:?}");
}

#[tokio::test]
async fn writes_that_race_for_the_last_of_a_quota_never_exceed_it() {
    const HARD: usize = 5;
    let cluster = cluster().await;
    let quotas = "/api/v1/namespaces/ns/resourcequotas";
    let mut quota = named("q");
    quota.set_at(&["spec", "hard", "count/configmaps"], HARD.to_string());
    let mut quota = cluster.done(&format!("POST {quotas}"), Some(&quota)).await;
    quota.set_at(&["status", "hard", "count/configmaps"], HARD.to_string());
    quota.set_at(&["status", "used", "count/configmaps"], "0");
    cluster.done(&format!("PUT {quotas}/q/status"), Some(&quota)).await;
    let maps: Vec<Value> = (0..HARD + 1).map(|index| named(&format!("m{index}"))).collect();
    let writes = maps.iter().map(async |map| {
        cluster.send(&admin(), "POST /api/v1/namespaces/ns/configmaps", Some(map)).await
    });
    let answers = futures::future::join_all(writes).await;
    let made = answers.iter().filter(|(code, _)| *code == 201).count();
    assert_eq!(made, HARD, "{answers:?}");
    let (_, refused) = answers.iter().find(|(code, _)| *code != 201).unwrap();
    let message = refused.str_at(&["message"]);
    assert!(
        message.ends_with("exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=5, limited: count/configmaps=5"),
        "{message}"
    );
    let quota = cluster.done(&format!("GET {quotas}/q"), None).await;
    assert_eq!(quota.str_at(&["status", "used", "count/configmaps"]), HARD.to_string());
}

#[tokio::test]
async fn components_may_what_upstreams_roles_say() {
    let cluster = cluster().await;
    let account = |name: &str| UserInfo::service_account("kube-system", name);
    let user = |name: &str| UserInfo::new(name, &[]);
    for (user, request, code) in [
        (user("system:kube-scheduler"), "GET /api/v1/pods", 200),
        (user("system:kube-scheduler"), "GET /api/v1/secrets", 403),
        (user("system:kube-controller-manager"), "GET /api/v1/secrets", 200),
        (account("deployment-controller"), "GET /apis/apps/v1/replicasets", 200),
        (account("deployment-controller"), "GET /api/v1/secrets", 403),
        (account("namespace-controller"), "DELETE /api/v1/namespaces/ns/configmaps", 200),
        (user("system:kube-proxy"), "GET /apis/discovery.k8s.io/v1/endpointslices", 200),
        (UserInfo::node("n1"), "GET /api/v1/services", 200),
        (UserInfo::node("n1"), "GET /api/v1/nodes", 403),
        (UserInfo::node("n1"), "GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn1", 200),
        (UserInfo::node("n1"), "GET /api/v1/pods", 403),
        (UserInfo::node("n1"), "GET /api/v1/namespaces/ns/secrets/s", 403),
    ] {
        let name = user.name.clone();
        let (got, answer) = cluster.send(&As::User(user), request, None).await;
        assert_eq!(got, code, "{name} {request}: {answer:?}");
    }
}

#[tokio::test]
async fn a_namespace_that_is_not_there_takes_nothing() {
    let cluster = cluster().await;
    let path = "POST /api/v1/namespaces/none/configmaps";
    let (code, answer) = cluster.send(&admin(), path, Some(&named("m"))).await;
    assert_eq!((code, answer.str_at(&["message"])), (404, "namespaces \"none\" not found"));
    let path = "DELETE /api/v1/namespaces/kube-system";
    let (code, answer) = cluster.send(&admin(), path, None).await;
    let why = "namespaces \"kube-system\" is forbidden: this namespace may not be deleted";
    assert_eq!((code, answer.str_at(&["message"])), (403, why));
}

/// A pod of node n1 with this in its `spec`.
fn pod_of_node(name: &str, spec: &Value) -> Value {
    let mut pod = named(name);
    pod.set_at(&["spec"], spec.clone());
    pod.set_at(&["spec", "nodeName"], "n1");
    pod
}

/// A node could make itself a mirror pod that names whatever it wants to read; and nobody else makes one for it.
#[tokio::test]
async fn a_node_reads_no_secret_by_a_mirror_pod() {
    let cluster = cluster().await;
    let node = cluster.done("POST /api/v1/nodes", Some(&named("n1"))).await;
    let mut crown = named("crown");
    crown.set_at(&["stringData", "k"], "v");
    cluster.done("POST /api/v1/namespaces/ns/secrets", Some(&crown)).await;
    cluster.done("POST /api/v1/namespaces/ns/configmaps", Some(&named("m"))).await;
    let n1 = || As::User(UserInfo::node("n1"));
    let owner = value!([{"apiVersion": "v1", "kind": "Node", "name": "n1", "controller": true,
        "uid": (node.str_at(&["metadata", "uid"]))}]);
    let with = |env: Value| {
        let spec = value!({"containers": [{"name": "c", "image": "i", "env": [{"name": "E", "valueFrom": env}]}]});
        let mut pod = pod_of_node("p", &spec);
        pod.set_at(&["metadata", "annotations", "kubernetes.io/config.mirror"], "h");
        pod.set_at(&["metadata", "ownerReferences"], owner.clone());
        pod
    };
    let secret = with(value!({"secretKeyRef": {"name": "crown", "key": "k"}}));
    let map = with(value!({"configMapKeyRef": {"name": "m", "key": "k"}}));
    let pods = "POST /api/v1/namespaces/ns/pods";
    for (user, pod, code, why) in [
        (n1(), &secret, 403, "a mirror pod may not reference secrets"),
        (admin(), &secret, 403, "a mirror pod may not reference secrets"),
        (n1(), &map, 403, "node \"n1\" can not create pods that reference configmaps"),
        (admin(), &map, 201, ""),
    ] {
        let (got, answer) = cluster.send(&user, pods, Some(pod)).await;
        assert_eq!(got, code, "{answer:?}");
        assert!(answer.str_at(&["message"]).ends_with(why), "{answer:?}");
    }
    cluster.server.hub().catch_up().await.unwrap();
    for (request, code) in [
        ("GET /api/v1/namespaces/ns/pods/p", 200),
        ("GET /api/v1/namespaces/ns/secrets/crown", 403),
        ("GET /api/v1/namespaces/ns/configmaps/m", 403),
    ] {
        let (got, answer) = cluster.send(&n1(), request, None).await;
        assert_eq!(got, code, "{request}: {answer:?}");
    }
}

#[tokio::test]
async fn a_node_gets_the_tokens_that_its_pods_mount() {
    let cluster = cluster().await;
    cluster.done("POST /api/v1/nodes", Some(&named("n1"))).await;
    let spec = value!({"containers": [{"name": "c", "image": "i"}]});
    let pods = "POST /api/v1/namespaces/ns/pods";
    let pod = cluster.done(pods, Some(&pod_of_node("p", &spec))).await;
    cluster.server.hub().catch_up().await.unwrap();
    let reference = value!({"kind": "Pod", "apiVersion": "v1", "name": "p",
        "uid": (pod.str_at(&["metadata", "uid"]))});
    let path = "POST /api/v1/namespaces/ns/serviceaccounts/default/token";
    for (audiences, code) in [(value!([]), 201), (value!(["other"]), 403)] {
        let request =
            value!({"spec": {"audiences": audiences, "boundObjectRef": (reference.clone())}});
        let node = As::User(UserInfo::node("n1"));
        let (got, answer) = cluster.send(&node, path, Some(&request)).await;
        assert_eq!(got, code, "{answer:?}");
    }
}
