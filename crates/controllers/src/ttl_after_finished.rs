//! Finished Jobs go after the time that they name. Upstream: `pkg/controller/ttlafterfinished`.

use std::time::Duration;

use client::{ObjectKey, Resource};
use controller::{Action, Controller, Failure, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::owner::{is_deleting, key_of};

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct TtlAfterFinished {
    /// What it counts.
    pub metrics: Metrics,
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    late: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { late: Histogram::new(exponential_buckets(0.1, 2.0, 14)) }
    }
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let help =
            "[ALPHA] The time it took to delete the job since it became eligible for deletion";
        let name = "ttl_after_finished_controller_job_deletion_duration_seconds";
        registry.register(name, help, self.late.clone());
    }
}

impl Controller for TtlAfterFinished {
    const NAME: &'static str = "ttl-after-finished-controller";
    const QUEUE: &'static str = "ttl_jobs_to_delete";
    /// A job.
    type Key = ObjectKey;
    type Observed = Job;
    /// How long ago the time of the job was over that is being deleted.
    type Memory = Option<SignedDuration>;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<Job>()
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Job> {
        snapshot.get(key)
    }

    fn timed(&self, late: &mut Option<SignedDuration>, failure: Option<&Failure>, took: Duration) {
        if let (Some(late), None) = (late.take(), failure) {
            self.metrics.late.observe(late.as_secs_f64() + took.as_secs_f64());
        }
    }

    fn plan(&self, job: &Job, late: &mut Option<SignedDuration>, now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        *late = None;
        let Some(at) = expires_at(job) else { return plan };
        if now < at {
            plan.requeue_by(at);
            return plan;
        }
        *late = Some(now.duration_since(at));
        plan.act(Action::Delete {
            resource: Resource::of::<Job>(),
            key: key_of(&job.metadata),
            uid: job.metadata.uid.clone().unwrap_or_default(),
            propagation: Some("Foreground"),
            grace_period_seconds: None,
            resource_version: String::new(),
        });
        plan
    }
}

/// When a job is to go; `None` where it is not over, does not say, or is going already.
fn expires_at(job: &Job) -> Option<Timestamp> {
    if is_deleting(&job.metadata) {
        return None;
    }
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let over = conditions
        .iter()
        .find(|it| matches!(it.type_.as_str(), "Complete" | "Failed") && it.status == "True")?;
    let since = over.last_transition_time.as_ref()?.0;
    since.checked_add(SignedDuration::from_secs(i64::from(seconds))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_goes_its_time_after_it_finished() {
        let check = |spec: &str, condition: &str, now: &str, expected: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"j"}},"spec":{{"template":{{}}{spec}}},"status":{{"conditions":[{{"type":"{condition}","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}}]}}}}"#
            );
            let job: Job = serde_json::from_str(&text).unwrap();
            let plan = TtlAfterFinished::default().plan(&job, &mut None, now.parse().unwrap());
            let later = plan.requeue_at.map(|at| format!("at {at}")).unwrap_or_default();
            let outcome = if plan.is_quiet() { later } else { "delete".into() };
            assert_eq!(outcome, expected, "{spec} {condition} {now}");
        };
        let ttl = r#","ttlSecondsAfterFinished":60"#;
        check(ttl, "Complete", "2026-01-01T00:00:59Z", "at 2026-01-01T00:01:00Z");
        check(ttl, "Complete", "2026-01-01T00:01:00Z", "delete");
        check(ttl, "Failed", "2026-01-01T00:01:00Z", "delete");
        check(ttl, "Suspended", "2026-01-01T00:01:00Z", "");
        check("", "Complete", "2026-01-01T00:01:00Z", "");
    }

    #[test]
    fn how_late_a_job_was_deleted_is_counted_once_it_is() {
        let text = r#"{"metadata":{"name":"j"},"spec":{"template":{},"ttlSecondsAfterFinished":60},"status":{"conditions":[{"type":"Complete","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;
        let job: Job = serde_json::from_str(text).unwrap();
        let (controller, mut late) = (TtlAfterFinished::default(), None);
        let mut registry = Registry::default();
        controller.metrics.register(&mut registry);
        let count = |expected: &str| {
            let told = component_base::metrics::text(&registry);
            let name = "ttl_after_finished_controller_job_deletion_duration_seconds";
            assert!(told.contains(&format!("{name}_{expected}")), "{told}");
        };
        controller.plan(&job, &mut late, "2026-01-01T00:00:59Z".parse().unwrap());
        controller.timed(&mut late, None, Duration::ZERO);
        count("count 0");
        controller.plan(&job, &mut late, "2026-01-01T00:01:03Z".parse().unwrap());
        controller.timed(&mut late, None, Duration::from_millis(500));
        count("sum 3.5");
        count("bucket{le=\"3.2\"} 0");
    }
}
