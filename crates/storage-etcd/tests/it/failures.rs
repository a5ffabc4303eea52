//! Members that die under load: what was acknowledged is there, and watches have every change once.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;

const WRITERS: usize = 8;

/// Writes rising numbers under keys of its own, until told to stop; answers with the last that was acknowledged, and all
/// that may have been written.
async fn write(
    store: EtcdStore,
    writer: usize,
    mut stop: tokio::sync::watch::Receiver<bool>,
) -> (Option<(Rev, u64)>, u64) {
    let at = key(&format!("/registry/w/{writer}"));
    let (mut last, mut n) = (None, 0);
    while !*stop.borrow_and_update() {
        n += 1;
        match store.put(at.clone(), value(&n.to_string()), Expect::Any, None).await {
            Ok(put) => last = Some((put.rev, n)),
            Err(StorageError::Unknown(_) | StorageError::Unavailable(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    (last, n)
}

/// Follows everything until a revision, coming back where it was.
async fn follow(
    store: EtcdStore,
    after: Rev,
    goal: tokio::sync::oneshot::Receiver<Rev>,
) -> Vec<storage::Event> {
    let mut events = Vec::new();
    let (mut seen, mut goal) = (after, Box::pin(goal));
    let mut end = None;
    let mut watch = store.watch(key("/registry/w/"), seen);
    while end.is_none_or(|end| seen < end) {
        let batch = tokio::select! {
            batch = watch.next() => batch.unwrap().unwrap(),
            rev = &mut goal, if end.is_none() => {
                end = Some(rev.unwrap());
                continue;
            }
        };
        for event in batch.events {
            assert!(event.rev > seen, "{event:?} after {seen}");
            seen = event.rev;
            events.push(event);
        }
        assert!(batch.progress >= seen);
        seen = batch.progress;
    }
    events
}

fn check_history(events: &[storage::Event]) {
    let mut state: BTreeMap<Key, storage::Kv> = BTreeMap::new();
    for event in events {
        assert_eq!(event.previous.as_ref(), state.get(&event.key), "before {event:?}");
        match &event.value {
            Some(kv) => state.insert(event.key.clone(), kv.clone()),
            None => state.remove(&event.key),
        };
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_members_die() {
    let mut etcd = Cluster::start(3);
    let stores = [open(&etcd).await, open(&etcd).await];
    let start = stores[0].progress().await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut goals = Vec::new();
    let followers: Vec<_> = stores
        .iter()
        .map(|store| {
            let (goal, reached) = tokio::sync::oneshot::channel();
            goals.push(goal);
            tokio::spawn(follow(store.clone(), start, reached))
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|n| tokio::spawn(write(stores[n % 2].clone(), n, stopped.clone())))
        .collect();
    for round in 0..4 {
        let victim = round % 3;
        etcd.kill(victim);
        // Writes go on with two of three.
        written_anew(&stores[round % 2]).await;
        etcd.run(victim);
        written_anew(&stores[(round + 1) % 2]).await;
    }
    stop.send(true).unwrap();
    let mut ends = Vec::new();
    for writer in writers {
        ends.push(writer.await.unwrap());
    }
    let goal = written_anew(&stores[0]).await;
    goals.into_iter().for_each(|it| it.send(goal).unwrap());
    let mut histories = Vec::new();
    for follower in followers {
        let waited = tokio::time::timeout(Duration::from_secs(60), follower).await;
        histories.push(waited.expect("a watch does not come to an end").unwrap());
    }
    check_history(&histories[0]);
    assert_eq!(histories[0], histories[1]);
    for (writer, (last, n)) in ends.into_iter().enumerate() {
        let at = key(&format!("/registry/w/{writer}"));
        let (rev, acknowledged) = last.expect("nothing of a writer was acknowledged");
        let (kv, _) = stores[1].get(&at, At::Latest).await.unwrap();
        let kv = kv.expect("an acknowledged write is lost");
        let found: u64 = std::str::from_utf8(&kv.value).unwrap().parse().unwrap();
        // What was not acknowledged may be there as well, but nothing older.
        assert!(kv.mod_rev >= rev && (acknowledged..=n).contains(&found), "{found} of {n}");
        assert!(histories[0].iter().any(|event| event.rev == rev && event.key == at));
    }
}

/// Writes until it is acknowledged.
async fn written_anew(store: &EtcdStore) -> Rev {
    let begun = tokio::time::Instant::now();
    loop {
        match store.put(key("/registry/mark"), value("x"), Expect::Any, None).await {
            Ok(put) => return put.rev,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(60), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_answered_and_then_all_goes_on() {
    let mut etcd = Cluster::start(3);
    let store = open(&etcd).await;
    let first = written_anew(&store).await;
    let mut watch = store.watch(key("/registry/"), first);
    etcd.kill(1);
    etcd.kill(2);
    let answer = store.put(key("/registry/x"), value("1"), Expect::Absent, None).await;
    assert!(
        matches!(answer, Err(StorageError::Unknown(_) | StorageError::Unavailable(_))),
        "{answer:?}"
    );
    let read = store.progress().await;
    assert!(matches!(read, Err(StorageError::Unavailable(_))), "{read:?}");
    etcd.run(1);
    let last = written_anew(&store).await;
    let mut seen = first;
    while seen < last {
        seen = watch.next().await.unwrap().unwrap().progress;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_far_behind_reads_etcd_until_it_meets_the_log() {
    let etcd = Cluster::start(1);
    let store = open(&etcd).await;
    let start = store.progress().await.unwrap();
    let mut slow = store.watch(key("/registry/a/"), start);
    // More than the log keeps.
    let large = Bytes::from(vec![b'v'; 1 << 20]);
    for n in 0..48 {
        store
            .put(key(&format!("/registry/a/{n}")), large.clone(), Expect::Absent, None)
            .await
            .unwrap();
    }
    let late = open(&etcd).await;
    let mut late = late.watch(key("/registry/a/"), start);
    for watch in [&mut slow, &mut late] {
        let mut seen = Vec::new();
        while seen.len() < 48 {
            let batch = watch.next().await.unwrap().unwrap();
            seen.extend(batch.events.iter().map(|event| event.rev.0));
        }
        assert!(seen.is_sorted() && seen.len() == 48, "{seen:?}");
    }
    let last = store.put(key("/registry/a/last"), value("1"), Expect::Absent, None).await.unwrap();
    for watch in [&mut slow, &mut late] {
        assert_eq!(watch.next().await.unwrap().unwrap().events[0].rev, last.rev);
    }
}
