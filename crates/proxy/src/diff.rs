//! What is to be changed to get from one rule set to another.

use std::cmp::Ordering;
use std::fmt;

use crate::rules::{Entry, Value};

/// Changes that are made at once: first all deletions, then all additions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// Entries that go, with what they map to.
    pub delete: Vec<(Entry, Value)>,
    /// Entries that come.
    pub add: Vec<(Entry, Value)>,
}

/// The changes from `old` to `new`, both sorted by entry. An entry that maps to something else is deleted and added.
#[must_use]
pub fn diff(old: &[(Entry, Value)], new: &[(Entry, Value)]) -> Transaction {
    let mut transaction = Transaction::default();
    let (mut old, mut new) = (old.iter().copied().peekable(), new.iter().copied().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return transaction,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        match order {
            Ordering::Less => transaction.delete.extend(old.next()),
            Ordering::Greater => transaction.add.extend(new.next()),
            Ordering::Equal => {
                let (was, is) = (old.next(), new.next());
                if was != is {
                    transaction.delete.extend(was);
                    transaction.add.extend(is);
                }
            }
        }
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (entry, value) in &self.delete {
            writeln!(f, "- {entry}{value}")?;
        }
        for (entry, value) in &self.add {
            writeln!(f, "+ {entry}{value}")?;
        }
        Ok(())
    }
}
