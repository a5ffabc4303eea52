//! Disruption budgets as evictions ask them.

use apimachinery::Value;
use apimachinery::labels::Selector;
use client::ObjectKey;

use super::BrokenBudget;
use crate::objects::{Objects, is_going, is_true, key_of};

/// All budgets, as they become.
#[derive(Debug, Default)]
pub(super) struct Budgets(Vec<Budget>);

#[derive(Debug)]
struct Budget {
    key: ObjectKey,
    selector: Selector,
    wanted: i64,
    healthy: i64,
    before: i64,
    least: i64,
    allowed: i64,
    /// `unhealthyPodEvictionPolicy: AlwaysAllow`
    lets_unhealthy_go: bool,
}

impl Budget {
    fn counts(&self, pod: &Value) -> bool {
        self.key.namespace == pod.str_at(&["metadata", "namespace"])
            && self
                .selector
                .matches_labels(pod.at(&["metadata", "labels"]).and_then(Value::as_object))
    }

    fn less(&mut self) {
        self.allowed -= 1;
        self.healthy -= 1;
        self.least = self.least.min(self.healthy);
    }
}

impl Budgets {
    pub(super) fn of(objects: &dyn Objects) -> Self {
        let all = objects.list("policy", "poddisruptionbudgets", "");
        let budget = |it: &std::sync::Arc<Value>| {
            let count = |name| it.i64_at(&["status", name]).unwrap_or_default();
            Budget {
                key: key_of(it),
                selector: Selector::from_value(it.at(&["spec", "selector"]))
                    .unwrap_or(Selector::NOTHING),
                wanted: count("desiredHealthy"),
                healthy: count("currentHealthy"),
                before: count("currentHealthy"),
                least: count("currentHealthy"),
                allowed: count("disruptionsAllowed"),
                lets_unhealthy_go: it.str_at(&["spec", "unhealthyPodEvictionPolicy"])
                    == "AlwaysAllow",
            }
        };
        Self(all.iter().map(budget).collect())
    }

    /// Takes a pod away, if its budget allows it.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn evict(&mut self, pod: &Value) -> Result<(), String> {
        if is_going(pod) || pod.str_at(&["status", "phase"]) == "Pending" {
            return Ok(());
        }
        let mut own: Vec<&mut Budget> = self.0.iter_mut().filter(|it| it.counts(pod)).collect();
        let budget = match own.as_mut_slice() {
            [] => return Ok(()),
            [budget] => budget,
            several => {
                let names: Vec<&str> = several.iter().map(|it| it.key.name.as_str()).collect();
                let names = names.join(", ");
                return Err(format!(
                    "it has more than one budget, which evictions do not support: {names}"
                ));
            }
        };
        if !is_true(pod, "Ready") && (budget.lets_unhealthy_go || budget.healthy >= budget.wanted) {
            return Ok(());
        }
        if budget.allowed <= 0 {
            return Err(format!(
                "budget {} allows no disruption: it wants {} healthy pods and has {}",
                budget.key.name, budget.wanted, budget.healthy
            ));
        }
        budget.less();
        Ok(())
    }

    /// A pod is gone, whatever its budgets say.
    pub(super) fn lose(&mut self, pod: &Value) {
        if is_true(pod, "Ready") && !is_going(pod) {
            self.0.iter_mut().filter(|it| it.counts(pod)).for_each(Budget::less);
        }
    }

    /// A pod that went is healthy again elsewhere.
    pub(super) fn give_back(&mut self, pod: &Value) {
        for budget in self.0.iter_mut().filter(|it| it.counts(pod)) {
            budget.allowed += 1;
            budget.healthy += 1;
        }
    }

    /// The budgets that had fewer healthy pods at some moment than they want, and not from the beginning.
    pub(super) fn broken(&self) -> Vec<BrokenBudget> {
        let broken = self.0.iter().filter(|it| it.least < it.wanted && it.least < it.before);
        broken
            .map(|it| BrokenBudget {
                budget: it.key.clone(),
                wanted: it.wanted,
                least: it.least,
                then: it.healthy,
            })
            .collect()
    }
}
