//! Which devices each claim of a pod gets on a node: the first solution of a search in a fixed order. Upstream:
//! `dynamic-resource-allocation/structured`.
//!
//! Claims, requests and devices are tried one after the other, all combinations of a request's devices in the order of the
//! pools. Reads no clock: somebody who does can interrupt it, and it ends by itself after [`STEPS_MAX`].

mod prepare;
mod result;
mod search;

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;

use apimachinery::Value;
use compact_str::CompactString;

use crate::allocated::Allocated;
use crate::claim::Claim;
use crate::pools::Slices;
use crate::selector::Selectors;
use crate::slice::{Class, Node};

pub use result::rank;

/// How many devices a claim may get: `AllocationResultsMaxSize`.
pub const DEVICES_MAX: usize = 32;
/// How many devices are tried for a node before the search is given up, so that no claim keeps the others waiting.
pub const STEPS_MAX: u64 = 200_000;
/// The same for all nodes together.
pub const STEPS_MAX_TOTAL: u64 = 2_000_000;
/// How many requests and devices the claims of one pod may come to.
const DEPTH_MAX: usize = 1000;

/// Why there is no allocation, where that is not simply that no devices are free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllocateError {
    /// Something is wrong with a claim or a class: no node will do until that changes.
    Claim(String),
    /// Something is wrong with what this node reaches.
    Node(String),
    /// The search took too long.
    TimedOut,
}

/// What there is.
pub struct Supply<'a> {
    /// All slices.
    pub slices: &'a Slices,
    /// All classes, by name.
    pub classes: &'a BTreeMap<CompactString, Class>,
    /// What is taken.
    pub allocated: &'a Allocated,
    /// Compiled selectors.
    pub selectors: &'a Selectors,
    /// Asked now and then: whether the search took long enough.
    pub interrupted: Box<dyn Fn() -> bool + 'a>,
}

impl std::fmt::Debug for Supply<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supply").finish_non_exhaustive()
    }
}

/// Chooses devices for the claims of one pod, for one node after the other.
#[derive(Debug)]
pub struct Allocator<'a> {
    supply: Supply<'a>,
    claims: Vec<Cow<'a, Claim>>,
    steps_left: Cell<u64>,
}

impl<'a> Allocator<'a> {
    /// For these claims, none of which is allocated.
    #[must_use]
    pub fn new(supply: Supply<'a>, claims: Vec<Cow<'a, Claim>>) -> Self {
        let steps_left = Cell::new(STEPS_MAX_TOTAL);
        Self { supply, claims, steps_left }
    }

    /// The claims.
    #[must_use]
    pub fn claims(&self) -> &[Cow<'a, Claim>] {
        &self.claims
    }

    /// What each claim gets on a node, as its status says it; nothing where not all can be had. Devices that are shared have
    /// an empty `shareID`, which is filled in when it is written.
    ///
    /// # Errors
    /// Where the reason is not that devices are taken.
    pub fn allocate(&self, node: Node<'_>) -> Result<Option<Vec<Value>>, AllocateError> {
        self.search(node, |plan, chosen| result::allocations(&self.claims, plan, chosen, node.name))
    }

    /// Whether all claims can be had on a node.
    ///
    /// # Errors
    /// As [`Self::allocate`].
    pub fn is_possible(&self, node: Node<'_>) -> Result<bool, AllocateError> {
        self.search(node, |_, _| ()).map(|found| found.is_some())
    }

    fn search<T>(
        &self,
        node: Node<'_>,
        found: impl FnOnce(&prepare::Plan<'_>, &search::Solution<'_>) -> T,
    ) -> Result<Option<T>, AllocateError> {
        let pools = self.supply.slices.gather(node);
        let candidates = prepare::candidates(&pools);
        let plan = prepare::prepare(self, node, &pools, &candidates)?;
        match search::Search::new(self, node, &pools, &plan, &candidates).run()? {
            Some(chosen) => Ok(Some(found(&plan, &chosen))),
            None => {
                let mut states = pools.iter().map(|it| &it.state);
                if states.any(|it| matches!(it, crate::pools::PoolState::Invalid(_))) {
                    let why = "invalid resource pools were encountered".to_owned();
                    return Err(AllocateError::Node(why));
                }
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests;
