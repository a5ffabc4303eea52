//! Nodes without machines: they are registered, say that they live, and their pods go through their lives by rules, all
//! over the real API. For measuring and trying out control planes of thousands of nodes on one machine, as kwok does
//! (<https://kwok.sigs.k8s.io>, whose default stages these rules follow).
//!
//! Knows no containers: a pod runs as soon as it is bound, a Job's pod succeeds after the time that its annotation
//! [`lifecycle::COMPLETES_AFTER`] says, and a deleted pod is gone at once.

mod addresses;
pub mod lifecycle;
mod pods;
mod presence;
mod status;

use std::sync::Arc;
use std::time::Duration;

use client::Client;
use client::events::EventRecorder;
use client::reflector::Caches;
use component_base::{Clock, Random, ShutdownSignal};
use controller::{Environment, Runner};

use addresses::Addresses;
pub use addresses::MAX_NODES;
use pods::Pods;
use presence::Presence;

/// What the names of the nodes begin with: `fake-0`, `fake-1`, ...
pub const PREFIX: &str = "fake-";

/// How many pods are worked on at once.
const WORKERS: usize = 64;

/// What the nodes are.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many, at most [`MAX_NODES`].
    pub count: u32,
    /// What each has, as quantities: processors, memory, pods.
    pub capacity: Capacity,
    /// The version that they say they are of.
    pub version: String,
    /// How often each renews its lease, which is good for 40 s.
    pub renew_every: Duration,
}

/// What a node has, as quantities.
#[derive(Debug, Clone)]
pub struct Capacity {
    /// Processors.
    pub cpu: String,
    /// Memory.
    pub memory: String,
    /// Pods.
    pub pods: String,
}

impl Default for Capacity {
    /// What a common machine of a data centre has.
    fn default() -> Self {
        Self { cpu: "32".into(), memory: "256Gi".into(), pods: "110".into() }
    }
}

/// What the nodes are given.
#[derive(Debug, Clone)]
pub struct Parts {
    /// May write nodes, their leases and their pods.
    pub client: Client,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Names of events.
    pub random: Arc<dyn Random>,
    /// Ends all of it.
    pub stop: ShutdownSignal,
}

/// Registers the nodes, and keeps them and their pods alive until it is told to stop.
pub async fn run(settings: Settings, parts: Parts) {
    let Parts { client, clock, random, stop } = parts;
    let caches = Caches::new(client.clone(), Arc::clone(&random), stop.clone());
    let addresses = Arc::new(Addresses::new(settings.count));
    // Pods have no events: nothing happens to them here that is worth one.
    let events = EventRecorder::new("kubelet", "", Arc::clone(&clock), random);
    let environment = Environment {
        caches: Arc::clone(&caches),
        client: client.clone(),
        events,
        clock: Arc::clone(&clock),
        // Nobody asks for them: the server's are those of its controllers.
        metrics: controller::Metrics::default(),
        workers: WORKERS,
    };
    let running = tokio::spawn(Runner::new(Pods::new(addresses), environment).run(stop.clone()));
    let presence = Presence { settings, client, clock, caches };
    tokio::select! {
        () = presence.run() => {}
        () = stop.requested() => {}
    }
    // It ends by the same signal.
    let _ = running.await;
}

/// The number of a node, by its name.
fn number(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}
