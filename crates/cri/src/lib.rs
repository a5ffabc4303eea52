//! The container runtime port: what a node agent asks of whatever runs its containers.
//!
//! Names, fields and meanings are those of the Container Runtime Interface v1, so that a gRPC client of
//! containerd or CRI-O and the embedded runtime fit behind the same two traits. Knows nothing of pods' API
//! objects, of how containers are made, or of gRPC.

pub mod container;
pub mod error;
pub mod event;
pub mod image;
pub mod network;
pub mod sandbox;
pub mod security;
pub mod service;
pub mod stats;
pub mod stream;

pub use container::{
    Container, ContainerConfig, ContainerFilter, ContainerMetadata, ContainerState,
    ContainerStatus, ContainerUser, Device, HugepageLimit, LinuxContainerConfig,
    LinuxContainerResources, Mount, MountPropagation,
};
pub use error::{Code, CriError};
pub use event::{ContainerEvent, ContainerEventType, RuntimeEvent};
pub use image::{
    AuthConfig, FilesystemUsage, Image, ImageConfig, ImageFsInfo, ImageSpec, ProgressSink,
    PullProgress,
};
pub use network::{NetworkRequest, PodNetwork, PodNetworkResult};
pub use sandbox::{
    DnsConfig, LinuxPodSandboxConfig, PodSandbox, PodSandboxConfig, PodSandboxFilter,
    PodSandboxMetadata, PodSandboxState, PodSandboxStatus, PortMapping, Protocol,
};
pub use security::{
    Capabilities, IdMapping, LinuxContainerSecurityContext, LinuxSandboxSecurityContext,
    NamespaceMode, NamespaceOption, ProfileType, SecurityProfile, SelinuxOption,
    SupplementalGroupsPolicy, UserNamespace,
};
pub use service::{
    ExecSyncResponse, ImageService, RuntimeCondition, RuntimeService, RuntimeStatus, VersionInfo,
    conditions,
};
pub use stats::{
    ContainerStats, ContainerStatsFilter, CpuUsage, MemoryUsage, NetworkInterfaceUsage,
    PodSandboxStats,
};
pub use stream::{
    AttachRequest, BoxedRead, BoxedWrite, Duplex, ExecRequest, Resize, StreamSession, Streams,
    TerminalSize,
};

/// The version of the interface that the names here follow.
pub const API_VERSION: &str = "v1";
