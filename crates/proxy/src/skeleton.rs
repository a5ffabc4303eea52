//! The constant part: tables, maps, base chains and their rules. Services come and go as entries of the maps.

use sys::nftables::{
    BaseChain, Batch, ChainType, CmpOp, CtKey, DataType, Element, Expr, Family, FibAddress, Hook,
    Key, KeyFields, Reg, RejectKind, Set, SetData, SetFlags, Table, Verdict,
};

use crate::encode::{self, EXTERNAL_LOCAL_KIND, NODE_EXTERNAL_LOCAL_KIND};
use crate::layout::{
    AFFINITY, AFFINITY_ENDPOINTS, ALLOW, CLUSTER_IPS, DROPPED, ENDPOINTS, EXTERNAL_IPS,
    EXTERNAL_LOCAL, FIREWALL, HAIRPIN, INTERNAL_IPS, KINDS, Layout, NODE_EXTERNAL_LOCAL,
    NODE_PORT_IPS, REFUSED, REJECT, SERVICE_IPS, TRANSLATING_KINDS, jump, mark, take_mark,
};
use crate::proxy::{Config, NodePortAddresses};

/// How many clients with session affinity are remembered at once, in each family. Others get any endpoint.
const AFFINITY_CLIENTS: u32 = 1 << 18;
/// Connection tracking's bit for a connection's first packet.
const NEW: u32 = 8;

type Fields = &'static [DataType];

struct Types {
    front: Fields,
    front_and_source: Fields,
    address: Fields,
    pair: Fields,
    endpoint: Fields,
    id_and_address: Fields,
    id_and_endpoint: Fields,
}

/// The types of one family's keys, from its type of address.
macro_rules! types {
    ($ip:expr) => {
        Types {
            front: &[$ip, DataType::Protocol, DataType::Port],
            front_and_source: &[$ip, DataType::Protocol, DataType::Port, $ip],
            address: &[$ip],
            pair: &[$ip, $ip],
            endpoint: &[$ip, DataType::Port],
            id_and_address: &[DataType::Number, $ip],
            id_and_endpoint: &[DataType::Number, $ip, DataType::Port],
        }
    };
}

const PLACE: Fields = &[DataType::Number, DataType::Number];
const KIND: Fields = &[DataType::Number];
/// What fronts map to, after a word that is not read.
const UNREAD_KIND: Fields = &[DataType::Number, DataType::Number];
const UNREAD_ID_AND_KIND: Fields = &[DataType::Number, DataType::Number, DataType::Number];

/// Everything of one family that does not depend on services, in place of what was there.
pub(crate) fn install(batch: &mut Batch, family: Family, config: &Config) {
    let layout = Layout::of(family);
    let table = layout.table();
    batch.replace_table(table);
    sets(batch, &layout);
    for chain in ["services", EXTERNAL_LOCAL, NODE_EXTERNAL_LOCAL, "firewall", "absent", REJECT] {
        batch.add_chain(table, chain, None);
    }
    batch.add_chain(table, "unallocated", None);
    reject(batch, table);
    for (kind, chain) in
        [(EXTERNAL_LOCAL_KIND, EXTERNAL_LOCAL), (NODE_EXTERNAL_LOCAL_KIND, NODE_EXTERNAL_LOCAL)]
    {
        encode::add_kind(batch, table, &KINDS, kind, chain);
    }
    services(batch, &layout, config);
    external_local(batch, &layout, config);
    firewall(batch, &layout);
    absent(batch, &layout, config);
    unallocated(batch, &layout, config);
    base_chains(batch, &layout, config);
}

fn sets(batch: &mut Batch, layout: &Layout) {
    let types = match layout.address_type() {
        DataType::Ipv6Address => types!(DataType::Ipv6Address),
        _ => types!(DataType::Ipv4Address),
    };
    let table = layout.table();
    let plain = SetFlags::default();
    for (name, key, data) in [
        (SERVICE_IPS, types.front, SetData::Value(UNREAD_ID_AND_KIND)),
        (INTERNAL_IPS, types.front, SetData::Value(UNREAD_KIND)),
        (EXTERNAL_IPS, types.front, SetData::Value(UNREAD_KIND)),
        (KINDS, KIND, SetData::Verdict),
        (TRANSLATING_KINDS, KIND, SetData::Verdict),
        (REFUSED, types.front, SetData::None),
        (DROPPED, types.front, SetData::None),
        (FIREWALL, types.front, SetData::None),
        (ENDPOINTS, PLACE, SetData::Value(types.endpoint)),
        (AFFINITY_ENDPOINTS, types.id_and_endpoint, SetData::None),
        (CLUSTER_IPS, types.address, SetData::None),
        (HAIRPIN, types.pair, SetData::None),
        (NODE_PORT_IPS, types.address, SetData::None),
    ] {
        batch.add_set(table, &Set { name, key, data, flags: plain, size: None });
    }
    let (key, data) = (types.front_and_source, SetData::None);
    let flags = SetFlags { interval: true, ..plain };
    batch.add_set(table, &Set { name: ALLOW, key, data, flags, size: None });
    let (key, data) = (types.id_and_address, SetData::Value(types.endpoint));
    let flags = SetFlags { timeout: true, dynamic: true, ..plain };
    let size = Some(AFFINITY_CLIENTS);
    batch.add_set(table, &Set { name: AFFINITY, key, data, flags, size });
}

fn reject(batch: &mut Batch, table: &Table) {
    batch.add_rule(table, REJECT, &[Expr::Reject(RejectKind::PortUnreachable(table.family))]);
}

/// Where a packet for a service goes. Loopback is no node port: what is sent from there cannot leave the host.
fn services(batch: &mut Batch, layout: &Layout, config: &Config) {
    let table = layout.table();
    let cidrs: Vec<_> = config.cluster_cidrs.iter().filter(|cidr| layout.is_of(cidr)).collect();
    if !config.masquerade_all && !cidrs.is_empty() {
        // From outside the cluster to a cluster address: the answer must come back by this node.
        let mut rule = vec![];
        for cidr in cidrs {
            rule.extend(layout.compare(FibAddress::Source, CmpOp::NotEqual, cidr));
        }
        rule.push(layout.destination(Reg(0)));
        rule.push(Expr::InSet { set: CLUSTER_IPS, from: Reg(0), invert: false });
        rule.extend(mark(config.masquerade_mark()));
        batch.add_rule(table, "services", &rule);
    }
    batch.add_rule(table, "services", &layout.dispatch(false, SERVICE_IPS));
    let mut rule = is_node_port(layout, config);
    rule.extend(layout.dispatch(true, SERVICE_IPS));
    batch.add_rule(table, "services", &rule);
}

fn is_node_port(layout: &Layout, config: &Config) -> Vec<Expr> {
    match &config.node_port_addresses {
        NodePortAddresses::All => {
            let mut rule = Layout::is_local(FibAddress::Destination);
            let loopback = layout.loopback();
            rule.extend(layout.compare(FibAddress::Destination, CmpOp::NotEqual, &loopback));
            rule
        }
        NodePortAddresses::These(_) => vec![
            layout.destination(Reg(0)),
            Expr::InSet { set: NODE_PORT_IPS, from: Reg(0), invert: false },
        ],
    }
}

/// Clients inside the cluster and this host itself get any endpoint, others those of this node.
fn external_local(batch: &mut Batch, layout: &Layout, config: &Config) {
    let table = layout.table();
    for (chain, node_port) in [(EXTERNAL_LOCAL, false), (NODE_EXTERNAL_LOCAL, true)] {
        for cidr in config.cluster_cidrs.iter().filter(|cidr| layout.is_of(cidr)) {
            let mut rule = layout.compare(FibAddress::Source, CmpOp::Equal, cidr);
            rule.extend(layout.dispatch(node_port, INTERNAL_IPS));
            batch.add_rule(table, chain, &rule);
        }
        let mut rule = Layout::is_local(FibAddress::Source);
        rule.extend(mark(config.masquerade_mark()));
        rule.extend(layout.dispatch(node_port, INTERNAL_IPS));
        batch.add_rule(table, chain, &rule);
        batch.add_rule(table, chain, &layout.dispatch(node_port, EXTERNAL_IPS));
    }
}

fn firewall(batch: &mut Batch, layout: &Layout) {
    let table = layout.table();
    let mut allowed = layout.front(false);
    allowed.push(layout.source(layout.after(Reg(0)).plus(2)));
    allowed.push(Expr::InSet { set: ALLOW, from: Reg(0), invert: false });
    allowed.push(Expr::Verdict(Verdict::Return));
    batch.add_rule(table, "firewall", &allowed);
    let mut others = layout.front(false);
    others.push(Expr::InSet { set: FIREWALL, from: Reg(0), invert: false });
    others.push(Expr::Verdict(Verdict::Drop));
    batch.add_rule(table, "firewall", &others);
}

/// What becomes of packets for services that have no endpoints.
fn absent(batch: &mut Batch, layout: &Layout, config: &Config) {
    let refuse = || Verdict::Goto(REJECT.into());
    for (set, verdict) in [(REFUSED, refuse()), (DROPPED, Verdict::Drop)] {
        let rule = layout.if_front(false, set.clone(), verdict.clone());
        batch.add_rule(layout.table(), "absent", &rule);
        let mut rule = is_node_port(layout, config);
        rule.extend(layout.if_front(true, set, verdict));
        batch.add_rule(layout.table(), "absent", &rule);
    }
}

/// What is still addressed to a service after translation has no such port, or no such service.
fn unallocated(batch: &mut Batch, layout: &Layout, config: &Config) {
    let table = layout.table();
    let reject = Expr::Verdict(Verdict::Goto(REJECT.into()));
    let in_set = Expr::InSet { set: CLUSTER_IPS, from: Reg(0), invert: false };
    batch.add_rule(table, "unallocated", &[layout.destination(Reg(0)), in_set, reject]);
    for cidr in config.service_cidrs.iter().filter(|cidr| layout.is_of(cidr)) {
        let mut rule = layout.compare(FibAddress::Destination, CmpOp::Equal, cidr);
        rule.push(Expr::Verdict(Verdict::Drop));
        batch.add_rule(table, "unallocated", &rule);
    }
}

fn if_new(chain: &'static str) -> [Expr; 4] {
    let zero = Key::new().number(0);
    [
        Expr::Ct { key: CtKey::State, direction: None, to: Reg(0) },
        Expr::Bitwise { reg: Reg(0), mask: Key::new().number(NEW), xor: zero.clone() },
        Expr::Cmp { op: CmpOp::NotEqual, from: Reg(0), value: zero },
        jump(chain),
    ]
}

fn base_chains(batch: &mut Batch, layout: &Layout, config: &Config) {
    /// Address translation's own priorities, and just before.
    const DNAT: i32 = -100;
    const BEFORE_DNAT: i32 = -110;
    const SNAT: i32 = 100;
    const FILTER: i32 = 0;
    let table = layout.table();
    let nat = ChainType::Nat;
    for (name, kind, hook, priority, rules) in [
        ("nat-prerouting", nat, Hook::Prerouting, DNAT, vec![vec![jump("services")]]),
        ("nat-output", nat, Hook::Output, DNAT, vec![vec![jump("services")]]),
        ("nat-postrouting", nat, Hook::Postrouting, SNAT, postrouting(layout, config)),
        (
            "filter-prerouting-pre-dnat",
            ChainType::Filter,
            Hook::Prerouting,
            BEFORE_DNAT,
            vec![if_new("firewall").to_vec()],
        ),
        (
            "filter-output-pre-dnat",
            ChainType::Filter,
            Hook::Output,
            BEFORE_DNAT,
            vec![if_new("firewall").to_vec()],
        ),
        ("filter-input", ChainType::Filter, Hook::Input, FILTER, vec![if_new("absent").to_vec()]),
        (
            "filter-forward",
            ChainType::Filter,
            Hook::Forward,
            FILTER,
            vec![if_new("absent").to_vec(), if_new("unallocated").to_vec()],
        ),
        (
            "filter-output",
            ChainType::Filter,
            Hook::Output,
            FILTER,
            vec![if_new("absent").to_vec(), if_new("unallocated").to_vec()],
        ),
    ] {
        batch.add_chain(table, name, Some(BaseChain { kind, hook, priority }));
        for rule in rules {
            batch.add_rule(table, name, &rule);
        }
    }
    if let NodePortAddresses::These(ips) = &config.node_port_addresses {
        let ours = ips.iter().filter(|ip| layout.is_of(&(**ip).into()));
        let elements: Vec<_> = ours.map(|ip| Element::key(Key::new().ip(*ip))).collect();
        batch.add_elements(table, &NODE_PORT_IPS, &elements);
    }
}

/// An endpoint that reaches itself, and connections marked for it, get an address of this host.
fn postrouting(layout: &Layout, config: &Config) -> Vec<Vec<Expr>> {
    let masquerade = Expr::Masquerade { fully_random: true };
    let hairpin = vec![
        layout.source(Reg(0)),
        layout.destination(layout.after(Reg(0))),
        Expr::InSet { set: HAIRPIN, from: Reg(0), invert: false },
        masquerade.clone(),
    ];
    let mut marked = take_mark(config.masquerade_mark());
    marked.push(masquerade);
    vec![hairpin, marked]
}
