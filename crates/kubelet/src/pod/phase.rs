//! A pod's phase from its containers. Pure.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::memory::{Memory, Stage};
use super::observed::Observed;
use super::status::Statuses;
use crate::spec::{self, RestartPolicy};

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl From<Phase> for String {
    fn from(phase: Phase) -> Self {
        format!("{phase:?}")
    }
}

impl Phase {
    pub(crate) fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|it| String::from(*it) == text)
    }
}

/// How a container counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Waiting,
    Running,
    Stopped { exit_code: i32 },
}

fn standing(status: &ContainerStatus) -> Standing {
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.as_ref().and_then(|it| it.terminated.as_ref());
    match (state.running, state.terminated, last) {
        (Some(_), _, _) => Standing::Running,
        (None, Some(it), _) => Standing::Stopped { exit_code: it.exit_code },
        (None, None, Some(it)) => Standing::Stopped { exit_code: it.exit_code },
        (None, None, None) => Standing::Waiting,
    }
}

/// The phase that the containers say.
pub(crate) fn phase(pod: &Pod, statuses: &Statuses, memory: &Memory) -> Phase {
    if let Some(before) = pod.status.as_ref().and_then(|it| it.phase.as_deref())
        && let Some(phase) = Phase::parse(before).filter(|it| it.is_terminal())
    {
        return phase;
    }
    if memory.failure.is_some() {
        return Phase::Failed;
    }
    let policy = spec::restart_policy(pod);
    let main: Vec<Standing> = statuses.main.iter().map(standing).collect();
    let any_main_ran = main.iter().any(|it| *it != Standing::Waiting);
    match init(pod, statuses, policy, any_main_ran) {
        Some(phase) => return phase,
        None if main.contains(&Standing::Waiting) => return Phase::Pending,
        None => {}
    }
    let running = main.contains(&Standing::Running);
    if running {
        return Phase::Running;
    }
    let all_succeeded = main.iter().all(|it| *it == Standing::Stopped { exit_code: 0 });
    let is_terminal = memory.stage > Stage::Running;
    match policy {
        _ if is_terminal && all_succeeded => Phase::Succeeded,
        _ if is_terminal => Phase::Failed,
        RestartPolicy::Always => Phase::Running,
        _ if all_succeeded => Phase::Succeeded,
        RestartPolicy::Never => Phase::Failed,
        RestartPolicy::OnFailure => Phase::Running,
    }
}

/// What init containers alone decide.
fn init(
    pod: &Pod,
    statuses: &Statuses,
    policy: RestartPolicy,
    any_main_ran: bool,
) -> Option<Phase> {
    let mut pending = false;
    for (container, status) in spec::init_containers(pod).iter().zip(&statuses.init) {
        let standing = standing(status);
        if spec::is_sidecar(container) {
            let started = status.started.unwrap_or_default();
            pending |= !any_main_ran && (standing == Standing::Waiting || !started);
            continue;
        }
        match standing {
            Standing::Stopped { exit_code } if exit_code != 0 => {
                if policy == RestartPolicy::Never {
                    return Some(Phase::Failed);
                }
                pending = true;
            }
            Standing::Stopped { .. } => {}
            Standing::Waiting | Standing::Running => pending = true,
        }
    }
    pending.then_some(Phase::Pending)
}

/// The phase that is told: an end is told once nothing runs any more and the sandbox is gone.
pub(crate) fn reported(
    phase: Phase,
    before: &PodStatus,
    observed: &Observed,
    memory: &Memory,
) -> Phase {
    let before = before.phase.as_deref().and_then(Phase::parse);
    let still = observed.running().next().is_some() || observed.ready_sandbox().is_some();
    if phase.is_terminal() && (still || memory.stage == Stage::Running) {
        return before.unwrap_or(Phase::Pending);
    }
    phase
}
