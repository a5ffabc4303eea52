//! What the scheduler counts about itself, in upstream's names.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::framework::Profile;
use crate::queue::Queue;
use crate::told::{Span, Told, bit};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The pod was bound.
    Scheduled,
    /// No node would do.
    Unschedulable,
    /// Something failed.
    Error,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::Error => "error",
        }
    }
}

/// How an attempt to place a group ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupOutcome {
    /// Its pods were bound.
    Scheduled,
    /// It does not fit.
    Unschedulable,
    /// It will fit once pods are gone that make room.
    WaitingOnPreemption,
    /// Something failed.
    Error,
}

impl GroupOutcome {
    fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unschedulable => "unschedulable",
            Self::WaitingOnPreemption => "waiting_on_preemption",
            Self::Error => "error",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ForWhom {
    preemptor: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Evaluated {
    preemptor: &'static str,
    result: &'static str,
}

/// What is told of groups.
#[derive(Debug, Clone)]
struct GroupMetrics {
    attempts: Family<Attempt, Counter>,
    attempt_seconds: Histograms<Attempt>,
    algorithm_seconds: Histogram,
    preemptions: Family<Ended, Counter>,
    victims: Histogram,
    disruptions: Histograms<ForWhom>,
    violations: Family<ForWhom, Counter>,
    evaluation_seconds: Histograms<Evaluated>,
}

/// For whom room was made.
const PODGROUP: ForWhom = ForWhom { preemptor: "podgroup" };

impl Default for GroupMetrics {
    fn default() -> Self {
        Self {
            attempts: Family::default(),
            attempt_seconds: Family::new_with_constructor(milliseconds),
            algorithm_seconds: milliseconds(),
            preemptions: Family::default(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            disruptions: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(1.0, 2.0, 11))
            }),
            violations: Family::default(),
            evaluation_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 16))
            }),
        }
    }
}

impl GroupMetrics {
    fn register(&self, to: &mut Registry) {
        let (name, help) = (
            "scheduler_podgroup_schedule_attempts",
            "Attempts to place a group, by how they ended",
        );
        to.register(name, help, self.attempts.clone());
        let (name, help) = (
            "scheduler_podgroup_scheduling_attempt_duration_seconds",
            "From decision to binding of a group, by how it ended",
        );
        to.register(name, help, self.attempt_seconds.clone());
        let (name, help) = (
            "scheduler_podgroup_scheduling_algorithm_duration_seconds",
            "How long decisions about groups take",
        );
        to.register(name, help, self.algorithm_seconds.clone());
        let (name, help) = (
            "scheduler_workload_preemption_attempts",
            "Attempts to make room for a group by removing pods, by how they ended",
        );
        to.register(name, help, self.preemptions.clone());
        let (name, help) = ("scheduler_workload_preemption_victims", "Pods removed for a group");
        to.register(name, help, self.victims.clone());
        let (name, help) =
            ("scheduler_preemption_workload_disruptions", "Groups that made room at once");
        to.register(name, help, self.disruptions.clone());
        let (name, help) = (
            "scheduler_preemption_pdb_violations",
            "Pods that made room although their budgets would have kept them",
        );
        to.register(name, help, self.violations.clone());
        let (name, help) = (
            "scheduler_preemption_evaluation_duration_seconds",
            "How long it takes to find out who makes room",
        );
        to.register(name, help, self.evaluation_seconds.clone());
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    profile: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InQueue {
    queue: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Entered {
    queue: &'static str,
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusing {
    plugin: &'static str,
    profile: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Point {
    extension_point: &'static str,
    profile: String,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPlugin {
    plugin: &'static str,
    extension_point: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    plugin: &'static str,
    extension_point: &'static str,
    profile: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Handled {
    event: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Task {
    operation: &'static str,
}

/// How often each plugin of a profile had a part in a decision, by its place, until it is told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    looked: Vec<u64>,
    filtered: Vec<u64>,
    scored: Vec<u64>,
    decisions: u64,
}

impl Parts {
    /// A decision was made.
    pub(crate) fn count(&mut self, profile: &Profile, told: &Told) {
        let add = |counts: &mut Vec<u64>, count: usize, marks: u64| {
            counts.resize(count, 0);
            for (place, count) in counts.iter_mut().enumerate() {
                *count += u64::from(marks & bit(place) != 0);
            }
        };
        add(&mut self.looked, profile.filters.len(), told.looked.get());
        add(&mut self.filtered, profile.filters.len(), told.filtered.get());
        add(&mut self.scored, profile.scores.len(), told.scored.get());
        self.decisions += 1;
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tried {
    attempts: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cached {
    r#type: &'static str,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// The scheduler's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    attempts: Family<Attempt, Counter>,
    attempt_seconds: Histograms<Attempt>,
    algorithm_seconds: Histogram,
    pod_attempts: Histogram,
    sli_seconds: Histograms<Tried>,
    pending: Family<InQueue, Gauge>,
    entered: Family<Entered, Counter>,
    unschedulable: Family<Refusing, Gauge>,
    points: Histograms<Point>,
    plugins: Histograms<OfPlugin>,
    asked: Family<Asked, Counter>,
    handled: Histograms<Handled>,
    tasks: Family<Task, Gauge>,
    after_flush: Counter,
    executions: Histograms<Evaluated>,
    preemptions: Counter,
    victims: Histogram,
    cached: Family<Cached, Gauge>,
    groups: GroupMetrics,
}

fn milliseconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            attempts: Family::default(),
            attempt_seconds: Family::new_with_constructor(milliseconds),
            algorithm_seconds: milliseconds(),
            pod_attempts: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
            sli_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.01, 2.0, 20))
            }),
            pending: Family::default(),
            entered: Family::default(),
            unschedulable: Family::default(),
            points: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.0001, 2.0, 12))
            }),
            plugins: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_01, 1.5, 20))
            }),
            asked: Family::default(),
            handled: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.0001, 2.0, 12))
            }),
            tasks: Family::default(),
            after_flush: Counter::default(),
            executions: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 16))
            }),
            preemptions: Counter::default(),
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            cached: Family::default(),
            groups: GroupMetrics::default(),
        }
    }
}

impl Metrics {
    /// Has them told with what else is told there.
    pub fn register(&self, to: &mut Registry) {
        let (name, help) =
            ("scheduler_schedule_attempts", "Attempts to place a pod, by how they ended");
        to.register(name, help, self.attempts.clone());
        let (name, help) = (
            "scheduler_scheduling_attempt_duration_seconds",
            "From decision to binding, by how it ended",
        );
        to.register(name, help, self.attempt_seconds.clone());
        let (name, help) =
            ("scheduler_scheduling_algorithm_duration_seconds", "How long decisions take");
        to.register(name, help, self.algorithm_seconds.clone());
        let (name, help) = ("scheduler_pod_scheduling_attempts", "Attempts until a pod was placed");
        to.register(name, help, self.pod_attempts.clone());
        let (name, help) = (
            "scheduler_pod_scheduling_sli_duration_seconds",
            "From when a pod was first queued until it was bound, by attempts",
        );
        to.register(name, help, self.sli_seconds.clone());
        let (name, help) = ("scheduler_pending_pods", "Pods that wait, by where");
        to.register(name, help, self.pending.clone());
        let (name, help) =
            ("scheduler_queue_incoming_pods", "Pods that came to a queue, by what brought them");
        to.register(name, help, self.entered.clone());
        let (name, help) = (
            "scheduler_unschedulable_pods",
            "Pods that fit nowhere, by the plugin that refused nodes",
        );
        to.register(name, help, self.unschedulable.clone());
        let (name, help) = (
            "scheduler_framework_extension_point_duration_seconds",
            "How long all plugins of an extension point take",
        );
        to.register(name, help, self.points.clone());
        let (name, help) =
            ("scheduler_preemption_attempts", "Attempts to make room for a pod by removing others");
        to.register(name, help, self.preemptions.clone());
        let (name, help) = ("scheduler_preemption_victims", "Pods removed for one");
        to.register(name, help, self.victims.clone());
        let (name, help) =
            ("scheduler_cache_size", "What the picture of the cluster holds, by what it is");
        to.register(name, help, self.cached.clone());
        self.groups.register(to);
        self.register_plugins(to);
    }

    fn register_plugins(&self, to: &mut Registry) {
        let (name, help) = (
            "scheduler_plugin_execution_duration_seconds",
            "How long single plugins take, in one decision of ten",
        );
        to.register(name, help, self.plugins.clone());
        let (name, help) = (
            "scheduler_plugin_evaluation",
            "Decisions in which a plugin had a part, by extension point",
        );
        to.register(name, help, self.asked.clone());
        let (name, help) = (
            "scheduler_event_handling_duration_seconds",
            "How long it takes to find out which pods an event may help",
        );
        to.register(name, help, self.handled.clone());
        let (name, help) = ("scheduler_goroutines", "What goes on beside decisions, by what it is");
        to.register(name, help, self.tasks.clone());
        let (name, help) = (
            "scheduler_pod_scheduled_after_flush",
            "Pods that were placed when they were tried again although nothing had happened",
        );
        to.register(name, help, self.after_flush.clone());
        let (name, help) = (
            "scheduler_preemption_execution_duration_seconds",
            "How long it takes to remove the pods that make room",
        );
        to.register(name, help, self.executions.clone());
    }

    /// A decision was made.
    pub(crate) fn decided(&self, took: Duration) {
        self.algorithm_seconds.observe(took.as_secs_f64());
    }

    /// An attempt ended.
    pub(crate) fn attempted(&self, profile: &str, outcome: Outcome, took: Duration) {
        let of = Attempt { profile: profile.to_owned(), result: outcome.name() };
        self.attempt_seconds.get_or_create(&of).observe(took.as_secs_f64());
        self.attempts.get_or_create(&of).inc();
    }

    /// A pod was bound after so many attempts, so long after it was first queued.
    pub(crate) fn placed(&self, attempts: u32, waited: Duration) {
        self.pod_attempts.observe(f64::from(attempts));
        // Upstream's label ends at 16.
        let tried = if attempts >= 16 { "16+".to_owned() } else { attempts.to_string() };
        self.sli_seconds.get_or_create(&Tried { attempts: tried }).observe(waited.as_secs_f64());
    }

    /// The plugins of an extension point were asked.
    pub(crate) fn point(&self, point: &'static str, profile: &str, good: bool, took: Duration) {
        let status = if good { "Success" } else { "Error" };
        let of = Point { extension_point: point, profile: profile.to_owned(), status };
        self.points.get_or_create(&of).observe(took.as_secs_f64());
    }

    /// How long a decision's points took, and single plugins where they were timed.
    pub(crate) fn told(&self, profile: &str, told: &Told) {
        for Span { point, plugin, status, took } in told.spans() {
            let (seconds, extension_point) = (took.as_secs_f64(), point.name());
            match plugin {
                None => {
                    let of = Point { extension_point, profile: profile.to_owned(), status };
                    self.points.get_or_create(&of).observe(seconds);
                }
                Some(plugin) => {
                    let of = OfPlugin { plugin, extension_point, status };
                    self.plugins.get_or_create(&of).observe(seconds);
                }
            }
        }
    }

    /// How often plugins of a profile had a part in decisions.
    pub(crate) fn parts(&self, profile: &Profile, parts: &mut Parts) {
        let Parts { looked, filtered, scored, decisions } = std::mem::take(parts);
        let add = |plugin: &'static str, extension_point: &'static str, count: u64| {
            if count > 0 {
                let profile = profile.scheduler_name.to_string();
                self.asked.get_or_create(&Asked { plugin, extension_point, profile }).inc_by(count);
            }
        };
        if decisions == 0 {
            return;
        }
        for (filter, (looked, filtered)) in
            profile.filters.iter().zip(looked.into_iter().zip(filtered))
        {
            add(filter.name(), "PreFilter", looked);
            add(filter.name(), "Filter", filtered);
        }
        for ((score, _), scored) in profile.scores.iter().zip(scored) {
            add(score.name(), "Score", scored);
        }
    }

    /// It was found out which pods an event may help.
    pub(crate) fn handled(&self, event: &'static str, took: Duration) {
        self.handled.get_or_create(&Handled { event }).observe(took.as_secs_f64());
    }

    /// So many bindings and other writes are under way.
    pub(crate) fn under_way(&self, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.tasks.get_or_create(&Task { operation: "binding" }).set(count);
    }

    /// A pod was placed that was tried again although nothing had happened.
    pub(crate) fn placed_after_flush(&self) {
        self.after_flush.inc();
    }

    /// Pods that make room were removed, or not.
    pub(crate) fn made_room(&self, preemptor: &'static str, good: bool, took: Duration) {
        let result = if good { "success" } else { "error" };
        let of = Evaluated { preemptor, result };
        self.executions.get_or_create(&of).observe(took.as_secs_f64());
    }

    /// Pods were chosen to make room.
    pub(crate) fn preempted(&self, victims: usize) {
        #[allow(clippy::cast_precision_loss, reason = "a node has few pods")]
        self.victims.observe(victims as f64);
    }

    /// It was tried to make room.
    pub(crate) fn preempting(&self) {
        self.preemptions.inc();
    }

    /// A decision about a group was made.
    pub(crate) fn group_decided(&self, took: Duration) {
        self.groups.algorithm_seconds.observe(took.as_secs_f64());
    }

    /// An attempt to place a group ended.
    pub(crate) fn group_attempted(&self, profile: &str, outcome: GroupOutcome, took: Duration) {
        let of = Attempt { profile: profile.to_owned(), result: outcome.name() };
        self.groups.attempt_seconds.get_or_create(&of).observe(took.as_secs_f64());
        self.groups.attempts.get_or_create(&of).inc();
    }

    /// It was tried to make room for a group.
    pub(crate) fn group_made_room(&self, result: &'static str, took: Duration) {
        self.groups.preemptions.get_or_create(&Ended { result }).inc();
        let of = Evaluated { preemptor: PODGROUP.preemptor, result };
        self.groups.evaluation_seconds.get_or_create(&of).observe(took.as_secs_f64());
    }

    /// Pods were chosen to make room for a group: how many, of how many groups, and how many their budgets would keep.
    #[allow(clippy::cast_precision_loss, reason = "a cluster has fewer pods than 2^52")]
    pub(crate) fn group_preempted(&self, victims: usize, groups: usize, violations: usize) {
        self.groups.victims.observe(victims as f64);
        self.groups.disruptions.get_or_create(&PODGROUP).observe(groups as f64);
        let violations = u64::try_from(violations).unwrap_or_default();
        self.groups.violations.get_or_create(&PODGROUP).inc_by(violations);
    }

    /// What waits, and what is known.
    pub(crate) fn state(&self, queue: &mut Queue, nodes: usize, pods: usize, assumed: usize) {
        for (name, count) in queue.sizes() {
            self.pending.get_or_create(&InQueue { queue: name }).set(count);
        }
        for ((queue, event), count) in queue.entered() {
            self.entered.get_or_create(&Entered { queue, event }).inc_by(count);
        }
        for ((plugin, profile), change) in queue.refusing_changed() {
            let of = Refusing { plugin, profile: profile.to_string() };
            self.unschedulable.get_or_create(&of).inc_by(change);
        }
        for (name, count) in [("nodes", nodes), ("pods", pods), ("assumed_pods", assumed)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.cached.get_or_create(&Cached { r#type: name }).set(count);
        }
    }
}
