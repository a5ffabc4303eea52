//! What servers that are gone have told of the versions in which they store goes after them. Upstream:
//! `pkg/controller/storageversiongc`.

use std::sync::Arc;

use apimachinery::Value;
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Fetch, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;

use crate::owner;

/// Where servers say who they are, and by what such leases are known.
const NAMESPACE: &str = "kube-system";
const IDENTITY: &str = "apiserver.kubernetes.io/identity";
const KUBE_APISERVER: &str = "kube-apiserver";

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct StorageVersionGc;

/// Whether a server is there, or the read that has to tell.
type IsThere = Result<bool, Box<Fetch>>;

/// What it sees of a StorageVersion.
#[derive(Debug)]
pub struct Observed {
    object: Arc<Value>,
    /// The servers that it tells of.
    servers: Vec<IsThere>,
}

fn storage_versions() -> Resource {
    Resource::built_in("internal.apiserver.k8s.io", "storageversions")
}

fn is_identity(lease: &Value) -> bool {
    lease.str_at(&["metadata", "labels", IDENTITY]) == KUBE_APISERVER
}

/// Whether a server is there; the cache may not know a new one yet.
fn is_there(snapshot: &Snapshot, identity: &str) -> IsThere {
    let key = ObjectKey::new(NAMESPACE, identity);
    if snapshot.store::<Lease>().get(&key).is_some_and(|it| is_identity(&it.value())) {
        return Ok(true);
    }
    let fetch = Fetch::read(Resource::of::<Lease>(), key);
    match snapshot.fetched(&fetch) {
        Some(found) => Ok(found.is_some_and(is_identity)),
        None => Err(Box::new(fetch)),
    }
}

/// What a server told of that went.
fn of_gone(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let gone = change.old.as_ref().filter(|it| change.new.is_none() && is_identity(&it.value()));
    let Some(gone) = gone.filter(|it| it.key.namespace == NAMESPACE) else { return Vec::new() };
    let all = snapshot.store_for(&storage_versions()).list("").into_iter();
    all.filter(|it| it.mentions(&gone.key.name)).map(|it| it.key.clone()).collect()
}

impl Controller for StorageVersionGc {
    const NAME: &'static str = "storageversion-garbage-collector-controller";
    const ACCOUNT: &'static str = "storage-version-garbage-collector";
    const QUEUE: &'static str = "storage_version_garbage_collector_storageversions";
    /// A StorageVersion.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.on_resource(storage_versions(), |change, _| vec![change.key()]).on::<Lease>(of_gone)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let object = snapshot.store_for(&storage_versions()).get(key)?.value();
        let servers = object.items_at(&["status", "storageVersions"]).iter();
        let servers = servers.map(|it| is_there(snapshot, it.str_at(&["apiServerID"]))).collect();
        Some(Observed { object, servers })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let reads = observed.servers.iter().filter_map(|it| it.as_ref().err());
        plan.fetches = reads.map(|it| Fetch::clone(it)).collect();
        let gone = |it: &IsThere| matches!(it, Ok(false));
        if !plan.fetches.is_empty() || !observed.servers.iter().any(gone) {
            return plan;
        }
        let told = observed.object.items_at(&["status", "storageVersions"]).iter();
        let left = told.zip(&observed.servers).filter(|(_, it)| !gone(it));
        let left: Vec<Value> = left.map(|(told, _)| told.clone()).collect();
        if left.is_empty() {
            plan.act(owner::delete_value(storage_versions(), &observed.object));
            return plan;
        }
        let mut object = Value::clone(&observed.object);
        object.set_at(&["status", "storageVersions"], left);
        registry::tell_common_encoding(&mut object, now);
        plan.act(Action::Update { resource: storage_versions(), subresource: "status", object });
        plan
    }
}
