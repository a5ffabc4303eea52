//! What pods and the templates of pods share: defaults and checks of `PodSpec`.
//!
//! One file a part of the spec. Knows nothing of the kinds that hold a template, nor of nodes.

pub(crate) mod annotations;
pub(crate) mod claims;
pub(crate) mod containers;
pub(crate) mod defaults;
mod env;
mod image;
mod iscsi;
pub(crate) mod label_keys;
mod mounts;
mod overlaps;
pub(crate) mod persistent;
mod probes;
mod projected;
mod resource_checks;
pub(crate) mod resources;
pub(crate) mod scheduling;
mod security;
pub(crate) mod validate;
mod volume_defaults;
pub(crate) mod volume_plugins;
mod volumes;
pub(crate) mod warnings;
mod windows;
