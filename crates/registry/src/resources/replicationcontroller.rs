//! ReplicationController.

use apimachinery::labels::Selector;
use apimachinery::{FieldErrors, Path, Value};
use compact_str::CompactString;
use jiff::Timestamp;

use super::{printing, replicaset, workload};
use crate::Rules;
use crate::check;
use crate::declaration::{Declaration, FieldLabel, MetadataChecks, Scale};
use crate::pod_spec::defaults;

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "replicationcontrollers",
        warnings: |it, old| {
            crate::pod_spec::warnings::of_workload(it, old, &["spec", "template"], true)
        },
        prefix: "controllers",
        default,
        validate,
        validate_status: replicaset::validate_status,
        fields: FIELDS,
        row,
        rules: Rules {
            scale: Some(Scale::REPLICAS),
            orphans: true,
            ..Declaration::SPEC_AND_STATUS.rules
        },
        metadata_checks: MetadataChecks::Update,
        ..Declaration::SPEC_AND_STATUS
    }
}

/// The count of pods that there are.
const FIELDS: &[FieldLabel] = &[FieldLabel::new("status.replicas", |value| {
    let count = value.i64_at(&["status", "replicas"]).unwrap_or_default();
    CompactString::from(count.to_string())
})];

fn default(value: &mut Value) {
    let labels = value.at(&["spec", "template", "metadata", "labels"]).cloned();
    if let Some(labels) = labels {
        value.default_at(&["spec", "selector"], labels.clone());
        value.default_at(&["metadata", "labels"], labels);
    }
    value.default_at(&["spec", "replicas"], 1);
    defaults::template(value.at_mut(&["spec", "template"]));
}

fn validate(value: &Value, errors: &mut FieldErrors) {
    let empty = Value::object();
    let spec = value.get("spec").unwrap_or(&empty);
    let path = Path::new("spec");
    check::non_negative(spec, &["minReadySeconds"], &path, errors);
    let selector = spec.get("selector").and_then(Value::as_object);
    if selector.is_none_or(|it| it.is_empty()) {
        errors.required(&path.child("selector"), "");
    }
    check::non_negative(spec, &["replicas"], &path, errors);
    let at = path.child("template");
    let Some(template) = spec.get("template") else {
        errors.required(&at, "");
        return;
    };
    if let Some(labels) = selector.filter(|it| !it.is_empty()) {
        workload::template_labels(&Selector::from_labels(labels), template, &at, errors);
    }
    workload::lasting_template(template, "ReplicationController", &at, errors);
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    printing::replicas_row(value, now, printing::labels(value.at(&["spec", "selector"])))
}
