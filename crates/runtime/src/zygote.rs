//! The zygote: a small single-threaded process of the same binary, from which shims are forked.
//!
//! Forking the node agent would copy the page tables of all its memory, and starting the binary anew for each
//! shim would dirty its relocations each time; a fork of this process shares them. It ends with the agent; its
//! shims do not.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use serde::{Deserialize, Serialize};
use sys::cgroup::{self, Hierarchies, Limits};
use sys::process::{self, CloneRequest};

use crate::shim::{self, Birth, wire};

/// The last argument of a zygote whose binary cannot be written through `/proc/PID/exe`.
const SEALED: &str = "sealed";

/// What an agent asks of its zygote.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Live in this cgroup, with all shims.
    Join {
        /// The machine's hierarchies.
        hierarchies: Hierarchies,
        /// The group.
        path: String,
    },
    /// Fork a shim. The descriptor that comes along is where it says that it is ready.
    Fork(Birth),
}

/// Runs the zygote: standard input is the agent's socket, `arguments` are the whole command line. The caller
/// has made no thread. Returns when the agent is gone.
///
/// # Errors
/// When the binary cannot be sealed or standard input is not an agent.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> io::Result<()> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.last().is_none_or(|last| last != SEALED) {
        arguments.push(SEALED.into());
        return Err(run_sealed(arguments));
    }
    process::set_name(c"kubelith-zygote")?;
    // Not ended by the keys that end the agent.
    process::new_session()?;
    // SAFETY: standard descriptors stay; nothing else was opened by this process.
    unsafe { process::close_from(3)? };
    process::ignore_children();
    lower_oom_score();
    let agent = rustix::stdio::stdin().try_clone_to_owned()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    loop {
        let incoming = wire::receive(&agent)?;
        if incoming.bytes.is_empty() {
            return Ok(());
        }
        match incoming.decode::<Order>()? {
            Order::Join { hierarchies, path } => {
                let done = join(&hierarchies, &path).err().map(|e| e.to_string());
                wire::send(&agent, &done, &[])?;
            }
            Order::Fork(birth) => {
                if let Some(ready) = fork(incoming.descriptors) {
                    // The agent's end must be seen by the zygote alone.
                    drop(agent);
                    shim::main(&birth, ready)
                }
            }
        }
    }
}

/// The descriptor to be ready on, in the child.
fn fork(descriptors: Vec<OwnedFd>) -> Option<OwnedFd> {
    let ready = descriptors.into_iter().next()?;
    // SAFETY: the zygote has one thread.
    match unsafe { process::clone_process(&CloneRequest::default()) } {
        Ok(Some(_child)) => None,
        Ok(None) => Some(ready),
        Err(error) => {
            // The asker hears why; when it is gone there is nobody to tell.
            let _ = wire::send(&ready, &Some(format!("fork a shim: {error}")), &[]);
            None
        }
    }
}

fn join(hierarchies: &Hierarchies, path: &str) -> io::Result<()> {
    let ops = hierarchies.plan_create(path, &Limits::default());
    cgroup::apply(&ops).map_err(io::Error::other)?;
    for dir in hierarchies.dirs(path) {
        std::fs::write(dir.join(hierarchies.join_file()), "0")?;
    }
    Ok(())
}

/// Shims should be the last to go when memory is short. A kernel that refuses is no failure.
fn lower_oom_score() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "-998");
}

/// Becomes the same program from a file that nobody can write: a container that gets hold of
/// `/proc/PID/exe` must not change the binary of the node (CVE-2019-5736).
fn run_sealed(arguments: Vec<OsString>) -> io::Error {
    let sealed = match sealed_binary() {
        Ok(sealed) => sealed,
        Err(error) => return error,
    };
    let arguments: Result<Vec<CString>, _> =
        arguments.into_iter().map(|a| CString::new(a.into_vec())).collect();
    match arguments {
        Ok(arguments) => process::exec_fd(&sealed, &arguments, &[]),
        Err(error) => error.into(),
    }
}

fn sealed_binary() -> io::Result<OwnedFd> {
    overlay_binary().or_else(|_| memory_binary())
}

/// The binary through a read-only overlay: costs no memory, and what is behind it cannot be reached.
fn overlay_binary() -> io::Result<OwnedFd> {
    let path = std::fs::read_link("/proc/self/exe")?;
    let dir = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let name = path.file_name().ok_or(io::ErrorKind::NotFound)?;
    let dir = dir.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    // An overlay without a writable layer needs two others; an empty one will do.
    let empty = sys::mount::new_filesystem("tmpfs", &[("size", "0")], sys::mount::RDONLY)?;
    let empty = format!("/proc/self/fd/{}", empty.as_raw_fd());
    let options = [("lowerdir+", dir), ("lowerdir+", empty.as_str())];
    let tree = sys::mount::new_filesystem("overlay", &options, sys::mount::RDONLY)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(&tree, name, flags, Mode::empty())?)
}

/// The binary copied to sealed memory.
fn memory_binary() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = rustix::fs::memfd_create("kubelith", flags)?;
    let mut file = File::from(memory);
    io::copy(&mut File::open("/proc/self/exe")?, &mut file)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(file.as_fd(), seals)?;
    Ok(file.into())
}
