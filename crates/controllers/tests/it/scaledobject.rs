//! ScaledObjects: from nothing to something and back, by metrics that the test plays.

use std::time::Duration;

use apimachinery::{Value, value};
use client::Resource;
use client::call::{DeleteParams, PatchKind};
use test_cluster::TestCluster;

use crate::cluster;
use crate::computed::Metrics;

const CONTROLLERS: &[&str] = &[
    "deployment-controller",
    "replicaset-controller",
    "horizontal-pod-autoscaler-controller",
    "scaledobject-controller",
    "garbage-collector-controller",
];
const METRIC: &str = "s0-metric-api-n";

fn scaled_objects() -> Resource {
    Resource {
        group: keda::GROUP.into(),
        version: "v1alpha1".into(),
        plural: keda::PLURAL.into(),
        kind: keda::KIND.into(),
        namespaced: true,
    }
}

async fn define(cluster: &TestCluster) {
    let definition = include_bytes!("../../../../examples/autoscaling/scaledobjects-crd.yaml");
    let definition = apimachinery::yaml::parse(definition).unwrap();
    cluster.create("apiextensions.k8s.io", "customresourcedefinitions", definition).await;
}

async fn make(cluster: &TestCluster, object: Value) {
    cluster
        .eventually("the object", async |it| {
            it.client.create(&scaled_objects(), "default", &object).await.ok()
        })
        .await;
}

fn by_queue(spec: Value) -> Value {
    let mut object = value!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject",
        "metadata": {"name": "so", "namespace": "default"}, "spec": spec});
    object.set_at(&["spec", "scaleTargetRef"], value!({"name": "d"}));
    object.set_at(
        &["spec", "triggers"],
        value!([{"type": "metrics-api",
            "metadata": {"url": "http://q/n", "valueLocation": "n", "targetValue": "5"}}]),
    );
    object
}

async fn deployment(cluster: &TestCluster, replicas: i64) {
    let deployment = value!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.create("apps", "deployments", deployment).await;
}

/// Waits until the deployment is to have so many replicas.
async fn replicas(cluster: &TestCluster, wanted: i64) {
    cluster
        .eventually(&format!("{wanted} replicas"), async |it| {
            let deployment = it.get("apps", "deployments", "default", "d").await?;
            (deployment.i64_at(&["spec", "replicas"]) == Some(wanted)).then_some(())
        })
        .await;
}

/// The object, once a condition has this reason.
async fn told(cluster: &TestCluster, name: &str, reason: &str) -> (Value, String) {
    cluster
        .eventually(reason, async |it| {
            let object = it.client.get(&scaled_objects(), "default", name).await.ok()?;
            let conditions = object.items_at(&["status", "conditions"]);
            let found = conditions.iter().find(|it| it.str_at(&["reason"]) == reason)?;
            let message = found.str_at(&["message"]).to_owned();
            Some((object, message))
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn a_queue_scales_from_nothing_up_and_back_to_nothing() {
    let cluster = cluster(CONTROLLERS).await;
    let metrics = Metrics::serve(&cluster, false);
    metrics.say(METRIC, 0);
    define(&cluster).await;
    deployment(&cluster, 0).await;
    make(&cluster, by_queue(value!({"maxReplicaCount": 4, "cooldownPeriod": 60}))).await;
    let (object, _) = told(&cluster, "so", "ScalerNotActive").await;
    assert_eq!(object.str_at(&["status", "hpaName"]), "keda-hpa-so");
    assert_eq!(object.items_at(&["status", "externalMetricNames"]), [Value::from(METRIC)]);
    let autoscaler =
        cluster.get("autoscaling", "horizontalpodautoscalers", "default", "keda-hpa-so").await;
    let autoscaler = autoscaler.unwrap();
    assert_eq!(autoscaler.i64_at(&["spec", "minReplicas"]), Some(1));
    let metric = &autoscaler.items_at(&["spec", "metrics"])[0]["external"];
    assert_eq!(metric.str_at(&["metric", "name"]), METRIC);
    assert_eq!(metric.str_at(&["target", "averageValue"]), "5");
    // The controller begins, and the autoscaler goes on, maybe in the same moment.
    metrics.say(METRIC, 13);
    replicas(&cluster, 3).await;
    metrics.say(METRIC, 0);
    replicas(&cluster, 0).await;
    let events = cluster.list("", "events", "default").await;
    for (reason, message) in [
        ("KEDAScaleTargetActivated", "Scaled apps/v1.Deployment default/d from 0 to 1"),
        ("KEDAScaleTargetDeactivated", "Deactivated apps/v1.Deployment default/d from 3 to 0"),
    ] {
        let found = events.iter().find(|it| it.str_at(&["reason"]) == reason);
        assert_eq!(found.map(|it| it.str_at(&["message"])), Some(message));
    }
    cluster
        .client
        .delete(&scaled_objects(), "default", "so", &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .eventually("the autoscaler is gone", async |it| {
            let hpas = it.list("autoscaling", "horizontalpodautoscalers", "default").await;
            hpas.is_empty().then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn the_clock_scales_without_being_asked() {
    let cluster = cluster(CONTROLLERS).await;
    let metrics = Metrics::serve(&cluster, false);
    metrics.say("s0-cron-UTC-10xxxx-20xxxx", 2);
    define(&cluster).await;
    deployment(&cluster, 0).await;
    // The cluster's time begins at midnight.
    let mut object = by_queue(value!({"cooldownPeriod": 0, "pollingInterval": 3600}));
    let trigger = value!([{"type": "cron", "metadata": {"timezone": "UTC", "start": "10 * * * *",
        "end": "20 * * * *", "desiredReplicas": "2"}}]);
    object.set_at(&["spec", "triggers"], trigger);
    make(&cluster, object).await;
    told(&cluster, "so", "ScalerNotActive").await;
    replicas(&cluster, 1).await;
    let at = cluster.clock.now().to_string();
    assert!(at.starts_with("2026-01-01T00:10:0"), "{at}");
    replicas(&cluster, 0).await;
    let at = cluster.clock.now().to_string();
    assert!(at.starts_with("2026-01-01T00:20:0"), "{at}");
}

#[tokio::test(start_paused = true)]
async fn paused_at_a_number_and_what_was_there_before() {
    let cluster = cluster(CONTROLLERS).await;
    let metrics = Metrics::serve(&cluster, false);
    metrics.say(METRIC, 20);
    define(&cluster).await;
    deployment(&cluster, 2).await;
    make(
        &cluster,
        by_queue(value!({"minReplicaCount": 1, "maxReplicaCount": 4,
        "advanced": {"restoreToOriginalReplicaCount": true}})),
    )
    .await;
    replicas(&cluster, 4).await;
    let patch = value!({"metadata": {"annotations": {"autoscaling.keda.sh/paused-replicas": "3"}}});
    let own = scaled_objects();
    cluster.client.patch(&own, "default", "so", "", PatchKind::Merge, &patch).await.unwrap();
    told(&cluster, "so", "ScaledObjectPaused").await;
    replicas(&cluster, 3).await;
    let hpas = cluster.list("autoscaling", "horizontalpodautoscalers", "default").await;
    assert!(hpas.is_empty());
    cluster.client.delete(&own, "default", "so", &DeleteParams::default()).await.unwrap();
    replicas(&cluster, 2).await;
    cluster
        .eventually("the object is gone", async |it| {
            it.client.get(&scaled_objects(), "default", "so").await.is_err().then_some(())
        })
        .await;
}

/// A document of the corpus that people wrote, without a word changed: it names no way to its queue.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_says_why_and_costs_no_writes() {
    let cluster = cluster(CONTROLLERS).await;
    define(&cluster).await;
    let object = value!({"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "my-app-scaledobject"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "my-app"},
            "minReplicaCount": 1, "maxReplicaCount": 10,
            "triggers": [{"type": "azure-queue", "metadata": {"queueName": "my-queue", "queueLength": "5"}}]}});
    make(&cluster, object).await;
    let name = "my-app-scaledobject";
    let (before, message) = told(&cluster, name, "ScaledObjectCheckFailed").await;
    assert_eq!(message, "error parsing azure queue metadata: no connection setting given");
    tokio::time::sleep(Duration::from_secs(600)).await;
    let after = cluster.client.get(&scaled_objects(), "default", name).await.unwrap();
    let version = |it: &Value| it.str_at(&["metadata", "resourceVersion"]).to_owned();
    assert_eq!(version(&before), version(&after));
}
