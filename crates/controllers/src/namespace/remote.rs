//! What other API servers have in a namespace. Upstream finds it by discovery, and so does this: a group and version that
//! cannot be discovered keeps the namespace, since nobody knows what is in it.

use std::collections::BTreeMap;

use apimachinery::Value;
use client::Resource;
use client::reflector::StoreChange;
use compact_str::CompactString;
use controller::{Fetch, Snapshot};
use parking_lot::RwLock;

/// The groups and versions of other servers, by the names of their APIServices.
#[derive(Debug, Default)]
pub(super) struct Remotes(RwLock<BTreeMap<CompactString, Remote>>);

#[derive(Debug, Clone)]
struct Remote {
    group: CompactString,
    version: CompactString,
    available: bool,
}

/// What is known of a namespace by other servers.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// What is there, by resource.
    pub(super) content: Vec<(Resource, Vec<Value>)>,
    /// What has to be asked first.
    pub(super) fetches: Vec<Fetch>,
    /// Groups and versions that cannot be discovered, with why.
    pub(super) undiscovered: Vec<String>,
    /// Why content cannot be listed.
    pub(super) unlisted: Vec<String>,
}

impl Seen {
    /// Whether everything there is has been found.
    pub(super) fn is_known(&self) -> bool {
        self.undiscovered.is_empty() && self.unlisted.is_empty()
    }
}

/// The resource of APIServices.
pub(super) fn api_services() -> Resource {
    Resource::built_in("apiregistration.k8s.io", "apiservices")
}

impl Remotes {
    /// Takes a change of an APIService.
    pub(super) fn learn(&self, change: &StoreChange) {
        let name = change.key().name;
        let remote = change.new.as_ref().and_then(|it| Remote::of(&it.value()));
        let mut known = self.0.write();
        match remote {
            Some(remote) => drop(known.insert(name, remote)),
            None => drop(known.remove(&name)),
        }
    }

    /// What the answers so far tell of a namespace.
    pub(super) fn look(&self, snapshot: &Snapshot, namespace: &str) -> Seen {
        let mut seen = Seen::default();
        for remote in self.0.read().values() {
            remote.look(snapshot, namespace, &mut seen);
        }
        seen
    }
}

impl Remote {
    fn of(object: &Value) -> Option<Self> {
        object["spec"].get("service").filter(|it| !it.is_null())?;
        let mut conditions = object.items_at(&["status", "conditions"]).iter();
        Some(Self {
            group: object.str_at(&["spec", "group"]).into(),
            version: object.str_at(&["spec", "version"]).into(),
            available: conditions
                .any(|it| it.str_at(&["type"]) == "Available" && it.str_at(&["status"]) == "True"),
        })
    }

    fn look(&self, snapshot: &Snapshot, namespace: &str, seen: &mut Seen) {
        let name = format!("{}/{}", self.group, self.version);
        let stale = format!("{name}: stale GroupVersion discovery: {name}");
        if !self.available {
            seen.undiscovered.push(stale);
            return;
        }
        let discovery = Fetch::path(api_services(), format!("/apis/{name}"));
        let Some(found) = snapshot.fetched(&discovery) else {
            seen.fetches.push(discovery);
            return;
        };
        let Some(list) = found.and_then(|it| it.get("answer")) else {
            seen.undiscovered.push(stale);
            return;
        };
        for resource in list.items_at(&["resources"]).iter().filter(|it| is_deletable(it)) {
            let resource = Resource {
                group: self.group.clone(),
                version: self.version.clone(),
                plural: resource.str_at(&["name"]).into(),
                kind: resource.str_at(&["kind"]).into(),
                namespaced: true,
            };
            let read = Fetch::path(api_services(), resource.path(namespace, "", ""));
            let Some(found) = snapshot.fetched(&read) else {
                seen.fetches.push(read);
                continue;
            };
            match found.and_then(|it| it.get("answer")) {
                Some(list) => seen.content.push((resource, list.items_at(&["items"]).to_vec())),
                None => {
                    let why = found.map_or("", |it| it.str_at(&["error", "message"]));
                    seen.unlisted.push(why.to_owned());
                }
            }
        }
    }
}

/// Whether objects of a resource lie in namespaces, can be seen, and can be deleted all at once.
fn is_deletable(resource: &Value) -> bool {
    let can = |verb: &str| resource.items_at(&["verbs"]).iter().any(|it| it.as_str() == Some(verb));
    resource.bool_at(&["namespaced"])
        && !resource.str_at(&["name"]).contains('/')
        && can("list")
        && can("deletecollection")
}
