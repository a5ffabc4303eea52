//! A pod without a node: what each node says, by the scheduler's own filters, and what would help.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use scheduler::decide::{Diagnosis, How, Verdict, verdicts};
use scheduler::framework::Cycle;
use scheduler::preemption::{Candidate, best};
use scheduler::{Cluster, Decision, PodLite, Profile, decide};

use crate::changes::Search;
use crate::explanation::{Group, MAX_NAMED, MAX_NODES_TOLD, NodeVerdict, Preemption, Scheduling};
use crate::objects::Objects;

/// How many priorities are tried.
const MAX_PRIORITIES: usize = 16;
/// The highest priority that people may give.
const HIGHEST_PRIORITY: i32 = 1_000_000_000;

/// What the scheduler makes of a pod.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It would put it there.
    Fits(String),
    /// It finds no node.
    Refused(Box<Scheduling>),
    /// It cannot decide.
    Failed(String),
}

/// What the search for changes needs besides the picture.
#[derive(Debug, Default)]
pub(crate) struct Around {
    /// The nodes that may be changed.
    pub(crate) nodes: BTreeMap<String, Arc<Value>>,
    /// The priority classes.
    pub(crate) classes: Vec<Arc<Value>>,
}

impl Around {
    pub(crate) fn of(objects: &dyn Objects) -> Self {
        let nodes = objects.list("", "nodes", "").into_iter();
        Self {
            nodes: nodes.map(|it| (it.str_at(&["metadata", "name"]).to_owned(), it)).collect(),
            classes: objects.list("scheduling.k8s.io", "priorityclasses", ""),
        }
    }
}

/// Has the scheduler decide about a pod, and asks further where no node will do.
pub(crate) fn outcome(
    around: &Around,
    cluster: &mut Cluster,
    profile: &Profile,
    value: &Value,
) -> Outcome {
    let pod = PodLite::from_value(value);
    let cycle = Cycle { pod: &pod, cluster };
    let diagnosis = match decide(cycle, profile, How::default()) {
        Decision::Place(placement) => return Outcome::Fits(placement.node.to_string()),
        Decision::Fail(error) => return Outcome::Failed(error),
        Decision::Reject(diagnosis) => diagnosis,
    };
    let verdicts = verdicts(cycle, profile);
    let preemption = preemption(&around.classes, cluster, profile, &pod, &diagnosis);
    let (groups, order) = grouped(&verdicts);
    let found = Search { cluster, profile, pod: value, nodes: &around.nodes }.run(&order);
    Outcome::Refused(Box::new(Scheduling {
        message: diagnosis.message,
        nodes: verdicts.len(),
        groups,
        verdicts: verdicts.iter().take(MAX_NODES_TOLD).map(told).collect(),
        suggestions: found.suggestions,
        search_ended: found.ended,
        preemption,
    }))
}

fn told(verdict: &Verdict) -> NodeVerdict {
    let (plugin, reasons) = verdict.refused.clone().unwrap_or_default();
    NodeVerdict { node: verdict.node.to_string(), plugin, reasons }
}

/// Nodes that say the same, most first; and all nodes, one of each group before the others.
fn grouped(verdicts: &[Verdict]) -> (Vec<Group>, Vec<String>) {
    let mut by_refusal: BTreeMap<(&'static str, &[String]), Vec<String>> = BTreeMap::new();
    for verdict in verdicts {
        let Some((plugin, reasons)) = &verdict.refused else { continue };
        by_refusal.entry((plugin, reasons)).or_default().push(verdict.node.to_string());
    }
    let longest = by_refusal.values().map(Vec::len).max().unwrap_or_default();
    let nth = |nth: usize| by_refusal.values().filter_map(move |it| it.get(nth).cloned());
    let order = (0..longest).flat_map(nth).collect();
    let mut groups: Vec<Group> = by_refusal
        .iter()
        .map(|((plugin, reasons), nodes)| Group {
            plugin,
            reasons: reasons.to_vec(),
            count: nodes.len(),
            nodes: nodes.iter().take(MAX_NAMED).cloned().collect(),
        })
        .collect();
    groups.sort_by_key(|it| std::cmp::Reverse(it.count));
    (groups, order)
}

/// Who would go for it now, or with the least priority that pushes somebody away.
fn preemption(
    classes: &[Arc<Value>],
    cluster: &Cluster,
    profile: &Profile,
    pod: &PodLite,
    diagnosis: &Diagnosis,
) -> Option<Preemption> {
    if pod.ask.never_preempts {
        return None;
    }
    if let Some(now) = best(diagnosis.candidates.clone()) {
        return Some(preempting(classes, &now, pod.priority, true));
    }
    let placed = cluster.rows().iter().flat_map(|row| &row.pods).map(|it| it.priority);
    let mut priorities: Vec<i32> = placed.filter(|it| *it >= pod.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let above = priorities.into_iter().filter_map(|it| it.checked_add(1));
    for priority in above.filter(|it| *it <= HIGHEST_PRIORITY).take(MAX_PRIORITIES) {
        let raised = PodLite { priority, ..pod.clone() };
        let cycle = Cycle { pod: &raised, cluster };
        if let Decision::Reject(diagnosis) = decide(cycle, profile, How::default())
            && let Some(candidate) = best(diagnosis.candidates)
        {
            return Some(preempting(classes, &candidate, priority, false));
        }
    }
    None
}

fn preempting(
    classes: &[Arc<Value>],
    candidate: &Candidate,
    priority: i32,
    has_it: bool,
) -> Preemption {
    let value = |it: &Value| it.i64_at(&["value"]).unwrap_or_default();
    let enough = classes.iter().filter(|it| {
        value(it) >= i64::from(priority) && it.str_at(&["preemptionPolicy"]) != "Never"
    });
    let class = enough.min_by_key(|it| value(it)).map(|it| it.str_at(&["metadata", "name"]));
    Preemption {
        priority,
        has_it,
        class: class.filter(|_| !has_it).map(str::to_owned),
        node: candidate.node.to_string(),
        victims: candidate.victims.iter().map(|it| (it.key.clone(), it.priority)).collect(),
        violations: candidate.violations,
    }
}
