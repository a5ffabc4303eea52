//! What differed, kind by kind.

use apimachinery::{Value, value};

use super::Shape;

/// Names of the selectors that say all and none where the empty one says the opposite.
const EMPTY_SELECTOR: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";
/// A count that means none was set.
const NEVER: i64 = i32::MAX as i64;

/// A workload that selected the labels of its own template where it said nothing.
pub(super) const SELECTS_OWN: Shape = Shape { default: selects_own, ..Shape::SAME };

pub(super) const EXTENSIONS_DAEMON_SET: Shape = Shape {
    default: |value| {
        selects_own(value);
        value.default_at(&["spec", "updateStrategy", "type"], "OnDelete");
    },
    read: |value| forget(value, &["spec", "templateGeneration"]),
    ..Shape::SAME
};

pub(super) const EXTENSIONS_DEPLOYMENT: Shape = Shape {
    default: |value| {
        selects_own(value);
        value.default_at(&["spec", "revisionHistoryLimit"], NEVER);
        value.default_at(&["spec", "progressDeadlineSeconds"], NEVER);
        steps(value, &Value::from(1));
    },
    read: |value| forget(value, &["spec", "rollbackTo"]),
    ..Shape::SAME
};

pub(super) const APPS_V1BETA1_DEPLOYMENT: Shape = Shape {
    default: |value| {
        selects_own(value);
        value.default_at(&["spec", "revisionHistoryLimit"], 2);
        steps(value, &Value::from("25%"));
    },
    read: |value| forget(value, &["spec", "rollbackTo"]),
    ..Shape::SAME
};

pub(super) const APPS_V1BETA1_STATEFUL_SET: Shape = Shape {
    default: |value| {
        selects_own(value);
        value.default_at(&["spec", "updateStrategy", "type"], "OnDelete");
    },
    ..Shape::SAME
};

fn forget(value: &mut Value, path: &[&str]) {
    value.remove_at(path);
}

fn selects_own(value: &mut Value) {
    let Some(labels) = value.at(&["spec", "template", "metadata", "labels"]).cloned() else {
        return;
    };
    if value.at(&["spec", "selector"]).is_none_or(Value::is_null) {
        value.set_at(&["spec", "selector"], value!({"matchLabels": (labels.clone())}));
    }
    if value.at(&["metadata", "labels"]).is_none_or(Value::is_null) {
        value.set_at(&["metadata", "labels"], labels);
    }
}

/// How far a rolling update goes at once, where nothing is said.
fn steps(value: &mut Value, step: &Value) {
    value.default_at(&["spec", "strategy", "type"], "RollingUpdate");
    if value.str_at(&["spec", "strategy", "type"]) == "RollingUpdate" {
        for member in ["maxSurge", "maxUnavailable"] {
            value.default_at(&["spec", "strategy", "rollingUpdate", member], step.clone());
        }
    }
}

/// Backends named a service and a port side by side.
pub(super) const INGRESS: Shape = Shape {
    same_message: false,
    default: |value| {
        paths(value, |path| {
            path.default_at(&["pathType"], "ImplementationSpecific");
        });
    },
    read: |value| {
        if let Some(mut backend) = value.remove_at(&["spec", "backend"]) {
            new_backend(&mut backend);
            value.set_at(&["spec", "defaultBackend"], backend);
        }
        paths(value, |path| path.get_mut("backend").into_iter().for_each(new_backend));
    },
    show: |value| {
        if let Some(mut backend) = value.remove_at(&["spec", "defaultBackend"]) {
            old_backend(&mut backend);
            value.set_at(&["spec", "backend"], backend);
        }
        paths(value, |path| path.get_mut("backend").into_iter().for_each(old_backend));
    },
};

fn paths(value: &mut Value, each: impl Fn(&mut Value)) {
    for rule in items_mut(value, &["spec", "rules"]) {
        items_mut(rule, &["http", "paths"]).iter_mut().for_each(&each);
    }
}

fn items_mut<'v>(value: &'v mut Value, path: &[&str]) -> &'v mut [Value] {
    match value.at_mut(path) {
        Some(Value::Array(items)) => items,
        _ => &mut [],
    }
}

fn new_backend(backend: &mut Value) {
    if let Some(name) = backend.remove_at(&["serviceName"]) {
        backend.set_at(&["service", "name"], name);
    }
    if let Some(port) = backend.remove_at(&["servicePort"]) {
        let member = if matches!(port, Value::Int(_)) { "number" } else { "name" };
        backend.set_at(&["service", "port", member], port);
    }
}

fn old_backend(backend: &mut Value) {
    let Some(mut service) = backend.remove_at(&["service"]) else { return };
    if let Some(name) = service.remove_at(&["name"]) {
        backend.set_at(&["serviceName"], name);
    }
    let number = service.remove_at(&["port", "number"]);
    if let Some(port) = number.or_else(|| service.remove_at(&["port", "name"])) {
        backend.set_at(&["servicePort"], port);
    }
}

/// An empty selector selected nothing.
pub(super) const BUDGET: Shape = Shape {
    read: |value| {
        if is_empty_selector(value) {
            value.set_at(&["spec", "selector"], marked("Exists"));
        }
    },
    show: |value| {
        if is_empty_selector(value) {
            value.set_at(&["spec", "selector"], marked("DoesNotExist"));
        } else if value.at(&["spec", "selector"]) == Some(&marked("Exists")) {
            value.set_at(&["spec", "selector"], Value::object());
        }
    },
    ..Shape::SAME
};

fn is_empty_selector(value: &Value) -> bool {
    let Some(selector) = value.at(&["spec", "selector"]).filter(|it| !it.is_null()) else {
        return false;
    };
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    labels.is_none_or(apimachinery::Object::is_empty)
        && selector.items_at(&["matchExpressions"]).is_empty()
}

fn marked(operator: &str) -> Value {
    value!({"matchExpressions": [{"key": EMPTY_SELECTOR, "operator": operator}]})
}

/// A condition that is named holds.
pub(super) const SIGNING_REQUEST: Shape = Shape {
    default: |value| {
        for condition in items_mut(value, &["status", "conditions"]) {
            condition.default_zero_at(&["status"], "True");
        }
    },
    ..Shape::SAME
};

/// Nodes and zones were labels of an endpoint.
pub(super) const ENDPOINT_SLICE: Shape = Shape {
    same_message: false,
    read: |value| {
        for endpoint in items_mut(value, &["endpoints"]) {
            let Some(mut topology) = endpoint.remove_at(&["topology"]) else { continue };
            for (label, member) in TOPOLOGY {
                if let Some(text) = topology.remove_at(&[label])
                    && endpoint.get(member).is_none()
                {
                    endpoint.set_at(&[member], text);
                }
            }
            if topology.as_object().is_some_and(|it| !it.is_empty()) {
                endpoint.set_at(&["deprecatedTopology"], topology);
            }
        }
    },
    show: |value| {
        for endpoint in items_mut(value, &["endpoints"]) {
            let mut topology = endpoint.remove_at(&["deprecatedTopology"]).unwrap_or(Value::Null);
            for (label, member) in TOPOLOGY {
                if let Some(text) = endpoint.get(member).cloned() {
                    topology.set_at(&[label], text);
                }
            }
            endpoint.remove_at(&["zone"]);
            if !topology.is_null() {
                endpoint.set_at(&["topology"], topology);
            }
        }
    },
    ..Shape::SAME
};

const TOPOLOGY: [(&str, &str); 2] =
    [("kubernetes.io/hostname", "nodeName"), ("topology.kubernetes.io/zone", "zone")];

/// Shares of a priority level had another name.
pub(super) const SHARES: Shape = Shape {
    same_message: false,
    read: |value| rename(value, &["spec", "limited"], SHARE_NAMES),
    show: |value| rename(value, &["spec", "limited"], (SHARE_NAMES.1, SHARE_NAMES.0)),
    ..Shape::SAME
};

const SHARE_NAMES: (&str, &str) = ("assuredConcurrencyShares", "nominalConcurrencyShares");

fn rename(value: &mut Value, at: &[&str], (from, to): (&str, &str)) {
    if let Some(inside) = value.at_mut(at)
        && let Some(member) = inside.remove_at(&[from])
    {
        inside.set_at(&[to], member);
    }
}

/// More was let through by itself.
pub(super) const WEBHOOKS: Shape = Shape {
    default: |value| {
        for webhook in items_mut(value, &["webhooks"]) {
            webhook.default_at(&["failurePolicy"], "Ignore");
            webhook.default_at(&["matchPolicy"], "Exact");
            webhook.default_at(&["timeoutSeconds"], 30);
            webhook.default_at(&["admissionReviewVersions"], vec![Value::from("v1beta1")]);
        }
    },
    ..Shape::SAME
};

/// A definition had one schema, one status and one set of columns for all its versions.
pub(super) const DEFINITION: Shape =
    Shape { read: new_definition, show: old_definition, same_message: false, ..Shape::SAME };

fn new_definition(value: &mut Value) {
    let Some(spec) = value.get_mut("spec") else { return };
    if spec.str_at(&["scope"]).is_empty() {
        spec.set_at(&["scope"], "Namespaced");
    }
    if let Some(version) = spec.remove_at(&["version"])
        && spec.items_at(&["versions"]).is_empty()
    {
        let only = value!({"name": (version), "served": true, "storage": true});
        spec.set_at(&["versions"], vec![only]);
    }
    let prunes = spec.get("preserveUnknownFields") == Some(&Value::Bool(false));
    spec.remove_at(&["preserveUnknownFields"]);
    let (schema, subresources, columns) = (
        spec.remove_at(&["validation"]),
        spec.remove_at(&["subresources"]),
        spec.remove_at(&["additionalPrinterColumns"]),
    );
    for version in items_mut(spec, &["versions"]) {
        for (member, all) in
            [("schema", &schema), ("subresources", &subresources), (COLUMNS, &columns)]
        {
            if let Some(all) = all.as_ref().filter(|_| version.get(member).is_none()) {
                version.set_at(&[member], all.clone());
            }
        }
        for column in items_mut(version, &[COLUMNS]) {
            rename(column, &[], ("JSONPath", "jsonPath"));
        }
        if !prunes {
            version.default_at(&["schema", "openAPIV3Schema", "type"], "object");
            version.at_mut(&["schema", "openAPIV3Schema"]).into_iter().for_each(keep_unknown);
        }
    }
    let Some(conversion) = spec.get_mut("conversion") else { return };
    for (from, to) in [("webhookClientConfig", "clientConfig"), (REVIEWS, REVIEWS)] {
        if let Some(member) = conversion.remove_at(&[from])
            && conversion.str_at(&["strategy"]) == "Webhook"
        {
            conversion.set_at(&["webhook", to], member);
        }
    }
}

/// Nothing was pruned: neither here nor in what is inside.
fn keep_unknown(schema: &mut Value) {
    if schema.str_at(&["type"]) == "object" && schema.get("additionalProperties").is_none() {
        schema.set_at(&["x-kubernetes-preserve-unknown-fields"], true);
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.iter_mut().for_each(|(_, it)| keep_unknown(it));
    }
    for member in ["items", "additionalProperties"] {
        schema.get_mut(member).into_iter().for_each(keep_unknown);
    }
}

const COLUMNS: &str = "additionalPrinterColumns";
const REVIEWS: &str = "conversionReviewVersions";

fn old_definition(value: &mut Value) {
    let Some(spec) = value.get_mut("spec") else { return };
    for version in items_mut(spec, &["versions"]) {
        for column in items_mut(version, &[COLUMNS]) {
            rename(column, &[], ("jsonPath", "JSONPath"));
        }
    }
    let first = spec.items_at(&["versions"]).first().map(|it| it["name"].clone());
    if let Some(first) = first {
        spec.set_at(&["version"], first);
    }
    spec.default_at(&["preserveUnknownFields"], false);
    if let [only] = items_mut(spec, &["versions"]) {
        let moved = ["schema", "subresources", COLUMNS].map(|it| only.remove_at(&[it]));
        for (member, moved) in ["validation", "subresources", COLUMNS].into_iter().zip(moved) {
            if let Some(moved) = moved {
                spec.set_at(&[member], moved);
            }
        }
    }
    if let Some(conversion) = spec.get_mut("conversion")
        && let Some(mut webhook) = conversion.remove_at(&["webhook"])
    {
        for (from, to) in [("clientConfig", "webhookClientConfig"), (REVIEWS, REVIEWS)] {
            if let Some(member) = webhook.remove_at(&[from]) {
                conversion.set_at(&[to], member);
            }
        }
    }
}

/// Targets stood beside the metric's name.
pub(super) const AUTOSCALER_V2BETA1: Shape = Shape {
    same_message: false,
    read: |value| {
        for metric in items_mut(value, &["spec", "metrics"]) {
            new_metric(metric, "target");
        }
        for metric in items_mut(value, &["status", "currentMetrics"]) {
            new_metric(metric, "current");
        }
    },
    show: |value| {
        for metric in items_mut(value, &["spec", "metrics"]) {
            old_metric(metric, "target");
        }
        for metric in items_mut(value, &["status", "currentMetrics"]) {
            old_metric(metric, "current");
        }
    },
    ..Shape::SAME
};

/// A metric of v2 made of one in the shape that v2beta1 had, which annotations of v1 still have. `role`: `target` of
/// what is wanted, `current` of what is found.
pub(crate) fn new_metric(metric: &mut Value, role: &str) {
    sources(metric, |kind, source| new_source(kind, source, role));
}

/// The same the other way.
pub(crate) fn old_metric(metric: &mut Value, role: &str) {
    sources(metric, |kind, source| old_source(kind, source, role));
}

const SOURCES: [&str; 5] = ["resource", "containerResource", "pods", "object", "external"];

fn sources(metric: &mut Value, change: impl Fn(&str, &mut Value)) {
    for kind in SOURCES {
        if let Some(source) = metric.get_mut(kind) {
            change(kind, source);
        }
    }
}

/// Old names of what is wanted or found, by kind of metric: the old member, the new one, the type of target.
fn amounts(kind: &str, role: &str) -> &'static [(&'static str, &'static str, &'static str)] {
    match (kind, role) {
        ("resource" | "containerResource", "target") => &[
            ("targetAverageUtilization", "averageUtilization", "Utilization"),
            ("targetAverageValue", "averageValue", "AverageValue"),
        ],
        ("resource" | "containerResource", _) => &[
            ("currentAverageUtilization", "averageUtilization", ""),
            ("currentAverageValue", "averageValue", ""),
        ],
        ("pods", "target") => &[("targetAverageValue", "averageValue", "AverageValue")],
        ("pods", _) => &[("currentAverageValue", "averageValue", "")],
        ("object", "target") => {
            &[("averageValue", "averageValue", "AverageValue"), ("targetValue", "value", "Value")]
        }
        ("object", _) => &[("averageValue", "averageValue", ""), ("currentValue", "value", "")],
        (_, "target") => &[
            ("targetAverageValue", "averageValue", "AverageValue"),
            ("targetValue", "value", "Value"),
        ],
        _ => &[("currentAverageValue", "averageValue", ""), ("currentValue", "value", "")],
    }
}

fn new_source(kind: &str, source: &mut Value, role: &str) {
    if kind == "object"
        && let Some(target) = source.remove_at(&["target"])
    {
        source.set_at(&["describedObject"], target);
    }
    if let Some(name) = source.remove_at(&["metricName"]) {
        source.set_at(&["metric", "name"], name);
        let selector = if kind == "external" { "metricSelector" } else { "selector" };
        if let Some(selector) = source.remove_at(&[selector]) {
            source.set_at(&["metric", "selector"], selector);
        }
    }
    for (old, new, target) in amounts(kind, role) {
        let Some(amount) = source.remove_at(&[old]) else { continue };
        // What is a zero there is nothing where an average is wanted.
        if *old == "targetValue" && source.at(&[role, "averageValue"]).is_some() {
            continue;
        }
        source.set_at(&[role, new], amount);
        if !target.is_empty() {
            source.set_at(&[role, "type"], *target);
        }
    }
}

fn old_source(kind: &str, source: &mut Value, role: &str) {
    let found = source.remove_at(&[role]).unwrap_or(Value::Null);
    if kind == "object"
        && let Some(target) = source.remove_at(&["describedObject"])
    {
        source.set_at(&["target"], target);
    }
    if let Some(mut metric) = source.remove_at(&["metric"]) {
        if let Some(name) = metric.remove_at(&["name"]) {
            source.set_at(&["metricName"], name);
        }
        if let Some(selector) = metric.remove_at(&["selector"]) {
            let member = if kind == "external" { "metricSelector" } else { "selector" };
            source.set_at(&[member], selector);
        }
    }
    for (old, new, _) in amounts(kind, role) {
        if let Some(amount) = found.get(new) {
            source.set_at(&[old], amount.clone());
        }
    }
}
