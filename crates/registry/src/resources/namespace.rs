//! Namespace: deleted through the finalizers of its spec, which only the `finalize` subresource changes.

use apimachinery::{FieldErrors, Path, Value, validation};
use compact_str::CompactString;
use jiff::Timestamp;

use crate::declaration::{Declaration, DeletionRule, FieldLabel};
use crate::{Rules, metadata, table};

/// The label that names a namespace for selectors.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The finalizer of the namespace controller.
const FINALIZER: &str = "kubernetes";

/// The selectable fields.
const FIELDS: &[FieldLabel] =
    &[FieldLabel::new("status.phase", |it| CompactString::from(it.str_at(&["status", "phase"])))];

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "namespaces",
        default,
        name: metadata::label_name,
        prepare_create,
        prepare_update,
        prepare_subresource,
        validate,
        validate_status,
        validate_subresource,
        fields: FIELDS,
        row,
        rules: Rules {
            deletion: DeletionRule::Namespace,
            has_status: true,
            returns_deleted: true,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

fn default(value: &mut Value) {
    let name = value.str_at(&["metadata", "name"]).to_owned();
    if !name.is_empty() {
        value.set_at(&["metadata", "labels", NAME_LABEL], name);
    }
    value.default_at(&["status", "phase"], "Active");
}

fn prepare_create(value: &mut Value) {
    // Names are generated after defaulting.
    default(value);
    value.set_at(&["status", "phase"], "Active");
    let finalizers = value.items_at(&["spec", "finalizers"]).to_vec();
    if !finalizers.iter().any(|it| it.as_str() == Some(FINALIZER)) {
        let all: Value = finalizers.into_iter().chain([Value::from(FINALIZER)]).collect();
        value.set_at(&["spec", "finalizers"], all);
    }
}

fn keep(value: &mut Value, old: &Value, member: &str) {
    match old.get(member) {
        Some(before) => value.set_at(&[member], before.clone()),
        None => {
            value.remove_at(&[member]);
        }
    }
}

fn prepare_update(value: &mut Value, old: &Value) {
    keep(value, old, "spec");
}

fn prepare_subresource(_name: &str, value: &mut Value, old: &Value) {
    keep(value, old, "status");
}

fn validate(value: &Value, errors: &mut FieldErrors) {
    let spec = Path::new("spec");
    let path = spec.child("finalizers");
    for finalizer in value.items_at(&["spec", "finalizers"]).iter().filter_map(Value::as_str) {
        errors.invalid_all(&path, finalizer, validation::core_finalizer_name(finalizer));
    }
}

fn validate_status(value: &Value, _old: &Value, errors: &mut FieldErrors) {
    let status = Path::new("status");
    let phase = value.str_at(&["status", "phase"]);
    let deleting = value.at(&["metadata", "deletionTimestamp"]).is_some();
    // Upstream writes the member so.
    let path = status.child("Phase");
    if !deleting && phase != "Active" {
        errors.invalid_text(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
    }
    if deleting && phase != "Terminating" {
        errors.invalid_text(
            &path,
            phase,
            "may only be 'Terminating' if `deletionTimestamp` is not empty",
        );
    }
}

fn validate_subresource(_name: &str, value: &Value, _old: &Value, errors: &mut FieldErrors) {
    let spec = Path::new("spec");
    let path = spec.child("finalizers");
    for (index, finalizer) in value.items_at(&["spec", "finalizers"]).iter().enumerate() {
        let text = finalizer.as_str().unwrap_or_default();
        errors.invalid_all(&path.index(index), text, validation::core_finalizer_name(text));
    }
}

fn row(value: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        value.str_at(&["metadata", "name"]).into(),
        value.str_at(&["status", "phase"]).into(),
        table::created(value, now),
    ]
}
