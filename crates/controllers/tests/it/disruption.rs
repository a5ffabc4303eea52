//! Disruption budgets and evictions.

use apimachinery::{Value, value};
use client::call::PatchKind;
use client::{ClientError, ObjectKey, Resource};
use test_cluster::TestCluster;

use crate::{cluster, pod_of, ready};

async fn evict(cluster: &TestCluster, name: &str) -> Result<Value, ClientError> {
    let eviction =
        value!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
    let pods = Resource::built_in("", "pods");
    cluster.client.create_subresource(&pods, "default", name, "eviction", &eviction).await
}

async fn allowed(cluster: &TestCluster, wanted: i64, of: i64) {
    cluster
        .eventually("a budget that allows so many", async |it| {
            let budget = it.get("policy", "poddisruptionbudgets", "default", "b").await?;
            let observed = budget.i64_at(&["status", "observedGeneration"]) == Some(1);
            let allowed = budget.i64_at(&["status", "disruptionsAllowed"]).unwrap_or_default();
            let healthy = budget.i64_at(&["status", "currentHealthy"]).unwrap_or_default();
            (observed && allowed == wanted && healthy == of).then_some(())
        })
        .await;
}

fn status(error: &ClientError) -> (u16, String) {
    let ClientError::Api(status) = error else { return (0, error.to_string()) };
    let causes = status.status.items_at(&["details", "causes"]);
    let cause = causes.first().map(|it| it.str_at(&["message"]));
    (status.code, cause.unwrap_or(&status.message).to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_budget_lets_one_pod_go_and_refuses_the_next() {
    let cluster = cluster(&["disruption-controller"]).await;
    for name in ["p0", "p1", "p2"] {
        cluster.create("", "pods", pod_of(name, &value!({"app": "web"}))).await;
        ready(&cluster, name).await;
    }
    let budget = value!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "default"},
        "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create("policy", "poddisruptionbudgets", budget.clone()).await;
    allowed(&cluster, 1, 3).await;
    evict(&cluster, "p0").await.unwrap();
    let error = evict(&cluster, "p1").await.unwrap_err();
    assert_eq!(status(&error).0, 429);
    let gone = cluster.get("", "pods", "default", "p0").await.unwrap();
    assert!(gone.at(&["metadata", "deletionTimestamp"]).is_some());
    let reasons = gone.items_at(&["status", "conditions"]).iter().map(|it| it.str_at(&["reason"]));
    assert!(reasons.into_iter().any(|it| it == "EvictionByEvictionAPI"));
    allowed(&cluster, 0, 2).await;
    let error = evict(&cluster, "p1").await.unwrap_err();
    let why = "The disruption budget b needs 2 healthy pods and has 2 currently";
    assert_eq!(status(&error), (429, why.into()));
    let mut second = budget;
    second.set_at(&["metadata", "name"], "c");
    cluster.create("policy", "poddisruptionbudgets", second).await;
    cluster
        .eventually("two budgets for one pod are too many", async |_| {
            let (code, why) = status(&evict(&cluster, "p1").await.err()?);
            (code == 500).then(|| assert!(why.starts_with("This pod has more than one"), "{why}"))
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_stays_after_its_eviction_is_not_about_to_go_any_more() {
    let cluster = cluster(&["disruption-controller"]).await;
    cluster.create("", "pods", pod_of("p", &value!({"app": "web"}))).await;
    let patch = value!({"status": {"conditions": [{"type": "DisruptionTarget", "status": "True",
        "reason": "PreemptionByScheduler", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let pods = Resource::built_in("", "pods");
    let key = ObjectKey::new("default", "p");
    let patched = cluster
        .client
        .patch(&pods, &key.namespace, &key.name, "status", PatchKind::Strategic, &patch)
        .await;
    patched.unwrap();
    cluster
        .eventually("the condition is taken back", async |it| {
            let pod = it.get("", "pods", "default", "p").await?;
            let conditions = pod.items_at(&["status", "conditions"]);
            let target = conditions.iter().find(|it| it.str_at(&["type"]) == "DisruptionTarget")?;
            (target.str_at(&["status"]) == "False").then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_custom_resource_says_how_many_pods_it_wants_by_its_scale() {
    let cluster = cluster(&["disruption-controller"]).await;
    let definition = value!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "fleets.ex.example"},
        "spec": {"group": "ex.example", "scope": "Namespaced", "names": {"plural": "fleets", "kind": "Fleet"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    });
    cluster.create("apiextensions.k8s.io", "customresourcedefinitions", definition).await;
    let fleets = Resource {
        group: "ex.example".into(),
        version: "v1".into(),
        plural: "fleets".into(),
        kind: "Fleet".into(),
        namespaced: true,
    };
    let fleet = value!({"apiVersion": "ex.example/v1", "kind": "Fleet", "metadata": {"name": "f"}, "spec": {"replicas": 3}});
    let fleet = cluster
        .eventually("a fleet", async |it| it.client.create(&fleets, "default", &fleet).await.ok())
        .await;
    let mut owner =
        value!({"apiVersion": "ex.example/v1", "kind": "Fleet", "name": "f", "controller": true});
    owner.set_at(&["uid"], fleet["metadata"]["uid"].clone());
    for name in ["p0", "p1"] {
        let mut pod = pod_of(name, &value!({"app": "web"}));
        pod.set_at(&["metadata", "ownerReferences"], vec![owner.clone()]);
        cluster.create("", "pods", pod).await;
        ready(&cluster, name).await;
    }
    let budget = value!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b", "namespace": "default"},
        "spec": {"maxUnavailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    cluster.create("policy", "poddisruptionbudgets", budget).await;
    // Three are wanted, two are there, one is enough.
    allowed(&cluster, 1, 2).await;
    let budget = cluster.get("policy", "poddisruptionbudgets", "default", "b").await.unwrap();
    assert_eq!(budget.i64_at(&["status", "expectedPods"]), Some(3));
    // Of a kind that nobody knows there is no scale.
    owner.set_at(&["kind"], "Ship");
    let pods = Resource::built_in("", "pods");
    let owners = value!({"metadata": {"ownerReferences": [owner]}});
    let merge = client::call::PatchKind::Merge;
    cluster.client.patch(&pods, "default", "p0", "", merge, &owners).await.unwrap();
    let unknown = "no matches for kind \"Ship\" in version \"ex.example/v1\"";
    cluster
        .eventually("a budget that says so", async |it| {
            let budget = it.get("policy", "poddisruptionbudgets", "default", "b").await?;
            let mut conditions = budget.items_at(&["status", "conditions"]).iter();
            conditions.find(|it| it.str_at(&["message"]) == unknown).map(drop)
        })
        .await;
}
