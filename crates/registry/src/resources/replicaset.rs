//! ReplicaSet.

use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use crate::Rules;

use super::{printing, workload};
use crate::check;
use crate::declaration::{Declaration, MetadataChecks, Scale};
use crate::pod_spec::defaults;

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "apps",
        resource: "replicasets",
        warnings: |it, old| {
            crate::pod_spec::warnings::of_workload(it, old, &["spec", "template"], true)
        },
        default,
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
    value.default_at(&["spec", "replicas"], 1);
    defaults::template(Some(value.member_mut("spec").member_mut("template")));
}

fn validate(value: &Value, errors: &mut FieldErrors) {
    let empty = Value::object();
    let spec = value.get("spec").unwrap_or(&empty);
    let path = Path::new("spec");
    check::non_negative(spec, &["replicas", "minReadySeconds"], &path, errors);
    workload::selector(spec, "deployment", &path, errors);
    workload::selected_template(spec, "ReplicaSet", "invalid label selector", &path, errors);
}

/// Checks the counts that replica sets and replication controllers report.
pub(super) fn validate_status(value: &Value, _old: &Value, errors: &mut FieldErrors) {
    let counts = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ];
    workload::status_counts(value, &counts, errors);
    for less in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        workload::at_most(value, less, "replicas", errors);
    }
    workload::at_most(value, "availableReplicas", "readyReplicas", errors);
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    printing::replicas_row(value, now, printing::selector(value.at(&["spec", "selector"])))
}
