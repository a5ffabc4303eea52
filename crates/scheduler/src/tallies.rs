//! How many pods of each node answer to something: kept up as pods come and go, so that a decision walks numbers and not
//! pods.
//!
//! Two sides: the terms that placed pods *hold* are always known, with the rows of their holders. What a pod to be placed
//! *asks* (whom do my terms mean, whom does this selector select) is counted when it is first asked, and kept up while it
//! is asked again and again: the replicas of a workload ask the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::labels::Selector;
use compact_str::CompactString;
use parking_lot::Mutex;

use crate::labels::Labels;
use crate::node::Row;
use crate::pod::PodLite;
use crate::terms::{PodTerm, PodTerms};

/// How many questions are kept up; the one that was asked least lately goes.
const QUESTIONS: usize = 64;

/// What is asked about placed pods.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Question {
    /// All of these terms mean it.
    Meant(Vec<PodTerm>),
    /// It is in this namespace, is selected, and is not being deleted.
    Selected { namespace: CompactString, selector: Selector },
}

impl Question {
    fn counts(&self, pod: &PodLite, labels_of: &dyn Fn(&str) -> Arc<Labels>) -> bool {
        match self {
            Self::Meant(terms) => {
                let namespace = &pod.key.namespace;
                terms.iter().all(|it| it.matches_with(namespace, labels_of, &pod.labels))
            }
            Self::Selected { namespace, selector } => {
                pod.key.namespace == *namespace
                    && !pod.terminating
                    && !selector.is_everything()
                    && selector.matches(|key| pod.labels.get(key))
            }
        }
    }
}

/// What a term says of the pods that it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Attitude {
    /// Required affinity.
    Needed,
    /// Required anti-affinity.
    Refused,
    /// Preferred affinity.
    Liked,
    /// Preferred anti-affinity.
    Disliked,
}

const ATTITUDES: [Attitude; 4] =
    [Attitude::Needed, Attitude::Refused, Attitude::Liked, Attitude::Disliked];

/// A term with the rows of the pods that hold it.
#[derive(Debug, Clone)]
pub(crate) struct HeldTerm {
    pub(crate) term: PodTerm,
    /// How many times by row; zero is not kept.
    pub(crate) rows: BTreeMap<usize, i64>,
}

#[derive(Debug)]
struct Asked {
    question: Question,
    by_row: Arc<Vec<u32>>,
}

/// All counts of a cluster.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    held: BTreeMap<(Attitude, u64), Vec<HeldTerm>>,
    /// The one asked last comes last.
    asked: Mutex<Vec<Asked>>,
}

impl Clone for Tallies {
    /// A copy knows what is held, and has been asked nothing.
    fn clone(&self) -> Self {
        Self { held: self.held.clone(), asked: Mutex::default() }
    }
}

impl Tallies {
    /// A row came, at the end.
    pub(crate) fn row_added(&mut self) {
        for it in self.asked.get_mut() {
            Arc::make_mut(&mut it.by_row).push(0);
        }
    }

    /// A row went, and the last took its place. Its pods, and those of the last, were taken out before.
    pub(crate) fn row_removed(&mut self, row: usize) {
        for it in self.asked.get_mut() {
            Arc::make_mut(&mut it.by_row).swap_remove(row);
        }
    }

    /// Namespaces have other labels: what was counted by them is counted anew.
    pub(crate) fn namespaces_changed(&mut self) {
        self.asked.get_mut().retain(|it| matches!(it.question, Question::Selected { .. }));
    }

    /// A pod came to a row, or left it.
    pub(crate) fn pod_moved(
        &mut self,
        row: usize,
        pod: &PodLite,
        came: bool,
        labels_of: &dyn Fn(&str) -> Arc<Labels>,
    ) {
        if let Some(terms) = pod.terms.as_deref() {
            self.terms_moved(row, terms, if came { 1 } else { -1 });
        }
        for it in self.asked.get_mut() {
            if it.question.counts(pod, labels_of)
                && let Some(count) = Arc::make_mut(&mut it.by_row).get_mut(row)
            {
                *count = if came { count.saturating_add(1) } else { count.saturating_sub(1) };
            }
        }
    }

    /// What a pod holds is held at a row so many times more.
    pub(crate) fn terms_moved(&mut self, row: usize, terms: &PodTerms, by: i64) {
        for attitude in ATTITUDES {
            for term in terms.of(attitude) {
                self.term_moved(row, attitude, term, by);
            }
        }
    }

    fn term_moved(&mut self, row: usize, attitude: Attitude, term: &PodTerm, by: i64) {
        let at = (attitude, term.signature);
        let alike = self.held.entry(at).or_default();
        let place = alike.iter().position(|it| it.term == *term).unwrap_or_else(|| {
            alike.push(HeldTerm { term: term.clone(), rows: BTreeMap::new() });
            alike.len() - 1
        });
        let count = alike[place].rows.entry(row).or_default();
        *count += by;
        if *count == 0 {
            alike[place].rows.remove(&row);
        }
        if alike[place].rows.is_empty() {
            alike.swap_remove(place);
        }
        if alike.is_empty() {
            self.held.remove(&at);
        }
    }

    /// Whether any pod holds anything.
    pub(crate) fn holds_any(&self) -> bool {
        !self.held.is_empty()
    }

    /// What placed pods hold.
    pub(crate) fn held(&self, attitude: Attitude) -> impl Iterator<Item = &HeldTerm> {
        self.held.range((attitude, 0)..=(attitude, u64::MAX)).flat_map(|(_, it)| it)
    }

    /// How many pods of each row answer to a question.
    pub(crate) fn ask(
        &self,
        question: &Question,
        rows: &[Row],
        labels_of: &dyn Fn(&str) -> Arc<Labels>,
    ) -> Arc<Vec<u32>> {
        let mut asked = self.asked.lock();
        if let Some(place) = asked.iter().position(|it| it.question == *question) {
            let found = asked.remove(place);
            let by_row = Arc::clone(&found.by_row);
            asked.push(found);
            return by_row;
        }
        let count = |row: &Row| {
            let counted = row.pods.iter().filter(|pod| question.counts(pod, labels_of)).count();
            u32::try_from(counted).unwrap_or(u32::MAX)
        };
        let by_row: Arc<Vec<u32>> = Arc::new(rows.iter().map(count).collect());
        if asked.len() >= QUESTIONS {
            asked.remove(0);
        }
        asked.push(Asked { question: question.clone(), by_row: Arc::clone(&by_row) });
        by_row
    }
}
