//! What containers and sandboxes use.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::container::ContainerMetadata;
use crate::image::FilesystemUsage;
use crate::sandbox::PodSandboxMetadata;

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// When it was measured, in nanoseconds since the epoch.
    pub timestamp: i64,
    /// Since the container was made, in nanoseconds.
    pub usage_core_nano_seconds: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryUsage {
    /// When it was measured, in nanoseconds since the epoch.
    pub timestamp: i64,
    /// All of it without inactive file cache.
    pub working_set_bytes: u64,
    /// What is left below the limit; 0 where there is no limit.
    pub available_bytes: u64,
    /// All of it.
    pub usage_bytes: u64,
    /// Anonymous and swap cache.
    pub rss_bytes: u64,
    /// Minor faults.
    pub page_faults: u64,
    /// Major faults.
    pub major_page_faults: u64,
}

/// What a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStats {
    /// The container.
    pub id: String,
    /// Its sandbox.
    pub pod_sandbox_id: String,
    /// Which of its pod it is.
    pub metadata: ContainerMetadata,
    /// As given.
    pub labels: BTreeMap<String, String>,
    /// As given.
    pub annotations: BTreeMap<String, String>,
    /// Processor time.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes and threads.
    pub process_count: u64,
    /// Its writable layer.
    pub writable_layer: FilesystemUsage,
}

/// Traffic of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkInterfaceUsage {
    /// `eth0`.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Errors receiving.
    pub rx_errors: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Errors sending.
    pub tx_errors: u64,
}

/// What a sandbox uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodSandboxStats {
    /// The sandbox.
    pub id: String,
    /// Whose it is.
    pub metadata: PodSandboxMetadata,
    /// As given.
    pub labels: BTreeMap<String, String>,
    /// As given.
    pub annotations: BTreeMap<String, String>,
    /// Processor time of the pod's cgroup.
    pub cpu: CpuUsage,
    /// Memory of the pod's cgroup.
    pub memory: MemoryUsage,
    /// Its interfaces; empty on the host's network.
    pub interfaces: Vec<NetworkInterfaceUsage>,
    /// Processes and threads.
    pub process_count: u64,
    /// Its running containers.
    pub containers: Vec<ContainerStats>,
}

/// Whose stats; an empty filter is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerStatsFilter {
    /// This container.
    pub id: Option<String>,
    /// Those of this sandbox.
    pub pod_sandbox_id: Option<String>,
    /// With all these labels.
    pub label_selector: BTreeMap<String, String>,
}
