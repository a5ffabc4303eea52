//! Registers the nodes, renews their leases, and reports now and then that they are well.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, time, value};
use client::call::PatchKind;
use client::reflector::{Caches, Store};
use client::{Client, ClientError, ObjectKey, Resource};
use component_base::Clock;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Node;
use tokio::time::MissedTickBehavior;

use crate::{Settings, status};

/// How many requests are under way at once.
const AT_ONCE: usize = 32;
/// How often a node reports that it is well (upstream: `nodeStatusReportFrequency`).
const REPORT: Duration = Duration::from_secs(300);

/// Leases are renewed a part of the nodes at a time, so that they make no bursts.
const PARTS: u32 = 20;

const LEASES: &str = "kube-node-lease";

pub(crate) struct Presence {
    pub(crate) settings: Settings,
    pub(crate) client: Client,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) caches: Arc<Caches>,
}

impl Presence {
    /// Never ends by itself.
    pub(crate) async fn run(self) {
        let nodes = self.caches.store_of::<Node>();
        nodes.reached(0).await;
        let all = (0..self.settings.count).map(|number| self.register(&nodes, number).boxed());
        let registered = succeeded(all.collect()).await;
        tracing::info!(nodes = registered, "fake nodes are registered");
        let rounds = (REPORT.as_secs() / self.settings.renew_every.as_secs().max(1)).max(1);
        let mut ticks = tokio::time::interval(self.settings.renew_every / PARTS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 0_u64.. {
            ticks.tick().await;
            let (round, part) = (tick / u64::from(PARTS), tick % u64::from(PARTS));
            let of_part = (0..self.settings.count).filter(|it| u64::from(it % PARTS) == part);
            let renewals = of_part.map(|number| {
                let reports = (round + u64::from(number)) % rounds == 0;
                self.renew(&nodes, number, reports).boxed()
            });
            succeeded(renewals.collect()).await;
        }
    }

    /// Makes a node; one that is there from before reports that it is back.
    async fn register(&self, nodes: &Store, number: u32) -> Result<(), ClientError> {
        let name = status::name(number);
        let uid = match nodes.get(&ObjectKey::new("", name.as_str())) {
            Some(node) => {
                self.report(number).await?;
                node.uid.to_string()
            }
            None => {
                let node = status::node(number, &self.settings, self.clock.now());
                let made = self.client.create(&Resource::of::<Node>(), "", &node).await?;
                made.str_at(&["metadata", "uid"]).to_owned()
            }
        };
        self.renew_lease(&name, &uid).await
    }

    /// Renews the lease of a node that is there: one that somebody has deleted stays away.
    async fn renew(&self, nodes: &Store, number: u32, reports: bool) -> Result<(), ClientError> {
        let name = status::name(number);
        let Some(node) = nodes.get(&ObjectKey::new("", name.as_str())) else { return Ok(()) };
        let is_well = |node: &Value| {
            let all = node.items_at(&["status", "conditions"]).iter();
            let mut ready = all.filter(|it| it.str_at(&["type"]) == "Ready");
            ready.any(|it| it.str_at(&["status"]) == "True")
        };
        self.renew_lease(&name, &node.uid).await?;
        if reports || !is_well(&node.value()) {
            self.report(number).await?;
        }
        Ok(())
    }

    async fn renew_lease(&self, name: &str, uid: &str) -> Result<(), ClientError> {
        let leases = Resource::built_in("coordination.k8s.io", "leases");
        let now = time::format_micro_time(self.clock.now());
        let patch = value!({"spec": {"renewTime": (now.as_str()), "holderIdentity": name}});
        match self.client.patch(&leases, LEASES, name, "", PatchKind::Merge, &patch).await {
            Err(error) if error.is_not_found() => {
                let lease = status::lease(name, uid, self.clock.now());
                self.client.create(&leases, LEASES, &lease).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    async fn report(&self, number: u32) -> Result<(), ClientError> {
        let patch = value!({"status": (status::status(number, &self.settings, self.clock.now()))});
        let (nodes, name, kind) =
            (Resource::of::<Node>(), status::name(number), PatchKind::Strategic);
        let told = self.client.patch(&nodes, "", &name, "status", kind, &patch);
        told.await.map(drop)
    }
}

/// How many of these writes went well; of the others the log tells.
async fn succeeded(writes: Vec<BoxFuture<'_, Result<(), ClientError>>>) -> usize {
    let mut writes = futures::stream::iter(writes).buffer_unordered(AT_ONCE);
    let mut count = 0;
    while let Some(written) = writes.next().await {
        match written {
            Ok(()) => count += 1,
            Err(error) => tracing::warn!(%error, "could not write of a fake node"),
        }
    }
    count
}
