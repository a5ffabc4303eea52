//! What a pod's specification says, with the defaults of one that no server has filled in.
//!
//! Facts only: knows no runtime and no node.

use k8s_openapi::api::core::v1::{Container, ContainerPort, EphemeralContainer, Pod, PodSpec};

/// Which list of a pod a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ContainerKind {
    /// `initContainers`, sidecars among them.
    Init,
    /// `containers`.
    Main,
    /// `ephemeralContainers`.
    Ephemeral,
}

impl ContainerKind {
    /// The field that events name: `spec.containers{c}`.
    #[must_use]
    pub(crate) fn field_path(self, name: &str) -> String {
        let list = match self {
            Self::Init => "initContainers",
            Self::Main => "containers",
            Self::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{name}}}")
    }
}

/// When containers of a pod start again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    /// Whenever they end.
    Always,
    /// When they fail.
    OnFailure,
    /// Not.
    Never,
}

impl RestartPolicy {
    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Whether a container that ended so starts again.
    #[must_use]
    pub(crate) fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// The specification; an empty one where there is none, which servers do not let in.
pub(crate) fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

pub(crate) fn restart_policy(pod: &Pod) -> RestartPolicy {
    RestartPolicy::parse(spec(pod).restart_policy.as_deref())
}

pub(crate) fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

pub(crate) fn main_containers(pod: &Pod) -> &[Container] {
    &spec(pod).containers
}

/// The ports of the containers that run beside each other.
pub(crate) fn ports(pod: &Pod) -> impl Iterator<Item = &ContainerPort> {
    let sidecars = init_containers(pod).iter().filter(|it| is_sidecar(it));
    main_containers(pod).iter().chain(sidecars).flat_map(|it| it.ports.iter().flatten())
}

/// An init container that runs beside the others.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The policy of one container: a sidecar's and a container's own rule come before the pod's.
pub(crate) fn container_policy(pod: &Pod, container: &Container) -> RestartPolicy {
    match container.restart_policy.as_deref() {
        Some(own) => RestartPolicy::parse(Some(own)),
        None => restart_policy(pod),
    }
}

/// The policy of an init container: one that must finish is tried again unless the pod's policy is `Never`.
pub(crate) fn init_policy(pod: &Pod, container: &Container) -> RestartPolicy {
    match container_policy(pod, container) {
        RestartPolicy::Always if !is_sidecar(container) => RestartPolicy::OnFailure,
        other => other,
    }
}

/// The ephemeral containers in the form of the others.
pub(crate) fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    spec(pod).ephemeral_containers.iter().flatten().map(as_container).collect()
}

fn as_container(it: &EphemeralContainer) -> Container {
    Container {
        args: it.args.clone(),
        command: it.command.clone(),
        env: it.env.clone(),
        env_from: it.env_from.clone(),
        image: it.image.clone(),
        image_pull_policy: it.image_pull_policy.clone(),
        lifecycle: None,
        liveness_probe: None,
        name: it.name.clone(),
        ports: None,
        readiness_probe: None,
        resize_policy: None,
        resources: it.resources.clone(),
        restart_policy: Some("Never".into()),
        restart_policy_rules: None,
        security_context: it.security_context.clone(),
        startup_probe: None,
        stdin: it.stdin,
        stdin_once: it.stdin_once,
        termination_message_path: it.termination_message_path.clone(),
        termination_message_policy: it.termination_message_policy.clone(),
        tty: it.tty,
        volume_devices: None,
        volume_mounts: it.volume_mounts.clone(),
        working_dir: it.working_dir.clone(),
    }
}

/// The container whose processes an ephemeral container sees.
pub(crate) fn target_of<'p>(pod: &'p Pod, ephemeral: &str) -> Option<&'p str> {
    let mut all = spec(pod).ephemeral_containers.iter().flatten();
    let found = all.find(|it| it.name == ephemeral)?;
    found.target_container_name.as_deref().filter(|name| !name.is_empty())
}

/// Every container with its list, in the order they start.
pub(crate) fn all_containers(pod: &Pod) -> Vec<(ContainerKind, Container)> {
    let init = init_containers(pod).iter().cloned().map(|it| (ContainerKind::Init, it));
    let main = main_containers(pod).iter().cloned().map(|it| (ContainerKind::Main, it));
    let ephemeral = ephemeral_containers(pod).into_iter().map(|it| (ContainerKind::Ephemeral, it));
    init.chain(main).chain(ephemeral).collect()
}

/// A container by name.
pub(crate) fn find_container(pod: &Pod, name: &str) -> Option<(ContainerKind, Container)> {
    all_containers(pod).into_iter().find(|(_, container)| container.name == name)
}

pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as upstream names pods in messages.
pub(crate) fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

pub(crate) fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or_default()
}

pub(crate) fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Seconds between asking containers to end and ending them.
pub(crate) fn grace_period_seconds(pod: &Pod) -> i64 {
    let own = spec(pod).termination_grace_period_seconds;
    pod.metadata.deletion_grace_period_seconds.or(own).unwrap_or(DEFAULT_GRACE_SECONDS)
}

const DEFAULT_GRACE_SECONDS: i64 = 30;
