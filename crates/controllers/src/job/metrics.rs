//! What is counted of jobs, in upstream's names: read from how they change, not from who changed them.

use std::cell::LazyCell;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use client::pod::Phase;
use client::reflector::{Cached, StoreChange};
use controller::{Action, Plan};
use k8s_openapi::api::batch::v1::Job;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::conditions::{COMPLETE, FAILED};
use super::failure_policy::Action as PolicyAction;
use super::{FINALIZER, indexes, tracking};

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

/// Labels of which no Rust field has one's name.
type IndexesFinished = [(&'static str, &'static str); 2];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PodsCreated {
    reason: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByExternal {
    controller_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    action: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tracked {
    event: &'static str,
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

/// What a plan has found that is counted once it is carried out.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// What rules of the failure policy said of pods that are counted now.
    handled: Vec<&'static str>,
    /// How many pods have failed, those too whose finalizer is not gone yet.
    pub(super) failed: i32,
    /// How many are on their way out.
    pub(super) terminating: i32,
}

impl Tally {
    /// A rule said this of a pod.
    pub(super) fn handled(&mut self, action: &PolicyAction) {
        self.handled.push(match action {
            PolicyAction::Count => "Count",
            PolicyAction::Ignore => "Ignore",
            PolicyAction::FailIndex => "FailIndex",
            PolicyAction::FailJob(_) => "FailJob",
        });
    }

    /// Why pods are created now.
    fn reason(&self, job: &Job) -> &'static str {
        if tracking::replaces_failed_only(job) && self.failed > 0 {
            "recreate_failed"
        } else if self.failed > 0 || self.terminating > 0 {
            "recreate_terminating_or_failed"
        } else {
            "new"
        }
    }
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    finished: Family<Finished, Counter>,
    pods: Family<PodsFinished, Counter>,
    indexes: Family<IndexesFinished, Counter>,
    created: Family<PodsCreated, Counter>,
    external: Family<ByExternal, Counter>,
    handled: Family<Handled, Counter>,
    tracked: Family<Tracked, Counter>,
    syncs: Family<Synced, Counter>,
    durations: Family<Synced, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let durations: fn() -> Histogram = || Histogram::new(exponential_buckets(0.004, 2.0, 15));
        Self {
            finished: Family::default(),
            pods: Family::default(),
            indexes: Family::default(),
            created: Family::default(),
            external: Family::default(),
            handled: Family::default(),
            tracked: Family::default(),
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
        let help = "[ALPHA] The number of finished indexes.";
        registry.register("job_controller_job_finished_indexes", help, self.indexes.clone());
        let help = "[ALPHA] The number of Pods created by the Job controller labelled with a reason for the Pod creation.";
        registry.register("job_controller_job_pods_creation", help, self.created.clone());
        let help = "[ALPHA] The number of Jobs managed by an external controller.";
        let name = "job_controller_jobs_by_external_controller";
        registry.register(name, help, self.external.clone());
        let help = "[ALPHA] The number of failed Pods handled by failure policy with respect to the failure policy action applied.";
        let name = "job_controller_pod_failures_handled_by_failure_policy";
        registry.register(name, help, self.handled.clone());
        let help = "[ALPHA] The number of terminated pods (phase=Failed|Succeeded) that have the finalizer batch.kubernetes.io/job-tracking.";
        let name = "job_controller_terminated_pods_tracking_finalizer";
        registry.register(name, help, self.tracked.clone());
    }

    /// Has the pods that a plan creates counted as they are.
    pub(super) fn count_creations(&self, job: &Job, tally: &Tally, plan: &mut Plan) {
        let reason = tally.reason(job);
        let of = |status| self.created.get_or_create_owned(&PodsCreated { reason, status });
        let counters = LazyCell::new(|| ["succeeded", "failed"].map(of));
        let all = plan.stages.iter_mut().flat_map(|it| &mut it.actions);
        for creation in all.filter(|it| it.action.creates("pods")) {
            creation.counters = Some(counters.clone());
        }
    }

    /// What was found was written.
    pub(super) fn tallied(&self, tally: Tally) {
        for action in tally.handled {
            self.handled.get_or_create(&Handled { action }).inc();
        }
    }

    /// A pod changed.
    pub(super) fn see_pod(&self, change: &StoreChange) {
        let waits = |pod: &Option<Arc<Cached>>| {
            pod.as_ref().is_some_and(|it| {
                matches!(it.pod().phase, Phase::Succeeded | Phase::Failed) && it.mentions(FINALIZER)
            })
        };
        let event = match (waits(&change.old), waits(&change.new)) {
            (false, true) => "add",
            (true, false) => "delete",
            _ => return,
        };
        self.tracked.get_or_create(&Tracked { event }).inc();
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
        match (&change.old, &change.new) {
            (Some(old), Some(new)) => self.compare(&old.value(), &new.value()),
            // Upstream counts those too that are there when it begins.
            (None, Some(new)) => {
                let controller_name = new.value().str_at(&["spec", "managedBy"]).to_owned();
                if !controller_name.is_empty() && controller_name != super::MANAGER {
                    self.external.get_or_create(&ByExternal { controller_name }).inc();
                }
            }
            (_, None) => {}
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
        self.compare_indexes(old, new);
    }

    fn compare_indexes(&self, old: &Value, new: &Value) {
        if new.str_at(&["spec", "completionMode"]) != "Indexed" {
            return;
        }
        let completions = new.i64_at(&["spec", "completions"]).unwrap_or_default();
        let completions = u32::try_from(completions).unwrap_or_default();
        let per_index = new.at(&["spec", "backoffLimitPerIndex"]).is_some();
        let backoff_limit = if per_index { "perIndex" } else { "global" };
        let members = [("succeeded", "completedIndexes"), ("failed", "failedIndexes")];
        for (status, member) in members.into_iter().take(if per_index { 2 } else { 1 }) {
            let [before, after] = [old, new].map(|it| it.str_at(&["status", member]));
            if before == after {
                continue;
            }
            let count = |text: &str| indexes::parse(text, completions).len();
            if let Some(more @ 1..) = count(after).checked_sub(count(before)) {
                let more = u64::try_from(more).unwrap_or(u64::MAX);
                let of = [("status", status), ("backoffLimit", backoff_limit)];
                self.indexes.get_or_create(&of).inc_by(more);
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
    use apimachinery::value;

    use super::*;

    #[test]
    fn what_a_change_of_a_job_tells_is_counted_once() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let job = |status: &str| {
            let spec = r#"{"completionMode":"Indexed","completions":9,"backoffLimitPerIndex":1}"#;
            let text = format!(r#"{{"spec":{spec},"status":{status}}}"#);
            apimachinery::json::parse(text.as_bytes()).unwrap()
        };
        let (begun, over) = (
            job(r#"{"succeeded":1,"completedIndexes":"3"}"#),
            job(
                r#"{"succeeded":3,"completedIndexes":"1-3","failed":1,"failedIndexes":"7","conditions":[{"type":"Complete","status":"True","reason":"CompletionsReached"}]}"#,
            ),
        );
        metrics.compare(&begun, &over);
        metrics.compare(&over, &over);
        let sync = Sync::of(&Job::default(), &Plan::nothing());
        metrics.synced(sync, false, Duration::from_millis(5));
        let mut tally = Tally { failed: 1, ..Tally::default() };
        tally.handled(&PolicyAction::Ignore);
        let mut plan = Plan::nothing();
        plan.act(Action::Create {
            resource: client::Resource::of::<k8s_openapi::api::core::v1::Pod>(),
            namespace: "n".into(),
            object: Value::object(),
            exists_is_fine: false,
        });
        metrics.count_creations(&Job::default(), &tally, &mut plan);
        plan.stages[0].actions[0].counters.as_ref().unwrap()[1].inc();
        metrics.tallied(tally);
        let pod = |phase: &str| {
            let pod = value!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "finalizers": [FINALIZER]},
                "status": {"phase": phase}});
            Some(Arc::new(Cached::new(pod)))
        };
        let (runs, over) = (pod("Running"), pod("Failed"));
        metrics.see_pod(&StoreChange { old: runs, new: over.clone() });
        metrics.see_pod(&StoreChange { old: over.clone(), new: over.clone() });
        metrics.see_pod(&StoreChange { old: over, new: None });
        let theirs = value!({"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "j"},
            "spec": {"managedBy": "example.com/theirs"}});
        let theirs = Some(Arc::new(Cached::new(theirs)));
        metrics.see(&StoreChange { old: None, new: theirs });
        let told = component_base::metrics::text(&registry);
        for line in [
            "job_controller_job_finished_indexes_total{status=\"succeeded\",backoffLimit=\"perIndex\"} 2",
            "job_controller_job_finished_indexes_total{status=\"failed\",backoffLimit=\"perIndex\"} 1",
            "job_controller_job_pods_creation_total{reason=\"recreate_terminating_or_failed\",status=\"failed\"} 1",
            "job_controller_jobs_by_external_controller_total{controller_name=\"example.com/theirs\"} 1",
            "job_controller_pod_failures_handled_by_failure_policy_total{action=\"Ignore\"} 1",
            "job_controller_terminated_pods_tracking_finalizer_total{event=\"add\"} 1",
            "job_controller_terminated_pods_tracking_finalizer_total{event=\"delete\"} 1",
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
