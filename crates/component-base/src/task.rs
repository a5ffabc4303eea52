//! Blocking work off the async threads, named and bounded.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// A bound on how much blocking work of one sort runs at once.
#[derive(Debug, Clone)]
pub struct BlockingPool {
    name: &'static str,
    permits: Arc<Semaphore>,
}

/// Blocking work that did not return a value.
#[derive(Debug, thiserror::Error)]
#[error("blocking task {name} ended without an answer")]
pub struct BlockingError {
    name: &'static str,
    #[source]
    source: tokio::task::JoinError,
}

impl BlockingPool {
    /// At most `limit` pieces of work at once; further ones wait their turn.
    #[must_use]
    pub fn new(name: &'static str, limit: usize) -> Self {
        Self { name, permits: Arc::new(Semaphore::new(limit)) }
    }

    /// Runs `work` on a blocking thread.
    ///
    /// # Errors
    /// When the work panicked or the runtime is shutting down.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BlockingError> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .expect("because the semaphore is never closed");
        #[allow(
            clippy::disallowed_methods,
            reason = "this is the one place that names and bounds it"
        )]
        let joined = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        joined.await.map_err(|source| BlockingError { name: self.name, source })
    }
}
