//! What queues of keys count about themselves, in upstream's names (`workqueue_*`).
//!
//! How long keys have been worked on is looked up when somebody reads the metrics. Knows no controller but by its name.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use client::Resource;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    name: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Running {
    name: &'static str,
    manager: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResource {
    group: String,
    resource: String,
}

/// Queues of which is told how often a key waited for the caches, and under which name.
const WAITING: [(&str, &str); 4] = [
    ("daemonset", "daemonset_controller_stale_sync_skips"),
    ("job", "job_controller_stale_sync_skips"),
    ("replicaset", "replicaset_controller_stale_sync_skips"),
    ("statefulset", "statefulset_controller_stale_sync_skips"),
];

type Histograms = Family<Named, Histogram, fn() -> Histogram>;

/// From ten nanoseconds to ten seconds.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(1e-8, 10.0, 10))
}

/// Something that is worked on.
pub(crate) trait Worked: Send + Sync {
    /// How long all that is worked on has been, and the longest of it.
    fn worked(&self, now: Instant) -> (Duration, Duration);
}

type Queues = Arc<Mutex<Vec<(&'static str, Weak<dyn Worked>)>>>;

/// The metrics of all queues of a process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    adds: Family<Named, Counter>,
    depth: Family<Named, Gauge>,
    retries: Family<Named, Counter>,
    waited: Histograms,
    worked: Histograms,
    running: Family<Running, Gauge>,
    skips: [Family<OfResource, Counter>; WAITING.len()],
    names: Arc<Mutex<BTreeSet<&'static str>>>,
    queues: Queues,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            adds: Family::default(),
            depth: Family::default(),
            retries: Family::default(),
            waited: Family::new_with_constructor(times),
            worked: Family::new_with_constructor(times),
            running: Family::default(),
            skips: Default::default(),
            names: Arc::default(),
            queues: Queues::default(),
        }
    }
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "workqueue_adds",
            "[BETA] Total number of adds handled by workqueue",
            self.adds.clone(),
        );
        registry.register(
            "workqueue_depth",
            "[BETA] Current depth of workqueue",
            self.depth.clone(),
        );
        registry.register(
            "workqueue_retries",
            "[BETA] Total number of retries handled by workqueue",
            self.retries.clone(),
        );
        registry.register(
            "workqueue_queue_duration_seconds",
            "[BETA] How long in seconds an item stays in workqueue before being requested",
            self.waited.clone(),
        );
        registry.register(
            "workqueue_work_duration_seconds",
            "[BETA] How long in seconds processing an item from workqueue takes",
            self.worked.clone(),
        );
        registry.register(
            "running_managed_controllers",
            "[BETA] Indicates where instances of a controller are currently running",
            self.running.clone(),
        );
        for ((_, name), skips) in WAITING.into_iter().zip(&self.skips) {
            let help = "[ALPHA] Total number of syncs skipped due to a stale watch cache";
            registry.register(name, help, skips.clone());
        }
        registry.register_collector(Box::new(InHand(Arc::clone(&self.queues))));
    }

    /// Those of one queue.
    #[must_use]
    pub fn queue(&self, name: &'static str) -> QueueMetrics {
        let named = Named { name };
        QueueMetrics {
            adds: self.adds.get_or_create(&named).clone(),
            depth: self.depth.get_or_create(&named).clone(),
            retries: self.retries.get_or_create(&named).clone(),
            waited: self.waited.get_or_create(&named).clone(),
            worked: self.worked.get_or_create(&named).clone(),
        }
    }

    /// A key of this queue waits for the cache of a resource.
    pub(crate) fn skips(&self, queue: &str, resource: &Resource) {
        let told = WAITING.iter().zip(&self.skips).find(|((name, _), _)| *name == queue);
        if let Some((_, skips)) = told {
            let (group, resource) = (resource.group.to_string(), resource.plural.to_string());
            skips.get_or_create(&OfResource { group, resource }).inc();
        }
    }

    /// A controller runs, or has ended.
    pub(crate) fn runs(&self, name: &'static str, runs: bool) {
        let running = Running { name, manager: "kube-controller-manager" };
        self.running.get_or_create(&running).set(i64::from(runs));
        let mut names = self.names.lock();
        if runs {
            names.insert(name)
        } else {
            names.remove(name)
        };
    }

    /// The names of those that run.
    #[must_use]
    pub fn running(&self) -> Vec<&'static str> {
        self.names.lock().iter().copied().collect()
    }

    /// Told of the queue whose keys are worked on under this name from now on.
    pub(crate) fn follow(&self, name: &'static str, queue: Weak<dyn Worked>) {
        let mut queues = self.queues.lock();
        queues.retain(|(_, queue)| queue.strong_count() > 0);
        queues.push((name, queue));
    }
}

/// What one queue counts.
#[derive(Debug, Clone)]
pub struct QueueMetrics {
    pub(crate) adds: Counter,
    pub(crate) depth: Gauge,
    pub(crate) retries: Counter,
    waited: Histogram,
    worked: Histogram,
}

impl QueueMetrics {
    /// A key is taken out.
    pub(crate) fn taken(&self, since: Instant, now: Instant) {
        self.depth.dec();
        self.waited.observe(now.duration_since(since).as_secs_f64());
    }

    /// The work on a key is over.
    pub(crate) fn done(&self, since: Instant, now: Instant) {
        self.worked.observe(now.duration_since(since).as_secs_f64());
    }
}

/// What is worked on now.
struct InHand(Queues);

impl std::fmt::Debug for InHand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InHand")
    }
}

impl Collector for InHand {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let now = Instant::now();
        let alive: Vec<_> =
            self.0.lock().iter().filter_map(|(name, it)| Some((*name, it.upgrade()?))).collect();
        let worked: Vec<_> = alive.iter().map(|(name, it)| (*name, it.worked(now))).collect();
        let unfinished = "[BETA] How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases";
        let longest =
            "[BETA] How many seconds has the longest running processor for workqueue been running";
        let metrics = [
            ("workqueue_unfinished_work_seconds", unfinished, true),
            ("workqueue_longest_running_processor_seconds", longest, false),
        ];
        for (metric, help, all) in metrics {
            let gauge = ConstGauge::new(0_f64);
            let mut family = encoder.encode_descriptor(metric, help, None, gauge.metric_type())?;
            for (name, (sum, longest)) in &worked {
                let value = if all { sum } else { longest };
                let labels = Named { name };
                let gauge = ConstGauge::new(value.as_secs_f64());
                gauge.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_for_a_cache_are_told_of_controllers_of_which_upstream_tells_them() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let pods = Resource::built_in("", "pods");
        metrics.skips("job", &pods);
        metrics.skips("job", &pods);
        metrics.skips("deployment", &pods);
        let told = component_base::metrics::text(&registry);
        let lines =
            told.lines().filter(|it| it.contains("stale_sync_skips") && !it.starts_with('#'));
        let line = "job_controller_stale_sync_skips_total{group=\"\",resource=\"pods\"} 2";
        assert_eq!(lines.collect::<Vec<_>>(), [line]);
    }
}
