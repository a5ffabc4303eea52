//! The work queue: each key at most once in it, never worked on twice at once, later with back-off.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The pause after the first failure; doubled with each further one (upstream: 5 ms).
const BASE_BACKOFF: Duration = Duration::from_millis(5);
/// The longest pause (upstream: 1000 s).
const MAX_BACKOFF: Duration = Duration::from_secs(1000);

/// Keys to be worked on.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    queued: BTreeSet<K>,
    working: BTreeSet<K>,
    /// Keys that came while they were worked on.
    again: BTreeSet<K>,
    delayed: BTreeMap<(Instant, u64), K>,
    sequence: u64,
    failures: BTreeMap<K, u32>,
}

impl<K: Ord + Clone> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            working: BTreeSet::new(),
            again: BTreeSet::new(),
            delayed: BTreeMap::new(),
            sequence: 0,
            failures: BTreeMap::new(),
        };
        Self { state: Mutex::new(state), wake: Notify::new() }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Adds a key.
    pub fn add(&self, key: K) {
        self.state.lock().add(key);
        self.wake.notify_one();
    }

    /// Adds a key at a later time.
    pub fn add_at(&self, key: K, at: Instant) {
        {
            let mut state = self.state.lock();
            state.sequence += 1;
            let sequence = state.sequence;
            state.delayed.insert((at, sequence), key);
        }
        self.wake.notify_one();
    }

    /// Adds a key that failed, after a pause that grows with each failure; how long it is comes back.
    pub fn add_failed(&self, key: K) -> Duration {
        let failures = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            *failures
        };
        let pause = BASE_BACKOFF.saturating_mul(1 << (failures - 1).min(20)).min(MAX_BACKOFF);
        self.add_at(key, Instant::now() + pause);
        pause
    }

    /// Forgets the failures of a key.
    pub fn forget(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// The next key, which is worked on until [`Queue::done`].
    pub async fn next(&self) -> K {
        loop {
            let mut woken = std::pin::pin!(self.wake.notified());
            woken.as_mut().enable();
            let until = {
                let mut state = self.state.lock();
                state.release(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        // Another worker may go on with what is left.
                        self.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.first_key_value().map(|((at, _), _)| *at)
            };
            match until {
                Some(at) => {
                    tokio::select! {
                        () = woken => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => woken.await,
            }
        }
    }

    /// A key is not worked on any more; it is queued again if it came meanwhile.
    pub fn done(&self, key: &K) {
        let mut state = self.state.lock();
        state.working.remove(key);
        if state.again.remove(key) {
            state.add(key.clone());
            self.wake.notify_one();
        }
    }

    /// How many keys wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing waits now and nothing is worked on; keys for a later time do not count.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.ready.is_empty() && state.working.is_empty()
    }
}

impl<K: Ord + Clone> State<K> {
    fn add(&mut self, key: K) {
        if self.working.contains(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn release(&mut self, now: Instant) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_once_at_a_time_and_again_if_it_came_meanwhile() {
        let queue = Queue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        assert!(queue.is_empty());
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_pause_longer_and_longer() {
        let queue = Queue::default();
        let pauses: Vec<u128> = (0..4).map(|_| queue.add_failed("a").as_millis()).collect();
        assert_eq!(pauses, [5, 10, 20, 40]);
        queue.forget(&"a");
        assert_eq!(queue.add_failed("a").as_millis(), 5);
        let start = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert_eq!(start.elapsed().as_millis(), 5);
    }
}
