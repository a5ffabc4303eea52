//! From one template to the next: the pods of the highest numbers go first, and come again as the new template says.

use k8s_openapi::api::core::v1::Pod;

use super::identity;
use super::plan::Round;
use crate::owner::is_deleting;
use crate::share::{self, Rounding};

/// What an update with `MaxUnavailableStatefulSet` goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    /// How many pods may be away, where the set has a rolling update.
    pub(super) most: Option<i32>,
    /// How many of those that are wanted are.
    pub(super) unavailable: i32,
}

/// Takes the pods whose turn it is; how many of the current revision that are comes back. One pod is away at a time, or as
/// many as the set says where it may say so.
pub(super) fn roll(round: &mut Round<'_>) -> i32 {
    let rolling =
        round.set().spec.update_strategy.as_ref().and_then(|it| it.rolling_update.clone());
    let partition = rolling.as_ref().and_then(|it| it.partition).unwrap_or_default();
    let first = identity::start(round.set());
    let replicas = identity::replicas(round.set());
    let targets = (first.saturating_add(partition)..first.saturating_add(replicas)).rev();
    if !round.max_unavailable {
        return one_by_one(round, targets);
    }
    let share = |it| share::of(&it, replicas, Rounding::Down).max(1);
    let most = rolling.map(|it| it.max_unavailable.map_or(1, share));
    let good =
        round.slots.values().filter(|pod| !is_deleting(&pod.metadata) && round.is_available(pod));
    let unavailable = replicas.saturating_sub(i32::try_from(good.count()).unwrap_or(i32::MAX));
    round.counts = Some(Counts { most, unavailable });
    let room = most.unwrap_or(1).saturating_sub(unavailable);
    let outdated = targets.filter_map(|it| round.slots.get(&it).copied());
    let outdated: Vec<&Pod> = outdated.filter(|pod| is_outdated(round, pod)).collect();
    let room = usize::try_from(room).unwrap_or_default();
    if round.is_ordered() {
        return outdated.into_iter().take(room).map(|pod| take(round, pod)).sum();
    }
    // Pods of an old template that are away already cost nothing, and may never come back as they are.
    let (good, away): (Vec<&Pod>, Vec<&Pod>) =
        outdated.into_iter().partition(|pod| round.is_available(pod));
    away.into_iter().chain(good.into_iter().take(room)).map(|pod| take(round, pod)).sum()
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

fn is_outdated(round: &Round<'_>, pod: &Pod) -> bool {
    identity::revision(pod) != round.revisions.update.name && !is_deleting(&pod.metadata)
}

fn take(round: &mut Round<'_>, pod: &Pod) -> i32 {
    round.delete(pod);
    i32::from(identity::revision(pod) == round.revisions.current.name)
}
