//! What can go wrong.

use std::io;
use std::net::SocketAddr;

/// Something the DNS server could not do.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The zone is not a domain name.
    #[error("invalid cluster domain {0:?}")]
    Zone(String),
    /// An address could not be listened on.
    #[error("could not listen on {transport} {address}")]
    Bind {
        /// UDP or TCP.
        transport: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Why a question could not be answered by others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("no upstream nameserver is configured")]
    NoUpstream,
    #[error("could not reach upstream nameserver {upstream}")]
    Io {
        upstream: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("upstream nameserver {0} did not answer in time")]
    Timeout(SocketAddr),
    #[error("upstream nameserver {0} answered with something that is no answer")]
    Malformed(SocketAddr),
    #[error("could not encode the question")]
    Encode,
}
