//! StatefulSets.

use apimachinery::{Value, value};
use client::Resource;
use client::call::PatchKind;
use test_cluster::TestCluster;
use test_cluster::registry::Features;

use crate::{cluster, cluster_with, ready};

fn set() -> Value {
    value!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s", "namespace": "default"},
        "spec": {"replicas": 2, "serviceName": "s", "selector": {"matchLabels": {"app": "s"}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Delete"},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
            "template": {"metadata": {"labels": {"app": "s"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
}

async fn patch(cluster: &TestCluster, patch: &Value) {
    let sets = Resource::built_in("apps", "statefulsets");
    let done = cluster.client.patch(&sets, "default", "s", "", PatchKind::Strategic, patch).await;
    done.unwrap();
}

/// Waits for a pod of this image and plays its node.
async fn run(cluster: &TestCluster, name: &str, image: &str) {
    cluster
        .eventually(&format!("{name} of {image}"), async |it| {
            let pod = it.get("", "pods", "default", name).await?;
            (pod.items_at(&["spec", "containers"])[0].str_at(&["image"]) == image).then_some(())
        })
        .await;
    ready(cluster, name).await;
}

#[tokio::test(start_paused = true)]
async fn pods_come_in_order_with_claims_and_are_updated_from_the_last() {
    let cluster = cluster(&["statefulset-controller"]).await;
    cluster.create("apps", "statefulsets", set()).await;
    cluster
        .eventually("the first pod", async |it| it.get("", "pods", "default", "s-0").await)
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert_eq!(cluster.list("", "pods", "default").await.len(), 1);
    run(&cluster, "s-0", "i:1").await;
    run(&cluster, "s-1", "i:1").await;
    let claims = cluster.list("", "persistentvolumeclaims", "default").await;
    let names: Vec<&str> = claims.iter().map(|it| it.str_at(&["metadata", "name"])).collect();
    assert_eq!(names, ["data-s-0", "data-s-1"]);
    let image =
        value!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:2"}]}}}});
    patch(&cluster, &image).await;
    run(&cluster, "s-1", "i:2").await;
    run(&cluster, "s-0", "i:2").await;
    cluster
        .eventually("one revision in use", async |it| {
            let set = it.get("apps", "statefulsets", "default", "s").await?;
            let at = |member: &str| set.str_at(&["status", member]).to_owned();
            (at("currentRevision") == at("updateRevision")).then_some(())
        })
        .await;
    assert_eq!(cluster.list("apps", "controllerrevisions", "default").await.len(), 2);
    // A smaller set: the claim is given to the pod, and goes with it.
    patch(&cluster, &value!({"spec": {"replicas": 1}})).await;
    let owner = cluster
        .eventually("the claim has an owner", async |it| {
            let claim = it.get("", "persistentvolumeclaims", "default", "data-s-1").await?;
            let owners = claim.items_at(&["metadata", "ownerReferences"]);
            Some(owners.first()?.str_at(&["kind"]).to_owned())
        })
        .await;
    assert_eq!(owner, "Pod");
    cluster
        .eventually("the pod is gone", async |it| {
            it.get("", "pods", "default", "s-1").await.is_none().then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn two_pods_are_updated_at_a_time_where_the_set_says_so() {
    let known = Features { max_unavailable_stateful_set: true, ..Features::default() };
    let gates = "MaxUnavailableStatefulSet=true";
    let cluster = cluster_with(known, gates, &["statefulset-controller"]).await;
    let mut set = set();
    set.set_at(&["spec", "replicas"], 3);
    set.set_at(&["spec", "podManagementPolicy"], "Parallel");
    let made = cluster.create("apps", "statefulsets", set).await;
    let most = ["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"];
    assert_eq!(made.i64_at(&most), Some(1));
    for name in ["s-0", "s-1", "s-2"] {
        run(&cluster, name, "i:1").await;
    }
    let rolling = value!({"spec": {"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}},
        "template": {"spec": {"containers": [{"name": "c", "image": "i:2"}]}}}});
    patch(&cluster, &rolling).await;
    let image = |pod: &Value| pod.items_at(&["spec", "containers"])[0].str_at(&["image"]) == "i:2";
    cluster
        .eventually("two pods of the new template", async |it| {
            let pods = it.list("", "pods", "default").await;
            (pods.len() == 3 && pods.iter().filter(|it| image(it)).count() == 2).then_some(())
        })
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let first = cluster.get("", "pods", "default", "s-0").await.unwrap();
    assert!(!image(&first), "two are away");
    run(&cluster, "s-2", "i:2").await;
    run(&cluster, "s-0", "i:2").await;
}
