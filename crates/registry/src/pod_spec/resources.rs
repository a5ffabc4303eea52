//! What the containers of a pod ask for together, and the pod's quality of service.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use apimachinery::{Object, Value};
use compact_str::CompactString;

/// Amounts by the name of their resource.
pub(crate) type Amounts = BTreeMap<CompactString, Quantity>;

/// Whether a resource may be asked for by a pod as a whole.
pub(crate) fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// What a list of resources holds.
pub(crate) fn amounts(list: Option<&Value>) -> Amounts {
    list.and_then(Value::as_object)
        .into_iter()
        .flat_map(Object::iter)
        .filter_map(|(name, amount)| Some((name.into(), Quantity::parse(amount.as_str()?).ok()?)))
        .collect()
}

fn add(into: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *into.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let held = into.entry(name.clone()).or_insert(*amount);
        *held = (*held).max(*amount);
    }
}

/// What the containers of a pod need at once: all that run side by side, or the neediest while they start.
pub(crate) fn aggregate_requests(spec: &Value) -> Amounts {
    let requests = |container: &Value| amounts(container.at(&["resources", "requests"]));
    let mut running = Amounts::new();
    for container in spec.items_at(&["containers"]) {
        add(&mut running, &requests(container));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in spec.items_at(&["initContainers"]) {
        let mut needs = requests(container);
        if container.str_at(&["restartPolicy"]) == "Always" {
            add(&mut running, &needs);
            add(&mut sidecars, &needs);
            needs.clone_from(&sidecars);
        } else {
            add(&mut needs, &sidecars);
        }
        raise(&mut starting, &needs);
    }
    raise(&mut running, &starting);
    running
}

/// The class of a pod: how likely it is to be stopped where resources run short.
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let of_pod = spec.get("resources");
    if of_pod.is_some_and(|it| it.get("limits").is_some() || it.get("requests").is_some()) {
        return class(of_pod.into_iter().map(Some));
    }
    let lists = ["containers", "initContainers"];
    let all = lists.iter().flat_map(|list| spec.items_at(&[list]));
    class(all.map(|container| container.get("resources")))
}

fn class<'v>(all: impl Iterator<Item = Option<&'v Value>>) -> &'static str {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut limited = true;
    for resources in all {
        let of = |member| {
            let mut it = amounts(resources.and_then(|it| it.get(member)));
            it.retain(|name, amount| {
                matches!(name.as_str(), "cpu" | "memory") && amount.sign() > 0
            });
            it
        };
        add(&mut requests, &of("requests"));
        let bounds = of("limits");
        limited &= bounds.contains_key("cpu") && bounds.contains_key("memory");
        add(&mut limits, &bounds);
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    fn container(requests: &str, limits: &str) -> Value {
        let list = |cpu: &str| {
            if cpu.is_empty() { Value::Null } else { value!({"cpu": cpu, "memory": "1Gi"}) }
        };
        value!({"resources": {"requests": (list(requests)), "limits": (list(limits))}})
    }

    #[test]
    fn classes_are_those_of_upstream() {
        let check = |containers: Vec<Value>, expected: &str| {
            let spec = value!({"containers": (Value::Array(containers))});
            assert_eq!(qos_class(&spec), expected, "for {spec:?}");
        };
        check(vec![value!({})], "BestEffort");
        check(vec![container("1", "1")], "Guaranteed");
        check(vec![container("1", "1"), value!({})], "Burstable");
        check(vec![container("1", "2")], "Burstable");
        check(vec![container("1000m", "1")], "Guaranteed");
        check(vec![container("1", "")], "Burstable");
    }

    #[test]
    fn containers_that_start_one_after_another_do_not_add_up() {
        let spec = value!({
            "containers": [(container("1", ""))],
            "initContainers": [(container("3", "")), (container("2", ""))]
        });
        assert_eq!(aggregate_requests(&spec)["cpu"], Quantity::parse("3").unwrap());
    }
}
