//! What the controllers of a process count.

use prometheus_client::registry::Registry;

use crate::{
    attach_detach, cronjob, device_taint_eviction, endpointslice, endpointslice_mirroring,
    ephemeral_volume, job, node_ipam, node_lifecycle, persistentvolume_binder, pod_gc,
    podautoscaler, publisher, replicaset, resourceclaim, selinux_warning, statefulset,
    taint_eviction, ttl_after_finished,
};

/// The metrics of all controllers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Those of every controller's queue.
    pub queues: controller::Metrics,
    /// Those of detaching.
    pub attach_detach: attach_detach::Metrics,
    /// Those of jobs.
    pub job: job::Metrics,
    /// Those of cron jobs.
    pub cronjob: cronjob::Metrics,
    /// Those of evictions.
    pub taint_eviction: taint_eviction::Metrics,
    /// Those of autoscalers.
    pub podautoscaler: podautoscaler::Metrics,
    /// Those of slices.
    pub endpointslice: endpointslice::Metrics,
    /// Those of mirrored slices.
    pub endpointslice_mirroring: endpointslice_mirroring::Metrics,
    /// Those of evictions because of devices.
    pub device_taint_eviction: device_taint_eviction::Metrics,
    /// Those of claims.
    pub resourceclaim: resourceclaim::Metrics,
    /// Those of volumes with several labels.
    pub selinux_warning: selinux_warning::Metrics,
    /// Those of zones.
    pub node_lifecycle: node_lifecycle::Metrics,
    /// Those of nodes' address ranges.
    pub node_ipam: node_ipam::Metrics,
    /// Those of volumes and claims.
    pub persistentvolume_binder: persistentvolume_binder::Metrics,
    /// Those of replica sets.
    pub replicaset: replicaset::Metrics,
    /// Those of stateful sets.
    pub statefulset: statefulset::Metrics,
    /// Those of claims of pods' own volumes.
    pub ephemeral_volume: ephemeral_volume::Metrics,
    /// Those of pods that nobody else takes away.
    pub pod_gc: pod_gc::Metrics,
    /// Those of the authority in every namespace.
    pub root_ca: publisher::Metrics,
    /// Those of the authority as a bundle.
    pub trust_bundles: publisher::Metrics,
    /// Those of jobs whose time is over.
    pub ttl_after_finished: ttl_after_finished::Metrics,
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        self.queues.register(registry);
        self.attach_detach.register(registry);
        self.job.register(registry);
        self.cronjob.register(registry);
        self.taint_eviction.register(registry);
        self.podautoscaler.register(registry);
        self.endpointslice.register(registry);
        self.endpointslice_mirroring.register(registry);
        self.device_taint_eviction.register(registry);
        self.resourceclaim.register(registry);
        self.selinux_warning.register(registry);
        self.node_lifecycle.register(registry);
        self.node_ipam.register(registry);
        self.persistentvolume_binder.register(registry);
        self.replicaset.register(registry);
        self.statefulset.register(registry);
        self.ephemeral_volume.register(registry);
        self.pod_gc.register(registry);
        let root_ca =
            ["root_ca_cert_publisher_sync", "root_ca_cert_publisher_sync_duration_seconds"];
        self.root_ca.register(registry, root_ca, "a root CA");
        let bundles = [
            "clustertrustbundle_publisher_sync",
            "clustertrustbundle_publisher_sync_duration_seconds",
        ];
        self.trust_bundles.register(registry, bundles, "a ClusterTrustBundle");
        self.ttl_after_finished.register(registry);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_and_labels_are_upstreams() {
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = super::Metrics::default();
        metrics.register(&mut registry);
        // A family shows nothing before it counts something.
        drop(metrics.queues.queue("job"));
        let told = component_base::metrics::text(&registry);
        for line in [
            "# TYPE workqueue_adds_total counter",
            "# TYPE cronjob_controller_job_creation_skew_duration_seconds histogram",
            "# TYPE taint_eviction_controller_pod_deletions_total counter",
            "# TYPE device_taint_eviction_controller_pod_deletions_total counter",
            "# TYPE endpoint_slice_mirroring_controller_endpoints_sync_duration histogram",
            "workqueue_adds_total{name=\"job\"} 0",
            "workqueue_depth{name=\"job\"} 0",
            "workqueue_work_duration_seconds_count{name=\"job\"} 0",
            "cronjob_controller_job_creation_skew_duration_seconds_bucket{le=\"512.0\"} 0",
        ] {
            assert!(told.lines().any(|it| it == line), "{line}: {told}");
        }
    }
}
