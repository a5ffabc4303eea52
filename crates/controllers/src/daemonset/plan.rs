//! What is to be done for a DaemonSet.

use std::collections::BTreeMap;

use client::Resource;
use client::events::EventType;
use controller::plan::PlannedAction;
use controller::{Action, Event, Plan};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSetUpdateStrategy;
use k8s_openapi::api::core::v1::Pod;

use super::backoff::Backoff;
use super::manage::{self, Changes, Place};
use super::template::{self, GENERATION_LABEL, HASH_LABEL};
use super::{Observed, history, rolling, status};
use crate::owner::{self, Owner};
use crate::pods;

/// The most pods that one plan makes, and the most that it takes (upstream: `BurstReplicas`).
const BURST: usize = 250;

/// What a plan is made from. `'p` is the plan's, `'o` the observed.
pub(super) struct Round<'p, 'o> {
    pub(super) plan: &'p mut Plan,
    pub(super) observed: &'o Observed,
    /// What the set thinks of each node.
    pub(super) places: Vec<Place>,
    /// Its pods by node.
    pub(super) by_node: BTreeMap<String, Vec<&'o Pod>>,
    /// The label of the present revision.
    pub(super) hash: String,
    pub(super) now: Timestamp,
}

impl Round<'_, '_> {
    pub(super) fn strategy(&self) -> Option<&DaemonSetUpdateStrategy> {
        self.observed.set.spec.update_strategy.as_ref()
    }

    fn is_rolling(&self) -> bool {
        let kind = self.strategy().and_then(|it| it.type_.as_deref());
        kind.unwrap_or("RollingUpdate") == "RollingUpdate"
    }

    /// Whether a node may have two pods for a while.
    pub(super) fn may_surge(&self) -> bool {
        use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
        let rolling = self.strategy().and_then(|it| it.rolling_update.as_ref());
        let surge = rolling.and_then(|it| it.max_surge.as_ref());
        self.is_rolling()
            && surge.is_some_and(|it| match it {
                IntOrString::Int(number) => *number != 0,
                IntOrString::String(text) => text != "0%",
            })
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        let seconds = self.observed.set.spec.min_ready_seconds.unwrap_or_default();
        pods::is_available(pod, seconds, self.now)
    }

    /// Whether a pod has the label of the present revision.
    pub(super) fn is_hashed(&self, pod: &Pod) -> bool {
        let labels = pod.metadata.labels.as_ref();
        labels.and_then(|it| it.get(HASH_LABEL)).is_some_and(|it| *it == self.hash)
    }

    /// Whether a pod is of the present template, by its revision or by its generation.
    pub(super) fn is_updated(&self, pod: &Pod) -> bool {
        let labels = pod.metadata.labels.as_ref();
        let generation = labels.and_then(|it| it.get(GENERATION_LABEL)).map(String::as_str);
        let wanted = template::generation(&self.observed.set);
        self.is_hashed(pod) || (wanted.is_some() && generation == wanted)
    }

    pub(super) fn should_run(&self, node: &str) -> bool {
        let nodes = self.observed.nodes.iter().zip(&self.places);
        nodes.into_iter().any(|(it, place)| it.name == node && place.should_run)
    }

    pub(super) fn tell(&mut self, kind: EventType, reason: &'static str, message: String) {
        self.plan.events.push(event(self.observed, kind, reason, message));
    }
}

pub(super) fn plan(observed: &Observed, backoff: &mut Backoff, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let set = &observed.set;
    let selector = owner::selector(&set.spec.selector);
    if selector.is_everything() {
        let message =
            "This daemon set is selecting all pods. A non-empty selector is required.".into();
        plan.events.push(event(observed, EventType::Warning, "SelectingAll", message));
        return plan;
    }
    if owner::is_deleting(&set.metadata) {
        return plan;
    }
    let owner = Owner { api_version: "apps/v1", kind: "DaemonSet", metadata: &set.metadata };
    let fits = |pod: &Pod| owner::matches(&selector, &pod.metadata);
    let pods = owner::claim(&mut plan, &owner, &Resource::of::<Pod>(), &observed.pods, fits);
    let revisions =
        owner::claim(&mut plan, &owner, &crate::history::resource(), &observed.revisions, |it| {
            owner::matches(&selector, &it.metadata)
        });
    let revisions = history::construct(&mut plan, observed, &owner, revisions, &pods);
    let mut round = Round {
        plan: &mut plan,
        observed,
        places: observed.nodes.iter().map(|node| manage::place(set, node)).collect(),
        by_node: manage::by_node(&pods),
        hash: revisions.hash,
        now,
    };
    status::write(&mut round);
    let mut changes = manage::manage(&mut round, backoff);
    // A rollout goes on only from where each node has its pod.
    if changes.is_empty() && round.is_rolling() {
        changes = rolling::roll(&round);
    }
    let hash = round.hash.clone();
    carry_out(&mut plan, observed, &owner, &hash, changes);
    let limit = set.spec.revision_history_limit.unwrap_or(10);
    plan.then();
    history::clean_up(&mut plan, limit, &revisions.old, &pods);
    plan
}

fn carry_out(
    plan: &mut Plan,
    observed: &Observed,
    owner: &Owner<'_>,
    hash: &str,
    changes: Changes<'_>,
) {
    let namespace = observed.set.metadata.namespace.clone().unwrap_or_default();
    let event = |kind, reason, message: String| Some(event(observed, kind, reason, message));
    let creations = changes.create.iter().take(BURST).map(|node| {
        PlannedAction::new(
            Action::Create {
                resource: Resource::of::<Pod>(),
                namespace: namespace.clone(),
                object: template::pod(&observed.set, &observed.template, hash, owner, node),
                exists_is_fine: false,
            },
            event(EventType::Normal, "SuccessfulCreate", "Created pod: {name}".into()),
            event(EventType::Warning, "FailedCreate", "Error creating: {error}".into())
                .into_iter()
                .collect(),
        )
    });
    pods::slow_start(plan, creations);
    plan.then();
    for pod in changes.delete.into_iter().take(BURST) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        plan.add(PlannedAction::new(
            owner::delete(Resource::of::<Pod>(), &pod.metadata),
            event(EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}")),
            event(EventType::Warning, "FailedDelete", "Error deleting: {error}".into())
                .into_iter()
                .collect(),
        ));
    }
}

fn event(observed: &Observed, kind: EventType, reason: &'static str, message: String) -> Event {
    let about = owner::reference_to("apps/v1", "DaemonSet", &observed.set.metadata);
    Event { about, kind, reason, message }
}

#[cfg(test)]
mod tests;
