//! CronJobs: jobs that are started when a schedule says so. Upstream: `pkg/controller/cronjob`.

mod plan;

use client::ObjectKey;
use client::indexes::BY_CONTROLLER;
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct CronJobs;

/// What it sees of a cron job.
#[derive(Debug)]
pub struct Observed {
    cron_job: CronJob,
    /// The jobs that it controls.
    jobs: Vec<Job>,
}

/// What is remembered of a cron job.
#[derive(Debug, Default)]
pub struct Memory {
    /// Up to which scheduled time was told that nothing is started.
    told: Option<Timestamp>,
}

impl Controller for CronJobs {
    const NAME: &'static str = "cronjob-controller";
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<CronJob>().owned_by::<Job>("CronJob")
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let cron_job: CronJob = snapshot.get(key)?;
        let uid = cron_job.metadata.uid.clone().unwrap_or_default();
        Some(Observed { jobs: snapshot.by_index(BY_CONTROLLER, &uid), cron_job })
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        plan::plan(&observed.cron_job, &observed.jobs, memory, now)
    }
}
