//! What the scheduler counts about itself, in upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::queue::Queue;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The pod was bound.
    Scheduled,
    /// No node would do.
    Unschedulable,
    /// Something failed.
    Error,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    profile: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InQueue {
    queue: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Entered {
    queue: &'static str,
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusing {
    plugin: &'static str,
    profile: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Point {
    extension_point: &'static str,
    profile: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tried {
    attempts: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cached {
    r#type: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The scheduler's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    attempts: Family<Attempt, Counter>,
    attempt_seconds: Histograms<Attempt>,
    algorithm_seconds: Histogram,
    pod_attempts: Histogram,
    sli_seconds: Histograms<Tried>,
    pending: Family<InQueue, Gauge>,
    entered: Family<Entered, Counter>,
    unschedulable: Family<Refusing, Gauge>,
    points: Histograms<Point>,
    preemptions: Counter,
    victims: Histogram,
    cached: Family<Cached, Gauge>,
}

fn milliseconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            attempts: Family::default(),
            attempt_seconds: Family::new_with_constructor(milliseconds),
            algorithm_seconds: milliseconds(),
            pod_attempts: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            sli_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.01, 2.0, 20))
            }),
            pending: Family::default(),
            entered: Family::default(),
            unschedulable: Family::default(),
            points: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.0001, 2.0, 12))
            }),
            preemptions: Counter::default(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            cached: Family::default(),
        }
    }
}

impl Metrics {
    /// Has them told with what else is told there.
    pub fn register(&self, to: &mut Registry) {
        let (name, help) =
            ("scheduler_schedule_attempts", "Attempts to place a pod, by how they ended");
        to.register(name, help, self.attempts.clone());
        let (name, help) = (
            "scheduler_scheduling_attempt_duration_seconds",
            "From decision to binding, by how it ended",
        );
        to.register(name, help, self.attempt_seconds.clone());
        let (name, help) =
            ("scheduler_scheduling_algorithm_duration_seconds", "How long decisions take");
        to.register(name, help, self.algorithm_seconds.clone());
        let (name, help) = ("scheduler_pod_scheduling_attempts", "Attempts until a pod was placed");
        to.register(name, help, self.pod_attempts.clone());
        let (name, help) = (
            "scheduler_pod_scheduling_sli_duration_seconds",
            "From when a pod was first queued until it was bound, by attempts",
        );
        to.register(name, help, self.sli_seconds.clone());
        let (name, help) = ("scheduler_pending_pods", "Pods that wait, by where");
        to.register(name, help, self.pending.clone());
        let (name, help) =
            ("scheduler_queue_incoming_pods", "Pods that came to a queue, by what brought them");
        to.register(name, help, self.entered.clone());
        let (name, help) = (
            "scheduler_unschedulable_pods",
            "Pods that fit nowhere, by the plugin that refused nodes",
        );
        to.register(name, help, self.unschedulable.clone());
        let (name, help) = (
            "scheduler_framework_extension_point_duration_seconds",
            "How long all plugins of an extension point take",
        );
        to.register(name, help, self.points.clone());
        let (name, help) =
            ("scheduler_preemption_attempts", "Attempts to make room for a pod by removing others");
        to.register(name, help, self.preemptions.clone());
        let (name, help) = ("scheduler_preemption_victims", "Pods removed for one");
        to.register(name, help, self.victims.clone());
        let (name, help) =
            ("scheduler_cache_size", "What the picture of the cluster holds, by what it is");
        to.register(name, help, self.cached.clone());
    }

    /// A decision was made.
    pub(crate) fn decided(&self, took: Duration) {
        self.algorithm_seconds.observe(took.as_secs_f64());
    }

    /// An attempt ended.
    pub(crate) fn attempted(&self, profile: &str, outcome: Outcome, took: Duration) {
        let of = Attempt { profile: profile.to_owned(), result: outcome.name() };
        self.attempt_seconds.get_or_create(&of).observe(took.as_secs_f64());
        self.attempts.get_or_create(&of).inc();
    }

    /// A pod was bound after so many attempts, so long after it was first queued.
    pub(crate) fn placed(&self, attempts: u32, waited: Duration) {
        self.pod_attempts.observe(f64::from(attempts));
        // Upstream's label ends at 16.
        let tried = if attempts >= 16 { "16+".to_owned() } else { attempts.to_string() };
        self.sli_seconds.get_or_create(&Tried { attempts: tried }).observe(waited.as_secs_f64());
    }

    /// The plugins of an extension point were asked.
    pub(crate) fn point(&self, point: &'static str, profile: &str, good: bool, took: Duration) {
        let status = if good { "Success" } else { "Error" };
        let of = Point { extension_point: point, profile: profile.to_owned(), status };
        self.points.get_or_create(&of).observe(took.as_secs_f64());
    }

    /// Pods were chosen to make room.
    pub(crate) fn preempted(&self, victims: usize) {
        #[allow(clippy::cast_precision_loss, reason = "a node has few pods")]
        self.victims.observe(victims as f64);
    }

    /// It was tried to make room.
    pub(crate) fn preempting(&self) {
        self.preemptions.inc();
    }

    /// What waits, and what is known.
    pub(crate) fn state(&self, queue: &mut Queue, nodes: usize, pods: usize, assumed: usize) {
        for (name, count) in queue.sizes() {
            self.pending.get_or_create(&InQueue { queue: name }).set(count);
        }
        for ((queue, event), count) in queue.entered() {
            self.entered.get_or_create(&Entered { queue, event }).inc_by(count);
        }
        for ((plugin, profile), change) in queue.refusing_changed() {
            let of = Refusing { plugin, profile: profile.to_string() };
            self.unschedulable.get_or_create(&of).inc_by(change);
        }
        for (name, count) in [("nodes", nodes), ("pods", pods), ("assumed_pods", assumed)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.cached.get_or_create(&Cached { r#type: name }).set(count);
        }
    }
}
