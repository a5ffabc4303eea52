//! The end of a server, stage by stage: it is asked to end, and `/readyz` says so; after a while it takes nothing new;
//! then what was in flight is over.
//!
//! Does not know of connections: those who have some follow these stages.

use std::sync::{Arc, Weak};
use std::time::Duration;

use component_base::{Shutdown, ShutdownSignal};
use tokio::sync::Notify;

use crate::Server;

/// How far the end has come.
#[derive(Debug)]
pub(crate) struct Ending {
    asked: ShutdownSignal,
    draining: Shutdown,
    is_draining: ShutdownSignal,
    quiet: Shutdown,
    /// Told whenever a request is over, from the second stage on.
    over: Notify,
}

impl Ending {
    pub(crate) fn new(asked: ShutdownSignal) -> Self {
        let draining = Shutdown::new();
        let is_draining = draining.signal();
        Self { asked, draining, is_draining, quiet: Shutdown::new(), over: Notify::new() }
    }

    /// The server was asked to end; it goes on as before.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.is_requested()
    }

    /// Nothing new is taken from now on.
    pub(crate) fn draining(&self) -> ShutdownSignal {
        self.draining.signal()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.is_requested()
    }

    /// No request is in flight any more, or those that are have had their time.
    pub(crate) fn quiet(&self) -> ShutdownSignal {
        self.quiet.signal()
    }

    /// A request in flight is over.
    pub(crate) fn request_over(&self) {
        if self.is_draining() {
            self.over.notify_waiters();
        }
    }
}

/// Goes through the stages once the server is asked to end.
pub(crate) async fn run(server: Weak<Server>, asked: ShutdownSignal) {
    asked.requested().await;
    let Some(server) = server.upgrade() else { return };
    let plan = server.operating.shutdown;
    pause(plan.delay).await;
    server.ending.draining.request();
    let limit = server.operating.request_timeout;
    if tokio::time::timeout(limit, nothing_in_flight(&server)).await.is_err() {
        tracing::warn!("requests are still in flight after {} s: not waiting", limit.as_secs());
    }
    server.ending.quiet.request();
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

async fn nothing_in_flight(server: &Arc<Server>) {
    loop {
        let mut over = std::pin::pin!(server.ending.over.notified());
        // Registered before the count is read, so that an end in between is not missed.
        over.as_mut().enable();
        if server.in_flight() == 0 {
            return;
        }
        over.await;
    }
}
