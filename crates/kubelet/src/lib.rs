//! The node agent: makes the pods bound to one node run, and says how they are.
//!
//! Reads `observe -> plan -> apply`: [`pod`]'s plan and status are pure functions of the specification, of what the
//! runtime has, of a small memory and of the time; workers apply them when an event says that something changed.
//! Knows the runtime only through `cri` and the API server only as a client of it.

pub(crate) mod pod;
pub(crate) mod resources;
pub(crate) mod spec;
pub(crate) mod time;

pub use resources::{QosClass, qos_class};
