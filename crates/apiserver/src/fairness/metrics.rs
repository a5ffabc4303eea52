//! What is counted of flow control, in upstream's names. Each schema keeps its own counters, so that counting a request
//! looks nothing up.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use compact_str::CompactString;
use component_base::metrics::Histogram;
use flowcontrol::{Dispatch, Work};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use super::Fairness;

/// Upstream's buckets of durations, lengths of queues, and seats.
const DURATIONS: [f64; 13] =
    [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const SEATS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];
const LENGTHS: [f64; 8] = [0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0];
const WATCHERS: [f64; 6] = [0.0, 1.0, 10.0, 100.0, 1_000.0, 10_000.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Flow {
    flow_schema: String,
    priority_level: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Waited {
    execute: &'static str,
    flow_schema: String,
    priority_level: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Executed {
    flow_schema: String,
    priority_level: String,
    r#type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejected {
    flow_schema: String,
    priority_level: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLevel {
    priority_level: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Bound {
    bound: &'static str,
    priority_level: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Whole<L> = Family<L, Gauge<i64, AtomicI64>>;
type Real<L> = Family<L, Gauge<f64, AtomicU64>>;

fn durations() -> Histogram {
    Histogram::seconds(&DURATIONS)
}

/// What is counted of one schema.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) dispatched: Counter,
    /// How long those who were served had waited, and those who were not.
    pub(super) waited: Histogram,
    pub(super) waited_in_vain: Histogram,
    pub(super) estimated: Histogram,
    regular: Histogram,
    watch: Histogram,
    watchers: Histogram,
    lengths: Histogram,
    /// How often it was somebody's turn for whom there were not enough seats.
    pub(super) unaccommodated: Counter,
    executing: Gauge<i64, AtomicI64>,
    executing_seats: Gauge<i64, AtomicI64>,
    waiting: Gauge<i64, AtomicI64>,
    waiting_seats: Gauge<i64, AtomicI64>,
}

impl Counts {
    pub(super) fn execute(&self, seats: u32, by: i64) {
        self.executing.inc_by(by);
        self.executing_seats.inc_by(by * i64::from(seats));
    }

    pub(super) fn wait(&self, work: &Work, by: i64) {
        self.waiting.inc_by(by);
        self.waiting_seats.inc_by(by * i64::from(work.max_seats()));
    }

    pub(super) fn executed(&self, watch: bool) -> &Histogram {
        if watch { &self.watch } else { &self.regular }
    }

    /// A request came into a queue, which is so long with it.
    pub(super) fn enqueued(&self, length: usize) {
        self.lengths.observe_number(length);
    }

    pub(super) fn watchers(&self, count: u64) {
        self.watchers.observe_number(usize::try_from(count).unwrap_or(usize::MAX));
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Metrics {
    dispatched: Family<Flow, Counter>,
    rejected: Family<Rejected, Counter>,
    waited: Histograms<Waited>,
    executed: Histograms<Executed>,
    estimated: Histograms<Flow>,
    watchers: Histograms<Flow>,
    lengths: Histograms<Flow>,
    unaccommodated: Family<Flow, Counter>,
    executing: Whole<Flow>,
    executing_seats: Whole<Flow>,
    waiting: Whole<Flow>,
    waiting_seats: Whole<Flow>,
    nominal: Whole<OfLevel>,
    lower: Whole<OfLevel>,
    upper: Whole<OfLevel>,
    current: Whole<OfLevel>,
    high: Real<OfLevel>,
    average: Real<OfLevel>,
    deviation: Real<OfLevel>,
    smoothed: Real<OfLevel>,
    target: Real<OfLevel>,
    virtual_now: Real<OfLevel>,
    dispatched_at: Real<OfLevel>,
    latest_start: Real<OfLevel>,
    starts: Real<Bound>,
    discounted: Real<Bound>,
    fraction: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            dispatched: Family::default(),
            rejected: Family::default(),
            waited: Family::new_with_constructor(durations),
            executed: Family::new_with_constructor(durations),
            estimated: Family::new_with_constructor(|| Histogram::numbers(&SEATS)),
            watchers: Family::new_with_constructor(|| Histogram::numbers(&WATCHERS)),
            lengths: Family::new_with_constructor(|| Histogram::numbers(&LENGTHS)),
            unaccommodated: Family::default(),
            executing: Family::default(),
            executing_seats: Family::default(),
            waiting: Family::default(),
            waiting_seats: Family::default(),
            nominal: Family::default(),
            lower: Family::default(),
            upper: Family::default(),
            current: Family::default(),
            high: Family::default(),
            average: Family::default(),
            deviation: Family::default(),
            smoothed: Family::default(),
            target: Family::default(),
            virtual_now: Family::default(),
            dispatched_at: Family::default(),
            latest_start: Family::default(),
            starts: Family::default(),
            discounted: Family::default(),
            fraction: Gauge::default(),
        }
    }
}

impl Metrics {
    /// The counters of a schema.
    pub(super) fn counts(&self, schema: &CompactString, level: &CompactString) -> Arc<Counts> {
        let (flow_schema, priority_level) = (schema.to_string(), level.to_string());
        let flow =
            Flow { flow_schema: flow_schema.clone(), priority_level: priority_level.clone() };
        let waited = |execute| {
            let (flow_schema, priority_level) = (schema.to_string(), level.to_string());
            self.waited.get_or_create_owned(&Waited { execute, flow_schema, priority_level })
        };
        let executed = |r#type| {
            let (flow_schema, priority_level) = (schema.to_string(), level.to_string());
            self.executed.get_or_create_owned(&Executed { flow_schema, priority_level, r#type })
        };
        Arc::new(Counts {
            dispatched: self.dispatched.get_or_create_owned(&flow),
            waited: waited("true"),
            waited_in_vain: waited("false"),
            estimated: self.estimated.get_or_create_owned(&flow),
            regular: executed("regular"),
            watch: executed("watch"),
            watchers: self.watchers.get_or_create_owned(&flow),
            lengths: self.lengths.get_or_create_owned(&flow),
            unaccommodated: self.unaccommodated.get_or_create_owned(&flow),
            executing: self.executing.get_or_create_owned(&flow),
            executing_seats: self.executing_seats.get_or_create_owned(&flow),
            waiting: self.waiting.get_or_create_owned(&flow),
            waiting_seats: self.waiting_seats.get_or_create_owned(&flow),
        })
    }

    pub(super) fn rejected(&self, schema: &str, level: &str, reason: &'static str) {
        let (flow_schema, priority_level) = (schema.to_owned(), level.to_owned());
        self.rejected.get_or_create(&Rejected { flow_schema, priority_level, reason }).inc();
    }

    fn register_flows(&self, registry: &mut Registry) {
        let seats = "Seats of requests that are served";
        for (name, help, gauge) in [
            ("current_executing_requests", "Requests that are served", &self.executing),
            ("current_executing_seats", seats, &self.executing_seats),
            ("request_concurrency_in_use", seats, &self.executing_seats),
            ("current_inqueue_requests", "Requests that wait", &self.waiting),
            ("current_inqueue_seats", "Seats of requests that wait", &self.waiting_seats),
        ] {
            add(registry, name, help, Family::clone(gauge));
        }
    }

    fn register_levels(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("nominal_limit_seats", "A level's own seats", &self.nominal),
            ("request_concurrency_limit", "A level's own seats", &self.nominal),
            ("lower_limit_seats", "Seats that a level never lends", &self.lower),
            ("upper_limit_seats", "Seats of a level with all it may borrow", &self.upper),
            ("current_limit_seats", "Seats of a level as it borrows and lends", &self.current),
        ] {
            add(registry, name, help, Family::clone(gauge));
        }
        for (name, help, gauge) in [
            ("demand_seats_high_watermark", "The most seats wanted in the last period", &self.high),
            ("demand_seats_average", "Seats wanted in the last period", &self.average),
            ("demand_seats_stdev", "How far wanted seats were from their average", &self.deviation),
            ("demand_seats_smoothed", "Seats wanted, as limits are set by them", &self.smoothed),
            ("target_seats", "Seats that a level was to have", &self.target),
            ("current_r", "The virtual time of a level's queues", &self.virtual_now),
            ("dispatch_r", "The virtual time of the last dispatch", &self.dispatched_at),
            (
                "latest_s",
                "The virtual time at which the last request began that was dispatched",
                &self.latest_start,
            ),
        ] {
            add(registry, name, help, Family::clone(gauge));
        }
    }

    fn register_bounds(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            (
                "next_s_bounds",
                "The first and the last virtual time at which queues would go on",
                &self.starts,
            ),
            (
                "next_discounted_s_bounds",
                "The same, less the work that is being done",
                &self.discounted,
            ),
        ] {
            add(registry, name, help, Family::clone(gauge));
        }
    }

    fn last_dispatch(&self, level: &OfLevel, last: Dispatch) {
        self.dispatched_at.get_or_create(level).set(last.at);
        self.latest_start.get_or_create(level).set(last.start);
        for (gauge, (least, most)) in
            [(&self.starts, last.starts), (&self.discounted, last.discounted)]
        {
            for (bound, value) in [("min", least), ("max", most)] {
                let priority_level = level.priority_level.clone();
                gauge.get_or_create(&Bound { bound, priority_level }).set(value);
            }
        }
    }

    pub(super) fn seat_fair_frac(&self, fraction: f64) {
        self.fraction.set(fraction);
    }
}

fn add(registry: &mut Registry, name: &str, help: &str, metric: impl Metric) {
    registry.register(format!("apiserver_flowcontrol_{name}"), help, metric);
}

impl Fairness {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let metrics = &self.metrics;
        metrics.register_flows(registry);
        metrics.register_levels(registry);
        metrics.register_bounds(registry);
        let dispatched = Family::clone(&metrics.dispatched);
        add(registry, "dispatched_requests", "Requests that were served", dispatched);
        let rejected = Family::clone(&metrics.rejected);
        add(registry, "rejected_requests", "Requests that were refused, by reason", rejected);
        let waited = Family::clone(&metrics.waited);
        add(registry, "request_wait_duration_seconds", "How long requests waited", waited);
        let executed = Family::clone(&metrics.executed);
        add(registry, "request_execution_seconds", "How long requests were served", executed);
        let estimated = Family::clone(&metrics.estimated);
        let help = "Seats that requests were thought to need";
        add(registry, "work_estimated_seats", help, estimated);
        let watchers = Family::clone(&metrics.watchers);
        add(registry, "watch_count_samples", "Watchers of what is written", watchers);
        let lengths = Family::clone(&metrics.lengths);
        let help = "How long queues are when a request has come into them";
        add(registry, "request_queue_length_after_enqueue", help, lengths);
        let unaccommodated = Family::clone(&metrics.unaccommodated);
        let help = "How often it was a request's turn and there were not enough seats";
        add(registry, "request_dispatch_no_accommodation", help, unaccommodated);
        let fraction = Gauge::clone(&metrics.fraction);
        let help = "The part of its demand that each level gets";
        add(registry, "seat_fair_frac", help, fraction);
    }

    /// Writes down what is so right now.
    pub(crate) fn observe(&self) {
        for level in &self.config.load().levels {
            let label = OfLevel { priority_level: level.name.to_string() };
            let (bounds, demand) = {
                let rules = level.rules.lock();
                (rules.bounds, rules.demand)
            };
            let (limit, virtual_now, last) = {
                let set = level.set.lock();
                (set.limit(), set.virtual_now(), set.last_dispatch())
            };
            let metrics = &self.metrics;
            if let Some(last) = last {
                metrics.last_dispatch(&label, last);
            }
            for (gauge, value) in [
                (&metrics.nominal, bounds.nominal),
                (&metrics.lower, bounds.least),
                (&metrics.upper, bounds.most),
                (&metrics.current, limit),
            ] {
                gauge.get_or_create(&label).set(i64::from(value));
            }
            let least = f64::from(bounds.least);
            let target =
                demand.smoothed.max(demand.last.high.min(f64::from(bounds.nominal)).max(least));
            for (gauge, value) in [
                (&metrics.high, demand.last.high),
                (&metrics.average, demand.last.average),
                (&metrics.deviation, demand.last.deviation),
                (&metrics.smoothed, demand.smoothed),
                (&metrics.target, target),
                (&metrics.virtual_now, virtual_now),
            ] {
                gauge.get_or_create(&label).set(value);
            }
        }
    }
}
