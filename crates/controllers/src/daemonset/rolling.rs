//! From one template to the next. Upstream: `rollingUpdate` in `update.go`.

use k8s_openapi::api::core::v1::Pod;

use super::manage::Changes;
use super::plan::Round;
use crate::share::{self, Rounding};

/// The pod of the present revision and the one of an older on a node.
struct Pair<'o> {
    new: Option<&'o Pod>,
    old: Option<&'o Pod>,
}

/// `None` where there are several of a kind, which is put right first.
fn pair<'o>(round: &Round<'_, 'o>, pods: &[&'o Pod]) -> Option<Pair<'o>> {
    let mut pair = Pair { new: None, old: None };
    for pod in pods.iter().copied().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let place = if round.is_updated(pod) { &mut pair.new } else { &mut pair.old };
        if place.replace(pod).is_some() {
            return None;
        }
    }
    Some(pair)
}

/// How many more pods than nodes there may be, and how many nodes may be without.
fn limits(round: &Round<'_, '_>, desired: i32) -> (i32, i32) {
    let rolling = round.strategy().and_then(|it| it.rolling_update.as_ref());
    let number = |value: Option<&_>, default: i32| {
        value.map_or(default, |it| share::of(it, desired, Rounding::Up))
    };
    let surge = number(rolling.and_then(|it| it.max_surge.as_ref()), 0);
    let unavailable = number(rolling.and_then(|it| it.max_unavailable.as_ref()), 1);
    let stuck = desired > 0 && surge == 0 && unavailable == 0;
    (surge, if stuck { 1 } else { unavailable })
}

/// What the rollout's next step makes and takes.
pub(super) fn roll<'o>(round: &Round<'_, 'o>) -> Changes<'o> {
    let desired = round.places.iter().filter(|it| it.should_run).count();
    let desired = i32::try_from(desired).unwrap_or(i32::MAX);
    let (surge, unavailable) = limits(round, desired);
    if surge == 0 { replace(round, unavailable) } else { surging(round, surge, desired) }
}

/// The nodes that have or want a pod, with their pods.
fn nodes<'r, 'o>(round: &'r Round<'_, 'o>) -> impl Iterator<Item = (&'r str, &'r [&'o Pod])> {
    let empty = round.observed.nodes.iter().zip(&round.places);
    let empty =
        empty.filter(|(node, place)| place.should_run && !round.by_node.contains_key(&node.name));
    let empty = empty.map(|(node, _)| (node.name.as_str(), &[][..]));
    round.by_node.iter().map(|(node, pods)| (node.as_str(), pods.as_slice())).chain(empty)
}

/// Old pods go first and new ones follow, so many at once as may be unavailable.
fn replace<'o>(round: &Round<'_, 'o>, max_unavailable: i32) -> Changes<'o> {
    let (mut unavailable, mut allowed, mut candidates) = (0, Vec::new(), Vec::new());
    for (_, pods) in nodes(round) {
        match pair(round, pods) {
            None | Some(Pair { new: None, old: None } | Pair { new: Some(_), old: Some(_) }) => {
                unavailable += 1;
            }
            Some(Pair { new: Some(new), old: None }) => {
                unavailable += i32::from(!round.is_available(new));
            }
            Some(Pair { new: None, old: Some(old) }) if !round.is_available(old) => {
                allowed.push(old);
                unavailable += 1;
            }
            Some(Pair { new: None, old: Some(old) }) => candidates.push(old),
        }
    }
    let room = usize::try_from(max_unavailable - unavailable).unwrap_or_default();
    allowed.extend(candidates.into_iter().take(room));
    Changes { create: Vec::new(), delete: allowed }
}

/// New pods come first and old ones go once those are available.
fn surging<'o>(round: &Round<'_, 'o>, max_surge: i32, desired: i32) -> Changes<'o> {
    let mut changes = Changes::default();
    let (mut surged, mut available) = (0, 0);
    let (mut candidates, mut misplaced) = (Vec::new(), Vec::new());
    for (node, pods) in nodes(round) {
        let Some(pair) = pair(round, pods) else {
            surged += 1;
            continue;
        };
        available += i32::from(pair.old.or(pair.new).is_some_and(|pod| round.is_available(pod)));
        match pair {
            Pair { old: None, .. } => {}
            Pair { new: None, old: Some(old) } => {
                match (round.is_available(old), round.should_run(node)) {
                    (false, false) => changes.delete.push(old),
                    (false, true) => changes.create.push(node.to_owned()),
                    (true, false) => misplaced.push(old),
                    (true, true) => candidates.push(node.to_owned()),
                }
            }
            Pair { new: Some(new), old: Some(old) } => {
                if round.is_available(new) {
                    changes.delete.push(old);
                } else {
                    surged += 1;
                }
            }
        }
    }
    // Where the set leaves a node, its pod stays until there are enough elsewhere.
    let spare = usize::try_from(available - desired).unwrap_or_default();
    changes.delete.extend(misplaced.into_iter().take(spare));
    let room = usize::try_from(max_surge - surged).unwrap_or_default();
    changes.create.extend(candidates.into_iter().take(room));
    changes
}
