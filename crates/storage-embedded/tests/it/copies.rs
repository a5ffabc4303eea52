//! Copies in one file, and stores that are made of them.

use component_base::SeededRandom;
use storage::StorageError;
use storage_embedded::{Copied, LEAP, inspect, restore};

use super::*;

#[tokio::test]
async fn a_store_that_is_made_of_a_copy_has_its_state_and_forgets_what_came_before() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new, file) =
        (dir.path().join("old"), dir.path().join("new"), dir.path().join("copy"));
    let store = open(&old);
    for n in 0..3000 {
        put(&store, &format!("/a/{}", n % 1000), &"v".repeat(n)).await;
    }
    store.delete("/a/1".into(), Expect::Any).await.unwrap();
    let copied = store.copy(&file).unwrap();
    let page = store.range(everything(At::Latest)).await.unwrap();
    assert_eq!((copied.rev, copied.keys), (page.rev, 999));
    let later = put(&store, "/a/later", "1").await;
    assert!(store.copy(&file).is_err(), "a copy does not replace another");
    drop(store);

    let random = SeededRandom::new(1);
    assert_eq!(restore(&file, &new, &random).unwrap(), copied);
    assert!(restore(&file, &new, &random).is_err(), "nor a store one that is there");
    for _ in 0..2 {
        let store = open(&new);
        let mut again = store.range(everything(At::Latest)).await.unwrap();
        again.kvs.retain(|kv| kv.key.starts_with(&"/a/".into()));
        assert_eq!(again.kvs, page.kvs, "values and the revisions of their writes");
        assert!(again.rev.0 >= copied.rev.0 + LEAP);
        // Somebody who saw what is not in the copy has to look at everything anew.
        for seen in [copied.rev, later] {
            let first = store.watch("/a/".into(), seen).next().await.unwrap();
            assert!(matches!(first, Err(StorageError::Compacted { .. })), "{first:?}");
        }
        let written = put(&store, "/b/x", "1").await;
        assert!(written > again.rev);
        store.delete("/b/x".into(), Expect::Any).await.unwrap();
    }
}

#[tokio::test]
async fn a_copy_that_is_not_whole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("copy");
    let store = open(&dir.path().join("store"));
    put(&store, "/a/x", "value").await;
    let size = store.size_bytes().await.unwrap().unwrap();
    assert!(size > "value".len() as u64, "{size}");
    let copied = store.copy(&file).unwrap();
    assert_eq!(inspect(&file).unwrap(), Copied { keys: 1, bytes: 9, ..copied });
    let whole = std::fs::read(&file).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        let broken = dir.path().join("broken");
        std::fs::write(&broken, bytes).unwrap();
        let into = dir.path().join("none");
        let refused = restore(&broken, &into, &SeededRandom::new(1));
        assert!(refused.is_err() && !into.exists(), "{what}");
    };
    refused(b"", "nothing");
    refused(b"not a copy at all, but long enough to have a header of one", "something else");
    for at in [9, 20, 60, whole.len() - 3] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        refused(&bytes, &format!("a bit at {at}"));
    }
    refused(&whole[..whole.len() - 1], "the end is missing");
}
