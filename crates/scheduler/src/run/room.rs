//! A group that does not fit pushes pods of lower priority away, so that it fits, or nobody.
//!
//! All pods of lower priority are thought away, the group is thought onto its nodes, and then as many as possible come back
//! with which it still fits there, the most important first. Upstream: `podgrouppreemption.go` of
//! `pkg/scheduler/framework/preemption`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::ObjectKey;
use compact_str::CompactString;

use super::Running;
use super::gang::{Outcomes, Round, Verdict};
use crate::decide::{is_local, verdict_on};
use crate::framework::{Cycle, Profile};
use crate::groups::Progress;
use crate::pod::PodLite;
use crate::preemption::NAME as PLUGIN;
use crate::victims::{self, Victim};

/// What comes of looking for room.
pub(super) enum Room {
    /// These pods go, and then the members fit on these nodes.
    Found(Found),
    /// Pods that make room are going already.
    Ongoing,
    /// There is none, and why.
    Nowhere(String),
    /// It could not be found out.
    Failed(String),
}

/// Room for a group.
pub(super) struct Found {
    /// Where members are to be.
    pub(super) nodes: BTreeMap<ObjectKey, CompactString>,
    /// Who goes.
    pub(super) victims: Vec<Arc<PodLite>>,
    /// How many of them are whole groups, or pods of groups.
    pub(super) groups: usize,
    /// How many of them their budgets would keep.
    pub(super) violations: usize,
}

impl Room {
    /// What upstream calls it.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Found(_) | Self::Ongoing => "Success",
            Self::Nowhere(_) => "Unschedulable",
            Self::Failed(_) => "Error",
        }
    }

    /// What the group is told of it.
    pub(super) fn told(&self) -> String {
        let text = match self {
            Self::Found(found) => {
                let count = found.victims.len();
                format!("found a placement for podgroup, preempting {count} victims")
            }
            Self::Ongoing => "ongoing preemption on nominated nodes".to_owned(),
            Self::Nowhere(why) | Self::Failed(why) => why.clone(),
        };
        format!("pod group preemption: {text}")
    }
}

impl Running {
    /// Looks for room for a group that does not fit. Nothing has changed afterwards.
    pub(super) async fn room_for(
        &mut self,
        members: &[Arc<PodLite>],
        profile: &Profile,
        progress: Progress,
        promised: &BTreeMap<ObjectKey, CompactString>,
    ) -> Room {
        let nowhere = |why: &str| Room::Nowhere(why.to_owned());
        let Some(first) = members.first() else { return nowhere("no pods wait") };
        let makes_room = self.profile_of(first);
        let makes_room =
            makes_room.is_some_and(|it| it.post_filters.iter().any(|it| it.name() == PLUGIN));
        if !makes_room {
            return nowhere(
                "default preemption plugin is not registered, workload aware preemption is disabled",
            );
        }
        if first.ask.never_preempts {
            return nowhere("not eligible due to preemptionPolicy=Never.");
        }
        let cluster = &self.state.cluster;
        let priority = victims::priority(cluster, first);
        let makes_room = |pod: &Arc<PodLite>| {
            pod.terminating && pod.preempted && victims::priority(cluster, pod) < priority
        };
        let nodes: BTreeSet<&CompactString> = promised.values().collect();
        let mut rows = nodes.into_iter().filter_map(|it| cluster.row(it));
        if rows.any(|row| row.pods.iter().any(makes_room)) {
            return Room::Ongoing;
        }
        let potential = victims::below(cluster, priority);
        if potential.is_empty() {
            return nowhere("No preemption victims found for incoming preemptor");
        }
        for pod in potential.iter().flat_map(|it| &it.0.pods) {
            self.state.cluster.lift(&pod.key);
        }
        let round = Round { profile, progress, promised, within: None };
        let (verdicts, outcome) = self.try_round(members, round).await;
        let (room, gone) = match outcome {
            Outcomes::Placed => {
                let held: Vec<Arc<PodLite>> =
                    verdicts.iter().filter_map(Verdict::held).cloned().collect();
                self.let_go(&verdicts);
                let lost = self.spare(potential, &held, profile);
                let gone: Vec<Victim> = lost.iter().map(|it| it.0.clone()).collect();
                let in_group = |it: &&(Victim, usize)| {
                    it.0.pods.len() > 1 || it.0.pods.iter().any(|pod| pod.ask.group.is_some())
                };
                let found = Found {
                    nodes: held.iter().map(|it| (it.key.clone(), it.node.clone())).collect(),
                    victims: gone.iter().flat_map(|it| it.pods.iter().cloned()).collect(),
                    groups: lost.iter().filter(in_group).count(),
                    violations: lost.iter().map(|it| it.1).sum(),
                };
                (Room::Found(found), gone)
            }
            Outcomes::Unschedulable(why) => {
                (Room::Nowhere(why), potential.into_iter().map(|it| it.0).collect())
            }
            Outcomes::Failed(why) => {
                (Room::Failed(why), potential.into_iter().map(|it| it.0).collect())
            }
        };
        // They are there until they are gone.
        for pod in gone.into_iter().flat_map(|it| it.pods) {
            self.state.cluster.set_pod(pod);
        }
        room
    }

    /// Brings those back with which the members still fit; who is left has to go.
    fn spare(
        &mut self,
        potential: Vec<(Victim, usize)>,
        held: &[Arc<PodLite>],
        profile: &Profile,
    ) -> Vec<(Victim, usize)> {
        let cluster = &self.state.cluster;
        let local = held.iter().all(|pod| is_local(Cycle { pod, cluster }, profile));
        let mut lost = Vec::new();
        for (victim, violations) in potential {
            let nodes: BTreeSet<CompactString> =
                victim.pods.iter().map(|it| it.node.clone()).collect();
            for pod in &victim.pods {
                self.state.cluster.set_pod(Arc::clone(pod));
            }
            // Who is elsewhere does not matter, where each node is judged by itself.
            let beside = |it: &&Arc<PodLite>| !local || nodes.contains(&it.node);
            let asked: Vec<&Arc<PodLite>> = held.iter().filter(beside).collect();
            if !self.still_fit(&asked, profile) {
                for pod in &victim.pods {
                    self.state.cluster.lift(&pod.key);
                }
                lost.push((victim, violations));
            }
        }
        lost
    }

    /// Whether members fit on their nodes, one after the other.
    fn still_fit(&mut self, held: &[&Arc<PodLite>], profile: &Profile) -> bool {
        let mut thought = Vec::with_capacity(held.len());
        let mut fits = true;
        for pod in held {
            let cluster = &self.state.cluster;
            let cycle = Cycle { pod, cluster };
            fits =
                cluster.row(&pod.node).is_some_and(|row| verdict_on(cycle, profile, row).is_none());
            if !fits {
                break;
            }
            self.state.cluster.set_pod(Arc::clone(pod));
            thought.push(*pod);
        }
        for pod in thought {
            self.state.cluster.remove_pod(&pod.key);
            self.state.cluster.groups.waits(pod);
        }
        fits
    }
}
