//! A Deployment never asks for more pods, over all its ReplicaSets, than its replicas and the surge it allows.

use std::collections::BTreeMap;

use apimachinery::Value;
use compact_str::CompactString;
use tokio::time::Instant;

use super::{History, Rule, controller, uid};
use crate::observer::{Change, Context};

const RULE: &str = "no more pods than a Deployment asks for, plus surge";

#[derive(Debug, Default)]
struct Deployment {
    most: History,
    sets: BTreeMap<CompactString, i64>,
    adopted: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Rollouts {
    deployments: BTreeMap<CompactString, Deployment>,
}

/// The most pods that a Deployment wants at once.
fn most(deployment: &Value) -> i64 {
    let replicas = deployment.i64_at(&["spec", "replicas"]).unwrap_or(1);
    if deployment.str_at(&["spec", "strategy", "type"]) == "Recreate" {
        return replicas;
    }
    let path = ["spec", "strategy", "rollingUpdate", "maxSurge"];
    let surge = match deployment.at(&path) {
        Some(Value::Int(surge)) => *surge,
        Some(Value::String(percent)) => {
            let percent: i64 = percent.trim_end_matches('%').parse().unwrap_or(0);
            (replicas * percent + 99).div_euclid(100)
        }
        _ => 0,
    };
    let away = deployment.at(&["spec", "strategy", "rollingUpdate", "maxUnavailable"]);
    // Neither is nothing: upstream makes one of it.
    let surge = if surge == 0 && away.is_none() { 1 } else { surge };
    replicas + surge
}

impl Rule for Rollouts {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        match (change.kind, change.new) {
            ("Deployment", Some(new)) => {
                let entry = self.deployments.entry(uid(new).into()).or_default();
                entry.most.set(context.now, most(new));
            }
            ("Deployment", None) => {
                if let Some(old) = change.old {
                    self.deployments.remove(uid(old));
                }
            }
            ("ReplicaSet", _) => self.set(change, context),
            _ => {}
        }
    }
}

impl Rollouts {
    fn set(&mut self, change: &Change<'_>, context: &Context<'_>) {
        let Some(set) = change.new.or(change.old) else { return };
        let owner = change.new.and_then(|it| controller(it, "Deployment"));
        let before = change.old.and_then(|it| controller(it, "Deployment"));
        if let Some(before) = before.filter(|it| owner != Some(*it))
            && let Some(deployment) = self.deployments.get_mut(before)
        {
            deployment.sets.remove(uid(set));
        }
        let Some(deployment) = owner.and_then(|it| self.deployments.get_mut(it)) else { return };
        let asked = set.i64_at(&["spec", "replicas"]).unwrap_or(1);
        let asked_before = deployment.sets.insert(uid(set).into(), asked).unwrap_or(0);
        if change.old.is_some() && before != owner {
            deployment.adopted = Some(context.now);
            return;
        }
        let sum: i64 = deployment.sets.values().sum();
        let most = deployment.most.max_since(context.since);
        let excused = deployment.adopted.is_some_and(|at| at >= context.since);
        if asked > asked_before && sum > most && !excused {
            let (namespace, name) = (&change.place.namespace, &change.place.name);
            let what = format!(
                "{namespace}/{name} goes from {asked_before} to {asked}, all together {sum} where {most} are the most"
            );
            context.ledger.violation(RULE, what);
        }
    }
}
