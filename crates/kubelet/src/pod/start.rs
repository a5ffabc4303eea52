//! Making things run: sandboxes with what they stand on, containers with what they need.

use std::sync::Arc;

use client::events::EventType;
use component_base::ShutdownSignal;
use cri::PodSandboxStatus;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use sys::cgroup::Limits;

use super::config::{self, Parts};
use super::inbox::{Inbox, Outcome};
use super::memory::StartFailure;
use super::mounts;
use crate::environment::{Sources, data_of, environment, references};
use crate::hooks;
use crate::images::{self, RETRY};
use crate::objects::{Sort, User};
use crate::resources;
use crate::shared::Shared;
use crate::spec::{self, ContainerKind};
use crate::volumes::{self, VolumeContext};

/// Volumes, the pod's group, and a sandbox.
///
/// # Errors
/// What people were told.
pub(crate) async fn sandbox(
    shared: &Shared,
    pod: &Pod,
    attempt: u32,
    user: &User,
) -> Result<(), String> {
    let cx = VolumeContext { shared, pod, user, pod_ips: Vec::new() };
    if let Err(failure) = volumes::set_up(&cx).await {
        shared.event(pod, EventType::Warning, "FailedMount", &failure.message);
        return Err(failure.message);
    }
    if let Err(error) = make_group(shared, pod) {
        let message = format!("failed to create the group of the pod: {error}");
        shared.event(pod, EventType::Warning, "FailedCreatePodContainer", &message);
        return Err(message);
    }
    if !spec::spec(pod).resource_claims.as_deref().unwrap_or_default().is_empty() {
        let error = "resource claims are not supported by this node";
        let message = format!("Failed to prepare dynamic resources: {error}");
        shared.event(pod, EventType::Warning, "FailedPrepareDynamicResources", &message);
        return Err(message);
    }
    if spec::spec(pod).host_users == Some(false) {
        let error = "user namespaces (hostUsers: false) are not supported by this node's runtime";
        let message = format!("Failed to create pod sandbox: {error}");
        shared.event(pod, EventType::Warning, "FailedCreatePodSandBox", &message);
        return Err(message);
    }
    let node = shared.config.resolv_conf.as_ref();
    let node = node.and_then(|it| std::fs::read_to_string(it).ok()).unwrap_or_default();
    let sandbox = config::sandbox(&shared.config, pod, attempt, &node);
    let handler = spec::spec(pod).runtime_class_name.clone().unwrap_or_default();
    match shared.runtime.run_pod_sandbox(&sandbox, &handler).await {
        Ok(_) => Ok(()),
        Err(error) => {
            let message = format!("Failed to create pod sandbox: {}", error.to_rpc());
            shared.event(pod, EventType::Warning, "FailedCreatePodSandBox", &message);
            Err(message)
        }
    }
}

fn make_group(shared: &Shared, pod: &Pod) -> Result<(), sys::cgroup::CgroupError> {
    let Some(hierarchies) = &shared.hierarchies else { return Ok(()) };
    let (requests, limits) = (resources::pod_requests(pod), resources::pod_limits(pod));
    let of = |map: &resources::Amounts, name: &str| map.get(name).copied().unwrap_or_default();
    let (quota, period) = resources::cpu_quota(of(&limits, "cpu"));
    let limits = Limits {
        cpu_shares: u64::try_from(resources::cpu_shares(of(&requests, "cpu"))).unwrap_or(2),
        cpu_quota: quota,
        cpu_period: if quota == 0 { 0 } else { u64::try_from(period).unwrap_or(0) },
        memory: of(&limits, "memory"),
        pids: shared.config.pod_pids_limit,
        ..Limits::default()
    };
    sys::cgroup::apply(&hierarchies.plan_create(&config::cgroup_of(&shared.config, pod), &limits))
}

/// Which container is to start, and where.
#[derive(Debug)]
pub(crate) struct StartRequest {
    pub(crate) pod: Pod,
    pub(crate) kind: ContainerKind,
    pub(crate) container: Container,
    pub(crate) restart_count: i32,
    pub(crate) sandbox: PodSandboxStatus,
    pub(crate) target_id: Option<String>,
}

impl StartRequest {
    fn tell(&self, shared: &Shared, event: EventType, reason: &str, message: &str) {
        let about = (self.kind, self.container.name.as_str());
        shared.container_event(&self.pod, about, (event, reason), message);
    }
}

/// Starts a container and runs its hook; says what came of it to the inbox.
pub(crate) async fn container(
    shared: Arc<Shared>,
    request: StartRequest,
    inbox: Arc<Inbox>,
    cancel: ShutdownSignal,
) {
    let name = request.container.name.clone();
    let user = User {
        namespace: spec::namespace(&request.pod).to_owned(),
        uid: spec::uid(&request.pod).to_owned(),
        inbox: Arc::downgrade(&inbox),
    };
    let about = (request.kind, &request.container);
    let image = tokio::select! {
        it = images::ensure(&shared, &request.pod, about, &user) => it,
        // The pod ends: what is pulled meanwhile stays with the runtime.
        () = cancel.requested() => {
            let retry_at = shared.clock.now();
            Err(StartFailure { reason: "ContainerCreating".into(), message: String::new(), retry_at })
        }
    };
    let started = match image {
        Ok(image) => make(&shared, &request, &image, &user, &inbox).await,
        Err(failure) => Err(failure),
    };
    match started {
        Ok(id) => {
            inbox.report(Outcome::Start(name, Ok(())));
            post_start(&shared, &request, &id, &inbox).await;
        }
        Err(failure) => inbox.report(Outcome::Start(name, Err(failure))),
    }
}

async fn make(
    shared: &Shared,
    request: &StartRequest,
    image: &cri::Image,
    user: &User,
    inbox: &Inbox,
) -> Result<String, StartFailure> {
    let later = shared.clock.now().checked_add(RETRY).unwrap_or(Timestamp::MAX);
    let fail = |reason: &str, message: String, retry_at: Timestamp| {
        request.tell(shared, EventType::Warning, "Failed", &format!("Error: {message}"));
        StartFailure { reason: reason.into(), message, retry_at }
    };
    let config = match configure(shared, request, image, user).await {
        Ok(it) => it,
        Err(message) => return Err(fail("CreateContainerConfigError", message, later)),
    };
    let attempt = request.sandbox.sandbox.metadata.attempt;
    let sandbox = config::sandbox(&shared.config, &request.pod, attempt, "");
    let made =
        shared.runtime.create_container(&request.sandbox.sandbox.id, &config, &sandbox).await;
    let id = match made {
        Ok(it) => it,
        Err(error) => return Err(fail("CreateContainerError", error.message, later)),
    };
    request.tell(shared, EventType::Normal, "Created", "Container created");
    if hooks::post_start(&request.container).is_some() {
        // Noted before it runs: it is not started before its hook has ended.
        inbox.report(Outcome::PostStart(id.clone(), Err(String::new())));
    }
    if let Err(error) = shared.runtime.start_container(&id).await {
        return Err(fail("RunContainerError", error.message, shared.clock.now()));
    }
    request.tell(shared, EventType::Normal, "Started", "Container started");
    Ok(id)
}

async fn configure(
    shared: &Shared,
    request: &StartRequest,
    image: &cri::Image,
    user: &User,
) -> Result<cri::ContainerConfig, String> {
    let (pod, container) = (&request.pod, &request.container);
    if shared.machine.has_selinux && asks_for_selinux(pod, container) {
        return Err("SELinux options are not supported by this node's runtime".into());
    }
    let ips = &request.sandbox.ips;
    let mut sources = Sources {
        services: shared.service_variables(pod),
        fields: shared.field_facts(pod, ips.iter().map(ToString::to_string).collect()),
        ..Sources::default()
    };
    let (config_maps, secrets) = references(container);
    for name in config_maps {
        let found = shared.objects.get(Sort::ConfigMap, &name, user).await;
        sources.config_maps.insert(name, found.map(|it| data_of(&it, false)));
    }
    for name in secrets {
        let found = shared.objects.get(Sort::Secret, &name, user).await;
        sources.secrets.insert(name, found.map(|it| data_of(&it, true)));
    }
    let variables = environment(pod, container, &sources)?;
    let mounts = mounts::prepare(shared, pod, container, &variables, ips).await?;
    let parts = Parts {
        image,
        environment: variables,
        mounts: mounts.mounts,
        restart_count: request.restart_count,
        message_file: mounts.message_file,
        node_memory: shared.machine.memory_bytes,
        target_id: request.target_id.clone(),
    };
    config::container(pod, request.kind, container, parts)
}

fn asks_for_selinux(pod: &Pod, container: &Container) -> bool {
    let of_pod = spec::spec(pod).security_context.as_ref();
    let own = container.security_context.as_ref();
    of_pod.is_some_and(|it| it.se_linux_options.is_some())
        || own.is_some_and(|it| it.se_linux_options.is_some())
}

async fn post_start(shared: &Shared, request: &StartRequest, id: &str, inbox: &Inbox) {
    let Some(handler) = hooks::post_start(&request.container) else { return };
    let target = hooks::Target {
        container_id: id,
        pod_ip: request.sandbox.ips.first().map(ToString::to_string),
        container: &request.container,
    };
    let result = hooks::run(shared, handler, &target, None).await;
    if let Err(error) = &result {
        tracing::warn!(pod = spec::full_name(&request.pod), error, "postStart failed");
        request.tell(shared, EventType::Warning, "FailedPostStartHook", "PostStartHook failed");
    }
    inbox.report(Outcome::PostStart(
        id.to_owned(),
        result.map_err(|it| if it.is_empty() { "failed".into() } else { it }),
    ));
}
