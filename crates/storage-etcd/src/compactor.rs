//! Lets etcd forget history, as upstream's servers do: one of all that share etcd does it, by a key that they all try to write.

use std::time::Duration;

use storage::{Rev, StorageError};
use tokio::time::sleep;

use crate::endpoints::{read_error, write_error};
use crate::message::{self, Compare, Range, Ranged, Step, Transacted, transaction};
use crate::{COMPACT, EtcdStore, RANGE, TXN, lost};

/// Upstream's key: its version is the number of the turn.
const KEY: &[u8] = b"compact_rev_key";

/// The turn and the revision that were seen last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Seen {
    turn: u64,
    rev: Rev,
}

/// Forgets what is older than one to two intervals, as long as the store is used. Ends when it is dropped by its caller.
pub async fn compact_now_and_then(store: EtcdStore, interval: Duration) {
    let mut seen = Seen::default();
    loop {
        sleep(interval).await;
        match store.compact_in_turn(seen).await {
            Ok(next) => seen = next,
            Err(error) => tracing::warn!(%error, "etcd's history could not be compacted"),
        }
    }
}

impl EtcdStore {
    /// Takes the next turn where nobody else has since the last look, and forgets what was before that look.
    async fn compact_in_turn(&self, seen: Seen) -> Result<Seen, StorageError> {
        let put = message::put(KEY, seen.rev.0.to_string().as_bytes(), 0);
        let read = Step::Range(Range::one(KEY).encode());
        let request = transaction(KEY, Compare::Version(seen.turn), &Step::Put(put), &read);
        let answer = self.0.endpoints.write(TXN, &request).await.map_err(write_error)?;
        let done = Transacted::read(answer).map_err(lost)?;
        if !done.succeeded {
            let found = Ranged::read(done.answer).map_err(lost)?;
            let turn = found.kvs.first().map_or(0, |kv| kv.version);
            return Ok(Seen { turn, rev: done.rev });
        }
        if seen.rev > Rev(0) {
            let compaction = message::compaction(seen.rev);
            self.0.endpoints.write(COMPACT, &compaction).await.map_err(write_error)?;
            tracing::debug!(rev = seen.rev.0, "etcd's history is compacted");
        }
        Ok(Seen { turn: seen.turn + 1, rev: done.rev })
    }

    /// The revision that servers agreed to forget before, where there was one.
    ///
    /// # Errors
    /// Where etcd does not answer.
    pub async fn agreed_compaction(&self) -> Result<Option<Rev>, StorageError> {
        let answer = self.0.endpoints.read(RANGE, &Range::one(KEY).encode()).await;
        let found = Ranged::read(answer.map_err(read_error)?).map_err(lost)?;
        let text = found.kvs.first().and_then(|kv| std::str::from_utf8(&kv.value).ok());
        Ok(text.and_then(|text| text.parse().ok()).map(Rev))
    }
}
