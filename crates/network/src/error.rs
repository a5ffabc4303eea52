//! What can go wrong with a pod's network.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use sys::netlink::NetlinkError;

/// Something that could not be done for the pod network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The configuration contradicts itself.
    #[error("invalid pod network configuration: {0}")]
    Config(String),
    /// The kernel did not do as asked for a sandbox.
    #[error("could not set up the network of sandbox {sandbox}")]
    Setup {
        /// The sandbox.
        sandbox: String,
        /// What the kernel refused.
        #[source]
        source: NetlinkError,
    },
    /// The kernel did not let go of a sandbox.
    #[error("could not tear down the network of sandbox {sandbox}")]
    Teardown {
        /// The sandbox.
        sandbox: String,
        /// What the kernel refused.
        #[source]
        source: NetlinkError,
    },
    /// The kernel did not do as asked for the node.
    #[error("could not {doing}")]
    Node {
        /// What was being done.
        doing: &'static str,
        /// What the kernel refused.
        #[source]
        source: NetlinkError,
    },
    /// A kernel parameter could not be set.
    #[error("could not set kernel parameter {name} to {value}")]
    Sysctl {
        /// The parameter.
        name: String,
        /// The value.
        value: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Every address is taken.
    #[error("no addresses available in range {range}: all {taken} are taken")]
    NoFreeAddress {
        /// The range.
        range: IpNet,
        /// How many are taken.
        taken: usize,
    },
    /// Another sandbox has the host port.
    #[error("host port {protocol} {address}:{port} is already taken by sandbox {owner}")]
    HostPortTaken {
        /// TCP or UDP.
        protocol: crate::Protocol,
        /// The host's address, unspecified for any.
        address: IpAddr,
        /// The port.
        port: u16,
        /// Who has it.
        owner: String,
    },
    /// The record of a sandbox could not be written or read.
    #[error("could not {verb} {}", path.display())]
    State {
        /// What was being done with the file.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A sandbox id that cannot be a file's name.
    #[error("invalid sandbox id {0:?}")]
    SandboxId(String),
}
