//! Sandboxes and containers as the agent keeps them: what is on disk, and what runs.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::{ContainerConfig, ContainerState, PodSandboxConfig};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::shim_client::ShimClient;
use crate::spec::{ExitRecord, Identity, PidMode};

/// A sandbox's record.
pub(super) const SANDBOX_RECORD: &str = "sandbox.json";
/// A container's record.
pub(super) const CONTAINER_RECORD: &str = "container.json";
/// Says that a container was started, and when.
pub(super) const STARTED_FILE: &str = "started.json";

/// A sandbox on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SandboxRecord {
    pub(super) id: String,
    pub(super) config: PodSandboxConfig,
    pub(super) created_at: i64,
    /// It was ready, and was not stopped since.
    pub(super) ready: bool,
    /// Its network is to be taken back.
    pub(super) network: bool,
    pub(super) ips: Vec<IpAddr>,
    pub(super) netns: Option<PathBuf>,
    pub(super) shm: Option<PathBuf>,
    pub(super) handler: String,
}

/// A sandbox.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    /// Its lasting state.
    pub(super) dir: PathBuf,
    /// Its volatile state: socket, namespace, shared memory.
    pub(super) run_dir: PathBuf,
    pub(super) record: Mutex<SandboxRecord>,
    pub(super) shim: Mutex<Option<Arc<ShimClient>>>,
    /// Starting, stopping and removing go one after the other.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl Sandbox {
    pub(super) fn is_ready(&self) -> bool {
        self.record.lock().ready && self.shim.lock().is_some()
    }

    pub(super) fn save(&self) -> io::Result<()> {
        save(&self.dir.join(SANDBOX_RECORD), &*self.record.lock())
    }
}

/// A container on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ContainerRecord {
    pub(super) id: String,
    pub(super) sandbox: String,
    pub(super) config: ContainerConfig,
    pub(super) created_at: i64,
    pub(super) image_id: String,
    pub(super) image_name: String,
    pub(super) image_ref: String,
    /// Layers that it needs.
    pub(super) layers: Vec<String>,
    pub(super) log: Option<PathBuf>,
    pub(super) cgroup: String,
    pub(super) stop_signal: String,
    pub(super) pid_mode: PidMode,
}

/// That a container was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Started {
    pub(super) pid: i32,
    pub(super) started_at: i64,
    pub(super) identity: Identity,
}

/// How far a container has come.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Created,
    Running(Started),
    Exited { started: Option<Started>, exit: ExitRecord },
}

impl Phase {
    pub(super) fn state(&self) -> ContainerState {
        match self {
            Self::Created => ContainerState::Created,
            Self::Running(_) => ContainerState::Running,
            Self::Exited { .. } => ContainerState::Exited,
        }
    }
}

/// A container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) dir: PathBuf,
    pub(super) record: Mutex<ContainerRecord>,
    pub(super) phase: Mutex<Phase>,
    /// Rung when the phase changes.
    changed: Notify,
    /// Starting, stopping and removing go one after the other.
    pub(super) turn: tokio::sync::Mutex<()>,
}

impl Container {
    pub(super) fn new(dir: PathBuf, record: ContainerRecord, phase: Phase) -> Self {
        Self {
            dir,
            record: Mutex::new(record),
            phase: Mutex::new(phase),
            changed: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn sandbox_id(&self) -> String {
        self.record.lock().sandbox.clone()
    }

    pub(super) fn running(&self) -> Option<Started> {
        match &*self.phase.lock() {
            Phase::Running(started) => Some(started.clone()),
            Phase::Created | Phase::Exited { .. } => None,
        }
    }

    /// It runs; false when its end is known already.
    pub(super) fn set_running(&self, started: Started) -> bool {
        let mut phase = self.phase.lock();
        match &mut *phase {
            Phase::Exited { started: unknown @ None, .. } => {
                *unknown = Some(started);
                false
            }
            Phase::Exited { .. } => false,
            Phase::Created | Phase::Running(_) => {
                *phase = Phase::Running(started);
                true
            }
        }
    }

    /// It ended; false when that was known.
    pub(super) fn set_exited(&self, exit: ExitRecord) -> bool {
        {
            let mut phase = self.phase.lock();
            let started = match &*phase {
                Phase::Exited { .. } => return false,
                Phase::Running(started) => Some(started.clone()),
                Phase::Created => None,
            };
            *phase = Phase::Exited { started, exit };
        }
        self.changed.notify_waiters();
        true
    }

    /// Resolves once it does not run.
    pub(super) async fn ended(&self) {
        loop {
            let mut woken = std::pin::pin!(self.changed.notified());
            // Registered before the phase is read, so that a change in between is not missed.
            woken.as_mut().enable();
            if !matches!(*self.phase.lock(), Phase::Running(_)) {
                return;
            }
            woken.await;
        }
    }

    /// The exit code, once it has one.
    pub(super) fn exit_code(&self) -> Option<i32> {
        match &*self.phase.lock() {
            Phase::Exited { exit, .. } => Some(exit.exit_code),
            Phase::Created | Phase::Running(_) => None,
        }
    }
}

/// Writes a record whole, though not durably: after a loss of power nothing runs that it describes.
pub(super) fn save<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, serde_json::to_vec(value)?)?;
    std::fs::rename(temporary, path)
}

/// Reads a record; `None` when it is not there or was cut short.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
