//! Metrics that a test plays: what `external.metrics.k8s.io` says, and whether it says anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use apimachinery::{Status, Value, value};
use async_trait::async_trait;
use parking_lot::Mutex;
use test_cluster::TestCluster;
use test_cluster::apiserver::computed::{Computed, ComputedVersion};
use test_cluster::apiserver::query::Query;
use test_cluster::apiserver::request::RequestInfo;

/// What is told of external metrics.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    values: Mutex<BTreeMap<String, i64>>,
    hangs: bool,
    pub(crate) asked: AtomicUsize,
}

impl Metrics {
    pub(crate) fn serve(cluster: &TestCluster, hangs: bool) -> Arc<Self> {
        let metrics = Arc::new(Self { hangs, ..Self::default() });
        cluster.server.set_computed(Arc::clone(&metrics) as _);
        metrics
    }

    pub(crate) fn say(&self, metric: &str, value: i64) {
        self.values.lock().insert(metric.to_owned(), value);
    }
}

#[async_trait]
impl Computed for Metrics {
    fn serves(&self, group: &str, version: &str) -> bool {
        (group, version) == ("external.metrics.k8s.io", "v1beta1")
    }

    fn versions(&self) -> Vec<ComputedVersion> {
        Vec::new()
    }

    fn available(&self, _group: &str) -> Result<(), String> {
        Ok(())
    }

    async fn answer(&self, info: &RequestInfo, _query: &Query) -> Result<Value, Status> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let told = self.values.lock().get(info.resource.as_str()).copied();
        let told = told.ok_or_else(|| Status::internal("unable to fetch metrics"))?;
        Ok(
            value!({"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1",
            "metadata": {}, "items": [{"metricName": (info.resource.as_str()), "metricLabels": null,
                "timestamp": "2026-01-01T00:00:00Z", "value": (told.to_string())}]}),
        )
    }
}
