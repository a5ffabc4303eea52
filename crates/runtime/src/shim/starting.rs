//! Starting a process: what is made before the fork, and the fork itself.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use sys::namespace;
use sys::process::{self, Child, CloneRequest};

use super::container::{Container, Output};
use super::log::{LogFile, Stream};
use super::protocol::Start;
use super::sandbox::Sandbox;
use super::wire;
use crate::launch::{self, ExecSpec, Stdio};
use crate::spec::{CONTAINER_FILE, PidMode};

/// A child that has not become its program yet.
#[derive(Debug)]
pub(super) struct Begun {
    /// What it says.
    pub(super) report: OwnedFd,
    /// It.
    pub(super) child: Child,
}

/// Forks the first process of a container.
pub(super) fn container(sandbox: &Sandbox, start: Start) -> io::Result<(Container, OwnedFd)> {
    let log = start.log.clone().map(LogFile::open).transpose()?;
    let (ours, theirs) = wire::pair()?;
    let mut outputs = Vec::new();
    let mut input = None;
    let stdio = if start.tty {
        None
    } else {
        let (out_read, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (err_read, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
        outputs.push(Output::new(out_read, Stream::Stdout)?);
        outputs.push(Output::new(err_read, Stream::Stderr)?);
        let stdin = if start.stdin {
            let (stdin, write) = pipe_with(PipeFlags::CLOEXEC)?;
            input = Some(write);
            stdin
        } else {
            null()?
        };
        Some(Stdio { stdin, stdout, stderr })
    };
    let pid_namespace = match start.pid_mode {
        PidMode::Own | PidMode::Node => None,
        PidMode::Pod => {
            let pod = sandbox
                .pod_pid
                .as_ref()
                .ok_or_else(|| io::Error::other("the sandbox does not share process ids"))?;
            Some(pod.try_clone()?)
        }
        PidMode::Target(pid) => Some(namespace::open(&pid.to_string(), "pid")?),
    };
    let kinds = launch::namespaces(start.pid_mode);
    let forked = fork(sandbox, pid_namespace.as_ref(), kinds)?;
    let Some(child) = forked else {
        drop(ours);
        launch::container_child(&start.bundle.join(CONTAINER_FILE), stdio, &theirs)
    };
    drop(stdio);
    let container = Container::new(start, (child.pid, child.pidfd), outputs, input, log);
    Ok((container, ours))
}

/// Forks another process of a running container.
pub(super) fn exec(
    sandbox: &Sandbox,
    container: &Container,
    spec: ExecSpec,
    stdio: Option<Stdio>,
) -> io::Result<Begun> {
    let (ours, theirs) = wire::pair()?;
    let pid = namespace::open(&container.pid.to_string(), "pid")?;
    let forked = fork(sandbox, Some(&pid), 0)?;
    let Some(child) = forked else {
        drop(ours);
        let file = container.start.bundle.join(CONTAINER_FILE);
        launch::exec_child(&file, spec, &container.pidfd, stdio, &theirs)
    };
    Ok(Begun { report: ours, child })
}

/// Forks into a process namespace: only children are put there, and the next ones are not.
fn fork(
    sandbox: &Sandbox,
    pid_namespace: Option<&OwnedFd>,
    kinds: i32,
) -> io::Result<Option<Child>> {
    if let Some(namespace) = pid_namespace {
        namespace::enter(namespace, libc::CLONE_NEWPID)?;
    }
    let request = CloneRequest { namespaces: kinds, into_cgroup: None };
    // SAFETY: a shim has one thread.
    let forked = unsafe { process::clone_process(&request) };
    if pid_namespace.is_some() && !matches!(forked, Ok(None)) {
        namespace::enter(&sandbox.host_pid, libc::CLONE_NEWPID)?;
    }
    forked
}

/// Reads as empty, takes anything.
pub(super) fn null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}
