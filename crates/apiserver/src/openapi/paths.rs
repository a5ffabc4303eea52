//! Every path and its operations, from the table of resources.

use std::collections::BTreeSet;

use api::{ResourceFacts, SubresourceFacts};
use apimachinery::{Object, Value, value};

use super::Version;
use super::definitions::{Definitions, kind_value};
use super::parameters::{self, Parameter};

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const JSON_TYPES: &[&str] =
    &["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const WATCH_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
];
const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const CUSTOM_PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
];
const CUSTOM_WATCH_TYPES: &[&str] =
    &["application/json", "application/yaml", "application/json;stream=watch"];
/// Methods of proxies that discovery does not tell.
const PROXY_METHODS: &[&str] = &["delete", "get", "head", "options", "patch", "post", "put"];

/// What takes paths and the definitions they name.
pub(super) struct Paths<'s> {
    pub(super) version: Version,
    pub(super) definitions: &'s Definitions,
    pub(super) used: BTreeSet<&'static str>,
    pub(super) sink: &'s mut dyn FnMut(&str, Value),
    /// The resource at hand is a custom one: it has no protobuf and no strategic merge patch.
    pub(super) custom: bool,
}

/// One operation before it is written.
struct Operation<'o> {
    method: &'static str,
    action: &'static str,
    id: String,
    kind: Option<Value>,
    parameters: Vec<&'static Parameter>,
    body: Option<&'static str>,
    answer: Answer,
    codes: &'static [&'static str],
    tag: &'o str,
}

enum Answer {
    Definition(&'static str),
    Text,
    Nothing,
}

/// `rbac.authorization.k8s.io` is `RbacAuthorization` in the ids of operations, the core group is `Core`.
fn group_word(group: &str) -> String {
    match group.strip_suffix(".k8s.io").unwrap_or(group) {
        "" => "Core".into(),
        name => name.split('.').map(capital).collect(),
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

fn lower(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// `/api/v1`, `/apis/apps/v1`
fn base(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

impl Paths<'_> {
    /// The path of a document that discovery answers with.
    pub(super) fn discovery(&mut self, path: &str, group: Option<&str>, version: &str) {
        let (id, kind, tag) = match (path, group) {
            ("/api/", _) => ("getCoreAPIVersions".to_owned(), "APIVersions", "core".to_owned()),
            ("/apis/", _) => ("getAPIVersions".to_owned(), "APIGroupList", "apis".to_owned()),
            (_, group) => {
                let word = group_word(group.unwrap_or_default());
                let tag = lower(&word);
                if version.is_empty() {
                    (format!("get{word}APIGroup"), "APIGroup", tag)
                } else {
                    let id = format!("get{word}{}APIResources", capital(version));
                    (id, "APIResourceList", format!("{tag}_{version}"))
                }
            }
        };
        let definition = api::generated::schema::DEFINITIONS
            .iter()
            .map(|(name, _)| *name)
            .find(|name| name.strip_prefix(META) == Some(kind));
        let operation = Operation {
            method: "get",
            action: "",
            id,
            kind: None,
            parameters: Vec::new(),
            body: None,
            answer: definition.map_or(Answer::Nothing, Answer::Definition),
            codes: &["200"],
            tag: &tag,
        };
        self.path(path, &[], vec![operation]);
    }

    /// A path that answers with a document of its own.
    pub(super) fn document(&mut self, path: &str, id: &str, tag: &str) {
        let operation = Operation {
            method: "get",
            action: "",
            id: id.to_owned(),
            kind: None,
            parameters: Vec::new(),
            body: None,
            answer: Answer::Text,
            codes: &["200"],
            tag,
        };
        self.path(path, &[], vec![operation]);
    }

    /// The paths of a resource and what lies below it.
    pub(super) fn resource(&mut self, facts: &'static ResourceFacts) {
        self.custom = self.definitions.is_custom(facts);
        let base = base(facts.group, facts.version);
        let scope = if facts.namespaced { "/namespaces/{namespace}" } else { "" };
        let word = format!("{}{}", group_word(facts.group), capital(facts.version));
        let names = Names {
            tag: format!("{}_{}", lower(&group_word(facts.group)), facts.version),
            kind: format!("{}{}", if facts.namespaced { "Namespaced" } else { "" }, facts.kind),
            word,
            facts,
        };
        let collection = format!("{base}{scope}/{}", facts.resource);
        let around: &[&Parameter] = if facts.namespaced { &[&parameters::NAMESPACE] } else { &[] };
        let item: Vec<&Parameter> = around.iter().copied().chain([&parameters::NAME]).collect();
        self.objects(&names, &collection, around, &item);
        for sub in facts.subresources {
            self.subresource(&names, sub, &format!("{collection}/{{name}}"), &item);
        }
        self.watches(&names, &base, scope, around, &item);
    }

    fn objects(
        &mut self,
        names: &Names,
        collection: &str,
        around: &[&'static Parameter],
        item: &[&'static Parameter],
    ) {
        let facts = names.facts;
        let many: Vec<_> = ["list", "create", "deletecollection"]
            .into_iter()
            .filter(|verb| facts.verbs.contains(verb))
            .filter_map(|verb| self.object_operation(names, verb))
            .collect();
        self.path(collection, around, many);
        let one: Vec<_> = ["get", "update", "patch", "delete"]
            .into_iter()
            .filter(|verb| facts.verbs.contains(verb))
            .filter_map(|verb| self.object_operation(names, verb))
            .collect();
        self.path(&format!("{collection}/{{name}}"), item, one);
        if facts.namespaced && facts.verbs.contains(&"list") {
            let path = format!("{}/{}", base(facts.group, facts.version), facts.resource);
            let mut all = self.object_operation(names, "list");
            if let Some(all) = &mut all {
                all.id = format!("list{}{}ForAllNamespaces", names.word, facts.kind);
            }
            self.path(&path, &[], all.into_iter().collect());
        }
    }

    fn object_operation<'o>(&self, names: &'o Names, verb: &str) -> Option<Operation<'o>> {
        let facts = names.facts;
        let definition = self.definitions.of_kind(facts.group, facts.version, facts.kind)?;
        let list =
            || self.definitions.of_kind(facts.group, facts.version, &format!("{}List", facts.kind));
        let shape = shape_of(verb)?;
        let answer = match verb {
            "list" => list()?,
            "delete" | "deletecollection" => STATUS,
            _ => definition,
        };
        let collection = if verb == "deletecollection" { "Collection" } else { "" };
        Some(Operation {
            method: shape.method,
            action: shape.action,
            id: format!("{}{}{collection}{}", shape.word, names.word, names.kind),
            kind: Some(kind_value(facts.group, facts.version, facts.kind)),
            parameters: shape.parameters.iter().collect(),
            body: shape.body(definition),
            answer: Answer::Definition(answer),
            codes: shape.codes,
            tag: &names.tag,
        })
    }

    fn subresource(
        &mut self,
        names: &Names,
        sub: &SubresourceFacts,
        item: &str,
        around: &[&'static Parameter],
    ) {
        let path = format!("{item}/{}", sub.name);
        if matches!(sub.name, "attach" | "exec" | "portforward" | "proxy") {
            return self.streams(names, sub, &path, around);
        }
        let (group, version) = match sub.version {
            "" => (names.facts.group, names.facts.version),
            version => (sub.group, version),
        };
        let Some(definition) = self.definitions.of_kind(group, version, sub.kind) else { return };
        let operations = ["create", "get", "update", "patch"]
            .into_iter()
            .filter(|verb| sub.verbs.contains(verb))
            .filter_map(|verb| {
                let shape = shape_of(verb)?;
                let log = sub.name == "log";
                Some(Operation {
                    method: shape.method,
                    action: shape.action,
                    id: format!("{}{}{}{}", shape.word, names.word, names.kind, capital(sub.name)),
                    kind: Some(kind_value(group, version, sub.kind)),
                    parameters: if log {
                        parameters::of_stream("log")
                    } else {
                        shape.parameters.iter().collect()
                    },
                    body: shape.body(definition),
                    answer: if log { Answer::Text } else { Answer::Definition(definition) },
                    codes: shape.codes,
                    tag: &names.tag,
                })
            })
            .collect();
        self.path(&path, around, operations);
    }

    fn streams(
        &mut self,
        names: &Names,
        sub: &SubresourceFacts,
        path: &str,
        around: &[&'static Parameter],
    ) {
        let proxy = sub.name == "proxy";
        let methods = if proxy { PROXY_METHODS } else { &["get", "post"] };
        let operations = |with: &str| {
            methods
                .iter()
                .map(|method| Operation {
                    method,
                    action: "connect",
                    id: format!(
                        "connect{}{}{}{}{with}",
                        names.word,
                        capital(method),
                        names.kind,
                        capital(sub.name)
                    ),
                    kind: Some(kind_value(names.facts.group, names.facts.version, sub.kind)),
                    parameters: parameters::of_stream(sub.name),
                    body: None,
                    answer: Answer::Text,
                    codes: &["200"],
                    tag: &names.tag,
                })
                .collect::<Vec<_>>()
        };
        self.path(path, around, operations(""));
        if proxy {
            let around: Vec<_> = around.iter().copied().chain([&parameters::PATH]).collect();
            self.path(&format!("{path}/{{path}}"), &around, operations("WithPath"));
        }
    }

    fn watches(
        &mut self,
        names: &Names,
        base: &str,
        scope: &str,
        around: &[&'static Parameter],
        item: &[&'static Parameter],
    ) {
        let facts = names.facts;
        if !facts.verbs.contains(&"watch") {
            return;
        }
        let definition = api::generated::schema::DEFINITIONS
            .iter()
            .map(|(name, _)| *name)
            .find(|name| name.strip_prefix(META) == Some("WatchEvent"));
        let operation = |action: &'static str, id: String| Operation {
            method: "get",
            action,
            id,
            kind: Some(kind_value(facts.group, facts.version, facts.kind)),
            parameters: Vec::new(),
            body: None,
            answer: definition.map_or(Answer::Nothing, Answer::Definition),
            codes: &["200"],
            tag: &names.tag,
        };
        let with = |around: &[&'static Parameter]| -> Vec<&'static Parameter> {
            around.iter().copied().chain(parameters::LIST).collect()
        };
        let path = format!("{base}/watch{scope}/{}", facts.resource);
        let id = format!("watch{}{}List", names.word, names.kind);
        self.path(&path, &with(around), vec![operation("watchlist", id)]);
        if facts.verbs.contains(&"get") {
            let id = format!("watch{}{}", names.word, names.kind);
            self.path(&format!("{path}/{{name}}"), &with(item), vec![operation("watch", id)]);
        }
        if facts.namespaced {
            let id = format!("watch{}{}ListForAllNamespaces", names.word, facts.kind);
            let path = format!("{base}/watch/{}", facts.resource);
            self.path(&path, &with(&[]), vec![operation("watchlist", id)]);
        }
    }

    /// Writes a path, where it has operations.
    fn path(&mut self, path: &str, around: &[&'static Parameter], operations: Vec<Operation<'_>>) {
        if operations.is_empty() {
            return;
        }
        let mut item = Object::new();
        let of_objects = operations.iter().any(|it| !it.action.is_empty());
        for operation in operations {
            let method = operation.method;
            item.insert(method, self.operation(operation));
        }
        if of_objects {
            let shared: Value = around
                .iter()
                .chain([&&parameters::PRETTY])
                .map(|it| it.used(self.version))
                .collect();
            item.insert("parameters", shared);
        }
        (self.sink)(path, Value::Object(item));
    }

    fn operation(&mut self, operation: Operation<'_>) -> Value {
        let mut out = Object::new();
        let what = operation.kind.as_ref().map_or("", |kind| kind.str_at(&["kind"]));
        out.insert("description", format!("{} {what}", verb_of(&operation)).trim_end());
        out.insert("operationId", operation.id.as_str());
        out.insert("tags", value!([(operation.tag)]));
        if !operation.action.is_empty() {
            out.insert("x-kubernetes-action", operation.action);
        }
        let mut list: Vec<Value> =
            operation.parameters.iter().map(|it| it.used(self.version)).collect();
        match self.version {
            Version::V2 => self.v2(&operation, &mut list, &mut out),
            Version::V3 => self.v3(&operation, &mut out),
        }
        if !list.is_empty() {
            out.insert("parameters", list);
        }
        if let Some(kind) = operation.kind {
            out.insert("x-kubernetes-group-version-kind", kind);
        }
        Value::Object(out)
    }

    fn v2(&mut self, operation: &Operation<'_>, list: &mut Vec<Value>, out: &mut Object) {
        if let Some(body) = operation.body {
            let required = !matches!(operation.method, "delete");
            let schema = self.reference(body);
            list.push(
                value!({"name": "body", "in": "body", "required": required, "schema": schema}),
            );
        }
        let patch = operation.method == "patch" && operation.body.is_some();
        let streams = operation.action == "connect";
        out.insert("consumes", strings(if patch { self.patch_types() } else { &["*/*"] }));
        out.insert("produces", strings(if streams { &["*/*"] } else { self.produces(operation) }));
        out.insert("schemes", value!(["https"]));
        let schema = self.answer_schema(&operation.answer);
        let mut responses = Object::new();
        for code in operation.codes {
            let mut response = Object::new();
            response.insert("description", reason_of(code));
            if let Some(schema) = &schema {
                response.insert("schema", schema.clone());
            }
            responses.insert(*code, response);
        }
        responses.insert("401", value!({"description": "Unauthorized"}));
        out.insert("responses", responses);
    }

    fn v3(&mut self, operation: &Operation<'_>, out: &mut Object) {
        if let Some(body) = operation.body {
            let types = if operation.method == "patch" { self.patch_types() } else { &["*/*"] };
            let schema = self.reference(body);
            let content = types.iter().map(|it| (*it, value!({"schema": (schema.clone())})));
            let content: Object = content.collect();
            let required = operation.method != "delete";
            let mut request = value!({"content": content});
            if required {
                request.set_at(&["required"], true);
            }
            out.insert("requestBody", request);
        }
        let schema = self.answer_schema(&operation.answer);
        let types = if operation.action == "connect" { &["*/*"] } else { self.produces(operation) };
        let mut responses = Object::new();
        for code in operation.codes {
            let mut response = Object::new();
            response.insert("description", reason_of(code));
            if let Some(schema) = &schema {
                let content = types.iter().map(|it| (*it, value!({"schema": (schema.clone())})));
                response.insert("content", content.collect::<Object>());
            }
            responses.insert(*code, response);
        }
        responses.insert("401", value!({"description": "Unauthorized"}));
        out.insert("responses", responses);
    }

    fn patch_types(&self) -> &'static [&'static str] {
        if self.custom { CUSTOM_PATCH_TYPES } else { PATCH_TYPES }
    }

    fn produces(&self, operation: &Operation<'_>) -> &'static [&'static str] {
        match operation.action {
            "" => produces(operation),
            "watch" | "watchlist" | "list" if self.custom => CUSTOM_WATCH_TYPES,
            _ if self.custom => &JSON_TYPES[..2],
            _ => produces(operation),
        }
    }

    fn reference(&mut self, name: &'static str) -> Value {
        self.used.insert(name);
        value!({"$ref": (self.version.reference(name))})
    }

    fn answer_schema(&mut self, answer: &Answer) -> Option<Value> {
        match answer {
            Answer::Definition(name) => Some(self.reference(name)),
            Answer::Text => Some(value!({"type": "string"})),
            Answer::Nothing => None,
        }
    }
}

/// What the ids and tags of a resource's operations are made of.
struct Names {
    facts: &'static ResourceFacts,
    /// `CoreV1`
    word: String,
    /// `NamespacedPod`
    kind: String,
    /// `core_v1`
    tag: String,
}

/// How a verb looks in OpenAPI.
struct Shape {
    method: &'static str,
    action: &'static str,
    word: &'static str,
    parameters: &'static [Parameter],
    body: Body,
    codes: &'static [&'static str],
}

enum Body {
    None,
    Object,
    Named(&'static str),
}

impl Shape {
    fn body(&self, definition: &'static str) -> Option<&'static str> {
        match self.body {
            Body::None => None,
            Body::Object => Some(definition),
            Body::Named(name) => Some(name),
        }
    }
}

fn shape_of(verb: &str) -> Option<Shape> {
    const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
    const OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
    let shape = |method, action, word, parameters, body, codes| {
        Some(Shape { method, action, word, parameters, body, codes })
    };
    match verb {
        "get" => shape("get", "get", "read", &[][..], Body::None, &["200"][..]),
        "list" => shape("get", "list", "list", parameters::LIST, Body::None, &["200"]),
        "create" => {
            shape("post", "post", "create", parameters::WRITE, Body::Object, &["200", "201", "202"])
        }
        "update" => {
            shape("put", "put", "replace", parameters::WRITE, Body::Object, &["200", "201"])
        }
        "patch" => {
            let codes = &["200", "201"];
            shape("patch", "patch", "patch", parameters::PATCH, Body::Named(PATCH), codes)
        }
        "delete" => {
            let codes = &["200", "202"];
            shape("delete", "delete", "delete", parameters::DELETE, Body::Named(OPTIONS), codes)
        }
        "deletecollection" => shape(
            "delete",
            "deletecollection",
            "delete",
            parameters::DELETE_COLLECTION,
            Body::Named(OPTIONS),
            &["200"],
        ),
        _ => None,
    }
}

fn verb_of(operation: &Operation<'_>) -> &'static str {
    match operation.action {
        "list" => "list or watch",
        "watchlist" | "watch" => "watch",
        "get" => "read",
        "post" => "create",
        "put" => "replace",
        "patch" => "partially update",
        "delete" => "delete",
        "deletecollection" => "delete all",
        "connect" => "connect to",
        _ => "read what is available",
    }
}

fn produces(operation: &Operation<'_>) -> &'static [&'static str] {
    match (operation.action, &operation.answer) {
        ("list" | "watch" | "watchlist", _) => WATCH_TYPES,
        ("", Answer::Text) => &["application/json"],
        (_, Answer::Text) => &["text/plain"],
        _ => JSON_TYPES,
    }
}

fn reason_of(code: &str) -> &'static str {
    match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    }
}

fn strings(items: &[&str]) -> Value {
    items.iter().copied().collect()
}
