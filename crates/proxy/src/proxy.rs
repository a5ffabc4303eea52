//! The proxy as others call it: told of Services and EndpointSlices, one by one or all at once; changes the kernel's
//! rules when asked to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use sys::netlink::Netns;
use sys::nftables::{Batch, Conntrack, Family, Nftables};

use crate::conntrack::{self, UdpFronts};
use crate::diff::{Transaction, diff};
use crate::encode::{self, Direction};
use crate::endpoints::{Place, SliceSpec};
use crate::error::{Problem, ProxyError};
use crate::layout::{IP, IP6};
use crate::rules::Facts;
use crate::service::{ServiceKey, ServiceSpec};
use crate::skeleton;
use crate::store::{Comings, Installed, NumberedChain, Shared, Store};

/// Which of the node's addresses node ports are served on. Loopback is none of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NodePortAddresses {
    /// Every address of the node, also those it gets later.
    #[default]
    All,
    /// These.
    These(Vec<IpAddr>),
}

/// What the proxy is told about its node and cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's network namespace.
    pub namespace: Netns,
    /// The node's name.
    pub node_name: String,
    /// The node's own addresses.
    pub node_ips: Vec<IpAddr>,
    /// The families that there are rules for.
    pub families: Vec<Family>,
    /// The ranges of all pods: what comes from there is inside the cluster. None: everyone is.
    pub cluster_cidrs: Vec<IpNet>,
    /// The ranges of services: what is sent to an address there that nobody has is dropped.
    pub service_cidrs: Vec<IpNet>,
    /// Whether everything to cluster addresses is masqueraded (`--masquerade-all`).
    pub masquerade_all: bool,
    /// Where node ports are served (`--nodeport-addresses`).
    pub node_port_addresses: NodePortAddresses,
    /// The bit of the packet mark that stands for masquerade (`--iptables-masquerade-bit`); 0 to 31.
    pub masquerade_bit: u8,
}

impl Config {
    /// Upstream's default for the bit.
    pub const MASQUERADE_BIT: u8 = 14;

    pub(crate) fn masquerade_mark(&self) -> u32 {
        1_u32.checked_shl(u32::from(self.masquerade_bit)).unwrap_or(1 << Self::MASQUERADE_BIT)
    }

    fn facts(&self) -> Facts<'_> {
        Facts { node_ips: &self.node_ips, masquerade_all: self.masquerade_all }
    }
}

/// What an [`Proxy::apply`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// How many Services were looked at.
    pub services: usize,
    /// How many entries came.
    pub added: usize,
    /// How many entries went.
    pub deleted: usize,
    /// How many UDP connections were forgotten.
    pub forgotten: usize,
    /// Whether the whole rule set was replaced.
    pub replaced: bool,
}

/// The service proxy of one node.
#[derive(Debug)]
pub struct Proxy {
    config: Config,
    /// The node's zone, which slices may hint at.
    zone: String,
    nftables: Nftables,
    conntrack: Conntrack,
    store: Store,
    shared: Shared,
    /// Whether the kernel has our rules, as far as we know.
    installed: bool,
    /// UDP fronts whose connections are still to be looked at, after a failure.
    pending_udp: UdpFronts,
}

type Renewed = Vec<(ServiceKey, Option<Installed>, Option<Installed>)>;

impl Proxy {
    /// A proxy that knows of no Service yet. The kernel's rules, of an earlier process too, stay as they are until the
    /// first [`Proxy::apply`] replaces them in one step.
    ///
    /// # Errors
    /// When the namespace cannot be entered or a socket cannot be opened.
    pub fn new(config: Config) -> Result<Self, ProxyError> {
        let nftables = Nftables::open(&config.namespace).map_err(ProxyError::Open)?;
        let conntrack = Conntrack::open(&config.namespace).map_err(ProxyError::Open)?;
        Ok(Self {
            config,
            zone: String::new(),
            nftables,
            conntrack,
            store: Store::default(),
            shared: Shared::default(),
            installed: false,
            pending_udp: UdpFronts::new(),
        })
    }

    /// Takes all Services and slices there are; others are gone. Then applies.
    ///
    /// # Errors
    /// As [`Proxy::apply`].
    pub fn sync<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Result<Applied, ProxyError> {
        let mut gone: BTreeSet<_> = self.store.service_keys().cloned().collect();
        for service in services {
            gone.remove(&self.update_service(service));
        }
        for key in gone {
            self.delete_service(&key);
        }
        let mut gone: BTreeSet<_> = self.store.slice_keys().cloned().collect();
        for slice in slices {
            gone.remove(&self.update_slice(slice));
        }
        for key in gone {
            self.delete_slice(&key);
        }
        self.apply()
    }

    /// Takes a Service that is new or changed. Says by which key it is known.
    pub fn update_service(&mut self, service: &Service) -> ServiceKey {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
        let key = ServiceKey::new(namespace, name);
        let mut unsupported = Vec::new();
        let spec = ServiceSpec::project(service, |reason| unsupported.push(reason));
        self.store.tell_service(key.clone(), spec, unsupported);
        key
    }

    /// Takes that a Service is gone.
    pub fn delete_service(&mut self, key: &ServiceKey) {
        self.store.tell_service(key.clone(), None, Vec::new());
    }

    /// Takes a slice that is new or changed. Says by which key (its own namespace and name) it is known.
    pub fn update_slice(&mut self, slice: &EndpointSlice) -> ServiceKey {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
        let key = ServiceKey::new(namespace, name);
        let place = Place { node: &self.config.node_name, zone: &self.zone };
        self.store.tell_slice(&key, SliceSpec::project(slice, place));
        key
    }

    /// The name of the node that it is on.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.config.node_name
    }

    /// Takes the node's zone; empty is none. Where it is another one than before all slices are to be told again: says
    /// whether that is so.
    pub fn set_zone(&mut self, zone: &str) -> bool {
        let changed = self.zone != zone;
        zone.clone_into(&mut self.zone);
        changed
    }

    /// Takes that a slice, known by its own namespace and name, is gone.
    pub fn delete_slice(&mut self, key: &ServiceKey) {
        self.store.tell_slice(key, None);
    }

    /// What Services ask for that they do not get.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        self.store.problems()
    }

    /// How many Services there are, counting those of which only slices are known.
    #[must_use]
    pub fn services(&self) -> usize {
        self.store.len()
    }

    /// Whether there is something to apply.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.installed || !self.store.dirty.is_empty() || !self.pending_udp.is_empty()
    }

    /// Looks whether the kernel still has our tables; where somebody else removed one, the next [`Proxy::apply`] replaces
    /// everything. Says whether that is so.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn look(&mut self) -> Result<bool, ProxyError> {
        for family in &self.config.families {
            let table = if *family == Family::Ip6 { &IP6 } else { &IP };
            let tables = self.nftables.tables(*family).map_err(ProxyError::Look)?;
            self.installed &= tables.iter().any(|name| name == table.name);
        }
        Ok(!self.installed)
    }

    /// Makes the kernel's rules what the Services told since last time ask for, in one transaction.
    ///
    /// # Errors
    /// When the kernel refuses. Its rules are then as before, and the next call replaces them all: so it is after
    /// somebody else has removed them.
    pub fn apply(&mut self) -> Result<Applied, ProxyError> {
        if !self.installed {
            self.store.reset_fronts();
        }
        self.store.settle_fronts();
        let dirty = std::mem::take(&mut self.store.dirty);
        let renewed: Renewed = dirty
            .into_iter()
            .map(|key| {
                let (old, new) = self.store.renew(&key);
                (key, old, new)
            })
            .collect();
        let services = renewed.len();
        let applied = if self.installed { self.change(renewed)? } else { self.replace(renewed)? };
        let forgotten = self.forget_connections()?;
        Ok(Applied { services, forgotten, ..applied })
    }

    fn change(&mut self, renewed: Renewed) -> Result<Applied, ProxyError> {
        let mut transaction = Transaction::default();
        let facts = self.config.facts();
        for (_, old, new) in &renewed {
            let rules = |installed: &Option<Installed>| {
                installed.as_ref().map(|installed| installed.rules(facts)).unwrap_or_default()
            };
            let change = diff(&rules(old), &rules(new));
            transaction.delete.extend(change.delete);
            transaction.add.extend(change.add);
        }
        let comings = self.shared.count(&mut transaction.delete, &mut transaction.add);
        let batch = self.encode(Batch::new(), &transaction, &comings);
        if let Err(source) = self.nftables.apply(batch) {
            // What is counted is no longer what is installed: the next time everything is.
            self.installed = false;
            let services = renewed.len();
            for (key, old, _) in renewed {
                self.store.restore(&key, old);
                self.store.dirty.insert(key);
            }
            return Err(ProxyError::Change { services, source });
        }
        self.settle(renewed);
        let (added, deleted) = (transaction.add.len(), transaction.delete.len());
        Ok(Applied { added, deleted, ..Applied::default() })
    }

    fn replace(&mut self, renewed: Renewed) -> Result<Applied, ProxyError> {
        self.settle(renewed);
        self.shared = Shared::default();
        let facts = self.config.facts();
        let mut transaction = Transaction::default();
        transaction.add.extend(self.store.installed().flat_map(|one| one.rules(facts)));
        let comings = self.shared.count(&mut transaction.delete, &mut transaction.add);
        let mut batch = Batch::new();
        // A family that is not served any more leaves no rules behind.
        batch.remove_table(&IP);
        batch.remove_table(&IP6);
        for family in &self.config.families {
            skeleton::install(&mut batch, *family, &self.config);
        }
        let batch = self.encode(batch, &transaction, &comings);
        let services = self.store.len();
        let installed = self.nftables.apply(batch);
        installed.map_err(|source| ProxyError::Install { services, source })?;
        self.installed = true;
        Ok(Applied { added: transaction.add.len(), replaced: true, ..Applied::default() })
    }

    fn settle(&mut self, renewed: Renewed) {
        for (key, old, new) in renewed {
            conntrack::note(&mut self.pending_udp, old.as_ref(), new.as_ref());
            self.store.settle(&key, old.as_ref(), new);
        }
    }

    /// Chains come before what leads to them and go after it.
    fn encode(&self, mut batch: Batch, transaction: &Transaction, comings: &Comings) -> Batch {
        let families = &self.config.families;
        let served = |v6: bool| families.contains(if v6 { &Family::Ip6 } else { &Family::Ip });
        let mark = self.config.masquerade_mark();
        let numbered = |chain: &&NumberedChain| families.contains(&chain.family);
        for chain in comings.added.iter().filter(numbered) {
            encode::add_chain(&mut batch, chain, mark);
        }
        let served = |(entry, _): &&(crate::Entry, crate::Value)| served(entry.is_v6());
        let kind = |family, chain| self.shared.kind(family, chain);
        let (delete, add) = (transaction.delete.iter(), transaction.add.iter());
        encode::entries(&mut batch, Direction::Delete, delete.filter(served), kind);
        encode::entries(&mut batch, Direction::Add, add.filter(served), kind);
        for chain in comings.deleted.iter().filter(numbered) {
            encode::delete_chain(&mut batch, chain);
        }
        batch
    }

    fn forget_connections(&mut self) -> Result<usize, ProxyError> {
        let node_ips = &self.config.node_ips;
        let forgotten = conntrack::forget(&mut self.conntrack, &self.pending_udp, node_ips);
        let forgotten = forgotten.map_err(ProxyError::Conntrack)?;
        self.pending_udp.clear();
        Ok(forgotten)
    }

    /// Removes the rules from the kernel.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn uninstall(mut self) -> Result<(), ProxyError> {
        remove_tables(&mut self.nftables)
    }

    /// [`Self::uninstall`] for a proxy that no process runs any more.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the kernel refuses.
    pub fn remove(namespace: &Netns) -> Result<(), ProxyError> {
        remove_tables(&mut Nftables::open(namespace).map_err(ProxyError::Open)?)
    }
}

fn remove_tables(nftables: &mut Nftables) -> Result<(), ProxyError> {
    let mut batch = Batch::new();
    batch.remove_table(&IP);
    batch.remove_table(&IP6);
    nftables.apply(batch).map_err(ProxyError::Uninstall)
}
