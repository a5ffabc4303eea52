//! Puts paths and definitions together into documents, one piece in memory at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::ResourceFacts;
use apimachinery::{Object, Value, json, value};

use super::definitions::Definitions;
use super::paths::Paths;
use super::{Source, Version};
use super::{gnostic, parameters};
use crate::aggregator::renamed;

/// What a document is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// All there is (2.0).
    Everything,
    /// `/api` or `/apis`, which tell groups and versions.
    Root(&'static str),
    /// A group, which tells its versions.
    Group(&'static str),
    /// A version of a group.
    GroupVersion(&'static str, &'static str),
    /// Another path with the id of its operation and its tag.
    Path(&'static str, &'static str, &'static str),
}

/// Paths that are no API.
pub(super) const OTHERS: &[Part] = &[
    Part::Path("/version/", "getCodeVersion", "version"),
    Part::Path(
        "/.well-known/openid-configuration/",
        "getServiceAccountIssuerOpenIDConfiguration",
        "WellKnown",
    ),
    Part::Path("/openid/v1/jwks/", "getServiceAccountIssuerOpenIDKeyset", "openid"),
];

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Protobuf,
}

/// Writes a document.
pub(super) fn write(part: &Part, source: &Source, version: Version, encoding: Encoding) -> Vec<u8> {
    let mut writer = Writer { version, encoding, out: Vec::new(), first: true };
    writer.begin(&source.server_version);
    let mut definitions = Definitions::new(&source.custom);
    writer.open("paths");
    let used = {
        let mut sink = |path: &str, value: Value| writer.path(path, &value);
        let mut paths = Paths {
            version,
            definitions: &definitions,
            used: BTreeSet::new(),
            sink: &mut sink,
            custom: false,
        };
        write_paths(part, &source.facts, &mut paths);
        paths.used
    };
    let own = definitions.closure(&used);
    let foreign = match part {
        Part::Everything => merge(&source.remote, &own, &mut definitions, &mut writer),
        Part::Root(_) | Part::Group(_) | Part::GroupVersion(..) | Part::Path(..) => BTreeMap::new(),
    };
    writer.close();
    writer.open_definitions();
    for name in own {
        let schema = definitions.schema_of(name, version);
        writer.definition(name, &schema);
    }
    for (name, schema) in &foreign {
        writer.definition(name, schema);
    }
    writer.finish();
    writer.out
}

/// Writes the paths of other servers' documents; their definitions come back, those under other names that are not what
/// this document has under theirs.
fn merge(
    documents: &[Arc<Value>],
    own: &BTreeSet<&'static str>,
    definitions: &mut Definitions,
    writer: &mut Writer,
) -> BTreeMap<String, Value> {
    let mut foreign: BTreeMap<String, Value> = BTreeMap::new();
    for document in documents {
        let theirs = document["definitions"].as_object();
        let mut names: BTreeMap<String, String> = BTreeMap::new();
        let mut added: Vec<(String, Value)> = Vec::new();
        for (name, schema) in theirs.into_iter().flat_map(Object::iter) {
            let known = |name: &str, definitions: &mut Definitions| match own.get(name) {
                Some(name) => Some(definitions.schema_of(name, Version::V2)),
                None => foreign.get(name).cloned(),
            };
            let (mut chosen, mut number) = (name.to_owned(), 2);
            let is_there = loop {
                match known(&chosen, definitions) {
                    None => break false,
                    Some(it) if says_the_same(&it, schema) => break true,
                    Some(_) => {
                        chosen = format!("{name}_v{number}");
                        number += 1;
                    }
                }
            };
            if !is_there {
                added.push((chosen.clone(), schema.clone()));
            }
            names.insert(name.to_owned(), chosen);
        }
        let new_name = |name: &str| names.get(name).cloned();
        for (name, schema) in added {
            foreign.insert(name, renamed(&schema, &new_name));
        }
        let paths = document["paths"].as_object();
        for (path, item) in paths.into_iter().flat_map(Object::iter) {
            writer.path(path, &renamed(item, &new_name));
        }
    }
    foreign
}

/// Whether two schemas are the same but for their words and the kinds that have them.
fn says_the_same(one: &Value, other: &Value) -> bool {
    let plain = |schema: &Value| {
        let members = schema.as_object().into_iter().flat_map(Object::iter);
        let kept = members.filter(|(key, _)| **key != *"x-kubernetes-group-version-kind");
        kept.map(|(key, value)| (key.to_owned(), value.clone())).collect::<BTreeMap<_, _>>()
    };
    plain(one) == plain(other)
}

fn write_paths(part: &Part, facts: &[&'static ResourceFacts], paths: &mut Paths<'_>) {
    match part {
        Part::Root(root) => paths.discovery(root, None, ""),
        Part::Group(group) => paths.discovery(&format!("/apis/{group}/"), Some(group), ""),
        Part::GroupVersion(group, version) => {
            let path = match *group {
                "" => format!("/api/{version}/"),
                group => format!("/apis/{group}/{version}/"),
            };
            paths.discovery(&path, Some(group), version);
            let own = facts.iter().filter(|it| it.group == *group && it.version == *version);
            own.for_each(|facts| paths.resource(facts));
        }
        Part::Path(path, id, tag) => paths.document(path, id, tag),
        Part::Everything => {
            parts(facts).iter().for_each(|part| write_paths(part, facts, paths));
        }
    }
}

/// The parts that 3.0 has a document each of.
pub(super) fn parts(facts: &[&'static ResourceFacts]) -> Vec<Part> {
    let mut parts = vec![Part::Root("/api/"), Part::Root("/apis/")];
    for facts in facts {
        if !facts.group.is_empty() {
            parts.push(Part::Group(facts.group));
        }
        parts.push(Part::GroupVersion(facts.group, facts.version));
    }
    let mut kept: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        if !kept.contains(&part) {
            kept.push(part);
        }
    }
    kept.extend_from_slice(OTHERS);
    kept
}

struct Writer {
    version: Version,
    encoding: Encoding,
    out: Vec<u8>,
    first: bool,
}

impl Writer {
    fn begin(&mut self, server_version: &str) {
        let info = value!({"title": "Kubernetes", "version": server_version});
        let head = match self.version {
            Version::V2 => value!({"swagger": "2.0", "info": info}),
            Version::V3 => value!({"openapi": "3.0.0", "info": info}),
        };
        match self.encoding {
            Encoding::Protobuf => {
                gnostic::head(self.version, &head, &mut self.out);
                if self.version == Version::V2 {
                    let security = value!({"security": [{"name": "BearerToken", "value": {}}],
                        "securityDefinitions": (schemes())});
                    gnostic::head(self.version, &security, &mut self.out);
                    for it in parameters::shared() {
                        gnostic::parameter(&it.key(), &it.value(self.version), &mut self.out);
                    }
                }
            }
            Encoding::Json => {
                json::write(&head, &mut self.out);
                self.out.pop();
                if self.version == Version::V2 {
                    self.member("security", &value!([{"BearerToken": []}]));
                    self.member("securityDefinitions", &schemes());
                    let shared: apimachinery::Object =
                        parameters::shared().map(|it| (it.key(), it.value(self.version))).collect();
                    self.member("parameters", &Value::Object(shared));
                }
            }
        }
    }

    fn member(&mut self, name: &str, value: &Value) {
        self.out.extend_from_slice(b",");
        self.named(name, value);
    }

    fn named(&mut self, name: &str, value: &Value) {
        json::write_string(name, &mut self.out);
        self.out.push(b':');
        json::write(value, &mut self.out);
    }

    /// Begins an object whose members are pieces.
    fn open(&mut self, name: &str) {
        self.first = true;
        if self.encoding == Encoding::Json {
            self.out.push(b',');
            json::write_string(name, &mut self.out);
            self.out.extend_from_slice(b":{");
        }
    }

    fn close(&mut self) {
        if self.encoding == Encoding::Json {
            self.out.push(b'}');
        }
    }

    fn open_definitions(&mut self) {
        match (self.encoding, self.version) {
            (Encoding::Protobuf, Version::V2) => {}
            (Encoding::Protobuf, Version::V3) => {
                gnostic::security(&value!({"securitySchemes": (schemes())}), &mut self.out);
            }
            (Encoding::Json, Version::V2) => self.open("definitions"),
            (Encoding::Json, Version::V3) => {
                self.out.extend_from_slice(b",\"components\":{");
                self.named("securitySchemes", &schemes());
                self.open("schemas");
            }
        }
    }

    fn piece(&mut self, name: &str, value: &Value) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.named(name, value);
    }

    fn path(&mut self, path: &str, value: &Value) {
        match self.encoding {
            Encoding::Json => self.piece(path, value),
            Encoding::Protobuf => gnostic::path(self.version, path, value, &mut self.out),
        }
    }

    fn definition(&mut self, name: &str, value: &Value) {
        match self.encoding {
            Encoding::Json => self.piece(name, value),
            Encoding::Protobuf => gnostic::definition(self.version, name, value, &mut self.out),
        }
    }

    fn finish(&mut self) {
        self.close();
        if self.encoding == Encoding::Json {
            if self.version == Version::V3 {
                self.out.push(b'}');
            }
            self.out.push(b'}');
        }
    }
}

/// How clients authenticate.
fn schemes() -> Value {
    value!({"BearerToken": {"type": "apiKey", "name": "authorization", "in": "header",
        "description": "Bearer token"}})
}
