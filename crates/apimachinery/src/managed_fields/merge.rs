//! What server-side apply does to values: merging the applied one into the live one, and taking fields away.

use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;

use super::compare::{item_step, named};
use super::set::{FieldSet, is_member, set_member};
use crate::schema::{List, ListKind, Node, NodeId, Schema};
use crate::value::{Object, Value};

/// The type of a value; `None` where it is of no known type, so that objects merge and the rest is replaced.
pub(super) type Type = Option<NodeId>;

/// The type of a member of an object of this type. `Err` where the object is one field as a whole.
pub(super) fn member_type(schema: &Schema, node: Type, name: &str) -> Result<Type, ()> {
    match node.map(|node| schema.node(node)) {
        None | Some(Node::Any) => Ok(None),
        Some(Node::Struct(it)) if !it.atomic => Ok(it.field(name).map(|field| field.node)),
        Some(Node::Map(it)) if !it.atomic => Ok(Some(it.value)),
        Some(_) => Err(()),
    }
}

/// Whether the type declares a member of this name.
fn declares(schema: &Schema, node: Type, name: &str) -> bool {
    let record = node.and_then(|node| schema.as_struct(node));
    record.is_some_and(|it| it.field(name).is_some())
}

/// The list type, where items are fields of their own.
pub(super) fn list_type(schema: &Schema, node: Type) -> Option<&List> {
    match schema.node(node?) {
        Node::List(list) if list.kind != ListKind::Atomic => Some(list),
        _ => None,
    }
}

fn is_atomic(schema: &Schema, node: Type) -> bool {
    member_type(schema, node, "").is_err()
}

/// The applied value merged into the live one.
pub(super) fn merge(schema: &Schema, node: Type, live: &Value, applied: &Value) -> Value {
    match (live, applied) {
        (Value::Object(a), Value::Object(b)) if !is_atomic(schema, node) => {
            let mut merged = a.clone();
            for (name, value) in b.iter() {
                let below = member_type(schema, node, name).unwrap_or_default();
                let value = match a.get(name) {
                    Some(live) => merge(schema, below, live, value),
                    None => value.clone(),
                };
                merged.insert(name, value);
            }
            Value::Object(merged)
        }
        (Value::Array(a), Value::Array(b)) => match list_type(schema, node) {
            Some(list) => Value::Array(merge_items(schema, list, a, b)),
            None => applied.clone(),
        },
        // Null takes nothing away where members are merged.
        (Value::Object(it), Value::Null) if !is_atomic(schema, node) && !it.is_empty() => {
            live.clone()
        }
        (Value::Array(it), Value::Null) if list_type(schema, node).is_some() && !it.is_empty() => {
            live.clone()
        }
        _ => applied.clone(),
    }
}

/// Both lists: shared items in the applied order, the live ones that are not applied where they stood.
fn merge_items(schema: &Schema, list: &List, live: &[Value], applied: &[Value]) -> Vec<Value> {
    let steps = |items: &[Value]| -> Vec<CompactString> {
        items.iter().map(|item| item_step(schema, list, item)).collect()
    };
    let (lives, applieds) = (steps(live), steps(applied));
    // Which of live duplicates is meant nobody knows: the applied item takes the place of all.
    let mut places: BTreeMap<&CompactString, Option<usize>> = BTreeMap::new();
    for (place, step) in lives.iter().enumerate() {
        places.entry(step).and_modify(|it| *it = None).or_insert(Some(place));
    }
    let among: BTreeSet<&CompactString> = applieds.iter().collect();
    let shared: Vec<&CompactString> =
        applieds.iter().filter(|it| places.contains_key(it)).collect();
    let mut shared = shared.into_iter().peekable();
    let mut merged = Vec::with_capacity(live.len().max(applied.len()));
    let mut done: BTreeSet<&CompactString> = BTreeSet::new();
    let both = |right: usize| match places.get(&applieds[right]) {
        Some(Some(left)) => merge(schema, Some(list.item), &live[*left], &applied[right]),
        Some(None) | None => applied[right].clone(),
    };
    let (mut left, mut right) = (0, 0);
    while left < live.len() || right < applied.len() {
        if left < live.len() && right < applied.len() {
            if lives[left] == applieds[right] {
                merged.push(both(right));
                done.insert(&applieds[right]);
                shared.next();
                (left, right) = (left + 1, right + 1);
                continue;
            }
            let wanted = shared.peek().is_some_and(|next| **next != lives[left]);
            if among.contains(&lives[left]) && wanted {
                left += 1;
                continue;
            }
        }
        if left < live.len() {
            if !among.contains(&lives[left]) {
                merged.push(live[left].clone());
                left += 1;
                continue;
            }
            if done.contains(&lives[left]) {
                left += 1;
            }
        }
        if right < applied.len() {
            merged.push(both(right));
            done.insert(&applieds[right]);
            shared.next_if(|next| **next == applieds[right]);
            right += 1;
        }
    }
    merged
}

/// The value without the fields of a set. An object or list of which nothing is left is null then, as upstream leaves it.
pub(super) fn remove(schema: &Schema, node: Type, value: &mut Value, set: &FieldSet) {
    remove_below(schema, node, value, &set.0);
}

fn remove_below(schema: &Schema, node: Type, value: &mut Value, set: &Object) {
    let emptied = match value {
        Value::Object(object) => {
            object.retain(|name, member| {
                let Some(Value::Object(below)) = set.get(&named(name)) else { return true };
                if is_member(below) {
                    return false;
                }
                let node = member_type(schema, node, name).unwrap_or_default();
                remove_below(schema, node, member, below);
                true
            });
            object.is_empty()
        }
        Value::Array(items) => {
            let Some(list) = list_type(schema, node) else { return };
            items.retain_mut(|item| {
                let step = item_step(schema, list, item);
                let Some(Value::Object(below)) = set.get(&step) else { return true };
                if is_member(below) {
                    return false;
                }
                remove_below(schema, Some(list.item), item, below);
                true
            });
            items.is_empty()
        }
        _ => false,
    };
    if emptied {
        *value = Value::Null;
    }
}

/// The fields that an applied object names: its leaves, items and entries, but not the structs around them.
pub(super) fn applied_fields(schema: &Schema, node: Type, object: &Value) -> FieldSet {
    FieldSet(applied_below(schema, node, object))
}

fn applied_below(schema: &Schema, node: Type, value: &Value) -> Object {
    let mut below = Vec::new();
    match value {
        Value::Object(object) => {
            for (name, member) in object.iter() {
                let Ok(of) = member_type(schema, node, name) else { return Object::new() };
                let empty = member.is_null() || member.as_object().is_some_and(Object::is_empty);
                let own = empty || !declares(schema, node, name) || is_leaf(schema, of, member);
                push(&mut below, named(name), own, applied_below(schema, of, member));
            }
        }
        Value::Array(items) => {
            let Some(list) = list_type(schema, node) else { return Object::new() };
            for item in items {
                let fields = applied_below(schema, Some(list.item), item);
                push(&mut below, item_step(schema, list, item), true, fields);
            }
        }
        _ => {}
    }
    Object::from_members(below, |_| {})
}

fn push(into: &mut Vec<(CompactString, Value)>, name: CompactString, own: bool, mut below: Object) {
    if (own || !below.is_empty()) && set_member(&mut below, own) {
        into.push((name, Value::Object(below)));
    }
}

/// Whether a value is one field as a whole.
fn is_leaf(schema: &Schema, node: Type, value: &Value) -> bool {
    match value {
        Value::Object(_) => is_atomic(schema, node),
        Value::Array(_) => list_type(schema, node).is_none(),
        _ => true,
    }
}

/// The set with the structs around its fields as members.
pub(super) fn with_structs(schema: &Schema, node: Type, set: &FieldSet) -> FieldSet {
    FieldSet(with_structs_below(schema, node, &set.0))
}

fn with_structs_below(schema: &Schema, node: Type, set: &Object) -> Object {
    let mut all = Vec::new();
    for (name, below) in set.iter().filter(|(name, _)| *name != ".") {
        let Value::Object(below) = below else { continue };
        let (of, declared) = match name.strip_prefix("f:") {
            Some(field) => {
                let of = member_type(schema, node, field).unwrap_or_default();
                (of, declares(schema, node, field))
            }
            None => (list_type(schema, node).map(|list| list.item), false),
        };
        let own = is_member(below) || declared;
        push(&mut all, name.into(), own, with_structs_below(schema, of, below));
    }
    Object::from_members(all, |_| {})
}
