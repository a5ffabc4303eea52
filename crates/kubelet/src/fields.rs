//! `fieldRef` and `resourceFieldRef`: what a pod says of itself, as text. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::resources::{self, Amounts};
use crate::spec;

/// What of the node and the sandbox fields may name.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldFacts {
    pub(crate) host_ips: Vec<String>,
    pub(crate) pod_ips: Vec<String>,
    /// Stand for limits that are not set.
    pub(crate) allocatable: Amounts,
}

/// The value of a field.
///
/// # Errors
/// When there is no such field.
pub(crate) fn field(pod: &Pod, path: &str, facts: &FieldFacts) -> Result<String, String> {
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => pod.metadata.labels.as_ref(),
            "metadata.annotations" => pod.metadata.annotations.as_ref(),
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.and_then(|it| it.get(key)).cloned().unwrap_or_default());
    }
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => spec::name(pod).to_owned(),
        "metadata.namespace" => spec::namespace(pod).to_owned(),
        "metadata.uid" => spec::uid(pod).to_owned(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec::spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => {
            spec::spec(pod).service_account_name.clone().unwrap_or_default()
        }
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `metadata.labels['x']`
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (key, value) in map.into_iter().flatten() {
        let _ = writeln!(text, "{key}={}", go_quoted(value));
    }
    text.truncate(text.trim_end_matches('\n').len());
    text
}

/// As Go's `%q` writes text.
fn go_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a resource field, in units of its divisor, rounded up.
///
/// # Errors
/// When there is no such container or resource.
pub(crate) fn resource(
    pod: &Pod,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &FieldFacts,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|it| !it.is_empty());
    let found = named.and_then(|name| spec::find_container(pod, name)).map(|it| it.1);
    let container = match (named, found.as_ref().or(container)) {
        (Some(name), None) => return Err(format!("container {name} not found")),
        (None, None) => return Err("container  not found".into()),
        (_, Some(it)) => it,
    };
    let unsupported = || format!("unsupported container resource : {}", selector.resource);
    let (which, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let of = match which {
        "limits" => resources::limits(container),
        "requests" => resources::requests(container),
        _ => return Err(unsupported()),
    };
    let amount = match of.get(name) {
        Some(it) => resources::amount(name, it),
        None if which == "limits" => facts.allocatable.get(name).copied().unwrap_or_default(),
        None => 0,
    };
    let divisor = selector.divisor.as_ref().map_or(0, |it| resources::amount(name, it));
    // A divisor that is not set counts whole processors and bytes.
    let divisor = match divisor {
        0 if name == "cpu" => 1000,
        0 => 1,
        set => set,
    };
    Ok(amount
        .div_euclid(divisor)
        .saturating_add(i64::from(amount.rem_euclid(divisor) != 0))
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_resources_become_text() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"name":"p","labels":{"b":"x\"y","a":"1"}},
            "spec":{"nodeName":"n","containers":[{"name":"c","resources":{"limits":{"memory":"64Mi","cpu":"1500m"}}}]}}"#,
        )
        .unwrap();
        let facts = FieldFacts {
            pod_ips: vec!["10.0.0.9".into(), "fd::9".into()],
            ..FieldFacts::default()
        };
        for (path, expected) in [
            ("metadata.name", "p"),
            ("metadata.labels['a']", "1"),
            ("metadata.labels['z']", ""),
            ("metadata.labels", "a=\"1\"\nb=\"x\\\"y\""),
            ("spec.nodeName", "n"),
            ("status.podIPs", "10.0.0.9,fd::9"),
        ] {
            assert_eq!(field(&pod, path, &facts).unwrap(), expected, "{path}");
        }
        let container = &spec::main_containers(&pod)[0];
        for (name, divisor, expected) in [
            ("limits.memory", "1Mi", "64"),
            ("limits.memory", "0", "67108864"),
            ("limits.cpu", "1", "2"),
            ("limits.cpu", "1m", "1500"),
            ("requests.memory", "100Mi", "1"),
        ] {
            let selector = ResourceFieldSelector {
                resource: name.into(),
                divisor: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(
                    divisor.into(),
                )),
                container_name: None,
            };
            assert_eq!(
                resource(&pod, Some(container), &selector, &facts).unwrap(),
                expected,
                "{name}/{divisor}"
            );
        }
    }
}
