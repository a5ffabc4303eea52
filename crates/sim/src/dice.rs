//! Decisions by chance, all of them from the seed.

use std::time::Duration;

use component_base::{Random, SeededRandom};

/// A source of decisions of one part of a run. Parts have their own, so that one more throw here changes nothing there.
#[derive(Debug)]
pub(crate) struct Dice(SeededRandom);

impl Dice {
    /// The dice of a part.
    pub(crate) fn new(seed: u64, part: &str) -> Self {
        let name = part.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(SeededRandom::new(seed ^ name))
    }

    /// A number below `bound`; 0 where `bound` is 0.
    pub(crate) fn below(&self, bound: usize) -> usize {
        usize::try_from(self.0.below(bound as u64)).unwrap_or(0)
    }

    /// A number from `low` to `high`, both of them possible.
    pub(crate) fn between(&self, low: i64, high: i64) -> i64 {
        let width = high.saturating_sub(low).saturating_add(1).max(1).unsigned_abs();
        low.saturating_add(i64::try_from(self.0.below(width)).unwrap_or(0))
    }

    /// True so many times in a thousand.
    pub(crate) fn chance(&self, per_mille: u32) -> bool {
        self.0.below(1_000) < u64::from(per_mille)
    }

    /// One of these; nothing of nothing.
    pub(crate) fn pick<'t, T>(&self, of: &'t [T]) -> Option<&'t T> {
        of.get(self.below(of.len()))
    }

    /// A time from `low` to `high` milliseconds.
    pub(crate) fn millis(&self, low: u64, high: u64) -> Duration {
        let width = high.saturating_sub(low).saturating_add(1);
        Duration::from_millis(low + self.0.below(width))
    }
}
