//! One node in a network namespace: two would take each other's pod network for something left behind.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use anyhow::{Context, Result, bail};

/// An abstract name, which each network namespace has its own of and which goes with its holder.
const NAME: &str = "kubelith-node";

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
