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
    let mut types = Types { nodes: vec![Type::Any], scalars: BTreeMap::new(), metadata: None };
    // First what has to be there however many types there are.
    let kinds = [Type::Any, Type::Bool, Type::Int64, Type::Float64, Type::String];
    for kind in kinds.into_iter().chain([Type::IntOrString]) {
        types.scalar(kind);
    }
    let metadata = types.metadata();
    types.metadata = Some(metadata);
    let free = root.preserve_unknown;
    let fields = types.fields(root, free);
    types.nodes[0] = structure(types.of_object(fields), root, free);
    Schema { nodes: Cow::Owned(types.nodes), go_names: Cow::Borrowed(&[]) }
}

struct Types {
    nodes: Vec<Type>,
    scalars: BTreeMap<&'static str, NodeId>,
    /// The type of an object's metadata.
    metadata: Option<NodeId>,
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

fn structure(mut fields: Vec<Field>, node: &Node, free: bool) -> Type {
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Type::Struct(Struct {
        name: Cow::Borrowed(""),
        package: Cow::Borrowed(""),
        atomic: node.atomic_map,
        preserve_unknown: free,
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

    /// The fields of an object with a kind and metadata, whatever its schema says of those.
    fn of_object(&mut self, mut fields: Vec<Field>) -> Vec<Field> {
        let text = self.scalar(Type::String);
        let metadata = self.metadata.unwrap_or_else(|| self.scalar(Type::Any));
        for (name, node) in [("apiVersion", text), ("kind", text), ("metadata", metadata)] {
            fields.retain(|it| it.name != name);
            fields.push(field(name, node));
        }
        fields
    }

    fn fields(&mut self, node: &Node, free: bool) -> Vec<Field> {
        node.properties.iter().map(|(name, it)| field(name, self.node(it, free))).collect()
    }

    /// The type of a node. Where `free`, it is below one that preserves unknown fields, and so accepts them too.
    fn node(&mut self, node: &Node, free: bool) -> NodeId {
        let free = free || node.preserve_unknown;
        if node.int_or_string {
            return self.scalar(Type::IntOrString);
        }
        match node.kind {
            Some(Kind::Boolean) => self.scalar(Type::Bool),
            Some(Kind::Integer) => self.scalar(Type::Int64),
            Some(Kind::Number) => self.scalar(Type::Float64),
            Some(Kind::String) => self.scalar(Type::String),
            Some(Kind::Array) => self.list(node, free),
            Some(Kind::Object) => self.object(node, free),
            None => self.scalar(Type::Any),
        }
    }

    fn object(&mut self, node: &Node, free: bool) -> NodeId {
        if let Additional::Of(value) = &node.additional {
            let value = self.node(value, free);
            return self.add(Type::Map(Map { value, atomic: node.atomic_map }));
        }
        let mut fields = self.fields(node, free);
        if node.embedded {
            fields = self.of_object(fields);
        }
        // An object of which nothing is said has any fields, though they may be pruned.
        let unsaid = fields.is_empty() && !matches!(node.additional, Additional::Nothing);
        let free = free || unsaid || matches!(node.additional, Additional::Anything);
        if free && fields.is_empty() && !node.atomic_map {
            return self.scalar(Type::Any);
        }
        self.add(structure(fields, node, free))
    }

    fn list(&mut self, node: &Node, free: bool) -> NodeId {
        let item = match &node.items {
            Some(item) => self.node(item, free),
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

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::super::schema::Node;
    use super::*;

    fn refusal(schema: &apimachinery::Value, applied: &apimachinery::Value) -> Option<String> {
        let types = of(&Node::root(schema));
        let write = apimachinery::managed_fields::Write {
            schema: &types,
            node: 0,
            manager: "m",
            api_version: "x.io/v1",
            subresource: "",
            now: "1",
            reset: &[],
        };
        let applied = apimachinery::managed_fields::apply(&write, None, applied, false);
        applied.err().map(|error| error.to_string())
    }

    #[test]
    fn objects_take_the_fields_that_their_schema_leaves_open() {
        let preserve = "x-kubernetes-preserve-unknown-fields";
        let schema = value!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "embedded": {"type": "object", "x-kubernetes-embedded-resource": true,
                "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}},
            "unsaid": {"type": "object"},
            "closed": {"type": "object", "properties": {"a": {"type": "string"}}},
            "open": {"type": "object", preserve: true, "properties": {
                "below": {"type": "object", "properties": {"a": {"type": "string"}}}}}
        }}}});
        for (spec, refused) in [
            (
                value!({"embedded": {"apiVersion": "v1", "kind": "X", "metadata": {"labels": {"a": "b"}}, "spec": {"a": "1"}}}),
                None,
            ),
            (
                value!({"embedded": {"metadata": {"bogus": 1}}}),
                Some(".spec.embedded.metadata.bogus"),
            ),
            (value!({"unsaid": {"x": 1}}), None),
            (value!({"open": {"below": {"x": 1}}}), None),
            (value!({"closed": {"x": 1}}), Some(".spec.closed.x")),
        ] {
            let applied = value!({"apiVersion": "x.io/v1", "kind": "X", "metadata": {"name": "x"}, "spec": (spec.clone())});
            let found = refusal(&schema, &applied);
            match refused {
                None => assert_eq!(found, None, "{spec:?}"),
                Some(path) => {
                    let expected = format!("{path}: field not declared in schema");
                    assert!(found.as_ref().is_some_and(|it| it.contains(&expected)), "{found:?}");
                }
            }
        }
    }
}
