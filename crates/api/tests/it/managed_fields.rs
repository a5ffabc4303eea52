//! Who owns what after the writes that were recorded.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::Value;
use apimachinery::managed_fields::{self, Write};

use crate::recorded::{exchanges, type_of};

const TOPICS: [&str; 6] =
    ["life", "patches", "immutable", "defaulting-corpus", "subresources", "columns"];

/// Fields that admission and the making of an object set after its fields are tracked, so that nobody owns them.
const LATE: [(&str, &[&str]); 7] = [
    ("Job", &["f:metadata f:labels", "f:spec f:selector", "f:spec f:template f:metadata f:labels"]),
    ("Namespace", &["f:spec f:finalizers"]),
    ("PersistentVolume", &["f:metadata f:finalizers"]),
    ("PersistentVolumeClaim", &["f:metadata f:finalizers"]),
    ("VolumeAttributesClass", &["f:metadata f:finalizers"]),
    (
        "Service",
        &["f:spec f:clusterIP", "f:spec f:healthCheckNodePort", "f:spec f:ipFamil", "f:nodePort"],
    ),
    (
        "Pod",
        &[
            "serviceaccount",
            "f:volumeMounts",
            "kube-api-access",
            "f:spec f:volumes",
            "f:spec f:preemptionPolicy",
            "f:spec f:priority",
            "f:spec f:serviceAccount",
            "f:spec f:tolerations",
        ],
    ),
];

#[test]
fn a_new_object_s_fields_are_those_upstream_recorded() {
    let (mut right, mut of) = (0, 0);
    let mut wrong: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for exchange in TOPICS.iter().flat_map(|topic| exchanges(topic)) {
        let object = &exchange["answer"];
        let Some(node) = created(&exchange) else { continue };
        let mut copy = object.clone();
        let Some(recorded) = copy.remove_at(&["metadata", "managedFields"]) else { continue };
        of += 1;
        let first = &recorded.as_array().unwrap()[0];
        let write = Write {
            schema: api::schema(),
            node,
            manager: first.str_at(&["manager"]),
            api_version: first.str_at(&["apiVersion"]),
            subresource: first.str_at(&["subresource"]),
            now: first.str_at(&["time"]),
            reset: &[&["status"]],
        };
        managed_fields::update(&write, None, &mut copy);
        let found = copy.at(&["metadata", "managedFields"]).cloned().unwrap_or_default();
        let kind = object.str_at(&["kind"]);
        let differences = differences(kind, &found, &recorded);
        if differences.is_empty() {
            right += 1;
        } else {
            wrong.entry(kind.to_owned()).or_default().extend(differences);
        }
    }
    eprintln!("{right} of {of}");
    assert_eq!(right, of, "{wrong:#?}");
}

#[test]
fn updates_and_patches_move_fields_as_recorded() {
    let (mut right, mut of) = (0, 0);
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut live: BTreeMap<String, Value> = BTreeMap::new();
    for exchange in story() {
        let object = &exchange["answer"];
        let path = exchange.str_at(&["path"]).split('?').next().unwrap_or_default();
        let (Some(node), 200 | 201) = (type_of(object), exchange["status"].as_i64().unwrap_or(0))
        else {
            continue;
        };
        let key = format!(
            "{} {}/{}",
            object.str_at(&["kind"]),
            object.str_at(&["metadata", "namespace"]),
            object.str_at(&["metadata", "name"])
        );
        if let Some(write) = written(&exchange, path, node)
            && let Some(old) = live.get(&key)
            && old.str_at(&["metadata", "uid"]) == object.str_at(&["metadata", "uid"])
        {
            of += 1;
            let mut copy = object.clone();
            let recorded = copy.remove_at(&["metadata", "managedFields"]).unwrap_or_default();
            if let Some(sent) = exchange.at(&["body", "metadata", "managedFields"]) {
                copy.set_at(&["metadata", "managedFields"], sent.clone());
            }
            managed_fields::update(&write, Some(old), &mut copy);
            let found = copy.at(&["metadata", "managedFields"]).cloned().unwrap_or_default();
            if found == recorded {
                right += 1;
            } else {
                let (found, recorded) = (paths(&found), paths(&recorded));
                // The strategy sets it after fields are tracked.
                let late = |it: &&String| it.contains("deprecated.daemonset.template.generation");
                let more = found.difference(&recorded).filter(|it| !late(it));
                let less = recorded.difference(&found).filter(|it| !late(it));
                let more = more.map(|it| format!("+ {it}"));
                let all: Vec<_> = more.chain(less.map(|it| format!("- {it}"))).take(8).collect();
                if all.is_empty() {
                    right += 1;
                } else {
                    wrong.insert(exchange.str_at(&["id"]).to_owned(), all);
                }
            }
        }
        let dry = exchange.str_at(&["path"]).contains("dryRun");
        if !dry
            && exchange.str_at(&["method"]) != "DELETE"
            && object.at(&["metadata", "uid"]).is_some()
        {
            live.insert(key, object.clone());
        }
    }
    eprintln!("{right} of {of}");
    assert_eq!(right, of, "{wrong:#?}");
}

#[test]
fn applies_own_take_and_conflict_as_recorded() {
    let (mut right, mut of) = (0, 0);
    let mut wrong: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut live: BTreeMap<String, Value> = BTreeMap::new();
    for exchange in story() {
        let object = &exchange["answer"];
        let key = exchange.str_at(&["path"]).split('?').next().unwrap_or_default();
        let key = key.trim_end_matches("/status").to_owned();
        let id = exchange.str_at(&["id"]).to_owned();
        if let Some((write, force)) = applied(&exchange) {
            of += 1;
            let outcome = managed_fields::apply(&write, live.get(&key), &exchange["body"], force);
            let differences = match outcome {
                Err(error) if error.to_string() == object.str_at(&["message"]) => vec![],
                Err(error) => vec![error.to_string()],
                Ok(result) => {
                    let result = result.or_else(|| live.get(&key).cloned()).unwrap_or_default();
                    let list = |it: &Value| it.at(&["metadata", "managedFields"]).cloned();
                    differences(
                        "",
                        &list(&result).unwrap_or_default(),
                        &list(object).unwrap_or_default(),
                    )
                }
            };
            if differences.is_empty() {
                right += 1;
            } else {
                wrong.insert(id, differences.into_iter().take(8).collect());
            }
        }
        let kept = matches!(exchange["status"].as_i64(), Some(200 | 201))
            && !exchange.str_at(&["path"]).contains("dryRun")
            && object.at(&["metadata", "uid"]).is_some();
        let name = object.str_at(&["metadata", "name"]);
        match exchange.str_at(&["method"]) {
            _ if !kept => {}
            "POST" => drop(live.insert(format!("{key}/{name}"), object.clone())),
            "DELETE" if object.at(&["metadata", "deletionTimestamp"]).is_none() => {
                drop(live.remove(&key))
            }
            _ => drop(live.insert(key, object.clone())),
        }
    }
    eprintln!("{right} of {of}");
    assert_eq!(right, of, "{wrong:#?}");
}

/// The apply that an exchange is, and whether it is forced; none where something else decided the answer.
fn applied(exchange: &Value) -> Option<(Write<'_>, bool)> {
    let query = exchange.str_at(&["path"]).split_once('?').map_or("", |(_, query)| query);
    let option = |name: &str| query.split('&').find_map(|it| it.strip_prefix(name));
    let manager = option("fieldManager=").filter(|it| !it.is_empty())?;
    let media = exchange.str_at(&["headers", "Content-Type"]);
    let status = exchange["status"].as_i64();
    if !media.contains("apply") || exchange.at(&["body"]).is_none() || status == Some(422) {
        return None;
    }
    let object = &exchange["answer"];
    let times = object.items_at(&["metadata", "managedFields"]);
    let status = exchange.str_at(&["path"]).contains("/status?");
    let write = Write {
        schema: api::schema(),
        node: type_of(&exchange["body"])?,
        manager,
        api_version: exchange.str_at(&["body", "apiVersion"]),
        subresource: if status { "status" } else { "" },
        now: times.iter().map(|it| it.str_at(&["time"])).max().unwrap_or_default(),
        reset: if status { &[&["spec"]] } else { &[&["status"]] },
    };
    Some((write, option("force=") == Some("true")))
}

/// All exchanges in the order in which they were made.
fn story() -> Vec<Value> {
    let topics =
        ["life", "immutable", "subresources", "apply", "patches", "lists", "apply-stories"];
    let mut story: Vec<Value> = topics.iter().flat_map(|topic| exchanges(topic)).collect();
    story.sort_by_key(|exchange| exchange["n"].as_i64());
    story
}

/// The write that an exchange is, if it is an update or a patch other than apply.
fn written<'e>(exchange: &'e Value, path: &'e str, node: u16) -> Option<Write<'e>> {
    let query = exchange.str_at(&["path"]).split_once('?').map_or("", |(_, query)| query);
    let option = |name: &str| query.split('&').find_map(|it| it.strip_prefix(name));
    let media = exchange.str_at(&["headers", "Content-Type"]);
    let method = exchange.str_at(&["method"]);
    if !matches!(method, "PUT" | "PATCH") || media.contains("apply") {
        return None;
    }
    let subresource = if path.ends_with("/status") { "status" } else { "" };
    if ["/scale", "/approval", "/ephemeralcontainers", "/resize"]
        .iter()
        .any(|it| path.ends_with(it))
    {
        return None;
    }
    let object = &exchange["answer"];
    let times = object.items_at(&["metadata", "managedFields"]);
    Some(Write {
        schema: api::schema(),
        node,
        manager: option("fieldManager=").unwrap_or("unknown"),
        api_version: object.str_at(&["apiVersion"]),
        subresource,
        now: times.iter().map(|it| it.str_at(&["time"])).max().unwrap_or_default(),
        reset: if subresource.is_empty() { &[&["status"]] } else { &[&["spec"]] },
    })
}

fn created(exchange: &Value) -> Option<u16> {
    let object = &exchange["answer"];
    let list = object.items_at(&["metadata", "managedFields"]);
    // What was sent as an empty list and kept as null cannot be told from the answer.
    let lost = object.str_at(&["kind"]) == "CSINode";
    if exchange["status"].as_i64() != Some(201) || list.len() != 1 || lost {
        return None;
    }
    type_of(object)
}

fn differences(kind: &str, found: &Value, recorded: &Value) -> Vec<String> {
    let late = LATE.iter().find(|(of, _)| *of == kind).map_or(&[][..], |(_, late)| *late);
    let is_late = |path: &&String| late.iter().any(|part| path.contains(part));
    let (found, recorded) = (paths(found), paths(recorded));
    let more = found.difference(&recorded).filter(|path| !is_late(path));
    let less = recorded.difference(&found);
    more.map(|path| format!("+ {path}")).chain(less.map(|path| format!("- {path}"))).collect()
}

/// Each entry and each of its fields as a line.
fn paths(list: &Value) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for entry in managed_fields::decode(list.clone()).unwrap_or_default() {
        entry.fields.each_path(&mut |path| {
            lines.insert(format!("{} {}", entry.manager, path.join(" ")));
        });
        lines.insert(format!("{} {:?} {:?}", entry.manager, entry.operation, entry.time));
    }
    lines
}
