//! A group of pods is decided about as one: each member in turn, as if those before it were on their nodes, and then all
//! that found a node are bound, or none.
//!
//! Upstream: `podGroupCycle` of `pkg/scheduler/schedule_one_podgroup.go`. Of groups that have to be in one place: `placement.rs`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use client::ObjectKey;
use compact_str::CompactString;
use tokio::time::Instant;

use super::room::{Found, Room};
use super::{PODS, Running};
use crate::decide::{Decision, Diagnosis, verdict_on};
use crate::framework::{Cycle, Profile, ReservedWrites};
use crate::groups::Progress;
use crate::metrics::{GroupOutcome, Outcome};
use crate::pod::PodLite;
use crate::queue::Happened;
use crate::write::{GroupCondition, Preemptor, Promise, Refusal};

/// Who keeps a pod back whose group cannot be had.
const GANG: &str = "GangScheduling";

/// What became of a member.
pub(super) enum Verdict {
    /// It is thought onto its node, with what it needs besides.
    Held(Arc<PodLite>, Vec<ReservedWrites>),
    /// No node will do.
    Refused(Diagnosis),
    /// It was not asked about any more.
    Unasked,
}

impl Verdict {
    /// The pod on its node, where it found one.
    pub(super) fn held(&self) -> Option<&Arc<PodLite>> {
        match self {
            Self::Held(pod, _) => Some(pod),
            Self::Refused(_) | Self::Unasked => None,
        }
    }
}

/// How members are thought onto nodes.
#[derive(Clone, Copy)]
pub(super) struct Round<'a> {
    pub(super) profile: &'a Profile,
    pub(super) progress: Progress,
    /// The nodes that are being emptied for members.
    pub(super) promised: &'a BTreeMap<ObjectKey, CompactString>,
    /// The only rows that there are for them, sorted.
    pub(super) within: Option<&'a [usize]>,
}

/// What became of the group.
pub(super) enum Outcomes {
    /// Those that found a node get it.
    Placed,
    /// None does, and why.
    Unschedulable(String),
    /// It could not be found out.
    Failed(String),
}

impl Running {
    /// The group that a pod is decided about with.
    pub(super) fn group_of(&self, pod: &PodLite) -> Option<ObjectKey> {
        pod.group().filter(|_| self.scheduler.pod_groups)
    }

    /// A group's object came, changed or went.
    pub(super) fn group_changed(&mut self, key: &ObjectKey, group: Option<&apimachinery::Value>) {
        let spec = group.map(crate::groups::GroupSpec::from_value);
        if self.state.cluster.groups.set(key, spec) {
            self.reconsider_group(key);
        }
    }

    /// Lets in the members that nothing holds back any more, and tries those again that were refused for their group.
    pub(super) fn reconsider_group(&mut self, key: &ObjectKey) {
        let now = self.scheduler.clock.monotonic();
        let mine = |pod: &PodLite| pod.group().as_ref() == Some(key);
        self.state.queue.happened_to(Happened::Group, now, mine);
        for pod in self.state.queue.gated_pods() {
            if mine(&pod) && !self.is_gated(&pod) {
                self.state.queue.put(pod, false, now);
            }
        }
    }

    /// Decides about all members of a group that wait, of which one is ready.
    pub(super) async fn decide_group(
        &mut self,
        first: Arc<PodLite>,
        key: &ObjectKey,
        begun: Instant,
    ) {
        let members = self.members(first, key);
        let name =
            members.first().map_or(CompactString::default(), |it| it.ask.scheduler_name.clone());
        let promised = self.take_promises(&members);
        let (verdicts, mut outcome, room) = match self.judge_members(&members, key) {
            Ok((profile, progress)) => {
                self.try_group(&members, &profile, progress, &promised).await
            }
            Err(why) => (Vec::new(), Outcomes::Failed(why), None),
        };
        if let (Outcomes::Unschedulable(why), Some(room)) = (&mut outcome, &room) {
            *why = format!("{why}, {}", room.told());
        }
        if let Some(Room::Failed(why)) = &room {
            outcome = Outcomes::Failed(why.clone());
        }
        let waits = matches!(&room, Some(Room::Found(_) | Room::Ongoing));
        let promises = match (&outcome, room) {
            (Outcomes::Unschedulable(_), Some(Room::Found(found))) => {
                let nodes = found.nodes.clone();
                self.promise(&members, key, found, &outcome);
                nodes
            }
            // What was promised is kept until those are gone that make room.
            (Outcomes::Unschedulable(_), Some(Room::Ongoing)) => promised,
            _ => BTreeMap::new(),
        };
        let mut verdicts = verdicts.into_iter();
        for pod in &members {
            let verdict = verdicts.next().unwrap_or(Verdict::Unasked);
            let node = promises.get(&pod.key).map(CompactString::as_str);
            self.state.cluster.nominate(pod, node);
            self.settle(pod, verdict, &outcome, (begun, node)).await;
        }
        let took = self.scheduler.clock.monotonic() - begun;
        let (condition, result) = match outcome {
            Outcomes::Placed => (GroupCondition::scheduled(), GroupOutcome::Scheduled),
            Outcomes::Unschedulable(why) => {
                let result = if waits {
                    GroupOutcome::WaitingOnPreemption
                } else {
                    GroupOutcome::Unschedulable
                };
                (GroupCondition::refused("Unschedulable", why), result)
            }
            Outcomes::Failed(why) => {
                (GroupCondition::refused("SchedulerError", why), GroupOutcome::Error)
            }
        };
        self.scheduler.metrics.group_attempted(&name, result, took);
        if let Some(groups) = self.groups_store() {
            self.writer.tell_group(groups.clone(), key.clone(), condition).await;
        }
    }

    /// Thinks the members onto nodes, and looks for room where they do not fit.
    async fn try_group(
        &mut self,
        members: &[Arc<PodLite>],
        profile: &Profile,
        progress: Progress,
        promised: &BTreeMap<ObjectKey, CompactString>,
    ) -> (Vec<Verdict>, Outcomes, Option<Room>) {
        let begun = self.scheduler.clock.monotonic();
        let round = Round { profile, progress, promised, within: None };
        let (verdicts, outcome) = self.try_round(members, round).await;
        let now = self.scheduler.clock.monotonic();
        self.scheduler.metrics.group_decided(now - begun);
        if !matches!(outcome, Outcomes::Unschedulable(_)) {
            return (verdicts, outcome, None);
        }
        let room = self.room_for(members, profile, progress, promised).await;
        self.scheduler.metrics.group_made_room(room.code(), self.scheduler.clock.monotonic() - now);
        (verdicts, outcome, Some(room))
    }

    /// The nodes that are being emptied for members, which are not kept free of them while they are decided about.
    fn take_promises(&mut self, members: &[Arc<PodLite>]) -> BTreeMap<ObjectKey, CompactString> {
        let mut promised = BTreeMap::new();
        for pod in members {
            if let Some(node) = self.state.cluster.nomination_of(&pod.key).cloned() {
                self.state.cluster.nominate(pod, None);
                promised.insert(pod.key.clone(), node);
            }
        }
        promised
    }

    /// Has those removed that make room, and tells the members for which they do.
    fn promise(
        &mut self,
        members: &[Arc<PodLite>],
        key: &ObjectKey,
        found: Found,
        outcome: &Outcomes,
    ) {
        let metrics = &self.scheduler.metrics;
        metrics.group_preempted(found.victims.len(), found.groups, found.violations);
        let uid = self.groups_store().and_then(|it| it.get(key)).map(|it| it.uid.clone());
        let scheduler = members.first().map(|it| it.ask.scheduler_name.clone());
        let preemptor = Preemptor {
            scheduler: scheduler.unwrap_or_default(),
            uid: uid.unwrap_or_default(),
            kind: "podgroup",
            node: "cluster".into(),
        };
        let Outcomes::Unschedulable(why) = outcome else { return };
        let promises = members.iter().filter_map(|pod| {
            let live = self.stores[PODS].get(&pod.key)?.value();
            let node = found.nodes.get(&pod.key)?.clone();
            Some(Promise { pod: live, node, refusal: Refusal::unschedulable(why.clone(), false) })
        });
        let promises: Vec<Promise> = promises.collect();
        // Those alone that are promised a node are told of should the others stay.
        for pod in members.iter().filter(|it| found.nodes.contains_key(&it.key)) {
            self.keep_back(&pod.key, &found.victims);
        }
        self.writer.preempting_group(promises, found.victims, preemptor);
    }

    /// The members that wait, the most important first, then the one that waits longest.
    fn members(&mut self, first: Arc<PodLite>, key: &ObjectKey) -> Vec<Arc<PodLite>> {
        let group = self.state.cluster.groups.get(key);
        let others = group.map(|it| it.waiting.clone()).unwrap_or_default();
        let others = others.into_iter().filter(|it| *it != first.key).collect::<Vec<_>>();
        let mut members = vec![first];
        members.extend(others.iter().filter_map(|it| self.state.queue.pop_waiting(it)));
        let since = |pod: &PodLite| self.state.queue.tried(&pod.key).map(|it| it.1);
        members.sort_by_cached_key(|it| (Reverse(it.priority), since(it), it.key.clone()));
        members
    }

    /// Whether a group and its members fit together: the profile that decides, and how far the group has come.
    ///
    /// # Errors
    /// What does not fit, in upstream's words.
    fn judge_members(
        &self,
        members: &[Arc<PodLite>],
        key: &ObjectKey,
    ) -> Result<(Profile, Progress), String> {
        let group = self.state.cluster.groups.get(key);
        let Some((group, spec)) = group.and_then(|it| Some((it, it.spec.as_ref()?))) else {
            return Err(format!("podgroup.scheduling.k8s.io \"{}\" not found", key.name));
        };
        let cluster = &self.state.cluster;
        let placed = group.placed.iter().filter_map(|it| cluster.pod(it).map(AsRef::as_ref));
        let waiting = members.iter().map(|it| it.as_ref());
        let name = members.first().map_or("", |it| it.ask.scheduler_name.as_str());
        let never = members.first().is_some_and(|it| it.ask.never_preempts);
        let policy = |never| if never { "Never" } else { "PreemptLowerPriority" };
        for pod in waiting.chain(placed) {
            let other = pod.ask.scheduler_name.as_str();
            if other != name {
                return Err(format!(
                    "all pods in a single pod group should have the same .spec.schedulerName set, got: \"{other}\" and \"{name}\""
                ));
            }
            if i64::from(pod.priority) != spec.priority {
                return Err(format!(
                    "all pods in a single pod group should have the same priority as the pod group's priority, got {} and {}",
                    pod.priority, spec.priority
                ));
            }
            if pod.ask.never_preempts != never {
                return Err(format!(
                    "all pods in a single pod group should have the same preemption policy, got {} and {}",
                    policy(pod.ask.never_preempts),
                    policy(never)
                ));
            }
        }
        let profile = self
            .profiles
            .get(name)
            .ok_or_else(|| format!("profile not found for scheduler name \"{name}\""))?;
        let min_count = match spec.min_count.filter(|_| profile.gangs) {
            Some(count) => usize::try_from(count).unwrap_or_default(),
            None => 1,
        };
        // What helps one pod is no help where all are needed.
        let profile = Profile { post_filters: Arc::new([]), ..Profile::clone(profile) };
        let progress =
            Progress { min_count, scheduled: group.placed.len(), remaining: members.len() };
        Ok((profile, progress))
    }

    /// Thinks the members onto nodes, of one place where they have to be in one.
    pub(super) async fn try_round(
        &mut self,
        members: &[Arc<PodLite>],
        round: Round<'_>,
    ) -> (Vec<Verdict>, Outcomes) {
        match self.topology_of(members, round.profile) {
            Some(topology) => self.try_placements(members, round, &topology).await,
            None => self.try_members(members, round).await,
        }
    }

    /// Thinks one member after the other onto a node. Where the group cannot be had all of them are taken off again.
    pub(super) async fn try_members(
        &mut self,
        members: &[Arc<PodLite>],
        round: Round<'_>,
    ) -> (Vec<Verdict>, Outcomes) {
        let mut progress = round.progress;
        let mut verdicts = Vec::with_capacity(members.len());
        let (mut failed, mut held) = (None, 0);
        for pod in members {
            if progress.hopeless().is_some() {
                break;
            }
            progress.remaining -= 1;
            match self.try_member(pod, round).await {
                Ok(verdict) => {
                    let is_held = matches!(verdict, Verdict::Held(..));
                    progress.scheduled += usize::from(is_held);
                    held += usize::from(is_held);
                    verdicts.push(verdict);
                }
                Err(error) => {
                    failed =
                        Some(format!("failed to schedule other pod from a pod group: {error}"));
                    break;
                }
            }
        }
        let outcome = match (failed, progress.hopeless()) {
            (Some(error), _) => Outcomes::Failed(error),
            (None, Some(why)) => Outcomes::Unschedulable(why),
            (None, None) if held == 0 => Outcomes::Unschedulable("no pods were schedulable".into()),
            (None, None) => return (verdicts, Outcomes::Placed),
        };
        self.let_go(&verdicts);
        (verdicts, outcome)
    }

    /// Thinks a member onto the node that was emptied for it, or onto the best of all.
    async fn try_member(
        &mut self,
        pod: &Arc<PodLite>,
        round: Round<'_>,
    ) -> Result<Verdict, String> {
        let (profile, promised) = (round.profile, round.promised.get(&pod.key));
        let alone = self.scheduler.extenders.is_empty();
        let cluster = &self.state.cluster;
        let row = promised.filter(|_| alone).and_then(|it| cluster.row(it));
        let within = |row: usize| round.within.is_none_or(|it| it.binary_search(&row).is_ok());
        let row = row.filter(|it| within(it.place));
        let fits = row.filter(|it| verdict_on(Cycle { pod, cluster }, profile, it).is_none());
        let node = match fits.map(|it| it.node.name.clone()) {
            Some(node) => node,
            None => match self.decide(pod, profile, round.within).await? {
                Decision::Place(placement) => placement.node,
                Decision::Reject(diagnosis) => return Ok(Verdict::Refused(diagnosis)),
                Decision::Fail(error) => return Err(error),
            },
        };
        let (pod, reserved) = self.hold(pod, profile, node)?;
        Ok(Verdict::Held(pod, reserved))
    }

    /// Takes members off the nodes that they were thought onto.
    pub(super) fn let_go(&mut self, verdicts: &[Verdict]) {
        for pod in verdicts.iter().filter_map(Verdict::held) {
            self.unreserve(pod);
            self.state.cluster.remove_pod(&pod.key);
            self.state.cluster.groups.waits(pod);
        }
    }

    /// What follows for a member.
    async fn settle(
        &mut self,
        pod: &Arc<PodLite>,
        verdict: Verdict,
        outcome: &Outcomes,
        (begun, promised): (Instant, Option<&str>),
    ) {
        let now = self.scheduler.clock.monotonic();
        let name = &pod.ask.scheduler_name;
        let metrics = &self.scheduler.metrics;
        match (outcome, verdict) {
            (Outcomes::Placed, Verdict::Held(assumed, reserved)) => {
                if let Some(profile) = self.profile_of(pod) {
                    self.bind_held(assumed, reserved, &profile, begun).await;
                }
            }
            (Outcomes::Failed(error), _) => {
                metrics.attempted(name, Outcome::Error, now - begun);
                self.state.queue.retry(&pod.key, now);
                self.writer.refused(pod.key.clone(), Refusal::error(error.clone()));
            }
            (_, Verdict::Refused(Diagnosis { message, plugins, .. })) => {
                metrics.attempted(name, Outcome::Unschedulable, now - begun);
                self.state.queue.failed(&pod.key, plugins, now);
                self.refuse_member(pod, message, promised);
            }
            (Outcomes::Unschedulable(why), Verdict::Held(..) | Verdict::Unasked) => {
                metrics.attempted(name, Outcome::Unschedulable, now - begun);
                self.state.queue.failed(&pod.key, vec![GANG], now);
                self.refuse_member(pod, why.clone(), promised);
            }
            (Outcomes::Placed, Verdict::Unasked) => self.state.queue.retry(&pod.key, now),
        }
    }
    /// Tells a member why it has no node. One to which a node is promised is told when it is.
    fn refuse_member(&self, pod: &PodLite, why: String, promised: Option<&str>) {
        if promised.is_none() {
            self.writer.refused(pod.key.clone(), Refusal::unschedulable(why, true));
        }
    }
}
