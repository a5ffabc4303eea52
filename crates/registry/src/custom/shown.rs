//! A schema as upstream shows its internal type in messages: by Go's field names, zero values and all.

use std::fmt::Write as _;

use apimachinery::{Object, Value, json};

use crate::go;

/// What a field of the type is, which says how it is shown.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Text,
    Truth,
    /// A pointer to, or a list of, plain values.
    Plain,
    Schema,
    Schemas,
    Named,
    OrArray,
    OrBool,
    Rules,
}

use Shape::{Named, OrArray, OrBool, Plain, Rules, Schema, Schemas, Text, Truth};

/// Go's name, the name in JSON, and what it is.
const FIELDS: [(&str, &str, Shape); 43] = [
    ("ID", "id", Text),
    ("Schema", "$schema", Text),
    ("Ref", "$ref", Plain),
    ("Description", "description", Text),
    ("Type", "type", Text),
    ("Nullable", "nullable", Truth),
    ("Format", "format", Text),
    ("Title", "title", Text),
    ("Default", "default", Plain),
    ("Maximum", "maximum", Plain),
    ("ExclusiveMaximum", "exclusiveMaximum", Truth),
    ("Minimum", "minimum", Plain),
    ("ExclusiveMinimum", "exclusiveMinimum", Truth),
    ("MaxLength", "maxLength", Plain),
    ("MinLength", "minLength", Plain),
    ("Pattern", "pattern", Text),
    ("MaxItems", "maxItems", Plain),
    ("MinItems", "minItems", Plain),
    ("UniqueItems", "uniqueItems", Truth),
    ("MultipleOf", "multipleOf", Plain),
    ("Enum", "enum", Plain),
    ("MaxProperties", "maxProperties", Plain),
    ("MinProperties", "minProperties", Plain),
    ("Required", "required", Plain),
    ("Items", "items", OrArray),
    ("AllOf", "allOf", Schemas),
    ("OneOf", "oneOf", Schemas),
    ("AnyOf", "anyOf", Schemas),
    ("Not", "not", Schema),
    ("Properties", "properties", Named),
    ("AdditionalProperties", "additionalProperties", OrBool),
    ("PatternProperties", "patternProperties", Named),
    ("Dependencies", "dependencies", Named),
    ("AdditionalItems", "additionalItems", OrBool),
    ("Definitions", "definitions", Named),
    ("ExternalDocs", "externalDocs", Plain),
    ("Example", "example", Plain),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields", Plain),
    ("XEmbeddedResource", "x-kubernetes-embedded-resource", Truth),
    ("XIntOrString", "x-kubernetes-int-or-string", Truth),
    ("XListMapKeys", "x-kubernetes-list-map-keys", Plain),
    ("XListType", "x-kubernetes-list-type", Plain),
    ("XMapType", "x-kubernetes-map-type", Plain),
];

/// The words that may stand at the root of a schema whose status is a resource of its own: by the type's field names.
pub(super) const AT_ROOT: [&str; 22] = [
    "Description",
    "Type",
    "Format",
    "Title",
    "Maximum",
    "ExclusiveMaximum",
    "Minimum",
    "ExclusiveMinimum",
    "MaxLength",
    "MinLength",
    "Pattern",
    "MaxItems",
    "MinItems",
    "UniqueItems",
    "MultipleOf",
    "Required",
    "Items",
    "Properties",
    "ExternalDocs",
    "Example",
    "XPreserveUnknownFields",
    "XValidations",
];

/// Whether a schema says something that may not stand at such a root.
pub(super) fn has_more_than_root(schema: &Value) -> bool {
    let is_set = |value: Option<&Value>, shape: Shape| match (value, shape) {
        (None | Some(Value::Null | Value::Bool(false)), Text | Truth) => false,
        (Some(Value::String(text)), Text) => !text.is_empty(),
        (None | Some(Value::Null), _) => false,
        _ => true,
    };
    FIELDS
        .iter()
        .any(|(go, member, shape)| !AT_ROOT.contains(go) && is_set(schema.get(member), *shape))
}

/// The whole of it, on one line.
pub(super) fn schema(schema: &Value) -> String {
    let mut out = String::from("{");
    for (go, member, shape) in FIELDS {
        // Writing to a string does not fail.
        let _ = write!(out, "\"{go}\":");
        field(schema.get(member).unwrap_or(&Value::Null), shape, &mut out);
        out.push(',');
    }
    out.push_str("\"XValidations\":");
    field(&schema["x-kubernetes-validations"], Rules, &mut out);
    out.push('}');
    out
}

/// What stands for the items of a list.
pub(super) fn items(value: &Value) -> String {
    let mut out = String::new();
    field(value, OrArray, &mut out);
    out
}

fn field(value: &Value, shape: Shape, out: &mut String) {
    match (shape, value) {
        (Text, Value::Null) => out.push_str("\"\""),
        (Truth, Value::Null) => out.push_str("false"),
        (_, Value::Null) => out.push_str("null"),
        (Text | Truth | Plain, value) => out.push_str(&escaped(&json::to_string(value))),
        (Schema, value) => out.push_str(&schema(value)),
        (Schemas, value) => list(value, schema, out),
        (Rules, value) => list(value, |it| escaped(&go::compact(it, go::VALIDATION_RULE)), out),
        (Named, value) => {
            let all = value.as_object().into_iter().flat_map(Object::iter);
            let all: Vec<String> = all
                .map(|(name, it)| format!("{}:{}", json::to_string(&name.into()), schema(it)))
                .collect();
            let _ = write!(out, "{{{}}}", all.join(","));
        }
        (OrArray, Value::Array(items)) => {
            let all: Vec<String> = items.iter().map(schema).collect();
            let _ = write!(out, "{{\"Schema\":null,\"JSONSchemas\":[{}]}}", all.join(","));
        }
        (OrArray, value) => {
            let _ = write!(out, "{{\"Schema\":{},\"JSONSchemas\":null}}", schema(value));
        }
        (OrBool, Value::Bool(allows)) => {
            let _ = write!(out, "{{\"Allows\":{allows},\"Schema\":null}}");
        }
        (OrBool, value) => {
            let _ = write!(out, "{{\"Allows\":true,\"Schema\":{}}}", schema(value));
        }
    }
}

fn list(value: &Value, shown: impl Fn(&Value) -> String, out: &mut String) {
    let all: Vec<String> = value.as_array().unwrap_or_default().iter().map(shown).collect();
    let _ = write!(out, "[{}]", all.join(","));
}

/// Go's JSON is safe to stand in a page.
fn escaped(text: &str) -> String {
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}
