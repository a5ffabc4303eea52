//! PodTopologySpread: pods lie evenly over the domains of a label.

use std::borrow::Cow;
use std::collections::BTreeMap;

use apimachinery::labels::Selector;

use crate::framework::{Check, Cycle, Filter, MAX_SCORE, Prepared, Rejection, Score};
use crate::node::Row;
use crate::plugins::taints::tolerates_node;
use crate::pod::PodLite;
use crate::terms::Spread;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct PodTopologySpread;

const NAME: &str = "PodTopologySpread";

/// How many pods of a constraint there are in each of its domains.
type Domains = BTreeMap<String, i64>;

impl Filter for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        let constraints: Vec<&Spread> =
            cycle.pod.ask.spread.iter().filter(|it| it.required).collect();
        if constraints.is_empty() {
            return Prepared::Skip;
        }
        let mut domains = vec![Domains::new(); constraints.len()];
        for row in cycle.cluster.rows().iter().filter(|row| has_keys(row, &constraints)) {
            for (constraint, domains) in constraints.iter().zip(&mut domains) {
                let Some(value) = row.node.labels.get(&constraint.topology_key) else { continue };
                if counts_node(constraint, cycle.pod, row) {
                    *domains.entry(value.into()).or_default() += count(constraint, cycle.pod, row);
                }
            }
        }
        let mut even = Even { pod: cycle.pod, constraints, domains, emptiest: Vec::new() };
        even.find_emptiest();
        Prepared::Ready(Box::new(even))
    }
}

fn has_keys(row: &Row, constraints: &[&Spread]) -> bool {
    constraints.iter().all(|it| row.node.labels.get(&it.topology_key).is_some())
}

/// Whether a node's pods count, by the constraint's policies.
fn counts_node(constraint: &Spread, pod: &PodLite, row: &Row) -> bool {
    let node = &row.node;
    (!constraint.honor_node_affinity || pod.ask.nodes.allows(&node.name, &node.labels))
        && (!constraint.honor_taints || tolerates_node(&pod.ask.tolerations, row))
}

fn counts_pod(constraint: &Spread, pod: &PodLite, other: &PodLite) -> bool {
    !constraint.selector.is_everything()
        && !other.terminating
        && other.key.namespace == pod.key.namespace
        && constraint.selector.matches(|key| other.labels.get(key))
}

fn count(constraint: &Spread, pod: &PodLite, row: &Row) -> i64 {
    let counted = row.pods.iter().filter(|it| counts_pod(constraint, pod, it)).count();
    i64::try_from(counted).unwrap_or(i64::MAX)
}

#[derive(Debug, Clone)]
struct Even<'a> {
    pod: &'a PodLite,
    constraints: Vec<&'a Spread>,
    domains: Vec<Domains>,
    /// How many pods the emptiest domain of each constraint has.
    emptiest: Vec<i64>,
}

impl Even<'_> {
    fn find_emptiest(&mut self) {
        let emptiest = |(constraint, domains): (&&Spread, &Domains)| {
            if domains.len() < constraint.min_domains {
                return 0;
            }
            domains.values().copied().min().unwrap_or_default()
        };
        self.emptiest = self.constraints.iter().zip(&self.domains).map(emptiest).collect();
    }

    fn moved(&mut self, row: &Row, pod: &PodLite, by: i64) {
        if !has_keys(row, &self.constraints) {
            return;
        }
        for (constraint, domains) in self.constraints.iter().zip(&mut self.domains) {
            let Some(value) = row.node.labels.get(&constraint.topology_key) else { continue };
            if counts_pod(constraint, self.pod, pod) && counts_node(constraint, self.pod, row) {
                *domains.entry(value.into()).or_default() += by;
            }
        }
        self.find_emptiest();
    }
}

impl Check for Even<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        let all = self.constraints.iter().zip(&self.domains).zip(&self.emptiest);
        for ((constraint, domains), emptiest) in all {
            let Some(value) = row.node.labels.get(&constraint.topology_key) else {
                let reason =
                    "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Rejection::for_good(reason));
            };
            let own = i64::from(constraint.selector.matches(|key| self.pod.labels.get(key)));
            let there = domains.get(value).copied().unwrap_or_default();
            if there + own - emptiest > constraint.max_skew {
                let reason = "node(s) didn't match pod topology spread constraints";
                return Err(Rejection::for_now(reason));
            }
        }
        Ok(())
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
fn by_default(selector: &Selector) -> [Spread; 2] {
    [(HOSTNAME, 3), (ZONE, 5)].map(|(key, max_skew)| Spread {
        max_skew,
        topology_key: key.into(),
        required: false,
        min_domains: 1,
        selector: selector.clone(),
        honor_node_affinity: true,
        honor_taints: false,
    })
}

impl Score for PodTopologySpread {
    fn name(&self) -> &'static str {
        NAME
    }

    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool {
        let own = &cycle.pod.ask.spread;
        let constraints: Cow<'_, [Spread]> = if own.is_empty() {
            let siblings = cycle.cluster.siblings_of(cycle.pod);
            siblings.map_or(Vec::new(), |it| by_default(&it).to_vec()).into()
        } else {
            own.iter().filter(|it| !it.required).cloned().collect::<Vec<_>>().into()
        };
        if constraints.is_empty() {
            return false;
        }
        let constraints: Vec<&Spread> = constraints.iter().collect();
        let tally = Tally::new(cycle, &constraints, feasible, !own.is_empty());
        let raw: Vec<Option<i64>> =
            feasible.iter().map(|index| tally.score(&cycle.cluster.rows()[*index])).collect();
        normalize(&raw, scores);
        true
    }
}

/// Pods by domain, as far as they matter to the nodes that would do.
struct Tally<'a> {
    pod: &'a PodLite,
    constraints: &'a [&'a Spread],
    /// Whether a node must have every label.
    strict: bool,
    domains: Vec<Domains>,
    weights: Vec<f64>,
}

impl<'a> Tally<'a> {
    fn new(
        cycle: Cycle<'a>,
        constraints: &'a [&'a Spread],
        feasible: &[usize],
        strict: bool,
    ) -> Self {
        let rows = cycle.cluster.rows();
        let considered = |row: &&Row| !strict || has_keys(row, constraints);
        let mut domains = vec![Domains::new(); constraints.len()];
        let mut hosts = 0usize;
        for row in feasible.iter().map(|index| &rows[*index]).filter(considered) {
            hosts += 1;
            for (constraint, domains) in constraints.iter().zip(&mut domains) {
                if constraint.topology_key != HOSTNAME {
                    // As upstream has it, the nodes without the label are together one more domain.
                    let value = row.node.labels.get(&constraint.topology_key).unwrap_or_default();
                    domains.entry(value.into()).or_default();
                }
            }
        }
        let size = |(constraint, domains): (&&Spread, &Domains)| {
            if constraint.topology_key == HOSTNAME { hosts } else { domains.len() }
        };
        let weights = constraints.iter().zip(&domains).map(size).map(weight).collect();
        for row in rows.iter().filter(considered) {
            for (constraint, domains) in constraints.iter().zip(&mut domains) {
                let value = row.node.labels.get(&constraint.topology_key);
                let Some(domain) = value.and_then(|it| domains.get_mut(it)) else { continue };
                if counts_node(constraint, cycle.pod, row) {
                    *domain += count(constraint, cycle.pod, row);
                }
            }
        }
        Self { pod: cycle.pod, constraints, strict, domains, weights }
    }

    /// Fewer is better; `None` for a node that is out of the comparison.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "counts of pods are far below 2^53"
    )]
    fn score(&self, row: &Row) -> Option<i64> {
        if self.strict && !has_keys(row, self.constraints) {
            return None;
        }
        let mut score = 0.0;
        let all = self.constraints.iter().zip(&self.domains).zip(&self.weights);
        for ((constraint, domains), weight) in all {
            let Some(value) = row.node.labels.get(&constraint.topology_key) else { continue };
            let there = if constraint.topology_key == HOSTNAME {
                count(constraint, self.pod, row)
            } else {
                domains.get(value).copied().unwrap_or_default()
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
