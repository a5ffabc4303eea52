//! Rolling from one template to the next, within surge and unavailability. Upstream: `rolling.go`.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::plan::Step;
use super::sets;

/// How large the new set is to be now.
pub(super) fn new_size(step: &Step<'_>) -> i32 {
    let wanted = sets::wanted(step.deployment);
    if !sets::is_rolling(step.deployment) {
        return wanted;
    }
    let current = step.new.map_or(0, sets::replicas);
    let total = sets::total_wanted(step.all());
    let most = wanted + sets::max_surge(step.deployment);
    if total >= most {
        return current;
    }
    current + (most - total).min(wanted - current)
}

/// One step: the new set grows, or the old ones shrink.
pub(super) fn roll(step: &mut Step<'_>) {
    let Some(new) = step.new else { return };
    let wanted = sets::wanted(step.deployment);
    let size = if sets::replicas(new) > wanted { wanted } else { new_size(step) };
    if sets::replicas(new) != size {
        return step.resize(new, size);
    }
    shrink_old(step, new);
}

fn shrink_old(step: &mut Step<'_>, new: &ReplicaSet) {
    let old_total = sets::total_wanted(step.old.iter().copied());
    if old_total == 0 {
        return;
    }
    let all = old_total + sets::replicas(new);
    let least = sets::wanted(step.deployment) - sets::max_unavailable(step.deployment);
    let new_unavailable = sets::replicas(new) - sets::available(new);
    let most_to_go = all - least - new_unavailable;
    if most_to_go <= 0 {
        return;
    }
    let mut old: Vec<(&ReplicaSet, i32)> = step
        .old
        .iter()
        .map(|set| (*set, sets::replicas(set)))
        .filter(|(_, size)| *size > 0)
        .collect();
    let unhealthy = shrink_unhealthy(&mut old, most_to_go);
    let available: i32 = step.all().map(sets::available).sum();
    shrink_healthy(&mut old, available - least - 0.min(unhealthy));
    for (set, size) in old {
        step.resize_if_needed(set, size);
    }
}

/// Pods that are not available go first: that costs nothing.
fn shrink_unhealthy(old: &mut [(&ReplicaSet, i32)], most: i32) -> i32 {
    let mut gone = 0;
    for (set, size) in old {
        if gone >= most {
            break;
        }
        let unhealthy = *size - sets::available(set);
        let here = unhealthy.clamp(0, most - gone);
        *size -= here;
        gone += here;
    }
    gone
}

fn shrink_healthy(old: &mut [(&ReplicaSet, i32)], mut left: i32) {
    for (_, size) in old {
        if left <= 0 {
            break;
        }
        let here = (*size).min(left);
        *size -= here;
        left -= here;
    }
}
