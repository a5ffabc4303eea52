//! Answers of the API server about who asks and what they may, kept for as long as upstream's node agent keeps them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The most answers kept; when there are more, the oldest half goes.
const MAX_ANSWERS: usize = 4096;

/// Answers by question, each until a time.
#[derive(Debug)]
pub(super) struct Answers<K, V> {
    known: Mutex<BTreeMap<K, (Instant, V)>>,
}

impl<K, V> Default for Answers<K, V> {
    fn default() -> Self {
        Self { known: Mutex::default() }
    }
}

impl<K: Ord + Clone, V: Clone> Answers<K, V> {
    /// What was answered, if it still holds.
    pub(super) fn get(&self, question: &K, now: Instant) -> Option<V> {
        let known = self.known.lock();
        known.get(question).filter(|(until, _)| *until > now).map(|(_, answer)| answer.clone())
    }

    /// Keeps an answer.
    pub(super) fn keep(&self, question: K, answer: V, now: Instant, time_to_live: Duration) {
        let mut known = self.known.lock();
        if known.len() >= MAX_ANSWERS {
            known.retain(|_, (until, _)| *until > now);
        }
        if known.len() >= MAX_ANSWERS {
            let mut ends: Vec<Instant> = known.values().map(|it| it.0).collect();
            ends.sort_unstable();
            let middle = ends[ends.len() / 2];
            known.retain(|_, (until, _)| *until > middle);
        }
        known.insert(question, (now + time_to_live, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_holds_for_its_time() {
        let answers = Answers::default();
        let now = Instant::now();
        answers.keep("q", true, now, Duration::from_secs(5));
        assert_eq!(answers.get(&"q", now + Duration::from_secs(4)), Some(true));
        assert_eq!(answers.get(&"q", now + Duration::from_secs(5)), None);
        assert_eq!(answers.get(&"other", now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_bounded() {
        let answers = Answers::default();
        let now = Instant::now();
        for n in 0..3 * MAX_ANSWERS as u64 {
            answers.keep(n, (), now + Duration::from_millis(n), Duration::from_secs(60));
        }
        assert!(answers.known.lock().len() <= MAX_ANSWERS);
        let last = 3 * MAX_ANSWERS as u64 - 1;
        assert!(answers.get(&last, now + Duration::from_secs(20)).is_some());
    }
}
