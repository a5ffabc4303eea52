//! Control groups, version 1, 2 and the hybrid of both, behind one interface.
//!
//! What is to be done is planned first as plain data ([`plan`]), from the layout of the hierarchies only, so that
//! each version is tested on any machine. Knows nothing of pods.

mod devices;
mod layout;
pub mod plan;
mod stats;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

pub use devices::limit_devices;
pub use layout::{Hierarchies, Version};
pub use plan::{DeviceRule, Limits, Op};
pub use stats::{Memory, Stats, oom_kills};

/// How often a kill looks for processes that were forked meanwhile. Each round takes all it sees.
const KILL_ROUNDS: usize = 1024;

/// What could not be done, to which file.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} {}: {source}", path.display())]
pub struct CgroupError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl CgroupError {
    fn new(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self { what, path: path.to_owned(), source }
    }

    /// Whether processes are in the way.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.source.raw_os_error() == Some(libc::EBUSY)
    }

    /// What the kernel said.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Does what was planned, in order.
///
/// # Errors
/// At the first step that fails and is not optional.
pub fn apply(ops: &[Op]) -> Result<(), CgroupError> {
    ops.iter().try_for_each(apply_one)
}

fn apply_one(op: &Op) -> Result<(), CgroupError> {
    match op {
        Op::MakeDir(path) => match fs::create_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(CgroupError::new("make", path, e))
            }
            _ => Ok(()),
        },
        Op::Write { path, value, optional } => match write_value(path, value) {
            Err(e) if !(*optional && is_absent(&e)) => Err(CgroupError::new("write", path, e)),
            _ => Ok(()),
        },
        Op::Inherit { path, name } => {
            inherit(path, name).map_err(|e| CgroupError::new("fill", &path.join(name), e))
        }
        Op::RemoveDir(path) => match remove_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(CgroupError::new("remove", path, e))
            }
            _ => Ok(()),
        },
    }
}

/// Missing, or of a controller that is not enabled here.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EOPNOTSUPP)
}

/// Writes without creating: a missing file is an absent controller, not a file to make.
fn write_value(path: &Path, value: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

/// A cpuset of version 1 starts empty, and an empty one takes no process.
fn inherit(path: &Path, name: &str) -> io::Result<()> {
    let own = path.join(name);
    if !fs::read_to_string(&own)?.trim().is_empty() {
        return Ok(());
    }
    let Some(parent) = path.parent() else { return Ok(()) };
    write_value(&own, fs::read_to_string(parent.join(name))?.trim())
}

/// Removes a cgroup and those below it. They must be empty of processes.
fn remove_dir(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_dir(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The processes of the group and of those below it.
///
/// # Errors
/// When the files cannot be read; no such group is no processes.
pub fn processes(dir: &Path) -> io::Result<Vec<i32>> {
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let mut pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            pids.extend(processes(&entry.path())?);
        }
    }
    Ok(pids)
}

/// Kills every process of the group: with `cgroup.kill` where there is one, else round by round.
///
/// # Errors
/// When processes can be seen and not killed, or keep appearing.
pub fn kill_all(dir: &Path) -> io::Result<()> {
    if write_value(&dir.join("cgroup.kill"), "1").is_ok() {
        return Ok(());
    }
    // One that was killed forks no more, so a round that sees nobody new has seen everybody.
    let mut killed = std::collections::BTreeSet::new();
    for _ in 0..KILL_ROUNDS {
        let new: Vec<i32> = processes(dir)?.into_iter().filter(|pid| killed.insert(*pid)).collect();
        if new.is_empty() {
            return Ok(());
        }
        // Zero is a process that cannot be seen from here.
        for pid in new.into_iter().filter(|pid| *pid > 0) {
            // Gone in between is what is wanted.
            if let Err(error) = crate::process::kill(pid, libc::SIGKILL)
                && error.raw_os_error() != Some(libc::ESRCH)
            {
                return Err(error);
            }
        }
    }
    Err(io::Error::other("processes keep appearing"))
}

/// A descriptor that becomes readable when the OOM killer strikes in a version 1 memory group. It also becomes
/// readable when the group is removed.
///
/// # Errors
/// When the group is not there.
pub fn watch_oom_v1(memory_dir: &Path) -> io::Result<OwnedFd> {
    // SAFETY: plain integers; the descriptor is ours alone.
    let event = unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let control = File::open(memory_dir.join("memory.oom_control"))?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    write_value(&memory_dir.join("cgroup.event_control"), &line)?;
    Ok(event)
}

/// The same for version 2, where a file changes.
///
/// # Errors
/// When the group is not there.
pub fn watch_oom_v2(dir: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::inotify;
    let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&fd, dir.join("memory.events"), inotify::WatchFlags::MODIFY)?;
    Ok(fd)
}
