//! What is told of rolling updates, in upstream's names. A set is told of from its first update on, until it is gone.

use client::ObjectKey;
use k8s_openapi::api::apps::v1::StatefulSet;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::rolling::Counts;
use crate::owner;

/// The values of `podManagementPolicy`.
const POLICIES: [&str; 2] = ["OrderedReady", "Parallel"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSet {
    statefulset_namespace: String,
    statefulset_name: String,
    pod_management_policy: &'static str,
}

impl OfSet {
    fn new(key: &ObjectKey, pod_management_policy: &'static str) -> Self {
        Self {
            statefulset_namespace: key.namespace.to_string(),
            statefulset_name: key.name.to_string(),
            pod_management_policy,
        }
    }
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    most: Family<OfSet, Gauge>,
    unavailable: Family<OfSet, Gauge>,
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("statefulset_controller");
        let help =
            "[ALPHA] Maximum number of unavailable pods allowed during StatefulSet rolling updates";
        registry.register("statefulset_max_unavailable", help, self.most.clone());
        let help = "[ALPHA] Current number of unavailable pods in StatefulSet";
        registry.register("statefulset_unavailable_replicas", help, self.unavailable.clone());
    }

    /// Takes note of what an update was planned by.
    pub(super) fn told(&self, set: &StatefulSet, counts: Counts) {
        let parallel = set.spec.pod_management_policy.as_deref() == Some("Parallel");
        let labels = OfSet::new(&owner::key_of(&set.metadata), POLICIES[usize::from(parallel)]);
        if let Some(most) = counts.most {
            self.most.get_or_create(&labels).set(i64::from(most));
        }
        self.unavailable.get_or_create(&labels).set(i64::from(counts.unavailable));
    }

    /// The set is gone.
    pub(super) fn forget(&self, key: &ObjectKey) {
        for policy in POLICIES {
            let labels = OfSet::new(key, policy);
            self.most.remove(&labels);
            self.unavailable.remove(&labels);
        }
    }
}
