//! Deployments.

use apimachinery::{Value, value};
use client::Resource;
use client::call::PatchKind;
use test_cluster::TestCluster;

use crate::cluster;

fn deployment(replicas: i64) -> Value {
    value!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 1,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
}

/// Makes every pod ready, as a node would.
async fn make_ready(cluster: &TestCluster) {
    let pods = Resource::built_in("", "pods");
    for pod in cluster.list("", "pods", "default").await {
        let name = pod.str_at(&["metadata", "name"]);
        let now = apimachinery::time::format_time(cluster.clock.now());
        let patch = value!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]}});
        let ready = pod
            .items_at(&["status", "conditions"])
            .iter()
            .any(|it| it.str_at(&["type"]) == "Ready");
        if !ready {
            // It may be gone meanwhile, which is fine.
            let _ = cluster
                .client
                .patch(&pods, "default", name, "status", PatchKind::Merge, &patch)
                .await;
        }
    }
}

async fn rolled_out(cluster: &TestCluster, image: &str, replicas: i64) {
    cluster
        .eventually("the rollout is complete", async |it| {
            make_ready(it).await;
            let pods = it.list("", "pods", "default").await;
            let all = pods
                .iter()
                .all(|pod| pod.items_at(&["spec", "containers"])[0].str_at(&["image"]) == image);
            let deployment = it.get("apps", "deployments", "default", "web").await?;
            let status = |member| deployment.i64_at(&["status", member]);
            let counts =
                [status("replicas"), status("updatedReplicas"), status("availableReplicas")];
            (all && counts == [Some(replicas); 3]
                && status("observedGeneration") == deployment.i64_at(&["metadata", "generation"]))
            .then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_deployment_rolls_out_and_rolls_over_within_its_surge() {
    let cluster = cluster(&["replicaset-controller", "deployment-controller"]).await;
    cluster.create("apps", "deployments", deployment(3)).await;
    rolled_out(&cluster, "i:1", 3).await;
    let deployments = Resource::built_in("apps", "deployments");
    let patch =
        value!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i:2"}]}}}});
    cluster
        .client
        .patch(&deployments, "default", "web", "", PatchKind::Strategic, &patch)
        .await
        .unwrap();
    rolled_out(&cluster, "i:2", 3).await;
    let deployment = cluster.get("apps", "deployments", "default", "web").await.unwrap();
    assert_eq!(
        deployment.str_at(&["metadata", "annotations", "deployment.kubernetes.io/revision"]),
        "2"
    );
    let progressing = deployment
        .items_at(&["status", "conditions"])
        .iter()
        .find(|it| it.str_at(&["type"]) == "Progressing")
        .unwrap();
    assert_eq!(progressing.str_at(&["reason"]), "NewReplicaSetAvailable");
    let sets = cluster.list("apps", "replicasets", "default").await;
    let mut sizes: Vec<Option<i64>> =
        sets.iter().map(|it| it.i64_at(&["spec", "replicas"])).collect();
    sizes.sort();
    assert_eq!(sizes, [Some(0), Some(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_that_does_not_move_says_so() {
    let cluster = cluster(&["replicaset-controller", "deployment-controller"]).await;
    cluster.create("apps", "deployments", deployment(1)).await;
    cluster
        .eventually("the deadline is exceeded", async |it| {
            let deployment = it.get("apps", "deployments", "default", "web").await?;
            let conditions = deployment.items_at(&["status", "conditions"]).to_vec();
            conditions
                .iter()
                .any(|it| it.str_at(&["reason"]) == "ProgressDeadlineExceeded")
                .then_some(())
        })
        .await;
}

/// Found by the simulation, seed 1: the set of a deployment that was deleted with its sets left behind.
#[tokio::test(start_paused = true)]
async fn a_set_that_was_sized_for_another_deployment_does_not_keep_its_new_one_from_rolling() {
    let cluster = cluster(&["replicaset-controller", "deployment-controller"]).await;
    let mut left = deployment(3);
    left.set_at(&["kind"], "ReplicaSet");
    left.set_at(&["metadata", "name"], "web-old");
    left.set_at(&["metadata", "labels", "app"], "web");
    left.set_at(&["metadata", "annotations", "deployment.kubernetes.io/desired-replicas"], "6");
    for field in ["strategy", "progressDeadlineSeconds", "revisionHistoryLimit"] {
        left.remove_at(&["spec", field]);
    }
    cluster.create("apps", "replicasets", left).await;
    let mut new = deployment(3);
    new.items_at_mut(&["spec", "template", "spec", "containers"])[0].set_at(&["image"], "i:2");
    cluster.create("apps", "deployments", new).await;
    rolled_out(&cluster, "i:2", 3).await;
}

/// Found by the simulation, seed 1022: two sets of a rollout that was under way, and a deployment that recreates.
#[tokio::test(start_paused = true)]
async fn sets_that_were_sized_for_another_number_do_not_keep_a_deployment_from_recreating() {
    let cluster = cluster(&["replicaset-controller", "deployment-controller"]).await;
    for (name, replicas) in [("web-a", 2), ("web-b", 3)] {
        let mut left = deployment(replicas);
        left.set_at(&["kind"], "ReplicaSet");
        left.set_at(&["metadata", "name"], name);
        left.set_at(&["metadata", "labels", "app"], "web");
        left.set_at(&["metadata", "annotations", "deployment.kubernetes.io/desired-replicas"], "4");
        for field in ["strategy", "progressDeadlineSeconds", "revisionHistoryLimit"] {
            left.remove_at(&["spec", field]);
        }
        let containers = ["spec", "template", "spec", "containers"];
        left.items_at_mut(&containers)[0].set_at(&["image"], name);
        cluster.create("apps", "replicasets", left).await;
    }
    let mut new = deployment(1);
    new.set_at(&["spec", "strategy"], value!({"type": "Recreate"}));
    cluster.create("apps", "deployments", new).await;
    rolled_out(&cluster, "i:1", 1).await;
}
