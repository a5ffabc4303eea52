//! Answers of others, for a short while.

use std::num::NonZeroUsize;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{LowerName, RData, Record, RecordType};
use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How many answers are kept.
const ENTRIES_MAX: NonZeroUsize = NonZeroUsize::new(10_000).expect("because it is not zero");
/// The largest answer that is kept, in records: bounds what the cache can hold.
const RECORDS_MAX: usize = 64;
/// The longest an answer is kept, as kubeadm configures CoreDNS.
const TTL_MAX: u32 = 30;

/// What an answer depends on.
type CacheKey = (LowerName, RecordType, bool);

#[derive(Debug, Clone)]
struct Cached {
    message: Message,
    stored: Instant,
    ttl: u32,
}

#[derive(Debug)]
pub(crate) struct Cache {
    entries: Mutex<LruCache<CacheKey, Cached>>,
}

fn cache_key(question: &Query, dnssec: bool) -> CacheKey {
    (LowerName::new(question.name()), question.query_type(), dnssec)
}

impl Cache {
    pub(crate) fn new() -> Self {
        // It grows with what is put in; only its bound is set here.
        Self { entries: Mutex::new(LruCache::sparse(ENTRIES_MAX)) }
    }

    /// The answer to a question, its records as much older as it has been here.
    pub(crate) fn get(&self, question: &Query, dnssec: bool, now: Instant) -> Option<Message> {
        let key = cache_key(question, dnssec);
        let mut entries = self.entries.lock();
        let cached = entries.get(&key)?;
        let age = now.saturating_duration_since(cached.stored);
        if age >= Duration::from_secs(u64::from(cached.ttl)) {
            entries.pop(&key);
            return None;
        }
        let mut message = cached.message.clone();
        drop(entries);
        let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        for record in records_mut(&mut message) {
            record.decrement_ttl(age);
        }
        Some(message)
    }

    /// Keeps an answer, if it is one that may be kept.
    pub(crate) fn put(&self, question: &Query, dnssec: bool, message: &Message, now: Instant) {
        let ttl = lifetime(message).min(TTL_MAX);
        let records = message.answers.len() + message.authorities.len() + message.additionals.len();
        if ttl == 0 || records > RECORDS_MAX || message.metadata.truncation {
            return;
        }
        let cached = Cached { message: message.clone(), stored: now, ttl };
        self.entries.lock().put(cache_key(question, dnssec), cached);
    }
}

fn records_mut(message: &mut Message) -> impl Iterator<Item = &mut Record> {
    let Message { answers, authorities, additionals, .. } = message;
    answers.iter_mut().chain(authorities).chain(additionals)
}

/// For how many seconds an answer holds; a denial as long as its SOA record says, a failure not at all.
fn lifetime(message: &Message) -> u32 {
    match message.metadata.response_code {
        ResponseCode::NoError if !message.answers.is_empty() => {
            message.all_sections().map(|record| record.ttl).min().unwrap_or(0)
        }
        ResponseCode::NoError | ResponseCode::NXDomain => message
            .authorities
            .iter()
            .find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            })
            .unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;

    fn question(name: &str) -> Query {
        Query::query(Name::from_ascii(name).unwrap(), RecordType::A)
    }

    fn answer(ttl: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        let name = Name::from_ascii("a.example.").unwrap();
        message.add_answer(Record::from_rdata(name, ttl, RData::A(A([192, 0, 2, 1].into()))));
        message
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ages_and_ends() {
        let cache = Cache::new();
        cache.put(&question("a.example."), false, &answer(20), Instant::now());
        tokio::time::advance(Duration::from_secs(7)).await;
        let cached = cache.get(&question("A.Example."), false, Instant::now()).unwrap();
        assert_eq!(cached.answers[0].ttl, 13);
        assert!(cache.get(&question("a.example."), true, Instant::now()).is_none());
        tokio::time::advance(Duration::from_secs(13)).await;
        assert!(cache.get(&question("a.example."), false, Instant::now()).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn long_lives_are_cut_and_failures_are_not_kept() {
        let cache = Cache::new();
        cache.put(&question("long."), false, &answer(86400), Instant::now());
        let mut denial = Message::response(1, OpCode::Query);
        denial.metadata.response_code = ResponseCode::NXDomain;
        cache.put(&question("bare."), false, &denial, Instant::now());
        let root = Name::root();
        let soa = SOA::new(root.clone(), root.clone(), 1, 1, 1, 1, 9);
        denial.add_authority(Record::from_rdata(root, 3600, RData::SOA(soa)));
        cache.put(&question("denied."), false, &denial, Instant::now());
        let mut failure = answer(20);
        failure.metadata.response_code = ResponseCode::ServFail;
        cache.put(&question("failed."), false, &failure, Instant::now());
        let kept = |name: &str| cache.get(&question(name), false, Instant::now()).is_some();
        let all = || ["long.", "bare.", "denied.", "failed."].map(kept);
        assert_eq!(all(), [true, false, true, false]);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(all(), [true, false, false, false]);
        tokio::time::advance(Duration::from_secs(21)).await;
        assert_eq!(all(), [false; 4]);
    }
}
