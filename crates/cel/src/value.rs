//! Values. Those that come from an object borrow it: nothing is converted before it is looked at.
//!
//! `'v` is the life of the objects and programs of an evaluation. What is computed is shared by reference count.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use apimachinery::duration::Duration;
use apimachinery::{Object, Value};

use crate::error::EvalError;
use crate::library::opaque::Opaque;
use crate::library::time::Time;
use crate::limits::{BYTES_A_PART, PARTS_MAX};
use crate::schema::{DeclKind, DeclType};
use crate::types::Type;

/// A value.
#[derive(Clone, Debug, Default)]
pub enum Val<'v> {
    /// `null`
    #[default]
    Null,
    /// `true`, `false`
    Bool(bool),
    /// 64 bits, signed.
    Int(i64),
    /// 64 bits, unsigned.
    Uint(u64),
    /// 64 bits, floating.
    Double(f64),
    /// Text.
    String(Text<'v>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A span of time.
    Duration(Duration),
    /// A point in time.
    Timestamp(Time),
    /// A list.
    List(List<'v>),
    /// A map, or an object.
    Map(Map<'v>),
    /// A type.
    Type(Type),
    /// A value or none.
    Optional(Option<Arc<Val<'v>>>),
    /// A value of a library.
    Opaque(Arc<Opaque>),
}

/// Text that is borrowed or shared.
#[derive(Clone)]
pub enum Text<'v> {
    /// From an object or a program.
    Borrowed(&'v str),
    /// Computed.
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// A list.
#[derive(Clone, Debug)]
pub struct List<'v> {
    pub(crate) items: Items<'v>,
    /// What its schema says of it.
    pub(crate) decl: Option<&'v DeclType>,
}

#[derive(Clone, Debug)]
pub(crate) enum Items<'v> {
    Json(&'v [Value]),
    Owned(Arc<Vec<Val<'v>>>),
    /// One after the other, so that adding long lists costs nothing.
    Concat(Arc<(List<'v>, List<'v>, usize)>),
}

/// Lists that are not longer together than this are copied when they are added.
const CONCAT_COPIES_MAX: usize = 32;

/// A map, or an object.
#[derive(Clone, Debug)]
pub enum Map<'v> {
    /// Of an object.
    Json {
        /// The members.
        members: &'v Object,
        /// What its schema says of it.
        decl: Option<&'v DeclType>,
    },
    /// Computed.
    Owned(Arc<Entries<'v>>),
}

/// The entries of a computed map.
#[derive(Debug, Clone, Default)]
pub struct Entries<'v> {
    /// The type's name, where it is an object.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) entries: BTreeMap<Key<'v>, (Val<'v>, Val<'v>)>,
    /// The value of keys that are not there, where they have one.
    pub(crate) default: Option<Val<'v>>,
}

/// A key of a map: numbers of both kinds are one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key<'v> {
    /// `true`, `false`
    Bool(bool),
    /// Whole numbers.
    Number(i128),
    /// Text.
    String(Text<'v>),
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}
impl Eq for Text<'_> {}
impl PartialOrd for Text<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Text<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

/// A value or why there is none.
pub type Result<T, E = EvalError> = std::result::Result<T, E>;

impl<'v> Val<'v> {
    /// A value of an object, read by its schema where there is one.
    ///
    /// # Errors
    /// Where the value is not what the schema says.
    pub fn json(value: &'v Value, decl: Option<&'v DeclType>) -> Result<Self> {
        let Some(decl) = decl else { return Ok(Self::plain(value)) };
        let invalid = || {
            let (expected, found) = (decl.ty().name(), value.kind_name());
            EvalError::new(format!("invalid data, expected {expected}, got {found}"))
        };
        match (decl.kind(), value) {
            (_, Value::Null) | (DeclKind::Dyn, _) => Ok(Self::plain(value)),
            (DeclKind::Bool, Value::Bool(truth)) => Ok(Self::Bool(*truth)),
            (DeclKind::Int, Value::Int(number)) => Ok(Self::Int(*number)),
            (DeclKind::Int, Value::Float(number)) => {
                double_to_int(*number).map(Self::Int).ok_or_else(invalid)
            }
            (DeclKind::Double, Value::Float(number)) => Ok(Self::Double(*number)),
            (DeclKind::Double, Value::Int(number)) => Ok(Self::Double(int_to_double(*number))),
            (DeclKind::String, Value::String(text)) => Ok(Self::String(Text::Borrowed(text))),
            (DeclKind::Bytes, Value::String(text)) => {
                crate::library::encoders::decode(text).map(|it| Self::Bytes(it.into()))
            }
            (DeclKind::Duration, Value::String(text)) => crate::library::time::duration(text),
            (DeclKind::Timestamp, Value::String(text)) => crate::library::time::timestamp(text),
            (DeclKind::Date, Value::String(text)) => crate::library::time::date(text),
            (DeclKind::Quantity, Value::String(text)) => {
                let read = apimachinery::quantity::Quantity::parse(text);
                read.map(Self::quantity).map_err(|error| EvalError::new(error.to_string()))
            }
            (DeclKind::List(_), Value::Array(items)) => {
                Ok(Self::List(List { items: Items::Json(items), decl: Some(decl) }))
            }
            (DeclKind::Map(_) | DeclKind::Object(_), Value::Object(members)) => {
                Ok(Self::Map(Map::Json { members, decl: Some(decl) }))
            }
            _ => Err(invalid()),
        }
    }

    /// A value of an object without a schema.
    #[must_use]
    pub fn plain(value: &'v Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(truth) => Self::Bool(*truth),
            Value::Int(number) => Self::Int(*number),
            Value::Float(number) => Self::Double(*number),
            Value::String(text) => Self::String(Text::Borrowed(text)),
            Value::Array(items) => Self::List(List { items: Items::Json(items), decl: None }),
            Value::Object(members) => Self::Map(Map::Json { members, decl: None }),
        }
    }

    /// Computed text.
    #[must_use]
    pub fn string(text: &str) -> Self {
        Self::String(Text::Shared(text.into()))
    }

    /// A computed list.
    #[must_use]
    pub fn list(items: Vec<Self>) -> Self {
        Self::List(List::new(items))
    }

    /// A computed map.
    ///
    /// # Errors
    /// Where a key is not one, or is there twice.
    pub fn map(entries: impl IntoIterator<Item = (Self, Self)>) -> Result<Self> {
        let mut map = Entries::default();
        for (key, value) in entries {
            map.insert(key, value, "Failed with repeated key: ")?;
        }
        Ok(Self::Map(Map::new(map)))
    }

    /// A computed map in which every other key has the value `default`: selecting it is no error, though it is not `in` the
    /// map.
    ///
    /// # Errors
    /// Where a key is not one, or is there twice.
    pub fn map_with_default(
        entries: impl IntoIterator<Item = (Self, Self)>,
        default: Self,
    ) -> Result<Self> {
        let mut map = Entries { default: Some(default), ..Entries::default() };
        for (key, value) in entries {
            map.insert(key, value, "Failed with repeated key: ")?;
        }
        Ok(Self::Map(Map::new(map)))
    }

    /// A quantity.
    #[must_use]
    pub fn quantity(quantity: apimachinery::quantity::Quantity) -> Self {
        Self::opaque(Opaque::Quantity(quantity))
    }

    /// A semantic version.
    ///
    /// # Errors
    /// Where the text is none.
    pub fn semver(text: &str) -> Result<Self> {
        crate::library::semver(text).map(Self::opaque)
    }

    /// A present optional.
    #[must_use]
    pub fn some(value: Self) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    pub(crate) fn opaque(value: Opaque) -> Self {
        Self::Opaque(Arc::new(value))
    }

    /// The text, if this is some.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
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

    /// Its type; parts of lists and maps are unknown.
    #[must_use]
    pub fn type_of(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Duration(_) => Type::Duration,
            Self::Timestamp(_) => Type::Timestamp,
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(map) => match map.struct_name() {
                Some(name) => Type::object(name),
                None => Type::map(Type::Dyn, Type::Dyn),
            },
            Self::Type(_) => Type::type_of(Type::Dyn),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Opaque(value) => value.type_of(),
        }
    }

    /// What `size()` counts, if it has a size; other values count as one when costs are counted.
    #[must_use]
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::String(text) => Some(char_count(text)),
            Self::Bytes(bytes) => Some(bytes.len()),
            Self::List(list) => Some(list.len()),
            Self::Map(map) => Some(map.len()),
            Self::Opaque(value) => value.size(),
            _ => None,
        }
    }

    /// As a key of a map; a double that is whole finds the number.
    #[must_use]
    pub fn to_key(&self) -> Option<Key<'v>> {
        match self {
            Self::Bool(truth) => Some(Key::Bool(*truth)),
            Self::Int(number) => Some(Key::Number(i128::from(*number))),
            Self::Uint(number) => Some(Key::Number(i128::from(*number))),
            Self::Double(number) => whole(*number).map(Key::Number),
            Self::String(text) => Some(Key::String(text.clone())),
            _ => None,
        }
    }

    /// What is wrong with the types of computed objects in this one: each is called after its place below the first, such as
    /// `Object.spec.containers`. Nothing where this is no computed object. Upstream: `CheckTypeNamesMatchFieldPathNames`.
    #[must_use]
    pub fn misnamed_types(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Self::Map(Map::Owned(entries)) = self
            && let Some(name) = &entries.name
        {
            self.compare_types(name, &mut problems);
        }
        problems
    }

    fn compare_types(&self, expected: &str, problems: &mut Vec<String>) {
        match self {
            Self::Map(Map::Owned(map)) => {
                if let Some(name) = map.name.as_ref().filter(|it| &***it != expected) {
                    problems.push(format!(
                        "unexpected type name \"{name}\", expected \"{expected}\", which matches field name path from root Object type"
                    ));
                }
                for (key, (_, value)) in &map.entries {
                    match key {
                        Key::String(field) if map.name.is_some() => {
                            value.compare_types(&format!("{expected}.{}", &**field), problems);
                        }
                        _ => value.compare_types(expected, problems),
                    }
                }
            }
            Self::List(list) => {
                let items = list.iter().filter_map(Result::ok);
                items.for_each(|item| item.compare_types(expected, problems));
            }
            _ => {}
        }
    }

    /// A member of a computed object.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Self> {
        let Self::Map(Map::Owned(map)) = self else { return None };
        let mut entries = map.entries.iter();
        let found = entries.find(|(key, _)| matches!(key, Key::String(text) if &**text == name));
        found.map(|(_, (_, value))| value)
    }

    /// As JSON: what message expressions, audit annotations and mutations take it for.
    ///
    /// # Errors
    /// Where JSON has no such value.
    pub fn to_json(&self) -> Result<Value> {
        self.to_json_within(&mut { PARTS_MAX })
    }

    fn to_json_within(&self, parts: &mut u32) -> Result<Value> {
        spend(parts, self.as_str().map_or(0, str::len))?;
        let text = |text: &str| Ok(Value::String(text.into()));
        match self {
            Self::Null => Ok(Value::Null),
            Self::Bool(truth) => Ok(Value::Bool(*truth)),
            Self::Int(number) => Ok(Value::Int(*number)),
            Self::Uint(number) => match i64::try_from(*number) {
                Ok(number) => Ok(Value::Int(number)),
                Err(_) => Ok(Value::Float(uint_to_double(*number))),
            },
            Self::Double(number) => Ok(Value::Float(*number)),
            Self::String(it) => text(it),
            Self::Bytes(bytes) => text(&crate::library::encoders::encode(bytes)),
            Self::Duration(_) | Self::Timestamp(_) => {
                text(crate::library::convert::to_string(self)?.as_str().unwrap_or_default())
            }
            Self::List(list) => match &list.items {
                Items::Json(items) => {
                    items.iter().try_for_each(|it| spend_json(parts, it))?;
                    Ok(Value::Array(items.to_vec()))
                }
                Items::Owned(_) | Items::Concat(_) => {
                    let items = list.iter().map(|item| item?.to_json_within(parts));
                    Ok(Value::Array(items.collect::<Result<_>>()?))
                }
            },
            Self::Map(map) => map.to_json(parts).map(Value::Object),
            Self::Optional(Some(value)) => value.to_json_within(parts),
            Self::Optional(None) => Ok(Value::Null),
            Self::Type(_) | Self::Opaque(_) => {
                let name = self.type_of();
                Err(EvalError::new(format!("unsupported conversion of '{}' to JSON", name.name())))
            }
        }
    }
}

impl<'v> List<'v> {
    /// A computed list.
    #[must_use]
    pub fn new(items: Vec<Val<'v>>) -> Self {
        Self { items: Items::Owned(Arc::new(items)), decl: None }
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Json(items) => items.len(),
            Items::Owned(items) => items.len(),
            Items::Concat(it) => it.2,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An item.
    ///
    /// # Errors
    /// Where the item is not what the schema says, or there is none.
    pub fn get(&self, index: usize) -> Result<Val<'v>> {
        let missing = || EvalError::new(format!("index out of bounds: {index}"));
        match &self.items {
            Items::Json(items) => {
                Val::json(items.get(index).ok_or_else(missing)?, self.decl.and_then(DeclType::item))
            }
            Items::Owned(items) => items.get(index).cloned().ok_or_else(missing),
            Items::Concat(it) => match index.checked_sub(it.0.len()) {
                None => it.0.get(index),
                Some(rest) => it.1.get(rest),
            },
        }
    }

    /// The items.
    pub fn iter(&self) -> impl Iterator<Item = Result<Val<'v>>> + '_ {
        (0..self.len()).map(|index| self.get(index))
    }

    /// This one and then the other. Lists that their schema calls sets or maps merge instead.
    ///
    /// # Errors
    /// Where an item is not what the schema says, or the list becomes too long.
    pub fn concat(&self, other: &Self) -> Result<Self> {
        if let Some(merged) = crate::schema::merge_lists(self, other)? {
            return Ok(merged);
        }
        let len = self.len().checked_add(other.len()).filter(|it| *it <= LIST_MAX);
        let len = len.ok_or_else(|| EvalError::new("list size limit exceeded"))?;
        if len <= CONCAT_COPIES_MAX {
            return Ok(Self::new(self.iter().chain(other.iter()).collect::<Result<_>>()?));
        }
        Ok(Self { items: Items::Concat(Arc::new((self.clone(), other.clone(), len))), decl: None })
    }
}

/// A list made of lists may say that it has so many items; they are not copies.
const LIST_MAX: usize = u32::MAX as usize;

impl<'v> Map<'v> {
    /// A computed map.
    #[must_use]
    pub fn new(entries: Entries<'v>) -> Self {
        Self::Owned(Arc::new(entries))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Json { members, .. } => members.len(),
            Self::Owned(it) => it.entries.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the type, where this is an object.
    #[must_use]
    pub fn struct_name(&self) -> Option<&str> {
        match self {
            Self::Json { decl, .. } => decl.and_then(DeclType::object_name),
            Self::Owned(it) => it.name.as_deref(),
        }
    }

    /// A member of that name.
    ///
    /// # Errors
    /// Where the member is not what the schema says.
    pub fn member(&self, name: &'v str) -> Result<Option<Val<'v>>> {
        match self {
            Self::Json { members, decl } => json_member(members, *decl, name),
            Self::Owned(it) => {
                let found = it.entries.get(&Key::String(Text::Borrowed(name)));
                Ok(found.map(|(_, value)| value.clone()).or_else(|| it.default.clone()))
            }
        }
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// Where its value is not what the schema says.
    pub fn contains(&self, key: &Val<'v>) -> Result<bool> {
        match self {
            Self::Owned(it) => Ok(key.to_key().is_some_and(|key| it.entries.contains_key(&key))),
            Self::Json { .. } => self.get(key).map(|it| it.is_some()),
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Where the value is not what the schema says.
    pub fn get(&self, key: &Val<'v>) -> Result<Option<Val<'v>>> {
        match (self, key) {
            (Self::Json { members, decl }, Val::String(name)) => json_member(members, *decl, name),
            (Self::Json { .. }, _) => Ok(None),
            (Self::Owned(it), _) => Ok(key
                .to_key()
                .and_then(|key| it.entries.get(&key))
                .map(|(_, value)| value.clone())
                .or_else(|| it.default.clone())),
        }
    }

    /// The keys, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<Val<'v>> {
        match self {
            Self::Json { members, decl } => match decl.map(DeclType::kind) {
                Some(DeclKind::Object(object)) => {
                    let known =
                        object.fields.iter().filter(|it| members.contains_key(&it.json_name));
                    known.map(|it| Val::String(Text::Borrowed(&it.name))).collect()
                }
                _ => members.keys().map(|key| Val::String(Text::Borrowed(key))).collect(),
            },
            Self::Owned(it) => it.entries.values().map(|(key, _)| key.clone()).collect(),
        }
    }

    /// Keys and values, in order of the keys.
    ///
    /// # Errors
    /// Where a value is not what the schema says.
    pub fn entries(&self) -> Result<Vec<(Val<'v>, Val<'v>)>> {
        let value = |key: &Val<'v>| self.get(key).map(Option::unwrap_or_default);
        self.keys().into_iter().map(|key| value(&key).map(|it| (key, it))).collect()
    }

    fn to_json(&self, parts: &mut u32) -> Result<Object> {
        if let Self::Json { members, .. } = self {
            // Names are those of the object, not those in expressions.
            members.iter().try_for_each(|(_, value)| spend_json(parts, value))?;
            return Ok((*members).clone());
        }
        let mut object = Object::new();
        for (key, value) in self.entries()? {
            let key = crate::library::convert::to_string(&key)?;
            object.insert(key.as_str().unwrap_or_default(), value.to_json_within(parts)?);
        }
        Ok(object)
    }
}

/// Counts a part of what becomes JSON, and the text in it.
fn spend(parts: &mut u32, text: usize) -> Result<()> {
    let cost = u32::try_from(text / BYTES_A_PART).unwrap_or(u32::MAX).saturating_add(1);
    *parts = parts.checked_sub(cost).ok_or_else(|| EvalError::new("value size limit exceeded"))?;
    Ok(())
}

fn spend_json(parts: &mut u32, value: &Value) -> Result<()> {
    spend(parts, value.as_str().map_or(0, str::len))?;
    match value {
        Value::Array(items) => items.iter().try_for_each(|it| spend_json(parts, it)),
        Value::Object(members) => members.iter().try_for_each(|(_, it)| spend_json(parts, it)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::String(_) => Ok(()),
    }
}

/// A member of an object: fields that its schema does not name are not there.
fn json_member<'v>(
    members: &'v Object,
    decl: Option<&'v DeclType>,
    name: &str,
) -> Result<Option<Val<'v>>> {
    let (name, decl) = match decl.map(DeclType::kind) {
        Some(DeclKind::Object(object)) => match object.field(name) {
            Some(field) => (&*field.json_name, Some(&*field.decl)),
            None => return Ok(None),
        },
        Some(DeclKind::Map(value)) => (name, Some(&**value)),
        _ => (name, None),
    };
    members.get(name).map(|value| Val::json(value, decl)).transpose()
}

impl<'v> Entries<'v> {
    /// Adds an entry; says so where the key is not one, or is there already.
    pub(crate) fn insert(&mut self, key: Val<'v>, value: Val<'v>, repeated: &str) -> Result<()> {
        let known = match &key {
            Val::Double(_) => None,
            other => other.to_key(),
        };
        let Some(it) = known else {
            return Err(EvalError::new(format!("unsupported key type: {}", key.type_of().name())));
        };
        if self.entries.contains_key(&it) {
            let shown = crate::library::convert::show(&key);
            return Err(EvalError::new(format!("{repeated}{shown}")));
        }
        self.entries.insert(it, (key, value));
        Ok(())
    }
}

/// Code points; most text has one a byte.
pub(crate) fn char_count(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

/// A double as a whole number, if it is one.
pub(crate) fn whole(number: f64) -> Option<i128> {
    let in_range = number.abs() < 1.9e19 && number.fract() == 0.0;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and in range")]
    in_range.then_some(number as i128)
}

/// A double as an integer, if it is one.
pub(crate) fn double_to_int(number: f64) -> Option<i64> {
    whole(number).and_then(|it| i64::try_from(it).ok())
}

#[expect(clippy::cast_precision_loss, reason = "as the language converts")]
pub(crate) fn int_to_double(number: i64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "as the language converts")]
pub(crate) fn uint_to_double(number: u64) -> f64 {
    number as f64
}
