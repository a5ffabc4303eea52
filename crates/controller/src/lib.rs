//! The shape of every controller: `observe -> plan -> apply`.
//!
//! A controller says what it watches, what it sees of one key, and what is to be done: a [`Plan`], which is data. The
//! [`runner`] does the rest, the same for all: one key at a time and never twice at once, back-off, writes in stages,
//! events, and the gate that keeps a key waiting until the caches show the controller's own last writes. A plan gets no
//! hint of what changed: the path after a restart is that of the thousandth event.

pub mod gate;
pub mod metrics;
pub mod plan;
pub mod queue;
pub mod runner;
pub mod snapshot;
pub mod watches;

use std::fmt::Debug;
use std::time::Duration;

use jiff::Timestamp;

pub use client::ObjectKey;
pub use metrics::Metrics;
pub use plan::{Action, Event, Failure, Fetch, Plan};
pub use queue::Backoff;
pub use runner::{Environment, Runner};
pub use snapshot::{Snapshot, Typed};
pub use watches::Watches;

/// A rule of the role that a controller's service account needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyRule {
    /// The API groups; `""` for the core one.
    pub groups: &'static [&'static str],
    /// The resources, `pods/status` for subresources.
    pub resources: &'static [&'static str],
    /// The verbs.
    pub verbs: &'static [&'static str],
}

/// A controller.
pub trait Controller: Send + Sync + 'static {
    /// Upstream's name: `replicaset-controller`.
    const NAME: &'static str;
    /// The name of its service account, which is upstream's older name without `-controller` for most: `replicaset-controller`.
    const ACCOUNT: &'static str = Self::NAME;
    /// What its events name as their source.
    const SOURCE: &'static str = Self::NAME;
    /// What its queue is called in metrics, which upstream names otherwise than the controller.
    const QUEUE: &'static str = Self::NAME;
    /// How long a key waits that could not be brought to what was planned.
    const BACKOFF: Backoff = Backoff::USUAL;
    /// What is planned for: usually [`ObjectKey`].
    type Key: Ord + Clone + Debug + Send + Sync;
    /// What `plan` looks at.
    type Observed: Send;
    /// What it remembers of a key between plans; nothing that a restart may not lose.
    type Memory: Default + Send;

    /// What it watches, and which keys a change concerns.
    fn watches(&self, watches: Watches<Self::Key>) -> Watches<Self::Key>;

    /// Sees everything about a key at one instant; `None` where there is nothing to plan for.
    fn observe(&self, snapshot: &Snapshot, key: &Self::Key) -> Option<Self::Observed>;

    /// Told how the last plan went: why it failed, or that it did not.
    fn applied(&self, _memory: &mut Self::Memory, _failure: Option<&Failure>) {}

    /// As [`Controller::applied`], with how long all of it took, from seeing the key to the last write.
    fn timed(&self, memory: &mut Self::Memory, failure: Option<&Failure>, _took: Duration) {
        self.applied(memory, failure);
    }

    /// What is to be done. No I/O, no clock: the same input gives the same plan.
    fn plan(&self, observed: &Self::Observed, memory: &mut Self::Memory, now: Timestamp) -> Plan;
}
