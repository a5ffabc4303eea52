//! UDP connections to endpoints that are gone: UDP has no end, so that a client that keeps sending would be led
//! there for ever.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sys::netlink::NetlinkError;
use sys::nftables::{Conntrack, Tuple};

use crate::resolve::ResolvedPort;
use crate::service::{Front, Protocol, ServiceSpec};
use crate::store::Installed;

/// Fronts of UDP ports with the endpoints that they may lead to.
pub(crate) type UdpFronts = BTreeMap<Front, Vec<(IpAddr, u16)>>;

/// Notes the UDP fronts of a Service that changed so that old connections are wrong now: the front or some of its
/// endpoints are gone, or there were none.
pub(crate) fn note(fronts: &mut UdpFronts, old: Option<&Installed>, new: Option<&Installed>) {
    let udp = |installed: Option<&Installed>| -> Vec<Front> {
        let fronts = installed.into_iter().flat_map(|installed| installed.spec.fronts());
        fronts.filter(|front| front.protocol == Protocol::Udp).collect()
    };
    let still = udp(new);
    let gone = udp(old).into_iter().filter(|front| !still.contains(front));
    fronts.extend(gone.map(|front| (front, Vec::new())));
    let before = old.map(|old| &*old.ports).unwrap_or_default();
    if let Some(new) = new {
        note_endpoints(fronts, &new.spec, before, &new.ports);
    }
}

fn note_endpoints(
    fronts: &mut UdpFronts,
    spec: &ServiceSpec,
    old: &[ResolvedPort],
    new: &[ResolvedPort],
) {
    for one in new {
        let Some(port) = spec.ports.get(usize::from(one.port)) else { continue };
        if port.protocol != Protocol::Udp {
            continue;
        }
        let before = old.iter().find(|old| old.port == one.port && old.family == one.family);
        let before = before.map(|old| &*old.cluster).unwrap_or_default();
        let gone = before.iter().any(|backend| !one.cluster.contains(backend));
        if !gone && !before.is_empty() {
            continue;
        }
        let backends: Vec<_> = one.cluster.iter().map(|b| (b.ip, b.port)).collect();
        let ours = spec.fronts().filter(|front| {
            front.protocol == Protocol::Udp
                && (front.port == port.port || front.port == port.node_port)
                && front.ip.is_ipv4() == (one.family == sys::nftables::Family::Ip)
        });
        fronts.extend(ours.map(|front| (front, backends.clone())));
    }
}

/// Forgets connections to those fronts that lead elsewhere. Says how many there were.
pub(crate) fn forget(
    conntrack: &mut Conntrack,
    fronts: &UdpFronts,
    node_ips: &[IpAddr],
) -> Result<usize, NetlinkError> {
    if fronts.is_empty() {
        return Ok(0);
    }
    conntrack.delete_matching(|original, reply| {
        let backends = backends(fronts, original, node_ips);
        backends.is_some_and(|b| !b.contains(&(reply.source, reply.source_port)))
    })
}

fn backends<'a>(
    fronts: &'a UdpFronts,
    original: &Tuple,
    node_ips: &[IpAddr],
) -> Option<&'a Vec<(IpAddr, u16)>> {
    let protocol = Protocol::Udp;
    if original.protocol != protocol.number() {
        return None;
    }
    let front = Front { ip: original.destination, protocol, port: original.destination_port };
    let family = crate::service::family_of(original.destination);
    fronts.get(&front).or_else(|| {
        let is_node = node_ips.contains(&original.destination);
        let front = Front::node_port(family, protocol, original.destination_port);
        is_node.then(|| fronts.get(&front)).flatten()
    })
}
