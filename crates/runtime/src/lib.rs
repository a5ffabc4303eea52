//! The embedded container runtime: images, snapshots, sandboxes, zygote and shims.
//!
//! Implements the services of `cri` without another program: no containerd, no runc. Knows nothing of pods' API
//! objects; the pod network is a port given to it.

mod images;
mod launch;
mod seccomp;
mod service;
mod shim;
mod spec;
pub mod zygote;

pub use images::registries::{Registries, RegistriesError};
pub use service::{EmbeddedRuntime, Options, ZygoteCommand};
