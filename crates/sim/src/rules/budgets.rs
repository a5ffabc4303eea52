//! An eviction takes one from what a budget allows, and leaves as many healthy pods as the budget wants.

use std::collections::BTreeMap;

use apimachinery::Value;
use compact_str::CompactString;
use tokio::time::Instant;

use super::{Rule, is_deleting, is_ready};
use crate::observer::{Change, Context};

const ALLOWED: &str = "no eviction beyond disruptionsAllowed";
const HEALTHY: &str = "an eviction leaves as many healthy pods as the budget wants";

#[derive(Debug, Default)]
pub(super) struct Budgets {
    /// When a pod of a namespace was lost otherwise than by an eviction.
    lost: BTreeMap<CompactString, Instant>,
    changed: BTreeMap<CompactString, Instant>,
}

fn is_healthy(pod: &Value) -> bool {
    !is_deleting(pod) && is_ready(pod)
}

fn selects(budget: &Value, pod: &Value) -> bool {
    let Some(wanted) = budget.at(&["spec", "selector", "matchLabels"]).and_then(Value::as_object)
    else {
        return false;
    };
    let labels = pod.at(&["metadata", "labels"]);
    wanted.iter().all(|(key, value)| labels.and_then(|it| it.get(key)) == Some(value))
}

fn allowed(budget: &Value) -> i64 {
    budget.i64_at(&["status", "disruptionsAllowed"]).unwrap_or(0)
}

/// The pods that were evicted and are waited for.
fn evicted(budget: &Value) -> Vec<&str> {
    let pods = budget.at(&["status", "disruptedPods"]).and_then(Value::as_object);
    pods.map(|it| it.keys().collect()).unwrap_or_default()
}

impl Rule for Budgets {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        match change.kind {
            "Pod" => self.pod(change, context),
            "PodDisruptionBudget" => self.budget(change, context),
            _ => {}
        }
    }
}

impl Budgets {
    fn pod(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let Some(old) = change.old else { return };
        let labels =
            change.new.is_some_and(|new| new["metadata"]["labels"] != old["metadata"]["labels"]);
        let lost = is_healthy(old) && !change.new.is_some_and(is_healthy);
        if !lost && !labels {
            return;
        }
        let budgets = context.state.all("PodDisruptionBudget");
        let mut own = budgets.filter(|(it, _)| it.namespace == change.place.namespace);
        let by_eviction = own.any(|(_, it)| evicted(it).contains(&change.place.name.as_str()));
        if !by_eviction || labels {
            self.lost.insert(change.place.namespace.clone(), context.now);
        }
    }

    fn budget(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let (namespace, name) = (&change.place.namespace, &change.place.name);
        let broken = |rule, what: String| {
            context.ledger.violation(rule, format!("{namespace}/{name}: {what}"));
        };
        let Some(new) = change.new else { return };
        let Some(old) = change.old.filter(|it| it["spec"] == new["spec"]) else {
            self.changed.insert(name.clone(), context.now);
            return;
        };
        if allowed(new) < 0 {
            broken(ALLOWED, format!("{} are allowed", allowed(new)));
        }
        let before = evicted(old);
        let fresh = evicted(new).into_iter().filter(|it| !before.contains(it)).count();
        if fresh == 0 {
            return;
        }
        if fresh > 1 || allowed(old) < 1 || allowed(new) != allowed(old) - 1 {
            let (from, to) = (allowed(old), allowed(new));
            broken(ALLOWED, format!("{fresh} evicted, allowed from {from} to {to}"));
        }
        let going = evicted(new);
        let pods = context.state.all("Pod").filter(|(it, _)| it.namespace == *namespace);
        let healthy = pods
            .filter(|(place, pod)| {
                selects(new, pod) && is_healthy(pod) && !going.contains(&place.name.as_str())
            })
            .count();
        let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
        let wanted = new.i64_at(&["status", "desiredHealthy"]).unwrap_or(0);
        let recent = |at: Option<&Instant>| at.is_some_and(|at| *at >= context.since);
        let excused = recent(self.lost.get(namespace)) || recent(self.changed.get(name));
        if healthy < wanted && !excused {
            broken(HEALTHY, format!("{healthy} are left where {wanted} are wanted"));
        }
    }
}
