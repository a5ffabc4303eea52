//! Groups of pods on a real API server, in virtual time: all get a node, or none does.

use apimachinery::{Value, value};
use client::Resource;
use client::call::{DeleteParams, PatchKind};
use scheduler::{Configuration, Metrics};
use test_cluster::TestCluster;
use test_cluster::registry::{Apis, Features, Registry};

use crate::cluster::{event, node, on_node, pod, refused, start};

const NEEDS_FOUR: &str = "minCount (4) cannot be satisfied: 3 scheduled, 0 remaining, pod group preemption: \
    No preemption victims found for incoming preemptor";

/// A cluster where pods are scheduled in groups.
async fn cluster() -> TestCluster {
    let features =
        Features { generic_workload: true, topology_aware_workloads: true, ..Features::default() };
    let asked = ["scheduling.k8s.io/v1beta1=true".to_owned()];
    let apis = Apis::default().with_features(features).configure(&asked).unwrap();
    let cluster = TestCluster::serving(1, Registry::of(apis)).await;
    let config = Configuration {
        features: scheduler::config::Features {
            pod_groups: true,
            topology: true,
            ..Default::default()
        },
        ..Configuration::default()
    };
    let client = cluster.client_named("system:kube-scheduler");
    start(&cluster, client, &config, &[], Metrics::default());
    cluster
}

async fn group(cluster: &TestCluster, name: &str, policy: Value) {
    let group = value!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
        "metadata": {"name": name, "namespace": "default"}, "spec": {"schedulingPolicy": policy}});
    cluster.create("scheduling.k8s.io", "podgroups", group).await;
}

async fn gang(cluster: &TestCluster, name: &str, count: i64) {
    group(cluster, name, value!({"gang": {"minCount": count}})).await;
}

fn member(name: &str, group: &str, cpu: &str) -> Value {
    let mut member = pod(name, cpu, 0);
    member.set_at(&["spec", "schedulingGroup"], value!({"podGroupName": group}));
    member
}

async fn members(cluster: &TestCluster, group: &str, names: &[&str]) {
    for name in names {
        cluster.create("", "pods", member(name, group, "1")).await;
    }
}

/// The pods that have a node.
async fn placed(cluster: &TestCluster) -> Vec<String> {
    let pods = cluster.list("", "pods", "default").await;
    let placed = pods.iter().filter(|it| !it.str_at(&["spec", "nodeName"]).is_empty());
    placed.map(|it| it.str_at(&["metadata", "name"]).to_owned()).collect()
}

/// Status, reason and message of a group's condition, once its status is that.
async fn condition(cluster: &TestCluster, name: &str, status: &str) -> (String, String) {
    let what = format!("{name} is scheduled: {status}");
    let found = cluster.eventually(&what, async |it| {
        let group = it.get("scheduling.k8s.io", "podgroups", "default", name).await?;
        let conditions = group.items_at(&["status", "conditions"]);
        let said = |it: &&Value| it.str_at(&["type"]) == "PodGroupInitiallyScheduled";
        let said = conditions.iter().find(said)?;
        let same = said.str_at(&["status"]) == status;
        same.then(|| (said.str_at(&["reason"]).into(), said.str_at(&["message"]).into()))
    });
    found.await
}

/// Waits until a pod's condition says this.
async fn told(cluster: &TestCluster, name: &str, message: &str) {
    let what = format!("{name} is told: {message}");
    let said = cluster.eventually(&what, async |it| {
        let (_, said) = refused(it, name).await;
        (said == message).then_some(())
    });
    said.await;
}

#[tokio::test(start_paused = true)]
async fn a_gang_of_four_that_fits_three_gets_no_node_and_all_four_when_a_node_comes() {
    let cluster = cluster().await;
    node(&cluster, "n1", "3").await;
    gang(&cluster, "g", 4).await;
    members(&cluster, "g", &["a", "b", "c", "d"]).await;
    let (reason, message) = condition(&cluster, "g", "False").await;
    assert_eq!((reason.as_str(), message.as_str()), ("Unschedulable", NEEDS_FOUR));
    assert_eq!(refused(&cluster, "a").await, ("Unschedulable".into(), NEEDS_FOUR.into()));
    let (_, last) = refused(&cluster, "d").await;
    assert_eq!(last, "0/1 nodes are available: 1 Insufficient cpu.");
    assert_eq!(event(&cluster, "a", "FailedScheduling").await, NEEDS_FOUR);
    // Others are not in the way of what the gang was thought onto.
    cluster.create("", "pods", pod("other", "3", 0)).await;
    assert_eq!(on_node(&cluster, "other").await, "n1");
    assert_eq!(placed(&cluster).await, ["other"]);
    node(&cluster, "n2", "2").await;
    let expected = "minCount (4) cannot be satisfied: 2 scheduled, 1 remaining, pod group preemption: \
                    No preemption victims found for incoming preemptor";
    told(&cluster, "a", expected).await;
    assert_eq!(placed(&cluster).await, ["other"]);
    node(&cluster, "n3", "2").await;
    for name in ["a", "b", "c", "d"] {
        on_node(&cluster, name).await;
    }
    assert_eq!(condition(&cluster, "g", "True").await.0, "Scheduled");
}

#[tokio::test(start_paused = true)]
async fn nobody_ever_sees_a_part_of_a_gang_bound() {
    let cluster = cluster().await;
    let pods = Resource::built_in("", "pods");
    gang(&cluster, "g", 4).await;
    members(&cluster, "g", &["a", "b", "c"]).await;
    node(&cluster, "n1", "3").await;
    // Three of four: they are not looked at.
    cluster.create("", "pods", pod("other", "1", 0)).await;
    on_node(&cluster, "other").await;
    assert_eq!(placed(&cluster).await, ["other"]);
    members(&cluster, "g", &["d"]).await;
    condition(&cluster, "g", "False").await;
    assert_eq!(placed(&cluster).await, ["other"]);
    // What was in the way goes, which is not enough; a smaller gang is.
    let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    cluster.client.delete(&pods, "default", "other", &at_once).await.unwrap();
    told(&cluster, "a", NEEDS_FOUR).await;
    assert_eq!(placed(&cluster).await, Vec::<String>::new());
    let groups = Resource::built_in("scheduling.k8s.io", "podgroups");
    let patch = value!({"spec": {"schedulingPolicy": {"gang": {"minCount": 3}}}});
    let kind = PatchKind::Merge;
    cluster.client.patch(&groups, "default", "g", "", kind, &patch).await.unwrap();
    condition(&cluster, "g", "True").await;
    let three = cluster.eventually("three are bound", async |it| {
        let placed = placed(it).await;
        (placed.len() == 3).then_some(placed)
    });
    assert_eq!(three.await, ["a", "b", "c"]);
    // Whoever is left gets a node once there is one: the gang has its three.
    node(&cluster, "n2", "1").await;
    assert_eq!(on_node(&cluster, "d").await, "n2");
}

#[tokio::test(start_paused = true)]
async fn members_wait_for_their_group() {
    let cluster = cluster().await;
    node(&cluster, "n1", "4").await;
    members(&cluster, "late", &["a", "b"]).await;
    cluster.create("", "pods", pod("other", "1", 0)).await;
    on_node(&cluster, "other").await;
    assert_eq!(placed(&cluster).await, ["other"]);
    gang(&cluster, "late", 2).await;
    on_node(&cluster, "a").await;
    on_node(&cluster, "b").await;
}

#[tokio::test(start_paused = true)]
async fn of_a_group_without_a_gang_those_that_fit_get_a_node() {
    let cluster = cluster().await;
    node(&cluster, "n1", "2").await;
    group(&cluster, "g", value!({"basic": {}})).await;
    members(&cluster, "g", &["a", "b", "c"]).await;
    on_node(&cluster, "a").await;
    on_node(&cluster, "b").await;
    assert_eq!(refused(&cluster, "c").await.0, "Unschedulable");
    assert_eq!(condition(&cluster, "g", "True").await.0, "Scheduled");
}

#[tokio::test(start_paused = true)]
async fn members_that_do_not_fit_together_are_told_so() {
    let cluster = cluster().await;
    node(&cluster, "n1", "4").await;
    gang(&cluster, "g", 2).await;
    let mut important = member("a", "g", "1");
    important.set_at(&["spec", "priority"], 7);
    cluster.create("", "pods", important).await;
    cluster.create("", "pods", member("b", "g", "1")).await;
    let expected = "all pods in a single pod group should have the same priority as the pod group's priority, got 7 and 0";
    assert_eq!(condition(&cluster, "g", "False").await, ("SchedulerError".into(), expected.into()));
    assert_eq!(refused(&cluster, "b").await, ("SchedulerError".into(), expected.into()));
    assert_eq!(placed(&cluster).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn two_gangs_do_not_share_what_is_enough_for_one() {
    let cluster = cluster().await;
    for name in ["n1", "n2", "n3"] {
        node(&cluster, name, "1").await;
    }
    gang(&cluster, "g", 3).await;
    gang(&cluster, "h", 3).await;
    for (one, other) in [("g1", "h1"), ("g2", "h2"), ("g3", "h3")] {
        members(&cluster, "g", &[one]).await;
        members(&cluster, "h", &[other]).await;
    }
    condition(&cluster, "g", "True").await;
    let (reason, _) = condition(&cluster, "h", "False").await;
    assert_eq!(reason, "Unschedulable");
    for name in ["g1", "g2", "g3"] {
        on_node(&cluster, name).await;
    }
    assert_eq!(placed(&cluster).await, ["g1", "g2", "g3"]);
}

/// A pod that is in nobody's way that is more important.
fn humble(name: &str, cpu: &str, group: Option<&str>) -> Value {
    let mut humble = pod(name, cpu, -10);
    // It goes at once: nobody plays its node.
    humble.set_at(&["spec", "terminationGracePeriodSeconds"], 0);
    if let Some(group) = group {
        humble.set_at(&["spec", "schedulingGroup"], value!({"podGroupName": group}));
    }
    humble
}

/// The pods that are there, or are not going.
async fn there(cluster: &TestCluster) -> Vec<String> {
    let pods = cluster.list("", "pods", "default").await;
    let there = pods.iter().filter(|it| it.str_at(&["metadata", "deletionTimestamp"]).is_empty());
    there.map(|it| it.str_at(&["metadata", "name"]).to_owned()).collect()
}

/// A pod that was to go has ended.
async fn ended(cluster: &TestCluster, name: &str) {
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    let pods = client::Resource::built_in("", "pods");
    cluster.client.delete(&pods, "default", name, &now).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_gang_pushes_away_as_few_as_make_room_for_all_of_it() {
    let cluster = cluster().await;
    for name in ["n1", "n2"] {
        node(&cluster, name, "4").await;
    }
    for name in ["l1", "l2", "l3", "l4"] {
        let mut slow = humble(name, "2", None);
        slow.set_at(&["spec", "terminationGracePeriodSeconds"], 30);
        cluster.create("", "pods", slow).await;
        on_node(&cluster, name).await;
    }
    gang(&cluster, "g", 2).await;
    for name in ["a", "b"] {
        cluster.create("", "pods", member(name, "g", "2")).await;
    }
    let (reason, message) = condition(&cluster, "g", "False").await;
    let expected = "minCount (2) cannot be satisfied: 0 scheduled, 1 remaining, pod group preemption: \
                    found a placement for podgroup, preempting 2 victims";
    assert_eq!((reason.as_str(), message.as_str()), ("Unschedulable", expected));
    cluster
        .eventually("two of four go", async |it| (there(it).await.len() == 4).then_some(()))
        .await;
    assert_eq!(placed(&cluster).await.len(), 4, "who goes is there still");
    for pod in cluster.list("", "pods", "default").await {
        if pod.at(&["metadata", "deletionTimestamp"]).is_some() {
            ended(&cluster, pod.str_at(&["metadata", "name"])).await;
        }
    }
    on_node(&cluster, "a").await;
    on_node(&cluster, "b").await;
    condition(&cluster, "g", "True").await;
    assert_eq!(there(&cluster).await.len(), 4, "two of four are left");
    let events = cluster.list("", "events", "default").await;
    let told = events.iter().filter(|it| it.str_at(&["reason"]) == "Preempted");
    let told: Vec<&str> = told.map(|it| it.str_at(&["message"])).collect();
    assert!(told.iter().all(|it| it.starts_with("Preempted by podgroup ")), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_gang_that_does_not_fit_even_then_pushes_nobody_away() {
    let cluster = cluster().await;
    node(&cluster, "n1", "4").await;
    cluster.create("", "pods", humble("low", "2", None)).await;
    cluster.create("", "pods", pod("equal", "2", 0)).await;
    on_node(&cluster, "low").await;
    on_node(&cluster, "equal").await;
    gang(&cluster, "g", 3).await;
    members(&cluster, "g", &["a", "b", "c"]).await;
    let (_, message) = condition(&cluster, "g", "False").await;
    let expected =
        "pod group preemption: minCount (3) cannot be satisfied: 2 scheduled, 0 remaining";
    assert!(message.ends_with(expected), "{message}");
    assert_eq!(there(&cluster).await, ["a", "b", "c", "equal", "low"]);
    assert_eq!(placed(&cluster).await, ["equal", "low"]);
}

#[tokio::test(start_paused = true)]
async fn a_group_that_goes_together_goes_as_a_whole_or_stays() {
    let cluster = cluster().await;
    for name in ["n1", "n2", "n3"] {
        node(&cluster, name, "2").await;
    }
    let low = value!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
        "metadata": {"name": "low", "namespace": "default"}, "spec": {"priority": (-10),
            "schedulingPolicy": {"gang": {"minCount": 2}}, "disruptionMode": {"all": {}}}});
    cluster.create("scheduling.k8s.io", "podgroups", low).await;
    cluster.create("", "pods", humble("w1", "2", Some("low"))).await;
    cluster.create("", "pods", humble("w2", "2", Some("low"))).await;
    on_node(&cluster, "w1").await;
    on_node(&cluster, "w2").await;
    cluster.create("", "pods", humble("alone", "2", None)).await;
    on_node(&cluster, "alone").await;
    // One node is enough: who goes alone goes before a group.
    gang(&cluster, "g", 1).await;
    cluster.create("", "pods", member("a", "g", "2")).await;
    on_node(&cluster, "a").await;
    assert_eq!(there(&cluster).await, ["a", "w1", "w2"]);
    // A pod for itself takes the whole group with it.
    cluster.create("", "pods", pod("b", "2", 0)).await;
    on_node(&cluster, "b").await;
    cluster
        .eventually("the group is gone", async |it| (there(it).await == ["a", "b"]).then_some(()))
        .await;
}

/// A node in a rack.
async fn in_rack(cluster: &TestCluster, name: &str, rack: &str, cpu: &str) {
    node(cluster, name, cpu).await;
    let labels = value!({"metadata": {"labels": {"rack": rack, "host": name}}});
    crate::cluster::patch(cluster, "nodes", name, "", labels).await;
}

/// A gang of two whose pods have to be in one rack.
async fn in_one_rack(cluster: &TestCluster, name: &str) {
    let group = value!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 2}},
            "schedulingConstraints": {"topology": [{"key": "rack"}]}}});
    cluster.create("scheduling.k8s.io", "podgroups", group).await;
}

#[tokio::test(start_paused = true)]
async fn a_group_is_placed_in_the_one_rack_where_it_fits() {
    let cluster = cluster().await;
    for (name, rack, cpu) in [("a1", "a", "1"), ("b1", "b", "1"), ("b2", "b", "1"), ("x", "", "8")]
    {
        in_rack(&cluster, name, rack, cpu).await;
    }
    let unlabelled = value!({"metadata": {"labels": {"rack": null}}});
    crate::cluster::patch(&cluster, "nodes", "x", "", unlabelled).await;
    in_one_rack(&cluster, "g").await;
    members(&cluster, "g", &["g-1", "g-2"]).await;
    let mut nodes = [on_node(&cluster, "g-1").await, on_node(&cluster, "g-2").await];
    nodes.sort();
    assert_eq!(nodes, ["b1", "b2"]);
    // One that comes later goes where the others are, or nowhere.
    members(&cluster, "g", &["g-3"]).await;
    assert_eq!(condition(&cluster, "g", "True").await.0, "Scheduled");
    let (_, message) = refused(&cluster, "g-3").await;
    assert!(message.starts_with("0/2 nodes are available: 2 Insufficient cpu"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_group_that_fits_in_no_rack_gets_no_node_until_one_is_large_enough() {
    let cluster = cluster().await;
    in_rack(&cluster, "a1", "a", "1").await;
    in_rack(&cluster, "b1", "b", "1").await;
    in_one_rack(&cluster, "g").await;
    members(&cluster, "g", &["g-1", "g-2"]).await;
    let (_, message) = condition(&cluster, "g", "False").await;
    assert_eq!(
        message,
        "0/2 placements are available, first placement status: minCount (2) cannot be satisfied: 1 scheduled, 0 remaining, \
         pod group preemption: No preemption victims found for incoming preemptor"
    );
    assert!(placed(&cluster).await.is_empty());
    in_rack(&cluster, "a2", "a", "1").await;
    on_node(&cluster, "g-1").await;
    on_node(&cluster, "g-2").await;
}

#[tokio::test(start_paused = true)]
async fn a_group_that_has_to_be_in_one_rack_pushes_pods_of_that_rack_away() {
    let cluster = cluster().await;
    for (name, rack) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        in_rack(&cluster, name, rack, "1").await;
        let mut weak = pod(&format!("weak-{name}"), "1", 0);
        weak.set_at(&["spec", "terminationGracePeriodSeconds"], 0);
        weak.set_at(&["spec", "nodeSelector"], value!({"host": name}));
        cluster.create("", "pods", weak).await;
        on_node(&cluster, &format!("weak-{name}")).await;
    }
    let group = value!({"apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
        "metadata": {"name": "g", "namespace": "default"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 2}}, "priority": 7,
            "schedulingConstraints": {"topology": [{"key": "rack"}]}}});
    cluster.create("scheduling.k8s.io", "podgroups", group).await;
    for name in ["g-1", "g-2"] {
        let mut strong = member(name, "g", "1");
        strong.set_at(&["spec", "priority"], 7);
        cluster.create("", "pods", strong).await;
    }
    let mut nodes = [on_node(&cluster, "g-1").await, on_node(&cluster, "g-2").await];
    nodes.sort();
    assert_eq!(nodes, ["a1", "a2"]);
    assert!(cluster.get("", "pods", "default", "weak-b1").await.is_some());
}
