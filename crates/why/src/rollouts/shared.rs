//! What workloads have in common: their pods, why those are not ready, and why none were made.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;

use crate::explanation::{Explanation, Finding, MAX_NAMED, State, counted};
use crate::objects::{controller_uid, is_true, key_of};
use crate::pods::of_pod;
use crate::{Case, events};

/// The pods that an object controls and that have not ended.
pub(super) fn pods_of(case: &Case<'_>, uid: &str) -> Vec<Arc<Value>> {
    let pods = case.objects.list("", "pods", &case.subject.key.namespace);
    let own = |it: &Arc<Value>| controller_uid(it) == uid && !scheduler::PodLite::has_ended(it);
    pods.into_iter().filter(own).collect()
}

/// Whether the controller has seen what the object is to be now.
pub(super) fn not_seen(object: &Value) -> Option<Finding> {
    let wanted = object.i64_at(&["metadata", "generation"])?;
    let seen = object.i64_at(&["status", "observedGeneration"]).unwrap_or_default();
    (seen < wanted).then(|| {
        let message = format!(
            "its controller has not seen generation {wanted} yet (it has seen {seen}): is the controller manager running?"
        );
        Finding::new("NotObserved", message)
    })
}

/// The last event that says why a pod was not made: quota, admission.
pub(super) fn failed_create(case: &Case<'_>, uid: &str) -> Option<Finding> {
    let (_, message) = events::last(case, uid, |it| it.str_at(&["reason"]) == "FailedCreate")?;
    Some(Finding::new("CreateFailed", format!("pods cannot be created: {message}")))
}

/// Pods that are not ready, those that say the same together.
pub(super) fn unready(case: &Case<'_>, pods: &[Arc<Value>], what: &str) -> Vec<Finding> {
    let waiting: Vec<&Arc<Value>> = pods.iter().filter(|it| !is_true(it, "Ready")).collect();
    let mut by_text: BTreeMap<String, (usize, Finding)> = BTreeMap::new();
    for pod in waiting.iter().take(MAX_NAMED) {
        let finding = of_pod(case, pod);
        let name = key_of(pod).name;
        let text = finding.message.replace(name.as_str(), "");
        by_text.entry(text).or_insert((0, finding)).0 += 1;
    }
    let left = waiting.len().saturating_sub(MAX_NAMED);
    let mut all: Vec<Finding> = Vec::new();
    for (count, mut finding) in by_text.into_values() {
        if count > 1 {
            finding.message = format!("{} like this: {}", counted(count, what), finding.message);
        }
        all.push(finding);
    }
    if left > 0 {
        let message = format!("{} more not ready", counted(left, what));
        all.push(Finding::new("MoreNotReady", message));
    }
    all
}

/// An explanation of where a rollout is.
pub(super) fn concluded(
    case: &Case<'_>,
    done: bool,
    state: &str,
    findings: Vec<Finding>,
) -> Explanation {
    let name = case.name();
    if done {
        let summary = format!("{name} is rolled out: {state}");
        return Explanation::new(case.subject, State::Settled, summary).with(findings);
    }
    match findings.first() {
        None => {
            let summary = format!("{name} moves: {state}");
            Explanation::new(case.subject, State::Progressing, summary)
        }
        Some(first) => {
            let summary = format!("{name} does not move ({state}): {}", first.message);
            Explanation::new(case.subject, State::Waiting, summary).with(findings)
        }
    }
}

/// What is asked of one pod.
pub(super) mod of_this {
    use apimachinery::Value;

    /// Whether a pod of a job does its work; its readiness does not matter to the job.
    pub(in crate::rollouts) fn runs(pod: &Value) -> bool {
        pod.str_at(&["status", "phase"]) == "Running"
    }
}
