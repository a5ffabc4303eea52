//! Transactions in the kernel's terms.

use std::collections::BTreeMap;

use ipnet::IpNet;
use sys::nftables::{Batch, Element, ElementData, Family, Key, KeyFields, Name, Verdict};

use crate::layout::{
    AFFINITY_ENDPOINTS, ALLOW, CLUSTER_IPS, ENDPOINTS, EXTERNAL_IPS, EXTERNAL_LOCAL, FIREWALL,
    HAIRPIN, INTERNAL_IPS, Layout, NO_ENDPOINT, NODE_EXTERNAL_LOCAL, REJECT, SERVICE_IDS,
    SERVICE_IPS, mark,
};
use crate::rules::{ChainSpec, Entry, LOCAL_BASE, Pool, Target, Value};
use crate::service::Front;

const MILLISECONDS: u64 = 1000;

/// A chain that translates, with its rules.
pub(crate) fn add_chain(batch: &mut Batch, family: Family, chain: ChainSpec, mark_bit: u32) {
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
}

pub(crate) fn delete_chain(batch: &mut Batch, family: Family, chain: ChainSpec) {
    batch.delete_chain(Layout::of(family).table(), &chain.to_string());
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
) {
    let mut maps: BTreeMap<(Family, Name), Vec<Element>> = BTreeMap::new();
    for (entry, value) in entries {
        let family = if entry.is_v6() { Family::Ip6 } else { Family::Ip };
        let (map, element) = element(*entry, *value);
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

fn element(entry: Entry, value: Value) -> (Name, Element) {
    let (map, key) = match entry {
        Entry::Service(f) => (SERVICE_IPS, front(f)),
        Entry::Internal(f) => (INTERNAL_IPS, front(f)),
        Entry::External(f) => (EXTERNAL_IPS, front(f)),
        Entry::Id(f) => (SERVICE_IDS, front(f)),
        Entry::NoEndpoint(f) => (NO_ENDPOINT, front(f)),
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
        Value::Id(id) => ElementData::Value(Key::new().number(id)),
        Value::Endpoint(ip, port) => ElementData::Value(Key::new().ip(ip).port(port)),
        Value::Goto(target) => ElementData::Verdict(verdict(target)),
    };
    (map, Element::map(key, data))
}

fn range_element(f: Front, range: IpNet) -> Element {
    let mut element = Element::key(front(f).ip(range.network()));
    element.key_end = Some(front(f).ip(range.broadcast()));
    element
}

fn verdict(target: Target) -> Verdict {
    match target {
        Target::Chain(chain) => Verdict::Goto(chain.to_string().into()),
        Target::ExternalLocal { node_port: false } => Verdict::Goto(EXTERNAL_LOCAL.into()),
        Target::ExternalLocal { node_port: true } => Verdict::Goto(NODE_EXTERNAL_LOCAL.into()),
        Target::Reject => Verdict::Goto(REJECT.into()),
        Target::Drop => Verdict::Drop,
    }
}
