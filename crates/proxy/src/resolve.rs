//! Which endpoints each port of a Service uses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sys::nftables::Family;

use crate::endpoints::{Endpoint, Hint, SliceSpec};
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
                entry.node_hint = entry.node_hint.max(endpoint.node_hint);
                entry.zone_hint = entry.zone_hint.max(endpoint.zone_hint);
            }
        }
    }
    all
}

/// The ready ones, as far as they are for clients here; where there are none, those that still serve while they end.
fn usable(all: &Candidates, local: bool) -> Vec<Backend> {
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<Backend> {
        all.iter()
            .filter(|(_, endpoint)| wanted(endpoint) && (!local || endpoint.local))
            .map(|((ip, port), endpoint)| Backend { ip: *ip, port: *port, local: endpoint.local })
            .collect()
    };
    // Who wants endpoints of this node gets all of them: hints are for who may go anywhere.
    let hinted = if local { None } else { hints(all) };
    let here = |it: &Endpoint| hinted.is_none_or(|hint| hint(it) == Hint::Here);
    let ready = pick(&|endpoint| endpoint.ready && here(endpoint));
    if ready.is_empty() { pick(&|endpoint| endpoint.serving_terminating) } else { ready }
}

type HintOf = fn(&Endpoint) -> Hint;

/// Which hints count: those for nodes, then those for zones, if each ready endpoint has one and one is for here.
fn hints(all: &Candidates) -> Option<HintOf> {
    let of: [HintOf; 2] = [|it| it.node_hint, |it| it.zone_hint];
    of.into_iter().find(|hint| {
        let mut ready = all.values().filter(|it| it.ready).map(hint);
        let (mut any_here, mut all_hinted) = (false, true);
        for hint in &mut ready {
            any_here |= hint == Hint::Here;
            all_hinted &= hint != Hint::Absent;
        }
        any_here && all_hinted
    })
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
    fn hints_count_where_all_have_them_and_one_is_for_here() {
        use Hint::{Absent, Elsewhere, Here};
        for (hints, expected) in [
            (&[(Absent, Absent), (Absent, Absent)][..], &[0, 1][..]),
            (&[(Absent, Here), (Absent, Elsewhere)], &[0]),
            // One without a hint: none counts.
            (&[(Absent, Here), (Absent, Absent)], &[0, 1]),
            // None is for here.
            (&[(Absent, Elsewhere), (Absent, Elsewhere)], &[0, 1]),
            // Nodes go before zones, and zones are what is left.
            (&[(Here, Here), (Elsewhere, Here)], &[0]),
            (&[(Elsewhere, Here), (Elsewhere, Elsewhere)], &[0]),
        ] {
            let endpoint = |nth: usize, (node_hint, zone_hint): (Hint, Hint)| {
                let last = u8::try_from(nth).unwrap();
                let ip = IpAddr::from([10, 0, 0, last]);
                let it = Endpoint {
                    ip,
                    ready: true,
                    serving_terminating: false,
                    local: false,
                    node_hint,
                    zone_hint,
                };
                ((ip, 80), it)
            };
            let mut all: Candidates =
                hints.iter().enumerate().map(|(nth, it)| endpoint(nth, *it)).collect();
            // What is not ready has no say.
            let (key, ending) = endpoint(9, (Absent, Absent));
            all.insert(key, Endpoint { ready: false, serving_terminating: true, ..ending });
            assert_eq!(usable(&all, false), backends(expected), "{hints:?}");
        }
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
