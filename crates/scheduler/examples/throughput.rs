//! How many pods a second the pure decision places: 5,000 nodes, 10,000 pods, no API server.

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "figures are what this program is for"
)]

use std::sync::Arc;

use apimachinery::{Value, value};
use scheduler::decide::{Decision, How};
use scheduler::framework::Cycle;
use scheduler::{Cluster, NodeLite, PodLite, Profile, decide};
use tokio::time::Instant;

const NODES: usize = 5_000;
const PODS: usize = 10_000;

fn node(index: usize) -> Value {
    let (name, zone) = (format!("node-{index}"), format!("zone-{}", index % 3));
    value!({"metadata": {"name": (name.clone()), "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone}},
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}}})
}

fn pod(index: usize) -> Value {
    let name = format!("pod-{index}");
    value!({"metadata": {"name": (name.clone()), "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10",
            "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]}})
}

fn main() {
    let mut cluster = Cluster::default();
    (0..NODES).for_each(|index| cluster.set_node(NodeLite::from_value(&node(index))));
    let pods: Vec<PodLite> = (0..PODS).map(|index| PodLite::from_value(&pod(index))).collect();
    let profile = Profile::default();
    let mut placed = 0;
    let begun = Instant::now();
    for (random, mut pod) in (0u64..).zip(pods) {
        let cycle = Cycle { pod: &pod, cluster: &cluster };
        let how = How { random: random.wrapping_mul(0x9e37_79b9_7f4a_7c15), parts: false };
        if let Decision::Place(placement) = decide(cycle, &profile, how) {
            pod.node = placement.node;
            cluster.set_pod(Arc::new(pod));
            placed += 1;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{placed} of {PODS} pods on {NODES} nodes in {seconds:.3} s");
    println!("{:.0} pods/s, {:.1} us a pod", PODS as f64 / seconds, seconds / PODS as f64 * 1e6);
}
