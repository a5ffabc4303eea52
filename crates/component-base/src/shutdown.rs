//! Stopping, as a value that is handed down.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

#[derive(Default)]
struct State {
    requested: AtomicBool,
    wake: Notify,
}

/// The side that asks for the stop.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<State>);

/// The side that waits for it. Cheap to clone; every task holds one.
#[derive(Clone)]
pub struct ShutdownSignal(Arc<State>);

impl Shutdown {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every holder of the signal to finish. Asking twice is harmless.
    pub fn request(&self) {
        self.0.requested.store(true, Ordering::SeqCst);
        self.0.wake.notify_waiters();
    }

    /// A signal to hand to a task.
    #[must_use]
    pub fn signal(&self) -> ShutdownSignal {
        ShutdownSignal(Arc::clone(&self.0))
    }
}

impl ShutdownSignal {
    /// Whether the stop was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.requested.load(Ordering::SeqCst)
    }

    /// Resolves once the stop was asked for.
    pub async fn requested(&self) {
        let mut woken = std::pin::pin!(self.0.wake.notified());
        // Registered before the flag is read, so that a request in between is not missed.
        woken.as_mut().enable();
        if !self.is_requested() {
            woken.await;
        }
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shutdown").field(&self.0.requested).finish()
    }
}

impl fmt::Debug for ShutdownSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ShutdownSignal").field(&self.0.requested).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_resolves_whether_it_was_asked_before_or_after() {
        let shutdown = Shutdown::new();
        let waiting = shutdown.signal();
        let task = tokio::spawn(async move { waiting.requested().await });
        tokio::task::yield_now().await;
        shutdown.request();
        task.await.unwrap();
        shutdown.signal().requested().await;
    }
}
