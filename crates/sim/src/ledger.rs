//! What happened: a hash of all of it, the last lines of it, and what was wrong.
//!
//! Two runs of a seed have the same hash. The hash is over every change of the store, bytes and all, and over every line
//! that is noted.

use std::collections::VecDeque;
use std::hash::Hasher;

use parking_lot::Mutex;
use rustc_hash::FxHasher;
use tokio::time::Instant;

/// How many lines before a violation are told of.
const LINES: usize = 60;
/// How many violations a run keeps: the first are what matters.
const VIOLATIONS_MAX: usize = 20;

/// Something that must not be.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which rule it breaks, in a few words.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
    /// What happened before, oldest first.
    pub before: Vec<String>,
}

struct Inner {
    hash: FxHasher,
    lines: VecDeque<String>,
    violations: Vec<Violation>,
    violated: u64,
    operations: u64,
}

/// The record of one run.
pub(crate) struct Ledger {
    began: Instant,
    echo: bool,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("operations", &self.operations()).finish_non_exhaustive()
    }
}

impl Ledger {
    /// An empty record. With `echo` its lines are logged as they come.
    pub(crate) fn new(echo: bool) -> Self {
        let inner = Inner {
            hash: FxHasher::default(),
            lines: VecDeque::with_capacity(LINES + 1),
            violations: Vec::new(),
            violated: 0,
            operations: 0,
        };
        Self { began: Instant::now(), echo, inner: Mutex::new(inner) }
    }

    /// Notes what happened.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        let at = self.began.elapsed();
        let line = format!("{:>10.3} {}", at.as_secs_f64(), line());
        if self.echo {
            tracing::info!("{line}");
        }
        let mut inner = self.inner.lock();
        inner.hash.write(line.as_bytes());
        inner.lines.push_back(line);
        if inner.lines.len() > LINES {
            inner.lines.pop_front();
        }
    }

    /// Makes these bytes part of the hash.
    pub(crate) fn digest(&self, bytes: &[u8]) {
        self.inner.lock().hash.write(bytes);
    }

    /// Records that a rule was broken.
    pub(crate) fn violation(&self, rule: &'static str, what: String) {
        self.note(|| format!("VIOLATION of \"{rule}\": {what}"));
        let mut inner = self.inner.lock();
        inner.violated += 1;
        if inner.violations.len() < VIOLATIONS_MAX {
            let before = inner.lines.iter().cloned().collect();
            inner.violations.push(Violation { rule, what, before });
        }
    }

    /// Counts an operation.
    pub(crate) fn operation(&self) {
        self.inner.lock().operations += 1;
    }

    /// How many operations there were.
    pub(crate) fn operations(&self) -> u64 {
        self.inner.lock().operations
    }

    /// How many violations there were.
    pub(crate) fn violated(&self) -> u64 {
        self.inner.lock().violated
    }

    /// The hash of everything so far.
    pub(crate) fn hash(&self) -> u64 {
        self.inner.lock().hash.finish()
    }

    /// The violations that were kept.
    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.inner.lock().violations.clone()
    }
}
