//! Admission plugins that are off unless somebody asks for them.

use admission::AdmissionConfiguration;
use apimachinery::{json, value};
use auth::UserInfo;

use crate::cluster::{As, Cluster, With, admin};
use crate::hooks::{Hook, response};

async fn with(plugins: &[&str]) -> Cluster {
    let plugins = plugins.iter().map(|it| (*it).to_owned()).collect();
    Cluster::start_changed(With { plugins, ..With::default() }).await
}

#[tokio::test]
async fn a_namespace_is_made_for_what_is_created_in_it() {
    let cluster = with(&["NamespaceAutoProvision"]).await;
    let map = value!({"metadata": {"name": "m"}});
    let request = "POST /api/v1/namespaces/fresh/configmaps";
    let pretended = format!("{request}?dryRun=All");
    let (code, _) = cluster.send(&admin(), &pretended, Some(&map)).await;
    assert_eq!(code, 404);
    cluster.done(request, Some(&map)).await;
    let made = cluster.done("GET /api/v1/namespaces/fresh", None).await;
    assert_eq!(made.str_at(&["status", "phase"]), "Active");
    let (code, answer) = cluster.send(&admin(), request, Some(&map)).await;
    assert_eq!((code, answer.str_at(&["reason"])), (409, "AlreadyExists"));
}

#[tokio::test]
async fn owners_are_not_given_by_who_may_not_delete() {
    let cluster = with(&["OwnerReferencesPermissionEnforcement"]).await;
    cluster.done("POST /api/v1/namespaces", Some(&value!({"metadata": {"name": "ns"}}))).await;
    let map = value!({"metadata": {"name": "m"}});
    cluster.done("POST /api/v1/namespaces/ns/configmaps", Some(&map)).await;
    let rule =
        value!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create", "patch"]});
    let role = value!({"metadata": {"name": "r"}, "rules": [(rule)]});
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/ns";
    cluster.done(&format!("POST {roles}/roles"), Some(&role)).await;
    let binding = value!({
        "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}]
    });
    cluster.done(&format!("POST {roles}/rolebindings"), Some(&binding)).await;
    cluster.server.hub().catch_up().await.unwrap();
    let owner = |blocks: bool| value!({"apiVersion": "v1", "kind": "ConfigMap", "name": "m", "uid": "u", "blockOwnerDeletion": (blocks)});
    let owned = |name: &str, blocks: bool| value!({"metadata": {"name": (name), "ownerReferences": [(owner(blocks))]}});
    let bob = As::User(UserInfo::new("bob", &[]));
    let maps = "/api/v1/namespaces/ns/configmaps";
    let ask = async |request: &str, body| {
        let (code, answer) = cluster.send(&bob, request, Some(&body)).await;
        (code, answer.str_at(&["message"]).to_owned())
    };
    assert_eq!(ask(&format!("POST {maps}"), owned("n", false)).await.0, 201);
    let (code, why) = ask(&format!("POST {maps}"), owned("o", true)).await;
    assert_eq!(code, 403);
    let refused = "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: ";
    assert!(why.contains(refused) && why.ends_with(", <nil>"), "{why}");
    let (code, why) = ask(&format!("PATCH {maps}/m"), owned("m", false)).await;
    assert_eq!(code, 403);
    assert!(why.contains("cannot set an ownerRef on a resource you can't delete: "), "{why}");
}

#[tokio::test]
async fn webhooks_are_told_who_calls_them() {
    let hook = Hook::start(|review| response(review, &value!({"allowed": true}))).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kubeconfig");
    let host = hook.url.trim_start_matches("https://");
    let users = value!({"users": [{"name": (host), "user": {"token": "secret"}}]});
    std::fs::write(&file, json::to_vec(&users)).unwrap();
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n\
         - name: ValidatingAdmissionWebhook\n  configuration: {{apiVersion: apiserver.config.k8s.io/v1, \
         kind: WebhookAdmissionConfiguration, kubeConfigFile: '{}'}}\n",
        file.display()
    );
    let admission = AdmissionConfiguration::parse(text.as_bytes(), |it| Err(it.into())).unwrap();
    let cluster = Cluster::start_changed(With { admission, ..With::default() }).await;
    let rule = value!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]});
    let configuration = value!({"metadata": {"name": "c"}, "webhooks": [{
        "name": "a.example.com", "clientConfig": (hook.config()), "rules": [(rule)],
        "sideEffects": "None", "admissionReviewVersions": ["v1"]
    }]});
    let path = "/apis/admissionregistration.k8s.io/v1";
    for (kind, caller) in [("mutating", ""), ("validating", "Bearer secret")] {
        let all = format!("{path}/{kind}webhookconfigurations");
        cluster.done(&format!("POST {all}"), Some(&configuration)).await;
        cluster.server.hub().catch_up().await.unwrap();
        let map = value!({"metadata": {"name": (kind)}});
        cluster.done("POST /api/v1/namespaces/default/configmaps", Some(&map)).await;
        assert_eq!(*hook.caller.lock(), caller);
        cluster.done(&format!("DELETE {all}/c"), None).await;
        cluster.server.hub().catch_up().await.unwrap();
    }
    assert_eq!(hook.asked(), 2);
}
