//! What a rule's status tells: how many pods go because of it, or would.

use std::collections::BTreeSet;

use apimachinery::{Value, time, value};
use client::call::PatchKind;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::resource::v1::DeviceTaintRule;

use super::{DeviceTaintEviction, RuleSeen};

/// How often the status is written at most.
const PERIOD: SignedDuration = SignedDuration::from_secs(10);
const CONDITION: &str = "EvictionInProgress";

/// How many of what a rule has to do with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Devices that are published.
    pub(super) published: usize,
    /// Devices that somebody has.
    pub(super) allocated: usize,
    /// Pods that are to go.
    pub(super) pending: usize,
    /// The namespaces of these.
    pub(super) namespaces: BTreeSet<String>,
    /// Pods that went.
    pub(super) evicted: usize,
}

/// Writes what is new; not more often than once a period, but for a new edition of the rule.
pub(super) fn plan(seen: &RuleSeen, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let rule = &seen.rule;
    let conditions = rule.items_at(&["status", "conditions"]);
    let old = conditions.iter().find(|it| it.str_at(&["type"]) == CONDITION);
    let generation = rule.i64_at(&["metadata", "generation"]).unwrap_or_default();
    if let Some(old) = old
        && old.i64_at(&["observedGeneration"]) == Some(generation)
        && let Ok(since) = time::parse_time(old.str_at(&["lastTransitionTime"]))
        && let Ok(next) = since.checked_add(PERIOD)
        && now < next
    {
        plan.requeue_by(next);
        return plan;
    }
    let effect = rule.str_at(&["spec", "taint", "effect"]);
    let (status, reason, message) = told(effect, &seen.counts);
    let new = value!({"type": CONDITION, "status": status, "reason": reason, "message": (message.as_str()),
        "observedGeneration": generation});
    let same = old.is_some_and(|old| {
        let member = |name: &str| old.get(name) == new.get(name);
        ["status", "reason", "message", "observedGeneration"].into_iter().all(member)
    });
    if !same {
        plan.act(write(rule, new, now));
    }
    if seen.counts.pending > 0
        && effect == "NoExecute"
        && let Ok(next) = now.checked_add(PERIOD)
    {
        plan.requeue_by(next);
    }
    plan
}

fn write(rule: &Value, mut condition: Value, now: Timestamp) -> Action {
    condition.set_at(&["lastTransitionTime"], time::format_time(now).as_str());
    let part = |member| rule.str_at(&["metadata", member]);
    let patch = value!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceTaintRule",
        "metadata": {"name": (part("name")), "uid": (part("uid"))}, "status": {"conditions": [condition]}});
    Action::Patch {
        resource: Resource::of::<DeviceTaintRule>(),
        key: ObjectKey::new("", part("name")),
        subresource: "status",
        kind: PatchKind::Apply { manager: DeviceTaintEviction::NAME },
        patch,
        gone_is_fine: true,
    }
}

fn counted(count: usize, one: &str, several: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {several}") }
}

/// Status, reason and message, in upstream's words.
fn told(effect: &str, counts: &Counts) -> (&'static str, &'static str, String) {
    let spaces = counts.namespaces.len();
    let (status, reason, mut message) = match effect {
        "NoExecute" if counts.pending > 0 => {
            let pods = counted(counts.pending, "pod needs", "pods need");
            let place = counted(spaces, "namespace.", "different namespaces.");
            ("True", "PodsPendingEviction", format!("{pods} to be evicted in {place}"))
        }
        "NoExecute" if counts.evicted > 0 => ("False", "Completed", String::new()),
        "NoExecute" => ("False", "NotStarted", String::new()),
        "None" => {
            let devices = |count, what: &str| {
                counted(count, &format!("{what} device"), &format!("{what} devices"))
            };
            let published = devices(counts.published, "published");
            let allocated = devices(counts.allocated, "allocated");
            let pods = counted(counts.pending, "pod", "pods");
            let place = counted(spaces, "namespace", "different namespaces");
            let message = format!(
                "{published} selected. {allocated} selected. {pods} would be evicted in {place} if the effect was NoExecute. \
                 This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."
            );
            ("False", "NoEffect", message)
        }
        _ => {
            let message = "Eviction only happens for the NoExecute effect.".to_owned();
            ("False", "OtherEffect", message)
        }
    };
    if counts.evicted > 0 {
        if !message.is_empty() {
            message.push(' ');
        }
        let pods = counted(counts.evicted, "pod", "pods");
        message.push_str(&format!("{pods} evicted since starting the controller."));
    }
    (status, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_tells_how_far_it_is() {
        let check = |effect: &str, numbers: [usize; 4], expected: &str| {
            let [published, allocated, pending, evicted] = numbers;
            let namespaces = (0..pending).map(|it| format!("n{it}")).collect();
            let counts = Counts { published, allocated, pending, namespaces, evicted };
            let (status, reason, message) = told(effect, &counts);
            assert_eq!(format!("{status} {reason} {message}").trim_end(), expected);
        };
        check("NoExecute", [2, 0, 0, 0], "False NotStarted");
        check(
            "NoExecute",
            [2, 1, 1, 0],
            "True PodsPendingEviction 1 pod needs to be evicted in 1 namespace.",
        );
        check(
            "NoExecute",
            [2, 2, 2, 1],
            "True PodsPendingEviction 2 pods need to be evicted in 2 different namespaces. 1 pod evicted since starting the controller.",
        );
        check(
            "NoExecute",
            [2, 0, 0, 3],
            "False Completed 3 pods evicted since starting the controller.",
        );
        check(
            "NoSchedule",
            [2, 0, 0, 0],
            "False OtherEffect Eviction only happens for the NoExecute effect.",
        );
        check(
            "None",
            [1, 2, 0, 0],
            "False NoEffect 1 published device selected. 2 allocated devices selected. 0 pods would be evicted in 0 different \
             namespaces if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to \
             trigger an update.",
        );
    }
}
