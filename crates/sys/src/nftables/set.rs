//! Sets, maps and their elements.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::expr::{Verdict, put_value, put_verdict};
use super::{Name, Table};
use crate::netlink::wire::Writer;

/// Bytes of a key or a value: fields one after another, each padded to four bytes.
pub type Key = SmallVec<[u8; 24]>;

/// What a field is, for tools that list sets; the kernel looks at lengths only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// An IPv4 address.
    Ipv4Address,
    /// An IPv6 address.
    Ipv6Address,
    /// TCP, UDP, ...
    Protocol,
    /// A port.
    Port,
    /// A number in the machine's order.
    Number,
}

impl DataType {
    const fn number(self) -> u32 {
        match self {
            Self::Ipv4Address => 7,
            Self::Ipv6Address => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Number => 19,
        }
    }

    /// Bytes in a register.
    const fn length(self) -> u32 {
        match self {
            Self::Ipv6Address => 16,
            Self::Ipv4Address | Self::Protocol | Self::Port | Self::Number => 4,
        }
    }

    /// Bytes that mean something.
    const fn field_length(self) -> u32 {
        match self {
            Self::Ipv6Address => 16,
            Self::Ipv4Address | Self::Number => 4,
            Self::Port => 2,
            Self::Protocol => 1,
        }
    }
}

fn concatenated(types: &[DataType]) -> (u32, u32) {
    let number = types.iter().fold(0, |sum, kind| (sum << 6) | kind.number());
    (number, total(types))
}

fn total(types: &[DataType]) -> u32 {
    // A single field is as long as it is; fields in a concatenation are padded.
    match types {
        [only] => only.field_length(),
        many => many.iter().map(|kind| kind.length()).sum(),
    }
}

/// What a map holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetData {
    /// Nothing: it is a set.
    None,
    /// Where to go.
    Verdict,
    /// A value of these fields.
    Value(&'static [DataType]),
}

/// How a set may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetFlags {
    /// Elements are ranges.
    pub interval: bool,
    /// Elements go away after a while.
    pub timeout: bool,
    /// Rules add elements.
    pub dynamic: bool,
}

/// A set or a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: Name,
    /// The fields of its key.
    pub key: &'static [DataType],
    /// What it maps to.
    pub data: SetData,
    /// How it is used.
    pub flags: SetFlags,
    /// The most elements it takes; needed where rules add them.
    pub size: Option<u32>,
}

/// What an element of a map holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElementData {
    /// Nothing.
    None,
    /// Where to go.
    Verdict(Verdict),
    /// A value.
    Value(Key),
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its key, or the low end of its range.
    pub key: Key,
    /// The high end of its range, included, where the key is a concatenation with ranges.
    pub key_end: Option<Key>,
    /// Whether it marks the end, not included, of a range of a key of one field.
    pub interval_end: bool,
    /// What it holds.
    pub data: ElementData,
}

impl Element {
    /// An element of a set.
    #[must_use]
    pub const fn key(key: Key) -> Self {
        Self { key, key_end: None, interval_end: false, data: ElementData::None }
    }

    /// An element of a map.
    #[must_use]
    pub const fn map(key: Key, data: ElementData) -> Self {
        Self { key, key_end: None, interval_end: false, data }
    }

    /// About how many bytes it takes in a message.
    pub(super) fn size_hint(&self) -> usize {
        let data = match &self.data {
            ElementData::None => 0,
            ElementData::Value(value) => value.len() + 8,
            ElementData::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain)) => chain.len() + 32,
            ElementData::Verdict(_) => 24,
        };
        24 + self.key.len() + self.key_end.as_ref().map_or(0, |end| end.len() + 8) + data
    }
}

pub(super) fn put_set(w: &mut Writer, table: &Table, set: &Set, id: u32) {
    const FLAG_INTERVAL: u32 = 0x4;
    const FLAG_MAP: u32 = 0x8;
    const FLAG_TIMEOUT: u32 = 0x10;
    const FLAG_EVAL: u32 = 0x20;
    const FLAG_CONCAT: u32 = 0x80;
    let ranges_of_many = set.flags.interval && set.key.len() > 1;
    let bit = |set: bool, flag: u32| if set { flag } else { 0 };
    let flags = bit(set.flags.interval, FLAG_INTERVAL)
        | bit(set.data != SetData::None, FLAG_MAP)
        | bit(set.flags.timeout, FLAG_TIMEOUT)
        | bit(set.flags.dynamic, FLAG_EVAL)
        | bit(ranges_of_many, FLAG_CONCAT);
    let (key_type, key_length) = concatenated(set.key);
    w.string(1, table.name);
    w.string(2, &set.name);
    w.be32(3, flags);
    w.be32(4, key_type);
    w.be32(5, key_length);
    match set.data {
        SetData::None => {}
        SetData::Verdict => {
            w.be32(6, 0xffff_ff00);
            w.be32(7, 16);
        }
        SetData::Value(types) => {
            let (data_type, length) = concatenated(types);
            w.be32(6, data_type);
            w.be32(7, length);
        }
    }
    w.be32(10, id);
    if set.size.is_some() || ranges_of_many {
        w.nested(9, |w| put_description(w, set, ranges_of_many));
    }
}

fn put_description(w: &mut Writer, set: &Set, fields: bool) {
    if let Some(size) = set.size {
        w.be32(1, size);
    }
    if fields {
        w.nested(2, |w| {
            for kind in set.key {
                w.nested(1, |w| w.be32(1, kind.field_length()));
            }
        });
    }
}

pub(super) fn put_element(w: &mut Writer, element: &Element) {
    const INTERVAL_END: u32 = 1;
    w.nested(1, |w| {
        put_value(w, 1, &element.key);
        match &element.data {
            ElementData::None => {}
            ElementData::Verdict(verdict) => put_verdict(w, 2, verdict),
            ElementData::Value(value) => put_value(w, 2, value),
        }
        if element.interval_end {
            w.be32(3, INTERVAL_END);
        }
        if let Some(end) = &element.key_end {
            put_value(w, 10, end);
        }
    });
}

/// Appends fields to a key, each padded as registers are.
pub trait KeyFields: Sized {
    /// An address.
    #[must_use]
    fn ip(self, ip: IpAddr) -> Self;
    /// TCP, UDP, ...
    #[must_use]
    fn protocol(self, protocol: u8) -> Self;
    /// A port.
    #[must_use]
    fn port(self, port: u16) -> Self;
    /// A number in the machine's order.
    #[must_use]
    fn number(self, number: u32) -> Self;
}

impl KeyFields for Key {
    fn ip(mut self, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => self.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => self.extend_from_slice(&v6.octets()),
        }
        self
    }

    fn protocol(mut self, protocol: u8) -> Self {
        self.extend_from_slice(&[protocol, 0, 0, 0]);
        self
    }

    fn port(mut self, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        self.extend_from_slice(&[high, low, 0, 0]);
        self
    }

    fn number(mut self, number: u32) -> Self {
        self.extend_from_slice(&number.to_ne_bytes());
        self
    }
}
