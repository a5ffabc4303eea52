//! ReplicaSets.

use apimachinery::{Value, value};
use client::Resource;
use client::call::PatchKind;

use crate::cluster;

fn set(replicas: i64) -> Value {
    value!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

#[tokio::test(start_paused = true)]
async fn a_set_has_as_many_pods_as_it_wants_and_says_so() {
    let cluster = cluster(&["replicaset-controller"]).await;
    cluster.create("apps", "replicasets", set(3)).await;
    cluster
        .eventually("three pods, and a status that says so", async |it| {
            let pods = it.list("", "pods", "default").await;
            let set = it.get("apps", "replicasets", "default", "web").await?;
            (pods.len() == 3 && set.i64_at(&["status", "replicas"]) == Some(3)).then_some(())
        })
        .await;
    let sets = Resource::built_in("apps", "replicasets");
    let patch = value!({"spec": {"replicas": 1}});
    cluster.client.patch(&sets, "default", "web", "", PatchKind::Merge, &patch).await.unwrap();
    cluster
        .eventually("one pod", async |it| {
            (it.list("", "pods", "default").await.len() == 1).then_some(())
        })
        .await;
    let events = cluster
        .eventually("events", async |it| {
            let events = it.list("", "events", "default").await;
            (events.len() == 5).then_some(events)
        })
        .await;
    assert!(events.iter().any(|it| it.str_at(&["reason"]) == "SuccessfulDelete"));
}

#[tokio::test(start_paused = true)]
async fn orphans_that_fit_are_adopted_and_counted() {
    let cluster = cluster(&["replicaset-controller"]).await;
    let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "orphan", "namespace": "default", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.create("", "pods", pod).await;
    cluster.create("apps", "replicasets", set(1)).await;
    let orphan = cluster
        .eventually("the orphan has an owner", async |it| {
            let orphan = it.get("", "pods", "default", "orphan").await?;
            (!orphan.items_at(&["metadata", "ownerReferences"]).is_empty()).then_some(orphan)
        })
        .await;
    assert_eq!(orphan.items_at(&["metadata", "ownerReferences"])[0].str_at(&["name"]), "web");
    assert_eq!(cluster.list("", "pods", "default").await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ended_stays_with_its_set_and_one_that_runs_is_let_go() {
    let cluster = cluster(&["replicaset-controller"]).await;
    cluster.create("apps", "replicasets", set(2)).await;
    let made = cluster
        .eventually("two pods", async |it| {
            let pods = it.list("", "pods", "default").await;
            (pods.len() == 2).then_some(pods)
        })
        .await;
    let pods = Resource::built_in("", "pods");
    let names: Vec<&str> = made.iter().map(|it| it.str_at(&["metadata", "name"])).collect();
    let patch = async |name: &str, part: &'static str, patch: Value| {
        let patched = cluster.client.patch(&pods, "default", name, part, PatchKind::Merge, &patch);
        patched.await.unwrap();
    };
    patch(names[0], "status", value!({"status": {"phase": "Failed"}})).await;
    for name in &names {
        patch(name, "", value!({"metadata": {"labels": {"app": "other"}}})).await;
    }
    let is_owned = |pod: &Value| !pod.items_at(&["metadata", "ownerReferences"]).is_empty();
    cluster
        .eventually("two new pods, and the running one let go", async |it| {
            let running = it.get("", "pods", "default", names[1]).await?;
            let all = it.list("", "pods", "default").await.len();
            (all == 4 && !is_owned(&running)).then_some(())
        })
        .await;
    assert!(is_owned(&cluster.get("", "pods", "default", names[0]).await.unwrap()));
}
