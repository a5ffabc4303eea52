//! One look at an autoscaler: its target's scale, what its metrics ask for, what is done, and what its status says.
//! Upstream: `reconcileAutoscaler` of `pkg/controller/podautoscaler/horizontal.go`.

use apimachinery::{Object, Value, time, value};
use client::Resource;
use client::events::{EventType, ObjectReference};
use controller::plan::PlannedAction;
use controller::{Action, Event, Fetch, Plan};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscaler};

use super::calculate::{Setting, Tolerances};
use super::evaluate::{self, Asked, Invalid, Scene};
use super::metrics::{Direction, Fault, Went};
use super::normalize::Wish;
use super::sources::{self, Lack, Reader};
use super::{Memory, Observed, Options, Written};
use crate::owner;

/// The condition that tells a zero of the autoscaler's from one of somebody else's, and its reason.
const SCALED_TO_ZERO: &str = "ScaledToZero";
const BELOW_MIN: &str = "Current number of replicas below Spec.MinReplicas";

/// The status as it comes to be.
#[derive(Debug, Clone)]
pub(super) struct Status {
    conditions: Vec<Value>,
    old: Value,
    now: String,
}

impl Status {
    fn of(autoscaler: &HorizontalPodAutoscaler, now: Timestamp) -> Self {
        let old = autoscaler.status.as_ref().map(owner::to_value).unwrap_or_default();
        let conditions = old.items_at(&["conditions"]).to_vec();
        Self { conditions, old, now: time::format_time(now).to_string() }
    }

    fn set(&mut self, kind: &str, is_true: bool, reason: &str, message: &str) {
        let status = if is_true { "True" } else { "False" };
        let mut condition = value!({"type": kind, "status": status,
            "lastTransitionTime": (self.now.as_str()), "reason": reason, "message": message});
        match self.conditions.iter_mut().find(|it| it.str_at(&["type"]) == kind) {
            Some(known) => {
                if known.str_at(&["status"]) == status {
                    let since = known.str_at(&["lastTransitionTime"]).to_owned();
                    condition.set_at(&["lastTransitionTime"], since);
                }
                *known = condition;
            }
            None => self.conditions.push(condition),
        }
    }

    /// The status with its numbers.
    fn done(&self, current: i32, desired: i32, metrics: &[Value], scaled: bool) -> Value {
        let mut status = self.only_conditions();
        status.insert("currentReplicas", i64::from(current));
        status.insert("desiredReplicas", i64::from(desired));
        status.remove("currentMetrics");
        if !metrics.is_empty() {
            status.insert("currentMetrics", Value::Array(metrics.to_vec()));
        }
        if scaled {
            status.insert("lastScaleTime", self.now.as_str());
        }
        Value::Object(status)
    }

    /// The status there was, with other conditions.
    fn only_conditions(&self) -> Object {
        let mut status = self.old.as_object().cloned().unwrap_or_default();
        status.insert("conditions", Value::Array(self.conditions.clone()));
        status
    }

    fn desired_before(&self) -> i32 {
        let before = self.old.i64_at(&["desiredReplicas"]).unwrap_or_default();
        i32::try_from(before).unwrap_or_default()
    }
}

/// A look at one autoscaler.
struct Look<'a> {
    seen: &'a Observed,
    options: &'a Options,
    now: Timestamp,
    plan: Plan,
    status: Status,
}

/// What is to be done for an autoscaler.
pub(super) fn plan(
    seen: &Observed,
    memory: &mut Memory,
    options: &Options,
    now: Timestamp,
) -> Plan {
    let look = Look {
        seen,
        options,
        now,
        plan: Plan::nothing(),
        status: Status::of(&seen.autoscaler, now),
    };
    if let Some(written) = memory.written.take() {
        return look.after_scaling(memory, written);
    }
    // A new one is looked at a period after it came, as upstream.
    let next = *memory.next.get_or_insert_with(|| look.after_a_period());
    match next > now {
        true => Plan { requeue_at: Some(next), ..Plan::nothing() },
        false => look.reconcile(memory),
    }
}

impl Look<'_> {
    fn reference(&self) -> ObjectReference {
        owner::reference_to(
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            &self.seen.autoscaler.metadata,
        )
    }

    fn after_a_period(&self) -> Timestamp {
        self.now.checked_add(self.options.sync_period).unwrap_or(Timestamp::MAX)
    }

    fn warn(&mut self, reason: &'static str, message: &str) {
        self.plan.event(self.reference(), EventType::Warning, reason, message);
    }

    /// Ends the look: writes the status where it changed. The next look is a period away, whatever comes of this one.
    fn end(mut self, memory: &mut Memory, status: Value) -> Plan {
        let next = self.after_a_period();
        memory.next = Some(next);
        memory.went.get_or_insert(Went { direction: Direction::None, fault: Fault::None });
        self.plan.requeue_by(next);
        if self.status.old != status {
            let mut object = owner::to_value(&self.seen.autoscaler);
            object.set_at(&["status"], status);
            let resource = Resource::of::<HorizontalPodAutoscaler>();
            self.plan.act(Action::Update { resource, subresource: "status", object });
        }
        self.plan
    }

    /// Reads first; then the same look is made again.
    fn wait(mut self, unread: Vec<String>) -> Plan {
        let resource = Resource::of::<HorizontalPodAutoscaler>();
        let reads = unread.into_iter().map(|path| Fetch::path(resource.clone(), path));
        self.plan = Plan { fetches: reads.collect(), ..Plan::nothing() };
        self.plan
    }

    fn no_scale(mut self, memory: &mut Memory, error: &str) -> Plan {
        // A kind that there is none of is what somebody wrote.
        let fault = if self.seen.target.is_err() { Fault::Spec } else { Fault::Internal };
        memory.went = Some(Went { direction: Direction::None, fault });
        self.warn("FailedGetScale", error);
        let message =
            format!("the HPA controller was unable to get the target's current scale: {error}");
        self.status.set("AbleToScale", false, "FailedGetScale", &message);
        let status = Value::Object(self.status.only_conditions());
        self.end(memory, status)
    }

    fn reconcile(mut self, memory: &mut Memory) -> Plan {
        let spec = &self.seen.autoscaler.spec;
        let namespace = self.seen.autoscaler.metadata.namespace.clone().unwrap_or_default();
        let resource = match &self.seen.target {
            Ok(resource) => resource.clone(),
            Err(error) => return self.no_scale(memory, error),
        };
        let path = resource.path(&namespace, &spec.scale_target_ref.name, "scale");
        let mut reader = Reader::new(&self.seen.answers);
        let scale = match reader.scale(path) {
            Ok(scale) => scale.clone(),
            Err(Lack::Unread) => return self.wait(reader.unread),
            Err(Lack::Error(error)) => return self.no_scale(memory, &error),
        };
        self.status.set(
            "AbleToScale",
            true,
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        );
        let current = replicas(&scale, "spec");
        memory.history.begin(current, self.now);
        let min = spec.min_replicas.unwrap_or(1);
        let took_all = self.took_all();
        // Whoever else set it to zero wants it to stay there.
        if current == 0 && !(took_all && (min != 0 || self.is_measured_elsewhere())) {
            self.status.set(
                "ScalingActive",
                false,
                "ScalingDisabled",
                "scaling is disabled since the replica count of the target is zero",
            );
            let status = self.status.done(current, current, &[], false);
            return self.end(memory, status);
        }
        let limit = if current > spec.max_replicas {
            Some((spec.max_replicas, "Current number of replicas above Spec.MaxReplicas"))
        } else if current != 0 && current < min {
            Some((min, BELOW_MIN))
        } else {
            None
        };
        if let Some((desired, why)) = limit {
            return self.rescale(memory, (resource, scale), desired, why, Vec::new());
        }
        self.by_metrics(memory, (resource, scale), min)
    }

    /// Whether the autoscaler itself has taken the last pod.
    fn took_all(&self) -> bool {
        let conditions = self.status.conditions.iter();
        let told =
            |it: &Value| it.str_at(&["type"]) == SCALED_TO_ZERO && it.str_at(&["status"]) == "True";
        self.options.scale_to_zero && conditions.clone().any(told)
    }

    /// Whether there is a metric that needs no pods.
    fn is_measured_elsewhere(&self) -> bool {
        specs_of(&self.seen.autoscaler.spec).any(|it| matches!(it, "Object" | "External"))
    }

    fn by_metrics(mut self, memory: &mut Memory, target: (Resource, Value), min: i32) -> Plan {
        let (current, status_replicas) =
            (replicas(&target.1, "spec"), replicas(&target.1, "status"));
        let selector = target.1.str_at(&["status", "selector"]).to_owned();
        let parsed = match self.selector(&selector) {
            Ok(parsed) => parsed,
            Err(error) => return self.invalid(memory, current, &[], &error),
        };
        let pods = self.seen.pods_of(&parsed);
        let spec = &self.seen.autoscaler.spec;
        let scene = Scene {
            namespace: self.seen.autoscaler.metadata.namespace.as_deref().unwrap_or_default(),
            selector: &selector,
            status_replicas,
            setting: Setting {
                pods: &pods,
                current,
                tolerances: self.tolerances(),
                now: self.now,
                cpu_initialization: self.options.cpu_initialization_period,
                readiness_delay: self.options.initial_readiness_delay,
            },
            kinds: &self.seen.kinds,
        };
        let mut reader = Reader::new(&self.seen.answers);
        let specs = spec.metrics.iter().flatten();
        let said: Vec<_> = specs.map(|it| evaluate::metric(&mut reader, &scene, it)).collect();
        let Some(said) = said.into_iter().collect::<Option<Vec<_>>>() else {
            return self.wait(reader.unread);
        };
        for invalid in said.iter().filter_map(|it| it.as_ref().err()) {
            self.warn(invalid.reason, &invalid.why);
        }
        let computed = specs_of(spec).zip(&said);
        memory.computed = computed.map(|(kind, it)| (kind.to_owned(), went(it, current))).collect();
        self.decide(memory, target, min, &said)
    }

    /// The selector, unless the scale has none that can be used.
    fn selector(&mut self, text: &str) -> Result<apimachinery::labels::Selector, String> {
        let (reason, condition, message, error) = if text.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            ("SelectorRequired", "InvalidSelector", message, "selector is required".to_owned())
        } else {
            match sources::check(text) {
                Ok(selector) => match self.seen.rivals(&selector) {
                    None => return Ok(selector),
                    Some(rivals) => {
                        let message = format!(
                            "pods by selector {text} are controlled by multiple HPAs: {rivals}"
                        );
                        ("AmbiguousSelector", "AmbiguousSelector", message.clone(), message)
                    }
                },
                Err(error) => {
                    let message = format!(
                        "couldn't convert selector into a corresponding internal selector object: {error}"
                    );
                    ("InvalidSelector", "InvalidSelector", message.clone(), message)
                }
            }
        };
        self.warn(reason, &error);
        self.status.set("ScalingActive", false, condition, &message);
        Err(error)
    }

    fn invalid(
        mut self,
        memory: &mut Memory,
        current: i32,
        metrics: &[Value],
        error: &str,
    ) -> Plan {
        self.warn("FailedComputeMetricsReplicas", error);
        memory.went = Some(Went { direction: Direction::None, fault: Fault::Internal });
        let status = self.status.done(current, self.status.desired_before(), metrics, false);
        self.end(memory, status)
    }

    fn tolerances(&self) -> Tolerances {
        let behavior = self.seen.autoscaler.spec.behavior.as_ref();
        let own = |rules: Option<&HPAScalingRules>| {
            let own = rules.and_then(|it| it.tolerance.as_ref());
            let own = own.and_then(|it| apimachinery::quantity::Quantity::parse(&it.0).ok());
            own.map_or(self.options.tolerance, |it| it.as_f64())
        };
        Tolerances {
            up: own(behavior.and_then(|it| it.scale_up.as_ref())),
            down: own(behavior.and_then(|it| it.scale_down.as_ref())),
        }
    }

    fn decide(
        mut self,
        memory: &mut Memory,
        target: (Resource, Value),
        min: i32,
        said: &[Result<Asked, Invalid>],
    ) -> Plan {
        let current = replicas(&target.1, "spec");
        let metrics: Vec<Value> = said
            .iter()
            .map(|it| match it {
                Ok(asked) => asked.status.clone(),
                Err(_) => value!({"type": ""}),
            })
            .collect();
        // The first of those that ask for the most.
        let mut highest: Option<&Asked> = None;
        for asked in said.iter().filter_map(|it| it.as_ref().ok()) {
            if highest.is_none_or(|it| it.replicas == 0 || asked.replicas > it.replicas) {
                highest = Some(asked);
            }
        }
        let invalid: Vec<&Invalid> = said.iter().filter_map(|it| it.as_ref().err()).collect();
        let wanted = highest.filter(|it| invalid.is_empty() || it.replicas >= current);
        let Some(highest) = wanted else {
            // With a metric missing nothing is taken away: it might have asked for more.
            let Some(first) = invalid.first() else {
                return self.invalid(memory, current, &metrics, "no metrics");
            };
            let message = format!("the HPA was unable to compute the replica count: {}", first.why);
            self.status.set("ScalingActive", false, first.reason, &message);
            let error = format!(
                "invalid metrics ({} invalid out of {}), first error is: {}",
                invalid.len(),
                said.len(),
                first.error
            );
            return self.invalid(memory, current, &metrics, &error);
        };
        let message = format!(
            "the HPA was able to successfully calculate a replica count from {}",
            highest.name
        );
        self.status.set("ScalingActive", true, "ValidMetricFound", &message);
        let why = match highest.replicas.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{} above target", highest.name),
            std::cmp::Ordering::Equal if current == 0 => BELOW_MIN.into(),
            _ => "All metrics below target".into(),
        };
        let spec = &self.seen.autoscaler.spec;
        let wish = Wish { current, desired: highest.replicas, min, max: spec.max_replicas };
        let down = self.options.downscale_stabilization.as_secs();
        let done = memory.history.normalize(spec.behavior.as_ref(), wish, down, self.now);
        self.status.set("AbleToScale", true, done.able.0, done.able.1);
        let (limited, because) = done.limited;
        self.status.set("ScalingLimited", limited, because.0, because.1);
        // It may have been raised since the last pod was taken.
        let wanted = if current == 0 { done.replicas.max(min) } else { done.replicas };
        if wanted == current {
            let status = self.status.done(current, current, &metrics, false);
            return self.end(memory, status);
        }
        self.rescale(memory, target, wanted, &why, metrics)
    }

    /// Writes the scale; the status is written once it is known how that went.
    fn rescale(
        mut self,
        memory: &mut Memory,
        (resource, mut scale): (Resource, Value),
        desired: i32,
        why: &str,
        metrics: Vec<Value>,
    ) -> Plan {
        let current = replicas(&scale, "spec");
        scale.set_at(&["spec", "replicas"], i64::from(desired));
        let about = self.reference();
        let event =
            |kind, reason, message| Some(Event { about: about.clone(), kind, reason, message });
        let size = format!("New size: {desired}; reason: {why}");
        let failed = format!("{size}; error: {{error}}");
        self.plan.then();
        self.plan.add(PlannedAction::new(
            Action::Update { resource, subresource: "scale", object: scale },
            event(EventType::Normal, "SuccessfulRescale", size),
            event(EventType::Warning, "FailedRescale", failed).into_iter().collect(),
        ));
        self.plan.requeue_by(self.now);
        memory.written =
            Some(Written { status: self.status, metrics, current, desired, failure: None });
        self.plan
    }

    fn after_scaling(mut self, memory: &mut Memory, written: Written) -> Plan {
        let Written { status, metrics, current, desired, failure } = written;
        let fault = if failure.is_some() { Fault::Internal } else { Fault::None };
        memory.went = Some(Went { direction: Direction::of(current, desired), fault });
        self.status = Status { old: self.status.old, ..status };
        if let Some(error) = failure {
            let message =
                format!("the HPA controller was unable to update the target scale: {error}");
            self.status.set("AbleToScale", false, "FailedUpdateScale", &message);
            let status = self.status.done(current, self.status.desired_before(), &metrics, false);
            return self.end(memory, status);
        }
        let message =
            format!("the HPA controller was able to update the target scale to {desired}");
        self.status.set("AbleToScale", true, "SucceededRescale", &message);
        if self.options.scale_to_zero {
            self.tell_zero(current, desired);
        }
        let behavior = self.seen.autoscaler.spec.behavior.as_ref();
        memory.history.scaled(behavior, current, desired, self.now);
        let status = self.status.done(current, desired, &metrics, true);
        self.end(memory, status)
    }

    /// Notes whose zero it is, for the looks to come.
    fn tell_zero(&mut self, current: i32, desired: i32) {
        let allowed = self.seen.autoscaler.spec.min_replicas == Some(0);
        let took_all = current > 0 && desired == 0 && allowed && self.is_measured_elsewhere();
        let (reason, message) = if took_all {
            (SCALED_TO_ZERO, "the HPA controller scaled the workload to zero")
        } else {
            ("NotScaledToZero", "the HPA controller did not scale the workload to zero")
        };
        self.status.set(SCALED_TO_ZERO, took_all, reason, message);
    }
}

fn specs_of(
    spec: &k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerSpec,
) -> impl Iterator<Item = &str> {
    spec.metrics.iter().flatten().map(|it| it.type_.as_str())
}

/// How a metric went: which way it alone would go.
fn went(said: &Result<Asked, Invalid>, current: i32) -> Went {
    match said {
        Ok(asked) => Went { direction: Direction::of(current, asked.replicas), fault: Fault::None },
        Err(invalid) => {
            let of_spec = invalid.reason == "InvalidMetricSourceType";
            let fault = if of_spec { Fault::Spec } else { Fault::Internal };
            Went { direction: Direction::None, fault }
        }
    }
}

fn replicas(scale: &Value, part: &str) -> i32 {
    let count = scale.i64_at(&[part, "replicas"]).unwrap_or_default();
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A period of the options, as time is counted here.
#[must_use]
pub fn span(duration: std::time::Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
