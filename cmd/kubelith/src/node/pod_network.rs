//! The pod network as the container runtime calls it: not ready until the node has a range of addresses.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use component_base::task::BlockingPool;
use component_base::with_causes;
use cri::{CriError, NetworkRequest, PodNetworkResult};
use network::{PodNetwork, PortMapping, Protocol};
use sys::netlink::Netns;

/// How many namespaces are furnished at once: the network has one lock anyway.
const PARALLEL: usize = 4;

/// Why pods cannot have a network yet.
const NOT_READY: &str = "the node has no range of pod addresses yet";

/// A [`PodNetwork`] behind the runtime's port.
#[derive(Debug, Clone)]
pub(crate) struct RuntimeNetwork {
    network: Arc<OnceLock<Arc<PodNetwork>>>,
    pool: BlockingPool,
}

impl RuntimeNetwork {
    /// One that is not ready.
    pub(crate) fn new() -> Self {
        Self { network: Arc::default(), pool: BlockingPool::new("pod-network", PARALLEL) }
    }

    /// Makes it ready, once.
    pub(crate) fn provide(&self, network: Arc<PodNetwork>) {
        if self.network.set(network).is_err() {
            tracing::warn!("the pod network was started twice: the first one stays");
        }
    }

    fn network(&self) -> Result<Arc<PodNetwork>, CriError> {
        self.network.get().cloned().ok_or_else(|| CriError::new(cri::Code::Unavailable, NOT_READY))
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
            (self.network()?, request.sandbox_id.clone(), request.netns_path.clone());
        let work = move || {
            let namespace = Netns::at(&path).map_err(|error| error.to_string())?;
            network.setup(&id, &namespace, &ports).map_err(|error| with_causes(&error))
        };
        let done =
            self.pool.run(work).await.map_err(|error| CriError::unknown(error.to_string()))?;
        done.map(|ips| PodNetworkResult { ips }).map_err(CriError::unknown)
    }

    async fn teardown(&self, request: &NetworkRequest) -> Result<(), CriError> {
        let (network, id) = (self.network()?, request.sandbox_id.clone());
        let work = move || network.teardown(&id).map_err(|error| with_causes(&error));
        let done =
            self.pool.run(work).await.map_err(|error| CriError::unknown(error.to_string()))?;
        done.map_err(CriError::unknown)
    }

    fn not_ready(&self) -> Option<String> {
        self.network.get().is_none().then(|| NOT_READY.to_owned())
    }
}
