//! HorizontalPodAutoscaler: stored as v2, served as v1 too.

use apimachinery::{Value, value};
use jiff::Timestamp;

use super::{autoscaler_checks, printing};
use crate::declaration::{Alternative, Declaration, MetadataChecks};
use crate::removed::shapes::{new_metric, old_metric};
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
            labels: None,
        }],
        default,
        validate_gated: autoscaler_checks::validate,
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
    let mut metrics = kept(value, "metrics");
    metrics.iter_mut().for_each(|it| new_metric(it, "target"));
    metrics.extend(target.and_then(|it| it.as_i64()).map(cpu));
    if !metrics.is_empty() {
        value.set_at(&["spec", "metrics"], metrics);
    }
    // What was found is kept whole, with the processor's use.
    let mut found = kept(value, "current-metrics");
    found.iter_mut().for_each(|it| new_metric(it, "current"));
    if let Some(current) = current.filter(|_| found.is_empty()) {
        let current = value!({"averageUtilization": (current)});
        found =
            vec![value!({"type": "Resource", "resource": {"name": "cpu", "current": (current)}})];
    }
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
        value.set_at(&["spec", "behavior"], renamed(behavior, char::to_ascii_lowercase));
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

/// The same with names that begin as `first` has them, and without what is not given: upstream writes the behavior under
/// the names that it has within the server.
fn renamed(value: Value, first: fn(&char) -> char) -> Value {
    match value {
        Value::Object(members) => {
            let named = members.into_iter().filter(|(_, it)| !it.is_null()).map(|(name, it)| {
                let mut letters = name.chars();
                let name: String = letters.next().iter().map(first).chain(letters).collect();
                (name, renamed(it, first))
            });
            Value::Object(named.collect())
        }
        Value::Array(items) => items.into_iter().map(|it| renamed(it, first)).collect(),
        other => other,
    }
}

/// Amounts that v1's metrics always have, by kind of metric, in what is wanted and in what is found.
const ALWAYS: [(&str, Option<&str>, Option<&str>); 5] = [
    ("object", Some("targetValue"), Some("currentValue")),
    ("pods", Some("targetAverageValue"), Some("currentAverageValue")),
    ("resource", None, Some("currentAverageValue")),
    ("containerResource", None, Some("currentAverageValue")),
    ("external", None, Some("currentValue")),
];

/// A metric as v1 has it.
fn as_v1(mut metric: Value, role: &str) -> Value {
    old_metric(&mut metric, role);
    for (kind, wanted, found) in ALWAYS {
        let always = if role == "target" { wanted } else { found };
        if let (Some(source), Some(amount)) = (metric.get_mut(kind), always) {
            source.default_at(&[amount], "0");
        }
    }
    metric
}

/// The use of the processor becomes v1's own; the rest is kept in annotations, and all that was found.
fn from_storage(value: &mut Value) {
    let utilization = |it: &Value, role: &str| {
        it.i64_at(&["resource", role, "averageUtilization"]).filter(|_| is_cpu(it))
    };
    let mut others = Vec::new();
    for metric in list(value.remove_at(&["spec", "metrics"])) {
        match utilization(&metric, "target") {
            Some(target) => value.set_at(&["spec", "targetCPUUtilizationPercentage"], target),
            None => others.push(as_v1(metric, "target")),
        }
    }
    if !others.is_empty() {
        keep(value, "metrics", &Value::Array(others));
    }
    let found = list(value.remove_at(&["status", "currentMetrics"]));
    if let Some(now) = found.iter().find_map(|it| utilization(it, "current")) {
        value.set_at(&["status", "currentCPUUtilizationPercentage"], now);
    }
    if !found.is_empty() {
        let found = found.into_iter().map(|it| as_v1(it, "current")).collect();
        keep(value, "current-metrics", &found);
    }
    let conditions = list(value.remove_at(&["status", "conditions"]));
    if !conditions.is_empty() {
        keep(value, "conditions", &Value::Array(conditions));
    }
    if let Some(behavior) = value.remove_at(&["spec", "behavior"]) {
        keep(value, "behavior", &renamed(behavior, char::to_ascii_uppercase));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_of_v1_hold_metrics_as_it_names_them() {
        let pods = r#"[{"type":"Pods","pods":{"metricName":"q","targetAverageValue":"5"}}]"#;
        let mut autoscaler = value!({
            "metadata": {"annotations": {
                "autoscaling.alpha.kubernetes.io/metrics": pods,
                "autoscaling.alpha.kubernetes.io/behavior":
                    r#"{"ScaleDown":{"StabilizationWindowSeconds":5,"Tolerance":null}}"#}},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50}});
        to_storage(&mut autoscaler);
        let spec = &autoscaler["spec"];
        let target = value!({"type": "AverageValue", "averageValue": "5"});
        let expected = value!([
            {"type": "Pods", "pods": {"metric": {"name": "q"}, "target": (target)}}, (cpu(50))]);
        assert_eq!(spec["metrics"], expected);
        assert_eq!(spec.i64_at(&["behavior", "scaleDown", "stabilizationWindowSeconds"]), Some(5));
        assert!(spec.at(&["behavior", "ScaleDown"]).is_none());
        from_storage(&mut autoscaler);
        let kept = |name: &str| {
            let key = format!("{ANNOTATION}{name}");
            let text = autoscaler.str_at(&["metadata", "annotations", &key]);
            apimachinery::json::parse(text.as_bytes()).expect("an annotation")
        };
        assert_eq!(kept("metrics"), apimachinery::json::parse(pods.as_bytes()).expect("metrics"));
        let down = &kept("behavior")["ScaleDown"];
        assert_eq!(down.i64_at(&["StabilizationWindowSeconds"]), Some(5));
        assert_eq!(autoscaler.i64_at(&["spec", "targetCPUUtilizationPercentage"]), Some(50));
    }
}
