//! What is counted of jobs, in upstream's names: read from how they change, not from who changed them.

use std::time::Duration;

use apimachinery::Value;
use client::reflector::StoreChange;
use controller::{Action, Plan};
use k8s_openapi::api::batch::v1::Job;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::conditions::{COMPLETE, FAILED};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Finished {
    completion_mode: String,
    result: &'static str,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodsFinished {
    completion_mode: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Synced {
    completion_mode: &'static str,
    action: &'static str,
    result: &'static str,
}

/// What a plan for a job does, in the words of upstream's labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sync {
    completion_mode: &'static str,
    action: &'static str,
}

impl Sync {
    pub(super) fn of(job: &Job, plan: &Plan) -> Self {
        let indexed =
            job.spec.as_ref().is_some_and(|it| it.completion_mode.as_deref() == Some("Indexed"));
        let actions = || plan.stages.iter().flat_map(|it| &it.actions).map(|it| &it.action);
        let action = if actions().any(|it| matches!(it, Action::Create { .. })) {
            "pods_created"
        } else if actions().any(|it| matches!(it, Action::Delete { .. })) {
            "pods_deleted"
        } else if actions().next().is_some() {
            "tracking"
        } else {
            "reconciling"
        };
        Self { completion_mode: if indexed { "Indexed" } else { "NonIndexed" }, action }
    }
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    finished: Family<Finished, Counter>,
    pods: Family<PodsFinished, Counter>,
    syncs: Family<Synced, Counter>,
    durations: Family<Synced, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let durations: fn() -> Histogram = || Histogram::new(exponential_buckets(0.004, 2.0, 15));
        Self {
            finished: Family::default(),
            pods: Family::default(),
            syncs: Family::default(),
            durations: Family::new_with_constructor(durations),
        }
    }
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let help = "[STABLE] The number of finished jobs";
        registry.register("job_controller_jobs_finished", help, self.finished.clone());
        let help = "[STABLE] The number of job syncs";
        registry.register("job_controller_job_syncs", help, self.syncs.clone());
        let help = "[STABLE] The time it took to sync a job";
        let name = "job_controller_job_sync_duration_seconds";
        registry.register(name, help, self.durations.clone());
        let help = "[STABLE] The number of finished Pods that are fully tracked";
        registry.register("job_controller_job_pods_finished", help, self.pods.clone());
    }

    /// A plan was carried out.
    pub(super) fn synced(&self, sync: Sync, failed: bool, took: Duration) {
        let Sync { completion_mode, action } = sync;
        let result = if failed { "error" } else { "success" };
        let of = Synced { completion_mode, action, result };
        self.syncs.get_or_create(&of).inc();
        self.durations.get_or_create(&of).observe(took.as_secs_f64());
    }

    /// A job changed. What is there when the controller begins was counted by its predecessor.
    pub(super) fn see(&self, change: &StoreChange) {
        if let (Some(old), Some(new)) = (&change.old, &change.new) {
            self.compare(&old.value(), &new.value());
        }
    }

    fn compare(&self, old: &Value, new: &Value) {
        let mode = || match new.str_at(&["spec", "completionMode"]) {
            "" => "NonIndexed".to_owned(),
            mode => mode.to_owned(),
        };
        if let (None, Some((result, reason))) = (end(old), end(new)) {
            let reason = reason.to_owned();
            let of = Finished { completion_mode: mode(), result, reason };
            self.finished.get_or_create(&of).inc();
        }
        for result in ["succeeded", "failed"] {
            let count = |job: &Value| job.i64_at(&["status", result]).unwrap_or_default();
            if let Ok(more @ 1..) = u64::try_from(count(new) - count(old)) {
                let of = PodsFinished { completion_mode: mode(), result };
                self.pods.get_or_create(&of).inc_by(more);
            }
        }
    }
}

/// How a job ended, and why.
fn end(job: &Value) -> Option<(&'static str, &str)> {
    job.items_at(&["status", "conditions"]).iter().find_map(|it| {
        let result = match it.str_at(&["type"]) {
            COMPLETE => "succeeded",
            FAILED => "failed",
            _ => return None,
        };
        (it.str_at(&["status"]) == "True").then(|| (result, it.str_at(&["reason"])))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_change_of_a_job_tells_is_counted_once() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let job = |status: &str| {
            let text = format!(r#"{{"spec":{{"completionMode":"Indexed"}},"status":{status}}}"#);
            apimachinery::json::parse(text.as_bytes()).unwrap()
        };
        let (begun, over) = (
            job(r#"{"succeeded":1}"#),
            job(
                r#"{"succeeded":3,"failed":1,"conditions":[{"type":"Complete","status":"True","reason":"CompletionsReached"}]}"#,
            ),
        );
        metrics.compare(&begun, &over);
        metrics.compare(&over, &over);
        let sync = Sync::of(&Job::default(), &Plan::nothing());
        metrics.synced(sync, false, Duration::from_millis(5));
        let told = component_base::metrics::text(&registry);
        for line in [
            "job_controller_job_syncs_total{completion_mode=\"NonIndexed\",action=\"reconciling\",result=\"success\"} 1",
            "job_controller_job_sync_duration_seconds_bucket{le=\"0.004\",completion_mode=\"NonIndexed\",action=\"reconciling\",result=\"success\"} 0",
            "job_controller_jobs_finished_total{completion_mode=\"Indexed\",result=\"succeeded\",reason=\"CompletionsReached\"} 1",
            "job_controller_job_pods_finished_total{completion_mode=\"Indexed\",result=\"succeeded\"} 2",
            "job_controller_job_pods_finished_total{completion_mode=\"Indexed\",result=\"failed\"} 1",
        ] {
            assert!(told.lines().any(|it| it == line), "{line}: {told}");
        }
    }
}
