//! The changes of the whole store, read from etcd once and handed to every watch of this process.
//!
//! How a quiet prefix learns how far it is. Every revision of etcd is a change of some key. A watch of *all* keys that has
//! told the change of revision R has told everything before, whatever the prefix: watches come in order. So a fresh
//! revision, read from the quorum, is reached without anything being asked or written, with every version of etcd. Where
//! etcd answers questions about progress truly (3.5.13 and newer) only the API server's own keys are watched, and the
//! question takes the place of other users' changes.
//!
//! A watch that is behind the log kept here reads its own watch of etcd until it meets the log.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use storage::{Event, Rev};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::Inner;
use crate::message::Keys;
use crate::watch::{Changes, Watch, WatchError};

/// The changes that are kept for watches that read slowly or begin late, in bytes of keys and values.
const LOG_BYTES_MAX: usize = 16 << 20;
/// And how many readings of etcd.
const LOG_ENTRIES_MAX: usize = 8192;
/// Between two tries to begin the watch, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often progress is asked for while somebody waits for it, and while nobody does. A question that comes while a watch
/// is behind has no answer.
pub(crate) const ASK_WANTED: Duration = Duration::from_millis(50);
const ASK_IDLE: Duration = Duration::from_secs(1);

/// How far a watch is where it hears of no change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// By the changes of all keys.
    Everything,
    /// By asking.
    Asked,
}

/// Changes that came together.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) events: Vec<Event>,
    pub(crate) progress: Rev,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Feed {
    state: Mutex<State>,
    /// Something was added to the log.
    changed: Notify,
    /// Somebody waits for a revision.
    wanted: Notify,
}

#[derive(Debug)]
struct State {
    log: VecDeque<Arc<Entry>>,
    /// The number of the first entry.
    first: u64,
    bytes: usize,
    /// The log has every change after this revision.
    floor: Rev,
    progress: Rev,
    /// The newest revision that somebody waits for.
    goal: Rev,
}

/// Where a reader of the log stands.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At the entry of this number.
    At(u64),
    /// Before the log begins.
    Behind,
    /// After what etcd has told so far.
    Ahead,
}

impl Feed {
    pub(crate) fn new(from: Rev) -> Self {
        let state = State {
            log: VecDeque::new(),
            first: 0,
            bytes: 0,
            floor: from,
            progress: from,
            goal: from,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), wanted: Notify::new() }
    }

    pub(crate) fn progress(&self) -> Rev {
        self.state.lock().progress
    }

    /// Has the watch reach a revision soon.
    pub(crate) fn want(&self, rev: Rev) {
        let mut state = self.state.lock();
        if rev > state.goal && rev > state.progress {
            state.goal = rev;
            self.wanted.notify_one();
        }
    }

    /// Where one stands who has seen everything up to a revision.
    pub(crate) fn place(&self, seen: Rev) -> Place {
        let state = self.state.lock();
        if seen < state.floor {
            return Place::Behind;
        }
        if seen > state.progress {
            return Place::Ahead;
        }
        let before = state.log.partition_point(|entry| entry.progress <= seen);
        Place::At(state.first + before as u64)
    }

    /// The number that the next entry gets.
    pub(crate) fn end(&self) -> u64 {
        let state = self.state.lock();
        state.first + state.log.len() as u64
    }

    /// The entries from a number on, as soon as there are any; none where that number is forgotten.
    pub(crate) async fn read(&self, from: u64, max: usize) -> Option<Vec<Arc<Entry>>> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let state = self.state.lock();
                let at = usize::try_from(from.checked_sub(state.first)?).ok()?;
                if at < state.log.len() {
                    return Some(state.log.iter().skip(at).take(max).map(Arc::clone).collect());
                }
            }
            changed.await;
        }
    }

    fn push(&self, changes: Changes) {
        let mut state = self.state.lock();
        if changes.progress <= state.progress {
            return;
        }
        state.progress = changes.progress;
        let entry = Entry { events: changes.events, progress: changes.progress };
        state.bytes += entry.bytes();
        state.log.push_back(Arc::new(entry));
        while state.bytes > LOG_BYTES_MAX || state.log.len() > LOG_ENTRIES_MAX {
            let Some(oldest) = state.log.pop_front() else { break };
            state.bytes -= oldest.bytes();
            state.first += 1;
            state.floor = state.floor.max(oldest.progress);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Begins no reading before a revision that etcd has forgotten what is before.
    pub(crate) fn forget(&self, before: Rev) {
        let mut state = self.state.lock();
        state.floor = state.floor.max(before);
    }

    /// Begins anew at a revision: what was between is forgotten by etcd itself.
    fn restart(&self, at: Rev) {
        let mut state = self.state.lock();
        // Whoever stands anywhere in the log is behind it now.
        state.first += state.log.len() as u64 + 1;
        state.log.clear();
        state.bytes = 0;
        (state.floor, state.progress) = (at, at);
        drop(state);
        self.changed.notify_waiters();
    }

    fn is_wanted(&self) -> bool {
        let state = self.state.lock();
        state.goal > state.progress
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        let of = |kv: &Option<storage::Kv>| kv.as_ref().map_or(0, |kv| kv.value.len());
        let event = |event: &Event| {
            size_of::<Event>() + event.key.as_bytes().len() + of(&event.value) + of(&event.previous)
        };
        size_of::<Self>() + self.events.iter().map(event).sum::<usize>()
    }
}

/// Fills the feed, until the store is gone.
pub(crate) async fn follow(store: Weak<Inner>) {
    let (mut member, mut pause) = (0, RETRY_FIRST);
    loop {
        let begun = Instant::now();
        let Err(error) = follow_one(&store, member).await else { return };
        let Some(inner) = store.upgrade() else { return };
        match error {
            WatchError::Compacted(oldest) => {
                tracing::warn!(?oldest, "etcd has forgotten changes before they were read");
                if let Ok(now) = inner.current().await {
                    inner.feed.restart(now);
                }
            }
            WatchError::Broken(why) => tracing::debug!(why, "etcd's changes are read anew"),
        }
        member += 1;
        pause = if begun.elapsed() > RETRY_MAX { RETRY_FIRST } else { (pause * 2).min(RETRY_MAX) };
        drop(inner);
        sleep(pause).await;
    }
}

/// Fills it from one member, until the watch breaks; in order where the store is gone.
async fn follow_one(store: &Weak<Inner>, member: usize) -> Result<(), WatchError> {
    let Some(inner) = store.upgrade() else { return Ok(()) };
    let connection = inner.endpoints.dial(member).await?;
    let after = inner.feed.progress();
    let mut watch = Watch::begin(&connection, &inner.layout, &inner.watched_keys(), after).await?;
    let (feed, progress) = (Arc::clone(&inner.feed), inner.progress);
    // The store may be dropped meanwhile: that ends this task.
    drop(inner);
    loop {
        let changes = match progress {
            Progress::Everything => watch.next().await?,
            Progress::Asked => {
                let patience = if feed.is_wanted() { ASK_WANTED } else { ASK_IDLE };
                let changes = tokio::select! {
                    changes = timeout(patience, watch.next()) => changes.ok(),
                    () = feed.wanted.notified() => None,
                };
                match changes {
                    Some(changes) => changes?,
                    None => {
                        watch.ask()?;
                        continue;
                    }
                }
            }
        };
        feed.push(changes);
    }
}

impl Inner {
    /// The keys that the feed watches.
    pub(crate) fn watched_keys(&self) -> Keys {
        match self.progress {
            Progress::Everything => Keys::all(),
            Progress::Asked => Keys::under(&self.root),
        }
    }
}
