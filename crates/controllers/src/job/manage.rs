//! How many pods a job is to have now: those that are missing, and those that are too many.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::{Value, value};
use client::Resource;
use client::events::EventType;
use controller::plan::PlannedAction;
use controller::{Action, Event, Plan};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::backoff::{self, Failures};
use super::indexes::{self, INDEX, Indexes};
use super::plan::Round;
use super::{FINALIZER, tracking};
use crate::owner::{self, Owner, is_deleting};
use crate::pods;

/// The most pods that one plan makes or takes (upstream: `MaxPodCreateDeletePerSync`).
const MAX_PER_PLAN: usize = 500;
/// The longest base of a generated name.
const MAX_NAME_BASE: usize = 58;

/// Makes the pods that are missing, or takes those that are too many.
pub(super) fn manage(plan: &mut Plan, round: &Round<'_>, failures: &Failures, now: Timestamp) {
    let active = round.active.len();
    if round.suspended() {
        return remove(plan, round, &round.active);
    }
    let wanted = wanted(round);
    let surplus = surplus(round, active.saturating_sub(wanted), now);
    if !surplus.is_empty() {
        return remove(plan, round, &surplus);
    }
    let terminating =
        if tracking::replaces_failed_only(round.job) { round.terminating() } else { 0 };
    let missing = wanted.saturating_sub(active + terminating).min(MAX_PER_PLAN);
    if missing == 0 {
        return;
    }
    if round.per_index.is_none()
        && let Some(until) = failures.until().filter(|until| *until > now)
    {
        return plan.requeue_by(until);
    }
    if !round.indexed {
        return create(plan, round, &vec![None; missing]);
    }
    let mut chosen = pending(round, missing);
    if round.per_index.is_some() {
        let until = |index: &u32| {
            let last = round.delayed.get(index)?;
            let failures = tracking::failures_before(last) + tracking::ignored_before(last) + 1;
            backoff::after(u32::try_from(failures).ok()?, backoff::finished_at(last)?)
        };
        let waiting = chosen.iter().filter_map(until).filter(|until| *until > now).min();
        chosen.retain(|index| until(index).is_none_or(|until| until <= now));
        if let Some(until) = waiting {
            plan.requeue_by(until);
        }
    }
    let chosen: Vec<Option<u32>> = chosen.into_iter().map(Some).collect();
    create(plan, round, &chosen);
}

/// How many pods are to run.
fn wanted(round: &Round<'_>) -> usize {
    match round.completions {
        // Once one has succeeded, the others finish, and no new one begins.
        None if round.succeeded > 0 => round.active.len(),
        None => round.parallelism,
        Some(completions) => {
            let left = completions.saturating_sub(round.succeeded);
            round.parallelism.min(usize::try_from(left).unwrap_or(usize::MAX))
        }
    }
}

/// The pods to take away: those of an index that another has or that the job has not, then so many that are the
/// least loss.
fn surplus<'j>(round: &Round<'j>, least: usize, now: Timestamp) -> Vec<&'j Pod> {
    let mut order: Vec<&'j Pod> = round.active.clone();
    order.sort_by_cached_key(|pod| {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        pods::Loss::of(&pods::brief(pod), uid, 0, now)
    });
    let (mut out, mut left) = (Vec::new(), Vec::new());
    if round.indexed {
        let mut seen = Indexes::new();
        // Of several with one index, the last in the order stays.
        for pod in order.into_iter().rev() {
            let index = indexes::of_pod(pod, round.completions.unwrap_or_default());
            match index {
                Some(index) if seen.insert(index) => left.push(pod),
                _ => out.push(pod),
            }
        }
        left.reverse();
    } else {
        left = order;
    }
    let more = least.saturating_sub(out.len());
    out.extend(left.into_iter().take(more));
    out.truncate(MAX_PER_PLAN);
    out
}

/// The first indexes that no pod has, has had or is to have no more.
fn pending(round: &Round<'_>, most: usize) -> Vec<u32> {
    let completions = round.completions.unwrap_or_default();
    let mut taken: BTreeSet<u32> =
        round.active.iter().filter_map(|pod| indexes::of_pod(pod, completions)).collect();
    if tracking::replaces_failed_only(round.job) {
        let going = round.pods.iter().filter(|pod| is_deleting(&pod.metadata));
        let going = going.filter(|pod| !matches!(pods::phase(pod), "Succeeded" | "Failed"));
        taken.extend(going.filter_map(|pod| indexes::of_pod(pod, completions)));
    }
    (0..completions)
        .filter(|index| {
            !taken.contains(index)
                && !round.succeeded_indexes.contains(index)
                && !round.failed_indexes.contains(index)
        })
        .take(most)
        .collect()
}

fn event(round: &Round<'_>, kind: EventType, reason: &'static str, message: String) -> Event {
    Event { about: round.reference(), kind, reason, message }
}

/// Takes pods away that do not count: first they lose their finalizer.
fn remove(plan: &mut Plan, round: &Round<'_>, surplus: &[&Pod]) {
    plan.then();
    for pod in surplus.iter().filter(|pod| tracking::is_tracked(pod)) {
        plan.act(tracking::release_as_seen(pod));
    }
    delete(plan, round, surplus);
}

/// Deletes pods, and tells of it.
pub(super) fn delete(plan: &mut Plan, round: &Round<'_>, gone: &[&Pod]) {
    plan.then();
    for pod in gone {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let planned = plan.act(owner::delete(Resource::of::<Pod>(), &pod.metadata));
        let deleted = format!("Deleted pod: {name}");
        planned.on_success = Some(event(round, EventType::Normal, "SuccessfulDelete", deleted));
        let failed = "Error deleting: {error}".to_owned();
        planned.on_failure = vec![event(round, EventType::Warning, "FailedDelete", failed)];
    }
}

/// Creates pods, one for each index, in stages that double.
fn create(plan: &mut Plan, round: &Round<'_>, wanted: &[Option<u32>]) {
    let creation = |index: &Option<u32>| {
        let created = "Created pod: {name}".to_owned();
        let failed = "Error creating: {error}".to_owned();
        PlannedAction::new(
            Action::Create {
                resource: Resource::of::<Pod>(),
                namespace: round.job.metadata.namespace.clone().unwrap_or_default(),
                object: pod(round, *index),
                exists_is_fine: false,
            },
            Some(event(round, EventType::Normal, "SuccessfulCreate", created)),
            vec![event(round, EventType::Warning, "FailedCreate", failed)],
        )
    };
    pods::slow_start(plan, wanted.iter().map(creation));
}

/// The pod of an index.
fn pod(round: &Round<'_>, index: Option<u32>) -> Value {
    let metadata = &round.job.metadata;
    let owner = Owner { api_version: "batch/v1", kind: "Job", metadata };
    let mut pod = pods::from_template(&round.spec.template, &owner);
    let mut finalizers = pod.items_at(&["metadata", "finalizers"]).to_vec();
    if !finalizers.iter().any(|it| it.as_str() == Some(FINALIZER)) {
        finalizers.push(FINALIZER.into());
    }
    pod.set_at(&["metadata", "finalizers"], Value::Array(finalizers));
    if let Some(group) = &round.group {
        pod.set_at(&["spec", "schedulingGroup", "podGroupName"], group.as_str());
    }
    let Some(index) = index else { return pod };
    let job = metadata.name.as_deref().unwrap_or_default();
    let text = index.to_string();
    pod.set_at(&["metadata", "labels", INDEX], text.as_str());
    pod.set_at(&["metadata", "annotations", INDEX], text.as_str());
    for (annotation, number) in failure_counts(round, index) {
        pod.set_at(&["metadata", "annotations", annotation], number.to_string());
    }
    let suffix = format!("-{index}-");
    let base = &job[..job.len().min(MAX_NAME_BASE - suffix.len())];
    pod.set_at(&["metadata", "generateName"], format!("{base}{suffix}"));
    pod.set_at(&["spec", "hostname"], format!("{job}-{index}"));
    for list in ["containers", "initContainers"] {
        pod.items_at_mut(&["spec", list]).iter_mut().for_each(tell_index);
    }
    pod
}

/// How often an index has failed before the pod that is made for it.
fn failure_counts(round: &Round<'_>, index: u32) -> BTreeMap<&'static str, i32> {
    let mut counts = BTreeMap::new();
    if round.per_index.is_none() {
        return counts;
    }
    let (mut counted, mut ignored) = (0, 0);
    if let Some(last) = round.delayed.get(&index) {
        counted = tracking::failures_before(last);
        ignored = tracking::ignored_before(last);
        if tracking::counts(round.job, last) { counted += 1 } else { ignored += 1 }
    }
    counts.insert(tracking::FAILURES, counted);
    if ignored > 0 {
        counts.insert(tracking::IGNORED_FAILURES, ignored);
    }
    counts
}

/// A container learns its pod's index from a variable.
fn tell_index(container: &mut Value) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let mut variables = container.items_at(&["env"]).to_vec();
    if variables.iter().any(|it| it.str_at(&["name"]) == NAME) {
        return;
    }
    let path = format!("metadata.labels['{INDEX}']");
    variables.push(value!({"name": NAME, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    container.set_at(&["env"], Value::Array(variables));
}
