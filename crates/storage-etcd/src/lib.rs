//! A store on etcd v3: for control planes of several servers.
//!
//! Keys and values are where and what upstream's API server writes; the values' codec is above the port. A write whose answer
//! is lost is `Unknown` and is not sent again. Any version of etcd from 3.4 on serves.

mod compactor;
mod endpoints;
mod feed;
mod grpc;
mod layout;
mod lease;
mod message;
mod metrics;
mod reader;
mod watch;
mod wire;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use storage::mvcc::check_sizes;
use storage::{
    At, Batch, Deleted, Expect, Key, Kv, Page, Put, RangeReq, Rev, StorageError, Store, Ttl,
};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

pub use self::compactor::compact_now_and_then;
pub use self::endpoints::TlsFiles;
use self::endpoints::{Endpoints, code, read_error, write_error};
use self::feed::{Feed, Progress};
use self::grpc::CallError;
use self::layout::Layout;
pub use self::layout::REGISTRY;
use self::lease::Leases;
use self::message::{
    Compare, Granted, Keys, Range, Ranged, Step, Transacted, What, Written, transaction,
};
pub use self::metrics::Metrics;
use self::metrics::Operation;
use self::reader::Reader;
use self::watch::{Watch, WatchError, kv};
use self::wire::Broken;

/// How many keys are read in one answer.
const PAGE_KEYS: u64 = 1000;
/// Between two tries to reach any member when the store is opened.
const OPEN_PAUSE: Duration = Duration::from_millis(200);
/// How long etcd may take to say what it has compacted.
const OLDEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The first versions whose answers about progress are true, by minor version: an earlier one may answer before it has sent
/// all changes up to the revision that it names.
const PROGRESS_SINCE: [(u64, u64); 2] = [(4, 31), (5, 13)];

const RANGE: &str = "/etcdserverpb.KV/Range";
const PUT: &str = "/etcdserverpb.KV/Put";
const DELETE_RANGE: &str = "/etcdserverpb.KV/DeleteRange";
const TXN: &str = "/etcdserverpb.KV/Txn";
const COMPACT: &str = "/etcdserverpb.KV/Compact";
const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";

/// Where etcd is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The members: `https://HOST:PORT`.
    pub endpoints: Vec<String>,
    /// For `https`.
    pub tls: TlsFiles,
    /// What keys begin with in place of [`REGISTRY`].
    pub prefix: String,
    /// How long to wait for the first answer.
    pub open_timeout: Duration,
    /// Whether progress is asked for; by etcd's version where none is said.
    pub asks_progress: Option<bool>,
    /// Where requests are counted.
    pub metrics: Metrics,
}

impl Options {
    /// etcd at these addresses, without TLS files, under upstream's prefix.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            tls: TlsFiles::default(),
            prefix: REGISTRY.to_owned(),
            open_timeout: Duration::from_secs(20),
            asks_progress: None,
            metrics: Metrics::default(),
        }
    }
}

/// Why etcd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An address.
    #[error("the address of etcd, {url:?}: {why}")]
    Url {
        /// The address.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The files for TLS.
    #[error("TLS to etcd: {0}")]
    Tls(String),
    /// No member answers.
    #[error("etcd does not answer: {0}")]
    Silent(String),
}

/// A store on etcd. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct EtcdStore(Arc<Inner>);

struct Inner {
    endpoints: Endpoints,
    layout: Layout,
    /// What the API server's keys begin with in etcd.
    root: Bytes,
    leases: Leases,
    feed: Arc<Feed>,
    progress: Progress,
    following: OnceLock<AbortHandle>,
    metrics: Metrics,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(following) = self.following.get() {
            following.abort();
        }
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("EtcdStore").field(&self.0.endpoints).finish()
    }
}

impl EtcdStore {
    /// Begins to follow etcd.
    ///
    /// # Errors
    /// Where the options are wrong, or nobody answers in time.
    pub async fn open(options: &Options) -> Result<Self, OpenError> {
        let endpoints = Endpoints::new(&options.endpoints, &options.tls)?;
        let layout = Layout::new(&options.prefix);
        let root = layout.bytes(&Key::from(format!("{REGISTRY}/")));
        let opening = timeout(options.open_timeout, first_answer(&endpoints)).await;
        let now = opening.unwrap_or_else(|_| Err("no answer in time".into()));
        let now = now.map_err(OpenError::Silent)?;
        let asks = match options.asks_progress {
            Some(asks) => asks,
            None => all_tell_progress(&endpoints).await,
        };
        let inner = Arc::new(Inner {
            endpoints,
            layout,
            root,
            leases: Leases::new(options.metrics.clone()),
            feed: Arc::new(Feed::new(now)),
            progress: if asks { Progress::Asked } else { Progress::Everything },
            following: OnceLock::new(),
            metrics: options.metrics.clone(),
        });
        let task = tokio::spawn(feed::follow(Arc::downgrade(&inner)));
        let _ = inner.following.set(task.abort_handle());
        Ok(Self(inner))
    }
}

/// The present revision, as soon as one can be had.
async fn first_answer(endpoints: &Endpoints) -> Result<Rev, String> {
    loop {
        match current(endpoints).await {
            Ok(rev) => return Ok(rev),
            Err(StorageError::Unavailable(why)) => {
                tracing::info!(why, "etcd does not answer yet");
                sleep(OPEN_PAUSE).await;
            }
            Err(other) => return Err(other.to_string()),
        }
    }
}

/// A revision that the quorum has reached now.
async fn current(endpoints: &Endpoints) -> Result<Rev, StorageError> {
    // Any key will do: the answer's header is what is asked for.
    let range = Range { what: What::Count, ..Range::one(REGISTRY.as_bytes()) };
    let answer = endpoints.read(RANGE, &range.encode()).await.map_err(read_error)?;
    Ok(Ranged::read(answer).map_err(damaged)?.rev)
}

/// Whether all members are of versions that tell progress truly. One that does not answer may be older.
async fn all_tell_progress(endpoints: &Endpoints) -> bool {
    for index in 0..endpoints.len() {
        let answer = endpoints.call_one(index, STATUS, &wire::Message::default()).await;
        let version = answer.ok().and_then(|answer| message::status_version(answer).ok());
        if !version.is_some_and(|version| tells_progress(&version)) {
            return false;
        }
    }
    true
}

fn tells_progress(version: &str) -> bool {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u64>());
    let (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch))) =
        (parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let since = PROGRESS_SINCE.iter().find(|(since, _)| *since == minor);
    match since {
        Some((_, since)) => major == 3 && patch >= *since,
        None => (major, minor) > (3, 5),
    }
}

fn damaged(error: Broken) -> StorageError {
    StorageError::Unavailable(error.to_string())
}

/// The same of an answer to a write.
fn lost(error: Broken) -> StorageError {
    StorageError::Unknown(error.to_string())
}

impl Inner {
    async fn current(&self) -> Result<Rev, StorageError> {
        current(&self.endpoints).await
    }

    async fn range(&self, range: &Range) -> Result<Ranged, StorageError> {
        match self.endpoints.read(RANGE, &range.encode()).await {
            Ok(answer) => Ranged::read(answer).map_err(damaged),
            Err(error) => Err(self.out_of_range(error, range.rev, read_error).await),
        }
    }

    /// What etcd says of a revision that it does not have.
    async fn out_of_range(
        &self,
        error: CallError,
        asked: Rev,
        otherwise: fn(CallError) -> StorageError,
    ) -> StorageError {
        match &error {
            CallError::Status { code: code::OUT_OF_RANGE, message }
                if message.contains("compacted") =>
            {
                self.compacted().await
            }
            CallError::Status { code: code::OUT_OF_RANGE, message }
                if message.contains("future revision") =>
            {
                match self.current().await {
                    Ok(current) => StorageError::Future { asked, current },
                    Err(error) => error,
                }
            }
            _ => otherwise(error),
        }
    }

    /// Names the oldest revision. Only a watch that begins too early is told it.
    async fn compacted(&self) -> StorageError {
        for member in 0..self.endpoints.len() {
            if let Ok(Some(oldest)) = timeout(OLDEST_TIMEOUT, self.oldest(member)).await {
                return StorageError::Compacted { oldest };
            }
        }
        StorageError::Unavailable("etcd does not say what it has forgotten".into())
    }

    async fn oldest(&self, member: usize) -> Option<Rev> {
        let connection = self.endpoints.dial(member).await.ok()?;
        let keys = Keys::one(REGISTRY.as_bytes());
        let mut watch = Watch::begin(&connection, &self.layout, &keys, Rev(1)).await.ok()?;
        loop {
            match watch.next().await {
                Ok(_) => {}
                Err(WatchError::Compacted(oldest)) => return oldest,
                Err(WatchError::Broken(_)) => return None,
            }
        }
    }

    /// A lease for a key that is written now.
    async fn lease(&self, ttl: Option<Ttl>) -> Result<u64, StorageError> {
        let Some(ttl) = ttl else { return Ok(0) };
        let seconds = u64::from(ttl.seconds);
        let asked = Instant::now();
        if let Some(id) = self.leases.take(seconds, asked) {
            return Ok(id);
        }
        let request = message::lease(Leases::seconds(seconds));
        // One that is granted and not heard of expires by itself.
        let answer = self.endpoints.read(LEASE_GRANT, &request).await.map_err(read_error)?;
        let granted = Granted::read(answer).map_err(damaged)?;
        self.leases.keep(granted.id, seconds, (asked, granted.seconds));
        Ok(granted.id)
    }

    async fn put(
        &self,
        key: &Key,
        value: &Bytes,
        expect: Expect,
        lease: u64,
    ) -> Result<Put, CallOrStorage> {
        let bytes = self.layout.bytes(key);
        let put = message::put(&bytes, value, lease);
        let written = match expected(expect) {
            None => {
                let answer = self.endpoints.write(PUT, &put).await?;
                Written::of_put(answer).map_err(lost)?
            }
            Some(rev) => {
                let done = self.compared(&bytes, rev, Step::Put(put)).await?;
                if !done.succeeded {
                    return Err(self.refused(key, done)?.into());
                }
                Written { rev: done.rev, ..Written::of_put(done.answer).map_err(lost)? }
            }
        };
        let previous = written.previous.map(|it| kv(it, &self.layout));
        Ok(Put { rev: written.rev, previous })
    }

    async fn delete(&self, key: &Key, expect: Expect) -> Result<Deleted, CallOrStorage> {
        let bytes = self.layout.bytes(key);
        let delete = message::delete(&bytes);
        let written = match expected(expect) {
            None => {
                let answer = self.endpoints.write(DELETE_RANGE, &delete).await?;
                Written::of_delete(answer).map_err(lost)?
            }
            Some(rev) => {
                let done = self.compared(&bytes, rev, Step::Delete(delete)).await?;
                if !done.succeeded {
                    return Err(self.refused(key, done)?.into());
                }
                Written { rev: done.rev, ..Written::of_delete(done.answer).map_err(lost)? }
            }
        };
        match written.previous {
            Some(it) => Ok(Deleted { rev: written.rev, previous: kv(it, &self.layout) }),
            None => Err(StorageError::NotFound { key: key.clone() }.into()),
        }
    }

    /// Does it where the key was last written at a revision; reads what is there where it was not.
    async fn compared(
        &self,
        key: &[u8],
        rev: Rev,
        then: Step,
    ) -> Result<Transacted, CallOrStorage> {
        let otherwise = Step::Range(Range::one(key).encode());
        let request = transaction(key, Compare::ModRev(rev), &then, &otherwise);
        let answer = self.endpoints.write(TXN, &request).await?;
        Ok(Transacted::read(answer).map_err(lost)?)
    }

    /// Why what was expected is not so. Nothing was written.
    fn refused(&self, key: &Key, done: Transacted) -> Result<StorageError, StorageError> {
        let found = Ranged::read(done.answer).map_err(damaged)?;
        Ok(match found.kvs.into_iter().next() {
            Some(current) => {
                StorageError::Conflict { current: Box::new(kv(current, &self.layout)) }
            }
            None => StorageError::NotFound { key: key.clone() },
        })
    }
}

/// The revision that a key must have; none where anything may be there.
fn expected(expect: Expect) -> Option<Rev> {
    match expect {
        Expect::Absent => Some(Rev(0)),
        Expect::ModRev(rev) => Some(rev),
        Expect::Any => None,
    }
}

/// A failure of a write: of the call itself, or what its answer says.
enum CallOrStorage {
    Call(CallError),
    Storage(StorageError),
}

impl From<CallError> for CallOrStorage {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<StorageError> for CallOrStorage {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl CallOrStorage {
    fn told(self, expect: Expect) -> StorageError {
        match (self, expect) {
            (Self::Call(error), _) => write_error(error),
            (Self::Storage(StorageError::Conflict { current }), Expect::Absent) => {
                StorageError::Exists { current }
            }
            (Self::Storage(error), _) => error,
        }
    }

    fn is_lost_lease(&self) -> bool {
        matches!(self, Self::Call(CallError::Status { code: code::NOT_FOUND, .. }))
    }
}

impl EtcdStore {
    async fn put_one(
        &self,
        key: &Key,
        value: Bytes,
        expect: Expect,
        ttl: Option<Ttl>,
    ) -> Result<Put, StorageError> {
        check_sizes(key, &value)?;
        let lease = self.0.lease(ttl).await?;
        match self.0.put(key, &value, expect, lease).await {
            Err(error) if lease != 0 && error.is_lost_lease() => {
                // It was revoked by somebody, or etcd was restored from a copy.
                self.0.leases.forget(lease);
                let lease = self.0.lease(ttl).await?;
                let put = self.0.put(key, &value, expect, lease).await;
                put.map_err(|error| error.told(expect))
            }
            put => put.map_err(|error| error.told(expect)),
        }
    }

    async fn delete_one(&self, key: &Key, expect: Expect) -> Result<Deleted, StorageError> {
        check_sizes(key, &[])?;
        if expect == Expect::Absent {
            let (current, _) = self.get_one(key, At::Latest).await?;
            return Err(match current {
                Some(current) => StorageError::Exists { current: Box::new(current) },
                None => StorageError::NotFound { key: key.clone() },
            });
        }
        self.0.delete(key, expect).await.map_err(|error| error.told(expect))
    }

    async fn get_one(&self, key: &Key, at: At) -> Result<(Option<Kv>, Rev), StorageError> {
        let rev = asked_rev(at);
        let range = Range { rev, ..Range::one(&self.0.layout.bytes(key)) };
        let read = self.0.range(&range).await?;
        let found = read.kvs.into_iter().next().map(|it| kv(it, &self.0.layout));
        Ok((found, if rev == Rev(0) { read.rev } else { rev }))
    }

    async fn list(&self, request: RangeReq) -> Result<Page, StorageError> {
        let RangeReq { prefix, after, limit, keys_only, at } = request;
        let mut keys = Keys::under(&self.0.layout.bytes(&prefix));
        if let Some(after) = after {
            keys = keys.after(&self.0.layout.bytes(&after));
        }
        let what = if keys_only { What::Keys } else { What::All };
        let mut range = Range { keys, limit: PAGE_KEYS, rev: asked_rev(at), what };
        let mut kvs: Vec<Kv> = Vec::new();
        loop {
            if limit != 0 {
                range.limit = PAGE_KEYS.min((limit - kvs.len()) as u64);
            }
            let read = self.0.range(&range).await?;
            if range.rev == Rev(0) {
                range.rev = read.rev;
            }
            let remaining = read.count.saturating_sub(read.kvs.len() as u64);
            if let Some(last) = read.kvs.last() {
                range.keys = range.keys.after(&last.key);
            }
            kvs.extend(read.kvs.into_iter().map(|it| kv(it, &self.0.layout)));
            if !read.more || (limit != 0 && kvs.len() >= limit) {
                return Ok(Page { kvs, rev: range.rev, more: read.more, remaining });
            }
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn put(
        &self,
        key: Key,
        value: Bytes,
        expect: Expect,
        ttl: Option<Ttl>,
    ) -> Result<Put, StorageError> {
        let began = Instant::now();
        let operation = match expect {
            Expect::Absent => Operation::Create,
            Expect::ModRev(_) | Expect::Any => Operation::Update,
        };
        let put = self.put_one(&key, value, expect, ttl).await;
        self.0.metrics.count(operation, &key, (began, &put));
        put
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<Deleted, StorageError> {
        let began = Instant::now();
        let deleted = self.delete_one(&key, expect).await;
        self.0.metrics.count(Operation::Delete, &key, (began, &deleted));
        deleted
    }

    async fn get(&self, key: &Key, at: At) -> Result<(Option<Kv>, Rev), StorageError> {
        let began = Instant::now();
        let got = self.get_one(key, at).await;
        self.0.metrics.count(Operation::Get, key, (began, &got));
        got
    }

    async fn range(&self, request: RangeReq) -> Result<Page, StorageError> {
        let (began, prefix) = (Instant::now(), request.prefix.clone());
        let page = self.list(request).await;
        self.0.metrics.count(Operation::List, &prefix, (began, &page));
        page
    }

    async fn count(&self, prefix: &Key) -> Result<u64, StorageError> {
        let keys = Keys::under(&self.0.layout.bytes(prefix));
        let range = Range { keys, limit: 0, rev: Rev(0), what: What::Count };
        Ok(self.0.range(&range).await?.count)
    }

    fn watch(&self, prefix: Key, after: Rev) -> BoxStream<'static, Result<Batch, StorageError>> {
        Reader::new(Arc::clone(&self.0), prefix, after).stream()
    }

    async fn progress(&self) -> Result<Rev, StorageError> {
        let now = self.0.current().await?;
        self.0.feed.want(now);
        Ok(now)
    }

    async fn size_bytes(&self) -> Result<Option<u64>, StorageError> {
        let endpoints = &self.0.endpoints;
        let status = endpoints.read(STATUS, &wire::Message::default()).await.map_err(read_error)?;
        message::status_size(status).map(Some).map_err(damaged)
    }

    async fn compact(&self, before: Rev) -> Result<(), StorageError> {
        match self.0.endpoints.write(COMPACT, &message::compaction(before)).await {
            Ok(_) => {
                self.0.feed.forget(before);
                Ok(())
            }
            // Somebody was before us.
            Err(CallError::Status { code: code::OUT_OF_RANGE, message })
                if message.contains("compacted") =>
            {
                Ok(())
            }
            Err(error) => Err(self.0.out_of_range(error, before, write_error).await),
        }
    }
}

/// 0 is etcd's newest.
fn asked_rev(at: At) -> Rev {
    match at {
        At::Latest => Rev(0),
        At::Exactly(rev) => rev,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_asked_for_where_the_answer_is_true() {
        let cases = [
            ("3.4.23", false),
            ("3.4.31", true),
            ("3.5.12", false),
            ("3.5.13", true),
            ("3.6.0", true),
            ("3.6.0-rc.1", true),
            ("3.10.0", true),
            ("3.3.99", false),
            ("4.0.0", true),
            ("", false),
        ];
        for (version, expected) in cases {
            assert_eq!(tells_progress(version), expected, "{version}");
        }
    }
}
