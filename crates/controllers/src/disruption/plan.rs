//! What is to be done for a budget: its status.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::Resource;
use client::call::PatchKind;
use client::events::EventType;
use compact_str::CompactString;
use controller::{Action, Fetch, Plan};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Scale;
use crate::owner::{key_of, reference_to, to_value};
use crate::pods;

/// How long an evicted pod may take to go before it counts again (upstream: `DeletionTimeout`).
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// How long a pod may be said to be about to go (upstream: `stalePodDisruptionTimeout`).
const STALE_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// The condition of a pod that is about to go.
pub(super) const TARGET: &str = "DisruptionTarget";

/// What a budget's status is computed from.
struct Counts {
    expected: i64,
    desired_healthy: i64,
    unmanaged: bool,
}

pub(super) fn budget(
    budget: &PodDisruptionBudget,
    pods: &[(Arc<Pod>, Scale)],
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::nothing();
    let about = || reference_to("policy/v1", "PodDisruptionBudget", &budget.metadata);
    if pods.is_empty() {
        plan.event(about(), EventType::Normal, "NoPods", "No matching pods found");
    }
    let unread = pods.iter().filter_map(|(_, scale)| match scale {
        Scale::Unread(fetch) => Some(fetch.clone()),
        Scale::Wanted { .. } | Scale::Unmanaged | Scale::Unknown(_) => None,
    });
    if by_scale(budget) {
        // Each once: pods of one controller ask for the same.
        plan.fetches.extend(unread.collect::<BTreeSet<Fetch>>());
        if !plan.fetches.is_empty() {
            plan.events.clear();
            return plan;
        }
    }
    let counts = match counts(budget, pods) {
        Ok(counts) => counts,
        Err(why) => {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            let reason = "CalculateExpectedPodCountFailed";
            plan.event(about(), EventType::Warning, reason, message);
            write(&mut plan, budget, failed(budget, &why, now));
            plan.error = Some(why);
            return plan;
        }
    };
    if counts.unmanaged {
        let selector = budget.spec.as_ref().and_then(|it| it.selector.as_ref());
        let message = format!(
            "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
            shown(selector)
        );
        plan.event(about(), EventType::Warning, "UnmanagedPods", message);
    }
    let waiting = waiting(&mut plan, budget, pods, now);
    let healthy = pods
        .iter()
        .filter(|(pod, _)| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            pod.metadata.deletion_timestamp.is_none()
                && !waiting.contains_key(name)
                && pods::is_ready(pod)
        })
        .count();
    let status = status(budget, &counts, i64::try_from(healthy).unwrap_or(i64::MAX), &waiting, now);
    write(&mut plan, budget, status);
    plan
}

/// Whether a budget goes by how many pods there should be, and not by how many there are.
fn by_scale(budget: &PodDisruptionBudget) -> bool {
    budget.spec.as_ref().is_some_and(|it| {
        let share = matches!(it.min_available, Some(IntOrString::String(_)));
        it.max_unavailable.is_some() || share
    })
}

/// How many pods there should be, and how many of them healthy.
fn counts(budget: &PodDisruptionBudget, pods: &[(Arc<Pod>, Scale)]) -> Result<Counts, String> {
    let spec = budget.spec.as_ref();
    let most_away = spec.and_then(|it| it.max_unavailable.as_ref());
    let least = spec.and_then(|it| it.min_available.as_ref());
    match (most_away, least) {
        (Some(most_away), _) => {
            let (expected, unmanaged) = expected(pods)?;
            let desired_healthy = (expected - scaled(most_away, expected)?).max(0);
            Ok(Counts { expected, desired_healthy, unmanaged })
        }
        (None, Some(IntOrString::Int(least))) => Ok(Counts {
            expected: i64::try_from(pods.len()).unwrap_or(i64::MAX),
            desired_healthy: i64::from(*least),
            unmanaged: false,
        }),
        (None, Some(least)) => {
            let (expected, unmanaged) = expected(pods)?;
            Ok(Counts { expected, desired_healthy: scaled(least, expected)?, unmanaged })
        }
        (None, None) => Ok(Counts { expected: 0, desired_healthy: 0, unmanaged: false }),
    }
}

/// The sum of what the controllers of the pods want; whether some pods have none.
fn expected(pods: &[(Arc<Pod>, Scale)]) -> Result<(i64, bool), String> {
    let (mut sum, mut unmanaged, mut seen) = (0, false, BTreeSet::new());
    for (_, scale) in pods {
        match scale {
            Scale::Unmanaged => unmanaged = true,
            Scale::Unknown(why) => return Err(why.clone()),
            Scale::Wanted { uid, replicas } if seen.insert(uid.as_str()) => {
                sum += i64::from(*replicas);
            }
            // What has to be read is read before anything is counted.
            Scale::Wanted { .. } | Scale::Unread(_) => {}
        }
    }
    Ok((sum, unmanaged))
}

/// A number, or so many percent of a whole, rounded up.
fn scaled(amount: &IntOrString, whole: i64) -> Result<i64, String> {
    match amount {
        IntOrString::Int(number) => Ok(i64::from(*number)),
        IntOrString::String(text) => {
            let percent = text.strip_suffix('%').and_then(|it| it.parse::<i64>().ok());
            let percent =
                percent.ok_or_else(|| format!("invalid value {text:?}: not a percentage"))?;
            Ok((percent * whole + 99).div_euclid(100))
        }
    }
}

/// The pods that were evicted and are still there; the plan comes back when the next of them has had its time.
fn waiting(
    plan: &mut Plan,
    budget: &PodDisruptionBudget,
    pods: &[(Arc<Pod>, Scale)],
    now: Timestamp,
) -> BTreeMap<String, Time> {
    let mut waiting = BTreeMap::new();
    let evicted = budget.status.as_ref().and_then(|it| it.disrupted_pods.as_ref());
    let Some(evicted) = evicted.filter(|it| !it.is_empty()) else { return waiting };
    for (pod, _) in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(since) = evicted.get(&name) else { continue };
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let until = since.0.saturating_add(DELETION_TIMEOUT).unwrap_or(since.0);
        if until < now {
            let key = key_of(&budget.metadata);
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            let about = reference_to("v1", "Pod", &pod.metadata);
            plan.event(about, EventType::Warning, "NotDeleted", message);
        } else {
            // The moment itself still counts as in time.
            plan.requeue_by(until.saturating_add(SignedDuration::from_millis(1)).unwrap_or(until));
            waiting.insert(name, since.clone());
        }
    }
    waiting
}

fn status(
    budget: &PodDisruptionBudget,
    counts: &Counts,
    healthy: i64,
    waiting: &BTreeMap<String, Time>,
    now: Timestamp,
) -> Value {
    let generation = budget.metadata.generation.unwrap_or_default();
    let allowed = if counts.expected <= 0 { 0 } else { (healthy - counts.desired_healthy).max(0) };
    let mut status = value!({
        "observedGeneration": generation, "disruptionsAllowed": allowed, "currentHealthy": healthy,
        "desiredHealthy": (counts.desired_healthy), "expectedPods": (counts.expected)
    });
    if !waiting.is_empty() {
        status.set_at(&["disruptedPods"], to_value(waiting));
    }
    let holds = allowed > 0;
    let reason = if holds { "SufficientPods" } else { "InsufficientPods" };
    let condition = Condition { holds, reason, message: "", generation };
    status.set_at(&["conditions"], conditions(budget, &condition, now));
    status
}

/// The status where the pods cannot be counted: nothing is allowed.
fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> Value {
    let mut status = to_value(&budget.status);
    if status.is_null() {
        status = value!({"currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
    }
    status.set_at(&["disruptionsAllowed"], 0);
    let generation =
        budget.status.as_ref().and_then(|it| it.observed_generation).unwrap_or_default();
    let condition = Condition { holds: false, reason: "SyncFailed", message: why, generation };
    status.set_at(&["conditions"], conditions(budget, &condition, now));
    status
}

struct Condition<'c> {
    holds: bool,
    reason: &'static str,
    message: &'c str,
    generation: i64,
}

/// The conditions with DisruptionAllowed brought up to date.
fn conditions(budget: &PodDisruptionBudget, wanted: &Condition<'_>, now: Timestamp) -> Value {
    const KIND: &str = "DisruptionAllowed";
    let status = if wanted.holds { "True" } else { "False" };
    let old = budget.status.as_ref().and_then(|it| it.conditions.as_ref());
    let mut conditions: Vec<Value> = old.into_iter().flatten().map(to_value).collect();
    let before = conditions.iter_mut().find(|it| it.str_at(&["type"]) == KIND);
    let same = before.as_ref().filter(|it| it.str_at(&["status"]) == status);
    let since = same.map(|it| it.str_at(&["lastTransitionTime"]).to_owned());
    let since = since.unwrap_or_else(|| time::format_time(now).to_string());
    let mut condition = value!({"type": KIND, "status": status, "reason": (wanted.reason),
        "message": (wanted.message), "lastTransitionTime": since});
    if wanted.generation != 0 {
        condition.set_at(&["observedGeneration"], wanted.generation);
    }
    match before {
        Some(before) => *before = condition,
        None => conditions.push(condition),
    }
    Value::Array(conditions)
}

fn write(plan: &mut Plan, budget: &PodDisruptionBudget, status: Value) {
    if status == to_value(&budget.status) {
        return;
    }
    let mut object = to_value(budget);
    object.set_at(&["status"], status);
    plan.act(Action::Update {
        resource: Resource::of::<PodDisruptionBudget>(),
        subresource: "status",
        object,
    });
}

/// A selector as upstream's messages show it.
fn shown(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "nil".into() };
    let mut text = "&LabelSelector{MatchLabels:map[string]string{".to_owned();
    for (key, value) in selector.match_labels.iter().flatten() {
        let _ = write!(text, "{key}: {value},");
    }
    text.push_str("},MatchExpressions:[]LabelSelectorRequirement{");
    for it in selector.match_expressions.iter().flatten() {
        let values = it.values.as_deref().unwrap_or_default().join(" ");
        let _ = write!(
            text,
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            it.key, it.operator
        );
    }
    text.push_str("},}");
    text
}

/// What is to be told of a pod in several budgets, of which an eviction can heed none, and what becomes of one that was
/// to go.
pub(super) fn pod(pod: &Pod, budgets: &[CompactString], now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if let [first, _, ..] = budgets {
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        let (namespace, name) =
            (namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default());
        let message = format!(
            "Pod {namespace:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {first:?} arbitrarily."
        );
        let about = reference_to("v1", "Pod", &pod.metadata);
        plan.event(about, EventType::Warning, "MultiplePodDisruptionBudgets", message);
    }
    stayed(&mut plan, pod, now);
    plan
}

/// A pod that was to go and stayed is not about to go any more.
fn stayed(plan: &mut Plan, pod: &Pod, now: Timestamp) {
    let condition = pods::condition(pod, TARGET).filter(|it| it.status == "True");
    let over = matches!(pods::phase(pod), "Succeeded" | "Failed");
    let Some(condition) = condition.filter(|_| pod.metadata.deletion_timestamp.is_none() && !over)
    else {
        return;
    };
    let since = condition.last_transition_time.as_ref().map_or(now, |it| it.0);
    let until = since.saturating_add(STALE_TIMEOUT).unwrap_or(since);
    if now < until {
        plan.requeue_by(until);
        return;
    }
    let patch = value!({"metadata": {"uid": (pod.metadata.uid.clone().unwrap_or_default())},
        "status": {"conditions": [
        {"type": TARGET, "status": "False", "observedGeneration": (pod.metadata.generation.unwrap_or_default()),
            "lastTransitionTime": (time::format_time(now))}]}});
    plan.act(Action::Patch {
        resource: Resource::of::<Pod>(),
        key: key_of(&pod.metadata),
        subresource: "status",
        kind: PatchKind::Strategic,
        patch,
        gone_is_fine: true,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"ns"}},"status":{{"conditions":[{{"type":"Ready","status":"{status}"}}]}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn owned(count: usize, ready: usize, replicas: i32) -> Vec<(Arc<Pod>, Scale)> {
        let scale = Scale::Wanted { uid: "u".into(), replicas };
        (0..count).map(|it| (pod(&format!("p{it}"), it < ready), scale.clone())).collect()
    }

    fn allowed(spec: &str, pods: &[(Arc<Pod>, Scale)]) -> String {
        let text = format!(
            r#"{{"metadata":{{"name":"b","namespace":"ns","generation":1}},"spec":{{"selector":{{}},{spec}}}}}"#
        );
        let plan = budget(&serde_json::from_str(&text).unwrap(), pods, Timestamp::UNIX_EPOCH);
        let Action::Update { object, .. } = &plan.stages[0].actions[0].action else {
            return "no status".into();
        };
        let number = |member: &str| object.i64_at(&["status", member]).unwrap_or_default();
        format!(
            "{} healthy, {} wanted of {}: {}{}",
            number("currentHealthy"),
            number("desiredHealthy"),
            number("expectedPods"),
            number("disruptionsAllowed"),
            plan.error.map(|it| format!("; {it}")).unwrap_or_default()
        )
    }

    #[test]
    fn a_budget_allows_what_is_more_than_wanted() {
        let check = |spec: &str, pods: &[(Arc<Pod>, Scale)], expected: &str| {
            assert_eq!(allowed(spec, pods), expected, "{spec}");
        };
        check(r#""minAvailable":3"#, &owned(5, 5, 5), "5 healthy, 3 wanted of 5: 2");
        check(r#""minAvailable":3"#, &owned(6, 2, 5), "2 healthy, 3 wanted of 6: 0");
        check(r#""minAvailable":"50%""#, &owned(3, 3, 3), "3 healthy, 2 wanted of 3: 1");
        check(r#""maxUnavailable":"30%""#, &owned(5, 5, 5), "5 healthy, 3 wanted of 5: 2");
        check(r#""maxUnavailable":"1%""#, &owned(3, 3, 3), "3 healthy, 2 wanted of 3: 1");
        check(r#""maxUnavailable":9"#, &owned(3, 0, 3), "0 healthy, 0 wanted of 3: 0");
        let bare = vec![(pod("a", true), Scale::Unmanaged)];
        check(r#""maxUnavailable":1"#, &bare, "1 healthy, 0 wanted of 0: 0");
        let strange = vec![(pod("a", true), Scale::Unknown("no scale".into()))];
        check(r#""maxUnavailable":1"#, &strange, "0 healthy, 0 wanted of 0: 0; no scale");
    }

    #[test]
    fn the_scale_of_a_custom_resource_is_read_once_where_it_counts() {
        let fetch = Fetch::path(Resource::of::<Pod>(), "/scale".into());
        let pods = ["a", "b"].map(|name| (pod(name, true), Scale::Unread(fetch.clone())));
        let reads = |spec: &str| {
            let text =
                format!(r#"{{"metadata":{{"name":"b"}},"spec":{{"selector":{{}},{spec}}}}}"#);
            let it: PodDisruptionBudget = serde_json::from_str(&text).unwrap();
            let plan = budget(&it, &pods, Timestamp::UNIX_EPOCH);
            (plan.fetches.len(), plan.stages.iter().map(|it| it.actions.len()).sum::<usize>())
        };
        assert_eq!(reads(r#""maxUnavailable":1"#), (1, 0));
        assert_eq!(reads(r#""minAvailable":"50%""#), (1, 0));
        assert_eq!(reads(r#""minAvailable":1"#), (0, 1));
    }

    #[test]
    fn a_pod_in_several_budgets_is_told_of() {
        let told = |budgets: &[&str]| {
            let budgets: Vec<CompactString> = budgets.iter().map(|it| (*it).into()).collect();
            let plan = super::pod(&pod("p", true), &budgets, Timestamp::UNIX_EPOCH);
            plan.events
                .iter()
                .map(|it| format!("{}: {}", it.reason, it.message))
                .collect::<String>()
        };
        assert_eq!(told(&["a"]), "");
        assert_eq!(
            told(&["a", "b"]),
            "MultiplePodDisruptionBudgets: Pod \"ns\"/\"p\" matches multiple PodDisruptionBudgets.  Chose \"a\" arbitrarily."
        );
    }

    #[test]
    fn an_evicted_pod_counts_again_after_two_minutes() {
        let text = r#"{"metadata":{"name":"b","namespace":"ns"},"spec":{"minAvailable":1},
            "status":{"currentHealthy":0,"desiredHealthy":0,"disruptionsAllowed":0,"expectedPods":0,"disruptedPods":{"p0":"1970-01-01T00:00:00Z"}}}"#;
        let it: PodDisruptionBudget = serde_json::from_str(text).unwrap();
        let healthy = |seconds: i64| {
            let now = Timestamp::from_second(seconds).unwrap();
            let plan = budget(&it, &owned(2, 2, 2), now);
            let Action::Update { object, .. } = &plan.stages[0].actions[0].action else {
                return (0, false, 0);
            };
            let healthy = object.i64_at(&["status", "currentHealthy"]).unwrap_or_default();
            (healthy, plan.requeue_at.is_some(), plan.events.len())
        };
        assert_eq!(healthy(120), (1, true, 0));
        assert_eq!(healthy(121), (2, false, 1));
    }
}
