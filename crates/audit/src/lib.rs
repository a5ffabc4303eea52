//! The audit: which requests are recorded, what of them, and where the records go. Upstream: `k8s.io/apiserver/pkg/audit`.
//!
//! Knows nothing of HTTP and of who works on requests: it is given [`Event`]s, a stage at a time.

mod batch;
pub mod event;
mod metrics;
mod output;
pub mod policy;
pub mod rotate;
mod sink;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use component_base::{Clock, Random, Shutdown};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use batch::{Batching, Throttle};
pub use event::{Event, ObjectRef, User};
pub use output::Format;
pub use policy::{Attributes, Decision, Level, Policy, Resource, Stage};
pub use rotate::{RotatingFile, Rotation};

use metrics::Metrics;
use output::Output;
use sink::Sink;

/// Whether requests wait for their events.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// They do not.
    Batch(Batching),
    /// They do.
    Blocking,
    /// They do, and are refused where the first of their events cannot be written.
    BlockingStrict,
}

/// How large events may be, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncation {
    /// An event; beyond this it loses its objects, and then all.
    pub max_event_size: usize,
    /// What is sent at once.
    pub max_batch_size: usize,
}

/// Where events go.
#[derive(Debug)]
pub struct Backend {
    sink: Sink,
    mode: Mode,
}

impl Backend {
    /// Lines of a log.
    pub fn log(
        writer: impl Write + Send + 'static,
        format: Format,
        mode: Mode,
        truncation: Option<Truncation>,
    ) -> Self {
        let output = Output::Log { format, writer: Mutex::new(Box::new(writer)) };
        Self { sink: Sink { output, truncation }, mode }
    }

    /// Calls of a webhook. The first try again comes after `initial_backoff`.
    pub fn webhook(
        client: webhook::Client,
        initial_backoff: Duration,
        random: Arc<dyn Random>,
        mode: Mode,
        truncation: Option<Truncation>,
    ) -> Self {
        let output = Output::Webhook { client: Box::new(client), initial_backoff, random };
        Self { sink: Sink { output, truncation }, mode }
    }
}

/// A backend at work.
#[derive(Debug)]
enum Running {
    Queue(mpsc::Sender<Arc<Event>>),
    Direct { sink: Box<Sink>, strict: bool },
}

/// The audit of a server.
#[derive(Debug)]
pub struct Audit {
    policy: Policy,
    backends: Vec<Running>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    ending: Shutdown,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl Audit {
    /// Records by a policy into backends. Must be called inside a tokio runtime.
    #[must_use]
    pub fn start(policy: Policy, backends: Vec<Backend>, clock: Arc<dyn Clock>) -> Arc<Self> {
        let (metrics, ending) = (Arc::new(Metrics::default()), Shutdown::new());
        let mut workers = Vec::new();
        let backends = backends.into_iter().map(|Backend { sink, mode }| match mode {
            Mode::Blocking => Running::Direct { sink: Box::new(sink), strict: false },
            Mode::BlockingStrict => Running::Direct { sink: Box::new(sink), strict: true },
            Mode::Batch(batching) => {
                let (queue, events) = mpsc::channel(batching.buffer_size.max(1));
                let (metrics, stop) = (Arc::clone(&metrics), ending.signal());
                workers.push(tokio::spawn(batch::run(events, batching, sink, metrics, stop)));
                Running::Queue(queue)
            }
        });
        let backends = backends.collect();
        Arc::new(Self { policy, backends, metrics, clock, ending, workers: Mutex::new(workers) })
    }

    /// Registers what it counts.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// What of a request is recorded. Counts the request.
    #[must_use]
    pub fn evaluate(&self, request: &Attributes<'_>) -> Decision {
        let decision = self.policy.evaluate(request);
        self.metrics.level(decision.level);
        decision
    }

    /// Records an event at its stage, unless that is left out. Says whether it is as safe as the mode promises.
    pub async fn process(&self, event: &mut Event, decision: &Decision) -> bool {
        if decision.omit_stages.contains(event.stage) {
            return true;
        }
        event.stage_at = match event.stage {
            Stage::RequestReceived => event.request_received,
            _ => self.clock.now(),
        };
        self.metrics.event();
        let event = Arc::new(event.clone());
        let mut good = true;
        for backend in &self.backends {
            match backend {
                Running::Queue(queue) => {
                    if queue.try_send(Arc::clone(&event)).is_err() {
                        self.metrics.lost("buffered", 1, &"audit buffer queue blocked");
                    }
                }
                Running::Direct { sink, strict } => {
                    let taken = sink.take(&[Arc::clone(&event)], &self.metrics).await;
                    good &= taken || !strict;
                }
            }
        }
        good
    }

    /// Counts a request that is refused because it cannot be recorded.
    pub fn rejected(&self) {
        self.metrics.rejected();
    }

    /// Sends what waits, and ends. No requests may come any more.
    pub async fn finish(&self) {
        self.ending.request();
        let workers = std::mem::take(&mut *self.workers.lock());
        for worker in workers {
            if let Err(error) = worker.await {
                tracing::warn!(%error, "the audit did not end well");
            }
        }
    }
}

#[cfg(test)]
mod tests;
