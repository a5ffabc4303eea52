//! What a DaemonSet says of itself.

use apimachinery::value;
use client::Resource;
use controller::Action;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;

use super::plan::Round;
use crate::owner::to_value;
use crate::pods;

/// The counts of a status.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    desired: i32,
    current: i32,
    misscheduled: i32,
    ready: i32,
    updated: i32,
    available: i32,
}

fn count(round: &Round<'_, '_>) -> Counts {
    let mut counts = Counts::default();
    for (node, place) in round.observed.nodes.iter().zip(&round.places) {
        let first: Option<&Pod> = round.by_node.get(&node.name).and_then(|it| it.first().copied());
        if !place.should_run {
            counts.misscheduled += i32::from(first.is_some());
            continue;
        }
        counts.desired += 1;
        let Some(pod) = first else { continue };
        counts.current += 1;
        counts.ready += i32::from(pods::is_ready(pod));
        counts.available += i32::from(round.is_available(pod));
        counts.updated += i32::from(round.is_updated(pod));
    }
    counts
}

/// Plans the write of the status, where it differs, and the next look at pods that only wait to be available.
pub(super) fn write(round: &mut Round<'_, '_>) {
    let counts = count(round);
    let set = &round.observed.set;
    let old = to_value(&set.status);
    let mut status = value!({
        "currentNumberScheduled": (counts.current), "desiredNumberScheduled": (counts.desired),
        "numberMisscheduled": (counts.misscheduled), "numberReady": (counts.ready)
    });
    let optional = [
        ("updatedNumberScheduled", counts.updated),
        ("numberAvailable", counts.available),
        ("numberUnavailable", counts.desired - counts.available),
    ];
    for (name, number) in optional.into_iter().filter(|(_, number)| *number != 0) {
        status.set_at(&[name], number);
    }
    if let Some(generation) = set.metadata.generation.filter(|it| *it != 0) {
        status.set_at(&["observedGeneration"], generation);
    }
    if let Some(collisions) = round.observed.kept.collisions {
        status.set_at(&["collisionCount"], collisions);
    }
    if let Some(conditions) = old.at(&["conditions"]) {
        status.set_at(&["conditions"], conditions.clone());
    }
    let min_ready = set.spec.min_ready_seconds.unwrap_or_default();
    let waiting = round.by_node.values().flatten();
    let next = waiting.filter_map(|pod| pods::available_at(pod, min_ready));
    if let Some(at) = next.filter(|at| *at > round.now).min() {
        round.plan.requeue_by(at);
    }
    if status == old {
        return;
    }
    let mut object = to_value(set);
    object.set_at(&["status"], status);
    round.plan.then();
    round.plan.act(Action::Update {
        resource: Resource::of::<DaemonSet>(),
        subresource: "status",
        object,
    });
}
