//! The life of containers.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri::{
    Container as Summary, ContainerConfig, ContainerEventType, ContainerStatus, ContainerUser,
    CriError, LinuxContainerResources, NamespaceMode,
};

use super::sandboxes::{host_name, own_cgroup};
use super::state::{
    CONTAINER_RECORD, Container, ContainerRecord, Phase, STARTED_FILE, Sandbox, Started, save,
};
use super::{Inner, build, unknown};
use crate::images::Record;
use crate::shim::protocol::{Op, Running, Start};
use crate::spec::{CONTAINER_FILE, EXIT_FILE, ExitRecord, PidMode, RootSpec};

/// What stands before a reason why a program did not start: users know it so.
const START_FAILED: &str = "failed to create containerd task: failed to create shim task: \
    OCI runtime create failed: runc create failed: unable to start container process: ";
/// A container that never ran ends with this.
const NEVER_RAN: i32 = 128;
/// A container whose end nobody saw ends with this.
const UNSEEN: i32 = 255;
/// How a shim names a container that has ended.
const NOT_RUNNING: &str = "is not running";
/// How long the news of an end may take from a shim.
const NEWS: Duration = Duration::from_secs(5);
/// How often, and how long, killed processes are waited for before their group is removed.
const REMOVE_LOOKS: u32 = 1000;
const REMOVE_LOOK_NS: i64 = 2_000_000;

impl Inner {
    pub(super) async fn create(
        self: &Arc<Self>,
        sandbox_id: &str,
        config: &ContainerConfig,
    ) -> Result<String, CriError> {
        let sandbox = self.sandbox(sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(CriError::unknown(format!("sandbox {sandbox_id} is not ready")));
        }
        // No layer goes away between the look-up of the image and the container's record.
        let _layers = self.layers.read().await;
        let image = self.store.find(&config.image.image).ok_or_else(|| {
            CriError::not_found(format!(
                "failed to resolve image {:?}: not found",
                config.image.image
            ))
        })?;
        let id = self.new_id();
        let record = self.new_record(&id, &sandbox, config, &image)?;
        let dir = self.root_dir.join("containers").join(&id);
        let container = Arc::new(Container::new(dir, record, Phase::Created));
        let (inner, of_blocking) = (Arc::clone(self), Arc::clone(&container));
        let written =
            self.block(move || inner.write_container(&of_blocking, &sandbox, &image)).await?;
        if let Err(error) = written {
            if let Err(left) = sys::fs::remove_tree(&container.dir) {
                tracing::warn!(%left, container = id, "could not remove a container's files");
            }
            return Err(error);
        }
        self.containers.lock().insert(id.clone(), container);
        self.announce(&id, sandbox_id, ContainerEventType::Created);
        Ok(id)
    }

    fn new_record(
        &self,
        id: &str,
        sandbox: &Sandbox,
        config: &ContainerConfig,
        image: &Record,
    ) -> Result<ContainerRecord, CriError> {
        let sandbox_config = sandbox.record.lock().config.clone();
        let parent = sandbox_config.linux.cgroup_parent.trim_end_matches('/');
        let parent = if parent.is_empty() { own_cgroup(&sandbox.id) } else { parent.to_owned() };
        let log = (!config.log_path.is_empty())
            .then(|| PathBuf::from(&sandbox_config.log_directory).join(&config.log_path));
        let options = &config.linux.security_context.namespace_options;
        let pid_mode = match options.pid {
            NamespaceMode::Container => PidMode::Own,
            NamespaceMode::Pod => PidMode::Pod,
            NamespaceMode::Node => PidMode::Node,
            NamespaceMode::Target => {
                let target = self.container(&options.target_id)?;
                let running = target.running().ok_or_else(|| {
                    CriError::precondition(format!(
                        "container {} is not running",
                        options.target_id
                    ))
                })?;
                PidMode::Target(running.pid)
            }
        };
        let stop_signal = [&config.stop_signal, &image.image.config.stop_signal]
            .into_iter()
            .find(|s| !s.is_empty())
            .map_or("SIGTERM", |s| s);
        signal_number(stop_signal)?;
        Ok(ContainerRecord {
            id: id.to_owned(),
            sandbox: sandbox.id.clone(),
            config: config.clone(),
            created_at: self.now(),
            image_id: image.image.id.clone(),
            image_name: image.image.repo_tags.first().unwrap_or(&image.image.id).clone(),
            image_ref: image.image.repo_digests.first().unwrap_or(&image.image.id).clone(),
            layers: image.layers.clone(),
            log,
            cgroup: format!("{parent}/{id}"),
            stop_signal: stop_signal.to_owned(),
            pid_mode,
        })
    }

    fn write_container(
        &self,
        container: &Container,
        sandbox: &Sandbox,
        image: &Record,
    ) -> Result<(), CriError> {
        let record = container.record.lock().clone();
        let (sandbox_config, shm) = {
            let sandbox = sandbox.record.lock();
            (sandbox.config.clone(), sandbox.shm.clone())
        };
        let volumes = self.image_volumes(&record.config)?;
        let mut layers = record.layers.clone();
        layers.extend(volumes.iter().flat_map(|(_, lower)| lower.clone()));
        container.record.lock().layers = layers;
        let dir = &container.dir;
        let hostname = Some(sandbox_config.hostname.clone())
            .filter(|h| !h.is_empty())
            .unwrap_or_else(host_name);
        let spec = build::launch_spec(&build::Parts {
            id: &record.id,
            config: &record.config,
            image: &image.image.config,
            root: RootSpec {
                layers_dir: self.store.layers_dir(),
                lower: image.lower(),
                upper: dir.join("upper"),
                work: dir.join("work"),
                target: dir.join("rootfs"),
                readonly: false,
            },
            cgroup: record.cgroup.clone(),
            hierarchies: &self.hierarchies,
            sandbox_dir: &sandbox.dir,
            shm: shm.unwrap_or_else(|| PathBuf::from("/dev/shm")),
            hostname: &hostname,
            available: self.available,
            volumes: volumes.clone(),
        })?;
        let io = |e: io::Error| unknown("create container", &e);
        for name in ["upper", "work", "rootfs"] {
            fs::create_dir_all(dir.join(name)).map_err(io)?;
        }
        for index in 0..volumes.len() {
            fs::create_dir_all(dir.join(format!("image-{index}"))).map_err(io)?;
        }
        for mount in record.config.mounts.iter().filter(|m| m.image.is_none()) {
            if !fs::exists(&mount.host_path).map_err(io)? {
                fs::create_dir_all(&mount.host_path)
                    .map_err(|e| unknown(&format!("failed to mkdir {:?}", mount.host_path), &e))?;
            }
        }
        let text = serde_json::to_vec(&spec).map_err(|e| io(e.into()))?;
        fs::write(dir.join(CONTAINER_FILE), text).map_err(io)?;
        save(&dir.join(CONTAINER_RECORD), &*container.record.lock()).map_err(io)
    }

    /// The layers of each image volume, the uppermost first.
    fn image_volumes(
        &self,
        config: &ContainerConfig,
    ) -> Result<Vec<(String, Vec<String>)>, CriError> {
        let images = config.mounts.iter().filter_map(|m| m.image.as_ref().map(|i| (m, i)));
        images
            .map(|(mount, image)| {
                let found = self.store.find(&image.image).ok_or_else(|| {
                    CriError::not_found(format!("image {:?} is not here", image.image))
                })?;
                Ok((mount.container_path.clone(), found.lower()))
            })
            .collect()
    }

    pub(super) async fn start(&self, id: &str) -> Result<(), CriError> {
        let container = self.container(id)?;
        let _turn = container.turn.lock().await;
        if !matches!(*container.phase.lock(), Phase::Created) {
            let text = format!("container {id:?} is not in created state");
            return Err(CriError::precondition(text));
        }
        let record = container.record.lock().clone();
        let sandbox = self.sandbox(&record.sandbox)?;
        let shim = sandbox.shim.lock().clone();
        let shim = shim.ok_or_else(|| {
            CriError::precondition(format!("sandbox {} is not ready", record.sandbox))
        })?;
        if let Some(parent) = record.log.as_ref().and_then(|log| log.parent()) {
            fs::create_dir_all(parent).map_err(|e| unknown("make log directory", &e))?;
        }
        let op = Op::Start(self.start_request(&container.dir, &record));
        let (reply, _) = match shim.ask(op, &[]).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.never_ran(&container, &error)),
        };
        let started = Started {
            pid: reply.pid,
            started_at: reply.started_at,
            identity: reply.identity.unwrap_or_default(),
        };
        save(&container.dir.join(STARTED_FILE), &started)
            .map_err(|e| unknown("note the start", &e))?;
        container.set_running(started);
        self.announce(id, &record.sandbox, ContainerEventType::Started);
        if container.exit_code().is_some() {
            // It was over before its start was known: in this order for those who listen.
            self.announce(id, &record.sandbox, ContainerEventType::Stopped);
        }
        Ok(())
    }

    fn start_request(&self, dir: &std::path::Path, record: &ContainerRecord) -> Start {
        Start {
            container: record.id.clone(),
            bundle: dir.to_owned(),
            pid_mode: record.pid_mode,
            tty: record.config.tty,
            stdin: record.config.stdin,
            stdin_once: record.config.stdin_once,
            log: record.log.clone(),
            kill_dir: self.hierarchies.dirs(&record.cgroup).into_iter().next().unwrap_or_default(),
            memory_dir: self.hierarchies.dir("memory", &record.cgroup),
            cgroup_v2: self.hierarchies.version == sys::cgroup::Version::V2,
        }
    }

    /// The container counts as ended, with the reason as its message.
    fn never_ran(&self, container: &Container, error: &CriError) -> CriError {
        let message = format!("{START_FAILED}{}: unknown", error.message);
        let exit = ExitRecord {
            exit_code: NEVER_RAN,
            finished_at: self.now(),
            start_error: Some(message.clone()),
            ..ExitRecord::default()
        };
        if let Err(error) = save(&container.dir.join(EXIT_FILE), &exit) {
            tracing::warn!(%error, "could not store why a container did not start");
        }
        container.set_exited(exit);
        let (id, sandbox) = {
            let record = container.record.lock();
            (record.id.clone(), record.sandbox.clone())
        };
        self.announce(&id, &sandbox, ContainerEventType::Stopped);
        CriError::unknown(message)
    }

    /// What a shim said runs.
    pub(super) fn take_running(&self, running: &[Running]) {
        for running in running {
            if let Ok(container) = self.container(&running.container) {
                container.set_running(Started {
                    pid: running.pid,
                    started_at: running.started_at,
                    identity: running.identity.clone(),
                });
            }
        }
    }

    /// A container ended.
    pub(super) fn take_exit(&self, id: &str, exit: ExitRecord) {
        let Ok(container) = self.container(id) else { return };
        let started = container.running().is_some();
        if container.set_exited(exit) && started {
            self.announce(id, &container.sandbox_id(), ContainerEventType::Stopped);
        }
    }

    /// The connection to a shim ended: it is asked again, and when there is none, its containers are over.
    pub(super) async fn shim_gone(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let expected = sandbox.shim.lock().take().is_none();
        if !expected && self.connect(sandbox).await.is_ok() {
            return;
        }
        for container in self.containers_of(&sandbox.id) {
            let Some(_running) = container.running() else { continue };
            // Nobody keeps its log or sees its end any more: it is not left running.
            self.kill_orphans(&container);
            let id = container.record.lock().id.clone();
            self.take_exit(&id, stored_or_unseen(&container, self.now()));
        }
        if !expected {
            tracing::warn!(sandbox = sandbox.id, "the shim of a sandbox is gone");
            self.announce(&sandbox.id, &sandbox.id, ContainerEventType::Stopped);
        }
    }

    /// Kills what is in a container's group, for containers that no shim answers for.
    pub(super) fn kill_orphans(&self, container: &Container) {
        let cgroup = container.record.lock().cgroup.clone();
        let dir = self.hierarchies.dirs(&cgroup).into_iter().next();
        if let Some(Err(error)) = dir.map(|dir| sys::cgroup::kill_all(&dir)) {
            tracing::warn!(cgroup, %error, "could not kill what is left of a container");
        }
    }

    pub(super) async fn stop(&self, id: &str, timeout: Duration) -> Result<(), CriError> {
        let container = self.container(id)?;
        if container.running().is_none() {
            return Ok(());
        }
        let signal = signal_number(&container.record.lock().stop_signal.clone())?;
        if !timeout.is_zero() {
            self.signal(&container, signal, false).await?;
            if tokio::time::timeout(timeout, container.ended()).await.is_ok() {
                return Ok(());
            }
        }
        self.kill(&container).await
    }

    /// Kills every process and waits until the container is over.
    pub(super) async fn kill(&self, container: &Container) -> Result<(), CriError> {
        while container.running().is_some() {
            self.signal(container, libc::SIGKILL, true).await?;
            // A process may have been forked beside the killing: again, until the end is known.
            if tokio::time::timeout(Duration::from_secs(2), container.ended()).await.is_ok() {
                break;
            }
        }
        Ok(())
    }

    async fn signal(&self, container: &Container, signal: i32, all: bool) -> Result<(), CriError> {
        let (id, sandbox) = {
            let record = container.record.lock();
            (record.id.clone(), record.sandbox.clone())
        };
        let shim = self.sandbox(&sandbox)?.shim.lock().clone();
        let Some(shim) = shim else { return Ok(()) };
        match shim.ask(Op::Signal { container: id, signal, all }, &[]).await {
            // It ended meanwhile.
            Err(_) if container.running().is_none() => Ok(()),
            // The shim saw its end, and the news is on its way.
            Err(error) if error.message.contains(NOT_RUNNING) => {
                tokio::time::timeout(NEWS, container.ended()).await.map_err(|_| error)
            }
            other => other.map(drop),
        }
    }

    pub(super) async fn remove_container_by_id(&self, id: &str) -> Result<(), CriError> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let _turn = container.turn.lock().await;
        self.kill(&container).await?;
        let cgroup = container.record.lock().cgroup.clone();
        let ops = self.hierarchies.plan_remove(&cgroup);
        let dir = container.dir.clone();
        self.kill_orphans(&container);
        self.block(move || {
            remove_cgroup(&ops)?;
            sys::fs::remove_tree(&dir)
        })
        .await?
        .map_err(|e| unknown("remove container", &e))?;
        self.containers.lock().remove(id);
        self.announce(id, &container.sandbox_id(), ContainerEventType::Deleted);
        Ok(())
    }

    pub(super) async fn update(
        &self,
        id: &str,
        resources: &LinuxContainerResources,
    ) -> Result<(), CriError> {
        let container = self.container(id)?;
        let cgroup = container.record.lock().cgroup.clone();
        let ops = self.hierarchies.plan_limits(&cgroup, &build::limits(resources));
        if container.running().is_some() {
            self.block(move || sys::cgroup::apply(&ops))
                .await?
                .map_err(|e| unknown("update resources", &e))?;
        }
        let record = {
            let mut record = container.record.lock();
            merge(&mut record.config.linux.resources, resources);
            record.clone()
        };
        let io = |e: io::Error| unknown("update resources", &e);
        save(&container.dir.join(CONTAINER_RECORD), &record).map_err(io)?;
        if matches!(*container.phase.lock(), Phase::Created) {
            // It will be started with them.
            let path = container.dir.join(CONTAINER_FILE);
            let text = fs::read(&path).map_err(io)?;
            let mut spec: crate::spec::LaunchSpec =
                serde_json::from_slice(&text).map_err(|e| io(e.into()))?;
            let devices = spec.cgroup.limits.devices.take();
            let oom_group = spec.cgroup.limits.oom_group;
            spec.cgroup.limits = build::limits(&record.config.linux.resources);
            spec.cgroup.limits.devices = devices;
            spec.cgroup.limits.oom_group = oom_group;
            save(&path, &spec).map_err(io)?;
        }
        Ok(())
    }

    pub(super) fn container_status_of(&self, container: &Container) -> ContainerStatus {
        let record = container.record.lock().clone();
        let phase = container.phase.lock().clone();
        let mut status = ContainerStatus {
            container: summary(&record, &phase),
            image_name: record.image_name,
            image_ref: record.image_ref,
            mounts: record.config.mounts,
            log_path: record.log.map(|p| p.display().to_string()).unwrap_or_default(),
            resources: record.config.linux.resources,
            stop_signal: record.stop_signal,
            ..ContainerStatus::default()
        };
        let started = match &phase {
            Phase::Created => None,
            Phase::Running(started) => {
                status.pid = u32::try_from(started.pid).ok();
                Some(started)
            }
            Phase::Exited { started, exit } => {
                status.exit_code = exit.exit_code;
                status.finished_at = exit.finished_at;
                (status.reason, status.message) = reason(exit);
                started.as_ref()
            }
        };
        if let Some(started) = started {
            status.started_at = started.started_at;
            let identity = &started.identity;
            status.user = Some(ContainerUser {
                uid: identity.uid.into(),
                gid: identity.gid.into(),
                supplemental_groups: identity.groups.iter().map(|g| i64::from(*g)).collect(),
            });
        }
        status
    }
}

/// Removes a group whose processes were killed: they may still be on their way out, and version 1 does not tell
/// when they are.
fn remove_cgroup(ops: &[sys::cgroup::Op]) -> io::Result<()> {
    let mut left = REMOVE_LOOKS;
    loop {
        match sys::cgroup::apply(ops) {
            Ok(()) => return Ok(()),
            Err(error) if error.is_busy() && left > 0 => left -= 1,
            Err(error) => return Err(io::Error::other(error)),
        }
        let pause = rustix::thread::Timespec { tv_sec: 0, tv_nsec: REMOVE_LOOK_NS };
        // Interrupted early is looked at early.
        let _ = rustix::thread::nanosleep(&pause);
    }
}

/// How it ended by its file; when there is none, nobody saw it.
pub(super) fn stored_or_unseen(container: &Container, now: i64) -> ExitRecord {
    super::state::load(&container.dir.join(EXIT_FILE)).unwrap_or(ExitRecord {
        exit_code: UNSEEN,
        finished_at: now,
        unseen: true,
        ..ExitRecord::default()
    })
}

pub(super) fn summary(record: &ContainerRecord, phase: &Phase) -> Summary {
    Summary {
        id: record.id.clone(),
        pod_sandbox_id: record.sandbox.clone(),
        metadata: record.config.metadata.clone(),
        image: record.config.image.clone(),
        image_id: record.image_id.clone(),
        state: phase.state(),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
    }
}

fn reason(exit: &ExitRecord) -> (String, String) {
    if let Some(error) = &exit.start_error {
        return ("StartError".into(), error.clone());
    }
    let reason = match exit {
        ExitRecord { unseen: true, .. } => "Unknown",
        ExitRecord { oom_killed: true, .. } => "OOMKilled",
        ExitRecord { exit_code: 0, .. } => "Completed",
        _ => "Error",
    };
    (reason.into(), String::new())
}

/// What is given replaces what was.
fn merge(into: &mut LinuxContainerResources, from: &LinuxContainerResources) {
    let number = |into: &mut i64, from: i64| {
        if from != 0 {
            *into = from;
        }
    };
    number(&mut into.cpu_period, from.cpu_period);
    number(&mut into.cpu_quota, from.cpu_quota);
    number(&mut into.cpu_shares, from.cpu_shares);
    number(&mut into.memory_limit_in_bytes, from.memory_limit_in_bytes);
    number(&mut into.memory_swap_limit_in_bytes, from.memory_swap_limit_in_bytes);
    number(&mut into.pids_limit, from.pids_limit);
    number(&mut into.oom_score_adj, from.oom_score_adj);
    if !from.cpuset_cpus.is_empty() {
        into.cpuset_cpus.clone_from(&from.cpuset_cpus);
    }
    if !from.cpuset_mems.is_empty() {
        into.cpuset_mems.clone_from(&from.cpuset_mems);
    }
    if !from.hugepage_limits.is_empty() {
        into.hugepage_limits.clone_from(&from.hugepage_limits);
    }
    into.unified.extend(from.unified.clone());
}

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The number of `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3`.
fn signal_number(name: &str) -> Result<i32, CriError> {
    let bad = || CriError::invalid(format!("failed to parse stop signal {name:?}"));
    if let Ok(number) = name.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = SIGNALS.iter().position(|s| *s == bare) {
        return i32::try_from(index + 1).map_err(|_| bad());
    }
    let real_time = match (bare.strip_prefix("RTMIN"), bare.strip_prefix("RTMAX")) {
        (Some(""), _) => Some(34),
        (_, Some("")) => Some(64),
        (Some(more), _) => {
            more.strip_prefix('+').and_then(|n| n.parse::<i32>().ok()).map(|n| 34 + n)
        }
        (_, Some(less)) => {
            less.strip_prefix('-').and_then(|n| n.parse::<i32>().ok()).map(|n| 64 - n)
        }
        _ => None,
    };
    real_time.filter(|n| (34..=64).contains(n)).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (name, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("SIGUSR1", 10),
            ("9", 9),
            ("SIGSYS", 31),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(signal_number(name).unwrap(), number, "{name}");
        }
        for name in ["", "SIGNOPE", "0", "65", "SIGRTMIN+31"] {
            signal_number(name).unwrap_err();
        }
    }

    #[test]
    fn an_end_has_the_reason_that_users_know() {
        let exit =
            |exit_code, oom_killed| ExitRecord { exit_code, oom_killed, ..Default::default() };
        for (exit, expected) in [
            (exit(0, false), "Completed"),
            (exit(137, false), "Error"),
            (exit(137, true), "OOMKilled"),
            (ExitRecord { unseen: true, ..exit(255, false) }, "Unknown"),
            (ExitRecord { start_error: Some("x".into()), ..exit(128, false) }, "StartError"),
        ] {
            assert_eq!(reason(&exit).0, expected);
        }
    }
}
