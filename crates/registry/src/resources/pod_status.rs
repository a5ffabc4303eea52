//! What of a pod's status may change (upstream: `ValidatePodStatusUpdate`).

use apimachinery::{FieldErrors, Path, Value, validation};

use super::pod_update;
use crate::check;
use crate::rules::each;
use crate::status::{self, copy};

/// Conditions whose names upstream does not look at.
const SYSTEM_CONDITIONS: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];
const NOT_NEGATIVE: &str = "must be a non-negative integer";
const STATUSES: [&str; 3] =
    ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
const HEALTHS: &[&str] = &["Healthy", "Unhealthy", "Unknown"];

/// The class of a pod is decided when it is made; owners are none of the status' business, and a generation that was
/// observed is not forgotten by clients that do not know of it.
pub(super) fn prepare(pod: &mut Value, old: &Value) {
    status::keep_members(pod, old, &["ownerReferences", "deletionTimestamp"]);
    if pod.str_at(&["status", "qosClass"]).is_empty() {
        copy(old, pod, &["status", "qosClass"]);
    }
    let member = "observedGeneration";
    let seen = |of: &Value| of.i64_at(&[member]).unwrap_or_default();
    if seen(&pod["status"]) == 0 && seen(&old["status"]) != 0 {
        copy(old, pod, &["status", member]);
    }
    let mut before: Vec<&Value> = old.items_at(&["status", "conditions"]).iter().collect();
    for condition in pod.items_at_mut(&["status", "conditions"]) {
        let Some(place) = before.iter().position(|it| it["type"] == condition["type"]) else {
            continue;
        };
        let earlier = seen(before.remove(place));
        if seen(condition) == 0 && earlier != 0 {
            condition.set_at(&[member], earlier);
        }
    }
}

/// Checks a change of status.
pub(super) fn validate(pod: &Value, old: &Value, errors: &mut FieldErrors) {
    pod_update::annotations(pod, old, errors);
    let path = Path::new("status");
    let (now, before) = (&pod["status"], &old["status"]);
    conditions(now, &path, errors);
    nominated(pod, old, &path.child("nominatedNodeName"), errors);
    if let Some(number) = now.i64_at(&["observedGeneration"]).filter(|it| *it < 0) {
        errors.invalid(&path.child("observedGeneration"), &number.into(), NOT_NEGATIVE);
    }
    let class = |it: &Value| it.str_at(&["qosClass"]).to_owned();
    if class(now) != class(before) {
        errors.invalid_text(&path.child("qosClass"), &class(now), "field is immutable");
    }
    for list in STATUSES {
        ended_again(pod, old, list, &path, errors);
    }
    claim_statuses(pod, &path, errors);
    if let Some(claim) = now.get("extendedResourceClaimStatus") {
        extended_claim(pod, claim, &path.child("extendedResourceClaimStatus"), errors);
    }
    status::pair_of_ips((now, before), "podIPs", &path, errors);
    host_ips(now, before, &path, errors);
    let windows = pod.str_at(&["spec", "os", "name"]) == "windows";
    for list in STATUSES {
        each(now, list, &path, errors, |it, at, errors| user(it, windows, at, errors));
    }
    for (list, containers) in STATUSES.into_iter().zip(["containers", "initContainers", ""]) {
        each(now, list, &path, errors, |it, at, errors| {
            let name = it.str_at(&["name"]);
            let all = pod.items_at(&["spec", containers]).iter();
            let container = all.into_iter().find(|it| it.str_at(&["name"]) == name);
            allocated(it, container, containers.is_empty(), at, errors);
        });
    }
}

fn conditions(status: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    each(status, "conditions", path, errors, |condition, at, errors| {
        if let Some(number) = condition.i64_at(&["observedGeneration"]).filter(|it| *it < 0) {
            errors.invalid(&at.child("observedGeneration"), &number.into(), NOT_NEGATIVE);
        }
        let kind = condition.str_at(&["type"]);
        if !SYSTEM_CONDITIONS.contains(&kind) {
            // Upstream writes the member so.
            errors.invalid_all(&at.child("Type"), kind, validation::qualified_name(kind));
        }
    });
}

fn nominated(pod: &Value, old: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let of = |it: &Value| it.str_at(&["status", "nominatedNodeName"]).to_owned();
    let node = of(pod);
    if node.is_empty() || node == of(old) {
        return;
    }
    errors.invalid_all(path, &node, validation::dns1123_subdomain(&node));
    if !old.str_at(&["spec", "nodeName"]).is_empty() {
        errors.forbidden(path, "may not be set on pods that are already bound to a node");
    }
}

/// A container that ended and is not started again stays ended.
fn ended_again(pod: &Value, old: &Value, list: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let spec = &old["spec"];
    let ephemeral = list == "ephemeralContainerStatuses";
    if !ephemeral && all_may_restart(spec) {
        return;
    }
    let containers = if list == "containerStatuses" { "containers" } else { "initContainers" };
    let (statuses, detail) = (path.child(list), "may not be transitioned to non-terminated state");
    for (index, before) in old.items_at(&["status", list]).iter().enumerate() {
        let Some(end) = before.at(&["state", "terminated"]) else { continue };
        let code = end.i64_at(&["exitCode"]).unwrap_or_default();
        let name = before.str_at(&["name"]);
        let mut now = pod.items_at(&["status", list]).iter();
        let now = now.find(|it| it.str_at(&["name"]) == name);
        if now.is_none_or(|it| it.at(&["state", "terminated"]).is_some()) {
            continue;
        }
        let mut all = spec.items_at(&[containers]).iter();
        let container = all.find(|it| it.str_at(&["name"]) == name);
        let may = !ephemeral && container.is_some_and(|it| restarts(it, spec, code));
        if !may {
            errors.forbidden(&statuses.index(index).child("state"), detail);
        }
    }
}

/// Whether the end of one container may start all of them again.
fn all_may_restart(spec: &Value) -> bool {
    ["containers", "initContainers"].iter().any(|list| {
        spec.items_at(&[list]).iter().any(|container| {
            let mut rules = container.items_at(&["restartPolicyRules"]).iter();
            rules.any(|it| it.str_at(&["action"]) == "RestartAllContainers")
        })
    })
}

/// Whether a container that ended so is started again.
fn restarts(container: &Value, spec: &Value, code: i64) -> bool {
    let own = container.get("restartPolicy").and_then(Value::as_str);
    if own.is_some() {
        let fits = |rule: &&Value| {
            let codes = &rule["exitCodes"];
            let named = codes.items_at(&["values"]).iter().any(|it| it.as_i64() == Some(code));
            match codes.str_at(&["operator"]) {
                "In" => named,
                "NotIn" => !named,
                _ => false,
            }
        };
        let rule = container.items_at(&["restartPolicyRules"]).iter().find(fits);
        if rule.is_some_and(|it| it.str_at(&["action"]) == "Restart") {
            return true;
        }
    }
    match own.unwrap_or_else(|| spec.str_at(&["restartPolicy"])) {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

fn claim_statuses(pod: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let known = pod.items_at(&["spec", "resourceClaims"]);
    let mut seen: Vec<String> = Vec::new();
    each(&pod["status"], "resourceClaimStatuses", path, errors, |claim, at, errors| {
        let (name, at) = (claim.str_at(&["name"]), at.child("name"));
        if !known.iter().any(|it| it.str_at(&["name"]) == name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid_text(&at, name, detail);
        }
        if seen.iter().any(|it| it == name) {
            errors.duplicate(&at, &name.into());
        }
        seen.push(name.to_owned());
        if let Some(claim) = claim.get("resourceClaimName").and_then(Value::as_str) {
            errors.invalid_all(&at, claim, validation::dns1123_subdomain(claim));
        }
    });
}

/// The claim that was made for resources which containers ask for by other names.
fn extended_claim(pod: &Value, claim: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("requestMappings");
    let mappings = claim.items_at(&["requestMappings"]);
    if mappings.is_empty() {
        errors.required(&list, "at least one request mapping is required");
    }
    let lists = ["containers", "initContainers"].map(|it| pod.items_at(&["spec", it]));
    for (index, mapping) in mappings.iter().enumerate() {
        let at = list.index(index);
        let text = |member: &str| mapping.str_at(&[member]);
        let (name, resource) = (text("containerName"), text("resourceName"));
        match lists.iter().copied().flatten().find(|it| it.str_at(&["name"]) == name) {
            Some(container) if container.at(&["resources", "requests", resource]).is_none() => {
                let detail = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                errors.invalid_text(&at.child("resourceName"), resource, detail);
            }
            Some(_) => {}
            None => {
                let detail = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                errors.invalid_text(&at.child("containerName"), name, detail);
            }
        }
        let request = text("requestName");
        let problems = validation::dns1123_label(request);
        errors.invalid_all(&path.child("requestName"), request, problems);
        if mappings[..index].contains(mapping) {
            for member in ["containerName", "resourceName", "requestName"] {
                errors.duplicate(&at.child(member), &mapping[member]);
            }
        }
    }
    check::required_name(claim, "resourceClaimName", validation::dns1123_subdomain, path, errors);
}

fn host_ips(now: &Value, before: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(first) = now.items_at(&["hostIPs"]).first() else { return };
    let first = first.str_at(&["ip"]);
    if now.str_at(&["hostIP"]) != first {
        let list = path.child("hostIPs");
        errors.invalid_text(&list.index(0).child("ip"), first, "must be equal to `hostIP`");
    }
    status::pair_of_ips((now, before), "hostIPs", path, errors);
}

/// As whom a container runs.
fn user(status: &Value, windows: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(linux) = status.at(&["user", "linux"]) else { return };
    let user = path.child("user");
    let at = user.child("linux");
    if windows {
        errors.forbidden(&at, "cannot be set for a windows pod");
        return;
    }
    let id = |id: i64, at: &Path<'_>, errors: &mut FieldErrors| {
        for problem in validation::unix_id(id) {
            errors.invalid(at, &id.into(), &problem);
        }
    };
    for member in ["uid", "gid"] {
        id(linux.i64_at(&[member]).unwrap_or_default(), &at.child(member), errors);
    }
    each(linux, "supplementalGroups", &at, errors, |group, at, errors| {
        id(group.as_i64().unwrap_or_default(), at, errors);
    });
}

/// How devices are that a container was given.
fn allocated(
    status: &Value,
    container: Option<&Value>,
    ephemeral: bool,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let member = "allocatedResourcesStatus";
    if ephemeral && !status.items_at(&[member]).is_empty() {
        errors.forbidden(&path.child(member), "must not be specified in container status");
        return;
    }
    each(status, member, path, errors, |resource, at, errors| {
        let name = resource.str_at(&["name"]);
        if let Some(container) = container {
            let (known, detail) = match name.strip_prefix("claim:") {
                Some(claim) => (
                    asks_for_claim(container, claim),
                    "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
                ),
                None => (
                    container.at(&["resources", "requests", name]).is_some(),
                    "must match one of the container's resource requests",
                ),
            };
            if !known {
                errors.invalid_text(&at.child("name"), name, detail);
            }
        }
        let mut seen: Vec<Value> = Vec::new();
        each(resource, "resources", at, errors, |device, at, errors| {
            check::one_of(device, "health", HEALTHS, at, errors);
            let id = device["resourceID"].clone();
            if seen.contains(&id) {
                errors.duplicate(&at.child("resourceID"), &id);
            }
            seen.push(id);
        });
    });
}

/// Whether a container asks for a claim (`NAME`, or `NAME/REQUEST`).
fn asks_for_claim(container: &Value, claim: &str) -> bool {
    container.items_at(&["resources", "claims"]).iter().any(|it| {
        let (name, request) = (it.str_at(&["name"]), it.str_at(&["request"]));
        if request.is_empty() { claim == name } else { claim == format!("{name}/{request}") }
    })
}
