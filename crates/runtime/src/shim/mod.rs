//! The shim: one small single-threaded process for each pod, parent of all its containers.
//!
//! It outlives the node agent. It starts containers, writes their logs, stores how they ended before it says so,
//! and knows nothing of Kubernetes, images or networks.

mod container;
pub(crate) mod log;
pub(crate) mod protocol;
mod sandbox;
mod server;
mod starting;
pub(crate) mod wire;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sys::process;

/// Where a shim finds what it is to become.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Birth {
    /// The sandbox's directory, with its spec.
    pub directory: PathBuf,
    /// The directory for its socket.
    pub socket_directory: PathBuf,
}

/// Becomes the shim of a sandbox; never returns. `ready` hears an empty message, or why it could not be.
pub(crate) fn main(birth: &Birth, ready: OwnedFd) -> ! {
    let prepared = prepare(birth);
    let failure = prepared.as_ref().err().map(String::as_str);
    let told = wire::send(&ready, &failure, &[]);
    drop(ready);
    match (prepared, told) {
        (Ok(server), Ok(())) => server.run(),
        _ => process::exit_now(1),
    }
}

fn prepare(birth: &Birth) -> Result<server::Server, String> {
    let say = |error: std::io::Error, what: &str| format!("{what}: {error}");
    process::new_session().map_err(|e| say(e, "new session"))?;
    process::set_child_subreaper().map_err(|e| say(e, "become subreaper"))?;
    process::set_name(c"kubelith-shim").map_err(|e| say(e, "set name"))?;
    // What the agent writes its errors to may be somebody's pipe, and the shim outlives that.
    let null = starting::null().map_err(|e| say(e, "open /dev/null"))?;
    rustix::stdio::dup2_stderr(&null).map_err(|e| say(e.into(), "leave standard error"))?;
    let signals = process::signal_fd(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
        .map_err(|e| say(e, "take signals"))?;
    let sandbox = sandbox::create(&birth.directory)?;
    let listener = listen(&birth.socket_directory).map_err(|e| say(e, "listen"))?;
    // No directory is kept busy.
    rustix::process::chdir("/").map_err(|e| say(e.into(), "chdir /"))?;
    Ok(server::Server::new(sandbox, listener, signals))
}

/// Listens by a name relative to the directory: whole paths may be longer than an address can be.
fn listen(directory: &Path) -> std::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    rustix::process::chdir(directory)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kind = SocketType::SEQPACKET;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    match std::fs::remove_file(crate::spec::SOCKET_FILE) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(crate::spec::SOCKET_FILE)?)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}
