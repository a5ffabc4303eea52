//! What pods and the templates of pods share: defaults and checks of `PodSpec`.
//!
//! One file a part of the spec. Knows nothing of the kinds that hold a template, nor of nodes.

pub(crate) mod defaults;
mod image;
pub(crate) mod resources;
mod volume_defaults;
