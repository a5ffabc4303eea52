//! The life of one pod: `observe -> plan -> apply`.
//!
//! [`plan`] and [`status`] decide and are pure; the worker and what it calls carry out.

pub(crate) mod backoff;
pub(crate) mod conditions;
pub(crate) mod containers;
pub(crate) mod memory;
pub(crate) mod observed;
pub(crate) mod phase;
pub(crate) mod plan;
pub(crate) mod status;
pub(crate) mod terminate;

#[cfg(test)]
mod tests;
