//! What reaches a pod's worker. Coalesced, so that no amount of news takes more room.

use std::sync::Arc;

use client::reflector::Cached;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::memory::{Failure, StartFailure};

/// A probe's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ProbeKind {
    Startup,
    Readiness,
    Liveness,
}

impl ProbeKind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What a task of the worker came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The sandbox was made or stopped, or why not.
    Sandbox(Result<(), String>),
    /// The container runs, or why not.
    Start(String, Result<(), StartFailure>),
    /// The hook after a start has ended; with the text of its failure.
    PostStart(String, Result<(), String>),
    /// The container was stopped; a failure is tried again.
    Kill(String),
    /// Volumes and groups are gone, or why not.
    Clean(Result<(), String>),
    /// A probe's new word on a container.
    Probe(String, ProbeKind, bool),
}

/// The news for a worker.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// The newest object.
    pub(crate) pod: Option<Arc<Cached>>,
    /// The object is gone.
    pub(crate) removed: bool,
    /// The node gives the pod up.
    pub(crate) failure: Option<Failure>,
    /// A config map or secret changed.
    pub(crate) objects: bool,
    /// One a task that the worker itself began: bounded by its containers and probes.
    pub(crate) outcomes: Vec<Outcome>,
}

/// The inbox of a worker.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    news: Mutex<News>,
    wake: Notify,
}

impl Inbox {
    fn change(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news.lock());
        self.wake.notify_one();
    }

    /// The runtime has something new.
    pub(crate) fn nudge(&self) {
        self.wake.notify_one();
    }

    pub(crate) fn put_pod(&self, pod: Arc<Cached>) {
        self.change(|it| it.pod = Some(pod));
    }

    pub(crate) fn remove(&self) {
        self.change(|it| it.removed = true);
    }

    pub(crate) fn fail(&self, failure: Failure) {
        self.change(|it| it.failure = Some(failure));
    }

    pub(crate) fn objects_changed(&self) {
        self.change(|it| it.objects = true);
    }

    pub(crate) fn report(&self, outcome: Outcome) {
        self.change(|it| it.outcomes.push(outcome));
    }

    pub(crate) fn take(&self) -> News {
        std::mem::take(&mut self.news.lock())
    }

    pub(crate) async fn wait(&self) {
        self.wake.notified().await;
    }
}
