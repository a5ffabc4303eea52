//! The types of the API as OpenAPI schemas: from the table of types, with the descriptions that the build packed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::ResourceFacts;
use api::docs::Docs;
use api::generated::openapi::{FLAGS, FLAGS_AT, UNIONS, VALUES};
use api::generated::schema::{DEFINITIONS, KINDS};
use apimachinery::schema::{Field, ListKind, Node, NodeId, Presence, Schema, Struct};
use apimachinery::{Object, Value, json, value};
use registry::custom::{CustomResource, Definition};

use super::{Version, custom};

pub(super) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
pub(super) const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// Flags of a field: see the generated table.
const REQUIRED: u8 = 1;
const ATOMIC_LIST: u8 = 2;
const GRANULAR_MAP: u8 = 4;

/// The definitions, while a document is made.
pub(super) struct Definitions {
    schema: &'static Schema,
    docs: Docs,
    /// The places in `DEFINITIONS` by type.
    places: BTreeMap<NodeId, usize>,
    /// Versions of custom resources by the names of their definitions, and whether those are of lists.
    custom: BTreeMap<&'static str, (Arc<CustomResource>, bool)>,
}

impl Definitions {
    pub(super) fn new(custom: &[Arc<Definition>]) -> Self {
        let places = DEFINITIONS.iter().enumerate().map(|(place, (_, node))| (*node, place));
        let places = places.collect();
        let views = custom.iter().flat_map(|it| it.served());
        let names = views.flat_map(|it| {
            let (one, many) = it.definition_names();
            [(one, (Arc::clone(it), false)), (many, (Arc::clone(it), true))]
        });
        let custom = names.collect();
        Self { schema: api::schema(), docs: Docs::default(), places, custom }
    }

    /// Whether a resource is a custom one.
    pub(super) fn is_custom(&self, facts: &ResourceFacts) -> bool {
        self.custom.values().any(|(view, _)| std::ptr::eq(view.facts(), facts))
    }

    /// The definition of a kind.
    pub(super) fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&'static str> {
        let own = self.custom.iter().find(|(_, (view, is_list))| {
            let facts = view.facts();
            let kind = if *is_list { kind.strip_suffix("List").unwrap_or_default() } else { kind };
            (facts.group, facts.version, facts.kind) == (group, version, kind)
        });
        if let Some((name, _)) = own {
            return Some(name);
        }
        self.name_of(api::type_of_kind(group, version, kind)?)
    }

    /// The definition that a type is referred to by; `None` for what has no name.
    fn name_of(&self, node: NodeId) -> Option<&'static str> {
        match self.schema.node(node) {
            Node::Struct(_) => self.places.get(&node).map(|place| DEFINITIONS[*place].0),
            other => special(other),
        }
    }

    /// The definitions that can be reached from these, themselves included.
    pub(super) fn closure(&self, from: &BTreeSet<&'static str>) -> BTreeSet<&'static str> {
        let mut found = from.clone();
        let mut open: Vec<&'static str> = from.iter().copied().collect();
        while let Some(name) = open.pop() {
            if let Some((view, is_list)) = self.custom.get(name) {
                let (one, _) = view.definition_names();
                let meta = if *is_list { LIST_META } else { OBJECT_META };
                for name in [meta].into_iter().chain(is_list.then_some(one)) {
                    if found.insert(name) {
                        open.push(name);
                    }
                }
                continue;
            }
            let Some(node) = api::type_of_definition(name) else { continue };
            let mut reach = |node| {
                if let Some(name) = self.name_of(node)
                    && found.insert(name)
                {
                    open.push(name);
                }
            };
            match self.schema.node(node) {
                Node::Struct(it) => {
                    it.fields.iter().for_each(|field| reach(innermost(self.schema, field.node)));
                }
                Node::SchemaOrBool(it) | Node::SchemaOrArray(it) | Node::SchemaOrStrings(it) => {
                    reach(*it);
                }
                _ => {}
            }
        }
        found
    }

    /// The schema of a definition.
    pub(super) fn schema_of(&mut self, name: &'static str, version: Version) -> Value {
        if let Some((view, is_list)) = self.custom.get(name).cloned() {
            return custom::schema(&view, is_list, &mut self.docs, version);
        }
        let node = api::type_of_definition(name);
        let mut out = match node.map(|node| (node, self.schema.node(node))) {
            Some((node, Node::Struct(it))) => self.struct_schema(name, node, it, version),
            _ => special_schema(name, version),
        };
        if let Some(docs) = self.docs.definition(name)
            && !docs.description.is_empty()
        {
            out.insert("description", docs.description);
        } else if let Some(kind) = name.strip_suffix("List") {
            let kind = kind.rsplit('.').next().unwrap_or_default();
            out.insert("description", format!("A list of objects of the kind {kind}."));
        }
        Value::Object(out)
    }

    fn struct_schema(
        &mut self,
        name: &'static str,
        node: NodeId,
        it: &Struct,
        version: Version,
    ) -> Object {
        let place = self.places[&node];
        let flags = &FLAGS[usize::from(FLAGS_AT[place])..];
        let mut properties = Vec::with_capacity(it.fields.len());
        let mut required = Vec::new();
        for (field, flags) in it.fields.iter().zip(flags) {
            let mut schema = self.field_schema(field, *flags, version);
            let text = self.docs.definition(name).and_then(|docs| docs.field(&field.name));
            let values = insert_values(name, &field.name, &mut schema, version);
            let paragraphs: Vec<&str> = text.into_iter().chain(values.as_deref()).collect();
            if !paragraphs.is_empty() {
                schema.insert("description", paragraphs.join("\n\n"));
            }
            if flags & REQUIRED != 0 {
                required.push(Value::from(field.name.as_ref()));
            }
            properties.push((field.name.as_ref().into(), Value::Object(schema)));
        }
        let mut out = Object::new();
        out.insert("type", "object");
        if !properties.is_empty() {
            out.insert("properties", Object::from_members(properties, |_| {}));
        }
        if !required.is_empty() {
            out.insert("required", required);
        }
        if it.atomic {
            out.insert("x-kubernetes-map-type", "atomic");
        }
        if let Ok(found) = UNIONS.binary_search_by_key(&name, |(name, _)| *name)
            && let Ok(unions) = json::parse(UNIONS[found].1.as_bytes())
        {
            out.insert("x-kubernetes-unions", unions);
        }
        let kinds: Value = KINDS
            .iter()
            .filter(|(_, _, _, it)| *it == node)
            .map(|(group, version, kind, _)| kind_value(group, version, kind))
            .collect();
        if !kinds.as_array().is_none_or(<[Value]>::is_empty) {
            out.insert("x-kubernetes-group-version-kind", kinds);
        }
        out
    }

    fn field_schema(&self, field: &Field, flags: u8, version: Version) -> Object {
        let written = field.presence == Presence::Always;
        let mut out = self.type_schema(field.node, written, version);
        match self.schema.node(field.node) {
            Node::List(list) => match list.kind {
                ListKind::Map => {
                    out.insert("x-kubernetes-list-type", "map");
                    let keys: Value = list.keys.iter().map(AsRef::as_ref).collect::<Value>();
                    out.insert("x-kubernetes-list-map-keys", keys);
                }
                ListKind::Set => {
                    out.insert("x-kubernetes-list-type", "set");
                }
                ListKind::Atomic if flags & ATOMIC_LIST != 0 => {
                    out.insert("x-kubernetes-list-type", "atomic");
                }
                ListKind::Atomic => {}
            },
            Node::Map(map) if map.atomic => {
                out.insert("x-kubernetes-map-type", "atomic");
            }
            _ if flags & GRANULAR_MAP != 0 => {
                out.insert("x-kubernetes-map-type", "granular");
            }
            _ => {}
        }
        let strategy = match (field.patch.merge, field.patch.retain_keys) {
            (true, true) => "merge,retainKeys",
            (true, false) => "merge",
            (false, true) => "retainKeys",
            (false, false) => "",
        };
        if !strategy.is_empty() {
            out.insert("x-kubernetes-patch-strategy", strategy);
        }
        if !field.merge_key.is_empty() {
            out.insert("x-kubernetes-patch-merge-key", field.merge_key.as_ref());
        }
        out
    }

    /// The schema of a type where it is used. `written` says that Go writes its zero value, which 3.0 tells as default.
    fn type_schema(&self, node: NodeId, written: bool, version: Version) -> Object {
        if let Some(name) = self.name_of(node) {
            return reference(name, written, version);
        }
        let mut out = Object::new();
        let mut scalar = |kind: &str, format: &str, zero: Value| {
            out.insert("type", kind);
            if !format.is_empty() {
                out.insert("format", format);
            }
            if written && version == Version::V3 {
                out.insert("default", zero);
            }
        };
        match self.schema.node(node) {
            Node::Bool => scalar("boolean", "", Value::Bool(false)),
            Node::Int32 => scalar("integer", "int32", Value::Int(0)),
            Node::Int64 => scalar("integer", "int64", Value::Int(0)),
            Node::Float64 => scalar("number", "double", Value::Int(0)),
            Node::String => scalar("string", "", Value::from("")),
            Node::Bytes => {
                out.insert("type", "string");
                out.insert("format", "byte");
            }
            Node::Map(map) => {
                out.insert("type", "object");
                out.insert("additionalProperties", self.type_schema(map.value, true, version));
            }
            Node::List(list) => {
                out.insert("type", "array");
                out.insert("items", self.type_schema(list.item, true, version));
            }
            _ => {}
        }
        out
    }
}

fn in_words(values: &Value) -> String {
    let values = values.as_array().unwrap_or_default().iter().filter_map(Value::as_str);
    let lines = values.map(|it| format!("\n - `\"{it}\"`"));
    format!("Possible enum values:{}", lines.collect::<String>())
}

/// Says which values a field may have and which one it gets where there is none. Those that it may have are told in
/// words too.
fn insert_values(
    definition: &str,
    field: &str,
    schema: &mut Object,
    version: Version,
) -> Option<String> {
    let first = VALUES.partition_point(|(it, name, _, _)| (*it, *name) < (definition, field));
    let of_field = |it: &&(&str, &str, &str, &str)| (it.0, it.1) == (definition, field);
    let mut told = None;
    for (_, _, of, text) in VALUES[first..].iter().take_while(of_field) {
        let Ok(value) = json::parse(text.as_bytes()) else { continue };
        let place = ["items", "additionalProperties"];
        let inner = place.into_iter().find(|it| schema.get(it).is_some());
        let inner = inner.and_then(|it| schema.get_mut(it)).and_then(Value::as_object_mut);
        let (member, at) = match (*of, inner) {
            // Those of an item are in no words.
            ("item", Some(items)) => ("enum", items),
            ("value", _) => {
                told = Some(in_words(&value));
                ("enum", &mut *schema)
            }
            ("default", _) if version == Version::V3 => ("default", &mut *schema),
            _ => continue,
        };
        at.insert(member, value);
    }
    told
}

/// `x-kubernetes-group-version-kind`
pub(super) fn kind_value(group: &str, version: &str, kind: &str) -> Value {
    value!({"group": group, "version": version, "kind": kind})
}

/// A reference to a definition. 3.0 allows nothing beside a reference, so it is wrapped.
pub(super) fn reference(name: &str, written: bool, version: Version) -> Object {
    let mut out = Object::new();
    match version {
        Version::V2 => {
            out.insert("$ref", version.reference(name));
        }
        Version::V3 => {
            out.insert("allOf", value!([{"$ref": (version.reference(name))}]));
            if written && special_schema_of(name).is_none() {
                out.insert("default", Object::new());
            }
        }
    }
    out
}

fn innermost(schema: &Schema, node: NodeId) -> NodeId {
    match schema.node(node) {
        Node::List(list) => innermost(schema, list.item),
        Node::Map(map) => innermost(schema, map.value),
        _ => node,
    }
}

/// Types that have a definition and are no structs.
fn special(node: &Node) -> Option<&'static str> {
    match node {
        Node::Time => Some("io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
        Node::MicroTime => Some("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"),
        Node::Duration => Some("io.k8s.apimachinery.pkg.apis.meta.v1.Duration"),
        Node::FieldsV1 => Some("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1"),
        Node::RawExtension => Some("io.k8s.apimachinery.pkg.runtime.RawExtension"),
        Node::Quantity => Some("io.k8s.apimachinery.pkg.api.resource.Quantity"),
        Node::IntOrString => Some("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
        Node::Any => Some("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON"),
        Node::SchemaOrBool(_) => {
            Some("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool")
        }
        Node::SchemaOrArray(_) => {
            Some("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray")
        }
        Node::SchemaOrStrings(_) => Some(
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
        ),
        Node::Bool
        | Node::Int32
        | Node::Int64
        | Node::Float64
        | Node::String
        | Node::Bytes
        | Node::Struct(_)
        | Node::Map(_)
        | Node::List(_) => None,
    }
}

/// The type, format and alternatives of such a definition.
fn special_schema_of(name: &str) -> Option<(&'static str, &'static str, &'static [&'static str])> {
    let short = name.strip_prefix(META).or_else(|| name.strip_prefix(EXTENSIONS));
    match short.unwrap_or(name) {
        "Time" | "MicroTime" => Some(("string", "date-time", &[])),
        "Duration" => Some(("string", "", &[])),
        "FieldsV1" | "Patch" | "io.k8s.apimachinery.pkg.runtime.RawExtension" => {
            Some(("object", "", &[]))
        }
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => {
            Some(("string", "", &["string", "number"]))
        }
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => {
            Some(("string", "int-or-string", &["integer", "string"]))
        }
        "JSON"
        | "JSONSchemaPropsOrBool"
        | "JSONSchemaPropsOrArray"
        | "JSONSchemaPropsOrStringArray" => Some(("", "", &[])),
        _ => None,
    }
}

fn special_schema(name: &str, version: Version) -> Object {
    let mut out = Object::new();
    let Some((kind, format, alternatives)) = special_schema_of(name) else { return out };
    if version == Version::V3 && !alternatives.is_empty() {
        let all: Value = alternatives.iter().map(|it| value!({"type": (*it)})).collect();
        out.insert("oneOf", all);
    } else if !kind.is_empty() {
        out.insert("type", kind);
    }
    if !format.is_empty() {
        out.insert("format", format);
    }
    out
}
