//! Volumes of drivers come to the nodes of their pods, and go.

use apimachinery::{Value, value};
use client::Resource;
use client::call::{DeleteParams, PatchKind};
use test_cluster::TestCluster;

use crate::cluster;

const STORAGE: &str = "storage.k8s.io";

async fn patch(
    cluster: &TestCluster,
    group: &str,
    plural: &str,
    namespace: &str,
    name: &str,
    patch: Value,
) {
    let resource = Resource::built_in(group, plural);
    let done = cluster.client.patch(&resource, namespace, name, "status", PatchKind::Merge, &patch);
    done.await.unwrap();
}

/// A node whose volumes are the controller's business, a bound volume and its claim.
async fn prepared(source: (&str, Value)) -> TestCluster {
    const CONTROLLERS: &[&str] =
        &["persistentvolume-attach-detach-controller", "persistentvolume-expander-controller"];
    let cluster = cluster(CONTROLLERS).await;
    let annotations = value!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    cluster
        .create("", "nodes", value!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "annotations": annotations}}))
        .await;
    let spec = value!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "s", "volumeName": "v"});
    let claim = value!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": "default"}, "spec": spec});
    let claim = cluster.create("", "persistentvolumeclaims", claim).await;
    let uid = claim.str_at(&["metadata", "uid"]);
    let mut spec = value!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "s",
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default", "name": "c", "uid": uid}});
    spec.set_at(&[source.0], source.1);
    let volume = value!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": spec});
    cluster.create("", "persistentvolumes", volume).await;
    let bound = value!({"status": {"phase": "Bound"}});
    patch(&cluster, "", "persistentvolumeclaims", "default", "c", bound).await;
    cluster
}

fn reported(node: &Value) -> Vec<&str> {
    let volumes = node.items_at(&["status", "volumesAttached"]).iter();
    volumes.map(|it| it.str_at(&["name"])).collect()
}

fn pod() -> Value {
    value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}})
}

async fn order(cluster: &TestCluster) -> Value {
    let attachments = Resource::built_in(STORAGE, "volumeattachments");
    let found = cluster.eventually("the order", async |it| {
        let all = it.client.list(&attachments, "", &Default::default()).await.ok()?;
        all.items.first().cloned()
    });
    found.await
}

#[tokio::test(start_paused = true)]
async fn a_volume_of_an_in_tree_plugin_is_its_drivers_where_the_node_says_so() {
    let cluster = prepared(("cinder", value!({"volumeID": "h"}))).await;
    cluster.create("", "pods", pod()).await;
    let claims = Resource::built_in("", "persistentvolumeclaims");
    let more = value!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let class = value!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "s"},
        "provisioner": "kubernetes.io/cinder", "allowVolumeExpansion": true});
    cluster.create(STORAGE, "storageclasses", class).await;
    cluster.client.patch(&claims, "default", "c", "", PatchKind::Merge, &more).await.unwrap();
    cluster
        .eventually("the claim says whose resizer does it", async |it| {
            let claim = it.get("", "persistentvolumeclaims", "default", "c").await?;
            let resizer = ["metadata", "annotations", "volume.kubernetes.io/storage-resizer"];
            (claim.str_at(&resizer) == "cinder.csi.openstack.org").then_some(())
        })
        .await;
    // Until here nobody has ordered it: the node does not leave it to the driver.
    assert_eq!(cluster.list(STORAGE, "volumeattachments", "").await.len(), 0);
    let left = value!({"storage.alpha.kubernetes.io/migrated-plugins": "kubernetes.io/cinder"});
    let node = value!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
        "metadata": {"name": "n1", "annotations": left}, "spec": {"drivers": []}});
    cluster.create(STORAGE, "csinodes", node).await;
    let order = order(&cluster).await;
    assert_eq!(order.str_at(&["spec", "attacher"]), "cinder.csi.openstack.org");
    assert_eq!(order.str_at(&["spec", "source", "persistentVolumeName"]), "v");
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_attached_for_a_pod_and_detached_when_its_node_has_let_go() {
    let cluster = prepared(("csi", value!({"driver": "d.io", "volumeHandle": "h"}))).await;
    cluster.create("", "pods", pod()).await;
    let order = order(&cluster).await;
    assert_eq!(order.str_at(&["spec", "attacher"]), "d.io");
    assert_eq!(order.str_at(&["spec", "source", "persistentVolumeName"]), "v");
    let name = order.str_at(&["metadata", "name"]).to_owned();
    patch(
        &cluster,
        STORAGE,
        "volumeattachments",
        "",
        &name,
        value!({"status": {"attached": true}}),
    )
    .await;
    cluster
        .eventually("the node is told", async |it| {
            let node = it.get("", "nodes", "", "n1").await?;
            (reported(&node) == ["kubernetes.io/csi/d.io^h"]).then_some(())
        })
        .await;
    let in_use = value!({"status": {"volumesInUse": ["kubernetes.io/csi/d.io^h"]}});
    patch(&cluster, "", "nodes", "", "n1", in_use).await;
    let pods = Resource::built_in("", "pods");
    cluster.client.delete(&pods, "default", "p", &DeleteParams::default()).await.unwrap();
    patch(&cluster, "", "nodes", "", "n1", value!({"status": {"volumesInUse": null}})).await;
    cluster
        .eventually("the order is taken back", async |it| {
            let gone = it.get(STORAGE, "volumeattachments", "", &name).await.is_none();
            let node = it.get("", "nodes", "", "n1").await?;
            (gone && reported(&node).is_empty()).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_volumes_any_more_is_no_nodes_either() {
    let cluster = prepared(("csi", value!({"driver": "d.io", "volumeHandle": "h"}))).await;
    let entry = |name: &str| value!({"name": name, "devicePath": ""});
    let named = value!([
        (entry("kubernetes.io/csi/d.io^h")),
        (entry("kubernetes.io/csi/d.io^gone")),
        (entry("kubernetes.io/csi/d.io^used")),
        (entry("example.com/another"))
    ]);
    let status = value!({"status": {"volumesAttached": named,
        "volumesInUse": ["kubernetes.io/csi/d.io^used"]}});
    patch(&cluster, "", "nodes", "", "n1", status).await;
    let says = async |it: &TestCluster, wanted: &[&str]| {
        let node = it.get("", "nodes", "", "n1").await?;
        (reported(&node) == wanted).then_some(())
    };
    cluster
        .eventually("what is in use stays, and what is not the controller's", async |it| {
            says(it, &["kubernetes.io/csi/d.io^used", "example.com/another"]).await
        })
        .await;
    patch(&cluster, "", "nodes", "", "n1", value!({"status": {"volumesInUse": null}})).await;
    cluster
        .eventually("what was in use goes", async |it| says(it, &["example.com/another"]).await)
        .await;
}
