//! Which endpoints each port of a Service uses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sys::nftables::Family;

use crate::endpoints::{Endpoint, SliceSpec};
use crate::service::{PortSpec, ServiceSpec, family_of};

/// An endpoint that gets connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it is on this node.
    pub local: bool,
}

/// A port of a Service in one family, with the endpoints it uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedPort {
    /// Which of the Service's ports.
    pub port: u16,
    /// The family.
    pub family: Family,
    /// The number that maps know it by.
    pub id: u32,
    /// Endpoints anywhere. Where none are, clients are refused, whatever the policy. Their places are kept when others come and go, since each place is an element of a map.
    pub cluster: Box<[Backend]>,
    /// Endpoints of this node, where a policy asks for those.
    pub local: Box<[Backend]>,
}

/// Resolves each port of `spec` in each family it has, from `slices`. `previous` is what was resolved last time: ids
/// and places are kept. `new_id` gives ids to the others.
pub fn resolve(
    spec: &ServiceSpec,
    slices: &[&SliceSpec],
    previous: &[ResolvedPort],
    mut new_id: impl FnMut() -> u32,
) -> Box<[ResolvedPort]> {
    let mut resolved = Vec::new();
    let uses_local = spec.uses_local();
    for (index, port) in spec.ports.iter().enumerate() {
        for family in families(spec) {
            let number = u16::try_from(index).unwrap_or(u16::MAX);
            let old = previous.iter().find(|old| old.port == number && old.family == family);
            let all = endpoints(port, family, slices);
            let pick = |local: bool, old: Option<&[Backend]>| {
                arrange(old.unwrap_or_default(), usable(&all, local))
            };
            resolved.push(ResolvedPort {
                port: number,
                family,
                id: old.map_or_else(&mut new_id, |old| old.id),
                cluster: pick(false, old.map(|old| &*old.cluster)),
                local: if uses_local {
                    pick(true, old.map(|old| &*old.local))
                } else {
                    Box::default()
                },
            });
        }
    }
    resolved.into()
}

fn families(spec: &ServiceSpec) -> impl Iterator<Item = Family> {
    [Family::Ip, Family::Ip6]
        .into_iter()
        .filter(|family| spec.cluster_ips.iter().any(|ip| family_of(*ip) == *family))
}

type Candidates = BTreeMap<(IpAddr, u16), Endpoint>;

/// Every endpoint of the port, each address once: an endpoint may be in two slices while it moves between them.
fn endpoints(port: &PortSpec, family: Family, slices: &[&SliceSpec]) -> Candidates {
    let mut all = Candidates::new();
    for slice in slices {
        let matching = slice.ports.iter();
        let matching = matching.filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in matching.map(|port| port.port) {
            for endpoint in slice.endpoints.iter().filter(|e| family_of(e.ip) == family) {
                let entry = all.entry((endpoint.ip, number)).or_insert(*endpoint);
                entry.ready |= endpoint.ready;
                entry.serving_terminating |= endpoint.serving_terminating;
                entry.local |= endpoint.local;
            }
        }
    }
    all
}

/// The ready ones; where there are none, those that still serve while they end.
fn usable(all: &Candidates, local: bool) -> Vec<Backend> {
    let pick = |wanted: fn(&Endpoint) -> bool| -> Vec<Backend> {
        all.iter()
            .filter(|(_, endpoint)| wanted(endpoint) && (!local || endpoint.local))
            .map(|((ip, port), endpoint)| Backend { ip: *ip, port: *port, local: endpoint.local })
            .collect()
    };
    let ready = pick(|endpoint| endpoint.ready);
    if ready.is_empty() { pick(|endpoint| endpoint.serving_terminating) } else { ready }
}

/// `wanted` (sorted) in an order where as many as possible stay in the place they had.
fn arrange(old: &[Backend], wanted: Vec<Backend>) -> Box<[Backend]> {
    if old.is_empty() {
        return wanted.into();
    }
    let count = wanted.len();
    let stays = |place: &Backend| wanted.binary_search(place).is_ok();
    let mut places: Vec<Option<Backend>> =
        old.iter().take(count).map(|place| stays(place).then_some(*place)).collect();
    places.resize(count, None);
    let mut kept: Vec<Backend> = places.iter().flatten().copied().collect();
    kept.sort_unstable();
    let mut moved = wanted.iter().filter(|backend| kept.binary_search(backend).is_err());
    places.iter().filter_map(|place| place.or_else(|| moved.next().copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(numbers: &[u8]) -> Vec<Backend> {
        let backend = |n: &u8| Backend { ip: IpAddr::from([10, 0, 0, *n]), port: 80, local: false };
        numbers.iter().map(backend).collect()
    }

    #[test]
    fn endpoints_keep_their_places() {
        for (old, wanted, expected) in [
            (&[][..], &[1, 2, 3][..], &[1, 2, 3][..]),
            (&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]),
            (&[1, 2, 3], &[2, 3], &[3, 2]),
            (&[1, 2, 3], &[1, 2, 3, 4], &[1, 2, 3, 4]),
            (&[3, 2, 1], &[1, 2, 3, 9], &[3, 2, 1, 9]),
            (&[1, 2, 3], &[7, 8], &[7, 8]),
            (&[1, 2, 3], &[2, 7, 8], &[7, 2, 8]),
            (&[1], &[], &[]),
        ] {
            let arranged = arrange(&backends(old), backends(wanted));
            assert_eq!(*arranged, backends(expected), "{old:?} -> {wanted:?}");
        }
    }
}
