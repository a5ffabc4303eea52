//! Checks of where pods may run: affinity, tolerations, spread.

use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use super::label_keys;
use crate::check;

pub(crate) const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
pub(super) const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Checks the affinity of a pod.
pub(super) fn affinity(affinity: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(it) = affinity.get("nodeAffinity") {
        node_affinity(it, &path.child("nodeAffinity"), errors);
    }
    for member in ["podAffinity", "podAntiAffinity"] {
        if let Some(it) = affinity.get(member) {
            pod_affinity(it, &path.child(member), errors);
        }
    }
}

fn node_affinity(affinity: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(selector) = affinity.get(REQUIRED) {
        node_selector(selector, &path.child(REQUIRED), errors);
    }
    let list = path.child(PREFERRED);
    for (index, term) in affinity.items_at(&[PREFERRED]).iter().enumerate() {
        let at = list.index(index);
        weight(term, &at, errors);
        let empty = Value::object();
        node_term(term.get("preference").unwrap_or(&empty), &at.child("preference"), errors);
    }
}

fn weight(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let weight = term.i64_at(&["weight"]).unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), &weight.into(), "must be in the range 1-100");
    }
}

/// Checks a selector of nodes.
pub(crate) fn node_selector(selector: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let terms = selector.items_at(&["nodeSelectorTerms"]);
    let list = path.child("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&list, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        node_term(term, &list.index(index), errors);
    }
}

fn node_term(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child("matchExpressions");
    for (index, expression) in term.items_at(&["matchExpressions"]).iter().enumerate() {
        node_expression(expression, &list.index(index), errors);
    }
    let list = path.child("matchFields");
    for (index, requirement) in term.items_at(&["matchFields"]).iter().enumerate() {
        node_field(requirement, &list.index(index), errors);
    }
}

fn node_expression(requirement: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let values = requirement.items_at(&["values"]);
    let at = path.child("values");
    match requirement.str_at(&["operator"]) {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&at, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&at, detail);
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&at, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        odd => errors.invalid_text(&path.child("operator"), odd, "not a valid selector operator"),
    }
    let key = requirement.str_at(&["key"]);
    errors.invalid_all(&path.child("key"), key, validation::qualified_name(key));
    for (index, value) in values.iter().enumerate() {
        let text = value.as_str().unwrap_or_default();
        errors.invalid_all(&at.index(index), text, validation::label_value(text));
    }
}

fn node_field(requirement: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let values = requirement.items_at(&["values"]);
    match requirement.str_at(&["operator"]) {
        "In" | "NotIn" if values.len() != 1 => {
            let detail =
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(&path.child("values"), detail);
        }
        "In" | "NotIn" => {}
        odd => errors.invalid_text(&path.child("operator"), odd, "not a valid selector operator"),
    }
    let key = requirement.str_at(&["key"]);
    if key != "metadata.name" {
        errors.invalid_text(&path.child("key"), key, "not a valid field selector key");
        return;
    }
    let at = path.child("values");
    for (index, value) in values.iter().enumerate() {
        let text = value.as_str().unwrap_or_default();
        errors.invalid_all(&at.index(index), text, validation::dns1123_subdomain(text));
    }
}

fn pod_affinity(affinity: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let list = path.child(REQUIRED);
    for (index, term) in affinity.items_at(&[REQUIRED]).iter().enumerate() {
        pod_term(term, &list.index(index), errors);
    }
    let list = path.child(PREFERRED);
    for (index, term) in affinity.items_at(&[PREFERRED]).iter().enumerate() {
        let at = list.index(index);
        weight(term, &at, errors);
        let empty = Value::object();
        pod_term(
            term.get("podAffinityTerm").unwrap_or(&empty),
            &at.child("podAffinityTerm"),
            errors,
        );
    }
}

fn pod_term(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::label_selector(term.get("labelSelector"), &path.child("labelSelector"), errors);
    let at = path.child("namespaceSelector");
    check::label_selector(term.get("namespaceSelector"), &at, errors);
    for name in term.items_at(&["namespaces"]) {
        let text = name.as_str().unwrap_or_default();
        errors.invalid_all(&path.child("namespace"), text, validation::dns1123_label(text));
    }
    label_keys::check(term, path, errors);
    let key = term.str_at(&["topologyKey"]);
    if key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    errors.invalid_all(&path.child("topologyKey"), key, validation::qualified_name(key));
}

/// Checks what taints a pod tolerates.
pub fn tolerations(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    for (index, toleration) in list.iter().enumerate() {
        let at = path.index(index);
        let text = |member| toleration.str_at(&[member]);
        let (key, value, effect) = (text("key"), text("value"), text("effect"));
        if !key.is_empty() {
            errors.invalid_all(&at.child("key"), key, validation::qualified_name(key));
        }
        if key.is_empty() && text("operator") != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid_text(&at.child("operator"), text("operator"), detail);
        }
        if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid_text(&at.child("effect"), effect, detail);
        }
        match text("operator") {
            "Equal" | "" => {
                errors.invalid_all(&at.child("operator"), value, validation::label_value(value));
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.invalid(&at.child("operator"), toleration, detail);
            }
            "Exists" => {}
            _ => check::one_of(toleration, "operator", &["Equal", "Exists"], &at, errors),
        }
        if !effect.is_empty() {
            let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
            check::one_of(toleration, "effect", &effects, &at, errors);
        }
    }
}

/// Checks how pods are spread.
pub(super) fn spread(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, constraint) in list.iter().enumerate() {
        let at = path.index(index);
        let text = |member| constraint.str_at(&[member]);
        let skew = constraint.i64_at(&["maxSkew"]).unwrap_or_default();
        if skew <= 0 {
            errors.invalid(&at.child("maxSkew"), &skew.into(), "must be greater than zero");
        }
        let (key, when) = (text("topologyKey"), text("whenUnsatisfiable"));
        if key.is_empty() {
            errors.required(&at.child("topologyKey"), "can not be empty");
        } else {
            errors.invalid_all(&at.child("topologyKey"), key, validation::qualified_name(key));
        }
        let policies = ["DoNotSchedule", "ScheduleAnyway"];
        check::one_of(constraint, "whenUnsatisfiable", &policies, &at, errors);
        if seen.contains(&(key, when)) {
            let pair = format!("{{{key}, {when}}}");
            errors.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), &pair.into());
        }
        seen.push((key, when));
        min_domains(constraint, when, &at, errors);
        for member in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            check::optional_one_of(constraint, member, &["Honor", "Ignore"], &at, errors);
        }
        label_keys::check(constraint, &at, errors);
        check::label_selector(constraint.get("labelSelector"), &at.child("labelSelector"), errors);
    }
}

fn min_domains(constraint: &Value, when: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(domains) = constraint.i64_at(&["minDomains"]) else { return };
    let at = path.child("minDomains");
    if domains <= 0 {
        errors.invalid(&at, &domains.into(), "must be greater than zero");
    }
    if when != "DoNotSchedule" {
        let detail =
            format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
        errors.invalid(&at, &domains.into(), &detail);
    }
}
