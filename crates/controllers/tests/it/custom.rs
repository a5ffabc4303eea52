//! Controllers of all resources and custom ones: namespaces that go, owners, quotas.

use apimachinery::{Value, value};
use client::Resource;
use client::call::DeleteParams;
use test_cluster::TestCluster;

use crate::cluster;

fn widgets() -> Resource {
    Resource {
        group: "ex.example".into(),
        version: "v1".into(),
        plural: "widgets".into(),
        kind: "Widget".into(),
        namespaced: true,
    }
}

async fn define(cluster: &TestCluster) {
    let definition = value!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.ex.example"},
        "spec": {"group": "ex.example", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}]},
    });
    cluster.create("apiextensions.k8s.io", "customresourcedefinitions", definition).await;
    cluster
        .eventually("the definition is established", async |it| {
            let name = "widgets.ex.example";
            let definition =
                it.get("apiextensions.k8s.io", "customresourcedefinitions", "", name).await?;
            let conditions = definition.items_at(&["status", "conditions"]).iter();
            conditions.clone().find(|it| it.str_at(&["type"]) == "Established").map(|_| ())
        })
        .await;
}

async fn widget(cluster: &TestCluster, namespace: &str, name: &str, owners: Value) -> Value {
    let widget = value!({"apiVersion": "ex.example/v1", "kind": "Widget",
        "metadata": {"name": name, "namespace": namespace, "ownerReferences": owners}});
    cluster.client.create(&widgets(), namespace, &widget).await.unwrap()
}

async fn is_there(cluster: &TestCluster, namespace: &str, name: &str) -> bool {
    cluster.client.get(&widgets(), namespace, name).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_namespace_goes_with_the_custom_resources_in_it() {
    let cluster = cluster(&["namespace-controller"]).await;
    define(&cluster).await;
    let namespace = value!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    cluster.create("", "namespaces", namespace).await;
    widget(&cluster, "a", "x", Value::Null).await;
    let namespaces = Resource::built_in("", "namespaces");
    cluster.client.delete(&namespaces, "", "a", &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("the namespace is gone, and what was in it", async |it| {
            let gone = it.get("", "namespaces", "", "a").await.is_none();
            (gone && !is_there(it, "a", "x").await).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn custom_resources_own_and_are_owned() {
    let cluster = cluster(&["garbage-collector-controller"]).await;
    define(&cluster).await;
    let owner = widget(&cluster, "default", "owner", Value::Null).await;
    let other = widget(&cluster, "default", "other", Value::Null).await;
    let reference = |of: &Value| {
        value!({"apiVersion": "ex.example/v1", "kind": "Widget",
            "name": (of.str_at(&["metadata", "name"])), "uid": (of.str_at(&["metadata", "uid"]))})
    };
    widget(&cluster, "default", "child", value!([(reference(&owner))])).await;
    let both = value!([(reference(&owner)), (reference(&other))]);
    widget(&cluster, "default", "shared", both).await;
    let map = value!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map",
        "namespace": "default", "ownerReferences": [(reference(&owner))]}});
    cluster.create("", "configmaps", map).await;
    cluster.client.delete(&widgets(), "default", "owner", &DeleteParams::default()).await.unwrap();
    cluster
        .eventually("the dependents are gone, and who has another owner has that one", async |it| {
            let map = it.get("", "configmaps", "default", "map").await;
            let shared = it.client.get(&widgets(), "default", "shared").await.unwrap();
            let owners = shared.items_at(&["metadata", "ownerReferences"]);
            let left = owners.len() == 1 && owners[0].str_at(&["name"]) == "other";
            (map.is_none() && left && !is_there(it, "default", "child").await).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_a_kind_goes_when_its_definition_tells() {
    let cluster = cluster(&["garbage-collector-controller"]).await;
    define(&cluster).await;
    let owner = widget(&cluster, "default", "owner", Value::Null).await;
    let reference = |uid: &str| value!({"apiVersion": "ex.example/v1", "kind": "Widget", "name": "owner", "uid": uid});
    let map = |name: &str, owner: Value| {
        value!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default", "ownerReferences": [owner]}})
    };
    let own = reference(owner.str_at(&["metadata", "uid"]));
    cluster.create("", "configmaps", map("own", own)).await;
    let definitions = Resource::built_in("apiextensions.k8s.io", "customresourcedefinitions");
    let name = "widgets.ex.example";
    cluster.client.delete(&definitions, "", name, &DeleteParams::default()).await.unwrap();
    let gone = async |it: &TestCluster, name: &str| {
        it.get("", "configmaps", "default", name).await.is_none().then_some(())
    };
    cluster.eventually("who is owned goes with all", async |it| gone(it, "own").await).await;
    // Whether this one has an owner nobody can tell, until the kind is there again.
    let nobody = reference("00000000-0000-4000-8000-000000000000");
    cluster.create("", "configmaps", map("late", nobody)).await;
    cluster
        .eventually("the definition is gone", async |it| {
            let definitions = it.list("apiextensions.k8s.io", "customresourcedefinitions", "");
            definitions.await.is_empty().then_some(())
        })
        .await;
    define(&cluster).await;
    cluster.eventually("who has no owner goes", async |it| gone(it, "late").await).await;
}

#[tokio::test(start_paused = true)]
async fn quotas_count_custom_resources() {
    let cluster = cluster(&["resourcequota-controller"]).await;
    define(&cluster).await;
    widget(&cluster, "default", "x", Value::Null).await;
    let quota = value!({"apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "q", "namespace": "default"},
        "spec": {"hard": {"count/widgets.ex.example": "5"}}});
    cluster.create("", "resourcequotas", quota).await;
    let used = async |it: &TestCluster, wanted: &str| {
        let quota = it.get("", "resourcequotas", "default", "q").await?;
        let found = quota.str_at(&["status", "used", "count/widgets.ex.example"]) == wanted;
        found.then_some(())
    };
    cluster.eventually("one is counted", async |it| used(it, "1").await).await;
    cluster.client.delete(&widgets(), "default", "x", &DeleteParams::default()).await.unwrap();
    cluster.eventually("none is counted", async |it| used(it, "0").await).await;
}
