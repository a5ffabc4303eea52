//! How much memory the server may have, and what is refused before it has more.
//!
//! What a request may cost is charged before it is admitted, and given back with its answer. Every tenth of a second somebody
//! says how much memory the process has ([`MemoryBudget::saw`]); what has been taken since is counted on top, and so is all that
//! is charged: what a request has taken already counts twice until it is answered, on the safe side. Sums are atomics,
//! nothing waits for a lock. Where there is no budget, nothing is charged.
//!
//! Does not know how memory is measured, nor what becomes of connections: those who have some ask [`MemoryBudget::is_full`].

mod cost;
mod metrics;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use apimachinery::Status;
use bytes::Bytes;
use http::Response;

use crate::body::Body;
use crate::listing::PIECE_BYTES;

pub(crate) use cost::{admit, decoded, entries, precheck};
pub(crate) use metrics::text;

/// How often somebody should say how much memory the process has, in milliseconds.
pub const LOOK_EVERY_MS: u64 = 100;
/// Looks a second.
const LOOKS_PER_SECOND: u64 = 1000 / LOOK_EVERY_MS;
/// Below which part of the budget the server says that it is ready again, in hundredths.
const CALM_PERCENT: u64 = 75;
/// How many looks in a row it has to be below that.
const CALM_LOOKS: u64 = LOOKS_PER_SECOND;
/// Exempt requests that may cost no more than this are never refused, in bytes: health checks, leases, small writes.
const ALWAYS_BYTES: u64 = 256 << 10;
/// The longest time that a client is told to wait, in seconds.
const MAX_RETRY_SECONDS: u64 = 30;
const REFUSED: &str =
    "Too many requests, please try again later: the server is at its memory budget";

/// What a request does to memory, in the order in which requests are refused: what frees nothing goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// It reads, and leaves nothing.
    Read,
    /// It makes something new, which stays.
    Create,
    /// It changes what is there, or is a client's in the process that keeps the cluster going.
    Change,
    /// It takes something away, or says how something is that is there already.
    Free,
    /// `system:masters`, health checks, leases of nodes and of those who keep the cluster going.
    Exempt,
    /// `system:masters` take something away: the way back from a full budget, for which something beyond it is kept.
    Relief,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Read, Self::Create, Self::Change, Self::Free, Self::Exempt, Self::Relief];

    /// Whether it is never refused where it costs little.
    pub(crate) const fn is_exempt(self) -> bool {
        matches!(self, Self::Exempt | Self::Relief)
    }

    /// Beyond which part of the budget it is refused, in hundredths.
    const fn percent(self) -> u64 {
        match self {
            Self::Read => 80,
            Self::Create => 85,
            Self::Change => 90,
            Self::Free => 95,
            Self::Exempt => 100,
            Self::Relief => 110,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Create => "create",
            Self::Change => "change",
            Self::Free => "free",
            Self::Exempt => "exempt",
            Self::Relief => "relief",
        }
    }
}

/// How much memory a server may have, and how much it has.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: u64,
    /// What the process had when it was last looked at.
    resident: AtomicU64,
    /// What requests in flight may yet take.
    charged: AtomicU64,
    /// Bodies and pieces of answers that are there for certain.
    held: AtomicU64,
    /// How much of that the last look has seen.
    held_then: AtomicU64,
    /// How many looks in a row found too much; 0 once it has been calm for a while.
    pressed: AtomicU64,
    calm: AtomicU64,
    refused: [AtomicU64; Kind::ALL.len()],
}

impl MemoryBudget {
    /// A budget of so many bytes of resident memory.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        let zero = AtomicU64::default;
        Arc::new(Self {
            limit,
            resident: zero(),
            charged: zero(),
            held: zero(),
            held_then: zero(),
            pressed: zero(),
            calm: zero(),
            refused: Default::default(),
        })
    }

    /// The budget, in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes how much memory the process has, in bytes. To be told every [`LOOK_EVERY_MS`].
    pub fn saw(&self, resident: u64) {
        self.held_then.store(self.held.load(Ordering::Acquire), Ordering::Release);
        self.resident.store(resident, Ordering::Release);
        let used = self.used();
        if used > self.mark(Kind::Read.percent()) {
            self.calm.store(0, Ordering::Relaxed);
            self.pressed.fetch_add(1, Ordering::Relaxed);
        } else if used < self.mark(CALM_PERCENT)
            && self.calm.fetch_add(1, Ordering::Relaxed) + 1 >= CALM_LOOKS
        {
            self.pressed.store(0, Ordering::Relaxed);
        }
    }

    /// Whether reads are refused, or were a moment ago.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed) > 0
    }

    /// Whether nothing more should be taken that is not exempt: whoever holds what nobody needs gives it back.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.used() > self.mark(Kind::Free.percent())
    }

    /// What the process has, what has come since, and what may yet come.
    fn used(&self) -> u64 {
        let [resident, charged, held, then] =
            [&self.resident, &self.charged, &self.held, &self.held_then]
                .map(|it| it.load(Ordering::Acquire));
        resident.saturating_add(charged).saturating_add(held.saturating_sub(then))
    }

    fn mark(&self, percent: u64) -> u64 {
        self.limit / 100 * percent
    }

    fn has_room(&self, kind: Kind, bytes: u64) -> bool {
        (kind.is_exempt() && bytes <= ALWAYS_BYTES)
            || self.used().saturating_add(bytes) <= self.mark(kind.percent())
    }

    /// 429, and when to come again: the longer the server is short of memory, the later.
    fn refuse(&self, kind: Kind) -> Status {
        self.refused[kind as usize].fetch_add(1, Ordering::Relaxed);
        let seconds = self.pressed.load(Ordering::Relaxed) / LOOKS_PER_SECOND;
        let seconds = u32::try_from(seconds.clamp(1, MAX_RETRY_SECONDS)).unwrap_or(1);
        Status::too_many_requests(REFUSED, seconds)
    }

    /// Notes bytes that are there until [`Self::let_go`].
    pub(crate) fn hold(&self, bytes: u64) {
        self.held.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(crate) fn let_go(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// What one request may cost; given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    budget: Arc<MemoryBudget>,
    kind: Kind,
    /// What it may yet take.
    bytes: AtomicU64,
    /// What it has for certain.
    held: AtomicU64,
}

impl Charge {
    /// # Errors
    /// 429 where the budget has no room.
    pub(crate) fn new(
        budget: &Arc<MemoryBudget>,
        kind: Kind,
        bytes: u64,
    ) -> Result<Arc<Self>, Status> {
        let (bytes_now, held) = Default::default();
        let charge = Self { budget: Arc::clone(budget), kind, bytes: bytes_now, held };
        charge.grow(bytes)?;
        Ok(Arc::new(charge))
    }

    /// Charges more.
    ///
    /// # Errors
    /// 429 where the budget has no room.
    pub(crate) fn grow(&self, bytes: u64) -> Result<(), Status> {
        if !self.budget.has_room(self.kind, bytes) {
            return Err(self.budget.refuse(self.kind));
        }
        self.budget.charged.fetch_add(bytes, Ordering::AcqRel);
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
        // Others may have taken the same room at the same time: who finds too much gives back.
        if self.budget.has_room(self.kind, 0) {
            return Ok(());
        }
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.budget.charged.fetch_sub(bytes, Ordering::AcqRel);
        Err(self.budget.refuse(self.kind))
    }

    /// Notes bytes of the request's body that have come.
    ///
    /// # Errors
    /// 429 where they are too many for the server.
    pub(crate) fn hold(&self, bytes: u64) -> Result<(), Status> {
        self.budget.hold(bytes);
        self.held.fetch_add(bytes, Ordering::AcqRel);
        if self.budget.has_room(self.kind, 0) { Ok(()) } else { Err(self.budget.refuse(self.kind)) }
    }

    /// All that is left of the request is so many bytes at most.
    fn shrink_to(&self, bytes: u64) {
        let before = self.bytes.fetch_min(bytes, Ordering::AcqRel);
        self.budget.charged.fetch_sub(before.saturating_sub(bytes), Ordering::AcqRel);
        self.budget.let_go(self.held.swap(0, Ordering::AcqRel));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// Bytes that are charged as long as somebody has them.
struct Charged {
    bytes: Bytes,
    _charge: Arc<Charge>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Keeps the charge until an answer is sent.
pub(crate) fn keep(charge: Option<Arc<Charge>>, answer: Response<Body>) -> Response<Body> {
    use futures::StreamExt as _;
    let Some(charge) = charge else { return answer };
    answer.map(|body| match body {
        Body::Full(Some(bytes)) if bytes.len() > PIECE_BYTES => {
            charge.shrink_to(bytes.len() as u64);
            Body::Full(Some(Bytes::from_owner(Charged { bytes, _charge: charge })))
        }
        Body::Full(bytes) => Body::Full(bytes),
        Body::Stream(pieces) => {
            let kept = pieces.map(move |piece| {
                let _kept = &charge;
                piece
            });
            Body::Stream(kept.boxed())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = 1_000_000_000;
    const PERCENT: u64 = LIMIT / 100;

    fn admitted(budget: &Arc<MemoryBudget>, bytes: u64) -> Vec<&'static str> {
        let kinds = Kind::ALL.into_iter();
        kinds.filter(|it| Charge::new(budget, *it, bytes).is_ok()).map(Kind::name).collect()
    }

    #[test]
    fn what_frees_nothing_is_refused_first() {
        let budget = MemoryBudget::new(LIMIT);
        for (percent, expected) in [
            (10, ["read", "create", "change", "free", "exempt", "relief"].as_slice()),
            (79, &["create", "change", "free", "exempt", "relief"]),
            (84, &["change", "free", "exempt", "relief"]),
            (89, &["free", "exempt", "relief"]),
            (94, &["exempt", "relief"]),
            (99, &["relief"]),
        ] {
            budget.saw(percent * PERCENT);
            assert_eq!(admitted(&budget, 2 * PERCENT), expected, "at {percent} %");
        }
        // What is exempt and small is never refused.
        budget.saw(2 * LIMIT);
        assert_eq!(admitted(&budget, ALWAYS_BYTES), ["exempt", "relief"]);
        assert_eq!(budget.charged.load(Ordering::Relaxed), 0);
        let refused = budget.refused.each_ref().map(|it| it.load(Ordering::Relaxed));
        assert_eq!(refused, [6, 5, 4, 3, 1, 0]);
    }

    #[test]
    fn what_is_charged_and_what_has_come_count_until_they_are_given_back() {
        let budget = MemoryBudget::new(LIMIT);
        budget.saw(50 * PERCENT);
        let first = Charge::new(&budget, Kind::Read, 20 * PERCENT).unwrap();
        let refused = Charge::new(&budget, Kind::Read, 20 * PERCENT).unwrap_err();
        assert_eq!((refused.code, refused.reason), (429, "TooManyRequests"));
        assert_eq!(refused.details.map(|it| it.retry_after_seconds), Some(1));
        first.hold(20 * PERCENT).unwrap_err();
        assert!(!budget.is_full());
        // The next look has seen what had come.
        budget.saw(60 * PERCENT);
        assert_eq!(budget.used(), 80 * PERCENT);
        first.shrink_to(PERCENT);
        assert_eq!(budget.used(), 61 * PERCENT);
        drop(first);
        assert_eq!(budget.used(), 60 * PERCENT);
    }

    #[test]
    fn who_is_refused_longer_waits_longer_and_calm_has_to_last() {
        let budget = MemoryBudget::new(LIMIT);
        for _ in 0..5 * LOOKS_PER_SECOND {
            budget.saw(90 * PERCENT);
        }
        let refused = Charge::new(&budget, Kind::Read, 0).unwrap_err();
        assert_eq!(refused.details.map(|it| it.retry_after_seconds), Some(5));
        for _ in 1..CALM_LOOKS {
            budget.saw(10 * PERCENT);
            assert!(budget.is_pressed());
        }
        budget.saw(10 * PERCENT);
        assert!(!budget.is_pressed());
    }

    #[test]
    fn a_large_answer_is_charged_until_it_is_sent() {
        let budget = MemoryBudget::new(LIMIT);
        let charge = Charge::new(&budget, Kind::Read, 14 << 20).unwrap();
        let answer = Response::new(Body::full(vec![0; 1 << 20]));
        let Body::Full(Some(bytes)) = keep(Some(charge), answer).into_body() else {
            panic!("it was bytes at hand")
        };
        let last = bytes.slice(5..6);
        drop(bytes);
        assert_eq!(budget.used(), 1 << 20);
        drop(last);
        assert_eq!(budget.used(), 0);
    }
}
