//! How much of a level was used, over time.

use crate::spec::Kind;
use crate::timed::{Timed, TimedHistogram};

/// Upstream's buckets.
const REQUESTS: [f64; 10] = [0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
const SEATS: [f64; 13] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
const WANTED: [f64; 12] = [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];

/// Of what a part is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Requests that wait, of the places in all queues.
    Waiting,
    /// Requests that are served, of the seats.
    Served,
    /// Seats.
    Seats,
    /// Seats in use and waited for, of the seats.
    Wanted,
}

#[derive(Debug)]
pub(super) struct Usage {
    waiting: TimedHistogram,
    served: TimedHistogram,
    seats: TimedHistogram,
    wanted: TimedHistogram,
    /// What is compared with where there are no seats.
    pub(super) fallback: u32,
}

impl Usage {
    pub(super) fn new() -> Self {
        Self {
            waiting: TimedHistogram::new(&REQUESTS),
            served: TimedHistogram::new(&REQUESTS),
            seats: TimedHistogram::new(&SEATS),
            wanted: TimedHistogram::new(&WANTED),
            fallback: 1,
        }
    }

    /// What is used from now on: requests that wait and are served; seats in use, and wanted.
    pub(super) fn set(
        &mut self,
        now: u64,
        (kind, limit): (Kind, u32),
        (waiting, served): (usize, usize),
        (seats, wanted): (u32, u32),
    ) {
        let places = match kind {
            Kind::Queue { queues, length_limit, .. } => queues * length_limit.max(1),
            Kind::Exempt | Kind::Reject => 1,
        };
        let all = f64::from(if limit == 0 { self.fallback } else { limit }.max(1));
        self.waiting.set(now, real(waiting) / real(places.max(1)));
        self.served.set(now, real(served) / all);
        self.seats.set(now, f64::from(seats) / all);
        self.wanted.set(now, f64::from(wanted) / all);
    }

    pub(super) fn shown(&self, now: u64) -> [(Use, Timed); 4] {
        [
            (Use::Waiting, self.waiting.shown(now)),
            (Use::Served, self.served.shown(now)),
            (Use::Seats, self.seats.shown(now)),
            (Use::Wanted, self.wanted.shown(now)),
        ]
    }
}

#[allow(clippy::cast_precision_loss, reason = "requests are far fewer than 2^53")]
fn real(count: usize) -> f64 {
    count as f64
}
