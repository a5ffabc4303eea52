//! How many seats a level wanted over time. Upstream: the integrator, and `seatDemandStats`.

/// How much of the smoothed demand is left after one period (upstream: `seatDemandSmoothingCoefficient`).
const SMOOTHING: f64 = 0.977;

/// A number over time.
#[derive(Debug, Clone, Default)]
pub struct Demand {
    since: u64,
    at: u64,
    now: f64,
    sum: f64,
    squares: f64,
    most: f64,
}

/// What it was over a period.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Observed {
    /// The average over time.
    pub average: f64,
    /// How far it was from that.
    pub deviation: f64,
    /// The highest.
    pub high: f64,
    /// Whether there was any time at all.
    pub lasted: bool,
}

impl Demand {
    /// The number is another from now on.
    pub fn set(&mut self, now: u64, value: f64) {
        self.advance(now);
        self.now = value;
        self.most = self.most.max(value);
    }

    fn advance(&mut self, now: u64) {
        #[allow(
            clippy::cast_precision_loss,
            reason = "a period has far fewer nanoseconds than 2^53"
        )]
        let passed = now.saturating_sub(self.at) as f64;
        self.at = self.at.max(now);
        self.sum += passed * self.now;
        self.squares += passed * self.now * self.now;
    }

    /// What it was since the last time.
    pub fn take(&mut self, now: u64) -> Observed {
        self.advance(now);
        #[allow(
            clippy::cast_precision_loss,
            reason = "a period has far fewer nanoseconds than 2^53"
        )]
        let lasted = self.at.saturating_sub(self.since) as f64;
        let average = if lasted > 0.0 { self.sum / lasted } else { 0.0 };
        let variance = if lasted > 0.0 { self.squares / lasted - average * average } else { 0.0 };
        let observed = Observed {
            average,
            deviation: variance.max(0.0).sqrt(),
            high: self.most,
            lasted: lasted > 0.0,
        };
        *self =
            Self { since: self.at, at: self.at, now: self.now, most: self.now, ..Self::default() };
        observed
    }
}

/// The demand that limits are set by: it rises at once and falls slowly.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Smoothed {
    /// The last period.
    pub last: Observed,
    /// What is reckoned with.
    pub smoothed: f64,
}

impl Smoothed {
    /// Takes one more period into account.
    pub fn add(&mut self, observed: Observed) {
        self.last.high = observed.high;
        if !observed.lasted {
            return;
        }
        self.last = observed;
        let envelope = observed.average + observed.deviation;
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demand_is_weighed_by_time() {
        let mut demand = Demand::default();
        demand.set(0, 2.0);
        demand.set(30, 10.0);
        let observed = demand.take(40);
        assert_eq!((observed.average, observed.high), (4.0, 10.0));
        assert!((observed.deviation - 12.0_f64.sqrt()).abs() < 1e-9, "{observed:?}");
        // What is wanted now is wanted from the beginning of the next period.
        let next = demand.take(50);
        assert_eq!((next.average, next.deviation, next.high), (10.0, 0.0, 10.0));
        assert!(!demand.take(50).lasted);
    }

    #[test]
    fn it_rises_at_once_and_falls_slowly() {
        let mut smoothed = Smoothed::default();
        let of = |average| Observed { average, deviation: 0.0, high: average, lasted: true };
        smoothed.add(of(100.0));
        assert_eq!(smoothed.smoothed, 100.0);
        smoothed.add(of(0.0));
        assert!((smoothed.smoothed - 97.7).abs() < 1e-9);
    }
}
