//! Upstream's scheduling workloads (`scheduler_perf`) through the real API server: durable bindings, events, and the pods
//! are created while they are scheduled.
//!
//! A row for each of upstream's workloads that has a floor, and for some that have none; its steps are those of upstream's
//! `performance-config.yaml`. What differs: the server keeps its admission plugins, so that namespaces have an account and
//! important pods name a class, and a figure counts from the first request to the last pod that has a node.

mod objects;
mod steps;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::Options;
use crate::server::Server;
use crate::table::{Bar, Figure};
use objects::{
    affinity, allocated, anti_affinity, attaching_node, aws_volume, claim, claim_template,
    csi_node, csi_volume, daemon, device_class, device_node, gated, gated_with_affinity, green,
    important, labelled, lone_node, migrated_csi_node, node, node_affinity, node_in_zone,
    node_in_zones, pod, preferred_affinity, preferred_anti_affinity, preferred_spread,
    preferred_team_affinity, preferred_team_anti_affinity, priority, required_spread, service,
    service_of_labelled, short, slice, spread_over_fitting_nodes, tainted_node, team_affinity,
    team_anti_affinity, too_large, unimportant, useless_node, with_claim, with_secret,
};
use steps::Step::{
    Any, Churn, Delete, Gated, Measure, Namespaces, Nodes, PodsInEach, Status, Steady,
};
use steps::{Churn as Comes, Pods, Run, Step};

/// What is asked of a workload: ten times upstream's floor, at least 500, at most 3,500 pods a second.
const fn tenfold(floor: f64) -> Bar {
    Bar::AtLeast((floor * 10.0).clamp(500.0, 3_500.0))
}

/// A workload by upstream's name.
struct Workload {
    name: &'static str,
    /// None where upstream has no floor.
    bar: Bar,
    steps: &'static [Step],
}

const fn workload(name: &'static str, bar: Bar, steps: &'static [Step]) -> Workload {
    Workload { name, bar, steps }
}

/// Pods that have a node before others are measured.
const fn before(count: usize, namespace: &'static str, make: fn() -> serde_json::Value) -> Step {
    Step::Pods(Pods::of(count, namespace, make))
}

const fn measure_of(
    count: usize,
    namespace: &'static str,
    make: fn() -> serde_json::Value,
) -> Step {
    Measure(Pods::of(count, namespace, make))
}

const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
const CSI_NODES: &str = "/apis/storage.k8s.io/v1/csinodes";
const DEVICE_CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/init/resourceclaims";
const TEMPLATES_BEFORE: &str = "/apis/resource.k8s.io/v1/namespaces/init/resourceclaimtemplates";
const TEMPLATES: &str = "/apis/resource.k8s.io/v1/namespaces/test/resourceclaimtemplates";
const CHURN_PODS: &str = "/api/v1/namespaces/churn/pods";
const CHURN_SERVICES: &str = "/api/v1/namespaces/churn/services";

/// Pods come that other pods have to make room for.
const IMPORTANT_COME: Step = Churn(Comes {
    every: Duration::from_millis(200),
    go: false,
    objects: &[(CHURN_PODS, important)],
});
/// Pods come that fit nowhere.
const TOO_LARGE_COME: Step = Churn(Comes {
    every: Duration::from_millis(200),
    go: false,
    objects: &[(CHURN_PODS, too_large)],
});
/// Objects of several kinds come and go.
const ALL_COME_AND_GO: Step = Churn(Comes {
    every: Duration::from_secs(1),
    go: true,
    objects: &[("/api/v1/nodes", useless_node), (CHURN_PODS, too_large), (CHURN_SERVICES, service)],
});
/// As long as upstream looks at what stays as it is.
const STEADY: Step = Steady(Pods::of(10, "test", with_claim), Duration::from_secs(10));

const WORKLOADS: &[Workload] = &[
    workload(
        "SchedulingBasic/5000Nodes_10000Pods",
        Bar::AtLeast(3_500.0),
        &[Nodes(5_000, node), before(1_000, "init", pod), measure_of(10_000, "test", pod)],
    ),
    workload(
        // No workload of upstream's: a pod may cost half as much again where there are ten times as many nodes.
        "SchedulingBasic/50000Nodes_10000Pods",
        Bar::AtLeast(3_500.0 / 1.5),
        &[Nodes(50_000, node), before(1_000, "init", pod), measure_of(10_000, "test", pod)],
    ),
    workload(
        "SchedulingDaemonset/15000Nodes",
        tenfold(390.0),
        &[Nodes(1, lone_node), Nodes(15_000, node), measure_of(30_000, "test", daemon)],
    ),
    workload(
        "PreemptionBasic/1000Nodes",
        Bar::None,
        &[
            Any(1, CLASSES, priority),
            Nodes(1_000, node),
            before(4_000, "init", unimportant),
            measure_of(1_000, "test", important),
        ],
    ),
    workload(
        "PreemptionAsync/5000Nodes",
        tenfold(160.0),
        &[
            Any(1, CLASSES, priority),
            Nodes(5_000, node),
            before(20_000, "init", unimportant),
            IMPORTANT_COME,
            measure_of(5_000, "test", pod),
        ],
    ),
    workload(
        "Unschedulable/5kNodes/100Init/10kPods",
        tenfold(170.0),
        &[
            Any(1, CLASSES, priority),
            Nodes(5_000, node),
            before(100, "init", pod),
            TOO_LARGE_COME,
            measure_of(10_000, "test", pod),
        ],
    ),
    workload(
        "SchedulingWithMixedChurn/5000Nodes_10000Pods",
        tenfold(265.0),
        &[
            Any(1, CLASSES, priority),
            Nodes(5_000, node),
            ALL_COME_AND_GO,
            measure_of(10_000, "test", pod),
        ],
    ),
    workload(
        "SchedulingWhileGated/1Node_10000GatedPods",
        tenfold(130.0),
        &[
            Nodes(1, lone_node),
            Gated(Pods::of(10_000, "gated", gated)),
            before(20_000, "going", short),
            Delete("going", 50),
            measure_of(20_000, "test", short),
        ],
    ),
    workload(
        "SchedulingPodAntiAffinity/5000Nodes_2000Pods",
        tenfold(60.0),
        &[
            Nodes(5_000, node),
            Namespaces(2, "sched"),
            before(1_000, "sched-0", anti_affinity),
            measure_of(2_000, "sched-1", anti_affinity),
        ],
    ),
    workload(
        "SchedulingPodMatchingAntiAffinity/5000Nodes_5000Pods",
        tenfold(600.0),
        &[
            // Upstream has 5,000, of which 1,000 are taken.
            Nodes(5_000, node),
            Namespaces(2, "sched"),
            before(1_000, "sched-0", anti_affinity),
            measure_of(5_000, "sched-1", green),
        ],
    ),
    workload(
        "SchedulingPodAffinity/5000Nodes_5000Pods",
        tenfold(35.0),
        &[
            Nodes(5_000, node_in_zone),
            Namespaces(2, "sched"),
            before(5_000, "sched-0", affinity),
            measure_of(5_000, "sched-1", affinity),
        ],
    ),
    workload(
        "SchedulingPreferredPodAffinity/5000Nodes_5000Pods",
        tenfold(90.0),
        &[
            Nodes(5_000, node),
            Namespaces(2, "sched"),
            before(5_000, "sched-0", preferred_affinity),
            measure_of(5_000, "sched-1", preferred_affinity),
        ],
    ),
    workload(
        "SchedulingPreferredPodAntiAffinity/5000Nodes_5000Pods",
        tenfold(90.0),
        &[
            Nodes(5_000, node),
            Namespaces(2, "sched"),
            before(5_000, "sched-0", preferred_anti_affinity),
            measure_of(5_000, "sched-1", preferred_anti_affinity),
        ],
    ),
    workload(
        "SchedulingNodeAffinity/5000Nodes_10000Pods",
        tenfold(220.0),
        &[
            Nodes(5_000, node_in_zone),
            before(5_000, "init", node_affinity),
            measure_of(10_000, "test", node_affinity),
        ],
    ),
    workload(
        "MixedSchedulingBasePod/5000Nodes_5000Pods",
        tenfold(140.0),
        &[
            Nodes(5_000, node_in_zone),
            before(2_000, "sched-0", pod),
            before(2_000, "sched-0", affinity),
            before(2_000, "sched-0", anti_affinity),
            before(2_000, "sched-0", preferred_affinity),
            before(2_000, "sched-0", preferred_anti_affinity),
            measure_of(5_000, "test", pod),
        ],
    ),
    workload(
        "SchedulingRequiredPodAntiAffinityWithNSSelector/5000Nodes_2000Pods",
        tenfold(24.0),
        &[
            Nodes(6_000, node),
            Namespaces(100, "init-ns"),
            PodsInEach(100, Pods::of(40, "init-ns", team_anti_affinity)),
            measure_of(2_000, "measure-ns-0", team_anti_affinity),
        ],
    ),
    workload(
        "SchedulingPreferredAntiAffinityWithNSSelector/5000Nodes_2000Pods",
        tenfold(55.0),
        &[
            Nodes(5_000, node),
            Namespaces(100, "init-ns"),
            PodsInEach(100, Pods::of(40, "init-ns", preferred_team_anti_affinity)),
            measure_of(2_000, "measure-ns-0", preferred_team_anti_affinity),
        ],
    ),
    workload(
        "SchedulingRequiredPodAffinityWithNSSelector/5000Nodes_2000Pods",
        tenfold(35.0),
        &[
            Nodes(5_000, node_in_zone),
            Namespaces(100, "init-ns"),
            PodsInEach(100, Pods::of(50, "init-ns", team_affinity)),
            measure_of(2_000, "measure-ns-0", team_affinity),
        ],
    ),
    workload(
        "SchedulingPreferredAffinityWithNSSelector/5000Nodes_5000Pods",
        tenfold(90.0),
        &[
            Nodes(5_000, node),
            Namespaces(100, "init-ns"),
            PodsInEach(100, Pods::of(50, "init-ns", preferred_team_affinity)),
            measure_of(5_000, "measure-ns-0", preferred_team_affinity),
        ],
    ),
    workload(
        "SchedulingGatedPodsWithPodAffinityImpactForThroughput/1Node_10000GatedPods",
        tenfold(110.0),
        &[
            Nodes(1, lone_node),
            Gated(Pods::of(10_000, "gated", gated_with_affinity)),
            measure_of(20_000, "test", labelled),
        ],
    ),
    workload(
        "TopologySpreading/5000Nodes_5000Pods",
        tenfold(85.0),
        &[
            Nodes(5_000, node_in_zones),
            before(5_000, "init", pod),
            measure_of(5_000, "test", required_spread),
        ],
    ),
    workload(
        "PreferredTopologySpreading/5000Nodes_5000Pods",
        tenfold(125.0),
        &[
            Nodes(5_000, node_in_zones),
            before(5_000, "init", pod),
            measure_of(5_000, "test", preferred_spread),
        ],
    ),
    workload(
        "DefaultTopologySpreading/5000Nodes_10000Pods",
        Bar::None,
        &[
            Nodes(5_000, node_in_zones),
            Any(1, "/api/v1/namespaces/test/services", service_of_labelled),
            before(5_000, "init", pod),
            measure_of(10_000, "test", labelled),
        ],
    ),
    workload(
        "SchedulingWithNodeInclusionPolicy/5000Nodes",
        tenfold(68.0),
        &[
            Nodes(4_000, node),
            Nodes(1_000, tainted_node),
            measure_of(4_000, "test", spread_over_fitting_nodes),
        ],
    ),
    workload(
        "SchedulingSecrets/5000Nodes_10000Pods",
        tenfold(260.0),
        &[
            Nodes(5_000, node),
            before(1_000, "init", with_secret),
            measure_of(10_000, "test", with_secret),
        ],
    ),
    workload(
        "SchedulingInTreePVs/5000Nodes_2000Pods",
        tenfold(90.0),
        &[
            Nodes(5_000, node),
            Step::Pods(Pods::of(1_000, "init", pod).with(aws_volume)),
            Measure(Pods::of(2_000, "test", pod).with(aws_volume)),
        ],
    ),
    workload(
        "SchedulingMigratedInTreePVs/5000Nodes_5000Pods",
        tenfold(35.0),
        &[
            Nodes(5_000, attaching_node),
            Any(5_000, CSI_NODES, migrated_csi_node),
            Step::Pods(Pods::of(5_000, "init", pod).with(aws_volume)),
            Measure(Pods::of(5_000, "test", pod).with(aws_volume)),
        ],
    ),
    workload(
        "SchedulingCSIPVs/5000Nodes_5000Pods",
        tenfold(48.0),
        &[
            Nodes(5_000, attaching_node),
            Any(5_000, CSI_NODES, csi_node),
            Step::Pods(Pods::of(5_000, "init", pod).with(csi_volume)),
            Measure(Pods::of(5_000, "test", pod).with(csi_volume)),
        ],
    ),
    workload(
        "PreemptionPVs/1000Nodes",
        Bar::None,
        &[
            Any(1, CLASSES, priority),
            Nodes(1_000, node),
            before(4_000, "init", unimportant),
            Measure(Pods::of(1_000, "test", important).with(aws_volume)),
        ],
    ),
    workload(
        "SchedulingWithResourceClaimTemplate/5000pods_500nodes",
        tenfold(56.0),
        &[
            Nodes(500, device_node),
            Any(500, SLICES, slice),
            Any(1, DEVICE_CLASSES, device_class),
            Any(1, TEMPLATES_BEFORE, claim_template),
            before(2_500, "init", with_claim),
            Any(1, TEMPLATES, claim_template),
            measure_of(2_500, "test", with_claim),
        ],
    ),
    workload(
        "SteadyStateClusterResourceClaimTemplate/empty_500nodes",
        tenfold(64.0),
        &[
            Nodes(500, device_node),
            Any(500, SLICES, slice),
            Any(1, DEVICE_CLASSES, device_class),
            Any(1, TEMPLATES, claim_template),
            STEADY,
        ],
    ),
    workload(
        "SteadyStateClusterResourceClaimTemplate/half_500nodes",
        tenfold(70.0),
        &[
            Nodes(500, device_node),
            Any(500, SLICES, slice),
            Any(1, DEVICE_CLASSES, device_class),
            Any(2_500, CLAIMS, claim),
            Status(2_500, CLAIMS, allocated),
            Any(1, TEMPLATES, claim_template),
            STEADY,
        ],
    ),
    workload(
        "SteadyStateClusterResourceClaimTemplate/full_500nodes",
        tenfold(60.0),
        &[
            Nodes(500, device_node),
            Any(500, SLICES, slice),
            Any(1, DEVICE_CLASSES, device_class),
            Any(4_990, CLAIMS, claim),
            Status(4_990, CLAIMS, allocated),
            Any(1, TEMPLATES, claim_template),
            STEADY,
        ],
    ),
];

/// Measures the workloads whose names begin so, one after the other; all where nothing is said.
pub(crate) async fn measure(options: &Options) -> Result<Vec<Figure>> {
    let wanted = options.workload.as_deref().unwrap_or("all");
    let chosen: Vec<&Workload> =
        WORKLOADS.iter().filter(|it| wanted == "all" || it.name.starts_with(wanted)).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = WORKLOADS.iter().map(|it| it.name).collect();
        bail!("there is no workload {wanted}; there are all, {}", names.join(", "));
    }
    let mut figures = Vec::new();
    for workload in chosen {
        let figure = match run(options, workload).await {
            Ok(rate) => Figure::new(workload.name, rate, "pods/s", workload.bar),
            Err(error) => Figure::missing(&format!("{}: {error:#}", workload.name)),
        };
        // All of them take long: who looks on is told of each.
        println!("{figure}");
        figures.push(figure);
    }
    Ok(figures)
}

async fn run(options: &Options, workload: &'static Workload) -> Result<f64> {
    // Nodes that nobody runs would be found dead.
    let mut flags = vec!["--disable=agent,proxy,dns,metrics".to_owned()];
    // Claims are made for pods, and go with them, by these alone.
    let made = |it: &Step| matches!(it, Any(_, TEMPLATES, _));
    flags.push(match workload.steps.iter().any(made) {
        true => "--controllers=resourceclaim-controller,garbage-collector-controller".to_owned(),
        false => "--disable=controllers".to_owned(),
    });
    let server = Server::start(&options.binary, tempfile::tempdir()?, &flags).await?;
    let mut run = Run::new(&server.clients);
    let mut measured = None;
    for (nth, step) in workload.steps.iter().enumerate() {
        let done = run.step(step).await.with_context(|| format!("step {nth}"))?;
        measured = measured.or(done);
    }
    run.end().await?;
    measured.context("nothing is measured")
}
