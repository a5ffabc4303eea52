//! Clients of the API: how requests travel, typed and dynamic calls, caches fed by watches, events.
//!
//! Knows no server: a [`Transport`] carries requests into the same process or over HTTP. Controllers, scheduler, node
//! agent, proxy and DNS are clients like any other.

pub mod call;
pub mod candidacy;
pub mod csi_translation;
pub mod error;
pub mod events;
pub mod indexes;
pub mod leader;
pub mod pod;
pub mod reflector;
pub mod resource;
pub mod transport;
pub mod volumes;
pub mod watch;

pub use call::Client;
pub use error::ClientError;
pub use events::EventRecorder;
pub use reflector::{Reflector, Store};
pub use resource::{ObjectKey, Resource};
pub use transport::{Transport, TransportError};
