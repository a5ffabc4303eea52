//! Scores that are remembered are those that would be computed anew: a copy of a cluster remembers none.

use std::sync::Arc;

use apimachinery::value;
use component_base::{Random, SeededRandom};
use scheduler::decide::How;
use scheduler::framework::Cycle;
use scheduler::{Cluster, Decision, NodeLite, PodLite, Profile, decide};

fn node(nth: u64, cpu: u64) -> NodeLite {
    let name = format!("node-{nth}");
    NodeLite::from_value(&value!({"metadata": {"name": name},
        "status": {"allocatable": {"cpu": (cpu.to_string()), "memory": "8Gi", "pods": "20"}}}))
}

fn pod(nth: u64, class: u64) -> PodLite {
    let name = format!("pod-{nth}");
    let requests =
        value!({"cpu": (format!("{}m", 100 * class)), "memory": (format!("{}Mi", 50 * class))});
    PodLite::from_value(
        &value!({"metadata": {"name": (name.clone()), "namespace": "d", "uid": name},
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}}),
    )
}

#[test]
fn remembered_scores_are_those_computed_anew() {
    let random = SeededRandom::new(7);
    let (mut cluster, profile) = (Cluster::default(), Profile::default());
    (0..20).for_each(|nth| cluster.set_node(node(nth, 4)));
    let mut placed = 0;
    for nth in 0..1_500 {
        match random.below(10) {
            0 => cluster.set_node(node(random.below(25), 2 + random.below(8))),
            1 => cluster.remove_node(&format!("node-{}", random.below(25))),
            2 | 3 => drop(cluster.remove_pod(&pod(random.below(nth + 1), 1).key)),
            _ => {
                let mut pod = pod(nth, 1 + random.below(4));
                let how = How { random: random.next_u64(), parts: true, ..How::default() };
                let fresh = cluster.clone();
                let decision = decide(Cycle { pod: &pod, cluster: &cluster }, &profile, how);
                let anew = decide(Cycle { pod: &pod, cluster: &fresh }, &profile, how);
                assert_eq!(decision, anew, "step {nth}");
                let Decision::Place(placement) = decision else { continue };
                pod.node = placement.node;
                cluster.set_pod(Arc::new(pod));
                placed += 1;
            }
        }
    }
    assert!(placed > 500, "only {placed} pods were placed: this shows nothing");
}

/// Plays changes of nodes and pods, and decides about pods by what their class was told and as if they were alone.
fn check_classes(
    cluster: &mut Cluster,
    seed: u64,
    some_node: impl Fn(&SeededRandom) -> NodeLite,
    some_pod: impl Fn(&SeededRandom, u64) -> PodLite,
) {
    let (random, profile) = (SeededRandom::new(seed), Profile::default());
    let mut placed = 0;
    for nth in 0..3_000 {
        match random.below(13) {
            0 => cluster.set_node(some_node(&random)),
            1 => cluster.remove_node(&format!("node-{}", random.below(25))),
            2..=4 => drop(cluster.remove_pod(&pod(random.below(nth + 1), 1).key)),
            5 => {
                // A node is being emptied for a pod that comes before others, or does not, or is not any more.
                let mut by = pod(90_000 + random.below(4), 4);
                by.priority = [-1, 0, 5][usize::try_from(random.below(3)).unwrap()];
                let node = format!("node-{}", random.below(25));
                cluster.nominate(&Arc::new(by), Some(node.as_str()).filter(|_| nth % 2 == 0));
            }
            _ => {
                let mut pod = some_pod(&random, nth);
                let how = How { random: random.next_u64(), ..How::default() };
                let fresh = cluster.clone();
                let decision = decide(Cycle { pod: &pod, cluster }, &profile, how);
                let how = How { parts: true, ..how };
                let anew = decide(Cycle { pod: &pod, cluster: &fresh }, &profile, how);
                let (Decision::Place(got), Decision::Place(anew)) = (&decision, &anew) else {
                    assert_eq!(decision, anew, "step {nth}");
                    continue;
                };
                assert_eq!(got.feasible, anew.feasible, "step {nth}");
                let place = cluster.position(&got.node);
                let score = anew.candidates.iter().zip(&anew.scores);
                let score =
                    score.filter(|(row, _)| Some(**row) == place).map(|(_, score)| score).next();
                assert!(anew.scores.is_empty() || score == anew.scores.iter().max(), "step {nth}");
                pod.node.clone_from(&got.node);
                cluster.set_pod(Arc::new(pod));
                placed += 1;
            }
        }
    }
    assert!(placed > 500, "only {placed} pods were placed: this shows nothing");
}

#[test]
fn a_class_is_told_what_a_pod_alone_would_be() {
    let mut cluster = Cluster::default();
    (0..20).for_each(|nth| cluster.set_node(node(nth, 4)));
    // Somebody keeps apart from others: that is nothing to the pods of a class that it does not mean.
    let mut apart = social(99_999, 0);
    apart.node = "node-3".into();
    cluster.set_pod(Arc::new(apart));
    let some_node = |random: &SeededRandom| node(random.below(25), 2 + random.below(8));
    check_classes(&mut cluster, 9, some_node, |random, nth| pod(nth, 1 + random.below(4)));
}

#[test]
fn pods_that_others_do_not_want_beside_them_are_told_so_as_a_class() {
    let mut cluster = Cluster::default();
    (0..20).for_each(|nth| cluster.set_node(placed_node(nth, nth % 3)));
    let some_node = |random: &SeededRandom| placed_node(random.below(25), random.below(3));
    // One in six keeps apart from pods of its sort; the others only have a sort.
    check_classes(&mut cluster, 13, some_node, |random, nth| match random.below(6) {
        0 => social(nth, 5 * random.below(3)),
        _ => social(nth, 4 + 5 * random.below(3)),
    });
}

/// A pod of one of a few sorts that look at other pods.
fn social(nth: u64, sort: u64) -> PodLite {
    let name = format!("pod-{nth}");
    let selector = value!({"matchLabels": {"sort": (format!("s{}", sort % 3))}});
    let zone = "topology.kubernetes.io/zone";
    let host = "kubernetes.io/hostname";
    let term = |key: &str| value!({"labelSelector": (selector.clone()), "topologyKey": key});
    let liked = |key: &str| value!({"weight": 7, "podAffinityTerm": (term(key))});
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let mut spec = value!({"containers": [{"name": "c"}]});
    match sort % 5 {
        0 => spec.set_at(&["affinity", "podAntiAffinity", required], value!([(term(host))])),
        1 => spec.set_at(&["affinity", "podAffinity", required], value!([(term(zone))])),
        2 => {
            spec.set_at(&["affinity", "podAffinity", preferred], value!([(liked(zone))]));
            spec.set_at(&["affinity", "podAntiAffinity", preferred], value!([(liked(host))]));
        }
        3 => {
            let spread = value!({"maxSkew": 2, "topologyKey": zone, "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": (selector.clone())});
            spec.set_at(&["topologySpreadConstraints"], value!([spread]));
        }
        _ => {}
    }
    PodLite::from_value(
        &value!({"spec": spec, "metadata": {"name": (name.clone()), "namespace": "d",
        "uid": name, "labels": {"sort": (format!("s{}", sort % 3))}}}),
    )
}

fn placed_node(nth: u64, zone: u64) -> NodeLite {
    let (name, zone) = (format!("node-{nth}"), format!("z{zone}"));
    NodeLite::from_value(&value!({
        "metadata": {"name": (name.clone()), "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "20"}}}))
}

/// The same nodes and pods, told to a cluster that has seen nothing else.
fn rebuilt(cluster: &Cluster) -> Cluster {
    let mut anew = Cluster::default();
    for row in cluster.rows() {
        anew.set_node(NodeLite::clone(&row.node));
    }
    for pod in cluster.rows().iter().flat_map(|row| &row.pods) {
        anew.set_pod(Arc::clone(pod));
    }
    anew
}

#[test]
fn what_is_counted_as_pods_come_and_go_is_what_there_is() {
    let random = SeededRandom::new(11);
    let (mut cluster, profile) = (Cluster::default(), Profile::default());
    (0..20).for_each(|nth| cluster.set_node(placed_node(nth, nth % 3)));
    let mut placed = 0;
    for nth in 0..1_500 {
        match random.below(10) {
            0 => cluster.set_node(placed_node(random.below(25), random.below(3))),
            1 if random.below(3) == 0 => cluster.remove_node(&format!("node-{}", random.below(25))),
            1..=3 => drop(cluster.remove_pod(&pod(random.below(nth + 1), 1).key)),
            _ => {
                let mut pod = social(nth, random.below(15));
                let how = How { random: random.next_u64(), parts: true, ..How::default() };
                let anew = rebuilt(&cluster);
                let decision = decide(Cycle { pod: &pod, cluster: &cluster }, &profile, how);
                let again = decide(Cycle { pod: &pod, cluster: &anew }, &profile, how);
                assert_eq!(decision, again, "step {nth}");
                let Decision::Place(placement) = decision else { continue };
                pod.node = placement.node;
                cluster.set_pod(Arc::new(pod));
                placed += 1;
            }
        }
    }
    assert!(placed > 300, "only {placed} pods were placed: this shows nothing");
}

/// A pod that asks for CPU, of some priority.
fn sized(nth: u64, cpu: u64, priority: u64, ports: apimachinery::Value) -> PodLite {
    let name = format!("pod-{nth}");
    let container = value!({"name": "c", "ports": ports,
        "resources": {"requests": {"cpu": (format!("{}m", cpu * 100)), "memory": "100Mi"}}});
    let priority = i64::try_from(priority).unwrap();
    PodLite::from_value(
        &value!({"metadata": {"name": (name.clone()), "namespace": "d", "uid": name},
        "spec": {"priority": priority, "containers": [container]}}),
    )
}

#[test]
fn victims_that_are_remembered_are_those_found_anew() {
    let (random, profile) = (SeededRandom::new(17), Profile::default());
    let mut cluster = Cluster::default();
    (0..6).for_each(|nth| cluster.set_node(placed_node(nth, nth % 3)));
    let mut preempted = 0;
    for step in 0..2_000 {
        match random.below(8) {
            0 => cluster.set_node(placed_node(random.below(6), random.below(3))),
            1 => drop(cluster.remove_pod(&pod(random.below(60), 1).key)),
            2 => {
                let by = Arc::new(sized(900 + random.below(3), 10, random.below(6), value!([])));
                let node = format!("node-{}", random.below(6));
                cluster.nominate(&by, Some(node.as_str()).filter(|_| step % 2 == 0));
            }
            3..=5 => {
                // Where it is there already it may only have another start.
                let nth = random.below(60);
                let mut pod = sized(nth, 3 + nth % 12, nth % 4, value!([]));
                pod.node = format!("node-{}", nth % 6).into();
                pod.started = (random.below(2) == 0).then(|| i64::from(step));
                cluster.set_pod(Arc::new(pod));
            }
            _ => {
                let pod = sized(99, 10 * (1 + random.below(3)), 1 + random.below(4), value!([]));
                let how = How { random: random.next_u64(), ..How::default() };
                let anew = cluster.clone();
                let decision = decide(Cycle { pod: &pod, cluster: &cluster }, &profile, how);
                let again = decide(Cycle { pod: &pod, cluster: &anew }, &profile, how);
                let found = |it: &Decision| match it {
                    Decision::Reject(it) => Some(it.clone()),
                    Decision::Place(_) | Decision::Fail(_) => None,
                };
                assert_eq!(found(&decision), found(&again), "step {step}");
                preempted += found(&decision).map_or(0, |it| it.candidates.len());
            }
        }
    }
    assert!(preempted > 500, "only {preempted} nodes were worth emptying: this shows nothing");
}

/// A port of the node that nobody else takes changes nothing but the way in which victims are found.
#[test]
fn victims_found_by_sums_are_those_found_by_trying() {
    let random = SeededRandom::new(13);
    let profile = Profile::default();
    let mut preempted = 0;
    for round in 0..60 {
        let mut cluster = Cluster::default();
        (0..6).for_each(|nth| cluster.set_node(placed_node(nth, nth % 3)));
        if round % 2 == 0 {
            let everybody =
                value!({"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]});
            let budget =
                value!({"spec": {"selector": everybody}, "status": {"disruptionsAllowed": 1}});
            cluster.set_budget(&client::ObjectKey::new("d", "b"), Some(&budget));
        }
        for nth in 0..40 {
            let mut pod = sized(nth, 3 + random.below(12), random.below(4), value!([]));
            pod.node = format!("node-{}", random.below(6)).into();
            cluster.set_pod(Arc::new(pod));
        }
        let (cpu, priority) = (5 + random.below(30), 1 + random.below(5));
        let how = How { random: random.next_u64(), ..How::default() };
        let candidates =
            |pod: &PodLite| match decide(Cycle { pod, cluster: &cluster }, &profile, how) {
                Decision::Reject(it) => it.candidates,
                Decision::Place(_) | Decision::Fail(_) => Vec::new(),
            };
        let by_sums = candidates(&sized(99, cpu, priority, value!([])));
        let port = value!([{"containerPort": 9999, "hostPort": 9999}]);
        assert_eq!(by_sums, candidates(&sized(99, cpu, priority, port)), "round {round}");
        preempted += usize::from(!by_sums.is_empty());
    }
    assert!(preempted > 20, "only {preempted} pods found victims: this shows nothing");
}

#[test]
fn nodes_that_are_full_of_volumes_are_found_however_many_had_room() {
    let key = |name: &str| client::ObjectKey::new("d", name);
    let (mut cluster, profile) = (Cluster::default(), Profile::default());
    for nth in 0..3 {
        cluster.set_node(node(nth, 8));
        let limit = value!({"spec": {"drivers": [{"name": "x.csi", "allocatable": {"count": 2}}]}});
        cluster.set("csinodes", &client::ObjectKey::new("", format!("node-{nth}")), Some(&limit));
    }
    let mut refused = 0;
    for nth in 0..8 {
        let name = format!("v-{nth}");
        let claim = value!({"metadata": {"name": (name.as_str()), "namespace": "d", "uid": (name.as_str()),
            "annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": (name.as_str())}});
        cluster.set("persistentvolumeclaims", &key(&name), Some(&claim));
        let volume = value!({"metadata": {"name": (name.as_str())}, "status": {"phase": "Bound"},
            "spec": {"csi": {"driver": "x.csi", "volumeHandle": (name.as_str())}}});
        let of_all = client::ObjectKey::new("", name.as_str());
        cluster.set("persistentvolumes", &of_all, Some(&volume));
        let mut pod = PodLite::from_value(
            &value!({"metadata": {"name": (name.as_str()), "namespace": "d", "uid": (name.as_str())},
            "spec": {"containers": [{"name": "c"}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": (name.as_str())}}]}}),
        );
        match decide(Cycle { pod: &pod, cluster: &cluster }, &profile, How::default()) {
            Decision::Place(placement) => {
                pod.node = placement.node;
                cluster.set_pod(Arc::new(pod));
            }
            Decision::Reject(it) => {
                assert!(it.message.contains("3 node(s) exceed max volume count"), "{}", it.message);
                refused += 1;
            }
            Decision::Fail(error) => panic!("{error}"),
        }
    }
    assert_eq!(refused, 2, "three nodes have room for six");
}
