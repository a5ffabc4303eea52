//! Binds claims and volumes to each other, has volumes made for claims, and takes them back. Upstream:
//! `pkg/controller/volume/persistentvolume`.
//!
//! A claim's plan writes the volume first and the claim when the cache shows that: the volume says for whom it is before
//! the claim says what it has. Every write is an update of the version that was read, so that two claims never get one
//! volume.

mod claim;
mod metrics;
mod provision;
mod volume;

use apimachinery::{Value, time};
use client::events::{EventType, ObjectReference};
use client::indexes::{
    FOR_CLAIM, UNBOUND, claim_entry, claims_of_pod, has_claims, unbound_entry, volume_entry,
};
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use compact_str::CompactString;
use controller::{Action, Controller, Event, Fetch, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

/// What made a volume.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The CSI driver that does an in-tree plugin's work.
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";

/// The controller.
#[derive(Debug, Clone)]
pub struct PersistentVolumeBinder {
    /// What it counts.
    pub metrics: Metrics,
    /// Whether volumes are made for claims (upstream's `--enable-dynamic-provisioning`).
    pub provisions: bool,
}

pub use metrics::Metrics;

/// What is planned for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A claim.
    Claim(ObjectKey),
    /// A volume, by name.
    Volume(CompactString),
}

/// What it sees.
#[derive(Debug)]
pub enum Observed {
    /// Of a claim.
    Claim(Box<claim::Observed>),
    /// Of a volume.
    Volume(volume::Observed),
}

/// What was told last of a claim, so that it is told again only when it changed or is long ago.
#[derive(Debug, Default)]
pub struct Memory {
    told: String,
    at: Option<Timestamp>,
}

/// How often what keeps a claim waiting is told again: a little more often than events are forgotten.
const TELL_AGAIN: jiff::SignedDuration = jiff::SignedDuration::from_mins(30);

impl Controller for PersistentVolumeBinder {
    const NAME: &'static str = "persistentvolume-binder-controller";
    const ACCOUNT: &'static str = "persistent-volume-binder";
    const SOURCE: &'static str = "persistentvolume-controller";
    const QUEUE: &'static str = "claims";
    type Key = Key;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<Key>) -> Watches<Key> {
        let (claims, volumes) = (self.metrics.clone(), self.metrics.clone());
        self.metrics.begin();
        watches
            .on::<PersistentVolumeClaim>(move |change, snapshot| {
                claims.see_claim(change);
                of_claim(change, snapshot)
            })
            .on::<PersistentVolume>(move |change, snapshot| {
                volumes.see_volume(change);
                of_volume(change, snapshot)
            })
            .on::<StorageClass>(of_class)
            .on::<Pod>(of_pod)
    }

    fn observe(&self, snapshot: &Snapshot, key: &Key) -> Option<Observed> {
        match key {
            Key::Claim(key) => {
                claim::observe(snapshot, key, self.provisions).map(Box::new).map(Observed::Claim)
            }
            Key::Volume(name) => volume::observe(snapshot, name).map(Observed::Volume),
        }
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        match observed {
            Observed::Claim(observed) => claim::plan(observed, (memory, &self.metrics), now),
            Observed::Volume(observed) => volume::plan(observed, now),
        }
    }
}

/// A claim, and the volume that it names: its phase follows the claim.
fn of_claim(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let mut keys = vec![Key::Claim(change.key())];
    let entry = claim_entry(&change.key().namespace, &change.key().name);
    let volumes = snapshot.store::<PersistentVolume>().by_index(FOR_CLAIM, &entry);
    keys.extend(volumes.iter().map(|it| Key::Volume(it.key.name.clone())));
    for claim in [&change.old, &change.new].into_iter().flatten() {
        let key = match claim.value().str_at(&["spec", "volumeName"]) {
            "" => continue,
            name => Key::Volume(name.into()),
        };
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

/// A volume, the claim that it is meant for, and where it is free, the claims that wait for one.
fn of_volume(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let mut keys = vec![Key::Volume(change.key().name)];
    let mut claims = Vec::new();
    for volume in [&change.old, &change.new].into_iter().flatten() {
        let value = volume.value();
        if let Some(reference) = value.at(&["spec", "claimRef"]).filter(|it| !it.is_null()) {
            let (namespace, name) = (reference.str_at(&["namespace"]), reference.str_at(&["name"]));
            claims.push(ObjectKey::new(namespace, name));
        }
    }
    let store = snapshot.store::<PersistentVolumeClaim>();
    // Those that name the volume, which may be before it is there; and of those that would take any, all that it suits.
    let entry = volume_entry(&change.key().name);
    claims.extend(store.by_index(UNBOUND, &entry).iter().map(|it| it.key.clone()));
    let free = change.new.as_ref().map(|it| it.value()).filter(|it| {
        it.at(&["spec", "claimRef"]).is_none_or(Value::is_null)
            && it.str_at(&["status", "phase"]) == "Available"
    });
    if let Some(volume) = free {
        let waiting = store.by_index(UNBOUND, &unbound_entry(client::volumes::class(&volume)));
        claims.extend(waiting.iter().map(|it| it.key.clone()));
    }
    claims.sort_unstable();
    claims.dedup();
    keys.extend(claims.into_iter().map(Key::Claim));
    keys
}

/// The claims that wait for a class: those that name it, and those that name none and get the default.
fn of_class(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let store = snapshot.store::<PersistentVolumeClaim>();
    let mut keys: Vec<Key> = Vec::new();
    for entry in [unbound_entry(&change.key().name), unbound_entry("")] {
        keys.extend(store.by_index(UNBOUND, &entry).iter().map(|it| Key::Claim(it.key.clone())));
    }
    keys
}

/// The claims of a pod that has no node yet: what is told of them names it.
fn of_pod(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let Some(pod) = change.new.as_ref().or(change.old.as_ref()) else { return Vec::new() };
    if !has_claims(pod) {
        return Vec::new();
    }
    let store = snapshot.store::<PersistentVolumeClaim>();
    let names = claims_of_pod(&pod.value());
    let keys = names.into_iter().map(|it| ObjectKey::new(change.key().namespace, it));
    let unbound = keys.filter(|key| {
        let claim = store.get(key);
        claim.is_some_and(|it| it.value().str_at(&["spec", "volumeName"]).is_empty())
    });
    unbound.map(Key::Claim).collect()
}

/// The write of an object as it is to be, where it was read before.
fn update<K: k8s_openapi::Resource>(subresource: &'static str, object: Value) -> Action {
    Action::Update { resource: Resource::of::<K>(), subresource, object }
}

/// A volume in another phase; `None` where it is in it already.
fn in_phase(volume: &Value, phase: &str, message: &str, now: Timestamp) -> Option<Action> {
    if volume.str_at(&["status", "phase"]) == phase {
        return None;
    }
    let mut volume = volume.clone();
    volume.set_at(&["status", "phase"], phase);
    volume.set_at(&["status", "lastPhaseTransitionTime"], time::format_time(now));
    if message.is_empty() {
        volume.remove_at(&["status", "message"]);
    } else {
        volume.set_at(&["status", "message"], message);
    }
    Some(update::<PersistentVolume>("status", volume))
}

fn about(kind: &str, object: &Value) -> ObjectReference {
    ObjectReference { api_version: "v1".into(), kind: kind.into(), ..ObjectReference::of(object) }
}

fn warning(kind: &str, object: &Value, reason: &'static str, message: String) -> Event {
    Event { about: about(kind, object), kind: EventType::Warning, reason, message }
}

fn name(object: &Value) -> &str {
    object.str_at(&["metadata", "name"])
}

fn uid(object: &Value) -> &str {
    object.str_at(&["metadata", "uid"])
}

/// `NAMESPACE/NAME` of a claim.
fn full_name(claim: &Value) -> String {
    format!("{}/{}", claim.str_at(&["metadata", "namespace"]), name(claim))
}

fn fetch<K: k8s_openapi::Resource>(key: ObjectKey) -> Fetch {
    Fetch::read(Resource::of::<K>(), key)
}
