//! What the in-memory store promises beyond the contract: determinism, a bounded history, a clean end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use component_base::VirtualClock;
use futures::{FutureExt, StreamExt};
use storage::memory::MemoryStore;
use storage::{At, Expect, Key, RangeReq, Rev, StorageError, Store, Ttl, conformance};

fn store_with_history(bytes: usize) -> MemoryStore {
    let epoch = "2026-01-01T00:00:00Z".parse().unwrap();
    MemoryStore::with_history(Arc::new(VirtualClock::starting_at(epoch)), bytes)
}

fn store() -> MemoryStore {
    store_with_history(storage::memory::HISTORY_BYTES)
}

async fn put(store: &MemoryStore, key: &str, value: &str) -> Rev {
    let value = Bytes::copy_from_slice(value.as_bytes());
    store.put(key.into(), value, Expect::Any, None).await.unwrap().rev
}

#[tokio::test(start_paused = true)]
async fn the_memory_store_passes_the_contract_on_virtual_time() {
    conformance::run(|| async { Arc::new(store()) as Arc<dyn Store> }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_memory_store_passes_the_contract_on_several_threads() {
    conformance::run(|| async { Arc::new(store()) as Arc<dyn Store> }).await;
}

/// A store that breaks its promise in one way, to show that the suite sees it.
#[derive(Debug)]
struct Broken(MemoryStore);

#[async_trait::async_trait]
impl Store for Broken {
    async fn put(
        &self,
        key: Key,
        value: Bytes,
        expect: Expect,
        ttl: Option<Ttl>,
    ) -> Result<storage::Put, StorageError> {
        let put = self.0.put(key, value, expect, ttl).await?;
        Ok(storage::Put { previous: None, ..put })
    }
    async fn delete(&self, key: Key, _: Expect) -> Result<storage::Deleted, StorageError> {
        self.0.delete(key, Expect::Any).await
    }
    async fn get(&self, key: &Key, _: At) -> Result<(Option<storage::Kv>, Rev), StorageError> {
        self.0.get(key, At::Latest).await
    }
    async fn range(&self, request: RangeReq) -> Result<storage::Page, StorageError> {
        self.0.range(RangeReq { at: At::Latest, ..request }).await
    }
    async fn count(&self, prefix: &Key) -> Result<u64, StorageError> {
        Ok(self.0.count(prefix).await?.min(5))
    }
    fn watch(
        &self,
        prefix: Key,
        after: Rev,
    ) -> futures::stream::BoxStream<'static, Result<storage::Batch, StorageError>> {
        self.0.watch(prefix, Rev(after.0.saturating_sub(1)))
    }
    async fn progress(&self) -> Result<Rev, StorageError> {
        Ok(Rev(self.0.progress().await?.0 - 1))
    }
    async fn compact(&self, _: Rev) -> Result<(), StorageError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_suite_sees_a_broken_store() {
    let factory = || async { Arc::new(Broken(store())) as Arc<dyn Store> };
    let run = std::panic::AssertUnwindSafe(conformance::run(factory)).catch_unwind().await;
    let panic = run.expect_err("a broken store passed");
    let text = panic.downcast_ref::<String>().unwrap();
    for case in [
        "a_put_makes_the_next_revision",
        "a_delete_checks_what_it_expects",
        "a_read_at_a_revision_sees",
        "a_range_pages_at_one_revision",
        "a_count_follows",
        "a_watch_begins_after_any_revision",
        "a_compacted_revision_is_an_error",
        "a_read_sees_the_write",
    ] {
        assert!(text.contains(case), "{case} passed on a store that breaks it:\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn history_is_bounded_by_bytes_and_the_state_is_not() {
    let store = store_with_history(64 << 10);
    let first = put(&store, "/a/kept", "1").await;
    let mut watch = store.watch("/a/".into(), first);
    let mut quiet = store.watch("/quiet/".into(), first);
    let mut last = first;
    for n in 0..1000 {
        last = put(&store, "/a/x", &n.to_string()).await;
    }
    assert!(matches!(watch.next().await, Some(Err(StorageError::Compacted { .. }))));
    assert!(watch.next().await.is_none());
    let read = store.get(&"/a/x".into(), At::Exactly(first)).await;
    let Err(StorageError::Compacted { oldest }) = read else { panic!("{read:?}") };
    assert!(last.0 - oldest.0 > 100, "some history is kept");
    assert!(store.get(&"/a/x".into(), At::Exactly(oldest)).await.unwrap().0.is_some());
    assert!(store.get(&"/a/kept".into(), At::Latest).await.unwrap().0.is_some());
    // Who has missed nothing is not sent away, however long it slept.
    let batch = quiet.next().await.unwrap().unwrap();
    assert_eq!((batch.events.len(), batch.progress), (0, last));
}

#[tokio::test(start_paused = true)]
async fn history_counts_the_values_that_deletes_hold() {
    const KEYS: usize = 100;
    let store = store_with_history(64 << 10);
    let first = put(&store, "/b/x", "1").await;
    let value = "v".repeat(10 << 10);
    for n in 0..KEYS {
        put(&store, &format!("/a/{n}"), &value).await;
    }
    for n in 0..KEYS {
        store.delete(format!("/a/{n}").as_str().into(), Expect::Any).await.unwrap();
    }
    let read = store.get(&"/b/x".into(), At::Exactly(first)).await;
    let Err(StorageError::Compacted { oldest }) = read else { panic!("{read:?}") };
    let mut held = 0;
    let mut watch = store.watch("/a/".into(), oldest);
    while let Some(batch) = watch.next().now_or_never() {
        let events = batch.unwrap().unwrap().events;
        held += events
            .iter()
            .filter_map(|it| it.previous.as_ref())
            .map(|it| it.value.len())
            .sum::<usize>();
    }
    assert!((10 << 10..=64 << 10).contains(&held), "{held} bytes of deleted values are kept");
    // And of what is written afterwards as much as before.
    let oldest = put(&store, "/b/x", "2").await;
    for n in 0..100 {
        put(&store, "/b/x", &n.to_string()).await;
    }
    assert!(store.get(&"/b/x".into(), At::Exactly(oldest)).await.unwrap().0.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_key_written_very_often_can_be_dropped() {
    let store = store();
    for n in 0..100_000 {
        put(&store, "/a/x", if n % 2 == 0 { "even" } else { "odd" }).await;
    }
    drop(store);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watcher_is_not_woken_by_each_write_elsewhere() {
    let store = store();
    let start = put(&store, "/a/x", "1").await;
    let mut quiet = store.watch("/quiet/".into(), start);
    let mut batches = 0;
    let begun = tokio::time::Instant::now();
    for n in 0..1000 {
        put(&store, "/a/x", &n.to_string()).await;
        while let Some(batch) = quiet.next().now_or_never() {
            assert_eq!(batch.unwrap().unwrap().events, []);
            batches += 1;
        }
        tokio::time::advance(Duration::from_millis(1)).await;
        tokio::task::yield_now().await;
    }
    let rounds = begun.elapsed().as_millis() / storage::mvcc::PROGRESS_LAG.as_millis();
    assert!((1..=rounds + 2).contains(&batches), "{batches} batches in {rounds} rounds");
}

#[tokio::test(start_paused = true)]
async fn time_alone_lets_keys_expire_in_order() {
    let store = store();
    let mut last = Rev(0);
    for (key, seconds) in [("/a/third", 30), ("/a/first", 10), ("/a/second", 20)] {
        let ttl = Some(Ttl { seconds });
        last = store.put(key.into(), Bytes::new(), Expect::Absent, ttl).await.unwrap().rev;
    }
    let begun = tokio::time::Instant::now();
    let mut watch = store.watch("/a/".into(), last);
    for (key, seconds) in [("/a/first", 10), ("/a/second", 20), ("/a/third", 30)] {
        let batch = watch.next().await.unwrap().unwrap();
        assert_eq!(batch.events[0].key, key.into());
        let late = begun.elapsed() - Duration::from_secs(seconds);
        assert!(late < Duration::from_millis(10), "{key} {late:?} late");
    }
}
