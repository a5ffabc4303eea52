//! NodeResourcesFit and NodeResourcesBalancedAllocation: what a node has left, and how well a pod uses it.

use std::borrow::Cow;
use std::ops::Range;

use apimachinery::validation::is_extended_resource;
use compact_str::CompactString;
use smallvec::SmallVec;

use crate::cluster::{Amounts, Cluster};
use crate::config::{FitArgs, cpu_and_memory};
use crate::framework::{
    Check, Cycle, Filter, LooksAtPods, MAX_SCORE, PlacementScore, Prepared, Proposal, Rejection,
    Score,
};
use crate::node::Row;
use crate::pod::PodLite;
use crate::remembered::Class;
use crate::resources::Resources;

/// A resource with its weight in a score.
pub type Weighted = (CompactString, i64);

/// What makes a node better.
#[derive(Debug, Clone, Default)]
pub enum Strategy {
    /// More left.
    #[default]
    LeastAllocated,
    /// Less left.
    MostAllocated,
    /// A function of the share in use: points of percent and score (0 to 100), by percent.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// Upstream's NodeResourcesFit.
#[derive(Debug, Clone)]
pub(super) struct Fit {
    args: FitArgs,
}

impl Fit {
    pub(super) fn new(args: &FitArgs) -> Self {
        Self { args: args.clone() }
    }

    /// Whether an extended resource is no reason against a node.
    fn ignores(&self, name: &str) -> bool {
        let group = || name.split_once('/').map(|(group, _)| group);
        let is_named = self.args.ignored.iter().any(|it| it == name)
            || self.args.ignored_groups.iter().any(|it| Some(it.as_str()) == group());
        is_named && is_extended_resource(name)
    }
}

const NAME: &str = "NodeResourcesFit";

impl Filter for Fit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        let exact = &cycle.pod.requests.exact;
        let mut wanted = Cow::Borrowed(exact);
        if exact.scalars.iter().any(|(name, _)| self.ignores(name)) {
            wanted.to_mut().scalars.retain(|(name, _)| !self.ignores(name));
        }
        let served = |(name, _): &(CompactString, i64)| {
            let class = cycle.cluster.devices.class_serving(name);
            class.is_some().then(|| name.clone())
        };
        let served = wanted.scalars.iter().filter_map(served).collect();
        Prepared::Ready(Box::new(Fits { wanted, served }))
    }
}

#[derive(Debug, Clone)]
struct Fits<'a> {
    wanted: Cow<'a, Resources>,
    /// Of the extended resources those that devices serve, where the node has none itself.
    served: Vec<CompactString>,
}

impl Fits<'_> {
    /// The extended resources that a node has to have itself.
    fn scalars<'s>(&'s self, row: &'s Row) -> impl Iterator<Item = (&'s str, i64)> + 's {
        let all = self.wanted.scalars.iter().map(|(name, wanted)| (name.as_str(), *wanted));
        all.filter(|(name, _)| {
            !self.served.iter().any(|it| it == name) || row.node.allocatable.scalar(name) > 0
        })
    }
}

impl Check for Fits<'_> {
    fn looks_at_pods(&self) -> LooksAtPods<'_> {
        // What devices serve is not among the sums.
        if self.served.is_empty() { LooksAtPods::Sums(&self.wanted) } else { LooksAtPods::Yes }
    }

    fn check(&self, row: &Row) -> Result<(), Rejection> {
        let mut reasons: SmallVec<[Cow<'static, str>; 1]> = SmallVec::new();
        let mut unresolvable = false;
        if i64::try_from(row.pods.len()).is_ok_and(|count| count + 1 > row.node.allowed_pods) {
            reasons.push("Too many pods".into());
        }
        let (has, used) = (&row.node.allocatable, &row.requested);
        let mut need = |name: &str, wanted: i64, has: i64, used: i64| {
            if wanted > 0 && wanted > has - used {
                reasons.push(insufficient(name));
                unresolvable |= wanted > has;
            }
        };
        need("cpu", self.wanted.milli_cpu, has.milli_cpu, used.milli_cpu);
        need("memory", self.wanted.memory, has.memory, used.memory);
        let storage = (has.ephemeral_storage, used.ephemeral_storage);
        need("ephemeral-storage", self.wanted.ephemeral_storage, storage.0, storage.1);
        for (name, wanted) in self.scalars(row) {
            need(name, wanted, has.scalar(name), used.scalar(name));
        }
        if reasons.is_empty() { Ok(()) } else { Err(Rejection { reasons, unresolvable }) }
    }

    fn is_local(&self) -> bool {
        self.served.is_empty()
    }

    fn sweep(&self, cluster: &Cluster, range: Range<usize>, marks: &mut [u8], mark: u8) {
        let columns = cluster.columns();
        let lack = |wanted: i64, free: i64| (wanted > 0) & (wanted > free);
        let all = marks.iter_mut().zip(&columns.free_pods[range.clone()]);
        let all = all.zip(&columns.free_milli_cpu[range.clone()]);
        let all = all.zip(&columns.free_memory[range.clone()]);
        let all = all.zip(&columns.free_ephemeral_storage[range.clone()]);
        for ((((it, pods), cpu), memory), storage) in all {
            let refused = (*pods < 1)
                | lack(self.wanted.milli_cpu, *cpu)
                | lack(self.wanted.memory, *memory)
                | lack(self.wanted.ephemeral_storage, *storage);
            if refused & (*it == 0) {
                *it = mark;
            }
        }
        if self.wanted.scalars.iter().all(|(_, wanted)| *wanted <= 0) {
            return;
        }
        for (row, it) in cluster.rows()[range].iter().zip(marks).filter(|(_, it)| **it == 0) {
            let left = |name| row.node.allocatable.scalar(name) - row.requested.scalar(name);
            if self.scalars(row).any(|(name, wanted)| wanted > 0 && wanted > left(name)) {
                *it = mark;
            }
        }
    }

    fn refusal(&self, cluster: &Cluster, row: usize) -> Option<Rejection> {
        if self.wanted.ephemeral_storage > 0 || !self.wanted.scalars.is_empty() {
            return self.check(&cluster.rows()[row]).err();
        }
        let columns = cluster.columns();
        let mut rejection = Rejection { reasons: SmallVec::new(), unresolvable: false };
        if columns.free_pods[row] < 1 {
            rejection.reasons.push("Too many pods".into());
        }
        for (name, wanted, free, has) in [
            ("cpu", self.wanted.milli_cpu, columns.free_milli_cpu[row], columns.milli_cpu.has[row]),
            ("memory", self.wanted.memory, columns.free_memory[row], columns.memory.has[row]),
        ] {
            if wanted > 0 && wanted > free {
                rejection.reasons.push(insufficient(name));
                rejection.unresolvable |= wanted > has;
            }
        }
        (!rejection.reasons.is_empty()).then_some(rejection)
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}

/// What is said where a resource is short.
fn insufficient(name: &str) -> Cow<'static, str> {
    match name {
        "cpu" => "Insufficient cpu".into(),
        "memory" => "Insufficient memory".into(),
        "ephemeral-storage" => "Insufficient ephemeral-storage".into(),
        other => format!("Insufficient {other}").into(),
    }
}

/// A resource of every node, and what the pod asks of it.
struct Source<'a> {
    has: Cow<'a, [i64]>,
    used: Cow<'a, [i64]>,
    wanted: i64,
    weight: i64,
}

/// How requests are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    /// As written.
    Exact,
    /// With defaults for containers that ask for none.
    Filled,
}

fn sources<'a>(cycle: Cycle<'a>, resources: &[Weighted], count: Count) -> Vec<Source<'a>> {
    let requests = &cycle.pod.requests;
    let columns = cycle.cluster.columns();
    let column = |it: &'a Amounts, exact: i64, filled: i64, weight: i64| {
        let (used, wanted) = match count {
            Count::Exact => (&it.asked, exact),
            Count::Filled => (&it.filled, filled),
        };
        Source { has: it.has.as_slice().into(), used: used.as_slice().into(), wanted, weight }
    };
    let source = |(name, weight): &Weighted| {
        let wanted = requests.exact.get(name);
        match name.as_str() {
            "cpu" => Some(column(&columns.milli_cpu, wanted, requests.nonzero_milli_cpu, *weight)),
            "memory" => Some(column(&columns.memory, wanted, requests.nonzero_memory, *weight)),
            // An extended resource that the pod does not ask for says nothing about the node.
            other if wanted == 0 && other != "ephemeral-storage" => None,
            other => {
                let rows = cycle.cluster.rows().iter();
                let has = rows.clone().map(|row| row.node.allocatable.get(other)).collect();
                let used = rows.map(|row| row.requested.get(other)).collect();
                Some(Source {
                    has: Cow::Owned(has),
                    used: Cow::Owned(used),
                    wanted,
                    weight: *weight,
                })
            }
        }
    };
    resources.iter().filter_map(source).collect()
}

impl Score for Fit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_local(&self, _cycle: Cycle<'_>) -> bool {
        true
    }

    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool {
        let sources = sources(cycle, &self.args.resources, Count::Filled);
        let score_of = |index: usize| {
            let (mut sum, mut weights) = (0, 0);
            for it in sources.iter().filter(|it| it.has[index] != 0) {
                let score = self.args.strategy.score(it.used[index] + it.wanted, it.has[index]);
                if self.args.strategy.counts(score) {
                    sum += score * it.weight;
                    weights += it.weight;
                }
            }
            if weights == 0 { 0 } else { self.args.strategy.average(sum, weights) }
        };
        let requests = &cycle.pod.requests;
        let wanted = [requests.nonzero_milli_cpu, requests.nonzero_memory];
        let usual = matches!(self.args.strategy, Strategy::LeastAllocated);
        if usual && self.args.resources == cpu_and_memory() {
            let class = Class { plugin: NAME, wanted };
            remember(cycle, class, feasible, scores, score_of);
        } else {
            scores.iter_mut().zip(feasible).for_each(|(it, index)| *it = score_of(*index));
        }
        true
    }
}

impl PlacementScore for Fit {
    fn name(&self) -> &'static str {
        NAME
    }

    fn score(&self, cluster: &Cluster, proposals: &[Proposal<'_>]) -> Vec<i64> {
        proposals.iter().map(|it| self.score_of_all(cluster, it)).collect()
    }
}

impl Fit {
    /// The score that all nodes of a placement would have together if they were one.
    fn score_of_all(&self, cluster: &Cluster, proposal: &Proposal<'_>) -> i64 {
        let of_row = |row: &Row, name: &str| match name {
            "cpu" => row.nonzero_milli_cpu,
            "memory" => row.nonzero_memory,
            other => row.requested.get(other),
        };
        let of_pod = |pod: &PodLite, name: &str| match name {
            "cpu" => pod.requests.nonzero_milli_cpu,
            "memory" => pod.requests.nonzero_memory,
            other => pod.requests.exact.get(other),
        };
        let (mut sum, mut weights) = (0, 0);
        for (name, weight) in &self.args.resources {
            let rows = || proposal.rows.iter().map(|it| &cluster.rows()[*it]);
            let has: i64 = rows().map(|it| it.node.allocatable.get(name)).sum();
            let wanted: i64 = proposal.members.iter().map(|it| of_pod(it, name)).sum();
            let usual = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
            if has == 0 || (wanted == 0 && !usual) {
                continue;
            }
            let used: i64 = rows().map(|it| of_row(it, name)).sum();
            let score = self.args.strategy.score(used + wanted, has);
            if self.args.strategy.counts(score) {
                sum += score * weight;
                weights += weight;
            }
        }
        if weights == 0 { 0 } else { self.args.strategy.average(sum, weights) }
    }
}

impl Strategy {
    fn score(&self, used: i64, has: i64) -> i64 {
        match self {
            Self::LeastAllocated if used > has => 0,
            Self::LeastAllocated => (has - used) * MAX_SCORE / has,
            Self::MostAllocated => used.min(has) * MAX_SCORE / has,
            Self::RequestedToCapacityRatio(points) => {
                along(points, if used > has { 100 } else { used * 100 / has })
            }
        }
    }

    /// Whether a resource of this score has a say: along a shape, one of no score has none (upstream's rule).
    fn counts(&self, score: i64) -> bool {
        score > 0 || !matches!(self, Self::RequestedToCapacityRatio(_))
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "scores are at most a hundred times a weight"
    )]
    fn average(&self, sum: i64, weights: i64) -> i64 {
        match self {
            Self::LeastAllocated | Self::MostAllocated => sum / weights,
            Self::RequestedToCapacityRatio(_) => (sum as f64 / weights as f64).round() as i64,
        }
    }
}

/// The value at `x` of straight lines through points sorted by `x`.
pub(super) fn along(points: &[(i64, i64)], x: i64) -> i64 {
    let next = points.partition_point(|(at, _)| *at < x);
    match (next.checked_sub(1).and_then(|it| points.get(it)), points.get(next)) {
        (None, None) => 0,
        (None, Some((_, y))) | (Some((_, y)), None) => *y,
        (Some((x0, y0)), Some((x1, y1))) => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
    }
}

/// Upstream's NodeResourcesBalancedAllocation.
#[derive(Debug, Clone)]
pub(super) struct BalancedAllocation {
    pub(super) resources: Vec<Weighted>,
}

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn is_local(&self, _cycle: Cycle<'_>) -> bool {
        true
    }

    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool {
        let exact = &cycle.pod.requests.exact;
        if self.resources.iter().all(|(resource, _)| exact.get(resource) == 0) {
            return false;
        }
        let sources = sources(cycle, &self.resources, Count::Exact);
        let score_of = |index: usize| {
            let mut before: SmallVec<[f64; 4]> = SmallVec::new();
            let mut after: SmallVec<[f64; 4]> = SmallVec::new();
            for it in sources.iter().filter(|it| it.has[index] != 0) {
                let (used, has) = (it.used[index], it.has[index]);
                before.push(fraction(used, has));
                after.push(fraction(used + it.wanted, has));
            }
            // How much more even the pod makes the node, from half the best score upwards.
            let gain = balance(&after) - balance(&before);
            MAX_SCORE / 2 + (MAX_SCORE / 2 + gain) / 2
        };
        if self.resources == cpu_and_memory() {
            let class = Class { plugin: self.name(), wanted: [exact.milli_cpu, exact.memory] };
            remember(cycle, class, feasible, scores, score_of);
        } else {
            scores.iter_mut().zip(feasible).for_each(|(it, index)| *it = score_of(*index));
        }
        true
    }
}

/// Scores that depend on CPU and memory alone.
fn remember(
    cycle: Cycle<'_>,
    class: Class,
    feasible: &[usize],
    scores: &mut [i64],
    score_of: impl Fn(usize) -> i64,
) {
    if let ([index], [score]) = (feasible, &mut *scores) {
        *score = score_of(*index);
        return;
    }
    let rows = cycle.cluster.rows().len();
    cycle.cluster.remembered().scores(class, rows, feasible, scores, score_of);
}

#[allow(clippy::cast_precision_loss, reason = "shares are compared in hundredths")]
fn fraction(used: i64, has: i64) -> f64 {
    (used as f64 / has as f64).min(1.0)
}

/// 100 where all fractions are equal, less the further they are apart.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "fractions lie between 0 and 1"
)]
fn balance(fractions: &[f64]) -> i64 {
    let deviation = match fractions {
        [] | [_] => 0.0,
        [a, b] => ((a - b) / 2.0).abs(),
        many => {
            let count = many.len() as f64;
            let mean = many.iter().sum::<f64>() / count;
            (many.iter().map(|it| (it - mean) * (it - mean)).sum::<f64>() / count).sqrt()
        }
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_says_how_good_a_share_is_and_what_it_gives_nothing_has_no_say() {
        let strategy = Strategy::RequestedToCapacityRatio(vec![(0, 0), (50, 80), (100, 100)]);
        // Used and had of two resources of weights 1 and 3.
        let check = |resources: [(i64, i64); 2], expected: i64| {
            let scores = resources.map(|(used, has)| strategy.score(used, has));
            let all = scores.into_iter().zip([1, 3]).filter(|(score, _)| strategy.counts(*score));
            let (sum, weights) = all.fold((0, 0), |(sum, weights), (score, weight)| {
                (sum + score * weight, weights + weight)
            });
            assert_eq!(if weights == 0 { 0 } else { strategy.average(sum, weights) }, expected);
        };
        check([(50, 100), (50, 100)], 80);
        check([(25, 100), (200, 100)], 85);
        check([(50, 100), (0, 100)], 80);
        check([(0, 100), (0, 100)], 0);
    }
}
