//! Checks that the kinds with pod templates share.

use apimachinery::labels::Selector;
use apimachinery::{FieldErrors, Path, Value};

use crate::check;
use crate::pod_spec::validate;

const MISMATCH: &str = "`selector` does not match template `labels`";

/// Checks a selector that must be there and select something.
pub(super) fn selector(spec: &Value, kind: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("selector");
    let Some(selector) = spec.get("selector") else {
        errors.required(&at, "");
        return;
    };
    check::label_selector(Some(selector), &at, errors);
    not_empty(selector, kind, &at, errors);
}

pub(super) fn not_empty(selector: &Value, kind: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let none = selector.get("matchLabels").is_none()
        && selector.items_at(&["matchExpressions"]).is_empty();
    if none {
        let detail = format!("empty selector is invalid for {kind}");
        check::invalid_selector(path, selector, &detail, errors);
    }
}

/// Checks that the template's labels are selected.
pub(super) fn template_labels(
    selector: &Selector,
    template: &Value,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let labels = template.at(&["metadata", "labels"]);
    if !selector.matches_labels(labels.and_then(Value::as_object)) {
        let metadata = path.child("metadata");
        let at = metadata.child("labels");
        errors.invalid(&at, labels.unwrap_or(&Value::Null), MISMATCH);
    }
}

/// Checks a template whose pods run for ever.
pub(super) fn lasting_template(
    template: &Value,
    kind: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    validate::template(template, path, errors);
    lasting_pods(template, kind, path, errors);
}

/// Checks that the pods of a template run for ever.
pub(super) fn lasting_pods(
    template: &Value,
    kind: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let at = path.child("spec");
    if let Some(spec) = template.get("spec") {
        check::one_of(spec, "restartPolicy", &["Always"], &at, errors);
        if spec.get("activeDeadlineSeconds").is_some() {
            let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
            errors.forbidden(&at.child("activeDeadlineSeconds"), &detail);
        }
    }
}

/// Checks the template of a kind with a label selector; `invalid` is said of a selector that cannot be read.
pub(super) fn selected_template(
    spec: &Value,
    kind: &str,
    invalid: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    match Selector::from_value(spec.get("selector")) {
        Err(_) => {
            check::invalid_selector(&path.child("selector"), &spec["selector"], invalid, errors)
        }
        Ok(selector) => {
            let empty = Value::object();
            let template = spec.get("template").unwrap_or(&empty);
            let at = path.child("template");
            if !selector.is_everything() {
                template_labels(&selector, template, &at, errors);
            }
            lasting_template(template, kind, &at, errors);
        }
    }
}

/// A selector that may not change.
pub(super) fn same_selector(value: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = ["spec", "selector"];
    if value.at(&path) != old.at(&path) {
        let (spec, null) = (Path::new("spec"), Value::Null);
        let selector = value.at(&path).unwrap_or(&null);
        check::invalid_selector(&spec.child("selector"), selector, "field is immutable", errors);
    }
}

/// Counts of a status, none of them negative.
pub(super) fn status_counts(value: &Value, members: &[&str], errors: &mut FieldErrors) {
    if let Some(status) = value.get("status") {
        check::non_negative(status, members, &Path::new("status"), errors);
    }
}

/// A count of a status that may not exceed another.
pub(super) fn at_most(value: &Value, less: &str, more: &str, errors: &mut FieldErrors) {
    let count = |member| value.i64_at(&["status", member]).unwrap_or_default();
    if count(less) > count(more) {
        let detail = format!("cannot be greater than {}", status_name(more));
        let path = Path::new("status");
        errors.invalid(&path.child(less), &count(less).into(), &detail);
    }
}

fn status_name(member: &str) -> String {
    if member == "replicas" { "status.replicas".into() } else { member.to_owned() }
}
