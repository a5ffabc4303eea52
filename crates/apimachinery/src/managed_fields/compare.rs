//! Two versions of an object, compared by its type: which fields were set, and which went.
//!
//! Objects are taken to be conformed to their type, so that what Go always writes is there; a member that is
//! missing or null counts as its Go zero value where the type says that Go writes it.

use std::cell::Cell;

use compact_str::CompactString;

use super::set::{FieldSet, step};
use crate::schema::{Field, List, ListKind, Node, NodeId, Presence, Schema, Struct};
use crate::value::{Object, Value};

/// What changed between two objects.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Comparison {
    /// Fields that were added or have another value.
    pub changed: FieldSet,
    /// Fields that are gone.
    pub removed: FieldSet,
    /// Whether there is an item that has no name, such as an object in a set: upstream tracks nothing then.
    pub unnamed: bool,
}

/// Compares an object with what it was; `None` is an object of which nothing is set yet.
#[must_use]
pub fn compare(schema: &Schema, node: NodeId, old: Option<&Value>, new: &Value) -> Comparison {
    let old = old.map_or(Side::Zero, Side::Is);
    let walker = Walker { schema, unnamed: Cell::new(false) };
    let difference = walker.node(node, old, Side::Is(new));
    Comparison {
        unnamed: walker.unnamed.get(),
        changed: FieldSet(difference.changed.unwrap_or_default()),
        removed: FieldSet(difference.removed.unwrap_or_default()),
    }
}

/// All fields that an object sets, as for a new one of which nothing was set.
#[must_use]
pub fn fields_of(schema: &Schema, node: NodeId, object: &Value) -> FieldSet {
    compare(schema, node, None, object).changed
}

/// One of the two values that are compared.
#[derive(Clone, Copy)]
enum Side<'v> {
    /// There is none.
    Absent,
    /// Go's zero value of the type.
    Zero,
    /// This one.
    Is(&'v Value),
}

impl<'v> Side<'v> {
    fn is_absent(self) -> bool {
        matches!(self, Self::Absent)
    }

    fn value(self) -> Option<&'v Value> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Zero => None,
        }
    }

    fn object(self) -> Option<&'v Object> {
        self.value().and_then(Value::as_object).filter(|object| !object.is_empty())
    }

    fn items(self) -> &'v [Value] {
        self.value().and_then(Value::as_array).unwrap_or_default()
    }

    /// The side of a member of this side's struct.
    fn field(self, field: &Field, member: Option<&'v Value>) -> Self {
        match (self, member) {
            (Self::Absent, _) => Self::Absent,
            // A null that a schema allows is a value as any other.
            (_, Some(value)) if !value.is_null() || field.presence == Presence::Given => {
                Self::Is(value)
            }
            _ if field.presence == Presence::Always => Self::Zero,
            _ => Self::Absent,
        }
    }
}

/// `None`: no field. An empty object: the field itself.
#[derive(Default)]
struct Difference {
    changed: Option<Object>,
    removed: Option<Object>,
}

#[derive(Default)]
struct Below {
    changed: Vec<(CompactString, Value)>,
    removed: Vec<(CompactString, Value)>,
}

impl Below {
    fn add(&mut self, name: impl FnOnce() -> CompactString, difference: Difference) {
        match (difference.changed, difference.removed) {
            (None, None) => {}
            (Some(changed), None) => self.changed.push((name(), changed.into())),
            (None, Some(removed)) => self.removed.push((name(), removed.into())),
            (Some(changed), Some(removed)) => {
                let name = name();
                self.changed.push((name.clone(), changed.into()));
                self.removed.push((name, removed.into()));
            }
        }
    }

    fn under(self, old: Side<'_>, new: Side<'_>) -> Difference {
        Difference {
            changed: step(old.is_absent() && !new.is_absent(), self.changed),
            removed: step(new.is_absent() && !old.is_absent(), self.removed),
        }
    }
}

struct Walker<'s> {
    schema: &'s Schema,
    unnamed: Cell<bool>,
}

impl Walker<'_> {
    fn node(&self, node: NodeId, old: Side<'_>, new: Side<'_>) -> Difference {
        match self.schema.node(node) {
            Node::Struct(it) if !it.atomic => self.record(it, old, new),
            Node::Map(it) if !it.atomic => self.map(Some(it.value), old, new),
            Node::List(it) if it.kind != ListKind::Atomic => self.list(it, old, new),
            Node::Any => self.deduced(old, new),
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
            | Node::FieldsV1
            | Node::RawExtension
            | Node::SchemaOrBool(_)
            | Node::SchemaOrArray(_)
            | Node::SchemaOrStrings(_)
            | Node::Struct(_)
            | Node::Map(_)
            | Node::List(_) => self.leaf(node, old, new),
        }
    }

    fn leaf(&self, node: NodeId, old: Side<'_>, new: Side<'_>) -> Difference {
        let same = match (old, new) {
            (Side::Absent, Side::Absent) => true,
            (Side::Absent, _) => false,
            (_, Side::Absent) => {
                return Difference { removed: Some(Object::new()), ..Difference::default() };
            }
            (Side::Zero, Side::Zero) => true,
            (Side::Zero, Side::Is(value)) | (Side::Is(value), Side::Zero) => {
                is_zero(self.schema, node, value)
            }
            (Side::Is(old), Side::Is(new)) => old == new,
        };
        Difference { changed: (!same).then(Object::new), removed: None }
    }

    /// A value of no known type: objects have fields, anything else is one.
    fn deduced(&self, old: Side<'_>, new: Side<'_>) -> Difference {
        let is_object = |side: Side<'_>| side.value().is_none_or(|it| it.as_object().is_some());
        if is_object(old) && is_object(new) {
            return self.map(None, old, new);
        }
        match (old.value(), new.value()) {
            (Some(old), Some(new)) if old == new => Difference::default(),
            (Some(_), None) => Difference { removed: Some(Object::new()), changed: None },
            _ => Difference { changed: Some(Object::new()), removed: None },
        }
    }

    fn record(&self, it: &Struct, old: Side<'_>, new: Side<'_>) -> Difference {
        let (before, after) = (old.object(), new.object());
        if before.is_none() && after.is_none() {
            // Empty on both sides: a field of its own, if it came or went.
            return Below::default().under(old, new);
        }
        let mut below = Below::default();
        let mut fields = it.fields.iter().peekable();
        for (name, a, b) in both(before, after) {
            while fields.next_if(|field| field.name.as_ref() < name).is_some() {}
            let difference = match fields.peek().filter(|field| field.name == name) {
                Some(field) => self.node(field.node, old.field(field, a), new.field(field, b)),
                None => self.deduced(of_map(a), of_map(b)),
            };
            below.add(|| named(name), difference);
        }
        below.under(old, new)
    }

    fn map(&self, value: Option<NodeId>, old: Side<'_>, new: Side<'_>) -> Difference {
        let (before, after) = (old.object(), new.object());
        if before.is_none() && after.is_none() {
            let was = old.value().is_some_and(|it| !it.is_null());
            let is = new.value().is_some_and(|it| !it.is_null());
            let mut difference = Below::default().under(old, new);
            if !old.is_absent() && !new.is_absent() && was != is {
                difference.changed = Some(Object::new());
            }
            return difference;
        }
        let mut below = Below::default();
        for (name, a, b) in both(before, after) {
            let difference = match value {
                Some(node) => self.node(node, of_map(a), of_map(b)),
                None => self.deduced(of_map(a), of_map(b)),
            };
            below.add(|| named(name), difference);
        }
        below.under(old, new)
    }

    fn list(&self, it: &List, old: Side<'_>, new: Side<'_>) -> Difference {
        let (before, after) = (old.items(), new.items());
        if before.is_empty() && after.is_empty() {
            let was = old.value().is_some_and(|it| !it.is_null());
            let is = new.value().is_some_and(|it| !it.is_null());
            let mut difference = Below::default().under(old, new);
            if !old.is_absent() && !new.is_absent() && was != is {
                difference.changed = Some(Object::new());
            }
            return difference;
        }
        let mut below = Below::default();
        if before != after {
            self.items(it, before, after, &mut below);
        }
        below.under(old, new)
    }

    fn items(&self, it: &List, before: &[Value], after: &[Value], below: &mut Below) {
        let unnamed = |item: &Value| super::typed::unnamed(self.schema, it, item).is_some();
        if before.iter().chain(after).any(unnamed) {
            self.unnamed.set(true);
        }
        let (old, new) = (indexed(self.schema, it, before), indexed(self.schema, it, after));
        let mut names: Vec<&CompactString> = old.iter().chain(&new).map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let (olds, news) = (with_name(&old, name), with_name(&new, name));
            let whole = || Some(Object::new());
            let difference = match (olds, news) {
                ([] | [_], [] | [_]) => self.node(it.item, first(olds), first(news)),
                // Of items with one name, upstream tracks only that there are several.
                ([_, _, ..], [_, _, ..]) => {
                    let same = olds.iter().map(|it| it.1).eq(news.iter().map(|it| it.1));
                    Difference { changed: (!same).then(Object::new), removed: None }
                }
                ([_, _, ..], _) => Difference {
                    changed: self.node(it.item, Side::Absent, first(news)).changed,
                    removed: whole(),
                },
                (_, _) => Difference {
                    changed: whole(),
                    removed: self.node(it.item, first(olds), Side::Absent).removed,
                },
            };
            below.add(|| name.clone(), difference);
        }
    }
}

fn first<'v>(items: &[(CompactString, &'v Value)]) -> Side<'v> {
    of_map(items.first().map(|(_, item)| *item))
}

fn of_map(value: Option<&Value>) -> Side<'_> {
    value.map_or(Side::Absent, Side::Is)
}

pub(super) fn named(name: &str) -> CompactString {
    let mut step = CompactString::with_capacity(name.len() + 2);
    step.push_str("f:");
    step.push_str(name);
    step
}

/// The members of two objects side by side, in order of their names.
fn both<'v>(
    a: Option<&'v Object>,
    b: Option<&'v Object>,
) -> impl Iterator<Item = (&'v str, Option<&'v Value>, Option<&'v Value>)> {
    let mut left = a.into_iter().flat_map(Object::iter).peekable();
    let mut right = b.into_iter().flat_map(Object::iter).peekable();
    std::iter::from_fn(move || {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return None,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        match order {
            std::cmp::Ordering::Less => left.next().map(|(name, a)| (name, Some(a), None)),
            std::cmp::Ordering::Greater => right.next().map(|(name, b)| (name, None, Some(b))),
            std::cmp::Ordering::Equal => {
                let (name, a) = left.next()?;
                Some((name, Some(a), right.next().map(|(_, b)| b)))
            }
        }
    })
}

/// The items by the step that names them, sorted, items with one name in their order.
fn indexed<'v>(schema: &Schema, it: &List, items: &'v [Value]) -> Vec<(CompactString, &'v Value)> {
    let step = |item: &'v Value| (item_step(schema, it, item), item);
    let mut indexed: Vec<_> = items.iter().map(step).collect();
    indexed.sort_by(|a, b| a.0.cmp(&b.0));
    indexed
}

fn with_name<'i, 'v>(
    items: &'i [(CompactString, &'v Value)],
    name: &CompactString,
) -> &'i [(CompactString, &'v Value)] {
    let start = items.partition_point(|it| it.0 < *name);
    let count = items[start..].iter().take_while(|it| it.0 == *name).count();
    &items[start..start + count]
}

/// The step that names an item of a list: by its keys, or by its value.
pub(super) fn item_step(schema: &Schema, it: &List, item: &Value) -> CompactString {
    let mut text = Vec::with_capacity(32);
    if it.keys.is_empty() {
        text.extend_from_slice(b"v:");
        crate::json::write(item, &mut text);
    } else {
        text.extend_from_slice(b"k:{");
        let mut keys: smallvec::SmallVec<[&str; 4]> = it.keys.iter().map(AsRef::as_ref).collect();
        keys.sort_unstable();
        for key in keys {
            let given = item.as_object().and_then(|it| it.get(key));
            let Some(value) = given.or_else(|| it.key_default(schema, key)) else { continue };
            if text.len() > 3 {
                text.push(b',');
            }
            crate::json::write_string(key, &mut text);
            text.push(b':');
            crate::json::write(value, &mut text);
        }
        text.push(b'}');
    }
    CompactString::from_utf8_lossy(&text)
}

/// Whether a value is what Go writes for a variable of its type that was never set.
fn is_zero(schema: &Schema, node: NodeId, value: &Value) -> bool {
    match (schema.node(node), value) {
        (_, Value::Null) => true,
        (Node::Struct(it), Value::Object(object)) => object.iter().all(|(name, member)| {
            member.is_null()
                || it.field(name).is_some_and(|field| {
                    field.presence == Presence::Always && is_zero(schema, field.node, member)
                })
        }),
        (Node::Bool, Value::Bool(it)) => !it,
        (Node::Int32 | Node::Int64 | Node::Float64 | Node::IntOrString, Value::Int(it)) => *it == 0,
        (Node::Float64, Value::Float(it)) => *it == 0.0,
        (Node::Quantity, Value::String(it)) => it == "0",
        (Node::String | Node::Bytes | Node::Duration, Value::String(it)) => it.is_empty(),
        _ => false,
    }
}
