//! The decision: filters, then scores, or the reasons against every node and what might be done.

use std::collections::BTreeMap;

use compact_str::CompactString;

use crate::framework::{Check, Cycle, Failure, Prepared, Profile, Rejection, Remedy};
use crate::node::Row;
use crate::preemption::Preemption;

/// A node was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Placement {
    /// The node.
    pub node: CompactString,
    /// How many would do.
    pub feasible: usize,
    /// How many were looked at.
    pub evaluated: usize,
    /// The rows that would do, in order; empty where there was one only.
    pub candidates: Vec<usize>,
    /// Their scores.
    pub scores: Vec<i64>,
    /// Each plugin's part of them, weighted; made when asked for.
    pub parts: Vec<(&'static str, Vec<i64>)>,
}

/// No node was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Diagnosis {
    /// What the pod's condition says, in upstream's words.
    pub message: String,
    /// The plugins that refused a node.
    pub plugins: Vec<&'static str>,
    /// The pods to remove, where that helps.
    pub preemption: Option<Preemption>,
}

/// What comes out.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Bind it.
    Place(Placement),
    /// Leave it.
    Reject(Diagnosis),
}

/// How to decide where more than one answer is right, and what to tell of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Chooses among equal nodes.
    pub random: u64,
    /// Whether each plugin's part of the scores is wanted.
    pub parts: bool,
}

/// Chooses a node for a pod.
#[must_use]
pub fn decide(cycle: Cycle<'_>, profile: &Profile, how: How) -> Decision {
    let rows = cycle.cluster.rows();
    if rows.is_empty() {
        let message = "no nodes available to schedule pods".to_owned();
        return Decision::Reject(Diagnosis { message, plugins: Vec::new(), preemption: None });
    }
    let mut checks = Vec::with_capacity(profile.filters.len());
    for (place, filter) in profile.filters.iter().enumerate() {
        match filter.prepare(cycle) {
            Prepared::Skip => {}
            Prepared::Ready(check) => checks.push((filter.name(), check)),
            Prepared::Reject(rejection) => {
                let whole = Whole { place, name: filter.name(), rejection };
                return refuse_whole(cycle, profile, &checks, &whole, how);
            }
        }
    }
    let field = Field::new(cycle, &checks);
    let marks = field.sweep();
    let feasible: Vec<usize> = (0..rows.len()).filter(|index| marks[*index] == 0).collect();
    if feasible.is_empty() {
        return refuse(&field, profile, &marks, how);
    }
    let evaluated = field.only.as_ref().map_or(rows.len(), Vec::len);
    Decision::Place(choose(cycle, profile, feasible, evaluated, how))
}

/// The nodes that are asked about, and who asks.
struct Field<'a, 'c> {
    cycle: Cycle<'a>,
    checks: &'c [(&'static str, Box<dyn Check + 'a>)],
    /// The only rows that are asked about, where plugins said so, and those plugins.
    only: Option<Vec<usize>>,
    left_out_by: Vec<&'static str>,
}

/// Marks a node that a plugin left out before anything was asked.
const LEFT_OUT: u8 = u8::MAX;

impl<'a, 'c> Field<'a, 'c> {
    fn new(cycle: Cycle<'a>, checks: &'c [(&'static str, Box<dyn Check + 'a>)]) -> Self {
        let mut only: Option<Vec<usize>> = None;
        let mut left_out_by = Vec::new();
        for (name, check) in checks {
            let Some(names) = check.only() else { continue };
            left_out_by.push(*name);
            let mut rows: Vec<usize> =
                names.iter().filter_map(|name| cycle.cluster.position(name)).collect();
            rows.sort_unstable();
            rows.dedup();
            if let Some(before) = &only {
                rows.retain(|row| before.contains(row));
            }
            only = Some(rows);
        }
        Self { cycle, checks, only, left_out_by }
    }

    /// For each row 0, or one more than the check that refused it.
    fn sweep(&self) -> Vec<u8> {
        let rows = self.cycle.cluster.rows();
        let mut marks = vec![0u8; rows.len()];
        if let Some(only) = &self.only {
            marks.fill(LEFT_OUT);
            only.iter().for_each(|row| marks[*row] = 0);
        }
        for ((_, check), mark) in self.checks.iter().zip(1u8..) {
            check.sweep(self.cycle.cluster, &mut marks, mark);
        }
        for (node, _) in self.cycle.cluster.nominated() {
            let Some(index) = self.cycle.cluster.position(node) else { continue };
            if marks[index] == 0
                && check_with_nominated(self.cycle, self.checks, &rows[index]).is_err()
            {
                marks[index] = LEFT_OUT - 1;
            }
        }
        marks
    }

    fn refusal(&self, index: usize, mark: u8) -> Option<Rejection> {
        let row = &self.cycle.cluster.rows()[index];
        match mark {
            LEFT_OUT => None,
            _ => check_with_nominated(self.cycle, self.checks, row).err().map(|(_, it)| it),
        }
    }
}

/// Asks every check about a node.
///
/// # Errors
/// The first refusal, and whose it is.
pub(crate) fn check_all(
    checks: &[(&'static str, Box<dyn Check + '_>)],
    row: &Row,
) -> Result<(), (&'static str, Rejection)> {
    checks.iter().try_for_each(|(name, check)| check.check(row).map_err(|it| (*name, it)))
}

/// Asks every check about a node, once as if the pods it is being emptied for were there, and once as it is.
pub(crate) fn check_with_nominated(
    cycle: Cycle<'_>,
    checks: &[(&'static str, Box<dyn Check + '_>)],
    row: &Row,
) -> Result<(), (&'static str, Rejection)> {
    let mut nominated = cycle.cluster.nominated().filter(|(node, _)| **node == row.node.name);
    let pods = nominated.next().map(|(_, pods)| pods).unwrap_or_default();
    let ahead = |it: &&std::sync::Arc<crate::PodLite>| {
        it.priority >= cycle.pod.priority && it.key != cycle.pod.key
    };
    let mut pods = pods.iter().filter(ahead).peekable();
    if pods.peek().is_some() {
        let mut forks: Vec<_> = checks.iter().map(|(name, it)| (*name, it.fork())).collect();
        let mut thought = row.clone();
        for pod in pods {
            thought.add(std::sync::Arc::clone(pod));
            forks.iter_mut().for_each(|(_, check)| check.pod_added(&thought, pod));
        }
        check_all(&forks, &thought)?;
    }
    check_all(checks, row)
}

fn choose(
    cycle: Cycle<'_>,
    profile: &Profile,
    feasible: Vec<usize>,
    evaluated: usize,
    how: How,
) -> Placement {
    let rows = cycle.cluster.rows();
    let name = |index: usize| rows[index].node.name.clone();
    if let [only] = feasible.as_slice() {
        return Placement { node: name(*only), feasible: 1, evaluated, ..Placement::default() };
    }
    let mut totals = vec![0i64; feasible.len()];
    let mut scratch = vec![0i64; feasible.len()];
    let mut parts = Vec::new();
    for (plugin, weight) in profile.scores.iter() {
        if !plugin.score(cycle, &feasible, &mut scratch) {
            continue;
        }
        for (total, score) in totals.iter_mut().zip(&scratch) {
            *total += score * weight;
        }
        if how.parts {
            parts.push((plugin.name(), scratch.iter().map(|it| it * weight).collect()));
        }
    }
    let best = totals.iter().copied().max().unwrap_or_default();
    let winners = totals.iter().filter(|it| **it == best).count() as u64;
    let nth = usize::try_from(how.random % winners.max(1)).unwrap_or_default();
    let mut winners = (0..totals.len()).filter(|index| totals[*index] == best);
    let winner = winners.nth(nth).unwrap_or_default();
    Placement {
        node: name(feasible[winner]),
        feasible: feasible.len(),
        evaluated,
        candidates: feasible,
        scores: totals,
        parts,
    }
}

fn refuse(field: &Field<'_, '_>, profile: &Profile, marks: &[u8], how: How) -> Decision {
    let refusals: Vec<Option<Rejection>> =
        marks.iter().enumerate().map(|(index, mark)| field.refusal(index, *mark)).collect();
    let left_out = left_out(&field.left_out_by);
    let mut plugins: Vec<&'static str> = field.left_out_by.clone();
    for mark in marks {
        let name = usize::from(*mark).checked_sub(1).and_then(|index| field.checks.get(index));
        plugins.extend(name.map(|(name, _)| *name));
    }
    plugins.sort_unstable();
    plugins.dedup();
    let failure = Failure {
        cycle: field.cycle,
        checks: field.checks,
        refusals: &refusals,
        refused_by: None,
        random: how.random,
    };
    let text = histogram(refusals.iter().map(|it| it.as_ref().unwrap_or(&left_out)));
    Decision::Reject(diagnose(profile, &failure, &text, plugins))
}

fn left_out(by: &[&str]) -> Rejection {
    Rejection::for_good(format!("node(s) didn't satisfy plugin(s) [{}]", by.join(" ")))
}

/// The refusal of a pod as a whole.
struct Whole {
    place: usize,
    name: &'static str,
    rejection: Rejection,
}

fn refuse_whole<'a>(
    cycle: Cycle<'a>,
    profile: &Profile,
    checks: &[(&'static str, Box<dyn Check + 'a>)],
    whole: &Whole,
    how: How,
) -> Decision {
    let refusals = vec![Some(whole.rejection.clone()); cycle.cluster.rows().len()];
    let failure = Failure {
        cycle,
        checks,
        refusals: &refusals,
        refused_by: Some(whole.place),
        random: how.random,
    };
    let text = whole.rejection.reasons.join(", ");
    Decision::Reject(diagnose(profile, &failure, &text, vec![whole.name]))
}

fn diagnose(
    profile: &Profile,
    failure: &Failure<'_, '_>,
    text: &str,
    plugins: Vec<&'static str>,
) -> Diagnosis {
    let count = failure.cycle.cluster.rows().len();
    let mut message = format!("0/{count} nodes are available: {text}.");
    let mut remarks: Vec<String> = Vec::new();
    for plugin in profile.post_filters.iter() {
        match plugin.remedy(profile, failure) {
            Remedy::Nothing(remark) => remarks.push(remark),
            Remedy::Stop(remark) => {
                remarks = vec![remark];
                break;
            }
            Remedy::Preempt(preemption) => {
                return Diagnosis { message, plugins, preemption: Some(preemption) };
            }
        }
    }
    remarks.retain(|it| !it.is_empty());
    if !remarks.is_empty() {
        message = format!("{message} {}", remarks.join(", "));
    }
    Diagnosis { message, plugins, preemption: None }
}

/// `1 Insufficient memory, 3 Insufficient cpu`, sorted as text as upstream sorts it.
pub(crate) fn histogram<'r>(refusals: impl Iterator<Item = &'r Rejection>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in refusals.flat_map(|it| &it.reasons) {
        *counts.entry(reason).or_default() += 1;
    }
    let mut lines: Vec<String> = counts.iter().map(|(it, count)| format!("{count} {it}")).collect();
    lines.sort_unstable();
    lines.join(", ")
}
