//! Asking the runtime what it has of a pod.

use cri::{ContainerFilter, CriError, PodSandboxFilter};

use super::observed::Observed;
use super::worker::selector;
use crate::shared::Shared;

/// Everything of a pod. What goes between two questions is left out.
///
/// # Errors
/// When the runtime does not answer.
pub(crate) async fn observe(shared: &Shared, uid: &str) -> Result<Observed, CriError> {
    let label_selector = selector(uid);
    let filter =
        PodSandboxFilter { label_selector: label_selector.clone(), ..PodSandboxFilter::default() };
    let mut sandboxes = Vec::new();
    for sandbox in shared.runtime.list_pod_sandbox(&filter).await? {
        match shared.runtime.pod_sandbox_status(&sandbox.id).await {
            Ok(it) => sandboxes.push(it),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let filter = ContainerFilter { label_selector, ..ContainerFilter::default() };
    let mut containers = Vec::new();
    for container in shared.runtime.list_containers(&filter).await? {
        match shared.runtime.container_status(&container.id).await {
            Ok(it) => containers.push(it),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Observed::new(sandboxes, containers))
}
