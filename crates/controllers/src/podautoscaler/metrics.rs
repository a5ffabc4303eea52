//! What is counted of autoscalers, in upstream's names.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use client::ObjectKey;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

const PREFIX: &str = "horizontal_pod_autoscaler_controller";

/// What a look, or a metric of it, asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Up,
    Down,
    None,
}

impl Direction {
    pub(super) fn of(current: i32, desired: i32) -> Self {
        match desired.cmp(&current) {
            std::cmp::Ordering::Greater => Self::Up,
            std::cmp::Ordering::Less => Self::Down,
            std::cmp::Ordering::Equal => Self::None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Up => "scale_up",
            Self::Down => "scale_down",
            Self::None => "none",
        }
    }
}

/// Whose fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Fault {
    /// What somebody wrote.
    Spec,
    /// What this cluster could not do.
    Internal,
    None,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Spec => "spec",
            Self::Internal => "internal",
            Self::None => "none",
        }
    }
}

/// How a look, or a metric of it, went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Went {
    pub(super) direction: Direction,
    pub(super) fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLook {
    action: &'static str,
    error: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfAutoscaler {
    hpa_name: String,
    namespace: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMetric {
    action: &'static str,
    error: &'static str,
    metric_type: String,
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    looks: Family<OfLook, Counter>,
    look_durations: Family<OfLook, Histogram, fn() -> Histogram>,
    metrics: Family<OfMetric, Counter>,
    metric_durations: Family<OfMetric, Histogram, fn() -> Histogram>,
    desired: Family<OfAutoscaler, Gauge>,
    known: Arc<Mutex<BTreeSet<ObjectKey>>>,
    number: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let durations: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        Self {
            looks: Family::default(),
            look_durations: Family::new_with_constructor(durations),
            metrics: Family::default(),
            metric_durations: Family::new_with_constructor(durations),
            desired: Family::default(),
            known: Arc::default(),
            number: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix(PREFIX);
        let help = "[ALPHA] Number of reconciliations of HPA controller. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'.";
        registry.register("reconciliations", help, self.looks.clone());
        let help = "[ALPHA] The time(seconds) that the HPA controller takes to reconcile once.";
        registry.register("reconciliation_duration_seconds", help, self.look_durations.clone());
        let help =
            "[ALPHA] Number of metric computations, by action, error and type of the metric.";
        registry.register("metric_computation", help, self.metrics.clone());
        let help =
            "[ALPHA] The time(seconds) that the HPA controller takes to calculate one metric.";
        registry.register(
            "metric_computation_duration_seconds",
            help,
            self.metric_durations.clone(),
        );
        let help = "[ALPHA] Number of pods that an autoscaler asks for.";
        registry.register("desired_replicas", help, self.desired.clone());
        let help = "[ALPHA] Number of autoscalers that are looked at.";
        registry.register("num_horizontal_pod_autoscalers", help, self.number.clone());
    }

    /// An autoscaler is there, and its status says how many pods it asks for, or it is gone.
    pub(super) fn seen(&self, key: &ObjectKey, desired: Option<i32>) {
        let mut known = self.known.lock();
        let of =
            OfAutoscaler { hpa_name: key.name.to_string(), namespace: key.namespace.to_string() };
        let Some(desired) = desired else {
            known.remove(key);
            self.number.set(i64::try_from(known.len()).unwrap_or(i64::MAX));
            self.desired.remove(&of);
            return;
        };
        if !known.contains(key) {
            known.insert(key.clone());
            self.number.set(i64::try_from(known.len()).unwrap_or(i64::MAX));
        }
        self.desired.get_or_create(&of).set(i64::from(desired));
    }

    pub(super) fn looked(&self, went: Went, took: Duration) {
        let of = OfLook { action: went.direction.name(), error: went.fault.name() };
        self.looks.get_or_create(&of).inc();
        self.look_durations.get_or_create(&of).observe(took.as_secs_f64());
    }

    pub(super) fn computed(&self, kind: &str, went: Went, took: Duration) {
        let of = OfMetric {
            action: went.direction.name(),
            error: went.fault.name(),
            metric_type: kind.to_owned(),
        };
        self.metrics.get_or_create(&of).inc();
        self.metric_durations.get_or_create(&of).observe(took.as_secs_f64());
    }
}
