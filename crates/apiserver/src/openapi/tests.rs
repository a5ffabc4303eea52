//! The documents against upstream's list of paths, and against themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use apimachinery::protobuf::{Reader, WireValue};
use apimachinery::{Value, json};

use super::document::{self, Encoding, Part};
use super::{BuiltIn, Documents, Source, Version, View};

fn write(version: Version, encoding: Encoding) -> Vec<u8> {
    let facts: Vec<_> = api::resources().iter().collect();
    let (custom, remote) = (Vec::new(), Vec::new());
    let source = Source { facts, custom, remote, server_version: "v1.37.0".into() };
    document::write(&Part::Everything, &source, version, encoding)
}

fn everything(version: Version) -> Value {
    json::parse(&write(version, Encoding::Json)).unwrap()
}

/// Path, method, action, kind and id of each operation.
fn operations(document: &Value) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for (path, item) in document.get("paths").and_then(Value::as_object).unwrap().iter() {
        for (method, operation) in item.as_object().unwrap().iter() {
            if method == "parameters" {
                continue;
            }
            let kind = |member| operation.str_at(&["x-kubernetes-group-version-kind", member]);
            let text = format!(
                "{} {}/{}/{} {}",
                operation.str_at(&["x-kubernetes-action"]),
                kind("group"),
                kind("version"),
                kind("kind"),
                operation.str_at(&["operationId"])
            );
            found.insert((path.to_owned(), method.to_owned()), text);
        }
    }
    found
}

/// What a server with every gate on serves and a default one does not, or what has no use here.
fn is_gone(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let served = |group: &str, version: &str| {
        let of = |it: &&api::ResourceFacts| {
            it.group == group && (version.is_empty() || it.version == version)
        };
        api::resources().iter().any(|it| of(&it))
    };
    match parts.as_slice() {
        ["logs", ..] => true,
        ["apis", group, version, ..] if !group.is_empty() => !served(group, version),
        _ => false,
    }
}

#[test]
fn operations_are_upstream_s() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|it| it.join("shared/reference/openapi-paths.tsv"))
        .find(|it| it.exists());
    let Some(table) = table else { return };
    let ours = operations(&everything(Version::V2));
    let mut wrong = Vec::new();
    let mut seen = 0;
    for line in std::fs::read_to_string(table).unwrap().lines().skip(1) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [path, method, action, group, version, kind, id, ..] = columns[..] else {
            panic!("odd row {line}")
        };
        if is_gone(path) {
            continue;
        }
        seen += 1;
        let wanted = format!("{action} {group}/{version}/{kind} {id}");
        let found = ours.get(&(path.to_owned(), method.to_owned()));
        if found != Some(&wanted) {
            wrong.push(format!("{method} {path}: {wanted} | {found:?}"));
        }
    }
    assert!(seen > 800, "only {seen} rows");
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n"));
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object.iter() {
                match value {
                    Value::String(target) if name == "$ref" => {
                        found.insert(target.to_string());
                    }
                    value => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn what_is_referred_to_is_there() {
    for (version, places) in [
        (Version::V2, [&["definitions"][..], &["parameters"]]),
        (Version::V3, [&["components", "schemas"], &["components", "schemas"]]),
    ] {
        let document = everything(version);
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 500, "{} references", found.len());
        for target in &found {
            let name = target.rsplit('/').next().unwrap();
            let there = places.iter().any(|place| {
                let prefix = format!("#/{}/", place.join("/"));
                target.starts_with(&prefix)
                    && document.at(place).is_some_and(|it| it.get(name).is_some())
            });
            assert!(there, "{target} is nowhere");
        }
    }
}

#[test]
fn schemas_say_what_clients_merge_and_check_by() {
    let document = everything(Version::V3);
    let at = |definition: &str, path: &[&str]| {
        let name = format!("io.k8s.api.{definition}");
        let schema = document.at(&["components", "schemas", &name]).unwrap();
        schema.at(path).cloned().unwrap_or_default()
    };
    let ports = at("core.v1.Container", &["properties", "ports"]);
    let text = |member: &str| json::to_string(&ports[member]);
    assert_eq!(text("x-kubernetes-list-map-keys"), r#"["containerPort","protocol"]"#);
    assert_eq!(text("x-kubernetes-patch-merge-key"), r#""containerPort""#);
    assert_eq!(text("x-kubernetes-patch-strategy"), r#""merge""#);
    assert_eq!(text("x-kubernetes-list-type"), r#""map""#);
    let required = at("core.v1.Container", &["required"]);
    assert_eq!(json::to_string(&required), r#"["name"]"#);
    let kinds = at("apps.v1.Deployment", &["x-kubernetes-group-version-kind"]);
    assert_eq!(json::to_string(&kinds), r#"[{"group":"apps","kind":"Deployment","version":"v1"}]"#);
    let description = at("core.v1.PodSpec", &["properties", "containers", "description"]);
    assert!(description.as_str().unwrap().starts_with("List of containers"), "{description:?}");
    let policy = at("core.v1.PodSpec", &["properties", "restartPolicy"]);
    assert_eq!(json::to_string(&policy["enum"]), r#"["Always","Never","OnFailure"]"#);
    let words = "\n\nPossible enum values:\n - `\"Always\"`\n - `\"Never\"`\n - `\"OnFailure\"`";
    assert!(policy.str_at(&["description"]).ends_with(words), "{policy:?}");
    let types = at("networking.v1.NetworkPolicySpec", &["properties", "policyTypes"]);
    assert_eq!(json::to_string(&types["items"]["enum"]), r#"["Egress","Ingress"]"#);
    let port = at("core.v1.ContainerPort", &["properties", "protocol"]);
    assert_eq!(json::to_string(&port["default"]), r#""TCP""#);
}

/// How often each field stands in a message.
fn counts(message: &[u8]) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    let mut reader = Reader::new(message);
    while let Some((number, value)) = reader.field().unwrap() {
        assert!(matches!(value, WireValue::Bytes(_)), "field {number}");
        *counts.entry(number).or_default() += 1;
    }
    counts
}

#[test]
fn protobuf_holds_as_much_as_json() {
    let size = |document: &Value, place: &[&str]| {
        document.at(place).and_then(Value::as_object).map_or(0, apimachinery::Object::len)
    };
    let (two, three) = (everything(Version::V2), everything(Version::V3));
    let found = counts(&write(Version::V2, Encoding::Protobuf));
    assert_eq!(found[&8], size(&two, &["paths"]));
    assert_eq!(found[&9], size(&two, &["definitions"]));
    assert_eq!(found[&10], size(&two, &["parameters"]));
    let found = counts(&write(Version::V3, Encoding::Protobuf));
    assert_eq!(found[&4], size(&three, &["paths"]));
    assert_eq!(found[&5], size(&three, &["components", "schemas"]) + 1, "and the security scheme");
}

#[test]
fn the_index_names_each_document_by_its_hash() {
    let facts: Vec<_> = api::resources().iter().filter(|it| it.group == "apps").collect();
    let documents = Documents::new(&BuiltIn::new(facts, "v1.37.0"), &[], &View::default());
    let paths: Vec<String> = documents.parts.iter().map(|it| it.path()).collect();
    let wanted = ["api", "apis", "apis/apps", "apis/apps/v1", "version"];
    assert_eq!(paths[..5], wanted);
    let document = &documents.parts[3];
    let packed = document.packed(Encoding::Json);
    assert_eq!(packed.etag.to_str().unwrap(), format!("\"{}\"", document.hash()));
    let again = super::hash(&document.write(Encoding::Json));
    assert_eq!(document.hash(), again);
}
