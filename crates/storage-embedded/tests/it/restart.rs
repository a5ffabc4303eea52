//! What a new process finds, and what it refuses.

use std::os::unix::fs::PermissionsExt;

use storage::{StorageError, Ttl};

use super::*;

#[tokio::test]
async fn state_history_and_times_to_live_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = put(&store, "/a/x", "1").await;
    put(&store, "/a/x", "2").await;
    put(&store, "/a/gone", "1").await;
    store.delete("/a/gone".into(), Expect::Any).await.unwrap();
    let ttl = Some(Ttl { seconds: 1 });
    store.put("/a/mortal".into(), Bytes::from("1"), Expect::Any, ttl).await.unwrap();
    let before = (history(&store, first), store.range(everything(At::Latest)).await.unwrap());
    drop(store);

    let store = open(dir.path());
    let after = (history(&store, first), store.range(everything(At::Latest)).await.unwrap());
    assert_eq!(before, after);
    // A watch that was at `first` goes on, and sees what happens next.
    let mut watch = store.watch("/a/".into(), before.1.rev);
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!((batch.events[0].key.clone(), &batch.events[0].value), ("/a/mortal".into(), &None));
    assert!(put(&store, "/a/y", "1").await > batch.events[0].rev);
}

#[tokio::test]
async fn revisions_rise_over_restarts_even_without_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Rev(0);
    for round in 0..6 {
        let store = open(dir.path());
        let current = store.progress().await.unwrap();
        assert!(current >= last);
        if round % 2 == 0 {
            let written = put(&store, "/a/x", "1").await;
            assert!(written > current);
            last = written;
        }
        assert!(files(dir.path(), "log-").len() <= 5, "empty segments are removed");
    }
}

#[tokio::test]
async fn disk_use_is_bounded_and_history_goes_back_as_far_as_promised() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = Vec::new();
    for round in 0..4 {
        let store = try_open(dir.path(), SMALL).unwrap();
        for n in 0..1000 {
            let value = "v".repeat(700) + &format!("{round}.{n}");
            written.push(put(&store, &format!("/a/{}", n % 50), &value).await);
        }
        let history = history_from_oldest(&store).await;
        assert!(history.len() > 30, "{} events", history.len());
        let newest = &written[written.len() - history.len()..];
        assert!(history.iter().map(|event| event.rev).eq(newest.iter().copied()));
    }
    let store = try_open(dir.path(), SMALL).unwrap();
    assert_eq!(keys(&store).await.len(), 50);
    let newest = history_from_oldest(&store).await.last().unwrap().rev;
    assert_eq!(newest, *written.last().unwrap());
    drop(store);
    let bytes: u64 = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 600 << 10, "{bytes} bytes for 3.2 MB that were written");
}

async fn history_from_oldest(store: &EmbeddedStore) -> Vec<Event> {
    match store.get(&"/".into(), At::Exactly(Rev(1))).await {
        Err(StorageError::Compacted { oldest }) => history(store, oldest),
        Ok(_) => history(store, Rev(1)),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_compaction_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = put(&store, "/a/x", "1").await;
    let second = put(&store, "/a/x", "2").await;
    store.compact(second).await.unwrap();
    drop(store);
    let answer = open(dir.path()).get(&"/a/x".into(), At::Exactly(first)).await;
    assert!(
        matches!(answer, Err(StorageError::Compacted { oldest }) if oldest == second),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let error = try_open(dir.path(), Limits::default()).unwrap_err();
    let expected = format!("the store in {} is in use by another process", dir.path().display());
    assert_eq!(error.to_string(), expected);
    drop(store);
    open(dir.path());
}

#[tokio::test]
async fn a_newer_format_is_refused_with_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    put(&open(dir.path()), "/a/x", "1").await;
    let version = dir.path().join("VERSION");
    std::fs::write(&version, "kubelith-store 7\n").unwrap();
    let error = try_open(dir.path(), Limits::default()).unwrap_err();
    let expected = "has format 7, this program reads up to format 1";
    assert_eq!(error.to_string(), format!("{} {expected}", version.display()));
}

#[tokio::test]
async fn only_the_owner_reads_the_files() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("deep/store");
    let store = try_open(&dir, SMALL).unwrap();
    for n in 0..300 {
        put(&store, &format!("/a/{n}"), &"v".repeat(500)).await;
    }
    drop(store);
    assert!(!files(&dir, "snapshot-").is_empty());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for name in files(&dir, "") {
        assert_eq!(mode(&dir.join(&name)), 0o600, "{name}");
    }
}
