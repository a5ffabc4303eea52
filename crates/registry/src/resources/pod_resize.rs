//! What the containers of a running pod may use can be changed (upstream: `ValidatePodResize`).

use apimachinery::{FieldErrors, Path, Value};

use super::pod;
use crate::pod_spec::annotations::MIRROR;
use crate::pod_spec::resources;
use crate::status::{self, copy};

const LISTS: [&str; 2] = ["containers", "initContainers"];
const CONTAINERS: &str = "only cpu and memory resources are mutable";
const SIDECARS: &str = "only cpu and memory resources for sidecar containers are mutable";
const FIRST: &str = "resources for non-sidecar init containers are immutable";

/// Leaves of a resize what it is about; where containers come, go or change places, all of it, to be refused.
pub(super) fn prepare(pod: &mut Value, old: &Value) {
    let list = |of: &Value, name: &str| of.items_at(&["spec", name]).to_vec();
    if LISTS.iter().any(|it| list(pod, it).len() != list(old, it).len()) {
        return;
    }
    let wanted = std::mem::replace(pod, old.clone());
    copy(&wanted, pod, &["metadata"]);
    status::keep_metadata(pod, old);
    copy(&wanted, pod, &["spec", "resources"]);
    for name in LISTS {
        let (now, mut merged) = (list(&wanted, name), list(old, name));
        let same = now.iter().zip(&merged).all(|(now, before)| now["name"] == before["name"]);
        if !same {
            copy(&wanted, pod, &["spec", name]);
            continue;
        }
        for (container, now) in merged.iter_mut().zip(&now) {
            copy(now, container, &["resources"]);
            copy(now, container, &["resizePolicy"]);
        }
        if !merged.is_empty() {
            pod.set_at(&["spec", name], merged);
        }
    }
}

/// Checks a resize.
pub(super) fn validate(new: &Value, old: &Value, errors: &mut FieldErrors) {
    pod::validate(new, errors);
    let refused = if old.at(&["metadata", "annotations", MIRROR]).is_some() {
        Some("static pods cannot be resized")
    } else {
        let windows = old.str_at(&["spec", "os", "name"]) == "windows";
        windows.then_some("windows pods cannot be resized")
    };
    if let Some(why) = refused {
        *errors = FieldErrors::new();
        errors.forbidden(&Path::new(""), why);
        return;
    }
    let (spec, before, path) = (&new["spec"], &old["spec"], Path::new("spec"));
    let class = match old.str_at(&["status", "qosClass"]) {
        "" => resources::qos_class(before),
        class => class,
    };
    if class != resources::qos_class(spec) {
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.invalid_text(&path, class, detail);
    }
    let mut statuses = old.items_at(&["status", "containerStatuses"]).iter();
    let running = statuses.find(|it| it.at(&["state", "running"]).is_some());
    if running.is_some_and(|it| it.get("resources").is_none()) {
        errors.forbidden(&path, "Pod running on node without support for resize");
    }
    let mut left = spec.clone();
    of_pod(&mut left, before, &path, errors);
    if order(spec, before, &path, errors) {
        return;
    }
    for name in ["initContainers", "containers"] {
        removed(spec, before, name, &path, errors);
    }
    for name in LISTS {
        containers(&mut left, before, name, &path, errors);
    }
    if errors.is_empty() && &left != before {
        errors.forbidden(&path, CONTAINERS);
    }
}

fn is_sidecar(container: &Value) -> bool {
    container.str_at(&["restartPolicy"]) == "Always"
}

/// Whether what there was of a list of resources is not all there any more.
fn lost(now: &Value, before: &Value, list: &str) -> bool {
    let of = |it: &Value| it.at(&["resources", list]).cloned().unwrap_or_default();
    let (now, before) = (of(now), of(before));
    let mut before = before.as_object().into_iter().flat_map(apimachinery::Object::keys);
    before.any(|name| now.get(name).is_none())
}

/// Makes cpu and memory what they were, so that what else differs is left.
fn without_cpu_and_memory(now: &mut Value, before: &Value) {
    for list in ["limits", "requests"] {
        for name in ["cpu", "memory"] {
            copy(before, now, &["resources", list, name]);
        }
        let path = ["resources", list];
        if before.at(&path).is_none() && is_empty(now.at(&path)) {
            now.remove_at(&path);
        }
    }
    if before.get("resources").is_none() && is_empty(now.get("resources")) {
        now.remove_at(&["resources"]);
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    value.and_then(Value::as_object).is_some_and(apimachinery::Object::is_empty)
}

/// What all containers of a pod share.
fn of_pod(left: &mut Value, before: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let set = |of: &Value| {
        ["requests", "limits"].iter().any(|list| {
            let list = of.at(&["resources", list]).and_then(Value::as_object);
            list.is_some_and(|it| !it.is_empty())
        })
    };
    if !set(left) && !set(before) {
        return;
    }
    let at = path.child("resources");
    if before.get("resources").is_some() {
        if left.get("resources").is_none() {
            errors.forbidden(&at, "pod-level resources cannot be removed");
            return;
        }
        for list in ["requests", "limits"] {
            if lost(left, before, list) {
                let detail = format!("pod-level resource {list} cannot be removed");
                errors.forbidden(&at.child(list), &detail);
            }
        }
    }
    without_cpu_and_memory(left, before);
    if left.get("resources") != before.get("resources") {
        errors.forbidden(path, "only cpu and memory resources are mutable at pod-level");
    }
}

/// Containers stay where they are; says whether one did not.
fn order(spec: &Value, before: &Value, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    let count = errors.len();
    for name in LISTS {
        let (now, then, at) = (spec.items_at(&[name]), before.items_at(&[name]), path.child(name));
        if now.len() != then.len() {
            errors.forbidden(&at, &format!("{name} may not be added or removed on resize"));
            continue;
        }
        for (index, _) in
            now.iter().zip(then).enumerate().filter(|(_, (a, b))| a["name"] != b["name"])
        {
            let detail = format!("{name} may not be renamed or reordered on resize");
            errors.forbidden(&at.index(index).child("name"), &detail);
        }
    }
    errors.len() > count
}

/// What a container asks for may change, but not go.
fn removed(spec: &Value, before: &Value, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child(name);
    for (index, (now, then)) in
        spec.items_at(&[name]).iter().zip(before.items_at(&[name])).enumerate()
    {
        if name == "initContainers" && !is_sidecar(then) {
            continue;
        }
        let at = list.index(index);
        let at = at.child("resources");
        for list in ["requests", "limits"] {
            if lost(now, then, list) {
                let detail = format!("resource {list} cannot be removed");
                errors.forbidden(&at.child(list), &detail);
            }
        }
    }
}

/// Nothing but cpu and memory may change, and of containers that run first nothing.
fn containers(
    left: &mut Value,
    before: &Value,
    name: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    for (container, then) in left.items_at_mut(&[name]).iter_mut().zip(before.items_at(&[name])) {
        let detail = match (name, is_sidecar(container)) {
            ("containers", _) => CONTAINERS,
            (_, true) => SIDECARS,
            (_, false) => FIRST,
        };
        if detail != FIRST {
            without_cpu_and_memory(container, then);
        }
        if container != then {
            errors.forbidden(path, detail);
        }
    }
}
