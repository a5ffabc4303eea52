//! Deployment.

use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use super::{printing, workload};
use crate::declaration::{Declaration, MetadataChecks, Scale};
use crate::pod_spec::defaults;
use crate::table;
use crate::{Rules, check, go, status};

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "apps",
        resource: "deployments",
        warnings: |it, old| {
            crate::pod_spec::warnings::of_workload(it, old, &["spec", "template"], true)
        },
        default,
        prepare_update,
        prepare_status: |it, old| status::keep_members(it, old, &["labels"]),
        validate,
        validate_update: workload::same_selector,
        validate_status,
        row,
        rules: Rules { scale: Some(Scale::REPLICAS), ..Declaration::SPEC_AND_STATUS.rules },
        metadata_checks: MetadataChecks::Update,
        ..Declaration::SPEC_AND_STATUS
    }
}

fn default(value: &mut Value) {
    let spec = value.member_mut("spec");
    spec.default_at(&["replicas"], 1);
    let strategy = spec.member_mut("strategy");
    strategy.default_at(&["type"], "RollingUpdate");
    if strategy.str_at(&["type"]) == "RollingUpdate" {
        strategy.default_at(&["rollingUpdate", "maxUnavailable"], "25%");
        strategy.default_at(&["rollingUpdate", "maxSurge"], "25%");
    }
    spec.default_at(&["revisionHistoryLimit"], 10);
    spec.default_at(&["progressDeadlineSeconds"], 600);
    defaults::template(Some(spec.member_mut("template")));
}

/// Annotations count as a change of what is wanted: they are copied to the replica sets.
fn prepare_update(value: &mut Value, old: &Value) {
    let path = ["metadata", "annotations"];
    if value.at(&path) != old.at(&path) {
        let generation = old.i64_at(&["metadata", "generation"]).unwrap_or_default();
        value.set_at(&["metadata", "generation"], generation + 1);
    }
}

fn validate(value: &Value, errors: &mut FieldErrors) {
    let empty = Value::object();
    let spec = value.get("spec").unwrap_or(&empty);
    let path = Path::new("spec");
    check::non_negative(spec, &["replicas"], &path, errors);
    workload::selector(spec, "deployment", &path, errors);
    workload::selected_template(spec, "ReplicaSet", "invalid label selector", &path, errors);
    strategy(spec.get("strategy").unwrap_or(&empty), &path.child("strategy"), errors);
    let counts = ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
    check::non_negative(spec, &counts, &path, errors);
    if let Some(deadline) = spec.i64_at(&["progressDeadlineSeconds"])
        && deadline <= spec.i64_at(&["minReadySeconds"]).unwrap_or_default()
    {
        let detail = "must be greater than minReadySeconds";
        errors.invalid(&path.child("progressDeadlineSeconds"), &deadline.into(), detail);
    }
}

fn strategy(strategy: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("rollingUpdate");
    let rolling = strategy.get("rollingUpdate");
    match (strategy.str_at(&["type"]), rolling) {
        ("Recreate", Some(_)) => {
            errors.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
        }
        ("Recreate", None) => {}
        ("RollingUpdate", None) => {
            errors.required(&at, "this should be defaulted and never be nil");
        }
        ("RollingUpdate", Some(rolling)) => rolling_update(rolling, &at, errors),
        _ => {
            let shown = go::compact(strategy, go::DEPLOYMENT_STRATEGY);
            check::not_supported_shown(path, &shown, &["Recreate", "RollingUpdate"], errors);
        }
    }
}

fn rolling_update(rolling: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    let at = path.child("maxUnavailable");
    check::int_or_percent(unavailable, &at, errors);
    check::int_or_percent(surge, &path.child("maxSurge"), errors);
    if check::int_or_percent_value(unavailable) == 0 && check::int_or_percent_value(surge) == 0 {
        let given = unavailable.cloned().unwrap_or(Value::Int(0));
        errors.invalid(&at, &given, "may not be 0 when `maxSurge` is 0");
    }
    check::at_most_all(unavailable, &at, errors);
}

fn validate_status(value: &Value, old: &Value, errors: &mut FieldErrors) {
    let counts = [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ];
    workload::status_counts(value, &counts, errors);
    for less in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
        workload::at_most(value, less, "replicas", errors);
    }
    workload::at_most(value, "availableReplicas", "readyReplicas", errors);
    status::never_less(value, old, "collisionCount", errors);
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = printing::containers(value.at(&["spec", "template", "spec"]));
    let count = |path: &[&str]| value.i64_at(path).unwrap_or_default();
    let ready = format!("{}/{}", count(&["status", "readyReplicas"]), count(&["spec", "replicas"]));
    vec![
        value.str_at(&["metadata", "name"]).into(),
        ready.into(),
        printing::count(value, &["status", "updatedReplicas"]),
        printing::count(value, &["status", "availableReplicas"]),
        table::created(value, now),
        names,
        images,
        printing::selector(value.at(&["spec", "selector"])),
    ]
}
