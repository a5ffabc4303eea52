//! How many pods a second the pure decision places, by workload: nodes, pods that are there, pods that come. No API server.
//!
//! `throughput [NODES [PODS]]`; 5,000 nodes and 10,000 pods where nothing is said.

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

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn node(index: usize) -> Value {
    let (name, zone) = (format!("node-{index}"), format!("zone-{}", index % 3));
    value!({"metadata": {"name": (name.clone()), "labels": {HOST: name, ZONE: zone}},
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}}})
}

fn term(key: &str) -> Value {
    value!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": key})
}

/// What makes the pods of a workload.
type Make = fn(&mut Value);

/// Upstream's workloads, as far as a decision sees them, with the share of pods that are there before.
const WORKLOADS: &[(&str, usize, Make)] = &[
    ("SchedulingBasic", 10, |_| {}),
    ("SchedulingPodAntiAffinity", 2, |spec| {
        spec.set_at(&["affinity", "podAntiAffinity", REQUIRED], value!([(term(HOST))]));
    }),
    ("SchedulingPodAffinity", 1, |spec| {
        spec.set_at(&["affinity", "podAffinity", REQUIRED], value!([(term(ZONE))]));
    }),
    ("SchedulingPreferredPodAffinity", 1, |spec| {
        let liked = value!([{"weight": 1, "podAffinityTerm": (term(HOST))}]);
        spec.set_at(&["affinity", "podAffinity", PREFERRED], liked);
    }),
    ("SchedulingPreferredPodAntiAffinity", 1, |spec| {
        let liked = value!([{"weight": 1, "podAffinityTerm": (term(HOST))}]);
        spec.set_at(&["affinity", "podAntiAffinity", PREFERRED], liked);
    }),
    ("SchedulingNodeAffinity", 2, |spec| {
        let term = value!({"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["zone-0", "zone-1"]}]});
        let path = ["affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"];
        spec.set_at(&path, value!([term]));
    }),
    ("TopologySpreading", 1, |spec| {
        let spread = value!({"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        spec.set_at(&["topologySpreadConstraints"], value!([spread]));
    }),
    ("PreferredTopologySpreading", 1, |spec| {
        let spread = value!({"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        spec.set_at(&["topologySpreadConstraints"], value!([spread]));
    }),
];

fn pod(index: usize, make: Make) -> PodLite {
    let name = format!("pod-{index}");
    let mut spec = value!({"schedulerName": "default-scheduler", "containers": [{"name": "c",
        "image": "registry.k8s.io/pause:3.10", "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]});
    make(&mut spec);
    PodLite::from_value(
        &value!({"spec": spec, "metadata": {"name": (name.clone()), "namespace": "default",
        "uid": name, "labels": {"app": "web"}}}),
    )
}

/// Places pods one after another; how many found a node.
fn place(cluster: &mut Cluster, pods: Vec<PodLite>, profile: &Profile) -> usize {
    let (mut placed, mut start) = (0, 0);
    for (nth, mut pod) in (0u64..).zip(pods) {
        let cycle = Cycle { pod: &pod, cluster };
        let how = How { random: nth.wrapping_mul(0x9e37_79b9_7f4a_7c15), start, ..How::default() };
        if let Decision::Place(placement) = decide(cycle, profile, how) {
            start += placement.evaluated;
            pod.node = placement.node;
            cluster.set_pod(Arc::new(pod));
            placed += 1;
        }
    }
    placed
}

/// Important pods that fit once others are gone: four small ones fill a node, and an important one takes most of it.
fn preempt(nodes: usize, count: usize, profile: &Profile) {
    let mut cluster = Cluster::default();
    (0..nodes).for_each(|index| cluster.set_node(NodeLite::from_value(&node(index))));
    let sized = |index: usize, cpu: &str, priority: i64| {
        let name = format!("pod-{priority}-{index}");
        let requests = value!({"cpu": cpu, "memory": "500Mi"});
        PodLite::from_value(&value!({
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": requests}}]},
            "metadata": {"name": (name.clone()), "namespace": "default", "uid": name}}))
    };
    place(&mut cluster, (0..nodes * 4).map(|index| sized(index, "900m", 0)).collect(), profile);
    let begun = Instant::now();
    let mut placed = 0;
    for nth in 0..count {
        let mut pod = sized(nth, "3", 10);
        let how =
            How { random: (nth as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), ..How::default() };
        let decision = decide(Cycle { pod: &pod, cluster: &cluster }, profile, how);
        let Decision::Reject(diagnosis) = decision else { continue };
        let Some(best) = scheduler::preemption::best(diagnosis.candidates) else { continue };
        for victim in best.victims.iter() {
            cluster.remove_pod(&victim.key);
        }
        pod.node = best.node;
        cluster.set_pod(Arc::new(pod));
        placed += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "PreemptionAsync: {placed} of {count} pods on {nodes} nodes in {seconds:.3} s: {:.0} pods/s, {:.1} us a pod",
        count as f64 / seconds,
        seconds / count as f64 * 1e6
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|it| it.parse::<usize>().ok());
    let nodes = arguments.next().unwrap_or(5_000);
    let count = arguments.next().unwrap_or(10_000);
    let profile = Profile::default();
    for (name, share, make) in WORKLOADS {
        let mut cluster = Cluster::default();
        (0..nodes).for_each(|index| cluster.set_node(NodeLite::from_value(&node(index))));
        // Of pods that keep apart there are no more than nodes.
        let count =
            if *name == "SchedulingPodAntiAffinity" { count.min(nodes * 2 / 3) } else { count };
        let before = count / share.max(&1) / 2;
        place(&mut cluster, (0..before).map(|index| pod(index, *make)).collect(), &profile);
        let pods: Vec<PodLite> = (before..before + count).map(|index| pod(index, *make)).collect();
        let begun = Instant::now();
        let placed = place(&mut cluster, pods, &profile);
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{name}: {placed} of {count} pods on {nodes} nodes in {seconds:.3} s: {:.0} pods/s, {:.1} us a pod",
            count as f64 / seconds,
            seconds / count as f64 * 1e6
        );
    }
    preempt(nodes, (count / 10).min(nodes), &profile);
}
