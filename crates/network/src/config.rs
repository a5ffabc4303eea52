//! What the pod network is told about its node and cluster.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use sys::netlink::Netns;

use crate::NetworkError;

/// Linux cuts link names at 15 bytes.
const LINK_NAME_MAX: usize = 15;

/// The pod network of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's network namespace.
    pub namespace: Netns,
    /// The link that holds the gateway addresses; `kubelith0` where nobody says otherwise.
    pub device: String,
    /// The ranges this node's pods get their addresses from, one for each family, the primary one first.
    pub pod_cidrs: Vec<IpNet>,
    /// The ranges of all pods. What goes there keeps its source address.
    pub cluster_cidrs: Vec<IpNet>,
    /// The ranges of services. They get a route, so that a service can be reached on a node without a default route.
    pub service_cidrs: Vec<IpNet>,
    /// The largest packet of pods; that of the link with the default route where nobody says otherwise.
    pub mtu: Option<u32>,
    /// Where the records of sandboxes are kept.
    pub state_dir: PathBuf,
}

impl Config {
    /// The default name of the link that holds the gateway addresses.
    pub const DEVICE: &'static str = "kubelith0";

    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        let bad = |text: String| Err(NetworkError::Config(text));
        if self.device.is_empty() || self.device.len() > LINK_NAME_MAX {
            return bad(format!("{:?} is not a link's name", self.device));
        }
        if self.pod_cidrs.is_empty() {
            return bad("no pod CIDR is given".to_owned());
        }
        for (index, cidr) in self.pod_cidrs.iter().enumerate() {
            if cidr.max_prefix_len() - cidr.prefix_len() < 2 {
                return bad(format!("pod CIDR {cidr} has no room for pods"));
            }
            if self.pod_cidrs[..index].iter().any(|other| is_v4(other) == is_v4(cidr)) {
                return bad(format!("pod CIDR {cidr} is the second one of its family"));
            }
        }
        Ok(())
    }

    /// The node's own address in each pod range: the pods' gateway.
    pub(crate) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.pod_cidrs.iter().map(gateway)
    }

    pub(crate) fn gateway_of(&self, pod: IpAddr) -> Option<IpAddr> {
        self.pod_cidrs.iter().find(|cidr| cidr.contains(&pod)).map(gateway)
    }
}

pub(crate) fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

/// The first address of a range after the one that names it.
pub(crate) fn gateway(cidr: &IpNet) -> IpAddr {
    nth(cidr, 1)
}

/// The address `offset` after the first one of the range.
pub(crate) fn nth(cidr: &IpNet, offset: u128) -> IpAddr {
    match cidr {
        IpNet::V4(v4) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            IpAddr::V4(v4.network().to_bits().wrapping_add(offset).into())
        }
        IpNet::V6(v6) => IpAddr::V6(v6.network().to_bits().wrapping_add(offset).into()),
    }
}
