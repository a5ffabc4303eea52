//! Checks of horizontal pod autoscalers.

use apimachinery::quantity::Quantity;
use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use crate::apis::Features;
use crate::{check, rules};

/// The longest time that earlier advice counts, in seconds.
const WINDOW_SECONDS_MAX: i64 = 3600;
/// The longest period of a scaling policy, in seconds.
const PERIOD_SECONDS_MAX: i64 = 1800;
const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// Where a metric may come from, in the order in which upstream looks for it.
const SOURCES: [&str; 5] = ["object", "external", "pods", "resource", "containerResource"];

/// Checks an autoscaler of the storage version. One that was let take all pods may go on to, whatever features are on.
pub(super) fn validate(
    features: Features,
    value: &Value,
    old: Option<&Value>,
    errors: &mut FieldErrors,
) {
    let empty = Value::object();
    let spec = value.get("spec").unwrap_or(&empty);
    let path = Path::new("spec");
    let (least, most) =
        (spec.i64_at(&["minReplicas"]), spec.i64_at(&["maxReplicas"]).unwrap_or_default());
    let had_none = old.is_some_and(|it| it.i64_at(&["spec", "minReplicas"]) == Some(0));
    let bound = if features.hpa_scale_to_zero || had_none { 0 } else { 1 };
    if let Some(least) = least.filter(|it| *it < bound) {
        let detail = format!("must be greater than or equal to {bound}");
        errors.invalid(&path.child("minReplicas"), &least.into(), &detail);
    }
    let at = path.child("maxReplicas");
    match most {
        0 => errors.required(&at, "must be set and greater than 0"),
        it if it < 0 => errors.invalid(&at, &it.into(), "must be greater than or equal to 1"),
        _ => {}
    }
    if least.is_some_and(|least| most < least) {
        errors.invalid(&at, &most.into(), "must be greater than or equal to `minReplicas`");
    }
    let target = spec.get("scaleTargetRef").unwrap_or(&empty);
    reference(target, Group::Named, &path.child("scaleTargetRef"), errors);
    let list = path.child("metrics");
    for (index, metric) in spec.items_at(&["metrics"]).iter().enumerate() {
        self::metric(metric, &list.index(index), errors);
    }
    // With no pods left, only what is measured elsewhere can ask for some again.
    let mut kinds = spec.items_at(&["metrics"]).iter().map(|it| it.str_at(&["type"]));
    if least == Some(0) && !kinds.any(|it| matches!(it, "Object" | "External")) {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(&list, detail);
    }
    if let Some(behavior) = spec.get("behavior") {
        let at = path.child("behavior");
        for direction in ["scaleUp", "scaleDown"] {
            if let Some(rules) = behavior.get(direction) {
                scaling_rules(rules, &at.child(direction), errors);
            }
        }
    }
}

/// Checks what an autoscaler reports.
pub(super) fn validate_status(value: &Value, _old: &Value, errors: &mut FieldErrors) {
    super::workload::status_counts(value, &["currentReplicas", "desiredReplicas"], errors);
}

/// What is said of the group of an object that is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    /// Its name.
    Named,
    /// Its name, or nothing, which is the core group.
    Any,
}

fn reference(target: &Value, group: Group, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["kind", "name"] {
        check::required_name(target, member, validation::path_segment_name, path, errors);
    }
    let version = target.str_at(&["apiVersion"]);
    let at = path.child("apiVersion");
    if version.matches('/').count() > 1 {
        errors.invalid_text(&at, version, &format!("unexpected GroupVersion string: {version}"));
        return;
    }
    let named = version.split_once('/').is_some_and(|(group, _)| !group.is_empty());
    if group == Group::Named && version != "v1" && !named {
        errors.invalid_text(&at, version, "apiVersion must specify API group");
    }
}

fn metric(metric: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = metric.str_at(&["type"]);
    if kind.is_empty() {
        errors.required(&path.child("type"), "must specify a metric source type");
    }
    if !TYPES.contains(&kind) {
        // Upstream says so where it checks the name and again where it looks for the source.
        check::one_of(metric, "type", &TYPES, path, errors);
        check::one_of(metric, "type", &TYPES, path, errors);
    }
    let present: Vec<&str> =
        SOURCES.into_iter().filter(|member| metric.get(member).is_some()).collect();
    // Upstream looks into the first source only.
    if let Some(member) = present.first().copied() {
        let (source, at) = (&metric[member], path.child(member));
        match member {
            "resource" | "containerResource" => resource(source, member, &at, errors),
            _ => custom(source, member, &at, errors),
        }
    }
    let expected = TYPES.contains(&kind).then(|| member_of(kind));
    if let Some(member) = expected.filter(|it| !present.contains(it)) {
        let detail = "must populate information for the given metric source";
        errors.required(&path.child(member), detail);
    }
    if present.len() > 1 {
        for member in present.into_iter().filter(|it| expected != Some(*it)) {
            let detail = "must populate the given metric source only";
            errors.forbidden(&path.child(member), detail);
        }
    }
}

fn member_of(kind: &str) -> &'static str {
    match kind {
        "Object" => "object",
        "External" => "external",
        "Pods" => "pods",
        "Resource" => "resource",
        _ => "containerResource",
    }
}

fn resource(source: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let of_container = member == "containerResource";
    let (name, container) = (source.str_at(&["name"]), source.str_at(&["container"]));
    if name.is_empty() {
        errors.required(&path.child("name"), "must specify a resource name");
    } else if of_container {
        errors.invalid_all(&path.child("name"), name, rules::container_resource_name(name));
    }
    if of_container && container.is_empty() {
        errors.required(&path.child("container"), "must specify a container");
    } else if of_container {
        errors.invalid_all(
            &path.child("container"),
            container,
            validation::dns1123_label(container),
        );
    }
    let empty = Value::object();
    let target = source.get("target").unwrap_or(&empty);
    let at = path.child("target");
    self::target(target, &at, errors);
    let (percent, average) = (target.get("averageUtilization"), target.get("averageValue"));
    if percent.is_none() && average.is_none() {
        let detail = "must set either a target raw value or a target utilization";
        errors.required(&at.child("averageUtilization"), detail);
    }
    if percent.is_some() && average.is_some() {
        let detail = "may not set both a target raw value and a target utilization";
        errors.forbidden(&at.child("averageValue"), detail);
    }
}

fn custom(source: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let empty = Value::object();
    if member == "object" {
        let object = source.get("describedObject").unwrap_or(&empty);
        reference(object, Group::Any, &path.child("describedObject"), errors);
    }
    let at = path.child("metric");
    let name = validation::path_segment_name;
    let metric = source.get("metric").unwrap_or(&empty);
    if metric.str_at(&["name"]).is_empty() {
        errors.required(&at.child("name"), "must specify a metric name");
    } else {
        check::required_name(metric, "name", name, &at, errors);
    }
    let target = source.get("target").unwrap_or(&empty);
    let at = path.child("target");
    self::target(target, &at, errors);
    let (value, average) = (target.get("value"), target.get("averageValue"));
    match member {
        "pods" if average.is_none() => {
            errors
                .required(&at.child("averageValue"), "must specify a positive target averageValue");
        }
        "pods" => {}
        _ if value.is_none() && average.is_none() => {
            let detail = if member == "object" {
                "must set either a target value or averageValue"
            } else {
                "must set either a target value for metric or a per-pod target"
            };
            errors.required(&at.child("averageValue"), detail);
        }
        "external" if value.is_some() && average.is_some() => {
            let detail = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(&at.child("value"), detail);
        }
        _ => {}
    }
}

fn is_positive(amount: &Value) -> bool {
    amount.as_str().and_then(|it| Quantity::parse(it).ok()).is_some_and(|it| it.sign() > 0)
}

fn target(target: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = target.str_at(&["type"]);
    let at = path.child("type");
    if kind.is_empty() {
        errors.required(&at, "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errors.invalid_text(&at, kind, "must be either Utilization, Value, or AverageValue");
    }
    for member in ["value", "averageValue"] {
        if let Some(amount) = target.get(member).filter(|it| !is_positive(it)) {
            errors.invalid(&path.child(member), amount, "must be positive");
        }
    }
    if let Some(percent) = target.i64_at(&["averageUtilization"]).filter(|it| *it < 1) {
        let detail = "must be greater than 0";
        errors.invalid(&path.child("averageUtilization"), &percent.into(), detail);
    }
}

fn scaling_rules(rules: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(seconds) = rules.i64_at(&["stabilizationWindowSeconds"]) {
        let at = path.child("stabilizationWindowSeconds");
        if seconds < 0 {
            errors.invalid(&at, &seconds.into(), "must be greater than or equal to zero");
        }
        if seconds > WINDOW_SECONDS_MAX {
            let detail = format!("must be less than or equal to {WINDOW_SECONDS_MAX}");
            errors.invalid(&at, &seconds.into(), &detail);
        }
    }
    check::optional_one_of(rules, "selectPolicy", &["Disabled", "Max", "Min"], path, errors);
    let list = path.child("policies");
    let policies = rules.items_at(&["policies"]);
    if policies.is_empty() {
        errors.required(&list, "must specify at least one Policy");
    }
    for (index, policy) in policies.iter().enumerate() {
        let at = list.index(index);
        check::one_of(policy, "type", &["Percent", "Pods"], &at, errors);
        for member in ["value", "periodSeconds"] {
            let number = policy.i64_at(&[member]).unwrap_or_default();
            if number <= 0 {
                let detail = "must be greater than zero";
                errors.invalid(&at.child(member), &number.into(), detail);
            }
            if member == "periodSeconds" && number > PERIOD_SECONDS_MAX {
                let detail = format!("must be less than or equal to {PERIOD_SECONDS_MAX}");
                errors.invalid(&at.child(member), &number.into(), &detail);
            }
        }
    }
    if let Some(amount) = rules.get("tolerance").and_then(Value::as_str) {
        check::non_negative_quantity(amount, &path.child("tolerance"), errors);
    }
}
