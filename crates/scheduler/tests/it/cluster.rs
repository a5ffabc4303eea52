//! The scheduler on a real API server, in virtual time.

use std::sync::Arc;

use apimachinery::{Value, value};
use client::call::PatchKind;
use client::{Client, Resource};
use scheduler::extender::Post;
use scheduler::{Configuration, Extender, Metrics, Scheduler};
use test_cluster::TestCluster;

async fn cluster() -> TestCluster {
    configured("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration", &[])
        .await
}

/// A cluster whose scheduler is configured so, with extenders that are reached this way.
pub(crate) async fn configured(config: &str, ways: &[Arc<dyn Post>]) -> TestCluster {
    measured(config, ways, Metrics::default()).await
}

async fn measured(config: &str, ways: &[Arc<dyn Post>], metrics: Metrics) -> TestCluster {
    let cluster = TestCluster::new(1).await;
    let config = Configuration::parse(config.as_bytes()).unwrap();
    let client = cluster.client_named("system:kube-scheduler");
    start(&cluster, client, &config, ways, metrics);
    cluster
}

/// Starts a scheduler that speaks through this client.
pub(crate) fn start(
    cluster: &TestCluster,
    client: Client,
    config: &Configuration,
    ways: &[Arc<dyn Post>],
    metrics: Metrics,
) {
    let extenders = config.extenders.iter().zip(ways);
    let scheduler = Scheduler {
        client,
        caches: cluster.caches(),
        clock: Arc::clone(&cluster.clock),
        random: Arc::clone(&cluster.random),
        profiles: config.profiles().unwrap(),
        extenders: extenders.map(|(it, way)| Extender::new(it, Arc::clone(way))).collect(),
        backoff: config.backoff(),
        pod_groups: config.features.pod_groups,
        metrics,
    };
    tokio::spawn(scheduler.run(cluster.stop()));
}

pub(crate) async fn node(cluster: &TestCluster, name: &str, cpu: &str) {
    let node = value!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    cluster.create("", "nodes", node).await;
    let nodes = Resource::built_in("", "nodes");
    let status = value!({"status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "10"}}});
    let kind = PatchKind::Merge;
    cluster.client.patch(&nodes, "", name, "status", kind, &status).await.unwrap();
}

pub(crate) fn pod(name: &str, cpu: &str, priority: i64) -> Value {
    value!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"priority": priority,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}})
}

pub(crate) async fn on_node(cluster: &TestCluster, name: &str) -> String {
    let what = format!("{name} has a node");
    let found = cluster.eventually(&what, async |it| {
        let pod = it.get("", "pods", "default", name).await?;
        let node = pod.str_at(&["spec", "nodeName"]).to_owned();
        (!node.is_empty()).then_some(node)
    });
    found.await
}

/// The reason and message of the condition that says that a pod has no node.
pub(crate) async fn refused(cluster: &TestCluster, name: &str) -> (String, String) {
    let what = format!("{name} is refused");
    let found = cluster.eventually(&what, async |it| {
        let pod = it.get("", "pods", "default", name).await?;
        let conditions = pod.items_at(&["status", "conditions"]);
        let said = conditions.iter().find(|it| it.str_at(&["type"]) == "PodScheduled")?;
        let refused = said.str_at(&["status"]) == "False";
        refused.then(|| (said.str_at(&["reason"]).into(), said.str_at(&["message"]).into()))
    });
    found.await
}

pub(crate) async fn event(cluster: &TestCluster, pod: &str, reason: &str) -> String {
    let what = format!("event {reason} of {pod}");
    let found = cluster.eventually(&what, async |it| {
        let events = it.list("", "events", "default").await;
        let fits = |it: &&Value| {
            it.str_at(&["reason"]) == reason && it.str_at(&["involvedObject", "name"]) == pod
        };
        Some(events.iter().find(fits)?.str_at(&["message"]).to_owned())
    });
    found.await
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_and_an_event_says_where() {
    let cluster = cluster().await;
    node(&cluster, "n1", "2").await;
    cluster.create("", "pods", pod("web", "1", 0)).await;
    assert_eq!(on_node(&cluster, "web").await, "n1");
    let message = event(&cluster, "web", "Scheduled").await;
    assert_eq!(message, "Successfully assigned default/web to n1");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_too_big_says_so_and_fits_once_a_node_comes() {
    let cluster = cluster().await;
    node(&cluster, "n1", "2").await;
    cluster.create("", "pods", pod("big", "4", 0)).await;
    let (reason, message) = refused(&cluster, "big").await;
    assert_eq!(reason, "Unschedulable");
    assert_eq!(
        message,
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    assert_eq!(event(&cluster, "big", "FailedScheduling").await, message);
    node(&cluster, "n2", "8").await;
    assert_eq!(on_node(&cluster, "big").await, "n2");
}

#[tokio::test(start_paused = true)]
async fn a_gated_pod_waits_for_its_gates_to_go() {
    let cluster = cluster().await;
    node(&cluster, "n1", "2").await;
    let mut gated = pod("gated", "1", 0);
    gated.set_at(&["spec", "schedulingGates"], value!([{"name": "example.com/g"}]));
    cluster.create("", "pods", gated).await;
    // A pod that came later has a node: the gated one was passed over.
    cluster.create("", "pods", pod("other", "1", 0)).await;
    on_node(&cluster, "other").await;
    assert_eq!(refused(&cluster, "gated").await.0, "SchedulingGated");
    let pods = Resource::built_in("", "pods");
    let patch = value!({"spec": {"schedulingGates": null}});
    cluster.client.patch(&pods, "default", "gated", "", PatchKind::Merge, &patch).await.unwrap();
    assert_eq!(on_node(&cluster, "gated").await, "n1");
}

#[tokio::test(start_paused = true)]
async fn an_important_pod_takes_the_place_of_another() {
    let cluster = cluster().await;
    node(&cluster, "n1", "2").await;
    let mut small = pod("small", "2", 0);
    small.set_at(&["spec", "terminationGracePeriodSeconds"], 0);
    cluster.create("", "pods", small).await;
    on_node(&cluster, "small").await;
    let important = cluster.create("", "pods", pod("important", "1", 100)).await;
    let message = event(&cluster, "small", "Preempted").await;
    let uid = important.str_at(&["metadata", "uid"]);
    assert_eq!(message, format!("Preempted by pod {uid} on node n1"));
    assert_eq!(on_node(&cluster, "important").await, "n1");
    assert!(cluster.get("", "pods", "default", "small").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_pod_for_which_several_go_is_tried_once_all_are_gone() {
    let cluster = cluster().await;
    node(&cluster, "n1", "4").await;
    for name in ["a", "b", "c"] {
        let mut small = pod(name, "1", 0);
        small.set_at(&["spec", "terminationGracePeriodSeconds"], 0);
        cluster.create("", "pods", small).await;
        on_node(&cluster, name).await;
    }
    cluster.create("", "pods", pod("important", "4", 100)).await;
    assert_eq!(on_node(&cluster, "important").await, "n1");
    event(&cluster, "important", "Scheduled").await;
    let events = cluster.list("", "events", "default").await;
    let told = events.iter().filter(|it| it.str_at(&["reason"]) == "FailedScheduling");
    let told: Vec<&str> = told.map(|it| it.str_at(&["message"])).collect();
    assert_eq!(told, ["0/1 nodes are available: 1 Insufficient cpu."]);
}

#[tokio::test(start_paused = true)]
async fn a_domain_that_goes_keeps_no_pod_from_others_any_more() {
    let cluster = cluster().await;
    for (name, cpu) in [("n1", "4"), ("n2", "0")] {
        node(&cluster, name, cpu).await;
        let labels = value!({"metadata": {"labels": {"zone": name}}});
        patch(&cluster, "nodes", name, "", labels).await;
    }
    let spread = |name: &str| {
        let mut pod = pod(name, "1", 0);
        pod.set_at(&["metadata", "labels"], value!({"app": "web"}));
        let constraints = value!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}}]);
        pod.set_at(&["spec", "topologySpreadConstraints"], constraints);
        pod
    };
    cluster.create("", "pods", spread("first")).await;
    on_node(&cluster, "first").await;
    cluster.create("", "pods", spread("second")).await;
    refused(&cluster, "second").await;
    let nodes = Resource::built_in("", "nodes");
    let params = client::call::DeleteParams::default();
    cluster.client.delete(&nodes, "", "n2", &params).await.unwrap();
    assert_eq!(on_node(&cluster, "second").await, "n1");
}

/// The least important pod is told that its promise is another's now.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_emptied_for_one_goes_to_a_more_important_one() {
    let cluster = cluster().await;
    node(&cluster, "n1", "2").await;
    cluster.create("", "pods", pod("small", "2", 0)).await;
    on_node(&cluster, "small").await;
    let nominated = async |name: &str, node: &str| {
        let what = format!("{name} is promised {node}");
        let found = cluster.eventually(&what, async |it| {
            let pod = it.get("", "pods", "default", name).await?;
            (pod.str_at(&["status", "nominatedNodeName"]) == node).then_some(())
        });
        found.await;
    };
    cluster.create("", "pods", pod("first", "2", 100)).await;
    nominated("first", "n1").await;
    cluster.create("", "pods", pod("second", "2", 200)).await;
    nominated("second", "n1").await;
    nominated("first", "").await;
}

#[tokio::test(start_paused = true)]
async fn the_room_that_was_promised_to_a_pod_that_goes_is_given_to_the_next() {
    let cluster = cluster().await;
    node(&cluster, "n1", "4").await;
    cluster.create("", "pods", pod("small", "2", 0)).await;
    on_node(&cluster, "small").await;
    cluster.create("", "pods", pod("important", "4", 100)).await;
    event(&cluster, "small", "Preempted").await;
    cluster.create("", "pods", pod("late", "2", 0)).await;
    assert_eq!(refused(&cluster, "late").await.0, "Unschedulable");
    let pods = Resource::built_in("", "pods");
    let params = client::call::DeleteParams::default();
    cluster.client.delete(&pods, "default", "important", &params).await.unwrap();
    assert_eq!(on_node(&cluster, "late").await, "n1");
}

#[tokio::test(start_paused = true)]
async fn the_room_that_a_pod_gives_back_is_given_to_the_next() {
    let cluster = cluster().await;
    node(&cluster, "n1", "2").await;
    cluster.create("", "pods", pod("large", "2", 0)).await;
    on_node(&cluster, "large").await;
    cluster.create("", "pods", pod("late", "1", 0)).await;
    assert_eq!(refused(&cluster, "late").await.0, "Unschedulable");
    let pods = Resource::built_in("", "pods");
    let less =
        value!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}});
    let kind = PatchKind::Strategic;
    cluster.client.patch(&pods, "default", "large", "resize", kind, &less).await.unwrap();
    assert_eq!(on_node(&cluster, "late").await, "n1");
}

#[tokio::test(start_paused = true)]
async fn the_room_of_a_pod_that_ends_is_given_to_the_next() {
    let cluster = cluster().await;
    node(&cluster, "n1", "2").await;
    cluster.create("", "pods", pod("first", "2", 0)).await;
    on_node(&cluster, "first").await;
    cluster.create("", "pods", pod("second", "2", 0)).await;
    assert_eq!(refused(&cluster, "second").await.0, "Unschedulable");
    let pods = Resource::built_in("", "pods");
    let ended = value!({"status": {"phase": "Succeeded"}});
    let patched =
        cluster.client.patch(&pods, "default", "first", "status", PatchKind::Merge, &ended).await;
    patched.unwrap();
    assert_eq!(on_node(&cluster, "second").await, "n1");
}

/// A claim whose volume is chosen when its pod has a node, with a volume that only `n2` reaches.
async fn waiting_claim(cluster: &TestCluster) {
    let class = value!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"});
    cluster.create("storage.k8s.io", "storageclasses", class).await;
    let claim = value!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.create("", "persistentvolumeclaims", claim).await;
    let term = value!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["yes"]}]});
    let volume = value!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "local": {"path": "/x"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}});
    cluster.create("", "persistentvolumes", volume).await;
    // What the binder does with a new volume.
    patch(cluster, "persistentvolumes", "v", "status", value!({"status": {"phase": "Available"}}))
        .await;
}

pub(crate) async fn patch(
    cluster: &TestCluster,
    plural: &str,
    name: &str,
    part: &'static str,
    patch: Value,
) {
    let resource = Resource::built_in("", plural);
    let namespace = if plural == "persistentvolumeclaims" { "default" } else { "" };
    let kind = PatchKind::Merge;
    cluster.client.patch(&resource, namespace, name, part, kind, &patch).await.unwrap();
}

fn pod_with_claim(name: &str) -> Value {
    let mut pod = pod(name, "1", 0);
    pod.set_at(
        &["spec", "volumes"],
        value!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]),
    );
    pod
}

async fn volume_taken(cluster: &TestCluster) {
    cluster
        .eventually("the volume is the claim's", async |it| {
            let volume = it.get("", "persistentvolumes", "", "v").await?;
            (volume.str_at(&["spec", "claimRef", "name"]) == "c").then_some(())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_once_the_volume_chosen_for_its_node_is() {
    let cluster = cluster().await;
    node(&cluster, "n1", "8").await;
    node(&cluster, "n2", "2").await;
    patch(&cluster, "nodes", "n2", "", value!({"metadata": {"labels": {"disk": "yes"}}})).await;
    waiting_claim(&cluster).await;
    cluster.create("", "pods", pod_with_claim("web")).await;
    volume_taken(&cluster).await;
    let web = cluster.get("", "pods", "default", "web").await.unwrap();
    assert_eq!(web.str_at(&["spec", "nodeName"]), "", "its claim is not bound yet");
    // What the binder does then.
    let bound = value!({"spec": {"volumeName": "v"},
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}});
    patch(&cluster, "persistentvolumeclaims", "c", "", bound).await;
    assert_eq!(on_node(&cluster, "web").await, "n2");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_while_its_volume_is_bound_leaves_it_to_the_next() {
    let cluster = cluster().await;
    node(&cluster, "n2", "1").await;
    patch(&cluster, "nodes", "n2", "", value!({"metadata": {"labels": {"disk": "yes"}}})).await;
    waiting_claim(&cluster).await;
    cluster.create("", "pods", pod_with_claim("first")).await;
    volume_taken(&cluster).await;
    let pods = Resource::built_in("", "pods");
    let params = client::call::DeleteParams::default();
    cluster.client.delete(&pods, "default", "first", &params).await.unwrap();
    // It has room only when the first holds nothing any more.
    cluster.create("", "pods", pod_with_claim("second")).await;
    let bound = value!({"spec": {"volumeName": "v"},
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}});
    patch(&cluster, "persistentvolumeclaims", "c", "", bound).await;
    assert_eq!(on_node(&cluster, "second").await, "n2");
}

#[tokio::test(start_paused = true)]
async fn each_profile_places_the_pods_that_ask_for_it_and_says_who_it_is() {
    let text = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
        profiles: [{schedulerName: default-scheduler}, {schedulerName: other}]";
    let cluster = configured(text, &[]).await;
    node(&cluster, "n1", "4").await;
    let mut mine = pod("mine", "1", 0);
    mine.set_at(&["spec", "schedulerName"], "other");
    let mut nobodys = pod("nobodys", "1", 0);
    nobodys.set_at(&["spec", "schedulerName"], "nobody");
    cluster.create("", "pods", nobodys).await;
    cluster.create("", "pods", mine).await;
    assert_eq!(on_node(&cluster, "mine").await, "n1");
    event(&cluster, "mine", "Scheduled").await;
    let events = cluster.list("", "events", "default").await;
    let told = events.iter().find(|it| it.str_at(&["reason"]) == "Scheduled").unwrap();
    assert_eq!(told.str_at(&["source", "component"]), "other");
    let nobodys = cluster.get("", "pods", "default", "nobodys").await.unwrap();
    assert_eq!(nobodys.str_at(&["spec", "nodeName"]), "");
}

#[tokio::test(start_paused = true)]
async fn what_is_done_is_counted() {
    let metrics = Metrics::default();
    let mut registry = prometheus_client::registry::Registry::default();
    metrics.register(&mut registry);
    let cluster = measured(
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration",
        &[],
        metrics,
    )
    .await;
    node(&cluster, "n1", "2").await;
    cluster.create("", "pods", pod("web", "1", 0)).await;
    event(&cluster, "web", "Scheduled").await;
    cluster.create("", "pods", pod("big", "4", 0)).await;
    refused(&cluster, "big").await;
    let text = component_base::metrics::text(&registry);
    for line in [
        "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 1",
        "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"unschedulable\"} 1",
        "scheduler_pod_scheduling_attempts_count 1",
        "scheduler_preemption_attempts_total 1",
        "scheduler_pending_pods{queue=\"unschedulable\"} 1",
        "scheduler_unschedulable_pods{plugin=\"NodeResourcesFit\",profile=\"default-scheduler\"} 1",
        "scheduler_queue_incoming_pods_total{queue=\"active\",event=\"UnscheduledPodAdd\"} 2",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_not_bound_where_the_volume_that_was_made_cannot_be_had() {
    let cluster = cluster().await;
    node(&cluster, "n1", "2").await;
    let class = value!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "made"},
        "provisioner": "x.csi", "volumeBindingMode": "WaitForFirstConsumer"});
    cluster.create("storage.k8s.io", "storageclasses", class).await;
    let claim = value!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "default"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "made", "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.create("", "persistentvolumeclaims", claim).await;
    cluster.create("", "pods", pod_with_claim("web")).await;
    cluster
        .eventually("the claim is to be made", async |it| {
            let claim = it.get("", "persistentvolumeclaims", "default", "c").await?;
            let selected = ["metadata", "annotations", "volume.kubernetes.io/selected-node"];
            (claim.str_at(&selected) == "n1").then_some(())
        })
        .await;
    let term = value!({"matchExpressions": [{"key": "disk", "operator": "In", "values": ["yes"]}]});
    let volume = value!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "made",
            "csi": {"driver": "x.csi", "volumeHandle": "h"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}});
    cluster.create("", "persistentvolumes", volume).await;
    let bound = value!({"spec": {"volumeName": "v"},
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}});
    patch(&cluster, "persistentvolumeclaims", "c", "", bound).await;
    let message = event(&cluster, "web", "FailedScheduling").await;
    assert_eq!(
        message,
        "running PreBind plugin \"VolumeBinding\": binding volumes: pv \"v\" node affinity doesn't match node \"n1\": \
         no matching NodeSelectorTerms"
    );
}
