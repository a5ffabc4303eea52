//! One run: a cluster, a phase of faults under load, rest, and again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use auth::UserInfo;
use auth::user::MASTERS;
use client::Client;
use component_base::{Clock, Random, SeededRandom, VirtualClock};
use storage::Store;
use storage::memory::MemoryStore;
use tokio::time::Instant;

use crate::Violation;
use crate::chaos::{Chaos, Parts};
use crate::clock::SteppedClock;
use crate::dice::Dice;
use crate::hardware::Hardware;
use crate::ledger::Ledger;
use crate::link::{FaultyTransport, Link, Rates};
use crate::node::{Machine, Site};
use crate::observer::{Observer, State};
use crate::plane::{Part, Process};
use crate::reality::Reality;
use crate::rest;
use crate::server::{Parent, Slot};
use crate::workload::{Driver, User, is_ours};

/// How many machines there are.
const MACHINES: usize = 5;
/// How many operations a phase of faults has, where a run is not shorter.
const PHASE: u64 = 500;
/// The longest pauses between two operations, phase by phase.
const PAUSES_MS: [u64; 3] = [20, 180, 600];
/// How long everything may take to come to rest once faults stop: a key that failed long ago is tried again after 17
/// minutes at the latest.
const REST_WITHIN: Duration = Duration::from_secs(3_600);
/// How long nothing may be written once everything is at rest.
const QUIET: Duration = Duration::from_secs(45);
/// Between two looks whether it is so.
const LOOK: Duration = Duration::from_secs(2);
/// How many things that are not at rest are told of.
const TOLD: usize = 12;

/// What is run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Where all chance comes from.
    pub seed: u64,
    /// How many operations there are at least.
    pub operations: u64,
    /// Whether what happens is logged.
    pub echo: bool,
}

/// How a run went.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// How many operations there were.
    pub operations: u64,
    /// How many revisions the store has.
    pub revisions: u64,
    /// How many rules were broken.
    pub violated: u64,
    /// The first of them.
    pub violations: Vec<Violation>,
    /// The hash of everything that happened.
    pub trace: u64,
    /// How much time went by in the cluster.
    pub virtual_time: Duration,
}

/// Told of progress: operations so far.
pub type Progress<'p> = &'p dyn Fn(u64);

/// Runs a plan to its end, or to the first phase in which a rule is broken.
///
/// # Panics
/// When the runtime or the first server cannot be made: nothing can be said then.
#[must_use]
pub fn run(plan: Plan, progress: Progress<'_>) -> Report {
    run_on(plan, progress).0
}

/// The same, with the store that it ran on, if anything still holds that.
fn run_on(plan: Plan, progress: Progress<'_>) -> (Report, Weak<dyn Store>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("because a runtime without I/O needs nothing");
    runtime.block_on(async {
        let (mut world, store) = World::new(plan).await;
        world.live(progress).await;
        let report = world.report();
        // Who leads lets go of its caches when it ends, and of the server with them.
        world.chaos.crash_all();
        tokio::time::sleep(LOOK).await;
        (report, store)
    })
}

struct World {
    plan: Plan,
    ledger: Arc<Ledger>,
    observer: Arc<Observer>,
    reality: Arc<Reality>,
    bad: Arc<AtomicBool>,
    chaos: Chaos,
    driver: Driver,
    dice: Dice,
    began: Instant,
}

impl World {
    async fn new(plan: Plan) -> (Self, Weak<dyn Store>) {
        let seed = plan.seed;
        let ledger = Arc::new(Ledger::new(plan.echo));
        let epoch = "2026-01-01T00:00:00Z".parse().expect("because it is a time");
        let true_time = VirtualClock::starting_at(epoch);
        let random: Arc<dyn Random> = Arc::new(SeededRandom::new(seed));
        let server_clock = SteppedClock::new(true_time.clone());
        let clock: Arc<dyn Clock> = Arc::new(server_clock.clone());
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::clone(&clock)));
        let stored = Arc::downgrade(&store);
        let observer = Observer::new(&ledger);
        tokio::spawn(Arc::clone(&observer).follow(Arc::clone(&store)));
        let parent =
            Parent { store, clock, random: Arc::clone(&random), observer: Arc::clone(&observer) };
        let slot = Slot::new(parent);
        slot.start().await.expect("because the store is empty");
        let bad = Arc::new(AtomicBool::new(false));
        let reality = Reality::new(&ledger);
        let link = |name: &str, rates| Link::new(seed, name, rates, &bad);
        let processes = [Part::Controllers, Part::Scheduler].into_iter().flat_map(|part| {
            let name = if part == Part::Controllers { "manager" } else { "scheduler" };
            let (link, slot, random, time) = (&link, &slot, &random, &true_time);
            ["a", "b"].map(move |which| {
                let name = format!("{name}-{which}");
                let way = (link(&name, Rates::BAD), SteppedClock::new(time.clone()));
                Process::new(name, part, way, slot, random)
            })
        });
        let processes: Vec<Process> = processes.collect();
        let site = Site {
            seed,
            slot: Arc::clone(&slot),
            random: Arc::clone(&random),
            reality: Arc::clone(&reality),
        };
        let machines = (0..MACHINES).map(|number| {
            let link = link(&format!("node-{number}"), Rates::BAD);
            Machine::new(number, &site, link, SteppedClock::new(true_time.clone()))
        });
        let machines: Vec<Machine> = machines.collect();
        Hardware::start(&site, &link("hardware", Rates::BAD));
        let user = UserInfo::new("admin", &[MASTERS]);
        let transport = FaultyTransport::new(&slot, user, &link("admin", Rates::FAIR), true);
        let user = User::new(Client::new(transport, "sim"), &ledger, &observer);
        let parts = Parts {
            processes,
            machines,
            slot,
            server_clock,
            ledger: Arc::clone(&ledger),
            observer: Arc::clone(&observer),
        };
        let world = Self {
            plan,
            ledger,
            observer,
            reality,
            bad,
            chaos: Chaos::new(parts, seed),
            driver: Driver::new(user, seed),
            dice: Dice::new(seed, "pace"),
            began: Instant::now(),
        };
        (world, stored)
    }

    async fn live(&mut self, progress: Progress<'_>) {
        self.chaos.start();
        self.driver.prepare().await;
        while self.ledger.operations() < self.plan.operations && self.ledger.violated() == 0 {
            self.phase(progress).await;
            self.rest().await;
            progress(self.ledger.operations());
        }
    }

    /// Faults under load.
    async fn phase(&mut self, progress: Progress<'_>) {
        self.bad.store(true, Ordering::Relaxed);
        self.chaos.begin();
        let pause = PAUSES_MS[self.dice.below(PAUSES_MS.len())];
        let end = self.ledger.operations() + PHASE.min(self.plan.operations);
        while self.ledger.operations() < end && self.ledger.violated() == 0 {
            self.driver.act().await;
            self.chaos.strike(&self.driver.user).await;
            tokio::time::sleep(self.dice.millis(1, pause)).await;
        }
        progress(self.ledger.operations());
    }

    /// Faults stop: everything has to come to rest, and to stay there.
    async fn rest(&mut self) {
        self.bad.store(false, Ordering::Relaxed);
        self.chaos.end().await;
        self.ledger.note(|| "-- faults stop".into());
        self.driver.settle().await;
        let until = Instant::now() + REST_WITHIN;
        loop {
            let unrest = self.observer.with(|state| rest::unrest(state, &self.reality));
            if unrest.is_empty() {
                break;
            }
            if Instant::now() > until {
                let told = unrest.iter().take(TOLD).cloned().collect::<Vec<_>>().join("; ");
                let what = format!("{} things are not: {told}", unrest.len());
                self.observer.with(|state| self.picture(state, &told));
                return self.ledger.violation("everything comes to rest when faults stop", what);
            }
            tokio::time::sleep(LOOK).await;
        }
        self.stay_at_rest(until).await;
        self.driver.compare().await;
    }

    /// Notes what is known of the objects that are named in `told`, for whoever reads the violation.
    fn picture(&self, state: &State, told: &str) {
        for (kind, objects) in &state.kinds {
            let named = objects.iter().filter(|(place, _)| {
                is_ours(place)
                    && told.contains(&format!("{}/{}", place.namespace, stem(kind, &place.name)))
            });
            for (place, known) in named {
                let mut value = (*known.value).clone();
                value.remove_at(&["metadata", "managedFields"]);
                value.remove_at(&["spec", "template", "spec"]);
                self.ledger
                    .note(|| format!("?? {kind} {} at {}: {value:?}", place.name, known.revision));
            }
        }
    }

    async fn stay_at_rest(&self, until: Instant) {
        loop {
            let (busy_at, with) = self.observer.busy();
            if busy_at.elapsed() >= QUIET {
                return;
            }
            if Instant::now() > until {
                let what = format!("still writing: {with}");
                return self.ledger.violation("what is at rest stays at rest", what);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn report(&self) -> Report {
        Report {
            seed: self.plan.seed,
            operations: self.ledger.operations(),
            revisions: self.observer.with(|state| state.revision),
            violated: self.ledger.violated(),
            violations: self.ledger.violations(),
            trace: self.ledger.hash(),
            virtual_time: self.began.elapsed(),
        }
    }
}

/// The name of the workload that an object belongs to.
fn stem<'n>(kind: &str, name: &'n str) -> &'n str {
    let parts = match kind {
        "ReplicaSet" if name.starts_with("deployment") => 1,
        "Pod" if name.starts_with("deployment") => 2,
        "Pod" | "ControllerRevision" => 1,
        _ => 0,
    };
    let stem = name.rsplitn(parts + 1, '-').last();
    stem.unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seeds are run by the hundred in one process.
    #[test]
    fn a_run_leaves_nothing_behind() {
        let plan = Plan { seed: 3, operations: 20, echo: false };
        let (report, store) = run_on(plan, &|_| {});
        assert_eq!((report.violated, store.strong_count()), (0, 0), "{report:?}");
    }
}
