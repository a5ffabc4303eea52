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
    let features = Features {
        generic_workload: true,
        workload_with_job: true,
        topology_aware_workloads: true,
        ..Features::default()
    };
    let apis = Apis::default().with_features(features);
    let apis = apis.configure(&["scheduling.k8s.io/v1beta1=true".to_owned()]).unwrap();
    let cluster = TestCluster::serving(1, Registry::of(apis)).await;
    let mut features = FeatureGates::default();
    features.set("GenericWorkload=true,WorkloadWithJob=true").unwrap();
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

/// A job of three at once, scheduled so.
fn job(name: &str, scheduling: Option<Value>) -> Value {
    let mut job = value!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"parallelism": 3, "completions": 3, "template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "i"}]}}}});
    if let Some(scheduling) = scheduling {
        job.set_at(&["spec", "scheduling"], scheduling);
    }
    job
}

/// The one object of a resource that was made for a job, once there is one.
async fn of_job(cluster: &TestCluster, plural: &str, job: &str) -> Value {
    let what = format!("{job} has one of {plural}");
    let found = cluster.eventually(&what, async |it| {
        let mut all = it.list(GROUP, plural, "default").await;
        all.retain(|it| it.str_at(&["metadata", "name"]).starts_with(job));
        all.pop().filter(|_| all.is_empty())
    });
    found.await
}

fn name(of: &Value) -> String {
    of.str_at(&["metadata", "name"]).to_owned()
}

/// So many pods, once there are.
async fn pods(cluster: &TestCluster, count: usize) -> Vec<Value> {
    let found = cluster.eventually("the pods are there", async |it| {
        let pods = it.list("", "pods", "default").await;
        (pods.len() == count).then_some(pods)
    });
    found.await
}

#[tokio::test(start_paused = true)]
async fn a_job_makes_a_group_before_its_pods_and_resizes_it() {
    let cluster = cluster(&["job-controller"]).await;
    let gang = value!({"schedulingPolicy": {"gang": {}}, "disruptionMode": {"all": {}},
        "schedulingConstraints": {"topology": [{"key": "rack"}]}});
    cluster.create("batch", "jobs", job("gang", Some(gang))).await;
    let group = of_job(&cluster, "podgroups", "gang").await;
    let workload = of_job(&cluster, "workloads", "gang").await;
    assert_eq!(group["spec"]["schedulingPolicy"], value!({"gang": {"minCount": 3}}));
    assert!(group.at(&["spec", "disruptionMode", "all"]).is_some());
    let topology = &group["spec"]["schedulingConstraints"]["topology"];
    assert_eq!(*topology, value!([{"key": "rack"}]));
    assert_eq!(group.str_at(&["spec", "workloadRef", "workloadName"]), name(&workload));
    let template = &workload.items_at(&["spec", "podGroupTemplates"])[0];
    assert_eq!(template.str_at(&["name"]), "gang-pgt-0");
    let owners = group.items_at(&["metadata", "ownerReferences"]);
    let kinds: Vec<&str> = owners.iter().map(|it| it.str_at(&["kind"])).collect();
    assert_eq!(kinds, ["Job", "Workload"]);
    for pod in pods(&cluster, 3).await {
        assert_eq!(pod.str_at(&["spec", "schedulingGroup", "podGroupName"]), name(&group));
    }
    let jobs = Resource::built_in("batch", "jobs");
    let patch = value!({"spec": {"scheduling": {"schedulingPolicy": {"gang": {"minCount": 2}}}}});
    let kind = client::call::PatchKind::Merge;
    cluster.client.patch(&jobs, "default", "gang", "", kind, &patch).await.unwrap();
    for plural in ["podgroups", "workloads"] {
        let smaller = cluster.eventually("the gang is smaller", async |it| {
            let object = of_job(it, plural, "gang").await;
            let spec = &object["spec"];
            let template = spec.items_at(&["podGroupTemplates"]).first().unwrap_or(spec);
            let count = template.i64_at(&["schedulingPolicy", "gang", "minCount"]);
            (count == Some(2)).then_some(())
        });
        smaller.await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_says_nothing_has_a_group_without_a_gang_and_one_of_another_controller_none() {
    let cluster = cluster(&["job-controller"]).await;
    cluster.create("batch", "jobs", job("plain", None)).await;
    let group = of_job(&cluster, "podgroups", "plain").await;
    assert!(group.at(&["spec", "schedulingPolicy", "basic"]).is_some());
    let mut owned = job("owned", None);
    let owner = value!([{"apiVersion": "jobset.x-k8s.io/v1", "kind": "JobSet", "name": "s",
        "uid": "u", "controller": true}]);
    owned.set_at(&["metadata", "ownerReferences"], owner);
    cluster.create("batch", "jobs", owned).await;
    let grouped = |it: &&Value| it.at(&["spec", "schedulingGroup"]).is_some();
    assert_eq!(pods(&cluster, 6).await.iter().filter(grouped).count(), 3);
    assert_eq!(cluster.list(GROUP, "podgroups", "default").await.len(), 1);
}
