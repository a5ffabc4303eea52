//! The garbage collector.

use apimachinery::{Value, value};
use client::Resource;
use client::call::{DeleteParams, PatchKind};
use test_cluster::TestCluster;

use crate::cluster;

/// An owner with one dependent.
async fn family(cluster: &TestCluster) -> Value {
    let owner = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "namespace": "default"}});
    let owner = cluster.create("", "configmaps", owner).await;
    let uid = owner.str_at(&["metadata", "uid"]);
    let child = value!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "child", "namespace": "default", "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "blockOwnerDeletion": true}]}});
    cluster.create("", "secrets", child).await;
    owner
}

async fn delete_owner(cluster: &TestCluster, propagation: &'static str) {
    let maps = Resource::built_in("", "configmaps");
    let params = DeleteParams { propagation: Some(propagation), ..DeleteParams::default() };
    cluster.client.delete(&maps, "default", "owner", &params).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dependents_go_after_their_owner_in_the_background() {
    let cluster = cluster(&["garbage-collector-controller"]).await;
    family(&cluster).await;
    delete_owner(&cluster, "Background").await;
    assert!(cluster.get("", "configmaps", "default", "owner").await.is_none());
    cluster
        .eventually("the dependent is gone", async |it| {
            it.get("", "secrets", "default", "child").await.is_none().then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_waits_for_its_dependents_in_the_foreground() {
    let cluster = cluster(&["garbage-collector-controller"]).await;
    family(&cluster).await;
    delete_owner(&cluster, "Foreground").await;
    cluster
        .eventually("both are gone", async |it| {
            let owner = it.get("", "configmaps", "default", "owner").await;
            let child = it.get("", "secrets", "default", "child").await;
            assert!(owner.is_some() || child.is_none(), "the owner went before its dependent");
            (owner.is_none() && child.is_none()).then_some(())
        })
        .await;
}

/// Found by the simulation, seed 5081: each was deleted so that it waits for those that it owns.
#[tokio::test(start_paused = true)]
async fn who_wait_for_each_other_go() {
    let cluster = cluster(&["garbage-collector-controller"]).await;
    let maps = Resource::built_in("", "configmaps");
    let names = ["a", "b", "c"];
    let mut uids = Vec::new();
    for name in names {
        let map = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}});
        let map = cluster.create("", "configmaps", map).await;
        uids.push(map.str_at(&["metadata", "uid"]).to_owned());
    }
    for (place, name) in names.iter().enumerate() {
        let owner = (place + 1) % names.len();
        let patch = value!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap",
            "name": (names[owner]), "uid": (uids[owner].clone()), "blockOwnerDeletion": true}]}});
        cluster.client.patch(&maps, "default", name, "", PatchKind::Merge, &patch).await.unwrap();
    }
    let delete = async |name: &str| {
        let params = DeleteParams { propagation: Some("Foreground"), ..DeleteParams::default() };
        cluster.client.delete(&maps, "default", name, &params).await.unwrap();
    };
    tokio::join!(delete("a"), delete("b"), delete("c"));
    cluster
        .eventually("all are gone", async |it| {
            let left = it.list("", "configmaps", "default").await;
            let left = left.iter().filter(|it| names.contains(&it.str_at(&["metadata", "name"])));
            (left.count() == 0).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn orphans_stay_and_name_no_owner() {
    let cluster = cluster(&["garbage-collector-controller"]).await;
    family(&cluster).await;
    delete_owner(&cluster, "Orphan").await;
    cluster
        .eventually("the owner is gone", async |it| {
            it.get("", "configmaps", "default", "owner").await.is_none().then_some(())
        })
        .await;
    let child = cluster.get("", "secrets", "default", "child").await.unwrap();
    assert!(child.items_at(&["metadata", "ownerReferences"]).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_whose_owner_never_was_goes() {
    let cluster = cluster(&["garbage-collector-controller"]).await;
    let child = value!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "child", "namespace": "default", "ownerReferences": [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": "nobody", "uid": "00000000-0000-4000-8000-000000000000"}]}});
    cluster.create("", "secrets", child).await;
    cluster
        .eventually("it is gone", async |it| {
            it.get("", "secrets", "default", "child").await.is_none().then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_owner_in_another_namespace_is_none_and_that_is_told() {
    let cluster = cluster(&["garbage-collector-controller"]).await;
    let namespace =
        value!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}});
    cluster.create("", "namespaces", namespace).await;
    let owner = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "namespace": "other"}});
    let owner = cluster.create("", "configmaps", owner).await;
    let uid = owner.str_at(&["metadata", "uid"]).to_owned();
    let reference =
        value!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": (uid.as_str())});
    let child = value!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "child", "namespace": "default", "ownerReferences": [reference]}});
    cluster.create("", "configmaps", child).await;
    cluster
        .eventually("it is told and the object goes", async |it| {
            let events = it.list("", "events", "default").await;
            let told = events.iter().find(|it| it.str_at(&["reason"]) == "OwnerRefInvalidNamespace")?;
            let message = format!(
                "ownerRef [v1/ConfigMap, namespace: default, name: owner, uid: {uid}] does not exist in namespace \"default\""
            );
            assert_eq!(told.str_at(&["message"]), message);
            it.get("", "configmaps", "default", "child").await.is_none().then_some(())
        })
        .await;
}
