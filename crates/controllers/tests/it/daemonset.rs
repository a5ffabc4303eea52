//! DaemonSets.

use apimachinery::{Value, value};
use client::Resource;
use client::call::PatchKind;
use test_cluster::TestCluster;

use crate::{cluster, ready};

fn node(name: &str) -> Value {
    value!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"own": "yes"}}})
}

fn set() -> Value {
    value!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "d"}},
            "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"nodeSelector": {"own": "yes"}, "containers": [{"name": "c", "image": "i:1"}]}}}})
}

async fn patch(cluster: &TestCluster, image: &str) {
    let sets = Resource::built_in("apps", "daemonsets");
    let patch =
        value!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    let done = cluster.client.patch(&sets, "default", "d", "", PatchKind::Strategic, &patch).await;
    done.unwrap();
}

async fn status(cluster: &TestCluster, wanted: &[(&str, i64)]) {
    cluster
        .eventually(&format!("a status with {wanted:?}"), async |it| {
            let set = it.get("apps", "daemonsets", "default", "d").await?;
            let has = |(key, number): &(&str, i64)| {
                set.i64_at(&["status", *key]).unwrap_or_default() == *number
            };
            wanted.iter().all(has).then_some(())
        })
        .await;
}

async fn pods_of_image(cluster: &TestCluster, image: &str, count: usize) -> Vec<String> {
    cluster
        .eventually(&format!("{count} pods of {image}"), async |it| {
            let pods = it.list("", "pods", "default").await;
            let of_image = pods
                .iter()
                .filter(|pod| pod.items_at(&["spec", "containers"])[0].str_at(&["image"]) == image);
            let names: Vec<String> =
                of_image.map(|it| it.str_at(&["metadata", "name"]).to_owned()).collect();
            (names.len() == count).then_some(names)
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn every_node_has_a_pod_of_the_present_template_and_the_past_is_kept() {
    let cluster = cluster(&["daemonset-controller"]).await;
    cluster.create("", "nodes", node("n1")).await;
    cluster.create("apps", "daemonsets", set()).await;
    status(&cluster, &[("desiredNumberScheduled", 1), ("currentNumberScheduled", 1)]).await;
    cluster.create("", "nodes", node("n2")).await;
    for name in pods_of_image(&cluster, "i:1", 2).await {
        ready(&cluster, &name).await;
    }
    status(&cluster, &[("numberAvailable", 2), ("updatedNumberScheduled", 2)]).await;
    patch(&cluster, "i:2").await;
    // One goes at a time; the other follows when the new one is ready.
    let first = pods_of_image(&cluster, "i:2", 1).await;
    status(&cluster, &[("updatedNumberScheduled", 1), ("numberAvailable", 1)]).await;
    ready(&cluster, &first[0]).await;
    for name in pods_of_image(&cluster, "i:2", 2).await {
        ready(&cluster, &name).await;
    }
    status(&cluster, &[("updatedNumberScheduled", 2), ("numberAvailable", 2)]).await;
    // Back again: the first revision becomes the newest.
    patch(&cluster, "i:1").await;
    let numbers = cluster
        .eventually("two revisions", async |it| {
            let all = it.list("apps", "controllerrevisions", "default").await;
            let numbers = all.iter().filter_map(|it| it.i64_at(&["revision"]));
            let mut numbers: Vec<i64> = numbers.collect();
            numbers.sort_unstable();
            (numbers.last() == Some(&3)).then_some(numbers)
        })
        .await;
    assert_eq!(numbers, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_taken_name_of_a_revision_is_not_taken_for_this_template_s() {
    let first = cluster(&["daemonset-controller"]).await;
    first.create("", "nodes", node("n1")).await;
    first.create("apps", "daemonsets", set()).await;
    status(&first, &[("currentNumberScheduled", 1)]).await;
    let revisions = first.list("apps", "controllerrevisions", "default").await;
    let name = revisions[0].str_at(&["metadata", "name"]).to_owned();
    // In another cluster the name has other content: the same set has to find another.
    let second = cluster(&["daemonset-controller"]).await;
    let squatter = value!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"name": (name.as_str()), "namespace": "default"}, "data": {"x": 1}, "revision": 1});
    second.create("apps", "controllerrevisions", squatter).await;
    second.create("", "nodes", node("n1")).await;
    second.create("apps", "daemonsets", set()).await;
    status(&second, &[("collisionCount", 1), ("currentNumberScheduled", 1)]).await;
    assert_eq!(second.list("apps", "controllerrevisions", "default").await.len(), 2);
}
