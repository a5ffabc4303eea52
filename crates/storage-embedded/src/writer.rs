//! The one thread that writes, and the queue in front of it.

use std::sync::Arc;
use std::time::Duration;

use component_base::Clock;
use parking_lot::{Condvar, Mutex};
use storage::StorageError;
use storage::mvcc::{Mvcc, PROGRESS_LAG, TtlClock};
use tokio::time::Instant;

use crate::engine::{BATCH_BYTES_MAX, BATCH_WRITES_MAX, Engine, Fatal, Request};

/// How many writes may wait. A server bounds its requests in flight far below this.
const QUEUE_WRITES_MAX: usize = 16_384;
/// How many bytes of keys and values may wait.
const QUEUE_BYTES_MAX: usize = 128 << 20;

/// Writes that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    requests: Vec<Request>,
    bytes: usize,
    /// The writer is to end when it has done what waits.
    is_closing: bool,
    /// The writer has ended, for this reason.
    ended: Option<String>,
}

impl Queue {
    pub(crate) fn push(&self, request: Request) -> Result<(), StorageError> {
        let mut waiting = self.waiting.lock();
        if let Some(reason) = &waiting.ended {
            return Err(StorageError::Unavailable(reason.clone()));
        }
        let bytes = request.op.bytes();
        let is_full = waiting.requests.len() >= QUEUE_WRITES_MAX
            || (waiting.bytes + bytes > QUEUE_BYTES_MAX && waiting.bytes > 0);
        if is_full {
            return Err(StorageError::Unavailable("too many writes wait for the disk".into()));
        }
        waiting.bytes += bytes;
        waiting.requests.push(request);
        if waiting.requests.len() == 1 {
            self.ready.notify_one();
        }
        Ok(())
    }

    pub(crate) fn close(&self) {
        self.waiting.lock().is_closing = true;
        self.ready.notify_one();
    }

    /// Refuses what comes from now on. What waits is dropped, which its senders see.
    fn end(&self, reason: &str) {
        let dropped = {
            let mut waiting = self.waiting.lock();
            waiting.ended.get_or_insert_with(|| reason.to_owned());
            std::mem::take(&mut waiting.requests)
        };
        for request in dropped {
            if let Some(reply) = request.reply {
                let _ = reply.send(Err(StorageError::Unavailable(reason.to_owned())));
            }
        }
    }

    /// Swaps what waits into `batch`, which is empty. Waits for it no longer than `patience`.
    fn take(&self, batch: &mut Vec<Request>, patience: Option<Duration>) -> Taken {
        let mut waiting = self.waiting.lock();
        while waiting.requests.is_empty() {
            if waiting.is_closing {
                return Taken::Closed;
            }
            match patience {
                Some(patience) if self.ready.wait_for(&mut waiting, patience).timed_out() => break,
                Some(_) => {}
                None => self.ready.wait(&mut waiting),
            }
        }
        waiting.bytes = 0;
        std::mem::swap(&mut waiting.requests, batch);
        Taken::Some
    }
}

enum Taken {
    Some,
    Closed,
}

/// The writer.
pub(crate) struct Writer {
    pub(crate) engine: Engine,
    pub(crate) queue: Arc<Queue>,
    pub(crate) mvcc: Arc<Mvcc>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ttl_clock: TtlClock,
    pub(crate) on_fatal: crate::OnFatal,
}

impl Writer {
    /// The body of the thread.
    pub(crate) fn run(mut self) {
        let guard = EndGuard { queue: Arc::clone(&self.queue), mvcc: Arc::clone(&self.mvcc) };
        if let Err(fatal) = self.write() {
            tracing::error!(%fatal, "the store has ended");
            guard.queue.end(&format!("the store has ended: {fatal}"));
            (self.on_fatal)(&fatal.to_string());
        }
    }

    fn write(&mut self) -> Result<(), Fatal> {
        let mut batch = Vec::new();
        let mut progress_at = None;
        loop {
            self.report_progress(&mut progress_at);
            self.engine.expire()?;
            let patience = self.patience(progress_at);
            match self.queue.take(&mut batch, patience) {
                Taken::Some => self.commit(&mut batch)?,
                Taken::Closed => return Ok(()),
            }
        }
    }

    fn commit(&mut self, batch: &mut Vec<Request>) -> Result<(), Fatal> {
        let mut requests = batch.drain(..).peekable();
        while requests.peek().is_some() {
            let (mut writes, mut bytes) = (0, 0);
            let chunk = std::iter::from_fn(|| {
                let next = requests.next_if(|request| {
                    writes == 0
                        || (writes < BATCH_WRITES_MAX
                            && bytes + request.op.bytes() <= BATCH_BYTES_MAX)
                })?;
                writes += 1;
                bytes += next.op.bytes();
                Some(next)
            });
            self.engine.commit(chunk)?;
        }
        Ok(())
    }

    /// Lets quiet watchers know, once for all writes of [`PROGRESS_LAG`].
    fn report_progress(&self, due_at: &mut Option<Instant>) {
        if !self.mvcc.is_progress_due() {
            *due_at = None;
            return;
        }
        let now = self.clock.monotonic();
        let due = *due_at.get_or_insert(now + PROGRESS_LAG);
        if due <= now {
            self.mvcc.report_progress();
            *due_at = None;
        }
    }

    fn patience(&self, progress_at: Option<Instant>) -> Option<Duration> {
        let progress = progress_at.map(|at| at.saturating_duration_since(self.clock.monotonic()));
        let expiry = self.mvcc.next_expiry_ms().map(|at_ms| self.ttl_clock.until(at_ms));
        match (progress, expiry) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

/// However the thread ends, nobody waits for it afterwards.
struct EndGuard {
    queue: Arc<Queue>,
    mvcc: Arc<Mvcc>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.queue.end("the store is closed");
        self.mvcc.fail("the store is closed".into());
    }
}
