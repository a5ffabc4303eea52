//! The suite that every backend passes, and what only etcd has.

use std::sync::Mutex;

use storage::conformance;

use super::*;

/// A new etcd for each case; the one before it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_passes_the_contract() {
    let cluster = Mutex::new(None);
    conformance::run(|| async {
        let fresh = Cluster::start(1);
        let store = open(&fresh).await;
        *cluster.lock().unwrap() = Some(fresh);
        Arc::new(store) as Arc<dyn Store>
    })
    .await;
}

async fn until(store: &EtcdStore, prefix: &str, after: Rev, goal: Rev) -> Vec<String> {
    let mut watch = store.watch(key(prefix), after);
    let (mut texts, mut progress) = (Vec::new(), after);
    while progress < goal {
        let batch: Batch = watch.next().await.unwrap().unwrap();
        texts.extend(batch.events.iter().map(|event| event.key.to_string()));
        progress = batch.progress;
    }
    texts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_clusters_share_an_etcd_under_prefixes_of_their_own() {
    let etcd = Cluster::start(1);
    let of = |prefix: &str| Options { prefix: prefix.to_owned(), ..Options::new(etcd.urls()) };
    let one = EtcdStore::open(&of("/one")).await.unwrap();
    let two = EtcdStore::open(&of("two")).await.unwrap();
    let raw = EtcdStore::open(&of("/registry")).await.unwrap();
    let start = one.progress().await.unwrap();
    let at = key("/registry/pods/a/b");
    one.put(at.clone(), value("1"), Expect::Absent, None).await.unwrap();
    assert_eq!(two.get(&at, At::Latest).await.unwrap().0, None);
    let (moved, _) = raw.get(&key("/one/pods/a/b"), At::Latest).await.unwrap();
    assert_eq!(moved.unwrap().value, "1");
    // A third cluster has the usual prefix: its keys look like those of all.
    raw.put(key("/registry/pods/c/d"), value("3"), Expect::Absent, None).await.unwrap();
    let last = two.put(key("/registry/x"), value("2"), Expect::Any, None).await.unwrap().rev;
    // The changes of others are not seen, and how far they go is.
    assert!(one.progress().await.unwrap() >= last);
    assert_eq!(until(&one, "/registry/", start, last).await, ["/registry/pods/a/b"]);
    assert_eq!(until(&raw, "/registry/", start, last).await, ["/registry/pods/c/d"]);
    assert_eq!(until(&two, "/registry/", start, last).await, ["/registry/x"]);
    let request = RangeReq {
        prefix: key("/registry/"),
        after: None,
        limit: 0,
        keys_only: true,
        at: At::Latest,
    };
    let page = one.range(request).await.unwrap();
    let keys: Vec<String> = page.kvs.iter().map(|kv| kv.key.to_string()).collect();
    assert_eq!(keys, ["/registry/pods/a/b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_one_lease_expire_together_and_a_watch_has_them_all() {
    let etcd = Cluster::start(1);
    let store = open(&etcd).await;
    let start = store.progress().await.unwrap();
    for n in 0..30 {
        let ttl = Some(Ttl { seconds: 20 });
        store.put(key(&format!("/registry/a/{n:02}")), value("1"), Expect::Any, ttl).await.unwrap();
    }
    // A lease is revoked as it expires: in one write.
    let lease = etcd.one_lease();
    etcd.revoke(&lease);
    let mut watch = store.watch(key("/registry/a/"), start);
    let mut gone = Vec::new();
    while gone.len() < 30 {
        let batch = watch.next().await.unwrap().unwrap();
        let deletes: Vec<_> = batch.events.iter().filter(|it| it.value.is_none()).collect();
        assert!(deletes.is_empty() || deletes.len() == 30, "{} deletes", deletes.len());
        assert!(deletes.iter().all(|it| it.previous.is_some() && it.rev == deletes[0].rev));
        gone.extend(deletes.iter().map(|it| it.key.clone()));
    }
    // The lease is gone: the next key gets another one.
    let ttl = Some(Ttl { seconds: 20 });
    store.put(key("/registry/a/new"), value("1"), Expect::Absent, ttl).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_etcd_refuses_is_told_in_its_words() {
    let arguments = ["--max-request-bytes".to_owned(), "1572864".to_owned()];
    let etcd = Cluster::with(1, "http", &arguments);
    let store = open(&etcd).await;
    // An empty database has some pages already.
    assert!(store.size_bytes().await.unwrap().is_some_and(|it| it > 4_096));
    let large = Bytes::from(vec![b'v'; 1_600_000]);
    match store.put(key("/registry/x"), large, Expect::Absent, None).await {
        Err(StorageError::Refused(why)) => assert_eq!(why, "etcdserver: request is too large"),
        other => panic!("{other:?}"),
    }
    let larger = Bytes::from(vec![b'v'; 4 << 20]);
    let answer = store.put(key("/registry/x"), larger, Expect::Absent, None).await;
    assert!(matches!(&answer, Err(StorageError::Refused(why)) if why.contains("larger than max")));
    assert_eq!(store.get(&key("/registry/x"), At::Latest).await.unwrap().0, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_compact_in_turns_by_upstreams_key() {
    let etcd = Cluster::start(1);
    let (one, two) = (open(&etcd).await, open(&etcd).await);
    let first = one.put(key("/registry/x"), value("1"), Expect::Any, None).await.unwrap().rev;
    let interval = std::time::Duration::from_millis(300);
    let tasks = [&one, &two]
        .map(|store| tokio::spawn(storage_etcd::compact_now_and_then(store.clone(), interval)));
    // Wait for the state: what was first is forgotten.
    let mut watch = one.watch(key("/registry/"), first);
    loop {
        one.put(key("/registry/x"), value("2"), Expect::Any, None).await.unwrap();
        let _ = tokio::time::timeout(interval, watch.next()).await;
        match one.get(&key("/registry/x"), At::Exactly(first)).await {
            Err(StorageError::Compacted { oldest }) => {
                assert_eq!(
                    two.agreed_compaction().await.unwrap().map(|it| it >= oldest),
                    Some(true)
                );
                break;
            }
            other => drop(other.unwrap()),
        }
    }
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}
