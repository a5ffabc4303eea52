//! Address ranges of nodes: each node gets a range of every cluster range. Upstream: `pkg/controller/nodeipam`.
//!
//! The nodes themselves are the record: what a node has is taken, also after a restart. What was given in this process and
//! is not in the cache yet is kept aside.

mod metrics;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::value;
use client::call::PatchKind;
use client::events::EventType;
use client::indexes::BY_POD_CIDR;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Event, Plan, Snapshot, Watches};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

use crate::owner::{is_deleting, reference_to};

pub use metrics::Metrics;

/// The most ranges that one cluster range is cut into (upstream's bound for IPv6: 16 bits).
const MAX_BITS: u8 = 16;

/// How nodes get their ranges.
#[derive(Debug, Clone, Default)]
pub struct NodeRanges {
    /// The cluster's ranges (`--cluster-cidr`), at most one a family, each with the prefix length of a node's range
    /// (`--node-cidr-mask-size`, 24 and 64).
    pub cluster: Vec<(IpNet, u8)>,
    /// Ranges that no node gets: those of services.
    pub reserved: Vec<IpNet>,
}

/// A cluster range that cannot be cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeRangesError {
    /// The nodes' ranges would be larger than the cluster's.
    #[error("cannot cut ranges of /{mask} out of the cluster range {cluster}")]
    TooSmall {
        /// The cluster's range.
        cluster: IpNet,
        /// The prefix length of a node's range.
        mask: u8,
    },
    /// No node could get any.
    #[error("cluster range {cluster} lies within {reserved}, where services have their addresses")]
    Reserved {
        /// The cluster's range.
        cluster: IpNet,
        /// The services' range.
        reserved: IpNet,
    },
    /// There would be too many of them.
    #[error("cluster range {cluster} has more than 2^{MAX_BITS} ranges of /{mask}")]
    TooMany {
        /// The cluster's range.
        cluster: IpNet,
        /// The prefix length of a node's range.
        mask: u8,
    },
}

impl NodeRanges {
    /// Checks that every range can be cut.
    ///
    /// # Errors
    /// On a node's range that is larger than the cluster's, or far smaller.
    pub fn checked(self) -> Result<Self, NodeRangesError> {
        for (cluster, mask) in self.cluster.iter().copied() {
            if mask < cluster.prefix_len() || mask > cluster.max_prefix_len() {
                return Err(NodeRangesError::TooSmall { cluster, mask });
            }
            let within = |it: &&IpNet| it.contains(&cluster);
            if let Some(reserved) = self.reserved.iter().find(within).copied() {
                return Err(NodeRangesError::Reserved { cluster, reserved });
            }
            if mask - cluster.prefix_len() > MAX_BITS {
                return Err(NodeRangesError::TooMany { cluster, mask });
            }
        }
        Ok(self)
    }
}

/// The controller.
#[derive(Debug, Default)]
pub struct NodeIpam {
    ranges: Arc<NodeRanges>,
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Where to look for the next free range, by cluster range.
    next: BTreeMap<usize, u32>,
    /// What was given to nodes that the cache does not show with it yet.
    given: BTreeMap<IpNet, String>,
}

/// What it sees of a node.
#[derive(Debug)]
pub struct Observed {
    node: Node,
    /// The ranges that it is to have; `None` where there are not enough.
    ranges: Option<Vec<IpNet>>,
}

impl NodeIpam {
    /// A controller that gives these ranges.
    #[must_use]
    pub fn new(ranges: NodeRanges, metrics: Metrics) -> Self {
        Self { ranges: Arc::new(ranges), metrics, state: Mutex::default() }
    }

    /// Chooses a free range out of each cluster range.
    fn choose(&self, snapshot: &Snapshot, node: &str) -> Option<Vec<IpNet>> {
        let store = snapshot.store::<Node>();
        let taken = |range: &IpNet| !store.by_index(BY_POD_CIDR, &range.to_string()).is_empty();
        let mut state = self.state.lock();
        // A range is given for as long as its node is there without it.
        state.given.retain(|range, owner| {
            !taken(range) && store.get(&ObjectKey::new("", owner.as_str())).is_some()
        });
        let mut chosen = Vec::new();
        for (place, (cluster, mask)) in self.ranges.cluster.iter().enumerate() {
            let before = state
                .given
                .iter()
                .find(|(range, owner)| owner.as_str() == node && cluster.contains(*range));
            if let Some((range, _)) = before {
                chosen.push(*range);
                continue;
            }
            let count = count(*cluster, *mask);
            let start = state.next.get(&place).copied().unwrap_or_default();
            let free = (0..count).find_map(|step| {
                let index = (start + step) % count;
                let range = nth(*cluster, *mask, index)?;
                let reserved = self.ranges.reserved.iter().any(|it| overlap(it, &range));
                let free = !reserved && !taken(&range) && !state.given.contains_key(&range);
                free.then_some((step, index, range))
            });
            let (after, index, range) = free?;
            self.metrics.found(*cluster, after);
            state.next.insert(place, (index + 1) % count);
            state.given.insert(range, node.to_owned());
            chosen.push(range);
        }
        Some(chosen)
    }
}

impl Controller for NodeIpam {
    const NAME: &'static str = "node-ipam-controller";
    const ACCOUNT: &'static str = "node-controller";
    const SOURCE: &'static str = "cidrAllocator";
    /// A node.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        let (metrics, ranges) = (self.metrics.clone(), Arc::clone(&self.ranges));
        metrics.begin(&ranges);
        watches.on::<Node>(move |change, _| {
            metrics.see(change, &ranges);
            vec![change.key()]
        })
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        if self.ranges.cluster.is_empty() {
            return None;
        }
        let node: Node = snapshot.get(key)?;
        let has = node.spec.as_ref().is_some_and(|it| {
            it.pod_cidrs.as_ref().is_some_and(|it| !it.is_empty())
                || it.pod_cidr.as_ref().is_some_and(|it| !it.is_empty())
        });
        if has || is_deleting(&node.metadata) {
            return None;
        }
        let ranges = self.choose(snapshot, &key.name);
        Some(Observed { node, ranges })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let metadata = &observed.node.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let told = |reason: &'static str| Event {
            about: reference_to("v1", "Node", metadata),
            kind: EventType::Normal,
            reason,
            message: format!("Node {name} status is now: {reason}"),
        };
        let Some(ranges) = &observed.ranges else {
            plan.events.push(told("CIDRNotAvailable"));
            plan.error = Some(format!("no range is left for node {name}"));
            return plan;
        };
        let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let all: apimachinery::Value = texts.iter().map(String::as_str).collect();
        let first = texts.first().cloned().unwrap_or_default();
        let uid = metadata.uid.clone().unwrap_or_default();
        let planned = plan.act(Action::Patch {
            resource: Resource::of::<Node>(),
            key: ObjectKey::new("", name.as_str()),
            subresource: "",
            kind: PatchKind::Strategic,
            patch: value!({"metadata": {"uid": uid}, "spec": {"podCIDR": first, "podCIDRs": all}}),
            gone_is_fine: true,
        });
        planned.on_failure = vec![told("CIDRAssignmentFailed")];
        plan
    }
}

/// How many ranges of this length a cluster range has.
fn count(cluster: IpNet, mask: u8) -> u32 {
    1 << (mask - cluster.prefix_len())
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The `index`-th range of this length in a cluster range.
fn nth(cluster: IpNet, mask: u8, index: u32) -> Option<IpNet> {
    let shift = cluster.max_prefix_len() - mask;
    let range = match cluster.network() {
        std::net::IpAddr::V4(base) => {
            let offset = u64::from(index) << shift;
            let address = u32::try_from(u64::from(u32::from(base)) + offset).ok()?;
            IpNet::new(std::net::Ipv4Addr::from(address).into(), mask)
        }
        std::net::IpAddr::V6(base) => {
            let address = u128::from(base).checked_add(u128::from(index) << shift)?;
            IpNet::new(std::net::Ipv6Addr::from(address).into(), mask)
        }
    };
    range.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_range_is_cut_into_equal_ones() {
        let check = |cluster: &str, mask: u8, index: u32, expected: &str| {
            let range = nth(cluster.parse().unwrap(), mask, index).unwrap();
            assert_eq!(range.to_string(), expected);
        };
        check("10.244.0.0/16", 24, 0, "10.244.0.0/24");
        check("10.244.0.0/16", 24, 255, "10.244.255.0/24");
        check("fd00::/56", 64, 3, "fd00:0:0:3::/64");
        check("10.0.0.0/24", 24, 0, "10.0.0.0/24");
    }

    #[test]
    fn ranges_that_cannot_be_cut_are_refused() {
        let check = |cluster: &str, mask: u8| {
            let cluster = vec![(cluster.parse().unwrap(), mask)];
            NodeRanges { cluster, reserved: Vec::new() }.checked().map(|_| ())
        };
        assert_eq!(check("10.244.0.0/16", 24), Ok(()));
        assert!(matches!(check("10.244.0.0/24", 16), Err(NodeRangesError::TooSmall { .. })));
        assert!(matches!(check("fd00::/32", 64), Err(NodeRangesError::TooMany { .. })));
    }
}
