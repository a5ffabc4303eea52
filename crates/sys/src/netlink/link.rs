//! Links: bridges, veth pairs, and what can be set on any link.

use std::fmt;
use std::os::fd::AsRawFd;

use super::wire::{self, Message, Writer};
use super::{NetlinkError, Netns, Rtnetlink};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;

/// A link-layer address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What sort of link it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge,
    /// One end of a veth pair.
    Veth,
    /// Anything else; real devices have no name for their kind.
    Other(String),
}

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What the one who made it wrote on it.
    pub alias: String,
    /// Its address.
    pub mac: MacAddress,
    /// The largest packet it takes.
    pub mtu: u32,
    /// Whether it was set up.
    pub up: bool,
    /// The bridge it is a port of.
    pub master: Option<u32>,
    /// What it is.
    pub kind: LinkKind,
}

/// A veth pair to be made, its far end in another namespace.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// The name of the end that stays here.
    pub host: &'a str,
    /// The address of the end that stays here.
    pub host_mac: MacAddress,
    /// The name of the far end.
    pub peer: &'a str,
    /// The address of the far end.
    pub peer_mac: MacAddress,
    /// Where the far end goes.
    pub peer_namespace: &'a Netns,
    /// The largest packet of both ends.
    pub mtu: u32,
}

#[derive(Default)]
struct Header {
    index: u32,
    flags: u32,
    change: u32,
}

impl Header {
    fn put(&self, writer: &mut Writer) {
        writer.put(&[0; 4]);
        writer.put(&self.index.to_ne_bytes());
        writer.put(&self.flags.to_ne_bytes());
        writer.put(&self.change.to_ne_bytes());
    }
}

impl Rtnetlink {
    /// The link called `name`.
    ///
    /// # Errors
    /// When the kernel refuses for another reason than that there is none.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let sequence = self.socket.next_sequence();
        let mut writer = Writer::new();
        writer.message(GETLINK, wire::REQUEST, sequence, |w| {
            Header::default().put(w);
            w.string(IFLA_IFNAME, name);
        });
        let doing = format!("look up link {name}");
        self.socket.send(&writer, &doing)?;
        let bytes = self.socket.receive(true, &doing)?.unwrap_or_default();
        let message = wire::messages(bytes).find(|message| message.sequence == sequence);
        let Some(message) = message else { return Err(NetlinkError::Malformed { doing }) };
        if message.kind != wire::ERROR {
            return parse(&message).map(Some).ok_or(NetlinkError::Malformed { doing });
        }
        match super::socket::error_of(&message) {
            None | Some((libc::ENODEV, _)) => Ok(None),
            Some((errno, detail)) => {
                let source = std::io::Error::from_raw_os_error(errno);
                Err(NetlinkError::Refused { doing, detail, source })
            }
        }
    }

    /// Every link of the namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut links = Vec::new();
        let doing = || "list links".to_owned();
        self.socket.dump(
            GETLINK,
            doing,
            |w| Header::default().put(w),
            |message| links.extend(parse(message)),
        )?;
        Ok(links)
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the name is taken.
    pub fn create_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        let doing = || format!("create bridge {name}");
        self.socket.request(NEWLINK, wire::CREATE | wire::EXCLUSIVE, doing, |w| {
            Header::default().put(w);
            w.string(IFLA_IFNAME, name);
            w.nested(IFLA_LINKINFO, |w| w.string(IFLA_INFO_KIND, "bridge"));
        })
    }

    /// Makes a veth pair; the end that stays here is up, the far end is not.
    ///
    /// # Errors
    /// When the kernel refuses, for example because a name is taken.
    pub fn create_veth(&mut self, veth: &Veth<'_>) -> Result<(), NetlinkError> {
        let doing = || format!("create veth pair {} and {}", veth.host, veth.peer);
        self.socket.request(NEWLINK, wire::CREATE | wire::EXCLUSIVE, doing, |w| {
            Header { flags: IFF_UP, change: IFF_UP, ..Header::default() }.put(w);
            w.string(IFLA_IFNAME, veth.host);
            w.u32(IFLA_MTU, veth.mtu);
            w.attribute(IFLA_ADDRESS, &veth.host_mac.0);
            w.nested(IFLA_LINKINFO, |w| {
                w.string(IFLA_INFO_KIND, "veth");
                w.nested(IFLA_INFO_DATA, |w| w.nested(VETH_INFO_PEER, |w| peer(w, veth)));
            });
        })
    }

    /// Deletes a link, and with a veth its other end.
    ///
    /// # Errors
    /// When the kernel refuses, for example because there is none.
    pub fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.socket.request(
            DELLINK,
            0,
            || format!("delete link {index}"),
            |w| Header { index, ..Header::default() }.put(w),
        )
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let header = Header { index, flags: IFF_UP, change: IFF_UP };
        self.socket.request(NEWLINK, 0, || format!("set link {index} up"), |w| header.put(w))
    }

    /// Sets the largest packet a link takes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let doing = || format!("set the MTU of link {index} to {mtu}");
        self.socket.request(NEWLINK, 0, doing, |w| {
            Header { index, ..Header::default() }.put(w);
            w.u32(IFLA_MTU, mtu);
        })
    }

    /// Writes on a link what it is for.
    ///
    /// # Errors
    /// When the kernel refuses, for example because there are more than 255 bytes.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        let doing = || format!("set the alias of link {index} to {alias}");
        self.socket.request(NEWLINK, 0, doing, |w| {
            Header { index, ..Header::default() }.put(w);
            w.attribute(IFLA_IFALIAS, alias.as_bytes());
        })
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_master(&mut self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        let doing = || format!("make link {index} a port of bridge {bridge}");
        self.socket.request(NEWLINK, 0, doing, |w| {
            Header { index, ..Header::default() }.put(w);
            w.u32(IFLA_MASTER, bridge);
        })
    }
}

fn peer(writer: &mut Writer, veth: &Veth<'_>) {
    Header::default().put(writer);
    writer.string(IFLA_IFNAME, veth.peer);
    writer.u32(IFLA_MTU, veth.mtu);
    writer.attribute(IFLA_ADDRESS, &veth.peer_mac.0);
    if let Some(file) = veth.peer_namespace.file() {
        writer.attribute(IFLA_NET_NS_FD, &file.as_raw_fd().to_ne_bytes());
    }
}

fn parse(message: &Message<'_>) -> Option<Link> {
    let index = wire::read_u32(message.body, 4)?;
    let flags = wire::read_u32(message.body, 8)?;
    let attributes = message.body.get(16..)?;
    let text = |kind| wire::find(attributes, kind).map(wire::text);
    let number = |kind| wire::find(attributes, kind).and_then(|bytes| wire::read_u32(bytes, 0));
    let info = wire::find(attributes, IFLA_LINKINFO).unwrap_or_default();
    let kind = wire::find(info, IFLA_INFO_KIND).map(wire::text).unwrap_or_default();
    let mac = wire::find(attributes, IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok());
    Some(Link {
        index,
        name: text(IFLA_IFNAME)?,
        alias: text(IFLA_IFALIAS).unwrap_or_default(),
        mac: MacAddress(mac.unwrap_or_default()),
        mtu: number(IFLA_MTU).unwrap_or(0),
        up: flags & IFF_UP != 0,
        master: number(IFLA_MASTER),
        kind: match kind.as_str() {
            "bridge" => LinkKind::Bridge,
            "veth" => LinkKind::Veth,
            _ => LinkKind::Other(kind),
        },
    })
}
