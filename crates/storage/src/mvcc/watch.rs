//! One watcher: a cursor into the shared log.
//!
//! A poll takes what the log has and parks when there is nothing. It is woken by a write under its prefix,
//! or by the round in which everyone reports progress; never by a write elsewhere.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::Stream;

use super::Mvcc;
use super::state::{Cursor, ReadLimits};
use super::waiting::Waiting;
use crate::{Batch, Key, Rev, StorageError};

/// How much one poll takes: enough to amortise a wake-up, little enough that the lock is not held for long.
const LIMITS: ReadLimits = ReadLimits { events_max: 256, bytes_max: 1 << 20, scan_max: 4096 };

pub(super) struct Watch {
    mvcc: Arc<Mvcc>,
    prefix: Key,
    id: u64,
    phase: Phase,
}

enum Phase {
    /// The revision could not be read when the watch began.
    Refused(StorageError),
    Reading(Reading),
    Ended,
}

struct Reading {
    cursor: Cursor,
    /// The last round of progress reports that this watcher took part in.
    round: Option<u64>,
}

impl Watch {
    pub(super) fn new(mvcc: Arc<Mvcc>, prefix: Key, after: Rev) -> Self {
        let id = mvcc.waiting.lock().join();
        // The place in the log is looked up now, so that nothing is missed or lost before the first poll.
        let mut state = mvcc.state.write();
        state.join(&prefix);
        let phase = match state.check_readable(after) {
            Ok(()) => {
                let cursor = Cursor { place: state.place_after(after), progress: after };
                Phase::Reading(Reading { cursor, round: None })
            }
            Err(error) => Phase::Refused(error),
        };
        drop(state);
        Self { mvcc, prefix, id, phase }
    }

    /// `None` when there is nothing to say yet; the waker is parked then.
    fn advance(&mut self, cx: &Context<'_>) -> Option<Result<Batch, StorageError>> {
        match &mut self.phase {
            Phase::Refused(error) => Some(Err(error.clone())),
            Phase::Reading(reading) => reading.advance(&self.mvcc, &self.prefix, |waiting| {
                waiting.park(&self.prefix, self.id, cx.waker());
            }),
            Phase::Ended => None,
        }
    }
}

impl Reading {
    fn advance(
        &mut self,
        mvcc: &Mvcc,
        prefix: &Key,
        park: impl FnOnce(&mut Waiting),
    ) -> Option<Result<Batch, StorageError>> {
        let cursor = &mut self.cursor;
        let reported = cursor.progress;
        loop {
            let state = mvcc.state.read();
            let events = match state.read_log(prefix, cursor, &LIMITS) {
                Ok(events) => events,
                Err(error) => return Some(Err(error)),
            };
            if !events.is_empty() {
                return Some(Ok(Batch { events, progress: cursor.progress }));
            }
            if cursor.progress < state.current() {
                continue;
            }
            // Parked while the state is locked: a write publishes after this and finds the waker.
            let mut waiting = mvcc.waiting.lock();
            if let Err(error) = mvcc.check_alive() {
                return Some(Err(error));
            }
            let is_asked = self.round != Some(waiting.round);
            self.round = Some(waiting.round);
            if is_asked && cursor.progress > reported {
                return Some(Ok(Batch { events, progress: cursor.progress }));
            }
            // What was not reported now is for the next round.
            cursor.progress = reported;
            park(&mut waiting);
            return None;
        }
    }
}

impl Stream for Watch {
    type Item = Result<Batch, StorageError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if matches!(self.phase, Phase::Ended) {
            return Poll::Ready(None);
        }
        match self.advance(cx) {
            Some(Err(error)) => {
                self.phase = Phase::Ended;
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(batch)) => Poll::Ready(Some(Ok(batch))),
            None => Poll::Pending,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.mvcc.waiting.lock().leave(&self.prefix, self.id);
        self.mvcc.state.write().leave(&self.prefix);
    }
}
