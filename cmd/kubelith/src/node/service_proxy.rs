//! The service proxy, told of Services and EndpointSlices by watches: each change becomes one transaction, changes that
//! come together become one.
//!
//! A change only leaves its key here; what is current is read from the cache when the proxy takes it. So nothing is lost
//! however long the kernel refuses, and the queue is never longer than there are objects.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::reflector::Caches;
use client::{ObjectKey, Store};
use component_base::ShutdownSignal;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use proxy::{Proxy, ServiceKey};
use tokio::sync::Notify;

use super::removed::Removed;

/// The label that tells a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// How long the proxy waits after the kernel refused a change.
const RETRY: Duration = Duration::from_secs(1);

/// What has changed since the proxy last looked.
#[derive(Debug, Default)]
struct Changes {
    services: Mutex<BTreeSet<ObjectKey>>,
    slices: Mutex<BTreeSet<ObjectKey>>,
    nodes: Mutex<BTreeSet<ObjectKey>>,
    wake: Notify,
}

impl Changes {
    /// Follows a store: its keys go where `place` says.
    fn follow(self: &Arc<Self>, store: &Store, place: fn(&Self) -> &Mutex<BTreeSet<ObjectKey>>) {
        let changes = Arc::clone(self);
        store.listen(Arc::new(move |change| {
            place(&changes).lock().insert(change.key());
            changes.wake.notify_one();
        }));
    }
}

/// Runs until `stop`. Rules stay when it ends: services go on working while this process restarts.
pub(crate) async fn run(
    mut proxy: Proxy,
    caches: Arc<Caches>,
    mut removed: Removed,
    stop: ShutdownSignal,
) {
    let services = caches.store_of::<Service>();
    let slices = caches.store_of::<EndpointSlice>();
    let nodes = caches.store_of::<Node>();
    tokio::select! {
        () = async { services.reached(0).await; slices.reached(0).await; nodes.reached(0).await } => {}
        () = stop.requested() => return,
    }
    let changes = Arc::new(Changes::default());
    changes.follow(&services, |it| &it.services);
    changes.follow(&slices, |it| &it.slices);
    follow_node(&changes, &nodes, proxy.node_name());
    loop {
        take_zone(&mut proxy, &changes, (&nodes, &slices));
        take(&mut proxy, &changes, (&services, &slices));
        if let Err(error) = proxy.apply() {
            tracing::error!(%error, "could not change the rules of services, will replace them all");
            tokio::select! {
                () = tokio::time::sleep(RETRY) => continue,
                () = stop.requested() => return,
            }
        }
        for problem in proxy.problems() {
            tracing::debug!(?problem, "a service asks for what it does not get");
        }
        tokio::select! {
            () = changes.wake.notified() => {}
            Ok(()) = removed.changed() => match proxy.look() {
                Ok(true) => tracing::warn!("somebody removed the rules of services: they come back"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "could not look at the rules of services"),
            },
            () = stop.requested() => return,
        }
    }
}

/// Follows the proxy's own node alone: others say nothing of where this one is.
fn follow_node(changes: &Arc<Changes>, nodes: &Store, name: &str) {
    let (changes, own) = (Arc::clone(changes), ObjectKey::new("", name));
    nodes.listen(Arc::new(move |change| {
        if change.key() == own {
            changes.nodes.lock().insert(change.key());
            changes.wake.notify_one();
        }
    }));
}

/// Takes the zone of the node; where it is another one, what slices hint means something else.
fn take_zone(proxy: &mut Proxy, changes: &Changes, (nodes, slices): (&Store, &Store)) {
    for key in std::mem::take(&mut *changes.nodes.lock()) {
        let node = nodes.get(&key).map(|it| it.value());
        let zone = node.as_ref().map(|it| it.str_at(&["metadata", "labels", ZONE]));
        if proxy.set_zone(zone.unwrap_or_default()) {
            let all = slices.list("").into_iter().map(|it| it.key.clone());
            changes.slices.lock().extend(all);
        }
    }
}

fn take(proxy: &mut Proxy, changes: &Changes, (services, slices): (&Store, &Store)) {
    for key in std::mem::take(&mut *changes.services.lock()) {
        match services.get(&key).and_then(|it| it.decode::<Service>()) {
            Some(service) => drop(proxy.update_service(&service)),
            None => proxy.delete_service(&ServiceKey::new(&key.namespace, &key.name)),
        }
    }
    for key in std::mem::take(&mut *changes.slices.lock()) {
        match slices.get(&key).and_then(|it| it.decode::<EndpointSlice>()) {
            Some(slice) => drop(proxy.update_slice(&slice)),
            None => proxy.delete_slice(&ServiceKey::new(&key.namespace, &key.name)),
        }
    }
}
