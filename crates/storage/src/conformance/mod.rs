//! The store's contract as tests that every backend passes.
//!
//! A backend's own tests call [`run`] with a way to make a fresh, empty store. A broken promise is a panic
//! that names the case. Cases use only the [`Store`] port, wait for states and never sleep for a while;
//! only expiry takes as long as it takes.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::wildcard_imports, reason = "the cases share the helpers of this file")]

mod concurrency;
mod history;
mod reads;
mod watches;
mod writes;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};

use crate::{At, Batch, Event, Expect, Key, Kv, Put, RangeReq, Rev, StorageError, Store};

/// How long a case waits for what must come. Only a broken store takes that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A promise of the contract.
pub struct Case {
    /// What is promised, as a sentence.
    pub name: &'static str,
    /// Panics where the promise is broken.
    pub check: fn(Arc<dyn Store>) -> BoxFuture<'static, ()>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($module:ident: $($name:ident)+;)+) => {
        /// All of them.
        pub const CASES: &[Case] = &[$($(
            Case { name: stringify!($name), check: |store| $module::$name(store).boxed() },
        )+)+];
    };
}

cases! {
    writes:
        a_put_makes_the_next_revision_and_tells_what_was_there
        a_put_that_expects_absence_fails_on_what_exists
        a_put_that_expects_a_revision_fails_on_another
        a_delete_answers_with_what_was_there
        a_delete_checks_what_it_expects
        a_failed_write_makes_no_revision
        too_large_keys_and_values_are_refused
        keys_and_values_are_any_bytes;
    reads:
        a_read_sees_the_write_that_was_acknowledged
        a_read_at_a_revision_sees_that_state
        a_range_has_keys_in_byte_order_under_its_prefix_only
        a_range_pages_at_one_revision_while_writes_go_on
        a_range_without_values_leaves_them_empty
        a_count_follows_creations_and_deletes
        an_empty_store_has_a_revision_that_is_not_0
        a_future_revision_is_an_error;
    history:
        a_compacted_revision_is_an_error_that_names_the_oldest
        compaction_keeps_the_state_and_later_history
        compaction_of_the_future_is_refused
        a_key_expires_with_an_ordinary_delete
        a_write_renews_or_ends_a_time_to_live;
    watches:
        a_watch_has_every_change_with_its_previous_value
        a_watch_begins_after_any_revision
        watches_of_nested_and_neighbouring_prefixes_see_their_own
        a_quiet_watch_reports_progress_after_writes_elsewhere
        a_quiet_watch_reports_progress_when_asked
        progress_under_a_prefix_is_reached_by_its_watch
        a_watch_that_begins_in_the_future_ends_with_an_error
        a_slow_watch_gets_everything_or_is_told_that_it_cannot;
    concurrency:
        of_many_creations_one_wins
        increments_by_revision_lose_none
        watches_under_concurrent_writers_have_no_gap_and_no_repeat
        acknowledged_writes_are_seen_by_all_who_ask_later;
}

/// Checks every case on a fresh store of `factory`.
///
/// # Panics
/// When a case fails, with its name.
pub async fn run<F>(factory: impl Fn() -> F)
where
    F: Future<Output = Arc<dyn Store>>,
{
    let mut broken = Vec::new();
    for case in CASES {
        let store = factory().await;
        let check = AssertUnwindSafe((case.check)(store)).catch_unwind();
        match tokio::time::timeout(PATIENCE * 4, check).await {
            Ok(Ok(())) => {}
            Ok(Err(panic)) => broken.push(format!("{}: {}", case.name, panic_text(&*panic))),
            Err(_) => broken.push(format!("{}: does not come to an end", case.name)),
        }
    }
    assert!(broken.is_empty(), "the store breaks its contract:\n{}", broken.join("\n"));
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked")
}

fn key(text: &str) -> Key {
    Key::from(text)
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &dyn Store, at: &str, text: &str) -> Put {
    store.put(key(at), value(text), Expect::Any, None).await.unwrap()
}

async fn delete(store: &dyn Store, at: &str) -> Rev {
    store.delete(key(at), Expect::Any).await.unwrap().rev
}

fn everything_under(prefix: &str, at: At) -> RangeReq {
    RangeReq { prefix: key(prefix), after: None, limit: 0, keys_only: false, at }
}

/// What is under a prefix, as `key=value` texts.
async fn texts_under(store: &dyn Store, prefix: &str, at: At) -> Vec<String> {
    let page = store.range(everything_under(prefix, at)).await.unwrap();
    page.kvs.iter().map(kv_text).collect()
}

fn kv_text(kv: &Kv) -> String {
    format!("{}={}", kv.key, String::from_utf8_lossy(&kv.value))
}

fn event_text(event: &Event) -> String {
    let side = |kv: &Option<Kv>| {
        kv.as_ref().map_or("-".into(), |kv| String::from_utf8_lossy(&kv.value).into_owned())
    };
    format!("{}:{}>{}", event.key, side(&event.previous), side(&event.value))
}

/// A watch that checks the order of what it gets.
struct Watcher {
    stream: BoxStream<'static, Result<Batch, StorageError>>,
    progress: Rev,
}

impl Watcher {
    fn new(store: &dyn Store, prefix: &str, after: Rev) -> Self {
        Self { stream: store.watch(key(prefix), after), progress: after }
    }

    async fn next(&mut self) -> Result<Batch, StorageError> {
        let next = tokio::time::timeout(PATIENCE, self.stream.next()).await;
        let batch =
            next.expect("a watch that must say something is silent").expect("a watch ended")?;
        for event in &batch.events {
            assert!(event.rev > self.progress, "{event:?} after progress {}", self.progress);
            assert!(event.value.as_ref().is_none_or(|kv| kv.mod_rev == event.rev), "{event:?}");
            self.progress = event.rev;
        }
        assert!(batch.progress >= self.progress, "{} < {}", batch.progress, self.progress);
        self.progress = batch.progress;
        Ok(batch)
    }

    /// All events up to a revision.
    async fn events_to(&mut self, rev: Rev) -> Vec<Event> {
        let mut events = Vec::new();
        while self.progress < rev {
            events.extend(self.next().await.unwrap().events);
        }
        events
    }

    /// The next `count` events.
    async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.next().await.unwrap().events);
        }
        events
    }
}
