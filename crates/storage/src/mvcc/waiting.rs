//! Who waits for what: the wakers of watchers by prefix, and the revisions that readers hold on to.

use std::collections::BTreeMap;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::{Key, Rev};

/// How long after a write a watcher of another prefix hears of its revision, unless somebody asks sooner.
pub const PROGRESS_LAG: Duration = Duration::from_millis(100);
/// How often watchers are woken for those who ask sooner: a wake of everyone costs some microseconds, and
/// a consistent list under load asks thousands of times a second.
const PROGRESS_ASKED_INTERVAL: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub(super) struct Waiting {
    wakers: BTreeMap<Key, Vec<Parked>>,
    next_id: u64,
    watchers: usize,
    /// How often everyone was asked to report progress.
    pub(super) round: u64,
    told: Rev,
    told_at: Option<Instant>,
}

#[derive(Debug)]
struct Parked {
    id: u64,
    waker: Waker,
}

impl Waiting {
    /// A watcher joins; what comes back is its name here.
    pub(super) fn join(&mut self) -> u64 {
        self.watchers += 1;
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn park(&mut self, prefix: &Key, id: u64, waker: &Waker) {
        let parked = match self.wakers.get_mut(prefix.as_bytes()) {
            Some(parked) => parked,
            None => self.wakers.entry(prefix.clone()).or_default(),
        };
        match parked.iter_mut().find(|parked| parked.id == id) {
            Some(parked) => parked.waker.clone_from(waker),
            None => parked.push(Parked { id, waker: waker.clone() }),
        }
    }

    pub(super) fn leave(&mut self, prefix: &Key, id: u64) {
        self.watchers -= 1;
        if let Some(parked) = self.wakers.get_mut(prefix.as_bytes()) {
            parked.retain(|parked| parked.id != id);
            if parked.is_empty() {
                self.wakers.remove(prefix.as_bytes());
            }
        }
    }

    /// Takes the wakers of these prefixes, to be woken without the lock: a waker may drop its watcher.
    #[must_use]
    pub(super) fn take(&mut self, prefixes: &[Key]) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for prefix in prefixes {
            if let Some(parked) = self.wakers.get_mut(prefix.as_bytes()) {
                wakers.extend(parked.drain(..).map(|parked| parked.waker));
            }
        }
        wakers
    }

    /// Begins a round of progress reports: takes the wakers of everyone.
    #[must_use]
    pub(super) fn begin_round(&mut self, current: Rev) -> Vec<Waker> {
        self.round += 1;
        self.told = self.told.max(current);
        self.told_at = Some(Instant::now());
        let parked = self.wakers.values_mut().flat_map(|parked| parked.drain(..));
        parked.map(|parked| parked.waker).collect()
    }

    pub(super) fn is_behind(&self, current: Rev) -> bool {
        self.told < current && self.watchers > 0
    }

    /// Takes the wakers of everyone who has not heard of `current`, or says when that may be done.
    pub(super) fn tell_now(&mut self, current: Rev) -> Result<Vec<Waker>, Instant> {
        if !self.is_behind(current) {
            return Ok(Vec::new());
        }
        match self.told_at.map(|at| at + PROGRESS_ASKED_INTERVAL) {
            Some(next) if next > Instant::now() => Err(next),
            Some(_) | None => Ok(self.begin_round(current)),
        }
    }
}

pub(super) fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

/// Revisions that readers hold on to, with how many do.
#[derive(Debug, Default)]
pub(super) struct Pins(BTreeMap<Rev, usize>);

impl Pins {
    pub(super) fn add(&mut self, rev: Rev) {
        *self.0.entry(rev).or_default() += 1;
    }

    pub(super) fn remove(&mut self, rev: Rev) {
        if let Some(holders) = self.0.get_mut(&rev) {
            *holders -= 1;
            if *holders == 0 {
                self.0.remove(&rev);
            }
        }
    }

    pub(super) fn oldest(&self) -> Option<Rev> {
        self.0.first_key_value().map(|(rev, _)| *rev)
    }
}
