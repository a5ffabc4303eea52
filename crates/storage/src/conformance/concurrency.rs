//! Many writers and readers at once.

use std::collections::BTreeMap;

use futures::future::join_all;

use super::*;

const WRITERS: usize = 16;
const WRITES_EACH: usize = 40;

/// Runs one task per writer and collects what they return.
async fn in_parallel<F, T>(tasks: usize, task: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let handles: Vec<_> = (0..tasks).map(|n| tokio::spawn(task(n))).collect();
    join_all(handles).await.into_iter().map(|joined| joined.expect("a task panicked")).collect()
}

pub(super) async fn of_many_creations_one_wins(store: Arc<dyn Store>) {
    for round in 0..20 {
        let answers = in_parallel(WRITERS, |n| {
            let store = Arc::clone(&store);
            let at = key(&format!("/a/{round}"));
            async move { store.put(at, value(&n.to_string()), Expect::Absent, None).await }
        })
        .await;
        let won: Vec<&Put> = answers.iter().flatten().collect();
        assert_eq!(won.len(), 1, "in round {round}: {answers:?}");
        // The losers were told of the write that won, which is there to be read.
        for answer in &answers {
            match answer {
                Ok(_) => {}
                Err(StorageError::Exists { current }) => assert_eq!(current.mod_rev, won[0].rev),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

pub(super) async fn increments_by_revision_lose_none(store: Arc<dyn Store>) {
    put(&*store, "/a/n", "0").await;
    in_parallel(8, |_| {
        let store = Arc::clone(&store);
        async move {
            for _ in 0..20 {
                increment(&*store).await;
            }
        }
    })
    .await;
    assert_eq!(texts_under(&*store, "/a/n", At::Latest).await, ["/a/n=160"]);
}

async fn increment(store: &dyn Store) {
    let (kv, _) = store.get(&key("/a/n"), At::Latest).await.unwrap();
    let mut kv = kv.unwrap();
    loop {
        let number: u64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
        let next = value(&(number + 1).to_string());
        match store.put(key("/a/n"), next, Expect::ModRev(kv.mod_rev), None).await {
            Ok(_) => return,
            Err(StorageError::Conflict { current }) => kv = *current,
            Err(other) => panic!("{other:?}"),
        }
    }
}

pub(super) async fn watches_under_concurrent_writers_have_no_gap_and_no_repeat(
    store: Arc<dyn Store>,
) {
    let start = store.progress().await.unwrap();
    let total = WRITERS * WRITES_EACH;
    let watchers: Vec<_> = (0..6)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { watch_in_pieces(&*store, start, total, n).await })
        })
        .collect();
    let written = in_parallel(WRITERS, |writer| {
        let store = Arc::clone(&store);
        async move {
            let mut revs = Vec::new();
            for n in 0..WRITES_EACH {
                let at = format!("/a/{}", (writer + n) % 11);
                let written = put(&*store, &at, &format!("{writer}.{n}")).await;
                revs.push((written.rev, format!("{at}={writer}.{n}")));
                put(&*store, "/b/noise", "1").await;
            }
            assert!(revs.is_sorted_by(|a, b| a.0 < b.0), "a writer's revisions rise");
            revs
        }
    })
    .await;
    let mut due: Vec<(Rev, String)> = written.into_iter().flatten().collect();
    due.sort();
    for watcher in watchers {
        let events = watcher.await.expect("a watcher panicked");
        check_history(&events);
        let got: Vec<(Rev, String)> = events
            .iter()
            .map(|event| (event.rev, event.value.as_ref().map(kv_text).unwrap_or_default()))
            .collect();
        assert_eq!(got, due);
    }
}

/// Watches, and now and then goes away and comes back where it was.
async fn watch_in_pieces(store: &dyn Store, start: Rev, total: usize, piece: usize) -> Vec<Event> {
    let mut events = Vec::new();
    let mut after = start;
    while events.len() < total {
        let mut watcher = Watcher::new(store, "/a/", after);
        for _ in 0..=piece {
            if events.len() < total {
                events.extend(watcher.next().await.unwrap().events);
            }
        }
        after = watcher.progress;
    }
    events
}

/// What an event says was there before is what the event before it left.
fn check_history(events: &[Event]) {
    let mut state: BTreeMap<Key, Kv> = BTreeMap::new();
    for event in events {
        assert_eq!(event.previous.as_ref(), state.get(&event.key), "before {event:?}");
        match &event.value {
            Some(kv) => state.insert(event.key.clone(), kv.clone()),
            None => state.remove(&event.key),
        };
    }
}

pub(super) async fn acknowledged_writes_are_seen_by_all_who_ask_later(store: Arc<dyn Store>) {
    in_parallel(WRITERS, |writer| {
        let store = Arc::clone(&store);
        async move {
            for n in 0..WRITES_EACH {
                let at = format!("/a/{writer}");
                let written = put(&*store, &at, &n.to_string()).await.rev;
                let (kv, rev) = store.get(&key(&at), At::Latest).await.unwrap();
                assert_eq!((kv.unwrap().mod_rev, rev >= written), (written, true));
                assert!(store.progress().await.unwrap() >= written);
                // Acknowledged in revision order: what came before is complete too.
                let page =
                    store.range(everything_under("/a/", At::Exactly(written))).await.unwrap();
                assert!(page.kvs.iter().all(|kv| kv.mod_rev <= written));
                assert!(page.kvs.iter().any(|kv| kv.mod_rev == written));
            }
        }
    })
    .await;
}
