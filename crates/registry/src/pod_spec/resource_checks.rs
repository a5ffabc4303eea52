//! Checks of what containers and pods ask for.

use apimachinery::quantity::Quantity;
use apimachinery::validation::{self, is_extended_resource, is_native_resource};
use apimachinery::{FieldErrors, Object, Path, Value};

use crate::check;

/// Resources that a name without a domain may mean.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

/// Checks the requests and limits of a container.
pub(super) fn container(
    resources: &Value,
    claims: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    requirements(resources, container_resource, path, errors);
    claim_names(resources.items_at(&["claims"]), claims, &path.child("claims"), errors);
}

/// Checks requests and limits of a whole pod.
pub(super) fn pod(resources: &Value, claims: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    if !resources.items_at(&["claims"]).is_empty() {
        errors.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(resources, pod_resource, path, errors);
    claim_names(resources.items_at(&["claims"]), claims, &path.child("claims"), errors);
}

/// Checks what a pod costs beside its containers.
pub(super) fn overhead(list: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut requirements = Value::object();
    requirements.set_at(&["limits"], list.clone());
    self::requirements(&requirements, container_resource, path, errors);
}

type NameRule = fn(&str, &Path<'_>, &mut FieldErrors);

fn requirements(resources: &Value, name: NameRule, path: &Path<'_>, errors: &mut FieldErrors) {
    let (mut computes, mut huge) = (false, false);
    let empty = Object::new();
    let list = |member| resources.get(member).and_then(Value::as_object).unwrap_or(&empty);
    for member in ["limits", "requests"] {
        let at = path.child(member);
        for (resource, amount) in list(member).iter() {
            let text = amount.as_str().unwrap_or_default();
            name(resource, &at.key(resource), errors);
            quantity(resource, text, &at.key(resource), errors);
            if member == "requests" {
                let limit = list("limits").get(resource).and_then(Value::as_str);
                within_limit(resource, text, limit, path, errors);
            }
            huge |= resource.starts_with("hugepages-");
            computes |= matches!(resource, "cpu" | "memory");
        }
    }
    if huge && !computes {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
}

fn within_limit(
    resource: &str,
    request: &str,
    limit: Option<&str>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let Some(limit) = limit else {
        if !overcommits(resource) {
            let detail = "Limit must be set for non overcommitable resources";
            errors.required(&path.child("limits"), detail);
        }
        return;
    };
    let (Ok(wanted), Ok(most)) = (Quantity::parse(request), Quantity::parse(limit)) else { return };
    let words = if wanted != most && !overcommits(resource) {
        "equal to"
    } else if wanted > most {
        "less than or equal to"
    } else {
        return;
    };
    let detail = format!("must be {words} {resource} limit of {limit}");
    errors.invalid_text(&path.child("requests"), request, &detail);
}

/// Whether more of a resource may be promised than there is.
fn overcommits(resource: &str) -> bool {
    is_native_resource(resource) && !resource.starts_with("hugepages-")
}

fn container_resource(resource: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    resource_name(resource, path, errors);
    let of_containers = matches!(resource, "cpu" | "memory" | "ephemeral-storage")
        || resource.starts_with("hugepages-");
    if !resource.contains('/') {
        if !of_containers {
            errors.invalid_text(path, resource, "must be a standard resource for containers");
        }
    } else if !is_native_resource(resource) && !is_extended_resource(resource) {
        errors.invalid_text(path, resource, "doesn't follow extended resource name standard");
    }
}

fn pod_resource(resource: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let before = errors.len();
    resource_name(resource, path, errors);
    if errors.len() == before && !super::resources::is_pod_level(resource) {
        let supported = ["cpu", "hugepages-", "memory"];
        errors.not_supported(path, &resource.into(), supported);
    }
}

/// The name of any resource.
pub(crate) fn resource_name(resource: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let problems = validation::qualified_name(resource);
    if !problems.is_empty() {
        errors.invalid_all(path, resource, problems);
        return;
    }
    let standard = STANDARD.contains(&resource)
        || resource.starts_with("hugepages-")
        || resource.starts_with("requests.hugepages-");
    if !resource.contains('/') && !standard {
        let detail = "must be a standard resource type or fully qualified";
        errors.invalid_text(path, resource, detail);
    }
}

/// An amount of a resource: not negative, and whole where the resource cannot be divided.
pub(crate) fn quantity(resource: &str, text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    check::non_negative_quantity(text, path, errors);
    let Ok(amount) = Quantity::parse(text) else { return };
    if is_extended_resource(resource) && amount.rounded(0) != amount {
        errors.invalid_text(path, text, "must be an integer");
    }
    let page = resource.strip_prefix("hugepages-").and_then(|it| Quantity::parse(it).ok());
    if let Some(page) = page.filter(|it| it.sign() > 0)
        && amount.value() % page.value() != 0
    {
        let detail = format!("{text} is not positive integer multiple of {resource}");
        errors.invalid_text(path, text, &detail);
    }
}

/// The claims of a container are those of its pod, each once.
fn claim_names(list: &[Value], known: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, claim) in list.iter().enumerate() {
        let at = path.index(index);
        let (name, request) = (claim.str_at(&["name"]), claim.str_at(&["request"]));
        if name.is_empty() {
            errors.required(&at, "");
        } else {
            if seen.contains(&(name, request)) {
                errors.duplicate(&at, &name.into());
            }
            seen.push((name, request));
            if !known.contains(&name) {
                unknown_claim(name, known, &at, errors);
            }
        }
        check::optional_name(claim, "request", validation::dns1123_label, &at, errors);
    }
}

fn unknown_claim(name: &str, known: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut sorted = known.to_vec();
    sorted.sort_unstable();
    let those = if sorted.is_empty() {
        " which is empty".into()
    } else {
        format!(": {}", sorted.join(", "))
    };
    errors.push(apimachinery::field::FieldError {
        kind: apimachinery::field::ErrorType::NotFound,
        field: path.to_string(),
        body: format!(
            "Not found: {}: must be one of the names in pod.spec.resourceClaims{those}",
            apimachinery::field::quote(name)
        ),
    });
}
