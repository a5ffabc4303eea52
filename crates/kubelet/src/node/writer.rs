//! Registers the node, keeps its status and its lease.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, value};
use client::call::PatchKind;
use client::events::{EventType, ObjectReference};
use client::{ClientError, Resource};
use component_base::ShutdownSignal;
use tokio::time::Instant;

use super::status::{self, Facts};
use super::{lease, machine};
use crate::eviction;
use crate::image_gc;
use crate::manager::Manager;
use crate::qos;
use crate::shared::Shared;

/// How often the machine is looked at: nothing tells when memory or disk run short.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between tries to register.
const REGISTER_RETRY: Duration = Duration::from_secs(1);
/// Tries of one status before the next tick: a conflict is over when it is told.
const STATUS_TRIES: u32 = 5;

/// Runs until `stop`.
pub(crate) async fn run(shared: Arc<Shared>, manager: Arc<Manager>, stop: ShutdownSignal) {
    let version = version(&shared).await;
    while let Err(error) = register(&shared).await {
        tracing::warn!(node = shared.config.node_name, %error, "could not register the node, will try again");
        tokio::select! {
            () = tokio::time::sleep(REGISTER_RETRY) => {}
            () = stop.requested() => return,
        }
    }
    record(&shared, EventType::Normal, "Starting", "Starting kubelet.");
    enforce(&shared);
    let lease = tokio::spawn(lease::run(Arc::clone(&shared), stop.clone()));
    let mut told = Told { last: None, at: None };
    let mut history = image_gc::History::default();
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shared.status_due.notified() => {}
            () = stop.requested() => break,
        }
        if let Ok(usage) = machine::usage(&shared.config) {
            // What nothing uses goes before what somebody does.
            image_gc::check(&shared, &mut history, usage).await;
        }
        if let Ok(usage) = machine::usage(&shared.config) {
            eviction::check(&shared, &manager, usage).await;
        }
        for attempt in 1..=STATUS_TRIES {
            match tell(&shared, &version, &mut told).await {
                Ok(()) => break,
                Err(error) if error.code() == Some(409) && attempt < STATUS_TRIES => {}
                Err(error) => {
                    tracing::warn!(node = shared.config.node_name, %error, "could not write the node's status, will try again");
                    break;
                }
            }
        }
    }
    if lease.await.is_err() {
        tracing::error!("the task of the node's lease failed");
    }
}

/// An event about the node. Upstream's refer to it by its name in place of its uid.
fn record(shared: &Shared, kind: EventType, reason: &str, message: &str) {
    let name = shared.config.node_name.clone();
    let node = ObjectReference {
        kind: "Node".into(),
        uid: name.clone(),
        name,
        ..ObjectReference::default()
    };
    shared.events.record(node, kind, reason, message);
}

/// Holds all pods together to what the node gives them.
fn enforce(shared: &Shared) {
    let Some(hierarchies) = &shared.hierarchies else { return };
    match qos::enforce(&shared.config, &shared.machine, hierarchies) {
        Ok(()) => record(
            shared,
            EventType::Normal,
            "NodeAllocatableEnforced",
            "Updated Node Allocatable limit across pods",
        ),
        Err(error) => {
            let message = format!("Failed to update Node Allocatable Limits {error}");
            tracing::warn!(%error, "could not limit the group of all pods");
            record(shared, EventType::Warning, "FailedNodeAllocatableEnforcement", &message);
        }
    }
}

/// The status that the server took last, without heartbeats, and when.
struct Told {
    last: Option<Value>,
    at: Option<Instant>,
}

async fn version(shared: &Shared) -> String {
    match shared.runtime.version().await {
        Ok(it) => format!("{}://{}", it.runtime_name, it.runtime_version),
        Err(_) => String::new(),
    }
}

fn resource() -> Resource {
    Resource::built_in("", "nodes")
}

async fn register(shared: &Shared) -> Result<(), ClientError> {
    let config = &shared.config;
    let labels = status::labels(config);
    let annotations = status::annotations();
    let node = value!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": (config.node_name.as_str()), "labels": (labels.clone()), "annotations": (annotations.clone())}, "spec": {}
    });
    match shared.client.create(&resource(), "", &node).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(409) => {
            let patch = value!({"metadata": {"labels": labels, "annotations": annotations}});
            let kind = PatchKind::Strategic;
            shared
                .client
                .patch(&resource(), "", &config.node_name, "", kind, &patch)
                .await
                .map(drop)
        }
        Err(error) => Err(error),
    }
}

async fn tell(shared: &Shared, version: &str, told: &mut Told) -> Result<(), ClientError> {
    let config = &shared.config;
    let images = shared.images.list_images(None).await.unwrap_or_default();
    let facts = Facts {
        config,
        machine: &shared.machine,
        short: shared.pressure.told(shared.clock.monotonic()),
        runtime_version: version,
        runtime: shared.runtime.status().await.map_err(|it| it.to_rpc()),
        images: &images,
    };
    // One that somebody has deleted stays away until the agent starts again (upstream: the same).
    let node = shared.client.get(&resource(), "", &config.node_name).await?;
    let before = node.items_at(&["status", "conditions"]);
    let known_boot = node.str_at(&["status", "nodeInfo", "bootID"]);
    let conditions = status::conditions(&facts, before, shared.clock.now());
    let events = status::transitions(before, conditions.as_array().unwrap_or_default());
    let mut body = status::status(&facts);
    status::advertised(&node, &mut body);
    body.set_at(&["conditions"], conditions);
    let mut plain = body.clone();
    for condition in plain.items_at_mut(&["conditions"]) {
        condition.remove_at(&["lastHeartbeatTime"]);
    }
    let now = shared.clock.monotonic();
    let fresh = told.at.is_some_and(|at| now - at < config.status_report_interval);
    let there = !before.is_empty();
    if fresh && there && told.last.as_ref() == Some(&plain) {
        return Ok(());
    }
    let patch = value!({"status": body});
    shared
        .client
        .patch(&resource(), "", &config.node_name, "status", PatchKind::Strategic, &patch)
        .await?;
    if !known_boot.is_empty() && known_boot != shared.machine.boot_id {
        let message = format!(
            "Node {} has been rebooted, boot id: {}",
            config.node_name, shared.machine.boot_id
        );
        record(shared, EventType::Warning, "Rebooted", &message);
    }
    for event in events {
        let message = format!("Node {} status is now: {event}", config.node_name);
        record(shared, EventType::Normal, event, &message);
    }
    *told = Told { last: Some(plain), at: Some(now) };
    Ok(())
}
