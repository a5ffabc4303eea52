//! What nodes and pods use: from the agents' counters (`/metrics/resource`) to the objects of `metrics.k8s.io`.
//!
//! Pure: it knows neither sockets nor clocks. Who serves the group reads the agents, keeps the last two [`Sample`]s of
//! each node, and asks here what was used between them.

pub mod objects;
pub mod resources;
mod sample;
mod usage;

pub use objects::{Kind, Measured};
pub use sample::{Point, Sample};
pub use usage::{Use, node_use, pod_use};
