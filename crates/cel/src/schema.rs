//! Types from structural schemas: what a field is, what it is called in an expression, and how large it can be.
//!
//! One description serves the checker (its [`Type`]), the evaluation (how JSON is read) and the cost estimate (sizes).

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;

use crate::error::EvalError;
use crate::library::equal;
use crate::limits::REQUEST_BYTES_MAX;
use crate::parser::is_reserved;
use crate::types::Type;
use crate::value::{List, Result, Val};

/// Schemas nest no deeper than this; what is below is not exposed.
const DEPTH_MAX: usize = 64;
const STRING_BYTES_MIN: i64 = 2;
const TIME_BYTES_MAX: i64 = 32;
const DATE_BYTES: i64 = 12;

/// A described type.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclType {
    kind: DeclKind,
    ty: Type,
    /// How many characters, items or members it has at most; 0 for what has no size.
    pub max_elements: i64,
    /// How many bytes of JSON it takes at least.
    pub min_bytes: i64,
}

/// What a described type is.
#[derive(Debug, Clone, PartialEq)]
pub enum DeclKind {
    /// Whatever the value is; `x-kubernetes-int-or-string` too.
    Dyn,
    /// `boolean`
    Bool,
    /// `integer`
    Int,
    /// `number`
    Double,
    /// `string`
    String,
    /// `format: byte`
    Bytes,
    /// `format: duration`
    Duration,
    /// `format: date-time`
    Timestamp,
    /// `format: date`
    Date,
    /// A quantity; no schema has one.
    Quantity,
    /// `array`
    List(DeclList),
    /// `additionalProperties`
    Map(Arc<DeclType>),
    /// `properties`
    Object(DeclObject),
}

/// A list.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclList {
    /// What its items are.
    pub item: Arc<DeclType>,
    /// `x-kubernetes-list-type`
    pub kind: ListKind,
}

/// How lists are compared and added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListKind {
    /// In order.
    Atomic,
    /// As a set.
    Set,
    /// By these keys of their items.
    Map(Vec<Arc<str>>),
}

/// An object with fields.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclObject {
    /// Its type's name.
    pub name: Arc<str>,
    /// Its fields, sorted by name.
    pub fields: Vec<DeclField>,
}

/// A field.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclField {
    /// What it is called in expressions.
    pub name: Arc<str>,
    /// What it is called in JSON.
    pub json_name: Arc<str>,
    /// What it is.
    pub decl: Arc<DeclType>,
}

/// The types of objects, by name.
pub trait TypeProvider: Send + Sync + std::fmt::Debug {
    /// Whether there is an object type of this name.
    fn has_type(&self, name: &str) -> bool;
    /// The type of a field, if the object type has it.
    fn field(&self, type_name: &str, field: &str) -> Option<Type>;
}

impl DeclObject {
    /// The field of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&DeclField> {
        self.fields
            .binary_search_by(|it| (*it.name).cmp(name))
            .ok()
            .map(|index| &self.fields[index])
    }
}

impl DeclType {
    /// What it is.
    #[must_use]
    pub fn kind(&self) -> &DeclKind {
        &self.kind
    }

    /// Its type in expressions.
    #[must_use]
    pub fn ty(&self) -> &Type {
        &self.ty
    }

    /// How many bytes such a value takes at least.
    #[must_use]
    pub fn min_bytes(&self) -> i64 {
        self.min_bytes
    }

    /// What the items are, where this is a list.
    #[must_use]
    pub fn item(&self) -> Option<&Self> {
        match &self.kind {
            DeclKind::List(list) => Some(&list.item),
            _ => None,
        }
    }

    /// The name of the type, where this is an object.
    #[must_use]
    pub fn object_name(&self) -> Option<&str> {
        match &self.kind {
            DeclKind::Object(object) => Some(&object.name),
            _ => None,
        }
    }

    fn simple(kind: DeclKind, ty: Type, min_bytes: i64) -> Self {
        Self { kind, ty, max_elements: 0, min_bytes }
    }

    fn sized(kind: DeclKind, ty: Type, min_bytes: i64, max_elements: i64) -> Self {
        Self { kind, ty, max_elements, min_bytes }
    }

    /// Anything.
    #[must_use]
    pub fn dynamic() -> Self {
        Self::simple(DeclKind::Dyn, Type::Dyn, 1)
    }

    /// Anything that has a size, of at most so many characters.
    #[must_use]
    pub fn dynamic_of(max_elements: i64) -> Self {
        Self::sized(DeclKind::Dyn, Type::Dyn, 1, max_elements)
    }

    /// `true` or `false`.
    #[must_use]
    pub fn boolean() -> Self {
        Self::simple(DeclKind::Bool, Type::Bool, 4)
    }

    /// Text of at most so many characters.
    #[must_use]
    pub fn text(max_elements: i64) -> Self {
        Self::sized(DeclKind::String, Type::String, STRING_BYTES_MIN, max_elements)
    }

    /// A quantity.
    #[must_use]
    pub fn quantity() -> Self {
        Self::simple(DeclKind::Quantity, crate::types::read("kubernetes.Quantity"), 8)
    }

    /// A map from text to such values, with at most so many entries.
    #[must_use]
    pub fn map(value: Self, max_elements: i64) -> Self {
        let ty = Type::map(Type::String, value.ty.clone());
        Self::sized(DeclKind::Map(Arc::new(value)), ty, 2, max_elements)
    }

    /// An object with these fields.
    #[must_use]
    pub fn object(name: &str, mut fields: Vec<DeclField>) -> Self {
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let object = DeclObject { name: name.into(), fields };
        Self::simple(DeclKind::Object(object), Type::object(name), 2)
    }

    /// The type that a structural schema describes, with object types named from `name` on, which
    /// no variable may be called (`self.spec` would be a type); nothing where expressions
    /// cannot see such values. At the root of a resource `apiVersion`, `kind`, `metadata.name` and
    /// `metadata.generateName` are always there.
    #[must_use]
    pub fn from_schema(schema: &Value, name: &str, is_resource_root: bool) -> Option<Self> {
        declare(schema, name, is_resource_root, 0)
    }
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.bool_at(&[name])
}

fn declare(schema: &Value, name: &str, is_root: bool, depth: usize) -> Option<DeclType> {
    if depth > DEPTH_MAX {
        return None;
    }
    let limit = |key: &str| schema.i64_at(&[key]).map(|it| it.max(0));
    if flag(schema, "x-kubernetes-int-or-string") {
        let max = limit("maxLength").map_or(REQUEST_BYTES_MAX - 2, |it| it.saturating_mul(4));
        return Some(DeclType::sized(DeclKind::Dyn, Type::Dyn, 1, max));
    }
    match schema.str_at(&["type"]) {
        "array" => {
            let items = schema.at(&["items"])?;
            let is_embedded = flag(items, "x-kubernetes-embedded-resource");
            let item = declare(items, &format!("{name}.@idx"), is_embedded, depth + 1)?;
            let max = limit("maxItems").unwrap_or((REQUEST_BYTES_MAX - 2) / (item.min_bytes + 1));
            let ty = Type::list(item.ty.clone());
            let list = DeclList { item: Arc::new(item), kind: list_kind(schema) };
            Some(DeclType::sized(DeclKind::List(list), ty, 2, max))
        }
        "object" => {
            match schema.at(&["additionalProperties"]).filter(|it| it.as_object().is_some()) {
                Some(values) if !is_root => {
                    let is_embedded = flag(values, "x-kubernetes-embedded-resource");
                    let value = declare(values, &format!("{name}.@elem"), is_embedded, depth + 1)?;
                    let max = limit("maxProperties")
                        .unwrap_or((REQUEST_BYTES_MAX - 2) / (value.min_bytes + 6));
                    let ty = Type::map(Type::String, value.ty.clone());
                    Some(DeclType::sized(DeclKind::Map(Arc::new(value)), ty, 2, max))
                }
                _ => Some(declare_object(schema, name, is_root, depth)),
            }
        }
        "string" => Some(declare_string(schema, limit("maxLength"))),
        "boolean" => Some(DeclType::simple(DeclKind::Bool, Type::Bool, 4)),
        "number" => Some(DeclType::simple(DeclKind::Double, Type::Double, 1)),
        "integer" => Some(DeclType::simple(DeclKind::Int, Type::Int, 1)),
        _ => None,
    }
}

fn list_kind(schema: &Value) -> ListKind {
    match schema.str_at(&["x-kubernetes-list-type"]) {
        "set" => ListKind::Set,
        "map" => {
            let keys = schema.items_at(&["x-kubernetes-list-map-keys"]).iter();
            ListKind::Map(keys.filter_map(Value::as_str).map(Arc::from).collect())
        }
        _ => ListKind::Atomic,
    }
}

fn declare_string(schema: &Value, max_length: Option<i64>) -> DeclType {
    let request = REQUEST_BYTES_MAX - 2;
    match schema.str_at(&["format"]) {
        "byte" => {
            let max = max_length.unwrap_or(request);
            DeclType::sized(DeclKind::Bytes, Type::Bytes, STRING_BYTES_MIN, max)
        }
        "duration" => DeclType::sized(DeclKind::Duration, Type::Duration, 3, TIME_BYTES_MAX),
        "date" => DeclType::sized(DeclKind::Date, Type::Timestamp, DATE_BYTES, DATE_BYTES),
        "date-time" => DeclType::sized(DeclKind::Timestamp, Type::Timestamp, 21, TIME_BYTES_MAX),
        _ => {
            let longest = |values: &[Value]| {
                let lengths = values.iter().filter_map(Value::as_str).map(str::len);
                lengths.max().and_then(|it| i64::try_from(it).ok()).unwrap_or_default()
            };
            let max = match (max_length, schema.items_at(&["enum"])) {
                (Some(length), _) => length.saturating_mul(4),
                (None, []) => request,
                (None, values) => longest(values),
            };
            DeclType::sized(DeclKind::String, Type::String, STRING_BYTES_MIN, max)
        }
    }
}

fn declare_object(schema: &Value, name: &str, is_root: bool, depth: usize) -> DeclType {
    let required = schema.items_at(&["required"]);
    let is_required = |field: &str| required.iter().any(|it| it.as_str() == Some(field));
    let mut fields = BTreeMap::new();
    let mut min_bytes = 2i64;
    let properties = schema.at(&["properties"]).and_then(Value::as_object);
    for (property, sub) in properties.into_iter().flat_map(apimachinery::Object::iter) {
        let is_embedded = flag(sub, "x-kubernetes-embedded-resource");
        let Some(decl) = declare(sub, &format!("{name}.{property}"), is_embedded, depth + 1) else {
            continue;
        };
        if is_required(property) && sub.at(&["default"]).is_none() {
            let length = i64::try_from(property.len()).unwrap_or(i64::MAX);
            min_bytes = min_bytes.saturating_add(length).saturating_add(decl.min_bytes + 4);
        }
        add_field(&mut fields, property, decl);
    }
    if is_root {
        add_object_meta(&mut fields, name);
    }
    let mut object = DeclType::object(name, fields.into_values().collect());
    object.min_bytes = min_bytes;
    object
}

fn add_field(fields: &mut BTreeMap<String, DeclField>, json_name: &str, decl: DeclType) {
    if let Some(name) = escape(json_name) {
        let field = DeclField {
            name: name.as_str().into(),
            json_name: json_name.into(),
            decl: Arc::new(decl),
        };
        fields.insert(name, field);
    }
}

/// What expressions see of every resource; replaces what the schema says unless it says all of it.
fn add_object_meta(fields: &mut BTreeMap<String, DeclField>, name: &str) {
    let text =
        || DeclType::sized(DeclKind::String, Type::String, STRING_BYTES_MIN, REQUEST_BYTES_MAX - 2);
    let is_text = |field: Option<&DeclField>| field.is_some_and(|it| it.decl.ty == Type::String);
    let meta_is_complete = fields.get("metadata").is_some_and(|it| match &it.decl.kind {
        DeclKind::Object(meta) => ["name", "generateName"].iter().all(|it| is_text(meta.field(it))),
        _ => false,
    });
    if is_text(fields.get("kind")) && is_text(fields.get("apiVersion")) && meta_is_complete {
        return;
    }
    let mut meta = BTreeMap::new();
    add_field(&mut meta, "name", text());
    add_field(&mut meta, "generateName", text());
    let meta = DeclType::object(&format!("{name}.metadata"), meta.into_values().collect());
    add_field(fields, "kind", text());
    add_field(fields, "apiVersion", text());
    add_field(fields, "metadata", meta);
}

/// Whether a property's name is a word of the language.
fn is_keyword(name: &str) -> bool {
    matches!(name, "true" | "false" | "null" | "in") || is_reserved(name)
}

/// The name that a property has in expressions; none where it cannot have one.
#[must_use]
pub fn escape(property: &str) -> Option<String> {
    let first = |it: char| it.is_ascii_alphabetic() || matches!(it, '_' | '.' | '-' | '/');
    let other = |it: char| first(it) || it.is_ascii_digit();
    if property.is_empty() || !property.starts_with(first) || !property.chars().all(other) {
        return None;
    }
    if is_keyword(property) {
        return Some(format!("__{property}__"));
    }
    let mut name = property.replace("__", "__underscores__");
    for (char, word) in [(".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")] {
        name = name.replace(char, word);
    }
    Some(name)
}

/// The list that two lists merge to, where the schema of the first calls it a set or a map.
pub(crate) fn merge_lists<'v>(left: &List<'v>, right: &List<'v>) -> Result<Option<List<'v>>> {
    let Some(decl) = left.decl else { return Ok(None) };
    let DeclKind::List(DeclList { kind, .. }) = &decl.kind else { return Ok(None) };
    let same = |a: &Val<'v>, b: &Val<'v>| match kind {
        ListKind::Atomic => Ok(false),
        ListKind::Set => equal::equal(a, b),
        ListKind::Map(keys) => same_members(a, b, keys),
    };
    if *kind == ListKind::Atomic {
        return Ok(None);
    }
    let mut items = left.iter().collect::<Result<Vec<_>, EvalError>>()?;
    'right: for item in right.iter() {
        let item = item?;
        for known in &mut items {
            if same(known, &item)? {
                *known = item;
                continue 'right;
            }
        }
        items.push(item);
    }
    Ok(Some(List { decl: Some(decl), ..List::new(items) }))
}

fn same_members<'v>(a: &Val<'v>, b: &Val<'v>, keys: &'v [Arc<str>]) -> Result<bool> {
    let member = |it: &Val<'v>, key: &'v str| match it {
        Val::Map(map) => map.member(key),
        _ => Ok(None),
    };
    for key in keys {
        let same = match (member(a, key)?, member(b, key)?) {
            (None, None) => true,
            (Some(a), Some(b)) => equal::equal(&a, &b)?,
            _ => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether two lists are equal as their schema says, where that is not item by item.
pub(crate) fn lists_equal_by_schema(left: &List<'_>, right: &List<'_>) -> Result<Option<bool>> {
    match left.decl.map(DeclType::kind) {
        Some(DeclKind::List(DeclList { kind, .. })) if *kind != ListKind::Atomic => {}
        _ => return Ok(None),
    }
    if left.len() != right.len() {
        return Ok(Some(false));
    }
    // Items of sets and maps are unique: as many, and each found, means equal.
    for item in left.iter() {
        if !equal::contains(right, &item?)? {
            return Ok(Some(false));
        }
    }
    Ok(Some(true))
}

/// The object types of described types, for the checker.
#[derive(Debug, Clone, Default)]
pub struct Declarations {
    objects: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Type>>,
}

impl Declarations {
    /// Adds the object types in a described type.
    pub fn add(&mut self, decl: &DeclType) {
        match &decl.kind {
            DeclKind::List(list) => self.add(&list.item),
            DeclKind::Map(value) => self.add(value),
            DeclKind::Object(object) => {
                let fields =
                    object.fields.iter().map(|it| (Arc::clone(&it.name), it.decl.ty.clone()));
                self.objects.insert(Arc::clone(&object.name), fields.collect());
                for field in &object.fields {
                    self.add(&field.decl);
                }
            }
            _ => {}
        }
    }

    /// Adds an object type by its fields.
    pub fn add_fields(&mut self, name: &str, fields: impl IntoIterator<Item = (Arc<str>, Type)>) {
        self.objects.insert(name.into(), fields.into_iter().collect());
    }
}

impl TypeProvider for Declarations {
    fn has_type(&self, name: &str) -> bool {
        self.objects.contains_key(name)
    }

    fn field(&self, type_name: &str, field: &str) -> Option<Type> {
        self.objects.get(type_name)?.get(field).cloned()
    }
}
