//! Resource quotas.

use apimachinery::value;
use client::Resource;
use client::call::DeleteParams;
use test_cluster::TestCluster;

use crate::{cluster, pod_of, report};

async fn used(cluster: &TestCluster, resource: &str, amount: &str) {
    cluster
        .eventually(&format!("{amount} of {resource} used"), async |it| {
            let quota = it.get("", "resourcequotas", "default", "q").await?;
            (quota.str_at(&["status", "used", resource]) == amount).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_or_over_is_given_back() {
    let cluster = cluster(&["resourcequota-controller"]).await;
    for name in ["a", "b"] {
        cluster.create("", "pods", pod_of(name, &value!({}))).await;
    }
    let quota = value!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": "default"},
        "spec": {"hard": {"pods": "5", "count/pods": "5", "configmaps": "3"}}});
    cluster.create("", "resourcequotas", quota).await;
    used(&cluster, "pods", "2").await;
    report(&cluster, "a", &value!({"status": {"phase": "Succeeded"}})).await;
    used(&cluster, "pods", "1").await;
    used(&cluster, "count/pods", "2").await;
    let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    let pods = Resource::built_in("", "pods");
    cluster.client.delete(&pods, "default", "b", &params).await.unwrap();
    used(&cluster, "pods", "0").await;
    used(&cluster, "count/pods", "1").await;
}
