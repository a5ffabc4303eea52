//! ReplicationControllers.

use apimachinery::value;

use crate::{cluster, ready};

#[tokio::test(start_paused = true)]
async fn a_replication_controller_is_a_replica_set() {
    let cluster = cluster(&["replicationcontroller-controller"]).await;
    let object = value!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "r", "namespace": "default"},
        "spec": {"replicas": 2, "selector": {"app": "r"},
            "template": {"metadata": {"labels": {"app": "r"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.create("", "replicationcontrollers", object).await;
    let pods = cluster
        .eventually("two pods", async |it| {
            let pods = it.list("", "pods", "default").await;
            (pods.len() == 2).then_some(pods)
        })
        .await;
    for pod in &pods {
        assert_eq!(
            pod.items_at(&["metadata", "ownerReferences"])[0].str_at(&["kind"]),
            "ReplicationController"
        );
        ready(&cluster, pod.str_at(&["metadata", "name"])).await;
    }
    cluster
        .eventually("a status that says so", async |it| {
            let object = it.get("", "replicationcontrollers", "default", "r").await?;
            let at = |member: &str| object.i64_at(&["status", member]);
            (at("readyReplicas") == Some(2) && at("terminatingReplicas").is_none()).then_some(())
        })
        .await;
    let events = cluster
        .eventually("events", async |it| {
            let events = it.list("", "events", "default").await;
            (events.len() == 2).then_some(events)
        })
        .await;
    assert_eq!(events[0].str_at(&["source", "component"]), "replication-controller");
}
