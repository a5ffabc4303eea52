//! Why an object waits, and what would happen if.
//!
//! [`Explainer::explain`] makes an [`Explanation`] of the objects of a cluster; [`what_if`] plays drains, losses of nodes
//! and new workloads on a copy. Both ask the code that schedules. No I/O, no clock: objects and times are arguments.

pub mod changes;
mod claims;
mod deletion;
mod events;
pub mod explanation;
pub mod objects;
pub mod picture;
mod pods;
mod rollouts;
mod scheduling;
mod services;
pub mod text;
pub mod what_if;

use std::cell::RefCell;

use apimachinery::Value;
use jiff::Timestamp;
use scheduler::{Cluster, Profile};

pub use explanation::{Explanation, Finding, State, Subject};
pub use objects::{Gathered, Objects};

/// Explains, as the schedulers of these profiles decide.
#[derive(Debug)]
pub struct Explainer {
    profiles: Vec<Profile>,
}

impl Default for Explainer {
    fn default() -> Self {
        Self { profiles: vec![Profile::default()] }
    }
}

impl Explainer {
    /// For schedulers with these profiles.
    #[must_use]
    pub fn new(profiles: Vec<Profile>) -> Self {
        Self { profiles }
    }

    /// The profile by which a pod is scheduled.
    pub(crate) fn profile(&self, scheduler_name: &str) -> Option<&Profile> {
        let name = if scheduler_name.is_empty() { "default-scheduler" } else { scheduler_name };
        self.profiles.iter().find(|it| it.scheduler_name == name)
    }

    /// Why the subject is as it is; `None` where there is no such object.
    #[must_use]
    pub fn explain(
        &self,
        objects: &dyn Objects,
        subject: &Subject,
        now: Timestamp,
    ) -> Option<Explanation> {
        let kind = &subject.kind;
        let object = objects.get(&kind.group, &kind.plural, &subject.key)?;
        let picture = RefCell::new(None);
        let case =
            Case { explainer: self, objects, subject, object: &object, now, picture: &picture };
        Some(case.explain())
    }
}

/// One question.
#[derive(Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) explainer: &'a Explainer,
    pub(crate) objects: &'a dyn Objects,
    pub(crate) subject: &'a Subject,
    pub(crate) object: &'a Value,
    pub(crate) now: Timestamp,
    /// Made when the first pod needs it, for all pods that are explained.
    pub(crate) picture: &'a RefCell<Option<Cluster>>,
}

/// How conditions end that are well when they are false, as upstream and its ecosystem name them: `MemoryPressure`,
/// `NetworkUnavailable`, `NamespaceContentRemaining`, `Dangling`, `Stalled`.
const PROBLEMS: [&str; 15] = [
    "Pressure",
    "Unavailable",
    "Failure",
    "Failed",
    "Failing",
    "Remaining",
    "Dangling",
    "Stalled",
    "Reconciling",
    "Progressing",
    "Terminating",
    "Degraded",
    "Limited",
    "NonStructuralSchema",
    "Denied",
];

fn tells_a_problem(condition: &str) -> bool {
    PROBLEMS.iter().any(|it| condition.ends_with(it))
}

impl Case<'_> {
    fn explain(&self) -> Explanation {
        if objects::is_going(self.object) {
            return deletion::explain(self);
        }
        let kind = &self.subject.kind;
        match (kind.group.as_str(), kind.plural.as_str()) {
            ("", "pods") => pods::explain(self),
            ("", "services") => services::explain(self),
            ("", "persistentvolumeclaims") => claims::explain(self),
            ("apps", "deployments") => rollouts::deployment(self),
            ("apps", "replicasets") | ("", "replicationcontrollers") => rollouts::replicas(self),
            ("apps", "statefulsets") => rollouts::stateful_set(self),
            ("apps", "daemonsets") => rollouts::daemon_set(self),
            ("batch", "jobs") => rollouts::job(self),
            _ => self.by_conditions(),
        }
    }

    /// What an object of any kind says itself.
    fn by_conditions(&self) -> Explanation {
        let told = self.object.items_at(&["status", "conditions"]).iter();
        let bad = told.filter(|it| {
            let well = if tells_a_problem(it.str_at(&["type"])) { "False" } else { "True" };
            it.str_at(&["status"]) != well
        });
        let finding = |it: &Value| {
            let name = it.str_at(&["type"]);
            let (reason, message) = (it.str_at(&["reason"]), it.str_at(&["message"]));
            Finding::new(
                "Condition",
                format!("condition {name} is {}: {reason} {message}", it.str_at(&["status"])),
            )
        };
        let mut findings: Vec<Finding> = bad.map(finding).collect();
        let name = self.name();
        let uid = self.object.str_at(&["metadata", "uid"]);
        let warning = events::last(self, uid, |it| it.str_at(&["type"]) == "Warning");
        let (state, summary) = match findings.len() {
            0 if warning.is_some() => {
                let summary = "is not being deleted; none of its conditions tells a problem, but its last warning does";
                (State::NotReady, format!("{name} {summary}"))
            }
            0 => {
                let summary = "is not being deleted, and none of its conditions tells a problem";
                (State::Settled, format!("{name} {summary}"))
            }
            count => {
                let verb = if count == 1 { "tells" } else { "tell" };
                let conditions = explanation::counted(count, "condition");
                let summary = format!("{name} is not being deleted; {conditions} {verb} a problem");
                (State::NotReady, summary)
            }
        };
        let told = |(reason, message)| {
            Finding::new("Event", format!("its last warning is {reason}: {message}"))
        };
        findings.extend(warning.map(told));
        Explanation::new(self.subject, state, summary).with(findings)
    }

    /// `pod web-0`.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.subject.kind.kind.to_lowercase(), self.subject.key.name)
    }
}
