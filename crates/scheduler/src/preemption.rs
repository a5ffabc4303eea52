//! DefaultPreemption: which pods of lower priority go, so that one fits.

use std::sync::Arc;

use compact_str::CompactString;

use crate::config::PreemptionArgs;
use crate::decide::{check_with_nominated, histogram, unavailable};
use crate::emptied::Sort;
use crate::framework::{Check, Failure, LooksAtPods, PostFilter, Profile, Rejection, Remedy};
use crate::node::Row;
use crate::pod::PodLite;
use crate::resources::Resources;
use crate::victims::{Budgets, bound_group, fellows};

/// A node, and the pods that would have to go.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The node.
    pub node: CompactString,
    /// The pods, the most important first.
    pub victims: Arc<[Arc<PodLite>]>,
    /// How many of them their budgets would keep.
    pub violations: usize,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        let uids = |it: &Self| it.victims.iter().map(|pod| pod.uid.clone()).collect::<Vec<_>>();
        self.node == other.node && self.violations == other.violations && uids(self) == uids(other)
    }
}

/// The cheapest of several, by upstream's rules.
#[must_use]
pub fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by(compare)
}

pub(crate) const NAME: &str = "DefaultPreemption";

/// Upstream's plugin of that name.
#[derive(Debug)]
pub struct DefaultPreemption(pub PreemptionArgs);

impl PostFilter for DefaultPreemption {
    fn name(&self) -> &'static str {
        NAME
    }

    fn remedy(&self, _profile: &Profile, failure: &Failure<'_, '_>) -> Remedy {
        match self.find(failure) {
            Ok(candidates) => Remedy::Preempt(candidates),
            Err(NotFound::NotAsked(text)) => Remedy::Nothing(format!("preemption: {text}")),
            Err(NotFound::Hopeless(text)) => Remedy::Hopeless(format!("preemption: {text}")),
            Err(NotFound::NobodyInTheWay(text)) => Remedy::Stop(format!("preemption: {text}")),
        }
    }
}

/// Why there are no candidates.
enum NotFound {
    /// The pod may not preempt, or not yet.
    NotAsked(String),
    /// No node would do.
    Hopeless(String),
    /// Nodes would do as they are, though others refuse them.
    NobodyInTheWay(String),
}

impl NotFound {
    fn nobody_in_the_way(nodes: &[CompactString]) -> Self {
        let text = |node| format!("expected at least one victim pod on node \"{node}\"");
        let texts: Vec<String> = nodes.iter().map(text).collect();
        let all = texts.join(", ");
        Self::NobodyInTheWay(if texts.len() > 1 { format!("[{all}]") } else { all })
    }
}

impl DefaultPreemption {
    /// How many candidates are enough where so many nodes are worth trying.
    fn enough(&self, nodes: usize) -> usize {
        (nodes * self.0.percentage / 100).max(self.0.absolute).min(nodes)
    }

    fn find(&self, failure: &Failure<'_, '_>) -> Result<Vec<Candidate>, NotFound> {
        let not_asked = |text: &str| Err(NotFound::NotAsked(text.to_owned()));
        if failure.cycle.pod.ask.never_preempts {
            return not_asked("not eligible due to preemptionPolicy=Never.");
        }
        if terminating_victim(failure) {
            return not_asked("not eligible due to a terminating pod on the nominated node.");
        }
        let rows = failure.cycle.cluster.rows();
        let may_help = |it: &Option<Rejection>| it.as_ref().is_some_and(|it| !it.unresolvable);
        let worth_trying = failure.refusals.iter().filter(|it| may_help(it)).count();
        let limit = self.enough(worth_trying);
        let begin = usize::try_from(failure.random % rows.len().max(1) as u64).unwrap_or_default();
        let mut refusals: Vec<Option<Rejection>> = vec![None; rows.len()];
        let mut sums = sums_alone(failure).map(|wanted| BySums::new(failure, wanted));
        let mut candidates: Vec<Candidate> = Vec::new();
        let (mut spares_budgets, mut as_they_are) = (false, Vec::new());
        for index in (begin..rows.len()).chain(0..begin) {
            if !may_help(&failure.refusals[index]) {
                continue;
            }
            // Whom every candidate takes from a budget that does not bear it, another node may still spare.
            if candidates.len() >= limit && spares_budgets {
                break;
            }
            let by_sums = sums.as_mut().and_then(|it| it.find(index));
            match by_sums.map_or_else(|| try_node(failure, index), Ok) {
                Ok(candidate) if candidate.victims.is_empty() => as_they_are.push(candidate.node),
                Ok(candidate) => {
                    spares_budgets |= candidate.violations == 0;
                    candidates.push(candidate);
                }
                Err(refusal) => refusals[index] = Some(refusal),
            }
        }
        if let Some(sort) = sums.and_then(|it| it.sort) {
            failure.cycle.cluster.emptied().keep(sort);
        }
        if candidates.is_empty() && !as_they_are.is_empty() {
            return Err(NotFound::nobody_in_the_way(&as_they_are));
        }
        if candidates.is_empty() {
            let hopeless = Rejection::for_good("Preemption is not helpful for scheduling");
            let all = refusals.iter().map(|it| it.as_ref().unwrap_or(&hopeless));
            let text = unavailable(rows.len(), &histogram(all));
            return Err(NotFound::Hopeless(text));
        }
        Ok(candidates)
    }
}

/// What the pod asks for, where sums of what pods ask for are all that pods have to do with what is said of nodes.
fn sums_alone<'c>(failure: &Failure<'_, 'c>) -> Option<&'c Resources> {
    let mut wanted = None;
    for (_, check) in failure.checks {
        match check.looks_at_pods() {
            LooksAtPods::No => {}
            LooksAtPods::Sums(resources) => wanted = Some(resources),
            LooksAtPods::Yes => return None,
        }
    }
    wanted
}

/// Finds by sums what would be found by trying.
struct BySums<'f, 'a, 'c> {
    failure: &'f Failure<'a, 'c>,
    wanted: &'c Resources,
    /// What is remembered; nothing where budgets have a say, which change on their own.
    sort: Option<Sort>,
}

impl<'f, 'a, 'c> BySums<'f, 'a, 'c> {
    fn new(failure: &'f Failure<'a, 'c>, wanted: &'c Resources) -> Self {
        let cluster = failure.cycle.cluster;
        let of = (wanted, failure.cycle.pod.priority);
        let sort = || cluster.emptied().take(of, cluster.remembered(), cluster.rows().len());
        Self { failure, wanted, sort: (!cluster.has_budgets()).then(sort) }
    }

    /// `None` where trying would find nothing, or has to be asked.
    fn find(&mut self, index: usize) -> Option<Candidate> {
        let find = || by_sums(self.failure, index, self.wanted);
        let found = match &mut self.sort {
            Some(sort) => sort.get(index, find),
            None => find(),
        };
        // What has nothing to do with pods is looked at on its own.
        let row = &self.failure.cycle.cluster.rows()[index];
        let others = || {
            let mut checks = self.failure.checks.iter().map(|(_, it)| it);
            checks.all(|it| !matches!(it.looks_at_pods(), LooksAtPods::No) || it.check(row).is_ok())
        };
        found.filter(|_| others())
    }
}

/// [`try_node`] by sums alone; `None` where it would find nothing, or pods are promised the node.
fn by_sums(failure: &Failure<'_, '_>, index: usize, wanted: &Resources) -> Option<Candidate> {
    let cycle = failure.cycle;
    let row = &cycle.cluster.rows()[index];
    let has = &row.node.allocatable;
    if !cycle.cluster.nominated_on(&row.node.name).is_empty() {
        return None;
    }
    let mut used = row.requested.clone();
    let mut lower: Vec<Arc<PodLite>> = Vec::new();
    for pod in row.pods.iter().filter(|it| it.priority < cycle.pod.priority) {
        used.subtract(&pod.requests.exact);
        lower.push(Arc::clone(pod));
    }
    let mut room = row.node.allowed_pods - i64::try_from(row.pods.len() - lower.len()).ok()?;
    if lower.is_empty() || room < 1 || !wanted.fits(has, &used) {
        return None;
    }
    by_importance(&mut lower);
    if lower.iter().any(|it| bound_group(cycle.cluster, it).is_some()) {
        return None;
    }
    let (violating, others) = by_budget(failure, &lower);
    let mut victims = Vec::new();
    let mut take_back = |pod: Arc<PodLite>| {
        used.add(&pod.requests.exact);
        let stays = room > 1 && wanted.fits(has, &used);
        if stays {
            room -= 1;
        } else {
            used.subtract(&pod.requests.exact);
            victims.push(pod);
        }
        stays
    };
    let violations = violating.into_iter().map(&mut take_back).filter(|stays| !stays).count();
    others.into_iter().for_each(|pod| {
        take_back(pod);
    });
    victims.sort_by_key(|it| importance(it));
    Some(Candidate { node: row.node.name.clone(), victims: victims.into(), violations })
}

/// Removes every pod of lower priority, then takes back as many as fit, the most important first and those whose
/// budget is used up before all.
fn try_node(failure: &Failure<'_, '_>, index: usize) -> Result<Candidate, Rejection> {
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
    by_importance(&mut lower);
    let mut victims = Vec::new();
    let mut violations = 0;
    for (pods, breaks) in together(failure, &lower) {
        if !trial.take_back(&pods) {
            violations += breaks;
            victims.extend(whole(failure, &pods));
        }
    }
    victims.sort_by_key(|it| importance(it));
    Ok(Candidate { node: row.node.name.clone(), victims: victims.into(), violations })
}

/// Pods of a node that go together, each with how many of them their budgets would keep: those first of which there are
/// any, otherwise in the order in which the first of each comes.
fn together(failure: &Failure<'_, '_>, pods: &[Arc<PodLite>]) -> Vec<(Vec<Arc<PodLite>>, usize)> {
    let mut groups: Vec<(Option<client::ObjectKey>, Vec<Arc<PodLite>>)> = Vec::new();
    for pod in pods {
        let group = bound_group(failure.cycle.cluster, pod);
        let same = group.is_some().then(|| groups.iter_mut().find(|it| it.0 == group)).flatten();
        match same {
            Some((_, pods)) => pods.push(Arc::clone(pod)),
            None => groups.push((group, vec![Arc::clone(pod)])),
        }
    }
    let (cluster, mut budgets) = (failure.cycle.cluster, Budgets::default());
    let counted = groups.into_iter().map(|(_, pods)| {
        let breaks = pods.iter().filter(|it| budgets.breaks(cluster, it)).count();
        (pods, breaks)
    });
    let (mut violating, others): (Vec<_>, Vec<_>) = counted.partition(|it| it.1 > 0);
    violating.extend(others);
    violating
}

/// All that go where these do: the pods of their group on other nodes too.
fn whole(failure: &Failure<'_, '_>, pods: &[Arc<PodLite>]) -> Vec<Arc<PodLite>> {
    let cluster = failure.cycle.cluster;
    match pods.first().and_then(|it| bound_group(cluster, it)) {
        Some(group) => fellows(cluster, &group),
        None => pods.to_vec(),
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

    /// Whether the pods can stay.
    fn take_back(&mut self, pods: &[Arc<PodLite>]) -> bool {
        for pod in pods {
            self.row.add(Arc::clone(pod));
            self.checks.iter_mut().for_each(|(_, check)| check.pod_added(&self.row, pod));
        }
        let fits = self.fits().is_ok();
        if !fits {
            pods.iter().for_each(|it| self.remove(it));
        }
        fits
    }
}

/// A pod that has preempted already waits for its victims to end.
fn terminating_victim(failure: &Failure<'_, '_>) -> bool {
    let pod = failure.cycle.pod;
    let Some(row) = failure.cycle.nominated_row() else { return false };
    let hopeless = failure.refusals[row].as_ref().is_some_and(|it| it.unresolvable);
    let mut pods = failure.cycle.cluster.rows()[row].pods.iter();
    !hopeless && pods.any(|it| it.terminating && it.preempted && it.priority < pod.priority)
}

/// Sorts the most important pod first: the highest priority, then the one that runs longest.
fn importance(pod: &PodLite) -> (std::cmp::Reverse<i32>, i64) {
    (std::cmp::Reverse(pod.priority), pod.started.unwrap_or(i64::MAX))
}

/// Sorts pods of a node by importance. Of those that have not been started, the one that came last comes first: upstream
/// takes the present for their start, and reads the clock for each comparison anew.
fn by_importance(pods: &mut [Arc<PodLite>]) {
    pods.sort_by_key(|it| importance(it));
    let alike = |a: &Arc<PodLite>, b: &Arc<PodLite>| {
        a.priority == b.priority && a.started.is_none() && b.started.is_none()
    };
    pods.chunk_by_mut(alike).for_each(<[_]>::reverse);
}

/// Pods whose removal would break a budget, and the others.
fn by_budget(
    failure: &Failure<'_, '_>,
    pods: &[Arc<PodLite>],
) -> (Vec<Arc<PodLite>>, Vec<Arc<PodLite>>) {
    if !failure.cycle.cluster.has_budgets() {
        return (Vec::new(), pods.to_vec());
    }
    let mut budgets = Budgets::default();
    pods.iter().cloned().partition(|pod| budgets.breaks(failure.cycle.cluster, pod))
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
