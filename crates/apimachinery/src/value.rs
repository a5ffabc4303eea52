//! A JSON value as the API server works on it: small, with objects sorted by key.
//!
//! Sorted keys make equality structural, lookups binary, encoding canonical, and a walk beside a sorted
//! schema a merge. Keys and short strings are stored inline. Knows nothing of kinds.

use std::fmt;

use compact_str::CompactString;

/// A JSON value.
#[derive(Clone, PartialEq, Default)]
pub enum Value {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number without fraction or exponent that fits.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    String(CompactString),
    /// A list.
    Array(Vec<Value>),
    /// Members by name.
    Object(Object),
}

/// The members of a JSON object, sorted by name, each name once.
#[derive(Clone, PartialEq, Default)]
pub struct Object(Vec<(CompactString, Value)>);

/// Members up to which one after the other is the fastest way to find one.
const FEW: usize = 16;

/// What `Value::kind_name` says; Go's words, since clients read them in error messages.
pub type KindName = &'static str;

static NULL: Value = Value::Null;

impl Value {
    /// An empty object.
    #[must_use]
    pub fn object() -> Self {
        Self::Object(Object::default())
    }

    /// What sort of JSON value this is, in the words of Go's decoder.
    #[must_use]
    pub fn kind_name(&self) -> KindName {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) | Self::Float(_) => "number",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::Object(_) => "object",
        }
    }

    /// What JSON Schema calls its type.
    #[must_use]
    pub fn schema_type(&self) -> &'static str {
        match self {
            Self::Int(_) => "integer",
            Self::Bool(_) => "boolean",
            other => other.kind_name(),
        }
    }

    /// The type that Go's decoder gives it where nothing says which.
    #[must_use]
    pub fn go_type(&self) -> &'static str {
        match self {
            Self::Null => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int64",
            Self::Float(_) => "float64",
            Self::String(_) => "string",
            Self::Array(_) => "[]interface {}",
            Self::Object(_) => "map[string]interface {}",
        }
    }

    /// Whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The text, if this is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if this is one.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The truth value, if this is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The items, if this is a list.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The items, if this is a list.
    pub fn as_array_mut(&mut self) -> Option<&mut Vec<Value>> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The members, if this is an object.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The members, if this is an object.
    pub fn as_object_mut(&mut self) -> Option<&mut Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The member `key`; `None` where it is absent, null, or this is no object.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key).filter(|value| !value.is_null())
    }

    /// The member `key`; `None` where it is absent, null, or this is no object.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.as_object_mut()?.get_mut(key).filter(|value| !value.is_null())
    }

    /// The value at the end of `path`; `None` where a step is absent or null.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    /// The value at the end of `path`; `None` where a step is absent or null.
    pub fn at_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        path.iter().try_fold(self, |value, key| value.get_mut(key))
    }

    /// The text at the end of `path`; empty where it is absent.
    #[must_use]
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// The integer at the end of `path`.
    #[must_use]
    pub fn i64_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path).and_then(Value::as_i64)
    }

    /// The truth value at the end of `path`; false where it is absent.
    #[must_use]
    pub fn bool_at(&self, path: &[&str]) -> bool {
        self.at(path).and_then(Value::as_bool).unwrap_or_default()
    }

    /// The items of the list at the end of `path`; none where it is absent.
    #[must_use]
    pub fn items_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).unwrap_or_default()
    }

    /// The items of the list at the end of `path`; none where it is absent.
    pub fn items_at_mut(&mut self, path: &[&str]) -> &mut [Value] {
        self.at_mut(path).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
    }

    /// The member `key`, made an empty object where it is absent or null. Anything but an object becomes one.
    pub fn member_mut(&mut self, key: &str) -> &mut Value {
        let object = self.make_object();
        object.entry(key)
    }

    /// The object at the end of `path`, made where it is absent.
    pub fn object_at_mut(&mut self, path: &[&str]) -> &mut Object {
        let mut value = self;
        for key in path {
            value = value.make_object().entry(key);
        }
        value.make_object()
    }

    /// Sets the value at the end of `path`, making the objects on the way.
    ///
    /// # Panics
    /// On an empty path, which names no member.
    pub fn set_at(&mut self, path: &[&str], value: impl Into<Value>) {
        let (last, parents) = path.split_last().expect("because a path names at least one member");
        self.object_at_mut(parents).insert(*last, value);
    }

    /// Sets the value at the end of `path` where it is absent or null; says whether it did.
    pub fn default_at(&mut self, path: &[&str], value: impl Into<Value>) -> bool {
        let absent = self.at(path).is_none();
        if absent {
            self.set_at(path, value);
        }
        absent
    }

    /// Sets the value at the end of `path` where it is absent, null, an empty text or 0: what Go's types cannot tell
    /// apart where they have no pointer.
    pub fn default_zero_at(&mut self, path: &[&str], value: impl Into<Value>) {
        let unset = match self.at(path) {
            None => true,
            Some(Self::String(text)) => text.is_empty(),
            Some(Self::Int(number)) => *number == 0,
            Some(_) => false,
        };
        if unset {
            self.set_at(path, value);
        }
    }

    /// Takes away the value at the end of `path`, if it is there.
    pub fn remove_at(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        self.at_mut(parents)?.as_object_mut()?.remove(last)
    }

    fn make_object(&mut self) -> &mut Object {
        if !matches!(self, Self::Object(_)) {
            *self = Self::object();
        }
        match self {
            Self::Object(object) => object,
            _ => unreachable!("because it was made an object just above"),
        }
    }
}

impl Object {
    /// No members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The object with these members; of equal names the last wins. Calls `repeated` with each name that
    /// occurred before.
    #[must_use]
    pub fn from_members(
        mut members: Vec<(CompactString, Value)>,
        mut repeated: impl FnMut(&str),
    ) -> Self {
        let sorted = members.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !sorted {
            members.sort_by(|a, b| a.0.cmp(&b.0));
            // The sort is stable: of equal names the last one said stands last.
            members.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    repeated(&later.0);
                    earlier.1 = std::mem::take(&mut later.1);
                }
                same
            });
        }
        Self(members)
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where `key` is, or where it would be.
    fn find(&self, key: &str) -> Result<usize, usize> {
        // Most objects are made in order.
        if self.0.last().is_none_or(|(name, _)| name.as_str() < key) {
            return Err(self.0.len());
        }
        self.0.binary_search_by(|(name, _)| name.as_str().cmp(key))
    }

    /// Where `key` is.
    fn position(&self, key: &str) -> Option<usize> {
        if self.0.len() > FEW {
            return self.find(key).ok();
        }
        // Names of another length, which most are, need no look at their letters.
        self.0.iter().position(|(name, _)| name.len() == key.len() && name.as_str() == key)
    }

    /// The member `key`, null included.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.position(key).map(|index| &self.0[index].1)
    }

    /// The member `key`, null included.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.position(key).map(|index| &mut self.0[index].1)
    }

    /// Whether there is a member `key`, null included.
    #[must_use]
    pub fn contains_key(&self, key: &str) -> bool {
        self.position(key).is_some()
    }

    /// Sets `key`; the value before comes back.
    pub fn insert(
        &mut self,
        key: impl Into<CompactString> + AsRef<str>,
        value: impl Into<Value>,
    ) -> Option<Value> {
        match self.find(key.as_ref()) {
            Ok(index) => Some(std::mem::replace(&mut self.0[index].1, value.into())),
            Err(index) => {
                self.0.insert(index, (key.into(), value.into()));
                None
            }
        }
    }

    /// Takes `key` away.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.position(key).map(|index| self.0.remove(index).1)
    }

    /// The member `key`, made null where it is absent.
    pub fn entry(&mut self, key: &str) -> &mut Value {
        let index = match self.find(key) {
            Ok(index) => index,
            Err(index) => {
                self.0.insert(index, (key.into(), Value::Null));
                index
            }
        };
        &mut self.0[index].1
    }

    /// The members in order of their names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> + DoubleEndedIterator {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The members in order of their names.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = (&str, &mut Value)> {
        self.0.iter_mut().map(|(key, value)| (key.as_str(), value))
    }

    /// The names in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    /// Keeps the members for which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut Value) -> bool) {
        self.0.retain_mut(|(key, value)| keep(key, value));
    }

    /// The members themselves, for a walk that adds and takes away; they stay sorted in the caller's hands.
    pub(crate) fn members_mut(&mut self) -> &mut Vec<(CompactString, Value)> {
        &mut self.0
    }
}

impl IntoIterator for Object {
    type Item = (CompactString, Value);
    type IntoIter = std::vec::IntoIter<(CompactString, Value)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<K: Into<CompactString>, V: Into<Value>> FromIterator<(K, V)> for Object {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(members: I) -> Self {
        let members = members.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self::from_members(members, |_| {})
    }
}

impl std::ops::Index<&str> for Value {
    type Output = Value;
    /// The member, or null.
    fn index(&self, key: &str) -> &Value {
        self.as_object().and_then(|object| object.get(key)).unwrap_or(&NULL)
    }
}

macro_rules! from {
    ($($from:ty => $with:expr),* $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                ($with)(value)
            }
        }
    )*};
}
from! {
    bool => Value::Bool,
    i64 => Value::Int,
    i32 => |n| Value::Int(i64::from(n)),
    u32 => |n| Value::Int(i64::from(n)),
    u16 => |n| Value::Int(i64::from(n)),
    f64 => Value::Float,
    &str => |text: &str| Value::String(text.into()),
    String => |text: String| Value::String(text.into()),
    CompactString => Value::String,
    Vec<Value> => Value::Array,
    Object => Value::Object,
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<T: Into<Value>> FromIterator<T> for Value {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::json::to_string(self))
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A [`Value`] written as a literal: `value!({"kind": "Pod", "spec": {"containers": []}, "n": 3})`.
#[macro_export]
macro_rules! value {
    (null) => { $crate::Value::Null };
    ([ $($item:tt),* $(,)? ]) => { $crate::Value::Array(vec![ $($crate::value!($item)),* ]) };
    ({ $($key:tt : $val:tt),* $(,)? }) => {
        $crate::Value::Object($crate::Object::from_iter([ $(($key, $crate::value!($val))),* ] as [(&str, $crate::Value); _]))
    };
    ($other:expr) => { $crate::Value::from($other) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_sorted_and_the_last_of_equal_names_wins() {
        let mut repeated = Vec::new();
        let members = [("b", 1), ("a", 2), ("b", 3)];
        let members = members.map(|(key, n)| (key.into(), Value::Int(n))).to_vec();
        let object = Object::from_members(members, |key| repeated.push(key.to_owned()));
        assert_eq!(format!("{object:?}"), r#"{"a": 2, "b": 3}"#);
        assert_eq!(repeated, ["b"]);
    }

    #[test]
    fn paths_make_what_is_missing_and_see_through_null() {
        let mut value = value!({"spec": null});
        assert!(value.at(&["spec", "replicas"]).is_none());
        assert!(value.default_at(&["spec", "replicas"], 1));
        assert!(!value.default_at(&["spec", "replicas"], 2));
        assert_eq!(value.i64_at(&["spec", "replicas"]), Some(1));
        assert_eq!(value.remove_at(&["spec", "replicas"]), Some(Value::Int(1)));
        assert_eq!(format!("{value:?}"), r#"{"spec":{}}"#);
    }

    #[test]
    fn a_value_is_no_larger_than_a_string() {
        assert!(size_of::<Value>() <= 32, "{}", size_of::<Value>());
    }
}
