//! What keeps volumes, claims and classes until nobody needs them.

use apimachinery::{Value, value};
use client::Resource;
use client::call::DeleteParams;
use client::call::PatchKind;
use test_cluster::TestCluster;
use test_cluster::registry::Features;

use crate::{cluster, cluster_with, report};

async fn delete(cluster: &TestCluster, group: &str, plural: &str, namespace: &str, name: &str) {
    let resource = Resource::built_in(group, plural);
    cluster.client.delete(&resource, namespace, name, &DeleteParams::default()).await.unwrap();
}

async fn gone(cluster: &TestCluster, group: &str, plural: &str, namespace: &str, name: &str) {
    cluster
        .eventually(&format!("{name} is gone"), async |it| {
            it.get(group, plural, namespace, name).await.is_none().then_some(())
        })
        .await;
}

fn claim(name: &str) -> Value {
    value!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "volumeAttributesClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}})
}

async fn finalizer(cluster: &TestCluster, group: &str, plural: &str, namespace: &str, name: &str) {
    cluster
        .eventually(&format!("{name} has its finalizer"), async |it| {
            let object = it.get(group, plural, namespace, name).await?;
            (object.items_at(&["metadata", "finalizers"]).len() == 1).then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_stays_while_a_pod_has_it_and_a_class_while_a_claim_has_it() {
    const CONTROLLERS: &[&str] = &[
        "persistentvolumeclaim-protection-controller",
        "volumeattributesclass-protection-controller",
    ];
    let cluster = cluster(CONTROLLERS).await;
    let class = value!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": "gold"},
        "driverName": "x.example", "parameters": {"a": "b"}});
    cluster.create("storage.k8s.io", "volumeattributesclasses", class).await;
    cluster.create("", "persistentvolumeclaims", claim("c")).await;
    finalizer(&cluster, "storage.k8s.io", "volumeattributesclasses", "", "gold").await;
    finalizer(&cluster, "", "persistentvolumeclaims", "default", "c").await;
    let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
    cluster.create("", "pods", pod).await;
    delete(&cluster, "storage.k8s.io", "volumeattributesclasses", "", "gold").await;
    delete(&cluster, "", "persistentvolumeclaims", "default", "c").await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(cluster.get("", "persistentvolumeclaims", "default", "c").await.is_some());
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    let pods = Resource::built_in("", "pods");
    cluster.client.delete(&pods, "default", "p", &now).await.unwrap();
    gone(&cluster, "", "persistentvolumeclaims", "default", "c").await;
    gone(&cluster, "storage.k8s.io", "volumeattributesclasses", "", "gold").await;
}

#[tokio::test(start_paused = true)]
async fn an_unbound_volume_goes_when_it_is_deleted() {
    let cluster = cluster(&["persistentvolume-protection-controller"]).await;
    let volume = value!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}});
    cluster.create("", "persistentvolumes", volume).await;
    finalizer(&cluster, "", "persistentvolumes", "", "v").await;
    delete(&cluster, "", "persistentvolumes", "", "v").await;
    gone(&cluster, "", "persistentvolumes", "", "v").await;
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_volume_is_a_claim_of_its_pod() {
    let cluster = cluster(&["ephemeral-volume-controller"]).await;
    let template = value!({"metadata": {"labels": {"x": "y"}}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}}]}});
    let pod = cluster.create("", "pods", pod).await;
    let claim = cluster
        .eventually("a claim", async |it| {
            it.get("", "persistentvolumeclaims", "default", "p-v").await
        })
        .await;
    assert_eq!(claim.str_at(&["metadata", "labels", "x"]), "y");
    let owner = &claim.items_at(&["metadata", "ownerReferences"])[0];
    assert_eq!(owner.str_at(&["uid"]), pod.str_at(&["metadata", "uid"]));
}

#[tokio::test(start_paused = true)]
async fn a_claim_says_whether_a_pod_has_it() {
    let known = Features { claim_unused_since_time: true, ..Features::default() };
    let gate = "PersistentVolumeClaimUnusedSinceTime=true";
    let cluster = cluster_with(known, gate, &["persistentvolumeclaim-protection-controller"]).await;
    cluster.create("", "persistentvolumeclaims", claim("c")).await;
    let unused = async |status: &str, reason: &str, message: &str| {
        cluster
            .eventually(&format!("Unused is {status}"), async |it| {
                let claim = it.get("", "persistentvolumeclaims", "default", "c").await?;
                let conditions = claim.items_at(&["status", "conditions"]).to_vec();
                let told = conditions.iter().find(|it| it.str_at(&["type"]) == "Unused")?;
                let is = |member: &str, wanted: &str| told.str_at(&[member]) == wanted;
                let all = is("status", status) && is("reason", reason) && is("message", message);
                all.then_some(())
            })
            .await;
    };
    // The binder's work is awaited: two that write at once would be in each other's way.
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let pending = cluster.get("", "persistentvolumeclaims", "default", "c").await.unwrap();
    assert!(pending.at(&["status", "conditions"]).is_none());
    let bound = value!({"status": {"phase": "Bound"}});
    let claims = Resource::built_in("", "persistentvolumeclaims");
    let patched =
        cluster.client.patch(&claims, "default", "c", "status", PatchKind::Merge, &bound).await;
    patched.unwrap();
    const NONE: &str = "No pods are currently referencing this PVC";
    unused("True", "NoPodsUsingPVC", NONE).await;
    let pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
    cluster.create("", "pods", pod).await;
    unused("False", "PodUsingPVC", "A pod is currently referencing this PVC").await;
    report(&cluster, "p", &value!({"status": {"phase": "Succeeded"}})).await;
    unused("True", "NoPodsUsingPVC", NONE).await;
}
