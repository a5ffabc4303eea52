//! A watch as the port promises it: from the feed's log where that goes back far enough, else from etcd until it does.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use storage::{Batch, Event, Key, Rev, StorageError};
use tokio::time::timeout;

use crate::Inner;
use crate::feed::{ASK_WANTED, Entry, Place, Progress};
use crate::message::Keys;
use crate::watch::{Changes, Watch, WatchError};

/// How many readings of etcd are looked at in one go.
const ENTRIES_MAX: usize = 256;
/// How many changes one batch has, unless those of one reading are more.
const BATCH_EVENTS: usize = 1000;
/// How often in a row a watch of etcd's is begun anew before its reader is told.
const TRIES_MAX: usize = 20;

/// A watch of the port.
pub(crate) struct Reader {
    store: Arc<Inner>,
    prefix: Key,
    /// What has been told.
    seen: Rev,
    from: From,
}

/// Where changes come from.
enum From {
    Nowhere,
    /// The log, at the entry of this number, by way of some that were read already.
    Log(u64, VecDeque<Arc<Entry>>),
    /// etcd: behind the log.
    Etcd(Box<Watch>),
    Ended,
}

impl Reader {
    pub(crate) fn new(store: Arc<Inner>, prefix: Key, after: Rev) -> Self {
        Self { store, prefix, seen: after, from: From::Nowhere }
    }

    pub(crate) fn stream(self) -> BoxStream<'static, Result<Batch, StorageError>> {
        stream::unfold(self, |mut reader| async move {
            if matches!(reader.from, From::Ended) {
                return None;
            }
            let batch = reader.next().await;
            if batch.is_err() {
                reader.from = From::Ended;
            }
            Some((batch, reader))
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Batch, StorageError> {
        let mut tries = 0;
        loop {
            let changes = match &mut self.from {
                From::Nowhere => {
                    tries += 1;
                    self.begin(tries).await?;
                    continue;
                }
                From::Log(at, read) if read.is_empty() => {
                    match self.store.feed.read(*at, ENTRIES_MAX).await {
                        Some(entries) => {
                            *at += entries.len() as u64;
                            read.extend(entries);
                        }
                        None => self.from = From::Nowhere,
                    }
                    continue;
                }
                From::Log(_, read) => merged(read, &self.prefix, self.seen),
                From::Etcd(watch) => match from_etcd(watch, self.store.progress).await {
                    Ok(changes) => changes,
                    Err(WatchError::Broken(why)) => {
                        tracing::debug!(why, "a watch of etcd is begun anew");
                        self.from = From::Nowhere;
                        continue;
                    }
                    Err(WatchError::Compacted(oldest)) => return Err(self.compacted(oldest).await),
                },
                From::Ended => return Err(StorageError::Unavailable("the watch is over".into())),
            };
            if let Some(batch) = self.told(changes) {
                return Ok(batch);
            }
        }
    }

    /// Takes what is new of what was read, and goes on in the log once it goes back far enough.
    fn told(&mut self, changes: Changes) -> Option<Batch> {
        let Changes { mut events, progress } = changes;
        events.retain(|event| event.rev > self.seen && event.key.starts_with(&self.prefix));
        let is_news = progress > self.seen;
        self.seen = self.seen.max(progress);
        if matches!(self.from, From::Etcd(_))
            && self.joins_log()
            && let Place::At(at) = self.store.feed.place(self.seen)
        {
            self.from = From::Log(at, VecDeque::new());
        }
        is_news.then_some(Batch { events, progress: self.seen })
    }

    /// Whether the log has the changes under the prefix.
    fn joins_log(&self) -> bool {
        match self.store.progress {
            Progress::Everything => true,
            Progress::Asked => self.store.layout.bytes(&self.prefix).starts_with(&self.store.root),
        }
    }

    async fn begin(&mut self, tries: usize) -> Result<(), StorageError> {
        if self.joins_log() {
            match self.store.feed.place(self.seen) {
                Place::At(at) => {
                    self.from = From::Log(at, VecDeque::new());
                    return Ok(());
                }
                Place::Ahead => {
                    // Before the question: what comes after it is in the log from here on.
                    let end = self.store.feed.end();
                    self.exists().await?;
                    self.from = From::Log(end, VecDeque::new());
                    return Ok(());
                }
                Place::Behind => {}
            }
        }
        self.exists().await?;
        let keys = match self.store.progress {
            Progress::Everything => Keys::all(),
            Progress::Asked => Keys::under(&self.store.layout.bytes(&self.prefix)),
        };
        match self.watch(&keys, tries).await {
            Ok(watch) => self.from = From::Etcd(Box::new(watch)),
            Err(WatchError::Broken(why)) if tries >= TRIES_MAX => {
                return Err(StorageError::Unavailable(why));
            }
            Err(WatchError::Broken(_)) => tokio::time::sleep(ASK_WANTED).await,
            Err(WatchError::Compacted(oldest)) => return Err(self.compacted(oldest).await),
        }
        Ok(())
    }

    async fn watch(&self, keys: &Keys, tries: usize) -> Result<Watch, WatchError> {
        let connection = self.store.endpoints.dial(tries).await?;
        Watch::begin(&connection, &self.store.layout, keys, self.seen).await
    }

    /// # Errors
    /// Where the revision is in the future.
    async fn exists(&self) -> Result<(), StorageError> {
        let current = self.store.current().await?;
        if self.seen > current {
            return Err(StorageError::Future { asked: self.seen, current });
        }
        Ok(())
    }

    async fn compacted(&self, oldest: Option<Rev>) -> StorageError {
        match oldest {
            Some(oldest) => StorageError::Compacted { oldest },
            None => self.store.compacted().await,
        }
    }
}

/// Some of the entries at once.
fn merged(read: &mut VecDeque<Arc<Entry>>, prefix: &Key, seen: Rev) -> Changes {
    let (mut events, mut progress) = (Vec::new(), seen);
    while events.len() < BATCH_EVENTS {
        let Some(entry) = read.pop_front() else { break };
        let mine = entry.events.iter().filter(|event| event.key.starts_with(prefix));
        events.extend(mine.cloned().collect::<Vec<Event>>());
        progress = progress.max(entry.progress);
    }
    Changes { events, progress }
}

async fn from_etcd(watch: &mut Watch, progress: Progress) -> Result<Changes, WatchError> {
    loop {
        match progress {
            Progress::Everything => return watch.next().await,
            Progress::Asked => match timeout(ASK_WANTED, watch.next()).await {
                Ok(changes) => return changes,
                Err(_) => watch.ask()?,
            },
        }
    }
}
