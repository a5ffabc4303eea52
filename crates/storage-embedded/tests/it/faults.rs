//! A disk that is full, and one that fails.

use std::sync::mpsc;
use std::time::Duration;

use component_base::{RealClock, SeededRandom};
use storage::StorageError;
use storage_embedded::sim::{Faults, SimFs};

use super::*;

fn sim_options(fs: &SimFs) -> (Options, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel();
    let options = Options {
        dir: "/store".into(),
        limits: SMALL,
        clock: Arc::new(RealClock),
        random: Arc::new(SeededRandom::new(1)),
        fs: Arc::new(fs.clone()),
        on_fatal: Arc::new(move |reason| drop(tell.send(reason.to_owned()))),
    };
    (options, told)
}

#[tokio::test]
async fn a_full_disk_fails_writes_until_there_is_space() {
    let fs = SimFs::default();
    let (options, _told) = sim_options(&fs);
    let store = EmbeddedStore::open(&options).unwrap();
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for round in 0..3 {
        fs.set_faults(Faults { space: Some(20_000 * (round + 1)), ..Faults::default() });
        for n in 0..100 {
            let key = Key::from(format!("/a/{round}.{n}"));
            match store.put(key.clone(), Bytes::from(vec![7; 900]), Expect::Any, None).await {
                Ok(_) => acknowledged.push(key.to_string()),
                Err(StorageError::Unavailable(what)) => {
                    assert!(what.starts_with("could not write to the store's log: "), "{what}");
                    refused += 1;
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(refused > 0, "the disk was never full");
        // Reads go on meanwhile.
        assert_eq!(keys(&store).await.len(), acknowledged.len());
        fs.set_faults(Faults::default());
        acknowledged.push(format!("/b/{round}"));
        put(&store, &format!("/b/{round}"), "there is space again").await;
    }
    drop(store);
    let store = EmbeddedStore::open(&options).unwrap();
    acknowledged.sort();
    assert_eq!(keys(&store).await, acknowledged);
}

#[tokio::test]
async fn a_failed_sync_ends_the_store() {
    let fs = SimFs::default();
    let (options, told) = sim_options(&fs);
    let store = EmbeddedStore::open(&options).unwrap();
    let last = put(&store, "/a/x", "1").await;
    let mut watch = store.watch("/a/".into(), last);
    fs.set_faults(Faults { sync_fails: true, ..Faults::default() });
    let answer = store.put("/a/y".into(), Bytes::new(), Expect::Any, None).await;
    assert!(matches!(&answer, Err(StorageError::Unknown(_))), "{answer:?}");
    let reason = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(reason.contains("could not make a write durable"), "{reason}");
    // The disk works again, which means nothing: what was to be synced may be lost.
    fs.set_faults(Faults::default());
    let answers = [
        store.put("/a/z".into(), Bytes::new(), Expect::Any, None).await.map(drop),
        store.delete("/a/x".into(), Expect::Any).await.map(drop),
        store.get(&"/a/x".into(), At::Latest).await.map(drop),
        store.range(everything(At::Latest)).await.map(drop),
        store.progress().await.map(drop),
        watch.next().await.unwrap().map(drop),
    ];
    for answer in answers {
        let text = answer.unwrap_err().to_string();
        assert!(text.contains("the store has ended: could not make"), "{text}");
    }
    assert!(watch.next().await.is_none());
    drop(store);
    assert_eq!(keys(&EmbeddedStore::open(&options).unwrap()).await[0], "/a/x");
}
