//! Lists whose items are told apart by value or by key may not have one twice; objects in objects say what they are.

use apimachinery::schema::ListKind;
use apimachinery::{FieldErrors, Object, Path, Value, validation};

use super::check::second_places;
use super::schema::Node;
use crate::metadata;

/// Checks every list below.
pub(super) fn check(root: &Node, value: &Value, errors: &mut FieldErrors) {
    below(root, value, &Path::new(""), errors);
}

/// Whether a list below has an item twice.
pub(super) fn has_repeated(root: &Node, value: &Value) -> bool {
    let mut errors = FieldErrors::new();
    check(root, value, &mut errors);
    !errors.is_empty()
}

fn below(node: &Node, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !node.below.unique_lists {
        return;
    }
    match value {
        Value::Object(object) => {
            for (name, member) in object.iter() {
                match (node.property(name), node.member(name)) {
                    (Some(of), _) => below(of, member, &path.child(name), errors),
                    (None, Some(of)) => below(of, member, &path.key(name), errors),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            match node.list {
                ListKind::Set => repeated(items, items, path, errors),
                ListKind::Map => map(node, items, path, errors),
                ListKind::Atomic => {}
            }
            if let Some(of) = &node.items {
                for (index, item) in items.iter().enumerate() {
                    below(of, item, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

/// Tells of the second of equal keys, and no further one.
fn repeated(keys: &[Value], shown: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    for index in second_places(keys.iter()) {
        errors.duplicate(&path.index(index), &shown[index]);
    }
}

fn map(node: &Node, items: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let odd = |it: &Value| !it.is_null() && it.as_object().is_none();
    if let Some(index) = items.iter().position(odd) {
        let detail = "must be an object for an array of list-type map";
        return errors.invalid(&path.index(index), &items[index], detail);
    }
    let key_of = |item: &Value| -> Value {
        let found = node.keys.iter().filter_map(|key| Some((key.as_str(), item.get(key)?)));
        let mut keys = Object::new();
        found.for_each(|(name, it)| {
            keys.insert(name, it.clone());
        });
        Value::Object(keys)
    };
    let keys: Vec<Value> = items.iter().map(key_of).collect();
    repeated(&keys, &keys, path, errors);
}

/// Checks that objects within the object say what they are.
pub(super) fn embedded(node: &Node, value: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !node.below.embedded {
        return;
    }
    match value {
        Value::Object(object) => {
            if node.embedded {
                kind(object, path, errors);
                if let Some(metadata) = object.get("metadata").filter(|_| !is_whole(path)) {
                    metadata::validate_embedded(metadata, &path.child("metadata"), errors);
                }
            }
            for (name, member) in object.iter() {
                match (node.property(name), node.member(name)) {
                    (Some(of), _) => embedded(of, member, &path.child(name), errors),
                    (None, Some(of)) => embedded(of, member, &path.key(name), errors),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(of) = &node.items {
                for (index, item) in items.iter().enumerate() {
                    embedded(of, item, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

/// Whether this is the path of the whole object, whose metadata is looked at elsewhere.
fn is_whole(path: &Path<'_>) -> bool {
    path.to_string().is_empty()
}

fn kind(object: &Object, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in ["apiVersion", "kind"] {
        let at = path.child(member);
        match object.get(member) {
            None => errors.required(&at, ""),
            Some(Value::String(text)) if text.is_empty() => {
                errors.invalid_text(&at, "", "must not be empty");
            }
            Some(Value::String(text)) if member == "kind" => {
                let problems = validation::dns1035_label(&text.to_lowercase());
                if !problems.is_empty() {
                    let detail = format!(
                        "may have mixed case, but should otherwise match: {}",
                        problems.join(",")
                    );
                    errors.invalid_text(&at, text, &detail);
                }
            }
            Some(Value::String(text)) if text.matches('/').count() > 1 => {
                let detail = format!("unexpected GroupVersion string: {text}");
                errors.invalid_text(&at, text, &detail);
            }
            Some(Value::String(_)) => {}
            Some(other) => errors.invalid(&at, other, "must be a string"),
        }
    }
}
