//! Reads of one key and of many, now and at a revision.

use super::*;

pub(super) async fn a_read_sees_the_write_that_was_acknowledged(store: Arc<dyn Store>) {
    for round in 0..20 {
        let text = round.to_string();
        let written = put(&*store, "/a/x", &text).await.rev;
        let (kv, rev) = store.get(&key("/a/x"), At::Latest).await.unwrap();
        if let Some(at_once) = store.get_at_once(&key("/a/x")) {
            assert_eq!(at_once.unwrap(), (kv.clone(), rev));
        }
        assert_eq!((kv_text(&kv.unwrap()), rev), (format!("/a/x={text}"), written));
        let page = store.range(everything_under("/a/", At::Latest)).await.unwrap();
        assert_eq!((page.kvs[0].mod_rev, page.rev), (written, written));
        assert_eq!(store.progress().await.unwrap(), written);
    }
}

pub(super) async fn a_read_at_a_revision_sees_that_state(store: Arc<dyn Store>) {
    let created = put(&*store, "/a/x", "1").await.rev;
    let other = put(&*store, "/a/y", "1").await.rev;
    let updated = put(&*store, "/a/x", "2").await.rev;
    let deleted = delete(&*store, "/a/x").await;
    let again = put(&*store, "/a/x", "3").await.rev;
    let cases: [(Rev, &[&str]); 5] = [
        (created, &["/a/x=1"]),
        (other, &["/a/x=1", "/a/y=1"]),
        (updated, &["/a/x=2", "/a/y=1"]),
        (deleted, &["/a/y=1"]),
        (again, &["/a/x=3", "/a/y=1"]),
    ];
    for (rev, expected) in cases {
        assert_eq!(texts_under(&*store, "/a/", At::Exactly(rev)).await, expected, "at {rev}");
        let (kv, read) = store.get(&key("/a/x"), At::Exactly(rev)).await.unwrap();
        let expected = expected.iter().find(|text| text.starts_with("/a/x"));
        assert_eq!(kv.map(|kv| kv_text(&kv)).as_deref(), expected.copied(), "at {rev}");
        assert_eq!(read, rev);
    }
}

pub(super) async fn a_range_has_keys_in_byte_order_under_its_prefix_only(store: Arc<dyn Store>) {
    let keys = ["/b", "/a/z", "/a/", "/a/b/c", "/a/b", "/a-", "/a0", "/a/\u{e9}", "/a"];
    for at in keys {
        put(&*store, at, "1").await;
    }
    let cases: [(&str, Option<&str>, &[&str]); 6] = [
        ("/a/", None, &["/a/", "/a/b", "/a/b/c", "/a/z", "/a/\u{e9}"]),
        ("/a/", Some("/a/b"), &["/a/b/c", "/a/z", "/a/\u{e9}"]),
        ("/a/", Some("/a"), &["/a/", "/a/b", "/a/b/c", "/a/z", "/a/\u{e9}"]),
        ("/a/", Some("/a/nothing"), &["/a/z", "/a/\u{e9}"]),
        ("/a/", Some("/b"), &[]),
        ("/c", None, &[]),
    ];
    for (prefix, after, expected) in cases {
        let request = RangeReq { after: after.map(key), ..everything_under(prefix, At::Latest) };
        let page = store.range(request).await.unwrap();
        let got: Vec<String> = page.kvs.iter().map(|kv| kv.key.to_string()).collect();
        assert_eq!(got, expected, "under {prefix} after {after:?}");
        assert_eq!((page.more, page.remaining), (false, 0));
    }
}

pub(super) async fn a_range_pages_at_one_revision_while_writes_go_on(store: Arc<dyn Store>) {
    for n in 0..10 {
        put(&*store, &format!("/a/{n}"), "old").await;
    }
    put(&*store, "/b", "beside").await;
    let (mut seen, mut after, mut at) = (Vec::new(), None, At::Latest);
    loop {
        let request = RangeReq { after, limit: 3, at, ..everything_under("/a/", at) };
        let page = store.range(request).await.unwrap();
        assert!(matches!(at, At::Latest) || at == At::Exactly(page.rev));
        at = At::Exactly(page.rev);
        seen.extend(page.kvs.iter().map(kv_text));
        assert_eq!(page.remaining, 10 - seen.len() as u64);
        assert_eq!(page.more, page.remaining > 0);
        after = page.kvs.last().map(|kv| kv.key.clone());
        // None of these may show in the pages that follow.
        put(&*store, "/a/9", "new").await;
        put(&*store, &format!("/a/{}5", seen.len()), "new").await;
        delete(&*store, &format!("/a/{}", seen.len() - 1)).await;
        if !page.more {
            break;
        }
    }
    let expected: Vec<String> = (0..10).map(|n| format!("/a/{n}=old")).collect();
    assert_eq!(seen, expected);
}

pub(super) async fn a_range_without_values_leaves_them_empty(store: Arc<dyn Store>) {
    let rev = put(&*store, "/a/x", "1").await.rev;
    let request = RangeReq { keys_only: true, ..everything_under("/a/", At::Latest) };
    let page = store.range(request).await.unwrap();
    let expected = Kv { key: key("/a/x"), value: Bytes::new(), create_rev: rev, mod_rev: rev };
    assert_eq!(page.kvs, [expected]);
}

pub(super) async fn a_count_follows_creations_and_deletes(store: Arc<dyn Store>) {
    let prefix = key("/a/");
    assert_eq!(store.count(&prefix).await.unwrap(), 0);
    for n in 0..7 {
        put(&*store, &format!("/a/{n}"), "1").await;
        put(&*store, "/a/0", "again").await;
        put(&*store, &format!("/b/{n}"), "1").await;
        assert_eq!(store.count(&prefix).await.unwrap(), n + 1);
    }
    delete(&*store, "/a/3").await;
    assert_eq!(store.count(&prefix).await.unwrap(), 6);
}

pub(super) async fn an_empty_store_has_a_revision_that_is_not_0(store: Arc<dyn Store>) {
    let rev = store.progress().await.unwrap();
    assert_ne!(rev, Rev(0));
    assert_eq!(store.get(&key("/a"), At::Latest).await.unwrap(), (None, rev));
    let page = store.range(everything_under("/", At::Latest)).await.unwrap();
    assert_eq!((page.kvs.len(), page.rev, page.more), (0, rev, false));
    // What an empty list says is where a watch begins.
    let mut watcher = Watcher::new(&*store, "/", page.rev);
    let first = put(&*store, "/a", "1").await.rev;
    assert!(first > rev);
    assert_eq!(watcher.events(1).await[0].rev, first);
}

pub(super) async fn a_future_revision_is_an_error(store: Arc<dyn Store>) {
    let current = put(&*store, "/a/x", "1").await.rev;
    let asked = Rev(current.0 + 1000);
    let answers = [
        store.get(&key("/a/x"), At::Exactly(asked)).await.map(drop),
        store.range(everything_under("/a/", At::Exactly(asked))).await.map(drop),
    ];
    for answer in answers {
        match answer {
            Err(StorageError::Future { asked: a, current: c }) => {
                assert_eq!((a, c), (asked, current))
            }
            other => panic!("{other:?}"),
        }
    }
}
