//! What is recorded of requests, through the whole server.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, json, value};
use apiserver::Body;
use audit::{Audit, Backend, Batching, Format, Mode, Policy, Throttle};
use auth::UserInfo;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use component_base::{RealClock, SeededRandom};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;

use crate::bad_input::streams::Agent;
use crate::cluster::{As, Cluster, With, admin, memory};
use crate::hooks::{Hook, Reply};

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn policy(rules: &str) -> Policy {
    let text = format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n{rules}");
    Policy::parse(text.as_bytes()).unwrap()
}

/// A server that records by these rules, and its log.
async fn start(rules: &str) -> (Cluster, Log) {
    let log = Log::default();
    let backend = Backend::log(log.clone(), Format::Json, Mode::BlockingStrict, None);
    let audit = Audit::start(policy(rules), vec![backend], Arc::new(RealClock));
    let cluster = Cluster::on(memory(), With { audit: Some(audit), ..With::default() }).await;
    log.0.lock().clear();
    (cluster, log)
}

impl Log {
    /// What was recorded since the last time.
    fn take(&self) -> Vec<Value> {
        let text = std::mem::take(&mut *self.0.lock());
        let lines = text.split(|it| *it == b'\n').filter(|it| !it.is_empty());
        lines.map(|it| json::parse(it).unwrap()).collect()
    }

    /// The last event of the only request since the last time.
    fn last(&self) -> Value {
        self.take().pop().unwrap()
    }

    /// Waits until so many events were recorded.
    async fn wait(&self, count: usize) -> Vec<Value> {
        for _ in 0..1_000 {
            if self.0.lock().iter().filter(|it| **it == b'\n').count() >= count {
                return self.take();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("there are only {:?}", self.take());
    }
}

/// Stage, level, verb, code and annotations of events.
fn told(events: &[Value]) -> Vec<String> {
    let line = |it: &Value| {
        let text = |member| it.str_at(&[member]).to_owned();
        let code = it.i64_at(&["responseStatus", "code"]).unwrap_or_default();
        format!("{} {} {} {code}", text("stage"), text("level"), text("verb"))
    };
    events.iter().map(line).collect()
}

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn secret(name: &str) -> Value {
    value!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
        "stringData": {"key": "hidden"}})
}

#[tokio::test]
async fn a_request_is_recorded_at_each_stage_with_what_the_level_says() {
    let (cluster, log) = start(
        "- {level: RequestResponse, resources: [{group: '', resources: [secrets]}], omitManagedFields: true}
- {level: Request, resources: [{group: '', resources: [configmaps]}], omitStages: [RequestReceived]}
- {level: Metadata, resources: [{group: '', resources: [namespaces]}]}",
    )
    .await;
    let response = cluster
        .respond_with(
            &admin(),
            &format!("POST {SECRETS}?fieldManager=m"),
            &[
                ("user-agent", "me/1"),
                ("x-forwarded-for", "10.1.1.1, 10.2.2.2"),
                ("audit-id", "my-id"),
            ],
            Some(&secret("s")),
        )
        .await;
    assert_eq!(response.headers()["audit-id"], "my-id");
    let events = log.take();
    assert_eq!(
        told(&events),
        ["RequestReceived RequestResponse create 0", "ResponseComplete RequestResponse create 201"]
    );
    let [first, last] = events.as_slice() else { unreachable!() };
    assert_eq!(first.get("requestObject"), None);
    assert_eq!(last.str_at(&["auditID"]), "my-id");
    assert_eq!(last.str_at(&["requestURI"]), format!("{SECRETS}?fieldManager=m"));
    assert_eq!(last["sourceIPs"], value!(["10.1.1.1", "10.2.2.2", "::1"]));
    assert_eq!(last.str_at(&["userAgent"]), "me/1");
    assert_eq!(
        last["user"],
        value!({"username": "admin", "groups": ["system:masters", "system:authenticated"]})
    );
    assert_eq!(
        last["objectRef"],
        value!({"apiVersion": "v1", "name": "s", "namespace": "default", "resource": "secrets"})
    );
    assert_eq!(last.str_at(&["annotations", "authorization.k8s.io/decision"]), "allow");
    for object in ["requestObject", "responseObject"] {
        assert_eq!(last.str_at(&[object, "data", "key"]), BASE64_STANDARD.encode("hidden"));
    }
    assert!(!last.str_at(&["responseObject", "metadata", "uid"]).is_empty());
    assert_eq!(last.at(&["responseObject", "metadata", "managedFields"]), None);

    let map = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    cluster.done("POST /api/v1/namespaces/default/configmaps", Some(&map)).await;
    let events = log.take();
    assert_eq!(told(&events), ["ResponseComplete Request create 201"]);
    assert_eq!(events[0].str_at(&["requestObject", "metadata", "name"]), "m");
    assert_eq!(events[0].get("responseObject"), None);

    let patch = value!({"data": {"a": "b"}});
    cluster.done("PATCH /api/v1/namespaces/default/configmaps/m", Some(&patch)).await;
    assert_eq!(log.last()["requestObject"], patch);

    cluster.done("GET /api/v1/namespaces/default", None).await;
    let last = log.last();
    assert_eq!(last["responseStatus"], value!({"metadata": {}, "code": 200}));
    assert_eq!(last.get("responseObject"), None);
    cluster.done("GET /api/v1/nodes", None).await;
    assert!(log.take().is_empty(), "no rule matches");
}

#[tokio::test]
async fn lists_are_recorded_whole_and_watches_without_bodies() {
    let (cluster, log) =
        start("- {level: RequestResponse, resources: [{group: '', resources: [secrets]}]}").await;
    let mut large = secret("s0");
    large.set_at(&["stringData", "key"], "x".repeat(20_000));
    for index in 0..8 {
        large.set_at(&["metadata", "name"], format!("s{index}"));
        cluster.done(&format!("POST {SECRETS}"), Some(&large)).await;
    }
    log.take();
    // More than one piece.
    let response = cluster.respond(&admin(), &format!("GET {SECRETS}"), None).await;
    assert_eq!(told(&log.take()), ["RequestReceived RequestResponse list 0"], "it is not over yet");
    let Body::Stream(pieces) = response.into_body() else { panic!("not streamed") };
    let sent = pieces.collect::<Vec<_>>().await.concat();
    let events = log.take();
    assert_eq!(told(&events), ["ResponseComplete RequestResponse list 200"]);
    assert_eq!(events[0]["responseObject"], json::parse(&sent).unwrap());
    assert_eq!(events[0].items_at(&["responseObject", "items"]).len(), 8);
    // As metadata, and in YAML and protobuf, what is recorded is JSON.
    for media in [
        "application/yaml",
        "application/vnd.kubernetes.protobuf",
        "application/json;as=Table;g=meta.k8s.io;v=v1",
    ] {
        let one = format!("GET {SECRETS}/s0");
        cluster.respond_with(&admin(), &one, &[("accept", media)], None).await;
        let last = log.last();
        let kind = last.str_at(&["responseObject", "kind"]);
        assert_eq!(kind, if media.contains("Table") { "Table" } else { "Secret" }, "{media}");
    }
    let mut watch = cluster.watch(&format!("{SECRETS}?watch=1")).await;
    watch.next().await.unwrap();
    assert_eq!(
        told(&log.take()),
        ["RequestReceived RequestResponse watch 0", "ResponseStarted RequestResponse watch 200"]
    );
    drop(watch);
    let events = log.wait(1).await;
    assert_eq!(told(&events), ["ResponseComplete RequestResponse watch 200"]);
    assert_eq!(events[0].get("responseObject"), None);
}

#[tokio::test]
async fn refusals_and_those_who_speak_for_others_are_recorded() {
    let (cluster, log) = start("- {level: Metadata}").await;
    let bob = UserInfo::new("bob", &[]);
    let (code, _) = cluster.send(&As::User(bob), &format!("GET {SECRETS}/s"), None).await;
    assert_eq!(code, 403);
    let last = log.last();
    let annotation = |key: &str| last.str_at(&["annotations", key]).to_owned();
    assert_eq!(annotation("authorization.k8s.io/decision"), "forbid");
    assert_eq!(last.str_at(&["responseStatus", "status"]), "Failure");
    assert_eq!(last.str_at(&["responseStatus", "reason"]), "Forbidden");
    assert!(last.str_at(&["responseStatus", "message"]).starts_with("secrets \"s\" is forbidden"));

    let (code, _) = cluster.send(&As::Token("nobody-s"), "GET /api/v1/nodes", None).await;
    assert_eq!(code, 401);
    let events = log.take();
    assert_eq!(told(&events), ["ResponseStarted Metadata list 401"]);
    assert_eq!(
        events[0].str_at(&["responseStatus", "message"]),
        "Authentication failed, attempted: bearer"
    );

    let headers = [("impersonate-user", "jane"), ("impersonate-group", "dev")];
    cluster.respond_with(&admin(), "GET /version", &headers, None).await;
    let last = log.last();
    assert_eq!(last.str_at(&["user", "username"]), "admin");
    assert_eq!(
        last["impersonatedUser"],
        value!({"username": "jane", "groups": ["dev", "system:authenticated"]})
    );
    assert_eq!(last.get("objectRef"), None);
    let (code, _) = cluster.send(&admin(), &format!("DELETE {SECRETS}/none"), None).await;
    assert_eq!((code, log.last().str_at(&["responseStatus", "reason"])), (404, "NotFound"));
}

#[tokio::test]
async fn a_delete_is_recorded_with_its_options_and_its_status() {
    let (cluster, log) = start("- {level: RequestResponse}").await;
    cluster.done(&format!("POST {SECRETS}"), Some(&secret("s"))).await;
    let options = value!({"propagationPolicy": "Background"});
    cluster.done(&format!("DELETE {SECRETS}/s"), Some(&options)).await;
    let last = log.last();
    assert_eq!(last.str_at(&["requestObject", "propagationPolicy"]), "Background");
    assert_eq!(last.str_at(&["requestObject", "kind"]), "DeleteOptions");
    assert_eq!(last.str_at(&["responseStatus", "status"]), "Success");
    assert_eq!(last.i64_at(&["responseStatus", "code"]), Some(200));
    assert_eq!(last.str_at(&["responseObject", "kind"]), "Status");
}

#[tokio::test]
async fn pod_security_and_policies_tell_the_audit() {
    let (cluster, log) =
        start("- {level: Metadata, resources: [{group: '', resources: [pods, configmaps]}]}").await;
    let labels = value!({"pod-security.kubernetes.io/audit": "restricted"});
    let space = value!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": labels}});
    cluster.done("POST /api/v1/namespaces", Some(&space)).await;
    let account =
        value!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    cluster.done("POST /api/v1/namespaces/n/serviceaccounts", Some(&account)).await;
    let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.done("POST /api/v1/namespaces/n/pods", Some(&pod)).await;
    let last = log.last();
    let annotation = |key: &str| last.str_at(&["annotations", key]).to_owned();
    assert_eq!(annotation("pod-security.kubernetes.io/enforce-policy"), "privileged:latest");
    let violations = annotation("pod-security.kubernetes.io/audit-violations");
    assert!(
        violations.starts_with(
            "would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false"
        ),
        "{violations}"
    );
    let group = "/apis/admissionregistration.k8s.io/v1";
    let spec = value!({"validations": [{"expression": "false", "message": "odd"}],
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["configmaps"]}]}});
    let policy = value!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "p"}, "spec": (spec)});
    cluster.done(&format!("POST {group}/validatingadmissionpolicies"), Some(&policy)).await;
    let binding = value!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Audit"]}});
    cluster.done(&format!("POST {group}/validatingadmissionpolicybindings"), Some(&binding)).await;
    let map = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    cluster.done("POST /api/v1/namespaces/n/configmaps", Some(&map)).await;
    let last = log.last();
    let key = "validation.policy.admission.k8s.io/validation_failure";
    assert!(last.str_at(&["annotations", key]).contains("\"message\":\"odd\""), "{last:?}");
}

/// Writes nothing.
struct Broken;

impl Write for Broken {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("disk full"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_is_refused_where_that_is_wanted() {
    for (mode, expected) in [(Mode::BlockingStrict, 500), (Mode::Blocking, 200)] {
        let backend = Backend::log(Broken, Format::Json, mode, None);
        let rules = policy("- {level: Metadata, nonResourceURLs: [/version]}");
        let audit = Audit::start(rules, vec![backend], Arc::new(RealClock));
        let cluster = Cluster::on(memory(), With { audit: Some(audit), ..With::default() }).await;
        let (code, answer) = cluster.send(&admin(), "GET /version", None).await;
        assert_eq!(code, expected, "{answer:?}");
        let (_, metrics) = cluster.send(&admin(), "GET /metrics", None).await;
        let refused = u8::from(expected == 500);
        let line = format!("apiserver_audit_requests_rejected_total {refused}\n");
        assert!(metrics.as_str().unwrap().contains(&line));
        assert!(
            metrics
                .as_str()
                .unwrap()
                .contains("apiserver_audit_level_total{level=\"Metadata\"} 1\n")
        );
    }
}

#[tokio::test]
async fn a_webhook_gets_batches_and_is_tried_again() {
    let failed = Arc::new(Mutex::new(1));
    let failing = Arc::clone(&failed);
    let hook = Hook::start(move |_| {
        let mut left = failing.lock();
        if *left > 0 {
            *left -= 1;
            return Reply::Raw(500, b"not now".to_vec());
        }
        Reply::Raw(200, Vec::new())
    })
    .await;
    let kubeconfig = format!(
        "current-context: c\ncontexts: [{{name: c, context: {{cluster: k}}}}]\n\
         clusters: [{{name: k, cluster: {{server: '{}/audit', certificate-authority-data: {}}}}}]\n",
        hook.url, hook.bundle
    );
    let config = webhook::Kubeconfig::parse(kubeconfig.as_bytes(), std::path::Path::new("."));
    let client = webhook::Client::of_kubeconfig(config.unwrap());
    let batching = Batching {
        buffer_size: 100,
        max_size: 3,
        max_wait: Duration::from_secs(30),
        throttle: Some(Throttle { qps: 10.0, burst: 15 }),
    };
    let backoff = Duration::from_millis(10);
    let random = Arc::new(SeededRandom::new(1));
    let backend = Backend::webhook(client, backoff, random, Mode::Batch(batching), None);
    let rules =
        policy("- {level: Metadata, nonResourceURLs: [/version], omitStages: [RequestReceived]}");
    let audit = Audit::start(rules, vec![backend], Arc::new(RealClock));
    let cluster =
        Cluster::on(memory(), With { audit: Some(Arc::clone(&audit)), ..With::default() }).await;
    for _ in 0..4 {
        cluster.done("GET /version", None).await;
    }
    audit.finish().await;
    let seen = hook.seen.lock();
    let sizes: Vec<usize> = seen.iter().map(|it| it.items_at(&["items"]).len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 7, "three events were sent twice: {sizes:?}");
    let first = &seen[0];
    assert_eq!(
        (first.str_at(&["kind"]), first.str_at(&["apiVersion"])),
        ("EventList", "audit.k8s.io/v1")
    );
    assert_eq!(first.items_at(&["items"])[0].get("kind"), None);
}

/// Breaks down over one path.
#[derive(Debug)]
struct Fragile;

impl auth::Authorizer for Fragile {
    fn decide(&self, attributes: &auth::Attributes<'_>) -> Option<auth::Decision> {
        assert_ne!(attributes.path, "/version", "that was too much");
        Some(auth::Decision::Allow(String::new()))
    }

    fn rules_for(
        &self,
        _user: &UserInfo,
        _namespace: &str,
    ) -> Result<auth::Rules, apimachinery::Status> {
        Ok(auth::Rules::default())
    }
}

#[tokio::test]
async fn a_breakdown_is_recorded() {
    let log = Log::default();
    let backend = Backend::log(log.clone(), Format::Json, Mode::Blocking, None);
    let rules = policy("- {level: Metadata}");
    let audit = Audit::start(rules, vec![backend], Arc::new(RealClock));
    let (audit, authorizer) = (Some(audit), Some(Arc::new(Fragile) as _));
    let cluster = Cluster::on(memory(), With { audit, authorizer, ..With::default() }).await;
    log.take();
    let who = admin();
    let asking = cluster.send(&who, "GET /version", None);
    let broken = std::panic::AssertUnwindSafe(asking).catch_unwind().await;
    assert!(broken.is_err(), "it goes on to break down");
    let events = log.take();
    assert_eq!(told(&events), ["RequestReceived Metadata get 0", "Panic Metadata get 500"]);
    let message = events[1].str_at(&["responseStatus", "message"]);
    assert!(
        message.starts_with("APIServer panic'd: ") && message.contains("that was too much"),
        "{message}"
    );
    cluster.done("GET /healthz", None).await;
}

#[tokio::test]
async fn versions_that_are_deprecated_are_told() {
    let log = Log::default();
    let backend = Backend::log(log.clone(), Format::Json, Mode::Blocking, None);
    let rules = policy("- {level: Metadata, resources: [{group: apps}, {group: extensions}]}");
    let audit = Some(Audit::start(rules, vec![backend], Arc::new(RealClock)));
    let registry = Some(registry::Registry::with_removed_versions());
    let cluster = Cluster::on(memory(), With { audit, registry, ..With::default() }).await;
    for (version, deprecated, removed) in [
        ("apps/v1", "", ""),
        ("apps/v1beta1", "true", "1.16"),
        ("extensions/v1beta1", "true", "1.16"),
    ] {
        cluster.done(&format!("GET /apis/{version}/deployments"), None).await;
        let last = log.last();
        assert_eq!(last.str_at(&["annotations", "k8s.io/deprecated"]), deprecated, "{version}");
        assert_eq!(last.str_at(&["annotations", "k8s.io/removed-release"]), removed, "{version}");
    }
}

#[tokio::test]
async fn a_stream_into_a_pod_is_recorded_when_it_begins_and_when_it_ends() {
    let log = Log::default();
    let backend = Backend::log(log.clone(), Format::Json, Mode::Blocking, None);
    let rules =
        policy("- {level: RequestResponse, resources: [{group: '', resources: [pods/exec]}]}");
    let audit = Some(Audit::start(rules, vec![backend], Arc::new(RealClock)));
    let agent = Agent::start().await;
    let nodes = Some(agent.dialer.clone());
    let cluster = Cluster::on(memory(), With { audit, nodes, ..With::default() }).await;
    let node = value!({"metadata": {"name": "n"}});
    let mut node = cluster.done("POST /api/v1/nodes", Some(&node)).await;
    let status = value!({"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": (i64::from(agent.port))}}});
    node.set_at(&["status"], status);
    cluster.done("PUT /api/v1/nodes/n/status", Some(&node)).await;
    let account = value!({"metadata": {"name": "default"}});
    cluster.done("POST /api/v1/namespaces/default/serviceaccounts", Some(&account)).await;
    let pod = value!({"metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    cluster.done("POST /api/v1/namespaces/default/pods", Some(&pod)).await;
    cluster.server.hub().catch_up().await.unwrap();
    log.take();
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket")];
    let path = "/api/v1/namespaces/default/pods/p/exec?command=switch&stdout=true";
    let response = cluster.respond_with(&admin(), &format!("GET {path}"), &headers, None).await;
    assert_eq!(response.status(), 101);
    let events = log.wait(3).await;
    let stages =
        ["RequestReceived RequestResponse get 0", "ResponseStarted RequestResponse get 101"];
    assert_eq!(told(&events)[..2], stages);
    assert_eq!(told(&events)[2], "ResponseComplete RequestResponse get 101");
    assert_eq!(events[2].str_at(&["objectRef", "subresource"]), "exec");
    // One that is refused is over at once.
    let path = "/api/v1/namespaces/default/pods/p/exec?command=x";
    let response = cluster.respond_with(&admin(), &format!("GET {path}"), &[], None).await;
    assert_eq!(response.status(), 400);
    let events = told(&log.take());
    assert_eq!(
        events[1..],
        ["ResponseStarted RequestResponse get 400", "ResponseComplete RequestResponse get 400"]
    );
}
