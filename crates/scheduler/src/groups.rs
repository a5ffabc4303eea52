//! Groups of pods that are scheduled together: what is said of each, and which pods are its members.
//!
//! Knows no watch: somebody tells which pods wait, have a node, or are gone. Bounded by the groups and pods there are.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::Value;
use client::ObjectKey;
use compact_str::CompactString;

use crate::pod::PodLite;

/// What a `PodGroup` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSpec {
    /// How many of its pods have to have a node before any gets one; `None` where each is for itself.
    pub min_count: Option<i64>,
    /// The priority that all its pods have.
    pub priority: i64,
    /// Whether all its pods go where one of them has to make room.
    pub goes_together: bool,
    /// The label of nodes that all of its nodes have the same value of.
    pub topology: Option<CompactString>,
}

impl GroupSpec {
    /// What matters of a group.
    #[must_use]
    pub fn from_value(group: &Value) -> Self {
        let gang = group.at(&["spec", "schedulingPolicy", "gang"]).filter(|it| !it.is_null());
        Self {
            min_count: gang.map(|it| it.i64_at(&["minCount"]).unwrap_or_default()),
            priority: group.i64_at(&["spec", "priority"]).unwrap_or_default(),
            goes_together: group
                .at(&["spec", "disruptionMode", "all"])
                .is_some_and(|it| !it.is_null()),
            topology: group
                .items_at(&["spec", "schedulingConstraints", "topology"])
                .first()
                .map(|it| it.str_at(&["key"]).into()),
        }
    }
}

/// A group, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// What its object says; `None` while there is none.
    pub spec: Option<GroupSpec>,
    /// Its pods without a node.
    pub waiting: BTreeSet<ObjectKey>,
    /// Its pods with one.
    pub placed: BTreeSet<ObjectKey>,
}

impl Group {
    /// How many pods it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.waiting.len() + self.placed.len()
    }
}

/// The groups by namespace and name.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    groups: BTreeMap<ObjectKey, Group>,
    /// The group of each pod that has one.
    of: BTreeMap<ObjectKey, ObjectKey>,
}

impl Groups {
    /// A group, where anything is known of it.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Group> {
        self.groups.get(key)
    }

    /// Sets or forgets a group's object; says whether that is different.
    pub fn set(&mut self, key: &ObjectKey, spec: Option<GroupSpec>) -> bool {
        let group = self.groups.entry(key.clone()).or_default();
        let changed = group.spec != spec;
        group.spec = spec;
        self.tidy(key);
        changed
    }

    /// A pod waits for a node; says whether its group did not know it so.
    pub fn waits(&mut self, pod: &PodLite) -> bool {
        let Some(key) = pod.group() else { return false };
        self.moved(pod, &key);
        let group = self.groups.entry(key).or_default();
        group.placed.remove(&pod.key);
        group.waiting.insert(pod.key.clone())
    }

    /// A pod has a node.
    pub fn placed(&mut self, pod: &PodLite) {
        let Some(key) = pod.group() else { return };
        self.moved(pod, &key);
        let group = self.groups.entry(key).or_default();
        group.waiting.remove(&pod.key);
        group.placed.insert(pod.key.clone());
    }

    /// A pod is gone.
    pub fn gone(&mut self, pod: &ObjectKey) {
        let Some(key) = self.of.remove(pod) else { return };
        if let Some(group) = self.groups.get_mut(&key) {
            group.waiting.remove(pod);
            group.placed.remove(pod);
        }
        self.tidy(&key);
    }

    /// A pod of the name may have been in another group before.
    fn moved(&mut self, pod: &PodLite, group: &ObjectKey) {
        if self.of.get(&pod.key).is_some_and(|it| it != group) {
            self.gone(&pod.key);
        }
        self.of.insert(pod.key.clone(), group.clone());
    }

    fn tidy(&mut self, key: &ObjectKey) {
        if self.groups.get(key).is_some_and(|it| it.spec.is_none() && it.count() == 0) {
            self.groups.remove(key);
        }
    }
}

/// How far a group has come in a round of decisions: upstream's PlacementFeasible of GangScheduling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many have to have a node.
    pub min_count: usize,
    /// How many have one, in this round or before.
    pub scheduled: usize,
    /// How many are still to be decided about.
    pub remaining: usize,
}

impl Progress {
    /// Why the group cannot be had, however the rest is decided.
    #[must_use]
    pub fn hopeless(self) -> Option<String> {
        let Self { min_count, scheduled, remaining } = self;
        (remaining + scheduled < min_count).then(|| {
            format!(
                "minCount ({min_count}) cannot be satisfied: {scheduled} scheduled, {remaining} remaining"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    fn pod(name: &str, group: &str) -> PodLite {
        PodLite::from_value(&value!({"metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"schedulingGroup": {"podGroupName": group}}}))
    }

    #[test]
    fn a_pod_is_in_one_group_and_counts_once() {
        let mut groups = Groups::default();
        let (first, second) = (ObjectKey::new("d", "a"), ObjectKey::new("d", "b"));
        assert!(groups.waits(&pod("p", "a")));
        assert!(!groups.waits(&pod("p", "a")));
        groups.placed(&pod("p", "a"));
        assert_eq!(groups.get(&first).map(Group::count), Some(1));
        assert!(groups.waits(&pod("p", "b")));
        assert!(groups.get(&first).is_none(), "nothing is known of it any more");
        assert_eq!(groups.get(&second).map(Group::count), Some(1));
        let spec =
            GroupSpec { min_count: Some(2), priority: 0, goes_together: false, topology: None };
        assert!(groups.set(&second, Some(spec.clone())));
        assert!(!groups.set(&second, Some(spec)));
        groups.gone(&ObjectKey::new("d", "p"));
        assert_eq!(groups.get(&second).map(Group::count), Some(0));
        assert!(groups.set(&second, None));
        assert!(groups.get(&second).is_none());
    }

    #[test]
    fn a_gang_is_given_up_once_too_few_are_left() {
        let of = |scheduled, remaining| Progress { min_count: 4, scheduled, remaining }.hopeless();
        assert_eq!(of(3, 1), None);
        assert_eq!(of(4, 0), None);
        let text = "minCount (4) cannot be satisfied: 3 scheduled, 0 remaining";
        assert_eq!(of(3, 0).as_deref(), Some(text));
    }
}
