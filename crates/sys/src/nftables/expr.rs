//! Expressions: what a rule is made of.

use super::Name;
use super::set::Key;
use crate::netlink::wire::Writer;

const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
/// The verdict register.
const REG_VERDICT: u32 = 0;

/// One of the sixteen 32-bit registers. A value of several words uses the following ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reg(pub u8);

impl Reg {
    /// The register `words` further.
    #[must_use]
    pub const fn plus(self, words: u8) -> Self {
        Self(self.0 + words)
    }

    fn number(self) -> u32 {
        8 + u32::from(self.0)
    }
}

/// Where in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadBase {
    /// From the IP header on.
    Network,
    /// From the TCP or UDP header on.
    Transport,
}

/// What is known of a packet besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    /// The mark, which routing and rules share.
    Mark,
    /// The link it came in by, by number.
    InputLink,
    /// The link it leaves by, by number.
    OutputLink,
    /// The link it leaves by, by name (16 bytes).
    OutputLinkName,
    /// IPv4 or IPv6.
    NetworkProtocol,
    /// TCP, UDP, ...
    TransportProtocol,
}

/// What connection tracking knows of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtKey {
    /// State bits: 2 established, 4 related, 8 new.
    State,
    /// Status bits: 0x20 destination translated.
    Status,
    /// Where a connection's packets of one direction go, IPv4.
    DestinationIp,
    /// Where a connection's packets of one direction go, IPv6.
    DestinationIp6,
    /// The port they go to.
    DestinationPort,
}

/// Which packets of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CtDirection {
    /// Those of the side that began.
    Original,
    /// Those of the other side.
    Reply,
}

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CmpOp {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
}

/// How numbers are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumgenKind {
    /// One after the other.
    Incremental,
    /// At random.
    Random,
}

/// Which end is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatKind {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// Which address of the packet is looked up in the routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FibAddress {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// What a packet path does to a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DynsetOp {
    /// Add the element, unless it is there.
    Add,
    /// Add the element, or start its time anew.
    Update,
    /// Delete the element, if it is there.
    Delete,
}

/// What a rejected sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectKind {
    /// ICMP port unreachable; the family is that of the table.
    PortUnreachable(super::Family),
    /// A TCP reset.
    TcpReset,
}

/// Where evaluation goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The packet passes this hook's chain.
    Accept,
    /// The packet is gone.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// On in a chain, and back here.
    Jump(Name),
    /// On in a chain, and not back here.
    Goto(Name),
}

/// One expression of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads bytes of the packet.
    Payload {
        /// From where.
        base: PayloadBase,
        /// How far into it.
        offset: u32,
        /// How many bytes.
        length: u32,
        /// To where.
        to: Reg,
    },
    /// Loads what is known of the packet.
    Meta {
        /// What.
        key: MetaKey,
        /// To where.
        to: Reg,
    },
    /// Sets what is known of the packet.
    SetMeta {
        /// What.
        key: MetaKey,
        /// From where.
        from: Reg,
    },
    /// Loads what connection tracking knows.
    Ct {
        /// What.
        key: CtKey,
        /// Of which direction, where the key has one.
        direction: Option<CtDirection>,
        /// To where.
        to: Reg,
    },
    /// Ends the rule unless the register compares so.
    Cmp {
        /// How.
        op: CmpOp,
        /// What.
        from: Reg,
        /// With what.
        value: Key,
    },
    /// `(register & mask) ^ xor`.
    Bitwise {
        /// The register, in place.
        reg: Reg,
        /// What stays.
        mask: Key,
        /// What is flipped then.
        xor: Key,
    },
    /// Loads a value.
    Immediate {
        /// To where.
        to: Reg,
        /// What.
        value: Key,
    },
    /// Goes somewhere.
    Verdict(Verdict),
    /// Ends the rule unless the set has the key.
    InSet {
        /// The set.
        set: Name,
        /// The key.
        from: Reg,
        /// Ends the rule if the set has it, instead.
        invert: bool,
    },
    /// Loads what a map holds; ends the rule if it has no such key.
    Map {
        /// The map.
        map: Name,
        /// The key.
        from: Reg,
        /// To where.
        to: Reg,
    },
    /// Goes where a map says; on with the rule if it has no such key.
    VerdictMap {
        /// The map.
        map: Name,
        /// The key.
        from: Reg,
    },
    /// Loads a number below `modulus`, plus `offset`.
    Numgen {
        /// To where.
        to: Reg,
        /// The bound.
        modulus: u32,
        /// How it is drawn.
        kind: NumgenKind,
        /// What is added.
        offset: u32,
    },
    /// Loads a hash below `modulus`, plus `offset`.
    Jhash {
        /// Of what.
        from: Reg,
        /// Of how many bytes.
        length: u32,
        /// To where.
        to: Reg,
        /// The bound.
        modulus: u32,
        /// The seed.
        seed: u32,
        /// What is added.
        offset: u32,
    },
    /// Translates an end of the connection.
    Nat {
        /// Which.
        kind: NatKind,
        /// The version of the address.
        family: super::Family,
        /// The address.
        address: Reg,
        /// The port, where it is translated.
        port: Option<Reg>,
    },
    /// Translates the source to an address of the link the packet leaves by.
    Masquerade {
        /// With a port drawn at random instead of the first that is free.
        fully_random: bool,
    },
    /// Refuses the packet and says so.
    Reject(RejectKind),
    /// Loads the type of an address (1 unicast, 2 local, 3 broadcast, 5 multicast).
    FibType {
        /// Which address.
        address: FibAddress,
        /// To where.
        to: Reg,
    },
    /// Counts packets and bytes.
    Counter,
    /// Changes a set from the packet path. Ends the rule where an element could not be added.
    Dynset {
        /// The set.
        set: Name,
        /// What to do.
        op: DynsetOp,
        /// The key.
        key: Reg,
        /// The data, where it is a map.
        data: Option<Reg>,
        /// How long the element stays, instead of the set's own.
        timeout_ms: Option<u64>,
    },
}

pub(super) fn put_list(writer: &mut Writer, kind: u16, expressions: &[Expr]) {
    writer.nested(kind, |w| {
        for expression in expressions {
            w.nested(LIST_ELEM, |w| put(w, expression));
        }
    });
}

pub(super) fn put_value(writer: &mut Writer, kind: u16, value: &[u8]) {
    writer.nested(kind, |w| w.attribute(DATA_VALUE, value));
}

pub(super) fn put_verdict(writer: &mut Writer, kind: u16, verdict: &Verdict) {
    const CODE: u16 = 1;
    const CHAIN: u16 = 2;
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Return => (-5, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    writer.nested(kind, |w| {
        w.nested(DATA_VERDICT, |w| {
            w.attribute(CODE, &i32::to_be_bytes(code));
            if let Some(chain) = chain {
                w.string(CHAIN, chain);
            }
        });
    });
}

fn put(writer: &mut Writer, expression: &Expr) {
    writer.string(EXPR_NAME, name(expression));
    writer.nested(EXPR_DATA, |w| put_data(w, expression));
}

const fn name(expression: &Expr) -> &'static str {
    match expression {
        Expr::Payload { .. } => "payload",
        Expr::Meta { .. } | Expr::SetMeta { .. } => "meta",
        Expr::Ct { .. } => "ct",
        Expr::Cmp { .. } => "cmp",
        Expr::Bitwise { .. } => "bitwise",
        Expr::Immediate { .. } | Expr::Verdict(_) => "immediate",
        Expr::InSet { .. } | Expr::Map { .. } | Expr::VerdictMap { .. } => "lookup",
        Expr::Numgen { .. } => "numgen",
        Expr::Jhash { .. } => "hash",
        Expr::Nat { .. } => "nat",
        Expr::Masquerade { .. } => "masq",
        Expr::Reject(_) => "reject",
        Expr::FibType { .. } => "fib",
        Expr::Counter => "counter",
        Expr::Dynset { .. } => "dynset",
    }
}

fn put_data(w: &mut Writer, expression: &Expr) {
    match expression {
        Expr::Payload { base, offset, length, to } => {
            w.be32(1, to.number());
            w.be32(2, base.number());
            w.be32(3, *offset);
            w.be32(4, *length);
        }
        Expr::Meta { key, to } => {
            w.be32(1, to.number());
            w.be32(2, key.number());
        }
        Expr::SetMeta { key, from } => {
            w.be32(2, key.number());
            w.be32(3, from.number());
        }
        Expr::Ct { key, direction, to } => {
            w.be32(1, to.number());
            w.be32(2, key.number());
            if let Some(direction) = direction {
                w.attribute(3, &[u8::from(*direction == CtDirection::Reply)]);
            }
        }
        Expr::Cmp { op, from, value } => {
            w.be32(1, from.number());
            w.be32(2, u32::from(*op == CmpOp::NotEqual));
            put_value(w, 3, value);
        }
        Expr::Bitwise { reg, mask, xor } => {
            w.be32(1, reg.number());
            w.be32(2, reg.number());
            w.be32(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
            put_value(w, 4, mask);
            put_value(w, 5, xor);
        }
        Expr::Immediate { to, value } => {
            w.be32(1, to.number());
            put_value(w, 2, value);
        }
        Expr::Verdict(verdict) => {
            w.be32(1, REG_VERDICT);
            put_verdict(w, 2, verdict);
        }
        Expr::InSet { .. } | Expr::Map { .. } | Expr::VerdictMap { .. } => {
            put_lookup(w, expression);
        }
        Expr::Numgen { .. } | Expr::Jhash { .. } => put_number(w, expression),
        Expr::Nat { .. } | Expr::Masquerade { .. } | Expr::Reject(_) => {
            put_statement(w, expression);
        }
        Expr::FibType { address, to } => {
            w.be32(1, to.number());
            w.be32(2, 3);
            w.be32(3, if *address == FibAddress::Source { 1 } else { 2 });
        }
        Expr::Counter => {}
        Expr::Dynset { .. } => put_dynset(w, expression),
    }
}

fn put_lookup(w: &mut Writer, expression: &Expr) {
    let (set, from, to, invert) = match expression {
        Expr::InSet { set, from, invert } => (set, from, None, *invert),
        Expr::Map { map, from, to } => (map, from, Some(to.number()), false),
        Expr::VerdictMap { map, from } => (map, from, Some(REG_VERDICT), false),
        _ => return,
    };
    w.string(1, set);
    w.be32(2, from.number());
    if let Some(to) = to {
        w.be32(3, to);
    }
    if invert {
        w.be32(5, 1);
    }
}

fn put_number(w: &mut Writer, expression: &Expr) {
    match expression {
        Expr::Numgen { to, modulus, kind, offset } => {
            w.be32(1, to.number());
            w.be32(2, *modulus);
            w.be32(3, u32::from(*kind == NumgenKind::Random));
            w.be32(4, *offset);
        }
        Expr::Jhash { from, length, to, modulus, seed, offset } => {
            w.be32(1, from.number());
            w.be32(2, to.number());
            w.be32(3, *length);
            w.be32(4, *modulus);
            w.be32(5, *seed);
            w.be32(6, *offset);
            w.be32(7, 0);
        }
        _ => {}
    }
}

fn put_statement(w: &mut Writer, expression: &Expr) {
    const FULLY_RANDOM: u32 = 1 << 4;
    match expression {
        Expr::Nat { kind, family, address, port } => {
            w.be32(1, u32::from(*kind == NatKind::Destination));
            w.be32(2, u32::from(family.number()));
            w.be32(3, address.number());
            if let Some(port) = port {
                w.be32(5, port.number());
            }
        }
        Expr::Masquerade { fully_random: true } => w.be32(1, FULLY_RANDOM),
        Expr::Reject(RejectKind::PortUnreachable(family)) => {
            let (kind, code) = match family {
                super::Family::Ip => (0, 3),
                super::Family::Ip6 => (0, 4),
                super::Family::Inet => (2, 1),
            };
            w.be32(1, kind);
            w.attribute(2, &[code]);
        }
        Expr::Reject(RejectKind::TcpReset) => w.be32(1, 1),
        _ => {}
    }
}

fn put_dynset(w: &mut Writer, expression: &Expr) {
    let Expr::Dynset { set, op, key, data, timeout_ms } = expression else { return };
    w.string(1, set);
    let op = match op {
        DynsetOp::Add => 0,
        DynsetOp::Update => 1,
        DynsetOp::Delete => 2,
    };
    w.be32(3, op);
    w.be32(4, key.number());
    if let Some(data) = data {
        w.be32(5, data.number());
    }
    if let Some(timeout_ms) = timeout_ms {
        w.be64(6, *timeout_ms);
    }
}

impl PayloadBase {
    const fn number(self) -> u32 {
        match self {
            Self::Network => 1,
            Self::Transport => 2,
        }
    }
}

impl MetaKey {
    const fn number(self) -> u32 {
        match self {
            Self::Mark => 3,
            Self::InputLink => 4,
            Self::OutputLink => 5,
            Self::OutputLinkName => 7,
            Self::NetworkProtocol => 15,
            Self::TransportProtocol => 16,
        }
    }
}

impl CtKey {
    const fn number(self) -> u32 {
        match self {
            Self::State => 0,
            Self::Status => 2,
            Self::DestinationPort => 12,
            Self::DestinationIp => 20,
            Self::DestinationIp6 => 22,
        }
    }
}
