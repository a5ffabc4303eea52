//! InterPodAffinity: which pods a pod wants, or does not want, in its domain, and which of those want it or do not.

use std::ops::Range;
use std::sync::Arc;

use compact_str::CompactString;

use crate::cluster::Cluster;
use crate::config::AffinityArgs;
use crate::framework::{Check, Cycle, Filter, MAX_SCORE, Prepared, Rejection, Score};
use crate::labels::Labels;
use crate::node::Row;
use crate::pod::PodLite;
use crate::tallies::{Attitude, HeldTerm, Question};
use crate::terms::PodTerm;
use crate::topology::Domains;

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct InterPodAffinity(pub(super) AffinityArgs);

const NAME: &str = "InterPodAffinity";

/// A number for each domain of a label.
#[derive(Debug, Clone)]
struct ByDomain {
    key: CompactString,
    domains: Arc<Domains>,
    numbers: Vec<i64>,
}

impl ByDomain {
    fn new(cluster: &Cluster, key: &str) -> Self {
        let domains = cluster.domains(key);
        let numbers = vec![0; domains.len()];
        Self { key: key.into(), domains, numbers }
    }

    /// Adds to the domain of a row; false where it has none.
    fn add(&mut self, row: usize, by: i64) -> bool {
        let Some(domain) = self.domains.get(row) else { return false };
        self.numbers[domain] += by;
        true
    }

    /// How many pods a question of each row counts.
    fn of_counts(cluster: &Cluster, key: &str, by_row: &[u32]) -> Self {
        let mut all = Self::new(cluster, key);
        for (row, count) in by_row.iter().enumerate().filter(|(_, it)| **it > 0) {
            all.add(row, i64::from(*count));
        }
        all
    }

    /// The number of a row's domain; `None` where it has none.
    fn get(&self, row: usize) -> Option<i64> {
        Some(self.numbers[self.domains.get(row)?])
    }
}

/// The sums of one label among those of several, made where it is missing.
fn of_key<'s>(all: &'s mut Vec<ByDomain>, cluster: &Cluster, key: &str) -> &'s mut ByDomain {
    let place = all.iter().position(|it| it.key == key).unwrap_or_else(|| {
        all.push(ByDomain::new(cluster, key));
        all.len() - 1
    });
    &mut all[place]
}

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        let own = cycle.pod.terms.as_deref();
        let affinity = own.map_or(&[][..], |it| it.affinity.as_slice());
        let anti_affinity = own.map_or(&[][..], |it| it.anti_affinity.as_slice());
        let required = !affinity.is_empty() || !anti_affinity.is_empty();
        let cluster = cycle.cluster;
        if !required && !cluster.has_pod_terms() {
            return Prepared::Skip;
        }
        let mut unwanted_by = Vec::new();
        for held in cluster.held(Attitude::Refused).filter(|it| means(cycle, &it.term)) {
            let domains = of_key(&mut unwanted_by, cluster, &held.term.topology_key);
            add_holders(domains, held, 1);
        }
        unwanted_by.retain(|it| it.numbers.iter().any(|it| *it > 0));
        if !required && unwanted_by.is_empty() {
            return Prepared::Skip;
        }
        let mut counts = Counts {
            cycle,
            affinity,
            anti_affinity,
            unwanted_by,
            wanted: Vec::new(),
            unwanted: Vec::new(),
        };
        if !affinity.is_empty() {
            let by_row = cluster.ask(&Question::Meant(affinity.to_vec()));
            let wanted = affinity.iter();
            counts.wanted = wanted
                .map(|term| ByDomain::of_counts(cluster, &term.topology_key, &by_row))
                .collect();
        }
        for term in anti_affinity {
            let by_row = cluster.ask(&Question::Meant(vec![term.clone()]));
            counts.unwanted.push(ByDomain::of_counts(cluster, &term.topology_key, &by_row));
        }
        Prepared::Ready(Box::new(counts))
    }
}

/// Whether a term of a placed pod means the one to be placed.
fn means(cycle: Cycle<'_>, term: &PodTerm) -> bool {
    let pod = cycle.pod;
    let labels: &Labels = cycle.cluster.namespace_labels(&pod.key.namespace);
    term.matches(&pod.key.namespace, labels, &pod.labels)
}

/// Whether a term of the pod to be placed means another one.
fn meant(cluster: &Cluster, term: &PodTerm, pod: &PodLite) -> bool {
    let namespace = &pod.key.namespace;
    term.matches(namespace, cluster.namespace_labels(namespace), &pod.labels)
}

/// Adds `weight` for each holder; false where none is in any domain.
fn add_holders(domains: &mut ByDomain, held: &HeldTerm, weight: i64) -> bool {
    let mut any = false;
    for (row, count) in &held.rows {
        any |= domains.add(*row, count * weight);
    }
    any
}

/// How many pods of each kind there are in each domain.
#[derive(Debug, Clone)]
struct Counts<'a> {
    cycle: Cycle<'a>,
    affinity: &'a [PodTerm],
    anti_affinity: &'a [PodTerm],
    /// Pods that do not want this one, by the labels of their terms.
    unwanted_by: Vec<ByDomain>,
    /// Pods that this one wants, for each of its terms.
    wanted: Vec<ByDomain>,
    /// Pods that this one does not want, for each of its terms.
    unwanted: Vec<ByDomain>,
}

impl Counts<'_> {
    /// Counts a pod on a node in, or out with -1.
    fn count(&mut self, row: usize, pod: &PodLite, by: i64) {
        let cluster = self.cycle.cluster;
        for term in pod.terms.iter().flat_map(|it| &it.anti_affinity) {
            if !means(self.cycle, term) {
                continue;
            }
            of_key(&mut self.unwanted_by, cluster, &term.topology_key).add(row, by);
        }
        if !self.affinity.is_empty() && self.affinity.iter().all(|it| meant(cluster, it, pod)) {
            for wanted in &mut self.wanted {
                wanted.add(row, by);
            }
        }
        for (term, counts) in self.anti_affinity.iter().zip(&mut self.unwanted) {
            if meant(cluster, term, pod) {
                counts.add(row, by);
            }
        }
    }

    /// The first of pods that want each other may go anywhere.
    fn is_first(&self) -> bool {
        self.wanted.iter().all(|it| it.numbers.iter().all(|it| *it == 0))
            && self.affinity.iter().all(|it| meant(self.cycle.cluster, it, self.cycle.pod))
    }

    fn check_row(&self, row: usize, is_first: &dyn Fn() -> bool) -> Result<(), Rejection> {
        let mut there = true;
        for wanted in &self.wanted {
            let found = wanted.get(row);
            if found.is_none() {
                return Err(no_affinity());
            }
            there &= found.is_some_and(|it| it > 0);
        }
        if !there && !is_first() {
            return Err(no_affinity());
        }
        let some = |it: &ByDomain| it.get(row).is_some_and(|it| it > 0);
        if self.unwanted.iter().any(some) {
            return Err(Rejection::for_now("node(s) didn't match pod anti-affinity rules"));
        }
        if self.unwanted_by.iter().any(some) {
            let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
            return Err(Rejection::for_now(reason));
        }
        Ok(())
    }
}

fn no_affinity() -> Rejection {
    Rejection::for_good("node(s) didn't match pod affinity rules")
}

impl Check for Counts<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        self.check_row(row.place, &|| self.is_first())
    }

    /// Pods that do not want this one on their own node are part of that node.
    fn is_local(&self) -> bool {
        self.affinity.is_empty()
            && self.anti_affinity.is_empty()
            && self.unwanted_by.iter().all(|it| it.domains.are_nodes())
    }

    fn looks_at_labels(&self) -> bool {
        true
    }

    fn sweep(&self, _cluster: &Cluster, range: Range<usize>, marks: &mut [u8], mark: u8) {
        let is_first = !self.affinity.is_empty() && self.is_first();
        for (row, it) in range.zip(marks).filter(|(_, it)| **it == 0) {
            if self.check_row(row, &|| is_first).is_err() {
                *it = mark;
            }
        }
    }

    fn pod_added(&mut self, row: &Row, pod: &PodLite) {
        self.count(row.place, pod, 1);
    }

    fn pod_removed(&mut self, row: &Row, pod: &PodLite) {
        self.count(row.place, pod, -1);
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}

impl Score for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_local(&self, cycle: Cycle<'_>) -> bool {
        let speak = [Attitude::Needed, Attitude::Liked, Attitude::Disliked];
        let mut held = speak.into_iter().flat_map(|it| cycle.cluster.held(it));
        cycle.pod.terms.is_none() && !held.any(|it| means(cycle, &it.term))
    }

    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool {
        let own = cycle.pod.terms.as_deref();
        let prefers =
            own.is_some_and(|it| !it.preferred.is_empty() || !it.preferred_anti.is_empty());
        let cluster = cycle.cluster;
        if !prefers && (self.0.ignore_preferred || !cluster.has_pod_terms()) {
            return false;
        }
        let mut sums: Vec<ByDomain> = Vec::new();
        let mut any = false;
        for (attitude, sign) in [(Attitude::Liked, 1), (Attitude::Disliked, -1)] {
            for term in own.map_or(&[][..], |it| it.of(attitude)) {
                let by_row = cluster.ask(&Question::Meant(vec![term.clone()]));
                let sum = of_key(&mut sums, cluster, &term.topology_key);
                for (row, count) in by_row.iter().enumerate().filter(|(_, it)| **it > 0) {
                    any |= sum.add(row, i64::from(*count) * term.weight * sign);
                }
            }
        }
        let theirs = [(Attitude::Needed, 1), (Attitude::Liked, 1), (Attitude::Disliked, -1)];
        for (attitude, sign) in theirs {
            for held in cluster.held(attitude).filter(|it| means(cycle, &it.term)) {
                let weight = match attitude {
                    Attitude::Needed => self.0.hard_weight,
                    _ => held.term.weight * sign,
                };
                if weight != 0 {
                    let sum = of_key(&mut sums, cluster, &held.term.topology_key);
                    any |= add_holders(sum, held, weight);
                }
            }
        }
        if !any {
            return false;
        }
        for (row, score) in feasible.iter().zip(scores.iter_mut()) {
            *score = sums.iter().filter_map(|it| it.get(*row)).sum();
        }
        spread_out(scores);
        true
    }
}

/// The smallest becomes 0, the largest [`MAX_SCORE`].
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "sums of weights up to 100 are far below 2^53"
)]
fn spread_out(scores: &mut [i64]) {
    let min = scores.iter().copied().min().unwrap_or_default();
    let max = scores.iter().copied().max().unwrap_or_default();
    for score in scores {
        let share = (*score - min) as f64 / (max - min).max(1) as f64;
        *score = (MAX_SCORE as f64 * share) as i64;
    }
}
