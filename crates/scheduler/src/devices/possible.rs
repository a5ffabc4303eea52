//! What was found out about nodes and claims, remembered: a pod like the one before it asks for the same of nodes of which
//! one or two have changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use dynamic_resource_allocation::claim::{Constraint, Request};
use dynamic_resource_allocation::{Allocated, Claim, Slices};
use parking_lot::Mutex;

/// How many sorts of claims are remembered.
const SORTS: usize = 16;

/// What a claim asks for.
type Ask = (Vec<Request>, Vec<Constraint>);

/// Of a node: when something of its pools last changed, and whether the claims could be had.
type Verdicts = BTreeMap<CompactString, (u64, bool)>;

/// What was found out about claims that ask for the same.
#[derive(Debug)]
struct Sort {
    asks: Vec<Ask>,
    verdicts: Mutex<Verdicts>,
}

impl Sort {
    fn is_of(&self, claims: &[&Claim]) -> bool {
        self.asks.len() == claims.len()
            && self.asks.iter().zip(claims).all(|((requests, constraints), claim)| {
                *requests == claim.requests && *constraints == claim.constraints
            })
    }
}

/// What was found out, as long as slices and classes stay as they are.
#[derive(Debug, Default)]
struct Found {
    /// The edition of the slices that it holds for.
    edition: u64,
    /// The one asked for last comes last.
    sorts: Vec<Arc<Sort>>,
}

/// What was found out about all claims. A copy begins with nothing.
#[derive(Debug, Default)]
pub(super) struct Possible(Mutex<Found>);

impl Clone for Possible {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Possible {
    /// Something changed that matters everywhere.
    pub(super) fn forget(&mut self) {
        self.0.get_mut().sorts.clear();
    }

    pub(super) fn asked<'a>(
        &self,
        claims: &[&Claim],
        slices: &'a Slices,
        allocated: &'a Allocated,
    ) -> Asked<'a> {
        let mut found = self.0.lock();
        if found.edition != slices.edition() {
            *found = Found { edition: slices.edition(), sorts: Vec::new() };
        }
        let known = found.sorts.iter().position(|it| it.is_of(claims));
        let sort = known.map(|place| found.sorts.remove(place)).unwrap_or_else(|| {
            let ask = |it: &&Claim| (it.requests.clone(), it.constraints.clone());
            let asks = claims.iter().map(ask).collect();
            Arc::new(Sort { asks, verdicts: Mutex::default() })
        });
        if found.sorts.len() == SORTS {
            found.sorts.remove(0);
        }
        found.sorts.push(Arc::clone(&sort));
        Asked { sort, slices, allocated }
    }
}

/// What is known about claims that ask for the same.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    sort: Arc<Sort>,
    slices: &'a Slices,
    allocated: &'a Allocated,
}

impl Asked<'_> {
    /// Whether the claims can be had on a node: as it was found before, where nothing has changed since, or else as `find`
    /// says. Errors are not remembered, nor is what depends on more than the node's name.
    ///
    /// # Errors
    /// Those of `find`.
    pub(crate) fn is_possible<E>(
        &self,
        node: &str,
        find: impl FnOnce() -> Result<bool, E>,
    ) -> Result<bool, E> {
        let Some(pools) = self.slices.only_local(node) else { return find() };
        // Every change has a number of its own, so that the last one tells of all.
        let changed = pools.map(|it| self.allocated.changed(it)).max().unwrap_or_default();
        let known = self.sort.verdicts.lock().get(node).copied();
        if let Some((_, possible)) = known.filter(|(at, _)| *at == changed) {
            return Ok(possible);
        }
        let possible = find()?;
        let mut verdicts = self.sort.verdicts.lock();
        match verdicts.get_mut(node) {
            Some(known) => *known = (changed, possible),
            None => drop(verdicts.insert(node.into(), (changed, possible))),
        }
        Ok(possible)
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::{Value, value};
    use dynamic_resource_allocation::{Allocation, Slice};

    use super::*;

    fn slice(name: &str, place: &Value) -> Value {
        let mut spec = value!({"driver": "d", "devices": [{"name": "a"}],
            "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}});
        for (member, it) in place.as_object().unwrap().iter() {
            spec.set_at(&[member], it.clone());
        }
        value!({"metadata": {"name": name}, "spec": spec})
    }

    #[test]
    fn a_node_is_asked_again_once_its_devices_have_changed() {
        let (mut slices, mut allocated) = (Slices::default(), Allocated::default());
        let set = |slices: &mut Slices, value: &Value| {
            let slice = Slice::from_value(value);
            slices.set(&slice.name.clone(), Some(Arc::new(slice)));
        };
        set(&mut slices, &slice("p1", &value!({"nodeName": "n1"})));
        set(&mut slices, &slice("p2", &value!({"nodeName": "n2"})));
        let of_class = |class: &str| {
            Claim::from_value(&value!({"spec": {"devices": {"requests": [
                {"name": "r", "exactly": {"deviceClassName": class, "allocationMode": "ExactCount", "count": 1}}]}}}))
        };
        let (one, other) = (of_class("c"), of_class("e"));
        let mut possible = Possible::default();
        let asks = |possible: &Possible, slices: &Slices, allocated: &Allocated, claim: &Claim| {
            let asked = possible.asked(&[claim], slices, allocated);
            let mut nodes = Vec::new();
            for node in ["n1", "n2", "n3"] {
                let find = || {
                    nodes.push(node);
                    Ok::<_, ()>(true)
                };
                assert_eq!(asked.is_possible(node, find), Ok(true));
            }
            nodes.join(" ")
        };
        // Nothing is known of a node that reaches no devices.
        assert_eq!(asks(&possible, &slices, &allocated, &one), "n1 n2 n3");
        assert_eq!(asks(&possible, &slices, &allocated, &one), "n3");
        assert_eq!(asks(&possible, &slices, &allocated, &other), "n1 n2 n3");
        let given = Allocation::from_value(
            &value!({"devices": {"results": [{"driver": "d", "pool": "p2", "device": "a"}]}}),
        );
        allocated.take(&given);
        assert_eq!(asks(&possible, &slices, &allocated, &one), "n2 n3");
        allocated.give_back(&given);
        assert_eq!(asks(&possible, &slices, &allocated, &one), "n2 n3");
        assert_eq!(asks(&possible.clone(), &slices, &allocated, &one), "n1 n2 n3");
        possible.forget();
        assert_eq!(asks(&possible, &slices, &allocated, &one), "n1 n2 n3");
        // What a node with labels reaches is not said by its name.
        set(&mut slices, &slice("p3", &value!({"allNodes": true})));
        assert_eq!(asks(&possible, &slices, &allocated, &one), "n1 n2 n3");
        assert_eq!(asks(&possible, &slices, &allocated, &one), "n1 n2 n3");
        let none = Slices::default();
        let errs = possible.asked(&[&one], &none, &allocated);
        assert_eq!(errs.is_possible("n1", || Err("no")), Err("no"));
    }
}
