//! Sets of fields, kept in the form objects store them: `{"f:spec":{"f:replicas":{}}}`.
//!
//! A step of a path is a member name: `f:name`, `k:{"name":"a"}` (a keyed item), `v:"x"` (an item by value) or
//! `i:0`. A step with nothing below belongs to the set; one with something below does when it also has `.`.
//! Names are sorted as text.

use compact_str::CompactString;

use crate::value::{Object, Value};

/// The name of the member that says that a step with something below belongs to the set.
pub(super) const SELF: &str = ".";

/// A set of fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FieldSet(pub(super) Object);

/// A field set that is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldSetError {
    /// Not an object where one must be.
    #[error("unable to parse field set: a step must hold an object")]
    NotAnObject,
    /// A name that is no step.
    #[error("unable to parse field set: {0:?} is no path element")]
    Element(String),
    /// Nested more deeply than any object.
    #[error("unable to parse field set: nested too deeply")]
    Depth,
}

const DEPTH_MAX: usize = 100;

impl FieldSet {
    /// No field.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over a `fieldsV1` value.
    ///
    /// # Errors
    /// When it is not one.
    pub fn from_value(value: Value) -> Result<Self, FieldSetError> {
        let Value::Object(object) = value else { return Err(FieldSetError::NotAnObject) };
        check(&object, 0)?;
        Ok(Self(object))
    }

    /// The `fieldsV1` value.
    #[must_use]
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// Whether the field at this path belongs to the set.
    #[must_use]
    pub fn has(&self, path: &[&str]) -> bool {
        let step = |object: &'_ Object, name: &&str| object.get(name)?.as_object().cloned();
        let found = path.iter().try_fold(self.0.clone(), |object, name| step(&object, name));
        !path.is_empty() && found.is_some_and(|it| is_member(&it))
    }

    /// The fields of both.
    #[must_use]
    pub fn union(mut self, other: Self) -> Self {
        unite(&mut self.0, other.0);
        self
    }

    /// Takes away the fields of another set; what is below them stays.
    pub fn subtract(&mut self, other: &Self) {
        subtract(&mut self.0, &other.0);
    }

    /// Takes away a field and everything below it.
    pub fn remove_tree(&mut self, path: &[&str]) {
        remove_tree(&mut self.0, path);
    }

    /// The fields that both have.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(intersect(&self.0, &other.0))
    }

    /// Calls `visit` with the path of each field: at each level first those that belong to the set themselves, in order,
    /// then what is below them.
    pub fn each_path(&self, visit: &mut impl FnMut(&[&str])) {
        walk(&self.0, &mut Vec::new(), visit);
    }
}

/// Whether the step that holds this object belongs to the set.
pub(super) fn is_member(object: &Object) -> bool {
    object.is_empty() || object.contains_key(SELF)
}

/// Whether nothing below the step that holds this object belongs to the set.
pub(super) fn is_leaf(object: &Object) -> bool {
    object.is_empty() || (object.len() == 1 && object.contains_key(SELF))
}

/// The object of a step that belongs to the set or not, with what is below; `None` where neither.
pub(super) fn step(member: bool, mut below: Vec<(CompactString, Value)>) -> Option<Object> {
    if below.is_empty() {
        return member.then(Object::new);
    }
    if member {
        below.insert(0, (SELF.into(), Value::object()));
    }
    Some(Object::from_members(below, |_| {}))
}

/// Makes the step that holds this object belong to the set, or not. Says whether anything is left.
pub(super) fn set_member(object: &mut Object, member: bool) -> bool {
    if !member {
        object.remove(SELF);
        return !object.is_empty();
    }
    if !object.is_empty() {
        object.insert(SELF, Value::object());
    }
    true
}

fn check(object: &Object, depth: usize) -> Result<(), FieldSetError> {
    if depth > DEPTH_MAX {
        return Err(FieldSetError::Depth);
    }
    for (name, below) in object.iter() {
        let known = name == SELF
            || matches!(name.as_bytes(), [b'f', b':', ..])
            || matches!(name.as_bytes(), [b'k' | b'v' | b'i', b':', _, ..]);
        if !known {
            return Err(FieldSetError::Element(name.into()));
        }
        check(below.as_object().ok_or(FieldSetError::NotAnObject)?, depth + 1)?;
    }
    Ok(())
}

fn unite(target: &mut Object, other: Object) {
    for (name, below) in other {
        let Value::Object(below) = below else { continue };
        match target.get_mut(&name) {
            None => {
                target.insert(name, below);
            }
            Some(Value::Object(mine)) => {
                let member = is_member(mine) || is_member(&below);
                unite(mine, below);
                mine.remove(SELF);
                set_member(mine, member);
            }
            Some(_) => {}
        }
    }
}

fn subtract(target: &mut Object, other: &Object) {
    target.retain(|name, below| {
        let (Value::Object(mine), Some(Value::Object(theirs))) = (below, other.get(name)) else {
            return true;
        };
        if name == SELF {
            return true;
        }
        let member = is_member(mine) && !is_member(theirs);
        subtract(mine, theirs);
        mine.remove(SELF);
        if mine.is_empty() { member } else { set_member(mine, member) }
    });
}

fn intersect(a: &Object, b: &Object) -> Object {
    let mut both = Vec::new();
    for (name, below) in a.iter().filter(|(name, _)| *name != SELF) {
        let (Value::Object(mine), Some(Value::Object(theirs))) = (below, b.get(name)) else {
            continue;
        };
        let member = is_member(mine) && is_member(theirs);
        let below = intersect(mine, theirs).into_iter().collect();
        if let Some(object) = step(member, below) {
            both.push((name.into(), Value::Object(object)));
        }
    }
    Object::from_members(both, |_| {})
}

fn remove_tree(target: &mut Object, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        target.remove(first);
        return;
    }
    let Some(Value::Object(below)) = target.get_mut(first) else { return };
    if below.is_empty() {
        return;
    }
    remove_tree(below, rest);
    if below.is_empty() {
        target.remove(first);
        return;
    }
    // A step of which only itself is left is written as an empty object.
    let alone = below.len() == 1 && below.contains_key(SELF);
    if alone {
        below.remove(SELF);
    }
}

fn walk<'s>(object: &'s Object, path: &mut Vec<&'s str>, visit: &mut impl FnMut(&[&str])) {
    let steps = || {
        let steps = object.iter().filter(|(name, _)| *name != SELF);
        steps.filter_map(|(name, below)| Some((name, below.as_object()?)))
    };
    for (name, _) in steps().filter(|(_, below)| is_member(below)) {
        path.push(name);
        visit(path);
        path.pop();
    }
    for (name, below) in steps() {
        path.push(name);
        walk(below, path, visit);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> FieldSet {
        FieldSet::from_value(crate::json::parse(text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn operations_look_at_members_only() {
        let a = r#"{"f:a":{".":{},"f:x":{},"f:y":{}},"f:b":{}}"#;
        for (other, union, difference, intersection) in [
            ("{}", a, a, "{}"),
            (a, a, "{}", a),
            (r#"{"f:a":{}}"#, a, r#"{"f:a":{"f:x":{},"f:y":{}},"f:b":{}}"#, r#"{"f:a":{}}"#),
            (
                r#"{"f:a":{"f:x":{}}}"#,
                a,
                r#"{"f:a":{".":{},"f:y":{}},"f:b":{}}"#,
                r#"{"f:a":{"f:x":{}}}"#,
            ),
            (
                r#"{"f:a":{"f:x":{},"f:y":{}}}"#,
                a,
                r#"{"f:a":{},"f:b":{}}"#,
                r#"{"f:a":{"f:x":{},"f:y":{}}}"#,
            ),
            (
                r#"{"f:b":{"f:z":{}}}"#,
                r#"{"f:a":{".":{},"f:x":{},"f:y":{}},"f:b":{".":{},"f:z":{}}}"#,
                a,
                "{}",
            ),
            (
                r#"{"f:b":{".":{},"f:z":{}},"f:c":{}}"#,
                r#"{"f:a":{".":{},"f:x":{},"f:y":{}},"f:b":{".":{},"f:z":{}},"f:c":{}}"#,
                r#"{"f:a":{".":{},"f:x":{},"f:y":{}}}"#,
                r#"{"f:b":{}}"#,
            ),
        ] {
            let text = |set: FieldSet| crate::json::to_string(&set.into_value());
            let mut rest = set(a);
            rest.subtract(&set(other));
            assert_eq!(text(set(a).union(set(other))), union, "union with {other}");
            assert_eq!(text(rest), difference, "without {other}");
            assert_eq!(text(set(a).intersection(&set(other))), intersection, "both and {other}");
        }
    }

    #[test]
    fn trees_are_removed_whole() {
        let mut all = set(r#"{"f:a":{".":{},"f:x":{"f:z":{}}},"f:b":{"f:y":{}}}"#);
        all.remove_tree(&["f:a", "f:x"]);
        all.remove_tree(&["f:b", "f:y"]);
        all.remove_tree(&["f:c"]);
        assert_eq!(crate::json::to_string(&all.into_value()), r#"{"f:a":{}}"#);
    }

    #[test]
    fn paths_are_listed_and_malformed_sets_refused() {
        let mut paths = Vec::new();
        set(r#"{"f:a":{".":{},"f:x":{}}}"#).each_path(&mut |path| paths.push(path.join(" ")));
        assert_eq!(paths, ["f:a", "f:a f:x"]);
        assert!(set(r#"{"f:a":{"f:x":{}}}"#).has(&["f:a", "f:x"]));
        assert!(!set(r#"{"f:a":{"f:x":{}}}"#).has(&["f:a"]));
        for text in [r#"{"x":{}}"#, r#"{"f:a":1}"#, "[]", r#"{"k:":{}}"#] {
            let value = crate::json::parse(text.as_bytes()).unwrap();
            assert!(FieldSet::from_value(value).is_err(), "{text}");
        }
    }
}
