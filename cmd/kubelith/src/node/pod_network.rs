//! The pod network as the container runtime calls it.

use std::sync::Arc;

use async_trait::async_trait;
use component_base::task::BlockingPool;
use cri::{CriError, NetworkRequest, PodNetworkResult};
use network::{PodNetwork, PortMapping, Protocol};
use sys::netlink::Netns;

/// How many namespaces are furnished at once: the network has one lock anyway.
const PARALLEL: usize = 4;

/// A [`PodNetwork`] behind the runtime's port.
#[derive(Debug, Clone)]
pub(crate) struct RuntimeNetwork {
    network: Arc<PodNetwork>,
    pool: BlockingPool,
}

impl RuntimeNetwork {
    pub(crate) fn new(network: Arc<PodNetwork>) -> Self {
        Self { network, pool: BlockingPool::new("pod-network", PARALLEL) }
    }
}

/// The ports of the host that a request asks for.
fn ports(request: &NetworkRequest) -> Result<Vec<PortMapping>, CriError> {
    let wanted = request.port_mappings.iter().filter(|port| port.host_port != 0);
    wanted
        .map(|port| {
            let protocol = match port.protocol {
                cri::Protocol::Tcp => Protocol::Tcp,
                cri::Protocol::Udp => Protocol::Udp,
                cri::Protocol::Sctp => {
                    return Err(CriError::invalid("host ports of protocol SCTP are not supported"));
                }
            };
            let host_ip =
                match port.host_ip.as_str() {
                    "" => None,
                    text => Some(text.parse().map_err(|_| {
                        CriError::invalid(format!("host IP {text:?} is no address"))
                    })?),
                };
            Ok(PortMapping {
                protocol,
                host_ip,
                host_port: port.host_port,
                container_port: port.container_port,
            })
        })
        .collect()
}

#[async_trait]
impl cri::PodNetwork for RuntimeNetwork {
    async fn setup(&self, request: &NetworkRequest) -> Result<PodNetworkResult, CriError> {
        let ports = ports(request)?;
        let (network, id, path) =
            (Arc::clone(&self.network), request.sandbox_id.clone(), request.netns_path.clone());
        let work = move || {
            let namespace = Netns::at(&path).map_err(|error| error.to_string())?;
            network.setup(&id, &namespace, &ports).map_err(|error| chain(&error))
        };
        let done =
            self.pool.run(work).await.map_err(|error| CriError::unknown(error.to_string()))?;
        done.map(|ips| PodNetworkResult { ips }).map_err(CriError::unknown)
    }

    async fn teardown(&self, request: &NetworkRequest) -> Result<(), CriError> {
        let (network, id) = (Arc::clone(&self.network), request.sandbox_id.clone());
        let work = move || network.teardown(&id).map_err(|error| chain(&error));
        let done =
            self.pool.run(work).await.map_err(|error| CriError::unknown(error.to_string()))?;
        done.map_err(CriError::unknown)
    }
}

/// An error with what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
