//! Reading back: which tables, chains and elements there are. For adoption, repair and tests.

use super::batch::SUBSYSTEM;
use super::set::{Element, Key};
use super::{Nftables, Table};
use crate::netlink::{NetlinkError, wire};

const GETTABLE: u16 = SUBSYSTEM | 1;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const GETRULE: u16 = SUBSYSTEM | 7;
const GETSETELEM: u16 = SUBSYSTEM | 13;

/// A rule, by where it is and the expressions it is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSummary {
    /// The chain.
    pub chain: String,
    /// The names of its expressions.
    pub expressions: Vec<String>,
}

impl Nftables {
    /// The names of the tables of `family`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn tables(&mut self, family: super::Family) -> Result<Vec<String>, NetlinkError> {
        let mut names = Vec::new();
        self.socket.dump(
            GETTABLE,
            || "list tables".to_owned(),
            |w| w.put(&[family.number(), 0, 0, 0]),
            |message| {
                let attributes = message.body.get(4..).unwrap_or_default();
                names.extend(wire::find(attributes, 1).map(wire::text));
            },
        )?;
        Ok(names)
    }

    /// The names of the chains of `table`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn chains(&mut self, table: &Table) -> Result<Vec<String>, NetlinkError> {
        let mut names = Vec::new();
        self.socket.dump(
            GETCHAIN,
            || format!("list chains of table {}", table.name),
            |w| w.put(&[table.family.number(), 0, 0, 0]),
            |message| {
                let attributes = message.body.get(4..).unwrap_or_default();
                if wire::find(attributes, 1).map(wire::text).as_deref() == Some(table.name) {
                    names.extend(wire::find(attributes, 3).map(wire::text));
                }
            },
        )?;
        Ok(names)
    }

    /// The rules of `table`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn rules(&mut self, table: &Table) -> Result<Vec<RuleSummary>, NetlinkError> {
        let mut rules = Vec::new();
        self.socket.dump(
            GETRULE,
            || format!("list rules of table {}", table.name),
            |w| {
                w.put(&[table.family.number(), 0, 0, 0]);
                w.string(1, table.name);
            },
            |message| {
                let attributes = message.body.get(4..).unwrap_or_default();
                let list = wire::find(attributes, 4).unwrap_or_default();
                let expressions = wire::attributes(list)
                    .filter_map(|(_, expression)| wire::find(expression, 1).map(wire::text));
                rules.push(RuleSummary {
                    chain: wire::find(attributes, 2).map(wire::text).unwrap_or_default(),
                    expressions: expressions.collect(),
                });
            },
        )?;
        Ok(rules)
    }

    /// The keys of the elements of a set or map.
    ///
    /// # Errors
    /// When the kernel refuses, for example because there is no such set.
    pub fn element_keys(&mut self, table: &Table, set: &str) -> Result<Vec<Key>, NetlinkError> {
        let mut keys = Vec::new();
        self.elements_raw(table, set, |element| {
            let key = wire::find(element, 1).and_then(|key| wire::find(key, 1));
            keys.extend(key.map(Key::from_slice));
        })?;
        Ok(keys)
    }

    /// The elements of a map of values.
    ///
    /// # Errors
    /// When the kernel refuses, for example because there is no such map.
    pub fn values(&mut self, table: &Table, map: &str) -> Result<Vec<Element>, NetlinkError> {
        let mut elements = Vec::new();
        self.elements_raw(table, map, |element| {
            let bytes = |kind| {
                wire::find(element, kind).and_then(|d| wire::find(d, 1)).map(Key::from_slice)
            };
            if let (Some(key), Some(data)) = (bytes(1), bytes(2)) {
                elements.push(Element::map(key, super::ElementData::Value(data)));
            }
        })?;
        Ok(elements)
    }

    fn elements_raw(
        &mut self,
        table: &Table,
        set: &str,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        self.socket.dump(
            GETSETELEM,
            || format!("list elements of set {set} of table {}", table.name),
            |w| {
                w.put(&[table.family.number(), 0, 0, 0]);
                w.string(1, table.name);
                w.string(2, set);
            },
            |message| {
                let attributes = message.body.get(4..).unwrap_or_default();
                let list = wire::find(attributes, 3).unwrap_or_default();
                wire::attributes(list).for_each(|(_, element)| each(element));
            },
        )
    }
}
