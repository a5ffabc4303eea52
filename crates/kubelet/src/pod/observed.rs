//! What the runtime has of a pod: its sandboxes and containers, the newest first.

use cri::{ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};
use jiff::Timestamp;

/// Labels and annotations by which sandboxes and containers are found again. Upstream's own names.
pub(crate) mod marks {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub(crate) const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
    /// Where a container's termination message appears on the node.
    pub(crate) const MESSAGE_FILE: &str = "kubelith.io/termination-message-file";
}

/// The runtime's side of a pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// The newest first.
    pub(crate) sandboxes: Vec<PodSandboxStatus>,
    /// The newest first.
    pub(crate) containers: Vec<ContainerStatus>,
}

impl Observed {
    /// In order, whatever order the runtime answered in.
    pub(crate) fn new(
        mut sandboxes: Vec<PodSandboxStatus>,
        mut containers: Vec<ContainerStatus>,
    ) -> Self {
        sandboxes.sort_by_key(|it| {
            std::cmp::Reverse((it.sandbox.metadata.attempt, it.sandbox.created_at))
        });
        containers.sort_by_key(|it| {
            std::cmp::Reverse((it.container.created_at, it.container.metadata.attempt))
        });
        Self { sandboxes, containers }
    }

    /// The sandbox that containers can start in.
    pub(crate) fn ready_sandbox(&self) -> Option<&PodSandboxStatus> {
        self.sandboxes.first().filter(|it| it.sandbox.state == PodSandboxState::Ready)
    }

    /// The newest container of a name.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|it| it.container.metadata.name == name)
    }

    /// The containers of a name, the newest first.
    pub(crate) fn of<'o>(&'o self, name: &'o str) -> impl Iterator<Item = &'o ContainerStatus> {
        self.containers.iter().filter(move |it| it.container.metadata.name == name)
    }

    /// The newest container of a name in the newest sandbox.
    pub(crate) fn latest_here(&self, name: &str) -> Option<&ContainerStatus> {
        let sandbox = &self.sandboxes.first()?.sandbox.id;
        self.containers.iter().find(|it| {
            it.container.metadata.name == name && it.container.pod_sandbox_id == *sandbox
        })
    }

    /// The containers whose processes may be there.
    pub(crate) fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|it| is_running(it))
    }

    /// The containers that ended, but for the newest of each name that did.
    pub(crate) fn replaced(&self) -> impl Iterator<Item = &ContainerStatus> {
        let mut kept = std::collections::BTreeSet::new();
        let ended = self.containers.iter().filter(|it| has_exited(it));
        ended.filter(move |it| !kept.insert(it.container.metadata.name.as_str()))
    }

    /// The sandboxes before the newest in which nothing is left.
    pub(crate) fn empty_sandboxes(&self) -> impl Iterator<Item = String> {
        let ids = self.sandboxes.iter().skip(1).map(|it| &it.sandbox);
        let old = ids.filter(|it| it.state != PodSandboxState::Ready).map(|it| it.id.clone());
        old.filter(|id| self.containers.iter().all(|it| it.container.pod_sandbox_id != *id))
    }

    pub(crate) fn container(&self, id: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|it| it.container.id == id)
    }
}

pub(crate) fn is_running(container: &ContainerStatus) -> bool {
    container.container.state == ContainerState::Running
}

pub(crate) fn has_exited(container: &ContainerStatus) -> bool {
    container.container.state == ContainerState::Exited
}

/// How often its predecessors ended.
pub(crate) fn restart_count(container: &ContainerStatus) -> i32 {
    let noted = container.container.annotations.get(marks::RESTART_COUNT);
    let attempt = i32::try_from(container.container.metadata.attempt).unwrap_or(i32::MAX);
    noted.and_then(|it| it.parse().ok()).unwrap_or(attempt)
}

/// The runtime's nanoseconds as a time; what does not fit is the epoch.
pub(crate) fn time_of(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}
