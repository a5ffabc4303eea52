//! The custom resources that there are, as the controllers of all resources know them.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use client::Resource;
use client::reflector::{Cached, StoreChange};
use compact_str::CompactString;
use parking_lot::RwLock;

/// The custom resources that are served, by the names of their definitions.
#[derive(Debug, Default)]
pub(crate) struct CustomResources(RwLock<BTreeMap<CompactString, Resource>>);

/// The resource of their definitions.
pub(crate) fn definitions() -> Resource {
    Resource::built_in("apiextensions.k8s.io", "customresourcedefinitions")
}

/// Whether a resource is a custom one.
pub(crate) fn is_custom(resource: &Resource) -> bool {
    !api::resources().iter().any(|it| it.group == resource.group && it.resource == resource.plural)
}

impl CustomResources {
    /// Takes a change of a definition; the resource that it defines now comes back, if it is served.
    pub(crate) fn learn(&self, change: &StoreChange) -> Option<Resource> {
        let name = change.key().name;
        let defined = change.new.as_ref().and_then(|it| defined_by(&it.value()));
        let mut known = self.0.write();
        match &defined {
            Some(resource) => {
                known.insert(name, resource.clone());
            }
            None => {
                known.remove(&name);
            }
        }
        defined
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Resource> {
        self.0.read().values().cloned().collect()
    }

    /// The one of this kind.
    pub(crate) fn of_kind(&self, group: &str, kind: &str) -> Option<Resource> {
        self.0.read().values().find(|it| it.group == group && it.kind == kind).cloned()
    }
}

/// The resource that is served from this change of a definition on, and was not before.
pub(crate) fn newly_defined(change: &StoreChange) -> Option<Resource> {
    let defined = |it: &Option<Arc<Cached>>| it.as_ref().and_then(|it| defined_by(&it.value()));
    let before = defined(&change.old);
    defined(&change.new).filter(|now| before.as_ref() != Some(now))
}

/// The resource that a definition serves, in its storage version where that is served.
fn defined_by(definition: &Value) -> Option<Resource> {
    let conditions = definition.items_at(&["status", "conditions"]).iter();
    let established = conditions
        .clone()
        .any(|it| it.str_at(&["type"]) == "Established" && it.str_at(&["status"]) == "True");
    let versions = definition.items_at(&["spec", "versions"]);
    let served = || versions.iter().filter(|it| it.bool_at(&["served"]));
    let stored = served().find(|it| it.bool_at(&["storage"]));
    let version = stored.or_else(|| served().next()).filter(|_| established)?;
    let names = &definition["status"]["acceptedNames"];
    Some(Resource {
        group: definition.str_at(&["spec", "group"]).into(),
        version: version.str_at(&["name"]).into(),
        plural: names.str_at(&["plural"]).into(),
        kind: names.str_at(&["kind"]).into(),
        namespaced: definition.str_at(&["spec", "scope"]) == "Namespaced",
    })
}
