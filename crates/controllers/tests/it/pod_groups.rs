//! Groups of pods, which a server has only where it is told so: what keeps them, and who knows of them.

use std::sync::Arc;

use apimachinery::{Value, value};
use client::Resource;
use client::call::DeleteParams;
use component_base::feature_gates::FeatureGates;
use test_cluster::TestCluster;
use test_cluster::registry::{Apis, Features, Registry};

const GROUP: &str = "scheduling.k8s.io";

async fn cluster(names: &'static [&'static str]) -> TestCluster {
    let apis = Apis::default().with_features(Features { generic_workload: true });
    let apis = apis.configure(&["scheduling.k8s.io/v1beta1=true".to_owned()]).unwrap();
    let cluster = TestCluster::serving(1, Registry::of(apis)).await;
    let mut features = FeatureGates::default();
    features.set("GenericWorkload=true").unwrap();
    let setup = controllers::Setup {
        features: Arc::new(features),
        more: cluster.server.optional_resources(),
        one_server: false,
        ..crate::setup(&cluster)
    };
    controllers::start_all(&setup, |name| names.contains(&name));
    cluster
}

fn group(namespace: &str) -> Value {
    value!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
        "metadata": {"name": "g", "namespace": namespace,
            "finalizers": ["scheduling.k8s.io/podgroup-protection"]},
        "spec": {"schedulingPolicy": {"basic": {}}}})
}

async fn delete(cluster: &TestCluster, group: &str, plural: &str, namespace: &str, name: &str) {
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    let resource = Resource::built_in(group, plural);
    cluster.client.delete(&resource, namespace, name, &now).await.unwrap();
}

async fn gone(cluster: &TestCluster, plural: &str, name: &str) {
    let what = format!("{name} is gone");
    let found = cluster.eventually(&what, async |it| {
        it.get(GROUP, plural, "default", name).await.is_none().then_some(())
    });
    found.await;
}

#[tokio::test(start_paused = true)]
async fn a_group_stays_while_a_pod_that_has_not_ended_is_in_it() {
    let cluster = cluster(&["podgroup-protection-controller"]).await;
    cluster.create(GROUP, "podgroups", group("default")).await;
    let member = |name: &str| {
        value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "n1", "schedulingGroup": {"podGroupName": "g"},
                "containers": [{"name": "c", "image": "i"}]}})
    };
    cluster.create("", "pods", member("a")).await;
    cluster.create("", "pods", member("b")).await;
    delete(&cluster, GROUP, "podgroups", "default", "g").await;
    delete(&cluster, "", "pods", "default", "a").await;
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(cluster.get(GROUP, "podgroups", "default", "g").await.is_some());
    crate::report(&cluster, "b", &value!({"status": {"phase": "Succeeded"}})).await;
    gone(&cluster, "podgroups", "g").await;
}

#[tokio::test(start_paused = true)]
async fn groups_go_with_their_workload_and_with_their_namespace() {
    const CONTROLLERS: &[&str] =
        &["garbage-collector-controller", "namespace-controller", "podgroup-protection-controller"];
    let cluster = cluster(CONTROLLERS).await;
    let workload = value!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "Workload",
        "metadata": {"name": "w", "namespace": "default"},
        "spec": {"podGroupTemplates": [{"name": "t", "schedulingPolicy": {"basic": {}}}]}});
    let workload = cluster.create(GROUP, "workloads", workload).await;
    let mut owned = group("default");
    let owner = value!([{"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "Workload", "name": "w",
        "uid": (workload.str_at(&["metadata", "uid"]))}]);
    owned.set_at(&["metadata", "ownerReferences"], owner);
    cluster.create(GROUP, "podgroups", owned).await;
    delete(&cluster, GROUP, "workloads", "default", "w").await;
    gone(&cluster, "podgroups", "g").await;
    let namespace = value!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    cluster.create("", "namespaces", namespace).await;
    cluster.create(GROUP, "podgroups", group("team")).await;
    delete(&cluster, "", "namespaces", "", "team").await;
    cluster
        .eventually("the namespace is gone", async |it| {
            it.get("", "namespaces", "", "team").await.is_none().then_some(())
        })
        .await;
    assert!(cluster.get(GROUP, "podgroups", "team", "g").await.is_none());
}
