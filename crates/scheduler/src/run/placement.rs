//! A group that has to be in one place is tried in each of them: the nodes that have the same value of a label. In the best of
//! those where it fits it is placed.
//!
//! Upstream: `podGroupSchedulingPlacementAlgorithm` of `pkg/scheduler/schedule_one_podgroup.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use compact_str::CompactString;

use super::Running;
use super::gang::{Outcomes, Round, Verdict};
use crate::cluster::Cluster;
use crate::framework::{Profile, Proposal};
use crate::groups::Group;
use crate::pod::PodLite;

/// Nodes with the same value of a label, as rows, by that value.
type Domains = BTreeMap<CompactString, Vec<usize>>;

/// A place where a group fits.
struct Fitting {
    rows: Vec<usize>,
    /// The members that found a node, with it.
    held: Vec<Arc<PodLite>>,
    verdicts: Vec<Verdict>,
}

impl Running {
    /// The label whose values are the places for a group, where it has to be in one.
    pub(super) fn topology_of(
        &self,
        members: &[Arc<PodLite>],
        profile: &Profile,
    ) -> Option<CompactString> {
        let group = members.first()?.group()?;
        let spec = self.state.cluster.groups.get(&group)?.spec.as_ref()?;
        spec.topology.clone().filter(|_| profile.placements.by_topology)
    }

    /// Thinks the members onto nodes of one place.
    pub(super) async fn try_placements(
        &mut self,
        members: &[Arc<PodLite>],
        round: Round<'_>,
        topology: &str,
    ) -> (Vec<Verdict>, Outcomes) {
        let key = members.first().and_then(|it| it.group());
        let group = key.and_then(|it| self.state.cluster.groups.get(&it));
        let places = match group.map(|it| places(&self.state.cluster, it, topology)) {
            Some(Ok(places)) => places,
            Some(Err(why)) => return (Vec::new(), Outcomes::Failed(why)),
            None => Domains::new(),
        };
        // The place that is being emptied for them is theirs, where they fit there.
        let promised = round.promised.values().next();
        let promised =
            promised.and_then(|it| self.state.cluster.row(it)?.node.labels.get(topology));
        let promised = promised.map(CompactString::from);
        let rows = promised.as_ref().and_then(|it| places.get(it));
        if let Some(rows) = rows {
            let within = Round { within: Some(rows), ..round };
            let (verdicts, outcome) = self.try_members(members, within).await;
            if !matches!(outcome, Outcomes::Unschedulable(_)) {
                return (verdicts, outcome);
            }
        }
        let count = places.len();
        let (mut fitting, mut first) = (Vec::new(), None);
        for rows in places.into_values() {
            let within = Round { within: Some(&rows), ..round };
            let (verdicts, outcome) = self.try_members(members, within).await;
            match outcome {
                Outcomes::Failed(_) => return (verdicts, outcome),
                Outcomes::Unschedulable(why) => drop(first.get_or_insert((verdicts, why))),
                Outcomes::Placed => {
                    let held = verdicts.iter().filter_map(Verdict::held).cloned().collect();
                    self.let_go(&verdicts);
                    fitting.push(Fitting { rows, held, verdicts });
                }
            }
        }
        let scheduled = round.progress.scheduled;
        match self.best(fitting, round.profile, scheduled) {
            Some(best) => self.hold_again(members, best, round.profile),
            None => {
                let (verdicts, why) =
                    first.unwrap_or_else(|| (Vec::new(), "pod group is unschedulable".into()));
                let why =
                    format!("0/{count} placements are available, first placement status: {why}");
                (verdicts, Outcomes::Unschedulable(why))
            }
        }
    }

    /// The best of the places where a group fits; of equal ones any.
    fn best(
        &self,
        mut fitting: Vec<Fitting>,
        profile: &Profile,
        scheduled: usize,
    ) -> Option<Fitting> {
        if fitting.len() > 1 {
            let proposals: Vec<Proposal<'_>> = fitting
                .iter()
                .map(|it| Proposal { rows: &it.rows, members: &it.held, scheduled })
                .collect();
            let mut totals = vec![0; proposals.len()];
            for (plugin, weight) in profile.placements.scores.iter() {
                let scores = plugin.score(&self.state.cluster, &proposals);
                totals.iter_mut().zip(scores).for_each(|(total, it)| *total += it * weight);
            }
            let most = totals.iter().copied().max();
            let equal: Vec<usize> =
                (0..totals.len()).filter(|it| Some(totals[*it]) == most).collect();
            let nth = self.scheduler.random.next_u64() % equal.len() as u64;
            let nth = usize::try_from(nth).unwrap_or_default();
            return Some(fitting.swap_remove(equal[nth]));
        }
        fitting.pop()
    }

    /// Thinks the members onto the nodes again that they found in a place.
    fn hold_again(
        &mut self,
        members: &[Arc<PodLite>],
        place: Fitting,
        profile: &Profile,
    ) -> (Vec<Verdict>, Outcomes) {
        let mut verdicts = Vec::with_capacity(place.verdicts.len());
        for (member, verdict) in members.iter().zip(place.verdicts) {
            let node = match verdict {
                Verdict::Held(pod, _) => pod.node.clone(),
                other => {
                    verdicts.push(other);
                    continue;
                }
            };
            match self.hold(member, profile, node) {
                Ok((pod, reserved)) => verdicts.push(Verdict::Held(pod, reserved)),
                Err(why) => {
                    self.let_go(&verdicts);
                    return (verdicts, Outcomes::Failed(why));
                }
            }
        }
        (verdicts, Outcomes::Placed)
    }
}

/// The places for a group: where some of its pods have nodes, the one that those are in.
///
/// # Errors
/// When these are in several, or in none.
fn places(cluster: &Cluster, group: &Group, topology: &str) -> Result<Domains, String> {
    let undecided =
        |why: String| format!("cannot determine domain for already scheduled pods: {why}");
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    for pod in &group.placed {
        let Some(row) = cluster.node_of(pod).and_then(|it| cluster.row(it)) else { continue };
        let domain = row.node.labels.get(topology);
        let domain =
            domain.ok_or_else(|| undecided(format!("no topology domain found for pod {pod}")))?;
        taken.insert(domain);
        if taken.len() > 1 {
            let all: Vec<&str> = taken.into_iter().collect();
            let why = format!("more than 1 domain found for pod group: {}", all.join(", "));
            return Err(undecided(why));
        }
    }
    let mut places = Domains::new();
    for row in cluster.rows() {
        let Some(domain) = row.node.labels.get(topology) else { continue };
        if taken.is_empty() || taken.contains(domain) {
            places.entry(domain.into()).or_default().push(row.place);
        }
    }
    Ok(places)
}
