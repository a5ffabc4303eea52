//! Whether an applied object fits its type; apply refuses what an update would only warn of.

use std::collections::BTreeSet;

use super::compare::item_step;
use super::merge::{Type, list_type};
use super::path_text;
use crate::patch::{go_syntax, go_text};
use crate::schema::{List, Node, Schema};
use crate::value::Value;

/// What does not fit, in upstream's words; `None` where all does.
pub(super) fn problems(schema: &Schema, node: Type, object: &Value) -> Option<String> {
    let mut checker = Checker { schema, path: Vec::new(), problems: Vec::new() };
    checker.check(node, object);
    match checker.problems.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("errors:\n  {}", many.join("\n  "))),
    }
}

struct Checker<'s> {
    schema: &'s Schema,
    path: Vec<String>,
    problems: Vec<String>,
}

impl Checker<'_> {
    fn report(&mut self, problem: &str) {
        let steps: Vec<&str> = self.path.iter().map(String::as_str).collect();
        self.problems.push(format!("{}: {problem}", path_text(&steps)));
    }

    fn below(&mut self, step: String, node: Type, value: &Value) {
        self.path.push(step);
        self.check(node, value);
        self.path.pop();
    }

    fn check(&mut self, node: Type, value: &Value) {
        let schema = self.schema;
        let Some(id) = node else { return };
        if value.is_null() {
            return;
        }
        match (schema.node(id), value) {
            (Node::Struct(it), Value::Object(object)) => {
                for (name, member) in object.iter() {
                    match it.field(name) {
                        Some(field) => self.below(format!("f:{name}"), Some(field.node), member),
                        None if it.preserve_unknown => {}
                        None => {
                            self.path.push(format!("f:{name}"));
                            self.report("field not declared in schema");
                            self.path.pop();
                        }
                    }
                }
            }
            (Node::Map(it), Value::Object(object)) => {
                for (name, member) in object.iter() {
                    self.below(format!("f:{name}"), Some(it.value), member);
                }
            }
            (Node::Struct(_) | Node::Map(_), other) => {
                self.report(&format!("expected map, got &{{{}}}", go_text(other)));
            }
            (Node::List(it), Value::Array(items)) => self.items(it, node, items),
            (Node::List(_), other) => {
                self.report(&format!("expected list, got &{{{}}}", go_text(other)));
            }
            (Node::Int32 | Node::Int64 | Node::Float64, Value::Int(_) | Value::Float(_)) => {}
            (Node::Int32 | Node::Int64 | Node::Float64, other) => {
                let found = other.go_type();
                self.report(&format!("expected numeric (int or float), got {found}"));
            }
            (Node::Bool, Value::Bool(_)) => {}
            (Node::Bool, other) => {
                self.report(&format!("expected boolean, got &{{{}}}", go_text(other)));
            }
            (
                Node::String | Node::Bytes | Node::Time | Node::MicroTime | Node::Duration,
                Value::String(_),
            ) => {}
            (Node::String | Node::Bytes | Node::Time | Node::MicroTime | Node::Duration, other) => {
                let shown = go_syntax(other);
                self.report(&format!(
                    "expected string, got &value.valueUnstructured{{Value:{shown}}}"
                ));
            }
            (Node::Quantity | Node::IntOrString, Value::Array(_) | Value::Object(_)) => {
                self.report(&format!("expected any scalar, got &{{{}}}", go_text(value)));
            }
            (
                Node::Quantity
                | Node::IntOrString
                | Node::RawExtension
                | Node::FieldsV1
                | Node::Any
                | Node::SchemaOrBool(_)
                | Node::SchemaOrArray(_)
                | Node::SchemaOrStrings(_),
                _,
            ) => {}
        }
    }

    fn items(&mut self, list: &List, node: Type, items: &[Value]) {
        let separate = list_type(self.schema, node).is_some();
        let mut seen = BTreeSet::new();
        for (index, item) in items.iter().enumerate() {
            if !separate {
                self.below(format!("i:{index}"), Some(list.item), item);
                continue;
            }
            if let Some(problem) = unnamed(self.schema, list, item) {
                // What cannot be named cannot be told of either, nor what follows.
                return self.report(&format!("element {index}: {problem}"));
            }
            let step = item_step(self.schema, list, item);
            if !seen.insert(step.clone()) {
                let key = path_text(&[&step]);
                self.report(&format!("duplicate entries for key {key}"));
            }
            self.below(step.to_string(), Some(list.item), item);
        }
    }
}

/// Why an item of a list of separate items has no name; `None` where it has one.
pub(super) fn unnamed(schema: &Schema, list: &List, item: &Value) -> Option<String> {
    if list.keys.is_empty() {
        let why = match item {
            Value::Object(_) => "associative list without keys has an element that's a map type",
            Value::Array(_) => "not supported: associative list with lists as elements",
            Value::Null => "associative list without keys has an element that's an explicit null",
            Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => return None,
        };
        return Some(why.into());
    }
    match item {
        Value::Object(object) => list.missing_key(schema, object).map(|key| {
            let key = crate::field::quote(key);
            format!(
                "associative list with keys has an element that omits key field {key} \
                 (and doesn't have default value)"
            )
        }),
        Value::Null => Some("associative list with keys may not have a null element".into()),
        _ => Some("associative list with keys may not have non-map elements".into()),
    }
}
