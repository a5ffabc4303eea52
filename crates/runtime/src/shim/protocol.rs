//! What a node agent and a shim say to each other.
//!
//! Append-only: a field or an operation is added with a default, never changed or removed. A shim that does not
//! know an operation says so, and `hello` tells each side what the other is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::launch::ExecSpec;
use crate::spec::{ExitRecord, Identity, PidMode};

/// Raised when something is added.
pub(crate) const PROTOCOL_VERSION: u32 = 1;

/// What is asked of a shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Comes back in the reply.
    pub seq: u64,
    /// What to do.
    pub op: Op,
}

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Op {
    /// Say who you are and what runs.
    Hello {
        /// The asker's version.
        version: u32,
    },
    /// Start a container.
    Start(Start),
    /// Send a signal.
    Signal {
        /// To the first process of this container.
        container: String,
        /// This one.
        signal: i32,
        /// To every process of it.
        #[serde(default)]
        all: bool,
    },
    /// Run another process. Descriptors: standard input, output and error, or none with a terminal.
    Exec {
        /// In this container.
        container: String,
        /// Named this by the asker.
        exec: u64,
        /// What.
        spec: ExecSpec,
    },
    /// Kill another process.
    KillExec {
        /// Which, of the asker's.
        exec: u64,
    },
    /// Send output here too. Descriptors: one for each of `stdout` and `stderr` that is wanted.
    Attach {
        /// Of this container.
        container: String,
        /// Answer with a descriptor of its input, or terminal.
        #[serde(default)]
        stdin: bool,
        /// Wanted.
        #[serde(default)]
        stdout: bool,
        /// Wanted.
        #[serde(default)]
        stderr: bool,
    },
    /// An attach with input ended.
    Detach {
        /// Of this container.
        container: String,
    },
    /// Open the log again.
    Reopen {
        /// Of this container.
        container: String,
    },
    /// Answer with a stream socket of the sandbox's network.
    Socket {
        /// For version 6.
        #[serde(default)]
        v6: bool,
    },
    /// Kill what runs and end.
    Stop,
}

/// A container to start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Start {
    /// Its id.
    pub container: String,
    /// Its directory, with the spec.
    pub bundle: PathBuf,
    /// Whose process ids it sees.
    pub pid_mode: PidMode,
    /// It has a terminal.
    pub tty: bool,
    /// Its input stays open.
    pub stdin: bool,
    /// Until the first attach ends.
    pub stdin_once: bool,
    /// Its log.
    pub log: Option<PathBuf>,
    /// A directory of its cgroup to kill it by.
    pub kill_dir: PathBuf,
    /// The directory of its memory cgroup.
    pub memory_dir: Option<PathBuf>,
    /// The cgroups are version 2: the kernel kills groups as a whole.
    pub cgroup_v2: bool,
}

/// What a shim says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// To a request.
    Reply(Box<Reply>),
    /// A container ended; its exit file is there.
    Exited {
        /// Which.
        container: String,
        /// How.
        exit: ExitRecord,
    },
    /// The OOM killer struck.
    Oom {
        /// In this container.
        container: String,
    },
    /// Another process ended.
    ExecExited {
        /// Which, of the asker's.
        exec: u64,
        /// How.
        code: i32,
    },
}

/// The answer to a request.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Reply {
    /// Of the request.
    pub seq: u64,
    /// Why not.
    pub error: Option<String>,
    /// The shim's version.
    pub version: u32,
    /// The process that was started; the shim itself for `hello`.
    pub pid: i32,
    /// Who it runs as.
    pub identity: Option<Identity>,
    /// For `hello`: what runs.
    pub running: Vec<Running>,
    /// For `start`: when, in nanoseconds since the epoch.
    pub started_at: i64,
}

/// A running container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Running {
    /// Its id.
    pub container: String,
    /// Its first process.
    pub pid: i32,
    /// When it was started, in nanoseconds since the epoch.
    pub started_at: i64,
    /// Who it runs as.
    pub identity: Identity,
}
