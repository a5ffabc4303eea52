//! Whether a node lets a pod in. Pure.

use apimachinery::{Object, Value};
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod};

use crate::pod::memory::Failure;
use crate::pressure::Short;
use crate::resources::{self, Amounts, QosClass};
use crate::spec;
use crate::sysctls::Allowlist;

/// The reason of a pod whose selector or affinity the node does not match.
pub(crate) const NODE_AFFINITY: &str = "NodeAffinity";

/// What of the node a pod is held against.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room {
    pub(crate) node_name: String,
    /// The node object's labels.
    pub(crate) labels: Option<Object>,
    pub(crate) allocatable: Amounts,
    /// The sum of the requests of the pods that are here.
    pub(crate) used: Amounts,
    /// How many pods are here.
    pub(crate) pods: i64,
    /// What the node is short of.
    pub(crate) short: Short,
    /// Whether the kernel has AppArmor.
    pub(crate) has_apparmor: bool,
    /// The kernel parameters that pods may set.
    pub(crate) sysctls: Allowlist,
}

fn refuse(reason: &str, message: String) -> Failure {
    Failure {
        reason: reason.into(),
        message,
        grace_period_seconds: None,
        rejected: true,
        disrupted: false,
    }
}

/// Lets a pod in, or says why not, as upstream's node agent does.
///
/// # Errors
/// The reason and message of the pod's failure.
pub(crate) fn admit(pod: &Pod, room: &Room) -> Result<(), Failure> {
    relieves(pod, room)?;
    room.sysctls.admit(pod).map_err(|it| refuse("SysctlForbidden", it))?;
    fits(pod, room)?;
    if !selects(pod, room) {
        let why = "node(s) didn't match Pod's node affinity/selector";
        return Err(refuse(NODE_AFFINITY, format!("Predicate NodeAffinity failed: {why}")));
    }
    let os = spec::spec(pod).os.as_ref().map(|it| it.name.as_str());
    if os.is_some_and(|it| it != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
        return Err(refuse("PodOSNotSupported", message));
    }
    apparmor(pod, room)
}

/// A node that is short of something takes no more of it.
fn relieves(pod: &Pod, room: &Room) -> Result<(), Failure> {
    let critical = spec::spec(pod).priority.is_some_and(|it| it >= resources::SYSTEM_CRITICAL);
    if room.short == Short::default() || critical {
        return Ok(());
    }
    let only_memory = room.short == Short { memory: true, disk: false };
    let asks = resources::qos_class(pod) != QosClass::BestEffort;
    if only_memory && (asks || tolerates(pod, "node.kubernetes.io/memory-pressure")) {
        return Ok(());
    }
    let conditions = room.short.conditions().join(" ");
    Err(refuse("Evicted", format!("The node had condition: [{conditions}]. ")))
}

/// Whether a pod bears a taint without a value that keeps pods away.
fn tolerates(pod: &Pod, taint: &str) -> bool {
    spec::spec(pod).tolerations.iter().flatten().any(|it| {
        let by_key = it.key.as_deref().unwrap_or_default();
        let exists = it.operator.as_deref() == Some("Exists");
        let of_taint =
            by_key == taint && (exists || it.value.as_deref().unwrap_or_default().is_empty());
        let of_all = by_key.is_empty() && exists;
        (of_taint || of_all)
            && it.effect.as_deref().is_none_or(|it| it.is_empty() || it == "NoSchedule")
    })
}

/// Nothing here puts profiles in force: pods that ask for one are refused, as upstream does without AppArmor.
fn apparmor(pod: &Pod, room: &Room) -> Result<(), Failure> {
    let of_pod =
        spec::spec(pod).security_context.as_ref().and_then(|it| it.app_armor_profile.as_ref());
    let containers = spec::all_containers(pod);
    let of_containers = containers
        .iter()
        .filter_map(|(_, it)| it.security_context.as_ref()?.app_armor_profile.as_ref());
    if of_pod.into_iter().chain(of_containers).all(|it| it.type_ == "Unconfined") {
        return Ok(());
    }
    let why = if room.has_apparmor {
        "AppArmor profiles are not supported by this node"
    } else {
        "AppArmor is not enabled on the host"
    };
    Err(refuse("AppArmor", format!("Cannot enforce AppArmor: {why}")))
}

fn fits(pod: &Pod, room: &Room) -> Result<(), Failure> {
    let short = |name: &str, requested: i64, used: i64, capacity: i64| {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
        );
        refuse(&format!("OutOf{name}"), message)
    };
    let of = |map: &Amounts, name: &str| map.get(name).copied().unwrap_or_default();
    let most = of(&room.allocatable, "pods");
    if room.pods + 1 > most {
        return Err(short("pods", 1, room.pods, most));
    }
    for (name, requested) in resources::pod_requests(pod) {
        let (used, capacity) = (of(&room.used, &name), of(&room.allocatable, &name));
        // Extended resources that the node does not have are no reason for it: nobody manages them here.
        let known = room.allocatable.contains_key(&name);
        if requested > 0 && known && used + requested > capacity {
            return Err(short(&name, requested, used, capacity));
        }
    }
    Ok(())
}

fn selects(pod: &Pod, room: &Room) -> bool {
    let label = |key: &str| room.labels.as_ref().and_then(|it| it.get(key)).and_then(Value::as_str);
    let selector = spec::spec(pod).node_selector.iter().flatten();
    let by_label = selector.into_iter().all(|(key, value)| label(key) == Some(value));
    let affinity = spec::spec(pod).affinity.as_ref().and_then(|it| it.node_affinity.as_ref());
    let required =
        affinity.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref());
    by_label
        && required
            .is_none_or(|it| it.node_selector_terms.iter().any(|term| matches(term, room, &label)))
}

fn matches<'r>(
    term: &NodeSelectorTerm,
    room: &'r Room,
    label: &dyn Fn(&str) -> Option<&'r str>,
) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let field = |key: &str| (key == "metadata.name").then_some(room.node_name.as_str());
    // A term without requirements selects nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|it| holds(it, label(&it.key)))
        && fields.iter().all(|it| holds(it, field(&it.key)))
}

fn holds(requirement: &NodeSelectorRequirement, label: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = label.is_some_and(|it| values.iter().any(|value| value == it));
    let compared = || {
        let number = label?.parse::<i64>().ok()?;
        let bound = values.first()?.parse::<i64>().ok()?;
        Some(number.cmp(&bound))
    };
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        "Gt" => compared() == Some(std::cmp::Ordering::Greater),
        "Lt" => compared() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: &str, expected: &str) {
        check_short(Short::default(), spec, expected);
    }

    fn check_short(short: Short, spec: &str, expected: &str) {
        let pod: Pod =
            serde_json::from_str(&format!(r#"{{"metadata":{{}},"spec":{spec}}}"#)).unwrap();
        let amounts = |cpu, memory| -> Amounts {
            [("cpu", cpu), ("memory", memory), ("pods", 2)].map(|(k, v)| (k.to_owned(), v)).into()
        };
        let labels = apimachinery::value!({"zone": "a", "size": "5"});
        let room = Room {
            node_name: "n".into(),
            labels: labels.as_object().cloned(),
            allocatable: amounts(2000, 1000),
            used: amounts(1500, 100),
            pods: 1,
            short,
            has_apparmor: false,
            sysctls: Allowlist::new("6.0", &[]),
        };
        let text = admit(&pod, &room)
            .map_or_else(|it| format!("{}: {}", it.reason, it.message), |()| String::new());
        assert_eq!(text, expected, "{spec}");
    }

    #[test]
    fn a_node_that_is_short_of_something_takes_no_more_of_it() {
        let memory = Short { memory: true, disk: false };
        let burstable = r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"1m"}}}]}"#;
        check_short(memory, burstable, "");
        check_short(memory, "{}", "Evicted: The node had condition: [MemoryPressure]. ");
        let tolerant =
            r#"{"tolerations":[{"key":"node.kubernetes.io/memory-pressure","operator":"Exists"}]}"#;
        check_short(memory, tolerant, "");
        let both = Short { memory: true, disk: true };
        check_short(
            both,
            burstable,
            "Evicted: The node had condition: [MemoryPressure DiskPressure]. ",
        );
        check_short(both, r#"{"priority":2000000000}"#, "");
    }

    #[test]
    fn profiles_that_nobody_puts_in_force_are_refused() {
        let refusal = "AppArmor: Cannot enforce AppArmor: AppArmor is not enabled on the host";
        let of_pod = |kind: &str| {
            format!(r#"{{"securityContext":{{"appArmorProfile":{{"type":"{kind}"}}}}}}"#)
        };
        check(&of_pod("RuntimeDefault"), refusal);
        check(&of_pod("Unconfined"), "");
        check(
            r#"{"containers":[{"name":"c","securityContext":{"appArmorProfile":{"type":"Localhost","localhostProfile":"x"}}}]}"#,
            refusal,
        );
    }

    #[test]
    fn pods_that_do_not_fit_are_refused_with_upstreams_reasons() {
        check("{}", "");
        check(
            r#"{"securityContext":{"sysctls":[{"name":"kernel.msgmax","value":"1"}]}}"#,
            "SysctlForbidden: forbidden sysctl: \"kernel.msgmax\" not allowlisted",
        );
        check(r#"{"nodeSelector":{"zone":"a"}}"#, "");
        check(
            r#"{"nodeSelector":{"a":"b"}}"#,
            "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        );
        check(
            r#"{"containers":[{"name":"c","resources":{"requests":{"memory":"2000"}}}]}"#,
            "OutOfmemory: Node didn't have enough resource: memory, requested: 2000, used: 100, capacity: 1000",
        );
        check(
            r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}]}"#,
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000",
        );
        let affinity = |requirement: &str| {
            format!(
                r#"{{"affinity":{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{{"matchExpressions":[{requirement}]}}]}}}}}}}}"#
            )
        };
        check(&affinity(r#"{"key":"size","operator":"Gt","values":["4"]}"#), "");
        check(
            &affinity(r#"{"key":"zone","operator":"NotIn","values":["a"]}"#),
            "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        );
    }
}
