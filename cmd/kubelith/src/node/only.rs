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

/// Remembers where the node's network is.
pub(super) fn keep(data_dir: &Path) -> Result<()> {
    let file = data_dir.join(NETWORK_FILE);
    let own = std::fs::read_link(OWN).with_context(|| format!("could not read {OWN}"))?;
    std::fs::write(&file, own.as_os_str().as_encoded_bytes())
        .with_context(|| format!("could not write {}", file.display()))
}

/// Whether the network of a node that has ended is in this network namespace. A data directory of an older version does
/// not say, and is believed.
pub(crate) fn is_here(data_dir: &Path) -> Result<bool> {
    let own = std::fs::read_link(OWN).with_context(|| format!("could not read {OWN}"))?;
    let kept = std::fs::read(data_dir.join(NETWORK_FILE)).ok();
    Ok(kept.is_none_or(|it| it == own.as_os_str().as_encoded_bytes()))
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
}
