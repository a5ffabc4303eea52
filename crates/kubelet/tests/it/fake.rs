//! A runtime made of stages, in memory: containers do what their command says, on the test's clock.
//!
//! `run` runs until stopped, `deaf` until killed, `exit CODE` ends at once, `after SECONDS CODE` ends later,
//! `unstartable` cannot be started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use component_base::Clock;
use cri::{
    AttachRequest, AuthConfig, Code, Container, ContainerConfig, ContainerEvent,
    ContainerEventType, ContainerFilter, ContainerState, ContainerStats, ContainerStatsFilter,
    ContainerStatus, CriError, Duplex, ExecRequest, ExecSyncResponse, Image, ImageFsInfo,
    ImageService, ImageSpec, LinuxContainerResources, PodSandbox, PodSandboxConfig,
    PodSandboxFilter, PodSandboxState, PodSandboxStats, PodSandboxStatus, ProgressSink,
    RuntimeCondition, RuntimeEvent, RuntimeService, RuntimeStatus, StreamSession, VersionInfo,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::broadcast;

#[derive(Debug, Default)]
struct State {
    next: u32,
    sandboxes: BTreeMap<String, PodSandboxStatus>,
    containers: BTreeMap<String, (ContainerConfig, ContainerStatus)>,
    images: BTreeMap<String, Image>,
    /// What was asked for, in order.
    calls: Vec<String>,
    /// Exit codes of commands that probes and hooks run; 0 where none is set.
    commands: BTreeMap<String, i32>,
}

/// The runtime. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<ContainerEvent>,
    clock: Arc<dyn Clock>,
}

impl Fake {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let fake = Self { state: Arc::default(), events: broadcast::channel(1024).0, clock };
        let image = Image { id: "sha256:here".into(), size: 7, ..Image::default() };
        fake.state.lock().images.insert("here:1".into(), image);
        fake
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// What a command of a probe or hook answers from now on.
    pub(crate) fn answer(&self, command: &str, code: i32) {
        self.state.lock().commands.insert(command.into(), code);
    }

    fn now(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).unwrap()
    }

    fn call(&self, text: String) {
        self.state.lock().calls.push(text);
    }

    fn tell(&self, container: &str, sandbox: &str, event_type: ContainerEventType) {
        let event = ContainerEvent {
            container_id: container.into(),
            pod_sandbox_id: sandbox.into(),
            event_type,
            created_at: self.now(),
        };
        let _ = self.events.send(event);
    }

    fn end(&self, id: &str, code: i32) {
        let now = self.now();
        let sandbox = {
            let mut state = self.state.lock();
            let Some((_, status)) = state.containers.get_mut(id) else { return };
            if status.container.state != ContainerState::Running {
                return;
            }
            status.container.state = ContainerState::Exited;
            status.exit_code = code;
            status.reason = if code == 0 { "Completed".into() } else { "Error".into() };
            status.finished_at = now;
            status.container.pod_sandbox_id.clone()
        };
        self.tell(id, &sandbox, ContainerEventType::Stopped);
    }
}

fn gone(id: &str) -> CriError {
    CriError::not_found(format!("{id} is not there"))
}

fn unbuilt<T>() -> Result<T, CriError> {
    Err(CriError::new(Code::Unimplemented, "the fake does not do that"))
}

#[async_trait]
impl RuntimeService for Fake {
    async fn version(&self) -> Result<VersionInfo, CriError> {
        Ok(VersionInfo {
            runtime_name: "fake".into(),
            runtime_version: "1".into(),
            ..VersionInfo::default()
        })
    }

    async fn status(&self) -> Result<RuntimeStatus, CriError> {
        let ready = RuntimeCondition {
            condition_type: "RuntimeReady".into(),
            status: true,
            ..RuntimeCondition::default()
        };
        Ok(RuntimeStatus { conditions: vec![ready], runtime_handlers: Vec::new() })
    }

    async fn run_pod_sandbox(
        &self,
        config: &PodSandboxConfig,
        _: &str,
    ) -> Result<String, CriError> {
        self.call(format!("sandbox {}", config.metadata.name));
        let id = {
            let mut state = self.state.lock();
            state.next += 1;
            let id = format!("s{}", state.next);
            let sandbox = PodSandbox {
                id: id.clone(),
                metadata: config.metadata.clone(),
                state: PodSandboxState::Ready,
                created_at: self.now(),
                labels: config.labels.clone(),
                ..PodSandbox::default()
            };
            let ips = vec!["10.0.0.9".parse().unwrap()];
            state.sandboxes.insert(
                id.clone(),
                PodSandboxStatus { sandbox, ips, ..PodSandboxStatus::default() },
            );
            id
        };
        self.tell(&id, &id, ContainerEventType::Started);
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        self.call(format!("stop {id}"));
        if let Some(it) = self.state.lock().sandboxes.get_mut(id) {
            it.sandbox.state = PodSandboxState::NotReady;
        }
        self.tell(id, id, ContainerEventType::Stopped);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), CriError> {
        let mut state = self.state.lock();
        state.sandboxes.remove(id);
        state.containers.retain(|_, it| it.1.container.pod_sandbox_id != id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus, CriError> {
        self.state.lock().sandboxes.get(id).cloned().ok_or_else(|| gone(id))
    }

    async fn list_pod_sandbox(
        &self,
        filter: &PodSandboxFilter,
    ) -> Result<Vec<PodSandbox>, CriError> {
        let state = self.state.lock();
        Ok(state
            .sandboxes
            .values()
            .map(|it| it.sandbox.clone())
            .filter(|it| filter.matches(it))
            .collect())
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &ContainerConfig,
        _: &PodSandboxConfig,
    ) -> Result<String, CriError> {
        let mut state = self.state.lock();
        state.next += 1;
        let id = format!("c{}", state.next);
        let container = Container {
            id: id.clone(),
            pod_sandbox_id: sandbox_id.into(),
            metadata: config.metadata.clone(),
            image: config.image.clone(),
            state: ContainerState::Created,
            created_at: self.now(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Container::default()
        };
        let status = ContainerStatus { container, ..ContainerStatus::default() };
        state.containers.insert(id.clone(), (config.clone(), status));
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let (command, name, sandbox) = {
            let mut state = self.state.lock();
            let (config, status) = state.containers.get_mut(id).ok_or_else(|| gone(id))?;
            status.started_at = self.now();
            status.container.state = ContainerState::Running;
            let found = (
                config.command.clone(),
                config.metadata.name.clone(),
                status.container.pod_sandbox_id.clone(),
            );
            state.calls.push(format!("start {}", found.1));
            found
        };
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        self.tell(id, &sandbox, ContainerEventType::Started);
        match words.as_slice() {
            ["unstartable"] => {
                self.end(id, 128);
                return Err(CriError::unknown(format!("{name} cannot be started")));
            }
            ["exit", code] => self.end(id, code.parse().unwrap()),
            ["after", seconds, code] => {
                let (fake, id) = (self.clone(), id.to_owned());
                let (seconds, code) = (seconds.parse().unwrap(), code.parse().unwrap());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(seconds)).await;
                    fake.end(&id, code);
                });
            }
            _ => {}
        }
        Ok(())
    }

    async fn stop_container(&self, id: &str, timeout: Duration) -> Result<(), CriError> {
        let (name, deaf) = {
            let state = self.state.lock();
            let Some((config, _)) = state.containers.get(id) else { return Ok(()) };
            (config.metadata.name.clone(), config.command == ["deaf"])
        };
        self.call(format!("kill {name} {}s", timeout.as_secs()));
        if deaf {
            tokio::time::sleep(timeout).await;
        }
        self.end(id, if deaf { 137 } else { 0 });
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        self.state.lock().containers.remove(id);
        Ok(())
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<Container>, CriError> {
        let state = self.state.lock();
        Ok(state
            .containers
            .values()
            .map(|it| it.1.container.clone())
            .filter(|it| filter.matches(it))
            .collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, CriError> {
        self.state.lock().containers.get(id).map(|it| it.1.clone()).ok_or_else(|| gone(id))
    }

    async fn update_container_resources(
        &self,
        _: &str,
        _: &LinuxContainerResources,
    ) -> Result<(), CriError> {
        unbuilt()
    }

    async fn reopen_container_log(&self, _: &str) -> Result<(), CriError> {
        unbuilt()
    }

    async fn exec_sync(
        &self,
        _: &str,
        cmd: &[String],
        _: Duration,
    ) -> Result<ExecSyncResponse, CriError> {
        let command = cmd.join(" ");
        let exit_code = self.state.lock().commands.get(&command).copied().unwrap_or(0);
        let stdout = if exit_code == 0 { Vec::new() } else { b"no".to_vec() };
        Ok(ExecSyncResponse { stdout, stderr: Vec::new(), exit_code })
    }

    async fn exec(&self, _: &ExecRequest) -> Result<StreamSession, CriError> {
        unbuilt()
    }

    async fn attach(&self, _: &AttachRequest) -> Result<StreamSession, CriError> {
        unbuilt()
    }

    async fn port_forward(&self, _: &str, _: u16) -> Result<Box<dyn Duplex>, CriError> {
        unbuilt()
    }

    async fn container_stats(&self, _: &str) -> Result<ContainerStats, CriError> {
        unbuilt()
    }

    async fn list_container_stats(
        &self,
        _: &ContainerStatsFilter,
    ) -> Result<Vec<ContainerStats>, CriError> {
        unbuilt()
    }

    async fn pod_sandbox_stats(&self, _: &str) -> Result<PodSandboxStats, CriError> {
        unbuilt()
    }

    fn container_events(&self) -> BoxStream<'static, RuntimeEvent> {
        let events = self.events.subscribe();
        futures::stream::unfold(events, |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((RuntimeEvent::Container(event), events)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((RuntimeEvent::Relist, events)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed()
    }

    async fn update_runtime_config(&self, _: &str) -> Result<(), CriError> {
        Ok(())
    }
}

#[async_trait]
impl ImageService for Fake {
    async fn list_images(&self, _: Option<&ImageSpec>) -> Result<Vec<Image>, CriError> {
        Ok(self.state.lock().images.values().cloned().collect())
    }

    async fn image_status(&self, image: &ImageSpec) -> Result<Option<Image>, CriError> {
        let state = self.state.lock();
        let by_id = state.images.values().find(|it| it.id == image.image);
        Ok(state.images.get(&image.image).or(by_id).cloned())
    }

    async fn pull_image(
        &self,
        image: &ImageSpec,
        _: Option<&AuthConfig>,
        _: Option<ProgressSink>,
    ) -> Result<String, CriError> {
        if image.image.starts_with("nowhere") {
            return Err(CriError::not_found(format!("{} is nowhere", image.image)));
        }
        let id = format!("sha256:{}", image.image);
        let found = Image { id: id.clone(), size: 42, ..Image::default() };
        self.state.lock().images.insert(image.image.clone(), found);
        Ok(id)
    }

    async fn remove_image(&self, image: &ImageSpec) -> Result<(), CriError> {
        self.state.lock().images.remove(&image.image);
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<ImageFsInfo, CriError> {
        Ok(ImageFsInfo::default())
    }
}
