//! ResourceQuota.

use std::collections::BTreeSet;

use apimachinery::{FieldErrors, Path, Value};
use jiff::Timestamp;

use crate::declaration::{Declaration, MetadataChecks};
use crate::pod_spec::defaults::resource_list;
use crate::{Rules, check, go, rules, table};

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// Scopes that leave nothing to count together.
const CONTRARY: [[&str; 2]; 2] =
    [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

/// Scopes that pods are in or not, without values.
const PLAIN_SCOPES: [&str; 5] =
    ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"];
const EXISTS_ONLY: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "resourcequotas",
        default: |it| {
            for path in [["spec", "hard"], ["status", "hard"], ["status", "used"]] {
                resource_list(it.at_mut(&path));
            }
        },
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
        scope_selector(&quota["spec"], selector, &path.child("scopeSelector"), errors);
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
    for pair in CONTRARY {
        if pair.iter().all(|scope| names.contains(scope)) {
            errors.invalid(&at, all, "conflicting scopes");
        }
    }
}

/// Upstream names the list, not which of its expressions is wrong.
fn scope_selector(spec: &Value, selector: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("matchExpressions");
    let mut names = Vec::new();
    for expression in selector.items_at(&["matchExpressions"]) {
        let scope = expression.str_at(&["scopeName"]);
        if !SCOPES.contains(&scope) {
            errors.invalid_text(&at.child("scopeName"), scope, "unsupported scope");
        }
        for (resource, _) in rules::quantities(spec, "hard") {
            if rules::is_quota_resource(resource) && !fits(scope, resource) {
                let shown = go::compact(selector, go::SCOPE_SELECTOR);
                check::invalid_shown(&at, &shown, "unsupported scope applied to resource", errors);
            }
        }
        scope_operator(scope, expression, &at, errors);
        names.push(scope);
    }
    for pair in CONTRARY {
        if pair.iter().all(|scope| names.contains(scope)) {
            let all = spec.get("scopes").unwrap_or(&Value::Null);
            errors.invalid(&at, all, "conflicting scopes");
        }
    }
}

fn scope_operator(scope: &str, expression: &Value, at: &Path<'_>, errors: &mut FieldErrors) {
    let values = !expression.items_at(&["values"]).is_empty();
    let (operator, place) = (at.child("operator"), at.child("values"));
    let given = expression.str_at(&["operator"]);
    if PLAIN_SCOPES.contains(&scope) && given != "Exists" {
        errors.invalid_text(&operator, given, EXISTS_ONLY);
    }
    match given {
        "In" | "NotIn" if !values => {
            let detail =
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
            errors.required(&place, detail);
        }
        "Exists" | "DoesNotExist" if values => {
            let detail =
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
            errors.invalid(&place, &expression["values"], detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        odd => errors.invalid_text(&operator, odd, "not a valid selector operator"),
    }
}

fn validate_update(quota: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let at = path.child("scopes");
    let scopes = |of: &Value| -> BTreeSet<String> {
        let all = of.items_at(&["spec", "scopes"]).iter();
        all.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if scopes(quota) != scopes(old) {
        errors.invalid(&at, &quota["spec"]["scopes"], "field is immutable");
    }
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
