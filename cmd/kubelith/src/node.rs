//! The parts of a node around its agent: the pod network as the runtime's port, the service proxy and DNS fed by watches.

pub(crate) mod cluster_dns;
pub(crate) mod pod_network;
pub(crate) mod service_proxy;
