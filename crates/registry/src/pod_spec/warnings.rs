//! What to warn the writers of pods of: things that are taken and do not do what they seem to.

use apimachinery::{Object, Value};

/// Labels of nodes that selectors should not use any more, and what took their place.
const OLD_LABELS: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// What to warn of in a pod's spec that stands at `path`.
pub(crate) fn of(spec: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let labels = spec.get("nodeSelector").and_then(Value::as_object);
    for (key, _) in labels.into_iter().flat_map(Object::iter) {
        if let Some((_, new)) = OLD_LABELS.iter().find(|(old, _)| *old == key) {
            let at = format!("{path}.nodeSelector[{key}]");
            found.push(format!("{at}: deprecated since v1.14; use \"{new}\" instead"));
        }
    }
    for (index, alias) in spec.items_at(&["hostAliases"]).iter().enumerate() {
        let ip = alias.str_at(&["ip"]);
        let warnings = apimachinery::validation::ip_warnings(ip);
        found.extend(warnings.iter().map(|it| format!("{path}.hostAliases[{index}].ip: {it}")));
    }
    for (index, volume) in spec.items_at(&["volumes"]).iter().enumerate() {
        let at = format!("{path}.volumes[{index}]");
        if volume.get("gitRepo").is_some() {
            found.push(format!(
                "{at}.gitRepo: deprecated in v1.11, and disabled by default in v1.33+"
            ));
        }
        if volume.get("glusterfs").is_some() {
            found.push(format!("{at}.glusterfs: deprecated in v1.25, non-functional in v1.26+"));
        }
        for kind in ["cephfs", "rbd"] {
            if volume.get(kind).is_some() {
                found.push(format!("{at}.{kind}: deprecated in v1.28, non-functional in v1.31+"));
            }
        }
    }
    for list in ["initContainers", "containers"] {
        for (index, container) in spec.items_at(&[list]).iter().enumerate() {
            let at = format!("{path}.{list}[{index}]");
            duplicate_variables(container, &at, &mut found);
            fractional_bytes(container.get("resources"), &format!("{at}.resources"), &mut found);
        }
    }
    found
}

/// Of two variables of one name the second hides the first, unless it is made of it.
fn duplicate_variables(container: &Value, path: &str, found: &mut Vec<String>) {
    let list = container.items_at(&["env"]);
    for (index, variable) in list.iter().enumerate() {
        let name = variable.str_at(&["name"]);
        let earlier = list[..index].iter().any(|it| it.str_at(&["name"]) == name);
        let uses_it = variable.str_at(&["value"]).contains(&format!("$({name})"));
        if earlier && !uses_it {
            found.push(format!(
                "{path}.env[{index}]: hides previous definition of \"{name}\", which may be dropped when using apply"
            ));
        }
    }
}

/// Bytes cannot be divided.
fn fractional_bytes(resources: Option<&Value>, path: &str, found: &mut Vec<String>) {
    for kind in ["limits", "requests"] {
        for name in ["memory", "ephemeral-storage"] {
            let amount = resources.and_then(|it| it.at(&[kind, name])).and_then(Value::as_str);
            let Some(text) = amount else { continue };
            let parsed = apimachinery::quantity::Quantity::parse(text);
            if parsed.is_ok_and(|it| it.milli_value() % 1000 != 0) {
                found.push(format!(
                    "{path}.{kind}[{name}]: fractional byte value \"{text}\" is invalid, must be an integer"
                ));
            }
        }
    }
}
