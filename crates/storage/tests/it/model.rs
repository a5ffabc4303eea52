//! Random histories against the simplest thing that could be right: a list of all states.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use proptest::prelude::*;
use std::sync::Arc;
use storage::mvcc::{EMPTY_REV, Mvcc, Version};
use storage::{At, Key, Kv, RangeReq, Rev, StorageError};

#[derive(Debug, Clone)]
enum Op {
    Put { key: u8, value: u8, skip: u8 },
    Delete { key: u8 },
    Compact { back: u8 },
    Watch { prefix: u8, back: u8 },
    Poll { watch: usize },
    Drop { watch: usize },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..12u8, any::<u8>(), 0..3u8).prop_map(|(key, value, skip)| Op::Put { key, value, skip }),
        3 => (0..12u8).prop_map(|key| Op::Delete { key }),
        1 => any::<u8>().prop_map(|back| Op::Compact { back }),
        2 => (0..6u8, any::<u8>()).prop_map(|(prefix, back)| Op::Watch { prefix, back }),
        4 => (0..8usize).prop_map(|watch| Op::Poll { watch }),
        1 => (0..8usize).prop_map(|watch| Op::Drop { watch }),
    ]
}

fn key(n: u8) -> Key {
    let names = ["", "/", "/a", "/a/", "/a/b", "/a/b/c", "/a/bc", "/ab", "/b", "/b/", "0", "/a-"];
    names[usize::from(n) % names.len()].into()
}

type State = BTreeMap<Key, Kv>;

struct Watcher {
    stream: futures::stream::BoxStream<'static, Result<storage::Batch, StorageError>>,
    prefix: Key,
    seen: Rev,
}

struct Model {
    mvcc: Arc<Mvcc>,
    states: BTreeMap<Rev, State>,
    changed: BTreeMap<Rev, Key>,
    watchers: Vec<Watcher>,
}

impl Model {
    fn new(log_bytes: usize) -> Self {
        let states = BTreeMap::from([(EMPTY_REV, State::new())]);
        let mvcc = Arc::new(Mvcc::new(log_bytes));
        Self { mvcc, states, changed: BTreeMap::new(), watchers: Vec::new() }
    }

    fn newest(&self) -> (Rev, &State) {
        self.states.last_key_value().map(|(rev, state)| (*rev, state)).unwrap()
    }

    fn back(&self, back: u8) -> Rev {
        Rev(self.newest().0.0.saturating_sub(u64::from(back) % 40))
    }

    fn write(&mut self, key: Key, value: Option<u8>, skip: u8) {
        let (current, state) = self.newest();
        let rev = Rev(current.0 + 1 + u64::from(skip));
        let mut state = state.clone();
        let create_rev = state.get(&key).map_or(rev, |kv| kv.create_rev);
        let version = match value {
            Some(value) => {
                let value = Bytes::from(vec![value; 8]);
                let kv = Kv { key: key.clone(), value, create_rev, mod_rev: rev };
                state.insert(key.clone(), kv.clone());
                Version::put(kv, 0)
            }
            None if state.remove(&key).is_some() => Version::delete(key.clone(), rev),
            None => return,
        };
        self.states.insert(rev, state);
        self.changed.insert(rev, key);
        self.mvcc.publish([version]);
    }

    fn poll(&mut self, watch: usize) {
        let Some(watcher) = self.watchers.get_mut(watch) else { return };
        match watcher.stream.next().now_or_never() {
            None => {}
            Some(Some(Ok(batch))) => {
                let due: Vec<Rev> = self
                    .changed
                    .range(Rev(watcher.seen.0 + 1)..=batch.progress)
                    .filter(|(_, key)| key.starts_with(&watcher.prefix))
                    .map(|(rev, _)| *rev)
                    .collect();
                assert_eq!(batch.events.iter().map(|e| e.rev).collect::<Vec<_>>(), due);
                for event in &batch.events {
                    let before = self.states.range(..event.rev).next_back().unwrap().1;
                    assert_eq!(event.previous.as_ref(), before.get(&event.key));
                    assert_eq!(event.value.as_ref(), self.states[&event.rev].get(&event.key));
                }
                watcher.seen = batch.progress;
            }
            Some(Some(Err(StorageError::Compacted { oldest }))) => {
                assert!(watcher.seen < oldest, "{} is readable from {oldest}", watcher.seen);
                self.watchers.remove(watch);
            }
            Some(other) => panic!("{other:?}"),
        }
    }

    fn check_reads(&self) {
        let oldest = self.mvcc.oldest();
        for (rev, state) in &self.states {
            let pages = self.mvcc.range(RangeReq {
                prefix: "".into(),
                after: None,
                limit: 0,
                keys_only: false,
                at: At::Exactly(*rev),
            });
            match pages.now_or_never().expect("few keys take one go") {
                Ok(page) => {
                    assert!(*rev >= oldest);
                    assert!(page.kvs.iter().eq(state.values()), "at {rev}");
                }
                Err(StorageError::Compacted { .. }) => assert!(*rev < oldest),
                Err(other) => panic!("{other:?}"),
            }
        }
        let live = self.mvcc.live();
        let state = self.newest().1;
        let bytes = state.values().map(|kv| kv.key.as_bytes().len() + kv.value.len()).sum();
        assert_eq!((live.keys, live.bytes), (state.len(), bytes));
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Put { key: n, value, skip } => self.write(key(n), Some(value), skip),
            Op::Delete { key: n } => self.write(key(n), None, 0),
            Op::Compact { back } => self.mvcc.compact(self.back(back)).unwrap(),
            Op::Watch { prefix, back } => {
                let (prefix, after) = (key(prefix), self.back(back));
                let stream = self.mvcc.watch(prefix.clone(), after);
                self.watchers.push(Watcher { stream, prefix, seen: after });
            }
            Op::Poll { watch } => self.poll(watch),
            Op::Drop { watch } if watch < self.watchers.len() => {
                self.watchers.remove(watch);
            }
            Op::Drop { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_and_watches_agree_with_a_list_of_all_states(
        ops in prop::collection::vec(op(), 1..120),
        log_bytes in prop_oneof![Just(0usize), 300usize..12_000, Just(1 << 20)],
    ) {
        let mut model = Model::new(log_bytes);
        for op in &ops {
            model.run(op);
        }
        model.check_reads();
        for watch in (0..model.watchers.len()).rev() {
            model.poll(watch);
        }
    }
}
