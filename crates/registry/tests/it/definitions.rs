//! Definitions of custom resources, and what upstream's API server (v1.36) refuses of them: one a line, with the errors in no
//! order, since upstream looks at properties in none.

use std::collections::BTreeSet;

use apimachinery::{Value, json, value};

use crate::resource_of;

/// What is told of a definition; `None` where it is no definition at all.
fn told(case: &Value) -> Option<BTreeSet<String>> {
    let mut object = value!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": (case["metadata"].clone()),
        "spec": (case["spec"].clone()),
    });
    let (resource, served) = resource_of(&object);
    resource.conform(&served, &mut object).ok()?;
    resource.default(&served, &mut object);
    resource.prepare_create(&mut object);
    Some(resource.validate(&served, &object).iter().map(ToString::to_string).collect())
}

/// A definition with this schema of `spec`.
fn of_spec(schema: &Value) -> Value {
    value!({
        "metadata": {"name": "foos.ex.io"},
        "spec": {
            "group": "ex.io",
            "scope": "Namespaced",
            "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {"spec": (schema.clone())},
                }},
            }],
        },
    })
}

/// Rules by themselves stand at the schema of the first line.
fn cases_of_rules() -> Vec<Value> {
    let mut lines =
        include_str!("rules.jsonl").lines().map(|it| json::parse(it.as_bytes()).unwrap());
    let properties = lines.next().unwrap()["properties"].clone();
    lines
        .map(|case| {
            let schema = match case.get("rules") {
                None => case["schema"].clone(),
                Some(rules) => value!({
                    "type": "object",
                    "properties": (properties.clone()),
                    "x-kubernetes-validations": (rules.clone()),
                }),
            };
            let mut whole = of_spec(&schema);
            whole.set_at(&["name"], case["name"].clone());
            whole.set_at(&["causes"], case["causes"].clone());
            whole
        })
        .collect()
}

#[test]
fn definitions_are_refused_as_upstream_refuses_them() {
    let cases = include_str!("definitions.jsonl").lines();
    check(cases.map(|it| json::parse(it.as_bytes()).unwrap()));
}

#[test]
fn rules_are_refused_as_upstream_refuses_them() {
    check(cases_of_rules());
}

fn check(cases: impl IntoIterator<Item = Value>) {
    let mut wrong = Vec::new();
    for case in cases {
        // A name that a server makes is another one each time.
        if case.at(&["metadata", "generateName"]).is_some() {
            continue;
        }
        let wanted: BTreeSet<String> =
            case.items_at(&["causes"]).iter().filter_map(Value::as_str).map(Into::into).collect();
        let Some(found) = told(&case) else { continue };
        if found != wanted {
            let missing: Vec<&String> = wanted.difference(&found).collect();
            let more: Vec<&String> = found.difference(&wanted).collect();
            let name = case.str_at(&["name"]);
            wrong.push(format!("{name}:\n  missing {missing:#?}\n  more {more:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{} are told otherwise:\n{}", wrong.len(), wrong.join("\n"));
}
