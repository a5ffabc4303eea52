//! What pods that are alike are told of every node, kept up as nodes change (upstream: opportunistic batching).
//!
//! Where every plugin judges a node by itself, and by nothing else but what is the same for all pods of a class, a verdict
//! stays right until its node changes. Between two replicas of a workload one node has changed: one verdict is made anew,
//! and the best node is at hand however many there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use compact_str::CompactString;
use parking_lot::Mutex;

use crate::labels::Labels;
use crate::pod::{Ask, HostPort, PodLite};
use crate::remembered::{Moment, Remembered};
use crate::resources::PodRequests;

/// How many classes are kept up; the one that was asked for least lately goes.
const CLASSES: usize = 32;

/// What makes pods alike to plugins that are local.
#[derive(Debug, Clone)]
pub(crate) struct Likeness {
    profile: CompactString,
    /// Nodes that are being emptied for others are theirs where those are as important.
    priority: i32,
    requests: Arc<PodRequests>,
    ask: Arc<Ask>,
    ports: Box<[HostPort]>,
    /// Its namespace and labels, where plugins look at them.
    labels: Option<(CompactString, Arc<Labels>)>,
}

impl Likeness {
    pub(crate) fn of(pod: &PodLite, profile: &str, labels: bool) -> Self {
        Self {
            profile: profile.into(),
            priority: pod.priority,
            requests: Arc::clone(&pod.requests),
            ask: Arc::clone(&pod.ask),
            ports: pod.ports.clone(),
            labels: labels.then(|| (pod.key.namespace.clone(), Arc::clone(&pod.labels))),
        }
    }

    fn is(&self, other: &Self) -> bool {
        let (own, its) = (&self.ask, &other.ask);
        self.priority == other.priority
            && self.requests == other.requests
            && self.ports == other.ports
            && self.labels == other.labels
            && own.tolerations == its.tolerations
            && own.nodes == its.nodes
            && own.images == its.images
            && own.features == its.features
            && self.profile == other.profile
    }
}

/// The best node of those that will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Best {
    pub(crate) row: usize,
    /// How many will do.
    pub(crate) feasible: usize,
}

/// What is known of a class.
#[derive(Debug)]
pub(crate) enum Known {
    /// It was never seen.
    Nothing,
    /// It was seen, and nothing is remembered that is still right: it is worth it.
    Seen,
    /// All of it; `None` where no node will do.
    All(Option<Best>),
}

#[derive(Debug)]
struct Class {
    like: Likeness,
    table: Option<Table>,
}

/// Scores by row, and rows by score.
#[derive(Debug)]
struct Table {
    /// Up to when changes of rows are in it.
    at: Moment,
    /// Each row's score, with its place among those of the same score; `None` where it will not do.
    by_row: Vec<Option<(i64, usize)>>,
    by_score: BTreeMap<i64, Vec<usize>>,
    feasible: usize,
}

/// The classes. The one asked for last comes last.
#[derive(Debug, Default)]
pub(crate) struct Alike(Mutex<Vec<Class>>);

impl Clone for Alike {
    /// A copy remembers nothing yet.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Alike {
    /// The best node for a pod of this class. `judge` is asked about rows that have changed since.
    pub(crate) fn best(
        &self,
        like: &Likeness,
        remembered: &Remembered,
        random: u64,
        judge: impl Fn(usize) -> Option<i64>,
    ) -> Known {
        let mut classes = self.0.lock();
        let Some(place) = classes.iter().position(|it| it.like.is(like)) else {
            if classes.len() >= CLASSES {
                classes.remove(0);
            }
            classes.push(Class { like: like.clone(), table: None });
            return Known::Nothing;
        };
        let mut class = classes.remove(place);
        let known = class.table.as_mut().and_then(|table| {
            let changed = remembered.since(table.at)?;
            for row in changed {
                table.set(row, judge(row));
            }
            table.at = remembered.now();
            Some(table.best(random))
        });
        if known.is_none() {
            class.table = None;
        }
        classes.push(class);
        known.map_or(Known::Seen, Known::All)
    }

    /// Remembers what a class is told of every row.
    pub(crate) fn learn(&self, like: &Likeness, verdicts: &[Option<i64>], at: Moment) {
        let mut table = Table {
            at,
            by_row: vec![None; verdicts.len()],
            by_score: BTreeMap::new(),
            feasible: 0,
        };
        for (row, verdict) in verdicts.iter().enumerate() {
            table.set(row, *verdict);
        }
        let mut classes = self.0.lock();
        if let Some(class) = classes.iter_mut().rev().find(|it| it.like.is(like)) {
            class.table = Some(table);
        }
    }
}

impl Table {
    fn set(&mut self, row: usize, verdict: Option<i64>) {
        if self.by_row[row].map(|(score, _)| score) == verdict {
            return;
        }
        if let Some((score, place)) = self.by_row[row].take() {
            self.feasible -= 1;
            if let Some(rows) = self.by_score.get_mut(&score) {
                rows.swap_remove(place);
                let moved = rows.get(place).copied();
                if rows.is_empty() {
                    self.by_score.remove(&score);
                }
                if let Some(moved) = moved {
                    self.by_row[moved] = Some((score, place));
                }
            }
        }
        if let Some(score) = verdict {
            let rows = self.by_score.entry(score).or_default();
            self.by_row[row] = Some((score, rows.len()));
            rows.push(row);
            self.feasible += 1;
        }
    }

    fn best(&self, random: u64) -> Option<Best> {
        let (_, rows) = self.by_score.last_key_value()?;
        let nth = usize::try_from(random % rows.len() as u64).unwrap_or_default();
        Some(Best { row: rows[nth], feasible: self.feasible })
    }
}
