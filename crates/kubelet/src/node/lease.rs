//! The node's lease: the sign of life that the node life cycle controller watches.

use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::{ClientError, Resource};
use component_base::ShutdownSignal;

use crate::shared::Shared;

const NAMESPACE: &str = "kube-node-lease";

/// Renews it until `stop`, four times in its duration.
pub(super) async fn run(shared: Arc<Shared>, stop: ShutdownSignal) {
    let mut ticks = tokio::time::interval(shared.config.lease_duration / 4);
    let mut known: Option<Value> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.requested() => return,
        }
        match renew(&shared, known.take()).await {
            Ok(lease) => known = Some(lease),
            Err(error) => {
                tracing::warn!(%error, "could not renew the node's lease, will try again")
            }
        }
    }
}

async fn renew(shared: &Shared, known: Option<Value>) -> Result<Value, ClientError> {
    let resource = Resource::built_in("coordination.k8s.io", "leases");
    let name = shared.config.node_name.as_str();
    let now = time::format_micro_time(shared.clock.now());
    let lease = match known {
        Some(it) => Some(it),
        None => match shared.client.get(&resource, NAMESPACE, name).await {
            Ok(it) => Some(it),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        },
    };
    if let Some(mut lease) = lease {
        lease.set_at(&["spec", "renewTime"], now.as_str());
        lease.set_at(&["spec", "holderIdentity"], name);
        return shared.client.update(&resource, "", &lease).await;
    }
    let node = shared.client.get(&Resource::built_in("", "nodes"), "", name).await?;
    let seconds = i64::try_from(shared.config.lease_duration.as_secs()).unwrap_or(40);
    let lease = value!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": NAMESPACE, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Node", "name": name, "uid": (node.str_at(&["metadata", "uid"]))}]},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": seconds, "renewTime": (now.as_str())}
    });
    shared.client.create(&resource, NAMESPACE, &lease).await
}
