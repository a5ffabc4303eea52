//! Questions about one container that both the plan and the status ask. Pure.

use apimachinery::hash::fnv1a;
use cri::{ContainerState, ContainerStatus};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::memory::Memory;
use super::observed::{Observed, is_running};
use crate::spec::{self, ContainerKind, RestartPolicy};

/// Changes when the container has to be made anew.
pub(crate) fn hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    format!(
        "{:x}",
        fnv1a(format!("{{\"name\":{:?},\"image\":{image:?}}}", container.name).as_bytes())
    )
}

/// Whether it runs and has passed postStart and its startup probe.
pub(crate) fn is_started(container: &Container, status: &ContainerStatus, memory: &Memory) -> bool {
    is_running(status)
        && !memory.post_start.contains(&status.container.id)
        && (container.startup_probe.is_none()
            || memory.results(&status.container.id).startup == Some(true))
}

/// Whether it is started and its readiness probe says yes.
pub(crate) fn is_ready(container: &Container, status: &ContainerStatus, memory: &Memory) -> bool {
    is_started(container, status, memory)
        && (container.readiness_probe.is_none()
            || memory.results(&status.container.id).readiness == Some(true))
}

/// The policy by which it starts again.
pub(crate) fn policy(pod: &Pod, kind: ContainerKind, container: &Container) -> RestartPolicy {
    match kind {
        ContainerKind::Init => spec::init_policy(pod, container),
        ContainerKind::Main => spec::container_policy(pod, container),
        ContainerKind::Ephemeral => RestartPolicy::Never,
    }
}

/// Whether it is to start when it does not run.
pub(crate) fn should_start(
    pod: &Pod,
    kind: ContainerKind,
    container: &Container,
    observed: &Observed,
) -> bool {
    if spec::is_deleting(pod) {
        return false;
    }
    match observed.latest(&container.name) {
        None => true,
        Some(status) => match status.container.state {
            ContainerState::Running => false,
            ContainerState::Created | ContainerState::Unknown => true,
            ContainerState::Exited => restarts_after(pod, kind, container, status.exit_code),
        },
    }
}

/// Whether it starts again after this exit: its own rules first, then its policy.
pub(crate) fn restarts_after(
    pod: &Pod,
    kind: ContainerKind,
    container: &Container,
    exit_code: i32,
) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|it| *it == exit_code);
        if listed == (codes.operator == "In") {
            return rule.action == "Restart" || rule.action == "RestartAllContainers";
        }
    }
    policy(pod, kind, container).restarts(exit_code)
}

/// Whether all of a pod's start is behind it: some main container was made in the present sandbox.
pub(crate) fn is_initialized(pod: &Pod, observed: &Observed) -> bool {
    spec::main_containers(pod).iter().any(|it| observed.latest_here(&it.name).is_some())
}
