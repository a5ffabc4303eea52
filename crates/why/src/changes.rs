//! The smallest change that makes a pod fit: which changes there are for each plugin's refusal, and the search.
//!
//! Nothing is thought to help: each change is a patch of the pod or of a node, and is told of where the filters take the
//! pod once it is applied. One change is tried before two, and two before three.

mod candidates;
mod resources;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::patch::{PatchError, json_patch};
use scheduler::decide::{How, Refused, verdict_on, verdicts};
use scheduler::framework::Cycle;
use scheduler::{Cluster, Decision, NodeLite, PodLite, Profile, decide};

use crate::explanation::{Change, MAX_NAMED, Suggestion, Target};
use candidates::Candidate;

/// How many changes are tried together.
const MAX_TOGETHER: usize = 3;
/// How many nodes are looked at for changes. Nodes that say the same come after one of each.
const MAX_NODES_SEARCHED: usize = 64;
/// How often the filters are asked in all.
const MAX_TRIALS: usize = 2_000;
/// How many suggestions are told of.
const MAX_SUGGESTIONS: usize = 8;

/// What the search found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) suggestions: Vec<Suggestion>,
    /// Whether a limit ended it.
    pub(crate) ended: bool,
}

/// The objects with a change applied.
///
/// # Errors
/// Where the patch does not fit the object.
pub fn apply(change: &Change, object: &Value) -> Result<Value, PatchError> {
    json_patch::apply(object, &change.patch)
}

/// A pod that no node takes, and the nodes.
pub(crate) struct Search<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) profile: &'a Profile,
    pub(crate) pod: &'a Value,
    /// In the order of the cluster's rows.
    pub(crate) nodes: &'a BTreeMap<String, Arc<Value>>,
}

/// The pod and a node as they would be.
#[derive(Clone)]
struct Trial {
    pod: Value,
    node: Value,
    taken: Vec<Candidate>,
}

/// The best trial of each sort: what was changed, and by how much.
type Best = BTreeMap<Vec<String>, (Vec<i64>, Trial)>;

struct Walk {
    trials: usize,
    best: Best,
}

impl Search<'_> {
    /// Looks for changes; `order` are the nodes, most different first.
    pub(crate) fn run(mut self, order: &[String]) -> Found {
        let mut walk = Walk { trials: 0, best: Best::new() };
        for together in 1..=MAX_TOGETHER {
            for name in order.iter().take(MAX_NODES_SEARCHED) {
                let Some(node) = self.nodes.get(name) else { continue };
                let node = Value::clone(node);
                let trial = Trial { pod: self.pod.clone(), node, taken: Vec::new() };
                self.walk(&trial, together, &mut walk);
            }
            if !walk.best.is_empty() {
                break;
            }
        }
        let ended = walk.trials >= MAX_TRIALS || order.len() > MAX_NODES_SEARCHED;
        Found { suggestions: self.suggestions(walk.best), ended }
    }

    fn walk(&mut self, trial: &Trial, left: usize, walk: &mut Walk) {
        if walk.trials >= MAX_TRIALS {
            return;
        }
        walk.trials += 1;
        let Some(refused) = self.refusal(trial) else {
            let mut of: Vec<(String, i64)> =
                trial.taken.iter().map(|it| (it.sort.clone(), it.amount)).collect();
            of.sort();
            let (sort, amounts): (Vec<String>, Vec<i64>) = of.into_iter().unzip();
            let worse = walk.best.get(&sort).is_some_and(|(before, _)| *before <= amounts);
            if !worse && !trial.taken.is_empty() {
                walk.best.insert(sort, (amounts, trial.clone()));
            }
            return;
        };
        if left == 0 {
            return;
        }
        let row = self.cluster.row(trial.node.str_at(&["metadata", "name"]));
        let all = candidates::of(&refused, &trial.pod, &trial.node, row);
        for candidate in all {
            if let Some(next) = trial.with(candidate) {
                self.walk(&next, left - 1, walk);
            }
        }
    }

    /// Asks the filters about the pod and the node as they would be.
    fn refusal(&mut self, trial: &Trial) -> Option<Refused> {
        let name = trial.node.str_at(&["metadata", "name"]);
        let before = self.cluster.row(name).map(|it| NodeLite::clone(&it.node));
        let changed = trial.taken.iter().any(|it| matches!(it.change.target, Target::Node(_)));
        if changed {
            self.cluster.set_node(NodeLite::from_value(&trial.node));
        }
        let pod = PodLite::from_value(&trial.pod);
        let row = self.cluster.row(name);
        let cycle = Cycle { pod: &pod, cluster: self.cluster };
        let refused = row.and_then(|row| verdict_on(cycle, self.profile, row));
        if let Some(before) = before.filter(|_| changed) {
            self.cluster.set_node(before);
        }
        refused
    }

    /// What is told: each tried once more, on the whole cluster.
    fn suggestions(&mut self, best: Best) -> Vec<Suggestion> {
        let mut all: Vec<(usize, Vec<i64>, Suggestion)> = Vec::new();
        for (amounts, trial) in best.into_values() {
            let rank = trial.taken.iter().map(|it| it.rank).sum();
            if let Some(suggestion) = self.prove(trial) {
                all.push((rank, amounts, suggestion));
            }
        }
        all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        all.into_iter().take(MAX_SUGGESTIONS).map(|(_, _, it)| it).collect()
    }

    fn prove(&mut self, trial: Trial) -> Option<Suggestion> {
        let name = trial.node.str_at(&["metadata", "name"]);
        let before = NodeLite::clone(&self.cluster.row(name)?.node);
        self.cluster.set_node(NodeLite::from_value(&trial.node));
        let pod = PodLite::from_value(&trial.pod);
        let cycle = Cycle { pod: &pod, cluster: self.cluster };
        let placed = matches!(decide(cycle, self.profile, How::default()), Decision::Place(_));
        let fit = verdicts(cycle, self.profile).into_iter().filter(|it| it.refused.is_none());
        let nodes: Vec<String> = fit.map(|it| it.node.to_string()).collect();
        self.cluster.set_node(before);
        placed.then(|| Suggestion {
            changes: trial.taken.into_iter().map(|it| it.change).collect(),
            fits: nodes.len(),
            nodes: nodes.into_iter().take(MAX_NAMED).collect(),
        })
    }
}

impl Trial {
    /// With one more change; nothing where that was made already, or does not fit.
    fn with(&self, candidate: Candidate) -> Option<Self> {
        if self.taken.iter().any(|it| it.sort == candidate.sort) {
            return None;
        }
        let mut next = self.clone();
        let object = match candidate.change.target {
            Target::Pod => &mut next.pod,
            Target::Node(_) => &mut next.node,
        };
        *object = apply(&candidate.change, object).ok()?;
        next.taken.push(candidate);
        Some(next)
    }
}
