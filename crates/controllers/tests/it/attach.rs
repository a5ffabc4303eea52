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
async fn prepared() -> TestCluster {
    let cluster = cluster(&["persistentvolume-attach-detach-controller"]).await;
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
    let spec = value!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "storageClassName": "s",
        "csi": {"driver": "d.io", "volumeHandle": "h"},
        "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default", "name": "c", "uid": uid}});
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

#[tokio::test(start_paused = true)]
async fn a_volume_is_attached_for_a_pod_and_detached_when_its_node_has_let_go() {
    let cluster = prepared().await;
    let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
    cluster.create("", "pods", pod).await;
    let attachments = Resource::built_in(STORAGE, "volumeattachments");
    let order = cluster
        .eventually("the order", async |it| {
            let all = it.client.list(&attachments, "", &Default::default()).await.ok()?;
            all.items.first().cloned()
        })
        .await;
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
