//! Service.

use apimachinery::Value;
use jiff::Timestamp;

use crate::declaration::{Declaration, FieldLabel};
use crate::{Rules, metadata, table};

/// How long a client sticks to an endpoint where nothing is said, in seconds.
const AFFINITY_SECONDS: i64 = 10_800;

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "services",
        prefix: "services/specs",
        name: metadata::dns1035_name,
        default,
        fields: FIELDS,
        row,
        rules: Rules { has_status: true, returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

/// The selectable fields.
const FIELDS: &[FieldLabel] = &[
    FieldLabel::new("spec.clusterIP", |it| it.str_at(&["spec", "clusterIP"]).into()),
    FieldLabel::new("spec.type", |it| it.str_at(&["spec", "type"]).into()),
];

fn default(value: &mut Value) {
    value.default_at(&["spec", "sessionAffinity"], "None");
    match value.str_at(&["spec", "sessionAffinity"]) {
        "None" => {
            value.remove_at(&["spec", "sessionAffinityConfig"]);
        }
        "ClientIP" => {
            let path = ["spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"];
            value.default_at(&path, AFFINITY_SECONDS);
        }
        _ => {}
    }
    value.default_at(&["spec", "type"], "ClusterIP");
    for port in value.items_at_mut(&["spec", "ports"]) {
        port.default_at(&["protocol"], "TCP");
        let unset = matches!(port.get("targetPort"), None | Some(Value::Int(0)))
            || port.get("targetPort").is_some_and(|it| it.as_str() == Some(""));
        if unset && let Some(number) = port.i64_at(&["port"]) {
            port.set_at(&["targetPort"], number);
        }
    }
    let kind = value.str_at(&["spec", "type"]).to_owned();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        value.default_at(&["spec", "externalTrafficPolicy"], "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        value.default_at(&["spec", "internalTrafficPolicy"], "Cluster");
    }
    if kind == "LoadBalancer" {
        value.default_at(&["spec", "allocateLoadBalancerNodePorts"], true);
    }
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    let spec = |member| value.str_at(&["spec", member]);
    let ports: Vec<String> = value
        .items_at(&["spec", "ports"])
        .iter()
        .map(|port| {
            let number = port.i64_at(&["port"]).unwrap_or_default();
            let protocol = port.str_at(&["protocol"]);
            match port.i64_at(&["nodePort"]).filter(|it| *it > 0) {
                Some(node) => format!("{number}:{node}/{protocol}"),
                None => format!("{number}/{protocol}"),
            }
        })
        .collect();
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    let selector = value.at(&["spec", "selector"]).and_then(Value::as_object);
    let selector = selector.map(|it| apimachinery::labels::Selector::from_labels(it).to_string());
    vec![
        value.str_at(&["metadata", "name"]).into(),
        spec("type").into(),
        or_none(spec("clusterIP").to_owned()).into(),
        or_none(external(value)).into(),
        or_none(ports.join(",")).into(),
        table::created(value, now),
        or_none(selector.unwrap_or_default()).into(),
    ]
}

/// The addresses by which a service is reached from outside.
fn external(value: &Value) -> String {
    let ips = value.items_at(&["spec", "externalIPs"]).iter().filter_map(Value::as_str);
    match value.str_at(&["spec", "type"]) {
        "ExternalName" => value.str_at(&["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            let ingress = value.items_at(&["status", "loadBalancer", "ingress"]).iter();
            let given = ingress.map(|it| match it.str_at(&["ip"]) {
                "" => it.str_at(&["hostname"]),
                ip => ip,
            });
            let all: Vec<&str> = given.chain(ips).filter(|it| !it.is_empty()).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => ips.collect::<Vec<_>>().join(","),
    }
}
