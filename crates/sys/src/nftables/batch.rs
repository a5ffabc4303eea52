//! Transactions: a list of changes that the kernel takes as a whole or not at all.

use std::io;

use super::expr::{Expr, put_list};
use super::set::{Element, Set, put_element, put_set};
use super::{Family, Name, Table};
use crate::netlink::wire::{self, Writer};
use crate::netlink::{NetlinkError, Netns, Protocol, Socket};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
pub(super) const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
pub(super) const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const DELCHAIN: u16 = SUBSYSTEM | 5;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const DELSET: u16 = SUBSYSTEM | 11;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const DELSETELEM: u16 = SUBSYSTEM | 14;

/// How many bytes of elements go into one message: their list is an attribute, and those end at 64 KiB.
const ELEMENT_BYTES: usize = 48 << 10;

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// All that comes in, before routing.
    Prerouting,
    /// What is for this host.
    Input,
    /// What passes through.
    Forward,
    /// What this host sends.
    Output,
    /// All that leaves, after routing.
    Postrouting,
}

/// What a base chain is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainType {
    /// Letting through or not.
    Filter,
    /// Translating addresses; sees the first packet of a connection only.
    Nat,
}

/// A chain that packets come to by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BaseChain {
    /// What for.
    pub kind: ChainType,
    /// Where.
    pub hook: Hook,
    /// Lower ones first. -100 and 100 are those of address translation, 0 is the filter's.
    pub priority: i32,
}

/// Changes to be made at once, in order.
#[derive(Debug, Default)]
pub struct Batch {
    writer: Writer,
    doing: Vec<String>,
    last: usize,
    sets: u32,
}

impl Batch {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.doing.is_empty()
    }

    /// How many bytes it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.writer.len()
    }

    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        doing: String,
        body: impl FnOnce(&mut Writer),
    ) {
        self.doing.push(doing);
        // Sequence numbers count from 1 within the batch; 0 is the batch's own begin and end.
        let sequence = u32::try_from(self.doing.len()).unwrap_or(u32::MAX);
        self.last = self.writer.len();
        self.writer.message(kind, wire::REQUEST | flags, sequence, |w| {
            w.put(&[family.number(), 0, 0, 0]);
            body(w);
        });
    }

    /// Makes a table, unless it is there.
    pub fn add_table(&mut self, table: &Table) {
        let doing = format!("add table {}", table.name);
        self.push(NEWTABLE, wire::CREATE, table.family, doing, |w| {
            w.string(1, table.name);
            w.be32(2, 0);
        });
    }

    /// Deletes a table, which must be there, with all that is in it.
    pub fn delete_table(&mut self, table: &Table) {
        let doing = format!("delete table {}", table.name);
        self.push(DELTABLE, 0, table.family, doing, |w| w.string(1, table.name));
    }

    /// Makes a table that is empty, whether or not there was one.
    pub fn replace_table(&mut self, table: &Table) {
        self.add_table(table);
        self.delete_table(table);
        self.add_table(table);
    }

    /// Deletes a table, whether or not there is one.
    pub fn remove_table(&mut self, table: &Table) {
        self.add_table(table);
        self.delete_table(table);
    }

    /// Makes a chain, unless it is there; a base chain where `base` says so.
    pub fn add_chain(&mut self, table: &Table, name: &str, base: Option<BaseChain>) {
        let doing = format!("add chain {name} to table {}", table.name);
        self.push(NEWCHAIN, wire::CREATE, table.family, doing, |w| {
            w.string(1, table.name);
            w.string(3, name);
            if let Some(base) = base {
                put_base(w, base);
            }
        });
    }

    /// Deletes a chain and its rules.
    pub fn delete_chain(&mut self, table: &Table, name: &str) {
        self.flush_chain(table, name);
        let doing = format!("delete chain {name} from table {}", table.name);
        self.push(DELCHAIN, 0, table.family, doing, |w| {
            w.string(1, table.name);
            w.string(3, name);
        });
    }

    /// Deletes a chain's rules.
    pub fn flush_chain(&mut self, table: &Table, name: &str) {
        let doing = format!("flush chain {name} of table {}", table.name);
        self.push(DELRULE, 0, table.family, doing, |w| {
            w.string(1, table.name);
            w.string(2, name);
        });
    }

    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, table: &Table, chain: &str, expressions: &[Expr]) {
        let doing = format!("add a rule to chain {chain} of table {}", table.name);
        self.push(NEWRULE, wire::CREATE | wire::APPEND, table.family, doing, |w| {
            w.string(1, table.name);
            w.string(2, chain);
            put_list(w, 4, expressions);
        });
    }

    /// Makes a set or map, unless it is there.
    pub fn add_set(&mut self, table: &Table, set: &Set) {
        self.sets += 1;
        let id = self.sets;
        let doing = format!("add set {} to table {}", set.name, table.name);
        self.push(NEWSET, wire::CREATE, table.family, doing, |w| put_set(w, table, set, id));
    }

    /// Deletes a set or map.
    pub fn delete_set(&mut self, table: &Table, name: &str) {
        let doing = format!("delete set {name} from table {}", table.name);
        self.push(DELSET, 0, table.family, doing, |w| {
            w.string(1, table.name);
            w.string(2, name);
        });
    }

    /// Adds elements. One that is there with other data makes the transaction fail.
    pub fn add_elements<'a>(
        &mut self,
        table: &Table,
        set: &Name,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        self.elements(NEWSETELEM, table, set, elements);
    }

    /// Deletes elements. One that is not there makes the transaction fail.
    pub fn delete_elements<'a>(
        &mut self,
        table: &Table,
        set: &Name,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        self.elements(DELSETELEM, table, set, elements);
    }

    fn elements<'a>(
        &mut self,
        kind: u16,
        table: &Table,
        set: &Name,
        elements: impl IntoIterator<Item = &'a Element>,
    ) {
        let (verb, flags) = if kind == NEWSETELEM { ("add", wire::CREATE) } else { ("delete", 0) };
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            let doing = format!("{verb} elements of set {set} of table {}", table.name);
            self.push(kind, flags, table.family, doing, |w| {
                w.string(1, table.name);
                w.string(2, set);
                w.nested(3, |w| {
                    let end = w.len() + ELEMENT_BYTES;
                    while let Some(element) = elements.next_if(|e| w.len() + e.size_hint() < end) {
                        put_element(w, element);
                    }
                });
            });
        }
    }
}

fn put_base(w: &mut Writer, base: BaseChain) {
    const ACCEPT: u32 = 1;
    let hook = match base.hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    };
    w.nested(4, |w| {
        w.be32(1, hook);
        w.attribute(2, &base.priority.to_be_bytes());
    });
    w.be32(5, ACCEPT);
    w.string(7, if base.kind == ChainType::Nat { "nat" } else { "filter" });
}

/// A socket for nf_tables of one network namespace.
#[derive(Debug)]
pub struct Nftables {
    pub(super) socket: Socket,
}

impl Nftables {
    /// A socket in `namespace`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket cannot be opened.
    pub fn open(namespace: &Netns) -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter, namespace)? })
    }

    /// Makes the changes of `batch`, all of them or none.
    ///
    /// # Errors
    /// What the kernel refused first, by what was being done.
    pub fn apply(&mut self, mut batch: Batch) -> Result<(), NetlinkError> {
        if batch.is_empty() {
            return Ok(());
        }
        // The kernel acknowledges the last change once the whole batch is committed.
        batch.writer.add_flags(batch.last, wire::ACK);
        let mut writer = Writer::new();
        put_frame(&mut writer, BATCH_BEGIN);
        let body = batch.writer.bytes().ok_or_else(|| NetlinkError::TooLarge {
            doing: batch.doing.last().cloned().unwrap_or_default(),
        })?;
        writer.put(body);
        put_frame(&mut writer, BATCH_END);
        self.socket.send(&writer, "send a transaction to nf_tables")?;
        self.outcome(&batch.doing)
    }

    /// The kernel has answered by the time that sending returns.
    fn outcome(&mut self, doing: &[String]) -> Result<(), NetlinkError> {
        const COMMIT: &str = "commit a transaction to nf_tables";
        let mut acknowledged = false;
        let mut first = None;
        while let Some(bytes) = self.socket.receive(false, COMMIT)? {
            for message in wire::messages(bytes).filter(|message| message.kind == wire::ERROR) {
                match crate::netlink::error_of(&message) {
                    None => acknowledged = true,
                    Some((errno, detail)) if first.is_none() => {
                        let index = (message.sequence as usize).checked_sub(1);
                        let what = index.and_then(|index| doing.get(index));
                        first = Some(NetlinkError::Refused {
                            doing: what.cloned().unwrap_or_else(|| COMMIT.to_owned()),
                            detail,
                            source: io::Error::from_raw_os_error(errno),
                        });
                    }
                    Some(_) => {}
                }
            }
        }
        match first {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(NetlinkError::Malformed { doing: COMMIT.to_owned() }),
        }
    }
}

fn put_frame(writer: &mut Writer, kind: u16) {
    // The family is unspecified, the resource is the subsystem, in network order.
    writer.message(kind, wire::REQUEST, 0, |w| w.put(&[0, 0, 0, 10]));
}
