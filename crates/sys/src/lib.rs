//! The kernel in small typed functions: every `unsafe` of the network and of the pod's surroundings is here.
//!
//! Knows nothing of Kubernetes.

pub mod netlink;
pub mod nftables;
