//! Routes to the pods of other nodes: `plan` says which there should be, the pod network makes them so.
//!
//! Nodes on one segment reach each other's pods by plain routes. A node behind a router needs an overlay,
//! which is not built: `plan` names such nodes, so that the caller can say so.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::is_v4;

/// What this node is to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalNode {
    /// Its name.
    pub name: String,
    /// The networks its links are part of.
    pub segments: Vec<IpNet>,
}

/// A node of the cluster; may be this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteNode {
    /// Its name.
    pub name: String,
    /// Its addresses, the preferred one first.
    pub addresses: Vec<IpAddr>,
    /// The ranges of its pods.
    pub pod_cidrs: Vec<IpNet>,
}

/// A route to another node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRoute {
    /// The pods.
    pub pod_cidr: IpNet,
    /// The node.
    pub via: IpAddr,
}

/// Pods no plain route leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// The node.
    pub node: String,
    /// The pods.
    pub pod_cidr: IpNet,
    /// Why.
    pub reason: &'static str,
}

/// What there should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutePlan {
    /// Sorted, one for each range.
    pub routes: Vec<PodRoute>,
    /// What cannot be.
    pub unreachable: Vec<Unreachable>,
}

/// The routes that lead from `local` to the pods of `nodes`.
#[must_use]
pub fn plan(local: &LocalNode, nodes: &[RemoteNode]) -> RoutePlan {
    let mut plan = RoutePlan::default();
    let ranges = nodes
        .iter()
        .filter(|node| node.name != local.name)
        .flat_map(|node| node.pod_cidrs.iter().map(move |cidr| (node, *cidr)));
    for (node, pod_cidr) in ranges {
        match next_hop(local, node, &pod_cidr) {
            Ok(via) => plan.routes.push(PodRoute { pod_cidr, via }),
            Err(reason) => {
                plan.unreachable.push(Unreachable { node: node.name.clone(), pod_cidr, reason });
            }
        }
    }
    plan.routes.sort();
    plan.routes.dedup_by_key(|route| route.pod_cidr);
    plan
}

fn next_hop(
    local: &LocalNode,
    node: &RemoteNode,
    pod_cidr: &IpNet,
) -> Result<IpAddr, &'static str> {
    let mut candidates =
        node.addresses.iter().filter(|ip| ip.is_ipv4() == is_v4(pod_cidr)).peekable();
    if candidates.peek().is_none() {
        return Err("the node has no address of this family");
    }
    candidates
        .find(|ip| local.segments.iter().any(|segment| segment.contains(*ip)))
        .copied()
        .ok_or("the node is not on a segment of this one, and overlays are not supported")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, addresses: &[&str], cidrs: &[&str]) -> RemoteNode {
        RemoteNode {
            name: name.to_owned(),
            addresses: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
            pod_cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        }
    }

    fn text(plan: &RoutePlan) -> String {
        let routes = plan.routes.iter().map(|r| format!("{} via {}", r.pod_cidr, r.via));
        let others = plan.unreachable.iter();
        let others = others.map(|u| format!("{} of {}: {}", u.pod_cidr, u.node, u.reason));
        routes.chain(others).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn nodes_on_the_segment_get_plain_routes_and_others_are_named() {
        let local = LocalNode {
            name: "n1".to_owned(),
            segments: vec!["192.0.2.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
        };
        let nodes = [
            node("n1", &["192.0.2.1"], &["10.244.0.0/24"]),
            node("n3", &["198.51.100.7", "192.0.2.3"], &["10.244.2.0/24"]),
            node("n2", &["192.0.2.2", "fd00::2"], &["10.244.1.0/24", "fd01:1::/64"]),
            node("far", &["203.0.113.9"], &["10.244.3.0/24", "fd01:3::/64"]),
            node("new", &["192.0.2.4"], &[]),
        ];
        assert_eq!(
            text(&plan(&local, &nodes)),
            "10.244.1.0/24 via 192.0.2.2\n\
             10.244.2.0/24 via 192.0.2.3\n\
             fd01:1::/64 via fd00::2\n\
             10.244.3.0/24 of far: the node is not on a segment of this one, and overlays are not \
             supported\n\
             fd01:3::/64 of far: the node has no address of this family"
        );
    }
}
