//! Pods that wait for a node: ready to be tried, backing off, or waiting for something to change.
//!
//! Knows no watch and reads no clock: it is told what happened, and when. Where no pod is ready, one that backs off is
//! tried before its time (upstream: `SchedulerPopFromBackoffQ`); what brings pods back is what happens, so that a pod is not
//! tried again for nothing.

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

/// Pods whose pauses end within the same span of this length are tried in the order of those that are ready: as long as
/// upstream's.
const WINDOW: Duration = Duration::from_secs(1);

/// What brings a pod back that waited so long.
const FLUSHED: &str = "UnschedulableTimeout";

/// Stands for the plugins of a pod that was refused by none: whatever happens may help it.
const ANYTHING: &str = "";

/// What happened in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A node came or changed.
    Node,
    /// A node went, and its domains with it.
    NodeGone,
    /// A pod came to a node, or changed there.
    PodPlaced,
    /// A pod on a node asks for less than before.
    PodShrunk,
    /// A pod left a node.
    PodGone,
    /// Devices came or changed, or were given back.
    Devices,
    /// Classes of devices came or changed, which may serve what pods ask for by the names of resources.
    Classes,
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
            Self::NodeGone => "NodeDelete",
            Self::PodPlaced => "AssignedPodAdd",
            Self::PodShrunk => "AssignedPodUpdatePodScaleDown",
            Self::PodGone => "AssignedPodDelete",
            Self::Devices | Self::Classes | Self::Group | Self::Other => "Update",
        }
    }

    /// Whether a pod that a plugin refused may fit now.
    fn helps(self, plugin: &str) -> bool {
        match self {
            Self::Node => true,
            Self::NodeGone => plugin == "PodTopologySpread",
            Self::PodPlaced => matches!(plugin, "InterPodAffinity" | "PodTopologySpread"),
            Self::PodShrunk => plugin == "NodeResourcesFit",
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
            Self::Classes => plugin == "NodeResourcesFit",
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
    /// To be tried then, or before where no other is ready.
    Backoff((Instant, Rank)),
    /// To be tried then, and not before: something went wrong.
    AfterError(Instant),
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
    /// Whether it backs off since something went wrong.
    after_error: bool,
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
    backoff: BTreeMap<(Instant, Rank), ObjectKey>,
    after_error: BTreeSet<(Instant, ObjectKey)>,
    unschedulable: BTreeSet<(Instant, ObjectKey)>,
    /// The unschedulable ones by the plugins that refused them, so that what happens costs nothing for those it cannot
    /// help; under [`ANYTHING`] where no plugin did.
    refused_by: BTreeMap<&'static str, BTreeSet<ObjectKey>>,
    sequence: u64,
    backoff_for: Backoff,
    gated: BTreeSet<ObjectKey>,
    /// Pods that are not to be tried until others have been told to make room, with what would have brought them back.
    kept_back: BTreeMap<ObjectKey, Option<&'static str>>,
    /// Where the spans of [`WINDOW`] begin.
    epoch: Option<Instant>,
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
            ("backoff", size(self.backoff.len() + self.after_error.len())),
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
        if same.is_none() {
            self.kept_back.remove(&key);
        }
        let event = if same.is_some() { "UnscheduledPodUpdate" } else { "UnscheduledPodAdd" };
        let entry = same.unwrap_or_else(|| Entry {
            pod: Arc::clone(&pod),
            place: Place::Out,
            attempts: 0,
            since: now,
            backoff_until: now,
            after_error: false,
            refused_by: Vec::new(),
            flushed: false,
        });
        let kept = matches!(entry.place, Place::Unschedulable(_)) && !gated;
        let place = match self.kept_back.get_mut(&key).filter(|_| kept) {
            Some(missed) => {
                *missed = Some(event);
                entry.place.clone()
            }
            None if gated => Place::Gated,
            None => self.ready(&entry, &pod, now),
        };
        self.insert(key, Entry { pod, ..entry }, place, event);
    }

    /// The pod as it is known here.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Arc<PodLite>> {
        self.entries.get(key).map(|it| &it.pod)
    }

    /// Forgets a pod.
    pub fn remove(&mut self, key: &ObjectKey) {
        self.kept_back.remove(key);
        self.take(key);
    }

    /// The next pod to try: where none is ready, the first of those that back off. It stays known until it is removed, and comes back by [`Self::failed`].
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodLite>> {
        self.due(now);
        let ready = self.active.pop_first().map(|(_, key)| key);
        let key = ready.or_else(|| self.backoff.pop_first().map(|(_, key)| key))?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Out;
        entry.attempts = entry.attempts.saturating_add(1);
        Some(Arc::clone(&entry.pod))
    }

    /// Takes a pod out to be tried that is not on its turn, since one of its group is. Pods that a plugin does not let in
    /// stay where they are, and so do those that are being tried.
    pub fn pop_waiting(&mut self, key: &ObjectKey) -> Option<Arc<PodLite>> {
        let place = self.entries.get(key).map(|it| it.place.clone());
        if matches!(place, None | Some(Place::Gated | Place::Out))
            || self.kept_back.contains_key(key)
        {
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
        let until = now + self.backoff_for.after(entry.attempts);
        // Where nobody refused it, there is nobody to say what helps.
        entry.after_error = refused_by.is_empty();
        entry.backoff_until = if entry.after_error { until } else { self.window_end(until, now) };
        entry.refused_by = refused_by;
        entry.flushed = false;
        let place = Place::Unschedulable(now + LONGEST_WAIT);
        self.insert(key.clone(), entry, place, "ScheduleAttemptFailure");
    }

    /// A pod could not be bound. It is tried again after a pause.
    pub fn retry(&mut self, key: &ObjectKey, now: Instant) {
        let Some(mut entry) = self.take(key) else { return };
        let until = now + self.backoff_for.after(entry.attempts);
        (entry.backoff_until, entry.after_error) = (until, true);
        self.insert(key.clone(), entry, Place::AfterError(until), "ScheduleAttemptFailure");
    }

    /// A pod is not to be tried until others, which make room for it, have been told to go: until [`Self::let_go`].
    pub fn keep_back(&mut self, key: &ObjectKey) {
        if self.entries.contains_key(key) {
            self.kept_back.entry(key.clone()).or_default();
        }
    }

    /// A pod need not be kept back any longer. It is tried again where something happened meanwhile, or for a reason. Where
    /// more are still to go to make room for it, those that are gone are no reason: another will follow.
    pub fn let_go(
        &mut self,
        key: &ObjectKey,
        (reason, more_go): (Option<&'static str>, bool),
        now: Instant,
    ) {
        let Some(missed) = self.kept_back.remove(key) else { return };
        let missed = missed.filter(|it| !more_go || *it != Happened::PodGone.name());
        let waits =
            self.entries.get(key).is_some_and(|it| matches!(it.place, Place::Unschedulable(_)));
        if let Some(event) = missed.or(reason).filter(|_| waits) {
            self.again(key, now, event);
        }
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

    /// Something happened that may help some of the pods that a plugin refused, as is said for each of both: those are
    /// tried again.
    pub fn happened_where(
        &mut self,
        what: Happened,
        now: Instant,
        helps: impl Fn(&str, &PodLite) -> bool,
    ) {
        let all = self.refused_by.iter();
        let helped = all.filter(|(it, _)| **it == ANYTHING || what.helps(it));
        let helped = helped.flat_map(|(plugin, keys)| keys.iter().map(move |key| (plugin, key)));
        let meant = helped.filter(|(plugin, key)| {
            **plugin == ANYTHING || self.get(key).is_some_and(|it| helps(plugin, it))
        });
        let helped: BTreeSet<ObjectKey> = meant.map(|(_, key)| key.clone()).collect();
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
        let backoff = self.backoff.keys().next().map(|(at, _)| *at);
        backoff.into_iter().chain(first(&self.after_error)).chain(first(&self.unschedulable)).min()
    }

    fn due(&mut self, now: Instant) {
        let over = self.backoff.iter().take_while(|((at, _), _)| *at <= now);
        let over: Vec<ObjectKey> = over.map(|(_, key)| key.clone()).collect();
        let first = |set: &BTreeSet<(Instant, ObjectKey)>| -> Vec<ObjectKey> {
            let due = set.iter().take_while(|(at, _)| *at <= now);
            due.map(|(_, key)| key.clone()).collect()
        };
        let (after_error, flushed) = (first(&self.after_error), first(&self.unschedulable));
        for key in over.into_iter().chain(after_error) {
            self.again(&key, now, "BackoffComplete");
        }
        for key in flushed {
            self.again(&key, now, FLUSHED);
        }
    }

    /// The end of the span in which a pause ends: those that end in the same one are tried in the order of the others.
    fn window_end(&mut self, at: Instant, now: Instant) -> Instant {
        let epoch = *self.epoch.get_or_insert(now);
        let passed = at.saturating_duration_since(epoch).as_nanos() / WINDOW.as_nanos();
        epoch + WINDOW.saturating_mul(u32::try_from(passed + 1).unwrap_or(u32::MAX))
    }

    fn again(&mut self, key: &ObjectKey, now: Instant, event: &'static str) {
        // Who waited so long is not kept back any more, whatever came of it.
        if event == FLUSHED {
            self.kept_back.remove(key);
        }
        let waits =
            self.entries.get(key).is_some_and(|it| matches!(it.place, Place::Unschedulable(_)));
        if let Some(missed) = self.kept_back.get_mut(key).filter(|_| waits) {
            let says_more = missed.is_some_and(|it| it != Happened::PodGone.name());
            *missed = missed.filter(|_| says_more).or(Some(event));
            return;
        }
        let Some(mut entry) = self.take(key) else { return };
        entry.flushed |= event == FLUSHED;
        let pod = Arc::clone(&entry.pod);
        let place = self.ready(&entry, &pod, now);
        self.insert(key.clone(), entry, place, event);
    }

    fn ready(&mut self, entry: &Entry, pod: &PodLite, now: Instant) -> Place {
        let backs_off = entry.backoff_until > now;
        if backs_off && entry.after_error {
            return Place::AfterError(entry.backoff_until);
        }
        self.sequence += 1;
        let rank = (Reverse(pod.priority), entry.since, self.sequence);
        if backs_off { Place::Backoff((entry.backoff_until, rank)) } else { Place::Active(rank) }
    }

    fn insert(&mut self, key: ObjectKey, mut entry: Entry, place: Place, event: &'static str) {
        let queue = match place {
            Place::Active(rank) => {
                self.active.insert(rank, key.clone());
                "active"
            }
            Place::Backoff(at) => {
                self.backoff.insert(at, key.clone());
                "backoff"
            }
            Place::AfterError(at) => {
                self.after_error.insert((at, key.clone()));
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
            Place::Backoff(at) => drop(self.backoff.remove(&at)),
            Place::AfterError(at) => drop(self.after_error.remove(&(at, key.clone()))),
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

    /// A queue in which these pods, which are tried at once, are refused by a plugin.
    fn refused(names: &[(&str, i64)], plugins: &[&'static str], now: Instant) -> Queue {
        let mut queue = Queue::default();
        for (name, priority) in names {
            let pod = pod(name, *priority);
            queue.put(Arc::clone(&pod), false, now);
            queue.pop(now);
            queue.failed(&pod.key, plugins.to_vec(), now);
        }
        queue
    }

    #[test]
    fn a_refused_pod_waits_for_what_helps_and_its_backoff_only_while_others_are_ready() {
        let now = Instant::now();
        let mut queue = refused(&[("a", 0)], &["NodeResourcesFit"], now);
        queue.happened(Happened::PodPlaced, now);
        let later = now + Backoff::default().longest;
        assert_eq!(popped(&mut queue, later).len(), 0, "another pod on a node does not help");
        queue.put(pod("b", 0), false, now);
        queue.happened(Happened::PodGone, now);
        assert_eq!(popped(&mut queue, now), ["b", "a"], "it backs off, until no other is ready");
        assert_eq!(queue.deadline(), None);
    }

    #[test]
    fn pauses_that_end_about_the_same_time_end_in_the_order_of_importance() {
        let now = Instant::now();
        let mut queue = refused(&[("a", 0), ("b", 5)], &["NodeResourcesFit"], now);
        queue.happened(Happened::PodGone, now);
        let end = now + Backoff::default().first + WINDOW;
        assert_eq!(queue.deadline(), Some(end), "when the span is over in which they end");
        assert_eq!(popped(&mut queue, now), ["b", "a"]);
    }

    #[test]
    fn a_pod_that_something_went_wrong_with_is_not_tried_before_its_time() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(pod("a", 0), false, now);
        let a = queue.pop(now).unwrap();
        queue.retry(&a.key, now);
        queue.happened(Happened::Node, now);
        assert_eq!(popped(&mut queue, now).len(), 0);
        let then = now + Backoff::default().first;
        assert_eq!(queue.deadline(), Some(then));
        assert_eq!(popped(&mut queue, then), ["a"]);
        queue.failed(&a.key, Vec::new(), then);
        queue.happened(Happened::Node, then);
        assert_eq!(popped(&mut queue, then).len(), 0, "nor one that nobody refused");
    }

    #[test]
    fn a_pod_for_which_others_go_is_tried_again_once_they_have_been_told() {
        let now = Instant::now();
        let mut queue = refused(&[("a", 0)], &["NodeResourcesFit"], now);
        let key = pod("a", 0).key.clone();
        queue.keep_back(&key);
        queue.happened(Happened::PodGone, now);
        queue.put(pod("a", 0), false, now);
        assert_eq!(popped(&mut queue, now).len(), 0);
        assert!(queue.pop_waiting(&key).is_none());
        queue.let_go(&key, (None, false), now);
        assert_eq!(popped(&mut queue, now), ["a"], "something happened meanwhile");

        for (happened, expected) in [(None, 0), (Some(Happened::Node), 1)] {
            let mut queue = refused(&[("a", 0)], &["NodeResourcesFit"], now);
            queue.keep_back(&key);
            happened.into_iter().for_each(|it| queue.happened(it, now));
            queue.happened(Happened::PodGone, now);
            queue.let_go(&key, (None, true), now);
            assert_eq!(popped(&mut queue, now).len(), expected, "more are to go");
        }

        let mut queue = refused(&[("a", 0)], &["NodeResourcesFit"], now);
        queue.keep_back(&key);
        queue.let_go(&key, (None, false), now);
        assert_eq!(popped(&mut queue, now).len(), 0, "nothing happened");
        queue.keep_back(&key);
        assert_eq!(popped(&mut queue, now + LONGEST_WAIT), ["a"], "it is not kept for ever");
    }
}
