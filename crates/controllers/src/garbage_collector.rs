//! The garbage collector: objects whose owners are gone go too; owners that wait for their dependents, or let them be
//! orphans, go when that is done. Upstream: `pkg/controller/garbagecollector`.

mod plan;

use std::collections::BTreeMap;

use apimachinery::Value;
use client::reflector::{BY_OWNER, StoreChange};
use client::{ObjectKey, Resource};
use compact_str::CompactString;
use controller::{Controller, Fetch, Plan, Snapshot, Watches};
use jiff::Timestamp;

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct GarbageCollector;

/// An object of any resource.
pub type Key = (Resource, ObjectKey);

/// What is known of an owner.
#[derive(Debug, Clone)]
pub enum Owner {
    /// It is there.
    Present(Value),
    /// It is gone, by a live read.
    Gone,
    /// The caches do not have it: a live read has to tell.
    Unknown(Fetch),
    /// Its kind is not known here: it counts as present.
    Foreign,
}

/// What the collector sees of an object.
#[derive(Debug)]
pub struct Observed {
    pub(crate) resource: Resource,
    pub(crate) key: ObjectKey,
    /// The object as the cache has it.
    pub(crate) object: Value,
    /// Its owner references with what is known of each owner.
    pub(crate) owners: Vec<(Value, Owner)>,
    /// The objects that name it as an owner.
    pub(crate) dependents: Vec<(Resource, Value)>,
}

/// Every resource whose objects may own or be owned, each once.
#[must_use]
pub fn resources() -> Vec<Resource> {
    let collected = |facts: &&api::ResourceFacts| {
        ["delete", "list", "watch"].iter().all(|verb| facts.verbs.contains(verb))
    };
    let mut resources: Vec<Resource> = Vec::new();
    for facts in api::resources().iter().filter(collected) {
        let resource = Resource::built_in(facts.group, facts.resource);
        // Events own nothing and expire by themselves.
        if facts.resource != "events" && !resources.contains(&resource) {
            resources.push(resource);
        }
    }
    resources
}

impl Controller for GarbageCollector {
    const NAME: &'static str = "garbage-collector-controller";
    const ACCOUNT: &'static str = "generic-garbage-collector";
    type Key = Key;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<Key>) -> Watches<Key> {
        resources().into_iter().fold(watches, |watches, resource| {
            let own = resource.clone();
            watches.on_resource(resource, move |change, snapshot| concerned(&own, change, snapshot))
        })
    }

    fn observe(&self, snapshot: &Snapshot, (resource, key): &Key) -> Option<Observed> {
        let object = snapshot.store_for(resource).get(key)?.value();
        let kinds = kinds();
        let owners = object.items_at(&["metadata", "ownerReferences"]).iter();
        let owners = owners
            .map(|reference| (reference.clone(), owner(snapshot, &kinds, key, reference)))
            .collect();
        let deleting = object.at(&["metadata", "deletionTimestamp"]).is_some();
        let uid = object.str_at(&["metadata", "uid"]);
        let dependents = if deleting { dependents(snapshot, uid) } else { Vec::new() };
        Some(Observed { resource: resource.clone(), key: key.clone(), object, owners, dependents })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        plan::plan(observed)
    }
}

type Kinds = BTreeMap<(CompactString, CompactString), Resource>;

/// Resources by group and kind.
fn kinds() -> Kinds {
    resources()
        .into_iter()
        .map(|resource| ((resource.group.clone(), resource.kind.clone()), resource))
        .collect()
}

fn owner(snapshot: &Snapshot, kinds: &Kinds, dependent: &ObjectKey, reference: &Value) -> Owner {
    let version = reference.str_at(&["apiVersion"]);
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let Some(resource) = kinds.get(&(group.into(), reference.str_at(&["kind"]).into())) else {
        return Owner::Foreign;
    };
    let namespace =
        if resource.namespaced { dependent.namespace.clone() } else { CompactString::default() };
    let key = ObjectKey::new(namespace, reference.str_at(&["name"]));
    let uid = reference.str_at(&["uid"]);
    if let Some(cached) = snapshot.store_for(resource).get(&key).filter(|it| it.uid == uid) {
        return Owner::Present(cached.value());
    }
    let fetch = Fetch::read(resource.clone(), key);
    match snapshot.fetched(&fetch) {
        Some(Some(value)) if value.str_at(&["metadata", "uid"]) == uid => {
            Owner::Present(value.clone())
        }
        Some(_) => Owner::Gone,
        None => Owner::Unknown(fetch),
    }
}

fn dependents(snapshot: &Snapshot, uid: &str) -> Vec<(Resource, Value)> {
    let mut found = Vec::new();
    for resource in resources() {
        let objects = snapshot.store_for(&resource).by_index(BY_OWNER, uid);
        found.extend(objects.iter().map(|object| (resource.clone(), object.value())));
    }
    found
}

/// The object itself where it has owners or is going; its dependents when it is gone or going; its owners when it is
/// gone, since they may wait for that.
fn concerned(resource: &Resource, change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let mut keys = Vec::new();
    let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return keys };
    let value = object.value();
    let deleting = value.at(&["metadata", "deletionTimestamp"]).is_some();
    let owners = value.items_at(&["metadata", "ownerReferences"]);
    if change.new.is_some() {
        if !owners.is_empty() || deleting {
            keys.push((resource.clone(), object.key.clone()));
        }
        if !deleting {
            return keys;
        }
    } else {
        let kinds = kinds();
        for reference in owners {
            let version = reference.str_at(&["apiVersion"]);
            let group = version.split_once('/').map_or("", |(group, _)| group);
            if let Some(owner) = kinds.get(&(group.into(), reference.str_at(&["kind"]).into())) {
                let namespace = if owner.namespaced {
                    object.key.namespace.clone()
                } else {
                    CompactString::default()
                };
                keys.push((owner.clone(), ObjectKey::new(namespace, reference.str_at(&["name"]))));
            }
        }
    }
    for (resource, dependent) in dependents(snapshot, value.str_at(&["metadata", "uid"])) {
        let (namespace, name) =
            (dependent.str_at(&["metadata", "namespace"]), dependent.str_at(&["metadata", "name"]));
        keys.push((resource, ObjectKey::new(namespace, name)));
    }
    keys
}
