//! Who may: webhooks that say so, hang, lie and are gone; selectors; what expressions of policies ask.

use std::sync::Arc;

use apimachinery::{Value, json, value};
use auth::config::authorization::{AuthorizationConfiguration, TYPES};
use auth::configured::{ConfiguredAuthorizers, Prepared};
use auth::metrics::Metrics;
use parking_lot::Mutex;

use crate::cluster::{As, Cluster, With, admin};
use crate::hooks::{Hook, Reply};

const BOB: As<'_> = As::Token("bob-token");

fn webhook(hook: &Hook, directory: &std::path::Path, changes: &[(&str, Value)]) -> Value {
    let file = hook.kubeconfig(directory, "secret");
    let mut webhook = value!({"timeout": "300ms", "authorizedTTL": "1m", "unauthorizedTTL": "1m",
        "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": (file.to_str().unwrap())}});
    for (name, value) in changes {
        webhook.set_at(&[name], value.clone());
    }
    value!({"type": "Webhook", "name": "hook", "webhook": webhook})
}

fn configuration(authorizers: Vec<Value>) -> Value {
    value!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
        "authorizers": (Value::Array(authorizers))})
}

fn rbac() -> Value {
    value!({"type": "RBAC", "name": "rbac"})
}

async fn cluster(authorizers: Vec<Value>) -> (Cluster, Arc<ConfiguredAuthorizers>) {
    let parsed = AuthorizationConfiguration::of(&configuration(authorizers), &TYPES).unwrap();
    let metrics = Metrics::default();
    let told: Arc<Mutex<Option<Arc<ConfiguredAuthorizers>>>> = Arc::default();
    let tell = Arc::clone(&told);
    let changed = With {
        authorizers: Some(Prepared::new(parsed, &metrics).unwrap()),
        metrics,
        tell: Some(Box::new(move |it| *tell.lock() = Some(it))),
        ..With::default()
    };
    let cluster = Cluster::start_changed(changed).await;
    let authorizers = told.lock().take().unwrap();
    (cluster, authorizers)
}

/// Answers by the resource that is asked for.
async fn hook() -> Hook {
    let decide = |review: &Value| {
        let asked = review.str_at(&["spec", "resourceAttributes", "resource"]);
        let status = match asked {
            "configmaps" => value!({"allowed": true, "reason": "because"}),
            "secrets" => value!({"allowed": false, "denied": true, "reason": "never"}),
            "services" => value!({"allowed": true, "denied": true}),
            "pods" => return Reply::Silence,
            "endpoints" => return Reply::Raw(403, b"go away".to_vec()),
            _ => value!({"allowed": false, "reason": "ask others"}),
        };
        let version = review.str_at(&["apiVersion"]);
        Reply::Json(
            value!({"apiVersion": version, "kind": "SubjectAccessReview", "status": status}),
        )
    };
    Hook::start(decide).await
}

#[tokio::test]
async fn a_webhook_allows_denies_or_leaves_it_to_others() {
    let (hook, directory) = (hook().await, tempfile::tempdir().unwrap());
    let open = [("failurePolicy", Value::from("NoOpinion"))];
    let closed = webhook(&hook, directory.path(), &[]);
    let (cluster, authorizers) = cluster(vec![closed, rbac()]).await;
    let get = async |resource: &str| {
        let path = format!("GET /api/v1/namespaces/default/{resource}");
        let (code, answer) = cluster.send(&BOB, &path, None).await;
        (code, answer.as_str().unwrap_or(answer.str_at(&["message"])).to_owned())
    };
    let selected = "configmaps?labelSelector=a%20in%20(x,y),!b&fieldSelector=metadata.name!%3Dm";
    assert_eq!(get(selected).await.0, 200);
    assert_eq!(get(selected).await.0, 200);
    assert_eq!(hook.asked(), 1, "the answer counts for a while");
    let spec = hook.seen.lock()[0]["spec"].clone();
    let expected = value!({"user": "bob", "uid": "2", "groups": ["system:authenticated"],
        "resourceAttributes": {"namespace": "default", "verb": "list", "version": "v1",
            "resource": "configmaps",
            "fieldSelector": {"requirements": [{"key": "metadata.name", "operator": "NotIn", "values": ["m"]}]},
            "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["x", "y"]},
                {"key": "b", "operator": "DoesNotExist"}]}}});
    assert_eq!(spec, expected);
    let refused = |resource: &str, why: &str| {
        (
            403,
            format!(
                "{resource} is forbidden: User \"bob\" cannot list resource \"{resource}\" in API group \"\" in the namespace \"default\"{why}"
            ),
        )
    };
    assert_eq!(get("secrets").await, refused("secrets", ": never"));
    assert_eq!(get("serviceaccounts").await, refused("serviceaccounts", ": ask others"));
    fails(&cluster).await;
    // Who may everything is not asked about.
    let before = hook.asked();
    assert_eq!(cluster.send(&admin(), "GET /api/v1/pods", None).await.0, 200);
    assert_eq!(hook.asked(), before);

    let text = configuration(vec![webhook(&hook, directory.path(), &open), rbac()]);
    let bad = authorizers.reload(b"apiVersion: v1\nkind: X", 0.0).unwrap_err();
    assert!(bad.contains("no kind \"X\" is registered"), "{bad}");
    authorizers.reload(&json::to_vec(&text), 0.0).unwrap();
    let path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = value!({"metadata": {"name": "r"},
        "rules": [{"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}]});
    let binding = value!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    cluster.done(&format!("POST {path}/roles"), Some(&role)).await;
    cluster.done(&format!("POST {path}/rolebindings"), Some(&binding)).await;
    cluster.server.hub().catch_up().await.unwrap();
    assert_eq!(get("pods").await.0, 200, "roles are asked where the webhook hangs");
    let (_, metrics) = cluster.send(&admin(), "GET /metrics", None).await;
    let metrics = metrics.as_str().unwrap_or_default().to_owned();
    for line in [
        "apiserver_authorization_decisions_total{decision=\"allowed\",name=\"rbac\",type=\"RBAC\"}",
        "apiserver_authorization_webhook_evaluations_total{name=\"hook\",result=\"timeout\"} 2",
        "apiserver_authorization_webhook_evaluations_fail_open_total{name=\"hook\",result=\"timeout\"} 1",
        "authentication_attempts{result=\"success\"}",
        "authenticated_user_requests{username=\"other\"}",
        "authorization_attempts_total{result=\"no-opinion\"}",
        "authorization_attempts_total{result=\"error\"} 3",
        "apiserver_authorization_config_controller_automatic_reloads_total{",
        "apiserver_authorization_config_controller_last_config_info{apiserver_id_hash=\"sha256:",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

/// Who cannot be told whether they may is not refused: clients try again.
async fn fails(cluster: &Cluster) {
    for (resource, why) in [
        ("services", "webhook subject access review returned both allow and deny response\n"),
        ("pods", "context deadline exceeded\n"),
        ("endpoints", "go away\n"),
    ] {
        let path = format!("GET /api/v1/namespaces/default/{resource}");
        let (code, told) = cluster.send(&BOB, &path, None).await;
        let told = told.as_str().unwrap_or_default();
        let path = format!("Internal Server Error: \"/api/v1/namespaces/default/{resource}\": ");
        assert!(code == 500 && told.starts_with(&path) && told.ends_with(why), "{code} {told}");
    }
}

#[tokio::test]
async fn a_webhook_is_asked_where_its_conditions_hold() {
    let (hook, directory) = (hook().await, tempfile::tempdir().unwrap());
    let conditions = value!([
        {"expression": "has(request.resourceAttributes)"},
        {"expression": "request.resourceAttributes.verb == 'list' && request.user == 'bob'"},
        {"expression": "!has(request.resourceAttributes.labelSelector) || request.resourceAttributes.labelSelector.requirements.all(r, r.key != 'skip')"},
    ]);
    let changes = [
        ("matchConditions", conditions),
        ("matchConditionSubjectAccessReviewVersion", Value::from("v1")),
        ("subjectAccessReviewVersion", Value::from("v1beta1")),
    ];
    let (cluster, _) = cluster(vec![webhook(&hook, directory.path(), &changes), rbac()]).await;
    let base = "GET /api/v1/namespaces/default/configmaps";
    for (path, code, asked) in [
        (format!("{base}/m"), 403, 0),
        ("GET /metrics".to_owned(), 403, 0),
        (format!("{base}?labelSelector=skip"), 403, 0),
        (format!("{base}?labelSelector=other"), 200, 1),
    ] {
        let (got, answer) = cluster.send(&BOB, &path, None).await;
        assert_eq!((got, hook.asked()), (code, asked), "{path}: {answer:?}");
    }
    let line = "apiserver_authorization_match_condition_evaluation_seconds_count{name=\"hook\",type=\"Webhook\"} ";
    let (_, metrics) = cluster.send(&admin(), "GET /metrics", None).await;
    assert!(metrics.as_str().unwrap().contains(line));
    let spec = hook.seen.lock()[0]["spec"].clone();
    assert_eq!(spec["group"], value!(["system:authenticated"]), "as v1beta1 calls it");
    assert_eq!(spec.at(&["resourceAttributes", "labelSelector"]), None);
}

#[tokio::test]
async fn reviews_and_policies_wait_for_a_webhook_too() {
    let (hook, directory) = (hook().await, tempfile::tempdir().unwrap());
    let (cluster, _) = cluster(vec![webhook(&hook, directory.path(), &[]), rbac()]).await;
    let review =
        |attributes: Value| value!({"spec": {"user": "jane", "resourceAttributes": attributes}});
    let path = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews";
    let asked = review(value!({"verb": "list", "resource": "configmaps",
        "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["x"]}]},
        "fieldSelector": {"rawSelector": "nonsense"}}));
    let answer = cluster.done(path, Some(&asked)).await;
    assert_eq!(
        answer["status"],
        value!({"allowed": true, "reason": "because",
        "evaluationError": "spec.resourceAttributes.fieldSelector ignored due to parse error"})
    );
    let spec = hook.seen.lock()[0]["spec"]["resourceAttributes"].clone();
    let requirements = spec.items_at(&["labelSelector", "requirements"]);
    assert_eq!(requirements[0]["values"], value!(["x"]));
    assert_eq!(spec.get("fieldSelector"), None);
    let bad = review(value!({"verb": "list", "resource": "configmaps",
        "fieldSelector": {"requirements": [{"key": "", "operator": "In"}, {"key": "a", "operator": "~"}]},
        "labelSelector": {"requirements": [{"key": "", "operator": "Exists", "values": ["x"]}]}}));
    let (code, answer) = cluster.send(&admin(), path, Some(&bad)).await;
    assert_eq!(code, 422);
    let message = answer.str_at(&["message"]);
    assert!(!message.contains("requirements[1]"), "{message}");
    for part in [
        "spec.resourceAttributes.fieldSelector.requirements[0].key: Required value: must be specified",
        "spec.resourceAttributes.fieldSelector.requirements[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        "spec.resourceAttributes.labelSelector.requirements[0].key: Invalid value: \"\": name part must be non-empty",
        "spec.resourceAttributes.labelSelector.requirements[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let rules = value!({"spec": {"namespace": "default"}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    // Whoever is known may ask this; the webhook has no opinion.
    let (_, answer) = cluster.send(&BOB, &format!("POST {path}"), Some(&rules)).await;
    assert!(answer["status"].bool_at(&["incomplete"]), "{answer:?}");
    let why = answer.str_at(&["status", "evaluationError"]);
    assert_eq!(why, "webhook authorizer does not support user rule resolution");

    let policies = "/apis/admissionregistration.k8s.io/v1";
    let ask = |resource: &str| {
        format!(
            "authorizer.group('').resource('{resource}').namespace('default').check('use').allowed()"
        )
    };
    let policy = value!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
        "validations": [{"expression": (format!("{} && !({})", ask("configmaps"), ask("secrets")))},
            {"expression": (format!("object.metadata.name != 'no' || {}", ask("secrets"))), "message": "may not use"}]}});
    let binding = value!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    cluster.done(&format!("POST {policies}/validatingadmissionpolicies"), Some(&policy)).await;
    cluster
        .done(&format!("POST {policies}/validatingadmissionpolicybindings"), Some(&binding))
        .await;
    cluster.server.hub().catch_up().await.unwrap();
    let before = hook.asked();
    let create = async |name: &str| {
        let map = value!({"metadata": {"name": name}});
        cluster.send(&BOB, "POST /api/v1/namespaces/default/configmaps", Some(&map)).await
    };
    let (code, answer) = create("yes").await;
    assert_eq!(code, 201, "{answer:?}");
    assert_eq!(hook.asked() - before, 3, "about the request, and about what the policy asks");
    let (code, answer) = create("no").await;
    assert_eq!(code, 422);
    assert!(answer.str_at(&["message"]).ends_with("denied request: may not use"), "{answer:?}");
}
