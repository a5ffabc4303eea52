//! Pod sandboxes: what the containers of a pod share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::container::LinuxContainerResources;
use crate::security::{LinuxSandboxSecurityContext, NamespaceOption};

/// Whose sandbox it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxMetadata {
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Counts sandboxes of the same pod.
    pub attempt: u32,
}

/// The resolver configuration written to `/etc/resolv.conf`. All empty: the host's file is copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DnsConfig {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options, `name` or `name:value`.
    pub options: Vec<String>,
}

/// A transport protocol of a port mapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the host that leads to the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The pod's port.
    pub container_port: u16,
    /// The host's port; 0 is none.
    pub host_port: u16,
    /// The host's address; empty is any.
    pub host_ip: String,
}

/// The Linux part of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxPodSandboxConfig {
    /// The pod's cgroup, made by the agent: a path below each hierarchy's root, such as
    /// `/kubepods/burstable/podUID`. Containers' cgroups are made below it. Empty: the runtime's own.
    pub cgroup_parent: String,
    /// Who it runs as and what it shares.
    pub security_context: LinuxSandboxSecurityContext,
    /// Namespaced kernel parameters, `net.core.somaxconn` = `1024`.
    pub sysctls: BTreeMap<String, String>,
    /// The pod's overhead, for information.
    pub overhead: Option<LinuxContainerResources>,
    /// The sum of the containers' resources, for information.
    pub resources: Option<LinuxContainerResources>,
}

/// What a sandbox is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxConfig {
    /// Whose it is.
    pub metadata: PodSandboxMetadata,
    /// Its host name; empty on the host's network.
    pub hostname: String,
    /// Where the containers' logs lie. Made if it is not there.
    pub log_directory: String,
    /// Its resolver configuration; `None`: the host's file is copied.
    pub dns_config: Option<DnsConfig>,
    /// Ports of the host that lead here.
    pub port_mappings: Vec<PortMapping>,
    /// To select by.
    pub labels: BTreeMap<String, String>,
    /// Kept and returned.
    pub annotations: BTreeMap<String, String>,
    /// The Linux part.
    pub linux: LinuxPodSandboxConfig,
}

/// Whether it can hold containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PodSandboxState {
    /// It can.
    Ready,
    /// It cannot, or not any more.
    #[default]
    NotReady,
}

/// A sandbox in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandbox {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Whose it is.
    pub metadata: PodSandboxMetadata,
    /// Whether it can hold containers.
    pub state: PodSandboxState,
    /// When it was made, in nanoseconds since the epoch.
    pub created_at: i64,
    /// As given.
    pub labels: BTreeMap<String, String>,
    /// As given.
    pub annotations: BTreeMap<String, String>,
    /// The handler that runs it; empty is the default.
    pub runtime_handler: String,
}

/// Everything about a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxStatus {
    /// What a list has.
    pub sandbox: PodSandbox,
    /// Its addresses, the primary one first. Empty on the host's network.
    pub ips: Vec<IpAddr>,
    /// What it shares with the node.
    pub namespaces: NamespaceOption,
    /// Where its network namespace is pinned; empty on the host's network.
    pub netns_path: String,
}

/// Which sandboxes; an empty filter is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSandboxFilter {
    /// This one.
    pub id: Option<String>,
    /// In this state.
    pub state: Option<PodSandboxState>,
    /// With all these labels.
    pub label_selector: BTreeMap<String, String>,
}

impl PodSandboxFilter {
    /// Whether `sandbox` is meant.
    #[must_use]
    pub fn matches(&self, sandbox: &PodSandbox) -> bool {
        self.id.as_ref().is_none_or(|id| *id == sandbox.id)
            && self.state.is_none_or(|state| state == sandbox.state)
            && self.label_selector.iter().all(|(k, v)| sandbox.labels.get(k) == Some(v))
    }
}
