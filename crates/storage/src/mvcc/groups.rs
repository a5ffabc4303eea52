//! Watched prefixes: which of them a key is under, and where in the log their writes are.
//!
//! Those who watch one prefix share one list of places. Finding the prefixes of a key takes one binary
//! search, however many are watched.

use std::collections::VecDeque;

use crate::{Key, Rev};

/// One watched prefix.
#[derive(Debug)]
pub(super) struct Group {
    prefix: Key,
    watchers: usize,
    /// The longest other watched prefix that this one is under.
    parent: Option<usize>,
    /// From this place of the log on, `places` is complete.
    pub(super) covers_from: u64,
    pub(super) places: VecDeque<u64>,
    /// Places below this were dropped from `places` because the log forgot them.
    pub(super) forgotten_below: u64,
    /// The newest write under the prefix, or the newest of all when the first watcher came.
    pub(super) changed_at: Rev,
    /// The last publication that the watchers were to be woken for.
    woken_in: u64,
}

/// All of them, in order of their prefixes.
#[derive(Debug, Default)]
pub(super) struct Groups(Vec<Group>);

/// A write that is being published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) place: u64,
    pub(super) rev: Rev,
    pub(super) publication: u64,
}

impl Groups {
    /// A watcher joins; the log ends at `end` with revision `current`.
    pub(super) fn join(&mut self, prefix: &Key, end: u64, current: Rev) {
        match self.place_of(prefix) {
            Ok(at) => self.0[at].watchers += 1,
            Err(at) => {
                let group = Group {
                    prefix: prefix.clone(),
                    watchers: 1,
                    parent: None,
                    covers_from: end,
                    places: VecDeque::new(),
                    forgotten_below: 0,
                    changed_at: current,
                    woken_in: 0,
                };
                self.0.insert(at, group);
                self.find_parents();
            }
        }
    }

    /// A watcher leaves.
    pub(super) fn leave(&mut self, prefix: &Key) {
        let Ok(at) = self.place_of(prefix) else { return };
        self.0[at].watchers -= 1;
        if self.0[at].watchers == 0 {
            self.0.remove(at);
            self.find_parents();
        }
    }

    pub(super) fn get(&self, prefix: &Key) -> Option<&Group> {
        self.place_of(prefix).ok().map(|at| &self.0[at])
    }

    /// Takes down a write of `key`. Adds the prefixes whose watchers are to be woken, each once in a
    /// publication.
    ///
    /// A prefix of `key` is never larger than `key`, and whatever lies between the two starts with it: so
    /// the largest watched prefix that is not larger than `key` is one, or is under all that are.
    pub(super) fn tell(&mut self, key: &[u8], told: Told, woken: &mut Vec<Key>) {
        let after = self.0.partition_point(|group| group.prefix.as_bytes() <= key);
        let mut next = after.checked_sub(1);
        while let Some(at) = next {
            let group = &mut self.0[at];
            if key.starts_with(group.prefix.as_bytes()) {
                group.places.push_back(told.place);
                group.changed_at = told.rev;
                if group.woken_in != told.publication {
                    group.woken_in = told.publication;
                    woken.push(group.prefix.clone());
                }
            }
            next = group.parent;
        }
    }

    /// Drops what these prefixes remember of writes that the log has forgotten.
    pub(super) fn forget(&mut self, prefixes: &[Key], first_place: u64) {
        for prefix in prefixes {
            let Ok(at) = self.place_of(prefix) else { continue };
            let group = &mut self.0[at];
            while let Some(place) = group.places.front().filter(|place| **place < first_place) {
                group.forgotten_below = place + 1;
                group.places.pop_front();
            }
        }
    }

    fn place_of(&self, prefix: &Key) -> Result<usize, usize> {
        self.0.binary_search_by(|group| group.prefix.cmp(prefix))
    }

    fn find_parents(&mut self) {
        let mut above: Vec<usize> = Vec::new();
        for at in 0..self.0.len() {
            let prefix = &self.0[at].prefix;
            while above.last().is_some_and(|top| !prefix.starts_with(&self.0[*top].prefix)) {
                above.pop();
            }
            self.0[at].parent = above.last().copied();
            above.push(at);
        }
    }
}
