//! Flags of the controllers, by upstream's names.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::builder::RangedU64ValueParser;
use controllers::certificates::{CertificateSigner, Signers};
use controllers::legacy_tokens::LegacyTokenCleaner;
use controllers::node_ipam::NodeRanges;
use controllers::node_lifecycle::{self, Rates};
use controllers::pod_gc::PodGc;
use controllers::{Tuning, attach_detach, endpointslice, endpointslice_mirroring, podautoscaler};
use ipnet::IpNet;

use super::signing::SigningOptions;
use crate::control_plane::{period, seconds};

/// Upstream's flags of the controller manager, in the server's process and alone.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "controller-manager")]
#[command(next_help_heading = "kube-controller-manager")]
pub(crate) struct ManagerOptions {
    /// Whether nodes get ranges of addresses for their pods (default: in a server they do, alone they do not)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub(super) allocate_node_cidrs: Option<bool>,
    /// Prefix length of the range that a node gets, where pods have addresses of one family; 0 for that of the family
    #[arg(long, default_value_t = 0, value_name = "BITS")]
    node_cidr_mask_size: u8,
    /// Prefix length of the range that a node gets of an IPv4 range of pods
    #[arg(long, default_value_t = 24, value_name = "BITS")]
    node_cidr_mask_size_ipv4: u8,
    /// Prefix length of the range that a node gets of an IPv6 range of pods
    #[arg(long, default_value_t = 64, value_name = "BITS")]
    node_cidr_mask_size_ipv6: u8,
    /// How long a node may be silent
    #[arg(long, default_value = "50s", value_name = "DURATION", value_parser = seconds)]
    node_monitor_grace_period: i64,
    /// How long a new node may take to say its first word
    #[arg(long, default_value = "1m", value_name = "DURATION", value_parser = seconds)]
    node_startup_grace_period: i64,
    /// Nodes a second whose pods are evicted, in a zone that is well
    #[arg(long, default_value_t = 0.1, value_name = "RATE", value_parser = part)]
    node_eviction_rate: f64,
    /// Nodes a second whose pods are evicted, in a large zone that is ill in part; in others none
    #[arg(long, default_value_t = 0.01, value_name = "RATE", value_parser = part)]
    secondary_node_eviction_rate: f64,
    /// A zone of more nodes than this is large
    #[arg(long, default_value_t = 50, value_name = "N")]
    large_cluster_size_threshold: usize,
    /// The part of a zone's nodes, three at least, that is not ready where the zone is ill
    #[arg(long, default_value_t = 0.55, value_name = "PART", value_parser = part)]
    unhealthy_zone_threshold: f64,
    #[command(flatten)]
    signing: SigningOptions,
    /// How many pods that are over may stay; 0 or less is any number
    #[arg(long, default_value_t = 12_500, allow_negative_numbers = true, value_name = "N")]
    terminated_pod_gc_threshold: i32,
    #[command(flatten)]
    autoscaler: AutoscalerOptions,
    /// Whether volumes stay attached to nodes that are not ready and have them mounted; else for six minutes
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    disable_force_detach_on_timeout: bool,
    /// How long a token in a Secret that nobody asked for may be unused before it is invalid, and then deleted
    #[arg(long, default_value = "8760h", value_name = "DURATION", value_parser = seconds)]
    legacy_service_account_token_clean_up_period: i64,
    /// How many endpoints a slice has at most
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = slice_size())]
    max_endpoints_per_slice: u32,
    /// How many addresses of a subset of Endpoints are mirrored at most
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = slice_size())]
    mirroring_max_endpoints_per_subset: u32,
    /// How long a count of a quota holds that nothing has changed
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = seconds)]
    resource_quota_sync_period: i64,
    /// Whether volumes are made for claims
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    enable_dynamic_provisioning: bool,
    /// Whether objects go with their owners: the garbage-collector-controller runs
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    enable_garbage_collector: bool,
    #[command(flatten)]
    concurrency: ConcurrencyOptions,
    /// Which controllers run: `*` is every one that upstream has on by default, NAME this one, -NAME not this one
    #[arg(
        long,
        default_value = "*",
        value_delimiter = ',',
        value_name = "NAMES",
        allow_hyphen_values = true
    )]
    controllers: Vec<String>,
}

/// Upstream's flags of the horizontal pod autoscaler.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "podautoscaler")]
#[command(next_help_heading = "kube-controller-manager")]
struct AutoscalerOptions {
    /// Between two looks of the autoscaler at the metrics of its pods
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = period)]
    horizontal_pod_autoscaler_sync_period: std::time::Duration,
    /// How long the autoscaler waits before it goes down, where its behavior does not say
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = period)]
    horizontal_pod_autoscaler_downscale_stabilization: std::time::Duration,
    /// How far from the target a metric may be before the autoscaler does anything, as a part of 1
    #[arg(long, default_value_t = 0.1, value_name = "PART", value_parser = part)]
    horizontal_pod_autoscaler_tolerance: f64,
    /// How long after a pod's start its processor time may be that of starting
    #[arg(long, default_value = "5m", value_name = "DURATION", value_parser = period)]
    horizontal_pod_autoscaler_cpu_initialization_period: std::time::Duration,
    /// How long after its start a pod that is not ready may never have been
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = period)]
    horizontal_pod_autoscaler_initial_readiness_delay: std::time::Duration,
}

impl AutoscalerOptions {
    fn options(&self) -> podautoscaler::Options {
        let span = podautoscaler::span;
        podautoscaler::Options {
            sync_period: span(self.horizontal_pod_autoscaler_sync_period),
            downscale_stabilization: span(self.horizontal_pod_autoscaler_downscale_stabilization),
            tolerance: self.horizontal_pod_autoscaler_tolerance,
            cpu_initialization_period: span(
                self.horizontal_pod_autoscaler_cpu_initialization_period,
            ),
            initial_readiness_delay: span(self.horizontal_pod_autoscaler_initial_readiness_delay),
            ..podautoscaler::Options::default()
        }
    }
}

/// A number that is not negative.
fn part(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    if number.is_finite() && number >= 0.0 { Ok(number) } else { Err("must be 0 or more".into()) }
}

/// How many keys each controller works on at once.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "concurrency")]
#[command(next_help_heading = "kube-controller-manager")]
struct ConcurrencyOptions {
    /// How many deployments are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_deployment_syncs: u32,
    /// How many replica sets are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_replicaset_syncs: u32,
    /// How many replication controllers are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_rc_syncs: u32,
    /// How many daemon sets are looked at at once
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = at_least_one())]
    concurrent_daemonset_syncs: u32,
    /// How many stateful sets are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_statefulset_syncs: u32,
    /// How many jobs are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_job_syncs: u32,
    /// How many cron jobs are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_cron_job_syncs: u32,
    /// How many services whose endpoints are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_endpoint_syncs: u32,
    /// How many services whose endpoint slices are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_service_endpoint_syncs: u32,
    /// How many namespaces are looked at at once
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = at_least_one())]
    concurrent_namespace_syncs: u32,
    /// How many quotas are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_resource_quota_syncs: u32,
    /// How many objects that may be garbage are looked at at once
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = at_least_one())]
    concurrent_gc_syncs: u32,
    /// How many secrets of service accounts are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_serviceaccount_token_syncs: u32,
    /// How many jobs that are over are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_ttl_after_finished_syncs: u32,
    /// How many pods with ephemeral volumes are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_ephemeralvolume_syncs: u32,
    /// How many autoscalers are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_horizontal_pod_autoscaler_syncs: u32,
    /// How many admission policies are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    concurrent_validating_admission_policy_status_syncs: u32,
    /// How many claims of devices are looked at at once
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = at_least_one())]
    concurrent_resourceclaim_syncs: u32,
    /// How many pods whose devices are tainted are looked at at once
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = at_least_one())]
    concurrent_device_taint_eviction_syncs: u32,
    /// How many endpoints whose slices are mirrored are looked at at once
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = at_least_one())]
    mirroring_concurrent_service_endpoint_syncs: u32,
}

/// Upstream's limits of how many endpoints a slice has.
fn slice_size() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=1_000)
}

fn at_least_one() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..)
}

impl ConcurrencyOptions {
    fn workers(&self) -> BTreeMap<&'static str, usize> {
        let said = [
            ("deployment-controller", self.concurrent_deployment_syncs),
            ("replicaset-controller", self.concurrent_replicaset_syncs),
            ("replicationcontroller-controller", self.concurrent_rc_syncs),
            ("daemonset-controller", self.concurrent_daemonset_syncs),
            ("statefulset-controller", self.concurrent_statefulset_syncs),
            ("job-controller", self.concurrent_job_syncs),
            ("cronjob-controller", self.concurrent_cron_job_syncs),
            ("endpoints-controller", self.concurrent_endpoint_syncs),
            ("endpointslice-controller", self.concurrent_service_endpoint_syncs),
            ("namespace-controller", self.concurrent_namespace_syncs),
            ("resourcequota-controller", self.concurrent_resource_quota_syncs),
            ("garbage-collector-controller", self.concurrent_gc_syncs),
            ("serviceaccount-token-controller", self.concurrent_serviceaccount_token_syncs),
            ("ttl-after-finished-controller", self.concurrent_ttl_after_finished_syncs),
            ("ephemeral-volume-controller", self.concurrent_ephemeralvolume_syncs),
            (
                "horizontal-pod-autoscaler-controller",
                self.concurrent_horizontal_pod_autoscaler_syncs,
            ),
            (
                "validatingadmissionpolicy-status-controller",
                self.concurrent_validating_admission_policy_status_syncs,
            ),
            ("resourceclaim-controller", self.concurrent_resourceclaim_syncs),
            ("device-taint-eviction-controller", self.concurrent_device_taint_eviction_syncs),
            (
                "endpointslice-mirroring-controller",
                self.mirroring_concurrent_service_endpoint_syncs,
            ),
        ];
        said.into_iter().map(|(name, n)| (name, usize::try_from(n).unwrap_or(1))).collect()
    }
}

/// The controller that has a switch of its own besides.
const GARBAGE_COLLECTOR: &str = "garbage-collector-controller";

/// Names of controllers that upstream has and this program has not, each for its reason in docs/gaps.md.
const NOT_BUILT: &[&str] =
    &["service-lb-controller", "node-route-controller", "cloud-node-lifecycle-controller"];

/// What controllers were called before, which upstream still takes.
const ALIASES: &[(&str, &str)] = &[
    ("serviceaccount-token", "serviceaccount-token-controller"),
    ("endpoint", "endpoints-controller"),
    ("endpointslice", "endpointslice-controller"),
    ("endpointslicemirroring", "endpointslice-mirroring-controller"),
    ("replicationcontroller", "replicationcontroller-controller"),
    ("podgc", "pod-garbage-collector-controller"),
    ("resourcequota", "resourcequota-controller"),
    ("namespace", "namespace-controller"),
    ("serviceaccount", "serviceaccount-controller"),
    ("garbagecollector", "garbage-collector-controller"),
    ("daemonset", "daemonset-controller"),
    ("job", "job-controller"),
    ("deployment", "deployment-controller"),
    ("replicaset", "replicaset-controller"),
    ("horizontalpodautoscaling", "horizontal-pod-autoscaler-controller"),
    ("disruption", "disruption-controller"),
    ("statefulset", "statefulset-controller"),
    ("cronjob", "cronjob-controller"),
    ("csrsigning", "certificatesigningrequest-signing-controller"),
    ("csrapproving", "certificatesigningrequest-approving-controller"),
    ("csrcleaner", "certificatesigningrequest-cleaner-controller"),
    ("ttl", "ttl-controller"),
    ("bootstrapsigner", "bootstrap-signer-controller"),
    ("tokencleaner", "token-cleaner-controller"),
    ("nodeipam", "node-ipam-controller"),
    ("nodelifecycle", "node-lifecycle-controller"),
    ("persistentvolume-binder", "persistentvolume-binder-controller"),
    ("attachdetach", "persistentvolume-attach-detach-controller"),
    ("persistentvolume-expander", "persistentvolume-expander-controller"),
    ("clusterrole-aggregation", "clusterrole-aggregation-controller"),
    ("pvc-protection", "persistentvolumeclaim-protection-controller"),
    ("pv-protection", "persistentvolume-protection-controller"),
    ("ttl-after-finished", "ttl-after-finished-controller"),
    ("root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    (
        "kube-apiserver-serving-clustertrustbundle-publisher",
        "kube-apiserver-serving-clustertrustbundle-publisher-controller",
    ),
    ("ephemeral-volume", "ephemeral-volume-controller"),
    ("storage-version-gc", "storageversion-garbage-collector-controller"),
    ("legacy-service-account-token-cleaner", "legacy-serviceaccount-token-cleaner-controller"),
];

/// A controller's name of today.
pub(super) fn canonical(name: &str) -> &str {
    ALIASES.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| new)
}

impl ManagerOptions {
    /// How nodes get their ranges of these, where they are not told to get none.
    pub(crate) fn node_ranges(&self, cluster: &[IpNet], services: &[IpNet]) -> Result<NodeRanges> {
        if self.allocate_node_cidrs == Some(false) {
            return Ok(NodeRanges::default());
        }
        let is_v4 = |range: &IpNet| matches!(range, IpNet::V4(_));
        if self.node_cidr_mask_size != 0
            && cluster.iter().map(is_v4).any(|it| it != is_v4(&cluster[0]))
        {
            bail!("usage of --node-cidr-mask-size is not allowed with dual-stack clusters");
        }
        let mask = |range: &IpNet| match (self.node_cidr_mask_size, range) {
            (0, IpNet::V4(_)) => self.node_cidr_mask_size_ipv4,
            (0, IpNet::V6(_)) => self.node_cidr_mask_size_ipv6,
            (said, _) => said,
        };
        let cluster = cluster.iter().map(|range| (*range, mask(range))).collect();
        Ok(NodeRanges { cluster, reserved: services.to_vec() }.checked()?)
    }

    /// Whether a controller runs: the first word on it counts, else that on all (upstream: `IsControllerEnabled`).
    pub(crate) fn enables(&self, name: &str) -> bool {
        if name == GARBAGE_COLLECTOR && !self.enable_garbage_collector {
            return false;
        }
        let own = self.controllers.iter().find_map(|it| match it.strip_prefix('-') {
            Some(off) if canonical(off) == name => Some(false),
            None if canonical(it) == name => Some(true),
            _ => None,
        });
        let all = self.controllers.iter().any(|it| it == "*");
        own.unwrap_or(all && !controllers::OFF_BY_DEFAULT.contains(&name))
    }

    /// # Errors
    /// When it names a controller that there is none of, or that is not built.
    pub(crate) fn check(&self) -> Result<()> {
        for said in self.controllers.iter().filter(|it| *it != "*") {
            let (off, name) = match said.strip_prefix('-') {
                Some(name) => (true, canonical(name)),
                None => (false, canonical(said)),
            };
            let built = controllers::CONTROLLERS.iter().any(|(known, _)| *known == name);
            match NOT_BUILT.contains(&name) {
                true if off => {}
                true => bail!("--controllers: {name:?} is not built here, see docs/gaps.md"),
                false if built => {}
                false => bail!("--controllers: {name:?} is not in the list of known controllers"),
            }
        }
        Ok(())
    }

    /// How many keys controllers work on at once.
    pub(super) fn workers(&self) -> BTreeMap<&'static str, usize> {
        self.concurrency.workers()
    }

    pub(super) fn node_lifecycle(&self) -> node_lifecycle::Options {
        node_lifecycle::Options {
            grace_seconds: self.node_monitor_grace_period,
            startup_grace_seconds: self.node_startup_grace_period,
            rates: Rates {
                usual: self.node_eviction_rate,
                reduced: self.secondary_node_eviction_rate,
                large: self.large_cluster_size_threshold,
                unhealthy: self.unhealthy_zone_threshold,
            },
        }
    }

    pub(super) fn attach_detach(&self) -> attach_detach::Options {
        attach_detach::Options { never_forced: self.disable_force_detach_on_timeout }
    }

    pub(super) fn legacy_tokens(&self) -> LegacyTokenCleaner {
        let seconds = self.legacy_service_account_token_clean_up_period;
        LegacyTokenCleaner { period: jiff::SignedDuration::from_secs(seconds) }
    }

    pub(super) fn autoscaler(&self) -> podautoscaler::Options {
        self.autoscaler.options()
    }

    pub(super) fn pod_gc(&self) -> PodGc {
        let terminated_threshold = usize::try_from(self.terminated_pod_gc_threshold).unwrap_or(0);
        PodGc { terminated_threshold, ..PodGc::default() }
    }

    pub(super) fn signing_duration(&self) -> std::time::Duration {
        self.signing.duration()
    }

    /// Who signs certificates: the authorities of files, and this one where there are none.
    pub(crate) fn signers(&self, own: Option<&Arc<dyn CertificateSigner>>) -> Result<Signers> {
        self.signing.signers(own)
    }

    pub(super) fn tuning(&self) -> Tuning {
        let size = |said: u32| usize::try_from(said).unwrap_or(usize::MAX);
        Tuning {
            max_endpoints: endpointslice::MaxEndpoints(size(self.max_endpoints_per_slice)),
            max_mirrored: endpointslice_mirroring::MaxEndpoints(size(
                self.mirroring_max_endpoints_per_subset,
            )),
            recount: jiff::SignedDuration::from_secs(self.resource_quota_sync_period),
            provisions: self.enable_dynamic_provisioning,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        options: ManagerOptions,
    }

    fn options(flags: &str) -> ManagerOptions {
        let line = format!("x {flags}");
        Flags::try_parse_from(line.split_whitespace()).unwrap().options
    }

    #[test]
    fn controllers_are_switched_by_their_names_old_and_new() {
        for (flags, name, runs) in [
            ("", "job-controller", true),
            ("", "token-cleaner-controller", false),
            ("--controllers=*,tokencleaner", "token-cleaner-controller", true),
            ("--controllers=*,-job", "job-controller", false),
            ("--controllers=*,-job-controller,job", "job-controller", false),
            ("--controllers=job-controller", "deployment-controller", false),
        ] {
            assert_eq!(options(flags).enables(name), runs, "{flags} {name}");
        }
    }

    #[test]
    fn a_name_that_nobody_knows_is_refused() {
        for (flags, wanted) in [
            ("--controllers=*,nope", "\"nope\" is not in the list of known controllers"),
            ("--controllers=*,-nope", "\"nope\" is not in the list of known controllers"),
            ("--controllers=node-route-controller", "is not built here"),
            ("--controllers=*,-selinux-warning-controller,-attachdetach", ""),
        ] {
            let error = options(flags).check().err().map(|it| it.to_string()).unwrap_or_default();
            assert!(error.contains(wanted) && wanted.is_empty() == error.is_empty(), "{error}");
        }
    }

    #[test]
    fn a_controller_without_workers_is_refused() {
        assert!(Flags::try_parse_from(["x", "--concurrent-gc-syncs=0"]).is_err());
        let workers = options("--concurrent-gc-syncs=3").workers();
        assert_eq!(workers["garbage-collector-controller"], 3);
        // Each flag is one of a controller that there is.
        for name in workers.keys() {
            assert!(controllers::CONTROLLERS.iter().any(|it| it.0 == *name), "{name}");
        }
    }
}
