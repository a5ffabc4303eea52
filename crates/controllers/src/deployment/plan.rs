//! What is to be done for a deployment: one step towards the wanted state.

use apimachinery::Value;
use client::Resource;
use client::events::EventType;
use controller::plan::PlannedAction;
use controller::{Action, Event, Plan};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::{Observed, rolling, scale, sets, status};
use crate::owner::{self, Owner, key_of, to_value};

/// A step being planned.
pub(super) struct Step<'o> {
    pub(super) deployment: &'o Deployment,
    pub(super) new: Option<&'o ReplicaSet>,
    /// The other sets, oldest first.
    pub(super) old: Vec<&'o ReplicaSet>,
    pub(super) running_pods: usize,
    pub(super) collisions: Option<i32>,
    pub(super) plan: Plan,
    /// Whether a set was created or resized: the status then waits for the next step.
    pub(super) moved: bool,
    /// The revision that the deployment is to have, where it has another: written with its status, as upstream does.
    pub(super) revision: Option<String>,
    /// A reason and message for the condition Progressing that this step gives.
    pub(super) progress: Option<(&'static str, String)>,
    pub(super) now: Timestamp,
}

pub(super) fn plan(observed: &Observed, now: Timestamp) -> Plan {
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
        running_pods: observed.running_pods,
        collisions: observed.collisions,
        plan,
        moved: false,
        revision: None,
        progress: None,
        now,
    };
    step.run(&owner);
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
            scale::scale(self);
            self.clean_up();
            return status::write(self);
        }
        if scale::is_scaling(self) {
            scale::scale(self);
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
        if !self.moved && status::is_complete(self.deployment, self.new, self.running_pods) {
            self.clean_up();
        }
        status::write(self);
    }

    /// Makes the set of the present template, or brings its annotations up to date; also the deployment's revision.
    fn ensure_new_set(&mut self, owner: &Owner<'_>, size: i32) {
        let next = self.old.iter().map(|set| sets::revision(set)).max().unwrap_or_default() + 1;
        let Some(new) = self.new else {
            let object = {
                let size = sets::Size { replicas: size, revision: next };
                sets::make_set(self.deployment, owner, self.collisions, &size)
            };
            let name = object.str_at(&["metadata", "name"]).to_owned();
            self.set_revision(next);
            let namespace = self.deployment.metadata.namespace.clone().unwrap_or_default();
            let message = format!("Scaled up replica set {name} from 0 to {size}");
            let event = (size > 0).then(|| self.event("ScalingReplicaSet", message));
            let action = Action::Create {
                resource: set_resource(),
                namespace,
                object,
                exists_is_fine: false,
            };
            self.plan.then();
            let planned = self.plan.act(action);
            planned.on_success = event;
            self.progress =
                Some(("NewReplicaSetCreated", format!("Created new replica set \"{name}\"")));
            self.moved = true;
            return;
        };
        let target = next.max(sets::revision(new));
        self.set_revision(target);
        if let Some(object) = sets::updated_set(self.deployment, new, target) {
            self.plan.act(Action::Update { resource: set_resource(), subresource: "", object });
            self.moved = true;
        }
    }

    fn set_revision(&mut self, revision: i64) {
        let text = revision.to_string();
        let current =
            self.deployment.metadata.annotations.as_ref().and_then(|it| it.get(sets::REVISION));
        self.revision = Some(text).filter(|text| current != Some(text));
    }

    /// All old pods go before the first new one comes.
    fn recreate(&mut self, owner: &Owner<'_>) {
        let old: Vec<&ReplicaSet> =
            self.old.iter().copied().filter(|set| sets::replicas(set) > 0).collect();
        for set in &old {
            self.resize(set, 0);
        }
        if !old.is_empty() {
            return;
        }
        let old_pods: i32 = self.old.iter().map(|set| sets::status_replicas(set)).sum();
        let new_pods = self.new.map_or(0, sets::status_replicas);
        let terminating = usize::try_from(new_pods).is_ok_and(|new| self.running_pods > new)
            && self.new.is_none();
        if old_pods > 0 || terminating {
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
        let event = self.event("ScalingReplicaSet", message);
        let planned: &mut PlannedAction =
            self.plan.act(Action::Update { resource: set_resource(), subresource: "", object });
        planned.on_success = (before != size).then_some(event);
        self.moved = true;
    }

    fn event(&self, reason: &'static str, message: String) -> Event {
        let about = owner::reference_to("apps/v1", "Deployment", &self.deployment.metadata);
        Event { about, kind: EventType::Normal, reason, message }
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
