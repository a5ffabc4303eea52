//! What is counted of requests, watches and caches: each moves when the thing happens.

use apimachinery::value;
use auth::UserInfo;
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
    cluster
        .counts(&[
            &format!("apiserver_init_events_total{{{of}}} 1"),
            "apiserver_watch_events_sizes_bucket{le=\"1024.0\",group=\"\",resource=\"configmaps\",version=\"v1\"} 0",
            "apiserver_watch_events_sizes_bucket{le=\"2048.0\",group=\"\",resource=\"configmaps\",version=\"v1\"} 2",
        ])
        .await;
}
