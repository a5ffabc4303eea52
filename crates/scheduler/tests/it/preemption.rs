//! Whom preemption takes, and what a pod gets that has preempted.

use std::sync::Arc;

use apimachinery::{Value, value};
use scheduler::config::Configuration;
use scheduler::decide::How;
use scheduler::framework::Cycle;
use scheduler::{Cluster, Decision, NodeLite, PodLite, Profile, decide, preemption};

fn pod(name: &str, node: &str, cpu: &str, priority: i64) -> Value {
    value!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {
        "nodeName": node, "priority": priority,
        "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

fn cluster(nodes: &[&str], pods: &[Value]) -> Cluster {
    let mut cluster = Cluster::default();
    for name in nodes {
        cluster.set_node(NodeLite::from_value(&value!({"metadata": {"name": (*name)},
            "status": {"allocatable": {"cpu": "2", "memory": "8Gi", "pods": "10"}}})));
    }
    pods.iter().for_each(|it| cluster.set_pod(Arc::new(PodLite::from_value(it))));
    cluster
}

/// The message, the node that is to be emptied, and the names of those that go.
fn refused(cluster: &Cluster, profile: &Profile, pod: &Value) -> (String, String, Vec<String>) {
    let pod = PodLite::from_value(pod);
    match decide(Cycle { pod: &pod, cluster }, profile, How::default()) {
        Decision::Reject(it) => {
            let best = preemption::best(it.candidates);
            let victims = best.iter().flat_map(|it| it.victims.iter());
            let names = victims.map(|it| it.key.name.to_string()).collect();
            (it.message, best.map(|it| it.node.to_string()).unwrap_or_default(), names)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_gets_the_node_that_is_emptied_for_it_though_another_would_be_better() {
    let mut all = cluster(&["n1", "n2"], &[pod("a", "n2", "1", 0)]);
    let wants = Arc::new(PodLite::from_value(&pod("p", "", "1", 100)));
    let node = |all: &Cluster| {
        let cycle = Cycle { pod: &wants, cluster: all };
        match decide(cycle, &Profile::default(), How::default()) {
            Decision::Place(it) => (it.node.to_string(), it.feasible),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(node(&all), ("n1".into(), 2));
    all.nominate(&wants, Some("n2"));
    assert_eq!(node(&all), ("n2".into(), 1));
    all.set_pod(Arc::new(PodLite::from_value(&pod("b", "n2", "1", 0))));
    assert_eq!(node(&all), ("n1".into(), 1), "there is no room yet");
}

#[test]
fn of_pods_that_were_not_started_the_last_is_spared_first() {
    let all = cluster(&["n1"], &["a", "b", "c"].map(|it| pod(it, "n1", "600m", 0)));
    let taken = refused(&all, &Profile::default(), &pod("p", "", "500m", 1));
    assert_eq!(taken.2, ["a"]);
}

#[test]
fn nodes_are_tried_on_while_every_candidate_breaks_a_budget() {
    let config = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
        profiles: [{pluginConfig: [{name: DefaultPreemption, \
        args: {minCandidateNodesPercentage: 1, minCandidateNodesAbsolute: 1}}]}]";
    let profile = Configuration::parse(config.as_bytes()).unwrap().profiles().unwrap().remove(0);
    let mut kept = pod("kept", "n1", "2", 0);
    kept.set_at(&["metadata", "labels"], value!({"app": "kept"}));
    let pods = [kept, pod("other", "n2", "2", 50), pod("third", "n3", "2", 0)];
    let mut all = cluster(&["n1", "n2", "n3"], &pods);
    let budget = value!({"spec": {"selector": {"matchLabels": {"app": "kept"}}},
        "status": {"disruptionsAllowed": 0}});
    all.set_budget(&client::ObjectKey::new("d", "b"), Some(&budget));
    let taken = refused(&all, &profile, &pod("p", "", "1", 100));
    assert_eq!(taken.1, "n2", "the first that spares the budget ends the search");
}

#[test]
fn a_pod_waits_for_those_that_make_room_for_it_and_for_no_others_that_go() {
    for (reason, waits) in [("PreemptionByScheduler", true), ("EvictionByEvictionAPI", false)] {
        let mut going = pod("going", "n1", "2", 0);
        going.set_at(&["metadata", "deletionTimestamp"], "2026-01-01T00:00:00Z");
        let target = value!([{"type": "DisruptionTarget", "status": "True", "reason": reason}]);
        going.set_at(&["status", "conditions"], target);
        let mut all = cluster(&["n1"], &[going]);
        let wants = pod("p", "", "1", 100);
        all.nominate(&Arc::new(PodLite::from_value(&wants)), Some("n1"));
        let (message, node, _) = refused(&all, &Profile::default(), &wants);
        assert_eq!(node.is_empty(), waits, "{message}");
        let why = "not eligible due to a terminating pod on the nominated node.";
        assert_eq!(message.ends_with(why), waits, "{message}");
    }
}
