//! Priority and fairness, through the whole server.

use apimachinery::{Value, value};
use apiserver::Body;
use auth::UserInfo;
use futures::StreamExt;

use crate::cluster::{As, Cluster, admin};

const ROOT: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
/// A list that takes one seat, and more than one piece.
const LIST: &str = "GET /api/v1/namespaces/default/configmaps?fieldSelector=metadata.name%3Da";
const DUMP: &str = "GET /debug/api_priority_and_fairness/dump_";

fn user(name: &str) -> As<'_> {
    As::User(UserInfo::new(name, &["system:authenticated"]))
}

/// A cluster in which bob and others may read, and have a level of three seats for themselves.
async fn cluster(response: Value) -> Cluster {
    let cluster = Cluster::start().await;
    tokio::spawn(apiserver::tended::run(
        std::sync::Arc::clone(&cluster.server),
        cluster.stopping(),
    ));
    let binding = value!({"metadata": {"name": "readers"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "bob"},
            {"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "eve"}]});
    let bindings = "POST /apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    cluster.done(bindings, Some(&binding)).await;
    for name in ["a", "b"] {
        let map = value!({"metadata": {"name": name}, "data": {"k": ("x".repeat(90_000))}});
        cluster.done("POST /api/v1/namespaces/default/configmaps", Some(&map)).await;
    }
    let level = value!({"metadata": {"name": "small"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": (response)}}});
    cluster.done(&format!("POST {ROOT}/prioritylevelconfigurations"), Some(&level)).await;
    let schema = value!({"metadata": {"name": "readers"}, "spec": {"matchingPrecedence": 2,
        "priorityLevelConfiguration": {"name": "small"}, "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": "bob"}}, {"kind": "User", "user": {"name": "eve"}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}});
    cluster.done(&format!("POST {ROOT}/flowschemas"), Some(&schema)).await;
    let path = format!("{ROOT}/flowschemas?watch=true&fieldSelector=metadata.name%3Dreaders");
    let mut frames = cluster.watch(&path).await;
    while let Some(frame) = frames.next().await {
        let conditions = frame["object"].items_at(&["status", "conditions"]);
        if conditions.iter().any(|it| it.str_at(&["reason"]) == "Found") {
            return cluster;
        }
    }
    panic!("the schema is never found to be good")
}

fn queue() -> Value {
    value!({"type": "Queue", "queuing": {"queues": 8, "handSize": 1, "queueLengthLimit": 2}})
}

/// A list that is not read to its end, which holds its seat.
async fn begun(cluster: &Cluster, name: &str) -> http::Response<Body> {
    let response = cluster.respond(&user(name), LIST, None).await;
    assert_eq!(response.status(), 200);
    assert!(matches!(response.body(), Body::Stream(_)), "a list is a stream");
    response
}

async fn read(response: http::Response<Body>) {
    if let Body::Stream(pieces) = response.into_body() {
        pieces.collect::<Vec<_>>().await;
    }
}

async fn metric(cluster: &Cluster, name: &str, labels: &[&str]) -> f64 {
    let (_, text) = cluster.send(&admin(), "GET /metrics", None).await;
    let text = text.as_str().unwrap().to_owned();
    let mut lines = text.lines().filter(|it| it.starts_with(name));
    let line = lines.find(|line| labels.iter().all(|label| line.contains(label)));
    line.map_or(-1.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

async fn uid(cluster: &Cluster, path: &str) -> String {
    let object = cluster.done(&format!("GET {ROOT}/{path}"), None).await;
    object.str_at(&["metadata", "uid"]).to_owned()
}

#[tokio::test]
async fn answers_say_which_flow_they_are_of() {
    let cluster = cluster(queue()).await;
    let account = As::User(UserInfo::service_account("default", "x"));
    for (who, request, schema, level) in [
        (admin(), LIST, "exempt", "exempt"),
        (user("bob"), LIST, "readers", "small"),
        (user("bob"), "GET /version", "global-default", "global-default"),
        // Who may not is told so in its own flow.
        (account, LIST, "service-accounts", "workload-low"),
        (As::Nobody, LIST, "global-default", "global-default"),
        (As::Nobody, "GET /healthz", "probes", "exempt"),
        (
            As::User(UserInfo::new("system:kube-scheduler", &[])),
            "GET /api/v1/pods",
            "kube-scheduler",
            "workload-high",
        ),
    ] {
        let response = cluster.respond(&who, request, None).await;
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let found =
            [header("x-kubernetes-pf-flowschema-uid"), header("x-kubernetes-pf-prioritylevel-uid")];
        let wanted = [
            uid(&cluster, &format!("flowschemas/{schema}")).await,
            uid(&cluster, &format!("prioritylevelconfigurations/{level}")).await,
        ];
        assert_eq!(found, wanted, "{request}: {schema}");
        assert!(!found[0].is_empty() && !found[1].is_empty());
    }
}

/// What is told of how much is used, while three requests of bob's are served, two of his wait, and one of eve's.
async fn check_use(cluster: &Cluster, level: &[&str; 1]) {
    // The three that were served came into queues of one, then two waited in bob's.
    let lengths = "apiserver_flowcontrol_request_queue_length_after_enqueue";
    assert_eq!(metric(cluster, &format!("{lengths}_count"), level).await, 6.0);
    assert_eq!(metric(cluster, &format!("{lengths}_sum"), level).await, 3.0 + 1.0 + 2.0 + 1.0);
    for (name, labels) in [
        ("read_vs_write_current_requests_sum", ["phase=\"waiting\"", "request_kind=\"readOnly\""]),
        (
            "read_vs_write_current_requests_sum",
            ["phase=\"executing\"", "request_kind=\"mutating\""],
        ),
        ("priority_level_request_utilization_sum", ["phase=\"waiting\"", level[0]]),
        ("priority_level_request_utilization_sum", ["phase=\"executing\"", level[0]]),
        ("priority_level_seat_utilization_sum", ["phase=\"executing\"", level[0]]),
        ("demand_seats_count", [level[0], ""]),
    ] {
        let name = format!("apiserver_flowcontrol_{name}");
        assert!(metric(cluster, &name, &labels).await > 0.0, "{name} {labels:?}");
    }
    let dispatched = metric(cluster, "apiserver_flowcontrol_dispatch_r", level).await;
    for (name, labels) in [
        ("latest_s", [level[0], ""]),
        ("next_s_bounds", [level[0], "bound=\"min\""]),
        ("next_s_bounds", [level[0], "bound=\"max\""]),
        ("next_discounted_s_bounds", [level[0], "bound=\"min\""]),
    ] {
        let found = metric(cluster, &format!("apiserver_flowcontrol_{name}"), &labels).await;
        // Less the work of two that are served, as it is thought.
        assert!(found >= dispatched - 0.01, "{name}: {found}, dispatched at {dispatched}");
    }
}

#[tokio::test]
async fn who_finds_no_seat_waits_in_the_queue_of_its_flow_or_is_refused() {
    let cluster = cluster(queue()).await;
    let level = ["priority_level=\"small\""];
    assert_eq!(metric(&cluster, "apiserver_flowcontrol_nominal_limit_seats", &level).await, 3.0);
    let (one, two, three) =
        (begun(&cluster, "bob").await, begun(&cluster, "bob").await, begun(&cluster, "bob").await);
    let bob = user("bob");
    let mut waiting: Vec<_> = (0..2).map(|_| Box::pin(cluster.respond(&bob, LIST, None))).collect();
    for it in &mut waiting {
        assert!(futures::poll!(it).is_pending());
    }
    let full = cluster.respond(&bob, LIST, None).await;
    assert_eq!(
        (full.status().as_u16(), full.headers()["retry-after"].as_bytes()),
        (429, &b"1"[..])
    );
    let Body::Full(Some(text)) = full.into_body() else { panic!("a text") };
    assert_eq!(text, "Too many requests, please try again later.\n");
    // Eve comes last, and has a queue of her own.
    let eve = user("eve");
    let mut other = Box::pin(cluster.respond(&eve, LIST, None));
    assert!(futures::poll!(&mut other).is_pending());
    let (_, table) =
        cluster.send(&admin(), &format!("{DUMP}requests?includeRequestDetails=1"), None).await;
    let table = table.as_str().unwrap();
    let rows: Vec<Vec<&str>> =
        table.lines().map(|it| it.split(',').map(str::trim).collect()).collect();
    let of = |level: &str| rows.iter().filter(|it| it[0] == level).collect::<Vec<_>>();
    // Three are served, three wait, and this very request is served without a queue.
    let (served, queued): (Vec<_>, Vec<_>) = of("small").into_iter().partition(|it| it[3] == "-1");
    assert_eq!((served.len(), queued.len()), (3, 3), "{table}");
    assert!(served.iter().all(|it| it[4] == "bob" && it[2] != "-1" && !it[9].starts_with("0001")));
    assert!(queued.iter().all(|it| it[1] == "readers" && it[9] == "0001-01-01T00:00:00Z"));
    assert_eq!(queued.iter().filter(|it| it[4] == "eve" && it[10] == "eve").count(), 1, "{table}");
    let own = of("exempt");
    assert_eq!((own.len(), &own[0][2..4], own[0][11]), (1, &["-1", "-1"][..], "get"), "{table}");
    let (_, table) = cluster.send(&admin(), &format!("{DUMP}priority_levels"), None).await;
    let row =
        table.as_str().unwrap().lines().find(|it| it.starts_with("small,")).unwrap().to_owned();
    let cells: Vec<&str> = row.split(',').map(str::trim).collect();
    assert_eq!(cells[..8], ["small", "2", "false", "false", "3", "3", "3", "1"], "{row}");
    assert_eq!(
        metric(&cluster, "apiserver_flowcontrol_current_inqueue_requests", &level).await,
        3.0
    );
    let queued = "apiserver_current_inqueue_requests{request_kind=\"readOnly\"}";
    assert_eq!(cluster.metric(queued).await, 3.0);
    check_use(&cluster, &level).await;
    let reason = ["reason=\"queue-full\"", "priority_level=\"small\""];
    assert_eq!(
        metric(&cluster, "apiserver_flowcontrol_rejected_requests_total", &reason).await,
        1.0
    );
    // A seat is free: one of them has it. Who gives up waits no more, and the rest go on one after the other.
    read(one).await;
    let first = [
        futures::poll!(&mut other).is_ready(),
        futures::poll!(&mut waiting[0]).is_ready(),
        futures::poll!(&mut waiting[1]).is_ready(),
    ];
    assert_eq!(first.iter().filter(|it| **it).count(), 1, "{first:?}");
    drop(waiting);
    drop((two, three));
    if !first[0] {
        read(other.await).await;
    }
    assert_eq!(
        metric(&cluster, "apiserver_flowcontrol_current_inqueue_requests", &level).await,
        0.0
    );
    assert_eq!(
        metric(&cluster, "apiserver_flowcontrol_current_executing_seats", &level).await,
        0.0
    );
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_refused() {
    let cluster = cluster(queue()).await;
    let _held =
        [begun(&cluster, "bob").await, begun(&cluster, "bob").await, begun(&cluster, "bob").await];
    let began = tokio::time::Instant::now();
    assert_eq!(cluster.respond(&user("bob"), LIST, None).await.status(), 429);
    assert_eq!(began.elapsed().as_secs(), 15);
    let reason = ["reason=\"time-out\""];
    assert_eq!(
        metric(&cluster, "apiserver_flowcontrol_rejected_requests_total", &reason).await,
        1.0
    );
    let waited = ["execute=\"false\"", "priority_level=\"small\""];
    assert_eq!(
        metric(&cluster, "apiserver_flowcontrol_request_wait_duration_seconds_count", &waited)
            .await,
        1.0
    );
}

#[tokio::test]
async fn a_level_without_queues_refuses_and_a_watch_holds_nothing() {
    let cluster = cluster(value!({"type": "Reject"})).await;
    let mut watches = Vec::new();
    for _ in 0..5 {
        let As::User(bob) = user("bob") else { unreachable!() };
        let mut watch =
            cluster.watch_as(bob, "/api/v1/namespaces/default/configmaps?watch=true").await;
        assert_eq!(watch.next().await.unwrap().str_at(&["type"]), "ADDED");
        // What there is has been sent.
        assert_eq!(watch.next().await.unwrap().str_at(&["type"]), "ADDED");
        assert!(futures::poll!(watch.next()).is_pending());
        watches.push(watch);
    }
    let held =
        [begun(&cluster, "bob").await, begun(&cluster, "eve").await, begun(&cluster, "bob").await];
    let refused = cluster.respond(&user("eve"), LIST, None).await;
    assert_eq!(refused.status(), 429);
    let reason = ["reason=\"concurrency-limit\""];
    assert_eq!(
        metric(&cluster, "apiserver_flowcontrol_rejected_requests_total", &reason).await,
        1.0
    );
    // Exempt requests are never refused.
    assert_eq!(cluster.respond(&admin(), LIST, None).await.status(), 200);
    drop(held);
    assert_eq!(cluster.respond(&user("eve"), LIST, None).await.status(), 200);
}

#[tokio::test]
async fn what_is_suggested_is_renewed_unless_somebody_says_otherwise() {
    let cluster = Cluster::start().await;
    let path = format!("{ROOT}/prioritylevelconfigurations/workload-low");
    let annotation = "apf.kubernetes.io/autoupdate-spec";
    let patch = value!({"spec": {"limited": {"lendablePercent": 1}}});
    cluster.done(&format!("PATCH {path}"), Some(&patch)).await;
    cluster.server.hub().catch_up().await.unwrap();
    assert_eq!(cluster.bootstrap().await.updated, 1);
    let renewed = cluster.done(&format!("GET {path}"), None).await;
    assert_eq!(renewed.i64_at(&["spec", "limited", "lendablePercent"]), Some(90));
    let mut patch = patch;
    patch.set_at(&["metadata", "annotations", annotation], "false");
    cluster.done(&format!("PATCH {path}"), Some(&patch)).await;
    cluster.server.hub().catch_up().await.unwrap();
    assert_eq!(cluster.bootstrap().await.updated, 0);
    let kept = cluster.done(&format!("GET {path}"), None).await;
    assert_eq!(kept.i64_at(&["spec", "limited", "lendablePercent"]), Some(1));
}
