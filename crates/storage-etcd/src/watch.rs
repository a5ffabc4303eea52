//! One watch of etcd: changes in order with what was there before, each revision whole, and how far they go.

use http::{HeaderMap, HeaderValue};
use storage::{Event, Key, Kv, Rev};

use crate::grpc::{CallError, Connection, Stream};
use crate::layout::Layout;
use crate::message::{Change, KeyValue, Keys, Watched, ask_progress, watch};

/// The method that watches.
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Why a watch goes on no more.
#[derive(Debug)]
pub(crate) enum WatchError {
    /// What comes next is forgotten; the oldest that is kept, where etcd told.
    Compacted(Option<Rev>),
    /// The connection, or the member: another watch may go on after what was seen.
    Broken(String),
}

impl From<CallError> for WatchError {
    fn from(error: CallError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Changes, or the news that there were none.
#[derive(Debug)]
pub(crate) struct Changes {
    pub(crate) events: Vec<Event>,
    /// Every change up to it has been told.
    pub(crate) progress: Rev,
}

/// A watch.
#[derive(Debug)]
pub(crate) struct Watch {
    stream: Stream,
    layout: Layout,
    /// What every change up to it has been told.
    seen: Rev,
    /// Changes of a revision that more of may follow.
    held: Vec<Event>,
    /// A revision is a change of some key, and all keys are watched.
    sees_everything: bool,
}

impl Watch {
    /// Begins after a revision. A member that has lost its leader ends it.
    pub(crate) async fn begin(
        connection: &Connection,
        layout: &Layout,
        keys: &Keys,
        after: Rev,
    ) -> Result<Self, WatchError> {
        let mut metadata = HeaderMap::new();
        metadata.insert("hasleader", HeaderValue::from_static("true"));
        let mut stream = connection.begin(WATCH, metadata).await?;
        // With the revision itself, which is left out below: if its changes are forgotten those of the next one may be in
        // part, since a compaction takes a delete at its own revision along.
        stream.send(watch(keys, after).as_bytes(), false)?;
        let sees_everything = *keys == Keys::all();
        let layout = layout.clone();
        Ok(Self { stream, layout, seen: after, held: Vec::new(), sees_everything })
    }

    /// Asks how far the watch is; the answer comes among the changes.
    pub(crate) fn ask(&mut self) -> Result<(), WatchError> {
        Ok(self.stream.send(ask_progress().as_bytes(), false)?)
    }

    /// What comes next. May be dropped before it has come.
    pub(crate) async fn next(&mut self) -> Result<Changes, WatchError> {
        loop {
            let Some(message) = self.stream.next().await? else {
                return Err(WatchError::Broken("etcd ended the watch".into()));
            };
            let watched =
                Watched::read(message).map_err(|error| WatchError::Broken(error.to_string()))?;
            if watched.is_canceled {
                return Err(canceled(&watched));
            }
            if watched.is_created {
                continue;
            }
            if let Some(changes) = self.take(watched)? {
                return Ok(changes);
            }
        }
    }

    fn take(&mut self, watched: Watched) -> Result<Option<Changes>, WatchError> {
        if watched.changes.is_empty() {
            if !self.held.is_empty() {
                return Ok(None);
            }
            // An answer to the question; nothing up to it is outstanding.
            let reached = if self.sees_everything { self.seen } else { watched.rev.max(self.seen) };
            self.seen = reached;
            return Ok(Some(Changes { events: Vec::new(), progress: reached }));
        }
        let Some(last) = watched.changes.last().map(|change| Rev(change.kv.mod_rev)) else {
            return Ok(None);
        };
        let mut events = std::mem::take(&mut self.held);
        for change in watched.changes {
            if change.kv.mod_rev > self.seen.0 && !self.layout.is_foreign(&change.kv.key) {
                events.push(event(change, &self.layout)?);
            }
        }
        let mut whole = last;
        if watched.is_fragment {
            self.held = events.split_off(events.partition_point(|event| event.rev < last));
            whole = Rev(last.0 - 1);
        }
        if whole <= self.seen {
            return Ok(None);
        }
        self.seen = whole;
        Ok(Some(Changes { events, progress: whole }))
    }
}

fn canceled(watched: &Watched) -> WatchError {
    if watched.compact_rev > Rev(0) {
        return WatchError::Compacted(Some(watched.compact_rev));
    }
    WatchError::Broken(format!("etcd canceled the watch: {}", watched.cancel_reason))
}

fn event(change: Change, layout: &Layout) -> Result<Event, WatchError> {
    let is_creation = !change.is_delete && change.kv.create_rev == change.kv.mod_rev;
    // It is read when the event is sent, and left out where it is compacted by then.
    if change.previous.is_none() && !is_creation {
        return Err(WatchError::Compacted(None));
    }
    let rev = Rev(change.kv.mod_rev);
    let key = layout.key(change.kv.key.clone());
    let value = (!change.is_delete).then(|| kv(change.kv, layout));
    let previous = change.previous.map(|previous| kv(previous, layout));
    Ok(Event { key, rev, value, previous })
}

/// etcd's key and value as the port's.
pub(crate) fn kv(kv: KeyValue, layout: &Layout) -> Kv {
    let key: Key = layout.key(kv.key);
    Kv { key, value: kv.value, create_rev: Rev(kv.create_rev), mod_rev: Rev(kv.mod_rev) }
}
