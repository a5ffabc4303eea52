//! What to warn the writers of pods, and of templates of pods, of: things that are taken and do not do what they seem to.
//!
//! Upstream: `pkg/api/pod/warnings.go`.

use apimachinery::{Object, Value, quantity::Quantity};

use super::annotations::{APP_ARMOR, SECCOMP, SECCOMP_CONTAINER};
use super::overlaps;
use super::scheduling::{PREFERRED, REQUIRED};

/// Labels of nodes that selectors should not use any more, and what is said of them.
const OLD_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];
/// Annotations that nobody reads any more.
const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// Kinds of volumes that are gone, in upstream's order.
const OLD_VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What is said of a node's label that selectors should not use any more.
pub(crate) fn of_label(key: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(old, _)| *old == key).map(|it| it.1)
}

/// What to warn of in a pod, or in a template of pods that stands at `path`; at the root it is a pod.
pub(crate) fn of(pod: &Value, path: &str) -> Vec<String> {
    let Some(spec) = pod.get("spec") else { return Vec::new() };
    let below = |member: &str| match path {
        "" => member.to_owned(),
        path => format!("{path}.{member}"),
    };
    let (at, annotations_at) = (below("spec"), below("metadata.annotations"));
    let annotations = pod.at(&["metadata", "annotations"]).and_then(Value::as_object);
    let annotated = |key: &str| annotations.is_some_and(|it| it.contains_key(key));
    let mut found = Vec::new();
    places(spec, &at, &mut found);
    for (key, said) in OLD_ANNOTATIONS {
        if annotated(key) {
            found.push(format!("{annotations_at}[{key}]: {said}"));
        }
    }
    volumes(spec, &at, &mut found);
    overlaps::warn(spec, &mut found);
    twice(spec, &format!("{at}.hostAliases"), "hostAliases", "ip", &mut found);
    twice(spec, &format!("{at}.imagePullSecrets"), "imagePullSecrets", "name", &mut found);
    for (index, secret) in spec.items_at(&["imagePullSecrets"]).iter().enumerate() {
        if secret.str_at(&["name"]).is_empty() {
            found.push(format!("{at}.imagePullSecrets[{index}].name: invalid empty name \"\""));
        }
    }
    fractional_bytes(spec, "overhead", &at, &mut found);
    let seccomp = |of: &Value| of.at(&["securityContext", "seccompProfile"]).is_some();
    let instead = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    if annotated(SECCOMP) && !seccomp(spec) {
        found.push(format!("{annotations_at}[{SECCOMP}]: {instead}"));
    }
    let confined = |of: &Value| of.at(&["securityContext", "appArmorProfile"]).is_some();
    for (container, at) in containers(spec, &at) {
        let name = container.str_at(&["name"]);
        let key = format!("{SECCOMP_CONTAINER}{name}");
        if annotated(&key) && !seccomp(container) {
            found.push(format!("{annotations_at}[{key}]: {instead}"));
        }
        let key = format!("{APP_ARMOR}{name}");
        if !path.is_empty() && annotated(&key) && !confined(spec) && !confined(container) {
            let instead = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
            found.push(format!("{annotations_at}[{key}]: {instead}"));
        }
        if let Some(resources) = container.get("resources") {
            let at = format!("{at}.resources");
            fractional_bytes(resources, "limits", &at, &mut found);
            fractional_bytes(resources, "requests", &at, &mut found);
        }
        duplicate_variables(container, &at, &mut found);
    }
    ports(spec, &at, &mut found);
    if spec.i64_at(&["terminationGracePeriodSeconds"]).is_some_and(|it| it < 0) {
        let said = "must be >= 0; negative values are invalid and will be treated as 1";
        found.push(format!("{at}.terminationGracePeriodSeconds: {said}"));
    }
    terms(spec, &at, &mut found);
    addresses(spec, &at, &mut found);
    found
}

/// The containers with their paths.
fn containers<'s>(spec: &'s Value, at: &str) -> impl Iterator<Item = (&'s Value, String)> {
    CONTAINERS.into_iter().flat_map(move |list| {
        let all = spec.items_at(&[list]).iter().enumerate();
        all.map(move |(index, it)| (it, format!("{at}.{list}[{index}]")))
    })
}

/// Old labels of nodes, and constraints that select nothing.
fn places(spec: &Value, at: &str, found: &mut Vec<String>) {
    let labels = spec.get("nodeSelector").and_then(Value::as_object);
    for (key, _) in labels.into_iter().flat_map(Object::iter) {
        if let Some(said) = of_label(key) {
            found.push(format!("{at}.nodeSelector[{key}]: {said}"));
        }
    }
    let affinity = format!("{at}.affinity.nodeAffinity");
    let terms = spec.items_at(&["affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"]);
    for (index, term) in terms.iter().enumerate() {
        of_term(term, &format!("{affinity}.{REQUIRED}.nodeSelectorTerms[{index}]"), found);
    }
    for (index, liked) in spec.items_at(&["affinity", "nodeAffinity", PREFERRED]).iter().enumerate()
    {
        let term = format!("{affinity}.{PREFERRED}[{index}].preference");
        of_term(&liked["preference"], &term, found);
    }
    for (index, constraint) in spec.items_at(&["topologySpreadConstraints"]).iter().enumerate() {
        let at = format!("{at}.topologySpreadConstraints[{index}]");
        let key = constraint.str_at(&["topologyKey"]);
        if let Some(said) = of_label(key) {
            found.push(format!("{at}.topologyKey: {key} is {said}"));
        }
        if constraint.get("labelSelector").is_none_or(Value::is_null) {
            found.push(format!("{at}.labelSelector: {NO_SELECTOR}"));
        }
    }
}

/// Old labels of nodes in a term that selects some.
pub(crate) fn of_term(term: &Value, at: &str, found: &mut Vec<String>) {
    for (index, expression) in term.items_at(&["matchExpressions"]).iter().enumerate() {
        let key = expression.str_at(&["key"]);
        if let Some(said) = of_label(key) {
            found.push(format!("{at}.matchExpressions[{index}].key: {key} is {said}"));
        }
    }
}

fn volumes(spec: &Value, at: &str, found: &mut Vec<String>) {
    for (index, volume) in spec.items_at(&["volumes"]).iter().enumerate() {
        let at = format!("{at}.volumes[{index}]");
        for (kind, said) in OLD_VOLUMES {
            // Where upstream looks at it.
            if kind == "cephfs"
                && let Some(claim) = volume.at(&["ephemeral", "volumeClaimTemplate", "spec"])
            {
                of_claim(claim, &format!("{at}.ephemeral.volumeClaimTemplate.spec"), found);
            }
            if volume.get(kind).is_some() {
                found.push(format!("{at}.{kind}: {said}"));
            }
        }
    }
}

/// What to warn of in the spec of a claim for a volume.
pub(crate) fn of_claim(spec: &Value, at: &str, found: &mut Vec<String>) {
    for kind in ["requests", "limits"] {
        if let Some(text) = fraction(spec, &["resources", kind, "storage"]) {
            found.push(format!(
                "{at}.resources.{kind}[storage]: fractional byte value \"{text}\" is invalid, must be an integer"
            ));
        }
    }
}

/// What stands twice in a list of things that have each one of a kind.
fn twice(spec: &Value, at: &str, list: &str, member: &str, found: &mut Vec<String>) {
    let all = spec.items_at(&[list]);
    for (index, item) in all.iter().enumerate() {
        let text = item.str_at(&[member]);
        if all[..index].iter().any(|it| it.str_at(&[member]) == text) {
            found.push(format!("{at}[{index}].{member}: duplicate {member} {text:?}"));
        }
    }
}

/// Addresses in forms that not everybody reads the same.
fn addresses(spec: &Value, at: &str, found: &mut Vec<String>) {
    let mut told = |address: &str, place: String| {
        let warnings = apimachinery::validation::ip_warnings(address);
        found.extend(warnings.iter().map(|it| format!("{at}.{place}: {it}")));
    };
    for (index, server) in spec.items_at(&["dnsConfig", "nameservers"]).iter().enumerate() {
        told(server.as_str().unwrap_or_default(), format!("dnsConfig.nameservers[{index}]"));
    }
    for (index, alias) in spec.items_at(&["hostAliases"]).iter().enumerate() {
        told(alias.str_at(&["ip"]), format!("hostAliases[{index}].ip"));
    }
}

/// Of two variables of one name the second hides the first, unless it is made of it.
fn duplicate_variables(container: &Value, path: &str, found: &mut Vec<String>) {
    let list = container.items_at(&["env"]);
    for (index, variable) in list.iter().enumerate() {
        let name = variable.str_at(&["name"]);
        let earlier = list[..index].iter().any(|it| it.str_at(&["name"]) == name);
        let (value, itself) = (variable.str_at(&["value"]), format!("$({name})"));
        let hides = variable.get("valueFrom").is_some() || value == itself;
        if earlier && (hides || !value.contains(&itself)) {
            found.push(format!(
                "{path}.env[{index}]: hides previous definition of \"{name}\", which may be dropped when using apply"
            ));
        }
    }
}

/// An amount that is no whole number.
fn fraction<'v>(of: &'v Value, path: &[&str]) -> Option<&'v str> {
    let text = of.at(path).and_then(Value::as_str)?;
    Quantity::parse(text).is_ok_and(|it| it.milli_value() % 1000 != 0).then_some(text)
}

/// Bytes cannot be divided.
fn fractional_bytes(of: &Value, member: &str, path: &str, found: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        if let Some(text) = fraction(of, &[member, name]) {
            found.push(format!(
                "{path}.{member}[{name}]: fractional byte value \"{text}\" is invalid, must be an integer"
            ));
        }
    }
}

/// A port as one container has it.
struct Port<'s> {
    at: String,
    number: i64,
    protocol: &'s str,
    host: (i64, &'s str),
}

/// Ports that stand in each other's way.
fn ports(spec: &Value, at: &str, found: &mut Vec<String>) {
    let mut all: Vec<Port<'_>> = Vec::new();
    for (container, at) in containers(spec, at) {
        for (index, port) in container.items_at(&["ports"]).iter().enumerate() {
            let number = |member: &str| port.i64_at(&[member]).unwrap_or_default();
            let now = Port {
                at: format!("{at}.ports[{index}]"),
                number: number("containerPort"),
                protocol: port.str_at(&["protocol"]),
                host: (number("hostPort"), port.str_at(&["hostIP"])),
            };
            if now.host.0 == 0 && !now.host.1.is_empty() {
                found.push(format!(
                    "{}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{}}}",
                    now.at, port.str_at(&["name"]), now.number, now.protocol, now.host.1
                ));
            }
            let same = |it: &&Port<'_>| (it.number, it.protocol) == (now.number, now.protocol);
            for other in all.iter().filter(same) {
                let nowhere = |it: &Port<'_>| it.host.1.is_empty();
                let how = if now.host == other.host {
                    "duplicate"
                } else if now.host.0 == 0 || other.host.0 == 0 {
                    "overlapping"
                } else if now.host.0 == other.host.0 && nowhere(&now) != nowhere(other) {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                found.push(format!("{}: {how} port definition with {}", now.at, other.at));
            }
            all.push(now);
        }
    }
}

/// Terms of affinity to pods that select none.
fn terms(spec: &Value, at: &str, found: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        for (when, within) in [(REQUIRED, ""), (PREFERRED, ".podAffinityTerm")] {
            for (index, term) in spec.items_at(&["affinity", kind, when]).iter().enumerate() {
                let inner = if within.is_empty() { term } else { &term["podAffinityTerm"] };
                if inner.get("labelSelector").is_none_or(Value::is_null) {
                    let at = format!("{at}.affinity.{kind}.{when}[{index}]{within}");
                    found.push(format!("{at}.labelSelector: {NO_SELECTOR}"));
                }
            }
        }
    }
}

/// A name of which names of hosts are made, where it is none itself; `of` says whose.
pub(crate) fn of_name(name: &str, of: &str) -> Option<String> {
    let problems = apimachinery::validation::dns1123_label(name);
    (!problems.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in {of}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            problems.join(" ")
        )
    })
}

/// What to warn of in a workload with a template of pods at `path`, where either is new. `named` is whether its pods have
/// their names of its own.
pub(crate) fn of_workload(
    workload: &Value,
    old: Option<&Value>,
    path: &[&str],
    named: bool,
) -> Vec<String> {
    let generation = |it: &Value| it.i64_at(&["metadata", "generation"]);
    if old.is_some_and(|old| generation(old) == generation(workload)) {
        return Vec::new();
    }
    let name = workload.str_at(&["metadata", "name"]);
    let mut found = Vec::new();
    if named && old.is_none() {
        found.extend(of_name(name, "Pod names and hostnames"));
    }
    if let Some(template) = workload.at(path) {
        found.extend(of(template, &path.join(".")));
    }
    found
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn what_does_not_do_what_it_seems_to_is_told() {
        let container = |more: Value| {
            let mut container = value!({"name": "c"});
            for (key, value) in more.as_object().into_iter().flat_map(Object::iter) {
                container.set_at(&[key], value.clone());
            }
            value!({"spec": {"containers": [(container)]}})
        };
        let port = |host: i64, ip: &str| value!({"containerPort": 80, "protocol": "TCP", "hostPort": host, "hostIP": ip});
        let ports = |a: Value, b: Value| container(value!({"ports": [(a), (b)]}));
        for (pod, expected) in [
            (value!({"spec": {}}), ""),
            (
                value!({"spec": {"nodeSelector": {"beta.kubernetes.io/instance-type": "x"}}}),
                "spec.nodeSelector[beta.kubernetes.io/instance-type]: deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
            ),
            (
                value!({"spec": {"imagePullSecrets": [{"name": ""}]}}),
                "spec.imagePullSecrets[0].name: invalid empty name \"\"",
            ),
            (
                value!({"spec": {"hostAliases": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}}),
                "spec.hostAliases[1].ip: duplicate ip \"10.0.0.1\"",
            ),
            (
                value!({"spec": {"terminationGracePeriodSeconds": (-1)}}),
                "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            ),
            (
                value!({"spec": {"topologySpreadConstraints": [{"topologyKey": "zone"}]}}),
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
            ),
            (
                ports(port(0, ""), port(0, "")),
                "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            ),
            (
                ports(port(0, ""), port(81, "")),
                "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]",
            ),
            (
                ports(port(81, "10.0.0.1"), port(81, "")),
                "spec.containers[0].ports[1]: dangerously ambiguous port definition with spec.containers[0].ports[0]",
            ),
            (ports(port(81, "10.0.0.1"), port(82, "")), ""),
        ] {
            assert_eq!(of(&pod, "").join("\n"), expected, "{pod:?}");
        }
    }

    #[test]
    fn templates_are_told_of_where_they_are_and_only_once() {
        let workload = |generation: i64| {
            value!({"metadata": {"name": "a.b", "generation": generation},
                "spec": {"template": {"metadata": {"annotations": {(SECCOMP): "x"}}, "spec": {}}}})
        };
        let path = ["spec", "template"];
        let template = format!(
            "spec.template.metadata.annotations[{SECCOMP}]: non-functional in v1.27+; use the \"seccompProfile\" field instead"
        );
        let found = of_workload(&workload(1), None, &path, true);
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("metadata.name: this is used in Pod names and hostnames"));
        assert_eq!(found[1], template);
        assert_eq!(of_workload(&workload(2), Some(&workload(1)), &path, true), [template]);
        assert!(of_workload(&workload(1), Some(&workload(1)), &path, true).is_empty());
    }
}
