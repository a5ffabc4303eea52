//! The connections there are: which of them nobody would miss, and how many were ended for which reason.
//!
//! Does not know what is spoken on them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::idle::{Requests, millis_since};

/// Why the server ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The handshake took too long.
    Handshake,
    /// No request came, or not all of its headers.
    NoRequest,
    /// There was none for a while after the last.
    Idle,
    /// It had none, and somebody else needed its place.
    Replaced,
    /// The server is short of memory.
    Memory,
    /// The client does not read.
    Unread,
    /// The client takes back what it asks for.
    Resets,
    /// The client does not answer pings.
    Ping,
}

impl End {
    const ALL: [Self; 8] = [
        Self::Handshake,
        Self::NoRequest,
        Self::Idle,
        Self::Replaced,
        Self::Memory,
        Self::Unread,
        Self::Resets,
        Self::Ping,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Handshake => "handshake-timeout",
            Self::NoRequest => "no-request",
            Self::Idle => "idle",
            Self::Replaced => "replaced",
            Self::Memory => "memory",
            Self::Unread => "unread",
            Self::Resets => "resets",
            Self::Ping => "ping-timeout",
        }
    }
}

/// Why an answer was broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    /// The client does not read it.
    #[error("the client does not read the answer")]
    Unread,
    /// It took longer than requests may.
    #[error("the answer was not sent within the time of requests")]
    Deadline,
    /// The server is short of memory.
    #[error("the server is short of memory")]
    Memory,
}

impl Cut {
    const ALL: [Self; 3] = [Self::Unread, Self::Deadline, Self::Memory];

    const fn name(self) -> &'static str {
        match self {
            Self::Unread => "unread",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
        }
    }
}

/// The connections that are open, and what became of others.
#[derive(Debug)]
pub(crate) struct Connections {
    epoch: Instant,
    open: Mutex<BTreeMap<u64, Arc<Requests>>>,
    next: AtomicU64,
    ended: [AtomicU64; End::ALL.len()],
    cut: [AtomicU64; Cut::ALL.len()],
    handshake_errors: AtomicU64,
}

/// A connection that is there until this is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    id: u64,
    requests: Arc<Requests>,
    connections: Arc<Connections>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.open.lock().remove(&self.id);
        if let Some(why) = self.requests.why() {
            self.connections.ended[why as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The place of a connection among those that there may be.
#[derive(Debug)]
pub(crate) struct Place {
    open: Open,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    pub(crate) fn new(open: Open, permit: OwnedSemaphorePermit) -> Self {
        Self { open, _permit: permit }
    }

    /// The requests of the connection.
    pub(crate) fn requests(&self) -> &Arc<Requests> {
        &self.open.requests
    }
}

impl Connections {
    pub(crate) fn new() -> Self {
        let (open, next, ended, cut, handshake_errors) = Default::default();
        Self { epoch: Instant::now(), open, next, ended, cut, handshake_errors }
    }

    /// A connection is there.
    pub(crate) fn open(self: &Arc<Self>) -> Open {
        let requests = Arc::new(Requests::new(self.epoch));
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(id, Arc::clone(&requests));
        Open { id, requests, connections: Arc::clone(self) }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.open.lock().len()
    }

    /// Ends the connection that has been without a request for longest, where that is as long as `least`; says whether
    /// there was one.
    pub(crate) fn end_one(&self, why: End, least: Duration) -> bool {
        let open = self.open.lock();
        let longest = self.silent(&open, least).min_by_key(|(since, _)| *since);
        longest.is_some_and(|(_, requests)| requests.end(why))
    }

    /// Ends connections that have been without a request for so long, as many at most.
    pub(crate) fn end_silent(&self, why: End, least: Duration, most: usize) {
        let open = self.open.lock();
        self.silent(&open, least).take(most).for_each(|(_, requests)| {
            requests.end(why);
        });
    }

    /// Those that have been without a request for so long, and are not about to end.
    fn silent<'o>(
        &self,
        open: &'o BTreeMap<u64, Arc<Requests>>,
        least: Duration,
    ) -> impl Iterator<Item = (u64, &'o Arc<Requests>)> {
        let least = u64::try_from(least.as_millis()).unwrap_or(u64::MAX);
        let latest = millis_since(self.epoch).checked_sub(least);
        let silent = open.values().filter_map(|it| Some((it.silent_since()?, it)));
        silent.filter(move |(since, it)| Some(*since) <= latest && it.why().is_none())
    }

    /// A connection was not taken.
    pub(crate) fn refused(&self, why: End) {
        self.ended[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A handshake failed.
    pub(crate) fn failed_handshake(&self) {
        self.handshake_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer was broken off.
    pub(crate) fn cut(&self, why: Cut) {
        self.cut[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What `/metrics` tells of them.
    pub(crate) fn text(&self, out: &mut String) {
        let name = "apiserver_connections";
        let count = self.open.lock().len();
        let _ = writeln!(
            out,
            "# HELP {name} Connections that are open\n# TYPE {name} gauge\n{name} {count}"
        );
        let ended = End::ALL.map(|it| (it.name(), &self.ended[it as usize]));
        let help = "Connections that the server ended";
        counts(out, "apiserver_connections_ended_total", help, &ended);
        let cut = Cut::ALL.map(|it| (it.name(), &self.cut[it as usize]));
        let help = "Answers that the server broke off";
        counts(out, "apiserver_responses_cut_total", help, &cut);
        let name = "apiserver_tls_handshake_errors_total";
        let count = self.handshake_errors.load(Ordering::Relaxed);
        let _ = writeln!(
            out,
            "# HELP {name} Handshakes that failed\n# TYPE {name} counter\n{name} {count}"
        );
    }
}

fn counts(out: &mut String, name: &str, help: &str, all: &[(&str, &AtomicU64)]) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
    for (reason, count) in all {
        let count = count.load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}{{reason=\"{reason}\"}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_connection_that_is_silent_for_longest_makes_room() {
        let connections = Arc::new(Connections::new());
        let [busy, first, second] = std::array::from_fn(|_| connections.open());
        let running = busy.requests.begin();
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(second.requests.begin());
        assert!(!connections.end_one(End::Memory, Duration::from_secs(6)));
        assert!(connections.end_one(End::Replaced, Duration::from_secs(5)));
        assert_eq!((first.requests.why(), second.requests.why()), (Some(End::Replaced), None));
        first.requests.unwanted().await;
        assert!(connections.end_one(End::Replaced, Duration::ZERO));
        assert!(!connections.end_one(End::Replaced, Duration::ZERO), "there is a request");
        drop((running, first, second));
        let mut text = String::new();
        connections.text(&mut text);
        assert!(text.contains("\napiserver_connections 1\n"), "{text}");
        let ended = "apiserver_connections_ended_total{reason=\"replaced\"} 2\n";
        assert!(text.contains(ended), "{text}");
    }
}
