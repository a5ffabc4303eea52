//! How long a number was in which range. Upstream: `TimingRatioHistogram`, whose counts are nanoseconds.

/// A histogram that observes a number at the end of every nanosecond.
#[derive(Debug, Clone)]
pub struct TimedHistogram {
    /// The highest number of each range but the last.
    bounds: &'static [f64],
    /// The nanoseconds in each range; one more than there are bounds.
    nanos: Vec<u64>,
    sum: f64,
    now: f64,
    /// Since when the number is what it is; it is nothing before it is first set.
    since: Option<u64>,
}

/// A histogram as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// How many nanoseconds the number was at most this.
    pub buckets: Vec<(f64, u64)>,
    /// All nanoseconds.
    pub count: u64,
    /// The number times nanoseconds.
    pub sum: f64,
}

impl TimedHistogram {
    /// Nothing was observed.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        let nanos = vec![0; bounds.len() + 1];
        Self { bounds, nanos, sum: 0.0, now: 0.0, since: None }
    }

    /// The number is another from now on.
    pub fn set(&mut self, now: u64, value: f64) {
        self.advance(now);
        self.since = Some(self.since.map_or(now, |since| since.max(now)));
        self.now = value;
    }

    fn advance(&mut self, now: u64) {
        let Some(since) = self.since else { return };
        let passed = now.saturating_sub(since);
        if passed == 0 {
            return;
        }
        let place = self.bounds.partition_point(|bound| *bound < self.now);
        self.nanos[place] += passed;
        #[allow(clippy::cast_precision_loss, reason = "a server runs far less than 2^53 ns")]
        let passed = passed as f64;
        self.sum += passed * self.now;
        self.since = Some(now);
    }

    /// What there is until now.
    #[must_use]
    pub fn shown(&self, now: u64) -> Timed {
        let mut until = self.clone();
        until.advance(now);
        let mut count = 0;
        let ranges = self.bounds.iter().zip(&until.nanos);
        let buckets = ranges.map(|(bound, nanos)| {
            count += nanos;
            (*bound, count)
        });
        let buckets = buckets.collect();
        Timed { buckets, count: until.nanos.iter().sum(), sum: until.sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_by_what_the_number_was() {
        let mut histogram = TimedHistogram::new(&[0.0, 0.5, 1.0]);
        assert_eq!(histogram.shown(9).count, 0, "nothing was set");
        histogram.set(10, 0.0);
        histogram.set(30, 0.5);
        histogram.set(40, 2.0);
        // A clock that goes back adds nothing.
        histogram.set(35, 2.0);
        let shown = histogram.shown(45);
        assert_eq!(shown.buckets, [(0.0, 20), (0.5, 30), (1.0, 30)]);
        assert_eq!((shown.count, shown.sum), (35, 15.0));
        assert_eq!(histogram.shown(40).count, 30, "showing changes nothing");
    }
}
