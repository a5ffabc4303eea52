//! EndpointSlices of Endpoints that somebody writes by hand, for those that read slices only. Upstream:
//! `pkg/controller/endpointslicemirroring`.

mod metrics;
mod plan;
mod subsets;

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use client::ObjectKey;
use client::indexes::{BY_SERVICE, service_entry};
use client::reflector::StoreChange;
use controller::{Controller, Failure, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::endpointslice::{MANAGED_BY, SERVICE_NAME};

pub use metrics::Metrics;

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct EndpointSliceMirroring {
    /// What it counts.
    pub metrics: Metrics,
    /// How many addresses of a subset are mirrored.
    pub max_endpoints: MaxEndpoints,
}

/// How many addresses of a subset are mirrored, 1 to 1,000 (upstream's `--mirroring-max-endpoints-per-subset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxEndpoints(pub usize);

impl Default for MaxEndpoints {
    fn default() -> Self {
        Self(1_000)
    }
}

/// This controller, in the label that names who manages a slice.
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// The label of Endpoints that are not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The annotation of Endpoints that elect a leader.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";

/// What is remembered of Endpoints.
#[derive(Debug, Default)]
pub struct Memory {
    /// Of which version it was told what is not mirrored of them.
    told: String,
    /// How many addresses are not mirrored.
    skipped: usize,
}

/// What it sees of Endpoints.
#[derive(Debug)]
pub struct Observed {
    /// Where they are.
    pub key: ObjectKey,
    /// The Endpoints; `None` where they are not to be mirrored.
    pub endpoints: Option<Arc<Value>>,
    /// The slices that mirror them.
    pub slices: Vec<Arc<Value>>,
}

impl Controller for EndpointSliceMirroring {
    const NAME: &'static str = "endpointslice-mirroring-controller";
    const ACCOUNT: &'static str = "endpointslicemirroring-controller";
    const SOURCE: &'static str = "endpoint-slice-mirroring-controller";
    const QUEUE: &'static str = "endpoint_slice_mirroring";
    /// Endpoints, which are called as their service.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<Endpoints>().on::<Service>(of_service).on::<EndpointSlice>(of_slice)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let service = snapshot.store::<Service>().get(key).map(|it| it.value());
        let endpoints = snapshot.store::<Endpoints>().get(key).map(|it| it.value());
        let of_service = service_entry(&key.namespace, &key.name);
        let slices = snapshot.store::<EndpointSlice>().by_index(BY_SERVICE, &of_service);
        let slices: Vec<_> =
            slices.iter().map(|it| it.value()).filter(|it| is_mirror(it)).collect();
        let endpoints = endpoints.filter(|it| {
            is_mirrored(it) && service.as_ref().is_some_and(|service| !selects(service))
        });
        if endpoints.is_none() && slices.is_empty() {
            self.metrics.gone(key);
            return None;
        }
        Some(Observed { key: key.clone(), endpoints, slices })
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, _now: Timestamp) -> Plan {
        let plan = plan::plan(observed, memory, self.max_endpoints.0);
        self.metrics.planned(observed, &plan, memory.skipped);
        plan
    }

    fn timed(&self, _memory: &mut Memory, _failure: Option<&Failure>, took: Duration) {
        self.metrics.took(took);
    }
}

fn selects(service: &Value) -> bool {
    service.at(&["spec", "selector"]).is_some()
}

fn is_mirror(slice: &Value) -> bool {
    slice.str_at(&["metadata", "labels", MANAGED_BY]) == MANAGER
}

/// Whether nobody has asked for these Endpoints to be left alone.
fn is_mirrored(endpoints: &Value) -> bool {
    endpoints.str_at(&["metadata", "labels", SKIP]) != "true"
        && endpoints.at(&["metadata", "annotations", LEADER]).is_none()
}

/// A service matters by being there and by having a selector or not.
fn of_service(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    let selects =
        |it: &Option<Arc<client::reflector::Cached>>| it.as_ref().map(|it| selects(&it.value()));
    if selects(&change.old) == selects(&change.new) { Vec::new() } else { vec![change.key()] }
}

fn of_slice(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    for object in [&change.old, &change.new].into_iter().flatten() {
        let value = object.value();
        let key = ObjectKey::new(
            object.key.namespace.clone(),
            value.str_at(&["metadata", "labels", SERVICE_NAME]),
        );
        if is_mirror(&value) && !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}
