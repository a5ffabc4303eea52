//! The index: told of objects one by one, read by many.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use compact_str::CompactString;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;

use crate::records::{Kind, Records, ServiceSpec, SliceSpec};
use crate::sharded::Sharded;
use crate::zone::{Zone, key};

/// What is known of one Service, whichever of it was told first.
#[derive(Debug, Default)]
struct Known {
    service: Option<ServiceSpec>,
    slices: BTreeMap<CompactString, SliceSpec>,
}

#[derive(Debug, Default)]
struct Told {
    known: BTreeMap<CompactString, Known>,
    /// Which Service a slice belongs to.
    owners: BTreeMap<CompactString, CompactString>,
    /// Names of addresses, those of services before those of endpoints.
    names: BTreeMap<IpAddr, BTreeSet<(bool, CompactString)>>,
}

/// Names and addresses of the cluster.
#[derive(Debug)]
pub struct Index {
    pub(crate) zone: Zone,
    pub(crate) ttl: u32,
    /// The addresses of the name server itself.
    pub(crate) service_ips: Vec<IpAddr>,
    told: Mutex<Told>,
    services: Sharded<CompactString, Arc<Records>>,
    names: Sharded<IpAddr, Arc<[CompactString]>>,
    namespaces: Sharded<CompactString, ()>,
    pub(crate) turn: AtomicUsize,
}

impl Index {
    /// CoreDNS's default.
    pub const TTL: u32 = 5;

    /// An index of nothing. `service_ips` are the addresses of the `kube-dns` Service.
    #[must_use]
    pub fn new(zone: Zone, ttl: u32, service_ips: Vec<IpAddr>) -> Self {
        Self {
            zone,
            ttl,
            service_ips,
            told: Mutex::default(),
            services: Sharded::default(),
            names: Sharded::default(),
            namespaces: Sharded::default(),
            turn: AtomicUsize::new(0),
        }
    }

    pub(crate) fn service(&self, key: &str) -> Option<Arc<Records>> {
        self.services.get(key)
    }

    pub(crate) fn names(&self, ip: IpAddr) -> Option<Arc<[CompactString]>> {
        self.names.get(&ip)
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some()
    }

    /// Takes a namespace that is new or changed.
    pub fn apply_namespace(&self, namespace: &Namespace) {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        self.namespaces.set(name.into(), Some(()));
    }

    /// Takes that a namespace is gone.
    pub fn delete_namespace(&self, name: &str) {
        self.namespaces.set(name.into(), None);
    }

    /// Takes a Service that is new or changed.
    pub fn apply_service(&self, service: &Service) {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        self.tell_service(&key(name, namespace), ServiceSpec::project(service));
    }

    /// Takes that a Service is gone.
    pub fn delete_service(&self, namespace: &str, name: &str) {
        self.tell_service(&key(name, namespace), None);
    }

    /// Takes a slice that is new or changed.
    pub fn apply_slice(&self, slice: &EndpointSlice) {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        self.tell_slice(&key(name, namespace), SliceSpec::project(slice));
    }

    /// Takes that a slice is gone.
    pub fn delete_slice(&self, namespace: &str, name: &str) {
        self.tell_slice(&key(name, namespace), None);
    }

    fn tell_service(&self, key: &CompactString, spec: Option<ServiceSpec>) {
        let mut told = self.told.lock();
        if spec.is_none() && !told.known.contains_key(key) {
            return;
        }
        let known = told.known.entry(key.clone()).or_default();
        if known.service != spec {
            known.service = spec;
            self.publish(&mut told, key);
        }
    }

    fn tell_slice(&self, slice: &CompactString, spec: Option<(CompactString, SliceSpec)>) {
        let mut told = self.told.lock();
        let owner = spec.as_ref().map(|(owner, _)| owner);
        if let Some(old) = told.owners.get(slice).filter(|old| Some(*old) != owner).cloned() {
            told.owners.remove(slice);
            if let Some(known) = told.known.get_mut(&old) {
                known.slices.remove(slice);
            }
            self.publish(&mut told, &old);
        }
        let Some((owner, spec)) = spec else { return };
        let known = told.known.entry(owner.clone()).or_default();
        if known.slices.get(slice) != Some(&spec) {
            known.slices.insert(slice.clone(), spec);
            told.owners.insert(slice.clone(), owner.clone());
            self.publish(&mut told, &owner);
        }
    }

    /// Makes what is known of a Service what readers see.
    fn publish(&self, told: &mut Told, key: &CompactString) {
        let old = self.services.get(key);
        let known = told.known.get(key);
        let new = known.and_then(|known| {
            let slices = known.slices.values().cloned().collect();
            Some(Arc::new(Records { service: known.service.clone()?, slices }))
        });
        if known.is_some_and(|known| known.service.is_none() && known.slices.is_empty()) {
            told.known.remove(key);
        }
        let names = |records: &Option<Arc<Records>>| {
            records.as_deref().map_or_else(BTreeSet::new, |r| names(key, r))
        };
        let (before, after) = (names(&old), names(&new));
        self.services.set(key.clone(), new);
        for (ip, name) in before.difference(&after) {
            self.change_name(told, *ip, |names| names.remove(name));
        }
        for (ip, name) in after.difference(&before) {
            self.change_name(told, *ip, |names| names.insert(name.clone()));
        }
    }

    fn change_name(
        &self,
        told: &mut Told,
        ip: IpAddr,
        change: impl FnOnce(&mut BTreeSet<(bool, CompactString)>) -> bool,
    ) {
        let names = told.names.entry(ip).or_default();
        change(names);
        let list: Arc<[CompactString]> = names.iter().map(|(_, name)| name.clone()).collect();
        if list.is_empty() {
            told.names.remove(&ip);
        }
        self.names.set(ip, (!list.is_empty()).then_some(list));
    }
}

type Named = (IpAddr, (bool, CompactString));

/// Names that addresses lead back to, below `svc` of the zone: of services their addresses', of endpoints those that
/// have a name of their own.
fn names(key: &CompactString, records: &Records) -> BTreeSet<Named> {
    let mut names = BTreeSet::new();
    if let Kind::ClusterIp(ips) = &records.service.kind {
        names.extend(ips.iter().map(|ip| (*ip, (false, key.clone()))));
    }
    let endpoints = records.slices.iter().flat_map(|slice| &slice.endpoints);
    names.extend(endpoints.filter(|endpoint| endpoint.named).map(|endpoint| {
        let mut name = endpoint.hostname.clone();
        name.push('.');
        name.push_str(key);
        (endpoint.ip, (true, name))
    }));
    names
}
