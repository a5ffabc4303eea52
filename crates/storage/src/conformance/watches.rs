//! Watches: every change once, in order, and progress where nothing changes.

use super::*;

pub(super) async fn a_watch_has_every_change_with_its_previous_value(store: Arc<dyn Store>) {
    let start = store.progress().await.unwrap();
    let mut live = Watcher::new(&*store, "/a/", start);
    put(&*store, "/a/x", "1").await;
    put(&*store, "/b/x", "beside").await;
    put(&*store, "/a/x", "2").await;
    delete(&*store, "/a/x").await;
    let last = put(&*store, "/a/x", "3").await.rev;
    let expected = ["/a/x:->1", "/a/x:1>2", "/a/x:2>-", "/a/x:->3"];
    let mut late = Watcher::new(&*store, "/a/", start);
    for watcher in [&mut live, &mut late] {
        let events = watcher.events_to(last).await;
        assert_eq!(events.iter().map(event_text).collect::<Vec<_>>(), expected);
    }
}

pub(super) async fn a_watch_begins_after_any_revision(store: Arc<dyn Store>) {
    let start = store.progress().await.unwrap();
    let mut written = Vec::new();
    for n in 0..30 {
        let under = if n % 3 == 0 { "/b" } else { "/a" };
        let rev = put(&*store, &format!("{under}/{}", n % 5), &n.to_string()).await.rev;
        written.push((under, rev));
    }
    let last = written.last().unwrap().1;
    let starts = written.iter().map(|(_, rev)| *rev).chain([start]);
    for after in starts {
        let events = Watcher::new(&*store, "/a/", after).events_to(last).await;
        let got: Vec<Rev> = events.iter().map(|event| event.rev).collect();
        let due = written.iter().filter(|(under, rev)| *under == "/a" && *rev > after);
        assert_eq!(got, due.map(|(_, rev)| *rev).collect::<Vec<_>>(), "after {after}");
    }
}

pub(super) async fn watches_of_nested_and_neighbouring_prefixes_see_their_own(
    store: Arc<dyn Store>,
) {
    let start = store.progress().await.unwrap();
    let prefixes = ["", "/", "/a", "/a/", "/a/b", "/a/b/", "/a/bc/", "/ab/", "/b/", "/a/b/c"];
    let mut watchers: Vec<(&str, Watcher)> =
        prefixes.iter().map(|prefix| (*prefix, Watcher::new(&*store, prefix, start))).collect();
    let keys = ["/a/b/c", "/a/b", "/a", "/ab/c", "/b/x", "/a/bc/d", "/a/b/c/d", "z", "/a/b/", "/c"];
    let mut last = start;
    for at in keys {
        last = put(&*store, at, "1").await.rev;
    }
    for (prefix, watcher) in &mut watchers {
        let events = watcher.events_to(last).await;
        let got: Vec<String> = events.iter().map(|event| event.key.to_string()).collect();
        let due: Vec<&str> = keys.into_iter().filter(|at| at.starts_with(*prefix)).collect();
        assert_eq!(got, due, "under {prefix:?}");
    }
}

pub(super) async fn a_quiet_watch_reports_progress_after_writes_elsewhere(store: Arc<dyn Store>) {
    let start = put(&*store, "/a/x", "1").await.rev;
    let mut quiet = Watcher::new(&*store, "/a/", start);
    for round in 0..3 {
        let mut last = start;
        for n in 0..10 {
            last = put(&*store, "/b/x", &format!("{round}.{n}")).await.rev;
        }
        assert_eq!(quiet.events_to(last).await, []);
    }
}

pub(super) async fn a_quiet_watch_reports_progress_when_asked(store: Arc<dyn Store>) {
    let start = put(&*store, "/a/x", "1").await.rev;
    let mut quiet = Watcher::new(&*store, "/a/", start);
    for n in 0..50 {
        put(&*store, "/b/x", &n.to_string()).await;
        let current = store.progress().await.unwrap();
        assert_eq!(quiet.events_to(current).await, []);
    }
}

pub(super) async fn progress_under_a_prefix_is_reached_by_its_watch(store: Arc<dyn Store>) {
    let start = store.progress().await.unwrap();
    put(&*store, "/b/x", "1").await;
    let mut watcher = Watcher::new(&*store, "/a/", start);
    for n in 0..20 {
        if n % 2 == 0 {
            let written = put(&*store, "/a/x", &n.to_string()).await.rev;
            assert!(store.progress_under(&key("/a/")).await.unwrap() >= written);
        }
        put(&*store, "/b/x", &n.to_string()).await;
        let goal = store.progress_under(&key("/a/")).await.unwrap();
        watcher.events_to(goal).await;
    }
    assert!(store.progress_under(&key("/unwatched/")).await.unwrap() >= start);
}

pub(super) async fn a_watch_that_begins_in_the_future_ends_with_an_error(store: Arc<dyn Store>) {
    let current = put(&*store, "/a/x", "1").await.rev;
    let mut watcher = Watcher::new(&*store, "/a/", Rev(current.0 + 1000));
    let answer = watcher.next().await;
    assert!(matches!(answer, Err(StorageError::Future { .. })), "{answer:?}");
    assert!(watcher.stream.next().await.is_none());
}

/// More than one batch holds, read by a watcher that sleeps meanwhile.
pub(super) async fn a_slow_watch_gets_everything_or_is_told_that_it_cannot(store: Arc<dyn Store>) {
    let start = store.progress().await.unwrap();
    let mut slow = Watcher::new(&*store, "/a/", start);
    let mut due = Vec::new();
    for n in 0..1500 {
        due.push(put(&*store, &format!("/a/{}", n % 7), &n.to_string()).await.rev);
    }
    let mut got = Vec::new();
    while got.len() < due.len() {
        match slow.next().await {
            Ok(batch) => got.extend(batch.events.iter().map(|event| event.rev)),
            Err(StorageError::Compacted { .. }) => break,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(got, due[..got.len()]);
}
