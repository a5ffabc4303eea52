//! DefaultPreemption: which pods of lower priority go, so that one fits.

use std::sync::Arc;

use compact_str::CompactString;

use crate::decide::{check_with_nominated, histogram};
use crate::framework::{Check, Failure, PostFilter, Profile, Rejection, Remedy};
use crate::node::Row;
use crate::pod::PodLite;

/// The share of nodes that are tried at most, and the number that are tried anyway; upstream's defaults.
const CANDIDATES_PERCENT: usize = 10;
const MIN_CANDIDATES: usize = 100;

/// Pods that go.
#[derive(Debug, Clone, PartialEq)]
pub struct Preemption {
    /// The node that is emptied.
    pub node: CompactString,
    /// The pods, the most important first.
    pub victims: Vec<CompactString>,
    /// The same, as they are.
    pub pods: Vec<VictimKey>,
}

/// A pod that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VictimKey {
    /// Where it lies.
    pub key: client::ObjectKey,
    /// Its uid.
    pub uid: CompactString,
}

/// Upstream's plugin of that name.
#[derive(Debug)]
pub struct DefaultPreemption;

/// A node and what it would cost.
struct Candidate {
    row: usize,
    victims: Vec<Arc<PodLite>>,
    violations: usize,
}

impl PostFilter for DefaultPreemption {
    fn name(&self) -> &'static str {
        "DefaultPreemption"
    }

    fn remedy(&self, _profile: &Profile, failure: &Failure<'_, '_>) -> Remedy {
        match self.find(failure) {
            Ok(preemption) => Remedy::Preempt(preemption),
            Err(text) => Remedy::Nothing(format!("preemption: {text}")),
        }
    }
}

impl DefaultPreemption {
    fn find(&self, failure: &Failure<'_, '_>) -> Result<Preemption, String> {
        if failure.cycle.pod.ask.never_preempts {
            return Err("not eligible due to preemptionPolicy=Never.".into());
        }
        if terminating_victim(failure) {
            return Err("not eligible due to a terminating pod on the nominated node.".into());
        }
        let rows = failure.cycle.cluster.rows();
        let limit = (rows.len() * CANDIDATES_PERCENT / 100).max(MIN_CANDIDATES);
        let begin = usize::try_from(failure.random % rows.len().max(1) as u64).unwrap_or_default();
        let mut refusals: Vec<Option<Rejection>> = vec![None; rows.len()];
        let mut candidates = Vec::new();
        for index in (begin..rows.len()).chain(0..begin) {
            let helps = failure.refusals[index].as_ref().is_some_and(|it| !it.unresolvable);
            if !helps || candidates.len() >= limit {
                continue;
            }
            match self.try_node(failure, index) {
                Ok(candidate) => candidates.push(candidate),
                Err(refusal) => refusals[index] = Some(refusal),
            }
        }
        let Some(best) = candidates.into_iter().min_by(compare) else {
            let hopeless = Rejection::for_good("Preemption is not helpful for scheduling");
            let all = refusals.iter().map(|it| it.as_ref().unwrap_or(&hopeless));
            return Err(format!("0/{} nodes are available: {}.", rows.len(), histogram(all)));
        };
        let victim = |it: &Arc<PodLite>| VictimKey { key: it.key.clone(), uid: it.uid.clone() };
        Ok(Preemption {
            node: rows[best.row].node.name.clone(),
            victims: best.victims.iter().map(|it| it.key.to_string().into()).collect(),
            pods: best.victims.iter().map(victim).collect(),
        })
    }

    /// Removes every pod of lower priority, then takes back as many as fit, the most important first and those whose
    /// budget is used up before all.
    fn try_node(&self, failure: &Failure<'_, '_>, index: usize) -> Result<Candidate, Rejection> {
        let cycle = failure.cycle;
        let row = &cycle.cluster.rows()[index];
        let lower: Vec<_> =
            row.pods.iter().filter(|it| it.priority < cycle.pod.priority).cloned().collect();
        if lower.is_empty() {
            return Err(Rejection::for_good("No preemption victims found for incoming pod"));
        }
        let checks = failure.checks.iter().map(|(name, it)| (*name, it.fork())).collect();
        let mut trial = Trial { failure, row: row.clone(), checks };
        lower.iter().for_each(|pod| trial.remove(pod));
        trial.fits()?;
        let mut lower = lower;
        lower.sort_by_key(|it| importance(it));
        let (violating, others) = by_budget(failure, &lower);
        let mut victims = Vec::new();
        let mut violations = 0;
        for pod in &violating {
            if !trial.take_back(pod) {
                victims.push(Arc::clone(pod));
                violations += 1;
            }
        }
        for pod in &others {
            if !trial.take_back(pod) {
                victims.push(Arc::clone(pod));
            }
        }
        victims.sort_by_key(|it| importance(it));
        Ok(Candidate { row: index, victims, violations })
    }
}

/// The node as it would be.
struct Trial<'f, 'a, 'c> {
    failure: &'f Failure<'a, 'c>,
    row: Row,
    checks: Vec<(&'static str, Box<dyn Check + 'f>)>,
}

impl Trial<'_, '_, '_> {
    fn remove(&mut self, pod: &PodLite) {
        self.row.remove(pod);
        self.checks.iter_mut().for_each(|(_, check)| check.pod_removed(&self.row, pod));
    }

    fn fits(&self) -> Result<(), Rejection> {
        check_with_nominated(self.failure.cycle, &self.checks, &self.row).map_err(|(_, it)| it)
    }

    /// Whether the pod can stay.
    fn take_back(&mut self, pod: &Arc<PodLite>) -> bool {
        self.row.add(Arc::clone(pod));
        self.checks.iter_mut().for_each(|(_, check)| check.pod_added(&self.row, pod));
        let fits = self.fits().is_ok();
        if !fits {
            self.remove(pod);
        }
        fits
    }
}

/// A pod that has preempted already waits for its victims to end.
fn terminating_victim(failure: &Failure<'_, '_>) -> bool {
    let pod = failure.cycle.pod;
    let name = pod.ask.nominated_node.as_str();
    let Some(row) = failure.cycle.cluster.position(name) else { return false };
    let hopeless = failure.refusals[row].as_ref().is_some_and(|it| it.unresolvable);
    let mut pods = failure.cycle.cluster.rows()[row].pods.iter();
    !hopeless && pods.any(|it| it.terminating && it.priority < pod.priority)
}

/// Sorts the most important pod first: the highest priority, then the one that runs longest.
fn importance(pod: &PodLite) -> (std::cmp::Reverse<i32>, i64) {
    (std::cmp::Reverse(pod.priority), pod.started.unwrap_or(i64::MAX))
}

/// Pods whose removal would break a budget, and the others.
fn by_budget(
    failure: &Failure<'_, '_>,
    pods: &[Arc<PodLite>],
) -> (Vec<Arc<PodLite>>, Vec<Arc<PodLite>>) {
    let mut used: std::collections::BTreeMap<&client::ObjectKey, i64> =
        std::collections::BTreeMap::new();
    pods.iter().cloned().partition(|pod| {
        let mut violates = false;
        for (key, budget) in failure.cycle.cluster.budgets(&pod.key.namespace) {
            let counts = !budget.selector.is_everything()
                && budget.selector.matches(|key| pod.labels.get(key))
                && !budget.disrupted.contains(&pod.key.name);
            if counts {
                let used = used.entry(key).or_default();
                *used += 1;
                violates |= *used > budget.allowed;
            }
        }
        violates
    })
}

/// The cheapest first, by upstream's rules in their order.
fn compare(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    let highest = |it: &Candidate| it.victims.first().map_or(i32::MIN, |it| it.priority);
    // Upstream shifts priorities so that more victims never add up to less.
    let sum = |it: &Candidate| -> i64 {
        it.victims.iter().map(|it| i64::from(it.priority) + i64::from(i32::MAX) + 1).sum()
    };
    let earliest = |it: &Candidate| {
        let top = it.victims.iter().filter(|pod| pod.priority == highest(it));
        top.map(|pod| pod.started.unwrap_or(i64::MAX)).min()
    };
    (a.violations.cmp(&b.violations))
        .then_with(|| highest(a).cmp(&highest(b)))
        .then_with(|| sum(a).cmp(&sum(b)))
        .then_with(|| a.victims.len().cmp(&b.victims.len()))
        .then_with(|| earliest(b).cmp(&earliest(a)))
}
