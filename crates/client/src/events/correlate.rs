//! Which events are told, and under which of those that were told before they are counted. Upstream: client-go's
//! `events_cache.go`.
//!
//! The same words about the same object are counted up. Many different ones for one reason become one that speaks for all.
//! Who goes on telling of one object is cut short.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};

use super::Pending;

/// How many keys of each sort are remembered (upstream: `maxLruCacheEntries`).
const MAX_REMEMBERED: usize = 4_096;
/// From how many different messages for one reason on they become one event.
const MAX_SIMILAR: usize = 10;
/// How long they may be apart to count as similar.
const SIMILAR_WITHIN: SignedDuration = SignedDuration::from_mins(10);
/// How many events about one object may come at once.
const BURST: u32 = 25;
/// How long until one more may.
const REFILL: SignedDuration = SignedDuration::from_mins(5);
const COMBINED: &str = "(combined from similar events): ";

/// What is remembered of events.
#[derive(Debug, Default)]
pub(super) struct Correlator {
    similar: Recent<(BTreeSet<String>, Timestamp)>,
    written: Recent<Written>,
    budgets: Recent<(u32, Timestamp)>,
}

/// An event that was written, to be counted up.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) name: String,
    pub(super) count: i64,
}

/// An event as it is to be written, and what it is counted under.
#[derive(Debug)]
pub(super) struct Correlated {
    pub(super) event: Pending,
    pub(super) key: String,
    /// The event that it is counted up in, if it was written before.
    pub(super) before: Option<Written>,
}

impl Correlator {
    /// How an event is to be written; `None` where it is one too many.
    pub(super) fn correlate(&mut self, mut event: Pending) -> Option<Correlated> {
        let about = object_key(&event);
        let reason = format!("{about}\n{:?}\n{}", event.kind, event.reason);
        let key = if self.is_similar(&reason, &event) {
            event.message = format!("{COMBINED}{}", event.message);
            reason
        } else {
            format!("{reason}\n{}\n{}", event.about.field_path, event.message)
        };
        let before = self.written.get(&key).cloned();
        self.affords(about, event.at).then_some(Correlated { event, key, before })
    }

    /// Remembers that an event was written.
    pub(super) fn remember(&mut self, key: String, name: String, count: i64) {
        let written = Written { name, count };
        let slot = self.written.entry(key, || written.clone());
        *slot = written;
    }

    /// Whether so many different messages came for a reason that they become one event.
    fn is_similar(&mut self, reason: &str, event: &Pending) -> bool {
        let entry = || (BTreeSet::new(), event.at);
        let (messages, last) = self.similar.entry(reason.to_owned(), entry);
        if event.at.duration_since(*last) > SIMILAR_WITHIN {
            messages.clear();
        }
        *last = event.at;
        messages.insert(event.message.clone());
        if messages.len() < MAX_SIMILAR {
            return false;
        }
        messages.pop_first();
        true
    }

    /// Whether one more event about an object may be told.
    fn affords(&mut self, about: String, now: Timestamp) -> bool {
        let (left, since) = self.budgets.entry(about, || (BURST, now));
        let passed = now.duration_since(*since).as_secs() / REFILL.as_secs();
        let refill = u32::try_from(passed).unwrap_or_default();
        if refill > 0 {
            *left = left.saturating_add(refill).min(BURST);
            let step = SignedDuration::from_secs(REFILL.as_secs() * passed);
            *since = since.saturating_add(step).unwrap_or(now);
        }
        if *left == BURST {
            *since = now;
        }
        let affords = *left > 0;
        *left = left.saturating_sub(1);
        affords
    }
}

fn object_key(event: &Pending) -> String {
    let about = &event.about;
    let parts = [&about.api_version, &about.kind, &about.namespace, &about.name, &about.uid];
    parts.map(String::as_str).join("\n")
}

/// The values of the keys that came last.
#[derive(Debug)]
struct Recent<V> {
    values: BTreeMap<String, V>,
    /// Oldest first.
    order: VecDeque<String>,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self { values: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<V> Recent<V> {
    fn get(&self, key: &str) -> Option<&V> {
        self.values.get(key)
    }

    fn entry(&mut self, key: String, make: impl FnOnce() -> V) -> &mut V {
        if !self.values.contains_key(&key) {
            self.order.push_back(key.clone());
            if self.order.len() > MAX_REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.values.remove(&oldest);
            }
        }
        self.values.entry(key).or_insert_with(make)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EventType, ObjectReference};
    use super::*;

    fn event(message: &str, second: i64) -> Pending {
        let about = ObjectReference { name: "web".into(), ..ObjectReference::default() };
        let at = Timestamp::from_second(second).unwrap();
        let (kind, reason) = (EventType::Normal, "Created".to_owned());
        Pending { about, kind, reason, message: message.into(), at }
    }

    /// Writes an event; its message and count, or nothing where it is cut short.
    fn told(correlator: &mut Correlator, event: Pending) -> String {
        let Some(it) = correlator.correlate(event) else { return "nothing".into() };
        let count = it.before.as_ref().map_or(1, |before| before.count + 1);
        let name = it.before.map_or_else(|| it.key.clone(), |before| before.name);
        correlator.remember(it.key, name, count);
        format!("{} x{count}", it.event.message)
    }

    #[test]
    fn the_same_words_are_counted_up() {
        let mut correlator = Correlator::default();
        assert_eq!(told(&mut correlator, event("a", 0)), "a x1");
        assert_eq!(told(&mut correlator, event("b", 1)), "b x1");
        assert_eq!(told(&mut correlator, event("a", 9_000)), "a x2");
    }

    #[test]
    fn the_tenth_different_message_speaks_for_all() {
        let mut correlator = Correlator::default();
        for number in 0..9 {
            let message = format!("pod {number}");
            assert_eq!(told(&mut correlator, event(&message, 0)), format!("{message} x1"));
        }
        let combined = |message: &str, count| format!("{COMBINED}{message} x{count}");
        assert_eq!(told(&mut correlator, event("pod 9", 1)), combined("pod 9", 1));
        assert_eq!(told(&mut correlator, event("pod 10", 1)), combined("pod 10", 2));
        assert_eq!(told(&mut correlator, event("pod 11", 700)), "pod 11 x1", "long after");
    }

    #[test]
    fn who_tells_too_much_of_one_object_is_cut_short() {
        let mut correlator = Correlator::default();
        for number in 1..=25 {
            assert_eq!(told(&mut correlator, event("a", 0)), format!("a x{number}"));
        }
        assert_eq!(told(&mut correlator, event("a", 1)), "nothing");
        assert_eq!(told(&mut correlator, event("a", 300)), "a x26");
        assert_eq!(told(&mut correlator, event("a", 301)), "nothing");
    }
}
