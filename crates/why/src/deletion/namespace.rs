//! What is left of a namespace that is being deleted, and what keeps it from being emptied.

use apimachinery::Value;

use super::finalizers::keeps;
use crate::Case;
use crate::explanation::{Finding, MAX_NAMED, some_of};
use crate::objects::{condition, is_true, key_of};

/// Conditions that say why the controller cannot go on.
const TROUBLE: [&str; 3] = [
    "NamespaceDeletionDiscoveryFailure",
    "NamespaceDeletionGroupVersionParsingFailure",
    "NamespaceDeletionContentFailure",
];

/// What keeps a namespace.
pub(super) fn findings(case: &Case<'_>) -> Vec<Finding> {
    let mut all = unavailable(case);
    for kind in TROUBLE {
        if let Some(it) = condition(case.object, kind).filter(|_| is_true(case.object, kind)) {
            let (reason, message) = (it.str_at(&["reason"]), it.str_at(&["message"]));
            all.push(Finding::new("Condition", format!("{kind}: {reason}: {message}")));
        }
    }
    all.extend(remaining(case));
    let held = case.object.items_at(&["spec", "finalizers"]).iter().filter_map(Value::as_str);
    for finalizer in held {
        let message = match finalizer {
            "kubernetes" if all.is_empty() => {
                "nothing is left in it: the namespace controller removes its finalizer next"
                    .to_owned()
            }
            "kubernetes" => continue,
            other => format!("spec.finalizers has {other}: nothing built in removes it"),
        };
        all.push(Finding::new("Finalizer", message));
    }
    all
}

/// API services that do not answer: what they serve cannot be listed, so that nobody knows whether it is empty.
fn unavailable(case: &Case<'_>) -> Vec<Finding> {
    let services = case.objects.list("apiregistration.k8s.io", "apiservices", "");
    let down = services.iter().filter(|it| {
        condition(it, "Available").is_some_and(|it| it.str_at(&["status"]) == "False")
    });
    let finding = |it: &std::sync::Arc<Value>| {
        let key = key_of(it);
        let why = condition(it, "Available");
        let (reason, message) = (
            why.map_or("", |it| it.str_at(&["reason"])),
            why.map_or("", |it| it.str_at(&["message"])),
        );
        let message = format!(
            "API service {} is not available ({reason}: {message}): a namespace goes only once everything in it can be \
             listed; mend the service or delete the APIService",
            key.name
        );
        Finding::new("APIServiceUnavailable", message).of("apiservices", &key)
    };
    down.map(finding).collect()
}

/// What is left, kind by kind; what has finalizers comes first.
fn remaining(case: &Case<'_>) -> Vec<Finding> {
    let namespace = &case.subject.key.name;
    let mut all = Vec::new();
    for kind in case.objects.kinds().iter().filter(|it| it.namespaced) {
        let left = case.objects.list(&kind.group, &kind.plural, namespace);
        // Events are of others, and go last.
        if left.is_empty() || kind.plural == "events" {
            continue;
        }
        let held = left.iter().filter(|it| !it.items_at(&["metadata", "finalizers"]).is_empty());
        let because: Vec<Finding> =
            held.clone().take(MAX_NAMED).filter_map(|it| keeps(&kind.plural, it)).collect();
        let names: Vec<String> = left.iter().map(|it| key_of(it).name.to_string()).collect();
        let held = match held.count() {
            0 => String::new(),
            count => format!(", {count} with finalizers"),
        };
        let message =
            format!("{} {} left{held}: {}", left.len(), kind.full_name(), some_of(&names));
        all.push(Finding::new("ObjectsLeft", message).because(because));
    }
    all.sort_by_key(|it| it.because.is_empty());
    all
}
