//! Whether a node lets a pod in. Pure.

use apimachinery::{Object, Value};
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint};

use crate::pod::memory::Failure;
use crate::pressure::Short;
use crate::resources::{self, Amounts, QosClass};
use crate::spec;
use crate::static_pods;
use crate::sysctls::Allowlist;

/// The reason of a pod whose selector or affinity the node does not match.
pub(crate) const NODE_AFFINITY: &str = "NodeAffinity";

/// What of the node a pod is held against.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room {
    pub(crate) node_name: String,
    /// The node object's labels.
    pub(crate) labels: Option<Object>,
    /// The node object's taints.
    pub(crate) taints: Vec<Taint>,
    pub(crate) allocatable: Amounts,
    /// The sum of the requests of the pods that are here.
    pub(crate) used: Amounts,
    /// The ports of the node that the pods that are here have.
    pub(crate) ports: Vec<HostPort>,
    /// How many pods are here.
    pub(crate) pods: i64,
    /// What the node is short of.
    pub(crate) short: Short,
    /// Whether the kernel has AppArmor.
    pub(crate) has_apparmor: bool,
    /// The kernel parameters that pods may set.
    pub(crate) sysctls: Allowlist,
}

impl Room {
    /// Goes by this object of the node: its labels and taints.
    pub(crate) fn take_node(&mut self, node: &Value) {
        self.labels = node.at(&["metadata", "labels"]).and_then(Value::as_object).cloned();
        let taints = node.items_at(&["spec", "taints"]).iter();
        self.taints = taints
            .map(|it| Taint {
                key: it.str_at(&["key"]).to_owned(),
                value: Some(it.str_at(&["value"]).to_owned()),
                effect: it.str_at(&["effect"]).to_owned(),
                time_added: None,
            })
            .collect();
    }
}

/// A port of the node that a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort {
    ip: String,
    protocol: String,
    port: i32,
}

impl HostPort {
    /// All addresses of the node.
    const ANY: &str = "0.0.0.0";

    /// Those of a pod.
    pub(crate) fn of(pod: &Pod) -> impl Iterator<Item = Self> {
        let or = |text: &Option<String>, default: &str| {
            text.clone().filter(|it| !it.is_empty()).unwrap_or_else(|| default.to_owned())
        };
        spec::ports(pod).filter_map(move |it| {
            let port = it.host_port.filter(|it| *it > 0)?;
            Some(Self { ip: or(&it.host_ip, Self::ANY), protocol: or(&it.protocol, "TCP"), port })
        })
    }

    /// Whether both cannot be had on one node.
    fn conflicts(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip == Self::ANY || other.ip == Self::ANY)
    }
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
    runs_on_linux(pod)?;
    fits(pod, room)?;
    if !selects(pod, room) {
        return Err(lacks(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector"));
    }
    if HostPort::of(pod).any(|it| room.ports.iter().any(|taken| it.conflicts(taken))) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return Err(lacks("NodePorts", why));
    }
    let mut banning = room.taints.iter().filter(|it| it.effect == "NoExecute");
    if !static_pods::is_static(pod) && banning.any(|it| !tolerates(pod, it)) {
        return Err(lacks("TaintToleration", "node(s) had untolerated taint(s)"));
    }
    apparmor(pod, room)
}

/// The refusal by one of the scheduler's rules, which nodes hold against pods that they get without it too.
fn lacks(rule: &str, why: &str) -> Failure {
    refuse(rule, format!("Predicate {rule} failed: {why}"))
}

/// A pod may say its system: in its specification, and in a label of its own.
fn runs_on_linux(pod: &Pod) -> Result<(), Failure> {
    const LABEL: &str = "kubernetes.io/os";
    let label = pod.metadata.labels.as_ref().and_then(|it| it.get(LABEL));
    if label.is_some_and(|it| it != "linux") {
        let message =
            format!("Failed to admit pod as the `{LABEL}` label doesn't match node label");
        return Err(refuse("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    let os = spec::spec(pod).os.as_ref().map(|it| it.name.as_str());
    if os.is_some_and(|it| it != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS".to_owned();
        return Err(refuse("PodOSNotSupported", message));
    }
    Ok(())
}

/// A node that is short of something takes no more of it.
fn relieves(pod: &Pod, room: &Room) -> Result<(), Failure> {
    let critical = spec::spec(pod).priority.is_some_and(|it| it >= resources::SYSTEM_CRITICAL);
    if room.short == Short::default() || critical {
        return Ok(());
    }
    let only_memory = room.short == Short { memory: true, disk: false };
    let pressure = Taint {
        key: "node.kubernetes.io/memory-pressure".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    let asks = resources::qos_class(pod) != QosClass::BestEffort;
    if only_memory && (asks || tolerates(pod, &pressure)) {
        return Ok(());
    }
    let conditions = room.short.conditions().join(" ");
    Err(refuse("Evicted", format!("The node had condition: [{conditions}]. ")))
}

/// Whether a pod bears a taint.
fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    spec::spec(pod).tolerations.iter().flatten().any(|it| {
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        let (key, effect) = (or_empty(&it.key), or_empty(&it.effect));
        let exists = it.operator.as_deref() == Some("Exists");
        (effect.is_empty() || effect == taint.effect)
            && (key == taint.key || (key.is_empty() && exists))
            && (exists || or_empty(&it.value) == or_empty(&taint.value))
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
        check_in(&room(), &pod(spec), expected);
    }

    fn check_short(short: Short, spec: &str, expected: &str) {
        check_in(&Room { short, ..room() }, &pod(spec), expected);
    }

    fn check_in(room: &Room, pod: &Pod, expected: &str) {
        let text = admit(pod, room)
            .map_or_else(|it| format!("{}: {}", it.reason, it.message), |()| String::new());
        assert_eq!(text, expected, "{pod:?}");
    }

    fn pod(spec: &str) -> Pod {
        serde_json::from_str(&format!(r#"{{"metadata":{{}},"spec":{spec}}}"#)).unwrap()
    }

    fn room() -> Room {
        let amounts = |cpu, memory| -> Amounts {
            [("cpu", cpu), ("memory", memory), ("pods", 2)].map(|(k, v)| (k.to_owned(), v)).into()
        };
        let labels = apimachinery::value!({"zone": "a", "size": "5"});
        Room {
            node_name: "n".into(),
            labels: labels.as_object().cloned(),
            allocatable: amounts(2000, 1000),
            used: amounts(1500, 100),
            pods: 1,
            sysctls: Allowlist::new("6.0", &[]),
            ..Room::default()
        }
    }

    #[test]
    fn a_port_of_the_node_is_given_once() {
        let ports =
            |ports: &str| pod(&format!(r#"{{"containers":[{{"name":"c","ports":[{ports}]}}]}}"#));
        let taken = ports(
            r#"{"containerPort":1,"hostPort":80},{"containerPort":2,"hostPort":81,"hostIP":"10.0.0.1"}"#,
        );
        let room = Room { ports: HostPort::of(&taken).collect(), ..room() };
        let refusal = "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        for (port, expected) in [
            (r#"{"containerPort":80}"#, ""),
            (r#"{"containerPort":9,"hostPort":80}"#, refusal),
            (r#"{"containerPort":9,"hostPort":80,"hostIP":"10.0.0.1"}"#, refusal),
            (r#"{"containerPort":9,"hostPort":80,"protocol":"UDP"}"#, ""),
            (r#"{"containerPort":9,"hostPort":81,"hostIP":"10.0.0.2"}"#, ""),
            (r#"{"containerPort":9,"hostPort":81,"protocol":"TCP"}"#, refusal),
        ] {
            check_in(&room, &ports(port), expected);
        }
    }

    #[test]
    fn a_taint_that_ends_pods_keeps_those_away_that_no_scheduler_asked_about() {
        let taint = |effect: &str| Taint {
            key: "gone".into(),
            value: Some("1".into()),
            effect: effect.into(),
            ..Taint::default()
        };
        let with = |effect: &str| Room { taints: vec![taint(effect)], ..room() };
        let refusal =
            "TaintToleration: Predicate TaintToleration failed: node(s) had untolerated taint(s)";
        check_in(&with("NoSchedule"), &pod("{}"), "");
        check_in(&with("NoExecute"), &pod("{}"), refusal);
        for (toleration, expected) in [
            (r#"{"key":"gone","operator":"Exists"}"#, ""),
            (r#"{"key":"gone","value":"1","effect":"NoExecute"}"#, ""),
            (r#"{"operator":"Exists"}"#, ""),
            (r#"{"key":"gone","value":"2"}"#, refusal),
            (r#"{"key":"gone","operator":"Exists","effect":"NoSchedule"}"#, refusal),
        ] {
            let pod = pod(&format!(r#"{{"tolerations":[{toleration}]}}"#));
            check_in(&with("NoExecute"), &pod, expected);
        }
        let mut of_a_file = pod("{}");
        of_a_file.metadata.annotations =
            Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
        check_in(&with("NoExecute"), &of_a_file, "");
    }

    #[test]
    fn pods_of_other_systems_are_refused() {
        let why = "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS";
        check(r#"{"os":{"name":"windows"}}"#, why);
        check(r#"{"os":{"name":"linux"}}"#, "");
        let mut labelled = pod("{}");
        labelled.metadata.labels =
            Some([("kubernetes.io/os".to_owned(), "windows".to_owned())].into());
        let why = "PodOSSelectorNodeLabelDoesNotMatch: Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        check_in(&room(), &labelled, why);
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
