//! Pods that cannot have one volume on one node, because they want it with different labels.

use apimachinery::{Value, value};
use client::Resource;
use test_cluster::TestCluster;

fn pod(name: &str, level: &str, policy: Option<&str>) -> Value {
    let mut pod = value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"securityContext": {"seLinuxOptions": {"level": level}},
            "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}});
    if let Some(policy) = policy {
        pod.set_at(&["spec", "securityContext", "seLinuxChangePolicy"], policy);
    }
    pod
}

/// A claim that has a volume of a driver.
async fn bound(cluster: &TestCluster) {
    let driver = value!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
        "metadata": {"name": "disk.example.com"}, "spec": {"seLinuxMount": true}});
    cluster.create("storage.k8s.io", "csidrivers", driver).await;
    let claim = value!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": "pv"}});
    let claim = cluster.create("", "persistentvolumeclaims", claim).await;
    let volume = value!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "pv"},
        "spec": {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"},
            "claimRef": {"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": "default", "name": "data",
                "uid": (claim.str_at(&["metadata", "uid"]))},
            "csi": {"driver": "disk.example.com", "volumeHandle": "h"}}});
    cluster.create("", "persistentvolumes", volume).await;
}

async fn told(cluster: &TestCluster, pod: &str, reason: &str) -> String {
    let what = format!("{pod} is told {reason}");
    let told = cluster.eventually(&what, async |it| {
        let events = it.list("", "events", "default").await;
        let its = |it: &&Value| {
            it.str_at(&["involvedObject", "name"]) == pod && it.str_at(&["reason"]) == reason
        };
        events.iter().find(its).map(|it| it.str_at(&["message"]).to_owned())
    });
    told.await
}

#[tokio::test(start_paused = true)]
async fn pods_that_want_one_volume_with_two_labels_are_told() {
    let cluster = crate::cluster(&["selinux-warning-controller"]).await;
    bound(&cluster).await;
    cluster.create("", "pods", pod("a", "s0:c1", None)).await;
    cluster.create("", "pods", pod("same", "s0:c1", None)).await;
    cluster.create("", "pods", pod("b", "s0:c2", None)).await;
    let end = "If both pods land on the same node, only one of them may access the volume.";
    let of = |own: &str, other: &str, level: &str| {
        format!(
            "SELinux label \":::{own}\" conflicts with pod {other} that uses the same volume as this pod with SELinux label \":::{level}\". {end}"
        )
    };
    assert_eq!(told(&cluster, "a", "SELinuxLabelConflict").await, of("s0:c1", "b", "s0:c2"));
    assert_eq!(told(&cluster, "same", "SELinuxLabelConflict").await, of("s0:c1", "b", "s0:c2"));
    cluster.create("", "pods", pod("r", "s0:c1", Some("Recursive"))).await;
    let message = told(&cluster, "r", "SELinuxChangePolicyConflict").await;
    assert!(
        message.starts_with("SELinuxChangePolicy \"Recursive\" conflicts with pod "),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_conflicts_that_there_are_are_counted() {
    let cluster = TestCluster::new(1).await;
    let metrics = controllers::Metrics::default();
    let setup = controllers::Setup { metrics: metrics.clone(), ..crate::setup(&cluster) };
    controllers::start_all(&setup, |it| it == "selinux-warning-controller");
    let mut registry = prometheus_client::registry::Registry::default();
    metrics.register(&mut registry);
    let count = || {
        let told = component_base::metrics::text(&registry);
        told.lines().filter(|it| it.starts_with("selinux_warning_controller_")).count()
    };
    bound(&cluster).await;
    for (name, level) in [("a", "s0:c1"), ("b", "s0:c2")] {
        cluster.create("", "pods", pod(name, level, None)).await;
    }
    cluster.eventually("both sides", async |_| (count() == 2).then_some(())).await;
    let now = client::call::DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    cluster.client.delete(&Resource::built_in("", "pods"), "default", "a", &now).await.unwrap();
    cluster.eventually("none", async |_| (count() == 0).then_some(())).await;
}
