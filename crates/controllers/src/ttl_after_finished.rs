//! Finished Jobs go after the time that they name. Upstream: `pkg/controller/ttlafterfinished`.

use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use crate::owner::{is_deleting, key_of};

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct TtlAfterFinished;

impl Controller for TtlAfterFinished {
    const NAME: &'static str = "ttl-after-finished-controller";
    const QUEUE: &'static str = "ttl_jobs_to_delete";
    /// A job.
    type Key = ObjectKey;
    type Observed = Job;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<Job>()
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Job> {
        snapshot.get(key)
    }

    fn plan(&self, job: &Job, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(at) = expires_at(job) else { return plan };
        if now < at {
            plan.requeue_by(at);
            return plan;
        }
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
            let plan = TtlAfterFinished.plan(&job, &mut (), now.parse().unwrap());
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
}
