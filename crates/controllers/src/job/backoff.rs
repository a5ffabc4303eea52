//! Pauses after failed pods: ten seconds, then twice as long each time, forgotten with the first success.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::metrics::{Sync, Tally};
use crate::pods;

/// The pause after the first failure (upstream: `DefaultJobPodFailureBackOff`).
const BASE: SignedDuration = SignedDuration::from_secs(10);
/// The longest pause (upstream: `MaxJobPodFailureBackOff`).
const MAX: SignedDuration = SignedDuration::from_mins(10);

/// What is remembered of a job's failures since its last success.
#[derive(Debug, Default)]
pub struct Failures {
    count: u32,
    last: Option<Timestamp>,
    /// The pods that are in the count already.
    seen: BTreeSet<String>,
    /// What the plan that is carried out does.
    pub(super) sync: Option<Sync>,
    /// What it has found.
    pub(super) tally: Tally,
}

impl Failures {
    /// Takes finished pods that are not counted yet into account, in the order in which they finished.
    pub(super) fn note(&mut self, pods: &[Arc<Pod>], finished: &[&Pod]) {
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap_or_default();
        let present: BTreeSet<&String> =
            pods.iter().filter_map(|pod| pod.metadata.uid.as_ref()).collect();
        self.seen.retain(|it| present.contains(it));
        let mut new: Vec<&Pod> =
            finished.iter().copied().filter(|pod| !self.seen.contains(&uid(pod))).collect();
        new.sort_by_key(|pod| finished_at(pod));
        for pod in new {
            self.seen.insert(uid(pod));
            if pods::phase(pod) == "Succeeded" {
                (self.count, self.last) = (0, None);
            } else {
                self.count += 1;
                self.last = finished_at(pod);
            }
        }
    }

    /// When the next pod may be made.
    pub(super) fn until(&self) -> Option<Timestamp> {
        after(self.count, self.last?)
    }
}

/// When a pod may be made after so many failures, the last of them at this time.
pub(super) fn after(failures: u32, last: Timestamp) -> Option<Timestamp> {
    let doublings = failures.checked_sub(1)?;
    let pause = BASE.checked_mul(1_i32 << doublings.min(10)).unwrap_or(MAX).min(MAX);
    last.checked_add(pause).ok()
}

/// When a pod ended: with its last container, or when it stopped being ready, or when it was deleted.
pub(super) fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref();
    let containers = status.into_iter().flat_map(|it| it.container_statuses.iter().flatten());
    let ends =
        containers.map(|it| Some(it.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0));
    let ends: Option<Vec<Timestamp>> = ends.collect();
    let last = ends.and_then(|it| it.into_iter().max());
    let ready = || pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|it| it.0);
    let deleted = || {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
        let gone = pod.metadata.deletion_timestamp.as_ref()?.0;
        gone.checked_sub(SignedDuration::from_secs(grace)).ok()
    };
    let created = || pod.metadata.creation_timestamp.as_ref().map(|it| it.0);
    last.or_else(ready).or_else(deleted).or_else(created)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_ten_minutes() {
        let pause = |failures| {
            let until = after(failures, Timestamp::UNIX_EPOCH)?;
            Some(until.as_second())
        };
        assert_eq!(pause(0), None);
        assert_eq!(pause(1), Some(10));
        assert_eq!(pause(2), Some(20));
        assert_eq!(pause(6), Some(320));
        assert_eq!(pause(7), Some(600));
        assert_eq!(pause(70), Some(600));
    }

    #[test]
    fn each_pod_counts_once_and_a_success_forgets() {
        let pod = |name: &str, phase: &str, second: i64| {
            let at = Timestamp::from_second(second).unwrap();
            let text = format!(
                r#"{{"metadata":{{"name":"{name}","uid":"{name}"}},"status":{{"phase":"{phase}","conditions":[{{"type":"Ready","status":"False","lastTransitionTime":"{at}"}}]}}}}"#
            );
            Arc::new(serde_json::from_str::<Pod>(&text).unwrap())
        };
        let pods = [pod("a", "Failed", 5), pod("b", "Failed", 9), pod("c", "Succeeded", 7)];
        let mut failures = Failures::default();
        let all: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
        failures.note(&pods, &all);
        failures.note(&pods, &all);
        assert_eq!((failures.count, failures.until().map(Timestamp::as_second)), (1, Some(19)));
    }
}
