//! The kinds of the built-in API: their Rust types (from `k8s-openapi`) and the table of facts those lack.
//!
//! And what pods name, which several crates have to agree about. Everything about field names, types, list types and patch keys is generated; see `cargo xtask codegen`.

#[rustfmt::skip]
#[allow(clippy::all, clippy::pedantic, reason = "generated")]
pub mod generated {
    //! Generated tables.
    pub mod openapi;
    pub mod protobuf;
    pub mod resources;
    pub mod schema;
}

pub mod columns;
pub mod docs;
pub mod pod_references;
pub mod resource;

use apimachinery::schema::{NodeId, Schema};
pub use k8s_openapi;
pub use resource::{Column, ResourceFacts, SubresourceFacts};

/// Every type of the built-in API.
#[must_use]
pub fn schema() -> &'static Schema {
    &generated::schema::SCHEMA
}

/// The protobuf field numbers of every type of the built-in API.
#[must_use]
pub fn protobuf_tags() -> &'static apimachinery::protobuf::Tags {
    &generated::protobuf::TAGS
}

/// Every resource that a default server serves.
#[must_use]
pub fn resources() -> &'static [ResourceFacts] {
    generated::resources::RESOURCES
}

/// Every resource in versions, alpha and beta ones, that a server serves where it is asked to.
#[must_use]
pub fn optional_resources() -> &'static [ResourceFacts] {
    generated::resources::OPTIONAL
}

/// Both, those of a default server first.
pub fn all_resources() -> impl Iterator<Item = &'static ResourceFacts> + Clone {
    resources().iter().chain(optional_resources())
}

/// What every fresh server holds, in the order in which it is made: namespaces, priority classes and levels, flow
/// schemas, roles and their bindings.
pub fn bootstrap_objects() -> impl Iterator<Item = apimachinery::Value> {
    include_str!("generated/bootstrap.jsonl").lines().map(|line| {
        apimachinery::json::parse(line.as_bytes())
            .expect("because the code generator writes one JSON object a line")
    })
}

/// The type of a kind; `None` where this version of the API has no such kind.
#[must_use]
pub fn type_of_kind(group: &str, version: &str, kind: &str) -> Option<NodeId> {
    let kinds = generated::schema::KINDS;
    let index =
        kinds.binary_search_by_key(&(group, version, kind), |(g, v, k, _)| (*g, *v, *k)).ok()?;
    Some(kinds[index].3)
}

/// The type of a kind of a version that is served no more, where its protobuf message is not today's.
#[must_use]
pub fn type_of_removed(group: &str, version: &str, kind: &str) -> Option<NodeId> {
    let kinds = generated::schema::REMOVED_KINDS;
    let wanted = (group, version, kind);
    Some(kinds[kinds.binary_search_by_key(&wanted, |(g, v, k, _)| (*g, *v, *k)).ok()?].3)
}

/// The type of a definition by its OpenAPI name, such as `io.k8s.api.core.v1.PodSpec`.
#[must_use]
pub fn type_of_definition(name: &str) -> Option<NodeId> {
    let definitions = generated::schema::DEFINITIONS;
    let index = definitions.binary_search_by_key(&name, |(name, _)| *name).ok()?;
    Some(definitions[index].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bootstrap_objects_are_whole() {
        let mut nodes = 0;
        for object in bootstrap_objects() {
            let (group, version) =
                object.str_at(&["apiVersion"]).split_once('/').unwrap_or(("", "v1"));
            let kind = object.str_at(&["kind"]);
            assert!(type_of_kind(group, version, kind).is_some(), "{object:?}");
            assert!(object.at(&["metadata", "uid"]).is_none(), "{object:?}");
            nodes += usize::from(object.str_at(&["metadata", "name"]) == "system:node");
        }
        assert_eq!(nodes, 2, "the role of nodes and its binding");
    }

    #[test]
    fn kinds_and_fields_are_found() {
        let pod = type_of_kind("", "v1", "Pod").unwrap();
        let spec = schema().as_struct(pod).unwrap().field("spec").unwrap();
        assert_eq!(schema().go_type(spec.node), "v1.PodSpec");
        let containers = schema().as_struct(spec.node).unwrap().field("containers").unwrap();
        assert_eq!(schema().go_type(containers.node), "[]v1.Container");
        assert_eq!(containers.merge_key, "name");
        assert!(type_of_kind("apps", "v1beta1", "Deployment").is_none());
    }
}
