//! Addresses of links.

use std::net::IpAddr;

use ipnet::IpNet;

use super::wire::{self, Writer};
use super::{NetlinkError, Rtnetlink};

const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection: we gave the address, nobody else has it.
const NO_DAD: u32 = 0x02;

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link's number.
    pub link: u32,
    /// The address and its prefix.
    pub net: IpNet,
    /// 0 for addresses of the world, 253 for those of the link, 254 for those of the host.
    pub scope: u8,
}

pub(super) fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or_default()
}

pub(super) fn octets(address: IpAddr) -> smallvec::SmallVec<[u8; 16]> {
    match address {
        IpAddr::V4(v4) => v4.octets().as_slice().into(),
        IpAddr::V6(v6) => v6.octets().as_slice().into(),
    }
}

pub(super) fn parse_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

fn put(writer: &mut Writer, address: &Address) {
    let ip = address.net.addr();
    writer.put(&[family(ip), address.net.prefix_len(), 0, address.scope]);
    writer.put(&address.link.to_ne_bytes());
    writer.attribute(IFA_LOCAL, &octets(ip));
    writer.attribute(IFA_ADDRESS, &octets(ip));
    if ip.is_ipv6() {
        writer.u32(IFA_FLAGS, NO_DAD);
    }
}

impl Rtnetlink {
    /// Gives a link an address; it may have it already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&mut self, address: &Address) -> Result<(), NetlinkError> {
        let doing = || format!("add address {} to link {}", address.net, address.link);
        self.socket.request(NEWADDR, wire::CREATE | wire::REPLACE, doing, |w| put(w, address))
    }

    /// Takes an address from a link.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the link does not have it.
    pub fn delete_address(&mut self, address: &Address) -> Result<(), NetlinkError> {
        let doing = || format!("delete address {} from link {}", address.net, address.link);
        self.socket.request(DELADDR, 0, doing, |w| put(w, address))
    }

    /// Every address of the namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let mut addresses = Vec::new();
        let doing = || "list addresses".to_owned();
        self.socket.dump(
            GETADDR,
            doing,
            |w| w.put(&[0; 8]),
            |message| addresses.extend(parse(message.body)),
        )?;
        Ok(addresses)
    }
}

fn parse(body: &[u8]) -> Option<Address> {
    let attributes = body.get(8..)?;
    // On a link with a far end the local address is its own attribute.
    let bytes =
        wire::find(attributes, IFA_LOCAL).or_else(|| wire::find(attributes, IFA_ADDRESS))?;
    let net = IpNet::new(parse_ip(bytes)?, body[1]).ok()?;
    Some(Address { link: wire::read_u32(body, 4)?, net, scope: body[3] })
}
