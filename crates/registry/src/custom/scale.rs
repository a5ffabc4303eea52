//! What a scale subresource needs: numbers and text where the definition says they are.

use apimachinery::field::{ErrorType, FieldError};
use apimachinery::patch::go_text;
use apimachinery::{FieldErrors, Value, json};

use crate::declaration::Scale;

/// Checks the wanted count.
pub(super) fn check_spec(scale: &Scale, object: &Value, errors: &mut FieldErrors) {
    replicas(scale.spec_replicas, object, errors);
}

/// Checks the present count and the selector.
pub(super) fn check_status(scale: &Scale, object: &Value, errors: &mut FieldErrors) {
    replicas(scale.status_replicas, object, errors);
    if scale.selector.is_empty() {
        return;
    }
    match nested(scale.selector, object) {
        Ok(None | Some(Value::String(_))) => {}
        Ok(Some(other)) => {
            let detail = wrong(scale.selector, other, "string");
            invalid(scale.selector, &"".into(), &detail, errors);
        }
        Err(detail) => invalid(scale.selector, &"".into(), &detail, errors),
    }
}

fn replicas(path: &[&str], object: &Value, errors: &mut FieldErrors) {
    match nested(path, object) {
        Ok(None) => {}
        Ok(Some(Value::Int(count))) if *count < 0 => {
            invalid(path, &Value::Int(*count), "should be a non-negative integer", errors);
        }
        Ok(Some(Value::Int(count))) if i32::try_from(*count).is_err() => {
            let detail = format!("should be less than or equal to {}", i32::MAX);
            invalid(path, &Value::Int(*count), &detail, errors);
        }
        Ok(Some(Value::Int(_))) => {}
        Ok(Some(other)) => invalid(path, &0.into(), &wrong(path, other, "int64"), errors),
        Err(detail) => invalid(path, &0.into(), &detail, errors),
    }
}

fn dotted(path: &[&str]) -> String {
    path.iter().fold(String::new(), |text, it| text + "." + it)
}

fn invalid(path: &[&str], value: &Value, detail: &str, errors: &mut FieldErrors) {
    let body = format!("Invalid value: {}: {detail}", json::to_string(value));
    errors.push(FieldError { kind: ErrorType::Invalid, field: dotted(path), body });
}

/// The value at a path; an error where something on the way is no object.
fn nested<'v>(path: &[&str], object: &'v Value) -> Result<Option<&'v Value>, String> {
    let mut value = object;
    for (index, step) in path.iter().enumerate() {
        match value {
            Value::Null => return Ok(None),
            Value::Object(it) => match it.get(step) {
                Some(member) => value = member,
                None => return Ok(None),
            },
            other => return Err(wrong(&path[..=index], other, "map[string]interface{}")),
        }
    }
    Ok(Some(value))
}

fn wrong(path: &[&str], value: &Value, wanted: &str) -> String {
    let found = value.go_type();
    let (path, shown) = (dotted(path), go_text(value));
    format!("{path} accessor error: {shown} is of the type {found}, expected {wanted}")
}
