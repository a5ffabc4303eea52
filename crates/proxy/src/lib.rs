//! The service proxy of one node: Services and EndpointSlices become an nf_tables rule set, one map for all services,
//! changed in place by one transaction (docs/adr/0005).
//!
//! [`project`](crate::ServiceSpec) what matters of an object, [`resolve`] which endpoints a port uses, say the
//! [`rules`] that follow, and [`diff`] them with those there are: all of it without I/O. Only [`Proxy`] talks to the
//! kernel. It watches nothing: whoever does calls it.

mod conntrack;
mod diff;
mod encode;
mod endpoints;
mod error;
mod layout;
mod proxy;
mod resolve;
mod rules;
mod service;
mod skeleton;
mod store;

pub use diff::{Transaction, diff};
pub use endpoints::{Endpoint, EndpointPort, Hint, Place, SliceSpec};
pub use error::{Problem, ProxyError};
pub use proxy::{Applied, Config, NodePortAddresses, Proxy};
pub use resolve::{Backend, ResolvedPort, resolve};
pub use rules::{ChainSpec, Entry, Facts, Pool, Target, Value, rules};
pub use service::{Front, PortSpec, Protocol, ServiceKey, ServiceSpec};
pub use sys::nftables::Family;
