//! Who goes together where room is made, and who is spared first.
//!
//! A pod goes alone, unless its group says that all of its pods go where one does (`disruptionMode: all`). Upstream:
//! `pkg/scheduler/framework/preemption`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::ObjectKey;

use crate::cluster::Cluster;
use crate::pod::PodLite;

/// Pods that go together, or stay.
#[derive(Debug, Clone)]
pub(crate) struct Victim {
    /// The pods, wherever they are.
    pub(crate) pods: Vec<Arc<PodLite>>,
    /// Their priority.
    pub(crate) priority: i64,
    /// Whether they are a group that goes together.
    pub(crate) is_group: bool,
}

impl Victim {
    /// Sorts the most important first: the priority, a group before a pod, the larger group, then what runs longest.
    fn importance(&self) -> (Reverse<i64>, Reverse<bool>, Reverse<usize>, i64) {
        let size = if self.is_group { self.pods.len() } else { 0 };
        let started = self.pods.iter().filter_map(|it| it.started).min();
        let earliest = started.unwrap_or(i64::MAX);
        (Reverse(self.priority), Reverse(self.is_group), Reverse(size), earliest)
    }
}

/// The group that goes where one of its pods does; `None` where the pod goes alone.
pub(crate) fn bound_group(cluster: &Cluster, pod: &PodLite) -> Option<ObjectKey> {
    let key = pod.group()?;
    let spec = cluster.groups.get(&key)?.spec.as_ref()?;
    spec.goes_together.then_some(key)
}

/// The priority that counts for a pod: its group's, where there is one.
pub(crate) fn priority(cluster: &Cluster, pod: &PodLite) -> i64 {
    let group = pod.group().and_then(|it| cluster.groups.get(&it)?.spec.as_ref());
    group.map_or_else(|| i64::from(pod.priority), |it| it.priority)
}

/// The pods of a group that have a node.
pub(crate) fn fellows(cluster: &Cluster, group: &ObjectKey) -> Vec<Arc<PodLite>> {
    let placed = cluster.groups.get(group).map(|it| &it.placed);
    placed.into_iter().flatten().filter_map(|it| cluster.pod(it).cloned()).collect()
}

/// All that could go for a priority, those first that are spared first: those whose budgets would not bear it, then the
/// others, of both the most important first. With how many budgets' pods each has.
pub(crate) fn below(cluster: &Cluster, limit: i64) -> Vec<(Victim, usize)> {
    let mut groups = BTreeSet::new();
    let mut victims = Vec::new();
    for pod in cluster.rows().iter().flat_map(|it| &it.pods) {
        let priority = priority(cluster, pod);
        if priority >= limit {
            continue;
        }
        match bound_group(cluster, pod) {
            None => {
                let pods = vec![Arc::clone(pod)];
                victims.push(Victim { pods, priority, is_group: false });
            }
            Some(group) => {
                if groups.insert(group.clone()) {
                    let pods = fellows(cluster, &group);
                    victims.push(Victim { pods, priority, is_group: true });
                }
            }
        }
    }
    victims.sort_by_cached_key(Victim::importance);
    let mut budgets = Budgets::default();
    let counted = victims.into_iter().map(|it| {
        let violations = it.pods.iter().filter(|pod| budgets.breaks(cluster, pod)).count();
        (it, violations)
    });
    let (mut violating, others): (Vec<_>, Vec<_>) = counted.partition(|it| it.1 > 0);
    violating.extend(others);
    violating
}

/// What disruption budgets have borne so far.
#[derive(Debug, Default)]
pub(crate) struct Budgets(BTreeMap<ObjectKey, i64>);

impl Budgets {
    /// Whether one more pod that goes is more than a budget bears.
    pub(crate) fn breaks(&mut self, cluster: &Cluster, pod: &PodLite) -> bool {
        let mut breaks = false;
        for (key, budget) in cluster.budgets(&pod.key.namespace) {
            let counts = !budget.selector.is_everything()
                && budget.selector.matches(|key| pod.labels.get(key))
                && !budget.disrupted.contains(&pod.key.name);
            if counts {
                let used = self.0.entry(key.clone()).or_default();
                *used += 1;
                breaks |= *used > budget.allowed;
            }
        }
        breaks
    }
}
