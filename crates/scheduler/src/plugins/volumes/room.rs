//! VolumeBinding's score: how much of the room for its volumes a pod would leave.

use std::collections::BTreeMap;

use super::binding::Needs;
use super::claims;
use crate::framework::{Cycle, Score};
use crate::node::Row;
use crate::plugins::fit::along;

/// The share of the room from which on there is none left, in percent.
const ALL: i64 = 100;

/// Upstream's VolumeBinding as it scores: by points of percent and score.
#[derive(Debug)]
pub(in super::super) struct Room(pub(in super::super) Vec<(i64, i64)>);

/// What is asked for of a class, and what there is.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    wanted: i64,
    has: i64,
}

impl Score for Room {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool {
        if !has_open_claims(cycle) {
            return false;
        }
        let Ok(needs) = Needs::of(cycle.pod, &cycle.cluster.volumes) else { return false };
        for (score, row) in scores.iter_mut().zip(feasible) {
            *score = self.of(&shares(&needs, &cycle.cluster.rows()[*row]));
        }
        true
    }

    fn is_local(&self, cycle: Cycle<'_>) -> bool {
        !has_open_claims(cycle)
    }
}

/// Whether a pod has claims whose volumes are still to be found.
fn has_open_claims(cycle: Cycle<'_>) -> bool {
    claims(cycle).any(|it| it.volume.is_none())
}

/// By class, what the volumes that a pod gets on a node hold, or else what is left there for those that are made.
fn shares<'n>(needs: &'n Needs<'_>, row: &Row) -> BTreeMap<&'n str, Share> {
    let mut shares: BTreeMap<&str, Share> = BTreeMap::new();
    let Ok(plan) = needs.plan(&row.node.name, &row.node.labels) else { return shares };
    for (open, _, volume) in &plan.chosen {
        let share = shares.entry(&volume.class).or_default();
        share.wanted += open.claim.wanted();
        share.has += volume.holds();
    }
    if !plan.chosen.is_empty() {
        return shares;
    }
    for (open, room) in &plan.made {
        // Of drivers that do not tell how much room they have, nothing is known.
        let Some(room) = room else { continue };
        let share = shares.entry(&open.claim.class).or_default();
        share.wanted += open.claim.wanted();
        // All of a class are made in the same room.
        share.has = *room;
    }
    shares
}

impl Room {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "the mean of scores of at most a hundred"
    )]
    fn of(&self, shares: &BTreeMap<&str, Share>) -> i64 {
        if shares.is_empty() {
            return 0;
        }
        let score = |it: &Share| {
            let full = it.has == 0 || it.wanted > it.has;
            let percent = if full { ALL } else { it.wanted.saturating_mul(ALL) / it.has };
            along(&self.0, percent)
        };
        let sum: i64 = shares.values().map(score).sum();
        (sum as f64 / shares.len() as f64).round() as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_count_alike_and_are_scored_along_the_shape() {
        let falling = vec![(0, 100), (100, 0)];
        let bent = vec![(50, 0), (80, 30), (100, 50)];
        for (shape, wanted, expected) in [
            (&falling, vec![], 0),
            (&falling, vec![0], 100),
            (&falling, vec![30], 70),
            (&falling, vec![101], 0),
            (&falling, vec![30, 61], 55),
            (&bent, vec![30, 60], 5),
            (&bent, vec![90, 90], 40),
            (&bent, vec![50, 100], 25),
        ] {
            let names = ["hdd", "ssd"].into_iter();
            let shares =
                names.zip(&wanted).map(|(name, it)| (name, Share { wanted: *it, has: 100 }));
            assert_eq!(Room(shape.clone()).of(&shares.collect()), expected, "{wanted:?}");
        }
    }
}
