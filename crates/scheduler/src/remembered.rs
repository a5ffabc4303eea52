//! Scores that depend on a node and on a pod's requests alone, remembered for pods that ask for the same.
//!
//! Pods come in classes: the replicas of a workload ask for the same. Between two of them one node has changed, and its
//! score is all that is computed again. Knows columns and rows by number only.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// How many classes of pods are remembered.
const CLASSES: usize = 16;
/// How many changes of rows are kept; a class that has not been asked for during more of them starts anew.
const CHANGES: usize = 1_024;

/// What a score depends on besides the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) plugin: &'static str,
    /// Thousandths of a CPU and bytes of memory.
    pub(crate) wanted: [i64; 2],
}

#[derive(Debug)]
struct Scores {
    class: Class,
    /// The rows that they are of, and the changes they know of; `None` while there are none.
    at: Option<Moment>,
    by_row: Vec<i64>,
}

/// The rows that changed, and the scores of each class.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    /// Counts how often rows came, went, or moved.
    arrangement: u64,
    /// How many changes were dropped from the front of `changed`.
    dropped: u64,
    changed: VecDeque<usize>,
    /// The class asked for last comes last.
    classes: Mutex<Vec<Scores>>,
}

impl Clone for Remembered {
    /// A copy remembers nothing yet.
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A state of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    arrangement: u64,
    known: u64,
}

impl Remembered {
    /// The state as it is.
    pub(crate) fn now(&self) -> Moment {
        let known = self.dropped + self.changed.len() as u64;
        Moment { arrangement: self.arrangement, known }
    }

    /// The rows that changed since, some more than once; `None` where that is not known any more.
    pub(crate) fn since(&self, then: Moment) -> Option<impl Iterator<Item = usize>> {
        let known = then.known.checked_sub(self.dropped).and_then(|it| usize::try_from(it).ok())?;
        let same = then.arrangement == self.arrangement;
        same.then(|| self.changed.iter().skip(known).copied())
    }

    /// Rows came, went, or moved, or changed in what concerns others.
    pub(crate) fn rearranged(&mut self) {
        self.arrangement += 1;
        self.dropped += self.changed.len() as u64;
        self.changed.clear();
    }

    /// A row changed.
    pub(crate) fn changed(&mut self, row: usize) {
        self.changed.push_back(row);
        if self.changed.len() > CHANGES {
            self.changed.pop_front();
            self.dropped += 1;
        }
    }

    /// Gives each row of `wanted` its score. `compute` is asked about rows that have changed since.
    pub(crate) fn scores(
        &self,
        class: Class,
        rows: usize,
        wanted: &[usize],
        scores: &mut [i64],
        compute: impl Fn(usize) -> i64,
    ) {
        let mut classes = self.classes.lock();
        let place = classes.iter().position(|it| it.class == class);
        let mut entry = match place {
            Some(place) => classes.remove(place),
            None => Scores { class, at: None, by_row: Vec::new() },
        };
        match entry.at.and_then(|at| self.since(at)) {
            Some(changed) => {
                for row in changed {
                    entry.by_row[row] = compute(row);
                }
            }
            None => {
                entry.by_row.clear();
                entry.by_row.extend((0..rows).map(&compute));
            }
        }
        entry.at = Some(self.now());
        for (row, score) in wanted.iter().zip(scores) {
            *score = entry.by_row[*row];
        }
        if classes.len() >= CLASSES {
            classes.remove(0);
        }
        classes.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_computed_again() {
        let mut remembered = Remembered::default();
        let class = Class { plugin: "p", wanted: [1, 2] };
        let check = |remembered: &Remembered, class, offset: i64, expected: [i64; 3]| {
            let mut scores = [0; 3];
            let compute = |row| i64::try_from(row).unwrap_or_default() + offset;
            remembered.scores(class, 3, &[0, 1, 2], &mut scores, compute);
            assert_eq!(scores, expected);
        };
        check(&remembered, class, 10, [10, 11, 12]);
        check(&remembered, class, 20, [10, 11, 12]);
        remembered.changed(1);
        check(&remembered, class, 30, [10, 31, 12]);
        check(&remembered, Class { wanted: [1, 3], ..class }, 40, [40, 41, 42]);
        remembered.rearranged();
        check(&remembered, class, 50, [50, 51, 52]);
        (0..=CHANGES).for_each(|_| remembered.changed(0));
        check(&remembered, class, 60, [60, 61, 62]);
    }
}
