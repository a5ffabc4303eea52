//! What controllers ask of pods. Upstream: `pkg/controller/controller_utils.go` and `pkg/api/v1/pod`.

use std::cmp::Reverse;

use apimachinery::{Value, value};
use client::pod::{DELETION_COST, Phase, PodBrief};
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
    available(is_ready(pod), ready_since(pod), min_ready_seconds)
}

/// When a pod of many counts as available; `None` where it is not ready.
#[must_use]
pub fn brief_available_at(pod: &PodBrief, min_ready_seconds: i32) -> Option<Timestamp> {
    available(pod.ready, pod.ready_since, min_ready_seconds)
}

fn available(ready: bool, since: Option<Timestamp>, min_ready_seconds: i32) -> Option<Timestamp> {
    ready.then_some(())?;
    if min_ready_seconds == 0 {
        return Some(Timestamp::MIN);
    }
    since?.checked_add(SignedDuration::from_secs(i64::from(min_ready_seconds))).ok()
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
/// start). Of each stage the last comes first: nothing depends on it, but what upstream starts side by side begins so too,
/// and who compares the ages of pods finds them alike.
pub fn slow_start(plan: &mut Plan, creations: impl IntoIterator<Item = PlannedAction>) {
    let mut creations = creations.into_iter().peekable();
    let mut size = 1;
    while creations.peek().is_some() {
        plan.then();
        let mut stage: Vec<PlannedAction> = creations.by_ref().take(size).collect();
        stage.rotate_right(1);
        stage.into_iter().for_each(|creation| {
            plan.add(creation);
        });
        size *= 2;
    }
}

/// How much is lost with a pod, the least first: the order in which a scale-down takes pods. Upstream: `ActivePodsWithRanks`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss<'p> {
    assigned: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    rank: Reverse<usize>,
    ready_for: i64,
    restarts: Reverse<i32>,
    age: i64,
    uid: &'p str,
}

/// Of a time in nanoseconds. Times are compared by it, so that which pod goes is a matter of chance among those of like age.
/// Upstream: `logarithmicRankDiff`.
fn logarithm(nanoseconds: i128) -> i64 {
    let nanoseconds = u128::try_from(nanoseconds).unwrap_or_default();
    nanoseconds.checked_ilog2().map_or(-1, i64::from)
}

impl<'p> Loss<'p> {
    /// Of a pod among others: `rank` is how many of its owner's pods run on its node.
    #[must_use]
    pub fn of(pod: &PodBrief, uid: &'p str, rank: usize, now: Timestamp) -> Self {
        let log_age = |since: Option<Timestamp>| {
            since.map_or(-1, |since| logarithm(now.duration_since(since).as_nanos()))
        };
        Self {
            assigned: !pod.node.is_empty(),
            phase: match pod.phase {
                Phase::Pending => 0,
                Phase::Running => 2,
                Phase::Succeeded | Phase::Failed | Phase::Unknown => 1,
            },
            ready: pod.ready,
            cost: pod.deletion_cost,
            rank: Reverse(rank),
            ready_for: log_age(pod.ready_since),
            restarts: Reverse(pod.restarts),
            age: log_age(pod.created),
            uid,
        }
    }
}

/// What is looked at of a decoded pod.
#[must_use]
pub fn brief(pod: &Pod) -> PodBrief {
    let statuses = pod.status.iter().flat_map(|it| it.container_statuses.iter().flatten());
    let cost = pod.metadata.annotations.as_ref().and_then(|it| it.get(DELETION_COST));
    PodBrief {
        phase: Phase::of(phase(pod)),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        ready: is_ready(pod),
        ready_since: ready_since(pod),
        created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
        node: pod.spec.as_ref().and_then(|it| it.node_name.as_deref()).unwrap_or_default().into(),
        restarts: statuses.map(|it| it.restart_count).max().unwrap_or_default(),
        deletion_cost: cost.and_then(|it| it.parse().ok()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_of_like_age_between_powers_of_two_nanoseconds() {
        let of = |millis: i128| logarithm(millis * 1_000_000);
        assert_eq!((of(-5), of(0), of(1_073), of(1_074)), (-1, -1, 29, 30));
        assert_eq!((of(4_294), of(4_295), of(8_589), of(8_590)), (31, 32, 32, 33));
    }
}
