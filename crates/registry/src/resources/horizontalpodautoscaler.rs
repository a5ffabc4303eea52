//! HorizontalPodAutoscaler: stored as v2, served as v1 too.

use apimachinery::{Value, value};
use jiff::Timestamp;

use super::{autoscaler_checks, printing};
use crate::declaration::{Alternative, Declaration, MetadataChecks};
use crate::{Rules, table};

/// Metrics shown in a table before the rest is counted only.
const SHOWN_METRICS: usize = 2;
/// The use of the processor that is wanted where nothing else is said.
const CPU_PERCENT: i64 = 80;
const UNKNOWN: &str = "<unknown>";
/// What v1 has no field for is kept in annotations: what stands in the spec, what in the status.
const ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/";

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "autoscaling",
        version: "v2",
        resource: "horizontalpodautoscalers",
        alternatives: &[Alternative {
            group: "autoscaling",
            version: "v1",
            default: Some(default_v1),
            validate: |_, _| {},
            to_storage,
            from_storage,
        }],
        default,
        validate: autoscaler_checks::validate,
        validate_status: autoscaler_checks::validate_status,
        row,
        rules: Rules { has_status: true, ..Declaration::PLAIN.rules },
        metadata_checks: MetadataChecks::Update,
        ..Declaration::SPEC_AND_STATUS
    }
}

/// The use of the processor is wanted where no other metric is.
fn default_v1(value: &mut Value) {
    value.default_at(&["spec", "minReplicas"], 1);
    let metrics = format!("{ANNOTATION}metrics");
    if value.at(&["metadata", "annotations", &metrics]).is_none() {
        value.default_at(&["spec", "targetCPUUtilizationPercentage"], CPU_PERCENT);
    }
}

fn default(value: &mut Value) {
    let spec = value.member_mut("spec");
    spec.default_at(&["minReplicas"], 1);
    if spec.items_at(&["metrics"]).is_empty() {
        spec.set_at(&["metrics"], vec![cpu(CPU_PERCENT)]);
    }
    for direction in ["scaleUp", "scaleDown"] {
        if let Some(rules) = spec.get_mut("behavior").and_then(|it| it.get_mut(direction)) {
            rules.default_at(&["selectPolicy"], "Max");
            if direction == "scaleUp" {
                rules.default_at(&["stabilizationWindowSeconds"], 0);
                let pods = value!({"type": "Pods", "value": 4, "periodSeconds": 15});
                rules.default_at(&["policies"], vec![pods, percent()]);
            } else {
                rules.default_at(&["policies"], vec![percent()]);
            }
        }
    }
    if let Some(behavior) = spec.get_mut("behavior") {
        for direction in ["scaleUp", "scaleDown"] {
            behavior.default_at(&[direction], rules(direction));
        }
    }
}

fn percent() -> Value {
    value!({"type": "Percent", "value": 100, "periodSeconds": 15})
}

fn rules(direction: &str) -> Value {
    let mut rules = value!({"selectPolicy": "Max", "policies": [(percent())]});
    if direction == "scaleUp" {
        let pods = value!({"type": "Pods", "value": 4, "periodSeconds": 15});
        rules.set_at(&["stabilizationWindowSeconds"], 0);
        rules.set_at(&["policies"], vec![pods, percent()]);
    }
    rules
}

fn cpu(utilization: i64) -> Value {
    let target = value!({"type": "Utilization", "averageUtilization": utilization});
    value!({"type": "Resource", "resource": {"name": "cpu", "target": (target)}})
}

fn is_cpu(metric: &Value) -> bool {
    metric.str_at(&["type"]) == "Resource" && metric.str_at(&["resource", "name"]) == "cpu"
}

/// v1 names the use of the processor alone.
fn to_storage(value: &mut Value) {
    let target = value.remove_at(&["spec", "targetCPUUtilizationPercentage"]);
    let current = value.remove_at(&["status", "currentCPUUtilizationPercentage"]);
    let mut metrics: Vec<Value> = target.and_then(|it| it.as_i64()).map(cpu).into_iter().collect();
    metrics.extend(kept(value, "metrics"));
    if !metrics.is_empty() {
        value.set_at(&["spec", "metrics"], metrics);
    }
    let mut found: Vec<Value> = current
        .map(|it| {
            let current = value!({"averageUtilization": (it)});
            value!({"type": "Resource", "resource": {"name": "cpu", "current": (current)}})
        })
        .into_iter()
        .collect();
    found.extend(kept(value, "current-metrics"));
    if value.get("status").is_some() {
        value.set_at(
            &["status", "currentMetrics"],
            if found.is_empty() { Value::Null } else { Value::Array(found) },
        );
    }
    let conditions = kept(value, "conditions");
    if !conditions.is_empty() {
        value.set_at(&["status", "conditions"], conditions);
    }
    if let Some(behavior) = take(value, "behavior") {
        value.set_at(&["spec", "behavior"], behavior);
    }
    default(value);
}

/// What an annotation holds; it goes.
fn take(value: &mut Value, name: &str) -> Option<Value> {
    let key = format!("{ANNOTATION}{name}");
    let text = value.remove_at(&["metadata", "annotations", &key])?;
    let empty = value.at(&["metadata", "annotations"]).and_then(Value::as_object);
    if empty.is_some_and(apimachinery::Object::is_empty) {
        value.remove_at(&["metadata", "annotations"]);
    }
    apimachinery::json::parse(text.as_str()?.as_bytes()).ok()
}

fn kept(value: &mut Value, name: &str) -> Vec<Value> {
    match take(value, name) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn keep(value: &mut Value, name: &str, held: &Value) {
    let key = format!("{ANNOTATION}{name}");
    let text = apimachinery::json::to_string(held);
    value.set_at(&["metadata", "annotations", &key], text);
}

/// The first metric of the processor becomes v1's own; the rest is kept in annotations.
fn from_storage(value: &mut Value) {
    let mut metrics = list(value.remove_at(&["spec", "metrics"]));
    let utilization = |it: &Value| {
        it.i64_at(&["resource", "target", "averageUtilization"]).filter(|_| is_cpu(it))
    };
    if let Some(index) = metrics.iter().position(|it| utilization(it).is_some()) {
        let target = utilization(&metrics.remove(index));
        value.set_at(&["spec", "targetCPUUtilizationPercentage"], target);
    }
    if !metrics.is_empty() {
        keep(value, "metrics", &Value::Array(metrics));
    }
    let mut found = list(value.remove_at(&["status", "currentMetrics"]));
    let current = |it: &Value| {
        it.i64_at(&["resource", "current", "averageUtilization"]).filter(|_| is_cpu(it))
    };
    if let Some(index) = found.iter().position(|it| current(it).is_some()) {
        let now = current(&found.remove(index));
        value.set_at(&["status", "currentCPUUtilizationPercentage"], now);
    }
    if !found.is_empty() {
        keep(value, "current-metrics", &Value::Array(found));
    }
    let conditions = list(value.remove_at(&["status", "conditions"]));
    if !conditions.is_empty() {
        keep(value, "conditions", &Value::Array(conditions));
    }
    if let Some(behavior) = value.remove_at(&["spec", "behavior"]) {
        keep(value, "behavior", &behavior);
    }
    // v1 always writes these two.
    if value.get("status").is_some() {
        value.default_at(&["status", "currentReplicas"], 0);
        value.default_at(&["status", "desiredReplicas"], 0);
    }
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    let target = |member| value.str_at(&["spec", "scaleTargetRef", member]);
    let least = value.i64_at(&["spec", "minReplicas"]);
    vec![
        value.str_at(&["metadata", "name"]).into(),
        format!("{}/{}", target("kind"), target("name")).into(),
        metrics(value).into(),
        least.map_or_else(|| "<unset>".to_owned(), |it| it.to_string()).into(),
        printing::count(value, &["spec", "maxReplicas"]),
        printing::count(value, &["status", "currentReplicas"]),
        table::created(value, now),
    ]
}

fn metrics(value: &Value) -> String {
    let (specs, found) =
        (value.items_at(&["spec", "metrics"]), value.items_at(&["status", "currentMetrics"]));
    if specs.is_empty() {
        return "<none>".into();
    }
    let shown: Vec<String> = specs
        .iter()
        .enumerate()
        .take(SHOWN_METRICS)
        .map(|(index, spec)| metric(spec, found.get(index)))
        .collect();
    let rest = specs.len().saturating_sub(SHOWN_METRICS);
    let text = shown.join(", ");
    if rest > 0 { format!("{text} + {rest} more...") } else { text }
}

fn metric(spec: &Value, found: Option<&Value>) -> String {
    let member = match spec.str_at(&["type"]) {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".into(),
    };
    let target = |name| spec.at(&[member, "target", name]);
    let text = |it: Option<&Value>| it.and_then(Value::as_str).unwrap_or_default().to_owned();
    let current = |name| {
        let it = found.and_then(|it| it.at(&[member, "current", name]));
        it.and_then(Value::as_str).unwrap_or(UNKNOWN).to_owned()
    };
    let average = target("averageValue");
    if member == "resource" || member == "containerResource" {
        let name = spec.str_at(&[member, "name"]);
        if average.is_some() {
            return format!("{name}: {}/{}", current("averageValue"), text(average));
        }
        let percent =
            |it: Option<i64>, none: &str| it.map_or_else(|| none.to_owned(), |it| format!("{it}%"));
        let now = found.and_then(|it| it.i64_at(&[member, "current", "averageUtilization"]));
        let wanted = target("averageUtilization").and_then(Value::as_i64);
        return format!("{name}: {}/{}", percent(now, UNKNOWN), percent(wanted, "<auto>"));
    }
    match average {
        Some(_) if member == "pods" => {
            format!("{}/{}", current("averageValue"), text(average))
        }
        Some(_) => format!("{}/{} (avg)", current("averageValue"), text(average)),
        None => format!("{}/{}", current("value"), text(target("value"))),
    }
}
