//! Horizontal pod autoscalers: as many pods as their metrics ask for. Upstream: `pkg/controller/podautoscaler`.
//!
//! An autoscaler is looked at when it comes and then once a period, however often it is changed meanwhile. What is read
//! for a look are live reads: the scale of its target, and metrics from whoever serves them.

mod calculate;
mod evaluate;
mod metrics;
mod normalize;
mod plan;
mod sources;

pub use metrics::Metrics;
pub use plan::span;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, labels};
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Controller, Failure, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use crate::custom::{self, CustomResources};
use crate::owner;

/// The settings of upstream's flags `--horizontal-pod-autoscaler-*`.
#[derive(Debug, Clone)]
pub struct Options {
    /// Between two looks at an autoscaler.
    pub sync_period: SignedDuration,
    /// How long a lower recommendation waits where the spec does not say.
    pub downscale_stabilization: SignedDuration,
    /// How far from 1 a ratio may be before anything is done, where the spec does not say.
    pub tolerance: f64,
    /// How long after its start the processor time of a pod may be that of starting.
    pub cpu_initialization_period: SignedDuration,
    /// How long after its start a pod that is not ready may never have been.
    pub initial_readiness_delay: SignedDuration,
    /// `HPAScaleToZero`: whether pods come back where the autoscaler itself took the last of them.
    pub scale_to_zero: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync_period: plan::span(Duration::from_secs(15)),
            downscale_stabilization: plan::span(Duration::from_secs(300)),
            tolerance: 0.1,
            cpu_initialization_period: plan::span(Duration::from_secs(300)),
            initial_readiness_delay: plan::span(Duration::from_secs(30)),
            scale_to_zero: false,
        }
    }
}

/// The controller.
#[derive(Debug, Default)]
pub struct HorizontalPodAutoscalers {
    options: Options,
    metrics: Metrics,
    kinds: Arc<Kinds>,
    /// The selectors of the targets of autoscalers, as they were last seen.
    selectors: Mutex<BTreeMap<ObjectKey, labels::Selector>>,
}

/// The kinds that can be told of by name.
#[derive(Debug, Default)]
pub struct Kinds(CustomResources);

impl Kinds {
    /// Takes a change of a definition of a custom resource.
    pub(crate) fn learn(&self, change: &StoreChange) -> Option<Resource> {
        self.0.learn(change)
    }

    /// The resource of a kind in its group, whatever the version.
    pub(crate) fn find(&self, api_version: &str, kind: &str) -> Option<Resource> {
        let group = api_version.split_once('/').map_or("", |it| it.0);
        let built_in = api::resources().iter().find(|it| it.group == group && it.kind == kind);
        match built_in {
            Some(it) => Some(Resource::built_in(it.group, it.resource)),
            None => self.0.of_kind(group, kind),
        }
    }

    /// [`Self::find`], or why there is none.
    pub(crate) fn in_group(&self, api_version: &str, kind: &str) -> Result<Resource, String> {
        let group = api_version.split_once('/').map_or("", |it| it.0);
        let found = self.find(api_version, kind);
        found.ok_or_else(|| format!("no matches for kind {kind:?} in group {group:?}"))
    }

    /// `ingresses.networking.k8s.io`, `services`.
    fn name_in_paths(&self, api_version: &str, kind: &str) -> Result<String, String> {
        let found = self.in_group(api_version, kind)?;
        Ok(match found.group.as_str() {
            "" => found.plural.to_string(),
            group => format!("{}.{group}", found.plural),
        })
    }
}

/// What it sees of an autoscaler.
#[derive(Debug)]
pub struct Observed {
    autoscaler: HorizontalPodAutoscaler,
    /// The resource that is scaled, or why it is none.
    target: Result<Resource, String>,
    pods: Vec<Arc<Pod>>,
    kinds: Arc<Kinds>,
    answers: BTreeMap<String, Value>,
    /// The targets' selectors of all autoscalers of the namespace, this one's too.
    selectors: Vec<(ObjectKey, labels::Selector)>,
}

impl Observed {
    fn pods_of(&self, selector: &labels::Selector) -> Vec<Arc<Pod>> {
        let pods = self.pods.iter().filter(|it| owner::matches(selector, &it.metadata));
        pods.cloned().collect()
    }

    /// The autoscalers that would scale the pods that a selector takes, where there are others.
    fn rivals(&self, selector: &labels::Selector) -> Option<String> {
        let pods = self.pods_of(selector);
        let takes =
            |it: &labels::Selector| pods.iter().any(|pod| owner::matches(it, &pod.metadata));
        let own = owner::key_of(&self.autoscaler.metadata);
        let others = self.selectors.iter().filter(|(key, it)| *key != own && takes(it));
        let mut all: Vec<&ObjectKey> = others.map(|(key, _)| key).collect();
        if all.is_empty() {
            return None;
        }
        all.push(&own);
        all.sort();
        let all: Vec<String> =
            all.iter().map(|it| format!("{{{} {}}}", it.name, it.namespace)).collect();
        Some(format!("[{}]", all.join(" ")))
    }
}

/// A scale that was written, and what is to be said of it.
#[derive(Debug, Clone)]
struct Written {
    status: plan::Status,
    metrics: Vec<Value>,
    current: i32,
    desired: i32,
    failure: Option<String>,
}

/// What it remembers of an autoscaler.
#[derive(Debug, Default)]
pub struct Memory {
    /// When it is looked at again.
    next: Option<Timestamp>,
    history: normalize::History,
    written: Option<Written>,
    /// How the look went, once it is over.
    went: Option<metrics::Went>,
    /// How its metrics went, by their types.
    computed: Vec<(String, metrics::Went)>,
    /// How long the look took until now.
    spent: Duration,
}

impl HorizontalPodAutoscalers {
    /// The controller with these settings.
    #[must_use]
    pub fn new(options: Options, metrics: Metrics) -> Self {
        Self { options, metrics, ..Self::default() }
    }

    /// Remembers what the pods of an autoscaler's target are selected by.
    fn note(&self, key: &ObjectKey, answers: &BTreeMap<String, Value>) {
        let scales = answers.iter().filter(|(path, _)| path.ends_with("/scale"));
        for (_, scale) in scales {
            let text = scale.str_at(&["answer", "status", "selector"]);
            let selector = sources::check(text).ok().filter(|_| !text.is_empty());
            let mut known = self.selectors.lock();
            match selector {
                Some(selector) => known.insert(key.clone(), selector),
                None => known.remove(key),
            };
        }
    }
}

impl Controller for HorizontalPodAutoscalers {
    const NAME: &'static str = "horizontal-pod-autoscaler-controller";
    const ACCOUNT: &'static str = "horizontal-pod-autoscaler";
    const SOURCE: &'static str = "horizontal-pod-autoscaler";
    const QUEUE: &'static str = "horizontalpodautoscaler";
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        let kinds = Arc::clone(&self.kinds);
        watches.own::<HorizontalPodAutoscaler>().on::<Pod>(|_, _| Vec::new()).on_resource(
            custom::definitions(),
            move |change, _| {
                kinds.learn(change);
                Vec::new()
            },
        )
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let Some(autoscaler) = snapshot.get::<HorizontalPodAutoscaler>(key) else {
            self.selectors.lock().remove(key);
            self.metrics.seen(key, None);
            return None;
        };
        let desired = autoscaler.status.as_ref().map(|it| it.desired_replicas);
        self.metrics.seen(key, Some(desired.unwrap_or_default()));
        let target = &autoscaler.spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or_default();
        let answers = snapshot.answers();
        self.note(key, &answers);
        let selectors = self.selectors.lock();
        let selectors = selectors.iter().filter(|(it, _)| it.namespace == key.namespace);
        Some(Observed {
            target: self.kinds.in_group(version, &target.kind),
            // Nothing is calculated before there are answers.
            pods: if answers.is_empty() { Vec::new() } else { snapshot.list(&key.namespace) },
            kinds: Arc::clone(&self.kinds),
            selectors: selectors.map(|(key, it)| (key.clone(), it.clone())).collect(),
            answers,
            autoscaler,
        })
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        plan::plan(observed, memory, &self.options, now)
    }

    fn applied(&self, memory: &mut Memory, failure: Option<&Failure>) {
        if let Some(written) = &mut memory.written {
            written.failure = failure.map(|it| it.why.clone());
        }
    }

    fn timed(&self, memory: &mut Memory, failure: Option<&Failure>, took: Duration) {
        self.applied(memory, failure);
        // Metrics of a look are read side by side: each took as long as all.
        for (kind, went) in std::mem::take(&mut memory.computed) {
            self.metrics.computed(&kind, went, took);
        }
        memory.spent = memory.spent.saturating_add(took);
        let Some(went) = memory.went.take() else { return };
        let fault = if failure.is_some() { metrics::Fault::Internal } else { went.fault };
        self.metrics.looked(metrics::Went { fault, ..went }, std::mem::take(&mut memory.spent));
    }
}
