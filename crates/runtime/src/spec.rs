//! What a shim is told about a sandbox and its containers: files of JSON that survive both sides.
//!
//! Newer binaries drive older shims and the other way round, so fields are added, never changed or removed, and
//! every one has a default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sys::cgroup::{Hierarchies, Limits};

/// The sandbox's file, in its directory.
pub(crate) const SANDBOX_FILE: &str = "shim.json";
/// The container's file, in its directory.
pub(crate) const CONTAINER_FILE: &str = "spec.json";
/// How a container ended, in its directory.
pub(crate) const EXIT_FILE: &str = "exit.json";
/// The shim's socket, in the sandbox's directory of volatile state.
pub(crate) const SOCKET_FILE: &str = "shim.sock";

/// What a shim makes of itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SandboxSpec {
    /// The sandbox.
    pub id: String,
    /// Its host name; empty leaves that of the node.
    pub hostname: String,
    /// Where its network namespace is pinned; `None`: the node's network.
    pub netns: Option<PathBuf>,
    /// It has IPC objects of its own.
    pub own_ipc: bool,
    /// Its containers share process ids.
    pub shared_pid: bool,
    /// Where its shared memory is mounted; `None`: the node's.
    pub shm: Option<PathBuf>,
    /// Namespaced kernel parameters.
    pub sysctls: BTreeMap<String, String>,
}

/// Whose process ids a container sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PidMode {
    /// Its own.
    #[default]
    Own,
    /// The pod's.
    Pod,
    /// The node's.
    Node,
    /// Those of the container whose first process this is.
    Target(i32),
}

/// How a container ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ExitRecord {
    /// 128 and the signal's number when it was killed.
    pub exit_code: i32,
    /// When, in nanoseconds since the epoch.
    pub finished_at: i64,
    /// The OOM killer struck.
    pub oom_killed: bool,
    /// Why it never started.
    pub start_error: Option<String>,
    /// Nobody saw it end: its shim was gone, as after a restart of the machine.
    pub unseen: bool,
}

/// What a container is started from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LaunchSpec {
    /// The container.
    pub id: String,
    /// Its root.
    pub root: RootSpec,
    /// What is mounted where, in this order.
    #[serde(default)]
    pub mounts: Vec<MountSpec>,
    /// Device nodes below `/dev`.
    #[serde(default)]
    pub devices: Vec<DeviceNode>,
    /// Paths that are hidden.
    #[serde(default)]
    pub masked_paths: Vec<String>,
    /// Paths that are made read-only.
    #[serde(default)]
    pub readonly_paths: Vec<String>,
    /// The hierarchies, its group and what that may use.
    pub cgroup: CgroupSpec,
    /// Its first process.
    pub process: ProcessSpec,
}

/// The root of a container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RootSpec {
    /// Where the layers are.
    pub layers_dir: PathBuf,
    /// Names there, the uppermost first.
    pub lower: Vec<String>,
    /// The writable layer.
    pub upper: PathBuf,
    /// The overlay's work directory.
    pub work: PathBuf,
    /// An empty directory to mount it on.
    pub target: PathBuf,
    /// Not writable.
    pub readonly: bool,
}

/// Something mounted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MountSpec {
    /// Where.
    pub target: PathBuf,
    /// What.
    pub source: MountSource,
    /// Not writable.
    #[serde(default)]
    pub readonly: bool,
    /// Nothing below is writable either.
    #[serde(default)]
    pub recursive_readonly: bool,
    /// `sys::mount::NOSUID` and the like.
    #[serde(default)]
    pub attributes: u64,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MountSource {
    /// A new file system.
    New {
        /// Its type.
        kind: String,
        /// Its options, name and value.
        options: Vec<(String, String)>,
    },
    /// A directory or file of the host with what is mounted below.
    Bind {
        /// Which.
        path: PathBuf,
        /// How mounts travel.
        propagation: Propagation,
    },
    /// The layers of an image, never writable.
    Image {
        /// Names below the layers' directory, the uppermost first.
        lower: Vec<String>,
        /// An empty directory to make it on.
        at: PathBuf,
        /// The directory of the image that appears.
        sub_path: PathBuf,
    },
    /// The container's own cgroup.
    Cgroup,
}

/// How mounts travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Propagation {
    /// They do not.
    #[default]
    Private,
    /// From the host.
    FromHost,
    /// Both ways.
    Both,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceNode {
    /// Where.
    pub path: PathBuf,
    /// A block device, not a character device.
    #[serde(default)]
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    #[serde(default)]
    pub uid: u32,
    /// Group.
    #[serde(default)]
    pub gid: u32,
}

/// The cgroup of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CgroupSpec {
    /// The machine's hierarchies.
    pub hierarchies: Hierarchies,
    /// The container's group.
    pub path: String,
    /// What it may use.
    pub limits: Limits,
    /// It sees its group writable.
    #[serde(default)]
    pub writable: bool,
}

/// The first process of a container, and the pattern for others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ProcessSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Where it runs. Made if it is not there.
    pub cwd: String,
    /// Who it runs as.
    pub user: UserSpec,
    /// Capability bits that it may have.
    pub capabilities: u64,
    /// Of these, the ambient ones.
    pub ambient: u64,
    /// `execve` gains nothing.
    pub no_new_privs: bool,
    /// Filters of system calls, base64 of the kernel's instructions.
    pub seccomp: Vec<String>,
    /// It has a terminal.
    pub tty: bool,
    /// How readily it is killed when memory is short.
    pub oom_score_adj: Option<i32>,
}

/// Who a process runs as, as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct UserSpec {
    /// A name or number in the image's `/etc/passwd`; empty is root.
    pub user: String,
    /// A name or number in the image's `/etc/group`; empty is the user's.
    pub group: String,
    /// Groups besides.
    pub supplemental: Vec<u32>,
    /// Those of the image's `/etc/group` count too.
    pub merge_groups: bool,
}

/// Who a process runs as, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Other groups.
    pub groups: Vec<u32>,
    /// Its home.
    pub home: String,
}
