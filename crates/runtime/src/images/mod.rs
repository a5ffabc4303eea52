//! Images: names, registries, layers, and where they are kept.
//!
//! Knows nothing of containers, except which layers they use.

pub(crate) mod http;
pub(crate) mod import;
#[cfg(test)]
mod import_tests;
pub(crate) mod manifest;
pub(crate) mod pull;
#[cfg(test)]
mod pull_tests;
pub(crate) mod reference;
pub(crate) mod registries;
pub(crate) mod store;
pub(crate) mod tls;
pub(crate) mod unpack;
#[cfg(test)]
mod unpack_tests;

pub(crate) use store::{ImageError, Record};
