//! When a pod goes because of its devices.

use apimachinery::{time, value};
use client::call::PatchKind;
use client::events::{EventType, ObjectReference};
use client::{ObjectKey, Resource};
use controller::{Action, Plan};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::{Affecting, Memory, PodSeen};
use crate::owner;

const REASON: &str = "DeviceTaintManagerEviction";

/// What is to be done, and whether the pod goes now.
pub(super) fn plan(seen: &PodSeen, memory: &mut Memory, now: Timestamp) -> (Plan, bool) {
    let mut plan = Plan::nothing();
    let pod = &seen.pod;
    if pod.at(&["metadata", "deletionTimestamp"]).is_some() {
        memory.leave = None;
        return (plan, false);
    }
    if seen.taints.is_empty() {
        memory.seen = None;
        if memory.leave.take().is_some() {
            plan.event(about(seen), EventType::Normal, REASON, "Cancelling deletion");
        }
        return (plan, false);
    }
    let seen_at = *memory.seen.get_or_insert(now);
    let leave = seen.taints.iter().map(|it| until(it, seen_at)).min().unwrap_or(now);
    memory.leave = Some(leave);
    if now < leave {
        plan.requeue_by(leave);
        return (plan, false);
    }
    memory.late = Some(now.duration_since(leave));
    evict(&mut plan, seen, now);
    (plan, true)
}

/// Until when a taint is borne.
fn until(taint: &Affecting, seen_at: Timestamp) -> Timestamp {
    let since = time::parse_time(&taint.time_added).unwrap_or(seen_at);
    let seconds = SignedDuration::from_secs(taint.seconds.unwrap_or_default());
    since.saturating_add(seconds).unwrap_or(since)
}

fn about(seen: &PodSeen) -> ObjectReference {
    ObjectReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        ..ObjectReference::of(&seen.pod)
    }
}

fn evict(plan: &mut Plan, seen: &PodSeen, now: Timestamp) {
    let part = |member| seen.pod.str_at(&["metadata", member]);
    let key = ObjectKey::new(part("namespace"), part("name"));
    plan.event(about(seen), EventType::Normal, REASON, "Marking for deletion");
    let condition = value!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByDeviceTaintManager",
        "message": "Device Taint manager: deleting due to NoExecute taint",
        "observedGeneration": (seen.pod.i64_at(&["metadata", "generation"]).unwrap_or_default()),
        "lastTransitionTime": (time::format_time(now))});
    plan.act(Action::Patch {
        resource: Resource::of::<Pod>(),
        key: key.clone(),
        subresource: "status",
        kind: PatchKind::Strategic,
        patch: value!({"metadata": {"uid": (part("uid"))}, "status": {"conditions": [condition]}}),
        gone_is_fine: true,
    });
    plan.then();
    plan.act(owner::delete_at(Resource::of::<Pod>(), key, part("uid").to_owned()));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_pod_goes_when_it_bears_a_taint_no_longer() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let taint = |time_added: &str, seconds: Option<i64>| Affecting {
            rule: String::new(),
            time_added: time_added.into(),
            seconds,
        };
        let check = |taints: Vec<Affecting>, before: Option<Timestamp>, expected: &str| {
            let pod = value!({"metadata": {"name": "p", "namespace": "n", "uid": "U"}});
            let mut memory = Memory { leave: before, ..Memory::default() };
            let (plan, evicted) = plan(&PodSeen { pod: Arc::new(pod), taints }, &mut memory, now);
            let mut told: Vec<String> = plan.events.iter().map(|it| it.message.clone()).collect();
            told.extend(plan.requeue_at.map(|it| it.to_string()));
            assert_eq!(told.join("; "), expected);
            assert_eq!(evicted, plan.stages.len() == 2);
        };
        let minute_ago = "2026-01-01T00:00:00Z";
        check(vec![], None, "");
        check(vec![], Some(now), "Cancelling deletion");
        check(vec![taint(minute_ago, None)], None, "Marking for deletion");
        check(vec![taint(minute_ago, Some(30))], None, "Marking for deletion");
        check(vec![taint(minute_ago, Some(90))], None, "2026-01-01T00:01:30Z");
        check(vec![taint("", Some(90))], None, "2026-01-01T00:02:30Z");
        check(vec![taint("", Some(90)), taint("", None)], None, "Marking for deletion");
    }
}
