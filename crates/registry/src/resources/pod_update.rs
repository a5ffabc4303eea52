//! What of a pod may change, through itself and through its subresources.

use apimachinery::{FieldErrors, Path, Value};

use super::{pod, pod_resize};
use crate::pod_spec::annotations::{self, APP_ARMOR, MIRROR};
use crate::pod_spec::scheduling::{self, REQUIRED};
use crate::status::{self, copy};
use crate::{check, go};

const UPDATES: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";

/// Checks a change of a pod itself.
pub(super) fn validate_update(pod: &Value, old: &Value, errors: &mut FieldErrors) {
    annotations(pod, old, errors);
    let path = Path::new("spec");
    for list in ["containers", "initContainers"] {
        let count = |of: &Value| of.items_at(&["spec", list]).len();
        if count(pod) != count(old) {
            let detail = "pod updates may not add or remove containers";
            errors.forbidden(&path.child(list), detail);
            return;
        }
    }
    if !deadline(pod, old, &path, errors) {
        return;
    }
    tolerations(pod, old, &path.child("tolerations"), errors);
    let mut allowed = pod.get("spec").cloned().unwrap_or_default();
    let empty = Value::object();
    let before = old.get("spec").unwrap_or(&empty);
    for list in ["containers", "initContainers"] {
        let earlier = before.items_at(&[list]);
        for (container, earlier) in allowed.items_at_mut(&[list]).iter_mut().zip(earlier) {
            copy(earlier, container, &["image"]);
        }
    }
    for member in ["activeDeadlineSeconds", "tolerations"] {
        copy(before, &mut allowed, &[member]);
    }
    if before.i64_at(&["terminationGracePeriodSeconds"]).is_some_and(|it| it < 0)
        && allowed.i64_at(&["terminationGracePeriodSeconds"]) == Some(1)
    {
        copy(before, &mut allowed, &["terminationGracePeriodSeconds"]);
    }
    gated(&mut allowed, before, &path, errors);
    if &allowed != before {
        let diff = go::pod_difference(before, &allowed);
        errors.forbidden(&path, &format!("{UPDATES}{diff}"));
    }
}

/// A deadline may only come nearer; says whether the rest is still to be checked.
fn deadline(pod: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    let of = |it: &Value| it.i64_at(&["spec", "activeDeadlineSeconds"]);
    let at = path.child("activeDeadlineSeconds");
    match (of(pod), of(old)) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            let detail = apimachinery::validation::inclusive_range(0, i64::from(i32::MAX));
            errors.invalid(&at, &now.into(), &detail);
            false
        }
        (Some(now), Some(before)) if now > before => {
            errors.invalid(&at, &now.into(), "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.invalid(&at, &Value::Null, detail);
            true
        }
        _ => true,
    }
}

/// Tolerations may be added, and changed only in how long they last.
fn tolerations(pod: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let of = |it: &Value| -> Vec<Value> {
        let list = it.items_at(&["spec", "tolerations"]).iter().cloned();
        list.map(|mut it| {
            it.remove_at(&["tolerationSeconds"]);
            it
        })
        .collect()
    };
    let now = of(pod);
    if of(old).iter().any(|it| !now.contains(it)) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(path, detail);
        return;
    }
    scheduling::tolerations(pod.items_at(&["spec", "tolerations"]), path, errors);
}

/// Gates may be taken away, and while there are any, where the pod may run may be narrowed.
fn gated(allowed: &mut Value, before: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let earlier = before.items_at(&["schedulingGates"]);
    let list = path.child("schedulingGates");
    for (index, gate) in allowed.items_at(&["schedulingGates"]).iter().enumerate() {
        if !earlier.contains(gate) {
            let name = gate.str_at(&["name"]);
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&list.index(index), &detail);
        }
    }
    copy(before, allowed, &["schedulingGates"]);
    if earlier.is_empty() {
        return;
    }
    narrowed(allowed, before, &path.child("nodeSelector"), errors);
    copy(before, allowed, &["nodeSelector"]);
    let affinity = ["affinity", "nodeAffinity"];
    let (now, then) = (allowed.at(&affinity), before.at(&affinity));
    if now != then {
        let place = path.child("affinity");
        terms(now, then, &place.child("nodeAffinity"), errors);
        copy(before, allowed, &affinity);
        let empty = allowed.get("affinity").and_then(Value::as_object);
        if before.get("affinity").is_none() && empty.is_some_and(apimachinery::Object::is_empty) {
            allowed.remove_at(&["affinity"]);
        }
    }
}

/// Labels of the node may be asked for besides those that were.
fn narrowed(spec: &Value, before: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kept = before.get("nodeSelector").and_then(Value::as_object);
    let mut kept = kept.into_iter().flat_map(apimachinery::Object::iter);
    let now = spec.get("nodeSelector").cloned().unwrap_or_default();
    if kept.any(|(key, value)| now.get(key) != Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        check::invalid_shown(path, &apimachinery::json::to_string(&now), detail, errors);
    }
}

/// What is asked of nodes may grow within the terms that there were, where there were any; what is preferred may change.
fn terms(now: Option<&Value>, before: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let of = |it: Option<&Value>| -> Vec<Value> {
        it.map_or_else(Vec::new, |it| it.items_at(&[REQUIRED, "nodeSelectorTerms"]).to_vec())
    };
    let (now, before) = (of(now), of(before));
    if before.is_empty() {
        return;
    }
    let required = path.child(REQUIRED);
    let list = required.child("nodeSelectorTerms");
    if now.len() != before.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        check::invalid_shown(&list, &go::node_terms(&now), detail, errors);
        return;
    }
    for (index, (now, before)) in now.iter().zip(&before).enumerate() {
        if !only_more(now, before) {
            let detail = "only additions are allowed (no mutations or deletions)";
            check::invalid_shown(&list.index(index), &go::node_term(now), detail, errors);
        }
    }
}

/// Whether a term begins as it did. One that selects nothing stays so.
fn only_more(now: &Value, before: &Value) -> bool {
    let lists = ["matchExpressions", "matchFields"];
    let none = |of: &Value| lists.iter().all(|it| of.items_at(&[it]).is_empty());
    if none(before) {
        return none(now);
    }
    lists.iter().all(|it| now.items_at(&[it]).starts_with(before.items_at(&[it])))
}

/// Annotations that only who makes a pod may set: that it stands for a static pod, and profiles of AppArmor.
pub(super) fn annotations(pod: &Value, old: &Value, errors: &mut FieldErrors) {
    let metadata = Path::new("metadata");
    let path = metadata.child("annotations");
    let (now, before) = (guarded(pod), guarded(old));
    let find = |all: &[Guarded<'_>], key: &str| all.iter().position(|it| it.key == key);
    for it in &before {
        if find(&now, it.key).is_none_or(|place| now[place].value != it.value) {
            errors.forbidden(&path.key(it.key), &format!("may not remove or update {}", it.what));
        }
    }
    for it in now.iter().filter(|it| find(&before, it.key).is_none()) {
        errors.forbidden(&path.key(it.key), &format!("may not add {}", it.what));
    }
    annotations::validate_change(pod, Some(old), &path, errors);
}

/// An annotation that only who makes a pod may set.
struct Guarded<'v> {
    key: &'v str,
    value: &'v Value,
    what: &'static str,
}

fn guarded(pod: &Value) -> Vec<Guarded<'_>> {
    let all = pod.at(&["metadata", "annotations"]).and_then(Value::as_object);
    let all = all.into_iter().flat_map(apimachinery::Object::iter);
    all.filter_map(|(key, value)| {
        let what = match key {
            MIRROR => "mirror pod annotation",
            _ if key.starts_with(APP_ARMOR) => "AppArmor annotations",
            _ => return None,
        };
        Some(Guarded { key, value, what })
    })
    .collect()
}

/// A subresource changes its own part only.
pub(super) fn prepare_subresource(name: &str, pod: &mut Value, old: &Value) {
    match name {
        "ephemeralcontainers" => {
            let wanted = std::mem::replace(pod, old.clone());
            copy(&wanted, pod, &["metadata"]);
            status::keep_metadata(pod, old);
            copy(&wanted, pod, &["spec", "ephemeralContainers"]);
        }
        "resize" => pod_resize::prepare(pod, old),
        // Binding sets the node and a condition; eviction writes nothing of its own.
        _ => {}
    }
}

/// Checks a change through a subresource.
pub(super) fn validate_subresource(name: &str, pod: &Value, old: &Value, errors: &mut FieldErrors) {
    match name {
        "ephemeralcontainers" => {
            pod::validate(pod, errors);
            annotations(pod, old, errors);
            ephemeral(&pod["spec"], old, errors);
        }
        "resize" => pod_resize::validate(pod, old, errors),
        _ => {}
    }
}

/// Containers for debugging may be added only.
fn ephemeral(spec: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let at = path.child("ephemeralContainers");
    if old.at(&["metadata", "annotations", MIRROR]).is_some() {
        *errors = FieldErrors::new();
        errors.forbidden(&Path::new(""), "static pods do not support ephemeral containers");
        return;
    }
    let list = spec.items_at(&["ephemeralContainers"]);
    for before in old.items_at(&["spec", "ephemeralContainers"]) {
        let name = before.str_at(&["name"]);
        let quoted = apimachinery::field::quote(name);
        match list.iter().find(|it| it.str_at(&["name"]) == name) {
            None => {
                let detail = format!("existing ephemeral containers {quoted} may not be removed\n");
                errors.forbidden(&at, &detail);
            }
            Some(now) if now != before => {
                let detail = format!("existing ephemeral containers {quoted} may not be changed\n");
                errors.forbidden(&at, &detail);
            }
            Some(_) => {}
        }
    }
}
