//! Containers: what they are made from and what becomes of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::ImageSpec;
use crate::security::LinuxContainerSecurityContext;

/// Which container of its pod it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerMetadata {
    /// The container's name in the pod.
    pub name: String,
    /// Counts restarts.
    pub attempt: u32,
}

/// How mounts travel between host and container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// They do not.
    #[default]
    Private,
    /// From the host to the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A directory or file of the host, or an image, inside the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Where it appears.
    pub container_path: String,
    /// What appears. A directory is made there when nothing is.
    pub host_path: String,
    /// Not writable.
    pub readonly: bool,
    /// Nothing mounted below it is writable either. Needs `readonly` and private propagation.
    pub recursive_read_only: bool,
    /// How mounts travel.
    pub propagation: MountPropagation,
    /// An image whose content appears instead of `host_path`.
    pub image: Option<ImageSpec>,
    /// The directory of the image that appears.
    pub image_sub_path: String,
}

/// A device of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Device {
    /// Where it appears.
    pub container_path: String,
    /// Which it is.
    pub host_path: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// A limit for one size of huge pages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HugepageLimit {
    /// `2MB`, `1GB`.
    pub page_size: String,
    /// In bytes.
    pub limit: u64,
}

/// Resources; zero and empty leave the kernel's default (at an update: what is there).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerResources {
    /// In microseconds.
    pub cpu_period: i64,
    /// In microseconds a period; -1 is no limit.
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// In bytes.
    pub memory_limit_in_bytes: i64,
    /// -1000 to 1000. A kernel that refuses a lower one does not fail the container.
    pub oom_score_adj: i64,
    /// Processors, `0-3,7`.
    pub cpuset_cpus: String,
    /// Memory nodes.
    pub cpuset_mems: String,
    /// Huge pages.
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Keys of cgroup v2, written as they are.
    pub unified: BTreeMap<String, String>,
    /// Memory and swap together, in bytes; -1 is no limit.
    pub memory_swap_limit_in_bytes: i64,
    /// Processes and threads. (CRI leaves them to the pod's cgroup.)
    pub pids_limit: i64,
}

/// The Linux part of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerConfig {
    /// Its resources.
    pub resources: LinuxContainerResources,
    /// Who it runs as and what it may do.
    pub security_context: LinuxContainerSecurityContext,
}

/// What a container is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Which of its pod it is.
    pub metadata: ContainerMetadata,
    /// Its image: an id that `pull_image` or `image_status` returned, or a reference.
    pub image: ImageSpec,
    /// Instead of the image's entrypoint; then the image's arguments do not count either.
    pub command: Vec<String>,
    /// Instead of the image's arguments.
    pub args: Vec<String>,
    /// Instead of the image's working directory.
    pub working_dir: String,
    /// Added to the image's, in order.
    pub envs: Vec<(String, String)>,
    /// What appears where.
    pub mounts: Vec<Mount>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// To select by.
    pub labels: BTreeMap<String, String>,
    /// Kept and returned.
    pub annotations: BTreeMap<String, String>,
    /// Its log, below the sandbox's log directory. Empty: no log is kept.
    pub log_path: String,
    /// Its standard input stays open for `attach`.
    pub stdin: bool,
    /// Its standard input ends when the first `attach` that had it ends.
    pub stdin_once: bool,
    /// It has a terminal.
    pub tty: bool,
    /// The Linux part.
    pub linux: LinuxContainerConfig,
    /// Instead of the image's stop signal: `SIGUSR1`.
    pub stop_signal: String,
}

/// How far a container has come.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process ran and is gone.
    Exited,
    /// Its shim is gone without a word.
    #[default]
    Unknown,
}

/// A container in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its sandbox.
    pub pod_sandbox_id: String,
    /// Which of its pod it is.
    pub metadata: ContainerMetadata,
    /// As given.
    pub image: ImageSpec,
    /// The id of the image it was made from: `sha256:...`.
    pub image_id: String,
    /// How far it has come.
    pub state: ContainerState,
    /// When it was made, in nanoseconds since the epoch.
    pub created_at: i64,
    /// As given.
    pub labels: BTreeMap<String, String>,
    /// As given.
    pub annotations: BTreeMap<String, String>,
}

/// Everything about a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    /// What a list has.
    pub container: Container,
    /// When it was started, or 0.
    pub started_at: i64,
    /// When it ended, or 0.
    pub finished_at: i64,
    /// How it ended; 128 and the number of the signal that killed it.
    pub exit_code: i32,
    /// The image by name: `docker.io/library/busybox:latest`.
    pub image_name: String,
    /// A name with digest, or the image's id: what the pod's status shows as `imageID`.
    pub image_ref: String,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// As given.
    pub mounts: Vec<Mount>,
    /// The whole path of its log.
    pub log_path: String,
    /// What it may use now.
    pub resources: LinuxContainerResources,
    /// Its user once it is running: uid, gid and supplemental groups.
    pub user: Option<ContainerUser>,
    /// Its first process in the node's namespace, while it runs.
    pub pid: Option<u32>,
    /// The signal that stops it, `SIGTERM`.
    pub stop_signal: String,
}

/// Who the first process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerUser {
    /// User.
    pub uid: i64,
    /// Group.
    pub gid: i64,
    /// Other groups.
    pub supplemental_groups: Vec<i64>,
}

/// Which containers; an empty filter is all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// This one.
    pub id: Option<String>,
    /// In this state.
    pub state: Option<ContainerState>,
    /// Of this sandbox.
    pub pod_sandbox_id: Option<String>,
    /// With all these labels.
    pub label_selector: BTreeMap<String, String>,
}

impl ContainerFilter {
    /// Whether `container` is meant.
    #[must_use]
    pub fn matches(&self, container: &Container) -> bool {
        self.id.as_ref().is_none_or(|id| *id == container.id)
            && self.state.is_none_or(|state| state == container.state)
            && self.pod_sandbox_id.as_ref().is_none_or(|id| *id == container.pod_sandbox_id)
            && self.label_selector.iter().all(|(k, v)| container.labels.get(k) == Some(v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, state: ContainerState, app: &str) -> Container {
        Container {
            id: id.into(),
            pod_sandbox_id: "pod".into(),
            state,
            labels: [("app".to_owned(), app.to_owned())].into(),
            ..Container::default()
        }
    }

    #[test]
    fn a_filter_needs_all_its_parts() {
        let all = [
            container("a", ContainerState::Running, "web"),
            container("b", ContainerState::Exited, "web"),
            container("c", ContainerState::Running, "db"),
        ];
        let ids = |filter: &ContainerFilter| -> String {
            all.iter().filter(|c| filter.matches(c)).map(|c| c.id.as_str()).collect()
        };
        let web = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let running = Some(ContainerState::Running);
        for (filter, expected) in [
            (ContainerFilter::default(), "abc"),
            (ContainerFilter { state: running, ..Default::default() }, "ac"),
            (
                ContainerFilter {
                    state: running,
                    label_selector: web.clone(),
                    ..Default::default()
                },
                "a",
            ),
            (ContainerFilter { pod_sandbox_id: Some("other".into()), ..Default::default() }, ""),
            (
                ContainerFilter { id: Some("b".into()), label_selector: web, ..Default::default() },
                "b",
            ),
        ] {
            assert_eq!(ids(&filter), expected, "{filter:?}");
        }
    }

    #[test]
    fn a_stored_container_of_an_older_version_still_decodes() {
        let stored = r#"{"metadata":{"name":"c"},"image":{"image":"busybox"},"gone_field":1}"#;
        let config: ContainerConfig = serde_json::from_str(stored).unwrap();
        assert_eq!(config.metadata.name, "c");
        assert_eq!(config.linux, LinuxContainerConfig::default());
    }
}
