//! Which pods would have to go from each node for pods that ask for the same, kept until the node changes.
//!
//! An important pod that fits nowhere looks at hundreds of nodes; between it and the next like it one of them has changed.
//! Knows rows by number only.

use parking_lot::Mutex;

use crate::preemption::Candidate;
use crate::remembered::{Moment, Remembered};
use crate::resources::Resources;

/// How many sorts of pods are remembered; the one that was asked for least lately goes.
const SORTS: usize = 8;

/// What emptying each node would come to for pods of one sort, as far as that was asked.
#[derive(Debug)]
pub(crate) struct Sort {
    wanted: Resources,
    priority: i32,
    /// Up to when changes of rows are in it.
    at: Moment,
    by_row: Vec<Option<Option<Candidate>>>,
}

impl Sort {
    /// What emptying a row comes to; nothing where that does not help.
    pub(crate) fn get(
        &mut self,
        row: usize,
        find: impl FnOnce() -> Option<Candidate>,
    ) -> Option<Candidate> {
        self.by_row[row].get_or_insert_with(find).clone()
    }
}

/// All sorts. The one asked for last comes last.
#[derive(Debug, Default)]
pub(crate) struct Emptied(Mutex<Vec<Sort>>);

impl Clone for Emptied {
    /// A copy remembers nothing yet.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Emptied {
    /// What is known of a sort, to be given back by [`Self::keep`].
    pub(crate) fn take(
        &self,
        (wanted, priority): (&Resources, i32),
        remembered: &Remembered,
        rows: usize,
    ) -> Sort {
        let mut sorts = self.0.lock();
        let known = sorts.iter().position(|it| it.priority == priority && it.wanted == *wanted);
        let at = remembered.now();
        if let Some(mut sort) = known.map(|place| sorts.remove(place))
            && let Some(changed) = remembered.since(sort.at)
        {
            changed.for_each(|row| sort.by_row[row] = None);
            return Sort { at, ..sort };
        }
        Sort { wanted: wanted.clone(), priority, at, by_row: vec![None; rows] }
    }

    /// Remembers a sort.
    pub(crate) fn keep(&self, sort: Sort) {
        let mut sorts = self.0.lock();
        if sorts.len() >= SORTS {
            sorts.remove(0);
        }
        sorts.push(sort);
    }
}
