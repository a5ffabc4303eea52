//! Time as keys with a time to live see it.
//!
//! Expiry times are stored as wall time, to mean something after a restart; while the process lives they
//! follow the monotonic clock, so that a wall clock that is set neither kills nor preserves keys.

use std::sync::Arc;
use std::time::Duration;

use component_base::Clock;
use tokio::time::Instant;

use crate::Ttl;

/// Milliseconds since 1970 that never jump.
#[derive(Debug, Clone)]
pub struct TtlClock {
    clock: Arc<dyn Clock>,
    started: Instant,
    started_ms: u64,
}

impl TtlClock {
    /// Reads the wall clock once; from here on the monotonic one is followed.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let started_ms = u64::try_from(clock.now().as_millisecond()).unwrap_or(0);
        let started = clock.monotonic();
        Self { clock, started, started_ms }
    }

    /// Now.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let elapsed = self.clock.monotonic().saturating_duration_since(self.started);
        self.started_ms.saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }

    /// When a key written now expires; 0 is never.
    #[must_use]
    pub fn expires_at_ms(&self, ttl: Option<Ttl>) -> u64 {
        match ttl {
            // A time of 0 would mean never; even the shortest life ends after now.
            Some(ttl) => self.now_ms().saturating_add(u64::from(ttl.seconds) * 1000).max(1),
            None => 0,
        }
    }

    /// How long until then.
    #[must_use]
    pub fn until(&self, at_ms: u64) -> Duration {
        Duration::from_millis(at_ms.saturating_sub(self.now_ms()))
    }
}
