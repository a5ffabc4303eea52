//! Preconditions, revisions, previous values and limits of writes.

use super::*;
use crate::{MAX_KEY_BYTES, MAX_VALUE_BYTES};

pub(super) async fn a_put_makes_the_next_revision_and_tells_what_was_there(store: Arc<dyn Store>) {
    let first = put(&*store, "/a/x", "1").await;
    assert_ne!(first.rev, Rev(0));
    assert_eq!(first.previous, None);
    let second = put(&*store, "/a/x", "2").await;
    assert_eq!(second.rev, Rev(first.rev.0 + 1));
    let previous = second.previous.unwrap();
    assert_eq!(kv_text(&previous), "/a/x=1");
    assert_eq!((previous.create_rev, previous.mod_rev), (first.rev, first.rev));
    let third = put(&*store, "/b/y", "3").await;
    assert_eq!((third.rev, third.previous), (Rev(second.rev.0 + 1), None));
    let (kv, rev) = store.get(&key("/a/x"), At::Latest).await.unwrap();
    let kv = kv.unwrap();
    assert_eq!((kv.create_rev, kv.mod_rev, rev), (first.rev, second.rev, third.rev));
}

pub(super) async fn a_put_that_expects_absence_fails_on_what_exists(store: Arc<dyn Store>) {
    let create = |text| store.put(key("/a/x"), value(text), Expect::Absent, None);
    create("1").await.unwrap();
    match create("2").await {
        Err(StorageError::Exists { current }) => assert_eq!(kv_text(&current), "/a/x=1"),
        other => panic!("{other:?}"),
    }
    let deleted = delete(&*store, "/a/x").await;
    let again = create("3").await.unwrap();
    assert_eq!((again.rev, again.previous), (Rev(deleted.0 + 1), None));
    let (kv, _) = store.get(&key("/a/x"), At::Latest).await.unwrap();
    assert_eq!(kv.unwrap().create_rev, again.rev);
}

pub(super) async fn a_put_that_expects_a_revision_fails_on_another(store: Arc<dyn Store>) {
    let update = |rev, text| store.put(key("/a/x"), value(text), Expect::ModRev(rev), None);
    match update(Rev(1), "0").await {
        Err(StorageError::NotFound { key }) => assert_eq!(key, super::key("/a/x")),
        other => panic!("{other:?}"),
    }
    let first = put(&*store, "/a/x", "1").await.rev;
    let second = update(first, "2").await.unwrap();
    assert_eq!(second.previous.unwrap().mod_rev, first);
    match update(first, "3").await {
        Err(StorageError::Conflict { current }) => {
            assert_eq!((kv_text(&current), current.mod_rev), ("/a/x=2".into(), second.rev));
        }
        other => panic!("{other:?}"),
    }
}

pub(super) async fn a_delete_answers_with_what_was_there(store: Arc<dyn Store>) {
    let written = put(&*store, "/a/x", "1").await.rev;
    let deleted = store.delete(key("/a/x"), Expect::ModRev(written)).await.unwrap();
    assert_eq!(deleted.rev, Rev(written.0 + 1));
    assert_eq!((kv_text(&deleted.previous), deleted.previous.mod_rev), ("/a/x=1".into(), written));
    assert_eq!(store.get(&key("/a/x"), At::Latest).await.unwrap(), (None, deleted.rev));
}

pub(super) async fn a_delete_checks_what_it_expects(store: Arc<dyn Store>) {
    for expect in [Expect::Any, Expect::ModRev(Rev(1))] {
        let answer = store.delete(key("/a/x"), expect).await;
        assert!(matches!(answer, Err(StorageError::NotFound { .. })), "{answer:?}");
    }
    let first = put(&*store, "/a/x", "1").await.rev;
    let second = put(&*store, "/a/x", "2").await.rev;
    match store.delete(key("/a/x"), Expect::ModRev(first)).await {
        Err(StorageError::Conflict { current }) => assert_eq!(current.mod_rev, second),
        other => panic!("{other:?}"),
    }
    store.delete(key("/a/x"), Expect::Any).await.unwrap();
}

pub(super) async fn a_failed_write_makes_no_revision(store: Arc<dyn Store>) {
    let before = put(&*store, "/a/x", "1").await.rev;
    store.put(key("/a/x"), value("2"), Expect::Absent, None).await.unwrap_err();
    store.put(key("/a/y"), value("2"), Expect::ModRev(before), None).await.unwrap_err();
    store.delete(key("/a/y"), Expect::Any).await.unwrap_err();
    assert_eq!(put(&*store, "/a/x", "3").await.rev, Rev(before.0 + 1));
}

pub(super) async fn too_large_keys_and_values_are_refused(store: Arc<dyn Store>) {
    let put = |key_bytes: usize, value_bytes: usize| {
        let key = Key::new(vec![b'k'; key_bytes]);
        store.put(key, Bytes::from(vec![b'v'; value_bytes]), Expect::Any, None)
    };
    put(MAX_KEY_BYTES, 1).await.unwrap();
    let cases = [(MAX_KEY_BYTES + 1, 1, "key"), (1, MAX_VALUE_BYTES + 1, "value")];
    for (key_bytes, value_bytes, expected) in cases {
        match put(key_bytes, value_bytes).await {
            Err(StorageError::TooLarge { what, bytes, limit }) => {
                assert_eq!((what, bytes), (expected, key_bytes.max(value_bytes)));
                assert_eq!(bytes, limit + 1);
            }
            other => panic!("{other:?}"),
        }
    }
    put(1, MAX_VALUE_BYTES).await.unwrap();
}

pub(super) async fn keys_and_values_are_any_bytes(store: Arc<dyn Store>) {
    let all: Vec<u8> = (0..=255).collect();
    let key = Key::new([b"/a/".as_slice(), &all].concat());
    store.put(key.clone(), Bytes::from(all.clone()), Expect::Absent, None).await.unwrap();
    let (kv, _) = store.get(&key, At::Latest).await.unwrap();
    assert_eq!(kv.unwrap().value, all);
    store.put(super::key("/a/empty"), Bytes::new(), Expect::Any, None).await.unwrap();
    let (kv, _) = store.get(&super::key("/a/empty"), At::Latest).await.unwrap();
    assert_eq!(kv.unwrap().value, Bytes::new());
}
