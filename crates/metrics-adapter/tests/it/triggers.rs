//! Metrics of ScaledObjects, asked as an autoscaler asks.

use apimachinery::{Value, value};
use client::Resource;

use crate::{Stage, asked};

fn scaled_objects() -> Resource {
    Resource {
        group: keda::GROUP.into(),
        version: "v1alpha1".into(),
        plural: keda::PLURAL.into(),
        kind: keda::KIND.into(),
        namespaced: true,
    }
}

async fn scaled(stage: &Stage, name: &str, triggers: Value) {
    let definition = include_bytes!("../../../../examples/autoscaling/scaledobjects-crd.yaml");
    let definition = apimachinery::yaml::parse(definition).unwrap();
    let definitions = Resource::built_in("apiextensions.k8s.io", "customresourcedefinitions");
    let _ = stage.cluster.client.create(&definitions, "", &definition).await;
    let object = value!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"scaleTargetRef": {"name": "d"}, "triggers": triggers}});
    stage
        .cluster
        .eventually("the object", async |it| {
            it.client.create(&scaled_objects(), "default", &object).await.ok()
        })
        .await;
}

async fn value(stage: &Stage, name: &str, metric: &str) -> Result<String, (u16, String)> {
    let mut wanted = asked(&format!("external.metrics.k8s.io/v1beta1/default/{metric}"));
    wanted.selector = format!("scaledobject.keda.sh/name={name}");
    match stage.adapter.answer(&wanted).await {
        Ok(list) => Ok(list.items_at(&["items"])[0].str_at(&["value"]).to_owned()),
        Err(status) => Err((status.code, status.message)),
    }
}

#[tokio::test]
async fn each_trigger_is_a_metric() {
    let stage = Stage::new().await;
    let url = stage.prometheus.url();
    let queue = format!("{url}/stats");
    stage.prometheus.answers("/stats", r#"{"queue":{"length":17}}"#);
    stage.prometheus.answers_query("x", &[("", "2.5")]);
    let triggers = value!([
        {"type": "cron", "metadata": {"timezone": "UTC", "start": "0 0 * * *", "end": "59 23 * * *", "desiredReplicas": "6"}},
        {"type": "prometheus", "metadata": {"serverAddress": (url.as_str()), "query": "sum(x)", "threshold": "10"}},
        {"type": "metrics-api", "metadata": {"url": (queue.as_str()), "valueLocation": "queue.length", "targetValue": "5"}}
    ]);
    scaled(&stage, "so", triggers).await;
    // The cluster's time begins at midnight.
    assert_eq!(value(&stage, "so", "s0-cron-UTC-00xxx-5923xxx").await.unwrap(), "6");
    assert_eq!(value(&stage, "so", "s1-prometheus").await.unwrap(), "2500m");
    assert_eq!(value(&stage, "so", "s2-metric-api-queue-length").await.unwrap(), "17");
    assert_eq!(stage.prometheus.queries(), ["sum(x)"]);
    let could_not = "the server could not find the metric";
    let expected = (404, format!("{could_not} s3-x for scaledobjects so"));
    assert_eq!(value(&stage, "so", "s3-x").await, Err(expected));
    let expected = (404, format!("{could_not} s0-x for scaledobjects gone"));
    assert_eq!(value(&stage, "gone", "s0-x").await, Err(expected));
}

#[tokio::test]
async fn a_trigger_that_cannot_be_asked_says_why() {
    let stage = Stage::new().await;
    let url = stage.prometheus.url();
    let queue = format!("{url}/nothing");
    stage.prometheus.answers_query("x", &[("a", "1"), ("b", "2")]);
    let triggers = value!([
        {"type": "prometheus", "metadata": {"serverAddress": (url.as_str()), "query": "x", "threshold": "10"}},
        {"type": "metrics-api", "metadata": {"url": (queue.as_str()), "valueLocation": "n", "targetValue": "5"}}
    ]);
    scaled(&stage, "so", triggers).await;
    for (metric, expected) in [
        ("s0-prometheus", "prometheus query x returned multiple elements"),
        ("s1-metric-api-n", "error requesting metrics endpoint: 404: nothing"),
    ] {
        let (code, message) = value(&stage, "so", metric).await.unwrap_err();
        assert_eq!(code, 500);
        assert!(message.contains(expected), "{metric}: {message}");
    }
}
