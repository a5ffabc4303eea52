//! The parts of a node around its agent: so far the pod network as the runtime's port.

pub(crate) mod pod_network;
