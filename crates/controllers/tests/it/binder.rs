//! Claims and volumes are bound on a real API server.

use apimachinery::{Value, value};
use client::Resource;
use client::call::{DeleteParams, PatchKind};
use test_cluster::TestCluster;

use crate::cluster;

const BINDER: &[&str] = &["persistentvolume-binder-controller"];

fn volume(name: &str, size: &str) -> Value {
    value!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "s", "hostPath": {"path": "/x"}}})
}

fn claim(name: &str, size: &str) -> Value {
    value!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "resources": {"requests": {"storage": size}}}})
}

async fn in_phase(cluster: &TestCluster, plural: &str, name: &str, phase: &str) -> Value {
    let namespace = if plural == "persistentvolumes" { "" } else { "default" };
    let what = format!("{plural} {name} is {phase}");
    let found = cluster.eventually(&what, async |it| {
        let object = it.get("", plural, namespace, name).await?;
        (object.str_at(&["status", "phase"]) == phase).then_some(object)
    });
    found.await
}

#[tokio::test(start_paused = true)]
async fn claims_get_volumes_whichever_comes_first_and_never_the_same() {
    let cluster = cluster(BINDER).await;
    for name in ["a", "b", "c"] {
        cluster.create("", "persistentvolumeclaims", claim(name, "1Gi")).await;
    }
    for name in ["x", "y", "z"] {
        cluster.create("", "persistentvolumes", volume(name, "2Gi")).await;
    }
    let mut taken = Vec::new();
    for name in ["a", "b", "c"] {
        let claim = in_phase(&cluster, "persistentvolumeclaims", name, "Bound").await;
        let name = claim.str_at(&["spec", "volumeName"]).to_owned();
        let volume = in_phase(&cluster, "persistentvolumes", &name, "Bound").await;
        let uid = |path: &[&str], it: &Value| it.str_at(path).to_owned();
        assert_eq!(uid(&["spec", "claimRef", "uid"], &volume), uid(&["metadata", "uid"], &claim));
        assert_eq!(claim.str_at(&["status", "capacity", "storage"]), "2Gi");
        taken.push(name);
    }
    taken.sort();
    assert_eq!(taken, ["x", "y", "z"]);
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_released_with_its_claim_and_a_claim_lost_with_its_volume() {
    let cluster = cluster(BINDER).await;
    let delete = async |plural: &str, namespace: &str, name: &str| {
        let resource = Resource::built_in("", plural);
        let params = DeleteParams::default();
        cluster.client.delete(&resource, namespace, name, &params).await.unwrap();
    };
    for name in ["x", "y"] {
        cluster.create("", "persistentvolumes", volume(name, "2Gi")).await;
        let mut claim = claim(name, "1Gi");
        claim.set_at(&["spec", "volumeName"], name);
        cluster.create("", "persistentvolumeclaims", claim).await;
        in_phase(&cluster, "persistentvolumeclaims", name, "Bound").await;
    }
    delete("persistentvolumeclaims", "default", "x").await;
    in_phase(&cluster, "persistentvolumes", "x", "Released").await;
    delete("persistentvolumes", "", "y").await;
    let lost = in_phase(&cluster, "persistentvolumeclaims", "y", "Lost").await;
    assert!(lost.at(&["status", "capacity"]).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_claim_without_a_class_gets_the_default_one_when_there_is_one() {
    let cluster = cluster(BINDER).await;
    let mut open = claim("c", "1Gi");
    open.remove_at(&["spec", "storageClassName"]);
    cluster.create("", "persistentvolumeclaims", open).await;
    let class = value!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/p",
        "metadata": {"name": "s", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    cluster.create("storage.k8s.io", "storageclasses", class).await;
    cluster
        .eventually("its maker is asked for", async |it| {
            let claim = it.get("", "persistentvolumeclaims", "default", "c").await?;
            let asked = ["metadata", "annotations", "volume.kubernetes.io/storage-provisioner"];
            (claim.str_at(&asked) == "example.com/p").then_some(())
        })
        .await;
    // What a provisioner does.
    let made = cluster.get("", "persistentvolumeclaims", "default", "c").await.unwrap();
    let mut volume = volume("made", "1Gi");
    let uid = made.str_at(&["metadata", "uid"]);
    volume.set_at(
        &["spec", "claimRef"],
        value!({"kind": "PersistentVolumeClaim", "namespace": "default", "name": "c", "uid": uid}),
    );
    cluster.create("", "persistentvolumes", volume).await;
    let bound = in_phase(&cluster, "persistentvolumeclaims", "c", "Bound").await;
    assert_eq!(bound.str_at(&["spec", "volumeName"]), "made");
    // The other way to let a volume go: nobody is named any more.
    let volumes = Resource::built_in("", "persistentvolumes");
    let nobody = value!({"spec": {"claimRef": null}});
    cluster.client.patch(&volumes, "", "made", "", PatchKind::Merge, &nobody).await.unwrap();
    cluster
        .eventually("it is taken again", async |it| {
            let volume = it.get("", "persistentvolumes", "", "made").await?;
            (volume.str_at(&["spec", "claimRef", "name"]) == "c").then_some(())
        })
        .await;
}
