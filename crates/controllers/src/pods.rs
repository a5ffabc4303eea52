//! What controllers ask of pods. Upstream: `pkg/controller/controller_utils.go` and `pkg/api/v1/pod`.

use std::cmp::Ordering;

use apimachinery::{Value, value};
use controller::Plan;
use controller::plan::PlannedAction;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};

use crate::owner::{Owner, to_value};

/// Whether a pod still counts: neither over nor being deleted.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_none()
}

/// `status.phase`
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// A condition of a pod.
#[must_use]
pub fn condition<'p>(pod: &'p Pod, kind: &str) -> Option<&'p PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Whether a pod is ready.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// Since when a pod is ready.
#[must_use]
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let condition = condition(pod, "Ready").filter(|condition| condition.status == "True")?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// When a ready pod counts as available; `None` where it is not ready.
#[must_use]
pub fn available_at(pod: &Pod, min_ready_seconds: i32) -> Option<Timestamp> {
    is_ready(pod).then_some(())?;
    if min_ready_seconds == 0 {
        return Some(Timestamp::MIN);
    }
    ready_since(pod)?.checked_add(SignedDuration::from_secs(i64::from(min_ready_seconds))).ok()
}

/// Whether a pod is available now.
#[must_use]
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_at(pod, min_ready_seconds).is_some_and(|at| at <= now)
}

/// The pod that a workload makes of its template.
#[must_use]
pub fn from_template(template: &PodTemplateSpec, owner: &Owner<'_>) -> Value {
    from_template_value(to_value(template), owner)
}

/// The pod that a workload makes of its template as it is stored.
#[must_use]
pub fn from_template_value(template: Value, owner: &Owner<'_>) -> Value {
    let mut pod = template;
    let name = owner.metadata.name.clone().unwrap_or_default();
    pod.set_at(&["apiVersion"], "v1");
    pod.set_at(&["kind"], "Pod");
    pod.set_at(&["metadata", "generateName"], format!("{name}-"));
    pod.set_at(&["metadata", "ownerReferences"], value!([(owner.reference())]));
    pod.remove_at(&["metadata", "name"]);
    pod.remove_at(&["metadata", "creationTimestamp"]);
    pod
}

/// Plans creations in stages, each twice as large as the one before, so that a refusal stops them early (upstream: slow
/// start).
pub fn slow_start(plan: &mut Plan, creations: impl IntoIterator<Item = PlannedAction>) {
    let mut creations = creations.into_iter().peekable();
    let mut size = 1;
    while creations.peek().is_some() {
        plan.then();
        for creation in creations.by_ref().take(size) {
            plan.add(creation);
        }
        size *= 2;
    }
}

/// The order in which a scale-down takes pods: those first that are the least loss. Upstream: `ActivePodsWithRanks`.
#[must_use]
pub fn deletion_order(a: (&Pod, usize), b: (&Pod, usize), now: Timestamp) -> Ordering {
    let ((a, rank_a), (b, rank_b)) = (a, b);
    let assigned = |pod: &Pod| {
        pod.spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .is_some_and(|name| !name.is_empty())
    };
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = |pod: &Pod| {
        let text = pod
            .metadata
            .annotations
            .as_ref()
            .and_then(|it| it.get("controller.kubernetes.io/pod-deletion-cost"));
        text.and_then(|text| text.parse::<i32>().ok()).unwrap_or_default()
    };
    // Times are compared by their logarithm, so that which pod goes is a matter of chance among those of like age.
    let log_age = |since: Option<Timestamp>| {
        let seconds = since.map_or(0, |since| now.duration_since(since).as_secs().max(1));
        seconds.checked_ilog2().unwrap_or_default()
    };
    let restarts = |pod: &Pod| {
        let statuses =
            pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        statuses.map(|status| status.restart_count).max().unwrap_or_default()
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(|| log_age(ready_since(a)).cmp(&log_age(ready_since(b))))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| log_age(created(a)).cmp(&log_age(created(b))))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.metadata.creation_timestamp.as_ref().map(|time| time.0)
}
