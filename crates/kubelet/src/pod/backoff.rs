//! Waiting longer after each failure, as upstream counts it. Pure.

use jiff::{SignedDuration, Timestamp};

/// The bounds of a back-off.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// After the first failure.
    pub(crate) initial: SignedDuration,
    /// At most.
    pub(crate) max: SignedDuration,
}

/// Restarts of containers.
pub(crate) const CRASH_LOOP: Bounds =
    Bounds { initial: SignedDuration::from_secs(10), max: SignedDuration::from_secs(300) };
/// Pulls of images.
pub(crate) const IMAGE_PULL: Bounds =
    Bounds { initial: SignedDuration::from_secs(10), max: SignedDuration::from_secs(300) };

/// How long to wait now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackOff {
    /// The pause.
    pub(crate) pause: SignedDuration,
    /// When it was last lengthened.
    pub(crate) updated: Timestamp,
}

impl BackOff {
    /// The entry after another try at `now`, which answers an event at `event`.
    pub(crate) fn next(
        entry: Option<Self>,
        bounds: Bounds,
        event: Timestamp,
        now: Timestamp,
    ) -> Self {
        let kept = entry.filter(|it| !it.is_expired(bounds, event));
        let pause = kept.map_or(bounds.initial, |it| (it.pause + it.pause).min(bounds.max));
        Self { pause, updated: now }
    }

    /// When a try that answers `event` may be made; `None` is at once.
    pub(crate) fn until(
        &self,
        bounds: Bounds,
        event: Timestamp,
        now: Timestamp,
    ) -> Option<Timestamp> {
        if self.is_expired(bounds, event) {
            return None;
        }
        let end = event.checked_add(self.pause).unwrap_or(Timestamp::MAX);
        (end > now).then_some(end)
    }

    fn is_expired(&self, bounds: Bounds, event: Timestamp) -> bool {
        event.duration_since(self.updated) > bounds.max + bounds.max
    }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
pub(crate) fn go_duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let millis = duration.subsec_millis();
    if seconds == 0 && millis != 0 {
        return format!("{millis}ms");
    }
    let fraction = if millis == 0 {
        String::new()
    } else {
        format!(".{millis:03}").trim_end_matches('0').to_owned()
    };
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}{fraction}s"),
        (0, _) => format!("{minutes}m{rest}{fraction}s"),
        _ => format!("{hours}h{minutes}m{rest}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn pauses_double_up_to_five_minutes_and_are_forgotten_after_ten() {
        let mut entry = None;
        let mut pauses = Vec::new();
        let mut now = at(0);
        for _ in 0..7 {
            let next = BackOff::next(entry, CRASH_LOOP, now, now);
            pauses.push(next.pause.as_secs());
            now += next.pause;
            entry = Some(next);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
        let later = now + SignedDuration::from_secs(601);
        assert_eq!(BackOff::next(entry, CRASH_LOOP, later, later).pause.as_secs(), 10);
    }

    #[test]
    fn a_try_waits_from_the_end_of_the_last() {
        let entry = BackOff::next(None, CRASH_LOOP, at(0), at(0));
        assert_eq!(entry.until(CRASH_LOOP, at(5), at(6)), Some(at(15)));
        assert_eq!(entry.until(CRASH_LOOP, at(5), at(15)), None);
    }

    #[test]
    fn durations_read_as_in_go() {
        for (millis, text) in
            [(10_000, "10s"), (80_000, "1m20s"), (300_000, "5m0s"), (37, "37ms"), (1_250, "1.25s")]
        {
            assert_eq!(go_duration(SignedDuration::from_millis(millis)), text);
        }
    }
}
