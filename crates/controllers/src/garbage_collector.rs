//! The garbage collector: objects whose owners are gone go too; owners that wait for their dependents, or let them be
//! orphans, go when that is done. Upstream: `pkg/controller/garbagecollector`.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::Value;
use client::indexes::BY_OWNER;
use client::reflector::{Cached, Owner as Named, StoreChange};
use client::{ObjectKey, Resource};
use compact_str::CompactString;
use controller::{Controller, Fetch, Plan, Snapshot, Watches};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::custom::{self, CustomResources};

/// How many owners are looked at to find out whether an object waits for itself.
const MAX_CIRCLE: usize = 1_000;

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
    Present {
        /// It is going, and waits for its dependents to go first.
        waits: bool,
    },
    /// It is gone: it was seen going, or a live read says so.
    Gone,
    /// It is in another namespace, where it can own nothing here: it counts as gone, and that is told.
    Elsewhere,
    /// The caches do not have it: a live read has to tell.
    Unknown(Fetch),
    /// Its kind is not known here: it counts as present.
    Foreign,
    /// It would be in a namespace, where what names it is in none: it counts as present, and that is told.
    Misplaced {
        /// Some namespace has it.
        exists: bool,
    },
}

/// What the collector sees of an object.
#[derive(Debug)]
pub struct Observed {
    pub(crate) resource: Resource,
    pub(crate) key: ObjectKey,
    /// The object as the cache has it.
    pub(crate) object: Arc<Value>,
    /// Its owner references with what is known of each owner.
    pub(crate) owners: Vec<(Value, Owner)>,
    /// The objects that name it as an owner, where they matter: it is going, or an owner waits for it to go.
    pub(crate) dependents: Vec<(Resource, Value)>,
    /// It waits for itself to go: as one of several that wait for each other.
    pub(crate) in_circle: bool,
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

impl GarbageCollector {
    /// One that knows these resources too.
    #[must_use]
    pub fn new(more: &[Resource]) -> Self {
        Self { kinds: Arc::new(Kinds::with(more)) }
    }
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
        let cached = snapshot.store_for(resource).get(key)?;
        let object = cached.value();
        let references = object.items_at(&["metadata", "ownerReferences"]).iter();
        let owners: Vec<(Value, Owner)> = references
            .zip(cached.owners())
            .map(|(reference, named)| (reference.clone(), self.kinds.owner(snapshot, key, named)))
            .collect();
        let deleting = cached.is_deleting();
        let awaited =
            owners.iter().any(|(_, owner)| matches!(owner, Owner::Present { waits: true }));
        let uid = object.str_at(&["metadata", "uid"]);
        let matter = deleting || awaited;
        let dependents = if matter { self.kinds.dependents(snapshot, uid) } else { Vec::new() };
        let dependents = dependents.into_iter().map(|(resource, it)| (resource, it.to_value()));
        let waits = deleting && plan::waits(&object);
        Some(Observed {
            in_circle: waits && awaited && self.kinds.waits_for_itself(snapshot, &cached),
            resource: resource.clone(),
            key: key.clone(),
            dependents: dependents.collect(),
            object,
            owners,
        })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        plan::plan(observed)
    }
}

/// The owners that an object names, where there is one.
fn named_by(object: &Option<Arc<Cached>>) -> &[Named] {
    object.as_ref().map_or(&[], |it| it.owners())
}

/// The resources that take part: the built-in ones, derived once, and the custom ones.
#[derive(Debug)]
struct Kinds {
    custom: CustomResources,
    resources: Vec<Resource>,
    /// Places in `resources` by group and kind.
    by_kind: BTreeMap<(CompactString, CompactString), usize>,
    owned: Mutex<Owned>,
}

/// Who is named as an owner.
#[derive(Debug, Default)]
struct Owned {
    /// How many objects name each owner, by its uid: most objects that go own nothing, in any resource.
    by_uid: BTreeMap<CompactString, usize>,
    /// How many references name a kind that is not built in, by its group and name.
    by_kind: BTreeMap<(CompactString, CompactString), usize>,
    /// The owners of `by_uid` that were seen going: of a kind that is defined no more nobody else can tell.
    ended: BTreeSet<CompactString>,
}

/// One less of what is counted; whether that was the last.
fn count_down<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else { return false };
    *count -= 1;
    let last = *count == 0;
    if last {
        counts.remove(key);
    }
    last
}

/// The group and the kind that a reference names.
fn kind_of(reference: &Named) -> (CompactString, CompactString) {
    let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
    (group.into(), reference.kind.clone())
}

impl Kinds {
    fn built_in() -> Self {
        Self::with(&[])
    }

    fn with(more: &[Resource]) -> Self {
        let mut resources = resources();
        resources.extend_from_slice(more);
        let by_kind = resources
            .iter()
            .enumerate()
            .map(|(place, it)| ((it.group.clone(), it.kind.clone()), place))
            .collect();
        Self { resources, by_kind, custom: CustomResources::default(), owned: Mutex::default() }
    }

    /// The resource of the owner that a reference names.
    fn of(&self, reference: &Named) -> Option<Resource> {
        let kind = kind_of(reference);
        match self.by_kind.get(&kind) {
            Some(place) => Some(self.resources[*place].clone()),
            None => self.custom.of_kind(&kind.0, &kind.1),
        }
    }

    /// Where the owner that a reference names lies.
    fn key_of(&self, dependent: &ObjectKey, reference: &Named) -> Option<Key> {
        let resource = self.of(reference)?;
        let namespace = if resource.namespaced {
            dependent.namespace.clone()
        } else {
            CompactString::default()
        };
        Some((resource, ObjectKey::new(namespace, reference.name.clone())))
    }

    fn owner(&self, snapshot: &Snapshot, dependent: &ObjectKey, reference: &Named) -> Owner {
        let uid = reference.uid.as_str();
        let ended = || self.owned.lock().ended.contains(uid);
        let Some((resource, key)) = self.key_of(dependent, reference) else {
            return if ended() { Owner::Gone } else { Owner::Foreign };
        };
        let store = snapshot.store_for(&resource);
        let is_anywhere = || store.list("").iter().any(|it| it.uid == uid);
        let is_elsewhere = || {
            let all = store.list("");
            all.iter().any(|it| it.uid == uid && it.key.namespace != dependent.namespace)
        };
        if resource.namespaced && dependent.namespace.is_empty() {
            // Nothing of a namespace can own what is in none: it is not known what such a reference means.
            return Owner::Misplaced { exists: is_anywhere() };
        }
        if let Some(cached) = store.get(&key).filter(|it| it.uid == uid) {
            let waits = cached.is_deleting() && plan::waits(&cached.value());
            return Owner::Present { waits };
        }
        // The cache remembers the last of those that went; of an owner of very many the collector does so itself.
        if store.went(uid) || ended() {
            return Owner::Gone;
        }
        let fetch = Fetch::read(resource, key);
        match snapshot.fetched(&fetch) {
            Some(Some(value)) if value.str_at(&["metadata", "uid"]) == uid => {
                Owner::Present { waits: plan::waits(value) }
            }
            // By another name in the same namespace it is not told, as upstream does not.
            Some(_) if fetch.resource.namespaced && is_elsewhere() => Owner::Elsewhere,
            Some(_) => Owner::Gone,
            None => Owner::Unknown(fetch),
        }
    }

    /// Whether an object waits for itself: those that it holds up, and those that they hold up, come round to it.
    fn waits_for_itself(&self, snapshot: &Snapshot, object: &Arc<Cached>) -> bool {
        let (mut seen, mut next) = (BTreeSet::new(), vec![Arc::clone(object)]);
        while let Some(one) = next.pop() {
            for owner in one.owners().iter().filter(|it| it.block_owner_deletion) {
                if owner.uid == object.uid {
                    return true;
                }
                if seen.len() >= MAX_CIRCLE || !seen.insert(owner.uid.clone()) {
                    continue;
                }
                let Some((resource, key)) = self.key_of(&one.key, owner) else { continue };
                let found = snapshot.store_for(&resource).get(&key);
                let waits = |it: &Arc<Cached>| it.is_deleting() && plan::waits(&it.value());
                next.extend(found.filter(|it| it.uid == owner.uid).filter(waits));
            }
        }
        false
    }

    /// Counts who names whom, and remembers owners that went.
    fn count(&self, change: &StoreChange) {
        let (old, new) = (named_by(&change.old), named_by(&change.new));
        let went = change.old.as_ref().filter(|_| change.new.is_none());
        if old == new && went.is_none() {
            return;
        }
        let mut owned = self.owned.lock();
        if let Some(went) = went.filter(|it| owned.by_uid.contains_key(&it.uid)) {
            owned.ended.insert(went.uid.clone());
        }
        let is_foreign = |it: &&Named| !self.by_kind.contains_key(&kind_of(it));
        for owner in new {
            *owned.by_uid.entry(owner.uid.clone()).or_default() += 1;
        }
        for owner in new.iter().filter(is_foreign) {
            *owned.by_kind.entry(kind_of(owner)).or_default() += 1;
        }
        for owner in old {
            if count_down(&mut owned.by_uid, &owner.uid) {
                owned.ended.remove(&owner.uid);
            }
        }
        for owner in old.iter().filter(is_foreign) {
            count_down(&mut owned.by_kind, &kind_of(owner));
        }
    }

    /// The objects with an owner of a kind that a definition brings: whether it is there could not be told before.
    fn of_new_kind(&self, change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
        let Some(defined) = custom::newly_defined(change) else { return Vec::new() };
        let kind = (defined.group, defined.kind);
        if !self.owned.lock().by_kind.contains_key(&kind) {
            return Vec::new();
        }
        let mut keys = Vec::new();
        for resource in self.resources.iter().chain(&self.custom.all()) {
            let objects = snapshot.store_for(resource).list("").into_iter();
            let its = objects.filter(|it| it.owners().iter().any(|it| kind_of(it) == kind));
            keys.extend(its.map(|it| (resource.clone(), it.key.clone())));
        }
        keys
    }

    /// The objects that name an owner.
    fn dependents(&self, snapshot: &Snapshot, uid: &str) -> Vec<(Resource, Arc<Cached>)> {
        let mut found = Vec::new();
        if !self.owned.lock().by_uid.contains_key(uid) {
            return found;
        }
        for resource in self.resources.iter().chain(&self.custom.all()) {
            let objects = snapshot.store_for(resource).by_index(BY_OWNER, uid);
            found.extend(objects.into_iter().map(|object| (resource.clone(), object)));
        }
        found
    }

    /// The owners that an object held up and holds up no more.
    fn unblocked(&self, change: &StoreChange) -> Vec<Key> {
        let (Some(old), Some(new)) = (&change.old, &change.new) else { return Vec::new() };
        let still = |it: &Named| {
            new.owners().iter().any(|now| now.block_owner_deletion && now.uid == it.uid)
        };
        let held = old.owners().iter().filter(|it| it.block_owner_deletion);
        held.filter(|it| !still(it)).filter_map(|it| self.key_of(&old.key, it)).collect()
    }

    /// The object itself where it has owners or is going; its dependents when it is gone or going; its owners when it
    /// is gone, since they may wait for that.
    fn concerned(
        &self,
        resource: &Resource,
        change: &StoreChange,
        snapshot: &Snapshot,
    ) -> Vec<Key> {
        self.count(change);
        let mut keys = match *resource == custom::definitions() {
            true => self.of_new_kind(change, snapshot),
            false => Vec::new(),
        };
        let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return keys };
        let (deleting, owners) = (object.is_deleting(), object.owners());
        if change.new.is_some() {
            if let Some(old) = &change.old
                && !deleting
                && old.owners() == owners
            {
                // What else changes is no matter of owners.
                return keys;
            }
            keys.extend(self.unblocked(change));
        } else {
            keys.extend(owners.iter().filter_map(|it| self.key_of(&object.key, it)));
        }
        let is_gone = change.new.is_none();
        if deleting || is_gone {
            // Before itself: once it waits no more, it is an owner like any other.
            let dependents = self.dependents(snapshot, &object.uid).into_iter();
            keys.extend(dependents.map(|(resource, it)| (resource, it.key.clone())));
        }
        // What goes is worked on where it waits for its dependents.
        let works = if deleting { plan::works_on(object) } else { !owners.is_empty() };
        if works && !is_gone {
            keys.push((resource.clone(), object.key.clone()));
        }
        keys
    }
}
