//! The wall clock of one component: virtual time, which may be put forward and back.
//!
//! Monotonic time is the same for all, as tokio's paused clock has it; only what a component takes for the time of day
//! differs.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use component_base::{Clock, VirtualClock};
use jiff::{SignedDuration, Timestamp};

/// A wall clock that can be stepped. Clones are the same clock.
#[derive(Debug, Clone)]
pub(crate) struct SteppedClock {
    true_time: VirtualClock,
    off_by_ms: Arc<AtomicI64>,
}

impl SteppedClock {
    /// A clock that is right.
    pub(crate) fn new(true_time: VirtualClock) -> Self {
        Self { true_time, off_by_ms: Arc::default() }
    }

    /// Puts it off by so much from now on.
    pub(crate) fn step_to(&self, off_by_ms: i64) {
        self.off_by_ms.store(off_by_ms, Ordering::Relaxed);
    }
}

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        let off = SignedDuration::from_millis(self.off_by_ms.load(Ordering::Relaxed));
        let now = self.true_time.now();
        now.checked_add(off).unwrap_or(now)
    }
}
