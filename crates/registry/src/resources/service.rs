//! Service.

use apimachinery::Value;
use jiff::Timestamp;

use super::{service_checks as checks, service_warnings};
use crate::declaration::{Declaration, FieldLabel, MetadataChecks};
use crate::{Rules, metadata, table};

/// How long a client sticks to an endpoint where nothing is said, in seconds.
const AFFINITY_SECONDS: i64 = 10_800;

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "services",
        warnings: |it, _| service_warnings::of(it),
        prefix: "services/specs",
        name: metadata::label_name,
        default,
        prepare_update,
        validate: checks::validate,
        validate_update: checks::validate_update,
        validate_status: checks::validate_status,
        fields: FIELDS,
        row,
        metadata_checks: MetadataChecks::Update,
        rules: Rules {
            has_status: true,
            returns_deleted: true,
            create_on_update: true,
            ..Declaration::PLAIN.rules
        },
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
    let shown = kind == "ClusterIP" && !value.items_at(&["spec", "externalIPs"]).is_empty();
    if shown || matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        value.default_at(&["spec", "externalTrafficPolicy"], "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        value.default_at(&["spec", "internalTrafficPolicy"], "Cluster");
    }
    if kind == "LoadBalancer" {
        value.default_at(&["spec", "allocateLoadBalancerNodePorts"], true);
        for ingress in value.items_at_mut(&["status", "loadBalancer", "ingress"]) {
            if !ingress.str_at(&["ip"]).is_empty() {
                ingress.default_at(&["ipMode"], "VIP");
            }
        }
    }
}

/// What the server chose stays where an update does not say it: addresses, node ports, the port of health checks.
fn prepare_update(value: &mut Value, old: &Value) {
    let kind = |it: &Value| it.str_at(&["spec", "type"]).to_owned();
    let (now, before) = (kind(value), kind(old));
    let addressed = |kind: &str| matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer");
    if addressed(&now) && addressed(&before) {
        keep_addresses(value, old);
    }
    let node_ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if node_ports(&now) && node_ports(&before) {
        keep_node_ports(value, old);
    }
    if checks::needs_health_port(&value["spec"])
        && checks::needs_health_port(&old["spec"])
        && let Some(port) = old.at(&["spec", "healthCheckNodePort"])
    {
        value.default_at(&["spec", "healthCheckNodePort"], port.clone());
    }
    drop_what_the_type_lost(value, old, &now, &before);
}

fn keep_addresses(value: &mut Value, old: &Value) {
    let keep = |value: &mut Value, member: &str| {
        if let Some(before) = old.at(&["spec", member]) {
            value.set_at(&["spec", member], before.clone());
        }
    };
    if value.str_at(&["spec", "clusterIP"]).is_empty() {
        keep(value, "clusterIP");
    }
    let same =
        |value: &Value, member: &str| value.at(&["spec", member]) == old.at(&["spec", member]);
    if same(value, "clusterIP") {
        if value.items_at(&["spec", "clusterIPs"]).is_empty() {
            keep(value, "clusterIPs");
        }
    } else if same(value, "clusterIPs") {
        // Only the address was written: the list follows it.
        let address = value.str_at(&["spec", "clusterIP"]).to_owned();
        value.set_at(&["spec", "clusterIPs"], Value::from_iter([address]));
    }
}

fn keep_node_ports(value: &mut Value, old: &Value) {
    for port in value.items_at_mut(&["spec", "ports"]) {
        let name = port.str_at(&["name"]).to_owned();
        let same = |it: &&Value| it.str_at(&["name"]) == name;
        let before = old.items_at(&["spec", "ports"]).iter().find(same);
        let node_port = before.and_then(|it| it.i64_at(&["nodePort"])).filter(|it| *it != 0);
        if port.i64_at(&["nodePort"]).unwrap_or_default() == 0
            && let Some(node_port) = node_port
        {
            port.set_at(&["nodePort"], node_port);
        }
    }
}

/// A change of type takes away what only the earlier type had, unless the update changes it too.
fn drop_what_the_type_lost(value: &mut Value, old: &Value, now: &str, before: &str) {
    let unchanged =
        |value: &Value, member: &str| value.at(&["spec", member]) == old.at(&["spec", member]);
    let mut lost = Vec::new();
    if now == "ExternalName" && before != "ExternalName" {
        lost.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
        lost.push("internalTrafficPolicy");
    }
    if now != "LoadBalancer" && before == "LoadBalancer" {
        lost.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if !checks::needs_health_port(&value["spec"]) && checks::needs_health_port(&old["spec"]) {
        lost.push("healthCheckNodePort");
    }
    if !checks::is_external(&value["spec"]) && checks::is_external(&old["spec"]) {
        lost.push("externalTrafficPolicy");
    }
    if !matches!(now, "NodePort" | "LoadBalancer") && matches!(before, "NodePort" | "LoadBalancer")
    {
        drop_node_ports(value, old);
    }
    for member in lost {
        if unchanged(value, member) {
            value.remove_at(&["spec", member]);
        }
    }
}

fn drop_node_ports(value: &mut Value, old: &Value) {
    let numbers = |it: &Value| -> Vec<i64> {
        let ports = it.items_at(&["spec", "ports"]).iter();
        ports.filter_map(|port| port.i64_at(&["nodePort"])).collect()
    };
    if numbers(value) == numbers(old) {
        for port in value.items_at_mut(&["spec", "ports"]) {
            port.remove_at(&["nodePort"]);
        }
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
