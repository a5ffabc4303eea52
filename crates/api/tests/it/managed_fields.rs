//! Who owns what after the writes that were recorded.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::managed_fields::{self, FieldSet, Write};
use apimachinery::{Value, json};

use crate::recorded::{exchanges, type_of};

const TOPICS: [&str; 6] =
    ["life", "patches", "immutable", "defaulting-corpus", "subresources", "columns"];

#[test]
fn a_new_object_s_fields_are_those_upstream_recorded() {
    let (mut right, mut of) = (0, 0);
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for exchange in TOPICS.iter().flat_map(|topic| exchanges(topic)) {
        let object = &exchange["answer"];
        let Some(node) = created(&exchange) else { continue };
        let mut copy = object.clone();
        let Some(recorded) = copy.remove_at(&["metadata", "managedFields"]) else { continue };
        of += 1;
        let write = Write {
            schema: api::schema(),
            node,
            manager: recorded.as_array().unwrap()[0].str_at(&["manager"]),
            api_version: object.str_at(&["apiVersion"]),
            subresource: "",
            now: recorded.as_array().unwrap()[0].str_at(&["time"]),
            reset: &[&["status"]],
        };
        managed_fields::update(&write, None, &mut copy);
        let found = copy.at(&["metadata", "managedFields"]).cloned().unwrap_or_default();
        if found == recorded {
            right += 1;
            continue;
        }
        let kind = format!("{} {}", object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
        wrong.entry(kind).or_default().push(difference(&found, &recorded));
    }
    for (kind, differences) in &wrong {
        let all: BTreeSet<&String> = differences.iter().collect();
        eprintln!("{kind}: {} {all:?}", differences.len());
    }
    eprintln!("{right} of {of}");
    assert!(of == 0 || right * 100 >= of * 90, "{right} of {of}");
}

fn created(exchange: &Value) -> Option<u16> {
    let object = &exchange["answer"];
    let list = object.items_at(&["metadata", "managedFields"]);
    if exchange["status"].as_i64() != Some(201) || list.len() != 1 {
        return None;
    }
    type_of(object)
}

fn difference(found: &Value, recorded: &Value) -> String {
    let set = |list: &Value| {
        let fields = list.as_array().and_then(|it| it[0].get("fieldsV1")).cloned();
        FieldSet::from_value(fields.unwrap_or_else(Value::object)).unwrap()
    };
    let (mut more, mut less) = (set(found), set(recorded));
    more.subtract(&set(recorded));
    less.subtract(&set(found));
    format!("+{} -{}", json::to_string(&more.into_value()), json::to_string(&less.into_value()))
}
