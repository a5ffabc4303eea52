use std::borrow::Cow;

use super::*;
use crate::schema::{Field, List, ListKind, Map, Presence, Struct};

/// `{labels, finalizers (merge), volumes (merge by name, retain keys), args, strategy (retain keys), raw}`
fn schema() -> Schema {
    let field = |name: &'static str, node, merge, merge_key: &'static str| Field {
        name: name.into(),
        node,
        presence: Presence::OmitEmpty,
        patch: Patch { merge, retain_keys: false },
        merge_key: merge_key.into(),
    };
    let record = |name: &'static str, fields: Vec<Field>| {
        Node::Struct(Struct {
            name: name.into(),
            package: "v1".into(),
            atomic: false,
            preserve_unknown: false,
            fields: fields.into(),
        })
    };
    let list = |item| {
        Node::List(List { item, kind: ListKind::Atomic, keys: Cow::Borrowed(&[]), defaults: None })
    };
    let nodes = vec![
        record(
            "Thing",
            vec![
                field("args", 3, false, ""),
                field("bad", 4, true, ""),
                field("finalizers", 3, true, ""),
                field("labels", 5, false, ""),
                field("strategy", 2, false, ""),
                field("volumes", 4, true, "name"),
            ],
        ),
        Node::String,
        record(
            "Volume",
            vec![
                field("args", 3, false, ""),
                field("name", 1, false, ""),
                field("ports", 6, true, "port"),
            ],
        ),
        list(1),
        list(2),
        Node::Map(Map { value: 1, atomic: false }),
        list(7),
        record("Port", vec![field("port", 1, false, "")]),
    ];
    Schema { nodes: nodes.into(), go_names: (&[]).into() }
}

fn check(original: &str, patch: &str, expected: &str) {
    let parse = |text: &str| crate::json::parse(text.as_bytes()).unwrap();
    let outcome = match apply(&parse(original), &parse(patch), &schema(), 0) {
        Ok(value) => crate::json::to_string(&value),
        Err(error) => error.to_string(),
    };
    assert_eq!(outcome, expected, "{original} with {patch}");
}

#[test]
fn maps_and_lists_merge_by_type() {
    for (original, patch, expected) in [
        (r#"{"labels":{"a":"1"}}"#, r#"{"labels":{"a":null,"b":"2"}}"#, r#"{"labels":{"b":"2"}}"#),
        (r#"{"args":["a"]}"#, r#"{"args":["b"]}"#, r#"{"args":["b"]}"#),
        (
            r#"{"finalizers":["a","b"]}"#,
            r#"{"finalizers":["c","a"]}"#,
            r#"{"finalizers":["c","a","b"]}"#,
        ),
        (
            r#"{"finalizers":["a","b"]}"#,
            r#"{"finalizers":["c"],"$deleteFromPrimitiveList/finalizers":["a"]}"#,
            r#"{"finalizers":["c","b"]}"#,
        ),
        ("{}", r#"{"$deleteFromPrimitiveList/finalizers":["a"]}"#, "{}"),
        (
            r#"{"volumes":[{"name":"a","args":["1"]},{"name":"b"}]}"#,
            r#"{"volumes":[{"name":"b","x":1}]}"#,
            r#"{"volumes":[{"args":["1"],"name":"a"},{"name":"b","x":1}]}"#,
        ),
        (
            r#"{"volumes":[{"name":"a"}]}"#,
            r#"{"volumes":[{"name":"b"}]}"#,
            r#"{"volumes":[{"name":"b"},{"name":"a"}]}"#,
        ),
        (
            r#"{"volumes":[{"name":"a","ports":[{"port":"1"}]}]}"#,
            r#"{"volumes":[{"name":"a","ports":[{"port":"2"}]}]}"#,
            r#"{"volumes":[{"name":"a","ports":[{"port":"2"},{"port":"1"}]}]}"#,
        ),
        (
            "{}",
            r#"{"labels":{"a":null,"b":"1"},"x":{"$patch":"replace","y":[{"$patch":"delete"},{"z":null}]}}"#,
            r#"{"labels":{"b":"1"},"x":{"y":[{}]}}"#,
        ),
        (r#"{"labels":"odd"}"#, r#"{"labels":{"a":"1"}}"#, r#"{"labels":{"a":"1"}}"#),
        (r#"{"x":{"y":[1]}}"#, r#"{"x":{"y":[2],"z":null}}"#, r#"{"x":{"y":[2]}}"#),
    ] {
        check(original, patch, expected);
    }
}

#[test]
fn directives_are_obeyed() {
    for (original, patch, expected) in [
        (
            r#"{"labels":{"a":"1"}}"#,
            r#"{"labels":{"$patch":"replace","b":"2"}}"#,
            r#"{"labels":{"b":"2"}}"#,
        ),
        (r#"{"labels":{"a":"1"}}"#, r#"{"labels":{"$patch":"delete"}}"#, r#"{"labels":{}}"#),
        (
            r#"{"volumes":[{"name":"a"},{"name":"b"}]}"#,
            r#"{"volumes":[{"name":"a","$patch":"delete"}]}"#,
            r#"{"volumes":[{"name":"b"}]}"#,
        ),
        (
            r#"{"volumes":[{"name":"a"}]}"#,
            r#"{"volumes":[{"$patch":"replace"},{"name":"z"}]}"#,
            r#"{"volumes":[{"name":"z"}]}"#,
        ),
        (
            r#"{"volumes":[{"name":"a"}]}"#,
            r#"{"volumes":[{"$patch":"replace"}]}"#,
            r#"{"volumes":[]}"#,
        ),
        (
            r#"{"strategy":{"name":"a","args":["x"]}}"#,
            r#"{"strategy":{"$retainKeys":["name"],"name":"b"}}"#,
            r#"{"strategy":{"name":"b"}}"#,
        ),
        (
            r#"{"volumes":[{"name":"v","x":{},"y":1}]}"#,
            r#"{"volumes":[{"name":"v","$retainKeys":["name","z"],"z":{}}]}"#,
            r#"{"volumes":[{"name":"v","z":{}}]}"#,
        ),
        (
            r#"{"volumes":[{"name":"a"},{"name":"b"},{"name":"c"}]}"#,
            r#"{"$setElementOrder/volumes":[{"name":"c"},{"name":"a"}]}"#,
            r#"{"volumes":[{"name":"b"},{"name":"c"},{"name":"a"}]}"#,
        ),
        (
            r#"{"volumes":[{"name":"a"},{"name":"b"}]}"#,
            r#"{"$setElementOrder/volumes":[{"name":"n"},{"name":"a"}],"volumes":[{"name":"n"}]}"#,
            r#"{"volumes":[{"name":"n"},{"name":"a"},{"name":"b"}]}"#,
        ),
        (
            r#"{"finalizers":["a","b"]}"#,
            r#"{"$setElementOrder/finalizers":["b","a"]}"#,
            r#"{"finalizers":["b","a"]}"#,
        ),
        (
            "{}",
            r#"{"$setElementOrder/finalizers":["b","a"],"finalizers":["b","a"]}"#,
            r#"{"finalizers":["b","a"]}"#,
        ),
        ("{}", r#"{"$setElementOrder/finalizers":["b"]}"#, "{}"),
    ] {
        check(original, patch, expected);
    }
}

#[test]
fn errors_are_worded_as_upstream_words_them() {
    for (original, patch, expected) in [
        ("{}", "[]", "json: cannot unmarshal array into Go value of type map[string]interface {}"),
        (
            r#"{"volumes":[{"name":"a"}]}"#,
            r#"{"volumes":[{"image":"noname"}]}"#,
            "map: map[image:noname] does not contain declared merge key: name",
        ),
        (
            r#"{"volumes":[{"name":"a"}]}"#,
            r#"{"volumes":[{"$patch":"delete"}]}"#,
            "map: map[$patch:delete] does not contain declared merge key: name",
        ),
        (
            r#"{"volumes":[{"name":"a"}]}"#,
            r#"{"volumes":[{"$patch":"merge"}]}"#,
            "merging lists cannot yet be specified in the patch",
        ),
        (
            r#"{"labels":{"a":"1"}}"#,
            r#"{"labels":{"$patch":"x"}}"#,
            "unknown patch type: x in map: map[$patch:x]",
        ),
        ("{}", r#"{"$patch":1}"#, "unknown patch type: %!s(int64=1) in map: map[$patch:1]"),
        (
            r#"{"bad":[{"a":1}]}"#,
            r#"{"bad":[{"b":1}]}"#,
            "cannot merge lists without merge key for v1.Volume",
        ),
        (
            r#"{"finalizers":["a"]}"#,
            r#"{"finalizers":[1]}"#,
            "list element types are not identical: [[a] [1]]",
        ),
        (
            r#"{"strategy":{"name":"a"}}"#,
            r#"{"strategy":{"$retainKeys":["name"],"x":1}}"#,
            "invalid patch format of retainKeys",
        ),
        (
            r#"{"strategy":{"name":"a"}}"#,
            r#"{"strategy":{"$retainKeys":"name"}}"#,
            "invalid patch format of retainKeys",
        ),
        (
            "{}",
            r#"{"$setElementOrder/finalizers":["a"],"finalizers":["b"]}"#,
            "The order in patch list:\n[b]\n doesn't match $setElementOrder list:\n[a]\n",
        ),
        (
            "{}",
            r#"{"$setElementOrder/finalizers":[],"finalizers":[]}"#,
            "no elements in any of the given slices",
        ),
        (
            "{}",
            r#"{"$setElementOrder/finalizers":1}"#,
            "expected a []interface {}, but received a int64",
        ),
    ] {
        check(original, patch, expected);
    }
}
