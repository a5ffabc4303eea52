//! Becoming a container: what a forked child of the shim does until it is the container's program.
//!
//! The shim is single-threaded, so the child may allocate and use files freely. Everything the child learns it
//! reports once over a socket that closes by itself when the program starts.

mod identity;
pub(crate) mod program;
mod rootfs;
mod terminal;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sys::cgroup;
use sys::fs::Root;
use sys::process::{self, CapabilitySets, FilterInstruction};

use crate::shim::wire;
use crate::spec::{CgroupSpec, Identity, LaunchSpec, PidMode, ProcessSpec};

/// What the child says before it becomes the program, or instead.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Report {
    /// Why it could not.
    pub error: Option<String>,
    /// Who it runs as.
    pub identity: Option<Identity>,
}

/// The descriptors that become 0, 1 and 2.
#[derive(Debug)]
pub(crate) struct Stdio {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// What an additional process of a running container is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ExecSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// It has a terminal.
    pub tty: bool,
    /// Who the container's first process runs as.
    pub identity: Identity,
}

/// The child of a start: never returns. `stdio` is `None` with a terminal.
pub(crate) fn container_child(spec_file: &Path, stdio: Option<Stdio>, report: &OwnedFd) -> ! {
    let Err(error) = become_container(spec_file, stdio, report);
    fail(report, error)
}

/// The child of an exec: never returns. It is in the container's process namespace already.
pub(crate) fn exec_child(
    spec_file: &Path,
    exec: ExecSpec,
    init: &OwnedFd,
    stdio: Option<Stdio>,
    report: &OwnedFd,
) -> ! {
    let Err(error) = become_exec(spec_file, exec, init, stdio, report);
    fail(report, error)
}

fn fail(report: &OwnedFd, error: String) -> ! {
    // Nobody is left to hear when this fails too: the shim sees the end of the socket.
    let _ = wire::send(report, &Report { error: Some(error), identity: None }, &[]);
    process::exit_now(255)
}

fn read_spec(path: &Path) -> Result<LaunchSpec, String> {
    let text = fs::read(path).map_err(|e| format!("read {}: {e}", path.display()))?;
    serde_json::from_slice(&text).map_err(|e| format!("decode {}: {e}", path.display()))
}

fn sure<T>(result: io::Result<T>, what: &str) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {}", program::os_text(&error)))
}

fn prepare_child() -> Result<(), String> {
    process::reset_signals();
    // Other processes of the container must not look into this one while it still holds the shim's memory.
    sure(process::set_dumpable(false), "set dumpable")?;
    sure(process::new_session(), "new session")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    Ok(())
}

fn become_container(
    spec_file: &Path,
    stdio: Option<Stdio>,
    report: &OwnedFd,
) -> Result<Infallible, String> {
    let spec = read_spec(spec_file)?;
    prepare_child()?;
    let cgroup = &spec.cgroup;
    let ops = cgroup.hierarchies.plan_create(&cgroup.path, &cgroup.limits);
    cgroup::apply(&ops).map_err(|e| in_words(&e))?;
    if let (cgroup::Version::V2, Some(rules)) = (cgroup.hierarchies.version, &cgroup.limits.devices)
        && let Some(dir) = cgroup.hierarchies.dir("", &cgroup.path)
    {
        sure(cgroup::limit_devices(&dir, rules), "limit devices")?;
    }
    // The last group, `cpu`, is joined after the work is done.
    let (last, first) = joins(cgroup);
    join(&first)?;
    adjust_oom_score(spec.process.oom_score_adj);
    if cgroup.hierarchies.version == cgroup::Version::V2 {
        sure(sys::namespace::unshare(libc::CLONE_NEWCGROUP), "unshare cgroup namespace")?;
    }
    let root = rootfs::build(&spec).map_err(|e| format!("error during container init: {e}"))?;
    let identity = identity::resolve(&root, &spec.process.user)?;
    let stdio = match stdio {
        Some(stdio) => {
            give_stdio(&stdio, identity.uid);
            stdio
        }
        None => {
            let stdio = terminal::open(&root, &identity, report)?;
            terminal::mount_console(&root, &stdio.stdin)?;
            stdio
        }
    };
    join(&last)?;
    rootfs::enter(&root, spec.root.readonly)?;
    drop(root);
    run(spec.process, identity, &stdio, report)
}

fn become_exec(
    spec_file: &Path,
    exec: ExecSpec,
    init: &OwnedFd,
    stdio: Option<Stdio>,
    report: &OwnedFd,
) -> Result<Infallible, String> {
    let mut spec = read_spec(spec_file)?;
    prepare_child()?;
    let (last, first) = joins(&spec.cgroup);
    join(&first)?;
    join(&last)?;
    adjust_oom_score(spec.process.oom_score_adj);
    let mut kinds = libc::CLONE_NEWNS;
    if spec.cgroup.hierarchies.version == cgroup::Version::V2 {
        kinds |= libc::CLONE_NEWCGROUP;
    }
    sure(sys::namespace::enter(init, kinds), "enter the container")?;
    let stdio = match stdio {
        Some(stdio) => {
            give_stdio(&stdio, exec.identity.uid);
            stdio
        }
        None => {
            let root = sure(Root::open(Path::new("/")), "open /")?;
            terminal::open(&root, &exec.identity, report)?
        }
    };
    spec.process.args = exec.args;
    if exec.tty && !spec.process.env.iter().any(|e| e.starts_with("TERM=")) {
        spec.process.env.push("TERM=xterm".into());
    }
    run(spec.process, exec.identity, &stdio, report)
}

/// A cgroup failure in the words users know, where there are such.
fn in_words(error: &cgroup::CgroupError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if source.is_empty() {
        error.to_string()
    } else {
        format!("unable to apply cgroup configuration: {error}")
    }
}

/// The files to join the groups by: the last one apart.
fn joins(cgroup: &CgroupSpec) -> (Vec<std::path::PathBuf>, Vec<std::path::PathBuf>) {
    let mut first: Vec<_> = cgroup
        .hierarchies
        .dirs(&cgroup.path)
        .into_iter()
        .map(|dir| dir.join(cgroup.hierarchies.join_file()))
        .collect();
    let last = first.pop().into_iter().collect();
    (last, first)
}

fn join(files: &[std::path::PathBuf]) -> Result<(), String> {
    files
        .iter()
        .try_for_each(|file| sure(fs::write(file, "0"), &format!("join {}", file.display())))
}

fn adjust_oom_score(score: Option<i32>) {
    if let Some(score) = score {
        // A kernel that refuses a lower score, for want of CAP_SYS_RESOURCE, must not fail a pod.
        let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
    }
}

/// A program that opens `/dev/stderr` anew needs to own it.
fn give_stdio(stdio: &Stdio, uid: u32) {
    for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr] {
        let is_pipe = sys::fs::file_type(fd).is_ok_and(|t| t == rustix::fs::FileType::Fifo);
        if is_pipe {
            let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
        }
    }
}

fn run(
    process: ProcessSpec,
    identity: Identity,
    stdio: &Stdio,
    report: &OwnedFd,
) -> Result<Infallible, String> {
    let mut env = process.env;
    if !env.iter().any(|e| e.starts_with("HOME=") && e.len() > 5) {
        env.retain(|e| e != "HOME=");
        env.push(format!("HOME={}", identity.home));
    }
    let filters = process.seccomp.iter().map(|f| filter(f)).collect::<Result<Vec<_>, _>>()?;
    take_stdio(stdio)?;
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    sure(rustix::process::chdir(cwd).map_err(Into::into), &format!("chdir to cwd ({cwd:?})"))?;
    sure(process::limit_bounding_set(process.capabilities), "limit capabilities")?;
    if !process.no_new_privs {
        // Installing a filter takes CAP_SYS_ADMIN unless gaining privileges is given up.
        install(&filters)?;
    }
    sure(process::keep_capabilities(true), "keep capabilities")?;
    sure(process::set_ids(identity.uid, identity.gid, &identity.groups), "set user")?;
    let bits = process.capabilities;
    let inheritable = process.ambient;
    let sets = CapabilitySets { effective: bits, permitted: bits, inheritable };
    sure(process::set_capabilities(sets), "set capabilities")?;
    for capability in (0..64_u8).filter(|c| process.ambient & (1 << c) != 0) {
        sure(process::raise_ambient(capability), "raise ambient capability")?;
    }
    let program = process.args.first().ok_or("no command specified")?;
    let path = program::find(program, &env)?;
    let args = program::c_strings(&process.args)?;
    let environment = program::c_strings(&env)?;
    let path = program::c_strings(&[path.display().to_string()])?.remove(0);
    let said = Report { error: None, identity: Some(identity) };
    sure(wire::send(report, &said, &[]), "report")?;
    sure(process::close_on_exec_from(3), "close descriptors")?;
    if process.no_new_privs {
        sure(process::set_no_new_privs(), "set no_new_privs")?;
        install(&filters)?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let error = process::exec(&path, &args, &environment);
    // The container counts as started by now; the reason is in its log, as with other runtimes.
    let text = format!("exec {}: {}\n", path.to_string_lossy(), program::os_text(&error));
    let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    process::exit_now(255)
}

fn take_stdio(stdio: &Stdio) -> Result<(), String> {
    let done = rustix::stdio::dup2_stdin(stdio.stdin.as_fd())
        .and_then(|()| rustix::stdio::dup2_stdout(stdio.stdout.as_fd()))
        .and_then(|()| rustix::stdio::dup2_stderr(stdio.stderr.as_fd()));
    sure(done.map_err(Into::into), "take standard descriptors")
}

fn install(filters: &[Vec<FilterInstruction>]) -> Result<(), String> {
    filters.iter().try_for_each(|filter| sure(process::install_filter(filter), "seccomp"))
}

fn filter(encoded: &str) -> Result<Vec<FilterInstruction>, String> {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .map_err(|e| format!("decode seccomp filter: {e}"))?;
    let (chunks, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err("decode seccomp filter: it has a broken end".into());
    }
    Ok(chunks
        .iter()
        .map(|c| FilterInstruction {
            code: u16::from_le_bytes([c[0], c[1]]),
            jt: c[2],
            jf: c[3],
            k: u32::from_le_bytes([c[4], c[5], c[6], c[7]]),
        })
        .collect())
}

/// The new namespaces of a container's first process; the others are the shim's.
pub(crate) fn namespaces(pid: PidMode) -> i32 {
    match pid {
        PidMode::Own => libc::CLONE_NEWNS | libc::CLONE_NEWPID,
        PidMode::Pod | PidMode::Node | PidMode::Target(_) => libc::CLONE_NEWNS,
    }
}
