//! One node in a network namespace: two would take each other's pod network for something left behind.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use std::path::Path;

use anyhow::{Context, Result, bail};

/// An abstract name, which each network namespace has its own of and which goes with its holder.
const NAME: &str = "kubelith-node";

/// Below the data directory: which network namespace the node's network is in.
const NETWORK_FILE: &str = "agent/network-namespace";
/// This process' network namespace.
const OWN: &str = "/proc/self/ns/net";
/// What is mounted, namespaces too.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Remembers where the node's network is.
pub(super) fn keep(data_dir: &Path) -> Result<()> {
    let file = data_dir.join(NETWORK_FILE);
    let own = std::fs::read_link(OWN).with_context(|| format!("could not read {OWN}"))?;
    std::fs::write(&file, own.as_os_str().as_encoded_bytes())
        .with_context(|| format!("could not write {}", file.display()))
}

/// Where the network of a node that has ended is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In this process' network namespace. A data directory of an older version does not say, and is taken to be here.
    Here,
    /// In another one.
    Elsewhere,
    /// It went with its namespace: that was deleted, or the machine has been started anew.
    Gone,
}

/// Finds the network of the node of a data directory.
pub(crate) fn place(data_dir: &Path) -> Result<Place> {
    let own = std::fs::read_link(OWN).with_context(|| format!("could not read {OWN}"))?;
    let Ok(kept) = std::fs::read_to_string(data_dir.join(NETWORK_FILE)) else {
        return Ok(Place::Here);
    };
    if own.as_os_str() == kept.as_str() {
        return Ok(Place::Here);
    }
    Ok(if is_alive(&kept)? { Place::Elsewhere } else { Place::Gone })
}

/// Whether a process is in a network namespace, or a mount keeps it.
fn is_alive(namespace: &str) -> Result<bool> {
    let mounts =
        std::fs::read_to_string(MOUNTS).with_context(|| format!("could not read {MOUNTS}"))?;
    if mounts.split_whitespace().any(|word| word == namespace) {
        return Ok(true);
    }
    let processes = std::fs::read_dir("/proc").context("could not read /proc")?;
    // Those that end meanwhile, and entries that are no processes, have none.
    let namespaces =
        processes.flatten().filter_map(|it| std::fs::read_link(it.path().join("ns/net")).ok());
    Ok(namespaces.into_iter().any(|it| it.as_os_str() == namespace))
}

/// Says that this process is the node here, until it is dropped.
#[derive(Debug)]
pub(crate) struct OnlyNode(#[expect(dead_code, reason = "its name is what matters")] UnixListener);

impl OnlyNode {
    /// # Errors
    /// When another process is the node here.
    pub(crate) fn here() -> Result<Self> {
        Self::named(NAME)
    }

    fn named(name: &str) -> Result<Self> {
        let address = SocketAddr::from_abstract_name(name)?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Self(listener)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                let holder = UnixStream::connect_addr(&address).ok();
                let holder = holder.and_then(|it| rustix::net::sockopt::socket_peercred(it).ok());
                let process = holder.map(|it| format!(" (process {})", it.pid)).unwrap_or_default();
                bail!(
                    "another kubelith{process} is the node of this machine: a second one needs a network namespace of \
                     its own; --disable agent runs a server without a node"
                )
            }
            Err(error) => Err(error).context("could not say that this process is the node here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_is_refused_until_the_first_is_gone() {
        let name = format!("kubelith-node-test-{}", std::process::id());
        let first = OnlyNode::named(&name).unwrap();
        let error = OnlyNode::named(&name).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        OnlyNode::named(&name).unwrap();
    }

    #[test]
    fn a_node_s_network_is_here_or_elsewhere_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(place(dir.path()).unwrap(), Place::Here, "an older version");
        std::fs::create_dir(dir.path().join("agent")).unwrap();
        keep(dir.path()).unwrap();
        assert_eq!(place(dir.path()).unwrap(), Place::Here);
        std::fs::write(dir.path().join(NETWORK_FILE), "net:[1]").unwrap();
        assert_eq!(place(dir.path()).unwrap(), Place::Gone);
    }
}
