//! How long a connection has been without a request. It does not know what connections are.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connections::End;

/// While there is a request there is no silence.
const RUNNING: u64 = u64::MAX;
/// How many requests more may be taken back before their answer than are answered (as with `MaxConcurrentStreams` of Go's
/// server, which queues what is beyond it, and ends the connection when that is too much).
const MAX_TAKEN_BACK: usize = 200;

/// The requests of a connection: how many there were, and how many there are until their answers are sent.
#[derive(Debug)]
pub(crate) struct Requests {
    /// When the server began: times are told from then on.
    epoch: Instant,
    begun: AtomicUsize,
    running: AtomicUsize,
    /// Those among them that last as long as their client likes, and say nothing for as long.
    lasting: AtomicUsize,
    /// Since when there has been none, in milliseconds.
    silent_since: AtomicU64,
    /// How many more were taken back than answered.
    taken_back: AtomicUsize,
    changed: Notify,
    /// An answer says that the connection is to end.
    last: Notify,
    /// There are too many requests that nobody waits for.
    flooded: Notify,
    /// Somebody else needs its place.
    unwanted: Notify,
    why: OnceLock<End>,
}

impl Requests {
    pub(crate) fn new(epoch: Instant) -> Self {
        let (begun, running, lasting, taken_back) = Default::default();
        let (changed, last, flooded, unwanted) = Default::default();
        let silent_since = AtomicU64::new(millis_since(epoch));
        let why = OnceLock::new();
        Self {
            epoch,
            begun,
            running,
            lasting,
            silent_since,
            taken_back,
            changed,
            last,
            flooded,
            unwanted,
            why,
        }
    }

    /// A request begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Running {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if self.running.fetch_add(1, Ordering::Relaxed) == 0 {
            self.silent_since.store(RUNNING, Ordering::Relaxed);
            self.changed.notify_one();
        }
        Running { requests: Arc::clone(self), lasts: AtomicBool::new(false) }
    }

    /// Whether there has been none yet.
    pub(crate) fn never(&self) -> bool {
        self.begun.load(Ordering::Relaxed) == 0
    }

    /// Since when there has been none, in milliseconds since the epoch; nothing while there is one.
    pub(crate) fn silent_since(&self) -> Option<u64> {
        let since = self.silent_since.load(Ordering::Relaxed);
        (since != RUNNING).then_some(since)
    }

    /// Whether one of them may leave its client's side unread as long as it likes.
    pub(crate) fn is_lasting(&self) -> bool {
        self.lasting.load(Ordering::Relaxed) > 0
    }

    /// Remembers why the connection ends; the first reason counts.
    pub(crate) fn ends(&self, why: End) {
        let _ = self.why.set(why);
    }

    /// Why it ends, where the server ends it.
    pub(crate) fn why(&self) -> Option<End> {
        self.why.get().copied()
    }

    /// Has the connection end; says whether it was not about to already.
    pub(crate) fn end(&self, why: End) -> bool {
        let first = self.why.set(why).is_ok();
        self.unwanted.notify_one();
        first
    }

    /// Resolves once somebody else needs its place.
    pub(crate) async fn unwanted(&self) {
        self.unwanted.notified().await;
    }

    /// Resolves once more requests were taken back than anybody means.
    pub(crate) async fn flooded(&self) {
        self.flooded.notified().await;
    }

    /// Resolves once an answer says that the connection is to end.
    pub(crate) async fn last(&self) {
        self.last.notified().await;
    }

    /// Ends when the first request has not come for `first`, or there has been none for `further` since the last.
    pub(crate) async fn silence(&self, first: Duration, further: Duration) {
        loop {
            let limit = match self.running.load(Ordering::Relaxed) {
                0 if self.never() => first,
                0 => further,
                _ => {
                    self.changed.notified().await;
                    continue;
                }
            };
            if tokio::time::timeout(limit, self.changed.notified()).await.is_err() {
                return;
            }
        }
    }
}

/// A request that goes on until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    requests: Arc<Requests>,
    lasts: AtomicBool,
}

impl Running {
    /// No further request is to come on this connection.
    pub(crate) fn is_last(&self) {
        self.requests.last.notify_one();
    }

    /// It lasts as long as its client likes.
    pub(crate) fn lasts(&self) {
        if !self.lasts.swap(true, Ordering::Relaxed) {
            self.requests.lasting.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Its answer begins.
    pub(crate) fn is_answered(&self) {
        let less = |count: usize| Some(count.saturating_sub(1));
        let _ = self.requests.taken_back.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// The client has taken it back before its answer began.
    pub(crate) fn is_taken_back(&self) {
        if self.requests.taken_back.fetch_add(1, Ordering::Relaxed) == MAX_TAKEN_BACK {
            self.requests.flooded.notify_one();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let requests = &self.requests;
        if self.lasts.load(Ordering::Relaxed) {
            requests.lasting.fetch_sub(1, Ordering::Relaxed);
        }
        if requests.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            requests.silent_since.store(millis_since(requests.epoch), Ordering::Relaxed);
            requests.changed.notify_one();
        }
    }
}

pub(crate) fn millis_since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_millis()).unwrap_or(RUNNING - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_answer() {
        let (first, further) = (Duration::from_secs(30), Duration::from_secs(90));
        let requests = Arc::new(Requests::new(Instant::now()));
        let begun = Instant::now();
        requests.silence(first, further).await;
        assert_eq!((begun.elapsed(), requests.never()), (first, true));

        let running = [requests.begin(), requests.begin()];
        let begun = Instant::now();
        let answers = async move {
            for (request, seconds) in running.into_iter().zip([500, 100]) {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                drop(request);
            }
        };
        tokio::join!(answers, requests.silence(first, further));
        assert_eq!((begun.elapsed(), requests.never()), (Duration::from_secs(690), false));
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_are_taken_back_are_weighed_against_those_that_are_not() {
        let requests = Arc::new(Requests::new(Instant::now()));
        for _ in 0..10 * MAX_TAKEN_BACK {
            requests.begin().is_taken_back();
            requests.begin().is_answered();
        }
        let flooded = tokio::time::timeout(Duration::from_secs(1), requests.flooded()).await;
        assert!(flooded.is_err());
        for _ in 0..=MAX_TAKEN_BACK {
            requests.begin().is_taken_back();
        }
        requests.flooded().await;
    }
}
