//! What each kind refuses, in upstream's words.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod changes;
mod columns;
mod definitions;
mod new_objects;
mod statuses;
mod storage_keys;

use std::sync::Arc;

use apimachinery::{FieldErrors, Value, json};
use registry::{AnyResource, Registry, Served};

/// The resource and version of an object, by its kind.
fn resource_of(object: &Value) -> (Arc<dyn AnyResource>, Served) {
    let registry = Registry::built_in();
    let version = object.str_at(&["apiVersion"]);
    let kind = object.str_at(&["kind"]);
    let found = registry.resources().iter().find_map(|resource| {
        let served = resource
            .served()
            .iter()
            .find(|served| served.facts.kind == kind && served.facts.api_version() == version);
        served.map(|served| (Arc::clone(resource), *served))
    });
    found.unwrap_or_else(|| panic!("no resource for {version} {kind}"))
}

/// The object as a create makes it ready for validation.
fn prepared(text: &str) -> (Arc<dyn AnyResource>, Served, Value) {
    let mut value = json::parse(text.as_bytes()).unwrap();
    let (resource, served) = resource_of(&value);
    let name = value.str_at(&["metadata", "name"]).to_owned();
    value.set_at(&["metadata", "name"], if name.is_empty() { "x".to_owned() } else { name });
    if served.facts.namespaced {
        value.set_at(&["metadata", "namespace"], "ns");
    }
    value.set_at(&["metadata", "resourceVersion"], "1");
    resource.conform(&served, &mut value).unwrap();
    resource.default(&served, &mut value);
    resource.to_storage(&served, &mut value);
    resource.prepare_create(&mut value);
    (resource, served, value)
}

fn words(errors: &FieldErrors) -> String {
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    all.join("\n")
}
