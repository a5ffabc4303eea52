//! Connection tracking: which connections there are, and forgetting some of them.

use std::net::IpAddr;

use crate::netlink::wire::{self, Writer};
use crate::netlink::{NetlinkError, Netns, Protocol, Socket};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// From whom.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// TCP, UDP, ...
    pub protocol: u8,
    /// From which port; 0 where there are none.
    pub source_port: u16,
    /// To which port; 0 where there are none.
    pub destination_port: u16,
}

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// As the side that began sends.
    pub original: Tuple,
    /// As the other side sends: with translation its source is who really answers.
    pub reply: Tuple,
    identity: Vec<u8>,
}

/// A socket for connection tracking of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// A socket in `namespace`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket cannot be opened.
    pub fn open(namespace: &Netns) -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter, namespace)? })
    }

    /// The connections that `wanted` picks.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn flows(
        &mut self,
        mut wanted: impl FnMut(&Tuple, &Tuple) -> bool,
    ) -> Result<Vec<Flow>, NetlinkError> {
        let mut flows = Vec::new();
        self.socket.dump(
            GET,
            || "list tracked connections".to_owned(),
            |w| w.put(&[0; 4]),
            |message| flows.extend(parse(message.body, &mut wanted)),
        )?;
        Ok(flows)
    }

    /// Forgets the connections that `wanted` picks and says how many there were.
    ///
    /// # Errors
    /// When the kernel refuses; connections that are gone already are no error.
    pub fn delete_matching(
        &mut self,
        wanted: impl FnMut(&Tuple, &Tuple) -> bool,
    ) -> Result<usize, NetlinkError> {
        let flows = self.flows(wanted)?;
        for flow in &flows {
            match self.delete(flow) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(flows.len())
    }

    fn delete(&mut self, flow: &Flow) -> Result<(), NetlinkError> {
        let family = if flow.original.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let family = u8::try_from(family).unwrap_or_default();
        let Tuple { source, destination, .. } = flow.original;
        let doing = || format!("forget the connection from {source} to {destination}");
        self.socket.request(DELETE, 0, doing, |w: &mut Writer| {
            w.put(&[family, 0, 0, 0]);
            w.put(&flow.identity);
        })
    }
}

fn parse(body: &[u8], wanted: &mut impl FnMut(&Tuple, &Tuple) -> bool) -> Option<Flow> {
    let attributes = body.get(4..)?;
    let original_bytes = wire::find(attributes, TUPLE_ORIGINAL)?;
    let original = tuple(original_bytes)?;
    let reply = tuple(wire::find(attributes, TUPLE_REPLY)?)?;
    if !wanted(&original, &reply) {
        return None;
    }
    // The tuple as the kernel wrote it, with the number that tells it from a later connection alike.
    let mut writer = Writer::new();
    writer.nested(TUPLE_ORIGINAL, |w| w.put(original_bytes));
    for kind in [ZONE, ID] {
        if let Some(payload) = wire::find(attributes, kind) {
            writer.attribute(kind, payload);
        }
    }
    Some(Flow { original, reply, identity: writer.bytes()?.to_vec() })
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let addresses = wire::find(bytes, 1)?;
    let protocol = wire::find(bytes, 2)?;
    let ip = |v4, v6| {
        wire::find(addresses, v4)
            .and_then(|bytes| Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)))
            .or_else(|| Some(IpAddr::from(<[u8; 16]>::try_from(wire::find(addresses, v6)?).ok()?)))
    };
    let port = |kind| {
        let bytes = wire::find(protocol, kind)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    };
    Some(Tuple {
        source: ip(1, 3)?,
        destination: ip(2, 4)?,
        protocol: *wire::find(protocol, 1)?.first()?,
        source_port: port(2).unwrap_or(0),
        destination_port: port(3).unwrap_or(0),
    })
}
