//! The status of a deployment and its conditions. Upstream: `progress.go`, `sync.go`.

use apimachinery::{Value, time, value};
use client::Resource;
use controller::Action;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, ReplicaSet};

use super::plan::Step;
use super::sets;
use crate::owner::to_value;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const DONE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";
const UPDATED: &str = "ReplicaSetUpdated";
/// The set of the present template could not be made.
pub(super) const REFUSED: &str = "ReplicaSetCreateError";

/// The counts of a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    total: i32,
    updated: i32,
    ready: i32,
    available: i32,
    terminating: i32,
}

impl Counts {
    fn of(step: &Step<'_>) -> Self {
        let sum = |count: &dyn Fn(&ReplicaSet) -> i32| step.all().map(count).sum();
        let status = |set: &ReplicaSet,
                      field: &dyn Fn(
            &k8s_openapi::api::apps::v1::ReplicaSetStatus,
        ) -> Option<i32>| {
            set.status.as_ref().and_then(field).unwrap_or_default()
        };
        Self {
            total: sum(&sets::status_replicas),
            updated: step.new.map_or(0, sets::status_replicas),
            ready: sum(&|set| status(set, &|it| it.ready_replicas)),
            available: sum(&sets::available),
            terminating: sum(&|set| status(set, &|it| it.terminating_replicas)),
        }
    }

    fn before(deployment: &Deployment) -> Self {
        let status = deployment.status.as_ref();
        let get = |field: fn(&k8s_openapi::api::apps::v1::DeploymentStatus) -> Option<i32>| {
            status.and_then(field).unwrap_or_default()
        };
        Self {
            total: get(|it| it.replicas),
            updated: get(|it| it.updated_replicas),
            ready: get(|it| it.ready_replicas),
            available: get(|it| it.available_replicas),
            terminating: get(|it| it.terminating_replicas),
        }
    }

    fn is_complete(self, deployment: &Deployment, new_is_observed: bool) -> bool {
        let wanted = sets::wanted(deployment);
        self.updated == wanted
            && self.total == wanted
            && self.available == wanted
            && new_is_observed
    }

    fn has_progressed(self, before: Self) -> bool {
        let old = |counts: Self| counts.total - counts.updated;
        self.updated > before.updated
            || old(self) < old(before)
            || self.ready > before.ready
            || self.available > before.available
    }
}

/// Whether everything wanted is there and nothing else.
pub(super) fn is_complete(deployment: &Deployment, new: Option<&ReplicaSet>) -> bool {
    let counts = Counts::before(deployment);
    let observed =
        deployment.status.as_ref().and_then(|it| it.observed_generation).unwrap_or_default();
    new.is_some()
        && counts
            .is_complete(deployment, observed >= deployment.metadata.generation.unwrap_or_default())
}

fn condition<'d>(deployment: &'d Deployment, kind: &str) -> Option<&'d DeploymentCondition> {
    deployment
        .status
        .as_ref()?
        .conditions
        .iter()
        .flatten()
        .find(|it| it.type_.as_deref() == Some(kind))
}

/// A condition being made.
struct Wanted {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

/// Plans the write of the status, where it differs.
pub(super) fn write(step: &mut Step<'_>) {
    let deployment = step.deployment;
    let counts = Counts::of(step);
    let mut conditions = vec![available(deployment, counts)];
    step.progressed = counts.has_progressed(Counts::before(deployment));
    let progressing = progressing(step, counts);
    conditions.extend(progressing);
    conditions.extend(replica_failure(step));
    let mut status = value!({});
    let generation = deployment.metadata.generation.unwrap_or_default();
    if generation != 0 {
        status.set_at(&["observedGeneration"], generation);
    }
    let unavailable = (sets::total_wanted(step.all()) - counts.available).max(0);
    let numbers = [
        ("replicas", counts.total),
        ("updatedReplicas", counts.updated),
        ("readyReplicas", counts.ready),
        ("availableReplicas", counts.available),
        ("unavailableReplicas", unavailable),
    ];
    for (name, number) in numbers.into_iter().filter(|(_, number)| *number != 0) {
        status.set_at(&[name], number);
    }
    status.set_at(&["terminatingReplicas"], counts.terminating);
    if let Some(collisions) = step.collisions {
        status.set_at(&["collisionCount"], collisions);
    }
    let list = conditions.iter().map(|wanted| merged(step, wanted)).collect::<Vec<Value>>();
    status.set_at(&["conditions"], Value::Array(in_old_order(deployment, list)));
    requeue(step, &conditions);
    if status == to_value(&deployment.status) && step.revision.is_none() {
        return;
    }
    let object = step.with_status(status);
    step.plan.then();
    step.plan.act(Action::Update {
        resource: Resource::of::<Deployment>(),
        subresource: "status",
        object,
    });
}

fn available(deployment: &Deployment, counts: Counts) -> Wanted {
    let least = sets::wanted(deployment) - sets::max_unavailable(deployment);
    if counts.available >= least {
        let message = "Deployment has minimum availability.".into();
        Wanted { kind: AVAILABLE, status: "True", reason: "MinimumReplicasAvailable", message }
    } else {
        let message = "Deployment does not have minimum availability.".into();
        Wanted { kind: AVAILABLE, status: "False", reason: "MinimumReplicasUnavailable", message }
    }
}

/// The failure of a set to make or take pods: of the new one before those of the old.
fn replica_failure(step: &Step<'_>) -> Option<Wanted> {
    const KIND: &str = "ReplicaFailure";
    let old = step.old.iter().copied().filter(|set| sets::replicas(set) > 0);
    let found = step.new.into_iter().chain(old).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions
            .iter()
            .find(|it| it.type_.as_deref() == Some(KIND) && it.status.as_deref() == Some("True"))
    })?;
    let reason = match found.reason.as_deref() {
        Some("FailedDelete") => "FailedDelete",
        _ => "FailedCreate",
    };
    let message = found.message.clone().unwrap_or_default();
    Some(Wanted { kind: KIND, status: "True", reason, message })
}

fn set_name(step: &Step<'_>) -> String {
    match step.new.and_then(|set| set.metadata.name.clone()) {
        Some(name) => format!("ReplicaSet \"{name}\""),
        None => {
            format!("Deployment \"{}\"", step.deployment.metadata.name.clone().unwrap_or_default())
        }
    }
}

fn progress(status: &'static str, reason: &'static str, message: String) -> Option<Wanted> {
    Some(Wanted { kind: PROGRESSING, status, reason, message })
}

/// The condition as it is.
fn kept(current: &DeploymentCondition) -> Option<Wanted> {
    let status = match current.status.as_deref() {
        Some("True") => "True",
        Some("False") => "False",
        _ => "Unknown",
    };
    let reason = known_reason(current.reason.as_deref().unwrap_or_default());
    progress(status, reason, current.message.clone().unwrap_or_default())
}

fn progressing(step: &Step<'_>, counts: Counts) -> Option<Wanted> {
    let deployment = step.deployment;
    let current = condition(deployment, PROGRESSING);
    // Without a deadline nobody asks how it goes.
    if sets::spec(deployment).progress_deadline_seconds.is_none_or(|it| it == i32::MAX) {
        return None;
    }
    let reason = current.and_then(|it| it.reason.as_deref()).unwrap_or_default();
    if sets::spec(deployment).paused.unwrap_or_default() {
        return match current {
            Some(current) if reason == PAUSED || reason == TIMED_OUT => kept(current),
            _ => progress("Unknown", PAUSED, "Deployment is paused".into()),
        };
    }
    if let Some((reason, message)) = &step.progress {
        return progress("True", reason, message.clone());
    }
    let observed = deployment.status.as_ref().and_then(|it| it.observed_generation);
    let generation = deployment.metadata.generation.unwrap_or_default();
    let is_current = observed.unwrap_or_default() >= generation || current.is_none();
    if counts.is_complete(deployment, is_current) {
        return progress("True", DONE, format!("{} has successfully progressed.", set_name(step)));
    }
    // Once the rollout is done, what becomes of its pods is no matter of progress.
    if let Some(current) = current.filter(|_| reason == DONE && counts.total == counts.updated) {
        return kept(current);
    }
    if step.progressed {
        return progress("True", UPDATED, format!("{} is progressing.", set_name(step)));
    }
    if reason == PAUSED {
        // The time that it has counts from now.
        return progress("Unknown", "DeploymentResumed", "Deployment is resumed".into());
    }
    if timed_out(step) {
        return progress(
            "False",
            TIMED_OUT,
            format!("{} has timed out progressing.", set_name(step)),
        );
    }
    match (current, step.new) {
        (Some(current), _) => kept(current),
        (None, Some(new)) => {
            let name = new.metadata.name.clone().unwrap_or_default();
            progress("True", "FoundNewReplicaSet", format!("Found new replica set \"{name}\""))
        }
        (None, None) => None,
    }
}

/// A reason that this controller gave before.
fn known_reason(reason: &str) -> &'static str {
    [
        "NewReplicaSetCreated",
        "FoundNewReplicaSet",
        UPDATED,
        DONE,
        TIMED_OUT,
        PAUSED,
        "DeploymentResumed",
        REFUSED,
    ]
    .into_iter()
    .find(|it| *it == reason)
    .unwrap_or(UPDATED)
}

/// Until when progress has to be made.
fn deadline(deployment: &Deployment) -> Option<Timestamp> {
    let seconds = sets::spec(deployment).progress_deadline_seconds?;
    let current = condition(deployment, PROGRESSING)?;
    let since = current.last_update_time.as_ref()?.0;
    since.checked_add(SignedDuration::from_secs(i64::from(seconds))).ok()
}

fn timed_out(step: &Step<'_>) -> bool {
    let Some(current) = condition(step.deployment, PROGRESSING) else { return false };
    match current.reason.as_deref() {
        Some(DONE) => false,
        Some(TIMED_OUT) => true,
        _ => deadline(step.deployment).is_some_and(|deadline| deadline < step.now),
    }
}

/// A deployment that waits for progress is looked at again when its time is up.
fn requeue(step: &mut Step<'_>, conditions: &[Wanted]) {
    let waits = conditions
        .iter()
        .any(|it| it.kind == PROGRESSING && it.status != "False" && it.reason != DONE);
    if !waits || sets::spec(step.deployment).paused.unwrap_or_default() {
        return;
    }
    let seconds = sets::spec(step.deployment).progress_deadline_seconds.unwrap_or_default();
    let fresh = step.now.checked_add(SignedDuration::from_secs(i64::from(seconds)));
    let at = deadline(step.deployment).or(fresh.ok());
    // One second more, so that the deadline is over then.
    if let Some(at) = at.and_then(|at| at.checked_add(SignedDuration::from_secs(1)).ok()) {
        step.plan.requeue_by(at);
    }
}

/// The condition with its times: the transition's stays while the status does. One of the same status and reason stays as
/// it is, whatever it says, unless it tells of progress.
fn merged(step: &Step<'_>, wanted: &Wanted) -> Value {
    let old = condition(step.deployment, wanted.kind);
    let same_status = old.filter(|it| it.status.as_deref() == Some(wanted.status));
    let moves = wanted.kind == PROGRESSING && wanted.reason == UPDATED && step.progressed;
    let same = same_status.filter(|it| it.reason.as_deref() == Some(wanted.reason));
    if let Some(same) = same.filter(|_| !moves) {
        return to_value(same);
    }
    let since = same_status.and_then(|it| it.last_transition_time.as_ref()).map(|time| time.0);
    value!({
        "type": (wanted.kind), "status": (wanted.status), "reason": (wanted.reason), "message": (wanted.message.as_str()),
        "lastUpdateTime": (time::format_time(step.now)),
        "lastTransitionTime": (time::format_time(since.unwrap_or(step.now)))
    })
}

/// Plans a status that says why the present template's set could not be made; nothing else in it changes.
pub(super) fn refused(step: &mut Step<'_>, set: &str, why: &str) {
    let deployment = step.deployment;
    if sets::spec(deployment).progress_deadline_seconds.is_none_or(|it| it == i32::MAX) {
        return;
    }
    let message = format!("Failed to create new replica set \"{set}\": {why}");
    let wanted = Wanted { kind: PROGRESSING, status: "False", reason: REFUSED, message };
    let told = condition(deployment, PROGRESSING);
    if told.is_some_and(|it| {
        it.status.as_deref() == Some("False") && it.reason.as_deref() == Some(REFUSED)
    }) {
        return;
    }
    let mut status = to_value(&deployment.status);
    let others = status.items_at(&["conditions"]).iter();
    let mut all: Vec<Value> =
        others.filter(|it| it.str_at(&["type"]) != PROGRESSING).cloned().collect();
    all.push(merged(step, &wanted));
    status.set_at(&["conditions"], Value::Array(in_old_order(deployment, all)));
    let mut object = to_value(deployment);
    object.set_at(&["status"], status);
    let resource = Resource::of::<Deployment>();
    step.plan.act(Action::Update { resource, subresource: "status", object });
}

/// Conditions keep their places; new ones come last.
fn in_old_order(deployment: &Deployment, mut list: Vec<Value>) -> Vec<Value> {
    let order: Vec<String> = deployment
        .status
        .iter()
        .flat_map(|it| it.conditions.iter().flatten())
        .filter_map(|it| it.type_.clone())
        .collect();
    list.sort_by_key(|it| {
        order.iter().position(|kind| kind == it.str_at(&["type"])).unwrap_or(usize::MAX)
    });
    list
}
