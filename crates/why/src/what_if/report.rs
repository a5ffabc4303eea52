//! The report as JSON: `why.kubelith.io/v1alpha1`, kind `WhatIf`.

use apimachinery::{Value, value};
use client::ObjectKey;

use super::{BrokenBudget, Move, Noted, Report, Wait};
use crate::explanation::{API_VERSION, counted, list};

impl Report {
    /// All of it in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut parts = vec![
            format!("{} would be placed", counted(self.moves.len(), "pod")),
            format!("{} would wait", self.waits.len()),
        ];
        for (count, what) in [
            (self.blocked.len(), "kept by their budgets"),
            (self.lost.len(), "not made again"),
            (self.preempted.len(), "pushed away"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        if !self.budgets.is_empty() {
            parts.push(format!("{} broken", counted(self.budgets.len(), "budget")));
        }
        format!("{}: {}", self.action, parts.join(", "))
    }

    /// As JSON.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let moved = |it: &Move| {
            let mut all = of_pod(&it.pod, &it.owner, &it.from);
            all.set_at(&["to"], it.to.as_str());
            all
        };
        let waits = |it: &Wait| {
            let mut all = of_pod(&it.pod, &it.owner, &it.from);
            all.set_at(&["why"], it.why.as_str());
            if !it.help.is_empty() {
                all.set_at(&["help"], it.help.as_str());
            }
            all
        };
        let noted = |it: &Noted| {
            let mut all = of_pod(&it.pod, "", &it.node);
            all.set_at(&["note"], it.note.as_str());
            all
        };
        let budget = |it: &BrokenBudget| {
            value!({"namespace": (it.budget.namespace.as_str()), "name": (it.budget.name.as_str()),
                "wanted": (it.wanted), "least": (it.least), "then": (it.then)})
        };
        value!({
            "apiVersion": API_VERSION, "kind": "WhatIf", "summary": (self.summary()),
            "moves": (list(&self.moves, moved)), "waits": (list(&self.waits, waits)),
            "blocked": (list(&self.blocked, noted)), "lost": (list(&self.lost, noted)),
            "preempted": (list(&self.preempted, noted)), "budgets": (list(&self.budgets, budget)),
            "warnings": (list(&self.warnings, noted)), "ignored": (list(&self.ignored, noted)),
        })
    }
}

fn of_pod(pod: &ObjectKey, owner: &str, node: &str) -> Value {
    let mut all = value!({"namespace": (pod.namespace.as_str()), "name": (pod.name.as_str())});
    for (member, text) in [("owner", owner), ("node", node)] {
        if !text.is_empty() {
            all.set_at(&[member], text);
        }
    }
    all
}
