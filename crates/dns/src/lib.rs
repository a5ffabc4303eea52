//! Cluster DNS: answers for names of the cluster zone from an index of Services and EndpointSlices, as the Kubernetes
//! DNS specification (1.1.0) and CoreDNS have them; other names are forwarded and cached.
//!
//! [`Index`] is told of objects and answers questions, without I/O; [`Server`] has the sockets. Neither watches
//! anything: whoever does tells the index.

mod answer;
mod cache;
mod config;
mod error;
mod forward;
mod index;
mod message;
mod records;
mod resolv_conf;
mod server;
mod sharded;
mod zone;

pub use answer::Outcome;
pub use config::Config;
pub use error::DnsError;
pub use index::Index;
pub use resolv_conf::nameservers;
pub use server::Server;
pub use zone::Zone;
