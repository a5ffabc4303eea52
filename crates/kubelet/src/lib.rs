//! The node agent: makes the pods bound to one node run, and says how they are.
//!
//! Reads `observe -> plan -> apply`: `pod`'s plan and status are pure functions of the specification, of what the
//! runtime has, of a small memory and of the time; workers apply them when an event says that something changed.
//! Knows the runtime only through `cri` and the API server only as a client of it.

mod admission;
mod agent;
mod checkpoint;
mod config;
mod environment;
mod eviction;
mod expand;
mod fields;
mod hooks;
mod hosts;
mod image_gc;
mod images;
mod log_rotation;
mod manager;
mod names;
mod net;
mod node;
mod objects;
mod pod;
mod pressure;
mod probes;
mod qos;
mod resources;
mod server;
mod shared;
mod spec;
mod static_pods;
mod sysctls;
mod time;
mod volumes;

pub use agent::{Kubelet, KubeletError, Parts, Serving};
pub use config::Config;
pub use names::{check_node_label, check_node_name};
pub use sysctls::check_sysctl_pattern;
