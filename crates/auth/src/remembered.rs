//! Answers that are remembered for a while: so many at most, the oldest go first.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Answers by question.
pub struct Remembered<K, V>(Mutex<LruCache<K, (V, Instant)>>)
where
    K: std::hash::Hash + Eq;

impl<K: std::hash::Hash + Eq, V> std::fmt::Debug for Remembered<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remembered({})", self.0.lock().len())
    }
}

impl<K: std::hash::Hash + Eq, V: Clone> Remembered<K, V> {
    /// Room for so many.
    #[must_use]
    pub fn new(most: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::new(most)))
    }

    /// What is known, where it still counts.
    pub fn get(&self, key: &K) -> Option<V> {
        let mut all = self.0.lock();
        let (value, until) = all.get(key)?;
        if *until > Instant::now() {
            return Some(value.clone());
        }
        all.pop(key);
        None
    }

    /// Remembers an answer; one that counts for no time is not kept.
    pub fn keep(&self, key: K, value: V, ttl: Duration) {
        if !ttl.is_zero() {
            self.0.lock().put(key, (value, Instant::now() + ttl));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_counts_for_its_time_and_the_oldest_goes_first() {
        let all = Remembered::new(NonZeroUsize::new(2).unwrap());
        all.keep(1, "a", Duration::from_secs(5));
        all.keep(0, "never", Duration::ZERO);
        assert_eq!((all.get(&1), all.get(&0)), (Some("a"), None));
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(all.get(&1), None);
        for key in 2..5 {
            all.keep(key, "b", Duration::from_secs(5));
        }
        assert_eq!((all.get(&2), all.get(&3), all.get(&4)), (None, Some("b"), Some("b")));
    }
}
