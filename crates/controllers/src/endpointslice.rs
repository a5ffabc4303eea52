//! EndpointSlices of services with a selector. Upstream: `pkg/controller/endpointslice` and `staging/.../endpointslice`.

mod plan;

use client::ObjectKey;
use client::reflector::StoreChange;
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::owner;

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct EndpointSlices;

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
    pub pods: Vec<Pod>,
    /// The slices of the service that this controller manages.
    pub slices: Vec<EndpointSlice>,
    /// The zones of the pods' nodes.
    pub zones: std::collections::BTreeMap<String, String>,
}

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpointslice-controller";
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches
            .own::<Service>()
            .on::<Pod>(services_of_pod)
            .on::<EndpointSlice>(service_of_slice)
            .on::<Node>(|_, _| Vec::new())
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let service: Service = snapshot.get(key)?;
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let selector = spec.selector.as_ref().filter(|it| !it.is_empty())?;
        let fits = |pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            selector.iter().all(|(key, value)| labels.and_then(|it| it.get(key)) == Some(value))
        };
        let pods: Vec<Pod> =
            snapshot.list::<Pod>(&key.namespace).into_iter().filter(fits).collect();
        let slices = snapshot.list::<EndpointSlice>(&key.namespace).into_iter().filter(|slice| {
            let label = |name: &str| {
                slice.metadata.labels.as_ref().and_then(|it| it.get(name)).map(String::as_str)
            };
            label(SERVICE_NAME) == Some(key.name.as_str()) && label(MANAGED_BY) == Some(MANAGER)
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
        Some(Observed { slices: slices.collect(), service, pods, zones })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        plan::plan(observed)
    }
}

/// The services whose selectors take a pod, before or after a change.
pub(crate) fn services_of_pod(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let key = change.key();
    let pods: Vec<Pod> =
        [&change.old, &change.new].into_iter().flatten().filter_map(|it| it.decode()).collect();
    let takes = |service: &Service| {
        let selector =
            service.spec.as_ref().and_then(|it| it.selector.as_ref()).filter(|it| !it.is_empty());
        selector.is_some_and(|selector| {
            pods.iter().any(|pod| {
                let labels = pod.metadata.labels.as_ref();
                selector.iter().all(|(key, value)| labels.and_then(|it| it.get(key)) == Some(value))
            })
        })
    };
    let services = snapshot.list::<Service>(&key.namespace);
    services
        .iter()
        .filter(|service| takes(service))
        .map(|service| owner::key_of(&service.metadata))
        .collect()
}

fn service_of_slice(change: &StoreChange, _snapshot: &Snapshot) -> Vec<ObjectKey> {
    let object = change.new.as_ref().or(change.old.as_ref());
    let Some(value) = object.map(|it| it.value()) else { return Vec::new() };
    if value.str_at(&["metadata", "labels", MANAGED_BY]) != MANAGER {
        return Vec::new();
    }
    let name = value.str_at(&["metadata", "labels", SERVICE_NAME]);
    vec![ObjectKey::new(value.str_at(&["metadata", "namespace"]), name)]
}
