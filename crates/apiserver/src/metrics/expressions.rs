//! How long rules of custom resources take, in upstream's names.

use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use registry::custom::Stopwatch;
use tokio::time::Instant;

/// The buckets of a histogram that names none.
const USUAL: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What the rules of all definitions count together.
#[derive(Debug)]
pub(crate) struct Expressions {
    began: Instant,
    compilation: Histogram,
    evaluation: Histogram,
}

impl Expressions {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let (compilation, evaluation) = (Histogram::new(USUAL), Histogram::new(USUAL));
        registry.register(
            "apiserver_cel_compilation_duration_seconds",
            "How long it took to make the rules of a custom resource ready",
            compilation.clone(),
        );
        registry.register(
            "apiserver_cel_evaluation_duration_seconds",
            "How long the rules of a custom resource took for an object",
            evaluation.clone(),
        );
        Self { began: Instant::now(), compilation, evaluation }
    }
}

impl Stopwatch for Expressions {
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn compiled(&self, took: Duration) {
        self.compilation.observe(took.as_secs_f64());
    }

    fn evaluated(&self, took: Duration) {
        self.evaluation.observe(took.as_secs_f64());
    }
}
