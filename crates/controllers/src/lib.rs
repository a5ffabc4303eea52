//! Upstream's controllers, one folder each, all of one shape: `observe -> plan -> apply`.

pub mod attach_detach;
pub mod bootstrap;
pub mod certificates;
pub mod clusterrole_aggregation;
pub mod cronjob;
mod custom;
pub mod daemonset;
pub mod deployment;
pub mod device_taint_eviction;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod ephemeral_volume;
pub mod finalizers;
pub mod garbage_collector;
pub mod history;
pub mod job;
pub mod leader_election;
pub mod legacy_tokens;
pub mod metrics;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod nodes;
pub mod owner;
pub mod persistentvolume_binder;
pub mod persistentvolume_expander;
pub mod pod_gc;
pub mod pod_group_protection;
pub mod podautoscaler;
pub mod pods;
pub mod policy_status;
pub mod pool_status;
pub mod publisher;
pub mod pv_protection;
pub mod pvc_protection;
pub mod replicaset;
pub mod replicationcontroller;
pub mod resource_quota;
pub mod resourceclaim;
pub mod root_ca;
pub mod scaledobject;
pub mod select;
pub mod selinux_warning;
pub mod service_cidr;
pub mod serviceaccount;
pub mod serviceaccount_token;
pub mod share;
pub mod statefulset;
pub mod storage_version_migrator;
pub mod storageversion_gc;
pub mod taint_eviction;
pub mod trigger;
pub mod trust_bundles;
pub mod ttl;
pub mod ttl_after_finished;
pub mod vac_protection;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::reflector::Caches;
use client::{Client, EventRecorder, Resource};
use component_base::feature_gates::FeatureGates;
use component_base::{Clock, Random, ShutdownSignal};
use controller::{Controller, Environment, Runner};
pub use metrics::Metrics;
pub use tokio_util::task::TaskTracker;

/// The account of who works as the controller manager itself.
pub const ROOT_ACCOUNT: &str = "";

/// Controllers that run only where they are asked for by name, as upstream's.
pub const OFF_BY_DEFAULT: &[&str] = &[
    bootstrap::BootstrapSigner::NAME,
    bootstrap::TokenCleaner::NAME,
    scaledobject::ScaledObjects::NAME,
    selinux_warning::SeLinuxWarnings::NAME,
];

/// What the controllers are given.
pub struct Setup {
    /// Caches that all of them share.
    pub caches: Arc<Caches>,
    /// A client under the identity of a controller's service account; under the controller manager's own for
    /// [`ROOT_ACCOUNT`].
    pub client_for: Box<dyn Fn(&str) -> Client + Send + Sync>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Names and jitter.
    pub random: Arc<dyn Random>,
    /// The cluster's authority, as PEM.
    pub root_ca: Arc<str>,
    /// Sign approved certificate requests.
    pub authorities: certificates::Signers,
    /// How long what it signs is good at most.
    pub signing_duration: Duration,
    /// Signs tokens that are kept in Secrets; without it such Secrets stay empty.
    pub tokens: Option<Arc<dyn serviceaccount_token::TokenSigner>>,
    /// The address ranges that nodes get; none where something else gives them.
    pub node_ranges: node_ipam::NodeRanges,
    /// How long nodes may be silent, and how fast pods are evicted then.
    pub node_lifecycle: node_lifecycle::Options,
    /// How autoscalers look at their metrics.
    pub podautoscaler: podautoscaler::Options,
    /// How many pods that are over may stay.
    pub pod_gc: pod_gc::PodGc,
    /// How many keys controllers work on at once, where it is not their own number.
    pub workers: BTreeMap<&'static str, usize>,
    /// How long tokens in Secrets may be unused.
    pub legacy_tokens: legacy_tokens::LegacyTokenCleaner,
    /// How volumes are detached.
    pub attach_detach: attach_detach::Options,
    /// What of others may be set.
    pub tuning: Tuning,
    /// What they count.
    pub metrics: Metrics,
    /// Which of upstream's features are on.
    pub features: Arc<FeatureGates>,
    /// Resources that the API server serves besides those that every server does.
    pub more: Vec<Resource>,
    /// The API server of this process is the cluster's only one.
    pub one_server: bool,
    /// What they do side by side.
    pub tasks: TaskTracker,
    /// When to stop.
    pub stop: ShutdownSignal,
}

/// What of controllers may be set that need nothing else.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// How many endpoints a slice has.
    pub max_endpoints: endpointslice::MaxEndpoints,
    /// How many addresses of Endpoints are mirrored.
    pub max_mirrored: endpointslice_mirroring::MaxEndpoints,
    /// How long a count of a quota holds.
    pub recount: jiff::SignedDuration,
    /// Whether volumes are made for claims.
    pub provisions: bool,
}

impl Default for Tuning {
    /// Upstream's.
    fn default() -> Self {
        Self {
            max_endpoints: endpointslice::MaxEndpoints::default(),
            max_mirrored: endpointslice_mirroring::MaxEndpoints::default(),
            recount: resource_quota::RECOUNT,
            provisions: true,
        }
    }
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").finish_non_exhaustive()
    }
}

/// Starts a controller.
pub type Starter = fn(&Setup);

/// Every controller, by name, with how it is started.
pub const CONTROLLERS: &[(&str, Starter)] = &[
    (serviceaccount::ServiceAccounts::NAME, |setup| {
        start(setup, serviceaccount::ServiceAccounts, 5)
    }),
    (root_ca::RootCaPublisher::NAME, |setup| {
        let (root_ca, metrics) = (Arc::clone(&setup.root_ca), setup.metrics.root_ca.clone());
        start(setup, root_ca::RootCaPublisher { root_ca, metrics }, 1);
    }),
    (trust_bundles::TrustBundlePublisher::NAME, |setup| {
        let (root_ca, metrics) = (Arc::clone(&setup.root_ca), setup.metrics.trust_bundles.clone());
        let controller = trust_bundles::TrustBundlePublisher { root_ca, metrics };
        if setup.features.enabled("ClusterTrustBundle") && controller.has_any() {
            start(setup, controller, 1);
        }
    }),
    (namespace::Namespaces::NAME, |setup| {
        start(setup, namespace::Namespaces::new(&setup.more, setup.one_server), 10);
    }),
    (resource_quota::ResourceQuotas::NAME, |setup| {
        start(setup, resource_quota::ResourceQuotas::new(&setup.more, setup.tuning.recount), 5);
    }),
    // Before those who own it: a set acts on what it is told before that is taken back.
    (replicaset::ReplicaSets::NAME, |setup| {
        start(setup, replicaset::ReplicaSets { metrics: setup.metrics.replicaset.clone() }, 5);
    }),
    (deployment::Deployments::NAME, |setup| start(setup, deployment::Deployments, 5)),
    (disruption::Disruption::NAME, |setup| start(setup, disruption::Disruption::default(), 1)),
    (garbage_collector::GarbageCollector::NAME, |setup| {
        start(setup, garbage_collector::GarbageCollector::new(&setup.more), 20);
    }),
    (node_lifecycle::NodeLifecycle::NAME, |setup| {
        let metrics = setup.metrics.node_lifecycle.clone();
        let clock = Arc::clone(&setup.clock);
        start(setup, node_lifecycle::NodeLifecycle::new(setup.node_lifecycle, metrics, clock), 8);
    }),
    (certificates::Approver::NAME, |setup| start(setup, certificates::Approver, 1)),
    (certificates::Signer::NAME, |setup| {
        if !setup.authorities.is_empty() {
            let (authorities, longest) = (setup.authorities.clone(), setup.signing_duration);
            start(setup, certificates::Signer { authorities, longest }, 1);
        }
    }),
    (taint_eviction::TaintEviction::NAME, |setup| {
        let metrics = setup.metrics.taint_eviction.clone();
        start(setup, taint_eviction::TaintEviction { metrics }, 8);
    }),
    (node_ipam::NodeIpam::NAME, |setup| {
        let metrics = setup.metrics.node_ipam.clone();
        start(setup, node_ipam::NodeIpam::new(setup.node_ranges.clone(), metrics), 5);
    }),
    (pod_gc::PodGc::NAME, |setup| {
        let metrics = setup.metrics.pod_gc.clone();
        start(setup, pod_gc::PodGc { metrics, ..setup.pod_gc.clone() }, 5);
    }),
    (job::Jobs::NAME, |setup| {
        let groups = setup.features.enabled("WorkloadWithJob");
        start(setup, job::Jobs { metrics: setup.metrics.job.clone(), groups }, 5);
    }),
    (cronjob::CronJobs::NAME, |setup| {
        start(setup, cronjob::CronJobs { metrics: setup.metrics.cronjob.clone() }, 5);
    }),
    (ttl_after_finished::TtlAfterFinished::NAME, |setup| {
        let metrics = setup.metrics.ttl_after_finished.clone();
        start(setup, ttl_after_finished::TtlAfterFinished { metrics }, 5);
    }),
    (clusterrole_aggregation::ClusterRoleAggregation::NAME, |setup| {
        start(setup, clusterrole_aggregation::ClusterRoleAggregation, 5);
    }),
    (replicationcontroller::ReplicationControllers::NAME, |setup| {
        let metrics = setup.metrics.replicaset.clone();
        start(setup, replicationcontroller::ReplicationControllers { metrics }, 5);
    }),
    (daemonset::DaemonSets::NAME, |setup| start(setup, daemonset::DaemonSets::default(), 2)),
    (statefulset::StatefulSets::NAME, |setup| {
        let max_unavailable = setup.features.enabled("MaxUnavailableStatefulSet");
        let metrics = setup.metrics.statefulset.clone();
        start(setup, statefulset::StatefulSets { max_unavailable, metrics }, 5);
    }),
    (endpoints::EndpointsController::NAME, |setup| {
        start(setup, endpoints::EndpointsController, 5);
    }),
    (endpointslice::EndpointSlices::NAME, |setup| {
        let metrics = setup.metrics.endpointslice.clone();
        start(
            setup,
            endpointslice::EndpointSlices { metrics, max_endpoints: setup.tuning.max_endpoints },
            5,
        );
    }),
    (endpointslice_mirroring::EndpointSliceMirroring::NAME, |setup| {
        let metrics = setup.metrics.endpointslice_mirroring.clone();
        start(
            setup,
            endpointslice_mirroring::EndpointSliceMirroring {
                metrics,
                max_endpoints: setup.tuning.max_mirrored,
            },
            5,
        );
    }),
    (certificates::Cleaner::NAME, |setup| start(setup, certificates::Cleaner, 1)),
    (certificates::PodRequestCleaner::NAME, |setup| {
        start(setup, certificates::PodRequestCleaner, 1)
    }),
    (serviceaccount_token::ServiceAccountTokens::NAME, |setup| {
        if let Some(signer) = &setup.tokens {
            let (signer, root_ca) = (Arc::clone(signer), Arc::clone(&setup.root_ca));
            start(setup, serviceaccount_token::ServiceAccountTokens { signer, root_ca }, 5);
        }
    }),
    (ttl::NodeTtl::NAME, |setup| start(setup, ttl::NodeTtl::default(), 5)),
    (ephemeral_volume::EphemeralVolumes::NAME, |setup| {
        let metrics = setup.metrics.ephemeral_volume.clone();
        start(setup, ephemeral_volume::EphemeralVolumes { metrics }, 5);
    }),
    // One worker: what suits one claim may suit the next.
    (persistentvolume_binder::PersistentVolumeBinder::NAME, |setup| {
        let provisions = setup.tuning.provisions;
        let metrics = setup.metrics.persistentvolume_binder.clone();
        start(setup, persistentvolume_binder::PersistentVolumeBinder { metrics, provisions }, 1);
    }),
    (attach_detach::AttachDetach::NAME, |setup| {
        let (options, metrics) = (setup.attach_detach, setup.metrics.attach_detach.clone());
        start(setup, attach_detach::AttachDetach { options, metrics }, 10);
    }),
    (persistentvolume_expander::PersistentVolumeExpander::NAME, |setup| {
        start(setup, persistentvolume_expander::PersistentVolumeExpander, 10);
    }),
    (pvc_protection::PvcProtection::NAME, |setup| {
        let tells_unused = setup.features.enabled("PersistentVolumeClaimUnusedSinceTime");
        start(setup, pvc_protection::PvcProtection { tells_unused }, 1);
    }),
    (pv_protection::PvProtection::NAME, |setup| start(setup, pv_protection::PvProtection, 1)),
    (podautoscaler::HorizontalPodAutoscalers::NAME, |setup| {
        let scale_to_zero = setup.features.enabled("HPAScaleToZero");
        let options = podautoscaler::Options { scale_to_zero, ..setup.podautoscaler.clone() };
        let metrics = setup.metrics.podautoscaler.clone();
        start(setup, podautoscaler::HorizontalPodAutoscalers::new(options, metrics), 5);
    }),
    (legacy_tokens::LegacyTokenCleaner::NAME, |setup| start(setup, setup.legacy_tokens, 1)),
    (storage_version_migrator::StorageVersionMigrator::NAME, |setup| {
        start(setup, storage_version_migrator::StorageVersionMigrator::default(), 1);
    }),
    (pool_status::PoolStatus::NAME, |setup| {
        if setup.features.enabled("DRAResourcePoolStatus") {
            let taints = setup.features.enabled("DRADeviceTaintRules");
            start(setup, pool_status::PoolStatus { taints }, 1);
        }
    }),
    (storageversion_gc::StorageVersionGc::NAME, |setup| {
        if setup.features.enabled("StorageVersionAPI") {
            start(setup, storageversion_gc::StorageVersionGc, 1);
        }
    }),
    (policy_status::PolicyStatus::NAME, |setup| start(setup, policy_status::PolicyStatus, 5)),
    (pod_group_protection::PodGroupProtection::NAME, |setup| {
        if setup.features.enabled("GenericWorkload") {
            start(setup, pod_group_protection::PodGroupProtection, 1);
        }
    }),
    (vac_protection::VacProtection::NAME, |setup| start(setup, vac_protection::VacProtection, 1)),
    (service_cidr::ServiceCidrs::NAME, |setup| start(setup, service_cidr::ServiceCidrs, 5)),
    (resourceclaim::ResourceClaims::NAME, |setup| {
        let metrics = setup.metrics.resourceclaim.clone();
        start(setup, resourceclaim::ResourceClaims { metrics }, 10);
    }),
    (device_taint_eviction::DeviceTaintEviction::NAME, |setup| {
        let metrics = setup.metrics.device_taint_eviction.clone();
        let controller = device_taint_eviction::DeviceTaintEviction::new(metrics);
        start(setup, controller, 8);
    }),
    (bootstrap::BootstrapSigner::NAME, |setup| start(setup, bootstrap::BootstrapSigner, 1)),
    (selinux_warning::SeLinuxWarnings::NAME, |setup| {
        let metrics = setup.metrics.selinux_warning.clone();
        start(setup, selinux_warning::SeLinuxWarnings { metrics }, 1);
    }),
    (bootstrap::TokenCleaner::NAME, |setup| start(setup, bootstrap::TokenCleaner, 1)),
    (scaledobject::ScaledObjects::NAME, |setup| {
        start(setup, scaledobject::ScaledObjects::default(), 5);
    }),
];

/// Starts the controllers whose names `enabled` takes.
pub fn start_all(setup: &Setup, enabled: impl Fn(&str) -> bool) {
    for (_, start) in CONTROLLERS.iter().filter(|(name, _)| enabled(name)) {
        start(setup);
    }
}

/// Runs the controllers whose names `enabled` takes, until they are told to stop and have.
pub async fn run_all(setup: &Setup, enabled: impl Fn(&str) -> bool) {
    start_all(setup, enabled);
    setup.stop.requested().await;
    setup.tasks.close();
    setup.tasks.wait().await;
}

/// Starts one controller with so many workers, or as many as are asked for.
fn start<C: Controller>(setup: &Setup, controller: C, workers: usize) {
    let client = (setup.client_for)(C::ACCOUNT);
    let events =
        EventRecorder::new(C::SOURCE, "", Arc::clone(&setup.clock), Arc::clone(&setup.random));
    setup.tasks.spawn(Arc::clone(&events).run(client.clone(), setup.stop.clone()));
    let environment = Environment {
        caches: Arc::clone(&setup.caches),
        client,
        events,
        clock: Arc::clone(&setup.clock),
        metrics: setup.metrics.queues.clone(),
        workers: setup.workers.get(C::NAME).copied().unwrap_or(workers),
    };
    setup.tasks.spawn(Runner::new(controller, environment).run(setup.stop.clone()));
}
