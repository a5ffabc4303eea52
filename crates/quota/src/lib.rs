//! How much of what an object uses, and which quotas it counts for. Upstream: `pkg/quota/v1/evaluator`.
//!
//! Admission charges with it, the quota controller counts with it: the two must agree. It knows objects as values only.

mod amounts;

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::quantity::{Format, Quantity};
use apimachinery::{Object, Value, time};
use jiff::{SignedDuration, Timestamp};

pub use amounts::{Amounts, add, amounts, of_pod, quantity};

/// The annotation that names a claim's class in the old way.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Resources of the core group that quotas count under their bare name too.
pub const BARE: [&str; 7] = [
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
        ("resource.k8s.io", "resourceclaims") => add_devices(object, &mut used),
        _ => {}
    }
    used
}

/// What a pod uses no more once its time to end is over: a node that is lost keeps nobody from having new pods.
///
/// Upstream: `QuotaV1Pod`.
#[must_use]
pub fn given_up(pod: &Value) -> Option<(Timestamp, Amounts)> {
    let metadata = &pod["metadata"];
    let grace = metadata.i64_at(&["deletionGracePeriodSeconds"])?;
    let end = time::parse_time(metadata.str_at(&["deletionTimestamp"])).ok()?;
    let end = end.saturating_add(SignedDuration::from_secs(grace)).ok()?;
    let mut used = used_by("", "pods", pod);
    // It is an object still.
    used.remove("count/pods");
    Some((end, used))
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
    let asked = quantity(&claim["spec"]["resources"]["requests"]["storage"]);
    let allocated = quantity(&claim["status"]["allocatedResources"]["storage"]);
    // A claim that grows, or shrinks back, counts by the larger of both. Bytes are whole.
    let storage = asked.map(|asked| allocated.filter(|it| *it > asked).unwrap_or(asked));
    if let Some(storage) = storage.map(|it| Quantity::new(it.value(), it.format())) {
        used.insert("requests.storage".into(), storage);
        if !class.is_empty() {
            used.insert(of_class("requests.storage"), storage);
        }
    }
}

/// How many devices `allocationMode: All` may mean (upstream: `AllocationResultsMaxSize`).
const MOST_DEVICES: i64 = 32;

/// The devices that a claim asks for, by class; of alternatives the most of each class.
fn add_devices(claim: &Value, used: &mut Amounts) {
    let count = |request: &Value| match request.str_at(&["allocationMode"]) {
        "All" => MOST_DEVICES,
        _ => request.i64_at(&["count"]).unwrap_or(1),
    };
    for request in claim.items_at(&["spec", "devices", "requests"]) {
        let alternatives = request.items_at(&["firstAvailable"]);
        let exactly = request.get("exactly");
        let wanted = if alternatives.is_empty() { exactly.into_iter() } else { None.into_iter() };
        let mut most: BTreeMap<&str, i64> = BTreeMap::new();
        for one in wanted.chain(alternatives) {
            let of_class = most.entry(one.str_at(&["deviceClassName"])).or_default();
            *of_class = count(one).max(*of_class);
        }
        for (class, devices) in most {
            let name = format!("{class}.deviceclass.resource.k8s.io/devices");
            let devices = Quantity::new(devices, Format::DecimalSI);
            match used.get_mut(&name) {
                Some(sum) => *sum += devices,
                None => drop(used.insert(name, devices)),
            }
        }
    }
}

/// Which scopes an object can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Those of pods.
    Pod,
    /// Those of claims of volumes.
    Claim,
    /// None: it does not count for a quota that has some.
    Other,
}

impl Kind {
    /// That of a resource.
    #[must_use]
    pub fn of(group: &str, resource: &str) -> Self {
        match (group, resource) {
            ("", "pods") => Self::Pod,
            ("", "persistentvolumeclaims") => Self::Claim,
            _ => Self::Other,
        }
    }
}

/// Whether an object counts for a quota.
#[must_use]
pub fn in_scope(kind: Kind, object: &Value, quota: &Value) -> bool {
    let scopes = quota.items_at(&["spec", "scopes"]);
    let selectors = quota.items_at(&["spec", "scopeSelector", "matchExpressions"]);
    if scopes.is_empty() && selectors.is_empty() {
        return true;
    }
    scopes.iter().filter_map(Value::as_str).all(|scope| has(kind, object, scope))
        && selectors.iter().all(|it| selects(kind, object, it))
}

fn has(kind: Kind, object: &Value, scope: &str) -> bool {
    match kind {
        Kind::Pod => has_scope(object, scope),
        Kind::Claim => scope == ATTRIBUTES_CLASS && !classes(object).is_empty(),
        Kind::Other => false,
    }
}

/// The one scope of claims.
const ATTRIBUTES_CLASS: &str = "VolumeAttributesClass";

/// The attributes classes that a claim has, wants or is getting.
fn classes(claim: &Value) -> BTreeSet<&str> {
    let names: [&[&str]; 3] = [
        &["spec", "volumeAttributesClassName"],
        &["status", "currentVolumeAttributesClassName"],
        &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
    ];
    names.into_iter().map(|it| claim.str_at(it)).filter(|it| !it.is_empty()).collect()
}

/// What of an object scopes look at, and may change.
#[must_use]
pub fn scopes(kind: Kind, object: &Value) -> Vec<&Value> {
    let members: &[&[&str]] = match kind {
        Kind::Pod => &[&["spec", "activeDeadlineSeconds"], &["spec", "priorityClassName"]],
        Kind::Claim => &[
            &["spec", "volumeAttributesClassName"],
            &["status", "currentVolumeAttributesClassName"],
            &["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"],
        ],
        Kind::Other => &[],
    };
    members.iter().map(|it| object.at(it).unwrap_or(&Value::Null)).collect()
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

/// Whether an object has what a selector of scopes asks for.
#[must_use]
pub fn selects(kind: Kind, object: &Value, selector: &Value) -> bool {
    let scope = selector.str_at(&["scopeName"]);
    let values = selector.items_at(&["values"]);
    let named = |class: &str| values.iter().filter_map(Value::as_str).any(|it| it == class);
    let operator = selector.str_at(&["operator"]);
    match kind {
        Kind::Pod => selects_pod(object, (operator, scope), named),
        Kind::Claim if scope == ATTRIBUTES_CLASS => {
            let classes = classes(object);
            match operator {
                "Exists" => !classes.is_empty(),
                "DoesNotExist" => classes.is_empty(),
                "In" => classes.into_iter().any(named),
                "NotIn" => classes.is_empty() || classes.into_iter().any(|it| !named(it)),
                _ => false,
            }
        }
        Kind::Claim | Kind::Other => false,
    }
}

fn selects_pod(pod: &Value, (operator, scope): (&str, &str), named: impl Fn(&str) -> bool) -> bool {
    let class = pod.str_at(&["spec", "priorityClassName"]);
    let named = named(class);
    match (operator, scope) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Value {
        apimachinery::json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn claims_count_by_devices_and_by_what_they_have_got() {
        let check = |group: &str, resource: &str, object: &str, name: &str, expected: &str| {
            let used = used_by(group, resource, &parse(object));
            let amount = used.get(name).map(|it| it.to_text().to_string()).unwrap_or_default();
            assert_eq!(amount, expected, "{name} of {object}");
        };
        let claim = r#"{"spec":{"devices":{"requests":[
            {"exactly":{"deviceClassName":"gold","count":3}}, {"exactly":{"deviceClassName":"gold","allocationMode":"All"}},
            {"firstAvailable":[{"deviceClassName":"gold","count":2},{"deviceClassName":"tin","count":5},{"deviceClassName":"gold","count":1}]}]}}}"#;
        let (group, resource) = ("resource.k8s.io", "resourceclaims");
        for (name, expected) in [
            ("gold.deviceclass.resource.k8s.io/devices", "37"),
            ("tin.deviceclass.resource.k8s.io/devices", "5"),
            ("count/resourceclaims.resource.k8s.io", "1"),
        ] {
            check(group, resource, claim, name, expected);
        }
        let volume = |asked: &str, got: &str| {
            format!(
                r#"{{"spec":{{"resources":{{"requests":{{"storage":"{asked}"}}}}}},"status":{{"allocatedResources":{{"storage":"{got}"}}}}}}"#
            )
        };
        for (asked, got, expected) in
            [("1Gi", "4Gi", "4Gi"), ("4Gi", "1Gi", "4Gi"), ("1500m", "0", "2")]
        {
            check("", "persistentvolumeclaims", &volume(asked, got), "requests.storage", expected);
        }
    }

    #[test]
    fn claims_have_the_scope_of_their_attributes_class() {
        let claim = r#"{"spec":{"volumeAttributesClassName":"silver"},"status":{"currentVolumeAttributesClassName":"tin"}}"#;
        let selector = |operator: &str, values: &str| {
            parse(&format!(
                r#"{{"spec":{{"scopeSelector":{{"matchExpressions":[
                {{"scopeName":"VolumeAttributesClass","operator":"{operator}","values":[{values}]}}]}}}}}}"#
            ))
        };
        for (object, operator, values, expected) in [
            (claim, "In", r#""silver""#, true),
            (claim, "In", r#""tin""#, true),
            (claim, "In", r#""gold""#, false),
            (claim, "NotIn", r#""silver""#, true),
            (claim, "Exists", "", true),
            ("{}", "Exists", "", false),
            ("{}", "DoesNotExist", "", true),
            ("{}", "NotIn", r#""silver""#, true),
        ] {
            let counts = in_scope(Kind::Claim, &parse(object), &selector(operator, values));
            assert_eq!(counts, expected, "{operator} {values} {object}");
        }
        assert!(!in_scope(Kind::Other, &parse(claim), &selector("Exists", "")));
        assert!(!in_scope(
            Kind::Claim,
            &parse(claim),
            &parse(r#"{"spec":{"scopes":["BestEffort"]}}"#)
        ));
    }

    #[test]
    fn a_pod_whose_end_is_overdue_keeps_its_place_among_objects_alone() {
        let pod = r#"{"metadata":{"deletionTimestamp":"2026-01-01T00:00:00Z","deletionGracePeriodSeconds":30}}"#;
        let (end, used) = given_up(&parse(pod)).unwrap();
        assert_eq!(end.to_string(), "2026-01-01T00:00:30Z");
        assert_eq!(used.keys().map(String::as_str).collect::<Vec<_>>(), ["pods"]);
        assert!(given_up(&parse("{}")).is_none());
    }
}
