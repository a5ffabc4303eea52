//! The pod network's nf_tables rules: host ports and masquerade, one table for each family.
//!
//! Rules are constant; what changes with pods are elements of maps.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sys::netlink::NetlinkError;
use sys::nftables::{
    BaseChain, Batch, ChainType, CmpOp, DataType, Element, ElementData, Expr, Family, FibAddress,
    Hook, Key, KeyFields, MetaKey, Name, NatKind, Nftables, PayloadBase, Reg, Set, SetData,
    SetFlags, Table, Verdict,
};

use crate::config::{Config, is_v4};
use crate::record::Record;

const NAME: &str = "kubelith-network";
/// Both tables. The one of a family without pods stays empty.
pub(crate) const TABLES: [Table; 2] =
    [Table { family: Family::Ip, name: NAME }, Table { family: Family::Ip6, name: NAME }];

const HOST_PORTS: Name = Name::Borrowed("host-ports");
const ADDRESS_PORTS: Name = Name::Borrowed("host-address-ports");
/// Pods that may reach themselves through a host port; their own answer must come by the host.
const HAIRPIN: Name = Name::Borrowed("hairpin");
const DNAT_CHAIN: &str = "host-ports";

/// Address types of the routing table.
const LOCAL: u32 = 2;

fn is_of(table: &Table, ip: IpAddr) -> bool {
    (table.family == Family::Ip) == ip.is_ipv4()
}

/// The tables anew with what `records` need, in place of what was there.
pub(crate) fn install(
    nft: &mut Nftables,
    config: &Config,
    records: &BTreeMap<String, Record>,
) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    for table in &TABLES {
        batch.replace_table(table);
        if config.pod_cidrs.iter().any(|cidr| is_v4(cidr) == (table.family == Family::Ip)) {
            furnish(&mut batch, table, config);
        }
    }
    for record in records.values() {
        change(&mut batch, record, add_one);
    }
    nft.apply(batch)
}

/// Whether both tables are there.
pub(crate) fn are_installed(nft: &mut Nftables) -> Result<bool, NetlinkError> {
    for table in &TABLES {
        if !nft.tables(table.family)?.iter().any(|name| name == table.name) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The host ports of one more sandbox.
pub(crate) fn add(nft: &mut Nftables, record: &Record) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    change(&mut batch, record, add_one);
    nft.apply(batch)
}

/// The host ports of a sandbox no more.
pub(crate) fn delete(nft: &mut Nftables, record: &Record) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    change(&mut batch, record, delete_one);
    nft.apply(batch)
}

/// No tables at all.
pub(crate) fn remove(nft: &mut Nftables) -> Result<(), NetlinkError> {
    let mut batch = Batch::new();
    TABLES.iter().for_each(|table| batch.remove_table(table));
    nft.apply(batch)
}

type Change = fn(&mut Batch, &Table, &Name, &Element);

fn add_one(batch: &mut Batch, table: &Table, set: &Name, element: &Element) {
    batch.add_elements(table, set, [element]);
}

fn delete_one(batch: &mut Batch, table: &Table, set: &Name, element: &Element) {
    batch.delete_elements(table, set, [element]);
}

fn change(batch: &mut Batch, record: &Record, change: Change) {
    for (table, ip) in record.ips.iter().flat_map(|ip| TABLES.iter().map(move |t| (t, *ip))) {
        if record.ports.is_empty() || !is_of(table, ip) {
            continue;
        }
        change(batch, table, &HAIRPIN, &Element::key(Key::new().ip(ip).ip(ip)));
        for port in &record.ports {
            let data = ElementData::Value(Key::new().ip(ip).port(port.container_port));
            let protocol = port.protocol.number();
            match port.host_ip {
                None => {
                    let key = Key::new().protocol(protocol).port(port.host_port);
                    change(batch, table, &HOST_PORTS, &Element::map(key, data));
                }
                Some(host_ip) if is_of(table, host_ip) => {
                    let key = Key::new().ip(host_ip).protocol(protocol).port(port.host_port);
                    change(batch, table, &ADDRESS_PORTS, &Element::map(key, data));
                }
                Some(_) => {}
            }
        }
    }
}

struct Layout {
    address: DataType,
    source_offset: u32,
    destination_offset: u32,
    length: u32,
    /// The words that an address takes in registers.
    words: u8,
    multicast: IpNet,
    loopback: IpNet,
}

fn layout(family: Family) -> Layout {
    let net = |ip: IpAddr, length| IpNet::new(ip, length).expect("because the length is valid");
    match family {
        Family::Ip6 => Layout {
            address: DataType::Ipv6Address,
            source_offset: 8,
            destination_offset: 24,
            length: 16,
            words: 4,
            multicast: net([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8),
            loopback: net([0, 0, 0, 0, 0, 0, 0, 1].into(), 128),
        },
        Family::Ip | Family::Inet => Layout {
            address: DataType::Ipv4Address,
            source_offset: 12,
            destination_offset: 16,
            length: 4,
            words: 1,
            multicast: net([224, 0, 0, 0].into(), 4),
            loopback: net([127, 0, 0, 0].into(), 8),
        },
    }
}

fn furnish(batch: &mut Batch, table: &Table, config: &Config) {
    let layout = layout(table.family);
    let (port_key, address_key, endpoint, pair): (&[_], &[_], &[_], &[_]) = match layout.address {
        DataType::Ipv6Address => (
            &[DataType::Protocol, DataType::Port],
            &[DataType::Ipv6Address, DataType::Protocol, DataType::Port],
            &[DataType::Ipv6Address, DataType::Port],
            &[DataType::Ipv6Address, DataType::Ipv6Address],
        ),
        _ => (
            &[DataType::Protocol, DataType::Port],
            &[DataType::Ipv4Address, DataType::Protocol, DataType::Port],
            &[DataType::Ipv4Address, DataType::Port],
            &[DataType::Ipv4Address, DataType::Ipv4Address],
        ),
    };
    let flags = SetFlags::default();
    for (name, key, data) in [
        (HOST_PORTS, port_key, SetData::Value(endpoint)),
        (ADDRESS_PORTS, address_key, SetData::Value(endpoint)),
        (HAIRPIN, pair, SetData::None),
    ] {
        batch.add_set(table, &Set { name, key, data, flags, size: None });
    }
    batch.add_chain(table, DNAT_CHAIN, None);
    batch.add_rule(table, DNAT_CHAIN, &to_address_port(&layout, table.family));
    batch.add_rule(table, DNAT_CHAIN, &to_any_port(&layout, table.family));
    let nat = |hook, priority| Some(BaseChain { kind: ChainType::Nat, hook, priority });
    for (name, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        batch.add_chain(table, name, nat(hook, -100));
        batch.add_rule(table, name, &[Expr::Verdict(Verdict::Jump(DNAT_CHAIN.into()))]);
    }
    batch.add_chain(table, "postrouting", nat(Hook::Postrouting, 100));
    batch.add_rule(table, "postrouting", &hairpin(&layout));
    for cidr in config.pod_cidrs.iter().filter(|cidr| is_v4(cidr) == (layout.length == 4)) {
        batch.add_rule(table, "postrouting", &leaving(&layout, cidr, config));
    }
}

fn address(layout: &Layout, offset: u32, to: Reg) -> Expr {
    Expr::Payload { base: PayloadBase::Network, offset, length: layout.length, to }
}

fn destination_port(to: Reg) -> Expr {
    Expr::Payload { base: PayloadBase::Transport, offset: 2, length: 2, to }
}

fn dnat(layout: &Layout, family: Family) -> Expr {
    let port = Some(Reg(layout.words));
    Expr::Nat { kind: NatKind::Destination, family, address: Reg(0), port }
}

/// `dnat to ip daddr . meta l4proto . th dport map @host-address-ports`
fn to_address_port(layout: &Layout, family: Family) -> Vec<Expr> {
    vec![
        address(layout, layout.destination_offset, Reg(0)),
        Expr::Meta { key: MetaKey::TransportProtocol, to: Reg(layout.words) },
        destination_port(Reg(layout.words + 1)),
        Expr::Map { map: ADDRESS_PORTS, from: Reg(0), to: Reg(0) },
        dnat(layout, family),
    ]
}

/// `fib daddr type local ip daddr != 127.0.0.0/8 dnat to meta l4proto . th dport map @host-ports`: loopback
/// stays, since what is sent from there cannot leave the host.
fn to_any_port(layout: &Layout, family: Family) -> Vec<Expr> {
    let local = Key::new().number(LOCAL);
    let mut rule = vec![
        Expr::FibType { address: FibAddress::Destination, to: Reg(0) },
        Expr::Cmp { op: CmpOp::Equal, from: Reg(0), value: local },
    ];
    rule.extend(compare(layout, layout.destination_offset, &layout.loopback, CmpOp::NotEqual));
    rule.extend([
        Expr::Meta { key: MetaKey::TransportProtocol, to: Reg(0) },
        destination_port(Reg(1)),
        Expr::Map { map: HOST_PORTS, from: Reg(0), to: Reg(0) },
        dnat(layout, family),
    ]);
    rule
}

/// `ip saddr . ip daddr @hairpin masquerade`
fn hairpin(layout: &Layout) -> Vec<Expr> {
    vec![
        address(layout, layout.source_offset, Reg(0)),
        address(layout, layout.destination_offset, Reg(layout.words)),
        Expr::InSet { set: HAIRPIN, from: Reg(0), invert: false },
        Expr::Masquerade { fully_random: false },
    ]
}

/// `ip saddr POD-CIDR ip daddr != { cluster CIDRs, multicast } masquerade fully-random`
fn leaving(layout: &Layout, pod_cidr: &IpNet, config: &Config) -> Vec<Expr> {
    let mut rule = compare(layout, layout.source_offset, pod_cidr, CmpOp::Equal);
    let inside = config.cluster_cidrs.iter().chain([pod_cidr, &layout.multicast]);
    for cidr in inside.filter(|cidr| is_v4(cidr) == is_v4(pod_cidr)) {
        rule.extend(compare(layout, layout.destination_offset, cidr, CmpOp::NotEqual));
    }
    rule.push(Expr::Masquerade { fully_random: true });
    rule
}

fn compare(layout: &Layout, offset: u32, cidr: &IpNet, op: CmpOp) -> Vec<Expr> {
    let zero = Key::from_elem(0, if layout.length == 4 { 4 } else { 16 });
    vec![
        address(layout, offset, Reg(0)),
        Expr::Bitwise { reg: Reg(0), mask: Key::new().ip(cidr.netmask()), xor: zero },
        Expr::Cmp { op, from: Reg(0), value: Key::new().ip(cidr.network()) },
    ]
}
