//! What would happen if nodes were drained or lost, or new workloads came: played on a copy of the cluster.
//!
//! Pods that go are made again by their owners and scheduled in the order of their priorities, by the code that
//! schedules. Budgets are counted as evictions count them; a pod that has found a place counts as healthy from then on.

mod apply;
mod budgets;
mod leave;
mod place;
mod report;

use std::collections::VecDeque;
use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use scheduler::{Cluster, NodeLite};

use crate::Explainer;
use crate::objects::Objects;
use crate::picture;
use crate::scheduling::Around;
use budgets::Budgets;
use place::Pending;

/// How many pods are placed at most.
const MAX_PLACED: usize = 10_000;

/// The resources that a play needs besides [`picture::NEEDED`].
pub const NEEDED_TOO: [(&str, &str); 4] = [
    ("apps", "daemonsets"),
    ("apps", "deployments"),
    ("batch", "jobs"),
    ("scheduling.k8s.io", "priorityclasses"),
];

/// What is played.
#[derive(Debug, Clone)]
pub enum Action {
    /// Nodes are drained, as `kubectl drain --ignore-daemonsets --delete-emptydir-data --force` does.
    Drain(Vec<String>),
    /// Nodes are gone for good, with everything on them.
    Lose(Vec<String>),
    /// Objects are applied; where they name no namespace, in this one.
    Apply {
        /// The objects.
        objects: Vec<Value>,
        /// Their namespace.
        namespace: String,
    },
}

/// Why a play cannot begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhatIfError {
    /// There is no such node.
    NoNode(String),
    /// There are more pods to place than the play may place.
    TooMany(usize),
}

impl std::fmt::Display for WhatIfError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoNode(name) => write!(f, "there is no node {name}"),
            Self::TooMany(count) => {
                write!(f, "{count} pods would have to be placed, and at most {MAX_PLACED} are")
            }
        }
    }
}

impl std::error::Error for WhatIfError {}

/// What would happen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What was played, in words.
    pub action: String,
    /// Pods that find a place.
    pub moves: Vec<Move>,
    /// Pods that find none.
    pub waits: Vec<Wait>,
    /// Pods that are not made again.
    pub lost: Vec<Noted>,
    /// Pods that stay as they are.
    pub ignored: Vec<Noted>,
    /// Pods whose budgets keep them: the drain waits for them.
    pub blocked: Vec<Noted>,
    /// Budgets that are broken.
    pub budgets: Vec<BrokenBudget>,
    /// Pods that others push away.
    pub preempted: Vec<Noted>,
    /// What else is to be known of pods that go.
    pub warnings: Vec<Noted>,
}

/// A pod that finds a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The pod that it is, or is made in place of.
    pub pod: ObjectKey,
    /// Who makes it: `ReplicaSet/web`.
    pub owner: String,
    /// Where it was; empty for a new one.
    pub from: String,
    /// Where it comes to be.
    pub to: String,
}

/// A pod that finds none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The pod.
    pub pod: ObjectKey,
    /// Who makes it.
    pub owner: String,
    /// Where it was; empty for a new one.
    pub from: String,
    /// Why, in the scheduler's words.
    pub why: String,
    /// What would help, where that was found.
    pub help: String,
}

/// A pod, and what there is to say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The pod.
    pub pod: ObjectKey,
    /// Its node; empty for none.
    pub node: String,
    /// What.
    pub note: String,
}

/// A budget that is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenBudget {
    /// The budget.
    pub budget: ObjectKey,
    /// How many healthy pods it wants.
    pub wanted: i64,
    /// How many there are at the worst moment.
    pub least: i64,
    /// How many there are in the end.
    pub then: i64,
}

/// Plays an action on a copy of the cluster.
///
/// # Errors
/// Where there is no such node, or more to place than may be.
pub fn play(
    explainer: &Explainer,
    objects: &dyn Objects,
    action: &Action,
) -> Result<Report, WhatIfError> {
    let mut play = Play {
        explainer,
        objects,
        cluster: picture::of(objects),
        around: Around::of(objects),
        budgets: Budgets::of(objects),
        queue: VecDeque::new(),
        helped: 0,
        report: Report::default(),
    };
    match action {
        Action::Drain(nodes) => play.drain(nodes)?,
        Action::Lose(nodes) => play.lose(nodes)?,
        Action::Apply { objects, namespace } => play.apply(objects, namespace)?,
    }
    play.report.budgets = play.budgets.broken();
    Ok(play.report)
}

struct Play<'a> {
    explainer: &'a Explainer,
    objects: &'a dyn Objects,
    cluster: Cluster,
    around: Around,
    budgets: Budgets,
    /// Pods that are to be placed.
    queue: VecDeque<Pending>,
    /// For how many pods that wait help was looked for.
    helped: usize,
    report: Report,
}

impl Play<'_> {
    /// The pods on a node that have not ended.
    fn pods_on(&self, node: &str) -> Vec<Arc<Value>> {
        let pods = self.objects.list("", "pods", "").into_iter();
        let here = |it: &Arc<Value>| {
            it.str_at(&["spec", "nodeName"]) == node && !scheduler::PodLite::has_ended(it)
        };
        pods.filter(here).collect()
    }

    /// The nodes must be there.
    fn check(&self, nodes: &[String]) -> Result<(), WhatIfError> {
        match nodes.iter().find(|it| self.cluster.row(it).is_none()) {
            Some(name) => Err(WhatIfError::NoNode(name.clone())),
            None => Ok(()),
        }
    }

    fn cordon(&mut self, name: &str) {
        let Some(row) = self.cluster.row(name) else { return };
        self.cluster.set_node(NodeLite { unschedulable: true, ..NodeLite::clone(&row.node) });
        self.around.nodes.remove(name);
    }
}
