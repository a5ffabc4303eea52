//! What must hold at every revision, whatever goes wrong: one file a rule.
//!
//! A rule sees the changes of the store one by one, in order. Where components may act on what was so a moment ago, a rule
//! allows for the moment and no more.

mod bindings;
mod budgets;
mod daemons;
mod jobs;
mod metadata;
mod ordinals;
mod replicas;
mod rollouts;
mod unique;

use std::collections::VecDeque;

use apimachinery::Value;
use tokio::time::Instant;

use crate::observer::{Change, Context};

/// A rule.
pub(crate) trait Rule: Send {
    /// Judges a change.
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>);
}

/// Every rule.
pub(crate) fn all() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(metadata::Metadata),
        Box::<replicas::Replicas>::default(),
        Box::<rollouts::Rollouts>::default(),
        Box::<ordinals::Ordinals>::default(),
        Box::<daemons::Daemons>::default(),
        Box::<jobs::Jobs>::default(),
        Box::<bindings::Bindings>::default(),
        Box::<budgets::Budgets>::default(),
        Box::<unique::Unique>::default(),
    ]
}

/// What a number was, and since when.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(VecDeque<(Instant, i64)>);

/// How many values are remembered of one number: more changes than that within a lag count as one.
const VALUES: usize = 200;

impl History {
    /// It is this from now on.
    pub(crate) fn set(&mut self, now: Instant, value: i64) {
        if self.0.back().is_some_and(|(_, last)| *last == value) {
            return;
        }
        self.0.push_back((now, value));
        if self.0.len() > VALUES {
            self.0.pop_front();
        }
    }

    /// The largest that it was since then.
    pub(crate) fn max_since(&self, since: Instant) -> i64 {
        let mut most = i64::MIN;
        for (at, value) in self.0.iter().rev() {
            most = most.max(*value);
            if *at <= since {
                break;
            }
        }
        most
    }
}

/// The uid of the controller of an object, where it is of this kind.
pub(crate) fn controller<'v>(object: &'v Value, kind: &str) -> Option<&'v str> {
    let owners = object.items_at(&["metadata", "ownerReferences"]);
    let owner = owners.iter().find(|it| it.bool_at(&["controller"]))?;
    (owner.str_at(&["kind"]) == kind).then(|| owner.str_at(&["uid"]))
}

pub(crate) fn uid(object: &Value) -> &str {
    object.str_at(&["metadata", "uid"])
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    !object.str_at(&["metadata", "deletionTimestamp"]).is_empty()
}

pub(crate) fn is_terminal(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
}

/// Whether a pod counts for who wants it.
pub(crate) fn is_active(pod: &Value) -> bool {
    !is_deleting(pod) && !is_terminal(pod)
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod.items_at(&["status", "conditions"]);
    conditions.iter().any(|it| it.str_at(&["type"]) == "Ready" && it.str_at(&["status"]) == "True")
}

#[cfg(test)]
mod tests;
