//! How long who is refused should stay away. Upstream: `DroppedRequestsTracker`.
//!
//! As TCP's window the other way round: doubled while many are refused, a second less each time hardly any are. Knows no
//! clock: time is told to it.

use std::collections::VecDeque;

/// The longest pause, in seconds.
const LONGEST: u64 = 32;
/// Refusals a second of the pause that double it.
const MANY: u64 = 3;

/// The pause of one priority level.
#[derive(Debug)]
pub struct Pause {
    seconds: u64,
    /// When it was doubled last.
    doubled: Option<u64>,
    /// The second that has begun, with how many were refused in it.
    current: (u64, u64),
    /// Seconds before it, the oldest first.
    past: VecDeque<(u64, u64)>,
}

impl Default for Pause {
    fn default() -> Self {
        Self { seconds: 1, doubled: None, current: (0, 0), past: VecDeque::new() }
    }
}

impl Pause {
    /// Somebody is refused in this second, counted from any beginning. Says for how many seconds to stay away.
    pub fn refused(&mut self, second: u64) -> u64 {
        if self.current.0 == second {
            self.current.1 += 1;
            return self.seconds;
        }
        let before = std::mem::replace(&mut self.current, (second, 1));
        self.past.push_back(before);
        let kept = (2 * self.seconds).min(LONGEST);
        while self.past.front().is_some_and(|it| it.0 + kept < before.0) {
            self.past.pop_front();
        }
        self.adjust(second);
        self.seconds
    }

    fn adjust(&mut self, second: u64) {
        let lately = self.past.iter().filter(|it| it.0 < second && it.0 + self.seconds >= second);
        let refused: u64 = lately.map(|it| it.1).sum();
        let may_double = self.doubled.is_none_or(|it| it + self.seconds <= second);
        if may_double && refused >= MANY * self.seconds {
            self.seconds = (2 * self.seconds).min(LONGEST);
            self.doubled = Some(second);
        } else if refused < self.seconds {
            self.seconds = (self.seconds - 1).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses after so many refusals in each second.
    fn pauses(refusals: &[u64]) -> Vec<u64> {
        let mut pause = Pause::default();
        let seconds = (1_000..).zip(refusals);
        let of = seconds.map(|(second, count)| (0..*count).map(|_| pause.refused(second)).last());
        of.map(Option::unwrap_or_default).collect()
    }

    #[test]
    fn it_doubles_while_many_are_refused_and_ends_with_them() {
        assert_eq!(pauses(&[1, 1, 1, 1]), [1, 1, 1, 1], "few");
        assert_eq!(pauses(&[5, 5, 5, 5, 5, 5]), [1, 2, 2, 4, 4, 4], "as soon as it has passed");
        let mut long = vec![5; 70];
        long.extend([1; 3]);
        assert_eq!(pauses(&long)[69..], [32; 4], "no longer than half a minute");
        let quiet = [5, 5, 5, 5, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 1];
        assert_eq!(pauses(&quiet)[10..], [3, 0, 2, 0, 1], "a second less each time");
    }

    #[test]
    fn what_it_remembers_is_bounded() {
        let mut pause = Pause::default();
        for second in 0..10_000 {
            (0..5).for_each(|_| {
                pause.refused(second);
            });
            assert!(pause.past.len() <= 40, "{}", pause.past.len());
        }
    }
}
