//! NodeAffinity: `nodeSelector`, node affinity, and what the profile adds to every pod.

use compact_str::CompactString;

use super::normalize;
use crate::framework::{Check, Cycle, Filter, LooksAtPods, Prepared, Rejection, Score};
use crate::node::Row;
use crate::terms::NodeWish;

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct NodeAffinity {
    /// Holds for every pod of the profile, besides its own.
    added: NodeWish,
}

impl NodeAffinity {
    pub(super) fn new(added: &NodeWish) -> Self {
        Self { added: added.clone() }
    }
}

const NAME: &str = "NodeAffinity";

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        let wish = &cycle.pod.ask.nodes;
        if wish.is_empty() && self.added.is_empty() {
            return Prepared::Skip;
        }
        let only = wish.names();
        if only.as_ref().is_some_and(Vec::is_empty) {
            return Prepared::Reject(Rejection::for_good("pod affinity terms conflict"));
        }
        Prepared::Ready(Box::new(Allows { wish, added: &self.added, only }))
    }
}

#[derive(Debug, Clone)]
struct Allows<'a> {
    wish: &'a NodeWish,
    added: &'a NodeWish,
    only: Option<Vec<CompactString>>,
}

impl Check for Allows<'_> {
    fn looks_at_pods(&self) -> LooksAtPods<'_> {
        LooksAtPods::No
    }

    fn check(&self, row: &Row) -> Result<(), Rejection> {
        let (name, labels) = (&row.node.name, &row.node.labels);
        if !self.added.allows(name, labels) {
            let reason = "node(s) didn't match scheduler-enforced node affinity";
            return Err(Rejection::for_good(reason));
        }
        if !self.wish.allows(name, labels) {
            let reason = "node(s) didn't match Pod's node affinity/selector";
            return Err(Rejection::for_good(reason));
        }
        Ok(())
    }

    fn only(&self) -> Option<&[CompactString]> {
        self.only.as_deref()
    }

    fn is_local(&self) -> bool {
        self.only.is_none()
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_local(&self, cycle: Cycle<'_>) -> bool {
        self.added.preferred.is_empty() && cycle.pod.ask.nodes.preferred.is_empty()
    }

    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool {
        let preferred = || self.added.preferred.iter().chain(&cycle.pod.ask.nodes.preferred);
        if preferred().next().is_none() {
            return false;
        }
        for (index, score) in feasible.iter().zip(scores.iter_mut()) {
            let node = &cycle.cluster.rows()[*index].node;
            let met = preferred()
                .filter(|(_, term)| term.matches(&node.name, |key| node.labels.get(key)));
            *score = met.map(|(weight, _)| weight).sum();
        }
        normalize::to_share(scores, normalize::Best::Largest);
        true
    }
}
