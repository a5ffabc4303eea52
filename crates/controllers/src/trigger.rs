//! When what endpoints are made of last changed, for those who measure how long it takes to get to the nodes. Upstream:
//! `staging/src/k8s.io/endpointslice/trigger_time_tracker.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};

use crate::pods;

/// The annotation that has it.
pub const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// What was last seen of a service and its pods.
#[derive(Debug, Default)]
pub struct Tracker {
    service: Option<Timestamp>,
    pods: BTreeMap<String, Timestamp>,
}

impl Tracker {
    /// The first of the changes since the last call; `None` where nothing that has a time changed.
    pub fn changed(&mut self, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let mut first: Option<Timestamp> = None;
        let mut see = |at: Timestamp, before: Option<&Timestamp>| {
            if before.is_none_or(|before| at > *before) {
                first = Some(first.map_or(at, |other| other.min(at)));
            }
        };
        let mut times = BTreeMap::new();
        for pod in pods {
            let ready =
                pods::condition(pod, "Ready").and_then(|it| it.last_transition_time.as_ref());
            let Some(at) = ready.map(|it| it.0) else { continue };
            let name = pod.metadata.name.clone().unwrap_or_default();
            see(at, self.pods.get(&name));
            times.insert(name, at);
        }
        if let Some(created) = service.metadata.creation_timestamp.as_ref() {
            see(created.0, self.service.as_ref());
            self.service = Some(created.0);
        }
        self.pods = times;
        first
    }
}
