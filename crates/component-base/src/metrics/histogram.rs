//! A histogram for what every request passes: observing is two additions, and takes no lock.
//!
//! Sums are kept as whole nanoseconds, or bytes. Whoever reads while others observe may see a count that is a few ahead of
//! its sum, or behind.

use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Nanoseconds in a second.
const SECOND: f64 = 1e9;

/// Counts by upper bound; clones count together.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The upper bounds as they are told, ascending.
    bounds: &'static [f64],
    /// The same in whole units.
    units: Box<[u64]>,
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    /// How many units make what is told as 1.
    scale: f64,
}

impl Histogram {
    /// Of durations, whose bounds are seconds.
    #[must_use]
    pub fn seconds(bounds: &'static [f64]) -> Self {
        Self::scaled(bounds, SECOND)
    }

    /// Of numbers: of bytes, of objects.
    #[must_use]
    pub fn numbers(bounds: &'static [f64]) -> Self {
        Self::scaled(bounds, 1.0)
    }

    fn scaled(bounds: &'static [f64], scale: f64) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounds are positive, and below some centuries"
        )]
        let units = bounds.iter().map(|bound| (bound * scale).round() as u64).collect();
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Inner { bounds, units, counts, sum: AtomicU64::new(0), scale }))
    }

    /// Counts something that took so long.
    pub fn observe(&self, took: Duration) {
        self.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), 1);
    }

    /// Counts something of this size.
    pub fn observe_number(&self, number: usize) {
        self.add(number as u64, 1);
    }

    /// Counts each of them; the counters are touched once a bucket.
    pub fn observe_all(&self, numbers: impl Iterator<Item = usize>) {
        let mut run = (0_usize, 0_u64, 0_u64);
        for number in numbers {
            let number = number as u64;
            let place = self.place(number);
            if place != run.0 {
                self.count(run.0, run.1, run.2);
                run = (place, 0, 0);
            }
            run.1 += number;
            run.2 += 1;
        }
        self.count(run.0, run.1, run.2);
    }

    /// How many were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.counts.iter().map(|it| it.load(Ordering::Relaxed)).sum()
    }

    fn add(&self, units: u64, times: u64) {
        self.count(self.place(units), units, times);
    }

    /// The bucket of a value: the first whose bound is not below it.
    fn place(&self, units: u64) -> usize {
        self.0.units.partition_point(|bound| *bound < units)
    }

    fn count(&self, place: usize, units: u64, times: u64) {
        if times > 0 {
            self.0.counts[place].fetch_add(times, Ordering::Relaxed);
            self.0.sum.fetch_add(units, Ordering::Relaxed);
        }
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    #[allow(clippy::cast_precision_loss, reason = "sums below 2^53 units are told exactly")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), Error> {
        let Inner { bounds, counts, sum, scale, .. } = &*self.0;
        let ends = bounds.iter().copied().chain([f64::INFINITY]);
        let counts = counts.iter().map(|it| it.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = ends.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = sum.load(Ordering::Relaxed) as f64 / scale;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn what_is_at_a_bound_is_within_it() {
        let (mut registry, took) = (Registry::default(), Histogram::seconds(&[0.005, 0.1]));
        let sizes = Histogram::numbers(&[10.0, 20.0]);
        registry.register("took_seconds", "How long", took.clone());
        registry.register("sizes", "How large", sizes.clone());
        for millis in [5, 6, 100, 101] {
            took.observe(Duration::from_millis(millis));
        }
        sizes.observe_number(30);
        sizes.observe_all([0, 10, 11, 5].into_iter());
        sizes.observe_all(std::iter::empty());
        assert_eq!(
            crate::metrics::text(&registry),
            "# HELP took_seconds How long.\n# TYPE took_seconds histogram\n\
             took_seconds_sum 0.212\ntook_seconds_count 4\n\
             took_seconds_bucket{le=\"0.005\"} 1\ntook_seconds_bucket{le=\"0.1\"} 3\n\
             took_seconds_bucket{le=\"+Inf\"} 4\n\
             # HELP sizes How large.\n# TYPE sizes histogram\n\
             sizes_sum 56.0\nsizes_count 5\n\
             sizes_bucket{le=\"10.0\"} 3\nsizes_bucket{le=\"20.0\"} 4\nsizes_bucket{le=\"+Inf\"} 5\n"
        );
        assert_eq!((took.total(), sizes.total()), (4, 5));
    }
}
