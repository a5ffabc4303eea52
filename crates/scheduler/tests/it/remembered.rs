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
                let how = How { random: random.next_u64(), parts: true };
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
