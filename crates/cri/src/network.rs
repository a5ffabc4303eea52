//! The pod network as the runtime sees it: somebody who furnishes a network namespace.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::error::CriError;
use crate::sandbox::{PodSandboxMetadata, PortMapping};

/// What is to be furnished, or was.
#[derive(Debug, Clone, Default)]
pub struct NetworkRequest {
    /// The sandbox.
    pub sandbox_id: String,
    /// Its network namespace, pinned at this path. Gone at teardown if the node rebooted in between.
    pub netns_path: PathBuf,
    /// Whose pod it is.
    pub metadata: PodSandboxMetadata,
    /// Ports of the host that lead to the pod.
    pub port_mappings: Vec<PortMapping>,
    /// The pod's annotations, such as `kubernetes.io/ingress-bandwidth`.
    pub annotations: BTreeMap<String, String>,
}

/// What the pod got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodNetworkResult {
    /// Its addresses, the primary one first. Never empty.
    pub ips: Vec<IpAddr>,
}

/// Furnishes network namespaces. Never called for pods on the host's network.
#[async_trait]
pub trait PodNetwork: Send + Sync + Debug {
    /// Brings `lo` up, adds the pod's interface, addresses, routes and host ports.
    ///
    /// # Errors
    /// When it could not; what was begun is undone by [`PodNetwork::teardown`], which the runtime calls.
    async fn setup(&self, request: &NetworkRequest) -> Result<PodNetworkResult, CriError>;

    /// Takes everything back. Called again until it succeeds; nothing to do is a success.
    ///
    /// # Errors
    /// When something is left.
    async fn teardown(&self, request: &NetworkRequest) -> Result<(), CriError>;

    /// Why the network is not ready for pods, if it is not: the condition `NetworkReady`.
    fn not_ready(&self) -> Option<String> {
        None
    }
}
