//! Ending things: a container with its hook and its grace, and what a pod leaves on the node.

use std::sync::Arc;
use std::time::Duration;

use client::events::EventType;
use k8s_openapi::api::core::v1::Pod;

use super::config::cgroup_of;
use crate::hooks;
use crate::shared::Shared;
use crate::spec;
use crate::volumes;

/// The least time between asking and killing, where any was given.
const MIN_GRACE: Duration = Duration::from_secs(2);
/// How long the kernel may take to let go of a group.
const GROUP_TRIES: u32 = 50;

/// A container to end.
#[derive(Debug)]
pub(crate) struct KillRequest {
    pub(crate) pod: Pod,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) message: String,
    pub(crate) grace: Duration,
    pub(crate) pod_ip: Option<String>,
}

/// Runs the hook, within the grace period, and stops the container with what is left of it.
pub(crate) async fn container(shared: &Shared, request: &KillRequest) {
    let Some((kind, container)) = spec::find_container(&request.pod, &request.name) else {
        // Its definition is gone; so is its hook.
        return stop(shared, request, request.grace).await;
    };
    let about = (kind, request.name.as_str());
    let event = (EventType::Normal, "Killing");
    shared.container_event(&request.pod, about, event, &request.message);
    let begun = shared.clock.monotonic();
    if let Some(handler) = hooks::pre_stop(&container).filter(|_| !request.grace.is_zero()) {
        let target = hooks::Target {
            container_id: &request.id,
            pod_ip: request.pod_ip.clone(),
            container: &container,
        };
        if let Err(error) = hooks::run(shared, handler, &target, Some(request.grace)).await {
            tracing::warn!(
                pod = spec::full_name(&request.pod),
                container = request.name,
                error,
                "preStop failed"
            );
            let event = (EventType::Warning, "FailedPreStopHook");
            shared.container_event(&request.pod, about, event, "PreStopHook failed");
        }
    }
    let used = shared.clock.monotonic() - begun;
    let left = request.grace.saturating_sub(used);
    stop(shared, request, left.max(MIN_GRACE.min(request.grace.max(Duration::from_secs(1))))).await;
}

async fn stop(shared: &Shared, request: &KillRequest, grace: Duration) {
    if let Err(error) = shared.runtime.stop_container(&request.id, grace).await
        && !error.is_not_found()
    {
        tracing::warn!(container = request.id, %error, "could not stop a container, will try again");
    }
}

/// Removes volumes and the group of a pod whose processes are gone.
///
/// # Errors
/// When something stays.
pub(crate) async fn clean(shared: &Arc<Shared>, pod: &Pod) -> Result<(), String> {
    let dir = shared.config.pod_dir(spec::uid(pod));
    let torn = shared.blocking.run(move || volumes::tear_down(&dir)).await;
    torn.map_err(|it| it.to_string())?
        .map_err(|it| format!("could not remove the pod's directory: {it}"))?;
    shared.tokens.forget(spec::uid(pod));
    shared.pulls.forget(spec::uid(pod));
    shared.objects.forget(spec::uid(pod));
    let Some(hierarchies) = &shared.hierarchies else { return Ok(()) };
    let ops = hierarchies.plan_remove(&cgroup_of(&shared.config, pod));
    let mut last = Ok(());
    for _ in 0..GROUP_TRIES {
        last = sys::cgroup::apply(&ops);
        if last.is_ok() {
            break;
        }
        // The kernel gives no word when the last process of a group of version 1 is gone.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    last.map_err(|it| format!("could not remove the pod's group: {it}"))
}
