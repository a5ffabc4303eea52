//! What nodes bring about: ranges of addresses, evictions, pods left behind.

use apimachinery::{Value, value};
use client::Resource;
use client::call::PatchKind;

use crate::{cluster, pod_of, ready, report};

fn node(name: &str) -> Value {
    value!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

#[tokio::test(start_paused = true)]
async fn every_node_gets_a_range_of_its_own_and_not_the_services_one() {
    let cluster = cluster(&["node-ipam-controller"]).await;
    for name in ["n1", "n2", "n3", "n4"] {
        cluster.create("", "nodes", node(name)).await;
    }
    let ranges = cluster
        .eventually("three nodes with ranges", async |it| {
            let nodes = it.list("", "nodes", "").await;
            let ranges = nodes.iter().map(|it| it.str_at(&["spec", "podCIDR"]).to_owned());
            let mut ranges: Vec<String> = ranges.filter(|it| !it.is_empty()).collect();
            ranges.sort_unstable();
            (ranges.len() == 3).then_some(ranges)
        })
        .await;
    assert_eq!(ranges, ["10.0.0.0/24", "10.0.2.0/24", "10.0.3.0/24"]);
    let events = cluster
        .eventually("the fourth is told", async |it| {
            let events = it.list("", "events", "default").await;
            (!events.is_empty()).then_some(events)
        })
        .await;
    assert_eq!(events[0].str_at(&["reason"]), "CIDRNotAvailable");
}

#[tokio::test(start_paused = true)]
async fn a_pod_leaves_a_tainted_node_when_its_time_is_over() {
    let cluster = cluster(&["taint-eviction-controller"]).await;
    cluster.create("", "nodes", node("n1")).await;
    let mut patient = pod_of("patient", &value!({}));
    patient.set_at(
        &["spec", "tolerations"],
        value!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]),
    );
    for pod in [pod_of("plain", &value!({})), patient] {
        let name = pod.str_at(&["metadata", "name"]).to_owned();
        cluster.create("", "pods", pod).await;
        ready(&cluster, &name).await;
    }
    let patch = value!({"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}});
    let nodes = Resource::built_in("", "nodes");
    cluster.client.patch(&nodes, "", "n1", "", PatchKind::Merge, &patch).await.unwrap();
    let begun = cluster.clock.now();
    for (name, seconds) in [("plain", 0), ("patient", 300)] {
        cluster
            .eventually("it is on its way", async |it| {
                let pod = it.get("", "pods", "default", name).await?;
                pod.at(&["metadata", "deletionTimestamp"]).map(|_| ())
            })
            .await;
        assert_eq!(cluster.clock.now().duration_since(begun).as_secs(), seconds, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_pods_of_a_node_that_is_gone_go_too() {
    let cluster = cluster(&["pod-garbage-collector-controller"]).await;
    cluster.create("", "pods", pod_of("p", &value!({}))).await;
    report(&cluster, "p", &value!({"status": {"phase": "Running"}})).await;
    let begun = cluster.clock.now();
    cluster
        .eventually("the pod is gone", async |it| {
            it.get("", "pods", "default", "p").await.is_none().then_some(())
        })
        .await;
    assert_eq!(cluster.clock.now().duration_since(begun).as_secs(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_node_is_told_how_long_it_may_trust_what_it_knows() {
    let cluster = cluster(&["ttl-controller"]).await;
    cluster.create("", "nodes", node("n1")).await;
    cluster
        .eventually("the annotation", async |it| {
            let node = it.get("", "nodes", "", "n1").await?;
            let text = node.str_at(&["metadata", "annotations", "node.alpha.kubernetes.io/ttl"]);
            (text == "0").then_some(())
        })
        .await;
}
