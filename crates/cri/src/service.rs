//! The two services of a container runtime.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::container::{
    Container, ContainerConfig, ContainerFilter, ContainerStatus, LinuxContainerResources,
};
use crate::error::CriError;
use crate::event::RuntimeEvent;
use crate::image::{AuthConfig, Image, ImageFsInfo, ImageSpec, ProgressSink};
use crate::sandbox::{PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus};
use crate::stats::{ContainerStats, ContainerStatsFilter, PodSandboxStats};
use crate::stream::{AttachRequest, Duplex, ExecRequest, StreamSession};

/// Names of the conditions that [`RuntimeStatus`] has.
pub mod conditions {
    /// The runtime can make containers.
    pub const RUNTIME_READY: &str = "RuntimeReady";
    /// Pods get a network.
    pub const NETWORK_READY: &str = "NetworkReady";
}

/// What the runtime is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionInfo {
    /// The version of the kubelet's side, `0.1.0`.
    pub version: String,
    /// `kubelith`, `containerd`: the scheme of container ids in pod statuses.
    pub runtime_name: String,
    /// Its version.
    pub runtime_version: String,
    /// `v1`.
    pub runtime_api_version: String,
}

/// One thing that is well or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeCondition {
    /// Of [`conditions`].
    pub condition_type: String,
    /// Whether it is well.
    pub status: bool,
    /// One word, why not.
    pub reason: String,
    /// For people, why not.
    pub message: String,
}

/// How the runtime is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// What is well and what not.
    pub conditions: Vec<RuntimeCondition>,
    /// Handlers that a `RuntimeClass` may name; the empty one is the default.
    pub runtime_handlers: Vec<String>,
}

/// How a short command ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSyncResponse {
    /// What it wrote, up to the runtime's limit.
    pub stdout: Vec<u8>,
    /// What it wrote, up to the runtime's limit.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit_code: i32,
}

/// Runs sandboxes and containers. Every call may be repeated; removing what is not there succeeds.
#[async_trait]
pub trait RuntimeService: Send + Sync + Debug {
    /// What the runtime is.
    async fn version(&self) -> Result<VersionInfo, CriError>;
    /// How it is.
    async fn status(&self) -> Result<RuntimeStatus, CriError>;

    /// Makes and starts a sandbox; its id. `runtime_handler` empty is the default.
    async fn run_pod_sandbox(
        &self,
        config: &PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, CriError>;
    /// Kills what runs in it and gives its network back. Repeatable.
    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError>;
    /// Removes it and its containers, killing what runs. Repeatable.
    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError>;
    /// Everything about a sandbox.
    async fn pod_sandbox_status(&self, sandbox_id: &str) -> Result<PodSandboxStatus, CriError>;
    /// The sandboxes.
    async fn list_pod_sandbox(
        &self,
        filter: &PodSandboxFilter,
    ) -> Result<Vec<PodSandbox>, CriError>;

    /// Makes a container in a sandbox; its id. `sandbox_config` is the one the sandbox was run with.
    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &ContainerConfig,
        sandbox_config: &PodSandboxConfig,
    ) -> Result<String, CriError>;
    /// Starts it. When the command cannot be run, the container is `Exited` with 128, `StartError`, and
    /// the error's message in its status.
    async fn start_container(&self, container_id: &str) -> Result<(), CriError>;
    /// Sends the stop signal, waits for `timeout`, kills. Returns when it is gone. Zero kills at once.
    async fn stop_container(&self, container_id: &str, timeout: Duration) -> Result<(), CriError>;
    /// Removes it, killing it if it runs. Repeatable. Its log stays.
    async fn remove_container(&self, container_id: &str) -> Result<(), CriError>;
    /// The containers.
    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<Container>, CriError>;
    /// Everything about a container.
    async fn container_status(&self, container_id: &str) -> Result<ContainerStatus, CriError>;
    /// Changes what it may use.
    async fn update_container_resources(
        &self,
        container_id: &str,
        resources: &LinuxContainerResources,
    ) -> Result<(), CriError>;
    /// Opens its log again, after somebody moved it away.
    async fn reopen_container_log(&self, container_id: &str) -> Result<(), CriError>;

    /// Runs a short command. Past `timeout` (zero: none) it is killed: code `DeadlineExceeded`.
    async fn exec_sync(
        &self,
        container_id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<ExecSyncResponse, CriError>;
    /// Runs a command with streams.
    async fn exec(&self, request: &ExecRequest) -> Result<StreamSession, CriError>;
    /// Joins the streams of the first process.
    async fn attach(&self, request: &AttachRequest) -> Result<StreamSession, CriError>;
    /// Connects to a port inside the sandbox's network namespace, on its loopback.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>, CriError>;

    /// What a container uses.
    async fn container_stats(&self, container_id: &str) -> Result<ContainerStats, CriError>;
    /// What running containers use.
    async fn list_container_stats(
        &self,
        filter: &ContainerStatsFilter,
    ) -> Result<Vec<ContainerStats>, CriError>;
    /// What a sandbox uses.
    async fn pod_sandbox_stats(&self, sandbox_id: &str) -> Result<PodSandboxStats, CriError>;

    /// What happens from now on. Any number of readers.
    fn container_events(&self) -> BoxStream<'static, RuntimeEvent>;

    /// Tells the runtime the pods' address range, for runtimes that configure a network by it.
    async fn update_runtime_config(&self, pod_cidr: &str) -> Result<(), CriError>;
}

/// Keeps images.
#[async_trait]
pub trait ImageService: Send + Sync + Debug {
    /// The images, or the one named.
    async fn list_images(&self, filter: Option<&ImageSpec>) -> Result<Vec<Image>, CriError>;
    /// The image, if it is here.
    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>, CriError>;
    /// Fetches and unpacks an image; its id, to make containers from. Concurrent pulls of one reference
    /// share the work.
    async fn pull_image(
        &self,
        image: &ImageSpec,
        auth: Option<&AuthConfig>,
        progress: Option<ProgressSink>,
    ) -> Result<String, CriError>;
    /// Forgets an image with all its names, and removes what nothing needs any more. Repeatable.
    async fn remove_image(&self, image: &ImageSpec) -> Result<(), CriError>;
    /// Where images and writable layers lie, and how much they take.
    async fn image_fs_info(&self) -> Result<ImageFsInfo, CriError>;
}
