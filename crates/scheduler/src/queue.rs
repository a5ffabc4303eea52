//! Pods that wait for a node: ready to be tried, backing off, or waiting for something to change.
//!
//! Knows no watch and reads no clock: it is told what happened, and when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::ObjectKey;
use compact_str::CompactString;
use tokio::time::Instant;

use crate::pod::PodLite;

/// The pauses after failures.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first; doubled with each further one.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Default for Backoff {
    /// Upstream's.
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(10) }
    }
}

impl Backoff {
    fn after(self, attempts: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << attempts.saturating_sub(1).min(20));
        doubled.min(self.longest)
    }
}

/// After this long a pod is tried again though nothing happened that should help it.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What brings a pod back that waited so long.
const FLUSHED: &str = "UnschedulableTimeout";

/// Stands for the plugins of a pod that was refused by none: whatever happens may help it.
const ANYTHING: &str = "";

/// What happened in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A node came or changed.
    Node,
    /// A pod came to a node, or changed there.
    PodPlaced,
    /// A pod left a node.
    PodGone,
    /// Devices came or changed, or were given back.
    Devices,
    /// A group of pods came or changed, or one of its pods came.
    Group,
    /// Something else that a decision looks at changed: a namespace, a claim, a volume.
    Other,
}

impl Happened {
    /// What upstream calls it where it brings a pod to a queue.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Node => "NodeUpdate",
            Self::PodPlaced => "AssignedPodAdd",
            Self::PodGone => "AssignedPodDelete",
            Self::Devices | Self::Group | Self::Other => "Update",
        }
    }

    /// Whether a pod that a plugin refused may fit now.
    fn helps(self, plugin: &str) -> bool {
        match self {
            Self::Node => true,
            Self::PodPlaced => matches!(plugin, "InterPodAffinity" | "PodTopologySpread"),
            Self::PodGone => matches!(
                plugin,
                "InterPodAffinity"
                    | "PodTopologySpread"
                    | "NodeResourcesFit"
                    | "NodePorts"
                    | "VolumeRestrictions"
                    | "NodeVolumeLimits"
            ),
            Self::Devices => plugin == "DynamicResources",
            Self::Group => plugin == "GangScheduling",
            Self::Other => {
                matches!(
                    plugin,
                    "InterPodAffinity"
                        | "VolumeRestrictions"
                        | "NodeVolumeLimits"
                        | "VolumeBinding"
                        | "VolumeZone"
                )
            }
        }
    }
}

/// The most important first, then the one that waits longest: upstream's PrioritySort.
type Rank = (Reverse<i32>, Instant, u64);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// To be tried.
    Active(Rank),
    /// To be tried then.
    Backoff(Instant),
    /// Nothing helps for now.
    Unschedulable(Instant),
    /// It is being tried, or its binding is.
    Out,
    /// A plugin does not let it in.
    Gated,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodLite>,
    place: Place,
    attempts: u32,
    since: Instant,
    backoff_until: Instant,
    refused_by: Vec<&'static str>,
    /// Whether it is tried although nothing happened.
    flushed: bool,
}

impl Entry {
    /// The resource claims that it uses, as far as they have names.
    fn claims(&self) -> impl Iterator<Item = ObjectKey> {
        let names = self.pod.ask.resource_claims.iter().filter_map(|it| it.claim.name());
        names.map(|it| ObjectKey::new(self.pod.key.namespace.clone(), it.clone()))
    }

    /// What it lies under in [`Queue::refused_by`].
    fn refusing(&self) -> &[&'static str] {
        if self.refused_by.is_empty() { &[ANYTHING] } else { &self.refused_by }
    }
}

/// Pods that wait. Bounded by the pods there are.
#[derive(Debug, Default)]
pub struct Queue {
    entries: BTreeMap<ObjectKey, Entry>,
    active: BTreeMap<Rank, ObjectKey>,
    backoff: BTreeSet<(Instant, ObjectKey)>,
    unschedulable: BTreeSet<(Instant, ObjectKey)>,
    /// The unschedulable ones by the plugins that refused them, so that what happens costs nothing for those it cannot
    /// help; under [`ANYTHING`] where no plugin did.
    refused_by: BTreeMap<&'static str, BTreeSet<ObjectKey>>,
    sequence: u64,
    backoff_for: Backoff,
    gated: BTreeSet<ObjectKey>,
    /// Who uses each resource claim.
    users: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// Pods that came to a queue, by what brought them, since somebody asked.
    entered: BTreeMap<(&'static str, &'static str), u64>,
    /// How many pods more or fewer each plugin refuses since somebody asked, by scheduler.
    refusing: BTreeMap<(&'static str, CompactString), i64>,
}

impl Queue {
    /// An empty queue with these pauses.
    #[must_use]
    pub fn new(backoff: Backoff) -> Self {
        Self { backoff_for: backoff, ..Self::default() }
    }

    /// How many pods there are in each queue, by upstream's names.
    #[must_use]
    pub fn sizes(&self) -> [(&'static str, i64); 4] {
        let size = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        [
            ("active", size(self.active.len())),
            ("backoff", size(self.backoff.len())),
            ("unschedulable", size(self.unschedulable.len())),
            ("gated", size(self.gated.len())),
        ]
    }

    /// How many pods came to which queue, and what brought them, since this was asked last.
    pub fn entered(&mut self) -> BTreeMap<(&'static str, &'static str), u64> {
        std::mem::take(&mut self.entered)
    }

    /// How many pods more or fewer each plugin refuses, by scheduler, since this was asked last.
    pub fn refusing_changed(&mut self) -> BTreeMap<(&'static str, CompactString), i64> {
        std::mem::take(&mut self.refusing)
    }

    /// How often a pod was tried, and since when it waits.
    #[must_use]
    pub fn tried(&self, key: &ObjectKey) -> Option<(u32, Instant)> {
        self.entries.get(key).map(|it| (it.attempts, it.since))
    }

    /// Whether a pod is tried although nothing happened that should help it.
    #[must_use]
    pub fn is_flushed(&self, key: &ObjectKey) -> bool {
        self.entries.get(key).is_some_and(|it| it.flushed)
    }

    /// Adds a pod, or tells of a change of it that may matter.
    pub fn put(&mut self, pod: Arc<PodLite>, gated: bool, now: Instant) {
        let key = pod.key.clone();
        let before = self.take(&key);
        let same = before.filter(|it| it.pod.uid == pod.uid);
        let event = if same.is_some() { "UnscheduledPodUpdate" } else { "UnscheduledPodAdd" };
        let entry = same.unwrap_or_else(|| Entry {
            pod: Arc::clone(&pod),
            place: Place::Out,
            attempts: 0,
            since: now,
            backoff_until: now,
            refused_by: Vec::new(),
            flushed: false,
        });
        let place = if gated { Place::Gated } else { self.ready(&entry, &pod, now) };
        self.insert(key, Entry { pod, ..entry }, place, event);
    }

    /// The pod as it is known here.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<PodLite>> {
        self.entries.get(key).map(|it| &it.pod)
    }

    /// Forgets a pod.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.take(key);
    }

    /// The next pod to try. It stays known until it is removed, and comes back by [`Self::failed`].
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodLite>> {
        self.due(now);
        let (_, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Out;
        entry.attempts = entry.attempts.saturating_add(1);
        Some(Arc::clone(&entry.pod))
    }

    /// Takes a pod out to be tried that is not on its turn, since one of its group is. Pods that a plugin does not let in
    /// stay where they are, and so do those that are being tried.
    pub fn pop_waiting(&mut self, key: &ObjectKey) -> Option<Arc<PodLite>> {
        let place = self.entries.get(key).map(|it| it.place.clone());
        if matches!(place, None | Some(Place::Gated | Place::Out)) {
            return None;
        }
        let mut entry = self.take(key)?;
        entry.attempts = entry.attempts.saturating_add(1);
        let pod = Arc::clone(&entry.pod);
        self.insert(key.clone(), entry, Place::Out, "");
        Some(pod)
    }

    /// A pod was tried and these plugins refused nodes. It waits for something that helps.
    pub fn failed(&mut self, key: &ObjectKey, refused_by: Vec<&'static str>, now: Instant) {
        let Some(mut entry) = self.take(key) else { return };
        entry.backoff_until = now + self.backoff_for.after(entry.attempts);
        entry.refused_by = refused_by;
        entry.flushed = false;
        let place = Place::Unschedulable(now + LONGEST_WAIT);
        self.insert(key.clone(), entry, place, "ScheduleAttemptFailure");
    }

    /// A pod could not be bound. It is tried again after a pause.
    pub fn retry(&mut self, key: &ObjectKey, now: Instant) {
        let Some(mut entry) = self.take(key) else { return };
        let until = now + self.backoff_for.after(entry.attempts);
        entry.backoff_until = until;
        self.insert(key.clone(), entry, Place::Backoff(until), "ScheduleAttemptFailure");
    }

    /// Something happened: pods that it may help are tried again.
    pub fn happened(&mut self, what: Happened, now: Instant) {
        let helped = self.refused_by.iter().filter(|(it, _)| **it == ANYTHING || what.helps(it));
        let helped: BTreeSet<ObjectKey> =
            helped.flat_map(|(_, keys)| keys.iter().cloned()).collect();
        for key in helped {
            self.again(&key, now, what.name());
        }
    }

    /// Something happened that matters to some pods only: those that it may help are tried again.
    pub fn happened_to(&mut self, what: Happened, now: Instant, whom: impl Fn(&PodLite) -> bool) {
        let helped = self.refused_by.iter().filter(|(it, _)| **it == ANYTHING || what.helps(it));
        let keys = helped.flat_map(|(_, keys)| keys);
        let meant = keys.filter(|key| self.get(key).is_some_and(|it| whom(it)));
        let helped: BTreeSet<ObjectKey> = meant.cloned().collect();
        for key in helped {
            self.again(&key, now, what.name());
        }
    }

    /// Something happened that matters to one pod: where it may help, that is tried again.
    pub fn happened_to_one(&mut self, what: Happened, now: Instant, key: &ObjectKey) {
        let Some(entry) = self.entries.get(key) else { return };
        let helped = || entry.refusing().iter().any(|it| *it == ANYTHING || what.helps(it));
        if matches!(entry.place, Place::Unschedulable(_)) && helped() {
            self.again(key, now, what.name());
        }
    }

    /// The pods that use a resource claim, and whether a plugin does not let them in.
    #[must_use]
    pub fn users_of(&self, claim: &ObjectKey) -> Vec<(Arc<PodLite>, bool)> {
        let users = self.users.get(claim).into_iter().flatten();
        let entries = users.filter_map(|it| self.entries.get(it));
        entries.map(|it| (Arc::clone(&it.pod), it.place == Place::Gated)).collect()
    }

    /// The pods that a plugin does not let in.
    #[must_use]
    pub fn gated_pods(&self) -> Vec<Arc<PodLite>> {
        self.gated.iter().filter_map(|it| self.get(it).cloned()).collect()
    }

    /// When something is due next though nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, ObjectKey)>| set.first().map(|(at, _)| *at);
        first(&self.backoff).into_iter().chain(first(&self.unschedulable)).min()
    }

    fn due(&mut self, now: Instant) {
        for (set, event) in [(&self.backoff, "BackoffComplete"), (&self.unschedulable, FLUSHED)]
            .map(|(set, event)| {
                let due = set.iter().take_while(|(at, _)| *at <= now);
                (due.map(|(_, key)| key.clone()).collect::<Vec<_>>(), event)
            })
        {
            for key in set {
                self.again(&key, now, event);
            }
        }
    }

    fn again(&mut self, key: &ObjectKey, now: Instant, event: &'static str) {
        let Some(mut entry) = self.take(key) else { return };
        entry.flushed |= event == FLUSHED;
        let pod = Arc::clone(&entry.pod);
        let place = self.ready(&entry, &pod, now);
        self.insert(key.clone(), entry, place, event);
    }

    fn ready(&mut self, entry: &Entry, pod: &PodLite, now: Instant) -> Place {
        if entry.backoff_until > now {
            return Place::Backoff(entry.backoff_until);
        }
        self.sequence += 1;
        Place::Active((Reverse(pod.priority), entry.since, self.sequence))
    }

    fn insert(&mut self, key: ObjectKey, mut entry: Entry, place: Place, event: &'static str) {
        let queue = match place {
            Place::Active(rank) => {
                self.active.insert(rank, key.clone());
                "active"
            }
            Place::Backoff(at) => {
                self.backoff.insert((at, key.clone()));
                "backoff"
            }
            Place::Unschedulable(at) => {
                self.unschedulable.insert((at, key.clone()));
                for plugin in entry.refusing() {
                    self.refused_by.entry(plugin).or_default().insert(key.clone());
                }
                self.count_refusing(&entry, 1);
                "unschedulable"
            }
            Place::Gated => {
                self.gated.insert(key.clone());
                "gated"
            }
            Place::Out => "",
        };
        if !queue.is_empty() {
            *self.entered.entry((queue, event)).or_default() += 1;
        }
        entry.place = place;
        for claim in entry.claims() {
            self.users.entry(claim).or_default().insert(key.clone());
        }
        self.entries.insert(key, entry);
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        for claim in entry.claims() {
            if let Some(users) = self.users.get_mut(&claim) {
                users.remove(key);
                if users.is_empty() {
                    self.users.remove(&claim);
                }
            }
        }
        match entry.place {
            Place::Active(rank) => drop(self.active.remove(&rank)),
            Place::Backoff(at) => drop(self.backoff.remove(&(at, key.clone()))),
            Place::Unschedulable(at) => {
                self.unschedulable.remove(&(at, key.clone()));
                for plugin in entry.refusing() {
                    if let Some(keys) = self.refused_by.get_mut(plugin) {
                        keys.remove(key);
                    }
                }
                self.count_refusing(&entry, -1);
            }
            Place::Gated => drop(self.gated.remove(key)),
            Place::Out => {}
        }
        Some(entry)
    }

    fn count_refusing(&mut self, entry: &Entry, by: i64) {
        for plugin in &entry.refused_by {
            let of = (*plugin, entry.pod.ask.scheduler_name.clone());
            *self.refusing.entry(of).or_default() += by;
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    fn pod(name: &str, priority: i64) -> Arc<PodLite> {
        let value = value!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": {"priority": priority}});
        Arc::new(PodLite::from_value(&value))
    }

    fn popped(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|it| it.key.name.to_string()).collect()
    }

    #[test]
    fn the_most_important_pod_comes_first_and_then_the_oldest() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 9)] {
            queue.put(pod(name, priority), false, now);
        }
        queue.put(pod("gated", 100), true, now);
        assert_eq!(popped(&mut queue, now), ["d", "b", "a", "c"]);
    }

    #[test]
    fn a_refused_pod_waits_for_what_helps_and_then_out_its_backoff() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let a = pod("a", 0);
        queue.put(Arc::clone(&a), false, now);
        queue.pop(now);
        queue.failed(&a.key, vec!["NodeResourcesFit"], now);
        queue.happened(Happened::PodPlaced, now);
        let later = now + Backoff::default().longest;
        assert_eq!(popped(&mut queue, later).len(), 0, "another pod on a node does not help");
        queue.happened(Happened::PodGone, now);
        assert_eq!(popped(&mut queue, now).len(), 0, "it backs off");
        assert_eq!(queue.deadline(), Some(now + Backoff::default().first));
        assert_eq!(popped(&mut queue, now + Backoff::default().first), ["a"]);
    }
}
