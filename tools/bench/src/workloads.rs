//! Upstream's scheduling workloads (`scheduler_perf`) through the real API server: durable bindings, events, and the pods
//! are created while they are scheduled.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Options;
use crate::load::{Ask, Clients, IN_FLIGHT};
use crate::server::Server;
use crate::table::{Bar, Figure};

const PODS: &str = "/api/v1/namespaces/sched/pods";
/// How often is looked how many pods have a node.
const LOOK: Duration = Duration::from_millis(20);
/// How long nothing may happen before a workload counts as stuck.
const PATIENCE: Duration = Duration::from_secs(60);

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// A workload: upstream's name, nodes, pods that are there before, pods that are measured, and what is asked for (ten
/// times upstream's floor, at least 500, at most 3,500).
struct Workload {
    name: &'static str,
    counts: [usize; 3],
    bar: f64,
    spec: fn() -> Value,
}

fn nothing() -> Value {
    json!({})
}

fn term(key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": key})
}

fn anti_affinity() -> Value {
    json!({"affinity": {"podAntiAffinity": {REQUIRED: [term(HOST)]}}})
}

fn affinity() -> Value {
    json!({"affinity": {"podAffinity": {REQUIRED: [term(ZONE)]}}})
}

fn preferred_affinity() -> Value {
    let liked = json!({"weight": 1, "podAffinityTerm": term(HOST)});
    json!({"affinity": {"podAffinity": {PREFERRED: [liked]}}})
}

fn preferred_anti_affinity() -> Value {
    let liked = json!({"weight": 1, "podAffinityTerm": term(HOST)});
    json!({"affinity": {"podAntiAffinity": {PREFERRED: [liked]}}})
}

fn node_affinity() -> Value {
    let term = json!({"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["zone-0", "zone-1"]}]});
    json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}}})
}

fn spread(when: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"app": "web"}}}]})
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "SchedulingBasic/5000Nodes_10000Pods",
        counts: [5_000, 1_000, 10_000],
        bar: 3_500.0,
        spec: nothing,
    },
    Workload {
        name: "SchedulingBasic/50000Nodes_10000Pods",
        counts: [50_000, 1_000, 10_000],
        bar: 3_500.0 / 1.5,
        spec: nothing,
    },
    Workload {
        name: "SchedulingPodAntiAffinity/5000Nodes_2000Pods",
        counts: [5_000, 1_000, 2_000],
        bar: 600.0,
        spec: anti_affinity,
    },
    Workload {
        name: "SchedulingPodAffinity/5000Nodes_5000Pods",
        counts: [5_000, 5_000, 5_000],
        bar: 500.0,
        spec: affinity,
    },
    Workload {
        name: "SchedulingPreferredPodAffinity/5000Nodes_5000Pods",
        counts: [5_000, 5_000, 5_000],
        bar: 900.0,
        spec: preferred_affinity,
    },
    Workload {
        name: "SchedulingPreferredPodAntiAffinity/5000Nodes_5000Pods",
        counts: [5_000, 5_000, 5_000],
        bar: 900.0,
        spec: preferred_anti_affinity,
    },
    Workload {
        name: "SchedulingNodeAffinity/5000Nodes_10000Pods",
        counts: [5_000, 5_000, 10_000],
        bar: 2_200.0,
        spec: node_affinity,
    },
    Workload {
        name: "TopologySpreading/5000Nodes_5000Pods",
        counts: [5_000, 5_000, 5_000],
        bar: 850.0,
        spec: || spread("DoNotSchedule"),
    },
    Workload {
        name: "PreferredTopologySpreading/5000Nodes_5000Pods",
        counts: [5_000, 5_000, 5_000],
        bar: 1_250.0,
        spec: || spread("ScheduleAnyway"),
    },
];

/// Measures the workloads whose names begin so; all where nothing is said.
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
        let rate = run(options, workload).await?;
        figures.push(Figure::new(workload.name, rate, "pods/s", Bar::AtLeast(workload.bar)));
    }
    Ok(figures)
}

async fn run(options: &Options, workload: &Workload) -> Result<f64> {
    let [nodes, before, measured] = workload.counts;
    // Nodes that nobody runs would be found dead.
    let flags = ["--disable".to_owned(), "agent,proxy,dns,controllers,metrics".to_owned()];
    let server = Server::start(&options.binary, tempfile::tempdir()?, &flags).await?;
    let clients = &server.clients;
    let create = |path: &str, object: Value| Ask::json(Method::POST, path, object.to_string());
    let namespace = json!({"metadata": {"name": "sched"}});
    clients.send(0, &create("/api/v1/namespaces", namespace)).await?;
    let account = json!({"metadata": {"name": "default"}});
    clients.send(0, &create("/api/v1/namespaces/sched/serviceaccounts", account)).await?;
    clients
        .load(nodes, IN_FLIGHT, |nth| Ask::json(Method::POST, "/api/v1/nodes", node(nth)))
        .await?;
    clients.load(nodes, IN_FLIGHT, status).await?;
    clients.load(nodes, IN_FLIGHT, untaint).await?;
    let make = workload.spec;
    let pods = move |first: usize| {
        move |nth: usize| Ask::json(Method::POST, PODS, pod(first + nth, make()))
    };
    clients.load(before, IN_FLIGHT, pods(0)).await?;
    until(clients, before).await?;
    let begun = Instant::now();
    let creating = clients.load(measured, IN_FLIGHT, pods(before));
    let (created, scheduled) = tokio::join!(creating, until(clients, before + measured));
    created?;
    scheduled?;
    #[allow(clippy::cast_precision_loss, reason = "there are few pods")]
    Ok(measured as f64 / begun.elapsed().as_secs_f64())
}

fn node(nth: usize) -> String {
    let (name, zone) = (format!("node-{nth}"), format!("zone-{}", nth % 3));
    json!({"metadata": {"name": name, "labels": {HOST: name, ZONE: zone}}}).to_string()
}

fn status(nth: usize) -> Ask {
    let has = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
    let body = json!({"status": {"capacity": has, "allocatable": has,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Fake"}]}});
    Ask {
        media_type: "application/merge-patch+json",
        ..Ask::json(Method::PATCH, format!("/api/v1/nodes/node-{nth}/status"), body.to_string())
    }
}

/// New nodes have taints until a controller finds them ready.
fn untaint(nth: usize) -> Ask {
    Ask {
        media_type: "application/merge-patch+json",
        ..Ask::json(
            Method::PATCH,
            format!("/api/v1/nodes/node-{nth}"),
            r#"{"spec":{"taints":null}}"#,
        )
    }
}

fn pod(nth: usize, mut spec: Value) -> String {
    spec["containers"] = json!([{"name": "pause", "image": "registry.k8s.io/pause:3.10",
        "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]);
    json!({"metadata": {"name": format!("pod-{nth}"), "labels": {"app": "web"}}, "spec": spec})
        .to_string()
}

/// Waits until so many pods have been placed.
async fn until(clients: &Clients, count: usize) -> Result<()> {
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let placed = placed(clients).await?;
        if placed >= count {
            return Ok(());
        }
        if placed > last {
            (last, moved) = (placed, Instant::now());
        } else if moved.elapsed() > PATIENCE {
            bail!("only {placed} of {count} pods have a node");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// How many pods have been placed, as the scheduler counts them.
async fn placed(clients: &Clients) -> Result<usize> {
    let text = clients.read(&Ask::get("/metrics")).await?;
    let line = text.lines().find(|it| {
        it.starts_with("scheduler_schedule_attempts_total{") && it.contains("\"scheduled\"")
    });
    let Some(line) = line else { return Ok(0) };
    let number = line.rsplit(' ').next().context("a metric without a number")?;
    Ok(number.parse()?)
}
