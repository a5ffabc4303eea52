//! Devices for pods: which devices a pod's resource claims get on a node. Upstream: `k8s.io/dynamic-resource-allocation`.
//!
//! Slices of devices, classes and claims in, allocations out, as they are written into claims. The scheduler chooses with it,
//! the server checks selectors with it, the controllers read taints with it. No I/O, no clock, no async.
//!
//! | to | use |
//! |---|---|
//! | check or run a selector | [`Selector`] |
//! | know what there is | [`Slice`], [`Class`], kept in [`Slices`] |
//! | know what is wanted and was given | [`Claim`], counted in [`Allocated`] |
//! | choose | [`Allocator`] |
//! | tell who is kept away | [`taint`] |

pub mod allocate;
pub mod allocated;
mod capacity;
pub mod claim;
mod constraint;
pub mod pools;
pub mod selector;
pub mod slice;
pub mod taint;

pub use allocate::{AllocateError, Allocator, Supply};
pub use allocated::Allocated;
pub use claim::{Allocation, Claim};
pub use pools::Slices;
pub use selector::{Selector, Selectors};
pub use slice::{Class, Node, Slice};
