//! How long a node is left alone after its pod failed: longer each time.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

/// The first pause (upstream's).
const FIRST: SignedDuration = SignedDuration::from_secs(1);
/// The longest pause (upstream's). One that is as long over counts no more.
const LONGEST: SignedDuration = SignedDuration::from_mins(15);

/// The pauses of a set's nodes.
#[derive(Debug, Default)]
pub struct Backoff {
    nodes: BTreeMap<String, (SignedDuration, Timestamp)>,
}

impl Backoff {
    /// Until when a node is left alone; `None` begins its next pause and lets this failure be dealt with.
    pub(super) fn failed(&mut self, node: &str, now: Timestamp) -> Option<Timestamp> {
        let known = self.nodes.get(node).copied();
        let known =
            known.filter(|(_, since)| now.duration_since(*since) <= LONGEST.saturating_mul(2));
        let pause = match known {
            None => FIRST,
            Some((pause, since)) => {
                let until = since.saturating_add(pause).unwrap_or(now);
                if now < until {
                    return Some(until);
                }
                pause.saturating_mul(2).min(LONGEST)
            }
        };
        self.nodes.insert(node.to_owned(), (pause, now));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_forgotten() {
        let mut backoff = Backoff::default();
        let mut check = |seconds: i64, expected: Option<i64>| {
            let at = Timestamp::from_second(seconds).unwrap();
            let until = backoff.failed("n", at).map(|it| it.as_second());
            assert_eq!(until, expected, "{seconds}");
        };
        check(0, None);
        check(0, Some(1));
        check(1, None);
        check(2, Some(3));
        check(3, None);
        check(6, Some(7));
        check(7, None);
        check(7 + 1801, None);
        check(7 + 1802, None);
    }
}
