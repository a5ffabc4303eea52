//! Selectors of lists as authorizers know them: requirements, which reviews have as objects and requests as text.

use apimachinery::labels::Operator;
use apimachinery::{Object, Value, fields, labels};

/// Whether a selector's text can be read.
#[must_use]
pub fn is_readable(text: &str, is_field: bool) -> bool {
    if is_field {
        fields::Selector::parse(text).is_ok()
    } else {
        labels::Selector::parse(text).is_ok()
    }
}

/// A requirement of a review as text; `None` where a selector of that sort cannot say it.
#[must_use]
pub fn term(requirement: &Value, is_field: bool) -> Option<String> {
    let key = requirement.str_at(&["key"]);
    let values: Vec<&str> =
        requirement.items_at(&["values"]).iter().filter_map(Value::as_str).collect();
    let operator = requirement.str_at(&["operator"]);
    if is_field {
        return match (operator, values.as_slice()) {
            ("In", [one]) => Some(format!("{key}={}", fields::escape(one))),
            ("NotIn", [one]) => Some(format!("{key}!={}", fields::escape(one))),
            _ => None,
        };
    }
    let text = match operator {
        "In" => format!("{key} in ({})", values.join(",")),
        "NotIn" => format!("{key} notin ({})", values.join(",")),
        "Exists" => key.to_owned(),
        "DoesNotExist" => format!("!{key}"),
        _ => return None,
    };
    is_readable(&text, false).then_some(text)
}

/// The requirements of a field selector's text; nothing where it cannot be read, or asks for nothing.
#[must_use]
pub fn of_fields(text: &str) -> Option<Value> {
    if text.is_empty() {
        return None;
    }
    let selector = fields::Selector::parse(text).ok()?;
    let all = selector.terms().iter().map(|it| {
        let operator = if it.not { "NotIn" } else { "In" };
        requirement(&it.field, operator, [it.value.as_str()].into_iter())
    });
    listed(all.collect())
}

/// The same of a label selector's.
#[must_use]
pub fn of_labels(text: &str) -> Option<Value> {
    if text.is_empty() {
        return None;
    }
    let selector = labels::Selector::parse(text).ok()?;
    // What compares numbers cannot be said in a review.
    let all = selector.requirements().iter().filter_map(|it| {
        let operator = match it.operator() {
            Operator::In | Operator::Equals | Operator::DoubleEquals => "In",
            Operator::NotIn | Operator::NotEquals => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        Some(requirement(it.key(), operator, it.values().iter().map(|value| value.as_str())))
    });
    listed(all.collect())
}

fn requirement<'v>(
    key: &str,
    operator: &str,
    values: impl ExactSizeIterator<Item = &'v str>,
) -> Value {
    let mut requirement = Object::new();
    requirement.insert("key", key);
    requirement.insert("operator", operator);
    if values.len() > 0 {
        requirement.insert("values", values.collect::<Value>());
    }
    Value::Object(requirement)
}

fn listed(all: Vec<Value>) -> Option<Value> {
    if all.is_empty() {
        return None;
    }
    let mut selector = Object::new();
    selector.insert("requirements", Value::Array(all));
    Some(Value::Object(selector))
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn a_requirement_is_what_its_text_says() {
        for (key, operator, values, is_field, text) in [
            ("spec.nodeName", "In", value!(["n1"]), true, Some("spec.nodeName=n1")),
            ("a", "NotIn", value!(["x"]), true, Some("a!=x")),
            ("a", "In", value!(["x", "y"]), true, None),
            ("a", "Exists", Value::Null, true, None),
            ("a", "In", value!(["x", "y"]), false, Some("a in (x,y)")),
            ("a", "DoesNotExist", Value::Null, false, Some("!a")),
            ("a", "Gt", value!(["1"]), false, None),
            ("a!", "Exists", Value::Null, false, None),
        ] {
            let mut it = value!({"key": key, "operator": operator});
            if !values.is_null() {
                it.set_at(&["values"], values);
            }
            assert_eq!(term(&it, is_field).as_deref(), text, "{it:?}");
            let Some(text) = text else { continue };
            let back = if is_field { of_fields(text) } else { of_labels(text) };
            assert_eq!(back, Some(value!({"requirements": [it]})), "{text}");
        }
        assert_eq!(of_labels("=="), None);
        assert_eq!(of_fields(""), None);
    }
}
