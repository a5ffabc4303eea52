//! A server that is short of memory: who is refused first, what it says, and that it goes on once there is memory again.
//!
//! How much memory there is, the test says; a process that is really short of it is in the binary's tests.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, value};
use apiserver::{Body, MemoryBudget, Operating};
use auth::UserInfo;

use crate::bad_input::front::{Front, metric, request};
use crate::cluster::{As, Cluster, With, admin};

const LIMIT: u64 = 1_000_000_000;
const PERCENT: u64 = LIMIT / 100;
/// What the request for metrics may cost itself.
const OWN: f64 = 32_768.0;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

async fn cluster() -> (Cluster, Arc<MemoryBudget>) {
    let budget = MemoryBudget::new(LIMIT);
    let memory = Some(Arc::clone(&budget));
    let operating = Some(Operating { memory, ..Operating::default() });
    let cluster = Cluster::start_changed(With { operating, ..With::default() }).await;
    // Bob, who has a token and is no administrator, may do everything.
    let binding = value!({"metadata": {"name": "bob"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}]});
    let path = "POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    cluster.done(path, Some(&binding)).await;
    for path in ["/api/v1/namespaces", MAPS] {
        let object = value!({"metadata": {"name": "there"}});
        cluster.done(&format!("POST {path}"), Some(&object)).await;
    }
    cluster.done(&format!("POST {LEASES}"), Some(&value!({"metadata": {"name": "n"}}))).await;
    cluster.server.hub().catch_up().await.unwrap();
    (cluster, budget)
}

/// Requests by what they do to memory.
fn requests() -> Vec<(&'static str, String, Option<Value>)> {
    let map = |name: &str| Some(value!({"metadata": {"name": name}}));
    let label = Some(value!({"metadata": {"labels": {"a": "b"}}}));
    let review = value!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let review_path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    vec![
        ("read", format!("GET {MAPS}/there"), None),
        ("read", format!("GET {MAPS}"), None),
        ("read", format!("GET {MAPS}?watch=1&timeoutSeconds=1"), None),
        ("read", "GET /openapi/v3".into(), None),
        ("create", format!("POST {MAPS}?dryRun=All"), map("new")),
        ("change", format!("PATCH {MAPS}/there?dryRun=All"), label.clone()),
        ("change", format!("POST {review_path}"), Some(review)),
        ("free", "PATCH /api/v1/namespaces/there/status?dryRun=All".into(), label.clone()),
        ("free", format!("DELETE {MAPS}/there?dryRun=All"), None),
        ("free", format!("DELETE {MAPS}?dryRun=All"), None),
        ("exempt", format!("PATCH {LEASES}/n"), label),
        ("exempt", format!("GET {LEASES}/n"), None),
        ("exempt", "GET /livez".into(), None),
    ]
}

#[tokio::test]
async fn what_frees_nothing_is_refused_first_and_what_frees_something_last() {
    let (cluster, budget) = cluster().await;
    for (percent, refused) in [
        (50, [].as_slice()),
        (82, &["read"]),
        (87, &["read", "create"]),
        (92, &["read", "create", "change"]),
        (97, &["read", "create", "change", "free"]),
        (150, &["read", "create", "change", "free"]),
    ] {
        budget.saw(percent * PERCENT);
        for (kind, request, body) in requests() {
            let response = cluster.respond(&As::Token("bob-token"), &request, body.as_ref()).await;
            let wanted = if refused.contains(&kind) { 429 } else { 200 };
            let code = response.status().as_u16();
            let code = if code == 201 { 200 } else { code };
            assert_eq!(code, wanted, "{request} at {percent} %");
            // Whoever administers the cluster can do what has to be done.
            let (code, said) = cluster.send(&admin(), &request, body.as_ref()).await;
            assert!(code < 300, "{request} at {percent} %: {said:?}");
        }
    }
    // It goes on as before once there is memory.
    for _ in 0..20 {
        budget.saw(50 * PERCENT);
    }
    for (_, request, body) in requests() {
        let response = cluster.respond(&As::Token("bob-token"), &request, body.as_ref()).await;
        assert!(response.status().is_success(), "{request}");
    }
    let total = "apiserver_memory_refused_requests_total{kind=\"free\"}";
    assert_eq!(metric(&cluster, total).await, 6.0);
    assert_eq!(metric(&cluster, "apiserver_memory_charged_bytes").await, OWN);
    assert_eq!(metric(&cluster, "apiserver_memory_held_bytes").await, 0.0);
}

#[tokio::test]
async fn a_refusal_is_upstream_s_and_readyz_says_why() {
    let (cluster, budget) = cluster().await;
    budget.saw(82 * PERCENT);
    let response = cluster.respond(&As::Token("bob-token"), &format!("GET {MAPS}"), None).await;
    assert_eq!(response.headers()["retry-after"], "1");
    let Body::Full(Some(bytes)) = response.into_body() else { panic!("no status") };
    let status = apimachinery::json::parse(&bytes).unwrap();
    assert_eq!(status.str_at(&["kind"]), "Status");
    assert_eq!(status.str_at(&["reason"]), "TooManyRequests");
    assert_eq!(status.i64_at(&["code"]), Some(429));
    assert_eq!(status.i64_at(&["details", "retryAfterSeconds"]), Some(1));
    let (code, said) = cluster.send(&As::Nobody, "GET /readyz?verbose", None).await;
    assert_eq!(code, 500);
    let said = said.as_str().unwrap();
    assert!(said.contains("[-]memory-budget failed: reason withheld\n"), "{said}");
    assert_eq!(cluster.send(&As::Nobody, "GET /livez", None).await.0, 200);
    for _ in 0..20 {
        budget.saw(10 * PERCENT);
    }
    assert_eq!(cluster.send(&As::Nobody, "GET /readyz", None).await.0, 200);
}

#[tokio::test]
async fn what_costs_more_than_there_is_is_refused_and_the_same_in_small_is_not() {
    let (cluster, budget) = cluster().await;
    for nth in 0..20 {
        let map = value!({"metadata": {"name": (format!("m{nth}"))}, "data": {"k": ("x".repeat(500_000))}});
        cluster.done(&format!("POST {MAPS}"), Some(&map)).await;
    }
    cluster.server.hub().catch_up().await.unwrap();
    budget.saw(75 * PERCENT);
    // 10 MB of text: shared as it is stored, and 140 MB where it has to be decoded.
    let yaml = [("accept", "application/yaml")];
    for (query, headers, code) in
        [("", [].as_slice(), 200), ("", &yaml, 429), ("?limit=2", &yaml, 200)]
    {
        let path = format!("GET {MAPS}{query}");
        let response = cluster.respond(&As::With("bob-token", headers), &path, None).await;
        assert_eq!(response.status(), code, "{query} {headers:?}");
    }
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let path = format!("GET {MAPS}");
    let answer = cluster.respond(&As::With("bob-token", &table), &path, None).await;
    assert_eq!(answer.status(), 429);
    // Of a client in the process too, with all its rights.
    budget.saw(99 * PERCENT);
    let user = As::User(UserInfo::new("admin", &["system:masters"]));
    let answer = cluster.respond_with(&user, &format!("GET {MAPS}"), &yaml, None).await;
    assert_eq!(answer.status(), 429);
    // What is written is charged by its size.
    budget.saw(80 * PERCENT);
    for (size, code) in [(3_000_000, 429), (1_000, 201)] {
        let map = value!({"metadata": {"name": "large"}, "data": {"k": ("x".repeat(size))}});
        let (got, said) = cluster
            .send(&As::Token("bob-token"), &format!("POST {MAPS}?dryRun=All"), Some(&map))
            .await;
        assert_eq!(got, code, "{size}: {said:?}");
    }
    assert_eq!(metric(&cluster, "apiserver_memory_charged_bytes").await, OWN);
}

#[tokio::test]
async fn a_body_is_refused_before_it_comes_and_while_it_comes() {
    let (cluster, budget) = cluster().await;
    let mut front = Front::of(cluster).await;
    let headers = ["Content-Type: application/json", "Authorization: Bearer bob-token"];
    let post = format!("POST {MAPS}");
    budget.saw(84 * PERCENT);
    let announced = [headers.as_slice(), &["Content-Length: 3000000"]].concat();
    let answer = front.send(&request(&post, &announced, b"")).await;
    assert_eq!(answer.code, 429, "{answer:?}");
    // Nobody knows how long it will be.
    budget.saw(LIMIT / 1000 * 849);
    let chunked = [headers.as_slice(), &["Transfer-Encoding: chunked"]].concat();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let answer = front.send(&request(&post, &chunked, chunk.repeat(40).as_bytes())).await;
    assert_eq!(answer.code, 429, "{answer:?}");
    assert_eq!(metric(&front.cluster, "apiserver_memory_held_bytes").await, 0.0);
    // Connections that say nothing go where there is no memory for anything.
    let mut silent = front.connect("http/1.1", None).await.unwrap();
    budget.saw(99 * PERCENT);
    let mut nothing = [0];
    let end = tokio::io::AsyncReadExt::read(&mut silent, &mut nothing);
    let end = tokio::time::timeout(Duration::from_secs(10), end).await.unwrap();
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    for _ in 0..20 {
        budget.saw(10 * PERCENT);
    }
    front.is_unharmed("want of memory").await;
}
