//! A version's schema as the types that managed fields and server-side apply compare and merge by.

use std::borrow::Cow;
use std::collections::BTreeMap;

use apimachinery::schema::{
    Field, List, ListKind, Map, Node as Type, NodeId, Patch, Presence, Schema, Struct,
};
use compact_str::CompactString;

use super::schema::{Additional, Kind, Node};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The types of a version. The whole object is the first of them.
pub(super) fn of(root: &Node) -> Schema {
    let mut types = Types { nodes: vec![Type::Any], scalars: BTreeMap::new() };
    // First what has to be there however many types there are.
    let kinds = [Type::Any, Type::Bool, Type::Int64, Type::Float64, Type::String];
    for kind in kinds.into_iter().chain([Type::IntOrString]) {
        types.scalar(kind);
    }
    let (text, metadata) = (types.scalar(Type::String), types.metadata());
    let mut fields = types.fields(root);
    for (name, node) in [("apiVersion", text), ("kind", text), ("metadata", metadata)] {
        fields.retain(|it| it.name != name);
        fields.push(field(name, node));
    }
    types.nodes[0] = structure(fields, root);
    Schema { nodes: Cow::Owned(types.nodes), go_names: Cow::Borrowed(&[]) }
}

struct Types {
    nodes: Vec<Type>,
    scalars: BTreeMap<&'static str, NodeId>,
}

fn field(name: &str, node: NodeId) -> Field {
    Field {
        name: Cow::Owned(name.to_owned()),
        node,
        presence: Presence::Given,
        patch: Patch::REPLACE,
        merge_key: Cow::Borrowed(""),
    }
}

fn structure(mut fields: Vec<Field>, node: &Node) -> Type {
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Type::Struct(Struct {
        name: Cow::Borrowed(""),
        package: Cow::Borrowed(""),
        atomic: node.atomic_map,
        preserve_unknown: node.preserve_unknown,
        fields: Cow::Owned(fields),
    })
}

impl Types {
    /// Adds a type. Where there are more than can be told apart, the rest is of no known type.
    fn add(&mut self, node: Type) -> NodeId {
        let Ok(place) = NodeId::try_from(self.nodes.len()) else { return self.scalar(Type::Any) };
        self.nodes.push(node);
        place
    }

    /// A type without parts, which is there once.
    fn scalar(&mut self, node: Type) -> NodeId {
        let name = match node {
            Type::Bool => "bool",
            Type::Int64 => "int",
            Type::Float64 => "float",
            Type::String => "string",
            Type::IntOrString => "int-or-string",
            _ => "any",
        };
        if let Some(known) = self.scalars.get(name) {
            return *known;
        }
        let place = NodeId::try_from(self.nodes.len()).unwrap_or_default();
        self.nodes.push(node);
        self.scalars.insert(name, place);
        place
    }

    fn fields(&mut self, node: &Node) -> Vec<Field> {
        node.properties.iter().map(|(name, it)| field(name, self.node(it))).collect()
    }

    fn node(&mut self, node: &Node) -> NodeId {
        if node.int_or_string {
            return self.scalar(Type::IntOrString);
        }
        match node.kind {
            Some(Kind::Boolean) => self.scalar(Type::Bool),
            Some(Kind::Integer) => self.scalar(Type::Int64),
            Some(Kind::Number) => self.scalar(Type::Float64),
            Some(Kind::String) => self.scalar(Type::String),
            Some(Kind::Array) => self.list(node),
            Some(Kind::Object) => self.object(node),
            None => self.scalar(Type::Any),
        }
    }

    fn object(&mut self, node: &Node) -> NodeId {
        if let Additional::Of(value) = &node.additional {
            let value = self.node(value);
            return self.add(Type::Map(Map { value, atomic: node.atomic_map }));
        }
        let free = node.preserve_unknown || matches!(node.additional, Additional::Anything);
        if free && node.properties.is_empty() && !node.atomic_map {
            return self.scalar(Type::Any);
        }
        let fields = self.fields(node);
        self.add(structure(fields, node))
    }

    fn list(&mut self, node: &Node) -> NodeId {
        let item = match &node.items {
            Some(item) => self.node(item),
            None => self.scalar(Type::Any),
        };
        let keys = node.keys.iter().map(CompactString::to_string).map(Cow::Owned);
        let keys = if node.list == ListKind::Map { keys.collect() } else { Vec::new() };
        let default = |key: &CompactString| {
            let value = node.items.as_ref()?.property(key)?.default.clone()?;
            Some((key.to_string(), value))
        };
        let defaults = Some(node.keys.iter().filter_map(default).collect());
        self.add(Type::List(List { item, kind: node.list, keys: Cow::Owned(keys), defaults }))
    }

    /// The type of metadata, copied from the built-in ones.
    fn metadata(&mut self) -> NodeId {
        match api::type_of_definition(OBJECT_META) {
            Some(node) => self.copy(node, &mut BTreeMap::new()),
            None => self.scalar(Type::Any),
        }
    }

    fn copy(&mut self, node: NodeId, copied: &mut BTreeMap<NodeId, NodeId>) -> NodeId {
        if let Some(known) = copied.get(&node) {
            return *known;
        }
        let place = self.add(Type::Any);
        copied.insert(node, place);
        let mut it = api::schema().node(node).clone();
        match &mut it {
            Type::Struct(of) => {
                for field in of.fields.to_mut() {
                    field.node = self.copy(field.node, copied);
                }
            }
            Type::Map(map) => map.value = self.copy(map.value, copied),
            Type::List(list) => list.item = self.copy(list.item, copied),
            Type::SchemaOrBool(of) | Type::SchemaOrArray(of) | Type::SchemaOrStrings(of) => {
                *of = self.copy(*of, copied);
            }
            _ => {}
        }
        self.nodes[usize::from(place)] = it;
        place
    }
}
