//! Servers whose caches are behind their store: for a moment, or for longer than the store keeps its history.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, value};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use storage::{
    At, Batch, Deleted, Expect, Key, Kv, Page, Put, RangeReq, Rev, StorageError, Store, Ttl,
};
use tokio::sync::watch;

use crate::cluster::{Cluster, With, memory};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Whose watches tell nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Nobody,
    /// Those of the caches, which follow everything.
    Caches,
    All,
}

/// A store whose watches tell nothing while they are cut off, and then go on where they were.
#[derive(Debug)]
struct CutOff {
    store: Arc<dyn Store>,
    cut: watch::Sender<Cut>,
}

/// One of its watches.
struct Following {
    store: Arc<dyn Store>,
    cut: watch::Receiver<Cut>,
    prefix: Key,
    seen: Rev,
    changes: Option<BoxStream<'static, Result<Batch, StorageError>>>,
}

impl Following {
    async fn next(mut self) -> Option<(Result<Batch, StorageError>, Self)> {
        loop {
            let is_cut = match *self.cut.borrow_and_update() {
                Cut::Nobody => false,
                Cut::Caches => self.prefix == Key::from("/registry/"),
                Cut::All => true,
            };
            if is_cut {
                self.changes = None;
                self.cut.changed().await.ok()?;
                continue;
            }
            let begin = || self.store.watch(self.prefix.clone(), self.seen);
            let changes = self.changes.get_or_insert_with(begin);
            let batch = tokio::select! {
                biased;
                _ = self.cut.changed() => continue,
                batch = changes.next() => batch?,
            };
            if let Ok(batch) = &batch {
                self.seen = batch.progress;
            }
            return Some((batch, self));
        }
    }
}

#[async_trait]
impl Store for CutOff {
    async fn put(
        &self,
        key: Key,
        value: Bytes,
        expect: Expect,
        ttl: Option<Ttl>,
    ) -> Result<Put, StorageError> {
        self.store.put(key, value, expect, ttl).await
    }

    async fn delete(&self, key: Key, expect: Expect) -> Result<Deleted, StorageError> {
        self.store.delete(key, expect).await
    }

    async fn get(&self, key: &Key, at: At) -> Result<(Option<Kv>, Rev), StorageError> {
        self.store.get(key, at).await
    }

    async fn range(&self, request: RangeReq) -> Result<Page, StorageError> {
        self.store.range(request).await
    }

    async fn count(&self, prefix: &Key) -> Result<u64, StorageError> {
        self.store.count(prefix).await
    }

    fn watch(&self, prefix: Key, after: Rev) -> BoxStream<'static, Result<Batch, StorageError>> {
        let store = Arc::clone(&self.store);
        let cut = self.cut.subscribe();
        let following = Following { store, cut, prefix, seen: after, changes: None };
        stream::unfold(following, Following::next).boxed()
    }

    async fn progress(&self) -> Result<Rev, StorageError> {
        self.store.progress().await
    }

    async fn compact(&self, before: Rev) -> Result<(), StorageError> {
        self.store.compact(before).await
    }
}

fn definition(plural: &str, kind: &str) -> Value {
    value!({
        "metadata": {"name": (format!("{plural}.example.com"))},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}
    })
}

fn thing(kind: &str, name: &str) -> Value {
    value!({"apiVersion": "example.com/v1", "kind": kind, "metadata": {"name": name}})
}

async fn define(cluster: &Cluster, plural: &str, kind: &str) {
    cluster.done(&format!("POST {DEFINITIONS}"), Some(&definition(plural, kind))).await;
    served(cluster, plural).await;
}

/// Waits until a server serves a custom resource.
async fn served(cluster: &Cluster, plural: &str) {
    let path = format!("GET /apis/example.com/v1/namespaces/default/{plural}");
    let asked = async {
        while cluster.send(&crate::cluster::admin(), &path, None).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), asked).await.expect("it is served");
}

async fn names(cluster: &Cluster, path: &str) -> Vec<String> {
    let list = cluster.done(&format!("GET {path}"), None).await;
    let names = list.items_at(&["items"]).iter().map(|it| it.str_at(&["metadata", "name"]));
    names.filter(|it| *it != "kube-root-ca.crt").map(str::to_owned).collect()
}

async fn next(frames: &mut BoxStream<'static, Value>) -> Value {
    let frame = tokio::time::timeout(Duration::from_secs(10), frames.next()).await;
    frame.expect("a frame in time").expect("the watch goes on")
}

#[tokio::test]
async fn a_server_that_was_cut_off_reads_anew_what_the_store_has_forgotten() {
    let store = memory();
    let (cut, _) = watch::channel(Cut::Nobody);
    let behind = Arc::new(CutOff { store: Arc::clone(&store), cut: cut.clone() });
    let theirs = Cluster::on(Arc::clone(&store), With::default()).await;
    let ours = Cluster::on(behind, With::default()).await;
    define(&theirs, "things", "Thing").await;
    for name in ["changed", "gone", "kept"] {
        let map = value!({"metadata": {"name": name}, "data": {"k": "1"}});
        theirs.done(&format!("POST {MAPS}"), Some(&map)).await;
    }
    served(&ours, "things").await;
    let list = ours.done(&format!("GET {MAPS}"), None).await;
    let version = list.str_at(&["metadata", "resourceVersion"]).to_owned();
    let mut watching = ours.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;

    cut.send_replace(Cut::All);
    let change = value!({"data": {"k": "2"}});
    theirs.done(&format!("PATCH {MAPS}/changed"), Some(&change)).await;
    theirs.done(&format!("DELETE {MAPS}/gone"), None).await;
    for name in ["brief", "new"] {
        theirs.done(&format!("POST {MAPS}"), Some(&value!({"metadata": {"name": name}}))).await;
    }
    theirs.done(&format!("DELETE {MAPS}/brief"), None).await;
    let things = "/apis/example.com/v1/namespaces/default/things";
    theirs.done(&format!("POST {things}"), Some(&thing("Thing", "new"))).await;
    define(&theirs, "others", "Other").await;
    let others = "/apis/example.com/v1/namespaces/default/others";
    theirs.done(&format!("POST {others}"), Some(&thing("Other", "first"))).await;
    store.compact(store.progress().await.unwrap()).await.unwrap();
    cut.send_replace(Cut::Nobody);

    // Whoever watches is told that it comes too late: what happened meanwhile nobody knows.
    let end = next(&mut watching).await;
    assert_eq!(end.str_at(&["type"]), "ERROR", "{end:?}");
    assert_eq!(end["object"]["code"], Value::from(410));
    assert!(watching.next().await.is_none());
    // What there is is known, and what happens from here on.
    ours.server.hub().catch_up().await.unwrap();
    assert_eq!(names(&ours, MAPS).await, ["changed", "kept", "new"]);
    let changed = ours.done(&format!("GET {MAPS}/changed"), None).await;
    assert_eq!(changed.str_at(&["data", "k"]), "2");
    assert_eq!(names(&ours, things).await, ["new"]);
    served(&ours, "others").await;
    assert_eq!(names(&ours, others).await, ["first"]);
    let list = ours.done(&format!("GET {MAPS}"), None).await;
    let version = list.str_at(&["metadata", "resourceVersion"]).to_owned();
    let mut watching = ours.watch(&format!("{MAPS}?watch=1&resourceVersion={version}")).await;
    theirs.done(&format!("DELETE {MAPS}/new"), None).await;
    let told = next(&mut watching).await;
    assert_eq!(told.str_at(&["type"]), "DELETED", "{told:?}");
    // It writes, too.
    ours.done(&format!("DELETE {MAPS}/kept"), None).await;
    assert_eq!(names(&theirs, MAPS).await, ["changed"]);
}

/// Found by clients that went on right after a server had started again.
#[tokio::test]
async fn what_the_stores_history_has_told_the_log_does_not_tell_again() {
    let store = memory();
    let (cut, _) = watch::channel(Cut::Nobody);
    let behind = Arc::new(CutOff { store: Arc::clone(&store), cut: cut.clone() });
    let theirs = Cluster::on(Arc::clone(&store), With::default()).await;
    let make = async |name: &str| {
        let map = value!({"metadata": {"name": name}});
        theirs.done(&format!("POST {MAPS}"), Some(&map)).await
    };
    let seen = make("seen").await.str_at(&["metadata", "resourceVersion"]).to_owned();
    make("before").await;
    // What was before its start is not in its log.
    let ours = Cluster::on(behind, With::default()).await;
    cut.send_replace(Cut::Caches);
    make("behind").await;
    let mut watching = ours.watch(&format!("{MAPS}?watch=1&resourceVersion={seen}")).await;
    let mut told = Vec::new();
    for _ in ["before", "behind"] {
        told.push(next(&mut watching).await);
    }
    cut.send_replace(Cut::Nobody);
    make("later").await;
    told.push(next(&mut watching).await);
    let names: Vec<&str> =
        told.iter().map(|it| it.str_at(&["object", "metadata", "name"])).collect();
    assert_eq!(names, ["before", "behind", "later"]);
}
