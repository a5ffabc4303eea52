//! Admission by webhooks, through the whole server.

use apimachinery::{Value, value};

use crate::cluster::{As, Cluster, admin};
use crate::hooks::{Hook, Reply, patch, response};

const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn rule(group: &str, version: &str, resource: &str, operations: &[&str]) -> Value {
    let operations: Value = operations.iter().copied().collect();
    value!({"apiGroups": [group], "apiVersions": [version], "resources": [resource],
        "operations": (operations)})
}

/// A webhook for all writes of config maps.
fn hook(name: &str, client: Value) -> Value {
    let rule = rule("", "v1", "configmaps", &["*"]);
    value!({"name": name, "rules": [(rule)], "clientConfig": (client), "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 5})
}

fn with(mut hook: Value, member: &str, value: impl Into<Value>) -> Value {
    hook.set_at(&[member], value);
    hook
}

async fn configure(cluster: &Cluster, kind: &str, name: &str, hooks: Vec<Value>) {
    let object = value!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": (format!("{kind}WebhookConfiguration")), "metadata": {"name": name},
        "webhooks": (Value::Array(hooks))});
    let resource = format!("{}webhookconfigurations", kind.to_lowercase());
    cluster.done(&format!("POST {CONFIGURATIONS}/{resource}"), Some(&object)).await;
}

fn map(name: &str) -> Value {
    value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

async fn create(cluster: &Cluster, name: &str) -> (u16, Value) {
    cluster.send(&admin(), &format!("POST {MAPS}"), Some(&map(name))).await
}

fn allow(review: &Value) -> Reply {
    response(review, &value!({"allowed": true}))
}

#[tokio::test]
async fn a_webhook_sees_what_is_asked_and_its_refusal_is_told() {
    let cluster = Cluster::start().await;
    let hook_server = Hook::start(|review| {
        let object = &review["request"]["object"];
        match object.str_at(&["metadata", "name"]) {
            "no" => response(
                review,
                &value!({"allowed": false, "warnings": ["mind"],
                "status": {"code": 409, "reason": "Odd", "message": "not today"}}),
            ),
            "mute" => response(review, &value!({"allowed": false})),
            _ => response(review, &value!({"allowed": true, "warnings": ["careful"]})),
        }
    })
    .await;
    let hooks = vec![hook("v.example.com", hook_server.config())];
    configure(&cluster, "Validating", "one", hooks).await;
    let warned = cluster.warnings(&format!("POST {MAPS}"), &map("yes")).await;
    assert_eq!(warned, ["299 - \"careful\""]);
    let (code, answer) = create(&cluster, "no").await;
    assert_eq!((code, answer.str_at(&["reason"])), (409, "Odd"));
    let message = "admission webhook \"v.example.com\" denied the request: not today";
    assert_eq!(answer.str_at(&["message"]), message);
    let (code, answer) = create(&cluster, "mute").await;
    let message = "admission webhook \"v.example.com\" denied the request without explanation";
    assert_eq!((code, answer.str_at(&["message"])), (400, message));
    cluster.done(&format!("DELETE {MAPS}/yes?dryRun=All"), None).await;
    let seen = hook_server.seen.lock();
    let request = &seen[0]["request"];
    assert_eq!(request["kind"], value!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(
        request["requestResource"],
        value!({"group": "", "version": "v1", "resource": "configmaps"})
    );
    assert_eq!(request.str_at(&["operation"]), "CREATE");
    assert_eq!((request.str_at(&["name"]), request.str_at(&["namespace"])), ("yes", "default"));
    assert_eq!(request.str_at(&["userInfo", "username"]), "admin");
    assert_eq!(request.str_at(&["options", "kind"]), "CreateOptions");
    assert!(request["oldObject"].is_null());
    let deleted = &seen[3]["request"];
    assert_eq!(deleted.str_at(&["operation"]), "DELETE");
    assert_eq!(deleted.str_at(&["oldObject", "metadata", "name"]), "yes");
    assert!(deleted["object"].is_null() && deleted.bool_at(&["dryRun"]));
}

#[tokio::test]
async fn a_webhook_sees_the_options_of_a_delete_as_they_are_applied() {
    let cluster = Cluster::start().await;
    let hook_server = Hook::start(allow).await;
    let deletes = rule("", "v1", "*", &["DELETE"]);
    let all = with(hook("v.example.com", hook_server.config()), "rules", value!([(deletes)]));
    configure(&cluster, "Validating", "one", vec![all]).await;
    let made = cluster.done(&format!("POST {MAPS}"), Some(&map("a"))).await;
    let uid = made.str_at(&["metadata", "uid"]);
    let options = value!({"preconditions": {"uid": uid}, "gracePeriodSeconds": (-1),
        "propagationPolicy": "Background"});
    // What the query says does not count beside a body.
    cluster.done(&format!("DELETE {MAPS}/a?propagationPolicy=Orphan"), Some(&options)).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = value!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "i"}]}});
    cluster
        .done(
            "POST /api/v1/namespaces/default/serviceaccounts",
            Some(&value!({"metadata": {"name": "default"}})),
        )
        .await;
    cluster.done(&format!("POST {pods}"), Some(&pod)).await;
    cluster.done(&format!("DELETE {pods}/p"), None).await;
    cluster.done(&format!("DELETE {pods}?dryRun=All"), None).await;
    let seen = hook_server.seen.lock();
    let options = |at: usize| seen[at]["request"]["options"].clone();
    let of = |mut members: Value| {
        members.set_at(&["kind"], "DeleteOptions");
        members.set_at(&["apiVersion"], "meta.k8s.io/v1");
        members
    };
    let expected = value!({"gracePeriodSeconds": 1, "preconditions": {"uid": uid},
        "propagationPolicy": "Background"});
    assert_eq!(options(0), of(expected));
    // A pod's grace period is its own, once it is going the one that it goes with.
    assert_eq!(options(1), of(value!({"gracePeriodSeconds": 30})));
    assert_eq!(options(2), of(value!({"gracePeriodSeconds": 30, "dryRun": ["All"]})));
}

#[tokio::test]
async fn reviews_are_no_webhook_s_business() {
    let cluster = Cluster::start().await;
    let hook_server = Hook::start(|review| response(review, &value!({"allowed": false}))).await;
    let rules = [
        rule("authorization.k8s.io", "v1", "subjectaccessreviews", &["CREATE"]),
        rule("authentication.k8s.io", "v1", "tokenreviews", &["CREATE"]),
    ];
    let rules: Value = rules.into_iter().collect();
    let all = with(hook("m.example.com", hook_server.config()), "rules", rules);
    configure(&cluster, "Mutating", "one", vec![all]).await;
    let path = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews";
    let review = value!({"spec": {"user": "jane", "groups": ["system:masters"],
        "resourceAttributes": {"verb": "list", "resource": "pods"}}});
    let answer = cluster.done(path, Some(&review)).await;
    assert!(answer.bool_at(&["status", "allowed"]), "{answer:?}");
    let path = "POST /apis/authentication.k8s.io/v1/tokenreviews";
    cluster.done(path, Some(&value!({"spec": {"token": "x"}}))).await;
    assert_eq!(hook_server.asked(), 0);
}

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "a table")]
async fn webhooks_that_fail_are_bounded_and_answered() {
    let cluster = Cluster::start().await;
    let silent = Hook::start(|_| Reply::Silence).await;
    let nonsense = Hook::start(|_| Reply::Raw(200, b"hello".to_vec())).await;
    let broken = Hook::start(|_| Reply::Raw(500, b"oops".to_vec())).await;
    let empty = Hook::start(|_| Reply::Json(value!({"kind": "AdmissionReview"}))).await;
    let other = Hook::start(|_| {
        Reply::Json(value!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": "x", "allowed": true}}))
    })
    .await;
    let kindless = Hook::start(|review| {
        let uid = review.str_at(&["request", "uid"]);
        Reply::Json(value!({"response": {"uid": uid, "allowed": true}}))
    })
    .await;
    let older = Hook::start(|review| {
        let uid = review.str_at(&["request", "uid"]);
        Reply::Json(value!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview",
            "response": {"uid": uid, "allowed": true}}))
    })
    .await;
    let huge = Hook::start(|_| Reply::Raw(200, vec![b' '; 17 << 20])).await;
    let wordless = Hook::start(|_| Reply::Raw(200, Vec::new())).await;
    let list = Hook::start(|_| Reply::Json(value!([]))).await;
    let status = Hook::start(|_| Reply::Json(value!({"apiVersion": "v1", "kind": "Status"}))).await;
    let patching = Hook::start(|review| patch(review, &value!([]))).await;
    let wrong_name = Hook::named("elsewhere.example", allow).await;
    let nameless = Hook::named("CN=127.0.0.1", allow).await;
    let trusted = silent.config();
    let mut stranger = nonsense.config();
    stranger.set_at(&["caBundle"], trusted["caBundle"].clone());
    let gone = value!({"url": "https://127.0.0.1:1"});
    let service = value!({"service": {"namespace": "default", "name": "hooks", "path": "/v"}});
    let cases = [
        (silent.config(), "context deadline exceeded"),
        (
            nonsense.config(),
            "failed to call webhook: couldn't get version/kind; json parse error: invalid character 'h' looking for beginning of value",
        ),
        (
            wordless.config(),
            "failed to call webhook: 0-length response with status code: 200 and content type: application/json",
        ),
        (
            list.config(),
            "couldn't get version/kind; json parse error: json: cannot unmarshal array into Go value of type struct {",
        ),
        (
            status.config(),
            "failed to call webhook: converting (v1.Status) to (v1.AdmissionReview): unknown conversion",
        ),
        (
            broken.config(),
            "failed to call webhook: an error on the server (\"oops\") has prevented the request from succeeding",
        ),
        (empty.config(), "received invalid webhook response: webhook response was absent"),
        (other.config(), ", got \"x\""),
        (
            kindless.config(),
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=",
        ),
        (
            older.config(),
            "failed to call webhook: converting (v1beta1.AdmissionReview) to (v1.AdmissionReview): unknown conversion",
        ),
        (huge.config(), "the answer has more than 16777216 bytes"),
        (patching.config(), "validating webhook may not return response.patch"),
        (
            wrong_name.config(),
            "tls: failed to verify certificate: x509: certificate is valid for elsewhere.example, not 127.0.0.1",
        ),
        (
            nameless.config(),
            "tls: failed to verify certificate: x509: certificate relies on legacy Common Name field, use SANs instead",
        ),
        (
            stranger,
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        ),
        (gone, "dial tcp 127.0.0.1:1: connect: connection refused"),
        (
            service,
            "failed to call webhook: Post \"https://hooks.default.svc:443/v?timeout=1s\": service \"hooks\" not found",
        ),
    ];
    let resource = format!("{CONFIGURATIONS}/validatingwebhookconfigurations");
    for (index, (client, expected)) in cases.into_iter().enumerate() {
        let name = format!("h{index}.example.com");
        let failing = with(hook(&name, client), "timeoutSeconds", 1);
        configure(&cluster, "Validating", &name, vec![failing.clone()]).await;
        let (code, answer) = create(&cluster, &format!("m{index}")).await;
        let message = answer.str_at(&["message"]);
        let begin = format!("Internal error occurred: failed calling webhook \"{name}\": ");
        assert!(message.starts_with(&begin) && message.contains(expected), "{message}");
        assert_eq!((code, answer.str_at(&["reason"])), (500, "InternalError"));
        cluster.done(&format!("DELETE {resource}/{name}"), None).await;
        let open = with(failing, "failurePolicy", "Ignore");
        configure(&cluster, "Validating", &name, vec![open]).await;
        let (code, answer) = create(&cluster, &format!("m{index}")).await;
        assert_eq!(code, 201, "{answer:?}");
        cluster.done(&format!("DELETE {resource}/{name}"), None).await;
    }
    let (_, metrics) = cluster.send(&admin(), "GET /metrics", None).await;
    let metrics = metrics.as_str().unwrap();
    for line in [
        "apiserver_admission_webhook_rejection_count{error_type=\"calling_webhook_error\",name=\"h0.example.com\",operation=\"CREATE\",rejection_code=\"503\",type=\"validating\"} 1",
        // Once refused, once let go.
        "apiserver_webhooks_x509_missing_san_total 2",
        "apiserver_webhooks_x509_insecure_sha1_total 0",
        "apiserver_admission_webhook_fail_open_count{name=\"h0.example.com\",type=\"validating\"} 1",
        "apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"true\",type=\"validate\"}",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
}

#[tokio::test]
async fn a_mutating_webhook_changes_the_object_and_others_see_it_again() {
    let cluster = Cluster::start().await;
    let first = Hook::start(|review| {
        let seen = review.at(&["request", "object", "data"]).is_some();
        if seen {
            return patch(review, &value!([{"op": "add", "path": "/data/first", "value": "saw"}]));
        }
        allow(review)
    })
    .await;
    let second = Hook::start(|review| {
        patch(review, &value!([{"op": "add", "path": "/data", "value": {"second": "was here"}}]))
    })
    .await;
    let again = with(hook("a.example.com", first.config()), "reinvocationPolicy", "IfNeeded");
    let hooks = vec![again, hook("b.example.com", second.config())];
    configure(&cluster, "Mutating", "two", hooks).await;
    let (code, made) = create(&cluster, "m").await;
    assert_eq!(code, 201, "{made:?}");
    assert_eq!(made["data"], value!({"first": "saw", "second": "was here"}));
    // Nobody is asked a third time, and who did not ask for it only once.
    assert_eq!((first.asked(), second.asked()), (2, 1));
    assert!(!made.str_at(&["metadata", "uid"]).is_empty());
    let seen = first.seen.lock();
    assert_eq!(seen[0].str_at(&["request", "object", "metadata", "uid"]), "");
}

#[tokio::test]
async fn webhooks_that_patch_for_ever_are_asked_twice() {
    let cluster = Cluster::start().await;
    let looping = || {
        Hook::start(|review| {
            let count = review.str_at(&["request", "object", "data", "n"]).len();
            let more = "x".repeat(count + 1);
            patch(review, &value!([{"op": "add", "path": "/data", "value": {"n": (more)}}]))
        })
    };
    let (one, two) = (looping().await, looping().await);
    let hooks = [("a.example.com", &one), ("b.example.com", &two)];
    let hooks =
        hooks.map(|(name, it)| with(hook(name, it.config()), "reinvocationPolicy", "IfNeeded"));
    configure(&cluster, "Mutating", "loop", hooks.to_vec()).await;
    let (code, made) = create(&cluster, "m").await;
    assert_eq!(code, 201, "{made:?}");
    assert!(one.asked() == 2 && two.asked() <= 2, "{} {}", one.asked(), two.asked());
}

#[tokio::test]
async fn what_a_webhook_makes_is_checked() {
    let cluster = Cluster::start().await;
    let hook_server = Hook::start(|review| {
        let operations = match review.str_at(&["request", "object", "metadata", "name"]) {
            "label" => value!([{"op": "add", "path": "/metadata/labels", "value": {"a": "-bad-"}}]),
            "path" => value!([{"op": "replace", "path": "/no/such", "value": 1}]),
            _ => value!([{"op": "add", "path": "/data", "value": 7}]),
        };
        patch(review, &operations)
    })
    .await;
    configure(&cluster, "Mutating", "m", vec![hook("m.example.com", hook_server.config())]).await;
    let (code, answer) = create(&cluster, "label").await;
    assert_eq!((code, answer.str_at(&["reason"])), (422, "Invalid"));
    for name in ["path", "type"] {
        let (code, answer) = create(&cluster, name).await;
        assert_eq!((code, answer.str_at(&["reason"])), (500, "InternalError"), "{answer:?}");
    }
}

#[tokio::test]
async fn managed_fields_that_a_webhook_breaks_are_put_back() {
    let cluster = Cluster::start().await;
    let broken = || {
        let entry = "/metadata/managedFields/0/operation";
        value!([{"op": "replace", "path": (entry), "value": "X"},
            {"op": "add", "path": "/data/b", "value": "c"}])
    };
    let hook_server = Hook::start(move |review| patch(review, &broken())).await;
    configure(&cluster, "Mutating", "m", vec![hook("m.example.com", hook_server.config())]).await;
    let sent = with(map("a"), "data", value!({"a": "b"}));
    let warnings = cluster.warnings(&format!("POST {MAPS}"), &sent).await;
    assert_eq!(
        warnings,
        [
            "299 - \".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: operation must be `Apply` or `Update`\""
        ]
    );
    let made = cluster.done(&format!("GET {MAPS}/a"), None).await;
    let entries = made.items_at(&["metadata", "managedFields"]);
    assert_eq!((made.str_at(&["data", "b"]), entries[0].str_at(&["operation"])), ("c", "Update"));
}

#[tokio::test]
async fn whom_a_webhook_concerns() {
    let cluster = Cluster::start().await;
    let hook_server = Hook::start(|review| {
        response(review, &value!({"allowed": false, "status": {"message": "seen"}}))
    })
    .await;
    let base = || hook("v.example.com", hook_server.config());
    let selector = |labels: Value| value!({"matchLabels": (labels)});
    let condition = |text: &str| value!([{"name": "c", "expression": text}]);
    let rules = |it: Value| value!([(it)]);
    let never = rule("apps", "v1", "configmaps", &["CREATE"]);
    let update = rule("", "*", "*", &["UPDATE"]);
    let cluster_wide = with(rule("", "v1", "*", &["*"]), "scope", "Cluster");
    let all = rule("*", "*", "*/*", &["*"]);
    let other = selector(value!({"kubernetes.io/metadata.name": "other"}));
    let own = selector(value!({"kubernetes.io/metadata.name": "default"}));
    let cases = [
        (base(), "seen"),
        (with(base(), "rules", rules(all)), "seen"),
        (with(base(), "rules", rules(never)), ""),
        (with(base(), "rules", rules(update)), ""),
        (with(base(), "rules", rules(cluster_wide)), ""),
        (with(base(), "namespaceSelector", own), "seen"),
        (with(base(), "namespaceSelector", other), ""),
        (with(base(), "objectSelector", selector(value!({"a": "b"}))), ""),
        (with(base(), "matchConditions", condition("object.metadata.name != 'm'")), ""),
        (
            with(base(), "matchConditions", condition("request.userInfo.username == 'admin'")),
            "seen",
        ),
        (
            with(
                base(),
                "matchConditions",
                condition("authorizer.group('').resource('pods').check('get').allowed()"),
            ),
            "seen",
        ),
        (
            with(base(), "matchConditions", condition("object.nope == 1")),
            "configmaps \"m\" is forbidden: expression 'object.nope == 1' resulted in error: no such key: nope",
        ),
    ];
    for (configured, expected) in cases {
        configure(&cluster, "Validating", "v", vec![configured.clone()]).await;
        let (code, answer) = create(&cluster, "m").await;
        let message = answer.str_at(&["message"]);
        assert!(message.ends_with(expected), "{configured:?}: {message}");
        assert_eq!(code == 201, expected.is_empty(), "{configured:?}");
        let resource = format!("{CONFIGURATIONS}/validatingwebhookconfigurations");
        cluster.done(&format!("DELETE {resource}/v"), None).await;
        if code == 201 {
            cluster.done(&format!("DELETE {MAPS}/m"), None).await;
        }
    }
    let (_, metrics) = cluster.send(&admin(), "GET /metrics", None).await;
    let name = "apiserver_admission_match_condition_evaluation_seconds_count{kind=\"webhook\",";
    let labels = "operation=\"CREATE\",type=\"validating\"} 4";
    let mut lines = metrics.as_str().unwrap().lines();
    assert!(lines.any(|it| it.starts_with(name) && it.ends_with(labels)));
}

#[tokio::test]
async fn an_equivalent_version_is_seen_as_the_rule_names_it() {
    let cluster = Cluster::start().await;
    let hook_server = Hook::start(|review| {
        patch(review, &value!([{"op": "add", "path": "/spec/maxReplicas", "value": 9}]))
    })
    .await;
    let v1 = rule("autoscaling", "v1", "horizontalpodautoscalers", &["CREATE"]);
    let wanted = with(hook("m.example.com", hook_server.config()), "rules", value!([(v1)]));
    configure(&cluster, "Mutating", "m", vec![wanted]).await;
    let object = value!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "minReplicas": 1,
            "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let made = cluster.done(&format!("POST {path}"), Some(&object)).await;
    assert_eq!(made.i64_at(&["spec", "maxReplicas"]), Some(9));
    assert_eq!(made.str_at(&["apiVersion"]), "autoscaling/v2");
    let seen = hook_server.seen.lock();
    assert_eq!(seen[0].str_at(&["request", "object", "apiVersion"]), "autoscaling/v1");
    assert_eq!(seen[0].str_at(&["request", "requestKind", "version"]), "v2");
    assert_eq!(seen[0].str_at(&["request", "kind", "version"]), "v1");
}

#[tokio::test]
async fn a_scale_is_seen_as_one() {
    let cluster = Cluster::start().await;
    let hook_server = Hook::start(|review| {
        patch(review, &value!([{"op": "replace", "path": "/spec/replicas", "value": 2}]))
    })
    .await;
    let scale = rule("apps", "v1", "deployments/scale", &["UPDATE"]);
    let wanted = with(hook("m.example.com", hook_server.config()), "rules", value!([(scale)]));
    configure(&cluster, "Mutating", "m", vec![wanted]).await;
    let object = value!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    cluster.done(&format!("POST {path}"), Some(&object)).await;
    let patch = value!({"spec": {"replicas": 5}});
    let scaled = cluster.done(&format!("PATCH {path}/d/scale"), Some(&patch)).await;
    assert_eq!(scaled.i64_at(&["spec", "replicas"]), Some(2));
    let seen = hook_server.seen.lock();
    let kind = value!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
    assert_eq!(seen[0]["request"]["kind"], kind);
    assert_eq!(seen[0].i64_at(&["request", "object", "spec", "replicas"]), Some(5));
    assert_eq!(seen[0].str_at(&["request", "subResource"]), "scale");
}

#[tokio::test]
async fn configurations_themselves_are_never_subject_to_webhooks() {
    let cluster = Cluster::start().await;
    let gone = value!({"url": "https://127.0.0.1:1"});
    let all = rule("*", "*", "*", &["*"]);
    let wanted = with(hook("v.example.com", gone), "rules", value!([(all)]));
    configure(&cluster, "Validating", "v", vec![wanted]).await;
    let (code, _) = create(&cluster, "m").await;
    assert_eq!(code, 500);
    let path = format!("DELETE {CONFIGURATIONS}/validatingwebhookconfigurations/v");
    cluster.done(&path, None).await;
    let (code, _) = create(&cluster, "m").await;
    assert_eq!(code, 201);
    let nobody = As::Nobody;
    let (code, _) = cluster.send(&nobody, &format!("POST {MAPS}"), Some(&map("x"))).await;
    assert_eq!(code, 403);
}

#[tokio::test]
async fn a_webhook_is_found_by_its_service() {
    let cluster = Cluster::start().await;
    let hook_server = Hook::named("hooks.default.svc", allow).await;
    let port: i64 = hook_server.url.rsplit(':').next().unwrap().parse().unwrap();
    let service = value!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hooks"},
        "spec": {"type": "ExternalName", "externalName": "localhost"}});
    cluster.done("POST /api/v1/namespaces/default/services", Some(&service)).await;
    let plain = value!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "plain"},
        "spec": {"ports": [{"port": 443}], "selector": {"a": "b"}}});
    cluster.done("POST /api/v1/namespaces/default/services", Some(&plain)).await;
    let client = |name: &str, port: i64| {
        value!({"caBundle": (hook_server.bundle.as_str()),
            "service": {"namespace": "default", "name": name, "port": port, "path": "/v"}})
    };
    cluster.server.hub().catch_up().await.unwrap();
    for (client, expected) in [
        (client("hooks", port), ""),
        (client("plain", 443), "no endpoints available for service \"plain\""),
        (client("plain", 80), "no service port 80 found for service \"plain\""),
    ] {
        configure(&cluster, "Validating", "v", vec![hook("v.example.com", client)]).await;
        let (code, answer) = create(&cluster, "m").await;
        let message = answer.str_at(&["message"]);
        assert!(message.ends_with(expected), "{message}");
        assert_eq!(code == 201, expected.is_empty(), "{message}");
        let path = format!("DELETE {CONFIGURATIONS}/validatingwebhookconfigurations/v");
        cluster.done(&path, None).await;
    }
    assert_eq!(hook_server.asked(), 1);
}

#[tokio::test]
async fn streams_and_what_is_posted_to_pods_are_seen_as_what_they_are() {
    let cluster = Cluster::start().await;
    let hook_server = Hook::start(|review| {
        response(review, &value!({"allowed": false, "status": {"message": "no"}}))
    })
    .await;
    let account =
        value!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    cluster.send(&admin(), "POST /api/v1/namespaces/default/serviceaccounts", Some(&account)).await;
    let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    cluster.done(&format!("POST {pods}"), Some(&pod)).await;
    let all = rule("", "v1", "pods/*", &["*"]);
    let wanted = with(hook("v.example.com", hook_server.config()), "rules", value!([(all)]));
    configure(&cluster, "Validating", "v", vec![wanted]).await;
    let eviction =
        value!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let binding = value!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"name": "n"}});
    let exec = format!("POST {pods}/p/exec?command=ls&command=-l&stdin=true");
    let cases = [
        (exec, None, "PodExecOptions", "CONNECT"),
        (format!("POST {pods}/p/eviction"), Some(&eviction), "Eviction", "CREATE"),
        (format!("POST {pods}/p/binding"), Some(&binding), "Binding", "CREATE"),
    ];
    for (index, (request, body, kind, operation)) in cases.into_iter().enumerate() {
        let (code, answer) = cluster.send(&admin(), &request, body).await;
        let message = "admission webhook \"v.example.com\" denied the request: no";
        assert_eq!((code, answer.str_at(&["message"])), (400, message));
        let seen = hook_server.seen.lock();
        let asked = &seen[index]["request"];
        assert_eq!(asked.str_at(&["kind", "kind"]), kind);
        assert_eq!(asked.str_at(&["object", "kind"]), kind);
        assert_eq!(asked.str_at(&["operation"]), operation);
        assert_eq!(asked.str_at(&["resource", "resource"]), "pods");
    }
    let seen = hook_server.seen.lock();
    let command: Value = ["ls", "-l"].into_iter().collect();
    assert_eq!(seen[0]["request"]["object"]["command"], command);
    assert!(seen[0].bool_at(&["request", "object", "stdin"]));
}

#[tokio::test]
async fn what_is_deleted_cannot_be_patched() {
    let cluster = Cluster::start().await;
    let hook_server =
        Hook::start(|review| patch(review, &value!([{"op": "add", "path": "/data", "value": {}}])))
            .await;
    cluster.done(&format!("POST {MAPS}"), Some(&map("m"))).await;
    configure(&cluster, "Mutating", "m", vec![hook("m.example.com", hook_server.config())]).await;
    let (code, answer) = cluster.send(&admin(), &format!("DELETE {MAPS}/m"), None).await;
    let message = "Internal error occurred: admission webhook \"m.example.com\" attempted to modify the object, which is not supported for this operation";
    assert_eq!((code, answer.str_at(&["message"])), (500, message));
}

#[tokio::test]
async fn a_dry_run_asks_only_webhooks_without_side_effects() {
    let cluster = Cluster::start().await;
    let hook_server = Hook::start(allow).await;
    let none = hook("v.example.com", hook_server.config());
    let on_dry_run = with(none.clone(), "sideEffects", "NoneOnDryRun");
    for configured in [none, on_dry_run] {
        configure(&cluster, "Validating", "v", vec![configured]).await;
        cluster.done(&format!("POST {MAPS}?dryRun=All"), Some(&map("m"))).await;
        let path = format!("DELETE {CONFIGURATIONS}/validatingwebhookconfigurations/v");
        cluster.done(&path, None).await;
    }
    let seen = hook_server.seen.lock();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|it| it.bool_at(&["request", "dryRun"])));
}

/// Not a test of speed: it prints what a validating webhook adds, for the record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn what_a_webhook_costs() {
    let cluster = Cluster::start().await;
    let measure = async |name: &str| {
        let mut took = Vec::new();
        for index in 0..1_000 {
            let began = tokio::time::Instant::now();
            let (code, _) = create(&cluster, &format!("{name}{index}")).await;
            took.push(began.elapsed());
            assert_eq!(code, 201);
        }
        took.sort();
        (took[500], took[990])
    };
    let without = measure("a").await;
    let hook_server = Hook::start(allow).await;
    let hooks = vec![hook("v.example.com", hook_server.config())];
    configure(&cluster, "Validating", "v", hooks).await;
    let with = measure("b").await;
    println!("p50, p99 without {without:?}, with {with:?}");
}
