//! The store against real etcd: Debian's, started on loopback in a directory of its own.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod asked;
mod cluster;
mod contract;
mod failures;
mod tls;

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use storage::{At, Batch, Expect, Key, RangeReq, Rev, StorageError, Store, Ttl};
use storage_etcd::{EtcdStore, Options};

use self::cluster::Cluster;

fn key(text: &str) -> Key {
    Key::from(text)
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn open(cluster: &Cluster) -> EtcdStore {
    EtcdStore::open(&Options::new(cluster.urls())).await.unwrap()
}
