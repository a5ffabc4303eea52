//! The garbage collector: objects whose owners are gone go too; owners that wait for their dependents, or let them be
//! orphans, go when that is done. Upstream: `pkg/controller/garbagecollector`.

mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use client::indexes::BY_OWNER;
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use compact_str::CompactString;
use controller::{Controller, Fetch, Plan, Snapshot, Watches};
use jiff::Timestamp;

use crate::custom::{self, CustomResources};

/// The controller.
#[derive(Debug, Clone)]
pub struct GarbageCollector {
    kinds: Arc<Kinds>,
}

impl Default for GarbageCollector {
    fn default() -> Self {
        Self { kinds: Arc::new(Kinds::built_in()) }
    }
}

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
    /// The objects that name it as an owner, where they matter: it is going, or an owner waits for it to go.
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
    const QUEUE: &'static str = "garbage_collector_attempt_to_delete";
    type Key = Key;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<Key>) -> Watches<Key> {
        let watches = self.kinds.resources.iter().fold(watches, |watches, resource| {
            let (own, kinds) = (resource.clone(), Arc::clone(&self.kinds));
            watches.on_resource(resource.clone(), move |change, snapshot| {
                kinds.concerned(&own, change, snapshot)
            })
        });
        let (kinds, custom) = (Arc::clone(&self.kinds), Arc::clone(&self.kinds));
        watches.on_defined(
            custom::definitions(),
            move |change| custom.custom.learn(change),
            move |resource, change, snapshot| kinds.concerned(resource, change, snapshot),
        )
    }

    fn observe(&self, snapshot: &Snapshot, (resource, key): &Key) -> Option<Observed> {
        let object = snapshot.store_for(resource).get(key)?.to_value();
        let owners = object.items_at(&["metadata", "ownerReferences"]).iter();
        let owners: Vec<(Value, Owner)> = owners
            .map(|reference| (reference.clone(), self.kinds.owner(snapshot, key, reference)))
            .collect();
        let deleting = object.at(&["metadata", "deletionTimestamp"]).is_some();
        let awaited = owners.iter().any(|(_, owner)| plan::waits(owner));
        let uid = object.str_at(&["metadata", "uid"]);
        let matter = deleting || awaited;
        let dependents = if matter { self.kinds.dependents(snapshot, uid) } else { Vec::new() };
        Some(Observed { resource: resource.clone(), key: key.clone(), object, owners, dependents })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        plan::plan(observed)
    }
}

/// The resources that take part: the built-in ones, derived once, and the custom ones.
#[derive(Debug)]
struct Kinds {
    custom: CustomResources,
    resources: Vec<Resource>,
    /// Places in `resources` by group and kind.
    by_kind: BTreeMap<(CompactString, CompactString), usize>,
}

impl Kinds {
    fn built_in() -> Self {
        let resources = resources();
        let by_kind = resources
            .iter()
            .enumerate()
            .map(|(place, it)| ((it.group.clone(), it.kind.clone()), place))
            .collect();
        Self { resources, by_kind, custom: CustomResources::default() }
    }

    /// The resource of the owner that a reference names.
    fn of(&self, reference: &Value) -> Option<Resource> {
        let version = reference.str_at(&["apiVersion"]);
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let kind = (group.into(), reference.str_at(&["kind"]).into());
        match self.by_kind.get(&kind) {
            Some(place) => Some(self.resources[*place].clone()),
            None => self.custom.of_kind(group, &kind.1),
        }
    }

    /// Where the owner that a reference names lies.
    fn key_of(&self, dependent: &ObjectKey, reference: &Value) -> Option<Key> {
        let resource = self.of(reference)?;
        let namespace = if resource.namespaced {
            dependent.namespace.clone()
        } else {
            CompactString::default()
        };
        Some((resource, ObjectKey::new(namespace, reference.str_at(&["name"]))))
    }

    fn owner(&self, snapshot: &Snapshot, dependent: &ObjectKey, reference: &Value) -> Owner {
        let Some((resource, key)) = self.key_of(dependent, reference) else {
            return Owner::Foreign;
        };
        let uid = reference.str_at(&["uid"]);
        if let Some(cached) = snapshot.store_for(&resource).get(&key).filter(|it| it.uid == uid) {
            return Owner::Present(cached.to_value());
        }
        let fetch = Fetch::read(resource, key);
        match snapshot.fetched(&fetch) {
            Some(Some(value)) if value.str_at(&["metadata", "uid"]) == uid => {
                Owner::Present(value.clone())
            }
            Some(_) => Owner::Gone,
            None => Owner::Unknown(fetch),
        }
    }

    fn dependents(&self, snapshot: &Snapshot, uid: &str) -> Vec<(Resource, Value)> {
        let mut found = Vec::new();
        for resource in self.resources.iter().chain(&self.custom.all()) {
            let objects = snapshot.store_for(resource).by_index(BY_OWNER, uid);
            found.extend(objects.iter().map(|object| (resource.clone(), object.to_value())));
        }
        found
    }

    /// The owners that an object held up and holds up no more.
    fn unblocked(&self, change: &StoreChange) -> Vec<Key> {
        let (Some(old), Some(new)) = (&change.old, &change.new) else { return Vec::new() };
        let (before, now) = (old.value(), new.value());
        let blocking = |value: &Value| -> Vec<Value> {
            let references = value.items_at(&["metadata", "ownerReferences"]).iter();
            references.filter(|it| it.bool_at(&["blockOwnerDeletion"])).cloned().collect()
        };
        let still = blocking(&now);
        let still = |it: &Value| still.iter().any(|now| now.get("uid") == it.get("uid"));
        let released = blocking(&before).into_iter().filter(|it| !still(it));
        released.filter_map(|reference| self.key_of(&old.key, &reference)).collect()
    }

    /// The object itself where it has owners or is going; its dependents when it is gone or going; its owners when it
    /// is gone, since they may wait for that.
    fn concerned(
        &self,
        resource: &Resource,
        change: &StoreChange,
        snapshot: &Snapshot,
    ) -> Vec<Key> {
        let mut keys = Vec::new();
        let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return keys };
        let value = object.value();
        let deleting = value.at(&["metadata", "deletionTimestamp"]).is_some();
        let owners = value.items_at(&["metadata", "ownerReferences"]);
        if change.new.is_some() {
            keys.extend(self.unblocked(change));
            if !owners.is_empty() || deleting {
                keys.push((resource.clone(), object.key.clone()));
            }
            if !deleting {
                return keys;
            }
        } else {
            keys.extend(owners.iter().filter_map(|reference| self.key_of(&object.key, reference)));
        }
        let uid = value.str_at(&["metadata", "uid"]);
        keys.extend(self.dependents(snapshot, uid).into_iter().map(|(resource, dependent)| {
            let at = |member| dependent.str_at(&["metadata", member]);
            (resource, ObjectKey::new(at("namespace"), at("name")))
        }));
        keys
    }
}
