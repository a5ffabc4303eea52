//! The adapter, with a real API server before it and a played Prometheus behind it.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod custom;
mod external;
mod played;
mod triggers;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::value;
use metrics_adapter::{Adapter, Asked, Parts, Place, Prometheus, Rules, Source};
use test_cluster::TestCluster;

use played::Played;

/// Rules of the kind that people write.
const RULES: &[u8] = br#"
rules:
- seriesQuery: 'http_requests_total{namespace!="",pod!=""}'
  resources: {overrides: {namespace: {resource: namespace}, pod: {resource: pod}, node: {resource: node}}}
  name: {matches: "^(.*)_total$", as: "${1}_per_second"}
  metricsQuery: 'sum(rate(<<.Series>>{<<.LabelMatchers>>}[2m])) by (<<.GroupBy>>)'
externalRules:
- seriesQuery: queue_ready
  resources: {template: "<<.Resource>>"}
  metricsQuery: 'sum(<<.Series>>{<<.LabelMatchers>>})'
"#;

/// What the played Prometheus has, whatever it is asked.
const SERIES: &str = r#"[{"__name__":"http_requests_total","namespace":"default","pod":"a","node":"n1"},
    {"__name__":"queue_ready","namespace":"default"}]"#;

struct Stage {
    cluster: TestCluster,
    adapter: Arc<Adapter>,
    prometheus: Played,
}

impl Stage {
    async fn new() -> Self {
        Self::with(Duration::from_secs(5), 1 << 20).await
    }

    async fn with(patience: Duration, max_bytes: usize) -> Self {
        let cluster = TestCluster::new(1).await;
        let prometheus = Played::start().await;
        prometheus.answers("/api/v1/series", &format!(r#"{{"status":"success","data":{SERIES}}}"#));
        let place = Place::new(&[], None, patience, max_bytes).unwrap();
        let source = Source {
            prometheus: Prometheus::new(&prometheus.url(), place).unwrap(),
            rules: Rules::parse(RULES).unwrap(),
            relist: Duration::from_secs(60),
        };
        let adapter = Adapter::new(Parts {
            source: Some(source),
            scaled_objects: true,
            client: cluster.client.clone(),
            clock: Arc::clone(&cluster.clock),
        });
        let adapter = adapter.unwrap();
        let (told, mut tells) = tokio::sync::mpsc::unbounded_channel();
        let changed = move || {
            let _ = told.send(());
        };
        tokio::spawn(Arc::clone(&adapter).run(cluster.stop(), changed));
        tells.recv().await.unwrap();
        Self { cluster, adapter, prometheus }
    }

    /// A pod with a label.
    async fn pod(&self, name: &str, app: &str) {
        let pod = value!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        self.cluster.create("", "pods", pod).await;
    }
}

/// A request for `group/version/namespace/resource/name/metric`; an empty part is none.
fn asked(path: &str) -> Asked {
    let mut parts = path.split('/').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    Asked {
        group: next(),
        version: next(),
        namespace: next(),
        resource: next(),
        name: next(),
        metric: next(),
        ..Asked::default()
    }
}
