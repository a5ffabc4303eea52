//! What the agent knows of a pod that neither the API nor the runtime holds. Lost at a restart, and rebuilt.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::backoff::BackOff;

/// How far a pod's life has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Containers are to run.
    #[default]
    Running,
    /// Everything is to end.
    Terminating,
    /// No process, no sandbox: volumes and groups are to go.
    Terminated,
    /// Nothing of it is left on the node but what the runtime keeps for logs.
    Cleaned,
}

/// Work that is under way and must not begin twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Busy {
    /// The sandbox is made or stopped.
    Sandbox,
    /// A container of this name is made.
    Start(String),
    /// The container of this id is stopped.
    Kill(String),
    /// Volumes and groups are removed.
    Clean,
}

/// Why a container could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartFailure {
    /// `ErrImagePull`, `CreateContainerConfigError`, ...
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
    /// When to try again.
    pub(crate) retry_at: Timestamp,
}

/// Why a pod ends that nobody deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// `Evicted`, `DeadlineExceeded`, `OutOfcpu`, ...
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
    /// Instead of the pod's own grace period.
    pub(crate) grace_period_seconds: Option<i64>,
    /// It was never let in: nothing of it ran here.
    pub(crate) rejected: bool,
    /// The node ended it for the sake of others.
    pub(crate) disrupted: bool,
}

/// What the probes of a container have said, by its id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ProbeResults {
    /// The startup probe's last word.
    pub(crate) startup: Option<bool>,
    /// The readiness probe's last word.
    pub(crate) readiness: Option<bool>,
    /// The liveness probe's last word.
    pub(crate) liveness: Option<bool>,
}

/// The memory of a pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pub(crate) stage: Stage,
    /// When the agent first saw it.
    pub(crate) start_time: Option<Timestamp>,
    /// The grace period in seconds that ends it, and when that is over.
    pub(crate) grace: Option<(i64, Timestamp)>,
    /// By id: when a container that is being stopped will have been killed.
    pub(crate) kill_deadlines: BTreeMap<String, Timestamp>,
    pub(crate) failure: Option<Failure>,
    /// By name.
    pub(crate) back_offs: BTreeMap<String, BackOff>,
    /// By name.
    pub(crate) failures: BTreeMap<String, StartFailure>,
    /// By name: until when people were told that a container waits.
    pub(crate) told_back_offs: BTreeMap<String, Timestamp>,
    /// By id.
    pub(crate) probes: BTreeMap<String, ProbeResults>,
    /// Ids of containers whose postStart has not ended yet.
    pub(crate) post_start: BTreeSet<String>,
    /// Ids of containers that a failed postStart condemned, and why.
    pub(crate) condemned: BTreeMap<String, String>,
    pub(crate) busy: BTreeSet<Busy>,
    /// When a sandbox may be tried again.
    pub(crate) sandbox_retry_at: Option<Timestamp>,
}

impl Memory {
    pub(crate) fn is_starting(&self, name: &str) -> bool {
        self.busy.contains(&Busy::Start(name.to_owned()))
    }

    pub(crate) fn is_being_killed(&self, id: &str) -> bool {
        self.busy.contains(&Busy::Kill(id.to_owned()))
    }

    pub(crate) fn results(&self, id: &str) -> ProbeResults {
        self.probes.get(id).copied().unwrap_or_default()
    }
}
