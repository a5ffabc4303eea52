//! Horizontal pod autoscalers, in a cluster that nobody measures.

use std::time::Duration;

use apimachinery::{Value, value};
use client::Resource;
use client::call::PatchKind;
use test_cluster::TestCluster;
use test_cluster::registry::Features;

use crate::{cluster, cluster_with};

const CONTROLLERS: &[&str] =
    &["deployment-controller", "replicaset-controller", "horizontal-pod-autoscaler-controller"];

fn deployment(replicas: i64) -> Value {
    value!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

fn autoscaler(name: &str, kind: &str, metrics: Value) -> Value {
    value!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": "d"},
            "minReplicas": 2, "maxReplicas": 4, "metrics": metrics}})
}

fn cpu() -> Value {
    value!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}])
}

/// The autoscaler, once it has this condition with this reason.
async fn told(cluster: &TestCluster, name: &str, kind: &str, reason: &str) -> (Value, String) {
    cluster
        .eventually(&format!("{kind} because of {reason}"), async |it| {
            let autoscaler =
                it.get("autoscaling", "horizontalpodautoscalers", "default", name).await?;
            let conditions = autoscaler.items_at(&["status", "conditions"]).to_vec();
            let found = conditions
                .iter()
                .find(|it| it.str_at(&["type"]) == kind && it.str_at(&["reason"]) == reason)?;
            Some((autoscaler, found.str_at(&["message"]).to_owned()))
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn too_many_replicas_are_taken_down_and_missing_metrics_are_told() {
    let cluster = cluster(CONTROLLERS).await;
    cluster.create("apps", "deployments", deployment(6)).await;
    cluster
        .create("autoscaling", "horizontalpodautoscalers", autoscaler("h", "Deployment", cpu()))
        .await;
    told(&cluster, "h", "AbleToScale", "SucceededRescale").await;
    let deployment = cluster.get("apps", "deployments", "default", "d").await.unwrap();
    assert_eq!(deployment.i64_at(&["spec", "replicas"]), Some(4));
    let (autoscaler, message) =
        told(&cluster, "h", "ScalingActive", "FailedGetResourceMetric").await;
    assert_eq!(
        message,
        "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for \
         resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested \
         resource (get pods.metrics.k8s.io)"
    );
    assert_eq!(autoscaler.i64_at(&["status", "desiredReplicas"]), Some(4));
    assert_eq!(autoscaler.items_at(&["status", "currentMetrics"]), [value!({"type": ""})]);
    assert!(!autoscaler.str_at(&["status", "lastScaleTime"]).is_empty());
    let events = cluster
        .eventually("events", async |it| {
            let events = it.list("", "events", "default").await;
            let has = |reason| events.iter().any(|it| it.str_at(&["reason"]) == reason);
            let all = has("SuccessfulRescale") && has("FailedGetResourceMetric");
            (all && has("FailedComputeMetricsReplicas")).then_some(events)
        })
        .await;
    let rescale = events.iter().find(|it| it.str_at(&["reason"]) == "SuccessfulRescale").unwrap();
    let message = "New size: 4; reason: Current number of replicas above Spec.MaxReplicas";
    assert_eq!(rescale.str_at(&["message"]), message);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_measured_costs_no_writes() {
    let cluster = cluster(CONTROLLERS).await;
    cluster.create("apps", "deployments", deployment(2)).await;
    cluster
        .create("autoscaling", "horizontalpodautoscalers", autoscaler("h", "Deployment", cpu()))
        .await;
    let (before, _) = told(&cluster, "h", "ScalingActive", "FailedGetResourceMetric").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let after =
        cluster.get("autoscaling", "horizontalpodautoscalers", "default", "h").await.unwrap();
    let version = |it: &Value| it.str_at(&["metadata", "resourceVersion"]).to_owned();
    assert_eq!(version(&before), version(&after));
    // Looked at once a period; what is told of it again and again is told less often, as upstream's recorder does.
    let events = cluster.list("", "events", "default").await;
    let failed = events.iter().find(|it| it.str_at(&["reason"]) == "FailedGetResourceMetric");
    let count = failed.and_then(|it| it.i64_at(&["count"])).unwrap();
    assert!((2..=41).contains(&count), "told {count} times in 600 s");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_scaled_is_told() {
    let cluster = cluster(CONTROLLERS).await;
    cluster
        .create("autoscaling", "horizontalpodautoscalers", autoscaler("gone", "Deployment", cpu()))
        .await;
    let (_, message) = told(&cluster, "gone", "AbleToScale", "FailedGetScale").await;
    let unable = "the HPA controller was unable to get the target's current scale: ";
    assert_eq!(message, format!("{unable}deployments/scale.apps \"d\" not found"));
    cluster
        .create("autoscaling", "horizontalpodautoscalers", autoscaler("odd", "Nothing", cpu()))
        .await;
    let (_, message) = told(&cluster, "odd", "AbleToScale", "FailedGetScale").await;
    assert_eq!(message, format!("{unable}no matches for kind \"Nothing\" in group \"apps\""));
    cluster.create("apps", "deployments", deployment(0)).await;
    let (_, _) = told(&cluster, "gone", "ScalingActive", "ScalingDisabled").await;
}

#[tokio::test(start_paused = true)]
async fn two_autoscalers_of_the_same_pods_do_nothing() {
    let cluster = cluster(CONTROLLERS).await;
    cluster.create("apps", "deployments", deployment(2)).await;
    cluster
        .create("autoscaling", "horizontalpodautoscalers", autoscaler("a", "Deployment", cpu()))
        .await;
    cluster
        .create("autoscaling", "horizontalpodautoscalers", autoscaler("b", "Deployment", cpu()))
        .await;
    for name in ["a", "b"] {
        let (_, message) = told(&cluster, name, "ScalingActive", "AmbiguousSelector").await;
        let all = "[{a default} {b default}]";
        assert_eq!(message, format!("pods by selector a=b are controlled by multiple HPAs: {all}"));
    }
}

#[tokio::test(start_paused = true)]
async fn custom_metrics_that_nobody_serves_are_told() {
    let cluster = cluster(CONTROLLERS).await;
    cluster.create("apps", "deployments", deployment(2)).await;
    let metrics = value!([
        {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s", "apiVersion": "v1"},
            "metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}},
        {"type": "External", "external": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1"}}}
    ]);
    cluster
        .create("autoscaling", "horizontalpodautoscalers", autoscaler("h", "Deployment", metrics))
        .await;
    let (autoscaler, message) = told(&cluster, "h", "ScalingActive", "FailedGetObjectMetric").await;
    assert_eq!(
        message,
        "the HPA was unable to compute the replica count: unable to get metric m: Service on default s/unable to fetch \
         metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"
    );
    assert_eq!(autoscaler.items_at(&["status", "currentMetrics"]).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_metric_api_that_hangs_is_told_and_costs_no_writes() {
    let cluster = cluster(CONTROLLERS).await;
    let metrics = crate::computed::Metrics::serve(&cluster, true);
    cluster.create("apps", "deployments", deployment(2)).await;
    let external = value!([{"type": "External", "external": {"metric": {"name": "m"},
        "target": {"type": "AverageValue", "averageValue": "5"}}}]);
    cluster
        .create("autoscaling", "horizontalpodautoscalers", autoscaler("h", "Deployment", external))
        .await;
    let (before, message) = told(&cluster, "h", "ScalingActive", "FailedGetExternalMetric").await;
    assert!(message.ends_with("context deadline exceeded"), "{message}");
    let asked = || metrics.asked.load(std::sync::atomic::Ordering::Relaxed);
    let begun = asked();
    tokio::time::sleep(Duration::from_secs(900)).await;
    let after =
        cluster.get("autoscaling", "horizontalpodautoscalers", "default", "h").await.unwrap();
    let version = |it: &Value| it.str_at(&["metadata", "resourceVersion"]).to_owned();
    assert_eq!(version(&before), version(&after));
    // A look takes thirty seconds of patience, and the next comes a period of fifteen after it.
    let looks = asked() - begun;
    assert!((10..=30).contains(&looks), "{looks} looks in 900 s");
}

#[tokio::test(start_paused = true)]
async fn a_new_one_is_looked_at_a_period_later() {
    let cluster = cluster(CONTROLLERS).await;
    cluster.create("apps", "deployments", deployment(6)).await;
    let begun = tokio::time::Instant::now();
    cluster
        .create("autoscaling", "horizontalpodautoscalers", autoscaler("h", "Deployment", cpu()))
        .await;
    told(&cluster, "h", "AbleToScale", "SucceededRescale").await;
    let waited = begun.elapsed().as_secs();
    assert!((15..=16).contains(&waited), "{waited} s");
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

#[tokio::test(start_paused = true)]
async fn the_last_pod_goes_and_comes_again_unless_somebody_else_took_it() {
    let known = Features { hpa_scale_to_zero: true, ..Features::default() };
    let cluster = cluster_with(known, "HPAScaleToZero=true", CONTROLLERS).await;
    let metrics = crate::computed::Metrics::serve(&cluster, false);
    metrics.say("m", 0);
    cluster.create("apps", "deployments", deployment(2)).await;
    let external = value!([{"type": "External", "external": {"metric": {"name": "m"},
        "target": {"type": "AverageValue", "averageValue": "5"}}}]);
    let mut scaler = autoscaler("h", "Deployment", external);
    scaler.set_at(&["spec", "minReplicas"], 0);
    let made = cluster.create("autoscaling", "horizontalpodautoscalers", scaler).await;
    assert_eq!(made.i64_at(&["spec", "minReplicas"]), Some(0));
    let (_, message) = told(&cluster, "h", "ScaledToZero", "ScaledToZero").await;
    assert_eq!(message, "the HPA controller scaled the workload to zero");
    replicas(&cluster, 0).await;
    told(&cluster, "h", "ScalingActive", "ValidMetricFound").await;
    metrics.say("m", 15);
    replicas(&cluster, 3).await;
    let (_, message) = told(&cluster, "h", "ScaledToZero", "NotScaledToZero").await;
    assert_eq!(message, "the HPA controller did not scale the workload to zero");
    // By hand it is a pause, whatever the metric asks for.
    let deployments = Resource::built_in("apps", "deployments");
    let none = value!({"spec": {"replicas": 0}});
    let patched =
        cluster.client.patch(&deployments, "default", "d", "", PatchKind::Merge, &none).await;
    patched.unwrap();
    told(&cluster, "h", "ScalingActive", "ScalingDisabled").await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    replicas(&cluster, 0).await;
}
