//! EndpointSlices of services with a selector. Upstream: `pkg/controller/endpointslice` and `staging/.../endpointslice`.

mod metrics;
mod plan;
mod topology;

use std::sync::Arc;

use client::ObjectKey;
use client::indexes::{BY_SERVICE, service_entry};
use client::reflector::StoreChange;
use controller::{Controller, Failure, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

pub use metrics::Metrics;
pub(crate) use plan::{port_number, publishes_all};

use crate::owner::key_of;
use crate::select::{self, Selector};
use crate::trigger::Tracker;

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct EndpointSlices {
    /// What it counts.
    pub metrics: Metrics,
    /// How many endpoints a slice has at most.
    pub max_endpoints: MaxEndpoints,
}

/// How many endpoints a slice has at most, 1 to 1,000 (upstream's `--max-endpoints-per-slice`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxEndpoints(pub usize);

impl Default for MaxEndpoints {
    fn default() -> Self {
        Self(100)
    }
}

/// The label that names a slice's service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that names who manages a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller, in that label.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";

/// What it sees of a service.
#[derive(Debug)]
pub struct Observed {
    /// The service.
    pub service: Service,
    /// The pods that its selector takes.
    pub pods: Vec<Arc<Pod>>,
    /// The slices of the service that this controller manages.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// The zones of the pods' nodes.
    pub zones: std::collections::BTreeMap<String, String>,
    /// The parts of all zones, where the service asks for hints by them.
    parts: Option<topology::Parts>,
    max_endpoints: usize,
}

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpointslice-controller";
    const SOURCE: &'static str = "endpoint-slice-controller";
    const QUEUE: &'static str = "endpoint_slice";
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Tracker;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches
            .own::<Service>()
            .on::<Pod>(services_of_pod)
            .on::<EndpointSlice>(|change, _| services_of_slice(change))
            .on::<Node>(hinted_services)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let observed = observe(snapshot, key, self.max_endpoints);
        if observed.is_none() {
            self.metrics.gone(key);
        }
        observed
    }

    fn plan(&self, observed: &Observed, memory: &mut Tracker, _now: Timestamp) -> Plan {
        let plan = plan::plan(observed, memory.changed(&observed.service, &observed.pods));
        self.metrics.planned(observed, &plan);
        plan
    }

    fn applied(&self, _memory: &mut Tracker, failure: Option<&Failure>) {
        self.metrics.synced(failure.is_some());
    }
}

fn observe(snapshot: &Snapshot, key: &ObjectKey, max: MaxEndpoints) -> Option<Observed> {
    let service: Service = snapshot.get(key)?;
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let selector = spec.selector.as_ref().filter(|it| !it.is_empty())?;
    let pods = select::pods(snapshot, &key.namespace, &Selector::from_pairs(selector));
    let of_service = service_entry(&key.namespace, &key.name);
    let slices = snapshot.by_index::<EndpointSlice>(BY_SERVICE, &of_service);
    let slices = slices.into_iter().filter(|slice| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|it| it.get(MANAGED_BY)).map(String::as_str) == Some(MANAGER)
    });
    let mut zones = std::collections::BTreeMap::new();
    for name in pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()) {
        let node = snapshot.store::<Node>().get(&ObjectKey::new("", name.as_str()));
        let zone = node.map(|it| {
            it.value().str_at(&["metadata", "labels", "topology.kubernetes.io/zone"]).to_owned()
        });
        if let Some(zone) = zone.filter(|zone| !zone.is_empty()) {
            zones.insert(name, zone);
        }
    }
    let parts = plan::hints_by_zones(|key| plan::annotation(&service, key)).then(|| {
        let nodes = snapshot.store::<Node>().list("");
        topology::parts(nodes.iter().filter_map(|it| topology::NodeFacts::of(it)))
    });
    let slices = slices.collect();
    Some(Observed { slices, service, pods, zones, parts, max_endpoints: max.0 })
}

/// The services whose hints go by the sizes of zones, where a node changes these.
fn hinted_services(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let facts = |it: &Option<_>| it.as_deref().and_then(topology::NodeFacts::of);
    if facts(&change.old) == facts(&change.new) {
        return Vec::new();
    }
    let services = snapshot.store::<Service>().list("");
    let hinted = services.iter().filter(|it| {
        let value = it.value();
        plan::hints_by_zones(|key| value.at(&["metadata", "annotations", key])?.as_str())
    });
    hinted.map(|it| it.key.clone()).collect()
}

/// The services whose selectors take a pod, before or after a change.
pub(crate) fn services_of_pod(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    select::selecting::<Service>(snapshot, change, |service| {
        let selector = service.spec.as_ref().and_then(|it| it.selector.as_ref());
        selector.filter(|it| !it.is_empty()).map(Selector::from_pairs)
    })
}

/// The services whose slice it is and was: labels may change whose, and who manages it.
fn services_of_slice(change: &StoreChange) -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    for value in [&change.new, &change.old].into_iter().flatten().map(|it| it.value()) {
        let name = value.str_at(&["metadata", "labels", SERVICE_NAME]);
        let key = ObjectKey::new(value.str_at(&["metadata", "namespace"]), name);
        if value.str_at(&["metadata", "labels", MANAGED_BY]) == MANAGER && !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use apimachinery::value;
    use client::reflector::Cached;

    use super::*;

    #[test]
    fn a_slice_that_changes_hands_concerns_both() {
        let slice = |service: &str, manager: &str| {
            let labels = value!({SERVICE_NAME: service, MANAGED_BY: manager});
            let metadata = value!({"name": "s", "namespace": "n", "labels": labels});
            let kind = "EndpointSlice";
            let slice =
                value!({"apiVersion": "discovery.k8s.io/v1", "kind": kind, "metadata": metadata});
            Some(Arc::new(Cached::new(slice)))
        };
        let check = |old, new, expected: &[&str]| {
            let keys = services_of_slice(&StoreChange { old, new });
            assert_eq!(keys.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), expected);
        };
        check(slice("a", MANAGER), slice("a", MANAGER), &["a"]);
        check(slice("a", MANAGER), slice("b", MANAGER), &["b", "a"]);
        check(slice("a", MANAGER), slice("a", "else"), &["a"]);
        check(slice("a", "else"), slice("a", "else"), &[]);
    }
}
