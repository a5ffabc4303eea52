//! What is to be done for a ReplicaSet.

use apimachinery::{Value, time, value};
use client::Resource;
use client::events::EventType;
use client::reflector::Cached;
use controller::plan::PlannedAction;
use controller::{Action, Event, Plan};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::Observed;
use crate::owner::{self, Owner, to_value};
use crate::pods;

/// The most pods that one plan makes or takes (upstream: `BurstReplicas`).
const BURST: usize = 500;

pub(crate) fn plan(observed: &Observed, failure: Option<&str>, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let set = &observed.set;
    let spec = &set.spec;
    let owner = Owner {
        api_version: observed.kind.api_version,
        kind: observed.kind.kind,
        metadata: &set.metadata,
    };
    let selector = owner::selector(&spec.selector);
    let deleting = owner::is_deleting(&set.metadata);
    let mut mine: Vec<&Cached> = Vec::new();
    for pod in observed.pods.iter().map(AsRef::as_ref) {
        let fits = selector.matches(|key| pod.label(key));
        match pod.controller() {
            Some(_) if fits => mine.push(pod),
            // One that ended stays with whose it was.
            Some(_) if !deleting && pod.pod().is_active() => {
                plan.act(owner.release_at(pod_resource(), pod.key.clone(), &pod.uid));
            }
            None if fits && !deleting && pod.pod().is_active() => {
                plan.act(owner.adopt_at(pod_resource(), pod.key.clone(), &pod.uid));
                mine.push(pod);
            }
            Some(_) | None => {}
        }
    }
    let mut active: Vec<&Cached> = mine.iter().copied().filter(|it| it.pod().is_active()).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or_default();
    if !deleting {
        if active.len() < wanted {
            create(&mut plan, observed, &owner, (wanted - active.len()).min(BURST));
        } else if active.len() > wanted {
            active.sort_by_cached_key(|it| {
                let rank = observed.on_node.get(&it.pod().node).copied().unwrap_or_default();
                pods::Loss::of(it.pod(), &it.uid, rank, now)
            });
            delete(&mut plan, observed, &active[..(active.len() - wanted).min(BURST)]);
        }
    }
    let shortage =
        i64::try_from(wanted).unwrap_or(i64::MAX) - i64::try_from(active.len()).unwrap_or(i64::MAX);
    let failure = failure.filter(|_| shortage != 0 && !deleting);
    let conditions = conditions(observed, failure, shortage, now);
    status(&mut plan, observed, &mine, conditions, now);
    plan
}

/// The conditions, with ReplicaFailure while pods cannot be made or taken.
fn conditions(
    observed: &Observed,
    failure: Option<&str>,
    shortage: i64,
    now: Timestamp,
) -> Option<Value> {
    const KIND: &str = "ReplicaFailure";
    let old = to_value(&observed.set.status);
    let mut all = old.items_at(&["conditions"]).to_vec();
    match (failure, all.iter().position(|it| it.str_at(&["type"]) == KIND)) {
        (None, Some(place)) => {
            all.remove(place);
        }
        (Some(why), None) => {
            let reason = if shortage > 0 { "FailedCreate" } else { "FailedDelete" };
            all.push(value!({"type": KIND, "status": "True", "reason": reason, "message": why,
                "lastTransitionTime": (time::format_time(now))}));
        }
        (None, None) | (Some(_), Some(_)) => {}
    }
    (!all.is_empty()).then_some(Value::Array(all))
}

fn pod_resource() -> Resource {
    Resource::of::<Pod>()
}

fn create(plan: &mut Plan, observed: &Observed, owner: &Owner<'_>, count: usize) {
    let Some(template) = observed.set.spec.template.as_ref() else { return };
    let namespace = observed.set.metadata.namespace.clone().unwrap_or_default();
    let pod = pods::from_template(template, owner);
    let creation = || {
        PlannedAction::new(
            Action::Create {
                resource: pod_resource(),
                namespace: namespace.clone(),
                object: pod.clone(),
                exists_is_fine: false,
            },
            Some(event(
                observed,
                EventType::Normal,
                "SuccessfulCreate",
                "Created pod: {name}".into(),
            )),
            vec![event(
                observed,
                EventType::Warning,
                "FailedCreate",
                "Error creating: {error}".into(),
            )],
        )
    };
    pods::slow_start(plan, std::iter::repeat_with(creation).take(count));
}

fn event(observed: &Observed, kind: EventType, reason: &'static str, message: String) -> Event {
    let of = observed.kind;
    let about = owner::reference_to(of.api_version, of.kind, &observed.set.metadata);
    Event { about, kind, reason, message }
}

fn delete(plan: &mut Plan, observed: &Observed, surplus: &[&Cached]) {
    plan.then();
    for pod in surplus {
        let name = &pod.key.name;
        let planned =
            plan.act(owner::delete_at(pod_resource(), pod.key.clone(), pod.uid.to_string()));
        planned.on_success = Some(event(
            observed,
            EventType::Normal,
            "SuccessfulDelete",
            format!("Deleted pod: {name}"),
        ));
        planned.on_failure = vec![event(
            observed,
            EventType::Warning,
            "FailedDelete",
            "Error deleting: {error}".into(),
        )];
    }
}

/// Brings the status up to date, first of all: a failing creation must not hide what is there, and a status that somebody
/// else has written meanwhile does not keep pods from being made.
fn status(
    plan: &mut Plan,
    observed: &Observed,
    mine: &[&Cached],
    conditions: Option<Value>,
    now: Timestamp,
) {
    let set = &observed.set;
    let spec = &set.spec;
    let min_ready = spec.min_ready_seconds.unwrap_or_default();
    let template_labels = spec
        .template
        .as_ref()
        .and_then(|it| it.metadata.as_ref())
        .and_then(|it| it.labels.clone())
        .unwrap_or_default();
    let active: Vec<&Cached> = mine.iter().copied().filter(|it| it.pod().is_active()).collect();
    let count = |test: &dyn Fn(&Cached) -> bool| {
        i64::try_from(active.iter().filter(|it| test(it)).count()).unwrap_or(i64::MAX)
    };
    let full =
        count(&|pod| template_labels.iter().all(|(key, value)| pod.label(key) == Some(value)));
    let terminating = mine.iter().filter(|it| it.pod().deleting && !it.pod().is_over()).count();
    let available_at = |pod: &Cached| pods::brief_available_at(pod.pod(), min_ready);
    let mut status = value!({"replicas": (count(&|_| true))});
    let counts = [
        ("fullyLabeledReplicas", full),
        ("readyReplicas", count(&|pod| pod.pod().ready)),
        ("availableReplicas", count(&|pod| available_at(pod).is_some_and(|at| at <= now))),
    ];
    for (name, number) in counts.into_iter().filter(|(_, number)| *number != 0) {
        status.set_at(&[name], number);
    }
    if observed.kind.counts_terminating {
        status.set_at(&["terminatingReplicas"], i64::try_from(terminating).unwrap_or(i64::MAX));
    }
    let old = to_value(&set.status);
    if let Some(conditions) = conditions {
        status.set_at(&["conditions"], conditions);
    }
    let generation = set.metadata.generation.unwrap_or_default();
    if generation != 0 {
        status.set_at(&["observedGeneration"], generation);
    }
    // When the next ready pod becomes available, the status changes although nothing else does.
    let next = active.iter().filter_map(|pod| available_at(pod)).filter(|at| *at > now).min();
    if let Some(at) = next {
        plan.requeue_by(at);
    }
    if status == old {
        return;
    }
    let mut object = Value::clone(&observed.object);
    object.set_at(&["status"], status);
    write_first(plan, observed, object);
}

fn write_first(plan: &mut Plan, observed: &Observed, object: Value) {
    let mut first = Plan::nothing();
    first.act(Action::Update {
        resource: Resource::built_in(observed.kind.group, observed.kind.plural),
        subresource: "status",
        object,
    });
    first.stages.iter_mut().for_each(|it| it.goes_on = true);
    first.stages.append(&mut plan.stages);
    plan.stages = first.stages;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_set_says_why_its_pods_cannot_be_made_until_they_can() {
        let check = |replicas: i32, before: &str, failure: Option<&str>, expected: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"web"}},"spec":{{"replicas":{replicas},"selector":{{"matchLabels":{{"a":"b"}}}}}},"status":{{"replicas":9,"conditions":{before}}}}}"#
            );
            let set = serde_json::from_str(&text).unwrap();
            let object = apimachinery::json::parse(text.as_bytes()).unwrap().into();
            let kind = &super::super::REPLICA_SET;
            let observed =
                Observed { kind, object, set, pods: Vec::new(), on_node: BTreeMap::new() };
            let plan = plan(&observed, failure, Timestamp::UNIX_EPOCH);
            let Action::Update { object, .. } = &plan.stages[0].actions[0].action else {
                return assert_eq!("no status", expected);
            };
            let shown = object.items_at(&["status", "conditions"]).iter();
            let shown: Vec<String> = shown
                .map(|it| format!("{}: {}", it.str_at(&["reason"]), it.str_at(&["message"])))
                .collect();
            assert_eq!(shown.join(", "), expected, "{replicas} {before} {failure:?}");
        };
        let told =
            r#"[{"type":"ReplicaFailure","status":"True","reason":"FailedCreate","message":"no"}]"#;
        check(1, "[]", None, "");
        check(1, "[]", Some("no"), "FailedCreate: no");
        check(1, told, Some("still no"), "FailedCreate: no");
        check(1, told, None, "");
        check(0, told, Some("no"), "");
    }
}
