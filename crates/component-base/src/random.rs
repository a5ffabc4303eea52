//! Randomness as an argument: uids, generated names, jitter.

use std::fmt::Debug;

use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use uuid::Uuid;

/// The letters of generated names: no vowels and no digits that look like letters, as upstream's
/// `k8s.io/apimachinery/pkg/util/rand` has them.
const NAME_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A source of randomness. Shared by many tasks.
pub trait Random: Send + Sync + Debug {
    /// Fills `buffer` with random bytes.
    fn fill(&self, buffer: &mut [u8]);

    /// A random integer.
    fn next_u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A random integer in `0..bound`; 0 where `bound` is 0.
    fn below(&self, bound: u64) -> u64 {
        // The high half of a widening product: no division, bias below 2^-32 for the bounds in use.
        let wide = u128::from(self.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// A random fraction in `[0, 1)`, for jitter.
    fn fraction(&self) -> f64 {
        #[allow(
            clippy::cast_precision_loss,
            reason = "53 bits are kept, which is all a double has"
        )]
        let mantissa = (self.next_u64() >> 11) as f64;
        mantissa / 9_007_199_254_740_992.0
    }

    /// A random (version 4) uid for an object.
    fn uid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// `length` letters that are safe in names, for `generateName` and pod template hashes.
    fn suffix(&self, length: usize) -> String {
        let bound = NAME_LETTERS.len() as u64;
        (0..length)
            .map(|_| {
                let index = usize::try_from(self.below(bound)).unwrap_or(0);
                char::from(NAME_LETTERS[index])
            })
            .collect()
    }
}

/// Seeded from the operating system.
#[derive(Debug)]
pub struct SystemRandom(Mutex<ChaCha12Rng>);

impl SystemRandom {
    /// A generator with a fresh seed.
    #[must_use]
    pub fn new() -> Self {
        let mut seed = [0; 32];
        rand::rngs::SysRng.try_fill_bytes_or_abort(&mut seed);
        Self(Mutex::new(ChaCha12Rng::from_seed(seed)))
    }
}

impl Default for SystemRandom {
    fn default() -> Self {
        Self::new()
    }
}

impl Random for SystemRandom {
    fn fill(&self, buffer: &mut [u8]) {
        self.0.lock().fill_bytes(buffer);
    }
}

/// The same sequence for the same seed, for tests and simulation.
#[derive(Debug)]
pub struct SeededRandom(Mutex<ChaCha12Rng>);

impl SeededRandom {
    /// A generator that always yields what `seed` yields.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(ChaCha12Rng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) {
        self.0.lock().fill_bytes(buffer);
    }
}

/// Fills from the operating system's generator, which cannot fail once the machine is up.
trait FillOrAbort {
    fn try_fill_bytes_or_abort(&mut self, buffer: &mut [u8]);
}

impl FillOrAbort for rand::rngs::SysRng {
    fn try_fill_bytes_or_abort(&mut self, buffer: &mut [u8]) {
        use rand::TryRng;
        self.try_fill_bytes(buffer)
            .expect("because getrandom(2) succeeds once the kernel's generator is seeded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_sequence() {
        let (a, b) = (SeededRandom::new(7), SeededRandom::new(7));
        assert_eq!(a.uid(), b.uid());
        assert_eq!(a.suffix(5), b.suffix(5));
        assert_ne!(a.next_u64(), SeededRandom::new(8).next_u64());
    }

    #[test]
    fn suffixes_use_only_safe_letters() {
        let suffix = SystemRandom::new().suffix(200);
        assert!(suffix.bytes().all(|b| NAME_LETTERS.contains(&b)), "{suffix}");
    }
}
