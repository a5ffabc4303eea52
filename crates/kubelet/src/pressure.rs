//! What the node is short of: now, and for a while after, so that pods are not let in only to be ended again.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::Config;
use crate::node::Usage;

/// How long a shortage is told after it was last seen.
const TOLD_FOR: Duration = Duration::from_secs(5 * 60);

/// What is short.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Short {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
}

impl Short {
    /// By the thresholds of the configuration.
    pub(crate) fn of(usage: Usage, config: &Config) -> Self {
        Self {
            memory: usage.memory_available < config.eviction_memory_bytes,
            disk: usage.disk_available < disk_threshold(usage, config),
        }
    }

    /// The conditions of the node that say so.
    pub(crate) fn conditions(self) -> Vec<&'static str> {
        let all = [(self.memory, "MemoryPressure"), (self.disk, "DiskPressure")];
        all.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect()
    }
}

/// Below which the disk is short, in bytes.
pub(crate) fn disk_threshold(usage: Usage, config: &Config) -> i64 {
    usage.disk_bytes / 100 * i64::from(config.eviction_disk_percent)
}

/// When memory and disk were last short.
#[derive(Debug, Default)]
pub(crate) struct Pressure(Mutex<(Option<Instant>, Option<Instant>)>);

impl Pressure {
    /// Notes what was seen.
    pub(crate) fn note(&self, short: Short, now: Instant) {
        let mut last = self.0.lock();
        if short.memory {
            last.0 = Some(now);
        }
        if short.disk {
            last.1 = Some(now);
        }
    }

    /// What is short, or was a moment ago.
    pub(crate) fn told(&self, now: Instant) -> Short {
        let (memory, disk) = *self.0.lock();
        let lately = |at: Option<Instant>| at.is_some_and(|at| now.duration_since(at) < TOLD_FOR);
        Short { memory: lately(memory), disk: lately(disk) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shortage_is_told_for_a_while() {
        let (pressure, now) = (Pressure::default(), Instant::now());
        assert_eq!(pressure.told(now), Short::default());
        pressure.note(Short { memory: true, disk: false }, now);
        pressure.note(Short::default(), now + Duration::from_secs(10));
        let later = |seconds| pressure.told(now + Duration::from_secs(seconds)).conditions();
        assert_eq!(later(299), ["MemoryPressure"]);
        assert!(later(300).is_empty());
    }

    #[test]
    fn thresholds_are_bytes_of_memory_and_a_part_of_the_disk() {
        let config = Config::new("n", std::path::Path::new("/tmp"));
        let of = |memory_available, disk_available| {
            Short::of(Usage { memory_available, disk_bytes: 1000, disk_available }, &config)
        };
        assert_eq!(of(100 << 20, 100), Short::default());
        assert_eq!(of((100 << 20) - 1, 99), Short { memory: true, disk: true });
    }
}
