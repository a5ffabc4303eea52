//! Strategic merge patch: a merge patch that knows the type, so that lists merge by key.
//!
//! Directives are obeyed as upstream does: `$patch`, `$retainKeys`, `$setElementOrder/x` and
//! `$deleteFromPrimitiveList/x`. What the type does not know merges as plain JSON.

mod order;

use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;

use super::{PatchError, go_string, go_text};
use crate::json;
use crate::schema::{Node, NodeId, Patch, Schema};
use crate::value::{Object, Value};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER_PREFIX: &str = "$setElementOrder/";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";

/// The value of type `node` with the patch merged in.
///
/// # Errors
/// Where the patch is malformed or a directive cannot be obeyed.
pub fn apply(
    original: &Value,
    patch: &Value,
    schema: &Schema,
    node: NodeId,
) -> Result<Value, PatchError> {
    let members = match patch {
        Value::Object(members) => members.clone(),
        Value::Null => Object::new(),
        other => return Err(PatchError::BadRequest(super::merge::not_a_map(other))),
    };
    let target = original.as_object().cloned().unwrap_or_default();
    let merger = Merger { schema };
    merger.merge_objects(target, members, Some(node)).map(Value::Object)
}

/// What is known of a member: its type, and how it merges.
#[derive(Clone, Copy)]
struct Known<'s> {
    node: Option<NodeId>,
    patch: Patch,
    merge_key: &'s str,
}

struct Merger<'s> {
    schema: &'s Schema,
}

impl<'s> Merger<'s> {
    fn merge_objects(
        &self,
        mut target: Object,
        mut patch: Object,
        node: Option<NodeId>,
    ) -> Result<Object, PatchError> {
        if let Some(directive) = patch.remove(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => Ok(patch),
                Some("delete") => Ok(Object::new()),
                _ => {
                    patch.insert(DIRECTIVE, directive.clone());
                    Err(unknown_directive(&directive, patch))
                }
            };
        }
        if let Some(keys) = patch.remove(RETAIN_KEYS) {
            retain_keys(&mut target, &patch, &keys)?;
        }
        self.merge_ordered_lists(&mut target, &mut patch, node)?;
        for (key, value) in patch {
            self.merge_member(&mut target, &key, value, node)?;
        }
        Ok(target)
    }

    fn merge_member(
        &self,
        target: &mut Object,
        key: &str,
        value: Value,
        node: Option<NodeId>,
    ) -> Result<(), PatchError> {
        let (key, deletes) = match key.strip_prefix(DELETE_PREFIX) {
            Some(rest) => (rest, true),
            None => (key, false),
        };
        let known = self.known(node, key);
        let merged = match (target.get_mut(key).map(std::mem::take), value) {
            (_, Value::Null) => {
                target.remove(key);
                return Ok(());
            }
            (Some(Value::Object(target)), Value::Object(patch)) => {
                Value::Object(self.merge_objects(target, patch, known.node)?)
            }
            (Some(Value::Array(items)), Value::Array(patch)) if deletes => {
                Value::Array(items.into_iter().filter(|item| !patch.contains(item)).collect())
            }
            (Some(Value::Array(items)), Value::Array(patch)) => {
                Value::Array(self.merge_lists(items, patch, known)?)
            }
            (Some(kept), _) if deletes => kept,
            (None, _) if deletes => return Ok(()),
            (_, value) => plain(value),
        };
        target.insert(key, merged);
        Ok(())
    }

    fn merge_lists(
        &self,
        target: Vec<Value>,
        patch: Vec<Value>,
        known: Known<'_>,
    ) -> Result<Vec<Value>, PatchError> {
        if !known.patch.merge {
            return Ok(patch);
        }
        let Some(first) = target.first().or(patch.first()) else { return Ok(target) };
        let kind = first.go_type();
        if target.iter().chain(&patch).any(|item| item.go_type() != kind) {
            let both = go_text(&Value::Array(vec![target.into(), patch.into()]));
            let problem = format!("list element types are not identical: {both}");
            return Err(PatchError::Internal(problem));
        }
        if matches!(first, Value::Array(_)) {
            return Err(PatchError::Unprocessable("lists of lists are not supported".into()));
        }
        if !matches!(first, Value::Object(_)) {
            return Ok(order::merge_scalars(target, &patch));
        }
        if known.merge_key.is_empty() {
            let name = known.node.map_or_else(String::new, |node| self.schema.go_type(node));
            let problem = format!("cannot merge lists without merge key for {name}");
            return Err(PatchError::Internal(problem));
        }
        self.merge_keyed(target, patch, known)
    }

    fn merge_keyed(
        &self,
        mut target: Vec<Value>,
        patch: Vec<Value>,
        known: Known<'_>,
    ) -> Result<Vec<Value>, PatchError> {
        let key = known.merge_key;
        let patch = obey_list_directives(&mut target, patch, key)?;
        let live = order::keys(&target, key);
        let patched = order::keys(&patch, key);
        let mut places: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        for (place, item) in target.iter().enumerate() {
            if let Some(id) = item.as_object().and_then(|it| it.get(key)) {
                places.entry(json::to_vec(id)).or_insert(place);
            }
        }
        for item in patch {
            let id = json::to_vec(&item_key(&item, key)?);
            let slot = places.get(&id).and_then(|place| target.get_mut(*place));
            match (slot, item) {
                (Some(slot), Value::Object(patch)) => {
                    let Value::Object(existing) = std::mem::take(slot) else { continue };
                    *slot = Value::Object(self.merge_objects(existing, patch, known.node)?);
                }
                (_, item) => {
                    places.insert(id, target.len());
                    target.push(item);
                }
            }
        }
        Ok(order::arrange(target, &patched, &live, key))
    }

    /// Merges each list whose order the patch gives, and takes it out of the patch.
    fn merge_ordered_lists(
        &self,
        target: &mut Object,
        patch: &mut Object,
        node: Option<NodeId>,
    ) -> Result<(), PatchError> {
        let directives: Vec<CompactString> =
            patch.keys().filter(|key| key.starts_with(ORDER_PREFIX)).map(Into::into).collect();
        for directive in directives {
            let order = as_list(patch.remove(&directive).unwrap_or_default())?;
            let field = &directive[ORDER_PREFIX.len()..];
            let known = self.known(node, field);
            let live = target.remove(field).filter(|it| !it.is_null()).map(as_list).transpose()?;
            let change = patch.remove(field).filter(|it| !it.is_null()).map(as_list).transpose()?;
            order::check(change.as_deref().unwrap_or_default(), &order, known.merge_key)?;
            if live.as_ref().is_none_or(Vec::is_empty) && change.as_ref().is_some_and(Vec::is_empty)
                || change.is_none() && live.as_ref().is_some_and(Vec::is_empty)
            {
                // Upstream looks for the type of the items, and finds none.
                let problem = "no elements in any of the given slices";
                return Err(PatchError::Internal(problem.into()));
            }
            let live_keys = order::keys(live.as_deref().unwrap_or_default(), known.merge_key);
            let merged = match (live, change) {
                (None, None) => continue,
                (Some(live), None) => live,
                (None, Some(change)) => match plain(Value::Array(change)) {
                    Value::Array(items) => items,
                    _ => continue,
                },
                (Some(live), Some(change)) => self.merge_lists(live, change, known)?,
            };
            let wanted = order::keys(&order, known.merge_key);
            let arranged = order::arrange(merged, &wanted, &live_keys, known.merge_key);
            target.insert(field, Value::Array(arranged));
        }
        Ok(())
    }

    fn known(&self, node: Option<NodeId>, key: &str) -> Known<'s> {
        let unknown = Known { node: None, patch: Patch::REPLACE, merge_key: "" };
        let Some(node) = node else { return unknown };
        match self.schema.node(node) {
            Node::Struct(it) => match it.field(key) {
                Some(field) => Known {
                    node: Some(self.item_of(field.node)),
                    patch: field.patch,
                    merge_key: &field.merge_key,
                },
                None => unknown,
            },
            Node::Map(it) => Known { node: Some(self.item_of(it.value)), ..unknown },
            Node::SchemaOrBool(it) | Node::SchemaOrArray(it) | Node::SchemaOrStrings(it) => {
                self.known(Some(*it), key)
            }
            Node::Bool
            | Node::Int32
            | Node::Int64
            | Node::Float64
            | Node::String
            | Node::Bytes
            | Node::Time
            | Node::MicroTime
            | Node::Duration
            | Node::Quantity
            | Node::IntOrString
            | Node::RawExtension
            | Node::FieldsV1
            | Node::Any
            | Node::List(_) => unknown,
        }
    }

    /// The type of what merges: a list's items, or the value itself.
    fn item_of(&self, node: NodeId) -> NodeId {
        match self.schema.node(node) {
            Node::List(list) => list.item,
            _ => node,
        }
    }
}

fn unknown_directive(directive: &Value, patch: Object) -> PatchError {
    let shown = go_text(&Value::Object(patch));
    PatchError::Internal(format!("unknown patch type: {} in map: {shown}", go_string(directive)))
}

fn as_list(value: Value) -> Result<Vec<Value>, PatchError> {
    match value {
        Value::Array(items) => Ok(items),
        other => {
            let kind = match other.kind_name() {
                "object" => "map[string]interface {}",
                "number" if other.as_i64().is_some() => "int64",
                "number" => "float64",
                other => other,
            };
            Err(PatchError::Internal(format!("expected a []interface {{}}, but received a {kind}")))
        }
    }
}

/// Obeys the items that are directives; the items that are left come back.
fn obey_list_directives(
    target: &mut Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<Vec<Value>, PatchError> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replaces = false;
    let mut deleted = BTreeSet::new();
    for item in patch {
        let Some(directive) = item.as_object().and_then(|it| it.get(DIRECTIVE)) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                deleted.insert(json::to_vec(&item_key(&item, key)?));
            }
            Some("replace") => replaces = true,
            Some("merge") => {
                let problem = "merging lists cannot yet be specified in the patch";
                return Err(PatchError::Internal(problem.into()));
            }
            _ => {
                let object = item.as_object().cloned().unwrap_or_default();
                return Err(unknown_directive(directive, object));
            }
        }
    }
    if replaces {
        target.clear();
    }
    if !deleted.is_empty() {
        let id = |it: &Value| it.as_object().and_then(|it| it.get(key)).map(json::to_vec);
        target.retain(|it| id(it).is_none_or(|id| !deleted.contains(&id)));
    }
    Ok(plain)
}

fn item_key(item: &Value, key: &str) -> Result<Value, PatchError> {
    item.as_object().and_then(|it| it.get(key)).cloned().ok_or_else(|| {
        let shown = go_text(item);
        PatchError::Internal(format!("map: {shown} does not contain declared merge key: {key}"))
    })
}

/// Drops the members that are not named; the patch may set none of them.
fn retain_keys(target: &mut Object, patch: &Object, keys: &Value) -> Result<(), PatchError> {
    let malformed = || PatchError::BadRequest("invalid patch format of retainKeys".into());
    let keys = keys.as_array().ok_or_else(malformed)?;
    let named = |key: &str| keys.iter().any(|it| it.as_str() == Some(key));
    let directive = |key: &str| key.starts_with(DELETE_PREFIX) || key.starts_with(ORDER_PREFIX);
    let stray = |(key, value): (&str, &Value)| !value.is_null() && !directive(key) && !named(key);
    if patch.iter().any(stray) {
        return Err(malformed());
    }
    target.retain(|key, _| named(key));
    Ok(())
}

/// A value that is new: without nulls and directives.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            if members.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                return Value::object();
            }
            let kept = members.into_iter().filter(|(key, value)| {
                let directive = key == DIRECTIVE
                    || key == RETAIN_KEYS
                    || key.starts_with(ORDER_PREFIX)
                    || key.starts_with(DELETE_PREFIX);
                !value.is_null() && !directive
            });
            Value::Object(kept.map(|(key, value)| (key, plain(value))).collect())
        }
        Value::Array(items) => {
            let directive = |item: &Value| {
                let marker = item.as_object().and_then(|it| it.get(DIRECTIVE));
                marker.and_then(Value::as_str).is_some_and(|it| it == "delete" || it == "replace")
            };
            let kept = items.into_iter().filter(|item| !directive(item));
            Value::Array(kept.map(plain).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
