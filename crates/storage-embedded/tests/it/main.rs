//! The embedded store on a real file system: the contract, restarts, damage, full disks.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod contract;
mod copies;
mod damage;
mod faults;
mod format;
mod restart;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use storage::{At, Event, Expect, Key, RangeReq, Rev, Store};
use storage_embedded::{EmbeddedStore, Limits, OpenError, Options};

/// Small enough that a few writes make segments and snapshots.
const SMALL: Limits =
    Limits { history_bytes: 64 << 10, segment_bytes: 16 << 10, snapshot_log_bytes: 64 << 10 };

fn options(dir: &Path) -> Options {
    Options::new(dir, Arc::new(|reason| panic!("the store has ended: {reason}")))
}

fn try_open(dir: &Path, limits: Limits) -> Result<EmbeddedStore, OpenError> {
    EmbeddedStore::open(&Options { limits, ..options(dir) })
}

fn open(dir: &Path) -> EmbeddedStore {
    try_open(dir, Limits::default()).unwrap()
}

async fn put(store: &EmbeddedStore, key: &str, value: &str) -> Rev {
    let value = Bytes::copy_from_slice(value.as_bytes());
    store.put(key.into(), value, Expect::Any, None).await.unwrap().rev
}

fn everything(at: At) -> RangeReq {
    RangeReq { prefix: Key::from(""), after: None, limit: 0, keys_only: false, at }
}

async fn keys(store: &EmbeddedStore) -> Vec<String> {
    let page = store.range(everything(At::Latest)).await.unwrap();
    page.kvs.iter().map(|kv| kv.key.to_string()).collect()
}

/// What is in the log after a revision.
fn history(store: &EmbeddedStore, after: Rev) -> Vec<Event> {
    let mut watch = store.watch(Key::from(""), after);
    let mut events = Vec::new();
    while let Some(Some(batch)) = watch.next().now_or_never() {
        events.extend(batch.unwrap().events);
    }
    events
}

/// The names of the files that begin with a prefix, in order.
fn files(dir: &Path, prefix: &str) -> Vec<String> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    names
}
