//! One pod's interface: a veth pair whose far end is the pod's `eth0`, and a host route to each of its
//! addresses.
//!
//! A pod has addresses without a subnet and one neighbour, its host, known for good: no ARP, no bridge, and
//! every packet passes the host's rules in both directions.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sys::netlink::{
    Address, Link, LinkKind, MacAddress, Neighbour, NetlinkError, Netns, Route, RouteKind,
    RouteProtocol, RouteScope, Rtnetlink, Veth,
};

/// The number our routes are known by.
pub(crate) const PROTOCOL: RouteProtocol = RouteProtocol(107);
/// The host's end of every pair: an address only the pod sees.
const HOST_MAC: MacAddress = MacAddress([0x0a, 0x58, 0xa9, 0xfe, 0x01, 0x01]);
/// What the alias of our veths begins with.
const ALIAS: &str = "kubelith sandbox ";
const INTERFACE: &str = "eth0";

/// What a pod's interface needs.
#[derive(Debug)]
pub(crate) struct Interface<'a> {
    pub(crate) sandbox: &'a str,
    pub(crate) namespace: &'a Netns,
    /// Each address with the gateway of its family.
    pub(crate) addresses: &'a [(IpAddr, IpAddr)],
    pub(crate) mtu: u32,
}

/// The name of the host's end: of fixed length, the same for the same sandbox.
pub(crate) fn link_name(sandbox: &str) -> String {
    // FNV-1a; 44 bits of it, since a link's name has 15 bytes.
    let hash = sandbox.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("veth{:011x}", hash & 0xfff_ffff_ffff)
}

fn pod_mac(primary: IpAddr) -> MacAddress {
    let [a, b, c, d] = match primary {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
    };
    MacAddress([0x0a, 0x58, a, b, c, d])
}

/// Makes the interface. What is there of an earlier attempt is deleted first.
pub(crate) fn create(host: &mut Rtnetlink, interface: &Interface<'_>) -> Result<(), NetlinkError> {
    let name = link_name(interface.sandbox);
    if let Some(old) = host.link(&name)? {
        host.delete_link(old.index)?;
    }
    let primary = interface.addresses.first().map_or(IpAddr::from([0; 4]), |(ip, _)| *ip);
    let peer_mac = pod_mac(primary);
    host.create_veth(&Veth {
        host: &name,
        host_mac: HOST_MAC,
        peer: INTERFACE,
        peer_mac,
        peer_namespace: interface.namespace,
        mtu: interface.mtu,
    })?;
    furnish_pod(interface)?;
    let Some(link) = host.link(&name)? else {
        return Err(NetlinkError::Malformed { doing: format!("find veth {name} just made") });
    };
    host.set_alias(link.index, &format!("{ALIAS}{}", interface.sandbox))?;
    for (ip, gateway) in interface.addresses {
        host.replace_neighbour(&Neighbour { link: link.index, ip: *ip, mac: peer_mac })?;
        host.replace_route(&route(host_net(*ip), None, link.index, Some(*gateway)))?;
    }
    Ok(())
}

fn furnish_pod(interface: &Interface<'_>) -> Result<(), NetlinkError> {
    let mut pod = Rtnetlink::open(interface.namespace)?;
    let index = |link: Option<Link>, name: &str| {
        let doing = || format!("find link {name} of sandbox {}", interface.sandbox);
        link.map(|link| link.index).ok_or_else(|| NetlinkError::Malformed { doing: doing() })
    };
    let lo = index(pod.link("lo")?, "lo")?;
    pod.set_up(lo)?;
    let eth0 = index(pod.link(INTERFACE)?, INTERFACE)?;
    for (ip, _) in interface.addresses {
        pod.add_address(&Address { link: eth0, net: host_net(*ip), scope: 0 })?;
    }
    pod.set_up(eth0)?;
    for (ip, gateway) in interface.addresses {
        pod.replace_neighbour(&Neighbour { link: eth0, ip: *gateway, mac: HOST_MAC })?;
        pod.replace_route(&route(host_net(*gateway), None, eth0, None))?;
        let default = IpNet::new(unspecified(*ip), 0).expect("because 0 is a valid length");
        pod.replace_route(&route(default, Some(*gateway), eth0, None))?;
    }
    Ok(())
}

/// Deletes the interface, and with it its routes and neighbours. There may be none.
pub(crate) fn delete(host: &mut Rtnetlink, sandbox: &str) -> Result<(), NetlinkError> {
    match host.link(&link_name(sandbox))? {
        Some(link) => match host.delete_link(link.index) {
            // The pod's namespace may have gone, and the pair with it, in between.
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        },
        None => Ok(()),
    }
}

/// The host's ends of all pods, by sandbox.
pub(crate) fn list(host: &mut Rtnetlink) -> Result<BTreeMap<String, Link>, NetlinkError> {
    let ours = |link: Link| {
        let sandbox = link.alias.strip_prefix(ALIAS)?.to_owned();
        (link.kind == LinkKind::Veth).then_some((sandbox, link))
    };
    Ok(host.links()?.into_iter().filter_map(ours).collect())
}

/// The host's ends that have no alias yet: made by someone who ended right after.
pub(crate) fn list_unfinished(host: &mut Rtnetlink) -> Result<Vec<Link>, NetlinkError> {
    let unfinished = |link: &Link| {
        link.kind == LinkKind::Veth && link.mac == HOST_MAC && !link.alias.starts_with(ALIAS)
    };
    Ok(host.links()?.into_iter().filter(unfinished).collect())
}

pub(crate) fn host_net(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) }
}

pub(crate) fn route(
    destination: IpNet,
    gateway: Option<IpAddr>,
    link: u32,
    source: Option<IpAddr>,
) -> Route {
    Route {
        kind: RouteKind::Unicast,
        destination,
        gateway,
        link,
        source,
        onlink: false,
        scope: if gateway.is_some() { RouteScope::Global } else { RouteScope::Link },
        protocol: PROTOCOL,
    }
}
