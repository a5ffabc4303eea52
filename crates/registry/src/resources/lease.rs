//! Lease.

use apimachinery::{FieldErrors, Path, Value, validation};
use jiff::Timestamp;

use crate::declaration::{Declaration, MetadataChecks};
use crate::{Rules, check, table};

pub(super) fn resource() -> Declaration {
    Declaration {
        group: "coordination.k8s.io",
        resource: "leases",
        validate,
        row,
        metadata_checks: MetadataChecks::Update,
        rules: Rules {
            create_on_update: true,
            unconditional_update: false,
            ..Declaration::PLAIN.rules
        },
        ..Declaration::PLAIN
    }
}

fn validate(lease: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let spec = &lease["spec"];
    if let Some(seconds) = spec.i64_at(&["leaseDurationSeconds"]).filter(|it| *it <= 0) {
        let at = path.child("leaseDurationSeconds");
        errors.invalid(&at, &seconds.into(), "must be greater than 0");
    }
    check::non_negative(spec, &["leaseTransitions"], &path, errors);
    if let Some(strategy) = spec.get("strategy").and_then(Value::as_str) {
        let at = path.child("strategy");
        errors.invalid_all(&at, strategy, validation::qualified_name(strategy));
    }
    if !spec.str_at(&["preferredHolder"]).is_empty() && spec.str_at(&["strategy"]).is_empty() {
        let at = path.child("preferredHolder");
        errors.forbidden(&at, "may only be specified if `strategy` is defined");
    }
}

fn row(lease: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        lease.str_at(&["metadata", "name"]).into(),
        lease.str_at(&["spec", "holderIdentity"]).into(),
        table::created(lease, now),
    ]
}
