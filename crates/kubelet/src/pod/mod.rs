//! The life of one pod: `observe -> plan -> apply`.
//!
//! [`plan`] and [`status`] decide and are pure; the worker and what it calls carry out.

pub(crate) mod backoff;
pub(crate) mod conditions;
pub(crate) mod config;
pub(crate) mod containers;
pub(crate) mod inbox;
pub(crate) mod memory;
mod messages;
mod mounts;
pub(crate) mod observe;
pub(crate) mod observed;
mod patch;
pub(crate) mod phase;
pub(crate) mod plan;
mod remove;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
mod terminate;
pub(crate) mod worker;

#[cfg(test)]
mod tests;
