//! Placing pods that wait, the highest priority first, by the code that schedules.

use std::sync::Arc;

use apimachinery::Value;
use scheduler::decide::{Diagnosis, How};
use scheduler::framework::Cycle;
use scheduler::preemption::{Candidate, best};
use scheduler::{Decision, PodLite, Profile, decide};

use super::leave::noted;
use super::{MAX_PLACED, Move, Play, Wait, WhatIfError};
use crate::objects::{controller_of, is_true, key_of};
use crate::scheduling::{Outcome, outcome};

/// For how many pods that wait help is looked for.
const MAX_HELPED: usize = 5;

/// A pod that is to be placed.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    value: Arc<Value>,
    owner: String,
    from: String,
    /// Whether its budget has lost it, and gets it back.
    was_healthy: bool,
}

impl Pending {
    /// A pod as its owner makes it again.
    pub(super) fn again(pod: &Arc<Value>) -> Self {
        let owner = controller_of(pod);
        let owner = owner.map(|it| format!("{}/{}", it.str_at(&["kind"]), it.str_at(&["name"])));
        let mut value = Value::clone(pod);
        value.remove_at(&["status"]);
        let from = pod.str_at(&["spec", "nodeName"]).to_owned();
        value.remove_at(&["spec", "nodeName"]);
        Self {
            value: Arc::new(value),
            owner: owner.unwrap_or_default(),
            from,
            was_healthy: is_true(pod, "Ready"),
        }
    }

    /// A pod of a workload that is new.
    pub(super) fn new(value: Value, owner: &str) -> Self {
        Self {
            value: Arc::new(value),
            owner: owner.to_owned(),
            from: String::new(),
            was_healthy: false,
        }
    }

    fn priority(&self) -> i64 {
        self.value.i64_at(&["spec", "priority"]).unwrap_or_default()
    }
}

impl Play<'_> {
    /// Places everything that is to be placed, and whoever that pushes away.
    pub(super) fn settle(&mut self) -> Result<(), WhatIfError> {
        let mut placed = 0;
        loop {
            let left = placed + self.queue.len();
            if left > MAX_PLACED {
                return Err(WhatIfError::TooMany(left));
            }
            // A stable sort keeps the order of those of one priority.
            self.queue.make_contiguous().sort_by_key(|it| std::cmp::Reverse(it.priority()));
            let Some(pending) = self.queue.pop_front() else { return Ok(()) };
            placed += 1;
            self.place(&pending);
        }
    }

    fn place(&mut self, pending: &Pending) {
        let pod = PodLite::from_value(&pending.value);
        let explainer = self.explainer;
        let Some(profile) = explainer.profile(&pod.ask.scheduler_name) else {
            let why =
                format!("it is for scheduler {}, which is not asked here", pod.ask.scheduler_name);
            return self.wait(pending, why, String::new());
        };
        let blocked = profile.pre_enqueue.iter().find_map(|it| it.blocks(&self.cluster, &pod));
        if let Some(why) = blocked {
            return self.wait(pending, why, String::new());
        }
        match decide(Cycle { pod: &pod, cluster: &self.cluster }, profile, How::default()) {
            Decision::Place(placement) => self.put(pending, profile, pod, &placement.node),
            Decision::Fail(why) => self.wait(pending, why, String::new()),
            Decision::Reject(diagnosis) => self.refused(pending, profile, pod, diagnosis),
        }
    }

    fn put(&mut self, pending: &Pending, profile: &Profile, mut pod: PodLite, node: &str) {
        for plugin in profile.reserve.iter() {
            if let Err(why) = plugin.reserve(&mut self.cluster, &pod, node) {
                for plugin in profile.reserve.iter() {
                    plugin.unreserve(&mut self.cluster, &pod);
                }
                return self.wait(pending, format!("{}: {why}", plugin.name()), String::new());
            }
        }
        pod.node = node.into();
        let key = pod.key.clone();
        self.cluster.set_pod(Arc::new(pod));
        if pending.was_healthy {
            self.budgets.give_back(&pending.value);
        }
        let (owner, from) = (pending.owner.clone(), pending.from.clone());
        self.report.moves.push(Move { pod: key, owner, from, to: node.to_owned() });
    }

    fn refused(
        &mut self,
        pending: &Pending,
        profile: &Profile,
        pod: PodLite,
        diagnosis: Diagnosis,
    ) {
        if let Some(candidate) = best(diagnosis.candidates) {
            self.push_away(&candidate, &pod);
            return self.put(pending, profile, pod, &candidate.node);
        }
        let mut help = String::new();
        if self.helped < MAX_HELPED {
            self.helped += 1;
            let found = outcome(&self.around, &mut self.cluster, profile, &pending.value);
            if let Outcome::Refused(scheduling) = found {
                help = scheduling.suggestions.first().map(|it| it.summary()).unwrap_or_default();
            }
        }
        self.wait(pending, diagnosis.message, help);
    }

    /// Pods of lower priority make room, and are made again elsewhere.
    fn push_away(&mut self, candidate: &Candidate, by: &PodLite) {
        for victim in candidate.victims.iter() {
            let there = self.objects.get("", "pods", &victim.key);
            let there = there.map(|it| {
                // It may have moved in the play.
                let mut it = Value::clone(&it);
                it.set_at(&["spec", "nodeName"], candidate.node.as_str());
                Arc::new(it)
            });
            let note = format!("{} of priority {} pushes it away", by.key, by.priority);
            match there {
                Some(pod) => {
                    self.report.preempted.push(noted(&pod, &note));
                    self.budgets.lose(&pod);
                    self.report.moves.retain(|it| it.pod != victim.key);
                    self.leave(&pod);
                }
                None => drop(self.cluster.remove_pod(&victim.key)),
            }
        }
    }

    fn wait(&mut self, pending: &Pending, why: String, help: String) {
        let wait = Wait {
            pod: key_of(&pending.value),
            owner: pending.owner.clone(),
            from: pending.from.clone(),
            why,
            help,
        };
        self.report.waits.push(wait);
    }
}
