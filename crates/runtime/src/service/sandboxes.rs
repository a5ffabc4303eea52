//! The life of sandboxes.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use cri::{
    ContainerEventType, CriError, DnsConfig, NamespaceMode, NetworkRequest, PodSandbox,
    PodSandboxConfig, PodSandboxState, PodSandboxStatus,
};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::shim_client::{Notice, ShimClient};
use super::state::{Sandbox, SandboxRecord};
use super::{Inner, build, unknown};
use crate::shim::Birth;
use crate::shim::protocol::Op;
use crate::spec::{SANDBOX_FILE, SandboxSpec};

/// What a shim may tell ahead of the agent's taking it; then the shim's socket fills.
const MAX_NOTICES: usize = 256;
/// The longest host name that the kernel takes.
const MAX_HOSTNAME_BYTES: usize = 64;

impl Inner {
    pub(super) async fn run_sandbox(
        self: &Arc<Self>,
        config: &PodSandboxConfig,
        handler: &str,
    ) -> Result<String, CriError> {
        refuse_unsupported(config, handler)?;
        let id = self.new_id();
        let sandbox = self.new_sandbox(&id, config);
        let done = self.start_sandbox(&sandbox).await;
        if let Err(error) = done {
            self.undo_sandbox(&sandbox).await;
            return Err(error);
        }
        self.announce(&id, &id, ContainerEventType::Created);
        self.announce(&id, &id, ContainerEventType::Started);
        Ok(id)
    }

    fn new_sandbox(&self, id: &str, config: &PodSandboxConfig) -> Arc<Sandbox> {
        let options = &config.linux.security_context.namespace_options;
        let run_dir = self.state_dir.join(id);
        let record = SandboxRecord {
            id: id.to_owned(),
            config: config.clone(),
            created_at: self.now(),
            netns: (options.network != NamespaceMode::Node).then(|| run_dir.join("netns")),
            shm: (options.ipc != NamespaceMode::Node).then(|| run_dir.join("shm")),
            ..SandboxRecord::default()
        };
        Arc::new(Sandbox {
            id: id.to_owned(),
            dir: self.root_dir.join("sandboxes").join(id),
            run_dir,
            record: Mutex::new(record),
            shim: Mutex::new(None),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    async fn start_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<(), CriError> {
        let what = "create sandbox";
        let of_blocking = Arc::clone(sandbox);
        self.block(move || write_files(&of_blocking)).await?.map_err(|e| unknown(what, &e))?;
        let birth =
            Birth { directory: sandbox.dir.clone(), socket_directory: sandbox.run_dir.clone() };
        self.zygote.fork(birth).await.map_err(|e| unknown(what, &e))?;
        self.connect(sandbox).await.map_err(|e| unknown("connect to the shim", &e))?;
        let request = network_request(sandbox);
        if let Some(request) = &request {
            // Noted first: what is begun is taken back even when this process ends here.
            sandbox.record.lock().network = true;
            sandbox.save().map_err(|e| unknown(what, &e))?;
            let got = self.network.setup(request).await.map_err(|e| {
                let id = &sandbox.id;
                CriError::new(
                    e.code,
                    format!("failed to setup network for sandbox {id:?}: {}", e.message),
                )
            })?;
            sandbox.record.lock().ips = got.ips;
        }
        sandbox.record.lock().ready = true;
        sandbox.save().map_err(|e| unknown(what, &e))?;
        self.sandboxes.lock().insert(sandbox.id.clone(), Arc::clone(sandbox));
        Ok(())
    }

    /// What could not be made whole leaves nothing, except a network that could not be taken back.
    async fn undo_sandbox(&self, sandbox: &Arc<Sandbox>) {
        if let Err(error) = self.stop_parts(sandbox).await {
            tracing::warn!(sandbox = sandbox.id, %error, "could not undo a sandbox");
            self.sandboxes.lock().insert(sandbox.id.clone(), Arc::clone(sandbox));
            return;
        }
        for dir in [&sandbox.dir, &sandbox.run_dir] {
            if let Err(error) = sys::fs::remove_tree(dir) {
                tracing::warn!(sandbox = sandbox.id, %error, "could not remove a sandbox's files");
            }
        }
    }

    /// Connects to the shim and hears it from now on.
    pub(super) fn connect<'a>(
        self: &'a Arc<Self>,
        sandbox: &'a Arc<Sandbox>,
    ) -> BoxFuture<'a, io::Result<()>> {
        // Boxed, since the end of a connection leads here again.
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(MAX_NOTICES);
            let (client, hello) = ShimClient::connect(&sandbox.run_dir, sender).await?;
            *sandbox.shim.lock() = Some(Arc::new(client));
            self.take_running(&hello.running);
            tokio::spawn(listen(Arc::clone(self), Arc::clone(sandbox), receiver));
            Ok(())
        })
    }

    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<(), CriError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _turn = sandbox.turn.lock().await;
        for container in self.containers_of(id) {
            self.kill(&container).await?;
        }
        let was_ready = sandbox.record.lock().ready;
        self.stop_parts(&sandbox).await?;
        if was_ready {
            self.announce(id, id, ContainerEventType::Stopped);
        }
        Ok(())
    }

    /// Network, shim, mounts. Repeatable.
    async fn stop_parts(&self, sandbox: &Arc<Sandbox>) -> Result<(), CriError> {
        let owes_network = sandbox.record.lock().network;
        if owes_network && let Some(request) = network_request(sandbox) {
            self.network.teardown(&request).await.map_err(|e| {
                let id = &sandbox.id;
                CriError::new(
                    e.code,
                    format!("failed to destroy network for sandbox {id:?}: {}", e.message),
                )
            })?;
        }
        sandbox.record.lock().network = false;
        sandbox.record.lock().ready = false;
        let shim = sandbox.shim.lock().take();
        if let Some(shim) = shim {
            // Gone already is what is wanted.
            let _ = shim.ask(Op::Stop, &[]).await;
        }
        let of_blocking = Arc::clone(sandbox);
        self.block(move || unmount(&of_blocking))
            .await?
            .map_err(|e| unknown("stop sandbox", &e))?;
        match sandbox.save() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(unknown("stop sandbox", &error))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        self.stop_sandbox(id).await?;
        for container in self.containers_of(id) {
            let container = container.record.lock().id.clone();
            self.remove_container_by_id(&container).await?;
        }
        let _turn = sandbox.turn.lock().await;
        let own_group = sandbox.record.lock().config.linux.cgroup_parent.is_empty();
        let group = own_group.then(|| self.hierarchies.plan_remove(&own_cgroup(id)));
        let of_blocking = Arc::clone(&sandbox);
        self.block(move || {
            if let Some(ops) = group {
                sys::cgroup::apply(&ops).map_err(io::Error::other)?;
            }
            sys::fs::remove_tree(&of_blocking.run_dir)?;
            sys::fs::remove_tree(&of_blocking.dir)
        })
        .await?
        .map_err(|e| unknown("remove sandbox", &e))?;
        self.sandboxes.lock().remove(id);
        self.announce(id, id, ContainerEventType::Deleted);
        Ok(())
    }

    pub(super) fn sandbox_status(&self, sandbox: &Sandbox) -> PodSandboxStatus {
        let record = sandbox.record.lock().clone();
        let options = record.config.linux.security_context.namespace_options.clone();
        PodSandboxStatus {
            ips: record.ips.clone(),
            namespaces: options,
            netns_path: record.netns.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
            sandbox: sandbox_summary(sandbox),
        }
    }
}

/// The cgroup of a sandbox whose caller made none.
pub(super) fn own_cgroup(id: &str) -> String {
    format!("/kubelith/{id}")
}

pub(super) fn sandbox_summary(sandbox: &Sandbox) -> PodSandbox {
    let ready = sandbox.is_ready();
    let record = sandbox.record.lock().clone();
    PodSandbox {
        id: record.id,
        metadata: record.config.metadata,
        state: if ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
        created_at: record.created_at,
        labels: record.config.labels,
        annotations: record.config.annotations,
        runtime_handler: record.handler,
    }
}

fn refuse_unsupported(config: &PodSandboxConfig, handler: &str) -> Result<(), CriError> {
    if !handler.is_empty() {
        return Err(CriError::invalid(format!(
            "failed to get sandbox runtime: no runtime for {handler:?} is configured"
        )));
    }
    let security = &config.linux.security_context;
    if security.namespace_options.userns_options.is_some() {
        return Err(CriError::unimplemented("user namespaces are not supported"));
    }
    if security.selinux_options.as_ref().is_some_and(|o| *o != cri::SelinuxOption::default()) {
        return Err(CriError::unimplemented("SELinux options are not supported"));
    }
    if config.hostname.len() > MAX_HOSTNAME_BYTES {
        let text = format!("host name {:?} is longer than 64 bytes", config.hostname);
        return Err(CriError::invalid(text));
    }
    Ok(())
}

fn network_request(sandbox: &Sandbox) -> Option<NetworkRequest> {
    let record = sandbox.record.lock();
    Some(NetworkRequest {
        sandbox_id: record.id.clone(),
        netns_path: record.netns.clone()?,
        metadata: record.config.metadata.clone(),
        port_mappings: record.config.port_mappings.clone(),
        annotations: record.config.annotations.clone(),
    })
}

fn write_files(sandbox: &Sandbox) -> io::Result<()> {
    fs::create_dir_all(&sandbox.dir)?;
    fs::create_dir_all(&sandbox.run_dir)?;
    sandbox.save()?;
    let record = sandbox.record.lock().clone();
    let config = &record.config;
    if !config.log_directory.is_empty() {
        fs::create_dir_all(&config.log_directory)?;
    }
    let options = &config.linux.security_context.namespace_options;
    let on_host_network = options.network == NamespaceMode::Node;
    let hostname = if on_host_network { String::new() } else { config.hostname.clone() };
    let shown = if hostname.is_empty() { host_name() } else { hostname.clone() };
    fs::write(sandbox.dir.join("hostname"), format!("{shown}\n"))?;
    fs::write(sandbox.dir.join("resolv.conf"), resolv_conf(config.dns_config.as_ref())?)?;
    let spec = SandboxSpec {
        id: record.id.clone(),
        hostname,
        netns: record.netns.clone(),
        own_ipc: options.ipc != NamespaceMode::Node,
        shared_pid: build::shares_pod_pids(options.pid),
        shm: record.shm.clone(),
        sysctls: config.linux.sysctls.clone(),
    };
    fs::write(sandbox.dir.join(SANDBOX_FILE), serde_json::to_vec(&spec)?)
}

pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// As other runtimes write it: search, name servers, options.
fn resolv_conf(dns: Option<&DnsConfig>) -> io::Result<String> {
    let Some(dns) = dns.filter(|dns| **dns != DnsConfig::default()) else {
        // The node may have none.
        return match fs::read_to_string("/etc/resolv.conf") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        };
    };
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    Ok(text)
}

fn unmount(sandbox: &Sandbox) -> io::Result<()> {
    let (netns, shm) = {
        let record = sandbox.record.lock();
        (record.netns.clone(), record.shm.clone())
    };
    if let Some(path) = netns {
        sys::namespace::unpin(&path)?;
    }
    shm.as_deref().map_or(Ok(()), |path: &Path| sys::mount::detach(path))
}

async fn listen(inner: Arc<Inner>, sandbox: Arc<Sandbox>, mut notices: mpsc::Receiver<Notice>) {
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::Exited { container, exit } => inner.take_exit(&container, exit),
            Notice::Oom { container } => {
                inner.announce(&container, &sandbox.id, ContainerEventType::OomKilled);
            }
            Notice::Gone => return inner.shim_gone(&sandbox).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolver_file_is_in_the_order_of_other_runtimes() {
        let list = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect();
        let dns = DnsConfig {
            servers: list(&["10.9.9.9", "::1"]),
            searches: list(&["q.x", "r.y"]),
            options: list(&["ndots:2"]),
        };
        assert_eq!(
            resolv_conf(Some(&dns)).unwrap(),
            "search q.x r.y\nnameserver 10.9.9.9\nnameserver ::1\noptions ndots:2\n"
        );
    }
}
