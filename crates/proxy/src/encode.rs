//! Transactions in the kernel's terms.

use std::collections::BTreeMap;

use ipnet::IpNet;
use sys::nftables::{Batch, Element, ElementData, Family, Key, KeyFields, Name, Table, Verdict};

use crate::layout::{
    AFFINITY_ENDPOINTS, ALLOW, CLUSTER_IPS, DROPPED, ENDPOINTS, EXTERNAL_IPS, FIREWALL, HAIRPIN,
    INTERNAL_IPS, KINDS, Layout, REFUSED, SERVICE_IPS, TRANSLATING_KINDS, mark,
};
use crate::rules::{ChainSpec, Entry, LOCAL_BASE, Pool, Target, Value};
use crate::service::Front;
use crate::store::NumberedChain;

const MILLISECONDS: u64 = 1000;

/// The kinds of fronts that lead to the constant chains; those of chains that come and go have higher numbers.
pub(crate) const EXTERNAL_LOCAL_KIND: u32 = 1;
pub(crate) const NODE_EXTERNAL_LOCAL_KIND: u32 = 2;
pub(crate) const FIRST_KIND: u32 = 3;

/// A kind of front, which leads to `chain`.
pub(crate) fn add_kind(batch: &mut Batch, table: &Table, kinds: &Name, kind: u32, chain: &str) {
    let verdict = Verdict::Goto(chain.to_owned().into());
    let element = Element::map(Key::new().number(kind), ElementData::Verdict(verdict));
    batch.add_elements(table, kinds, [&element]);
}

/// A chain that translates, with its rules, and the kind that leads to it.
pub(crate) fn add_chain(batch: &mut Batch, chain: &NumberedChain, mark_bit: u32) {
    let NumberedChain { family, chain, kind } = *chain;
    let layout = Layout::of(family);
    let (table, name) = (layout.table(), chain.to_string());
    let base = if chain.pool == Pool::Local { LOCAL_BASE } else { 0 };
    let (node_port, count) = (chain.node_port, chain.endpoints);
    batch.add_chain(table, &name, None);
    if chain.masquerade {
        batch.add_rule(table, &name, &mark(mark_bit));
    }
    if let Some(seconds) = chain.affinity_seconds {
        let timeout = u64::from(seconds) * MILLISECONDS;
        batch.add_rule(table, &name, &layout.recall(node_port, timeout));
        batch.add_rule(table, &name, &layout.draw_and_note(node_port, count, base, timeout));
    }
    let mut rule = Layout::draw(node_port, &layout, count, base);
    rule.push(layout.translate());
    batch.add_rule(table, &name, &rule);
    for kinds in [KINDS, TRANSLATING_KINDS] {
        add_kind(batch, table, &kinds, kind, &name);
    }
}

pub(crate) fn delete_chain(batch: &mut Batch, chain: &NumberedChain) {
    let table = Layout::of(chain.family).table();
    let element = Element::key(Key::new().number(chain.kind));
    for kinds in [KINDS, TRANSLATING_KINDS] {
        batch.delete_elements(table, &kinds, [&element]);
    }
    batch.delete_chain(table, &chain.chain.to_string());
}

/// Whether entries come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Add,
    Delete,
}

/// Entries, gathered by map so that each map is one message.
pub(crate) fn entries<'a>(
    batch: &mut Batch,
    direction: Direction,
    entries: impl Iterator<Item = &'a (Entry, Value)>,
    kind_of: impl Fn(Family, ChainSpec) -> u32,
) {
    let mut maps: BTreeMap<(Family, Name), Vec<Element>> = BTreeMap::new();
    for (entry, value) in entries {
        let family = if entry.is_v6() { Family::Ip6 } else { Family::Ip };
        let kind = value.target().map_or(0, |target| kind(target, |chain| kind_of(family, chain)));
        let (map, element) = element(*entry, *value, kind);
        maps.entry((family, map)).or_default().push(element);
    }
    for ((family, map), elements) in &maps {
        let table = Layout::of(*family).table();
        match direction {
            Direction::Add => batch.add_elements(table, map, elements),
            Direction::Delete => batch.delete_elements(table, map, elements),
        }
    }
}

fn front(front: Front) -> Key {
    Key::new().ip(front.ip).protocol(front.protocol.number()).port(front.port)
}

fn kind(target: Target, kind_of: impl FnOnce(ChainSpec) -> u32) -> u32 {
    match target {
        Target::Chain(chain) => kind_of(chain),
        Target::ExternalLocal { node_port: false } => EXTERNAL_LOCAL_KIND,
        Target::ExternalLocal { node_port: true } => NODE_EXTERNAL_LOCAL_KIND,
        // Told by which set the front is in.
        Target::Reject | Target::Drop => 0,
    }
}

fn element(entry: Entry, value: Value, kind: u32) -> (Name, Element) {
    let (map, key) = match entry {
        Entry::Service(f) => (SERVICE_IPS, front(f)),
        Entry::Internal(f) => (INTERNAL_IPS, front(f)),
        Entry::External(f) => (EXTERNAL_IPS, front(f)),
        Entry::NoEndpoint(f) if value == Value::Goto(Target::Drop) => {
            return (DROPPED, Element::key(front(f)));
        }
        Entry::NoEndpoint(f) => return (REFUSED, Element::key(front(f))),
        Entry::Firewall(f) => (FIREWALL, front(f)),
        Entry::Allow(f, range) => return (ALLOW, range_element(f, range)),
        Entry::Endpoint { id, place, .. } => (ENDPOINTS, Key::new().number(id).number(place)),
        Entry::AffinityEndpoint(id, ip, port) => {
            (AFFINITY_ENDPOINTS, Key::new().number(id).ip(ip).port(port))
        }
        Entry::ClusterIp(ip) => (CLUSTER_IPS, Key::new().ip(ip)),
        Entry::Hairpin(ip) => (HAIRPIN, Key::new().ip(ip).ip(ip)),
    };
    let data = match value {
        Value::None => ElementData::None,
        Value::Service(id, _) => ElementData::Value(unread().number(id).number(kind)),
        Value::Endpoint(ip, port) => ElementData::Value(Key::new().ip(ip).port(port)),
        Value::Goto(_) => ElementData::Value(unread().number(kind)),
    };
    (map, Element::map(key, data))
}

/// What maps hold begins with a word that no rule reads: `nft` up to 1.0.6 (Debian 12) dies where what a map gives is itself
/// looked up, and only complains where something further on in it is.
fn unread() -> Key {
    Key::new().number(0)
}

fn range_element(f: Front, range: IpNet) -> Element {
    let mut element = Element::key(front(f).ip(range.network()));
    element.key_end = Some(front(f).ip(range.broadcast()));
    element
}
