//! Which devices are taken, and how much of those that several may have.
//!
//! Counts, so that what is given back by one who shares a device stays taken for the others.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use compact_str::{CompactString, format_compact};

use crate::claim::{Allocation, Given};
use crate::slice::DeviceId;

/// Amounts by the whole names of what they are amounts of.
pub type Amounts = BTreeMap<CompactString, Quantity>;

#[derive(Debug, Clone, Default, PartialEq)]
struct Use {
    /// How many have it for themselves alone.
    alone: usize,
    /// How many share it.
    sharing: usize,
    /// How much they have together.
    consumed: Amounts,
}

/// What is taken of all devices.
#[derive(Debug, Clone, Default)]
pub struct Allocated {
    /// By pool, driver and device, so that a pool is looked for once for all of its devices.
    taken: BTreeMap<CompactString, BTreeMap<CompactString, Uses>>,
    /// How many changes there were when something of a pool was last taken or given back.
    changed: BTreeMap<CompactString, u64>,
    changes: u64,
}

type Uses = BTreeMap<CompactString, Use>;

/// What is taken of the devices of a pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OfPool<'a>(Option<&'a Uses>);

impl OfPool<'_> {
    /// Whether somebody has a device alone.
    pub(crate) fn is_taken(self, device: &str) -> bool {
        self.0.and_then(|it| it.get(device)).is_some_and(|it| it.alone > 0)
    }
}

impl Allocated {
    /// Takes what was given.
    pub fn take(&mut self, allocation: &Allocation) {
        for given in allocation.devices.iter().filter(|it| !it.admin) {
            self.touch(&given.id.pool);
            let DeviceId { driver, pool, device } = given.id.clone();
            let uses = self.taken.entry(pool).or_default().entry(driver).or_default();
            let used = uses.entry(device).or_default();
            if given.shared {
                used.sharing += 1;
                add(&mut used.consumed, &whole(given));
            } else {
                used.alone += 1;
            }
        }
    }

    /// Gives it back.
    pub fn give_back(&mut self, allocation: &Allocation) {
        for given in allocation.devices.iter().filter(|it| !it.admin) {
            let DeviceId { driver, pool, device } = &given.id;
            self.touch(pool);
            let Some(drivers) = self.taken.get_mut(pool) else { continue };
            let Some(uses) = drivers.get_mut(driver) else { continue };
            let Some(used) = uses.get_mut(device) else { continue };
            if given.shared {
                used.sharing = used.sharing.saturating_sub(1);
                for (name, amount) in whole(given) {
                    if let Some(sum) = used.consumed.get_mut(&name) {
                        *sum -= amount;
                    }
                }
            } else {
                used.alone = used.alone.saturating_sub(1);
            }
            if used.alone == 0 && used.sharing == 0 {
                uses.remove(device);
                if uses.is_empty() {
                    drivers.remove(driver);
                }
                if drivers.is_empty() {
                    self.taken.remove(pool);
                }
            }
        }
    }

    fn touch(&mut self, pool: &CompactString) {
        self.changes += 1;
        match self.changed.get_mut(pool) {
            Some(changed) => *changed = self.changes,
            None => drop(self.changed.insert(pool.clone(), self.changes)),
        }
    }

    /// Forgets when pools changed: nobody holds a number of before any more. The numbers go on.
    pub fn forget_changes(&mut self) {
        self.changed.clear();
    }

    /// Says when something of a pool (of any driver) was last taken or given back: equal numbers, and nothing was between.
    #[must_use]
    pub fn changed(&self, pool: &str) -> u64 {
        self.changed.get(pool).copied().unwrap_or_default()
    }

    /// What is taken of the devices of a pool.
    pub(crate) fn of_pool(&self, driver: &str, pool: &str) -> OfPool<'_> {
        OfPool(self.taken.get(pool).and_then(|it| it.get(driver)))
    }

    fn of(&self, id: &DeviceId) -> Option<&Use> {
        self.taken.get(&id.pool)?.get(&id.driver)?.get(&id.device)
    }

    /// Whether somebody has a device alone.
    #[must_use]
    pub fn is_taken(&self, id: &DeviceId) -> bool {
        self.of(id).is_some_and(|it| it.alone > 0)
    }

    /// Whether anybody has a device, or a part of it.
    #[must_use]
    pub fn is_used(&self, id: &DeviceId) -> bool {
        self.of(id).is_some()
    }

    /// How much of a device those have who share it; `None` where nobody does.
    #[must_use]
    pub fn consumed(&self, id: &DeviceId) -> Option<&Amounts> {
        self.of(id).filter(|it| it.sharing > 0).map(|it| &it.consumed)
    }
}

/// Adds amounts.
pub(crate) fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        match sum.get_mut(name) {
            Some(sum) => *sum += *amount,
            None => drop(sum.insert(name.clone(), *amount)),
        }
    }
}

fn whole(given: &Given) -> Amounts {
    let named = given.consumed.iter();
    named.map(|(name, amount)| (whole_name(name, &given.id.driver), *amount)).collect()
}

/// The name with its domain, which is the driver's where none is named.
pub(crate) fn whole_name(name: &str, driver: &str) -> CompactString {
    if name.contains('/') { name.into() } else { format_compact!("{driver}/{name}") }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn what_is_shared_stays_taken_until_the_last_gives_it_back() {
        let share = |id: &str, amount: &str| {
            let given = value!({"driver": "d", "pool": "p", "device": "x", "shareID": id,
                "consumedCapacity": {"memory": amount}});
            Allocation::from_value(&value!({"devices": {"results": [given]}}))
        };
        let id = DeviceId { driver: "d".into(), pool: "p".into(), device: "x".into() };
        let (a, b) = (share("a", "1Gi"), share("b", "2Gi"));
        let mut all = Allocated::default();
        all.take(&a);
        all.take(&b);
        let amount = |it: &Allocated| it.consumed(&id).map(|it| it["d/memory"].to_string());
        assert_eq!(amount(&all).as_deref(), Some("3Gi"));
        assert!(all.is_used(&id) && !all.is_taken(&id));
        all.give_back(&a);
        assert_eq!(amount(&all).as_deref(), Some("2Gi"));
        all.give_back(&b);
        assert!(all.taken.is_empty());
    }
}
