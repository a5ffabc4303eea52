//! Nodes that fall silent and come back.

use apimachinery::{Value, value};
use client::Resource;
use client::call::PatchKind;

use crate::cluster;

fn taints(node: &Value) -> Vec<String> {
    let taints = node.items_at(&["spec", "taints"]).iter();
    taints.map(|it| format!("{}:{}", it.str_at(&["key"]), it.str_at(&["effect"]))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_tainted_and_a_reporting_one_is_not() {
    let cluster = cluster(&["node-lifecycle-controller"]).await;
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
