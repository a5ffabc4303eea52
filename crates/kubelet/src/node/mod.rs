//! The node itself: what the machine is, and what is told of it.

mod lease;
mod machine;
mod status;
mod writer;

pub(crate) use machine::{Disk, Machine, Usage, disk_of, processes};
pub(crate) use writer::run;
