//! Sees every revision of the store as it is made, and has every rule judge it.
//!
//! It reads the store itself, not the API: what it knows is what is so. Nothing it does changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apimachinery::{Value, json};
use compact_str::CompactString;
use futures::StreamExt;
use parking_lot::Mutex;
use storage::{Event, Key, Rev, Store};
use tokio::time::Instant;

use crate::ledger::Ledger;
use crate::rules::{self, Rule};

/// Under what everything is kept.
const ROOT: &str = "/registry/";
/// How many writes are remembered for acknowledgements that come later.
const WRITES: usize = 50_000;
/// How old what a controller acts on may be, as long as nothing but the ordinary faults happen: a stalled watch, a watch that
/// is begun anew, and slow writes one after the other.
const LAG: Duration = Duration::from_secs(30);
/// The same while parts of the control plane crash or are cut off.
pub(crate) const LAG_IN_STORMS: Duration = Duration::from_secs(240);
/// How long after such a thing that holds.
const STORM: Duration = Duration::from_secs(180);

/// Where an object is, with its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) namespace: CompactString,
    pub(crate) name: CompactString,
}

/// An object as the store has it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) revision: u64,
    pub(crate) value: Arc<Value>,
}

/// A change of an object.
#[derive(Debug)]
pub(crate) struct Change<'c> {
    pub(crate) kind: &'c str,
    pub(crate) place: &'c Place,
    pub(crate) old: Option<&'c Value>,
    pub(crate) new: Option<&'c Value>,
}

/// Everything there is, as the store has it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) kinds: BTreeMap<CompactString, BTreeMap<Place, Known>>,
    /// The revision of the last change of an object of each kind.
    pub(crate) changed: BTreeMap<CompactString, u64>,
    pub(crate) revision: u64,
    /// Where a claim has gone: one that is there now was made in its place.
    pub(crate) claims_gone: BTreeSet<Place>,
}

impl State {
    /// The objects of a kind.
    pub(crate) fn all(&self, kind: &str) -> impl Iterator<Item = (&Place, &Value)> {
        let objects = self.kinds.get(kind).into_iter().flatten();
        objects.map(|(place, known)| (place, known.value.as_ref()))
    }

    pub(crate) fn get(&self, kind: &str, place: &Place) -> Option<&Known> {
        self.kinds.get(kind)?.get(place)
    }

    /// Sets an object, for tests.
    #[cfg(test)]
    pub(crate) fn put(&mut self, kind: &str, place: &Place, value: Value) {
        let known = Known { revision: 0, value: Arc::new(value) };
        self.kinds.entry(kind.into()).or_default().insert(place.clone(), known);
    }

    /// The names of the objects of a kind in a namespace.
    pub(crate) fn names(&self, kind: &str, namespace: &str) -> Vec<CompactString> {
        let all = self.all(kind).filter(|(place, _)| place.namespace == namespace);
        all.map(|(place, _)| place.name.clone()).collect()
    }
}

/// What rules judge by besides the change.
#[derive(Debug)]
pub(crate) struct Context<'c> {
    pub(crate) state: &'c State,
    pub(crate) ledger: &'c Ledger,
    pub(crate) now: Instant,
    /// From when on what was so may still be acted on.
    pub(crate) since: Instant,
}

struct Inner {
    state: State,
    rules: Vec<Box<dyn Rule>>,
    writes: BTreeMap<u64, Key>,
    /// Acknowledged writes that were not seen yet.
    pending: Vec<(u64, Key)>,
    storm_until: Instant,
    /// When something else than a heartbeat was written last.
    busy_at: Instant,
    busy_with: String,
}

/// The observer of one run.
pub(crate) struct Observer {
    ledger: Arc<Ledger>,
    inner: Mutex<Inner>,
    seen: AtomicU64,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Observer(at {})", self.seen.load(Ordering::Relaxed))
    }
}

impl Observer {
    /// One that has seen nothing.
    pub(crate) fn new(ledger: &Arc<Ledger>) -> Arc<Self> {
        let now = Instant::now();
        let inner = Inner {
            state: State::default(),
            rules: rules::all(),
            writes: BTreeMap::new(),
            pending: Vec::new(),
            storm_until: now,
            busy_at: now,
            busy_with: String::new(),
        };
        let (ledger, inner) = (Arc::clone(ledger), Mutex::new(inner));
        Arc::new(Self { ledger, inner, seen: AtomicU64::new(0) })
    }

    /// Follows the store to its end.
    pub(crate) async fn follow(self: Arc<Self>, store: Arc<dyn Store>) {
        let mut changes = store.watch(Key::from(ROOT), Rev(1));
        while let Some(batch) = changes.next().await {
            match batch {
                Ok(batch) => {
                    batch.events.iter().for_each(|event| self.see(event));
                    self.seen.store(batch.progress.0, Ordering::Relaxed);
                }
                Err(error) => {
                    self.ledger.violation("the store tells every change", error.to_string());
                    return;
                }
            }
        }
    }

    /// Reads what is so now.
    pub(crate) fn with<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.inner.lock().state)
    }

    /// A part of the control plane crashes, is cut off or comes back: for a while what is acted on may be old.
    pub(crate) fn storm(&self) {
        self.inner.lock().storm_until = Instant::now() + STORM;
    }

    /// When something else than a heartbeat was written last, and what.
    pub(crate) fn busy(&self) -> (Instant, String) {
        let inner = self.inner.lock();
        (inner.busy_at, inner.busy_with.clone())
    }

    /// A write of this key was acknowledged with this revision.
    pub(crate) fn acknowledged(&self, key: Key, revision: u64) {
        let mut inner = self.inner.lock();
        inner.pending.push((revision, key));
        inner.settle(self.seen.load(Ordering::Relaxed), &self.ledger);
    }

    fn see(&self, event: &Event) {
        self.digest(event);
        let value = event.value.as_ref().map(|it| &it.value);
        let before = event.previous.as_ref().map(|it| &it.value);
        let Some(now) = value.or(before) else { return };
        let Ok(now) = json::parse(now) else { return };
        let kind: CompactString = now.str_at(&["kind"]).into();
        let mut inner = self.inner.lock();
        inner.remember(event);
        inner.note(&self.ledger, event, &kind);
        if matches!(kind.as_str(), "Event" | "Lease") {
            inner.state.revision = event.rev.0;
            return;
        }
        let place = Place {
            namespace: now.str_at(&["metadata", "namespace"]).into(),
            name: now.str_at(&["metadata", "name"]).into(),
        };
        let new = value.is_some().then(|| Arc::new(now));
        inner.apply(&self.ledger, event.rev.0, (kind, place), new.as_ref());
    }

    fn digest(&self, event: &Event) {
        self.ledger.digest(&event.rev.0.to_le_bytes());
        self.ledger.digest(event.key.as_bytes());
        if let Some(value) = &event.value {
            self.ledger.digest(&value.value);
        }
    }
}

impl Inner {
    fn remember(&mut self, event: &Event) {
        self.writes.insert(event.rev.0, event.key.clone());
        if self.writes.len() > WRITES {
            self.writes.pop_first();
        }
    }

    fn note(&mut self, ledger: &Ledger, event: &Event, kind: &str) {
        if matches!(kind, "Event" | "Lease") {
            return;
        }
        let what = match (&event.previous, &event.value) {
            (None, _) => "+",
            (Some(_), Some(_)) => "~",
            (Some(_), None) => "-",
        };
        let key = event.key.to_string();
        if kind != "Node" {
            self.busy_at = Instant::now();
            self.busy_with = format!("{what}{key}");
        }
        ledger.note(|| format!("{} {what} {}", event.rev, key.trim_start_matches(ROOT)));
    }

    fn apply(
        &mut self,
        ledger: &Ledger,
        revision: u64,
        (kind, place): (CompactString, Place),
        new: Option<&Arc<Value>>,
    ) {
        let now = Instant::now();
        let objects = self.state.kinds.entry(kind.clone()).or_default();
        let old = match new {
            Some(value) => {
                objects.insert(place.clone(), Known { revision, value: Arc::clone(value) })
            }
            None => objects.remove(&place),
        };
        if new.is_none() && kind == "PersistentVolumeClaim" {
            self.state.claims_gone.insert(place.clone());
        }
        self.state.changed.insert(kind.clone(), revision);
        self.state.revision = revision;
        let lag = if now < self.storm_until { LAG_IN_STORMS } else { LAG };
        let since = now.checked_sub(lag).unwrap_or(now);
        let old = old.map(|it| it.value);
        let change =
            Change { kind: &kind, place: &place, old: old.as_deref(), new: new.map(AsRef::as_ref) };
        let context = Context { state: &self.state, ledger, now, since };
        self.rules.iter_mut().for_each(|rule| rule.see(&change, &context));
    }

    /// Judges acknowledgements whose revision was seen.
    fn settle(&mut self, seen: u64, ledger: &Ledger) {
        let oldest = self.writes.first_key_value().map_or(u64::MAX, |(first, _)| *first);
        let writes = &self.writes;
        self.pending.retain(|(revision, key)| {
            if *revision > seen {
                return true;
            }
            if *revision >= oldest && writes.get(revision) != Some(key) {
                ledger.violation(
                    "every acknowledged write is in the store",
                    format!(
                        "{key} was acknowledged at {revision}, where there is {:?}",
                        writes.get(revision)
                    ),
                );
            }
            false
        });
    }
}
