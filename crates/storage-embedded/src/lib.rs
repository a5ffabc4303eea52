//! The default store: a durable log with snapshots in one directory, one writer, group commit.
//!
//! Every live value is in memory; the disk is read at the start only. A write is checked, numbered, written
//! and synced together with those that came meanwhile, then published, then answered. Knows nothing of what
//! the values mean. The files are described in `docs/adr/0003-store-log.md`.

mod copy;
mod dir;
mod engine;
pub mod format;
pub mod fs;
mod log;
mod maintenance;
#[cfg(test)]
mod power_loss;
mod recovery;
pub mod sim;
mod snapshot;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use component_base::{Clock, Random, RealClock, SystemRandom};
use futures::stream::BoxStream;
use storage::mvcc::{self, Mvcc, TtlClock};
use storage::{
    At, Batch, Deleted, Expect, Key, Kv, Page, Put, RangeReq, Rev, StorageError, Store, Ttl,
};
use tokio::sync::oneshot;

pub use crate::copy::{Copied, LEAP, inspect, restore};
use crate::dir::Dir;
use crate::engine::{Answer, Engine, EngineParts, Op, Request};
pub use crate::engine::{BATCH_BYTES_MAX, BATCH_WRITES_MAX};
use crate::format::FormatError;
use crate::fs::{Fs, Lock, RealFs};
use crate::log::{AppendError, Log, LogParts};
use crate::maintenance::{Maintenance, MaintenanceParts, Wanted};
use crate::recovery::Recovered;
use crate::writer::{Queue, Writer};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// About how many bytes of old keys and values are kept for watches that resume and lists that page.
    pub history_bytes: usize,
    /// How long a file of the log is before the next one begins. Longer only by a larger batch.
    pub segment_bytes: u64,
    /// How much log there is between two snapshots: this, or as much as all live keys and values.
    pub snapshot_log_bytes: u64,
}

impl Default for Limits {
    /// History for some seconds of the heaviest load and hours of a quiet cluster; a start reads at most the
    /// live values and twice the log between snapshots.
    fn default() -> Self {
        Self { history_bytes: 32 << 20, segment_bytes: 8 << 20, snapshot_log_bytes: 32 << 20 }
    }
}

/// What is called when the store has ended because the disk failed. The process is to end then: what was
/// acknowledged is safe, and a new process reads what is there.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// The data directory. Made where there is none.
    pub dir: PathBuf,
    /// How much is kept.
    pub limits: Limits,
    /// For keys with a time to live.
    pub clock: Arc<dyn Clock>,
    /// For the salts of files.
    pub random: Arc<dyn Random>,
    /// The file system.
    pub fs: Arc<dyn Fs>,
    /// What is called when the disk has failed.
    pub on_fatal: OnFatal,
}

impl Options {
    /// A store in `dir` on this machine.
    pub fn new(dir: impl Into<PathBuf>, on_fatal: OnFatal) -> Self {
        Self {
            dir: dir.into(),
            limits: Limits::default(),
            clock: Arc::new(RealClock),
            random: Arc::new(SystemRandom::new()),
            fs: Arc::new(RealFs),
            on_fatal,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store in {} is in use by another process", .dir.display())]
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// A later version wrote it.
    #[error("{} has format {found}, this program reads up to format {supported}", .file.display())]
    NewerFormat {
        /// The file that says so.
        file: PathBuf,
        /// The format that was found.
        found: u32,
        /// The newest format that this program reads.
        supported: u32,
    },
    /// What is there cannot be what was written.
    #[error("{} {what}", .file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where and what, and which revisions are affected.
        what: String,
    },
    /// The file system refused.
    #[error("could not {doing} {}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    fn format(file: &Path, error: &FormatError) -> Self {
        match error {
            FormatError::Newer { found } => Self::NewerFormat {
                file: file.to_owned(),
                found: *found,
                supported: format::FORMAT_VERSION,
            },
            FormatError::Header | FormatError::Frame { .. } => {
                Self::Corrupt { file: file.to_owned(), what: format!("cannot be read: {error}") }
            }
        }
    }
}

/// A durable store. Dropping it carries out what waits and ends its threads.
pub struct EmbeddedStore {
    mvcc: Arc<Mvcc>,
    queue: Arc<Queue>,
    maintenance: Arc<Maintenance>,
    threads: Vec<JoinHandle<()>>,
    _lock: Box<dyn Lock>,
}

/// A store that is open but has no threads yet.
struct Opened {
    engine: Engine,
    mvcc: Arc<Mvcc>,
    maintenance: Arc<Maintenance>,
    ttl_clock: TtlClock,
    lock: Box<dyn Lock>,
}

impl EmbeddedStore {
    /// Opens the store of a directory, making one where there is none. Reads everything: takes some
    /// milliseconds for each ten megabytes, in the calling thread.
    ///
    /// # Errors
    /// When the directory is in use, of a newer format, damaged, or cannot be read or written.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let Opened { engine, mvcc, maintenance, ttl_clock, lock } = open(options)?;
        let queue = Arc::new(Queue::default());
        let writer = Writer {
            engine,
            queue: Arc::clone(&queue),
            mvcc: Arc::clone(&mvcc),
            clock: Arc::clone(&options.clock),
            ttl_clock,
            on_fatal: Arc::clone(&options.on_fatal),
        };
        maintenance.want(Wanted { spare: true, ..Wanted::default() });
        let maintained = Arc::clone(&maintenance);
        let mut store = Self { mvcc, queue, maintenance, threads: Vec::new(), _lock: lock };
        store.spawn(options, "store-writer", move || writer.run())?;
        store.spawn(options, "store-files", move || maintained.run())?;
        Ok(store)
    }

    fn spawn(
        &mut self,
        options: &Options,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), OpenError> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        let thread = thread.map_err(|source| OpenError::Io {
            doing: "start a thread for",
            path: options.dir.clone(),
            source,
        })?;
        self.threads.push(thread);
        Ok(())
    }

    async fn write(&self, op: Op) -> Result<Answer, StorageError> {
        let (reply, answer) = oneshot::channel();
        self.queue.push(Request { op, reply: Some(reply) })?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(StorageError::Unknown("the store ended before it answered".into())),
        }
    }
}

fn open(options: &Options) -> Result<Opened, OpenError> {
    let (dir, lock) = Dir::open(Arc::clone(&options.fs), &options.dir)?;
    let recovered = recovery::recover(&dir, options.limits.history_bytes)?;
    let Recovered { mvcc, files, revs, compacted, log_bytes, empty } = recovered;
    let maintenance = Arc::new(Maintenance::new(MaintenanceParts {
        dir: dir.clone(),
        mvcc: Arc::clone(&mvcc),
        random: Arc::clone(&options.random),
        files,
        limits: options.limits,
    }));
    let parts = LogParts {
        dir: dir.clone(),
        random: Arc::clone(&options.random),
        files: Arc::clone(&maintenance.files),
        spare: Arc::clone(&maintenance.spare),
        segment_bytes: options.limits.segment_bytes,
    };
    let log = Log::begin(parts, revs).map_err(|error| {
        let source = match error {
            AppendError::NotWritten(source) => source,
            AppendError::Fatal(what) => io::Error::other(what),
        };
        dir.error("begin a log segment in", &dir.path, source)
    })?;
    maintenance.remove_empty(&empty)?;
    let ttl_clock = TtlClock::new(Arc::clone(&options.clock));
    let engine = Engine::new(EngineParts {
        mvcc: Arc::clone(&mvcc),
        log,
        clock: ttl_clock.clone(),
        maintenance: Arc::clone(&maintenance),
        revs,
        compacted,
        log_bytes,
        snapshot_log_bytes: options.limits.snapshot_log_bytes,
    });
    Ok(Opened { engine, mvcc, maintenance, ttl_clock, lock })
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.queue.close();
        self.maintenance.want(Wanted { stop: true, ..Wanted::default() });
        for thread in self.threads.drain(..) {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EmbeddedStore").field(&self.mvcc).finish()
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn put(
        &self,
        key: Key,
        value: Bytes,
        expect: Expect,
        ttl: Option<Ttl>,
    ) -> Result<Put, StorageError> {
        mvcc::check_sizes(&key, &value)?;
        match self.write(Op::Put { key, value, expect, ttl }).await? {
            Answer::Put(put) => Ok(put),
            Answer::Deleted(_) | Answer::Compacted => unreachable!("because a put answers as one"),
        }
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<Deleted, StorageError> {
        mvcc::check_sizes(&key, &[])?;
        match self.write(Op::Delete { key, expect }).await? {
            Answer::Deleted(deleted) => Ok(deleted),
            Answer::Put(_) | Answer::Compacted => unreachable!("because a delete answers as one"),
        }
    }

    fn get_at_once(&self, key: &Key) -> Option<Result<(Option<Kv>, Rev), StorageError>> {
        Some(self.mvcc.get(key, At::Latest))
    }

    async fn get(&self, key: &Key, at: At) -> Result<(Option<Kv>, Rev), StorageError> {
        self.mvcc.get(key, at)
    }

    async fn range(&self, request: RangeReq) -> Result<Page, StorageError> {
        self.mvcc.range(request).await
    }

    async fn count(&self, prefix: &Key) -> Result<u64, StorageError> {
        self.mvcc.count(prefix).await
    }

    fn watch(&self, prefix: Key, after: Rev) -> BoxStream<'static, Result<Batch, StorageError>> {
        self.mvcc.watch(prefix, after)
    }

    async fn progress(&self) -> Result<Rev, StorageError> {
        self.mvcc.progress().await
    }

    async fn progress_under(&self, prefix: &Key) -> Result<Rev, StorageError> {
        match self.mvcc.progress_under(prefix)? {
            Some(rev) => Ok(rev),
            None => self.mvcc.progress().await,
        }
    }

    async fn size_bytes(&self) -> Result<Option<u64>, StorageError> {
        let size = self.maintenance.dir.size();
        size.map(Some).map_err(|error| StorageError::Unavailable(error.to_string()))
    }

    async fn compact(&self, before: Rev) -> Result<(), StorageError> {
        self.write(Op::Compact { before }).await.map(drop)
    }
}
