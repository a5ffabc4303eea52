//! What the server serves, as clients ask for it: `/api`, `/apis`, groups and versions, old and aggregated form.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use api::{ResourceFacts, SubresourceFacts};
use apimachinery::{Object, Status, Value, value};
use compact_str::CompactString;
use http::Response;
use http::header::{ACCEPT, ETAG, HeaderValue, IF_NONE_MATCH};
use registry::custom::Definition;
use registry::{Registry, Served};
use sha2::{Digest, Sha256, Sha512};

use crate::Server;
use crate::aggregator::{Layout, View};
use crate::body::Body;
use crate::exchange::Exchange;
use crate::negotiate::{self, plain as form_of};
use crate::pretty::Indenter;
use crate::respond;

/// The media types of the aggregated form, by version.
const AGGREGATED: &[(&str, &str)] =
    &[("v2", "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];

/// The documents, made once for each set of resources.
#[derive(Debug)]
pub(crate) struct Documents {
    facts: Vec<&'static ResourceFacts>,
    layout: Layout,
    /// The storage versions of custom resources, by group and plural name.
    stored: BTreeMap<(&'static str, &'static str), &'static str>,
    core: Aggregated,
    groups: Aggregated,
    /// Whether the version in which each resource is stored is told of.
    tells_storage: bool,
}

#[derive(Debug)]
struct Aggregated {
    document: Value,
    etag: String,
}

impl Aggregated {
    fn new(document: Value) -> Self {
        let digest = Sha512::digest(apimachinery::json::to_vec(&document));
        let mut etag = String::from("\"");
        for byte in digest {
            let _ = write!(etag, "{byte:02X}");
        }
        etag.push('"');
        Self { document, etag }
    }
}

impl Documents {
    /// What is told of the built-in resources, of the custom ones after them, and of those of other servers.
    pub(crate) fn new(
        built_in: Vec<&'static ResourceFacts>,
        custom: &[Arc<Definition>],
        remote: &View,
    ) -> Self {
        let mut facts = built_in;
        facts.extend(custom_facts(custom));
        facts.retain(|it| remote.find(it.group, it.version).is_none());
        let own = groups(&facts).into_iter().map(|group| {
            let versions = versions(&facts, group).into_iter().map(CompactString::const_new);
            (CompactString::const_new(group), versions.collect())
        });
        let layout = remote.arrange(own.collect());
        let stored = custom.iter().map(|it| it.storage().facts());
        let stored = stored.map(|it| ((it.group, it.resource), it.version)).collect();
        let (core, others): (Vec<_>, Vec<_>) = layout.iter().partition(|(it, _)| it.is_empty());
        let core = Aggregated::new(aggregated(&facts, &core, remote));
        let groups = Aggregated::new(aggregated(&facts, &others, remote));
        Self { facts, layout, stored, core, groups, tells_storage: true }
    }

    /// The same without the versions in which resources are stored.
    pub(crate) fn without_storage(self) -> Self {
        Self { tells_storage: false, ..self }
    }

    /// The paths of the documents: of the core group, of all groups, and of each group and version.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = vec!["/api".to_owned(), "/apis".into(), "/apis/".into()];
        for (group, versions) in &self.layout {
            let place = if group.is_empty() { "/api".into() } else { format!("/apis/{group}") };
            paths.extend(versions.iter().map(|it| format!("{place}/{it}")));
            if !group.is_empty() {
                paths.push(place);
            }
        }
        paths
    }

    fn is_custom(&self, group: &str) -> bool {
        self.stored.range((group, "")..).next().is_some_and(|((it, _), _)| *it == group)
    }
}

/// The built-in resources that are told, those of versions that are no more last.
pub(crate) fn built_in(registry: &Registry) -> Vec<&'static ResourceFacts> {
    let removed = registry.resources().iter().flat_map(|resource| {
        let gone = |it: &&Served| resource.removed_in(it).is_some() && registry.serves(it.facts);
        resource.served().iter().filter(gone).map(|it| it.facts).collect::<Vec<_>>()
    });
    documented(registry).into_iter().chain(removed).collect()
}

/// The built-in resources that have types of their own.
pub(crate) fn documented(registry: &Registry) -> Vec<&'static ResourceFacts> {
    let all = registry.resources().iter();
    let served: Vec<_> = all.flat_map(|it| it.served().iter().map(|it| it.facts)).collect();
    let is_served = |facts: &&ResourceFacts| {
        let known = served.iter().any(|it| std::ptr::eq(*it, *facts));
        (known || !facts.verbs.contains(&"watch")) && registry.serves(facts)
    };
    api::all_resources().filter(is_served).collect()
}

/// Those of custom resources: groups by name, their versions the preferred first.
pub(crate) fn custom_facts(custom: &[Arc<Definition>]) -> Vec<&'static ResourceFacts> {
    let mut facts: Vec<&'static ResourceFacts> =
        custom.iter().flat_map(|it| it.served().iter().map(|it| it.facts())).collect();
    let order = |it: &ResourceFacts| Reverse(registry::custom::rank(it.version));
    facts.sort_by_cached_key(|it| (it.group, order(it), it.resource));
    facts
}

/// Groups in the table's order.
fn groups(facts: &[&'static ResourceFacts]) -> Vec<&'static str> {
    let mut seen = BTreeSet::new();
    facts.iter().map(|it| it.group).filter(|group| seen.insert(*group)).collect()
}

/// Versions of a group in the table's order, preferred first.
fn versions(facts: &[&'static ResourceFacts], group: &str) -> Vec<&'static str> {
    let mut seen = BTreeSet::new();
    facts
        .iter()
        .filter(|it| it.group == group)
        .map(|it| it.version)
        .filter(|it| seen.insert(*it))
        .collect()
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.into() } else { format!("{group}/{version}") }
}

/// Answers a discovery request; `None` where the path is another one.
pub(crate) fn answer(
    server: &Server,
    exchange: &Exchange,
) -> Option<Result<Response<Body>, Status>> {
    let parts = parts_of(&exchange.info.path);
    server
        .catalog
        .with_discovery(|documents| answer_from(exchange, &parts, documents, &server.external))
}

/// Whether a path is one of those that upstream's aggregator answers itself: the groups, and each of them. Its handlers look
/// at no method.
pub(crate) fn is_aggregated(path: &str) -> bool {
    matches!(*parts_of(path), ["apis"] | ["apis", _])
}

/// What lies between the slashes of a path, whatever slashes it ends with.
fn parts_of(path: &str) -> Vec<&str> {
    path.trim_end_matches('/').split('/').skip(1).collect()
}

fn answer_from(
    exchange: &Exchange,
    parts: &[&str],
    documents: &Documents,
    address: &str,
) -> Option<Result<Response<Body>, Status>> {
    let document = match parts {
        ["api"] => match aggregated_answer(exchange, &documents.core) {
            Some(answer) => return Some(Ok(answer)),
            None => api_versions(address),
        },
        ["apis"] => match aggregated_answer(exchange, &documents.groups) {
            Some(answer) => return Some(Ok(answer)),
            None => group_list(documents),
        },
        ["api", version] => resource_list(documents, "", version)?,
        ["apis", group] => {
            let found = documents.layout.iter().find(|(it, _)| it == group);
            group_document(found?, true)
        }
        ["apis", group, version] => resource_list(documents, group, version)?,
        _ => return None,
    };
    // Groups are told by the aggregator, versions of custom ones by their own server: there is no router before either.
    let routed = match parts {
        ["apis"] | ["apis", _] => false,
        ["apis", group, _] => !documents.is_custom(group),
        _ => true,
    };
    Some(negotiate::document(exchange, routed).map(|form| respond::plain(form, 200, &document)))
}

fn aggregated_answer(exchange: &Exchange, aggregated: &Aggregated) -> Option<Response<Body>> {
    let accept = exchange.header(ACCEPT).replace(' ', "");
    AGGREGATED.iter().find(|(_, params)| accept.contains(params))?;
    let etag = HeaderValue::from_str(&aggregated.etag).ok()?;
    let mut response = if exchange.header(IF_NONE_MATCH) == aggregated.etag {
        respond::not_modified()
    } else {
        let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let text = apimachinery::json::to_vec(&aggregated.document);
        let lines = || Indenter::default().feed(&text);
        respond::bytes(200, media, if form_of(exchange).pretty { lines() } else { text })
    };
    response.headers_mut().insert(ETAG, etag);
    response.headers_mut().insert(http::header::VARY, HeaderValue::from_static("Accept"));
    Some(response)
}

fn api_versions(address: &str) -> Value {
    value!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

fn group_list(documents: &Documents) -> Value {
    let groups = documents.layout.iter().filter(|(name, _)| !name.is_empty());
    let groups: Value = groups.map(|group| group_document(group, false)).collect();
    value!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn group_document(
    (group, versions): &(CompactString, Vec<CompactString>),
    with_kind: bool,
) -> Value {
    let entry = |version: &str| value!({"groupVersion": (group_version(group, version)), "version": version});
    let mut document = Object::new();
    if with_kind {
        document.insert("kind", "APIGroup");
        document.insert("apiVersion", "v1");
    }
    document.insert("name", group.as_str());
    document.insert("versions", versions.iter().map(|version| entry(version)).collect::<Value>());
    document.insert("preferredVersion", versions.first().map(|version| entry(version)));
    Value::Object(document)
}

fn resource_list(documents: &Documents, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for facts in documents.facts.iter().filter(|it| it.group == group && it.version == version) {
        resources.push(resource_document(documents, facts));
        resources.extend(facts.subresources.iter().map(|sub| subresource_document(facts, sub)));
    }
    if resources.is_empty() {
        return None;
    }
    if !documents.is_custom(group) {
        resources.sort_by(|a, b| a.str_at(&["name"]).cmp(b.str_at(&["name"])));
    }
    let mut list = Object::new();
    list.insert("kind", "APIResourceList");
    if !group.is_empty() {
        list.insert("apiVersion", "v1");
    }
    list.insert("groupVersion", group_version(group, version));
    list.insert("resources", Value::Array(resources));
    Some(Value::Object(list))
}

fn strings(items: &[&str]) -> Value {
    items.iter().copied().collect()
}

fn resource_document(documents: &Documents, facts: &ResourceFacts) -> Value {
    let mut document = Object::new();
    document.insert("name", facts.resource);
    document.insert("singularName", facts.singular);
    document.insert("namespaced", facts.namespaced);
    document.insert("kind", facts.kind);
    document.insert("verbs", strings(facts.verbs));
    if !facts.short_names.is_empty() {
        document.insert("shortNames", strings(facts.short_names));
    }
    if !facts.categories.is_empty() {
        document.insert("categories", strings(facts.categories));
    }
    let is_stored = facts.verbs.contains(&"list") && facts.verbs.contains(&"watch");
    if is_stored && documents.tells_storage {
        document.insert("storageVersionHash", storage_version_hash(documents, facts));
    }
    Value::Object(document)
}

/// Base64 of the first eight bytes of SHA-256 of `group/version/kind` as it is stored (upstream: `StorageVersionHash`).
fn storage_version_hash(documents: &Documents, facts: &ResourceFacts) -> String {
    use base64::Engine;
    let group = facts.group;
    let stored = match (group, facts.resource) {
        ("events.k8s.io", "events") => "/v1/Event".to_owned(),
        ("autoscaling", "horizontalpodautoscalers") => {
            "autoscaling/v2/HorizontalPodAutoscaler".to_owned()
        }
        (_, resource) => {
            let stored = documents.stored.get(&(group, resource)).copied();
            format!("{group}/{}/{}", stored.unwrap_or(facts.version), facts.kind)
        }
    };
    base64::prelude::BASE64_STANDARD.encode(&Sha256::digest(stored)[..8])
}

fn subresource_document(facts: &ResourceFacts, sub: &SubresourceFacts) -> Value {
    let mut document = Object::new();
    document.insert("name", format!("{}/{}", facts.resource, sub.name));
    document.insert("singularName", "");
    document.insert("namespaced", facts.namespaced);
    if !sub.version.is_empty() {
        document.insert("group", sub.group);
        document.insert("version", sub.version);
    }
    document.insert("kind", sub.kind);
    document.insert("verbs", strings(sub.verbs));
    Value::Object(document)
}

fn aggregated(
    facts: &[&'static ResourceFacts],
    groups: &[&(CompactString, Vec<CompactString>)],
    remote: &View,
) -> Value {
    let items: Value = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Value = versions
                .iter()
                .map(|version| match remote.find(group, version) {
                    Some(it) => it.document(),
                    None => aggregated_version(facts, group, version),
                })
                .collect();
            let mut metadata = Object::new();
            if !group.is_empty() {
                metadata.insert("name", group.as_str());
            }
            value!({"metadata": (metadata), "versions": versions})
        })
        .collect();
    value!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_version(facts: &[&'static ResourceFacts], group: &str, version: &str) -> Value {
    let resources: Value = facts
        .iter()
        .filter(|it| it.group == group && it.version == version)
        .map(|facts| {
            let mut document = Object::new();
            document.insert("resource", facts.resource);
            document.insert("responseKind", value!({"group": "", "version": "", "kind": (facts.kind)}));
            document.insert("scope", if facts.namespaced { "Namespaced" } else { "Cluster" });
            document.insert("singularResource", facts.singular);
            document.insert("verbs", strings(facts.verbs));
            if !facts.short_names.is_empty() {
                document.insert("shortNames", strings(facts.short_names));
            }
            if !facts.categories.is_empty() {
                document.insert("categories", strings(facts.categories));
            }
            if !facts.subresources.is_empty() {
                let subs: Value = facts
                    .subresources
                    .iter()
                    .map(|sub| {
                        value!({"subresource": (sub.name), "verbs": (strings(sub.verbs)),
                            "responseKind": {"group": (sub.group), "version": (sub.version), "kind": (sub.kind)}})
                    })
                    .collect();
                document.insert("subresources", subs);
            }
            Value::Object(document)
        })
        .collect();
    value!({"version": version, "freshness": "Current", "resources": resources})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Peer;

    #[test]
    fn what_is_not_modified_has_no_type() {
        let document = Value::object();
        let aggregated = Aggregated { document, etag: "\"AB\"".into() };
        let answered = |held: &str| {
            let request = http::Request::builder()
                .uri("/apis")
                .header(
                    ACCEPT,
                    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                )
                .header(IF_NONE_MATCH, held);
            let (parts, ()) = request.body(()).unwrap().into_parts();
            let response =
                aggregated_answer(&Exchange::new(parts, Peer::default()), &aggregated).unwrap();
            let typed = response.headers().contains_key(http::header::CONTENT_TYPE);
            (response.status().as_u16(), typed, response.headers()[ETAG].clone())
        };
        let etag = HeaderValue::from_static("\"AB\"");
        assert_eq!(answered("\"AB\""), (304, false, etag.clone()));
        assert_eq!(answered("\"CD\""), (200, true, etag));
    }
}
