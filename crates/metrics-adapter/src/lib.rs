//! `custom.metrics.k8s.io` and `external.metrics.k8s.io`: metrics of objects and of things outside of the cluster, asked
//! of Prometheus by rules, and of the places that the triggers of ScaledObjects name. Upstream: prometheus-adapter and
//! KEDA's metrics server.
//!
//! It answers requests that were let in; it knows neither sockets of clients nor who may ask. What lies behind it may
//! hang or answer anything: every read has a time, a size, and a number of others beside it.

mod answer;
pub mod config;
mod kinds;
mod known;
mod parts;
mod prometheus;
mod read;
mod rule;
mod scaled;
mod services;
mod template;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Status, Value, value};
use client::Client;
use component_base::{Clock, ShutdownSignal};
use parking_lot::Mutex;

pub use config::Rules;
pub use prometheus::Prometheus;
pub use read::{MAX_BYTES, PATIENCE, Place};

use kinds::Kinds;
use known::Known;
use read::Reader;

/// Metrics of objects.
pub const CUSTOM: &str = "custom.metrics.k8s.io";
/// Metrics of whatever else.
pub const EXTERNAL: &str = "external.metrics.k8s.io";
/// How long after a failure Prometheus is asked again what it has.
const AGAIN: Duration = Duration::from_secs(10);

/// A request for metrics.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// [`CUSTOM`] or [`EXTERNAL`].
    pub group: String,
    /// `v1beta2`
    pub version: String,
    /// Empty for what is in no namespace.
    pub namespace: String,
    /// The first part of the path below: a resource, or an external metric.
    pub resource: String,
    /// The second: an object, or `*`.
    pub name: String,
    /// The third: a metric.
    pub metric: String,
    /// `labelSelector`
    pub selector: String,
    /// `metricLabelSelector`
    pub metric_selector: String,
}

/// A group and version, and what is in it, as discovery tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// The group.
    pub group: &'static str,
    /// The version.
    pub version: &'static str,
    /// The resources, in the form of an `APIResourceList`.
    pub resources: Vec<Value>,
}

/// What is asked, and by which rules.
#[derive(Debug)]
pub struct Source {
    /// Where Prometheus is.
    pub prometheus: Prometheus,
    /// What is asked of it.
    pub rules: Rules,
    /// How often it is asked what it has (upstream: `--metrics-relist-interval`).
    pub relist: Duration,
}

/// What the adapter is made of.
pub struct Parts {
    /// Prometheus, where there is one.
    pub source: Option<Source>,
    /// Whether triggers of ScaledObjects are answered too.
    pub scaled_objects: bool,
    /// Reads objects.
    pub client: Client,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("source", &self.source).finish_non_exhaustive()
    }
}

/// The adapter.
#[derive(Debug)]
pub struct Adapter {
    parts: Parts,
    reader: Arc<Reader>,
    /// How places are spoken with that triggers name: they are shown no credentials.
    plain: Place,
    kinds: Mutex<Arc<Kinds>>,
    known: Mutex<Arc<Known>>,
    /// Why Prometheus cannot be asked.
    failure: Mutex<Option<String>>,
}

impl Adapter {
    /// An adapter that knows no metric yet: [`Adapter::run`] asks which there are.
    ///
    /// # Errors
    /// When this machine has no way to speak TLS.
    pub fn new(parts: Parts) -> Result<Arc<Self>, String> {
        let reader = Reader::new(parts.client.clone());
        let plain = Place::new(&[], None, PATIENCE, MAX_BYTES)?;
        let failure = parts.source.is_some().then(|| "Prometheus was not asked yet".to_owned());
        let (kinds, known) = (Mutex::default(), Mutex::default());
        Ok(Arc::new(Self { parts, reader, plain, kinds, known, failure: Mutex::new(failure) }))
    }

    /// Whether it has this group.
    #[must_use]
    pub fn serves(&self, group: &str, version: &str) -> bool {
        match group {
            CUSTOM => self.parts.source.is_some() && matches!(version, "v1beta1" | "v1beta2"),
            EXTERNAL => version == "v1beta1",
            _ => false,
        }
    }

    /// What it serves now.
    #[must_use]
    pub fn served(&self) -> Vec<Served> {
        let known = Arc::clone(&self.known.lock());
        let external =
            Served { group: EXTERNAL, version: "v1beta1", resources: known.external_resources() };
        let mut all = vec![external];
        if self.parts.source.is_some() {
            let custom = known.custom_resources(&self.kinds.lock());
            let of = |version| Served { group: CUSTOM, version, resources: custom.clone() };
            all.extend(["v1beta2", "v1beta1"].map(of));
        }
        all
    }

    /// Whether it can answer.
    ///
    /// # Errors
    /// Why it cannot: Prometheus does not answer. Triggers of ScaledObjects need none.
    pub fn available(&self, group: &str) -> Result<(), String> {
        match &*self.failure.lock() {
            Some(why) if group == CUSTOM || !self.parts.scaled_objects => Err(why.clone()),
            Some(_) | None => Ok(()),
        }
    }

    /// Asks which metrics there are, again and again until `stop`, and tells `changed` when something is different.
    pub async fn run(self: Arc<Self>, stop: ShutdownSignal, changed: impl Fn() + Send) {
        let Some(source) = &self.parts.source else { return };
        loop {
            let before = (Arc::clone(&self.known.lock()), self.failure.lock().clone());
            let pause = match self.relist(source).await {
                Ok(known) => {
                    *self.known.lock() = Arc::new(known);
                    *self.failure.lock() = None;
                    source.relist
                }
                Err(why) => {
                    tracing::warn!(why, "Prometheus does not tell which metrics it has");
                    *self.failure.lock() = Some(why);
                    AGAIN.min(source.relist)
                }
            };
            let is_new = *before.0 != **self.known.lock() || before.1 != *self.failure.lock();
            if is_new {
                changed();
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.requested() => return,
            }
        }
    }

    async fn relist(&self, source: &Source) -> Result<Known, String> {
        let kinds = Arc::new(Kinds::read(&self.parts.client).await);
        *self.kinds.lock() = Arc::clone(&kinds);
        let mut known = Known::default();
        let begin = self.parts.clock.now().as_second()
            - i64::try_from(source.relist.as_secs()).unwrap_or(i64::MAX);
        for (place, rule) in source.rules.iter().enumerate() {
            let found = source.prometheus.series(&self.reader, rule.series_query(), begin).await?;
            known.learn(place, rule, &found, &kinds);
        }
        Ok(known)
    }

    /// Answers a request.
    ///
    /// # Errors
    /// 404 where there is no such metric; 500 where it cannot be had; 400 where the request says nonsense.
    pub async fn answer(&self, asked: &Asked) -> Result<Value, Status> {
        let list = |kind: &str, items: Vec<Value>| {
            let version = format!("{}/{}", asked.group, asked.version);
            value!({"kind": kind, "apiVersion": version, "metadata": {}, "items": (Value::Array(items))})
        };
        if asked.group == CUSTOM {
            return Ok(list("MetricValueList", self.custom(asked).await?));
        }
        if !asked.name.is_empty() || asked.namespace.is_empty() {
            return Err(Status::no_route());
        }
        let items = match self.scaled_object_of(asked)? {
            Some(name) => self.by_trigger(asked, &name).await?,
            None => self.external(asked).await?,
        };
        Ok(list("ExternalMetricValueList", items))
    }
}
