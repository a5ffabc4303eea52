//! Who a container runs as, what it may do and what it shares.

use serde::{Deserialize, Serialize};

/// The paths hidden from containers unless `procMount` is `Unmasked`: what a node agent puts into
/// `masked_paths`.
pub const DEFAULT_MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// The paths that containers cannot write unless `procMount` is `Unmasked`.
pub const DEFAULT_READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Whose namespace it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// The pod's, shared by its containers.
    #[default]
    Pod,
    /// The container's own. Only for process ids.
    Container,
    /// The node's.
    Node,
    /// That of the container `target_id`. Only for process ids.
    Target,
}

/// What is shared with whom. `Default` is CRI's: all of the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NamespaceOption {
    /// `Pod` or `Node`.
    pub network: NamespaceMode,
    /// Any.
    pub pid: NamespaceMode,
    /// `Pod` or `Node`.
    pub ipc: NamespaceMode,
    /// The container whose process ids are shared, with `NamespaceMode::Target`.
    pub target_id: String,
    /// The mapping of users, when the pod does not use the node's.
    pub userns_options: Option<UserNamespace>,
}

/// A user namespace of the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserNamespace {
    /// Ranges of users.
    pub uids: Vec<IdMapping>,
    /// Ranges of groups.
    pub gids: Vec<IdMapping>,
}

/// A range of ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdMapping {
    /// First on the host.
    pub host_id: u32,
    /// First in the container.
    pub container_id: u32,
    /// How many.
    pub length: u32,
}

/// Where a seccomp or AppArmor profile comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProfileType {
    /// The runtime's own.
    RuntimeDefault,
    /// None.
    #[default]
    Unconfined,
    /// The file or loaded profile `localhost_ref`.
    Localhost,
}

/// A seccomp or AppArmor profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecurityProfile {
    /// Where it comes from.
    pub profile_type: ProfileType,
    /// For seccomp the whole path of a JSON file; for AppArmor a name.
    pub localhost_ref: String,
}

/// Capabilities by name, with or without `CAP_`; `ALL` is all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Added to the default ones.
    pub add_capabilities: Vec<String>,
    /// Taken from them.
    pub drop_capabilities: Vec<String>,
    /// Added to the ambient set too.
    pub add_ambient_capabilities: Vec<String>,
}

/// How supplemental groups are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    /// Those given, and those that the image's `/etc/group` has for the user.
    #[default]
    Merge,
    /// Those given.
    Strict,
}

/// `SELinux` labels. This runtime refuses any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelinuxOption {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    #[serde(rename = "type")]
    pub type_: String,
    /// Level.
    pub level: String,
}

/// Who a sandbox runs as and what it shares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxSandboxSecurityContext {
    /// What it shares with the node.
    pub namespace_options: NamespaceOption,
    /// Labels.
    pub selinux_options: Option<SelinuxOption>,
    /// The user of the pod's own process.
    pub run_as_user: Option<i64>,
    /// Its group.
    pub run_as_group: Option<i64>,
    /// Its root is read-only.
    pub readonly_rootfs: bool,
    /// Its groups.
    pub supplemental_groups: Vec<i64>,
    /// How groups are found.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Whether any privileged container may run here.
    pub privileged: bool,
    /// System calls that it may make.
    pub seccomp: SecurityProfile,
    /// Confinement by `AppArmor`.
    pub apparmor: SecurityProfile,
}

/// Who a container runs as, what it may do and what it shares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinuxContainerSecurityContext {
    /// Added and dropped capabilities.
    pub capabilities: Capabilities,
    /// All capabilities, all devices, nothing masked, no seccomp.
    pub privileged: bool,
    /// What it shares with whom.
    pub namespace_options: NamespaceOption,
    /// Labels.
    pub selinux_options: Option<SelinuxOption>,
    /// Its user as a number; excludes `run_as_username`.
    pub run_as_user: Option<i64>,
    /// Its group; needs one of the users.
    pub run_as_group: Option<i64>,
    /// Its user as a name in the image's `/etc/passwd`.
    pub run_as_username: String,
    /// Its root is read-only.
    pub readonly_rootfs: bool,
    /// Its groups, besides the primary one.
    pub supplemental_groups: Vec<i64>,
    /// How groups are found.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    /// Its processes never gain privileges by `execve`.
    pub no_new_privs: bool,
    /// Paths that it cannot see into.
    pub masked_paths: Vec<String>,
    /// Paths that it cannot write.
    pub readonly_paths: Vec<String>,
    /// System calls that it may make.
    pub seccomp: SecurityProfile,
    /// Confinement by `AppArmor`.
    pub apparmor: SecurityProfile,
}
