//! Nodes by the value of a label: the domains that pods are spread over and that affinity speaks of.

use std::collections::BTreeMap;

use compact_str::CompactString;

use crate::node::Row;

/// Stands for a node without the label.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// The domains of one label, numbered, and which row is in which.
#[derive(Debug, Default)]
pub(crate) struct Domains {
    of_row: Vec<u32>,
    count: usize,
    /// Whether no two rows are in one domain.
    apart: bool,
}

impl Domains {
    pub(crate) fn of(rows: &[Row], key: &str) -> Self {
        let mut numbers: BTreeMap<CompactString, u32> = BTreeMap::new();
        let number = |row: &Row| {
            let Some(value) = row.node.labels.get(key) else { return NOWHERE };
            if let Some(number) = numbers.get(value) {
                return *number;
            }
            let next = u32::try_from(numbers.len()).unwrap_or(NOWHERE);
            numbers.insert(value.into(), next);
            next
        };
        let of_row: Vec<u32> = rows.iter().map(number).collect();
        let apart = of_row.iter().filter(|it| **it != NOWHERE).count() == numbers.len();
        Self { of_row, count: numbers.len(), apart }
    }

    /// Whether every domain is one node.
    pub(crate) fn are_nodes(&self) -> bool {
        self.apart
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The domain of a row; `None` where it has not the label.
    pub(crate) fn get(&self, row: usize) -> Option<usize> {
        let number = *self.of_row.get(row)?;
        if number == NOWHERE { None } else { usize::try_from(number).ok() }
    }
}
