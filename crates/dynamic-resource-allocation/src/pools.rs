//! Pools of devices as a node sees them. Upstream: `structured/internal/*/pools_*.go`.
//!
//! A pool counts in its newest edition, and only once every slice of that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use compact_str::CompactString;

use crate::slice::{Counters, Device, Node, Slice, doubled};

/// A pool: its driver and its name.
type PoolId = (CompactString, CompactString);

/// All slices there are.
#[derive(Debug, Clone, Default)]
pub struct Slices {
    by_name: BTreeMap<CompactString, Arc<Slice>>,
    pools: BTreeMap<PoolId, BTreeMap<CompactString, Arc<Slice>>>,
    /// The pools with slices for one node, by node.
    local: BTreeMap<CompactString, BTreeMap<PoolId, usize>>,
    /// The pools with other slices.
    shared: BTreeMap<PoolId, usize>,
    edition: u64,
}

fn pool_of(slice: &Slice) -> PoolId {
    (slice.driver.clone(), slice.pool.clone())
}

impl Slices {
    /// Sets or forgets a slice.
    pub fn set(&mut self, name: &str, slice: Option<Arc<Slice>>) {
        self.edition += 1;
        if let Some(old) = self.by_name.remove(name) {
            self.forget(&old);
        }
        let Some(slice) = slice else { return };
        let pool = pool_of(&slice);
        let places = match &slice.place {
            crate::slice::Place::Node(node) => self.local.entry(node.clone()).or_default(),
            _ => &mut self.shared,
        };
        *places.entry(pool.clone()).or_default() += 1;
        self.pools.entry(pool).or_default().insert(name.into(), Arc::clone(&slice));
        self.by_name.insert(name.into(), slice);
    }

    fn forget(&mut self, slice: &Slice) {
        let pool = pool_of(slice);
        if let Some(slices) = self.pools.get_mut(&pool) {
            slices.remove(&slice.name);
            if slices.is_empty() {
                self.pools.remove(&pool);
            }
        }
        let lower = |places: &mut BTreeMap<PoolId, usize>| {
            if let Some(count) = places.get_mut(&pool) {
                *count -= 1;
                if *count == 0 {
                    places.remove(&pool);
                }
            }
        };
        match &slice.place {
            crate::slice::Place::Node(node) => {
                if let Some(places) = self.local.get_mut(node) {
                    lower(places);
                    if places.is_empty() {
                        self.local.remove(node);
                    }
                }
            }
            _ => lower(&mut self.shared),
        }
    }

    /// Every slice, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Slice>> {
        self.by_name.values()
    }

    /// The slices of a pool, by name.
    pub fn pool(&self, driver: &str, pool: &str) -> impl Iterator<Item = &Arc<Slice>> {
        let slices = self.pools.get(&(CompactString::from(driver), CompactString::from(pool)));
        slices.into_iter().flat_map(BTreeMap::values)
    }

    /// Another number after each change.
    #[must_use]
    pub fn edition(&self) -> u64 {
        self.edition
    }

    /// The names of the pools that a node reaches, where all slices are for one node each: then what the node reaches follows
    /// from its name.
    #[must_use]
    pub fn only_local(&self, node: &str) -> Option<impl Iterator<Item = &CompactString>> {
        let of_node = self.local.get(node).filter(|_| self.shared.is_empty())?;
        Some(of_node.keys().map(|(_, pool)| pool))
    }

    /// The pools that a node reaches: those without binding conditions first, then by driver and name, with their slices by
    /// name.
    #[must_use]
    pub fn gather(&self, node: Node<'_>) -> Vec<Pool<'_>> {
        let local = self.local.get(node.name).into_iter().flat_map(BTreeMap::keys);
        let ids: BTreeSet<&PoolId> = local.chain(self.shared.keys()).collect();
        let pools = ids.into_iter().filter_map(|id| {
            let slices = self.pools.get(id)?;
            Pool::of(id, slices.values().map(Arc::as_ref), node)
        });
        let (simple, bound): (Vec<_>, Vec<_>) = pools.partition(|it| !it.has_binding_conditions());
        simple.into_iter().chain(bound).collect()
    }
}

/// A pool as a node sees it.
#[derive(Debug, Clone)]
pub struct Pool<'s> {
    /// Its driver.
    pub driver: &'s str,
    /// Its name.
    pub name: &'s str,
    /// Whether devices can be had of it.
    pub state: PoolState,
    /// The slices with devices that the node reaches.
    pub slices: Vec<&'s Slice>,
    /// The other slices of this edition.
    pub elsewhere: Vec<&'s Slice>,
    /// What its devices use up together.
    pub counters: BTreeMap<&'s str, &'s Counters>,
}

/// Whether devices can be had of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolState {
    /// They can.
    Usable,
    /// Its driver has not written all of it.
    Incomplete,
    /// Its driver has written what cannot be.
    Invalid(String),
}

impl<'s> Pool<'s> {
    fn of(
        (driver, name): &'s PoolId,
        slices: impl Iterator<Item = &'s Slice> + Clone,
        node: Node<'_>,
    ) -> Option<Self> {
        // What is used up together counts wherever it is.
        let reached = slices.clone().filter(|it| !it.counters.is_empty() || it.reaches(node));
        let generation = reached.map(|it| it.generation).max()?;
        if slices.clone().any(|it| it.generation > generation) {
            // It is being replaced by one that this node does not reach.
            return None;
        }
        let current = slices.filter(|it| it.generation == generation);
        let here = |it: &&Slice| !it.counters.is_empty() || it.reaches(node);
        let (here, elsewhere): (Vec<_>, Vec<_>) = current.partition(here);
        let mut pool = Self {
            driver,
            name,
            state: PoolState::Usable,
            slices: Vec::new(),
            elsewhere: Vec::new(),
            counters: BTreeMap::new(),
        };
        let count = i64::try_from(here.len() + elsewhere.len()).unwrap_or(i64::MAX);
        if here.first().is_none_or(|it| it.slice_count != count) {
            pool.state = PoolState::Incomplete;
            return Some(pool);
        }
        let (sets, devices): (Vec<_>, Vec<_>) =
            here.into_iter().partition(|it| !it.counters.is_empty());
        pool.slices = devices;
        pool.elsewhere = elsewhere;
        if let Err(why) = pool.complete(&sets) {
            pool.state = PoolState::Invalid(why);
            pool.slices.clear();
            pool.elsewhere.clear();
        }
        Some(pool)
    }

    /// Takes in the counters, and checks what is there.
    fn complete(&mut self, sets: &[&'s Slice]) -> Result<(), String> {
        // One slice knows that of itself.
        let name = match self.slices.as_slice() {
            [slice] => slice.doubled.clone(),
            slices => doubled(slices.iter().flat_map(|it| &it.devices)),
        };
        if let Some(name) = name {
            return Err(format!("duplicate device name {name}"));
        }
        for counters in sets.iter().flat_map(|it| &it.counters) {
            if self.counters.insert(&counters.set, counters).is_some() {
                return Err(format!("duplicate counter set name {}", counters.set));
            }
        }
        let consuming = self.slices.iter().chain(&self.elsewhere).filter(|it| it.consumes);
        let devices = consuming.flat_map(|it| &it.devices);
        for used in devices.flat_map(|it| &it.consumes) {
            let set = self.counters.get(used.set.as_str());
            let set = set.ok_or_else(|| format!("counter set {} not found", used.set))?;
            if let Some(name) = used.amounts.keys().find(|it| !set.amounts.contains_key(*it)) {
                return Err(format!("counter {name} not found in counter set {}", used.set));
            }
        }
        Ok(())
    }

    fn has_binding_conditions(&self) -> bool {
        self.slices.iter().any(|it| it.binds)
    }

    /// All its devices, wherever they are reached from.
    pub(crate) fn all_devices(&self) -> impl Iterator<Item = &'s Device> {
        let slices = self.slices.iter().chain(&self.elsewhere).copied();
        slices.flat_map(|it| &it.devices)
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::{Value, value};

    use super::*;

    struct Zone;

    impl crate::slice::Labels for Zone {
        fn value(&self, key: &str) -> Option<&str> {
            (key == "zone").then_some("a")
        }
    }

    fn slice(name: &str, pool: &str, numbers: [i64; 2], place: &Value, devices: &[&str]) -> Value {
        let [generation, count] = numbers;
        let devices: Vec<Value> = devices.iter().map(|it| value!({"name": (*it)})).collect();
        let mut spec = value!({"driver": "d", "pool": {"name": pool, "generation": generation, "resourceSliceCount": count}});
        spec.set_at(&["devices"], Value::Array(devices));
        for (member, it) in place.as_object().unwrap().iter() {
            spec.set_at(&[member], it.clone());
        }
        value!({"metadata": {"name": name}, "spec": spec})
    }

    fn check(slices: &[Value], expected: &[&str]) {
        let mut all = Slices::default();
        for value in slices {
            let slice = Slice::from_value(value);
            all.set(&slice.name.clone(), Some(Arc::new(slice)));
        }
        let pools = all.gather(Node { name: "n1", labels: &Zone });
        let told: Vec<String> = pools
            .iter()
            .map(|pool| {
                let devices = pool.slices.iter().flat_map(|it| &it.devices);
                let devices: Vec<&str> = devices.map(|it| it.id.device.as_str()).collect();
                match &pool.state {
                    PoolState::Usable => format!("{}: {}", pool.name, devices.join(" ")),
                    PoolState::Incomplete => format!("{}: incomplete", pool.name),
                    PoolState::Invalid(why) => format!("{}: {why}", pool.name),
                }
            })
            .collect();
        assert_eq!(told, expected);
        for value in slices {
            all.set(value.str_at(&["metadata", "name"]), None);
        }
        assert!(all.pools.is_empty() && all.local.is_empty() && all.shared.is_empty());
    }

    #[test]
    fn a_node_sees_the_pools_that_it_reaches() {
        let (here, there) = (value!({"nodeName": "n1"}), value!({"nodeName": "n2"}));
        let zone = |zone: &str| value!({"nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}]}});
        check(
            &[
                slice("s1", "p3", [1, 1], &here, &["a"]),
                slice("s2", "p2", [1, 1], &there, &["a"]),
                slice("s3", "p1", [1, 1], &value!({"allNodes": true}), &["a", "b"]),
                slice("s4", "p4", [1, 1], &zone("a"), &["a"]),
                slice("s5", "p5", [1, 1], &zone("b"), &["a"]),
            ],
            &["p1: a b", "p3: a", "p4: a"],
        );
    }

    #[test]
    fn a_pool_counts_when_its_newest_edition_is_whole() {
        let (here, there) = (value!({"nodeName": "n1"}), value!({"nodeName": "n2"}));
        check(&[slice("s1", "p", [1, 2], &here, &["a"])], &["p: incomplete"]);
        check(
            &[slice("s2", "p", [1, 2], &here, &["b"]), slice("s1", "p", [1, 2], &here, &["a"])],
            &["p: a b"],
        );
        check(
            &[slice("s1", "p", [1, 2], &here, &["a"]), slice("s2", "p", [1, 2], &there, &["b"])],
            &["p: a"],
        );
        check(
            &[slice("s1", "p", [1, 1], &here, &["a"]), slice("s2", "p", [2, 1], &here, &["b"])],
            &["p: b"],
        );
        check(
            &[slice("s1", "p", [1, 1], &here, &["a"]), slice("s2", "p", [2, 1], &there, &["b"])],
            &[],
        );
        check(
            &[slice("s1", "p", [1, 2], &here, &["a"]), slice("s2", "p", [1, 2], &here, &["a"])],
            &["p: duplicate device name a"],
        );
    }

    #[test]
    fn pools_with_binding_conditions_come_last() {
        let here = value!({"nodeName": "n1"});
        let mut bound = slice("s1", "p1", [1, 1], &here, &["a"]);
        let device = value!({"name": "a", "bindingConditions": ["Ready"]});
        bound.set_at(&["spec", "devices"], Value::Array(vec![device]));
        check(&[bound, slice("s2", "p2", [1, 1], &here, &["b"])], &["p2: b", "p1: a"]);
    }
}
