//! What is forgotten: compaction and expiry.

use super::*;
use crate::Ttl;

pub(super) async fn a_compacted_revision_is_an_error_that_names_the_oldest(store: Arc<dyn Store>) {
    let first = put(&*store, "/a/x", "1").await.rev;
    put(&*store, "/a/x", "2").await;
    put(&*store, "/a/x", "3").await;
    let before = put(&*store, "/a/x", "4").await.rev;
    put(&*store, "/a/x", "5").await;
    store.compact(before).await.unwrap();
    let mut watcher = Watcher::new(&*store, "/a/", first);
    let answers = [
        store.get(&key("/a/x"), At::Exactly(first)).await.map(drop),
        store.range(everything_under("/a/", At::Exactly(first))).await.map(drop),
        watcher.next().await.map(drop),
    ];
    for answer in answers {
        match answer {
            Err(StorageError::Compacted { oldest }) => assert_eq!(oldest, before),
            other => panic!("{other:?}"),
        }
    }
    // The watch is over after that.
    assert!(watcher.stream.next().await.is_none());
}

pub(super) async fn compaction_keeps_the_state_and_later_history(store: Arc<dyn Store>) {
    put(&*store, "/a/old", "1").await;
    put(&*store, "/a/gone", "1").await;
    delete(&*store, "/a/gone").await;
    let before = put(&*store, "/a/x", "1").await.rev;
    put(&*store, "/a/x", "2").await;
    let last = delete(&*store, "/a/old").await;
    store.compact(before).await.unwrap();
    // Once more, and less: both change nothing.
    store.compact(before).await.unwrap();
    store.compact(Rev(before.0 - 1)).await.unwrap();
    assert_eq!(texts_under(&*store, "/a/", At::Exactly(before)).await, ["/a/old=1", "/a/x=1"]);
    assert_eq!(texts_under(&*store, "/a/", At::Latest).await, ["/a/x=2"]);
    let events = Watcher::new(&*store, "/a/", before).events_to(last).await;
    let texts: Vec<String> = events.iter().map(event_text).collect();
    assert_eq!(texts, ["/a/x:1>2", "/a/old:1>-"]);
}

pub(super) async fn compaction_of_the_future_is_refused(store: Arc<dyn Store>) {
    let current = put(&*store, "/a/x", "1").await.rev;
    let answer = store.compact(Rev(current.0 + 10)).await;
    assert!(matches!(answer, Err(StorageError::Future { .. })), "{answer:?}");
    assert_eq!(texts_under(&*store, "/a/", At::Exactly(current)).await, ["/a/x=1"]);
}

async fn put_with_ttl(store: &dyn Store, at: &str, seconds: u32) -> Rev {
    store.put(key(at), value("1"), Expect::Any, Some(Ttl { seconds })).await.unwrap().rev
}

pub(super) async fn a_key_expires_with_an_ordinary_delete(store: Arc<dyn Store>) {
    let written = put_with_ttl(&*store, "/a/x", 1).await;
    let stays = put_with_ttl(&*store, "/a/y", 3600).await;
    let begun = tokio::time::Instant::now();
    let (kv, _) = store.get(&key("/a/x"), At::Latest).await.unwrap();
    assert_eq!(kv.unwrap().mod_rev, written);
    let events = Watcher::new(&*store, "/a/", stays).events(1).await;
    // A store may count in whole seconds, but a key must not die early.
    assert!(begun.elapsed() >= Duration::from_millis(900), "after {:?}", begun.elapsed());
    assert_eq!(event_text(&events[0]), "/a/x:1>-");
    assert!(events[0].rev > stays);
    assert_eq!(texts_under(&*store, "/a/", At::Latest).await, ["/a/y=1"]);
    let again = store.put(key("/a/x"), value("2"), Expect::Absent, None).await.unwrap();
    assert!(again.rev > events[0].rev);
}

pub(super) async fn a_write_renews_or_ends_a_time_to_live(store: Arc<dyn Store>) {
    put_with_ttl(&*store, "/a/ended", 1).await;
    put_with_ttl(&*store, "/a/renewed", 1).await;
    put(&*store, "/a/ended", "kept").await;
    put_with_ttl(&*store, "/a/renewed", 3600).await;
    let last = put_with_ttl(&*store, "/a/marker", 2).await;
    let events = Watcher::new(&*store, "/a/", last).events(1).await;
    assert_eq!(event_text(&events[0]), "/a/marker:1>-", "the others would have expired before");
    assert_eq!(texts_under(&*store, "/a/", At::Latest).await, ["/a/ended=kept", "/a/renewed=1"]);
}
