//! What is to be done for a deployment: one step towards the wanted state.

use std::collections::BTreeMap;

use apimachinery::Value;
use client::Resource;
use client::events::EventType;
use controller::plan::PlannedAction;
use controller::{Action, Event, Plan};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::{Memory, Observed, rollback, rolling, scale, sets, status};
use crate::owner::{self, Owner, key_of, to_value};

/// A step being planned.
pub(super) struct Step<'o> {
    pub(super) deployment: &'o Deployment,
    pub(super) new: Option<&'o ReplicaSet>,
    /// The other sets, oldest first.
    pub(super) old: Vec<&'o ReplicaSet>,
    pub(super) running_pods: &'o BTreeMap<String, usize>,
    pub(super) collisions: Option<i32>,
    pub(super) plan: Plan,
    /// Whether a set was created or resized: the status then waits for the next step.
    pub(super) moved: bool,
    /// Whether the counts of the status show progress, which gives the deadline another start.
    pub(super) progressed: bool,
    /// The set that is made first of all.
    pub(super) creating: Option<String>,
    /// The revision that the deployment is to have, where it has another: written with its status, as upstream does.
    pub(super) revision: Option<String>,
    /// A reason and message for the condition Progressing that this step gives.
    pub(super) progress: Option<(&'static str, String)>,
    pub(super) now: Timestamp,
}

pub(super) fn plan(observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
    let deployment = &observed.deployment;
    let owner =
        Owner { api_version: "apps/v1", kind: "Deployment", metadata: &deployment.metadata };
    let selector = owner::selector(&sets::spec(deployment).selector);
    let mut plan = Plan::nothing();
    let claimed = owner::claim(&mut plan, &owner, &set_resource(), &observed.sets, |set| {
        owner::matches(&selector, &set.metadata)
    });
    let mut mine: Vec<ReplicaSet> = claimed.into_iter().cloned().collect();
    mine.sort_by(sets::by_age);
    let new = sets::new_set(deployment, &mine);
    let old = mine
        .iter()
        .filter(|set| new.is_none_or(|new| new.metadata.uid != set.metadata.uid))
        .collect();
    let mut step = Step {
        deployment,
        new,
        old,
        running_pods: &observed.running_pods,
        collisions: observed.collisions,
        plan,
        moved: false,
        progressed: false,
        creating: None,
        revision: None,
        progress: None,
        now,
    };
    if let Some(why) = memory.refused.take() {
        status::refused(&mut step, memory.creating.as_deref().unwrap_or_default(), &why);
    }
    step.run(&owner);
    memory.creating = step.creating;
    step.plan
}

pub(super) fn set_resource() -> Resource {
    Resource::of::<ReplicaSet>()
}

impl Step<'_> {
    fn run(&mut self, owner: &Owner<'_>) {
        if owner::is_deleting(&self.deployment.metadata) {
            return status::write(self);
        }
        self.plan.then();
        let paused = sets::spec(self.deployment).paused.unwrap_or_default();
        if paused {
            if !self.update_new_set() {
                scale::scale(self);
                self.clean_up();
            }
            return status::write(self);
        }
        if let Some(revision) = rollback::wanted(self.deployment) {
            return rollback::roll_back(self, owner, revision);
        }
        if scale::is_scaling(self) {
            if !self.update_new_set() {
                scale::scale(self);
            }
            return status::write(self);
        }
        if sets::is_rolling(self.deployment) {
            self.ensure_new_set(owner, rolling::new_size(self));
            if !self.moved {
                rolling::roll(self);
            }
        } else {
            self.recreate(owner);
        }
        if !self.moved && status::is_complete(self.deployment, self.new) {
            self.clean_up();
        }
        status::write(self);
    }

    /// The revision that comes after those of the old sets.
    fn next_revision(&self) -> i64 {
        self.old.iter().map(|set| sets::revision(set)).max().unwrap_or_default() + 1
    }

    /// Brings the annotations of the present template's set up to date, and the deployment's revision; whether the set is
    /// written.
    fn update_new_set(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let target = self.next_revision().max(sets::revision(new));
        self.set_revision(target);
        let updated = sets::updated_set(self.deployment, new, target);
        self.moved |= updated.is_some();
        if let Some(object) = updated {
            self.plan.act(Action::Update { resource: set_resource(), subresource: "", object });
        }
        self.moved
    }

    /// Makes the set of the present template, or brings its annotations up to date; also the deployment's revision.
    pub(super) fn ensure_new_set(&mut self, owner: &Owner<'_>, size: i32) {
        if self.new.is_some() {
            self.update_new_set();
            return;
        }
        let revision = self.next_revision();
        let size = sets::Size { replicas: size, revision };
        let object = sets::make_set(self.deployment, owner, self.collisions, &size);
        let name = object.str_at(&["metadata", "name"]).to_owned();
        self.set_revision(revision);
        let namespace = self.deployment.metadata.namespace.clone().unwrap_or_default();
        let message = format!("Scaled up replica set {name} from 0 to {}", size.replicas);
        let made = (size.replicas > 0)
            .then(|| self.event(EventType::Normal, "ScalingReplicaSet", message));
        let refused = format!("Failed to create new replica set \"{name}\": {{error}}");
        let refused = self.event(EventType::Warning, status::REFUSED, refused);
        let action =
            Action::Create { resource: set_resource(), namespace, object, exists_is_fine: false };
        self.creating = self.plan.is_quiet().then(|| name.clone());
        self.plan.then();
        let planned = self.plan.act(action);
        planned.on_success = made;
        planned.on_failure = vec![refused];
        self.progress =
            Some(("NewReplicaSetCreated", format!("Created new replica set \"{name}\"")));
        self.moved = true;
    }

    fn set_revision(&mut self, revision: i64) {
        let text = revision.to_string();
        let current =
            self.deployment.metadata.annotations.as_ref().and_then(|it| it.get(sets::REVISION));
        self.revision = Some(text).filter(|text| current != Some(text));
    }

    /// All old pods go before the first new one comes.
    fn recreate(&mut self, owner: &Owner<'_>) {
        if self.update_new_set() {
            return;
        }
        let old: Vec<&ReplicaSet> =
            self.old.iter().copied().filter(|set| sets::replicas(set) > 0).collect();
        for set in &old {
            self.resize(set, 0);
        }
        if !old.is_empty() {
            return;
        }
        let old_pods: i32 = self.old.iter().map(|set| sets::status_replicas(set)).sum();
        let new = self.new.and_then(|set| set.metadata.uid.as_ref());
        let running = self.running_pods.iter().any(|(set, pods)| Some(set) != new && *pods > 0);
        if old_pods > 0 || running {
            return;
        }
        let wanted = sets::wanted(self.deployment);
        self.ensure_new_set(owner, wanted);
        if let Some(new) = self.new.filter(|_| !self.moved) {
            self.resize_if_needed(new, wanted);
        }
    }

    pub(super) fn resize_if_needed(&mut self, set: &ReplicaSet, size: i32) {
        if sets::replicas(set) != size {
            self.resize(set, size);
        }
    }

    /// Resizes a set and tells of it; or notes only what it was sized for, where it has the size.
    pub(super) fn resize(&mut self, set: &ReplicaSet, size: i32) {
        let before = sets::replicas(set);
        let mut object = to_value(set);
        object.set_at(&["spec", "replicas"], size);
        sets::annotate_size(self.deployment, &mut object);
        let direction = if before < size { "up" } else { "down" };
        let name = set.metadata.name.clone().unwrap_or_default();
        let message = format!("Scaled {direction} replica set {name} from {before} to {size}");
        let event = self.event(EventType::Normal, "ScalingReplicaSet", message);
        let planned: &mut PlannedAction =
            self.plan.act(Action::Update { resource: set_resource(), subresource: "", object });
        planned.on_success = (before != size).then_some(event);
        self.moved = true;
    }

    pub(super) fn event(&self, kind: EventType, reason: &'static str, message: String) -> Event {
        let about = owner::reference_to("apps/v1", "Deployment", &self.deployment.metadata);
        Event { about, kind, reason, message }
    }

    /// Deletes old sets beyond the history that is to be kept: empty ones, lowest revision first.
    fn clean_up(&mut self) {
        let Some(limit) = sets::spec(self.deployment).revision_history_limit else { return };
        let idle = |set: &&ReplicaSet| {
            sets::replicas(set) == 0
                && sets::status_replicas(set) == 0
                && set.metadata.generation.unwrap_or_default()
                    <= set.status.as_ref().and_then(|it| it.observed_generation).unwrap_or_default()
                && !owner::is_deleting(&set.metadata)
        };
        let mut candidates: Vec<&ReplicaSet> =
            self.old.iter().copied().filter(|set| !owner::is_deleting(&set.metadata)).collect();
        let keep = usize::try_from(limit).unwrap_or_default();
        let surplus = candidates.len().saturating_sub(keep);
        candidates.sort_by_key(|set| sets::revision(set));
        let gone: Vec<&ReplicaSet> = candidates.into_iter().take(surplus).filter(idle).collect();
        for set in gone {
            self.plan.act(Action::Delete {
                resource: set_resource(),
                key: key_of(&set.metadata),
                uid: set.metadata.uid.clone().unwrap_or_default(),
                propagation: None,
                grace_period_seconds: None,
                resource_version: String::new(),
            });
        }
    }

    /// All sets.
    pub(super) fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().copied().chain(self.new)
    }

    /// The deployment with another status.
    pub(super) fn with_status(&self, status: Value) -> Value {
        let mut object = to_value(self.deployment);
        object.set_at(&["status"], status);
        if let Some(revision) = &self.revision {
            object.set_at(&["metadata", "annotations", sets::REVISION], revision.as_str());
        }
        object
    }
}
