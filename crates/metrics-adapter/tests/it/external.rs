//! Metrics of things outside of the cluster, by rules.

use apimachinery::Value;

use crate::{Stage, asked};

const EXTERNAL: &str = "external.metrics.k8s.io/v1beta1";

#[tokio::test]
async fn an_external_metric_is_asked_for_its_namespace_and_labels() {
    let stage = Stage::new().await;
    stage.prometheus.answers_query("queue", &[("orders", "12.25")]);
    let mut wanted = asked(&format!("{EXTERNAL}/default/queue_ready"));
    wanted.selector = "queue in (orders,mails)".into();
    let list = stage.adapter.answer(&wanted).await.unwrap();
    assert_eq!(list.str_at(&["kind"]), "ExternalMetricValueList");
    let item = &list.items_at(&["items"])[0];
    assert_eq!(item.str_at(&["metricName"]), "queue_ready");
    assert_eq!(item.str_at(&["metricLabels", "queue"]), "orders");
    assert_eq!(item.str_at(&["value"]), "12250m");
    assert_eq!(item.str_at(&["timestamp"]), "2026-01-01T00:00:00Z");
    let query = r#"sum(queue_ready{queue=~"mails|orders",namespace="default"})"#;
    assert_eq!(stage.prometheus.queries(), [query]);
}

#[tokio::test]
async fn a_scalar_is_one_value_without_labels() {
    let stage = Stage::new().await;
    let scalar =
        r#"{"status":"success","data":{"resultType":"scalar","result":[1767225600,"NaN"]}}"#;
    stage.prometheus.answers("/api/v1/query", scalar);
    let list = stage.adapter.answer(&asked(&format!("{EXTERNAL}/default/queue_ready"))).await;
    let item = list.unwrap().items_at(&["items"])[0].clone();
    assert_eq!(item.str_at(&["value"]), "0");
    assert_eq!(item["metricLabels"], Value::Null);
}

#[tokio::test]
async fn a_metric_that_nobody_has_is_not_found() {
    let stage = Stage::new().await;
    for (namespace, of) in [("default", "namespaces"), ("other", "")] {
        let asked = asked(&format!("{EXTERNAL}/{namespace}/nothing"));
        let status = stage.adapter.answer(&asked).await.unwrap_err();
        let expected = format!("the server could not find the metric nothing for {of}");
        assert_eq!((status.code, status.message), (404, expected));
    }
}
