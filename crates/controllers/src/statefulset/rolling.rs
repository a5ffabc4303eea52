//! From one template to the next: the pods of the highest numbers go first, and come again as the new template says.

use k8s_openapi::api::core::v1::Pod;

use super::identity;
use super::plan::Round;
use crate::owner::is_deleting;
use crate::share::{self, Rounding};

/// Takes the pods whose turn it is; how many of the current revision that are comes back.
pub(super) fn roll(round: &mut Round<'_>) -> i32 {
    let rolling =
        round.set().spec.update_strategy.as_ref().and_then(|it| it.rolling_update.clone());
    let partition = rolling.as_ref().and_then(|it| it.partition).unwrap_or_default();
    let first = identity::start(round.set());
    let last = first.saturating_add(identity::replicas(round.set()));
    let targets = (first.saturating_add(partition)..last).rev();
    match rolling.and_then(|it| it.max_unavailable) {
        None => one_by_one(round, targets),
        Some(most) => {
            let most = share::of(&most, identity::replicas(round.set()), Rounding::Down).max(1);
            several(round, targets, most)
        }
    }
}

/// A pod goes when all of higher numbers are as they are to be, and available.
fn one_by_one(round: &mut Round<'_>, targets: impl Iterator<Item = i32>) -> i32 {
    for ordinal in targets {
        let Some(pod) = round.slots.get(&ordinal).copied() else { return 0 };
        if is_outdated(round, pod) {
            return take(round, pod);
        }
        if is_deleting(&pod.metadata) || !round.is_available(pod) {
            return 0;
        }
    }
    0
}

/// So many pods go that no more than `most` are unavailable.
fn several(round: &mut Round<'_>, targets: impl Iterator<Item = i32>, most: i32) -> i32 {
    let good =
        round.slots.values().filter(|pod| !is_deleting(&pod.metadata) && round.is_available(pod));
    let good = i32::try_from(good.count()).unwrap_or(i32::MAX);
    let mut room = most - (identity::replicas(round.set()) - good);
    let mut leaving = 0;
    for ordinal in targets {
        if room <= 0 {
            break;
        }
        if let Some(pod) = round.slots.get(&ordinal).copied().filter(|pod| is_outdated(round, pod))
        {
            leaving += take(round, pod);
            room -= 1;
        }
    }
    leaving
}

fn is_outdated(round: &Round<'_>, pod: &Pod) -> bool {
    identity::revision(pod) != round.revisions.update.name && !is_deleting(&pod.metadata)
}

fn take(round: &mut Round<'_>, pod: &Pod) -> i32 {
    round.delete(pod);
    i32::from(identity::revision(pod) == round.revisions.current.name)
}
