//! What is counted of requests, watches and caches: each moves when the thing happens.

use apimachinery::value;
use auth::UserInfo;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::StreamExt;

use crate::cluster::{As, Cluster, admin};
use crate::hooks::{Hook, Reply};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

impl Cluster {
    /// What `/metrics` says of this series, which ends before the blank; -1 where there is none.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let (_, text) = self.send(&admin(), "GET /metrics", None).await;
        let text = text.as_str().unwrap().to_owned();
        let line = text.lines().find_map(|it| it.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(-1.0, |it| it.parse().unwrap())
    }
}

/// The labels of requests about an object.
fn about(resource: &str, verb: &str) -> String {
    format!(
        "component=\"apiserver\",group=\"\",resource=\"{resource}\",scope=\"resource\",subresource=\"\",verb=\"{verb}\",version=\"v1\""
    )
}

#[tokio::test]
async fn a_request_is_counted_with_its_body_its_filters_and_what_it_took() {
    let cluster = Cluster::start().await;
    let filters: Vec<String> =
        ["authentication", "audit", "impersonation", "priorityandfairness", "authorization"]
            .map(|it| format!("apiserver_request_filter_duration_seconds_count{{filter=\"{it}\"}}"))
            .into();
    let mut before = Vec::new();
    for filter in &filters {
        before.push(cluster.metric(filter).await);
    }
    let map = value!({"metadata": {"name": "a"}, "stringData": {"k": ("x".repeat(60_000))}});
    cluster.done(&format!("POST {SECRETS}?fieldValidation=Strict"), Some(&map)).await;
    cluster
        .done(
            &format!("POST {SECRETS}?dryRun=All&fieldValidation=Ignore"),
            Some(&value!({"metadata": {"name": "b"}})),
        )
        .await;
    cluster.send(&admin(), &format!("GET {SECRETS}?fieldValidation=maybe"), None).await;
    cluster.done(&format!("DELETE {SECRETS}/a"), None).await;
    let (created, deleted) = (about("secrets", "POST"), about("secrets", "DELETE"));
    let sent = "apiserver_request_body_size_bytes_bucket{le=\"";
    cluster
        .counts(&[
            // A dry run is none of what the server promises.
            &format!("apiserver_request_sli_duration_seconds_count{{{created}}} 1"),
            &format!("apiserver_request_sli_duration_seconds_count{{{deleted}}} 1"),
            &format!("{sent}50000.0\",group=\"\",resource=\"secrets\",verb=\"create\"}} 1"),
            &format!("{sent}150000.0\",group=\"\",resource=\"secrets\",verb=\"create\"}} 2"),
            "apiserver_request_body_size_bytes_sum{group=\"\",resource=\"secrets\",verb=\"delete\"} 0.0",
            "field_validation_request_duration_seconds_count{field_validation=\"Strict\"} 1",
            "field_validation_request_duration_seconds_count{field_validation=\"Ignore\"} 1",
            "field_validation_request_duration_seconds_count{field_validation=\"invalid\"} 1",
        ])
        .await;
    for (filter, before) in filters.iter().zip(before) {
        assert!(cluster.metric(filter).await >= before + 4.0, "{filter}");
    }
    let itself = As::User(UserInfo::new("system:apiserver", &["system:masters"]));
    let of_itself = "apiserver_selfrequest_total{group=\"\",resource=\"secrets\",subresource=\"\",verb=\"LIST\"}";
    assert_eq!(cluster.metric(of_itself).await, -1.0);
    cluster.send(&itself, &format!("GET {SECRETS}"), None).await;
    assert_eq!(cluster.metric(of_itself).await, 1.0);
}

#[tokio::test]
async fn what_webhooks_take_is_not_the_servers_time() {
    let cluster = Cluster::start().await;
    let hook = Hook::start(|_| Reply::Silence).await;
    let configuration = value!({"metadata": {"name": "slow"}, "webhooks": [{"name": "slow.example.com",
        "failurePolicy": "Ignore", "timeoutSeconds": 1, "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": (hook.url.as_str()), "caBundle": (hook.bundle.as_str())},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]}]});
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    cluster.done(&format!("POST {path}"), Some(&configuration)).await;
    cluster.server.hub().catch_up().await.unwrap();
    let of = about("configmaps", "POST");
    let (whole, own) =
        ("apiserver_request_duration_seconds_sum", "apiserver_request_sli_duration_seconds_sum");
    let whole = format!("{whole}{{dry_run=\"\",{of}}}");
    let mut made = 0;
    while cluster.metric(&whole).await < 1.0 {
        made += 1;
        let map = value!({"metadata": {"name": (format!("m{made}"))}});
        cluster.done(&format!("POST {MAPS}"), Some(&map)).await;
    }
    let (whole, own) =
        (cluster.metric(&whole).await, cluster.metric(&format!("{own}{{{of}}}")).await);
    assert!(own <= whole - 0.99, "{own} of {whole}");
    let host = hook.url.strip_prefix("https://").unwrap();
    let asked = format!("rest_client_request_size_bytes_count{{host=\"{host}\",verb=\"POST\"}}");
    let unanswered =
        format!("rest_client_requests_total{{code=\"<error>\",host=\"{host}\",method=\"POST\"}}");
    let calls = cluster.metric(&asked).await;
    assert!(calls > 0.0 && cluster.metric(&unanswered).await == calls, "{calls}");
}

#[tokio::test]
async fn watches_and_reads_of_a_cache_are_counted() {
    let cluster = Cluster::start().await;
    let map = |name: &str| value!({"metadata": {"name": name}, "data": {"k": ("x".repeat(1500))}});
    cluster.done(&format!("POST {MAPS}"), Some(&map("a"))).await;
    let mut watch = cluster
        .watch(&format!("{MAPS}?watch=1&fieldSelector=metadata.name!%3Dkube-root-ca.crt"))
        .await;
    assert!(watch.next().await.is_some());
    let of = "group=\"\",resource=\"configmaps\"";
    let dispatched = format!("apiserver_watch_cache_events_dispatched_total{{{of}}}");
    let before = cluster.metric(&dispatched).await;
    let size = format!("apiserver_resource_size_estimate_bytes{{{of}}}");
    let bytes = cluster.metric(&size).await;
    let made = cluster.done(&format!("POST {MAPS}"), Some(&map("b"))).await;
    assert!(watch.next().await.is_some());
    assert_eq!(cluster.metric(&dispatched).await, before + 1.0);
    assert!(cluster.metric(&size).await > bytes + 1500.0);
    let version: f64 = made.str_at(&["metadata", "resourceVersion"]).parse().unwrap();
    cluster.server.hub().catch_up().await.unwrap();
    assert!(
        cluster.metric(&format!("apiserver_watch_cache_resource_version{{{of}}}")).await >= version
    );
    let read = format!(
        "apiserver_watch_cache_consistent_read_total{{fallback=\"false\",{of},success=\"true\"}}"
    );
    let waited = format!("apiserver_watch_cache_read_wait_seconds_count{{{of}}}");
    let (reads, waits) = (cluster.metric(&read).await, cluster.metric(&waited).await);
    cluster.done(&format!("GET {MAPS}"), None).await;
    cluster.done(&format!("GET {MAPS}?resourceVersion={version}"), None).await;
    cluster.done(&format!("GET {MAPS}?resourceVersion=0"), None).await;
    assert_eq!(
        (cluster.metric(&read).await, cluster.metric(&waited).await),
        (reads + 1.0, waits + 2.0)
    );
    let lists = "apiserver_cache_list_total{group=\"\",index=\"\",resource=\"configmaps\"}";
    let objects = |what: &str, rest: &str| {
        format!("apiserver_{what}_objects_total{{group=\"\",{rest}resource=\"configmaps\"}}")
    };
    let (fetched, returned) =
        (objects("cache_list_fetched", "index=\"\","), objects("cache_list_returned", ""));
    let (listed, read, told) = (
        cluster.metric(lists).await,
        cluster.metric(&fetched).await,
        cluster.metric(&returned).await,
    );
    cluster.done(&format!("GET {MAPS}?fieldSelector=metadata.name%3Da"), None).await;
    assert_eq!(cluster.metric(lists).await, listed + 1.0);
    assert_eq!(cluster.metric(&returned).await, told + 1.0);
    assert!(cluster.metric(&fetched).await > read);
    cluster.done(&format!("GET {MAPS}?resourceVersionMatch=Exact&resourceVersion={version}&fieldSelector=metadata.name%3Da"), None).await;
    let evaluated = cluster.metric(&objects("storage_list_evaluated", "")).await;
    assert!(evaluated >= 2.0, "{evaluated}");
    cluster
        .counts(&[
            "apiserver_storage_list_total{group=\"\",resource=\"configmaps\"} 1",
            &format!("{} 1", objects("storage_list_returned", "")),
            &format!("{} {evaluated}", objects("storage_list_fetched", "")),
            &format!("apiserver_watch_cache_initializations_total{{{of}}} 1"),
            &format!("apiserver_init_events_total{{{of}}} 1"),
            "apiserver_watch_events_sizes_bucket{le=\"1024.0\",group=\"\",resource=\"configmaps\",version=\"v1\"} 0",
            "apiserver_watch_events_sizes_bucket{le=\"2048.0\",group=\"\",resource=\"configmaps\",version=\"v1\"} 2",
        ])
        .await;
}

#[tokio::test]
async fn what_nodes_need_is_counted_as_it_changes() {
    let cluster = Cluster::start().await;
    let action = |name: &str| {
        format!("node_authorizer_graph_actions_duration_seconds_count{{operation=\"{name}\"}}")
    };
    let node = As::User(UserInfo::node("n1"));
    let pod = value!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    cluster
        .done(
            "POST /api/v1/namespaces/default/serviceaccounts",
            Some(&value!({"metadata": {"name": "default"}})),
        )
        .await;
    cluster.done(&format!("POST {pods}"), Some(&pod)).await;
    let secret = "GET /api/v1/namespaces/default/secrets/none";
    cluster.server.hub().catch_up().await.unwrap();
    assert_eq!(cluster.send(&node, secret, None).await.0, 403);
    assert_eq!(
        (cluster.metric(&action("AddPod")).await, cluster.metric(&action("DeletePod")).await),
        (1.0, 0.0)
    );
    cluster.done(&format!("DELETE {pods}/p?gracePeriodSeconds=0"), None).await;
    cluster.server.hub().catch_up().await.unwrap();
    cluster.send(&node, secret, None).await;
    assert_eq!(cluster.metric(&action("DeletePod")).await, 1.0);
}

#[tokio::test]
async fn certificates_that_are_good_as_long_as_was_asked_for_are_counted() {
    let cluster = Cluster::start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate().unwrap();
    let asked = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    for (name, day) in [("kept", 2), ("not-kept", 4)] {
        let request = value!({"metadata": {"name": name}, "spec": {"request": (BASE64_STANDARD.encode(&asked)),
            "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"], "expirationSeconds": 86_400}});
        let mut made = cluster.done(&format!("POST {requests}"), Some(&request)).await;
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, day);
        let certificate = params.self_signed(&key).unwrap().pem();
        made.set_at(&["status", "certificate"], BASE64_STANDARD.encode(certificate));
        let status = format!("PUT {requests}/{name}/status");
        let made = cluster.done(&status, Some(&made)).await;
        // It is counted once.
        cluster.done(&status, Some(&made)).await;
    }
    let of = |what: &str, count: u8| {
        format!(
            "apiserver_certificates_registry_csr_{what}_duration_total{{signerName=\"kubernetes.io/kube-apiserver-client\"}} {count}"
        )
    };
    cluster.counts(&[&of("requested", 2), &of("honored", 1)]).await;
}

#[tokio::test]
async fn what_admission_takes_is_told_as_a_summary_too() {
    let cluster = Cluster::start().await;
    let summary = |of: &str| {
        format!(
            "apiserver_admission_step_admission_duration_seconds_summary{of}{{operation=\"CREATE\",rejected=\"false\",type=\"admit\""
        )
    };
    let count = format!("{}}}", summary("_count"));
    let before = cluster.metric(&count).await;
    cluster.done(&format!("POST {MAPS}"), Some(&value!({"metadata": {"name": "a"}}))).await;
    assert_eq!(cluster.metric(&count).await, before.max(0.0) + 1.0);
    assert!(cluster.metric(&format!("{},quantile=\"0.9\"}}", summary(""))).await > 0.0);
}
