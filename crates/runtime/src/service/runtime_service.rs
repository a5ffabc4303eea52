//! `cri::RuntimeService`, one line a verb.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cri::{
    AttachRequest, Container as Summary, ContainerConfig, ContainerFilter, ContainerStats,
    ContainerStatsFilter, ContainerStatus, CriError, Duplex, ExecRequest, ExecSyncResponse,
    LinuxContainerResources, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStats,
    PodSandboxStatus, RuntimeCondition, RuntimeEvent, RuntimeService, RuntimeStatus, StreamSession,
    VersionInfo, conditions,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::broadcast::error::RecvError;

use super::EmbeddedRuntime;
use super::containers::summary;
use super::sandboxes::sandbox_summary;
use super::state::{Container, Sandbox};
use crate::shim::protocol::Op;

#[async_trait]
impl RuntimeService for EmbeddedRuntime {
    async fn version(&self) -> Result<VersionInfo, CriError> {
        Ok(VersionInfo {
            version: "0.1.0".into(),
            runtime_name: "kubelith".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: cri::API_VERSION.into(),
        })
    }

    async fn status(&self) -> Result<RuntimeStatus, CriError> {
        let zygote = self.inner.zygote.warm_up().await.err();
        let network = self.inner.network.not_ready();
        let condition = |name: &str, reason: &str, problem: Option<String>| RuntimeCondition {
            condition_type: name.into(),
            status: problem.is_none(),
            reason: if problem.is_some() { reason.into() } else { String::new() },
            message: problem.unwrap_or_default(),
        };
        Ok(RuntimeStatus {
            conditions: vec![
                condition(
                    conditions::RUNTIME_READY,
                    "RuntimeNotReady",
                    zygote.map(|e| e.to_string()),
                ),
                condition(conditions::NETWORK_READY, "NetworkPluginNotReady", network),
            ],
            runtime_handlers: vec![String::new()],
        })
    }

    async fn run_pod_sandbox(
        &self,
        config: &PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, CriError> {
        self.inner.run_sandbox(config, runtime_handler).await
    }

    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError> {
        self.inner.stop_sandbox(sandbox_id).await
    }

    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> Result<(), CriError> {
        self.inner.remove_sandbox(sandbox_id).await
    }

    async fn pod_sandbox_status(&self, sandbox_id: &str) -> Result<PodSandboxStatus, CriError> {
        Ok(self.inner.sandbox_status(&*self.inner.sandbox(sandbox_id)?))
    }

    async fn list_pod_sandbox(
        &self,
        filter: &PodSandboxFilter,
    ) -> Result<Vec<PodSandbox>, CriError> {
        let all: Vec<Arc<Sandbox>> = self.inner.sandboxes.lock().values().cloned().collect();
        Ok(all.iter().map(|s| sandbox_summary(s)).filter(|s| filter.matches(s)).collect())
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &ContainerConfig,
        _sandbox_config: &PodSandboxConfig,
    ) -> Result<String, CriError> {
        self.inner.create(sandbox_id, config).await
    }

    async fn start_container(&self, container_id: &str) -> Result<(), CriError> {
        self.inner.start(container_id).await
    }

    async fn stop_container(&self, container_id: &str, timeout: Duration) -> Result<(), CriError> {
        self.inner.stop(container_id, timeout).await
    }

    async fn remove_container(&self, container_id: &str) -> Result<(), CriError> {
        self.inner.remove_container_by_id(container_id).await
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> Result<Vec<Summary>, CriError> {
        let all: Vec<Arc<Container>> = self.inner.containers.lock().values().cloned().collect();
        let summaries = all.iter().map(|c| summary(&c.record.lock(), &c.phase.lock()));
        Ok(summaries.filter(|c| filter.matches(c)).collect())
    }

    async fn container_status(&self, container_id: &str) -> Result<ContainerStatus, CriError> {
        Ok(self.inner.container_status_of(&*self.inner.container(container_id)?))
    }

    async fn update_container_resources(
        &self,
        container_id: &str,
        resources: &LinuxContainerResources,
    ) -> Result<(), CriError> {
        self.inner.update(container_id, resources).await
    }

    async fn reopen_container_log(&self, container_id: &str) -> Result<(), CriError> {
        let container = self.inner.container(container_id)?;
        if container.running().is_none() {
            return Err(CriError::unknown(format!("container {container_id:?} is not running")));
        }
        let sandbox = self.inner.sandbox(&container.sandbox_id())?;
        let shim = sandbox.shim.lock().clone();
        let shim = shim.ok_or_else(|| CriError::unknown("the shim is gone"))?;
        shim.ask(Op::Reopen { container: container_id.to_owned() }, &[]).await.map(drop)
    }

    async fn exec_sync(
        &self,
        container_id: &str,
        cmd: &[String],
        timeout: Duration,
    ) -> Result<ExecSyncResponse, CriError> {
        self.inner.exec_short(container_id, cmd, timeout).await
    }

    async fn exec(&self, request: &ExecRequest) -> Result<StreamSession, CriError> {
        self.inner.exec_streams(request).await
    }

    async fn attach(&self, request: &AttachRequest) -> Result<StreamSession, CriError> {
        self.inner.attach_streams(request).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> Result<Box<dyn Duplex>, CriError> {
        self.inner.forward(sandbox_id, port).await
    }

    async fn container_stats(&self, container_id: &str) -> Result<ContainerStats, CriError> {
        let container = self.inner.container(container_id)?;
        self.inner.stats_of(&container).await
    }

    async fn list_container_stats(
        &self,
        filter: &ContainerStatsFilter,
    ) -> Result<Vec<ContainerStats>, CriError> {
        let containers = ContainerFilter {
            id: filter.id.clone(),
            state: Some(cri::ContainerState::Running),
            pod_sandbox_id: filter.pod_sandbox_id.clone(),
            label_selector: filter.label_selector.clone(),
        };
        let mut all = Vec::new();
        for container in self.list_containers(&containers).await? {
            match self.container_stats(&container.id).await {
                // Removed in between.
                Err(error) if error.is_not_found() => {}
                other => all.push(other?),
            }
        }
        Ok(all)
    }

    async fn pod_sandbox_stats(&self, sandbox_id: &str) -> Result<PodSandboxStats, CriError> {
        self.inner.sandbox_stats_of(sandbox_id).await
    }

    fn container_events(&self) -> BoxStream<'static, RuntimeEvent> {
        let receiver = self.inner.events.subscribe();
        futures::stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(event) => Some((RuntimeEvent::Container(event), receiver)),
                Err(RecvError::Lagged(_)) => Some((RuntimeEvent::Relist, receiver)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }

    async fn update_runtime_config(&self, _pod_cidr: &str) -> Result<(), CriError> {
        // The pod network is a port of its own and learns its ranges from the node.
        Ok(())
    }
}
