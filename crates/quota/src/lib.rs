//! How much of what an object uses, and which quotas it counts for. Upstream: `pkg/quota/v1/evaluator`.
//!
//! Admission charges with it, the quota controller counts with it: the two must agree. It knows objects as values only.

mod amounts;

use apimachinery::quantity::{Format, Quantity};
use apimachinery::{Object, Value};

pub use amounts::{Amounts, add, amounts, of_pod, quantity};

/// The annotation that names a claim's class in the old way.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Resources of the core group that quotas count under their bare name too.
const BARE: [&str; 7] = [
    "pods",
    "services",
    "persistentvolumeclaims",
    "configmaps",
    "secrets",
    "replicationcontrollers",
    "resourcequotas",
];
fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSI)
}

/// What an object uses, by the names that quotas bound it under. A pod that is over uses nothing but its place.
#[must_use]
pub fn used_by(group: &str, resource: &str, object: &Value) -> Amounts {
    let mut used = Amounts::new();
    let count = if group.is_empty() {
        format!("count/{resource}")
    } else {
        format!("count/{resource}.{group}")
    };
    used.insert(count, one());
    if group.is_empty() && resource == "pods" && is_over(object) {
        // It holds its place among the objects, and nothing else.
        return used;
    }
    if group.is_empty() && BARE.contains(&resource) {
        used.insert(resource.into(), one());
    }
    match (group, resource) {
        ("", "pods") => add_pod(object, &mut used),
        ("", "services") => add_service(object, &mut used),
        ("", "persistentvolumeclaims") => add_claim(object, &mut used),
        _ => {}
    }
    used
}

/// Whether a pod is over.
fn is_over(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Failed" | "Succeeded")
}

fn add_pod(pod: &Value, used: &mut Amounts) {
    for (member, bare) in [("requests", true), ("limits", false)] {
        for (resource, amount) in of_pod(pod, member) {
            let plain = matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage");
            if bare && plain {
                used.insert(resource.clone(), amount);
            }
            if bare && resource.starts_with("hugepages-") {
                used.insert(resource.clone(), amount);
            }
            if plain || bare {
                used.insert(format!("{member}.{resource}"), amount);
            }
        }
    }
}

fn add_service(service: &Value, used: &mut Amounts) {
    let kind = service.str_at(&["spec", "type"]);
    let ports = service.items_at(&["spec", "ports"]);
    let given = |it: &&Value| it.i64_at(&["nodePort"]).is_some_and(|port| port > 0);
    let node_ports = match kind {
        "NodePort" => ports.len(),
        "LoadBalancer" if !is_false(&service["spec"]["allocateLoadBalancerNodePorts"]) => {
            ports.len()
        }
        "LoadBalancer" => ports.iter().filter(given).count(),
        _ => 0,
    };
    let node_ports = i64::try_from(node_ports).unwrap_or(i64::MAX);
    used.insert("services.nodeports".into(), Quantity::new(node_ports, Format::DecimalSI));
    let balancers = i64::from(kind == "LoadBalancer");
    used.insert("services.loadbalancers".into(), Quantity::new(balancers, Format::DecimalSI));
}

fn is_false(value: &Value) -> bool {
    value.as_bool() == Some(false)
}

fn add_claim(claim: &Value, used: &mut Amounts) {
    let class = match claim.str_at(&["metadata", "annotations", BETA_CLASS]) {
        "" => claim.str_at(&["spec", "storageClassName"]),
        old => old,
    };
    let of_class = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
    if !class.is_empty() {
        used.insert(of_class("persistentvolumeclaims"), one());
    }
    let storage = quantity(&claim["spec"]["resources"]["requests"]["storage"]);
    if let Some(storage) = storage {
        used.insert("requests.storage".into(), storage);
        if !class.is_empty() {
            used.insert(of_class("requests.storage"), storage);
        }
    }
}

/// Whether an object counts for a quota; `pod` says whether it is one.
#[must_use]
pub fn in_scope(pod: bool, object: &Value, quota: &Value) -> bool {
    let scopes = quota.items_at(&["spec", "scopes"]);
    let selectors = quota.items_at(&["spec", "scopeSelector", "matchExpressions"]);
    if scopes.is_empty() && selectors.is_empty() {
        return true;
    }
    // Scopes are about pods; nothing else counts for a quota that has some.
    pod && scopes.iter().filter_map(Value::as_str).all(|scope| has_scope(object, scope))
        && selectors.iter().all(|it| selects(object, it))
}

fn has_scope(pod: &Value, scope: &str) -> bool {
    match scope {
        "Terminating" => ends_by_itself(pod),
        "NotTerminating" => !ends_by_itself(pod),
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => !pod.str_at(&["spec", "priorityClassName"]).is_empty(),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

/// Whether a pod has what a selector of scopes asks for.
#[must_use]
pub fn selects(pod: &Value, selector: &Value) -> bool {
    let scope = selector.str_at(&["scopeName"]);
    let values = selector.items_at(&["values"]);
    let class = pod.str_at(&["spec", "priorityClassName"]);
    let named = values.iter().filter_map(Value::as_str).any(|it| it == class);
    match (selector.str_at(&["operator"]), scope) {
        ("Exists", _) => has_scope(pod, scope),
        ("DoesNotExist", _) => !has_scope(pod, scope),
        ("In", "PriorityClass") => !class.is_empty() && named,
        ("NotIn", "PriorityClass") => !named,
        _ => false,
    }
}

fn ends_by_itself(pod: &Value) -> bool {
    pod.i64_at(&["spec", "activeDeadlineSeconds"]).is_some_and(|it| it >= 0)
}

/// Whether a pod says nothing of how much it needs.
#[must_use]
pub fn is_best_effort(pod: &Value) -> bool {
    let spec = &pod["spec"];
    let mut all = spec.items_at(&["containers"]).iter().chain(spec.items_at(&["initContainers"]));
    let counts = |of: &Value| {
        ["requests", "limits"].iter().any(|member| {
            let amounts = amounts(&of["resources"][member]);
            ["cpu", "memory"].iter().any(|it| amounts.get(*it).is_some_and(|it| !it.is_zero()))
        })
    };
    !counts(spec) && !all.any(counts)
}

/// Whether an affinity term of the pod looks into other namespaces.
fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| {
        !term.items_at(&["namespaces"]).is_empty() || term.get("namespaceSelector").is_some()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        members(&pod["spec"]["affinity"][kind]).any(|(_, terms)| {
            let terms = terms.as_array().unwrap_or_default();
            terms.iter().any(|it| crosses(it) || crosses(&it["podAffinityTerm"]))
        })
    })
}

/// The members of an object, or none.
fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flat_map(Object::iter)
}
