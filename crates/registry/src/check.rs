//! Checks of single fields that many kinds share, in upstream's words. Each adds what is wrong to a collection.

use apimachinery::quantity::Quantity;
use apimachinery::validation::{self, Problems};
use apimachinery::{FieldErrors, Path, Value};

use crate::metadata;

pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// A text that must be there; says whether it is.
pub(crate) fn required_text(
    of: &Value,
    member: &str,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) -> bool {
    let there = !of.str_at(&[member]).is_empty();
    if !there {
        errors.required(&path.child(member), "");
    }
    there
}

/// A text that must be there and follow a rule.
pub(crate) fn required_name(
    of: &Value,
    member: &str,
    rule: fn(&str) -> Problems,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if required_text(of, member, path, errors) {
        let text = of.str_at(&[member]);
        errors.invalid_all(&path.child(member), text, rule(text));
    }
}

/// A text that must follow a rule where it is not empty.
pub(crate) fn optional_name(
    of: &Value,
    member: &str,
    rule: fn(&str) -> Problems,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let text = of.str_at(&[member]);
    if !text.is_empty() {
        errors.invalid_all(&path.child(member), text, rule(text));
    }
}

/// A text that is not empty where it is given.
pub(crate) fn not_empty(of: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if of.get(member).and_then(Value::as_str) == Some("") {
        errors.required(&path.child(member), "");
    }
}

/// A text that must follow a rule where it is given, empty or not.
pub(crate) fn given_name(
    of: &Value,
    member: &str,
    rule: fn(&str) -> Problems,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if let Some(text) = of.get(member).and_then(Value::as_str) {
        errors.invalid_all(&path.child(member), text, rule(text));
    }
}

/// Numbers that may not be negative where they are given.
pub(crate) fn non_negative(
    of: &Value,
    members: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    for member in members {
        if let Some(number) = of.i64_at(&[member]).filter(|it| *it < 0) {
            errors.invalid(&path.child(member), &Value::from(number), NOT_NEGATIVE);
        }
    }
}

/// A text that is one of those supported; absence is none of them.
pub(crate) fn one_of(
    of: &Value,
    member: &str,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let text = of.str_at(&[member]);
    if !supported.contains(&text) {
        errors.not_supported(&path.child(member), &text.into(), supported.iter().copied());
    }
}

/// A text that is one of those supported, where it is given.
pub(crate) fn optional_one_of(
    of: &Value,
    member: &str,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if of.get(member).is_some() {
        one_of(of, member, supported, path, errors);
    }
}

/// A label selector, if it is there.
pub(crate) fn label_selector(selector: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(selector) = selector else { return };
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        metadata::labels(labels, &path.child("matchLabels"), errors);
    }
    let list = path.child("matchExpressions");
    for (index, expression) in selector.items_at(&["matchExpressions"]).iter().enumerate() {
        selector_requirement(expression, &list.index(index), errors);
    }
}

fn selector_requirement(requirement: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
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
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        odd => errors.invalid_text(&path.child("operator"), odd, "not a valid selector operator"),
    }
    let key = requirement.str_at(&["key"]);
    errors.invalid_all(&path.child("key"), key, validation::qualified_name(key));
    for (index, value) in values.iter().enumerate() {
        let text = value.as_str().unwrap_or_default();
        errors.invalid_all(&at.index(index), text, validation::label_value(text));
    }
}

/// Labels of a map that is a field of its own.
pub(crate) fn label_map(map: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(labels) = map.and_then(Value::as_object) {
        metadata::labels(labels, path, errors);
    }
}

/// A number or the name of a port.
pub(crate) fn port(port: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    match port {
        Some(Value::String(name)) => {
            errors.invalid_all(path, name, validation::port_name(name));
        }
        other => port_number(other.and_then(Value::as_i64).unwrap_or_default(), path, errors),
    }
}

/// The number of a port.
pub(crate) fn port_number(number: i64, path: &Path<'_>, errors: &mut FieldErrors) {
    for problem in validation::port_number(number) {
        errors.invalid(path, &number.into(), &problem);
    }
}

/// A count that is not negative, or a percentage.
pub(crate) fn int_or_percent(value: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    match value {
        Some(Value::String(text)) => errors.invalid_all(path, text, validation::percent(text)),
        Some(Value::Int(number)) if *number < 0 => {
            errors.invalid(path, &Value::Int(*number), NOT_NEGATIVE);
        }
        _ => {}
    }
}

/// A percentage of at most a hundred.
pub(crate) fn at_most_all(value: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    let percent = text.strip_suffix('%').and_then(|it| it.parse::<i64>().ok());
    if percent.is_some_and(|it| it > 100) {
        errors.invalid_text(path, text, "must not be greater than 100%");
    }
}

/// The count of a number or percentage, where it can be read: upstream takes percentages as numbers here.
pub(crate) fn int_or_percent_value(value: Option<&Value>) -> i64 {
    match value {
        Some(Value::Int(number)) => *number,
        Some(Value::String(text)) => {
            text.strip_suffix('%').and_then(|it| it.parse().ok()).unwrap_or_default()
        }
        _ => 0,
    }
}

/// A quantity that is not negative.
pub(crate) fn non_negative_quantity(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if Quantity::parse(text).is_ok_and(|it| it.sign() < 0) {
        errors.invalid_text(path, text, NOT_NEGATIVE);
    }
}

/// A field that may not change. Absence counts as `null`.
pub(crate) fn immutable(
    now: Option<&Value>,
    before: Option<&Value>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if now != before {
        errors.invalid(path, now.unwrap_or(&Value::Null), "field is immutable");
    }
}

/// The value as Go writes a type without JSON names: the given fields, in their order, by their Go names.
pub(crate) fn go_struct(of: &Value, fields: &[(&str, &str)]) -> String {
    let members: Vec<String> = fields
        .iter()
        .map(|(go, json)| {
            let value = &of[*json];
            let text = if *json == "selector" && !value.is_null() {
                selector_text(value)
            } else {
                apimachinery::json::to_string(value)
            };
            format!("\"{go}\":{text}")
        })
        .collect();
    format!("{{{}}}", members.join(","))
}

/// That an item stands twice in its list, shown as upstream shows it.
pub(crate) fn duplicate_shown(path: &Path<'_>, shown: &str, errors: &mut FieldErrors) {
    errors.push(apimachinery::field::FieldError {
        kind: apimachinery::field::ErrorType::Duplicate,
        field: path.to_string(),
        body: format!("Duplicate value: {shown}"),
    });
}

/// An error whose value is not at hand as one: `Invalid value: {"Type":...}: detail`.
pub(crate) fn invalid_shown(path: &Path<'_>, shown: &str, detail: &str, errors: &mut FieldErrors) {
    errors.push(apimachinery::field::FieldError {
        kind: apimachinery::field::ErrorType::Invalid,
        field: path.to_string(),
        body: format!(
            "Invalid value: {shown}{}{detail}",
            if detail.is_empty() { "" } else { ": " }
        ),
    });
}

/// An error whose value is not shown: `Invalid value: detail`.
pub(crate) fn invalid_unshown(path: &Path<'_>, detail: &str, errors: &mut FieldErrors) {
    invalid_shown(path, detail, "", errors);
}

/// A struct that is none of those supported: `Unsupported value: {"Type":...}: supported values: ...`.
pub(crate) fn not_supported_shown(
    path: &Path<'_>,
    shown: &str,
    supported: &[&str],
    errors: &mut FieldErrors,
) {
    let supported: Vec<String> = supported.iter().map(|it| format!("{it:?}")).collect();
    errors.push(apimachinery::field::FieldError {
        kind: apimachinery::field::ErrorType::NotSupported,
        field: path.to_string(),
        body: format!("Unsupported value: {shown}: supported values: {}", supported.join(", ")),
    });
}

/// A label selector as upstream shows it: labels before expressions.
pub(crate) fn selector_text(selector: &Value) -> String {
    if selector.is_null() {
        return "null".into();
    }
    let members: Vec<String> = ["matchLabels", "matchExpressions"]
        .iter()
        .filter_map(|name| Some((name, selector.get(name)?)))
        .map(|(name, it)| format!("\"{name}\":{}", apimachinery::json::to_string(it)))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// `spec.selector: Invalid value: {"matchLabels":...}: detail`
pub(crate) fn invalid_selector(
    path: &Path<'_>,
    selector: &Value,
    detail: &str,
    errors: &mut FieldErrors,
) {
    invalid_shown(path, &selector_text(selector), detail, errors);
}
