//! The conditions of a pod that its node sets. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

use super::observed::Observed;
use super::phase::Phase;
use super::status::{Statuses, condition};
use crate::spec;

/// What a condition says: whether it holds, and why not (or why although).
struct Finding {
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Finding {
    const HOLDS: Self = Self { holds: true, reason: None, message: None };

    fn not(reason: &'static str, message: Option<String>) -> Self {
        Self { holds: false, reason: Some(reason), message }
    }
}

/// All of them. `PodScheduled` is the scheduler's and becomes true where it did not say anything.
pub(crate) fn conditions(
    pod: &Pod,
    statuses: &Statuses,
    phase: Phase,
    observed: &Observed,
    disruption: Option<&str>,
    now: Timestamp,
) -> Vec<PodCondition> {
    let before = pod.status.as_ref().and_then(|it| it.conditions.clone()).unwrap_or_default();
    let has_network = |it: &cri::PodSandboxStatus| spec::is_host_network(pod) || !it.ips.is_empty();
    let sandbox = observed.ready_sandbox().is_some_and(has_network);
    let containers = containers_ready(pod, statuses, phase);
    let ready = ready(pod, &before, &containers);
    let all = [
        ("PodReadyToStartContainers", Finding { holds: sandbox, reason: None, message: None }),
        ("Initialized", initialized(pod, statuses, phase)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", Finding::HOLDS),
    ];
    let disrupted = disruption.map(|message| {
        let reason = Some("TerminationByKubelet");
        ("DisruptionTarget", Finding { holds: true, reason, message: Some(message.to_owned()) })
    });
    let generation = pod.metadata.generation;
    all.into_iter()
        .chain(disrupted)
        .map(|(type_, it)| {
            condition(&before, generation, (type_, it.holds, it.reason, it.message), now)
        })
        .collect()
}

fn initialized(pod: &Pod, statuses: &Statuses, phase: Phase) -> Finding {
    if phase == Phase::Succeeded {
        return Finding { holds: true, reason: Some("PodCompleted"), message: None };
    }
    let ran = |it: &ContainerStatus| {
        let has = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
            state.as_ref().is_some_and(|it| it.running.is_some() || it.terminated.is_some())
        };
        has(&it.state) || has(&it.last_state)
    };
    if statuses.main.iter().any(ran) {
        return Finding::HOLDS;
    }
    let incomplete: Vec<&str> = spec::init_containers(pod)
        .iter()
        .zip(&statuses.init)
        .filter(|(container, status)| {
            if spec::is_sidecar(container) {
                !status.started.unwrap_or_default()
            } else {
                !status.ready
            }
        })
        .map(|(container, _)| container.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Finding::HOLDS;
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Finding::not("ContainersNotInitialized", Some(message))
}

fn containers_ready(pod: &Pod, statuses: &Statuses, phase: Phase) -> Finding {
    match phase {
        Phase::Succeeded => return Finding::not("PodCompleted", None),
        Phase::Failed => return Finding::not("PodFailed", None),
        Phase::Pending | Phase::Running => {}
    }
    let sidecars = spec::init_containers(pod)
        .iter()
        .zip(&statuses.init)
        .filter(|(container, _)| spec::is_sidecar(container))
        .map(|(_, status)| status);
    let unready: Vec<&str> =
        sidecars.chain(&statuses.main).filter(|it| !it.ready).map(|it| it.name.as_str()).collect();
    if unready.is_empty() {
        return Finding::HOLDS;
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Finding::not("ContainersNotReady", Some(message))
}

fn ready(pod: &Pod, before: &[PodCondition], containers: &Finding) -> Finding {
    if !containers.holds {
        let reason = containers.reason;
        return Finding { holds: false, reason, message: containers.message.clone() };
    }
    let gates = spec::spec(pod).readiness_gates.iter().flatten();
    let missing: Vec<String> = gates
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match before.iter().find(|it| it.type_ == *name) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {name:?} does not exist."
                )),
                Some(it) if it.status != "True" => Some(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    it.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if missing.is_empty() {
        return Finding::HOLDS;
    }
    Finding::not("ReadinessGatesNotReady", Some(missing.join(", ")))
}
