//! How much of what an object uses, and which quotas it counts for.

use apimachinery::Value;
use apimachinery::quantity::{Format, Quantity};

use super::members;
use crate::pod_resources::{Amounts, amounts, of_pod, quantity};
use crate::{Attributes, Operation};

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
/// Amounts that, where a quota bounds them, every container must say.
const REQUIRED: [&str; 8] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
    "requests.ephemeral-storage",
    "limits.ephemeral-storage",
];

/// What a write would use.
pub(super) struct Usage<'u> {
    pod: bool,
    object: &'u Value,
    old: Option<&'u Value>,
    now: Amounts,
    before: Amounts,
}

/// Whether an update can change what an object uses.
pub(super) fn changes_by_update(attributes: &Attributes<'_>) -> bool {
    attributes.group.is_empty()
        && matches!(attributes.resource, "pods" | "services" | "persistentvolumeclaims")
}

impl<'u> Usage<'u> {
    pub(super) fn of(attributes: &'u Attributes<'_>) -> Self {
        let (group, resource) = (attributes.group, attributes.resource);
        let object = &*attributes.object;
        let old = attributes.old.filter(|_| attributes.operation == Operation::Update);
        Self {
            pod: group.is_empty() && resource == "pods",
            object,
            old,
            now: used_by(group, resource, object),
            before: old.map(|old| used_by(group, resource, old)).unwrap_or_default(),
        }
    }

    /// Whether the object counts for a quota.
    pub(super) fn in_scope(&self, quota: &Value) -> bool {
        in_scope(self.pod, self.object, quota)
    }

    /// What the write adds to what a quota counts; less than nothing where an update gives back.
    pub(super) fn change(&self, quota: &Value) -> Amounts {
        let mut change = self.now.clone();
        let counted = self.old.is_some_and(|old| in_scope(self.pod, old, quota));
        if counted {
            for (resource, amount) in &self.before {
                match change.get_mut(resource) {
                    Some(sum) => *sum -= *amount,
                    None => {
                        change.insert(resource.clone(), -*amount);
                    }
                }
            }
        }
        change
    }

    /// What containers must say because the quota bounds it, and do not: `limits.cpu for: a,b; memory for: a`.
    pub(super) fn lacking(&self, hard: &Amounts) -> Option<String> {
        if !self.pod || self.old.is_some() {
            return None;
        }
        let spec = &self.object["spec"];
        let containers =
            || spec.items_at(&["containers"]).iter().chain(spec.items_at(&["initContainers"]));
        let lacking = REQUIRED.iter().filter(|it| hard.contains_key(**it)).filter_map(|required| {
            let (member, resource) = match required.split_once('.') {
                Some((member, resource)) => (member, resource),
                None => ("requests", *required),
            };
            let says = |of: &Value| of.at(&["resources", member, resource]).is_some();
            if says(spec) {
                return None;
            }
            let mut names: Vec<&str> =
                containers().filter(|it| !says(it)).map(|it| it.str_at(&["name"])).collect();
            names.sort_unstable();
            names.dedup();
            (!names.is_empty()).then(|| format!("{required} for: {}", names.join(",")))
        });
        let mut lacking: Vec<String> = lacking.collect();
        lacking.sort_unstable();
        (!lacking.is_empty()).then(|| lacking.join("; "))
    }
}

fn one() -> Quantity {
    Quantity::new(1, Format::DecimalSI)
}

fn used_by(group: &str, resource: &str, object: &Value) -> Amounts {
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

fn in_scope(pod: bool, object: &Value, quota: &Value) -> bool {
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

fn selects(pod: &Value, selector: &Value) -> bool {
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

fn is_best_effort(pod: &Value) -> bool {
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
