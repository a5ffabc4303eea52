//! How a pod ends: containers, then sidecars from the last to the first, then sandboxes, then what is left. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::memory::{Busy, Memory, Stage};
use super::observed::{Observed, is_running};
use super::plan::{Action, Plan};
use crate::spec;

/// Plans the next step of an end.
pub(crate) fn plan(
    pod: &Pod,
    observed: &Observed,
    memory: &mut Memory,
    now: Timestamp,
    plan: &mut Plan,
) {
    if memory.stage == Stage::Terminating {
        let deadline = deadline(pod, memory, now);
        if observed.running().next().is_some() {
            kill_running(pod, observed, memory, (now, deadline), plan);
            return;
        }
        if !nothing_begins(memory) {
            return;
        }
        let ready =
            observed.sandboxes.iter().filter(|it| it.sandbox.state == cri::PodSandboxState::Ready);
        let ids: Vec<String> = ready.map(|it| it.sandbox.id.clone()).collect();
        if !ids.is_empty() {
            plan.actions.extend(ids.into_iter().map(|id| Action::StopSandbox { id }));
            return;
        }
        memory.stage = Stage::Terminated;
    }
    if !memory.busy.contains(&Busy::Clean) {
        plan.actions.push(Action::Clean);
    }
}

fn nothing_begins(memory: &Memory) -> bool {
    !memory.busy.iter().any(|it| matches!(it, Busy::Start(_) | Busy::Kill(_) | Busy::Sandbox))
}

/// When the last container is to be killed. A shorter grace period, given later, brings it nearer.
fn deadline(pod: &Pod, memory: &mut Memory, now: Timestamp) -> Timestamp {
    let own = memory.failure.as_ref().and_then(|it| it.grace_period_seconds);
    let seconds = own.unwrap_or_else(|| spec::grace_period_seconds(pod)).max(0);
    let fresh = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    let deadline = match memory.grace {
        Some((known, deadline)) if known == seconds => deadline,
        Some((_, deadline)) => deadline.min(fresh),
        None => fresh,
    };
    memory.grace = Some((seconds, deadline));
    deadline
}

fn kill_running(
    pod: &Pod,
    observed: &Observed,
    memory: &mut Memory,
    (now, deadline): (Timestamp, Timestamp),
    plan: &mut Plan,
) {
    let left = deadline.duration_since(now).as_secs().max(0);
    let sidecar = |name: &str| {
        spec::init_containers(pod).iter().position(|it| it.name == name && spec::is_sidecar(it))
    };
    let last_sidecar =
        observed.running().filter_map(|it| sidecar(&it.container.metadata.name)).max();
    let others = observed.running().any(|it| sidecar(&it.container.metadata.name).is_none());
    for status in observed.containers.iter().filter(|it| is_running(it)) {
        let name = &status.container.metadata.name;
        let waits = sidecar(name).is_some_and(|at| others || Some(at) != last_sidecar);
        if waits && left > 0 {
            plan.wake(deadline);
            continue;
        }
        let id = status.container.id.clone();
        let sooner = memory.kill_deadlines.get(&id).is_some_and(|known| *known > deadline);
        if memory.is_being_killed(&id) && !sooner {
            continue;
        }
        memory.kill_deadlines.insert(id.clone(), deadline);
        let message = format!("Stopping container {name}");
        plan.actions.push(Action::Kill { id, name: name.clone(), message, grace_seconds: left });
    }
}
