//! Whether the expressions of an admission policy fit the kinds that it is for. Upstream: `validating.TypeChecker`.
//!
//! What does not fit is a warning in the policy's status; the policy works as it does without. Types come from the tables of
//! built-in kinds and the schemas of custom resources.

use std::collections::BTreeSet;
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::schema::{Node, NodeId};
use cel::env::VariableType;
use cel::schema::{TypeProvider, escape};
use cel::{DeclType, Env, Type};

use super::{Names, POLICIES, with};

/// As many kinds are checked for one policy (upstream's limit).
const MAX_KINDS: usize = 10;
/// What the types of built-in kinds are called; nobody else's begin so.
const BUILT_IN: &str = "DeclType.";

/// A kind in one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kind {
    /// The group; empty for the core one.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind.
    pub kind: String,
}

/// Custom resources, by what policies name them by.
pub trait Definitions {
    /// The kind of a resource.
    fn kind(&self, group: &str, version: &str, resource: &str) -> Option<String>;
    /// The schema of a kind.
    fn schema(&self, kind: &Kind) -> Option<Value>;
}

/// What does not fit: the expression's place, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// `spec.validations[0].expression`
    pub field_ref: String,
    /// What is wrong, kind by kind.
    pub warning: String,
}

/// Checks the expressions of a validating policy's spec.
#[must_use]
pub fn check(spec: &Value, custom: &dyn Definitions) -> Vec<Warning> {
    let declared = |kind: &Kind| declared(kind, custom);
    let kinds: Vec<(Kind, VariableType)> = kinds(spec, custom)
        .into_iter()
        .filter_map(|it| Some((it.clone(), declared(&it)?)))
        .collect();
    let params = spec.get("paramKind").and_then(|it| declared(&param_kind(it)));
    let variables = spec.items_at(&["variables"]);
    let environments: Vec<(Kind, Env)> = kinds
        .into_iter()
        .map(|(kind, ty)| (kind, environment(&ty, params.as_ref(), variables)))
        .collect();
    let mut warnings = Vec::new();
    for (index, validation) in spec.items_at(&["validations"]).iter().enumerate() {
        for member in ["expression", "messageExpression"] {
            let text = validation.str_at(&[member]);
            if text.is_empty() {
                continue;
            }
            let problems: Vec<String> =
                environments.iter().filter_map(|(kind, env)| problem(kind, env, text)).collect();
            if !problems.is_empty() {
                let field_ref = format!("spec.validations[{index}].{member}");
                warnings.push(Warning { field_ref, warning: problems.join("\n") });
            }
        }
    }
    warnings
}

fn problem(kind: &Kind, env: &Env, text: &str) -> Option<String> {
    let issues = env.compile(text, &[]).err()?;
    let Kind { group, version, kind } = kind;
    Some(format!("{group}/{version}, Kind={kind}: {issues}\n"))
}

fn environment(object: &VariableType, params: Option<&VariableType>, variables: &[Value]) -> Env {
    let mut env = with(&POLICIES, Names { params: false, authorizer: true })
        .with_provider(Arc::new(BuiltIn))
        .with_variable("object", object.clone())
        .with_variable("oldObject", object.clone());
    if let Some(params) = params {
        env = env.with_variable("params", params.clone());
    }
    let mut composed = env.compose();
    for variable in variables {
        // What is wrong with it was told when the policy was written; here it has any type then.
        let _ = composed.define(variable.str_at(&["name"]), variable.str_at(&["expression"]));
    }
    composed.env().clone()
}

fn param_kind(of: &Value) -> Kind {
    let api_version = of.str_at(&["apiVersion"]);
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    Kind { group: group.into(), version: version.into(), kind: of.str_at(&["kind"]).into() }
}

/// The kinds that a policy names; those that it means by wildcards are left out, and subresources are.
fn kinds(spec: &Value, custom: &dyn Definitions) -> BTreeSet<Kind> {
    let mut all = BTreeSet::new();
    for rule in spec.items_at(&["matchConstraints", "resourceRules"]) {
        let named = |member: &str, without: &[char]| {
            let texts = rule.items_at(&[member]).iter().filter_map(Value::as_str);
            let mut names: Vec<String> =
                texts.filter(|it| !it.contains(without)).map(str::to_owned).collect();
            names.sort_unstable();
            names
        };
        let (groups, versions) = (named("apiGroups", &['*']), named("apiVersions", &['*']));
        let resources = named("resources", &['*', '/']);
        let mut count = 0;
        for group in &groups {
            for version in &versions {
                for resource in &resources {
                    let Some(kind) = kind_of(group, version, resource, custom) else { continue };
                    all.insert(kind);
                    count += 1;
                    if count == MAX_KINDS {
                        return all;
                    }
                }
            }
        }
    }
    all
}

fn kind_of(group: &str, version: &str, resource: &str, custom: &dyn Definitions) -> Option<Kind> {
    let mut all = api::all_resources();
    let known =
        all.find(|it| it.group == group && it.version == version && it.resource == resource);
    let kind = match known {
        Some(facts) => facts.kind.to_owned(),
        None => custom.kind(group, version, resource)?,
    };
    Some(Kind { group: group.into(), version: version.into(), kind })
}

/// What a variable of a kind is declared as; `None` where nothing is known of it.
fn declared(kind: &Kind, custom: &dyn Definitions) -> Option<VariableType> {
    if let Some(node) = api::type_of_kind(&kind.group, &kind.version, &kind.kind) {
        return Some(type_of(node).into());
    }
    let schema = custom.schema(kind)?;
    Some(Arc::new(DeclType::from_schema(&schema, "DeclType", true)?).into())
}

/// The types of built-in kinds, looked up as they are asked for.
#[derive(Debug)]
struct BuiltIn;

fn node(id: NodeId) -> Option<&'static Node> {
    api::schema().nodes.get(usize::from(id))
}

fn type_of(id: NodeId) -> Type {
    match node(id) {
        Some(Node::Bool) => Type::Bool,
        Some(Node::Int32 | Node::Int64) => Type::Int,
        Some(Node::Float64) => Type::Double,
        Some(Node::String | Node::Duration) => Type::String,
        Some(Node::Bytes) => Type::Bytes,
        Some(Node::Time | Node::MicroTime) => Type::Timestamp,
        Some(Node::Struct(_)) => Type::object(&format!("{BUILT_IN}{id}")),
        Some(Node::Map(map)) => Type::map(Type::String, type_of(map.value)),
        Some(Node::List(list)) => Type::list(type_of(list.item)),
        // Of several types, or of none that the schema tells.
        Some(
            Node::Quantity
            | Node::IntOrString
            | Node::RawExtension
            | Node::FieldsV1
            | Node::Any
            | Node::SchemaOrBool(_)
            | Node::SchemaOrArray(_)
            | Node::SchemaOrStrings(_),
        )
        | None => Type::Dyn,
    }
}

fn struct_of(type_name: &str) -> Option<&'static apimachinery::schema::Struct> {
    match node(type_name.strip_prefix(BUILT_IN)?.parse().ok()?)? {
        Node::Struct(it) => Some(it),
        _ => None,
    }
}

impl TypeProvider for BuiltIn {
    fn has_type(&self, name: &str) -> bool {
        struct_of(name).is_some()
    }

    fn field(&self, type_name: &str, field: &str) -> Option<Type> {
        let mut fields = struct_of(type_name)?.fields.iter();
        let is_it = |name: &str| escape(name).is_some_and(|it| it == field);
        fields.find(|it| is_it(&it.name)).map(|it| type_of(it.node))
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    struct Widgets;

    impl Definitions for Widgets {
        fn kind(&self, group: &str, version: &str, resource: &str) -> Option<String> {
            let is_it = (group, version, resource) == ("example.com", "v1", "widgets");
            is_it.then(|| "Widget".to_owned())
        }

        fn schema(&self, kind: &Kind) -> Option<Value> {
            (kind.kind == "Widget").then(|| {
                value!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
                    "size": {"type": "integer"}}}}})
            })
        }
    }

    fn told(group: &str, resources: &[&str], validation: Value) -> Vec<String> {
        let resources: Value =
            resources.iter().map(|it| Value::from(*it)).collect::<Vec<_>>().into();
        let spec = value!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "matchConstraints": {"resourceRules": [
                {"apiGroups": [group], "apiVersions": ["v1"], "resources": resources}]},
            "variables": [{"name": "n", "expression": "object.spec.replicas"}, {"name": "bad", "expression": "nope"}],
            "validations": [validation]
        });
        check(&spec, &Widgets)
            .into_iter()
            .map(|it| format!("{}: {}", it.field_ref, it.warning))
            .collect()
    }

    #[test]
    fn expressions_are_checked_against_each_kind() {
        let at = |expression: &str| value!({"expression": expression});
        for (group, resources, expression, wanted) in [
            ("apps", &["deployments"][..], "object.spec.replicas > 1", None),
            (
                "apps",
                &["deployments"],
                "has(object.spec.paused) && variables.n > 1 && variables.bad",
                None,
            ),
            ("apps", &["deployments"], "params.data['x'] == object.metadata.name", None),
            (
                "apps",
                &["deployments"],
                "object.spec.template.spec.containers.all(c, c.image != '')",
                None,
            ),
            ("apps", &["deployments"], "object.spec.strategy.rollingUpdate.maxSurge == 1", None),
            (
                "",
                &["pods"],
                "object.spec.nope == 1",
                Some(
                    "spec.validations[0].expression: /v1, Kind=Pod: ERROR: <input>:1:12: undefined field 'nope'\n | object.spec.nope == 1\n | ...........^\n",
                ),
            ),
            (
                "apps",
                &["deployments", "daemonsets", "deployments/scale", "*"],
                "object.spec.replicas > 1",
                Some(
                    "spec.validations[0].expression: apps/v1, Kind=DaemonSet: ERROR: <input>:1:12: undefined field 'replicas'\n | object.spec.replicas > 1\n | ...........^\n",
                ),
            ),
            (
                "example.com",
                &["widgets"],
                "object.spec.size > 1 && object.metadata.name != ''",
                None,
            ),
            (
                "example.com",
                &["widgets"],
                "object.spec.size > 'x'",
                Some(
                    "spec.validations[0].expression: example.com/v1, Kind=Widget: ERROR: <input>:1:18: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.size > 'x'\n | .................^\n",
                ),
            ),
            ("example.com", &["gadgets"], "object.spec.size > 'x'", None),
        ] {
            let told = told(group, resources, at(expression));
            assert_eq!(told.first().map(String::as_str), wanted, "{expression}");
        }
        let message = value!({"expression": "true", "messageExpression": "object.nope"});
        assert!(
            told("apps", &["deployments"], message)[0]
                .starts_with("spec.validations[0].messageExpression: ")
        );
    }
}
