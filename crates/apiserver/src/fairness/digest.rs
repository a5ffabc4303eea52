//! From objects to schemas and levels, and the limits of levels as they borrow from each other. Upstream: the
//! configuration controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use apimachinery::Value;
use compact_str::CompactString;
use flowcontrol::{
    Bounds, FlowSchema, Kind, Level, QueueSet, Share, Smoothed, allocate, max_seats, nominal,
};
use http::header::HeaderValue;
use parking_lot::Mutex;

use super::executing::Executing;
use super::{Config, Fairness, LevelState, Rules, Schema, Tally, hand_out};

/// The use of a level without seats of its own is told as part of this part of all.
const FALLBACK: u32 = 10;
/// What there is in any case.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

impl LevelState {
    fn new(level: &Level, all: u32) -> Self {
        Self {
            name: level.name.clone(),
            uid: header(&level.uid),
            executing: Executing::default(),
            exempt: level.kind == Kind::Exempt,
            set: Mutex::new(QueueSet::new(level.kind, 0).compared_with(all.div_ceil(FALLBACK))),
            rules: Mutex::new(Rules {
                level: level.clone(),
                bounds: Bounds::default(),
                demand: Smoothed::default(),
                quiescing: false,
            }),
            max_seats: AtomicU32::new(1),
            pause: Mutex::default(),
            tally: Tally::default(),
        }
    }

    pub(super) fn max_seats(&self) -> u32 {
        self.max_seats.load(Ordering::Relaxed)
    }

    fn configure(&self, kind: Kind, limit: u32, now: u64) {
        let mut set = self.set.lock();
        let dispatched = set.configure(now, kind, limit);
        hand_out(&mut set, now, dispatched);
    }
}

fn header(uid: &str) -> HeaderValue {
    HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""))
}

fn mandatory(kind: &str) -> impl Iterator<Item = Value> {
    api::bootstrap_objects().filter(move |it| {
        it.str_at(&["kind"]) == kind && MANDATORY.contains(&it.str_at(&["metadata", "name"]))
    })
}

impl Fairness {
    /// Takes the objects there are for the configuration from now on.
    pub(crate) fn digest(&self, levels: &[Value], schemas: &[Value]) {
        let _writing = self.writing.lock();
        let before = self.config.load_full();
        let mut wanted: BTreeMap<CompactString, Level> = mandatory("PriorityLevelConfiguration")
            .chain(levels.iter().cloned())
            .filter_map(|it| Level::of(&it))
            .map(|it| (it.name.clone(), it))
            .collect();
        let known: BTreeMap<&CompactString, &Arc<LevelState>> =
            before.levels.iter().map(|it| (&it.name, it)).collect();
        let mut states: BTreeMap<CompactString, Arc<LevelState>> = BTreeMap::new();
        for level in wanted.values() {
            let state = known.get(&level.name).map(|it| Arc::clone(it));
            // A level that was deleted and made again is another one; so is one that is exempt now.
            let same = |it: &Arc<LevelState>| {
                it.uid == header(&level.uid) && it.exempt == (level.kind == Kind::Exempt)
            };
            let state =
                state.filter(same).unwrap_or_else(|| Arc::new(LevelState::new(level, self.seats)));
            states.insert(level.name.clone(), state);
        }
        let schemas = self.schemas(schemas, &states, &before);
        // Levels that are gone serve those who are there, and keep their part until then.
        let kept: Vec<&Arc<LevelState>> = before
            .levels
            .iter()
            .filter(|it| !wanted.contains_key(&it.name) && !it.set.lock().is_idle())
            .collect();
        for state in kept {
            let mut rules = state.rules.lock();
            rules.quiescing = true;
            wanted.insert(state.name.clone(), rules.level.clone());
            drop(rules);
            states.insert(state.name.clone(), Arc::clone(state));
        }
        self.limit(&wanted, &states);
        let levels = states.into_values().collect();
        self.config.store(Arc::new(Config { schemas, levels }));
    }

    fn schemas(
        &self,
        objects: &[Value],
        levels: &BTreeMap<CompactString, Arc<LevelState>>,
        before: &Config,
    ) -> Vec<Arc<Schema>> {
        let flows: BTreeMap<CompactString, FlowSchema> = mandatory("FlowSchema")
            .chain(objects.iter().cloned())
            .map(|it| FlowSchema::of(&it))
            .map(|it| (it.name.clone(), it))
            .collect();
        let mut flows: Vec<FlowSchema> = flows.into_values().collect();
        flows.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let made = flows.into_iter().filter_map(|flow| {
            let level = levels.get(&flow.level)?;
            let same = |it: &&Arc<Schema>| it.flow == flow && Arc::ptr_eq(&it.level, level);
            if let Some(same) = before.schemas.iter().find(same) {
                return Some(Arc::clone(same));
            }
            let counts = self.metrics.counts(&flow.name, &flow.level);
            let uid = header(&flow.uid);
            Some(Arc::new(Schema { flow, level: Arc::clone(level), uid, counts }))
        });
        made.collect()
    }

    /// Sets every level's own part of the seats.
    fn limit(
        &self,
        wanted: &BTreeMap<CompactString, Level>,
        states: &BTreeMap<CompactString, Arc<LevelState>>,
    ) {
        let now = self.now();
        let levels: Vec<&Level> = wanted.values().collect();
        for (level, bounds) in levels.iter().zip(nominal(&levels, self.seats)) {
            let Some(state) = states.get(&level.name) else { continue };
            let mut rules = state.rules.lock();
            let unchanged = rules.level == **level && rules.bounds == bounds;
            rules.level = Level::clone(level);
            rules.bounds = bounds;
            drop(rules);
            let hand = match level.kind {
                Kind::Queue { hand_size, .. } => hand_size,
                Kind::Exempt | Kind::Reject => 1,
            };
            state.max_seats.store(max_seats(bounds.nominal, hand), Ordering::Relaxed);
            // What was borrowed lately stays borrowed.
            if !unchanged {
                state.configure(level.kind, bounds.nominal, now);
            }
        }
    }

    /// Moves seats from levels that did not need them in the last period to those that did.
    pub(crate) fn adjust(&self) {
        let _writing = self.writing.lock();
        let (now, config) = (self.now(), self.config.load());
        let mut shares = Vec::new();
        for state in &config.levels {
            let observed = state.set.lock().take_demand(now);
            let mut rules = state.rules.lock();
            rules.demand.add(observed);
            shares.push(Share { exempt: state.exempt, bounds: rules.bounds, demand: rules.demand });
        }
        let all: u32 = shares.iter().map(|it| it.bounds.nominal).sum();
        let (seats, fraction) = allocate(&shares, all);
        self.metrics.seat_fair_frac(fraction);
        for (state, seats) in config.levels.iter().zip(seats) {
            let kind = state.rules.lock().level.kind;
            if state.set.lock().limit() != seats {
                state.configure(kind, seats, now);
            }
        }
    }

    /// Whether a level waits for its last requests to go away with it.
    pub(crate) fn has_leftovers(&self) -> bool {
        self.config.load().levels.iter().any(|it| it.rules.lock().quiescing)
    }
}
