//! Routes to the pods of other nodes, kept by what the API server says of nodes.

use std::net::IpAddr;
use std::sync::Arc;

use apimachinery::Value;
use client::Store;
use ipnet::IpNet;
use network::{PodNetwork, RemoteNode, plan};
use tokio::sync::Notify;
use tokio::time::Duration;

/// How long to wait after the kernel refused a route.
const RETRY: Duration = Duration::from_secs(5);

/// The ranges that a node's pods have their addresses from.
pub(crate) fn pod_cidrs(node: &Value) -> Vec<IpNet> {
    let listed = node.items_at(&["spec", "podCIDRs"]).iter().filter_map(Value::as_str);
    let all: Vec<IpNet> = listed.filter_map(|it| it.parse().ok()).collect();
    if all.is_empty() {
        node.str_at(&["spec", "podCIDR"]).parse().into_iter().collect()
    } else {
        all
    }
}

fn remote(node: &Value) -> RemoteNode {
    let addresses = node.items_at(&["status", "addresses"]);
    let inner = addresses.iter().filter(|it| it.str_at(&["type"]) == "InternalIP");
    RemoteNode {
        name: node.str_at(&["metadata", "name"]).to_owned(),
        addresses: inner.filter_map(|it| it.str_at(&["address"]).parse::<IpAddr>().ok()).collect(),
        pod_cidrs: pod_cidrs(node),
    }
}

/// Runs for ever.
pub(crate) async fn run(network: &PodNetwork, nodes: &Store, name: &str) {
    let changed = Arc::new(Notify::new());
    let tell = Arc::clone(&changed);
    nodes.listen(Arc::new(move |_| tell.notify_one()));
    let mut before = None;
    loop {
        changed.notified().await;
        let all: Vec<RemoteNode> = nodes.list("").iter().map(|it| remote(&it.value())).collect();
        if before.as_ref() == Some(&all) {
            continue;
        }
        match network.local_node(name).map(|local| plan(&local, &all)) {
            Ok(wanted) => {
                for it in &wanted.unreachable {
                    tracing::warn!(node = it.node, range = %it.pod_cidr, reason = it.reason, "no route to the pods of a node");
                }
                match network.apply_routes(&wanted) {
                    Ok(0) => before = Some(all),
                    Ok(routes) => {
                        tracing::info!(routes, "routes to other nodes' pods changed");
                        before = Some(all);
                    }
                    Err(error) => again(&error, &changed).await,
                }
            }
            Err(error) => again(&error, &changed).await,
        }
    }
}

async fn again(error: &network::NetworkError, changed: &Notify) {
    tracing::warn!(%error, "could not set routes to other nodes' pods, will try again");
    tokio::time::sleep(RETRY).await;
    changed.notify_one();
}
