//! InterPodAffinity: which pods a pod wants, or does not want, in its domain, and which of those want it or do not.

use std::collections::BTreeMap;

use crate::cluster::Cluster;
use crate::framework::{Check, Cycle, Filter, MAX_SCORE, Prepared, Rejection, Score};
use crate::labels::Labels;
use crate::node::Row;
use crate::pod::PodLite;
use crate::terms::{PodTerm, PodTerms};

/// What a required term of a pod that is there already counts for the pods that it wants; upstream's default.
const HARD_AFFINITY_WEIGHT: i64 = 1;

/// Upstream's plugin of that name.
#[derive(Debug)]
pub(super) struct InterPodAffinity;

const NAME: &str = "InterPodAffinity";

/// How many pods there are by the label that makes a domain and its value. Zero is not kept.
type Domains<K> = BTreeMap<(K, String), i64>;

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn prepare<'a>(&'a self, cycle: Cycle<'a>) -> Prepared<'a> {
        let own = cycle.pod.terms.as_deref();
        let required =
            own.is_some_and(|it| !it.affinity.is_empty() || !it.anti_affinity.is_empty());
        if !required && !cycle.cluster.has_pod_terms() {
            return Prepared::Skip;
        }
        let mut counts = Counts {
            cycle,
            namespace_labels: cycle.cluster.namespace_labels(&cycle.pod.key.namespace),
            affinity: own.map_or(&[], |it| it.affinity.as_slice()),
            anti_affinity: own.map_or(&[], |it| it.anti_affinity.as_slice()),
            unwanted_by: Domains::new(),
            wanted: Domains::new(),
            unwanted: Domains::new(),
        };
        for row in cycle.cluster.rows().iter().filter(|row| required || row.pods_with_terms > 0) {
            row.pods.iter().for_each(|pod| counts.count(row, pod, 1));
        }
        if !required && counts.unwanted_by.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Ready(Box::new(counts))
    }
}

/// How many pods of each kind there are in each domain.
#[derive(Debug, Clone)]
struct Counts<'a> {
    cycle: Cycle<'a>,
    namespace_labels: &'a Labels,
    affinity: &'a [PodTerm],
    anti_affinity: &'a [PodTerm],
    /// Pods that do not want this one.
    unwanted_by: Domains<String>,
    /// Pods that this one wants, by its terms.
    wanted: Domains<&'a str>,
    /// Pods that this one does not want.
    unwanted: Domains<&'a str>,
}

impl<'a> Counts<'a> {
    /// Counts a pod on a node in, or out with -1.
    fn count(&mut self, row: &Row, pod: &PodLite, by: i64) {
        let labels = &row.node.labels;
        for term in pod.terms.iter().flat_map(|it| &it.anti_affinity) {
            let Some(value) = labels.get(&term.topology_key) else { continue };
            let own = self.cycle.pod;
            if term.matches(&own.key.namespace, self.namespace_labels, &own.labels) {
                bump(&mut self.unwanted_by, (term.topology_key.to_string(), value.to_owned()), by);
            }
        }
        let cluster = self.cycle.cluster;
        if !self.affinity.is_empty() && self.affinity.iter().all(|it| meant(cluster, it, pod)) {
            add(&mut self.wanted, self.affinity.iter(), labels, by);
        }
        let meant = self.anti_affinity.iter().filter(|it| meant(cluster, it, pod));
        add(&mut self.unwanted, meant, labels, by);
    }

    fn affinity_met(&self, labels: &Labels) -> bool {
        let mut there = true;
        for term in self.affinity {
            // A node outside of every domain of a term can never meet it.
            let Some(value) = labels.get(&term.topology_key) else { return false };
            there &= self.wanted.contains_key(&(term.topology_key.as_str(), value.to_owned()));
        }
        // The first of pods that want each other may go anywhere.
        let first = || {
            self.wanted.is_empty()
                && self.affinity.iter().all(|it| meant(self.cycle.cluster, it, self.cycle.pod))
        };
        there || first()
    }
}

fn meant(cluster: &Cluster, term: &PodTerm, pod: &PodLite) -> bool {
    let namespace = &pod.key.namespace;
    term.matches(namespace, cluster.namespace_labels(namespace), &pod.labels)
}

fn bump<K: Ord>(counts: &mut BTreeMap<K, i64>, at: K, by: i64) {
    use std::collections::btree_map::Entry;
    match counts.entry(at) {
        Entry::Vacant(entry) => drop(entry.insert(by)),
        Entry::Occupied(mut entry) => {
            *entry.get_mut() += by;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

fn add<'a>(
    counts: &mut Domains<&'a str>,
    terms: impl Iterator<Item = &'a PodTerm>,
    labels: &Labels,
    by: i64,
) {
    for term in terms {
        if let Some(value) = labels.get(&term.topology_key) {
            bump(counts, (term.topology_key.as_str(), value.to_owned()), by);
        }
    }
}

impl Check for Counts<'_> {
    fn check(&self, row: &Row) -> Result<(), Rejection> {
        let labels = &row.node.labels;
        if !self.affinity_met(labels) {
            return Err(Rejection::for_good("node(s) didn't match pod affinity rules"));
        }
        let in_domain = |term: &PodTerm| {
            let value = labels.get(&term.topology_key)?;
            self.unwanted.get(&(term.topology_key.as_str(), value.to_owned())).copied()
        };
        if self.anti_affinity.iter().any(|term| in_domain(term).is_some()) {
            return Err(Rejection::for_now("node(s) didn't match pod anti-affinity rules"));
        }
        let mut unwanted_by = self.unwanted_by.keys();
        if unwanted_by.any(|(key, value)| labels.get(key) == Some(value)) {
            let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
            return Err(Rejection::for_now(reason));
        }
        Ok(())
    }

    fn pod_added(&mut self, row: &Row, pod: &PodLite) {
        self.count(row, pod, 1);
    }

    fn pod_removed(&mut self, row: &Row, pod: &PodLite) {
        self.count(row, pod, -1);
    }

    fn fork(&self) -> Box<dyn Check + '_> {
        Box::new(self.clone())
    }
}

impl Score for InterPodAffinity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn score(&self, cycle: Cycle<'_>, feasible: &[usize], scores: &mut [i64]) -> bool {
        let own = cycle.pod.terms.as_deref();
        let prefers =
            own.is_some_and(|it| !it.preferred.is_empty() || !it.preferred_anti.is_empty());
        if !prefers && !cycle.cluster.has_pod_terms() {
            return false;
        }
        let mut sums: BTreeMap<&str, BTreeMap<&str, i64>> = BTreeMap::new();
        for row in cycle.cluster.rows().iter().filter(|row| prefers || row.pods_with_terms > 0) {
            for pod in row.pods.iter().filter(|pod| prefers || pod.terms.is_some()) {
                weigh(cycle, own, row, pod, &mut sums);
            }
        }
        if sums.is_empty() {
            return false;
        }
        for (index, score) in feasible.iter().zip(scores.iter_mut()) {
            let labels = &cycle.cluster.rows()[*index].node.labels;
            let sum = |(key, values): (&&str, &BTreeMap<&str, i64>)| {
                values.get(labels.get(key)?).copied()
            };
            *score = sums.iter().filter_map(sum).sum();
        }
        spread_out(scores);
        true
    }
}

/// Adds what a pod that is there speaks for its domains, by this pod's preferences and by its own.
fn weigh<'a>(
    cycle: Cycle<'a>,
    own: Option<&'a PodTerms>,
    row: &'a Row,
    pod: &'a PodLite,
    sums: &mut BTreeMap<&'a str, BTreeMap<&'a str, i64>>,
) {
    let mut speak = |term: &'a PodTerm, weight: i64| {
        if let Some(value) = row.node.labels.get(&term.topology_key) {
            *sums.entry(&term.topology_key).or_default().entry(value).or_default() += weight;
        }
    };
    if let Some(own) = own {
        let meant = |it: &&PodTerm| meant(cycle.cluster, it, pod);
        own.preferred.iter().filter(meant).for_each(|it| speak(it, it.weight));
        own.preferred_anti.iter().filter(meant).for_each(|it| speak(it, -it.weight));
    }
    if let Some(its) = pod.terms.as_deref() {
        let meant = |it: &&PodTerm| meant(cycle.cluster, it, cycle.pod);
        its.affinity.iter().filter(meant).for_each(|it| speak(it, HARD_AFFINITY_WEIGHT));
        its.preferred.iter().filter(meant).for_each(|it| speak(it, it.weight));
        its.preferred_anti.iter().filter(meant).for_each(|it| speak(it, -it.weight));
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
