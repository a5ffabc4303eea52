//! How long a connection has been without a request. It does not know what connections are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// The requests of a connection: how many there were, and how many there are until their answers are sent.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    begun: AtomicUsize,
    running: AtomicUsize,
    changed: Notify,
    /// An answer says that the connection is to end.
    last: Notify,
}

impl Requests {
    /// A request begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Running {
        self.begun.fetch_add(1, Ordering::Relaxed);
        if self.running.fetch_add(1, Ordering::Relaxed) == 0 {
            self.changed.notify_one();
        }
        Running(Arc::clone(self))
    }

    /// Whether there has been none yet.
    pub(crate) fn never(&self) -> bool {
        self.begun.load(Ordering::Relaxed) == 0
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
pub(crate) struct Running(Arc<Requests>);

impl Running {
    /// No further request is to come on this connection.
    pub(crate) fn is_last(&self) {
        self.0.last.notify_one();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_counted_from_the_last_answer() {
        let (first, further) = (Duration::from_secs(30), Duration::from_secs(90));
        let requests = Arc::new(Requests::default());
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
}
