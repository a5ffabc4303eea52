//! What a type is made of: its fields, their types, how lists merge, and what Go writes for zero values.
//!
//! One form for built-in types (a generated table) and for custom resources (made from their structural
//! schema). Knows no type by name.

use std::borrow::Cow;

use compact_str::CompactString;

use crate::value::{Object, Value};

/// An index into [`Schema::nodes`].
pub type NodeId = u16;

type Text = Cow<'static, str>;

/// All types that can be reached from some kinds.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The types; fields and items refer to them by index.
    pub nodes: Cow<'static, [Node]>,
    /// What Go calls some fields' types, and what it embeds; sorted by struct and field. Only errors show these names.
    pub go_names: Cow<'static, [GoName]>,
}

/// What Go calls the type of a field, and which embedded struct the field belongs to.
#[derive(Debug, Clone)]
pub struct GoName {
    /// The struct.
    pub of: Text,
    /// Its field, by JSON name.
    pub field: Text,
    /// The named type of the field, or of its items: `v1.SecretType`; empty where the type has no name.
    pub ty: Text,
    /// The embedded struct that has the field: `VolumeSource`; empty where it is the struct's own.
    pub via: Text,
}

/// One type.
#[derive(Debug, Clone)]
pub enum Node {
    /// `bool`
    Bool,
    /// `int32`
    Int32,
    /// `int64`
    Int64,
    /// `float64`
    Float64,
    /// `string`, or a named string type.
    String,
    /// Base64 text.
    Bytes,
    /// RFC 3339 to the second.
    Time,
    /// RFC 3339 with six digits of fraction.
    MicroTime,
    /// A Go duration.
    Duration,
    /// A quantity.
    Quantity,
    /// An integer or a string.
    IntOrString,
    /// An object that is kept as it is.
    RawExtension,
    /// A field set of managed fields.
    FieldsV1,
    /// Any JSON value.
    Any,
    /// A JSON schema, or a bool.
    SchemaOrBool(NodeId),
    /// A JSON schema, or a list of them.
    SchemaOrArray(NodeId),
    /// A JSON schema, or a list of strings.
    SchemaOrStrings(NodeId),
    /// A struct.
    Struct(Struct),
    /// A map with string keys.
    Map(Map),
    /// A list.
    List(List),
}

/// A struct type.
#[derive(Debug, Clone)]
pub struct Struct {
    /// The name Go's errors use without package: `ServicePort`.
    pub name: Text,
    /// The package Go's errors use: `v1`.
    pub package: Text,
    /// Owned and merged as one.
    pub atomic: bool,
    /// Fields that are not listed are kept (custom resources only).
    pub preserve_unknown: bool,
    /// Sorted by name.
    pub fields: Cow<'static, [Field]>,
}

/// A map type.
#[derive(Debug, Clone)]
pub struct Map {
    /// The type of its values.
    pub value: NodeId,
    /// Owned and merged as one.
    pub atomic: bool,
}

/// A list type.
#[derive(Debug, Clone)]
pub struct List {
    /// The type of its items.
    pub item: NodeId,
    /// How it merges in server-side apply and who owns its items.
    pub kind: ListKind,
    /// The fields that tell items apart, where `kind` is a map.
    pub keys: Cow<'static, [Text]>,
    /// What those fields are that may be left out; of built-in lists `None`, since their types say it.
    pub defaults: Option<Vec<(String, Value)>>,
}

impl List {
    /// What a field is by which items are told apart and which is left out. Of built-in types, a field that Go always
    /// writes is Go's zero value, and so is the name of a reference; the protocol of a port is TCP.
    pub(crate) fn key_default(&self, schema: &Schema, key: &str) -> Option<&Value> {
        static TCP: Value = Value::String(CompactString::const_new("TCP"));
        static EMPTY: Value = Value::String(CompactString::const_new(""));
        static ZERO: Value = Value::Int(0);
        static FALSE: Value = Value::Bool(false);
        if let Some(all) = &self.defaults {
            return all.iter().find(|(name, _)| name == key).map(|(_, value)| value);
        }
        if key == "protocol" {
            return Some(&TCP);
        }
        let item = schema.as_struct(self.item)?;
        let field = item.field(key)?;
        if field.presence != Presence::Always
            && (&*item.name, key) != ("LocalObjectReference", "name")
        {
            return None;
        }
        match schema.node(field.node) {
            Node::String => Some(&EMPTY),
            Node::Int32 | Node::Int64 => Some(&ZERO),
            Node::Bool => Some(&FALSE),
            _ => None,
        }
    }

    /// The field by which items are told apart that an item lacks, null being a value.
    pub(crate) fn missing_key(&self, schema: &Schema, item: &Object) -> Option<&str> {
        let lacks =
            |key: &&Text| item.get(key).is_none() && self.key_default(schema, key).is_none();
        self.keys.iter().find(lacks).map(AsRef::as_ref)
    }
}

/// `x-kubernetes-list-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// Of unique scalars.
    Set,
    /// Of structs with unique keys.
    Map,
}

/// A field of a struct.
#[derive(Debug, Clone)]
pub struct Field {
    /// Its JSON name.
    pub name: Text,
    /// Its type.
    pub node: NodeId,
    /// What is written when it holds its zero value.
    pub presence: Presence,
    /// How strategic merge patch treats it.
    pub patch: Patch,
    /// The key of items for strategic merge patch; empty where there is none.
    pub merge_key: Text,
}

/// What Go's encoder does with a zero value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Written always: a number as 0, text as "", a struct as its own zero, lists, maps, times and pointers as null.
    Always,
    /// A pointer that is written always: null where it is not set.
    Null,
    /// Dropped when zero or empty.
    OmitEmpty,
    /// A pointer: written when set, even to zero.
    Pointer,
    /// Written as it was given, null too: what a schema describes and no Go type.
    Given,
}

impl Presence {
    /// Whether the field is there whatever it holds.
    #[must_use]
    pub fn is_always(self) -> bool {
        matches!(self, Self::Always | Self::Null)
    }
}

/// `x-kubernetes-patch-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    /// Lists merge by key instead of being replaced.
    pub merge: bool,
    /// Fields that the patch does not name are dropped.
    pub retain_keys: bool,
}

impl Schema {
    /// The type with this index.
    ///
    /// # Panics
    /// On an index of another schema.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[usize::from(id)]
    }

    /// The struct with this index, if it is one.
    #[must_use]
    pub fn as_struct(&self, id: NodeId) -> Option<&Struct> {
        match self.node(id) {
            Node::Struct(it) => Some(it),
            _ => None,
        }
    }

    /// What Go calls a field, where its definition does not say.
    #[must_use]
    pub fn go_name(&self, of: &str, field: &str) -> Option<&GoName> {
        let key = |it: &GoName| (it.of.as_ref(), it.field.as_ref()).cmp(&(of, field));
        self.go_names.binary_search_by(key).ok().map(|index| &self.go_names[index])
    }

    /// The type that Go's errors name for a mismatch: `int32`, `v1.PodSpec`, `[]v1.Container`.
    #[must_use]
    pub fn go_type(&self, id: NodeId) -> String {
        match self.node(id) {
            Node::Bool => "bool".into(),
            Node::Int32 => "int32".into(),
            Node::Int64 => "int64".into(),
            Node::Float64 => "float64".into(),
            Node::String | Node::Time | Node::MicroTime | Node::Duration => "string".into(),
            Node::Bytes => "[]uint8".into(),
            Node::Quantity => "resource.Quantity".into(),
            Node::IntOrString => "intstr.IntOrString".into(),
            Node::RawExtension => "runtime.RawExtension".into(),
            Node::FieldsV1 => "v1.FieldsV1".into(),
            Node::Any => "interface {}".into(),
            Node::SchemaOrBool(_) => "v1.JSONSchemaPropsOrBool".into(),
            Node::SchemaOrArray(_) => "v1.JSONSchemaPropsOrArray".into(),
            Node::SchemaOrStrings(_) => "v1.JSONSchemaPropsOrStringArray".into(),
            Node::Struct(it) => format!("{}.{}", it.package, it.name),
            Node::Map(it) => format!("map[string]{}", self.go_type(it.value)),
            Node::List(it) => format!("[]{}", self.go_type(it.item)),
        }
    }
}

impl Struct {
    /// The field with this JSON name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .binary_search_by(|field| field.name.as_ref().cmp(name))
            .ok()
            .map(|i| &self.fields[i])
    }
}

impl Patch {
    /// Replace, and keep what is not named.
    pub const REPLACE: Self = Self { merge: false, retain_keys: false };
}
