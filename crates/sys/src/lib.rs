//! The kernel in small typed functions: mounts, namespaces, cgroups, processes, files, netlink, nftables. Every
//! `unsafe` of the network and of the pod's surroundings is here.
//!
//! Knows nothing of Kubernetes.

pub mod cgroup;
pub mod fs;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod nftables;
pub mod process;
