//! Namespaces: leaving, entering and pinning them. For single-threaded callers.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// The namespaces of `libc::CLONE_NEW*`.
pub type Kinds = i32;

/// Leaves the shared namespaces `kinds` for new ones.
///
/// # Errors
/// Without `CAP_SYS_ADMIN`.
pub fn unshare(kinds: Kinds) -> io::Result<()> {
    // SAFETY: only namespace kinds are passed by this crate's callers; memory and descriptors stay shared.
    if unsafe { libc::unshare(kinds) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Enters the namespaces `kinds` of `of`: a pidfd, or one namespace's file.
///
/// # Errors
/// When the process is gone, or without capabilities there.
pub fn enter(of: impl AsFd, kinds: Kinds) -> io::Result<()> {
    // SAFETY: the descriptor is open for the call.
    if unsafe { libc::setns(of.as_fd().as_raw_fd(), kinds) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Opens a namespace of a process: `net`, `pid`, `pid_for_children`...
///
/// # Errors
/// When the process is gone.
pub fn open(pid: &str, name: &str) -> io::Result<OwnedFd> {
    File::open(format!("/proc/{pid}/ns/{name}")).map(Into::into)
}

/// Keeps the caller's namespace `name` alive as a file.
///
/// # Errors
/// When the file cannot be made or mounted on.
pub fn pin(name: &str, at: &Path) -> io::Result<()> {
    File::options().create(true).append(true).open(at)?;
    rustix::mount::mount_bind(format!("/proc/self/ns/{name}"), at)?;
    Ok(())
}

/// Takes [`pin`] back. Not pinned is fine.
///
/// # Errors
/// When the file stays.
pub fn unpin(at: &Path) -> io::Result<()> {
    match rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
