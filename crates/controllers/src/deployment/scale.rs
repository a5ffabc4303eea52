//! A deployment that is resized while it rolls: every set in proportion. Upstream: `sync.go`, `scale`.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::plan::Step;
use super::sets;

/// Whether the deployment was resized since its sets were.
pub(super) fn is_scaling(step: &Step<'_>) -> bool {
    let wanted = sets::wanted(step.deployment).to_string();
    step.all()
        .filter(|set| sets::replicas(set) > 0)
        .any(|set| sets::annotation(set, sets::DESIRED).is_some_and(|desired| desired != wanted))
}

/// Resizes the only set, or all of them in proportion.
pub(super) fn scale(step: &mut Step<'_>) {
    let wanted = sets::wanted(step.deployment);
    if let Some(only) = only_or_latest(step) {
        // A set that was taken over may have the right size and say another: without its note put right, the deployment
        // would be resizing for ever, and never roll (upstream does).
        if sets::replicas(only) != wanted || !is_noted(only, wanted) {
            step.resize(only, wanted);
        }
        return;
    }
    if let Some(new) = step.new.filter(|new| is_saturated(step, new)) {
        step.resize_if_needed(new, wanted);
        let old: Vec<&ReplicaSet> =
            step.old.iter().copied().filter(|set| sets::replicas(set) > 0).collect();
        old.into_iter().for_each(|set| step.resize(set, 0));
        return;
    }
    if sets::is_rolling(step.deployment) {
        return in_proportion(step);
    }
    // Several sets at once, and a deployment that recreates: their notes are put right, and it goes on from there. Upstream
    // leaves them, and stays at resizing for ever.
    let active: Vec<&ReplicaSet> =
        step.old.iter().copied().chain(step.new).filter(|set| sets::replicas(set) > 0).collect();
    for set in active.into_iter().filter(|set| !is_noted(set, wanted)) {
        step.resize(set, sets::replicas(set));
    }
}

/// The one set with replicas, or the latest where none has any; `None` where several have.
fn only_or_latest<'o>(step: &Step<'o>) -> Option<&'o ReplicaSet> {
    let sets: Vec<&'o ReplicaSet> = step.old.iter().copied().chain(step.new).collect();
    let active: Vec<&'o ReplicaSet> =
        sets.iter().copied().filter(|set| sets::replicas(set) > 0).collect();
    match active.as_slice() {
        [] => step.new.or_else(|| step.old.last().copied()),
        [one] => Some(one),
        _ => None,
    }
}

/// Whether a set says that it was sized for so many replicas of its deployment.
fn is_noted(set: &ReplicaSet, wanted: i32) -> bool {
    sets::annotation(set, sets::DESIRED) == Some(wanted.to_string().as_str())
}

fn is_saturated(step: &Step<'_>, set: &ReplicaSet) -> bool {
    let wanted = sets::wanted(step.deployment);
    let noted: Option<i32> =
        sets::annotation(set, sets::DESIRED).and_then(|text| text.parse().ok());
    sets::replicas(set) == wanted && noted == Some(wanted) && sets::available(set) == wanted
}

fn in_proportion(step: &mut Step<'_>) {
    let wanted = sets::wanted(step.deployment);
    let mut active: Vec<&ReplicaSet> =
        step.old.iter().copied().chain(step.new).filter(|set| sets::replicas(set) > 0).collect();
    let total = sets::total_wanted(active.iter().copied());
    let allowed = if wanted > 0 { wanted + sets::max_surge(step.deployment) } else { 0 };
    let to_add = allowed - total;
    // Larger sets first; of equal ones the newer when growing, the older when shrinking.
    active.sort_by(|a, b| {
        let age = if to_add > 0 { sets::by_age(b, a) } else { sets::by_age(a, b) };
        sets::replicas(b).cmp(&sets::replicas(a)).then(age)
    });
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::new();
    for set in &active {
        let share = if to_add == 0 { 0 } else { share_of(step, set, to_add, added) };
        sizes.push(sets::replicas(set) + share);
        added += share;
    }
    if let Some(first) = sizes.first_mut().filter(|_| to_add != 0) {
        *first = (*first + to_add - added).max(0);
    }
    for (set, size) in active.into_iter().zip(sizes) {
        if sets::replicas(set) != size || !is_noted(set, wanted) {
            step.resize(set, size);
        }
    }
}

/// The part of `to_add` that a set gets, by the share it had when it was last sized.
fn share_of(step: &Step<'_>, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let size = sets::replicas(set);
    if size == 0 {
        return 0;
    }
    let fraction = fraction(step, set);
    let allowed = to_add - added;
    if to_add > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

fn fraction(step: &Step<'_>, set: &ReplicaSet) -> i32 {
    let wanted = sets::wanted(step.deployment);
    let size = sets::replicas(set);
    if wanted == 0 {
        return -size;
    }
    let most = i64::from(wanted + sets::max_surge(step.deployment));
    let before: i64 = sets::annotation(set, sets::MAX_REPLICAS)
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| {
            i64::from(step.deployment.status.as_ref().and_then(|it| it.replicas).unwrap_or(wanted))
        });
    if before == 0 {
        return 0;
    }
    let numerator = i64::from(size) * most;
    // Rounded to the nearest.
    let rounded = (2 * numerator + before).div_euclid(2 * before);
    i32::try_from(rounded).unwrap_or(i32::MAX) - size
}
