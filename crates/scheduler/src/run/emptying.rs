//! Who is kept back until those who make room have been told to go: upstream's PreEnqueue of DefaultPreemption.
//!
//! Before the cache shows that they go, nothing would tell another decision that the pod is being made room for, and it would
//! have others removed as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use client::ObjectKey;
use compact_str::CompactString;

use super::Running;
use crate::pod::PodLite;

/// Why a pod is tried again for which not all went that were to.
const NOT_EMPTIED: &str = "ForceActivate";

/// Pods that are kept back, and for whom they wait. Bounded by the pods there are.
#[derive(Debug, Default)]
pub(super) struct Emptying {
    /// By the pod that is kept back, those that have to be seen going, with their uids.
    waits_for: BTreeMap<ObjectKey, BTreeMap<ObjectKey, CompactString>>,
    /// The other way round.
    keeps: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
}

impl Emptying {
    fn begin(&mut self, pod: &ObjectKey, victims: BTreeMap<ObjectKey, CompactString>) {
        self.end(pod);
        for victim in victims.keys() {
            self.keeps.entry(victim.clone()).or_default().insert(pod.clone());
        }
        self.waits_for.insert(pod.clone(), victims);
    }

    fn end(&mut self, pod: &ObjectKey) {
        for victim in self.waits_for.remove(pod).into_iter().flat_map(BTreeMap::into_keys) {
            if let Some(pods) = self.keeps.get_mut(&victim) {
                pods.remove(pod);
                if pods.is_empty() {
                    self.keeps.remove(&victim);
                }
            }
        }
    }

    /// The pods that wait for nobody any more, once of this name there is what is `left`: the uid of who stays.
    fn seen(&mut self, victim: &ObjectKey, left: Option<&str>) -> Vec<ObjectKey> {
        let Some(pods) = self.keeps.get(victim) else { return Vec::new() };
        let mut free = Vec::new();
        for pod in pods.clone() {
            let Some(waits_for) = self.waits_for.get_mut(&pod) else { continue };
            if waits_for.get(victim).map(CompactString::as_str) == left {
                continue;
            }
            waits_for.remove(victim);
            if waits_for.is_empty() {
                self.end(&pod);
                free.push(pod);
            }
        }
        if left.is_none() {
            self.keeps.remove(victim);
        }
        free
    }
}

impl Running {
    /// Keeps a pod back until all who make room for it are seen going.
    pub(super) fn keep_back(&mut self, pod: &ObjectKey, victims: &[Arc<PodLite>]) {
        let staying = victims.iter().filter(|it| !it.terminating);
        let staying: BTreeMap<_, _> = staying.map(|it| (it.key.clone(), it.uid.clone())).collect();
        if staying.is_empty() {
            return;
        }
        self.state.emptying.begin(pod, staying);
        self.state.queue.keep_back(pod);
    }

    /// A pod changed: it may be one that was to go.
    pub(super) fn victim_changed(&mut self, key: &ObjectKey) {
        let now = self.scheduler.clock.monotonic();
        let left = self.state.cluster.pod(key).filter(|it| !it.terminating);
        for pod in self.state.emptying.seen(key, left.map(|it| it.uid.as_str())) {
            let more_go = self.makes_room(&pod);
            self.state.queue.let_go(&pod, (None, more_go), now);
        }
    }

    /// Not all went that were to make room for a pod: it may look for room elsewhere.
    pub(super) fn not_emptied(&mut self, pod: &ObjectKey) {
        self.state.emptying.end(pod);
        let now = self.scheduler.clock.monotonic();
        self.state.queue.let_go(pod, (Some(NOT_EMPTIED), false), now);
    }

    /// Whether somebody is going who makes room for a pod.
    fn makes_room(&self, pod: &ObjectKey) -> bool {
        let cluster = &self.state.cluster;
        let row = cluster.nomination_of(pod).and_then(|it| cluster.row(it));
        row.is_some_and(|row| row.pods.iter().any(|it| it.terminating && it.preempted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_waits_until_all_are_seen_going() {
        let key = |name: &str| ObjectKey::new("d", name);
        let victims = |names: &[&str]| names.iter().map(|it| (key(it), (*it).into())).collect();
        let mut all = Emptying::default();
        all.begin(&key("a"), victims(&["x", "y"]));
        all.begin(&key("b"), victims(&["y"]));
        assert!(all.seen(&key("y"), Some("y")).is_empty(), "it is there as before");
        assert_eq!(all.seen(&key("y"), None), [key("b")]);
        assert_eq!(all.seen(&key("x"), Some("another")), [key("a")], "another of that name");
        all.begin(&key("a"), victims(&["x"]));
        all.end(&key("a"));
        assert!(all.waits_for.is_empty() && all.keeps.is_empty());
    }
}
