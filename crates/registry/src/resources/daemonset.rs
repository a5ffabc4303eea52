//! DaemonSet.

use std::num::IntErrorKind;

use apimachinery::labels::Selector;
use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use super::{printing, workload};
use crate::check;
use crate::declaration::{Declaration, MetadataChecks};
use crate::pod_spec::defaults;
use crate::{status, table};

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "apps",
        resource: "daemonsets",
        warnings: |it, old| {
            crate::pod_spec::warnings::of_workload(it, old, &["spec", "template"], false)
        },
        convertible,
        default,
        prepare_create,
        prepare_update,
        validate,
        validate_update,
        validate_status,
        row,
        metadata_checks: MetadataChecks::Update,
        ..Declaration::SPEC_AND_STATUS
    }
}

/// Holds how often the template changed; from a time when it was a field.
pub(crate) const ANNOTATION: &str = "deprecated.daemonset.template.generation";
const TEMPLATE_GENERATION: [&str; 3] = ["metadata", "annotations", ANNOTATION];

/// It is read as a number before anything else is done with a DaemonSet.
fn convertible(value: &Value) -> Result<(), String> {
    let Some(text) = value.at(&TEMPLATE_GENERATION).and_then(Value::as_str) else { return Ok(()) };
    let why = match text.parse::<i64>().map_err(|error| *error.kind()) {
        Ok(_) => return Ok(()),
        Err(IntErrorKind::PosOverflow | IntErrorKind::NegOverflow) => "value out of range",
        Err(_) => "invalid syntax",
    };
    Err(format!("strconv.ParseInt: parsing {}: {why}", apimachinery::field::quote(text)))
}

fn prepare_create(value: &mut Value) {
    let given = value.str_at(&TEMPLATE_GENERATION).parse::<i64>().unwrap_or_default();
    value.set_at(&TEMPLATE_GENERATION, given.max(1).to_string());
}

fn prepare_update(value: &mut Value, old: &Value) {
    let before = old.str_at(&TEMPLATE_GENERATION).parse::<i64>().unwrap_or_default();
    let path = ["spec", "template"];
    let changed = value.at(&path) != old.at(&path);
    value.set_at(&TEMPLATE_GENERATION, (before + i64::from(changed)).to_string());
}

fn default(value: &mut Value) {
    value.default_at(&TEMPLATE_GENERATION, "0");
    let spec = value.member_mut("spec");
    let strategy = spec.member_mut("updateStrategy");
    strategy.default_at(&["type"], "RollingUpdate");
    if strategy.str_at(&["type"]) == "RollingUpdate" {
        strategy.default_at(&["rollingUpdate", "maxUnavailable"], 1);
        strategy.default_at(&["rollingUpdate", "maxSurge"], 0);
    }
    spec.default_at(&["revisionHistoryLimit"], 10);
    defaults::template(Some(spec.member_mut("template")));
}

/// Upstream looks at this first, unlike for other workloads.
fn validate_update(value: &Value, old: &Value, errors: &mut FieldErrors) {
    let mut first = FieldErrors::new();
    workload::same_selector(value, old, &mut first);
    errors.extend_front(first);
}

fn validate(value: &Value, errors: &mut FieldErrors) {
    let empty = Value::object();
    let spec = value.get("spec").unwrap_or(&empty);
    let path = Path::new("spec");
    let at = path.child("selector");
    check::label_selector(spec.get("selector"), &at, errors);
    let template = spec.get("template").unwrap_or(&empty);
    if let Ok(selector) = Selector::from_value(spec.get("selector")) {
        workload::template_labels(&selector, template, &path.child("template"), errors);
    }
    if let Some(selector) = spec.get("selector") {
        workload::not_empty(selector, "daemonset", &at, errors);
    }
    workload::lasting_template(template, "DaemonSet", &path.child("template"), errors);
    check::non_negative(spec, &["minReadySeconds"], &path, errors);
    strategy(spec.get("updateStrategy").unwrap_or(&empty), &path.child("updateStrategy"), errors);
    check::non_negative(spec, &["revisionHistoryLimit"], &path, errors);
}

fn strategy(strategy: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let rolling = strategy.get("rollingUpdate");
    match (strategy.str_at(&["type"]), rolling) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => errors.required(&path.child("rollingUpdate"), ""),
        ("RollingUpdate", Some(rolling)) => {
            rolling_update(rolling, &path.child("rollingUpdate"), errors);
        }
        (odd, rolling) => {
            let fields = [("MaxUnavailable", "maxUnavailable"), ("MaxSurge", "maxSurge")];
            let shown = rolling.map_or_else(|| "null".into(), |it| check::go_struct(it, &fields));
            errors.push(apimachinery::field::FieldError {
                kind: apimachinery::field::ErrorType::NotSupported,
                field: path.to_string(),
                body: format!(
                    "Unsupported value: {{\"Type\":{},\"RollingUpdate\":{shown}}}: supported values: \"RollingUpdate\", \"OnDelete\"",
                    apimachinery::field::quote(odd)
                ),
            });
        }
    }
}

fn rolling_update(rolling: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    let (at, surge_at) = (path.child("maxUnavailable"), path.child("maxSurge"));
    check::int_or_percent(unavailable, &at, errors);
    check::int_or_percent(surge, &surge_at, errors);
    let has = |it| check::int_or_percent_value(it) != 0;
    match (has(unavailable), has(surge)) {
        (true, true) => {
            let detail = "may not be set when maxUnavailable is non-zero";
            errors.invalid(&surge_at, surge.unwrap_or(&Value::Null), detail);
        }
        (false, false) => errors.required(&at, "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
    check::at_most_all(unavailable, &at, errors);
    check::at_most_all(surge, &surge_at, errors);
}

fn validate_status(value: &Value, old: &Value, errors: &mut FieldErrors) {
    let counts = [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ];
    workload::status_counts(value, &counts, errors);
    status::never_less(value, old, "collisionCount", errors);
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = printing::containers(value.at(&["spec", "template", "spec"]));
    let count = |member| printing::count(value, &["status", member]);
    vec![
        value.str_at(&["metadata", "name"]).into(),
        count("desiredNumberScheduled"),
        count("currentNumberScheduled"),
        count("numberReady"),
        count("updatedNumberScheduled"),
        count("numberAvailable"),
        printing::labels(value.at(&["spec", "template", "spec", "nodeSelector"])),
        table::created(value, now),
        names,
        images,
        printing::selector(value.at(&["spec", "selector"])),
    ]
}
