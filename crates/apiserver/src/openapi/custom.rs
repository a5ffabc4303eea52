//! Custom resources in OpenAPI: their schemas, with what every object has besides.

use api::docs::Docs;
use apimachinery::{Object, Value, value};
use registry::custom::CustomResource;

use super::Version;
use super::definitions::{LIST_META, OBJECT_META, kind_value, reference};

/// A kind that has the descriptions which every kind has.
const DESCRIBED: &str = "io.k8s.api.core.v1.ConfigMap";
const DESCRIBED_LIST: &str = "io.k8s.api.core.v1.ConfigMapList";
/// What 2.0 has no words for, and its readers stumble over.
const UNKNOWN_TO_V2: &[&str] = &["nullable", "allOf", "anyOf", "oneOf", "not"];

/// The definition of a kind, or of its lists.
pub(super) fn schema(
    view: &CustomResource,
    is_list: bool,
    docs: &mut Docs,
    version: Version,
) -> Value {
    if is_list { list(view, docs, version) } else { object(view, docs, version) }
}

fn described(docs: &mut Docs, of: &str, member: &str) -> Object {
    let mut out = Object::new();
    if let Some(text) = docs.definition(of).and_then(|docs| docs.field(member)) {
        out.insert("description", text);
    }
    out
}

fn text(docs: &mut Docs, of: &str, member: &str) -> Value {
    let mut out = described(docs, of, member);
    out.insert("type", "string");
    Value::Object(out)
}

fn referred(docs: &mut Docs, of: &str, to: &str, version: Version) -> Value {
    let mut out = described(docs, of, "metadata");
    for (name, value) in reference(to, false, version).iter() {
        out.insert(name, value.clone());
    }
    Value::Object(out)
}

fn list(view: &CustomResource, docs: &mut Docs, version: Version) -> Value {
    let facts = view.facts();
    let (one, _) = view.definition_names();
    let kind = view.list_kind_name();
    let of = DESCRIBED_LIST;
    value!({
        "description": (format!("{kind} is a list of {}", facts.kind)),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": (text(docs, of, "apiVersion")),
            "items": {
                "description": (format!("List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", facts.resource)),
                "type": "array",
                "items": (Value::Object(reference(one, false, version))),
            },
            "kind": (text(docs, of, "kind")),
            "metadata": (referred(docs, of, LIST_META, version)),
        },
        "x-kubernetes-group-version-kind": [(kind_value(facts.group, facts.version, kind))],
    })
}

fn object(view: &CustomResource, docs: &mut Docs, version: Version) -> Value {
    let facts = view.facts();
    let mut schema = view.openapi();
    let open = schema.bool_at(&["x-kubernetes-preserve-unknown-fields"]) && version == Version::V2;
    // Clients of version 2 would refuse whatever is not listed beside what is.
    if open || schema.as_object().is_none() {
        schema = value!({"type": "object"});
    } else {
        if version == Version::V2 {
            for_v2(&mut schema);
        }
        let of = DESCRIBED;
        schema.set_at(&["properties", "apiVersion"], text(docs, of, "apiVersion"));
        schema.set_at(&["properties", "kind"], text(docs, of, "kind"));
        schema.set_at(&["properties", "metadata"], referred(docs, of, OBJECT_META, version));
    }
    let kinds = vec![kind_value(facts.group, facts.version, facts.kind)];
    schema.set_at(&["x-kubernetes-group-version-kind"], Value::Array(kinds));
    schema
}

/// As much as 2.0 can say of a schema.
fn for_v2(schema: &mut Value) {
    let Some(node) = schema.as_object_mut() else { return };
    let flag = |name: &str| node.get(name).and_then(Value::as_bool).unwrap_or_default();
    let nullable = flag("nullable");
    let preserves = flag("x-kubernetes-preserve-unknown-fields");
    let int_or_string = flag("x-kubernetes-int-or-string");
    UNKNOWN_TO_V2.iter().for_each(|it| {
        node.remove(it);
    });
    if nullable || int_or_string {
        node.remove("type");
    }
    if nullable || preserves {
        // Clients refuse what is not listed here, and take everything where nothing is.
        for member in ["items", "properties", "additionalProperties"] {
            node.remove(member);
        }
    }
    for member in ["items", "additionalProperties"] {
        if let Some(below) = node.get_mut(member) {
            for_v2(below);
        }
    }
    let properties = node.get_mut("properties").and_then(Value::as_object_mut);
    for (_, below) in properties.into_iter().flat_map(Object::iter_mut) {
        for_v2(below);
    }
}
