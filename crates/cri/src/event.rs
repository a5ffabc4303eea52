//! What happened to containers, as it happens, so that nobody polls.

use serde::{Deserialize, Serialize};

/// What happened to a container. The first four are CRI's; a sandbox reports under its own id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerEventType {
    /// Made, not started.
    Created,
    /// Its process runs.
    Started,
    /// Its process is gone; the exit code is stored and `container_status` has it.
    Stopped,
    /// Removed.
    Deleted,
    /// The kernel's OOM killer struck inside its cgroup. `Stopped` follows when it died of it.
    OomKilled,
}

/// One happening.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerEvent {
    /// The container, or the sandbox itself when equal to `pod_sandbox_id`.
    pub container_id: String,
    /// Its sandbox.
    pub pod_sandbox_id: String,
    /// What happened.
    pub event_type: ContainerEventType,
    /// When, in nanoseconds since the epoch.
    pub created_at: i64,
}

/// An item of the event stream: without gaps, or it says that there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Something happened.
    Container(ContainerEvent),
    /// The reader was too slow and events were dropped: list again.
    Relist,
}
