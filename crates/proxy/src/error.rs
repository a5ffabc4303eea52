//! What can go wrong.

use std::fmt;

use sys::netlink::NetlinkError;

use crate::service::ServiceKey;

/// The kernel did not take the rule set.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A socket could not be opened.
    #[error("could not open the service proxy's sockets to the kernel")]
    Open(#[source] NetlinkError),
    /// The whole rule set was refused; what was there before still is.
    #[error("could not install the rules of {services} services")]
    Install {
        /// How many.
        services: usize,
        /// What the kernel refused.
        #[source]
        source: NetlinkError,
    },
    /// A change was refused; what was there before still is, and the next try installs everything.
    #[error("could not change the rules of {services} services")]
    Change {
        /// How many.
        services: usize,
        /// What the kernel refused.
        #[source]
        source: NetlinkError,
    },
    /// The rules are there, but connections to endpoints that are gone could not be forgotten.
    #[error("could not forget UDP connections to endpoints that are gone")]
    Conntrack(#[source] NetlinkError),
    /// Whether the rules are there could not be seen.
    #[error("could not list the tables of the service proxy")]
    Look(#[source] NetlinkError),
    /// The rules could not be removed.
    #[error("could not remove the rules of the service proxy")]
    Uninstall(#[source] NetlinkError),
}

/// Something a Service asks for that it does not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The Service.
    pub service: ServiceKey,
    /// What it does not get, and why.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {}: {}", self.service, self.reason)
    }
}
