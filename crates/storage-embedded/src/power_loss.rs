//! Many short lives of a store on a disk that loses power, with what was promised written down beside it.
//!
//! A failing seed is printed; `the_lives_of_seed(N, ...)` runs it again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use component_base::{Random, RealClock, SeededRandom};
use futures::{FutureExt, StreamExt};
use storage::{At, Expect, Key, RangeReq, Rev, StorageError};
use tokio::sync::oneshot;

use crate::engine::{Answer, Op, Request};
use crate::maintenance::Wanted;
use crate::sim::{Faults, SimFs};
use crate::{Limits, OpenError, Opened, Options};

const LIVES: u64 = 5;
const ROUNDS: u64 = 60;

type Change = (Key, Option<Bytes>);

struct World {
    fs: SimFs,
    random: Arc<SeededRandom>,
    options: Options,
    /// Every write that is known to have happened.
    history: BTreeMap<Rev, Change>,
    /// Writes of unknown outcome, in the order they were sent.
    in_doubt: Vec<(Rev, Change)>,
    /// No number up to this may be given again.
    highest: Rev,
    written: u64,
    lies: Lies,
}

#[derive(Debug, Clone, Copy, Default)]
struct Lies {
    sync: bool,
    sync_dir: bool,
}

fn chance(random: &SeededRandom, one_in: u64) -> bool {
    random.below(one_in) == 0
}

impl World {
    fn new(seed: u64, lies: Lies) -> Self {
        let random = Arc::new(SeededRandom::new(seed));
        let fs = SimFs::default();
        // Never less than a batch, so that the fate of one of unknown outcome shows in the history.
        let small = 30_000 + usize::try_from(random.below(20_000)).unwrap();
        let limits = Limits {
            history_bytes: if chance(&random, 2) { small } else { 1 << 20 },
            segment_bytes: 2_000 + random.below(20_000),
            snapshot_log_bytes: 1 << 30,
        };
        let options = Options {
            dir: PathBuf::from("/store"),
            limits,
            clock: Arc::new(RealClock),
            random: Arc::clone(&random) as Arc<dyn Random>,
            fs: Arc::new(fs.clone()),
            on_fatal: Arc::new(|_| {}),
        };
        let (history, in_doubt) = (BTreeMap::new(), Vec::new());
        Self { fs, random, options, history, in_doubt, highest: Rev(1), written: 0, lies }
    }

    fn state_at(&self, rev: Rev) -> BTreeMap<Key, Bytes> {
        let mut state = BTreeMap::new();
        for (key, value) in self.history.range(..=rev).map(|(_, change)| change) {
            match value {
                Some(value) => state.insert(key.clone(), value.clone()),
                None => state.remove(key),
            };
        }
        state
    }

    /// One life: from the start, through writes, to the loss of power.
    fn live(&mut self) -> Result<(), String> {
        let power_lost_after = Some(self.random.below(150));
        let (sync_lies, sync_dir_lies) = (self.lies.sync, self.lies.sync_dir);
        let faults = Faults { power_lost_after, sync_lies, sync_dir_lies, ..Faults::default() };
        self.fs.set_faults(faults);
        match crate::open(&self.options) {
            Ok(mut opened) => {
                self.check(&opened)?;
                self.work(&mut opened, faults)?;
            }
            Err(OpenError::Io { .. }) if self.fs.is_dark() => {}
            Err(error) => return Err(format!("does not start: {error}")),
        }
        if self.fs.is_dark() || chance(&self.random, 2) {
            self.fs.lose_power(&*self.random);
        }
        // Otherwise only the process has died: what it wrote is there, but may not be durable yet.
        Ok(())
    }

    fn work(&mut self, opened: &mut Opened, faults: Faults) -> Result<(), String> {
        for _ in 0..ROUNDS {
            let work = self.random.below(20);
            opened.maintenance.work(Wanted { spare: work == 0, snapshot: work == 1, stop: false });
            if work == 2 {
                let space = Some(usize::try_from(self.random.below(60_000)).unwrap());
                let sync_fails = chance(&self.random, 8);
                self.fs.set_faults(Faults { space, sync_fails, ..self.faults_now(faults) });
            } else if work == 3 {
                self.fs.set_faults(self.faults_now(faults));
            }
            if !self.write(opened)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The power does not wait longer because something else goes wrong.
    fn faults_now(&self, faults: Faults) -> Faults {
        Faults { power_lost_after: Some(self.random.below(60)), ..faults }
    }

    /// One batch. `false` when the store has ended.
    fn write(&mut self, opened: &mut Opened) -> Result<bool, String> {
        let (mut requests, mut sent) = (Vec::new(), Vec::new());
        for _ in 0..=self.random.below(6) {
            let (op, change) = self.op();
            let (reply, answer) = oneshot::channel();
            requests.push(Request { op, reply: Some(reply) });
            sent.push((change, answer));
        }
        let lives = opened.engine.commit(requests.into_iter()).is_ok();
        for (change, mut answer) in sent {
            match answer.try_recv().map_err(|_| "no answer")? {
                Ok(Answer::Put(put)) => self.acknowledge(put.rev, change)?,
                Ok(Answer::Deleted(deleted)) => self.acknowledge(deleted.rev, change)?,
                Ok(Answer::Compacted) => {}
                Err(StorageError::Unknown(_)) => {
                    self.highest = Rev(self.highest.0 + 1);
                    self.in_doubt.push((self.highest, change));
                }
                // Refused: must never be seen.
                Err(_) => {}
            }
        }
        Ok(lives)
    }

    fn acknowledge(&mut self, rev: Rev, change: Change) -> Result<(), String> {
        if rev <= self.highest {
            return Err(format!(
                "{rev} was given to another write, the highest is {}",
                self.highest
            ));
        }
        self.highest = rev;
        self.history.insert(rev, change);
        Ok(())
    }

    fn op(&mut self) -> (Op, Change) {
        let key = Key::from(format!("/{}", self.random.below(10)));
        let expect = match self.random.below(4) {
            0 => Expect::Absent,
            1 => Expect::ModRev(self.highest),
            _ => Expect::Any,
        };
        if chance(&self.random, 4) {
            return (Op::Delete { key: key.clone(), expect }, (key, None));
        }
        if chance(&self.random, 30) && !self.history.is_empty() {
            let before = self.highest;
            return (Op::Compact { before: Rev(before.0 / 2) }, (key, None));
        }
        // Every value is another one, so that an event is known by it.
        self.written += 1;
        let mut value = self.written.to_le_bytes().to_vec();
        value.resize(8 + usize::try_from(self.random.below(3_000)).unwrap(), 0xAB);
        let value = Bytes::from(value);
        let op = Op::Put { key: key.clone(), value: value.clone(), expect, ttl: None };
        (op, (key, Some(value)))
    }

    /// Everything that the contract says about a store that was opened after a crash.
    fn check(&mut self, opened: &Opened) -> Result<(), String> {
        let mvcc = &opened.mvcc;
        let oldest = mvcc.oldest();
        let mut events = Vec::new();
        let mut watch = mvcc.watch(Key::from(""), oldest);
        while let Some(Some(batch)) = watch.next().now_or_never() {
            events.extend(batch.map_err(|error| error.to_string())?.events);
        }
        let mut doubts = std::mem::take(&mut self.in_doubt).into_iter();
        for event in &events {
            let change = (event.key.clone(), event.value.as_ref().map(|kv| kv.value.clone()));
            match self.history.get(&event.rev) {
                Some(known) if *known == change => {}
                Some(known) => return Err(format!("{} was {known:?}, is {change:?}", event.rev)),
                None if doubts.any(|(_, doubt)| doubt == change) => {
                    self.history.insert(event.rev, change);
                }
                None => return Err(format!("{} is invented: {change:?}", event.rev)),
            }
        }
        let seen: Vec<Rev> = events.iter().map(|event| event.rev).collect();
        let due: Vec<Rev> = self.history.range(Rev(oldest.0 + 1)..).map(|(rev, _)| *rev).collect();
        if seen != due {
            return Err(format!("history after {oldest} is {seen:?}, acknowledged was {due:?}"));
        }
        for event in &events {
            let before = self.state_at(Rev(event.rev.0 - 1));
            let previous = event.previous.as_ref().map(|kv| &kv.value);
            if previous != before.get(&event.key) {
                return Err(format!("previous value of {} is wrong", event.rev));
            }
        }
        for rev in [oldest, mvcc.current()] {
            let request = RangeReq {
                prefix: Key::from(""),
                after: None,
                limit: 0,
                keys_only: false,
                at: At::Exactly(rev),
            };
            let page = mvcc.range(request).now_or_never().ok_or("a small range takes one go")?;
            let page = page.map_err(|error| error.to_string())?;
            let state: BTreeMap<Key, Bytes> =
                page.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect();
            if state != self.state_at(rev) {
                return Err(format!("the state at {rev} is not what was written"));
            }
        }
        Ok(())
    }
}

fn the_lives_of_seed(seed: u64, lies: Lies) -> Result<(), String> {
    let mut world = World::new(seed, lies);
    for life in 0..LIVES {
        world.live().map_err(|what| format!("seed {seed}, life {life}: {what}"))?;
    }
    Ok(())
}

#[test]
fn what_was_acknowledged_survives_the_loss_of_power() {
    for seed in 0..1_500 {
        the_lives_of_seed(seed, Lies::default()).unwrap();
    }
}

/// Shows that the test above can fail.
#[test]
fn a_disk_that_lies_about_syncs_is_noticed() {
    let cases = [Lies { sync: true, sync_dir: false }, Lies { sync: false, sync_dir: true }];
    for lies in cases {
        let noticed = (0..50).filter(|seed| the_lives_of_seed(*seed, lies).is_err()).count();
        assert!(noticed > 25, "{lies:?} was noticed for {noticed} of 50 seeds");
    }
}
