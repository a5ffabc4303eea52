//! Netlink: a socket inside a network namespace of choice, and rtnetlink's links, addresses, routes and
//! neighbours as small typed functions.
//!
//! Knows nothing of pods or services. A socket stays in the namespace it was opened in, so nothing here
//! keeps a thread in a foreign namespace.

mod address;
mod error;
mod link;
mod namespace;
mod route;
mod socket;
pub(crate) mod wire;

pub use address::Address;
pub use error::NetlinkError;
pub use link::{Link, LinkKind, MacAddress, Veth};
pub use namespace::Netns;
pub use route::{Neighbour, Route, RouteKind, RouteProtocol, RouteScope};
pub use socket::Rtnetlink;
pub(crate) use socket::{Protocol, Socket, error_of};
