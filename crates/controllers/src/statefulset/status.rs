//! What a StatefulSet says of itself.

use apimachinery::{Value, value};
use client::Resource;
use controller::Action;
use k8s_openapi::api::core::v1::Pod;

use super::identity;
use super::plan::Round;
use crate::owner::{is_deleting, to_value};
use crate::pods;

/// The counts of a status.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Counts {
    total: i32,
    ready: i32,
    available: i32,
    current: i32,
    updated: i32,
}

fn count(round: &Round<'_>, pods: &[&Pod]) -> Counts {
    let mut counts = Counts::default();
    for pod in pods {
        let ready = pods::phase(pod) == "Running" && pods::is_ready(pod);
        counts.total += 1;
        counts.ready += i32::from(ready);
        counts.available += i32::from(ready && round.is_available(pod));
        if !is_deleting(&pod.metadata) {
            let revision = identity::revision(pod);
            counts.current += i32::from(revision == round.revisions.current.name);
            counts.updated += i32::from(revision == round.revisions.update.name);
        }
    }
    counts
}

/// The write of the status, where it differs. `leaving` pods of the current revision are about to go.
pub(super) fn write(round: &mut Round<'_>, pods: &[&Pod], leaving: i32) -> Option<Action> {
    let set = round.set();
    let min_ready = set.spec.min_ready_seconds.unwrap_or_default();
    let next = pods.iter().filter_map(|pod| pods::available_at(pod, min_ready));
    let next = next.filter(|at| *at > round.now).min();
    let mut counts = count(round, pods);
    counts.current -= leaving;
    let mut current = round.revisions.current.name.as_str();
    let update = round.revisions.update.name.as_str();
    let wanted = identity::replicas(set);
    let done = [counts.updated, counts.ready, counts.total].iter().all(|count| *count == wanted);
    // Whatever the strategy: with OnDelete it is who deletes the last of them that completes the update.
    if done {
        counts.current = counts.updated;
        current = update;
    }
    let mut status = value!({
        "replicas": (counts.total), "availableReplicas": (counts.available), "currentRevision": current,
        "updateRevision": update, "collisionCount": (round.observed.kept.collisions.unwrap_or_default())
    });
    let optional = [
        ("readyReplicas", counts.ready),
        ("currentReplicas", counts.current),
        ("updatedReplicas", counts.updated),
    ];
    for (name, number) in optional.into_iter().filter(|(_, number)| *number != 0) {
        status.set_at(&[name], number);
    }
    if let Some(generation) = set.metadata.generation.filter(|it| *it != 0) {
        status.set_at(&["observedGeneration"], generation);
    }
    let old: Value = to_value(&set.status);
    let mut object = to_value(set);
    if let Some(at) = next {
        round.plan.requeue_by(at);
    }
    if status == old {
        return None;
    }
    object.set_at(&["status"], status);
    let resource = Resource::built_in("apps", "statefulsets");
    Some(Action::Update { resource, subresource: "status", object })
}
