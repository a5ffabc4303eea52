//! A pod's status from what is observed and remembered. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod,
    PodCondition, PodIP, PodStatus, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::containers::{is_ready, is_started, should_start};
use super::memory::{Memory, Stage};
use super::observed::{Observed, is_running, restart_count, time_of};
use super::{conditions, phase};
use crate::resources;
use crate::spec::{self, ContainerKind};
use crate::time::to_time;

/// What of the node stands in the statuses of its pods.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeFacts {
    /// The node's addresses, the primary one first.
    pub(crate) addresses: Vec<String>,
    /// The scheme of container ids.
    pub(crate) runtime_name: String,
}

/// The status to write.
pub(crate) fn status(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    node: &NodeFacts,
    now: Timestamp,
) -> PodStatus {
    let before = pod.status.clone().unwrap_or_default();
    let start_time =
        before.start_time.clone().or(memory.start_time.map(to_time)).or(Some(to_time(now)));
    if memory.failure.as_ref().is_some_and(|it| it.rejected) {
        return rejected(pod, memory, start_time);
    }
    let view = View { pod, observed, memory, node, before: &before };
    let statuses = Statuses {
        init: view.list(ContainerKind::Init, spec::init_containers(pod)),
        main: view.list(ContainerKind::Main, spec::main_containers(pod)),
        ephemeral: view.list(ContainerKind::Ephemeral, &spec::ephemeral_containers(pod)),
    };
    let phase = phase::phase(pod, &statuses, memory);
    let disruption =
        memory.failure.as_ref().filter(|it| it.disrupted).map(|it| it.message.as_str());
    let conditions = conditions::conditions(pod, &statuses, phase, observed, disruption, now);
    let mut status = PodStatus {
        observed_generation: pod.metadata.generation,
        phase: Some(phase::reported(phase, &before, observed, memory).into()),
        conditions: Some(conditions),
        start_time,
        qos_class: Some(resources::qos_class(pod).as_str().into()),
        init_container_statuses: some(statuses.init),
        container_statuses: some(statuses.main),
        ephemeral_container_statuses: some(statuses.ephemeral),
        ..PodStatus::default()
    };
    if let Some(failure) = &memory.failure {
        status.reason = Some(failure.reason.clone());
        status.message = Some(failure.message.clone());
    } else {
        status.reason = before.reason.clone();
        status.message = before.message.clone();
    }
    addresses(&mut status, &view);
    pod_resources(&mut status, pod);
    status
}

/// A pod that the node did not let in has nothing but the reason.
fn rejected(pod: &Pod, memory: &Memory, start_time: Option<Time>) -> PodStatus {
    let failure = memory.failure.clone();
    PodStatus {
        observed_generation: pod.metadata.generation,
        phase: Some("Failed".into()),
        reason: failure.as_ref().map(|it| it.reason.clone()),
        message: failure.map(|it| format!("Pod was rejected: {}", it.message)),
        qos_class: Some(resources::qos_class(pod).as_str().into()),
        start_time,
        ..PodStatus::default()
    }
}

/// The statuses of a pod's containers, in the order of the specification.
#[derive(Debug, Clone, Default)]
pub(crate) struct Statuses {
    pub(crate) init: Vec<ContainerStatus>,
    pub(crate) main: Vec<ContainerStatus>,
    pub(crate) ephemeral: Vec<ContainerStatus>,
}

struct View<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    memory: &'a Memory,
    node: &'a NodeFacts,
    before: &'a PodStatus,
}

impl View<'_> {
    fn list(&self, kind: ContainerKind, containers: &[Container]) -> Vec<ContainerStatus> {
        containers.iter().map(|it| self.container(kind, it)).collect()
    }

    fn container(&self, kind: ContainerKind, container: &Container) -> ContainerStatus {
        let mut all = self.observed.of(&container.name);
        let latest = all.next();
        let mut status = match latest {
            Some(latest) => self.known(kind, container, latest),
            None => self.unknown(kind, container),
        };
        if let Some(previous) = all.next() {
            status.last_state = Some(self.state(kind, previous));
        }
        self.waiting(kind, container, &mut status);
        self.probes(kind, container, latest, &mut status);
        status.volume_mounts = some(volume_mounts(container));
        status
    }

    fn known(
        &self,
        kind: ContainerKind,
        container: &Container,
        latest: &cri::ContainerStatus,
    ) -> ContainerStatus {
        let before = self.old(&container.name);
        let image = if latest.image_name.is_empty() {
            latest.container.image.image.clone()
        } else {
            latest.image_name.clone()
        };
        let requests = resources::requests(container);
        let user = latest.user.as_ref().filter(|_| is_running(latest)).map(|it| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: it.uid,
                gid: it.gid,
                supplemental_groups: some(it.supplemental_groups.clone()),
            }),
        });
        ContainerStatus {
            name: container.name.clone(),
            state: Some(self.state(kind, latest)),
            last_state: Some(before.and_then(|it| it.last_state.clone()).unwrap_or_default()),
            restart_count: restart_count(latest),
            image,
            image_id: latest.image_ref.clone(),
            container_id: Some(self.id(latest)),
            allocated_resources: (!requests.is_empty()).then(|| requests.clone()),
            resources: Some(ResourceRequirements {
                limits: Some(resources::limits(container)).filter(|it| !it.is_empty()),
                requests: Some(requests).filter(|it| !it.is_empty()),
                ..ResourceRequirements::default()
            }),
            user,
            ..ContainerStatus::default()
        }
    }

    /// A container that the runtime does not have: it is to come, or it is lost.
    fn unknown(&self, kind: ContainerKind, container: &Container) -> ContainerStatus {
        let before = self.old(&container.name);
        let waiting = waiting_state(self.default_reason(kind), None);
        let mut status = ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            state: Some(waiting),
            last_state: Some(ContainerState::default()),
            ..ContainerStatus::default()
        };
        let Some(before) = before else { return status };
        status.restart_count = before.restart_count;
        status.last_state = Some(before.last_state.clone().unwrap_or_default());
        let old = before.state.clone().unwrap_or_default();
        if old.terminated.is_some() {
            return before.clone();
        }
        if old.running.is_some() {
            // It ran, and nobody knows how it ended.
            status.restart_count += 1;
            let lost = lost(before);
            if spec::restart_policy(self.pod) == spec::RestartPolicy::Never
                || self.memory.stage > Stage::Running
            {
                status.state = Some(lost);
            } else {
                status.last_state = Some(lost);
            }
        }
        status
    }

    fn default_reason(&self, kind: ContainerKind) -> &'static str {
        let has_init = !spec::init_containers(self.pod).is_empty();
        match kind {
            ContainerKind::Ephemeral => "ContainerCreating",
            ContainerKind::Init | ContainerKind::Main if has_init => "PodInitializing",
            ContainerKind::Init | ContainerKind::Main => "ContainerCreating",
        }
    }

    /// A container that is to start and could not says why.
    fn waiting(&self, kind: ContainerKind, container: &Container, status: &mut ContainerStatus) {
        let Some(failure) = self.memory.failures.get(&container.name) else { return };
        let starts = match kind {
            ContainerKind::Ephemeral => self.observed.latest(&container.name).is_none(),
            ContainerKind::Init | ContainerKind::Main => {
                should_start(self.pod, kind, container, self.observed)
            }
        };
        if !starts || self.memory.stage > Stage::Running {
            return;
        }
        let state = status.state.take().unwrap_or_default();
        if state.terminated.is_some() {
            status.last_state = Some(state);
        }
        let message = Some(failure.message.clone()).filter(|it| !it.is_empty());
        status.state = Some(waiting_state(&failure.reason, message));
    }

    fn probes(
        &self,
        kind: ContainerKind,
        container: &Container,
        latest: Option<&cri::ContainerStatus>,
        status: &mut ContainerStatus,
    ) {
        let running = latest.filter(|it| is_running(it));
        if kind == ContainerKind::Init && !spec::is_sidecar(container) {
            let done = status.state.as_ref().and_then(|it| it.terminated.as_ref());
            status.ready = done.is_some_and(|it| it.exit_code == 0);
            status.started = Some(running.is_some());
        } else if kind == ContainerKind::Ephemeral {
            status.started = None;
        } else {
            status.started = Some(running.is_some_and(|it| is_started(container, it, self.memory)));
            status.ready = running.is_some_and(|it| is_ready(container, it, self.memory));
        }
    }

    fn old(&self, name: &str) -> Option<&ContainerStatus> {
        let lists = [
            &self.before.init_container_statuses,
            &self.before.container_statuses,
            &self.before.ephemeral_container_statuses,
        ];
        lists.into_iter().flatten().flatten().find(|it| it.name == name)
    }

    fn id(&self, container: &cri::ContainerStatus) -> String {
        format!("{}://{}", self.node.runtime_name, container.container.id)
    }

    fn state(&self, kind: ContainerKind, container: &cri::ContainerStatus) -> ContainerState {
        let time = |nanoseconds: i64| Some(to_time(time_of(nanoseconds)));
        match container.container.state {
            cri::ContainerState::Running => ContainerState {
                running: Some(ContainerStateRunning { started_at: time(container.started_at) }),
                ..ContainerState::default()
            },
            cri::ContainerState::Exited => ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: container.exit_code,
                    reason: Some(container.reason.clone()).filter(|it| !it.is_empty()),
                    message: Some(container.message.clone()).filter(|it| !it.is_empty()),
                    started_at: time(container.started_at),
                    finished_at: time(container.finished_at),
                    container_id: Some(self.id(container)),
                    signal: None,
                }),
                ..ContainerState::default()
            },
            // Until it runs it waits for what it waited for before it was made.
            cri::ContainerState::Created | cri::ContainerState::Unknown => {
                waiting_state(self.default_reason(kind), None)
            }
        }
    }
}

fn waiting_state(reason: &str, message: Option<String>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }),
        ..ContainerState::default()
    }
}

fn lost(before: &ContainerStatus) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some(
                "The container could not be located when the pod was deleted.  The container used to be Running".into(),
            ),
            container_id: before.container_id.clone(),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}

fn volume_mounts(container: &Container) -> Vec<VolumeMountStatus> {
    let mounts = container.volume_mounts.iter().flatten();
    let status = mounts.map(|it| {
        let read_only = it.read_only.unwrap_or_default();
        let recursive = match it.recursive_read_only.as_deref() {
            Some("Enabled" | "IfPossible") => "Enabled",
            _ => "Disabled",
        };
        VolumeMountStatus {
            name: it.name.clone(),
            mount_path: it.mount_path.clone(),
            read_only: read_only.then_some(true),
            recursive_read_only: read_only.then(|| recursive.to_owned()),
            volume_status: None,
        }
    });
    status.collect()
}

fn addresses(status: &mut PodStatus, view: &View<'_>) {
    let host = &view.node.addresses;
    status.host_ip = host.first().cloned();
    status.host_ips = some(host.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let own: Vec<String> = if spec::is_host_network(view.pod) {
        host.clone()
    } else {
        let sandbox = view.observed.sandboxes.first();
        sandbox.map(|it| it.ips.iter().map(ToString::to_string).collect()).unwrap_or_default()
    };
    if own.is_empty() {
        // The last known address stays until there is another.
        status.pod_ip = view.before.pod_ip.clone();
        status.pod_ips = view.before.pod_ips.clone();
        return;
    }
    status.pod_ip = own.first().cloned();
    status.pod_ips = some(own.into_iter().map(|ip| PodIP { ip }).collect());
}

fn pod_resources(status: &mut PodStatus, pod: &Pod) {
    let requests = resources::to_quantities(&resources::pod_requests(pod));
    let limits = resources::to_quantities(&resources::pod_limits(pod));
    status.allocated_resources = Some(requests.clone()).filter(|it| !it.is_empty());
    status.resources = Some(ResourceRequirements {
        limits: Some(limits).filter(|it| !it.is_empty()),
        requests: Some(requests).filter(|it| !it.is_empty()),
        ..ResourceRequirements::default()
    });
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// A condition that was not there before, or changed, gets `now`; one that did not keeps its time.
pub(crate) fn condition(
    before: &[PodCondition],
    generation: Option<i64>,
    new: (&str, bool, Option<&str>, Option<String>),
    now: Timestamp,
) -> PodCondition {
    let (type_, holds, reason, message) = new;
    let status = if holds { "True" } else { "False" };
    let known = before.iter().find(|it| it.type_ == type_ && it.status == status);
    PodCondition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.map(str::to_owned),
        message,
        observed_generation: generation,
        last_transition_time: known
            .and_then(|it| it.last_transition_time.clone())
            .or(Some(to_time(now))),
        last_probe_time: None,
    }
}
