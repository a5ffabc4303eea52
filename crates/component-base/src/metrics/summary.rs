//! A summary as upstream's are told: how many, how long together, and quantiles of about the last five hours.
//!
//! Quantiles are told by buckets that are a twelfth of an octave wide (6 %), so that observing takes no lock and what is kept does not grow.
//! The bindings for Prometheus have no such kind of metric: it is written as text.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long what is observed counts at most, and in how many parts it is forgotten (upstream: `MaxAge`, `AgeBuckets`).
const AGES: usize = 5;
const AGE: Duration = Duration::from_secs(3600);
/// Buckets begin at a microsecond, and are as many as reach beyond ten minutes.
const FIRST_NANOS: f64 = 1_000.0;
const PER_OCTAVE: f64 = 12.0;
const BUCKETS: usize = 30 * 12;
/// What upstream tells of every summary that says nothing else.
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

/// What is kept of one age.
#[derive(Debug)]
struct Part {
    /// Which age this is of, since the start; those of other ages are forgotten.
    age: AtomicU64,
    counts: Box<[AtomicU32]>,
}

/// Durations that were observed.
#[derive(Debug)]
pub struct Summary {
    began: Instant,
    parts: [Part; AGES],
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Default for Summary {
    fn default() -> Self {
        let part = || Part {
            age: AtomicU64::new(0),
            counts: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(),
        };
        Self {
            began: Instant::now(),
            parts: [part(), part(), part(), part(), part()],
            count: AtomicU64::new(0),
            nanos: AtomicU64::new(0),
        }
    }
}

impl Summary {
    /// Counts something that took so long.
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        let part = self.part(self.age());
        part.counts[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
    }

    fn age(&self) -> u64 {
        self.began.elapsed().as_secs() / AGE.as_secs()
    }

    /// Where what is of this age is kept. Who comes first in an age forgets what was there.
    fn part(&self, age: u64) -> &Part {
        let part = &self.parts[usize::try_from(age).unwrap_or_default() % AGES];
        let known = part.age.load(Ordering::Acquire);
        if known != age
            && part.age.compare_exchange(known, age, Ordering::AcqRel, Ordering::Acquire).is_ok()
        {
            part.counts.iter().for_each(|it| it.store(0, Ordering::Relaxed));
        }
        part
    }

    /// Writes its lines; `labels` are those of the series, without braces.
    pub fn write(&self, name: &str, labels: &str, out: &mut String) {
        let now = self.age();
        let counting = |it: &&Part| it.age.load(Ordering::Acquire) + AGES as u64 > now;
        let parts: Vec<&Part> = self.parts.iter().filter(counting).collect();
        let count_of = |place: usize| -> u64 {
            parts.iter().map(|it| u64::from(it.counts[place].load(Ordering::Relaxed))).sum()
        };
        let counts: Vec<u64> = (0..BUCKETS).map(count_of).collect();
        for quantile in QUANTILES {
            let value = value_at(&counts, quantile);
            let value = value.map_or("NaN".to_owned(), |it| it.to_string());
            let _ = writeln!(out, "{name}{{{labels},quantile=\"{quantile}\"}} {value}");
        }
        let (count, nanos) =
            (self.count.load(Ordering::Relaxed), self.nanos.load(Ordering::Relaxed));
        #[allow(clippy::cast_precision_loss, reason = "sums below 2^53 are told exactly")]
        let seconds = nanos as f64 / 1e9;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {seconds}\n{name}_count{{{labels}}} {count}");
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the place is within the buckets"
)]
fn bucket(nanos: u64) -> usize {
    let octaves = (nanos.max(1) as f64 / FIRST_NANOS).log2();
    ((octaves * PER_OCTAVE).max(0.0) as usize).min(BUCKETS - 1)
}

/// The middle of the bucket in which the quantile is, in seconds; none where nothing was observed.
#[allow(clippy::cast_precision_loss, reason = "counts and places are small")]
fn value_at(counts: &[u64], quantile: f64) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    let wanted = (all as f64 * quantile).max(1.0);
    let mut seen = 0;
    let place = counts.iter().position(|count| {
        seen += count;
        seen as f64 >= wanted
    })?;
    Some(FIRST_NANOS * ((place as f64 + 0.5) / PER_OCTAVE).exp2() / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(summary: &Summary) -> Vec<f64> {
        let mut out = String::new();
        summary.write("s", "a=\"b\"", &mut out);
        assert!(out.starts_with("s{a=\"b\",quantile=\"0.5\"} "), "{out}");
        out.lines().map(|it| it.rsplit(' ').next().unwrap().parse().unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn quantiles_are_of_the_last_hours() {
        let summary = Summary::default();
        assert!(told(&summary)[0].is_nan());
        for millis in 1..=100 {
            summary.observe(Duration::from_millis(millis));
        }
        let near = |found: f64, expected: f64| (found / expected - 1.0).abs() < 0.07;
        let [half, most, all, sum, count] = told(&summary)[..] else { panic!("five lines") };
        assert!(near(half, 0.05) && near(most, 0.09) && near(all, 0.099), "{half} {most} {all}");
        assert_eq!((sum, count), (5.05, 100.0));
        tokio::time::advance(AGE * 4).await;
        summary.observe(Duration::from_secs(1));
        assert!(near(told(&summary)[0], 0.05));
        // The first ones are forgotten, and count on.
        tokio::time::advance(AGE).await;
        assert!(near(told(&summary)[0], 1.0));
        assert_eq!(told(&summary)[4], 101.0);
        tokio::time::advance(AGE * 5).await;
        assert!(told(&summary)[0].is_nan());
    }
}
