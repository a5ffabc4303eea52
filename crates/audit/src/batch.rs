//! Events wait in a bounded queue and are sent many at a time, so that no request waits for them. What does not fit is
//! lost and counted.

use std::sync::Arc;
use std::time::Duration;

use component_base::ShutdownSignal;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout_at};

use crate::event::Event;
use crate::metrics::Metrics;
use crate::output::Output;
use crate::sink::Sink;

/// How many batches may be on their way at once, those that are tried again among them.
const MAX_IN_FLIGHT: usize = 16;

/// How events are gathered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Batching {
    /// How many events may wait.
    pub buffer_size: usize,
    /// How many are sent at once.
    pub max_size: usize,
    /// How long the first waits for others.
    pub max_wait: Duration,
    /// How fast batches are sent; `None` for as fast as they come.
    pub throttle: Option<Throttle>,
}

/// How fast batches are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throttle {
    /// Batches a second.
    pub qps: f64,
    /// How many at once after a while without any.
    pub burst: u32,
}

/// A bucket of tokens, one for a batch.
struct Bucket {
    throttle: Throttle,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(throttle: Throttle) -> Self {
        Self { throttle, tokens: f64::from(throttle.burst), filled: Instant::now() }
    }

    /// Waits for a token.
    async fn take(&mut self) {
        let now = Instant::now();
        let came = (now - self.filled).as_secs_f64() * self.throttle.qps;
        self.tokens = (self.tokens + came).min(f64::from(self.throttle.burst)) - 1.0;
        self.filled = now;
        if self.tokens < 0.0 {
            sleep(Duration::from_secs_f64(-self.tokens / self.throttle.qps)).await;
        }
    }
}

/// Sends what comes through the queue until the stop, and then what is left.
pub(crate) async fn run(
    mut events: mpsc::Receiver<Arc<Event>>,
    batching: Batching,
    sink: Sink,
    metrics: Arc<Metrics>,
    stop: ShutdownSignal,
) {
    let sink = Arc::new(sink);
    let mut bucket = batching.throttle.map(Bucket::new);
    // A log keeps its order; calls may overtake each other, and do not wait for one that is tried again.
    let in_flight = match sink.output {
        Output::Log { .. } => 1,
        Output::Webhook { .. } => MAX_IN_FLIGHT,
    };
    let permits = Arc::new(Semaphore::new(in_flight));
    loop {
        let first = tokio::select! {
            biased;
            event = events.recv() => event,
            () = stop.requested() => events.try_recv().ok(),
        };
        let Some(first) = first else { break };
        let batch = gather(first, &mut events, batching, &stop).await;
        if let Some(bucket) = bucket.as_mut().filter(|_| !stop.is_requested()) {
            bucket.take().await;
        }
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
        let (sink, metrics) = (Arc::clone(&sink), Arc::clone(&metrics));
        tokio::spawn(async move {
            sink.take(&batch, &metrics).await;
            drop(permit);
        });
    }
    // The last are on their way still.
    let all = u32::try_from(in_flight).unwrap_or(u32::MAX);
    drop(permits.acquire_many(all).await);
}

async fn gather(
    first: Arc<Event>,
    events: &mut mpsc::Receiver<Arc<Event>>,
    batching: Batching,
    stop: &ShutdownSignal,
) -> Vec<Arc<Event>> {
    let deadline = Instant::now() + batching.max_wait;
    let mut batch = vec![first];
    while batch.len() < batching.max_size {
        if stop.is_requested() {
            match events.try_recv() {
                Ok(event) => batch.push(event),
                Err(_) => break,
            }
            continue;
        }
        tokio::select! {
            biased;
            event = timeout_at(deadline, events.recv()) => match event {
                Ok(Some(event)) => batch.push(event),
                Ok(None) | Err(_) => break,
            },
            () = stop.requested() => {}
        }
    }
    batch
}
