//! Nodes that fall silent and come back.

use apimachinery::{Value, value};
use client::Resource;
use client::call::PatchKind;
use test_cluster::TestCluster;

use crate::cluster;

fn taints(node: &Value) -> Vec<String> {
    let taints = node.items_at(&["spec", "taints"]).iter();
    taints.map(|it| format!("{}:{}", it.str_at(&["key"]), it.str_at(&["effect"]))).collect()
}

/// A node that goes on reporting: where no node does, something else than nodes is ill.
async fn keep_alive(cluster: &TestCluster, name: &'static str) {
    let node = value!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    cluster.create("", "nodes", node).await;
    let (client, nodes) = (cluster.client.clone(), Resource::built_in("", "nodes"));
    tokio::spawn(async move {
        for beat in 0.. {
            let at =
                format!("2026-01-01T{:02}:{:02}:{:02}Z", beat / 3600, beat / 60 % 60, beat % 60);
            let patch = value!({"status": {"conditions": [
                {"type": "Ready", "status": "True", "lastHeartbeatTime": at}]}});
            if client.patch(&nodes, "", name, "status", PatchKind::Merge, &patch).await.is_err() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        }
    });
}

#[tokio::test(start_paused = true)]
async fn where_no_node_reports_nothing_is_evicted() {
    let cluster = cluster(&["node-lifecycle-controller"]).await;
    let node = value!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    cluster.create("", "nodes", node).await;
    let nodes = Resource::built_in("", "nodes");
    let patch = value!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    cluster.client.patch(&nodes, "", "n1", "status", PatchKind::Merge, &patch).await.unwrap();
    let unreachable = |effects: &'static [&'static str]| {
        let wanted: Vec<String> =
            effects.iter().map(|it| format!("node.kubernetes.io/unreachable:{it}")).collect();
        let cluster = &cluster;
        async move {
            cluster
                .eventually("the taints", async |it| {
                    (taints(&it.get("", "nodes", "", "n1").await?) == wanted).then_some(())
                })
                .await;
        }
    };
    unreachable(&["NoSchedule"]).await;
    // Once another reports, the silence is this one's own, counted from then.
    keep_alive(&cluster, "keeper").await;
    unreachable(&["NoSchedule", "NoExecute"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_tainted_and_a_reporting_one_is_not() {
    let cluster = cluster(&["node-lifecycle-controller"]).await;
    keep_alive(&cluster, "keeper").await;
    cluster
        .create(
            "",
            "nodes",
            value!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}),
        )
        .await;
    let nodes = Resource::built_in("", "nodes");
    cluster
        .eventually("a new node is not ready", async |it| {
            let node = it.get("", "nodes", "", "n1").await?;
            (taints(&node) == ["node.kubernetes.io/not-ready:NoSchedule"]).then_some(())
        })
        .await;
    let patch = value!({"status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:05Z"}]}});
    cluster.client.patch(&nodes, "", "n1", "status", PatchKind::Merge, &patch).await.unwrap();
    cluster
        .eventually("no taint", async |it| {
            taints(&it.get("", "nodes", "", "n1").await?).is_empty().then_some(())
        })
        .await;
    let node = cluster
        .eventually("it fell silent", async |it| {
            let node = it.get("", "nodes", "", "n1").await?;
            (taints(&node).len() == 2).then_some(node)
        })
        .await;
    assert_eq!(
        taints(&node),
        ["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"]
    );
    assert_eq!(
        node.items_at(&["status", "conditions"])[0].str_at(&["reason"]),
        "NodeStatusUnknown"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_not_ready_keeps_its_pods_as_they_are_and_what_comes_to_it_is_not_ready() {
    let cluster = cluster(&["node-lifecycle-controller"]).await;
    keep_alive(&cluster, "keeper").await;
    let (nodes, pods) = (Resource::built_in("", "nodes"), Resource::built_in("", "pods"));
    let node = value!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    cluster.create("", "nodes", node).await;
    let report = |status: &'static str| {
        let patch = value!({"status": {"conditions": [
            {"type": "Ready", "status": status, "lastHeartbeatTime": "2026-01-01T00:00:05Z"}]}});
        let (client, nodes) = (cluster.client.clone(), nodes.clone());
        async move { client.patch(&nodes, "", "n1", "status", PatchKind::Merge, &patch).await }
    };
    let run = |name: &'static str| {
        let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
        let status = value!({"status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}]}});
        let (cluster, pods) = (&cluster, &pods);
        async move {
            cluster.create("", "pods", pod).await;
            let kind = PatchKind::Merge;
            cluster.client.patch(pods, "default", name, "status", kind, &status).await.unwrap();
        }
    };
    let wait = async |what: &str, count: usize| {
        let seen = async |it: &TestCluster| {
            (taints(&it.get("", "nodes", "", "n1").await?).len() == count).then_some(())
        };
        cluster.eventually(what, seen).await;
    };
    wait("a new node", 1).await;
    run("old").await;
    report("True").await.unwrap();
    wait("a ready node", 0).await;
    report("False").await.unwrap();
    wait("a node that is not ready", 2).await;
    run("new").await;
    let ready = |pod: &Value| {
        let conditions = pod.items_at(&["status", "conditions"]).iter();
        conditions
            .into_iter()
            .any(|it| it.str_at(&["type"]) == "Ready" && it.str_at(&["status"]) == "True")
    };
    cluster
        .eventually("what came is not ready", async |it| {
            (!ready(&it.get("", "pods", "default", "new").await?)).then_some(())
        })
        .await;
    assert!(ready(&cluster.get("", "pods", "default", "old").await.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn pods_of_a_silent_node_are_told_once_that_they_are_not_ready() {
    let cluster = cluster(&["node-lifecycle-controller"]).await;
    keep_alive(&cluster, "keeper").await;
    let (nodes, pods) = (Resource::built_in("", "nodes"), Resource::built_in("", "pods"));
    let node = value!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
    cluster.create("", "nodes", node).await;
    let patch = value!({"status": {"conditions": [
        {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:05Z"}]}});
    cluster.client.patch(&nodes, "", "n1", "status", PatchKind::Merge, &patch).await.unwrap();
    let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    cluster.create("", "pods", pod).await;
    let ready = async |at: &str| {
        let status = value!({"status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": at}]}});
        let kind = PatchKind::Merge;
        cluster.client.patch(&pods, "default", "p", "status", kind, &status).await.unwrap();
    };
    let status = |pod: &Value| {
        let conditions = pod.items_at(&["status", "conditions"]);
        conditions.iter().map(|it| it.str_at(&["status"]).to_owned()).collect::<String>()
    };
    ready("2026-01-01T00:00:06Z").await;
    cluster
        .eventually("the pod is told", async |it| {
            (status(&it.get("", "pods", "default", "p").await?) == "False").then_some(())
        })
        .await;
    // The agent is back, and its node is not yet: nobody is to quarrel with it.
    ready("2026-01-01T00:10:00Z").await;
    let before = cluster.get("", "pods", "default", "p").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(600)).await;
    let after = cluster.get("", "pods", "default", "p").await.unwrap();
    assert_eq!(
        before.str_at(&["metadata", "resourceVersion"]),
        after.str_at(&["metadata", "resourceVersion"])
    );
    assert_eq!(status(&after), "True");
}
