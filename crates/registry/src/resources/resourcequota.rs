//! ResourceQuota.

use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use crate::declaration::{Declaration, MetadataChecks};
use crate::rules::{self, each};
use crate::{Rules, check, table};

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "resourcequotas",
        validate,
        validate_update,
        validate_status,
        row,
        metadata_checks: MetadataChecks::Update,
        rules: Rules { has_status: true, returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

fn validate(quota: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    hard(&quota["spec"], "hard", &path, errors);
    scopes(&quota["spec"], &path, errors);
    if let Some(selector) = quota.at(&["spec", "scopeSelector"]) {
        scope_selector(selector, &path.child("scopeSelector"), errors);
    }
}

fn hard(of: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child(member);
    for (name, text) in rules::quantities(of, member) {
        let at = list.key(name);
        errors.invalid_all(&at, name, rules::quota_resource_name(name));
        rules::amount(name, text, &at, errors);
    }
}

/// Whether a scope can narrow down what is counted of a resource.
fn fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage")
        }
        _ => {
            rules::is_container_resource(resource)
                || resource == "pods"
                || ["requests.", "limits."].iter().any(|prefix| {
                    resource.strip_prefix(prefix).is_some_and(rules::is_container_resource)
                })
        }
    }
}

fn scopes(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("scopes");
    let all = &spec["scopes"];
    let names: Vec<&str> = spec.items_at(&["scopes"]).iter().filter_map(Value::as_str).collect();
    for scope in &names {
        if !SCOPES.contains(scope) {
            errors.invalid(&at, all, "unsupported scope");
        }
        for (resource, _) in rules::quantities(spec, "hard") {
            if rules::is_quota_resource(resource) && !fits(scope, resource) {
                errors.invalid(&at, all, "unsupported scope applied to resource");
            }
        }
    }
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| names.contains(scope)) {
            errors.invalid(&at, all, "conflicting scopes");
        }
    }
}

fn scope_selector(selector: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    each(selector, "matchExpressions", path, errors, |expression, at, errors| {
        let scope = expression.str_at(&["scopeName"]);
        if !SCOPES.contains(&scope) {
            errors.invalid_text(&at.child("scopeName"), scope, "unsupported scope");
        }
        let values = !expression.items_at(&["values"]).is_empty();
        let place = at.child("values");
        match expression.str_at(&["operator"]) {
            "In" | "NotIn" if !values => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&place, detail);
            }
            "Exists" | "DoesNotExist" if values => {
                let detail = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
                errors.invalid(&place, &expression["values"], detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            odd => errors.invalid_text(&at.child("operator"), odd, "not a valid selector operator"),
        }
    });
}

fn validate_update(quota: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let at = path.child("scopes");
    check::immutable(quota.at(&["spec", "scopes"]), old.at(&["spec", "scopes"]), &at, errors);
}

fn validate_status(quota: &Value, _old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("status");
    for member in ["hard", "used"] {
        hard(&quota["status"], member, &path, errors);
    }
}

fn row(quota: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in rules::quantities(&quota["status"], "hard") {
        let used = quota.at(&["status", "used", name]).and_then(Value::as_str).unwrap_or("0");
        let column = if name.starts_with("limits") { &mut limits } else { &mut requests };
        column.push(format!("{name}: {used}/{hard}"));
    }
    vec![
        quota.str_at(&["metadata", "name"]).into(),
        requests.join(", ").into(),
        limits.join(", ").into(),
        table::created(quota, now),
    ]
}
