//! What of a pod may change, through itself and through its subresources.

use apimachinery::{FieldErrors, Path, Value};

use crate::check;
use crate::pod_spec::{resources, scheduling, validate as checks};

const UPDATES: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";
const RESIZES: &str = "only cpu and memory resources for containers are mutable";

/// Checks a change of a pod itself.
pub(super) fn validate_update(pod: &Value, old: &Value, errors: &mut FieldErrors) {
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
        let diff = crate::go::pod_difference(before, &allowed);
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
    let kept = before.get("nodeSelector").and_then(Value::as_object);
    let mut narrowed = kept.into_iter().flat_map(apimachinery::Object::iter);
    let now = allowed.get("nodeSelector").cloned().unwrap_or_default();
    if narrowed.any(|(key, value)| now.get(key) != Some(value)) {
        let detail = "only additions are allowed (no mutations or deletions)";
        check::invalid_shown(
            &path.child("nodeSelector"),
            &apimachinery::json::to_string(&now),
            detail,
            errors,
        );
    }
    copy(before, allowed, &["nodeSelector"]);
    if before.at(&["affinity", "nodeAffinity"]).is_none() {
        allowed.remove_at(&["affinity", "nodeAffinity"]);
        if before.get("affinity").is_none()
            && allowed.get("affinity").and_then(Value::as_object).is_some_and(|it| it.is_empty())
        {
            allowed.remove_at(&["affinity"]);
        }
    }
}

fn copy(from: &Value, to: &mut Value, path: &[&str]) {
    match from.at(path) {
        Some(value) => to.set_at(path, value.clone()),
        None => {
            to.remove_at(path);
        }
    }
}

/// The class of a pod is decided when it is made.
pub(super) fn prepare_status(pod: &mut Value, old: &Value) {
    if pod.str_at(&["status", "qosClass"]).is_empty() {
        copy(old, pod, &["status", "qosClass"]);
    }
}

/// Checks a change of status.
pub(super) fn validate_status(pod: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    let class = |it: &Value| it.str_at(&["status", "qosClass"]).to_owned();
    if class(pod) != class(old) {
        let at = path.child("qosClass");
        errors.invalid_text(&at, &class(pod), "field is immutable");
    }
    let node = pod.str_at(&["status", "nominatedNodeName"]);
    if !node.is_empty() {
        let problems = apimachinery::validation::dns1123_subdomain(node);
        errors.invalid_all(&path.child("nominatedNodeName"), node, problems);
    }
    for list in ["containerStatuses", "initContainerStatuses"] {
        ended_again(pod, old, list, &path, errors);
    }
    addresses(pod, &path, errors);
}

/// A container that ended and is not started again stays ended.
fn ended_again(pod: &Value, old: &Value, list: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let policy = old.str_at(&["spec", "restartPolicy"]);
    if policy == "Always" {
        return;
    }
    let statuses = path.child(list);
    let ended = |it: &Value| it.at(&["state", "terminated"]).cloned();
    for (index, before) in old.items_at(&["status", list]).iter().enumerate() {
        let Some(end) = ended(before) else { continue };
        if policy == "OnFailure" && end.i64_at(&["exitCode"]).unwrap_or_default() != 0 {
            continue;
        }
        let name = before.str_at(&["name"]);
        let now = pod.items_at(&["status", list]).iter().find(|it| it.str_at(&["name"]) == name);
        if now.is_some_and(|it| ended(it).is_none()) {
            let detail = "may not be transitioned to non-terminated state";
            errors.forbidden(&statuses.index(index).child("state"), detail);
        }
    }
}

fn addresses(pod: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["podIPs", "hostIPs"] {
        let list = path.child(member);
        for (index, address) in pod.items_at(&["status", member]).iter().enumerate() {
            let ip = address.str_at(&["ip"]);
            errors.invalid_all(&list.index(index), ip, apimachinery::validation::ip(ip));
        }
    }
}

/// A subresource changes its own part only.
pub(super) fn prepare_subresource(name: &str, pod: &mut Value, old: &Value) {
    let mut kept = old.clone();
    for member in ["resourceVersion", "managedFields"] {
        copy(pod, &mut kept, &["metadata", member]);
    }
    match name {
        "ephemeralcontainers" => copy(pod, &mut kept, &["spec", "ephemeralContainers"]),
        "resize" => {
            for list in ["containers", "initContainers"] {
                copy(pod, &mut kept, &["spec", list]);
            }
            copy(pod, &mut kept, &["spec", "resources"]);
        }
        // Binding sets the node and a condition; eviction writes nothing of its own.
        _ => return,
    }
    *pod = kept;
}

/// Checks a change through a subresource.
pub(super) fn validate_subresource(name: &str, pod: &Value, old: &Value, errors: &mut FieldErrors) {
    let empty = Value::object();
    let spec = pod.get("spec").unwrap_or(&empty);
    match name {
        "ephemeralcontainers" => {
            checks::pod_spec(spec, &Path::new("spec"), errors);
            ephemeral(spec, old, errors);
        }
        "resize" => {
            checks::pod_spec(spec, &Path::new("spec"), errors);
            resize(spec, old, errors);
        }
        _ => {}
    }
}

/// Containers for debugging may be added only.
fn ephemeral(spec: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let at = path.child("ephemeralContainers");
    if old.at(&["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some() {
        errors.forbidden(&Path::new(""), "static pods do not support ephemeral containers");
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

/// What the containers of a running pod may use can be changed, if its class stays the same.
fn resize(spec: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    for list in ["containers", "initContainers"] {
        if spec.items_at(&[list]).len() != old.items_at(&["spec", list]).len() {
            errors.forbidden(&path, "pod resize may not add or remove containers");
            return;
        }
    }
    let empty = Value::object();
    let before = old.get("spec").unwrap_or(&empty);
    let (now, then) = (resources::qos_class(spec), resources::qos_class(before));
    if now != then {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.invalid_text(&path, then, detail);
    }
    let mut allowed = spec.clone();
    for list in ["containers", "initContainers"] {
        let earlier = before.items_at(&[list]);
        for (container, earlier) in allowed.items_at_mut(&[list]).iter_mut().zip(earlier) {
            for kind in ["limits", "requests"] {
                for name in ["cpu", "memory"] {
                    copy(earlier, container, &["resources", kind, name]);
                }
                drop_empty(container, &["resources", kind], earlier);
            }
            copy(earlier, container, &["resizePolicy"]);
        }
    }
    copy(before, &mut allowed, &["resources"]);
    if &allowed != before {
        errors.forbidden(&path, RESIZES);
    }
}

fn drop_empty(container: &mut Value, path: &[&str], earlier: &Value) {
    let empty = container.at(path).and_then(Value::as_object).is_some_and(|it| it.is_empty());
    if empty && earlier.at(path).is_none() {
        container.remove_at(path);
    }
}
