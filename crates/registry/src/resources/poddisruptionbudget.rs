//! PodDisruptionBudget.

use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use super::workload;
use crate::declaration::{Declaration, MetadataChecks};
use crate::{check, status, table};

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "policy",
        resource: "poddisruptionbudgets",
        // Upstream checks of the name of a budget only that it can stand in a path.
        name: crate::metadata::path_segment_name,
        validate,
        validate_status,
        row,
        metadata_checks: MetadataChecks::None,
        ..Declaration::SPEC_AND_STATUS
    }
}

fn validate(value: &Value, errors: &mut FieldErrors) {
    let empty = Value::object();
    let spec = value.get("spec").unwrap_or(&empty);
    let path = Path::new("spec");
    if spec.get("minAvailable").is_some() && spec.get("maxUnavailable").is_some() {
        let fields = [
            ("MinAvailable", "minAvailable"),
            ("Selector", "selector"),
            ("MaxUnavailable", "maxUnavailable"),
            ("UnhealthyPodEvictionPolicy", "unhealthyPodEvictionPolicy"),
        ];
        let detail = "minAvailable and maxUnavailable cannot be both set";
        check::invalid_shown(&path, &check::go_struct(spec, &fields), detail, errors);
    }
    for member in ["minAvailable", "maxUnavailable"] {
        let at = path.child(member);
        check::int_or_percent(spec.get(member), &at, errors);
        check::at_most_all(spec.get(member), &at, errors);
    }
    check::label_selector(spec.get("selector"), &path.child("selector"), errors);
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    check::optional_one_of(spec, "unhealthyPodEvictionPolicy", &policies, &path, errors);
}

fn validate_status(value: &Value, _old: &Value, errors: &mut FieldErrors) {
    status::conditions(&value["status"], &Path::new("status"), errors);
    let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
    workload::status_counts(value, &counts, errors);
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    let bound = |member: &str| match value.at(&["spec", member]) {
        Some(Value::String(text)) => Value::String(text.clone()),
        Some(Value::Int(number)) => number.to_string().into(),
        _ => "N/A".into(),
    };
    vec![
        value.str_at(&["metadata", "name"]).into(),
        bound("minAvailable"),
        bound("maxUnavailable"),
        super::printing::count(value, &["status", "disruptionsAllowed"]),
        table::created(value, now),
    ]
}
