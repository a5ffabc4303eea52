//! What is to be done for a StatefulSet. Upstream: `stateful_set_control.go`.

use std::collections::BTreeMap;

use client::Resource;
use client::events::EventType;
use controller::plan::PlannedAction;
use controller::{Action, Event, Plan};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::revisions::{self, Revisions};
use super::{Observed, claims, identity, rolling, status};
use crate::owner::{self, Owner, is_deleting, to_value};
use crate::pods;

/// The most pods that one plan makes; the next one makes the others.
pub(super) const BURST: usize = 500;

/// What a plan is made from.
pub(super) struct Round<'o> {
    /// What is done with pods and claims.
    pub(super) plan: Plan,
    pub(super) observed: &'o Observed,
    pub(super) revisions: Revisions<'o>,
    /// The pods that there are of those that are wanted, by number.
    pub(super) slots: BTreeMap<i32, &'o Pod>,
    /// The pods that are not wanted, highest number first.
    condemned: Vec<&'o Pod>,
    creations: Vec<PlannedAction>,
    /// Whether several pods may be updated at a time.
    pub(super) max_unavailable: bool,
    /// What such an update went by.
    pub(super) counts: Option<rolling::Counts>,
    pub(super) now: Timestamp,
}

/// Whether the pods of higher numbers have their turn too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Go,
    Stop,
}

/// The plan, and what an update went by.
pub(super) fn plan(
    observed: &Observed,
    max_unavailable: bool,
    now: Timestamp,
) -> (Plan, Option<rolling::Counts>) {
    let set = &observed.set;
    let owner = Owner { api_version: "apps/v1", kind: "StatefulSet", metadata: &set.metadata };
    let selector = owner::selector(&set.spec.selector);
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let mut plan = Plan::nothing();
    let fits =
        |pod: &Pod| owner::matches(&selector, &pod.metadata) && identity::is_member(name, pod);
    let pods = owner::claim(&mut plan, &owner, &Resource::of::<Pod>(), &observed.pods, fits);
    let revisions = revisions::find(&mut plan, observed, &owner);
    let numbered = pods.iter().filter_map(|pod| Some((identity::ordinal(pod)?, *pod)));
    let (slots, mut condemned): (Vec<_>, Vec<_>) =
        numbered.partition(|(ordinal, _)| identity::is_in_range(set, *ordinal));
    condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
    let mut round = Round {
        plan: Plan::nothing(),
        observed,
        revisions,
        slots: slots.into_iter().collect(),
        condemned: condemned.into_iter().map(|(_, pod)| pod).collect(),
        creations: Vec::new(),
        max_unavailable,
        counts: None,
        now,
    };
    let leaving = if is_deleting(&set.metadata) { 0 } else { round.run() };
    // The status comes first: a creation that fails must not hide what is there.
    if let Some(write) = status::write(&mut round, &pods, leaving) {
        plan.then();
        plan.act(write);
    }
    plan.then();
    let Round { plan: mut work, revisions, counts, .. } = round;
    work.then();
    revisions::clean_up(&mut work, observed, &revisions, &pods);
    plan.stages.append(&mut work.stages);
    plan.stages.retain(|stage| !stage.actions.is_empty());
    (Plan { stages: plan.stages, ..work }, counts)
}

impl<'o> Round<'o> {
    pub(super) fn set(&self) -> &'o StatefulSet {
        &self.observed.set
    }

    /// Whether a pod waits for those before it.
    pub(super) fn is_ordered(&self) -> bool {
        self.set().spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.set().spec.update_strategy.as_ref();
        strategy.and_then(|it| it.type_.as_deref()).unwrap_or("RollingUpdate") == "RollingUpdate"
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        let seconds = self.set().spec.min_ready_seconds.unwrap_or_default();
        pods::is_available(pod, seconds, self.now)
    }

    /// Brings the pods to what is wanted; how many of the current revision go for an update comes back.
    fn run(&mut self) -> i32 {
        for ordinal in identity::looked_at(self.set(), self.slots.keys().copied(), BURST) {
            let flow = match self.slots.get(&ordinal).copied() {
                Some(pod) => self.keep(pod, ordinal),
                None => self.create(ordinal),
            };
            if flow == Flow::Stop && self.is_ordered() {
                self.make();
                return 0;
            }
        }
        self.make();
        for pod in self.condemned.clone() {
            for write in self.owned(pod, false) {
                self.plan.act(write);
            }
        }
        self.plan.then();
        let first = self.condemned.iter().rev().find(|pod| self.is_unavailable(pod)).copied();
        for pod in self.condemned.clone() {
            if self.condemn(pod, first) == Flow::Stop && self.is_ordered() {
                return 0;
            }
        }
        if self.is_rolling() { rolling::roll(self) } else { 0 }
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        is_deleting(&pod.metadata) || !self.is_available(pod)
    }

    /// Plans the pods that are to be made, after their claims.
    fn make(&mut self) {
        self.plan.then();
        pods::slow_start(&mut self.plan, std::mem::take(&mut self.creations));
        self.plan.then();
    }

    /// Looks after a pod that is there.
    fn keep(&mut self, pod: &Pod, ordinal: i32) -> Flow {
        if matches!(pods::phase(pod), "Failed" | "Succeeded") {
            if !is_deleting(&pod.metadata) {
                self.delete(pod);
            }
            return Flow::Stop;
        }
        if pods::phase(pod) == "Pending" && self.claim(&pod.metadata, ordinal) == Flow::Stop {
            return Flow::Stop;
        }
        if self.is_ordered() && self.is_unavailable(pod) {
            return Flow::Stop;
        }
        self.enforce(pod, ordinal);
        Flow::Go
    }

    /// Makes a pod, unless it has to wait for a claim of its predecessor to go.
    fn create(&mut self, ordinal: i32) -> Flow {
        let set = self.set();
        let name = identity::pod_name(set, ordinal);
        let templates = &self.observed.claim_templates;
        let claim_of = |template| self.observed.claims.get(&claims::name(set, template, ordinal));
        let waits = claims::Policy::of(set).goes_with_pod()
            && templates
                .iter()
                .filter_map(claim_of)
                .any(|claim| claims::waits_for_earlier_pod(claim, &name));
        if waits {
            return Flow::Stop;
        }
        if self.observed.taken.contains(&ordinal) {
            self.plan.error = Some(format!("pods \"{name}\" already exists"));
            return Flow::Stop;
        }
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        if self.claim(&metadata, ordinal) == Flow::Stop {
            return Flow::Stop;
        }
        let revision = if self.is_of_current(ordinal) {
            &self.revisions.current
        } else {
            &self.revisions.update
        };
        let object = identity::pod(set, &revision.template, templates, &revision.name, ordinal);
        let (on_success, on_failure) =
            self.events("Create", "SuccessfulCreate", "FailedCreate", &name);
        self.creations.push(PlannedAction::new(
            Action::Create {
                resource: Resource::of::<Pod>(),
                namespace: set.metadata.namespace.clone().unwrap_or_default(),
                object,
                exists_is_fine: false,
            },
            on_success,
            on_failure,
        ));
        Flow::Stop
    }

    /// Whether a new pod of this number is of the revision that the others come from.
    fn is_of_current(&self, ordinal: i32) -> bool {
        let set = self.set();
        let rolling = set.spec.update_strategy.as_ref().and_then(|it| it.rolling_update.as_ref());
        let below = match rolling {
            Some(rolling) => rolling.partition.unwrap_or_default(),
            None if self.is_rolling() => {
                set.status.as_ref().and_then(|it| it.current_replicas).unwrap_or_default()
            }
            None => return false,
        };
        ordinal < identity::start(set).saturating_add(below)
    }

    /// Makes the claims that a pod lacks, and has the others owned as they are to be.
    fn claim(&mut self, pod: &ObjectMeta, ordinal: i32) -> Flow {
        let set = self.set();
        let name = pod.name.clone().unwrap_or_default();
        for template in &self.observed.claim_templates {
            let claim = claims::name(set, template, ordinal);
            match self.observed.claims.get(&claim) {
                None => self.create_claim(claims::make(set, template, ordinal), &name),
                Some(present) if present.at(&["metadata", "deletionTimestamp"]).is_some() => {
                    let problem = format!("pvc {claim} is being deleted");
                    let message = format!(
                        "Create Pod {name} in StatefulSet {} failed error: {problem}",
                        self.name()
                    );
                    if pod.uid.is_none() {
                        let event = self.event(EventType::Warning, "FailedCreate", message);
                        self.plan.events.push(event);
                    }
                    self.plan.error = Some(problem);
                    return Flow::Stop;
                }
                Some(present) => {
                    if let Some(write) = claims::own(set, pod, true, present) {
                        self.plan.act(write);
                    }
                }
            }
        }
        Flow::Go
    }

    fn create_claim(&mut self, object: apimachinery::Value, pod: &str) {
        let claim = object.str_at(&["metadata", "name"]).to_owned();
        let set = self.name().to_owned();
        let success = format!("Create Claim {claim} Pod {pod} in StatefulSet {set} success");
        let failure = format!(
            "Create Claim {claim} for Pod {pod} in StatefulSet {set} failed error: {{error}}"
        );
        let failure_of_pod = format!(
            "Create Pod {pod} in StatefulSet {set} failed error: failed to create PVC {claim}: {{error}}"
        );
        let planned = PlannedAction::new(
            Action::Create {
                resource: claims::resource(),
                namespace: object.str_at(&["metadata", "namespace"]).to_owned(),
                object,
                exists_is_fine: true,
            },
            Some(self.event(EventType::Normal, "SuccessfulCreate", success)),
            [failure, failure_of_pod]
                .map(|it| self.event(EventType::Warning, "FailedCreate", it))
                .into(),
        );
        self.plan.add(planned);
    }

    /// The writes that give the claims of a pod their owners.
    fn owned(&self, pod: &Pod, wanted: bool) -> Vec<Action> {
        let Some(ordinal) = identity::ordinal(pod) else { return Vec::new() };
        let set = self.set();
        let names = self.observed.claim_templates.iter();
        let present =
            names.filter_map(|it| self.observed.claims.get(&claims::name(set, it, ordinal)));
        present.filter_map(|claim| claims::own(set, &pod.metadata, wanted, claim)).collect()
    }

    /// Puts right what somebody has changed in a pod. One that is only now adopted is another version by then: it has its
    /// turn when the cache shows whose it is.
    fn enforce(&mut self, pod: &Pod, ordinal: i32) {
        if owner::controller_of(&pod.metadata).is_none() {
            return;
        }
        let (set, templates) = (self.set(), &self.observed.claim_templates);
        let mounted = identity::is_mounted(pod, set, templates, ordinal);
        let owned = self.owned(pod, true);
        if identity::is_identified(pod) && mounted && owned.is_empty() {
            return;
        }
        let name = pod.metadata.name.clone().unwrap_or_default();
        let mut object = to_value(pod);
        identity::identify(&mut object, &name, ordinal);
        if !mounted {
            identity::mount(&mut object, set, templates, ordinal);
            if self.claim(&pod.metadata, ordinal) == Flow::Stop {
                return;
            }
        } else {
            owned.into_iter().for_each(|write| {
                self.plan.act(write);
            });
        }
        let (on_success, on_failure) =
            self.events("Update", "SuccessfulUpdate", "FailedUpdate", &name);
        let action = Action::Update { resource: Resource::of::<Pod>(), subresource: "", object };
        self.plan.add(PlannedAction {
            conflict_is_fine: true,
            ..PlannedAction::new(action, on_success, on_failure)
        });
    }

    /// Takes a pod that is not wanted, when it has its turn.
    fn condemn(&mut self, pod: &Pod, first_unavailable: Option<&Pod>) -> Flow {
        if is_deleting(&pod.metadata) {
            return Flow::Stop;
        }
        let first = first_unavailable.is_some_and(|it| it.metadata.uid == pod.metadata.uid);
        if self.is_ordered() && !self.is_available(pod) && !first {
            return Flow::Stop;
        }
        self.delete(pod);
        Flow::Stop
    }

    pub(super) fn delete(&mut self, pod: &Pod) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let (on_success, on_failure) =
            self.events("Delete", "SuccessfulDelete", "FailedDelete", &name);
        let action = owner::delete(Resource::of::<Pod>(), &pod.metadata);
        self.plan.add(PlannedAction::new(action, on_success, on_failure));
    }

    fn name(&self) -> &'o str {
        self.set().metadata.name.as_deref().unwrap_or_default()
    }

    /// What is told of a write of a pod that succeeds, and of one that fails.
    fn events(
        &self,
        verb: &str,
        success: &'static str,
        failure: &'static str,
        pod: &str,
    ) -> (Option<Event>, Vec<Event>) {
        let what = format!("{verb} Pod {pod} in StatefulSet {}", self.name());
        (
            Some(self.event(EventType::Normal, success, format!("{what} successful"))),
            vec![self.event(
                EventType::Warning,
                failure,
                format!("{what} failed error: {{error}}"),
            )],
        )
    }

    fn event(&self, kind: EventType, reason: &'static str, message: String) -> Event {
        let about = owner::reference_to("apps/v1", "StatefulSet", &self.set().metadata);
        Event { about, kind, reason, message }
    }
}

#[cfg(test)]
mod tests;
