//! Nothing panics, whatever comes in; and what must be so is so.

use apimachinery::duration::Duration;
use apimachinery::managed_fields::{self, FieldSet, Write};
use apimachinery::patch::{json_patch, merge, strategic};
use apimachinery::quantity::{self, Quantity};
use apimachinery::schema::{Field, List, ListKind, Map, Node, Patch, Presence, Schema, Struct};
use apimachinery::{Value, fields, json, labels, yaml};
use proptest::prelude::*;

/// Names that the types below know, so that arbitrary values meet them often, and directives.
fn name() -> impl Strategy<Value = String> {
    const KNOWN: [&str; 15] = [
        "a",
        "b",
        "list",
        "set",
        "map",
        "name",
        "metadata",
        "labels",
        "$patch",
        "$retainKeys",
        "$setElementOrder/list",
        "$deleteFromPrimitiveList/set",
        "managedFields",
        "op",
        "path",
    ];
    prop_oneof![4 => prop::sample::select(&KNOWN[..]).prop_map(str::to_owned), 1 => "[a-z~/]{0,3}"]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-3i64..3).prop_map(Value::Int),
        any::<i64>().prop_map(Value::Int),
        name().prop_map(Value::from),
        prop::sample::select(&["delete", "replace", "merge", "add", "move", "/a/0", "/list/-"][..])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            prop::collection::vec((name(), inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// An object of the type below, as a server holds it.
fn object() -> impl Strategy<Value = Value> {
    let entry = || prop::collection::btree_map("[a-c]", "[x-z]", 0..4);
    let items = prop::collection::btree_map("[a-d]", entry(), 0..4);
    (entry(), items, prop::collection::btree_set("[a-d]", 0..4), 0i64..3).prop_map(
        |(map, items, set, number)| {
            let text = |map: std::collections::BTreeMap<String, String>| {
                Value::Object(map.into_iter().collect())
            };
            let mut object = Value::object();
            object.set_at(&["spec", "map"], text(map));
            let list = items.into_iter().map(|(name, map)| {
                let mut item = Value::object();
                item.set_at(&["name"], name);
                item.set_at(&["map"], text(map));
                item
            });
            object.set_at(&["spec", "list"], list.collect::<Value>());
            object.set_at(&["spec", "set"], set.into_iter().collect::<Value>());
            object.set_at(&["spec", "a"], number);
            object
        },
    )
}

fn schema() -> Schema {
    let field = |name: &'static str, node, merge, key: &'static str| Field {
        name: name.into(),
        node,
        presence: Presence::OmitEmpty,
        patch: Patch { merge, retain_keys: false },
        merge_key: key.into(),
    };
    let record = |fields: Vec<Field>| {
        Node::Struct(Struct {
            name: "T".into(),
            package: "v1".into(),
            atomic: false,
            preserve_unknown: false,
            fields: fields.into(),
        })
    };
    let spec = || {
        vec![
            field("a", 4, false, ""),
            field("list", 5, true, "name"),
            field("map", 7, false, ""),
            field("name", 3, false, ""),
            field("set", 6, true, ""),
        ]
    };
    let list = |item, kind, keys: Vec<&'static str>| {
        Node::List(List {
            item,
            kind,
            keys: keys.into_iter().map(Into::into).collect(),
            defaults: None,
        })
    };
    let mut root = spec();
    root.extend([
        field("apiVersion", 3, false, ""),
        field("metadata", 2, false, ""),
        field("spec", 1, false, ""),
    ]);
    root.sort_by(|a, b| a.name.cmp(&b.name));
    let nodes = vec![
        record(root),
        record(spec()),
        record(vec![field("labels", 7, false, ""), field("name", 3, false, "")]),
        Node::String,
        Node::Int64,
        list(1, ListKind::Map, vec!["name"]),
        list(3, ListKind::Set, vec![]),
        Node::Map(Map { value: 3, atomic: false }),
    ];
    Schema { nodes: nodes.into(), go_names: (&[]).into() }
}

fn write<'w>(schema: &'w Schema, manager: &'w str) -> Write<'w> {
    Write { schema, node: 0, manager, api_version: "v1", subresource: "", now: "1", reset: &[] }
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,40}") {
        let _ = labels::Selector::parse(&text);
        let _ = fields::Selector::parse(&text);
        let _ = Duration::parse(&text);
        let _ = yaml::parse(text.as_bytes());
        let _ = json::parse(text.as_bytes());
        let _ = quantity::canonical(&text);
        let _ = apimachinery::time::parse_time(&text);
        let _ = apimachinery::validation::cidr_warnings(&text);
        let _ = apimachinery::validation::qualified_name(&text);
    }

    #[test]
    fn no_near_miss_panics(text in "[-+0-9.eEinumkKMGTP]{0,12}", yaml_text in "[-a:{}\\[\\], \n&*!|>'\"#?%<]{0,30}") {
        let _ = quantity::canonical(&text);
        let _ = yaml::parse(yaml_text.as_bytes());
    }

    #[test]
    fn quantities_survive_their_own_text(value in any::<i32>(), suffix in prop::sample::select(&["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "e3", "e-3"][..])) {
        let read = Quantity::parse(&format!("{value}{suffix}")).unwrap();
        prop_assert_eq!(Quantity::parse(&read.to_string()).unwrap(), read);
        prop_assert_eq!((read + read) - read, read);
        prop_assert_eq!(read.cmp(&Quantity::ZERO), value.cmp(&0));
    }

    #[test]
    fn json_in_yaml_is_the_same_value(value in value()) {
        let text = json::to_vec(&value);
        prop_assert_eq!(yaml::parse(&text).unwrap(), value);
    }

    #[test]
    fn patches_never_panic(original in value(), patch in value()) {
        let schema = schema();
        let _ = merge::apply(&original, &patch);
        let _ = json_patch::apply(&original, &patch);
        let _ = strategic::apply(&original, &patch, &schema, 0);
        if let Ok(merged) = merge::apply(&original, &patch) {
            prop_assert_eq!(merge::apply(&merged, &patch).unwrap(), merged);
        }
    }

    #[test]
    fn managed_fields_never_panic(old in value(), new in value()) {
        let schema = schema();
        let mut object = new.clone();
        managed_fields::update(&write(&schema, "m"), Some(&old), &mut object);
        let _ = managed_fields::apply(&write(&schema, "m"), Some(&old), &new, true);
        let _ = FieldSet::from_value(new);
    }

    #[test]
    fn what_changes_there_is_removed_back(old in object(), new in object()) {
        let schema = schema();
        let there = managed_fields::compare(&schema, 0, Some(&old), &new);
        let back = managed_fields::compare(&schema, 0, Some(&new), &old);
        let mut added = there.changed.clone();
        added.subtract(&back.changed);
        let mut removed = back.removed.clone();
        removed.subtract(&there.removed);
        prop_assert_eq!(added, back.removed);
        let same = managed_fields::compare(&schema, 0, Some(&new), &new);
        prop_assert!(same.changed.is_empty() && same.removed.is_empty());
    }

    #[test]
    fn what_one_manager_applies_alone_is_the_object(first in object(), second in object()) {
        let schema = schema();
        let versioned = |mut it: Value| {
            it.set_at(&["apiVersion"], "v1");
            it
        };
        let (first, second) = (versioned(first), versioned(second));
        let one = managed_fields::apply(&write(&schema, "m"), None, &first, false).unwrap().unwrap();
        let two = managed_fields::apply(&write(&schema, "m"), Some(&one), &second, false).unwrap();
        let mut two = two.unwrap_or(one);
        two.remove_at(&["metadata"]);
        // What an apply empties is null, as upstream's merge leaves it.
        let empty = |it: &Value| it.is_null() || it.as_array().is_some_and(<[_]>::is_empty) || it.as_object().is_some_and(apimachinery::Object::is_empty);
        let clean = |mut it: Value| {
            if let Some(spec) = it.at_mut(&["spec"]).and_then(Value::as_object_mut) {
                spec.retain(|_, it| !empty(it));
            }
            for item in it.items_at_mut(&["spec", "list"]) {
                if let Some(item) = item.as_object_mut() {
                    item.retain(|_, it| !empty(it));
                }
            }
            it
        };
        prop_assert_eq!(clean(two), clean(second));
    }
}
