//! When nodes renewed their leases, by this process' clock.
//!
//! Thousands of nodes renew theirs every few seconds, and of nearly all that says nothing but that they are there: it is
//! noted, and nobody is judged anew before the time that was given to it has passed.

use std::collections::BTreeMap;

use client::reflector::StoreChange;
use compact_str::CompactString;
use jiff::Timestamp;

/// The namespace of nodes' leases.
const NAMESPACE: &str = "kube-node-lease";

/// The last renewal of each node's lease: what it says, and when it was seen.
#[derive(Debug, Default)]
pub(super) struct Renewals(BTreeMap<CompactString, (CompactString, Timestamp)>);

/// What a change of a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lease<'c> {
    /// No node's, or as it was.
    Nothing,
    /// The first one of this node, or its lease is gone.
    Other(&'c str),
    /// This node's, renewed.
    Renewed(&'c str),
}

impl Renewals {
    pub(super) fn see<'c>(&mut self, change: &'c StoreChange, now: Timestamp) -> Lease<'c> {
        let Some(lease) = change.new.as_ref().or(change.old.as_ref()) else {
            return Lease::Nothing;
        };
        if lease.key.namespace != NAMESPACE {
            return Lease::Nothing;
        }
        let node = lease.key.name.as_str();
        if change.new.is_none() {
            self.0.remove(node);
            return Lease::Other(node);
        }
        let value = lease.value();
        let renewed = value.str_at(&["spec", "renewTime"]);
        match self.0.get_mut(node) {
            // Whatever its clock says, it has said something.
            Some((before, at)) if before.as_str() != renewed => {
                (*before, *at) = (renewed.into(), now);
                Lease::Renewed(node)
            }
            Some(_) => Lease::Nothing,
            None => {
                self.0.insert(node.into(), (renewed.into(), now));
                Lease::Other(node)
            }
        }
    }

    /// When a node's last renewal was seen.
    pub(super) fn seen(&self, node: &str) -> Option<Timestamp> {
        self.0.get(node).map(|it| it.1)
    }
}
