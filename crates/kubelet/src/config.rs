//! What a node agent is given. Nothing here is read from the environment.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The configuration of a node agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of the node object.
    pub node_name: String,
    /// The node's addresses, the primary one first.
    pub node_ips: Vec<IpAddr>,
    /// Labels besides upstream's own.
    pub labels: BTreeMap<String, String>,
    /// Where pods' files lie.
    pub data_dir: PathBuf,
    /// Where pods' logs lie.
    pub log_dir: PathBuf,
    /// The servers of the cluster's DNS; none leaves pods with the node's.
    pub cluster_dns: Vec<IpAddr>,
    /// `cluster.local`
    pub cluster_domain: String,
    /// The node's own resolver configuration; none for pods without one.
    pub resolv_conf: Option<PathBuf>,
    /// The most pods that run here.
    pub max_pods: u32,
    /// The port of the agent's own server.
    pub port: u16,
    /// `v1.37.1+kubelith0.1.0`
    pub version: String,
    /// How often an unchanged node status is written.
    pub status_report_interval: Duration,
    /// How long a node lease holds; it is renewed four times as often.
    pub lease_duration: Duration,
    /// The most processes of a pod; 0 is no limit.
    pub pod_pids_limit: i64,
    /// The group of all pods; empty for a node whose pods have no groups.
    pub cgroup_root: String,
    /// Kept from pods, by resource.
    pub reserved: BTreeMap<String, i64>,
    /// Pods end when less memory than this is left, in bytes.
    pub eviction_memory_bytes: i64,
    /// Pods end when less of the disk than this is left, in per cent.
    pub eviction_disk_percent: u32,
    /// A container's log is moved aside when it is larger than this.
    pub container_log_max_bytes: u64,
    /// The most files of a container's log, the one that is written to among them.
    pub container_log_max_files: usize,
    /// Unused images go when more of the disk than this is used, in per cent.
    pub image_gc_high_percent: i64,
    /// And until no more than this is used.
    pub image_gc_low_percent: i64,
    /// A directory of pods that run whatever the API server says.
    pub static_pods: Option<PathBuf>,
    /// Kernel parameters that pods may set besides the safe ones: names, or beginnings with a `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// The kernel's files: `/proc`.
    pub proc_dir: PathBuf,
}

impl Config {
    /// A configuration with upstream's defaults.
    #[must_use]
    pub fn new(node_name: &str, data_dir: &Path) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ips: Vec::new(),
            labels: BTreeMap::new(),
            data_dir: data_dir.to_owned(),
            log_dir: data_dir.join("logs"),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: Some("/etc/resolv.conf".into()),
            max_pods: 110,
            port: 10_250,
            version: String::new(),
            status_report_interval: Duration::from_secs(300),
            lease_duration: Duration::from_secs(40),
            pod_pids_limit: 0,
            cgroup_root: "/kubepods".into(),
            reserved: BTreeMap::new(),
            eviction_memory_bytes: 100 << 20,
            eviction_disk_percent: 10,
            container_log_max_bytes: 10 << 20,
            container_log_max_files: 5,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            static_pods: None,
            allowed_unsafe_sysctls: Vec::new(),
            proc_dir: "/proc".into(),
        }
    }

    /// The directory of a pod.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// The directory of a pod's volume.
    pub(crate) fn volume_dir(&self, uid: &str, plugin: &str, volume: &str) -> PathBuf {
        self.pod_dir(uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
    }

    /// The directory of a pod's logs.
    pub(crate) fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.log_dir.join("pods").join(format!("{namespace}_{name}_{uid}"))
    }
}
