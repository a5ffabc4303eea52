//! Leases that keys expire with: shared by keys that expire at about the same time, as upstream does.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::metrics::Metrics;

/// How much longer a key may live for the sake of a shared lease: this share of its time, at most so many seconds.
const REUSE_PERCENT: u64 = 5;
const REUSE_SECONDS_MAX: u64 = 60;
/// How many keys share a lease: their deletes are one write of etcd's.
const KEYS_MAX: u32 = 1000;
/// How many leases are kept for more keys, of different times to live.
const KEPT_MAX: usize = 16;

/// Leases that more keys may be attached to.
#[derive(Debug)]
pub(crate) struct Leases {
    kept: Mutex<Vec<Kept>>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Kept {
    id: u64,
    /// Not before this.
    expires: Instant,
    /// Of the keys that share it.
    ttl_seconds: u64,
    keys: u32,
}

impl Leases {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { kept: Mutex::default(), metrics }
    }

    /// How long a lease is asked for, where keys of this time to live share it.
    pub(crate) fn seconds(ttl_seconds: u64) -> u64 {
        ttl_seconds + reuse_seconds(ttl_seconds)
    }

    /// A lease for one key more that is written now.
    pub(crate) fn take(&self, ttl_seconds: u64, now: Instant) -> Option<u64> {
        let mut kept = self.kept.lock();
        let must_live = now + Duration::from_secs(ttl_seconds);
        let fits = |it: &Kept| {
            it.ttl_seconds == ttl_seconds && it.expires >= must_live && it.keys < KEYS_MAX
        };
        let found = kept.iter_mut().find(|it| fits(it))?;
        found.keys += 1;
        Some(found.id)
    }

    /// Keeps a lease that was granted to a request sent at `asked`, with one key.
    pub(crate) fn keep(&self, id: u64, ttl_seconds: u64, (asked, granted): (Instant, u64)) {
        let expires = asked + Duration::from_secs(granted);
        let mut kept = self.kept.lock();
        for gone in kept.extract_if(.., |it| it.ttl_seconds == ttl_seconds) {
            self.metrics.lease(gone.keys);
        }
        if kept.len() == KEPT_MAX {
            let gone = kept.remove(0);
            self.metrics.lease(gone.keys);
        }
        kept.push(Kept { id, expires, ttl_seconds, keys: 1 });
    }

    /// Uses a lease no more.
    pub(crate) fn forget(&self, id: u64) {
        self.kept.lock().retain(|it| it.id != id);
    }
}

fn reuse_seconds(ttl_seconds: u64) -> u64 {
    (ttl_seconds * REUSE_PERCENT / 100).min(REUSE_SECONDS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_share_a_lease_while_it_lives_long_enough() {
        let (leases, begun) = (Leases::new(Metrics::default()), Instant::now());
        assert_eq!(Leases::seconds(3600), 3660);
        leases.keep(7, 3600, (begun, 3660));
        for (ttl_seconds, after_seconds, expected) in
            [(3600, 0, Some(7)), (15, 0, None), (3600, 60, Some(7)), (3600, 61, None)]
        {
            let now = begun + Duration::from_secs(after_seconds);
            assert_eq!(leases.take(ttl_seconds, now), expected, "{ttl_seconds} {after_seconds}");
        }
    }

    #[test]
    fn a_lease_has_so_many_keys_and_no_more() {
        let (leases, now) = (Leases::new(Metrics::default()), Instant::now());
        leases.keep(7, 3600, (now, 3660));
        let taken = (0..2 * KEYS_MAX).filter(|_| leases.take(3600, now).is_some()).count();
        assert_eq!(taken, KEYS_MAX as usize - 1);
        leases.keep(8, 3600, (now, 3660));
        leases.forget(8);
        assert_eq!(leases.take(3600, now), None);
    }
}
