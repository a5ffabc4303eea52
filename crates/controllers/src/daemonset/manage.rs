//! Which nodes need a pod, and which pods are to go. Upstream: `manage` in `daemon_controller.go`.

use std::collections::BTreeMap;

use client::events::EventType;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;

use super::plan::Round;
use super::{backoff::Backoff, template};
use crate::nodes::NodeFacts;
use crate::pods;

/// What a set thinks of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// A pod is to run there.
    pub(super) should_run: bool,
    /// A pod that is there may stay.
    pub(super) may_stay: bool,
}

impl Place {
    pub(super) const NOT: Self = Self { should_run: false, may_stay: false };
}

/// Whether a set runs on a node.
pub(super) fn place(set: &DaemonSet, node: &NodeFacts) -> Place {
    let Some(spec) = set.spec.template.spec.as_ref() else { return Place::NOT };
    let named = spec.node_name.as_deref().unwrap_or_default();
    if !(named.is_empty() || named == node.name) || !node.fits(spec) {
        return Place::NOT;
    }
    let tolerations = template::tolerations(set);
    if node.repels(&tolerations, &["NoSchedule", "NoExecute"]) {
        return Place { should_run: false, may_stay: !node.repels(&tolerations, &["NoExecute"]) };
    }
    Place { should_run: true, may_stay: true }
}

/// The node that a pod runs on or is meant for.
pub(super) fn target(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_ref().filter(|it| !it.is_empty()) {
        return Some(name.clone());
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields =
        required.node_selector_terms.iter().flat_map(|it| it.match_fields.iter().flatten());
    fields
        .filter(|it| it.key == "metadata.name" && it.operator == "In")
        .find_map(|it| it.values.as_ref()?.first().cloned())
}

/// The pods of each node, the one that counts first: those that run before those that wait, then the oldest.
pub(super) fn by_node<'o>(pods: &[&'o Pod]) -> BTreeMap<String, Vec<&'o Pod>> {
    let mut nodes: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        let gone = matches!(pods::phase(pod), "Succeeded" | "Failed")
            && pod.metadata.deletion_timestamp.is_some();
        if let Some(node) = target(pod).filter(|_| !gone) {
            nodes.entry(node).or_default().push(pod);
        }
    }
    for pods in nodes.values_mut() {
        pods.sort_by_key(|pod| {
            let assigned = pod.spec.as_ref().and_then(|it| it.node_name.as_deref());
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (assigned.is_none_or(str::is_empty), created, pod.metadata.name.clone())
        });
    }
    nodes
}

/// What is to be made and taken.
#[derive(Debug, Default)]
pub(super) struct Changes<'o> {
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<&'o Pod>,
}

impl Changes<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty()
    }
}

/// What has to change so that each node has its pod and no other.
pub(super) fn manage<'o>(round: &mut Round<'_, 'o>, backoff: &mut Backoff) -> Changes<'o> {
    let mut changes = Changes::default();
    for (index, node) in round.observed.nodes.iter().enumerate() {
        let place = round.places[index];
        let Some(pods) = round.by_node.get(&node.name).filter(|it| !it.is_empty()) else {
            if place.should_run {
                changes.create.push(node.name.clone());
            }
            continue;
        };
        let pods = pods.clone();
        let alive = pods.iter().copied().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        if place.may_stay {
            let running = without_finished(round, &mut changes, backoff, &node.name, alive);
            surplus(round, &mut changes, &running);
        } else {
            changes.delete.extend(alive);
        }
    }
    // A pod that waits for a node that is gone would wait for ever.
    let known = |name: &String| round.observed.nodes.iter().any(|node| node.name == *name);
    for (_, pods) in round.by_node.iter().filter(|(name, _)| !known(name)) {
        let waiting = pods.iter().copied().filter(|pod| {
            let name = pod.spec.as_ref().and_then(|it| it.node_name.as_deref());
            name.is_none_or(str::is_empty) && pod.metadata.deletion_timestamp.is_none()
        });
        changes.delete.extend(waiting);
    }
    changes
}

/// Takes the pods that are over, those that failed not more often than their node's pause allows.
fn without_finished<'o>(
    round: &mut Round<'_, 'o>,
    changes: &mut Changes<'o>,
    backoff: &mut Backoff,
    node: &str,
    pods: impl Iterator<Item = &'o Pod>,
) -> Vec<&'o Pod> {
    let mut running = Vec::new();
    for pod in pods {
        let name = crate::owner::key_of(&pod.metadata);
        match pods::phase(pod) {
            "Failed" => {
                if let Some(until) = backoff.failed(node, round.now) {
                    round.plan.requeue_by(until);
                    continue;
                }
                let message =
                    format!("Found failed daemon pod {name} on node {node}, will try to kill it");
                round.tell(EventType::Warning, "FailedDaemonPod", message);
                changes.delete.push(pod);
            }
            "Succeeded" => {
                let message = format!(
                    "Found succeeded daemon pod {name} on node {node}, will try to delete it"
                );
                round.tell(EventType::Normal, "SucceededDaemonPod", message);
                changes.delete.push(pod);
            }
            _ => running.push(pod),
        }
    }
    running
}

/// Takes the pods of a node that are more than one, or more than one of each revision while it surges.
fn surplus<'o>(round: &Round<'_, 'o>, changes: &mut Changes<'o>, running: &[&'o Pod]) {
    if !round.may_surge() {
        changes.delete.extend(running.iter().skip(1));
        return;
    }
    let (mut new, mut old) = (None, None);
    for pod in running.iter().copied().filter(|_| running.len() > 1) {
        let place = if round.is_hashed(pod) { &mut new } else { &mut old };
        match place {
            None => *place = Some(pod),
            Some(_) => changes.delete.push(pod),
        }
    }
    if let (Some(new), Some(old)) = (new, old)
        && (!pods::is_ready(old) || round.is_available(new))
    {
        changes.delete.push(old);
    }
}
