//! The work queue: each key at most once in it, never worked on twice at once, later with back-off.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::{QueueMetrics, Worked};

/// How long a key that failed waits.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure; doubled with each further one.
    pub base: Duration,
    /// At most.
    pub max: Duration,
}

impl Backoff {
    /// As most of upstream's queues do: 5 ms to 1000 s.
    pub const USUAL: Self = Self { base: Duration::from_millis(5), max: Duration::from_secs(1000) };
}

/// Keys to be worked on.
#[derive(Debug)]
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    metrics: Option<QueueMetrics>,
    backoff: Backoff,
}

#[derive(Debug)]
struct State<K> {
    ready: VecDeque<K>,
    /// Since when each waits.
    queued: BTreeMap<K, Instant>,
    /// Since when each is worked on.
    working: BTreeMap<K, Instant>,
    /// Keys that came while they were worked on.
    again: BTreeSet<K>,
    delayed: BTreeMap<(Instant, u64), K>,
    /// When those come that are held back so that several changes make one piece of work.
    held: BTreeMap<K, Instant>,
    sequence: u64,
    failures: BTreeMap<K, u32>,
}

impl<K: Ord + Clone> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: BTreeMap::new(),
            working: BTreeMap::new(),
            again: BTreeSet::new(),
            delayed: BTreeMap::new(),
            held: BTreeMap::new(),
            sequence: 0,
            failures: BTreeMap::new(),
        };
        Self {
            state: Mutex::new(state),
            wake: Notify::new(),
            metrics: None,
            backoff: Backoff::USUAL,
        }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// A queue that counts what comes and goes.
    #[must_use]
    pub fn counted(metrics: QueueMetrics, backoff: Backoff) -> Self {
        let mut queue = Self::default();
        queue.metrics = Some(metrics);
        queue.backoff = backoff;
        queue
    }

    /// Adds a key.
    pub fn add(&self, key: K) {
        self.state.lock().add(key, self.metrics.as_ref());
        self.wake.notify_one();
    }

    /// Adds a key at a later time.
    pub fn add_at(&self, key: K, at: Instant) {
        self.state.lock().delay(key, at);
        self.wake.notify_one();
    }

    /// Adds a key after a pause, in which it is added once however often it comes.
    pub fn add_held(&self, key: K, pause: Duration) {
        {
            let mut state = self.state.lock();
            if state.held.contains_key(&key) {
                return;
            }
            let at = Instant::now() + pause;
            state.held.insert(key.clone(), at);
            state.delay(key, at);
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
        if let Some(metrics) = &self.metrics {
            metrics.retries.inc();
        }
        let Backoff { base, max } = self.backoff;
        let pause = base.saturating_mul(1 << (failures - 1).min(20)).min(max);
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
                let now = Instant::now();
                state.release(now, self.metrics.as_ref());
                if let Some(key) = state.ready.pop_front() {
                    let since = state.queued.remove(&key).unwrap_or(now);
                    state.working.insert(key.clone(), now);
                    if let Some(metrics) = &self.metrics {
                        metrics.taken(since, now);
                    }
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
                        biased;
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
        let since = state.working.remove(key);
        if let Some((metrics, since)) = self.metrics.as_ref().zip(since) {
            metrics.done(since, Instant::now());
        }
        if state.again.remove(key) {
            // It was counted when it came.
            state.push(key.clone(), self.metrics.as_ref());
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
    fn add(&mut self, key: K, metrics: Option<&QueueMetrics>) {
        let new = if self.working.contains_key(&key) {
            self.again.insert(key)
        } else {
            self.push(key, metrics)
        };
        if let Some(metrics) = metrics.filter(|_| new) {
            metrics.adds.inc();
        }
    }

    /// Puts a key at the end, unless it is in the queue.
    fn push(&mut self, key: K, metrics: Option<&QueueMetrics>) -> bool {
        if self.queued.contains_key(&key) {
            return false;
        }
        self.queued.insert(key.clone(), Instant::now());
        self.ready.push_back(key);
        if let Some(metrics) = metrics {
            metrics.depth.inc();
        }
        true
    }

    fn delay(&mut self, key: K, at: Instant) {
        self.sequence += 1;
        self.delayed.insert((at, self.sequence), key);
    }

    fn release(&mut self, now: Instant, metrics: Option<&QueueMetrics>) {
        while let Some(entry) = self.delayed.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let at = entry.key().0;
            let key = entry.remove();
            if self.held.get(&key) == Some(&at) {
                self.held.remove(&key);
            }
            self.add(key, metrics);
        }
    }
}

impl<K: Send + Sync> Worked for Queue<K> {
    fn worked(&self, now: Instant) -> (Duration, Duration) {
        let state = self.state.lock();
        let spans = state.working.values().map(|since| now.duration_since(*since));
        spans.fold(Default::default(), |(sum, longest), it| (sum + it, it.max(longest)))
    }
}

/// What waits in a queue that ends waits no longer.
impl<K> Drop for Queue<K> {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            let left = i64::try_from(self.state.lock().ready.len()).unwrap_or_default();
            metrics.depth.dec_by(left);
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
    async fn a_key_that_is_held_back_comes_once_and_later_again() {
        let (queue, start) = (Queue::default(), Instant::now());
        for _ in 0..2 {
            queue.add_held("a", Duration::from_secs(1));
            tokio::time::advance(Duration::from_millis(400)).await;
            queue.add_held("a", Duration::from_secs(1));
            assert_eq!(queue.next().await, "a");
            queue.done(&"a");
        }
        assert_eq!(start.elapsed().as_millis(), 2000);
        queue.state.lock().release(start + Duration::from_secs(9), None);
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_waits_and_is_worked_on_is_counted() {
        let (metrics, mut registry) = (crate::Metrics::default(), Default::default());
        metrics.register(&mut registry);
        let queue = std::sync::Arc::new(Queue::counted(metrics.queue("q"), Backoff::USUAL));
        metrics.follow("q", std::sync::Arc::downgrade(&queue) as _);
        for key in ["a", "b", "a", "c"] {
            queue.add(key);
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        let key = queue.next().await;
        queue.add(key);
        queue.add_failed("c");
        tokio::time::advance(Duration::from_secs(3)).await;
        let told = component_base::metrics::text(&registry);
        let check = |line: &str| assert!(told.contains(&format!("{line}\n")), "{line}: {told}");
        check("workqueue_adds_total{name=\"q\"} 4");
        check("workqueue_depth{name=\"q\"} 2");
        check("workqueue_retries_total{name=\"q\"} 1");
        check("workqueue_queue_duration_seconds_sum{name=\"q\"} 2.0");
        check("workqueue_unfinished_work_seconds{name=\"q\"} 3.0");
        check("workqueue_longest_running_processor_seconds{name=\"q\"} 3.0");
        queue.done(&key);
        drop(queue);
        let told = component_base::metrics::text(&registry);
        assert!(told.contains("workqueue_depth{name=\"q\"} 0\n"), "{told}");
        assert!(told.contains("workqueue_work_duration_seconds_sum{name=\"q\"} 3.0\n"), "{told}");
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
