//! PriorityClass.

use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use crate::declaration::{Declaration, Generation, MetadataChecks};
use crate::pod_spec::validate;
use crate::{Rules, table};

/// The highest value that people may give; above it stand the two that the system has.
const USER_MAX: i64 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
const SYSTEM: &[(&str, i64)] =
    &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "scheduling.k8s.io",
        resource: "priorityclasses",
        default: |it| {
            it.default_at(&["preemptionPolicy"], "PreemptLowerPriority");
        },
        validate,
        validate_update,
        metadata_checks: MetadataChecks::Update,
        row,
        rules: Rules { generation: Generation::Fixed, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn validate(class: &Value, errors: &mut FieldErrors) {
    let root = Path::new("");
    let name = class.str_at(&["metadata", "name"]);
    let value = class.i64_at(&["value"]).unwrap_or_default();
    let metadata = root.child("metadata");
    if name.starts_with(SYSTEM_PREFIX) {
        let known = SYSTEM.iter().any(|(it, number)| *it == name && *number == value);
        if !known {
            let detail = format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {name} is not a known system priority class"
            );
            errors.forbidden(&metadata.child("name"), &detail);
        }
    } else if value > USER_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_MAX}");
        errors.forbidden(&root.child("value"), &detail);
    }
    validate::preemption_policy(class, &root, errors);
}

fn validate_update(class: &Value, old: &Value, errors: &mut FieldErrors) {
    let root = Path::new("");
    let number = |it: &Value| it.i64_at(&["value"]).unwrap_or_default();
    if number(class) != number(old) {
        errors.forbidden(&root.child("value"), "may not be changed in an update.");
    }
    crate::rules::immutable(class, old, "preemptionPolicy", &root, errors);
}

fn row(class: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        class.str_at(&["metadata", "name"]).into(),
        class.i64_at(&["value"]).unwrap_or_default().into(),
        class.bool_at(&["globalDefault"]).into(),
        table::created(class, now),
        class.str_at(&["preemptionPolicy"]).into(),
    ]
}
