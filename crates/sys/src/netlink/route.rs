//! Routes of the main table, and neighbours that need no asking.

use std::net::IpAddr;

use ipnet::IpNet;

use super::address::{family, octets, parse_ip};
use super::wire::{self, Writer};
use super::{MacAddress, NetlinkError, Rtnetlink};

const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const TABLE_MAIN: u8 = 254;
const UNICAST: u8 = 1;
const UNREACHABLE: u8 = 7;
const ONLINK: u32 = 4;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const PERMANENT: u16 = 0x80;

/// Who made a route. Ours have a number of their own, so that they can be told from others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteProtocol(pub u8);

impl RouteProtocol {
    /// Made at boot or by hand.
    pub const BOOT: Self = Self(3);
}

/// How far the destination is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteScope {
    /// Behind a gateway.
    Global,
    /// On the link itself.
    Link,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// It goes on.
    Unicast,
    /// Its sender is told that the destination cannot be reached.
    Unreachable,
}

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// What becomes of packets.
    pub kind: RouteKind,
    /// Where to.
    pub destination: IpNet,
    /// Through whom.
    pub gateway: Option<IpAddr>,
    /// Out of which link; 0 lets the kernel find the gateway's.
    pub link: u32,
    /// Our address when we speak first.
    pub source: Option<IpAddr>,
    /// Whether the gateway is on the link although no address of the link says so.
    pub onlink: bool,
    /// How far.
    pub scope: RouteScope,
    /// Who made it.
    pub protocol: RouteProtocol,
}

/// A neighbour whose link-layer address is known for good.
#[derive(Debug, Clone, Copy)]
pub struct Neighbour {
    /// On which link.
    pub link: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Its link-layer address.
    pub mac: MacAddress,
}

fn put(writer: &mut Writer, route: &Route) {
    let ip = route.destination.addr();
    let scope = match route.scope {
        RouteScope::Global => 0,
        RouteScope::Link if ip.is_ipv4() => 253,
        RouteScope::Link => 0,
    };
    let length = route.destination.prefix_len();
    let kind = match route.kind {
        RouteKind::Unicast => UNICAST,
        RouteKind::Unreachable => UNREACHABLE,
    };
    writer.put(&[family(ip), length, 0, 0, TABLE_MAIN, route.protocol.0, scope, kind]);
    writer.put(&(if route.onlink { ONLINK } else { 0 }).to_ne_bytes());
    writer.attribute(RTA_DST, &octets(ip));
    if let Some(gateway) = route.gateway {
        writer.attribute(RTA_GATEWAY, &octets(gateway));
    }
    if let Some(source) = route.source {
        writer.attribute(RTA_PREFSRC, &octets(source));
    }
    if route.link != 0 {
        writer.u32(RTA_OIF, route.link);
    }
}

impl Rtnetlink {
    /// Makes a route, in place of another to the same destination.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the gateway cannot be reached.
    pub fn replace_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let doing = || format!("set the route to {}", route.destination);
        self.socket.request(NEWROUTE, wire::CREATE | wire::REPLACE, doing, |w| put(w, route))
    }

    /// Deletes a route.
    ///
    /// # Errors
    /// When the kernel refuses, for example because there is none.
    pub fn delete_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let doing = || format!("delete the route to {}", route.destination);
        self.socket.request(DELROUTE, 0, doing, |w| put(w, route))
    }

    /// The unicast and unreachable routes of the main table, of both families.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn routes(&mut self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        let doing = || "list routes".to_owned();
        self.socket.dump(
            GETROUTE,
            doing,
            |w| w.put(&[0; 12]),
            |message| routes.extend(parse(message.body)),
        )?;
        Ok(routes)
    }

    /// Makes a neighbour known for good.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn replace_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), NetlinkError> {
        let doing = || format!("set neighbour {} of link {}", neighbour.ip, neighbour.link);
        self.socket.request(NEWNEIGH, wire::CREATE | wire::REPLACE, doing, |w| {
            w.put(&[family(neighbour.ip), 0, 0, 0]);
            w.put(&neighbour.link.to_ne_bytes());
            w.put(&PERMANENT.to_ne_bytes());
            w.put(&[0, 0]);
            w.attribute(NDA_DST, &octets(neighbour.ip));
            w.attribute(NDA_LLADDR, &neighbour.mac.0);
        })
    }
}

fn parse(body: &[u8]) -> Option<Route> {
    let attributes = body.get(12..)?;
    let ip = |kind| wire::find(attributes, kind).and_then(parse_ip);
    let unspecified = match i32::from(body[0]) {
        libc::AF_INET => IpAddr::from([0; 4]),
        libc::AF_INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let kind = match body[7] {
        UNICAST => RouteKind::Unicast,
        UNREACHABLE => RouteKind::Unreachable,
        _ => return None,
    };
    if body[4] != TABLE_MAIN {
        return None;
    }
    Some(Route {
        kind,
        destination: IpNet::new(ip(RTA_DST).unwrap_or(unspecified), body[1]).ok()?,
        gateway: ip(RTA_GATEWAY),
        link: wire::find(attributes, RTA_OIF).and_then(|b| wire::read_u32(b, 0)).unwrap_or(0),
        source: ip(RTA_PREFSRC),
        onlink: wire::read_u32(body, 8)? & ONLINK != 0,
        scope: if body[6] == 253 { RouteScope::Link } else { RouteScope::Global },
        protocol: RouteProtocol(body[5]),
    })
}
