//! PodTopologySpread: pods lie evenly over the domains of a label.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use apimachinery::labels::Selector;

use crate::cluster::Cluster;
use crate::config::SpreadArgs;
use crate::framework::{Check, Cycle, Filter, MAX_SCORE, Prepared, Rejection, Score};
use crate::node::Row;
use crate::plugins::taints::tolerates_node;
use crate::pod::PodLite;
use crate::tallies::Question;
use crate::terms::Spread;
use crate::topology::Domains;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct PodTopologySpread(SpreadArgs);

impl PodTopologySpread {
    pub(super) fn new(args: &SpreadArgs) -> Self {
        Self(args.clone())
    }

    /// The constraints of one sort that hold for a pod, its own or those of the profile.
    fn constraints<'a>(&self, cycle: Cycle<'a>, required: bool) -> Cow<'a, [Spread]> {
        let own = &cycle.pod.ask.spread;
        let of_sort = |it: &&Spread| it.required == required;
        if !own.is_empty() {
            return match own.iter().all(|it| it.required == required) {
                true => Cow::Borrowed(own),
                false => own.iter().filter(of_sort).cloned().collect(),
            };
        }
        let defaults = match &self.0.list {
            Some(list) => list.clone(),
            None => by_default().to_vec(),
        };
        let mut defaults: Vec<Spread> =
            defaults.into_iter().filter(|it| it.required == required).collect();
        if defaults.is_empty() {
            return Cow::Borrowed(&[]);
        }
        let Some(siblings) = cycle.cluster.siblings_of(cycle.pod) else {
            return Cow::Borrowed(&[]);
        };
        defaults.iter_mut().for_each(|it| it.selector = siblings.clone());
        Cow::Owned(defaults)
    }
}

const NAME: &str = "PodTopologySpread";

/// A constraint among the nodes of a cluster.
#[derive(Debug, Clone)]
struct Constraint {
    max_skew: i64,
    min_domains: usize,
    domains: Arc<Domains>,
    /// How many pods of each row count.
    by_row: Arc<Vec<u32>>,
    /// Whether the nodes that the pod cannot be on are left out, and those whose taints it does not tolerate.
    honor: (bool, bool),
    /// What the pod itself will count.
    own: i64,
    is_hostname: bool,
    selector: Selector,
}

impl Constraint {
    fn new(cycle: Cycle<'_>, spread: &Spread) -> Self {
        let question = Question::Selected {
            namespace: cycle.pod.key.namespace.clone(),
            selector: spread.selector.clone(),
        };
        let labels = &cycle.pod.labels;
        Self {
            max_skew: spread.max_skew,
            min_domains: spread.min_domains,
            domains: cycle.cluster.domains(&spread.topology_key),
            by_row: cycle.cluster.ask(&question),
            honor: (
                spread.honor_node_affinity && !cycle.pod.ask.nodes.is_empty(),
                spread.honor_taints,
            ),
            own: i64::from(spread.selector.matches(|key| labels.get(key))),
            is_hostname: spread.topology_key == HOSTNAME,
            selector: spread.selector.clone(),
        }
    }

    /// Whether a node's pods count, by the constraint's policies.
    fn counts_node(&self, pod: &PodLite, row: &Row) -> bool {
        let node = &row.node;
        (!self.honor.0 || pod.ask.nodes.allows(&node.name, &node.labels))
            && (!self.honor.1 || tolerates_node(&pod.ask.tolerations, row))
    }

    /// Whether every node's pods count.
    fn counts_all(&self) -> bool {
        self.honor == (false, false)
    }

    fn counts_pod(&self, pod: &PodLite, other: &PodLite) -> bool {
        !self.selector.is_everything()
            && !other.terminating
            && other.key.namespace == pod.key.namespace
            && self.selector.matches(|key| other.labels.get(key))
    }
}

fn in_domains(constraints: &[Constraint], row: usize) -> bool {
    constraints.iter().all(|it| it.domains.get(row).is_some())
}

impl Filter for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        let spreads = self.constraints(cycle, true);
        if spreads.is_empty() {
            return Prepared::Skip;
        }
        let constraints: Vec<Constraint> =
            spreads.iter().map(|it| Constraint::new(cycle, it)).collect();
        let mut numbers: Vec<Vec<Option<i64>>> =
            constraints.iter().map(|it| vec![None; it.domains.len()]).collect();
        for (place, row) in cycle.cluster.rows().iter().enumerate() {
            if !in_domains(&constraints, place) {
                continue;
            }
            for (constraint, numbers) in constraints.iter().zip(&mut numbers) {
                let Some(domain) = constraint.domains.get(place) else { continue };
                if constraint.counts_all() || constraint.counts_node(cycle.pod, row) {
                    let count = i64::from(constraint.by_row[place]);
                    *numbers[domain].get_or_insert(0) += count;
                }
            }
        }
        let mut even = Even { pod: cycle.pod, constraints, numbers, emptiest: Vec::new() };
        even.find_emptiest();
        Prepared::Ready(Box::new(even))
    }
}

#[derive(Debug, Clone)]
struct Even<'a> {
    pod: &'a PodLite,
    constraints: Vec<Constraint>,
    /// How many pods of each constraint there are in each of its domains; `None` for one that does not count.
    numbers: Vec<Vec<Option<i64>>>,
    /// How many pods the emptiest domain of each constraint has.
    emptiest: Vec<i64>,
}

impl Even<'_> {
    fn find_emptiest(&mut self) {
        let emptiest = |(constraint, numbers): (&Constraint, &Vec<Option<i64>>)| {
            let counting = numbers.iter().flatten();
            if counting.clone().count() < constraint.min_domains {
                return 0;
            }
            counting.copied().min().unwrap_or_default()
        };
        self.emptiest = self.constraints.iter().zip(&self.numbers).map(emptiest).collect();
    }

    fn moved(&mut self, row: &Row, pod: &PodLite, by: i64) {
        if !in_domains(&self.constraints, row.place) {
            return;
        }
        for (constraint, numbers) in self.constraints.iter().zip(&mut self.numbers) {
            let Some(domain) = constraint.domains.get(row.place) else { continue };
            if constraint.counts_pod(self.pod, pod) && constraint.counts_node(self.pod, row) {
                *numbers[domain].get_or_insert(0) += by;
            }
        }
        self.find_emptiest();
    }

    fn check_row(&self, row: usize) -> Result<(), Rejection> {
        let all = self.constraints.iter().zip(&self.numbers).zip(&self.emptiest);
        for ((constraint, numbers), emptiest) in all {
            let Some(domain) = constraint.domains.get(row) else {
                let reason =
                    "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Rejection::for_good(reason));
            };
            let there = numbers[domain].unwrap_or_default();
            if there + constraint.own - emptiest > constraint.max_skew {
                let reason = "node(s) didn't match pod topology spread constraints";
                return Err(Rejection::for_now(reason));
            }
        }
        Ok(())
    }
}

impl Check for Even<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        self.check_row(row.place)
    }

    fn sweep(&self, _cluster: &Cluster, range: Range<usize>, marks: &mut [u8], mark: u8) {
        for (row, it) in range.zip(marks).filter(|(_, it)| **it == 0) {
            if self.check_row(row).is_err() {
                *it = mark;
            }
        }
    }

    fn pod_added(&mut self, row: &Row, pod: &PodLite) {
        self.moved(row, pod, 1);
    }

    fn pod_removed(&mut self, row: &Row, pod: &PodLite) {
        self.moved(row, pod, -1);
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}

/// What holds for pods of services and workloads that do not say themselves how they are spread.
fn by_default() -> [Spread; 2] {
    [(HOSTNAME, 3), (ZONE, 5)].map(|(key, max_skew)| Spread {
        max_skew,
        topology_key: key.into(),
        required: false,
        min_domains: 1,
        selector: Selector::NOTHING,
        honor_node_affinity: true,
        honor_taints: false,
    })
}

impl Score for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_local(&self, cycle: Cycle<'_>) -> bool {
        self.constraints(cycle, false).is_empty()
    }

    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool {
        let spreads = self.constraints(cycle, false);
        if spreads.is_empty() {
            return false;
        }
        let constraints: Vec<Constraint> =
            spreads.iter().map(|it| Constraint::new(cycle, it)).collect();
        // Upstream's own defaults hold for nodes without the labels too.
        let strict = !cycle.pod.ask.spread.is_empty() || self.0.list.is_some();
        let tally = Tally::new(cycle, &constraints, feasible, strict);
        let raw: Vec<Option<i64>> = feasible.iter().map(|row| tally.score(*row)).collect();
        normalize(&raw, scores);
        true
    }
}

/// Pods by domain, as far as they matter to the nodes that would do.
struct Tally<'a> {
    constraints: &'a [Constraint],
    /// Whether a node must have every label.
    strict: bool,
    /// `None` for a domain that has none of the nodes that would do.
    numbers: Vec<Vec<Option<i64>>>,
    weights: Vec<f64>,
}

impl<'a> Tally<'a> {
    fn new(
        cycle: Cycle<'a>,
        constraints: &'a [Constraint],
        feasible: &[usize],
        strict: bool,
    ) -> Self {
        let considered = |row: usize| !strict || in_domains(constraints, row);
        let mut numbers: Vec<Vec<Option<i64>>> =
            constraints.iter().map(|it| vec![None; it.domains.len()]).collect();
        let mut hosts = 0usize;
        // As upstream has it, the nodes without the label are together one more domain.
        let mut nowhere = vec![false; constraints.len()];
        for row in feasible.iter().copied().filter(|row| considered(*row)) {
            hosts += 1;
            for (place, constraint) in
                constraints.iter().enumerate().filter(|(_, it)| !it.is_hostname)
            {
                match constraint.domains.get(row) {
                    Some(domain) => drop(numbers[place][domain].get_or_insert(0)),
                    None => nowhere[place] = true,
                }
            }
        }
        let size = |(place, constraint): (usize, &Constraint)| {
            let counting = numbers[place].iter().flatten().count();
            if constraint.is_hostname { hosts } else { counting + usize::from(nowhere[place]) }
        };
        let weights = constraints.iter().enumerate().map(size).map(weight).collect();
        for (place, constraint) in constraints.iter().enumerate().filter(|(_, it)| !it.is_hostname)
        {
            let counting = constraint.by_row.iter().enumerate().filter(|(_, count)| **count > 0);
            for (row, count) in counting.filter(|(row, _)| considered(*row)) {
                let Some(domain) = constraint.domains.get(row) else { continue };
                let counts = constraint.counts_all()
                    || constraint.counts_node(cycle.pod, &cycle.cluster.rows()[row]);
                if let Some(number) = numbers[place][domain].as_mut().filter(|_| counts) {
                    *number += i64::from(*count);
                }
            }
        }
        Self { constraints, strict, numbers, weights }
    }

    /// Fewer is better; `None` for a node that is out of the comparison.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "counts of pods are far below 2^53"
    )]
    fn score(&self, row: usize) -> Option<i64> {
        if self.strict && !in_domains(self.constraints, row) {
            return None;
        }
        let mut score = 0.0;
        let all = self.constraints.iter().zip(&self.numbers).zip(&self.weights);
        for ((constraint, numbers), weight) in all {
            let Some(domain) = constraint.domains.get(row) else { continue };
            let there = if constraint.is_hostname {
                i64::from(constraint.by_row[row])
            } else {
                numbers[domain].unwrap_or_default()
            };
            score += there as f64 * weight + (constraint.max_skew - 1) as f64;
        }
        Some(score.round() as i64)
    }
}

/// A label with many domains counts more, since each holds fewer pods.
#[allow(clippy::cast_precision_loss, reason = "it is a number of nodes")]
fn weight(domains: usize) -> f64 {
    (domains as f64 + 2.0).ln()
}

fn normalize(raw: &[Option<i64>], scores: &mut [i64]) {
    let min = raw.iter().flatten().copied().min().unwrap_or_default();
    let max = raw.iter().flatten().copied().max().unwrap_or_default();
    for (raw, score) in raw.iter().zip(scores) {
        *score = match raw {
            None => 0,
            Some(_) if max == 0 => MAX_SCORE,
            Some(raw) => MAX_SCORE * (max + min - raw) / max,
        };
    }
}
