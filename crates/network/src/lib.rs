//! The pod network of one node: every pod is a routed neighbour of its host, with addresses of the node's
//! own range, host ports, and masquerade for what leaves the cluster (docs/adr/0004).
//!
//! Knows nothing of API objects, and calls nobody: it is called with sandbox ids and network namespaces by
//! the runtime, and with lists of nodes by whoever watches them.

mod config;
mod error;
mod ipam;
mod pod;
mod pod_network;
mod record;
mod routes;
mod rules;
mod sysctl;

pub use config::Config;
pub use error::NetworkError;
pub use pod_network::PodNetwork;
pub use record::{PortMapping, Protocol};
pub use routes::{LocalNode, PodRoute, RemoteNode, RoutePlan, Unreachable, plan};
