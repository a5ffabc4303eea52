//! Addresses of nodes and of pods: of ranges that no network routes. Nodes have theirs of 198.18.0.0/15 (RFC 2544), pods of
//! 100.64.0.0/10 (RFC 6598), of which each node has a /25.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use client::ObjectKey;
use parking_lot::Mutex;

/// How many nodes there may be: so many ranges are there for their pods.
pub const MAX_NODES: u32 = 1 << (PREFIX_LENGTH - 10);

/// The length of the prefix of a node's range.
const PREFIX_LENGTH: u32 = 25;
const NODES: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const PODS: u32 = u32::from_be_bytes([100, 64, 0, 0]);
/// The addresses of a range: 0 names the range, and 127 all that is in it.
const HOSTS: std::ops::RangeInclusive<u32> = 1..=126;

/// Which addresses are taken.
#[derive(Debug)]
pub(crate) struct Addresses {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// A bit an address of each node's range.
    taken: Vec<u128>,
    /// What pods were given that the API does not tell yet.
    given: BTreeMap<ObjectKey, Ipv4Addr>,
}

impl State {
    /// Notes whether an address is taken; one of no node's range is nobody's.
    fn mark(&mut self, address: Ipv4Addr, taken: bool) {
        let Some((node, host)) = place(address) else { return };
        let Some(hosts) = self.taken.get_mut(node) else { return };
        *hosts = *hosts & !(1 << host) | u128::from(taken) << host;
    }
}

/// The address of a node.
pub(crate) fn of_node(number: u32) -> Ipv4Addr {
    // The first is not 198.18.0.0, which looks like a network's.
    Ipv4Addr::from(NODES.wrapping_add(number).wrapping_add(1))
}

/// The range of a node's pods.
pub(crate) fn range_of_node(number: u32) -> String {
    format!("{}/{PREFIX_LENGTH}", Ipv4Addr::from(PODS + (number << (32 - PREFIX_LENGTH))))
}

/// The node and the place in its range that an address has.
fn place(address: Ipv4Addr) -> Option<(usize, u32)> {
    let offset = u32::from(address).checked_sub(PODS)?;
    let node = offset >> (32 - PREFIX_LENGTH);
    Some((usize::try_from(node).ok()?, offset & 0x7f))
}

impl Addresses {
    pub(crate) fn new(nodes: u32) -> Self {
        let taken = (0..nodes).map(|_| 0).collect();
        Self { state: Mutex::new(State { taken, given: BTreeMap::new() }) }
    }

    /// An address for a pod of a node, the same until the API tells it; `None` where none is left.
    pub(crate) fn give(&self, pod: &ObjectKey, node: u32) -> Option<Ipv4Addr> {
        let mut state = self.state.lock();
        if let Some(address) = state.given.get(pod) {
            return Some(*address);
        }
        let taken = state.taken.get_mut(usize::try_from(node).ok()?)?;
        let host = HOSTS.into_iter().find(|host| *taken & (1 << host) == 0)?;
        *taken |= 1 << host;
        let address = Ipv4Addr::from(PODS + (node << (32 - PREFIX_LENGTH)) + host);
        state.given.insert(pod.clone(), address);
        Some(address)
    }

    /// The API tells that a pod has this one.
    pub(crate) fn told(&self, pod: &ObjectKey, address: Ipv4Addr) {
        let mut state = self.state.lock();
        state.given.remove(pod);
        state.mark(address, true);
    }

    /// A pod is over: what it had is free.
    pub(crate) fn free(&self, pod: &ObjectKey, address: Option<Ipv4Addr>) {
        let mut state = self.state.lock();
        let given = state.given.remove(pod);
        for address in address.into_iter().chain(given) {
            state.mark(address, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_once_and_come_back() {
        let addresses = Addresses::new(2);
        let pod = |name: &str| ObjectKey::new("default", name);
        let first = addresses.give(&pod("a"), 1).unwrap();
        assert_eq!(first.to_string(), "100.64.0.129");
        assert_eq!(addresses.give(&pod("a"), 1), Some(first));
        assert_eq!(addresses.give(&pod("b"), 1).unwrap().to_string(), "100.64.0.130");
        addresses.told(&pod("a"), first);
        addresses.free(&pod("a"), Some(first));
        assert_eq!(addresses.give(&pod("c"), 1), Some(first));
        for number in 2..126 {
            assert!(addresses.give(&pod(&number.to_string()), 1).is_some());
        }
        assert_eq!(addresses.give(&pod("full"), 1), None);
        assert_eq!(addresses.give(&pod("elsewhere"), 2), None);
        addresses.free(&pod("b"), None);
        assert!(addresses.give(&pod("full"), 1).is_some());
        assert_eq!(of_node(0).to_string(), "198.18.0.1");
        assert_eq!(range_of_node(MAX_NODES - 1), "100.127.255.128/25");
    }
}
