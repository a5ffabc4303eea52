//! nf_tables and connection tracking over netlink: an encoder for what the pod network and the service proxy
//! need, sent as transactions that happen as a whole or not at all.
//!
//! Knows nothing of services. Registers, chains and maps are the kernel's own; a rule is a list of
//! expressions, checked by the kernel alone.

mod batch;
mod conntrack;
mod expr;
mod monitor;
mod read;
mod set;

use std::borrow::Cow;

pub use batch::{BaseChain, Batch, ChainType, Hook, Nftables};
pub use conntrack::{Conntrack, Flow, Tuple};
pub use expr::{
    CmpOp, CtDirection, CtKey, DynsetOp, Expr, FibAddress, MetaKey, NatKind, NumgenKind,
    PayloadBase, Reg, RejectKind, Verdict,
};
pub use monitor::Monitor;
pub use read::RuleSummary;
pub use set::{DataType, Element, ElementData, Key, KeyFields, Set, SetData, SetFlags};

/// A name of a table, chain or set: mostly fixed, sometimes made.
pub type Name = Cow<'static, str>;

/// The family a table is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Both IP versions.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

/// A table, by name and family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// The family.
    pub family: Family,
    /// The name.
    pub name: &'static str,
}
