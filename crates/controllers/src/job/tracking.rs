//! Which finished pods are counted, and which may lose their finalizer.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::value;
use client::Resource;
use client::call::PatchKind;
use controller::Action;
use k8s_openapi::api::batch::v1::{Job, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::FINALIZER;
use super::conditions::Verdict;
use super::failure_policy::{self, Action as PolicyAction};
use super::indexes::{self, Indexes};
use super::metrics::Tally;
use super::plan::Round;
use crate::owner::{is_deleting, key_of};
use crate::pods;

/// The most pods that wait in a status to be counted (upstream: `MaxUncountedPods`).
const MAX_UNCOUNTED: usize = 500;
/// The annotation that says how often the index of a pod has failed before.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// The annotation that says how often it has failed in ways that do not count.
pub(super) const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// Whether a pod still waits to be counted.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|it| it == FINALIZER)
}

/// A patch that also gives a pod the finalizer.
pub(super) fn tracked(mut action: Action) -> Action {
    if let Action::Patch { patch, .. } = &mut action {
        patch.set_at(&["metadata", "finalizers"], value!([FINALIZER]));
    }
    action
}

/// A patch that also takes the finalizer off a pod.
pub(super) fn untracked(mut action: Action) -> Action {
    if let Action::Patch { patch, .. } = &mut action {
        patch.set_at(&["metadata", "$deleteFromPrimitiveList/finalizers"], value!([FINALIZER]));
    }
    action
}

/// Takes the finalizer off a pod.
pub(super) fn release(pod: &Pod) -> Action {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    Action::Patch {
        resource: Resource::of::<Pod>(),
        key: key_of(&pod.metadata),
        subresource: "",
        kind: PatchKind::Strategic,
        patch: value!({"metadata": {"uid": uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}}),
        gone_is_fine: true,
    }
}

/// Takes the finalizer off a pod that is not to be counted, as long as it is in the state that was seen: it may have
/// succeeded since, and would never be counted then (upstream's is not).
pub(super) fn release_as_seen(pod: &Pod) -> Action {
    let mut action = release(pod);
    if let (Action::Patch { patch, .. }, Some(version)) =
        (&mut action, &pod.metadata.resource_version)
    {
        patch.set_at(&["metadata", "resourceVersion"], version.as_str());
    }
    action
}

/// Whether pods are replaced only once they are really over.
pub(super) fn replaces_failed_only(job: &Job) -> bool {
    let spec = job.spec.as_ref();
    spec.and_then(|it| it.pod_replacement_policy.as_deref()) == Some("Failed")
}

/// Whether a pod has failed. One that is deleted has too, unless the job waits for its end.
pub(super) fn is_failed(job: &Job, pod: &Pod) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => is_deleting(&pod.metadata) && !replaces_failed_only(job),
    }
}

fn number(pod: &Pod, annotation: &str) -> i32 {
    let text = pod.metadata.annotations.as_ref().and_then(|it| it.get(annotation));
    text.and_then(|it| it.parse().ok()).unwrap_or_default()
}

/// How often an index had failed, in ways that count, before this pod.
pub(super) fn failures_before(pod: &Pod) -> i32 {
    number(pod, FAILURES)
}

/// How often it had failed in ways that do not.
pub(super) fn ignored_before(pod: &Pod) -> i32 {
    number(pod, IGNORED_FAILURES)
}

/// The indexes whose pods have failed for good.
pub(super) fn failed_indexes(job: &Job, pods: &[&Pod], completions: u32, limit: i32) -> Indexes {
    let before = job.status.as_ref().and_then(|it| it.failed_indexes.as_deref());
    let mut failed = indexes::parse(before.unwrap_or_default(), completions);
    for pod in pods.iter().filter(|pod| is_tracked(pod) && is_failed(job, pod)) {
        let Some(index) = indexes::of_pod(pod, completions) else { continue };
        let for_good = match failure_policy::action(job, pod) {
            PolicyAction::FailIndex => true,
            PolicyAction::Ignore => false,
            PolicyAction::Count | PolicyAction::FailJob(_) => failures_before(pod) >= limit,
        };
        if for_good {
            failed.insert(index);
        }
    }
    failed
}

/// The failed pods that are kept until their replacement is there, since it counts on from them: one an index.
pub(super) fn delayed<'j>(round: &Round<'j>) -> BTreeMap<u32, &'j Pod> {
    let mut delayed: BTreeMap<u32, &'j Pod> = BTreeMap::new();
    let (Some(completions), Some(_)) = (round.completions, round.per_index) else { return delayed };
    let running: Indexes =
        round.active.iter().filter_map(|pod| indexes::of_pod(pod, completions)).collect();
    for pod in round.pods.iter().filter(|pod| is_tracked(pod) && is_failed(round.job, pod)) {
        let Some(index) = indexes::of_pod(pod, completions) else { continue };
        let settled = [&round.succeeded_indexes, &round.failed_indexes, &running];
        if settled.iter().any(|it| it.contains(&index)) {
            continue;
        }
        let absolute = |pod: &Pod| failures_before(pod) + ignored_before(pod);
        if delayed.get(&index).is_none_or(|other| absolute(pod) > absolute(other)) {
            delayed.insert(index, pod);
        }
    }
    delayed
}

/// Notes the finished pods in the status; those whose finalizer may go come back.
pub(super) fn count<'j>(
    round: &Round<'j>,
    verdict: Option<&Verdict>,
    (uncounted, tally): (&mut UncountedTerminatedPods, &mut Tally),
) -> Vec<&'j Pod> {
    let all_go = verdict.is_some() || is_deleting(&round.job.metadata);
    let every_one_failed = verdict.is_some_and(|it| !it.success);
    let mut released = Vec::new();
    let known: BTreeSet<String> = [&uncounted.succeeded, &uncounted.failed]
        .into_iter()
        .flatten()
        .flatten()
        .cloned()
        .collect();
    let kept: BTreeSet<&str> =
        round.delayed.values().filter_map(|it| it.metadata.uid.as_deref()).collect();
    for pod in round.pods.iter().copied().filter(|pod| is_tracked(pod)) {
        let succeeded = pods::phase(pod) == "Succeeded";
        // Once the job goes, its pods are deleted with it: that is no failure of theirs.
        let failed = if is_deleting(&round.job.metadata) {
            pods::phase(pod) == "Failed"
        } else {
            is_failed(round.job, pod)
        };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if !all_go && !succeeded && (!failed || kept.contains(uid.as_str())) {
            continue;
        }
        released.push(pod);
        if known.contains(&uid) {
            continue;
        }
        let index =
            round.indexed.then(|| indexes::of_pod(pod, round.completions.unwrap_or_default()));
        if succeeded {
            // The index of a pod is count enough.
            if index.is_none() {
                uncounted.succeeded.get_or_insert_default().push(uid);
            }
        } else if (failed || every_one_failed) && index != Some(None) {
            let rule = failure_policy::rule(round.job, pod);
            if let Some(action) = &rule {
                tally.handled(action);
            }
            if rule != Some(PolicyAction::Ignore) {
                uncounted.failed.get_or_insert_default().push(uid);
            }
        }
        let waiting = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
        if waiting(&uncounted.succeeded) + waiting(&uncounted.failed) >= MAX_UNCOUNTED {
            break;
        }
    }
    released
}

/// Whether a failed pod counts for its job.
pub(super) fn counts(job: &Job, pod: &Pod) -> bool {
    failure_policy::action(job, pod) != PolicyAction::Ignore
}
