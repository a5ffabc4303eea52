//! kube-scheduler: which node a pod runs on.
//!
//! [`decide`] is the whole of the thinking: a pod, a [`Cluster`] and a [`Profile`] in, a node or the reasons against
//! every node out. It does no I/O and reads no clock; recorded decisions of upstream are its test.

mod alike;
mod bindings;
mod claims;
pub mod cluster;
pub mod config;
pub mod decide;
pub mod devices;
mod emptied;
pub mod extender;
pub mod framework;
pub mod groups;
pub mod labels;
pub mod metrics;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod preemption;
pub mod queue;
mod remembered;
pub mod resources;
pub mod run;
mod tallies;
pub mod terms;
pub mod told;
mod topology;
mod victims;
pub mod volumes;
mod write;

pub use cluster::Cluster;
pub use config::Configuration;
pub use decide::{Decision, decide};
pub use extender::Extender;
pub use framework::Profile;
pub use metrics::Metrics;
pub use node::NodeLite;
pub use pod::PodLite;
pub use queue::Backoff;
pub use run::Scheduler;
