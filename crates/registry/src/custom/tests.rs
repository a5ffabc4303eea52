//! Custom resources as tables: schemas, objects, and what becomes of them.

use std::sync::Arc;

use apimachinery::obj::Obj;
use apimachinery::{Value, json, value};

use super::{Definition, rank};
use crate::{AnyResource, Part};

/// A definition with this schema of `spec`, and a status of numbers.
fn definition(spec: &Value, more: &Value) -> Definition {
    let mut version = value!({"name": "v1", "served": true, "storage": true, "schema": {
        "openAPIV3Schema": {"type": "object", "properties": {
            "spec": (spec.clone()),
            "status": {"type": "object", "properties": {"n": {"type": "integer"}}},
        }},
    }});
    for (name, it) in more.as_object().unwrap().iter() {
        version.set_at(&[name], it.clone());
    }
    of_versions(vec![version])
}

fn of_versions(versions: Vec<Value>) -> Definition {
    let definition = value!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.test.example"},
        "spec": {"group": "test.example", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": (Value::Array(versions))},
    });
    Definition::new(&definition, &Arc::new(Obj::of(&definition).unwrap())).unwrap()
}

fn object(spec: &Value) -> Value {
    value!({"apiVersion": "test.example/v1", "kind": "Thing",
        "metadata": {"name": "a", "namespace": "n", "resourceVersion": "1"}, "spec": (spec.clone())})
}

fn parse(text: &str) -> Value {
    json::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What a spec becomes, and what of it was not known.
fn check_shape(schema: &str, spec: &str, expected: &str) {
    let definition = definition(&parse(schema), &value!({}));
    let view = definition.storage();
    let mut value = object(&parse(spec));
    let outcome = match view.conform(&view.own(), &mut value) {
        Ok(unknown) => {
            view.default(&view.own(), &mut value);
            format!("{} {}", json::to_string(&value["spec"]), unknown.join(" "))
        }
        Err(error) => error.to_string(),
    };
    assert_eq!(outcome.trim(), expected, "{schema} on {spec}");
}

fn problems(definition: &Definition, old: Option<&str>, spec: &str) -> String {
    let view = definition.storage();
    let value = object(&parse(spec));
    let errors = match old {
        None => view.validate(&view.own(), &value),
        Some(old) => view.validate_update(Part::Main, &value, &object(&parse(old))),
    };
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What is wrong with a new spec.
fn check(schema: &str, spec: &str, expected: &str) {
    let definition = definition(&parse(schema), &value!({}));
    assert_eq!(problems(&definition, None, spec), expected, "{schema} on {spec}");
}

/// What is wrong with a changed spec.
fn check_update(schema: &str, old: &str, spec: &str, expected: &str) {
    let definition = definition(&parse(schema), &value!({}));
    assert_eq!(problems(&definition, Some(old), spec), expected, "{schema}: {old} to {spec}");
}

#[test]
fn what_is_not_known_is_dropped_and_what_is_missing_is_set() {
    let schema = r#"{"type":"object","properties":{
        "size":{"type":"integer","default":3},
        "free":{"type":"object","x-kubernetes-preserve-unknown-fields":true,
            "properties":{"known":{"type":"object","properties":{"a":{"type":"string"}}}}},
        "list":{"type":"array","items":{"type":"object","properties":{"x":{"type":"integer","default":1}}}},
        "map":{"type":"object","additionalProperties":{"type":"object","properties":{"x":{"type":"integer"}}}},
        "maybe":{"type":"string","nullable":true},
        "never":{"type":"string"}}}"#;
    check_shape(schema, r#"{"extra":1}"#, r#"{"size":3} spec.extra"#);
    check_shape(schema, r#"{"size":null,"maybe":null,"never":null}"#, r#"{"maybe":null,"size":3}"#);
    check_shape(
        schema,
        r#"{"size":1,"list":[{"x":2,"y":3},{}]}"#,
        r#"{"list":[{"x":2},{"x":1}],"size":1} spec.list[0].y"#,
    );
    check_shape(
        schema,
        r#"{"size":1,"free":{"any":{"b":1},"known":{"a":"x","b":1}}}"#,
        r#"{"free":{"any":{"b":1},"known":{"a":"x"}},"size":1} spec.free.known.b"#,
    );
    check_shape(
        schema,
        r#"{"size":1,"map":{"k":{"x":1,"y":2}}}"#,
        r#"{"map":{"k":{"x":1}},"size":1} spec.map.k.y"#,
    );
}

#[test]
fn embedded_objects_keep_what_every_object_has() {
    let schema = r#"{"type":"object","properties":{"it":{"type":"object",
        "x-kubernetes-embedded-resource":true,"properties":{"spec":{"type":"object"}}}}}"#;
    check_shape(
        schema,
        r#"{"it":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","nope":1},"other":1}}"#,
        r#"{"it":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}} spec.it.other spec.it.metadata.nope"#,
    );
    check(
        schema,
        r#"{"it":{"apiVersion":""}}"#,
        r#"spec.it.apiVersion: Invalid value: "": must not be empty; spec.it.kind: Required value"#,
    );
}

/// Schemas of a value, values, and what is wrong with them.
const VALUES: &[(&str, &str, &str)] = &[
    (r#"{"type":"integer"}"#, "1", ""),
    (r#"{"type":"integer"}"#, "1.0", ""),
    (
        r#"{"type":"integer"}"#,
        "1.5",
        r#"spec.v: Invalid value: "number": spec.v in body must be of type integer: "number"; <nil>: Invalid value: "": Checked value must be of type integer (default format) in spec.v"#,
    ),
    (
        r#"{"type":"string"}"#,
        "null",
        r#"spec.v: Invalid value: "null": spec.v in body must be of type string: "null""#,
    ),
    (r#"{"type":"string","nullable":true}"#, "null", ""),
    (r#"{"x-kubernetes-int-or-string":true}"#, r#""x""#, ""),
    (
        r#"{"x-kubernetes-int-or-string":true}"#,
        "true",
        r#"spec.v: Invalid value: "boolean": spec.v in body must be of type integer,string: "boolean""#,
    ),
    (
        r#"{"type":"integer","minimum":1,"maximum":3,"multipleOf":2}"#,
        "5",
        "spec.v: Invalid value: 5: spec.v in body should be a multiple of 2; spec.v: Invalid value: 5: spec.v in body should be less than or equal to 3",
    ),
    (
        r#"{"type":"number","minimum":1,"exclusiveMinimum":true}"#,
        "1",
        "spec.v: Invalid value: 1: spec.v in body should be greater than 1",
    ),
    (
        r#"{"type":"string","minLength":2,"pattern":"^b"}"#,
        r#""a""#,
        "spec.v: Invalid value: \"a\": spec.v in body should be at least 2 chars long",
    ),
    (
        r#"{"type":"string","maxLength":2}"#,
        r#""abc""#,
        "spec.v: Too long: may not be more than 2 bytes",
    ),
    (
        r#"{"type":"string","enum":["a","b"]}"#,
        r#""c""#,
        r#"spec.v: Unsupported value: "c": supported values: "a", "b""#,
    ),
    (
        r#"{"type":"string","format":"ipv4"}"#,
        r#""c""#,
        r#"spec.v: Invalid value: "c": spec.v in body must be of type ipv4: "c""#,
    ),
    (
        r#"{"type":"array","maxItems":1,"items":{"type":"integer"}}"#,
        r#"[1,"x"]"#,
        r#"spec.v[1]: Invalid value: "string": spec.v[1] in body must be of type integer: "string"; spec.v: Too many: 2: must have at most 1 item"#,
    ),
    (
        r#"{"type":"array","minItems":1,"items":{"type":"integer"}}"#,
        "[]",
        "spec.v: Invalid value: 0: spec.v in body should have at least 1 items",
    ),
    (
        r#"{"type":"object","required":["a"],"properties":{"a":{"type":"string"}}}"#,
        "{}",
        "spec.v.a: Required value",
    ),
    (
        r#"{"type":"object","maxProperties":1,"additionalProperties":{"type":"string"}}"#,
        r#"{"a":"","b":""}"#,
        "spec.v: Too many: 2: must have at most 1 item",
    ),
    (
        r#"{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}}"#,
        r#"["a","b","a","a"]"#,
        r#"spec.v[2]: Duplicate value: "a""#,
    ),
    (
        r#"{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],
            "items":{"type":"object","properties":{"k":{"type":"string"}}}}"#,
        r#"[{"k":"a"},{"k":"a"}]"#,
        r#"spec.v[1]: Duplicate value: {"k":"a"}"#,
    ),
];

#[test]
fn values_are_checked_in_upstream_s_words() {
    for (schema, value, expected) in VALUES {
        let schema = format!(r#"{{"type":"object","properties":{{"v":{schema}}}}}"#);
        check(&schema, &format!(r#"{{"v":{value}}}"#), expected);
    }
}

#[test]
fn alternatives_are_told_with_the_one_that_fits_best() {
    let schema = r#"{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}},
        "oneOf":[{"required":["a"]},{"required":["b"]}]}"#;
    check(schema, r#"{"a":"x"}"#, "");
    check(
        schema,
        "{}",
        r#"<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found none valid; spec.a: Required value"#,
    );
    check(
        schema,
        r#"{"a":"x","b":"y"}"#,
        r#"<nil>: Invalid value: "": "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
    );
    let schema = r#"{"type":"object","properties":{"a":{"type":"integer",
        "anyOf":[{"minimum":10},{"enum":[1]}],"not":{"enum":[11]}}}}"#;
    check(schema, r#"{"a":1}"#, "");
    check(
        schema,
        r#"{"a":11}"#,
        r#"<nil>: Invalid value: "": "spec.a" must not validate the schema (not)"#,
    );
    check(
        schema,
        r#"{"a":2}"#,
        r#"<nil>: Invalid value: "": "spec.a" must validate at least one schema (anyOf); spec.a: Invalid value: 2: spec.a in body should be greater than or equal to 10"#,
    );
}

#[test]
fn what_was_wrong_may_stay_so() {
    let schema = r#"{"type":"object","properties":{
        "a":{"type":"integer","maximum":3},"b":{"type":"integer"},
        "list":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],
            "items":{"type":"object","properties":{"k":{"type":"string"},"n":{"type":"integer","maximum":3}}}},
        "plain":{"type":"array","items":{"type":"integer","maximum":3}}}}"#;
    check_update(schema, r#"{"a":9}"#, r#"{"a":9,"b":1}"#, "");
    check_update(
        schema,
        r#"{"a":9}"#,
        r#"{"a":8}"#,
        "spec.a: Invalid value: 8: spec.a in body should be less than or equal to 3",
    );
    check_update(
        schema,
        r#"{"list":[{"k":"x","n":9},{"k":"y","n":1}]}"#,
        r#"{"list":[{"k":"y","n":7},{"k":"x","n":9}]}"#,
        "spec.list[0].n: Invalid value: 7: spec.list[0].n in body should be less than or equal to 3",
    );
    check_update(schema, r#"{"plain":[9]}"#, r#"{"plain":[9],"b":1}"#, "");
    check_update(
        schema,
        r#"{"plain":[9]}"#,
        r#"{"plain":[9,1]}"#,
        "spec.plain[0]: Invalid value: 9: spec.plain[0] in body should be less than or equal to 3",
    );
}

#[test]
fn rules_are_run() {
    let schema = r#"{"type":"object","properties":{
        "n":{"type":"integer","x-kubernetes-validations":[
            {"rule":"self >= oldSelf","message":"may not shrink"}]},
        "m":{"type":"integer"},
        "name":{"type":"string"}},
        "x-kubernetes-validations":[
            {"rule":"!has(self.m) || self.m < 10","messageExpression":"'m is ' + string(self.m)","reason":"FieldValueForbidden","fieldPath":".m"},
            {"rule":"!has(self.name) || self.name != 'bad'"}]}"#;
    check(schema, r#"{"n":1}"#, "");
    check(schema, r#"{"m":11}"#, "spec.m: Forbidden: m is 11");
    check(
        schema,
        r#"{"name":"bad"}"#,
        "spec: Invalid value: failed rule: !has(self.name) || self.name != 'bad'",
    );
    check_update(schema, r#"{"n":2}"#, r#"{"n":1}"#, "spec.n: Invalid value: 1: may not shrink");
    check_update(schema, r#"{"n":2}"#, r#"{"n":2}"#, "");
    check_update(schema, r#"{"m":11}"#, r#"{"m":11}"#, "");
    check(
        schema,
        r#"{"n":"x","m":11}"#,
        r#"spec.n: Invalid value: "string": spec.n in body must be of type integer: "string"; <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"#,
    );
    let schema = r#"{"type":"object","properties":{"n":{"type":"integer","x-kubernetes-validations":[
        {"rule":"!oldSelf.hasValue() || self > oldSelf.value()","optionalOldSelf":true,"message":"must grow"}]}}}"#;
    check(schema, r#"{"n":1}"#, "");
    check_update(schema, r#"{"n":1}"#, r#"{"n":0}"#, "spec.n: Invalid value: 0: must grow");
}

#[test]
fn a_definition_s_rules_are_checked() {
    let check = |schema: &str, expected: &str| {
        let mut errors = apimachinery::FieldErrors::new();
        let (path, strict) =
            (apimachinery::Path::new("s"), super::rules_check::Tolerance::default());
        super::rules_check::check(&parse(schema), false, strict, &path, &mut errors);
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(told.join("; "), expected, "{schema}");
    };
    check(
        r#"{"type":"object","properties":{"a":{"type":"integer"}},"x-kubernetes-validations":[{"rule":"self.a < 3"}]}"#,
        "",
    );
    check(
        r#"{"type":"object","x-kubernetes-validations":[{"rule":"self.b < 3"}]}"#,
        "s.x-kubernetes-validations[0].rule: Invalid value: {\"Rule\":\"self.b \\u003c 3\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}: compilation failed: ERROR: <input>:1:5: undefined field 'b'\n | self.b < 3\n | ....^",
    );
    check(
        r#"{"type":"object","properties":{"a":{"type":"array","items":{"type":"integer",
            "x-kubernetes-validations":[{"rule":"self > oldSelf"}]}}}}"#,
        "s.properties[a].items.x-kubernetes-validations[0].rule: Invalid value: \"self > oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[a]",
    );
    let dear = r#"{"type":"object","properties":{"a":{"type":"array","items":{"type":"array","items":{"type":"string"}}}},
        "x-kubernetes-validations":[{"rule":"self.a.all(x, x.all(y, self.a.all(z, z.all(w, w == y))))"}]}"#;
    let mut errors = apimachinery::FieldErrors::new();
    let (path, strict) = (apimachinery::Path::new("s"), super::rules_check::Tolerance::default());
    super::rules_check::check(&parse(dear), false, strict, &path, &mut errors);
    let first = errors.iter().next().unwrap().to_string();
    let wanted = "s.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
    assert_eq!(first, wanted);
}

#[test]
fn versions_are_ordered_as_upstream_orders_them() {
    let mut versions =
        ["foo10", "v1alpha1", "v11beta2", "v2", "v1", "foo1", "v10", "v1beta10", "v12alpha1"];
    versions.sort_by_key(|it| std::cmp::Reverse(rank(it)));
    assert_eq!(
        versions,
        ["v10", "v2", "v1", "v11beta2", "v1beta10", "v12alpha1", "v1alpha1", "foo1", "foo10"]
    );
}

#[test]
fn columns_and_selectable_fields_come_from_the_definition() {
    let columns = value!({
        "additionalPrinterColumns": [
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
        "selectableFields": [{"jsonPath": ".spec.color"}],
    });
    let definition = definition(&value!({"type": "object"}), &columns);
    let view = definition.storage();
    let mut value = object(&value!({"size": 3, "color": "red"}));
    value.set_at(&["metadata", "creationTimestamp"], "2026-01-01T00:00:00Z");
    let row = view.row(&value, "2026-01-01T00:10:00Z".parse().unwrap());
    assert_eq!(Value::Array(row), value!(["a", 3, "10m"]));
    assert_eq!(view.selectable_fields(), ["spec.color"]);
    assert_eq!(view.field_values(&value)[0], "red");
    let told = view.column_description(&view.own(), 1, "Size");
    assert_eq!(told, "Custom resource definition column (in JSONPath format): .spec.size");
}

#[test]
fn columns_end_where_a_path_cannot_be_read() {
    let column =
        |name: &str, path: &str| value!({"name": name, "type": "string", "jsonPath": path});
    let columns = value!({"additionalPrinterColumns": [
        (column("A", ".spec.a")), (column("B", ".spec.[")), (column("C", ".spec.c"))]});
    let definition = definition(&value!({"type": "object"}), &columns);
    let row = definition
        .storage()
        .row(&object(&value!({"a": "x"})), "2026-01-01T00:00:00Z".parse().unwrap());
    assert_eq!(Value::Array(row), value!(["a", "x"]));
}

/// A status of its own is left out when an object is made, and whoever reads it then gets the default.
#[test]
fn a_status_that_is_left_out_has_its_default() {
    let status =
        value!({"type": "object", "default": {"n": 1}, "properties": {"n": {"type": "integer"}}});
    let schema = value!({"type": "object", "properties": {"status": (status)}});
    let version = value!({"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": (schema)}});
    let definition = of_versions(vec![version]);
    let mut value = object(&value!({}));
    value.set_at(&["status", "n"], 2);
    definition.storage().prepare_create(&mut value);
    assert_eq!(value["status"], value!({"n": 1}));
}

#[test]
fn versions_differ_in_what_they_see() {
    let version = |name: &str, storage: bool, member: &str| {
        let mut it = value!({"name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}}});
        it.set_at(
            &["schema", "openAPIV3Schema", "properties", "spec", "properties", member],
            value!({"type": "integer", "default": 1}),
        );
        it
    };
    let definition = of_versions(vec![version("v1", true, "a"), version("v2", false, "b")]);
    let names: Vec<&str> = definition.served().iter().map(|it| it.facts().version).collect();
    assert_eq!(names, ["v2", "v1"]);
    let newer = definition.find("v2").unwrap();
    let mut value = object(&value!({"a": 5}));
    newer.from_storage(&newer.own(), &mut value);
    assert_eq!(value["spec"], value!({"b": 1}));
    assert_eq!(value["apiVersion"], value!("test.example/v2"));
    newer.to_storage(&newer.own(), &mut value);
    assert_eq!(value["apiVersion"], value!("test.example/v1"));
    assert!(
        definition.storage().ingest(&mut value),
        "what another version wrote is looked at again"
    );
    assert_eq!(value["spec"], value!({"a": 1}));
}

#[test]
fn a_status_write_changes_status_alone() {
    let status = value!({"subresources": {"status": {}}});
    let definition = definition(&value!({"type": "object"}), &status);
    let view = definition.storage();
    let old = object(&value!({}));
    let mut written = object(&value!({"x": 1}));
    written.set_at(&["status"], value!({"n": 1}));
    written.set_at(&["metadata", "labels"], value!({"a": "b"}));
    view.prepare_update(Part::Status, &mut written, &old);
    let mut expected = old.clone();
    expected.set_at(&["status"], value!({"n": 1}));
    assert_eq!(written, expected);
    let mut created = written.clone();
    view.prepare_create(&mut created);
    assert_eq!(created, old);
}
