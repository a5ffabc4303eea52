//! CronJobs: jobs that are started when a schedule says so. Upstream: `pkg/controller/cronjob`.

mod plan;

use std::collections::BTreeSet;
use std::sync::Arc;

use client::ObjectKey;
use client::indexes::BY_CONTROLLER;
use controller::{Controller, Failure, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct CronJobs {
    /// What it counts.
    pub metrics: Metrics,
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    skew: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { skew: Histogram::new(exponential_buckets(1.0, 2.0, 10)) }
    }
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let help = "[STABLE] Time between when a cronjob is scheduled to be run, and when the corresponding job is created";
        let name = "cronjob_controller_job_creation_skew_duration_seconds";
        registry.register(name, help, self.skew.clone());
    }
}

/// What it sees of a cron job.
#[derive(Debug)]
pub struct Observed {
    cron_job: CronJob,
    /// The jobs that it controls.
    jobs: Vec<Arc<Job>>,
    /// The names of active jobs that are there and are not, or no longer, its own.
    strangers: BTreeSet<String>,
}

/// What is remembered of a cron job.
#[derive(Debug, Default)]
pub struct Memory {
    /// Up to which scheduled time was told that nothing is started.
    told: Option<Timestamp>,
    /// How late the job is that is being started.
    late: Option<SignedDuration>,
    /// The uids of jobs that were taken away here and that the status may still name: nobody misses them.
    removed: BTreeSet<String>,
}

impl Controller for CronJobs {
    const NAME: &'static str = "cronjob-controller";
    const QUEUE: &'static str = "cronjob";
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<CronJob>().owned_by::<Job>("CronJob")
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let cron_job: CronJob = snapshot.get(key)?;
        let uid = cron_job.metadata.uid.clone().unwrap_or_default();
        let jobs: Vec<Arc<Job>> = snapshot.by_index(BY_CONTROLLER, &uid);
        let active = cron_job.status.iter().flat_map(|it| it.active.iter().flatten());
        let lost = active.filter(|it| !jobs.iter().any(|job| job.metadata.uid == it.uid));
        let names = lost.filter_map(|it| it.name.clone());
        let is_there = |name: &String| {
            let key = ObjectKey::new(key.namespace.clone(), name.as_str());
            snapshot.store::<Job>().get(&key).is_some()
        };
        let strangers = names.filter(is_there).collect();
        Some(Observed { jobs, cron_job, strangers })
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        plan::plan(observed, memory, now)
    }

    fn applied(&self, memory: &mut Memory, failure: Option<&Failure>) {
        if let (Some(late), None) = (memory.late.take(), failure) {
            self.metrics.skew.observe(late.as_secs_f64());
        }
    }
}
