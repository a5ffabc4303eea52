//! Endpoints of services with a selector, for clients that do not know slices yet. Upstream: `pkg/controller/endpoint`.

mod plan;
mod subsets;

use std::sync::Arc;

use client::ObjectKey;
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};

use crate::endpointslice::services_of_pod;
use crate::select::{self, Selector};
use crate::trigger::Tracker;

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct EndpointsController;

/// The label that names who manages Endpoints.
pub const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// This controller, in that label.
pub const MANAGER: &str = "endpoint-controller";

/// What it sees of a service's name.
#[derive(Debug)]
pub enum Observed {
    /// The service is gone and has left these.
    Left(Endpoints),
    /// A service with a selector.
    Selecting {
        /// The service.
        service: Box<Service>,
        /// The pods that its selector takes.
        pods: Vec<Arc<Pod>>,
        /// Its endpoints as they are.
        current: Option<Endpoints>,
    },
}

impl Controller for EndpointsController {
    const NAME: &'static str = "endpoints-controller";
    const ACCOUNT: &'static str = "endpoint-controller";
    const SOURCE: &'static str = "endpoint-controller";
    const QUEUE: &'static str = "endpoint";
    /// A service.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Tracker;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<Service>().on::<Pod>(services_of_pod).on::<Endpoints>(|change, _| {
            // What somebody else keeps under a service's name is that one's own affair.
            let ours = [&change.old, &change.new]
                .into_iter()
                .flatten()
                .any(|it| it.value().str_at(&["metadata", "labels", MANAGED_BY]) == MANAGER);
            if ours { vec![change.key()] } else { Vec::new() }
        })
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let current: Option<Endpoints> = snapshot.get(key);
        let Some(service) = snapshot.get::<Service>(key) else {
            return current.map(Observed::Left);
        };
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let selector = spec.selector.as_ref().filter(|it| !it.is_empty())?;
        let pods = select::pods(snapshot, &key.namespace, &Selector::from_pairs(selector));
        Some(Observed::Selecting { service: Box::new(service), pods, current })
    }

    fn plan(&self, observed: &Observed, memory: &mut Tracker, _now: Timestamp) -> Plan {
        match observed {
            Observed::Left(endpoints) => plan::delete(endpoints),
            Observed::Selecting { service, pods, current } => {
                let changed = memory.changed(service, pods);
                plan::bring(service, pods, current.as_ref(), changed)
            }
        }
    }
}
