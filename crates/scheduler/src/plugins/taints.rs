//! TaintToleration: taints keep pods away that do not tolerate them, or would rather.

use std::ops::Range;

use super::normalize;
use crate::cluster::{Cluster, HARD_TAINTS, SOFT_TAINTS};
use crate::framework::{Check, Cycle, Filter, LooksAtPods, MAX_SCORE, Prepared, Rejection, Score};
use crate::node::Row;
use crate::pod::PodLite;
use crate::terms::{Effect, Toleration};

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct TaintToleration;

const NAME: &str = "TaintToleration";

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        Prepared::Ready(Box::new(Tolerates(&cycle.pod.ask.tolerations)))
    }
}

/// Whether a pod may be on a node whatever its taints say to new ones.
pub(super) fn tolerates_node(tolerations: &[Toleration], row: &Row) -> bool {
    let mut hard = row.node.taints.iter().filter(|taint| taint.is_hard());
    hard.all(|taint| tolerations.iter().any(|it| it.tolerates(taint)))
}

#[derive(Debug, Clone)]
struct Tolerates<'a>(&'a [Toleration]);

impl Check for Tolerates<'_> {
    fn looks_at_pods(&self) -> LooksAtPods<'_> {
        LooksAtPods::No
    }

    fn check(&self, row: &Row) -> Result<(), Rejection> {
        if tolerates_node(self.0, row) {
            return Ok(());
        }
        Err(Rejection::for_good("node(s) had untolerated taint(s)"))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn sweep(&self, cluster: &Cluster, range: Range<usize>, marks: &mut [u8], mark: u8) {
        let columns = cluster.columns();
        if columns.any_flags & HARD_TAINTS == 0 {
            return;
        }
        let rows = &cluster.rows()[range.clone()];
        for ((flags, row), it) in columns.flags[range].iter().zip(rows).zip(marks) {
            let tainted = *it == 0 && flags & HARD_TAINTS != 0;
            if tainted && !tolerates_node(self.0, row) {
                *it = mark;
            }
        }
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_local(&self, cycle: Cycle<'_>) -> bool {
        cycle.cluster.columns().any_flags & SOFT_TAINTS == 0
    }

    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool {
        if cycle.cluster.columns().any_flags & SOFT_TAINTS == 0 {
            scores.fill(MAX_SCORE);
            return true;
        }
        for (index, score) in feasible.iter().zip(scores.iter_mut()) {
            *score = intolerable(cycle.pod, &cycle.cluster.rows()[*index]);
        }
        normalize::to_share(scores, normalize::Best::Smallest);
        true
    }
}

/// How many taints would rather have the pod elsewhere.
fn intolerable(pod: &PodLite, row: &Row) -> i64 {
    let soft = |it: &&Toleration| it.effect.is_none_or(|it| it == Effect::PreferNoSchedule);
    let tolerated = |taint| pod.ask.tolerations.iter().filter(soft).any(|it| it.tolerates(taint));
    let count = row.node.taints.iter().filter(|it| !it.is_hard() && !tolerated(it)).count();
    i64::try_from(count).unwrap_or(i64::MAX)
}
