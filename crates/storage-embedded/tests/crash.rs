//! Kill -9: a process writes under load and is killed at a random moment, again and again; what it had
//! acknowledged must be there, and the history in order.
//!
//! `cargo test -p storage-embedded --test crash -- --rounds 200` is the long run. The same binary is the
//! process that is killed, so it has its own `main`.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "a test that has its own main says how it went")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use component_base::{Random, SystemRandom};
use futures::{FutureExt, StreamExt};
use storage::{At, Event, Expect, Key, RangeReq, Rev, StorageError, Store};
use storage_embedded::{EmbeddedStore, Limits, Options};

/// What a change of the store runs: about ten seconds.
const ROUNDS: u64 = 40;
const TASKS: u64 = 8;
const KEYS_EACH: u64 = 20;
/// Small, so that a life of some milliseconds sees segments begin and snapshots being written.
const LIMITS: Limits =
    Limits { history_bytes: 4 << 20, segment_bytes: 256 << 10, snapshot_log_bytes: 1 << 20 };

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["writer", dir, life] => write_until_killed(Path::new(dir), life.parse().unwrap()),
        ["--rounds", rounds] => survive(rounds.parse().unwrap()),
        // What test runners ask.
        args if args.contains(&"--list") => {
            if !args.contains(&"--ignored") {
                println!("acknowledged_writes_survive_kill_9: test");
            }
        }
        _ => survive(ROUNDS),
    }
}

fn open(dir: &Path) -> EmbeddedStore {
    let options = Options::new(dir, Arc::new(|reason| panic!("{reason}")));
    EmbeddedStore::open(&Options { limits: LIMITS, ..options }).unwrap()
}

fn value(life: u64, task: u64, n: u64) -> Bytes {
    let mut text = format!("{life}.{task}.{n}.").into_bytes();
    let padding = usize::try_from((n * 37 + task * 11) % 2_000).unwrap();
    text.resize(text.len() + padding, b'v');
    Bytes::from(text)
}

fn key(task: u64, n: u64) -> Key {
    Key::from(format!("/{task}/{}", n % KEYS_EACH))
}

/// Each task writes one thing after another and says so on standard output once it is acknowledged.
fn write_until_killed(dir: &Path, life: u64) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let store = Arc::new(open(dir));
        let tasks = (0..TASKS).map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0.. {
                    write_one(&store, life, task, n).await;
                }
            })
        });
        futures::future::join_all(tasks).await;
    });
}

async fn write_one(store: &EmbeddedStore, life: u64, task: u64, n: u64) {
    // Every seventh write is a delete of what was just written.
    let rev = if n % 7 == 6 {
        store.delete(key(task, n - 1), Expect::Any).await.unwrap().rev
    } else {
        store.put(key(task, n), value(life, task, n), Expect::Any, None).await.unwrap().rev
    };
    let mut out = std::io::stdout().lock();
    // The parent is gone when this fails, and so is the reason to go on.
    writeln!(out, "{rev} {task} {n}").and_then(|()| out.flush()).unwrap();
}

type Change = (Key, Option<Bytes>);

fn change(life: u64, task: u64, n: u64) -> Change {
    if n % 7 == 6 { (key(task, n - 1), None) } else { (key(task, n), Some(value(life, task, n))) }
}

fn survive(rounds: u64) {
    let dir = tempfile::tempdir().unwrap();
    let random = SystemRandom::new();
    let mut known = Known { history: BTreeMap::new(), highest: Rev(0) };
    let (mut acknowledged, mut in_doubt) = (0, 0);
    for life in 0..rounds {
        let acks = live_and_die(dir.path(), life, &random);
        acknowledged += acks.len();
        in_doubt += known.check(&open(dir.path()), life, &acks);
    }
    println!(
        "{rounds} kills: {acknowledged} acknowledged writes are there, \
         of {in_doubt} more nobody had been told"
    );
}

/// One process, from its start to its end by signal 9. Returns what it had acknowledged.
fn live_and_die(dir: &Path, life: u64, random: &SystemRandom) -> Vec<(Rev, u64, u64)> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("writer").arg(dir).arg(life.to_string()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (tell, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut acks = Vec::new();
        for line in lines {
            let _ = tell.send(());
            let numbers: Vec<u64> =
                line.unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
            acks.push((Rev(numbers[0]), numbers[1], numbers[2]));
        }
        acks
    });
    // Some are killed while they start, before their first acknowledgement.
    if random.below(10) > 0 {
        told.recv_timeout(Duration::from_secs(30)).expect("the writer does not come up");
    }
    wait(Duration::from_micros(random.below(150_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

/// A moment that nothing tells of: when to kill is what is random here.
fn wait(delay: Duration) {
    let (_keep, never) = std::sync::mpsc::channel::<()>();
    let _ = never.recv_timeout(delay);
}

struct Known {
    history: BTreeMap<Rev, Change>,
    highest: Rev,
}

impl Known {
    /// Holds a store against what was acknowledged. Returns how many other writes had happened.
    fn check(&mut self, store: &EmbeddedStore, life: u64, acks: &[(Rev, u64, u64)]) -> usize {
        let mut next: Vec<u64> = (0..TASKS).map(|_| 0).collect();
        for (rev, task, n) in acks {
            assert!(*rev > self.highest, "{rev} was given before, up to {}", self.highest);
            assert!(self.history.insert(*rev, change(life, *task, *n)).is_none(), "{rev} twice");
            let next = &mut next[usize::try_from(*task).unwrap()];
            assert_eq!(*next, *n, "task {task} skips");
            *next += 1;
        }
        let oldest = oldest(store);
        let events = history(store, oldest);
        let mut in_doubt: Vec<Change> =
            (0..TASKS).zip(next).map(|(task, n)| change(life, task, n)).collect();
        let mut unknown = 0;
        for event in &events {
            let change = (event.key.clone(), event.value.as_ref().map(|kv| kv.value.clone()));
            match self.history.get(&event.rev) {
                Some(known) => assert_eq!(*known, change, "at {}", event.rev),
                None => {
                    let place = in_doubt.iter().position(|doubt| *doubt == change);
                    let place = place.unwrap_or_else(|| panic!("{} is invented", event.rev));
                    in_doubt.swap_remove(place);
                    self.history.insert(event.rev, change);
                    unknown += 1;
                }
            }
        }
        let due = self.history.range(Rev(oldest.0 + 1)..).map(|(rev, _)| *rev);
        assert!(events.iter().map(|event| event.rev).eq(due), "the history has holes");
        self.check_state(store);
        self.highest = self.history.last_key_value().map_or(Rev(0), |(rev, _)| *rev);
        unknown
    }

    fn check_state(&self, store: &EmbeddedStore) {
        let mut state = BTreeMap::new();
        for (key, value) in self.history.values() {
            match value {
                Some(value) => state.insert(key.clone(), value.clone()),
                None => state.remove(key),
            };
        }
        let page = store.range(everything(At::Latest)).now_or_never().unwrap().unwrap();
        let there: BTreeMap<Key, Bytes> =
            page.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
        assert_eq!(there.len(), state.len());
        assert!(there == state, "the state is not what was written");
    }
}

fn everything(at: At) -> RangeReq {
    RangeReq { prefix: Key::from(""), after: None, limit: 0, keys_only: false, at }
}

fn oldest(store: &EmbeddedStore) -> Rev {
    match store.range(everything(At::Exactly(Rev(1)))).now_or_never().unwrap() {
        Err(StorageError::Compacted { oldest }) => oldest,
        Ok(_) => Rev(1),
        Err(other) => panic!("{other:?}"),
    }
}

fn history(store: &EmbeddedStore, after: Rev) -> Vec<Event> {
    let mut watch = store.watch(Key::from(""), after);
    let mut events = Vec::new();
    while let Some(Some(batch)) = watch.next().now_or_never() {
        events.extend(batch.unwrap().events);
    }
    events
}
