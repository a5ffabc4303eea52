//! Requests, limits and quality of service: pure sums over a pod's specification.

use std::collections::BTreeMap;

use apimachinery::quantity::{Format, Quantity as Amount};
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::spec;

/// Amounts by resource: `cpu` in thousandths, everything else in whole units.
pub(crate) type Amounts = BTreeMap<String, i64>;

/// The least weight and the period that the kernel's scheduler takes.
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const QUOTA_PERIOD_MICROS: i64 = 100_000;
const MIN_QUOTA_MICROS: i64 = 1_000;

/// How much a pod is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QosClass {
    /// Limits and equal requests of processor and memory everywhere.
    Guaranteed,
    /// Something somewhere.
    Burstable,
    /// Nothing.
    BestEffort,
}

impl QosClass {
    /// The name in a status.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// A quantity in thousandths for processors and whole units for the rest; one that cannot be read counts as none.
pub(crate) fn amount(resource: &str, quantity: &Quantity) -> i64 {
    match Amount::parse(&quantity.0) {
        Ok(it) if resource == "cpu" => it.milli_value(),
        Ok(it) => it.value(),
        Err(_) => 0,
    }
}

/// The text of an amount as upstream prints it.
pub(crate) fn quantity(resource: &str, amount: i64) -> Quantity {
    let it = match resource {
        "cpu" => Amount::from_milli(amount, Format::DecimalSI),
        "memory" | "ephemeral-storage" => Amount::new(amount, Format::BinarySI),
        other if other.starts_with("hugepages-") => Amount::new(amount, Format::BinarySI),
        _ => Amount::new(amount, Format::DecimalSI),
    };
    Quantity(it.to_text().to_string())
}

pub(crate) fn limits(container: &Container) -> BTreeMap<String, Quantity> {
    container.resources.as_ref().and_then(|it| it.limits.clone()).unwrap_or_default()
}

/// Requests, with limits standing in for those that are missing.
pub(crate) fn requests(container: &Container) -> BTreeMap<String, Quantity> {
    let mut all = limits(container);
    all.extend(container.resources.iter().flat_map(|it| it.requests.iter().flatten()).map(own));
    all
}

fn own((name, quantity): (&String, &Quantity)) -> (String, Quantity) {
    (name.clone(), quantity.clone())
}

fn amounts(of: &BTreeMap<String, Quantity>) -> Amounts {
    of.iter().map(|(name, it)| (name.clone(), amount(name, it))).collect()
}

fn add(into: &mut Amounts, more: &Amounts) {
    for (name, it) in more {
        *into.entry(name.clone()).or_default() += it;
    }
}

fn raise(into: &mut Amounts, to: &Amounts) {
    for (name, it) in to {
        let have = into.entry(name.clone()).or_default();
        *have = (*have).max(*it);
    }
}

/// The sum over a pod: main containers and sidecars together, or the largest moment of its start.
fn pod_sum(pod: &Pod, of: fn(&Container) -> BTreeMap<String, Quantity>) -> Amounts {
    let mut sum = Amounts::new();
    for container in spec::main_containers(pod) {
        add(&mut sum, &amounts(&of(container)));
    }
    let (mut sidecars, mut start) = (Amounts::new(), Amounts::new());
    for container in spec::init_containers(pod) {
        let own = amounts(&of(container));
        if spec::is_sidecar(container) {
            add(&mut sidecars, &own);
            raise(&mut start, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &own);
            raise(&mut start, &moment);
        }
    }
    add(&mut sum, &sidecars);
    raise(&mut sum, &start);
    sum
}

fn pod_level(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::ResourceRequirements> {
    spec::spec(pod).resources.as_ref()
}

/// What the scheduler counts for a pod: requests with those of the pod as a whole, and its overhead.
pub(crate) fn pod_requests(pod: &Pod) -> Amounts {
    let mut sum = pod_sum(pod, requests);
    let own = pod_level(pod).and_then(|it| it.requests.as_ref());
    sum.extend(own.map(amounts).unwrap_or_default());
    add(&mut sum, &spec::spec(pod).overhead.as_ref().map(amounts).unwrap_or_default());
    sum
}

/// What a pod may use at most; a resource that some container may use without limit is not in it.
pub(crate) fn pod_limits(pod: &Pod) -> Amounts {
    let mut sum = pod_sum(pod, limits);
    let unlimited = |name: &str| {
        let sidecars = spec::init_containers(pod).iter().filter(|it| spec::is_sidecar(it));
        spec::main_containers(pod).iter().chain(sidecars).any(|it| !limits(it).contains_key(name))
    };
    sum.retain(|name, _| !unlimited(name));
    let own = pod_level(pod).and_then(|it| it.limits.as_ref());
    sum.extend(own.map(amounts).unwrap_or_default());
    let overhead = spec::spec(pod).overhead.as_ref().map(amounts).unwrap_or_default();
    for (name, it) in overhead {
        if let Some(have) = sum.get_mut(&name) {
            *have += it;
        }
    }
    sum
}

/// Amounts as a status shows them.
pub(crate) fn to_quantities(amounts: &Amounts) -> BTreeMap<String, Quantity> {
    amounts.iter().map(|(name, it)| (name.clone(), quantity(name, *it))).collect()
}

/// The class of a pod.
#[must_use]
pub(crate) fn qos_class(pod: &Pod) -> QosClass {
    if let Some(own) = pod_level(pod) {
        let has =
            |map: &Option<BTreeMap<String, Quantity>>| amounts(&map.clone().unwrap_or_default());
        return class_of(&[(has(&own.requests), has(&own.limits))]);
    }
    let containers = spec::main_containers(pod).iter().chain(spec::init_containers(pod));
    let each: Vec<_> = containers
        .map(|it| {
            let requests = it.resources.as_ref().and_then(|it| it.requests.clone());
            (amounts(&requests.unwrap_or_default()), amounts(&limits(it)))
        })
        .collect();
    class_of(&each)
}

fn class_of(each: &[(Amounts, Amounts)]) -> QosClass {
    const COUNTED: [&str; 2] = ["cpu", "memory"];
    let counted = |map: &Amounts| map.iter().any(|(k, v)| COUNTED.contains(&k.as_str()) && *v != 0);
    if !each.iter().any(|(requests, limits)| counted(requests) || counted(limits)) {
        return QosClass::BestEffort;
    }
    let guaranteed = each.iter().all(|(requests, limits)| {
        COUNTED.iter().all(|name| {
            let limit = limits.get(*name).copied().unwrap_or_default();
            limit != 0 && requests.get(*name).is_none_or(|request| *request == limit)
        })
    });
    if guaranteed { QosClass::Guaranteed } else { QosClass::Burstable }
}

/// The kernel's weight for thousandths of a processor.
pub(crate) fn cpu_shares(milli: i64) -> i64 {
    if milli == 0 { MIN_SHARES } else { (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

/// The kernel's quota for thousandths of a processor: microseconds, and the period they are of.
pub(crate) fn cpu_quota(milli: i64) -> (i64, i64) {
    if milli == 0 {
        return (0, QUOTA_PERIOD_MICROS);
    }
    ((milli * QUOTA_PERIOD_MICROS / 1000).max(MIN_QUOTA_MICROS), QUOTA_PERIOD_MICROS)
}

/// How readily the kernel kills a container when memory runs out.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    if spec::spec(pod).priority.is_some_and(|it| it >= SYSTEM_CRITICAL) {
        return -997;
    }
    match qos_class(pod) {
        QosClass::Guaranteed => return -997,
        QosClass::BestEffort => return 1000,
        QosClass::Burstable => {}
    }
    let request = |it: &Container| requests(it).get("memory").map_or(0, |q| amount("memory", q));
    let score = |bytes: i64| {
        1000 - i64::try_from(i128::from(bytes) * 1000 / i128::from(node_memory.max(1)))
            .unwrap_or(1000)
    };
    let mut adj = score(request(container));
    let is_a_sidecar = spec::is_sidecar(container)
        && spec::init_containers(pod).iter().any(|it| it.name == container.name);
    if is_a_sidecar {
        // Never killed before the least of those it serves.
        let least = spec::main_containers(pod).iter().map(request).min().unwrap_or(0);
        adj = adj.min(score(least));
    }
    if adj < 3 {
        return 3;
    }
    if adj == 1000 { 999 } else { adj }
}

/// The least priority of pods that the node itself needs.
pub(crate) const SYSTEM_CRITICAL: i32 = 2_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: &str) -> Pod {
        serde_json::from_str(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{containers}}}"#))
            .unwrap()
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        for (spec, expected) in [
            (r#"{"containers":[{"name":"c"}]}"#, QosClass::BestEffort),
            (
                r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}]}"#,
                QosClass::Burstable,
            ),
            (
                r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"1","memory":"1Gi"}}}]}"#,
                QosClass::Guaranteed,
            ),
            (
                r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1"}}}]}"#,
                QosClass::Guaranteed,
            ),
            (
                r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"1","memory":"1Gi"}}},{"name":"d"}]}"#,
                QosClass::Burstable,
            ),
            (
                r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"2","memory":"1Gi"},"requests":{"cpu":"1"}}}]}"#,
                QosClass::Burstable,
            ),
        ] {
            assert_eq!(qos_class(&pod(spec)), expected, "{spec}");
        }
    }

    #[test]
    fn the_kernel_gets_weights_and_quotas() {
        assert_eq!([0, 1, 100, 1000, 300_000].map(cpu_shares), [2, 2, 102, 1024, 262_144]);
        assert_eq!(cpu_quota(100), (10_000, 100_000));
        assert_eq!(cpu_quota(5), (1_000, 100_000));
        assert_eq!(cpu_quota(0).0, 0);
    }

    #[test]
    fn memory_requests_protect_from_the_oom_killer() {
        let of = |spec: &str| {
            let pod = pod(spec);
            oom_score_adj(&pod, &spec::main_containers(&pod)[0], 25_000_000_000)
        };
        assert_eq!(of(r#"{"containers":[{"name":"c"}]}"#), 1000);
        let small = r#"{"containers":[{"name":"c","resources":{"requests":{"memory":"32Mi"}}}]}"#;
        assert_eq!(of(small), 999);
        let all = r#"{"containers":[{"name":"c","resources":{"requests":{"memory":"25G"}}}]}"#;
        assert_eq!(of(all), 3);
    }

    #[test]
    fn a_pod_asks_for_its_largest_moment() {
        let pod = pod(r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"100m"}}}],
            "initContainers":[{"name":"s","restartPolicy":"Always","resources":{"requests":{"cpu":"50m"}}},
            {"name":"i","resources":{"requests":{"cpu":"1"}}}]}"#);
        assert_eq!(pod_requests(&pod)["cpu"], 1050);
    }
}
