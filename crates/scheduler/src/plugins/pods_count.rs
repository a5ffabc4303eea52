//! PodGroupPodsCount: placements in which more pods of a group have a node are better.

use super::PODS_COUNT;
use super::normalize::{Best, to_share};
use crate::cluster::Cluster;
use crate::framework::{PlacementScore, Proposal};

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct PodGroupPodsCount;

impl PlacementScore for PodGroupPodsCount {
    fn name(&self) -> &'static str {
        PODS_COUNT
    }

    fn score(&self, _cluster: &Cluster, proposals: &[Proposal<'_>]) -> Vec<i64> {
        let count =
            |it: &Proposal<'_>| i64::try_from(it.scheduled + it.members.len()).unwrap_or(i64::MAX);
        let mut scores = proposals.iter().map(count).collect::<Vec<_>>();
        to_share(&mut scores, Best::Largest);
        scores
    }
}
