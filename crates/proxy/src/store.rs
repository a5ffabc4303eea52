//! What the proxy remembers: Services, their slices, what was resolved from them, and who has which front.

use std::collections::{BTreeMap, BTreeSet};

use compact_str::CompactString;
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;
use sys::nftables::Family;

use crate::encode::FIRST_KIND;
use crate::endpoints::SliceSpec;
use crate::error::Problem;
use crate::resolve::{ResolvedPort, resolve};
use crate::rules::{ChainSpec, Entry, Facts, Target, Value, rules};
use crate::service::{Front, ServiceKey, ServiceSpec};

type Map<K, V> = HashMap<K, V, FxBuildHasher>;

/// What is known of one Service.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// As it was told last.
    told: Option<Box<ServiceSpec>>,
    /// Its slices, by name.
    slices: Vec<(CompactString, SliceSpec)>,
    /// What the rules in the kernel follow from.
    pub(crate) installed: Option<Installed>,
}

/// What rules follow from.
#[derive(Debug)]
pub(crate) struct Installed {
    pub(crate) spec: Box<ServiceSpec>,
    pub(crate) ports: Box<[ResolvedPort]>,
}

impl Installed {
    pub(crate) fn rules(&self, facts: Facts<'_>) -> Vec<(Entry, Value)> {
        rules(&self.spec, &self.ports, facts)
    }
}

/// Every Service, and what they share.
#[derive(Debug, Default)]
pub(crate) struct Store {
    services: BTreeMap<ServiceKey, Known>,
    /// Which Service a slice belongs to, by its own name.
    slices: BTreeMap<ServiceKey, ServiceKey>,
    pub(crate) dirty: BTreeSet<ServiceKey>,
    unsupported: BTreeMap<ServiceKey, Vec<String>>,
    owners: Map<Front, ServiceKey>,
    /// Who would like a front that another has.
    waiting: BTreeMap<Front, BTreeSet<ServiceKey>>,
    next_id: u32,
    free_ids: Vec<u32>,
}

impl Store {
    /// What Services ask for that they do not get.
    pub(crate) fn problems(&self) -> impl Iterator<Item = Problem> {
        let problem = |service: &ServiceKey, reason| Problem { service: service.clone(), reason };
        let unsupported = self.unsupported.iter();
        let unsupported =
            unsupported.flat_map(|(key, reasons)| reasons.iter().map(move |r| (key, r)));
        let waiting = self.waiting.iter();
        let waiting = waiting.flat_map(|(front, keys)| keys.iter().map(move |key| (key, front)));
        unsupported.map(move |(key, reason)| problem(key, reason.clone())).chain(waiting.map(
            move |(key, front)| {
                let owner = self.owners.get(front).map(ToString::to_string).unwrap_or_default();
                problem(key, format!("{front} is not served: service {owner} has it"))
            },
        ))
    }

    pub(crate) fn len(&self) -> usize {
        self.services.len()
    }

    pub(crate) fn service_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.services.iter().filter(|(_, known)| known.told.is_some()).map(|(key, _)| key)
    }

    pub(crate) fn slice_keys(&self) -> impl Iterator<Item = &ServiceKey> {
        self.slices.keys()
    }

    /// Takes what a Service is now; `None` where it is gone or has no rules.
    /// What it asks for that nobody gets is in `unsupported`.
    pub(crate) fn tell_service(
        &mut self,
        key: ServiceKey,
        spec: Option<ServiceSpec>,
        unsupported: Vec<String>,
    ) {
        if unsupported.is_empty() {
            self.unsupported.remove(&key);
        } else {
            self.unsupported.insert(key.clone(), unsupported);
        }
        if let Some(known) = self.services.get(&key) {
            if known.told.as_deref() == spec.as_ref() {
                return;
            }
        } else if spec.is_none() {
            return;
        }
        self.services.entry(key.clone()).or_default().told = spec.map(Box::new);
        self.dirty.insert(key);
    }

    /// Takes what a slice is now; `None` where it is gone or not for this proxy.
    pub(crate) fn tell_slice(&mut self, slice: &ServiceKey, told: Option<(ServiceKey, SliceSpec)>) {
        let owner = told.as_ref().map(|(service, _)| service);
        if let Some(old) = self.slices.get(slice).filter(|old| Some(*old) != owner).cloned() {
            self.slices.remove(slice);
            if let Some(known) = self.services.get_mut(&old) {
                known.slices.retain(|(name, _)| *name != slice.name);
            }
            self.dirty.insert(old);
        }
        let Some((service, spec)) = told else { return };
        let known = self.services.entry(service.clone()).or_default();
        match known.slices.iter_mut().find(|(name, _)| *name == slice.name) {
            Some((_, old)) if *old == spec => return,
            Some((_, old)) => *old = spec,
            None => {
                known.slices.push((slice.name.clone(), spec));
                self.slices.insert(slice.clone(), service.clone());
            }
        }
        self.dirty.insert(service);
    }

    /// Resolves a Service anew: what was installed, and what is to be. `None` where neither has rules.
    pub(crate) fn renew(&mut self, key: &ServiceKey) -> (Option<Installed>, Option<Installed>) {
        let Some(known) = self.services.get_mut(key) else { return (None, None) };
        let old = known.installed.take();
        let Some(told) = &known.told else { return (old, None) };
        let mut spec = told.clone();
        let owners = &self.owners;
        let has = |front: &Front| owners.get(front).is_none_or(|owner| owner == key);
        spec.lost = told.fronts().filter(|front| !has(front)).collect();
        let previous = old.as_ref().map(|old| &*old.ports).unwrap_or_default();
        let (free, next) = (&mut self.free_ids, &mut self.next_id);
        let new_id = || {
            free.pop().unwrap_or_else(|| {
                *next += 1;
                *next
            })
        };
        let slices: Vec<_> = known.slices.iter().map(|(_, slice)| slice).collect();
        let ports = resolve(&spec, &slices, previous, new_id);
        (old, Some(Installed { spec, ports }))
    }

    /// Notes what is installed now, and forgets a Service of which nothing is left.
    pub(crate) fn settle(
        &mut self,
        key: &ServiceKey,
        old: Option<&Installed>,
        new: Option<Installed>,
    ) {
        let ids = |ports: &[ResolvedPort]| ports.iter().map(|port| port.id).collect::<Vec<_>>();
        let kept = new.as_ref().map(|new| ids(&new.ports)).unwrap_or_default();
        let had = old.map(|old| ids(&old.ports)).unwrap_or_default();
        self.free_ids.extend(had.into_iter().filter(|id| !kept.contains(id)));
        let Some(known) = self.services.get_mut(key) else { return };
        known.installed = new;
        if known.told.is_none() && known.slices.is_empty() {
            self.services.remove(key);
        }
    }

    /// Takes a refused change back: the kernel still has what it had.
    pub(crate) fn restore(&mut self, key: &ServiceKey, old: Option<Installed>) {
        if let Some(known) = self.services.get_mut(key) {
            known.installed = old;
        }
    }

    pub(crate) fn installed(&self) -> impl Iterator<Item = &Installed> {
        self.services.values().filter_map(|known| known.installed.as_ref())
    }

    /// Forgets who has which front, so that all are decided anew.
    pub(crate) fn reset_fronts(&mut self) {
        self.owners.clear();
        self.waiting.clear();
        self.dirty.extend(self.services.keys().cloned());
    }

    /// Decides who has which front, for all Services that are dirty; more may become so. A front stays with who has
    /// it; one that becomes free goes to the first by name of those who wait for it.
    pub(crate) fn settle_fronts(&mut self) {
        let dirty: Vec<_> = self.dirty.iter().cloned().collect();
        for key in &dirty {
            self.release(key);
        }
        // Those that wait for what was released are dirty now, and take part.
        let dirty: Vec<_> = self.dirty.iter().cloned().collect();
        for key in &dirty {
            self.claim(key);
        }
    }

    fn release(&mut self, key: &ServiceKey) {
        let Some(known) = self.services.get(key) else { return };
        let wanted: BTreeSet<_> = known.told.iter().flat_map(|told| told.fronts()).collect();
        let had = known.installed.iter().flat_map(|installed| installed.spec.fronts());
        for front in had.filter(|front| !wanted.contains(front)) {
            if self.owners.get(&front) == Some(key) {
                self.owners.remove(&front);
                self.dirty.extend(self.waiting.remove(&front).into_iter().flatten());
            } else if let Some(waiting) = self.waiting.get_mut(&front) {
                waiting.remove(key);
                if waiting.is_empty() {
                    self.waiting.remove(&front);
                }
            }
        }
    }

    fn claim(&mut self, key: &ServiceKey) {
        let told = self.services.get(key).and_then(|known| known.told.as_ref());
        let Some(told) = told else { return };
        for front in told.fronts() {
            let owner = self.owners.entry(front).or_insert_with(|| key.clone());
            if owner != key {
                self.waiting.entry(front).or_default().insert(key.clone());
            }
        }
    }
}

/// A chain that translates, with the number of the kind of fronts that lead to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NumberedChain {
    pub(crate) family: Family,
    pub(crate) chain: ChainSpec,
    pub(crate) kind: u32,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    users: u32,
    kind: u32,
}

/// What several Services use at once, counted: chains and shared entries.
#[derive(Debug)]
pub(crate) struct Shared {
    entries: Map<Entry, u32>,
    chains: Map<(Family, ChainSpec), Counted>,
    next_kind: u32,
}

impl Default for Shared {
    fn default() -> Self {
        Self { entries: Map::default(), chains: Map::default(), next_kind: FIRST_KIND }
    }
}

/// Chains that come and go.
#[derive(Debug, Default)]
pub(crate) struct Comings {
    pub(crate) added: Vec<NumberedChain>,
    pub(crate) deleted: Vec<NumberedChain>,
}

impl Shared {
    /// The kind of fronts that lead to a chain which is in use.
    pub(crate) fn kind(&self, family: Family, chain: ChainSpec) -> u32 {
        self.chains.get(&(family, chain)).map_or(0, |counted| counted.kind)
    }

    /// Counts entries that come and go; leaves in the lists what really does.
    pub(crate) fn count(
        &mut self,
        delete: &mut Vec<(Entry, Value)>,
        add: &mut Vec<(Entry, Value)>,
    ) -> Comings {
        let comings = self.count_chains(delete, add);
        self.count_entries(delete, add);
        comings
    }

    fn count_chains(&mut self, delete: &[(Entry, Value)], add: &[(Entry, Value)]) -> Comings {
        let mut comings = Comings::default();
        for (family, chain) in add.iter().filter_map(chain_of) {
            let next_kind = &mut self.next_kind;
            let counted = self.chains.entry((family, chain)).or_insert_with(|| {
                let kind = *next_kind;
                *next_kind += 1;
                comings.added.push(NumberedChain { family, chain, kind });
                Counted { users: 0, kind }
            });
            counted.users += 1;
        }
        for (family, chain) in delete.iter().filter_map(chain_of) {
            let Some(counted) = self.chains.get_mut(&(family, chain)) else { continue };
            counted.users -= 1;
            if counted.users == 0 {
                comings.deleted.push(NumberedChain { family, chain, kind: counted.kind });
                self.chains.remove(&(family, chain));
            }
        }
        comings
    }

    fn count_entries(&mut self, delete: &mut Vec<(Entry, Value)>, add: &mut Vec<(Entry, Value)>) {
        let touched: BTreeMap<Entry, bool> = delete
            .iter()
            .chain(add.iter())
            .filter(|(entry, _)| entry.is_shared())
            .map(|(entry, _)| (*entry, self.entries.contains_key(entry)))
            .collect();
        for (entry, _) in add.iter().filter(|(entry, _)| entry.is_shared()) {
            *self.entries.entry(*entry).or_default() += 1;
        }
        for (entry, _) in delete.iter().filter(|(entry, _)| entry.is_shared()) {
            let Some(users) = self.entries.get_mut(entry) else { continue };
            *users -= 1;
            if *users == 0 {
                self.entries.remove(entry);
            }
        }
        delete.retain(|(entry, _)| !entry.is_shared());
        add.retain(|(entry, _)| !entry.is_shared());
        for (entry, was) in touched {
            match (was, self.entries.contains_key(&entry)) {
                (false, true) => add.push((entry, Value::None)),
                (true, false) => delete.push((entry, Value::None)),
                _ => {}
            }
        }
    }
}

fn chain_of((entry, value): &(Entry, Value)) -> Option<(Family, ChainSpec)> {
    let family = if entry.is_v6() { Family::Ip6 } else { Family::Ip };
    match value.target()? {
        Target::Chain(chain) => Some((family, chain)),
        Target::ExternalLocal { .. } | Target::Reject | Target::Drop => None,
    }
}
