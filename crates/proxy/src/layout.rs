//! Names of maps, and where things are in packets and registers, by family.

use ipnet::IpNet;
use sys::nftables::{
    CmpOp, DataType, DynsetOp, Expr, Family, FibAddress, Key, KeyFields, MetaKey, Name, NatKind,
    NumgenKind, PayloadBase, Reg, Table, Verdict,
};

/// Upstream's names for the tables, so that its tools find them and its proxy replaces them.
const TABLE: &str = "kube-proxy";
pub(crate) const IP: Table = Table { family: Family::Ip, name: TABLE };
pub(crate) const IP6: Table = Table { family: Family::Ip6, name: TABLE };

pub(crate) const SERVICE_IPS: Name = Name::Borrowed("service-ips");
pub(crate) const INTERNAL_IPS: Name = Name::Borrowed("internal-ips");
pub(crate) const EXTERNAL_IPS: Name = Name::Borrowed("external-ips");
/// Where a kind of front goes. Fronts map to kinds and only kinds to chains, since the kernel walks every element that
/// leads to a chain whenever one is added.
pub(crate) const KINDS: Name = Name::Borrowed("kinds");
/// The same for chains that translate only: the chains that tell inside from outside go on by these, and the kernel
/// takes no map that could lead back to them.
pub(crate) const TRANSLATING_KINDS: Name = Name::Borrowed("translating-kinds");
pub(crate) const REFUSED: Name = Name::Borrowed("refused-services");
pub(crate) const DROPPED: Name = Name::Borrowed("dropped-services");
pub(crate) const FIREWALL: Name = Name::Borrowed("firewall-ips");
pub(crate) const ALLOW: Name = Name::Borrowed("firewall-allow");
pub(crate) const ENDPOINTS: Name = Name::Borrowed("endpoints");
pub(crate) const AFFINITY: Name = Name::Borrowed("affinity");
pub(crate) const AFFINITY_ENDPOINTS: Name = Name::Borrowed("affinity-endpoints");
pub(crate) const CLUSTER_IPS: Name = Name::Borrowed("cluster-ips");
pub(crate) const HAIRPIN: Name = Name::Borrowed("hairpin");
pub(crate) const NODE_PORT_IPS: Name = Name::Borrowed("nodeport-ips");

pub(crate) const EXTERNAL_LOCAL: &str = "external-local";
pub(crate) const NODE_EXTERNAL_LOCAL: &str = "node-external-local";
pub(crate) const REJECT: &str = "reject-chain";

/// Fronts begin here: address, protocol, port.
const FRONT: Reg = Reg(0);
/// What a map gives of a front: a word that is not read ([`crate::encode`] says why), then the number of the port, then the
/// front's kind. In place of the last the place of an endpoint, or the endpoint itself.
const OF_PORT: Reg = Reg(7);
const PORT_ID: Reg = OF_PORT.plus(1);
const KIND: Reg = PORT_ID.plus(1);
/// The same one further on.
const OF_ENDPOINT: Reg = Reg(8);
const ENDPOINT_ID: Reg = OF_ENDPOINT.plus(1);
const ENDPOINT: Reg = Reg(10);
/// The key of a client's affinity: where the front was, after the word that is not read.
const AFFINITY_KEY: Reg = FRONT.plus(1);
/// The address type of the node's own addresses.
const LOCAL_TYPE: u32 = 2;

/// How one family's packets are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) family: Family,
    length: u32,
    words: u8,
    source: u32,
    destination: u32,
}

const V4: Layout = Layout { family: Family::Ip, length: 4, words: 1, source: 12, destination: 16 };
const V6: Layout = Layout { family: Family::Ip6, length: 16, words: 4, source: 8, destination: 24 };

impl Layout {
    pub(crate) const fn of(family: Family) -> Self {
        match family {
            Family::Ip6 => V6,
            Family::Ip | Family::Inet => V4,
        }
    }

    pub(crate) const fn table(&self) -> &'static Table {
        if self.length == 4 { &IP } else { &IP6 }
    }

    pub(crate) fn is_of(&self, net: &IpNet) -> bool {
        matches!(net, IpNet::V4(_)) == (self.length == 4)
    }

    pub(crate) const fn address_type(&self) -> DataType {
        if self.length == 4 { DataType::Ipv4Address } else { DataType::Ipv6Address }
    }

    pub(crate) fn loopback(&self) -> IpNet {
        let text = if self.length == 4 { "127.0.0.0/8" } else { "::1/128" };
        text.parse().expect("because it is a network")
    }

    fn address(&self, offset: u32, to: Reg) -> Expr {
        Expr::Payload { base: PayloadBase::Network, offset, length: self.length, to }
    }

    pub(crate) fn source(&self, to: Reg) -> Expr {
        self.address(self.source, to)
    }

    pub(crate) fn destination(&self, to: Reg) -> Expr {
        self.address(self.destination, to)
    }

    /// The register after an address.
    pub(crate) const fn after(&self, reg: Reg) -> Reg {
        reg.plus(self.words)
    }

    /// Loads the front: of a node port with the unspecified address in place of the node's.
    pub(crate) fn front(&self, node_port: bool) -> Vec<Expr> {
        let zeros = Key::from_elem(0, if self.length == 4 { 4 } else { 16 });
        let address = if node_port {
            Expr::Immediate { to: FRONT, value: zeros }
        } else {
            self.destination(FRONT)
        };
        let protocol = Expr::Meta { key: MetaKey::TransportProtocol, to: self.after(FRONT) };
        let port = Expr::Payload {
            base: PayloadBase::Transport,
            offset: 2,
            length: 2,
            to: self.after(FRONT).plus(1),
        };
        vec![address, protocol, port]
    }

    /// Goes where the front's kind in `map` says.
    pub(crate) fn dispatch(&self, node_port: bool, map: Name) -> Vec<Expr> {
        let mut rule = self.front(node_port);
        // In the map of services the number comes before the kind.
        let (to, kinds) =
            if map == SERVICE_IPS { (OF_PORT, KINDS) } else { (PORT_ID, TRANSLATING_KINDS) };
        rule.push(Expr::Map { map, from: FRONT, to });
        rule.push(Expr::VerdictMap { map: kinds, from: KIND });
        rule
    }

    /// Goes on with `verdict` if the front is in `set`.
    pub(crate) fn if_front(&self, node_port: bool, set: Name, verdict: Verdict) -> Vec<Expr> {
        let mut rule = self.front(node_port);
        rule.push(Expr::InSet { set, from: FRONT, invert: false });
        rule.push(Expr::Verdict(verdict));
        rule
    }

    /// Whether source or destination is in a network, or is not.
    pub(crate) fn compare(&self, address: FibAddress, op: CmpOp, net: &IpNet) -> Vec<Expr> {
        let load = match address {
            FibAddress::Source => self.source(Reg(0)),
            FibAddress::Destination => self.destination(Reg(0)),
        };
        let zeros = Key::from_elem(0, if self.length == 4 { 4 } else { 16 });
        vec![
            load,
            Expr::Bitwise { reg: Reg(0), mask: Key::new().ip(net.netmask()), xor: zeros },
            Expr::Cmp { op, from: Reg(0), value: Key::new().ip(net.network()) },
        ]
    }

    /// Goes on if the address is one of this host.
    pub(crate) fn is_local(address: FibAddress) -> Vec<Expr> {
        let value = Key::new().number(LOCAL_TYPE);
        vec![
            Expr::FibType { address, to: Reg(0) },
            Expr::Cmp { op: CmpOp::Equal, from: Reg(0), value },
        ]
    }

    fn id(to: Reg) -> Expr {
        Expr::Map { map: SERVICE_IPS, from: FRONT, to }
    }

    /// Draws an endpoint: `endpoints[id . base + random mod count]`.
    pub(crate) fn draw(node_port: bool, layout: &Self, count: u32, base: u32) -> Vec<Expr> {
        let kind = NumgenKind::Random;
        let mut rule = layout.front(node_port);
        rule.extend([
            Self::id(OF_PORT),
            Expr::Numgen { to: KIND, modulus: count, kind, offset: base },
            Expr::Map { map: ENDPOINTS, from: PORT_ID, to: ENDPOINT },
        ]);
        rule
    }

    /// Loads the key of a client's affinity: `id . saddr`.
    fn affinity_key(&self) -> [Expr; 2] {
        [Self::id(FRONT), self.source(AFFINITY_KEY.plus(1))]
    }

    /// Recalls the endpoint a client had, if it is still one.
    pub(crate) fn recall(&self, node_port: bool, timeout_ms: u64) -> Vec<Expr> {
        let mut rule = self.front(node_port);
        rule.push(Self::id(OF_ENDPOINT));
        rule.extend(self.affinity_key());
        rule.extend([
            Expr::Map { map: AFFINITY, from: AFFINITY_KEY, to: ENDPOINT },
            Expr::InSet { set: AFFINITY_ENDPOINTS, from: ENDPOINT_ID, invert: false },
            affinity(DynsetOp::Update, Some(timeout_ms)),
            self.translate(),
        ]);
        rule
    }

    /// Draws an endpoint and notes that the client has it, in place of one that is gone.
    pub(crate) fn draw_and_note(
        &self,
        node_port: bool,
        count: u32,
        base: u32,
        timeout_ms: u64,
    ) -> Vec<Expr> {
        let mut rule = Self::draw(node_port, self, count, base);
        rule.extend(self.affinity_key());
        rule.extend([
            // An update keeps the data of an element that is there.
            affinity(DynsetOp::Delete, None),
            affinity(DynsetOp::Update, Some(timeout_ms)),
            self.translate(),
        ]);
        rule
    }

    /// `dnat to` the endpoint drawn or recalled.
    pub(crate) fn translate(&self) -> Expr {
        let port = Some(self.after(ENDPOINT));
        Expr::Nat { kind: NatKind::Destination, family: self.family, address: ENDPOINT, port }
    }
}

fn affinity(op: DynsetOp, timeout_ms: Option<u64>) -> Expr {
    Expr::Dynset { set: AFFINITY, op, key: AFFINITY_KEY, data: Some(ENDPOINT), timeout_ms }
}

/// `meta mark set meta mark | bit`
pub(crate) fn mark(bit: u32) -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::Mark, to: Reg(0) },
        Expr::Bitwise { reg: Reg(0), mask: Key::new().number(!bit), xor: Key::new().number(bit) },
        Expr::SetMeta { key: MetaKey::Mark, from: Reg(0) },
    ]
}

/// Goes on if the mark has the bit, and takes it off.
pub(crate) fn take_mark(bit: u32) -> Vec<Expr> {
    let (zero, one) = (Key::new().number(0), Key::new().number(bit));
    vec![
        Expr::Meta { key: MetaKey::Mark, to: Reg(0) },
        Expr::Bitwise { reg: Reg(0), mask: one.clone(), xor: zero.clone() },
        Expr::Cmp { op: CmpOp::Equal, from: Reg(0), value: one },
        Expr::Meta { key: MetaKey::Mark, to: Reg(0) },
        Expr::Bitwise { reg: Reg(0), mask: Key::new().number(!bit), xor: zero },
        Expr::SetMeta { key: MetaKey::Mark, from: Reg(0) },
    ]
}

pub(crate) fn jump(chain: &'static str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.into()))
}
