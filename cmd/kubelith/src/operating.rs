//! Flags of how an API server is operated, by upstream's names: how long things may take, how it ends, what is refused.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use admission::{AdmissionConfiguration, Chain, OFF_BY_DEFAULT, Parts};
use anyhow::{Context, Result, anyhow, bail};
use apiserver::traces::{Tracer, TracingConfiguration};
use apiserver::{Component, Cors, MemoryBudget, Operating, ShutdownPlan};
use component_base::feature_gates::FeatureGates;
use component_base::{Clock, Random, ShutdownSignal};
use http::HeaderValue;
use registry::{Apis, Features, Registry};

use crate::audit_log::span;
use crate::control_plane::period;
use crate::gates::{
    COORDINATED_LEADER_ELECTION, GENERIC_WORKLOAD, MANIFEST_BASED_ADMISSION, RESOURCE_POOL_STATUS,
    STORAGE_VERSION_API, TOPOLOGY_AWARE_WORKLOADS, WORKLOAD_WITH_JOB,
};
use crate::leading::Times;
use crate::memory::Budget;
use crate::server::Ends;

/// The largest part of requests that end a connection (upstream's limit).
const MAX_GOAWAY_CHANCE: f64 = 0.02;
/// Admission plugins that are on where nobody says anything: with [`OFF_BY_DEFAULT`] all of upstream's.
const ON_BY_DEFAULT: [&str; 26] = [
    "CertificateApproval",
    "CertificateSigning",
    "CertificateSubjectRestriction",
    "ClusterTrustBundleAttest",
    "DefaultIngressClass",
    "DefaultStorageClass",
    "DefaultTolerationSeconds",
    "LimitRanger",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "NamespaceLifecycle",
    "NodeDeclaredFeatureValidator",
    "NodeRestriction",
    "PersistentVolumeClaimResize",
    "PodGroupProtection",
    "PodResizeValidator",
    "PodSecurity",
    "PodTopologyLabels",
    "Priority",
    "ResourceQuota",
    "RuntimeClass",
    "ServiceAccount",
    "StorageObjectInUseProtection",
    "TaintNodesByCondition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
];

/// Upstream's flags of operating.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "operating")]
#[command(next_help_heading = "kube-apiserver")]
pub(crate) struct OperatingOptions {
    /// How long a request may take, watches and other streams aside
    #[arg(long, default_value = "1m", value_name = "DURATION", value_parser = period)]
    request_timeout: Duration,
    /// How many seconds a watch lives at least that does not say so itself; at most twice as long
    #[arg(long, default_value_t = 1800, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    min_request_timeout: u32,
    /// The part of requests after which an HTTP/2 connection is to be made anew, at most 0.02
    #[arg(long, default_value_t = 0.0, value_name = "PART")]
    goaway_chance: f64,
    /// Streams of one HTTP/2 connection; 0 is 1000
    #[arg(long, default_value_t = 0, value_name = "N")]
    http2_max_streams_per_connection: u32,
    /// How long the server goes on after it was told to stop, while /readyz says that it ends
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = span)]
    shutdown_delay_duration: Duration,
    /// Whether the server answers 429 while it ends, instead of not listening any more
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    shutdown_send_retry_after: bool,
    /// Over how long the ends of watches are spread when the server ends
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = span)]
    shutdown_watch_termination_grace_period: Duration,
    /// How long events are kept
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = period)]
    event_ttl: Duration,
    /// The ports of nodes that services may have: FIRST-LAST or FIRST+MORE
    #[arg(long, default_value = "30000-32767", value_name = "RANGE", value_parser = ports)]
    service_node_port_range: RangeInclusive<u16>,
    /// Which pages of other sites may ask from a browser: patterns of their origins
    #[arg(long, value_delimiter = ',', value_name = "PATTERNS")]
    cors_allowed_origins: Vec<String>,
    /// Directives of the header Strict-Transport-Security
    #[arg(long, value_delimiter = ',', value_name = "DIRECTIVES")]
    strict_transport_security_directives: Vec<String>,
    /// Whether profiles may be asked for at /debug/pprof/
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    profiling: bool,
    /// Where spans of requests are sent, and of how many: a TracingConfiguration of apiserver.config.k8s.io
    #[arg(long, value_name = "FILE")]
    tracing_config_file: Option<PathBuf>,
    /// How many seconds pods stay on a node that is not ready, where they do not say so
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    default_not_ready_toleration_seconds: i64,
    /// The same on a node that cannot be reached
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    default_unreachable_toleration_seconds: i64,
    /// How much resident memory the server may have, such as 512Mi: work is refused with 429 before it has more. 0 is no
    /// limit (default: 80 % of the limit of the process' control group, where there is one)
    #[arg(long, value_name = "SIZE")]
    memory_budget: Option<Budget>,
    /// Admission plugins that are on besides those that are anyway: AlwaysPullImages, EventRateLimit and others, by upstream's
    /// names
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    enable_admission_plugins: Vec<String>,
    /// Admission plugins that are off
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    disable_admission_plugins: Vec<String>,
    /// How long other servers leave alone the lease of the one that elects holders of leases
    /// (CoordinatedLeaderElection)
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = period)]
    coordinated_leadership_lease_duration: Duration,
    /// How long that one tries to renew it
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = period)]
    coordinated_leadership_renew_deadline: Duration,
    /// Between two tries
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = period)]
    coordinated_leadership_retry_period: Duration,
    /// What admission plugins are told besides: an AdmissionConfiguration of apiserver.config.k8s.io, for PodSecurity,
    /// PodNodeSelector, PodTolerationRestriction, EventRateLimit, ImagePolicyWebhook, ResourceQuota and the two of webhooks
    #[arg(long, value_name = "FILE")]
    admission_control_config_file: Option<PathBuf>,
    /// Which APIs are served: GROUP/VERSION=BOOL, GROUP/VERSION/RESOURCE=BOOL, api/all=BOOL, api/ga=BOOL, api/beta=BOOL,
    /// api/alpha=BOOL; what is generally available is served, and nothing else, where nothing is said
    #[arg(long, value_delimiter = ',', value_name = "API=BOOL")]
    runtime_config: Vec<String>,
}

/// Which admission plugins run, and what they are told.
#[derive(Debug, Clone)]
pub(crate) struct Plugins {
    on: Vec<String>,
    off: Vec<String>,
    not_ready: i64,
    unreachable: i64,
    configuration: AdmissionConfiguration,
}

impl Plugins {
    /// Those of upstream's that are on.
    pub(crate) fn of(&self, parts: &Parts) -> Chain {
        let chain = Chain::of(parts, &self.configuration, &self.on);
        chain.without(&self.off).with_default_tolerations(self.not_ready, self.unreachable)
    }

    /// Reads policies and webhooks of files again when they change.
    ///
    /// # Errors
    /// When a directory cannot be watched.
    pub(crate) fn follow(
        &self,
        metrics: &auth::metrics::Metrics,
        clock: &Arc<dyn Clock>,
        stop: &ShutdownSignal,
    ) -> Result<()> {
        let following = self.configuration.follow_manifests(metrics.server(), clock, stop);
        following.context("could not watch the manifests of admission")
    }

    /// The same without one, unless it was asked for.
    pub(crate) fn unless_enabled(mut self, name: &str, options: &OperatingOptions) -> Self {
        if !options.enable_admission_plugins.iter().any(|it| it == name) {
            self.off.push(name.to_owned());
        }
        self
    }
}

impl OperatingOptions {
    /// What the server is told.
    pub(crate) fn operating(&self, features: &Arc<FeatureGates>) -> Result<Operating> {
        if !(0.0..=MAX_GOAWAY_CHANCE).contains(&self.goaway_chance) {
            bail!("--goaway-chance can not be less than 0 or greater than 0.02");
        }
        let usual = Operating::default();
        let streams = match self.http2_max_streams_per_connection {
            0 => usual.http2_max_streams,
            given => given,
        };
        let cors = match self.cors_allowed_origins.as_slice() {
            [] => None,
            patterns => Some(Cors::new(patterns).map_err(|why| {
                anyhow!("--cors-allowed-origins has an invalid regular expression: {why}")
            })?),
        };
        Ok(Operating {
            request_timeout: self.request_timeout,
            min_request_timeout_seconds: u64::from(self.min_request_timeout),
            goaway_chance: self.goaway_chance,
            http2_max_streams: streams,
            max_connections: usual.max_connections,
            shutdown: ShutdownPlan {
                delay: self.shutdown_delay_duration,
                sends_retry_after: self.shutdown_send_retry_after,
                watch_grace: self.shutdown_watch_termination_grace_period,
            },
            event_ttl: self.event_ttl,
            node_ports: self.service_node_port_range.clone(),
            allow_privileged: true,
            profiling: self.profiling,
            cors,
            transport_security: self.transport_security()?,
            tracer: None,
            memory: Budget::or_of_group(self.memory_budget).map(MemoryBudget::new),
            component: Component::default(),
            size_poll_interval: usual.size_poll_interval,
            stream_bytes_per_second: None,
            logs: None,
            features: Arc::clone(features),
        })
    }

    fn transport_security(&self) -> Result<Option<HeaderValue>> {
        const FLAG: &str = "--strict-transport-security-directives";
        let all = &self.strict_transport_security_directives;
        for directive in all {
            let age = directive.strip_prefix("max-age=");
            let known = matches!(directive.as_str(), "includeSubDomains" | "preload");
            if !known && age.is_none_or(|it| it.is_empty()) {
                bail!(
                    "{FLAG} invalid, allowed values: max-age=expireTime, includeSubDomains, preload"
                );
            }
        }
        if all.is_empty() {
            return Ok(None);
        }
        HeaderValue::try_from(all.join("; ")).map(Some).context(FLAG)
    }

    /// Follows requests, where that is wanted.
    pub(crate) fn tracer(
        &self,
        (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
        ends: &Ends,
    ) -> Result<Option<Arc<Tracer>>> {
        let Some(file) = &self.tracing_config_file else { return Ok(None) };
        let shown = file.display();
        let text = std::fs::read(file).with_context(|| format!("could not read {shown}"))?;
        let configuration = TracingConfiguration::parse(&text)
            .map_err(|why| anyhow!("could not use the tracing configuration {shown}: {why}"))?;
        let given = (Arc::clone(clock), Arc::clone(random));
        let instance = crate::leading::hostname();
        let (tracer, sending) = Tracer::start(&configuration, given, &instance, ends.over.signal());
        ends.wait_for(sending);
        Ok(Some(tracer))
    }

    /// Which admission plugins run.
    pub(crate) fn plugins(&self, features: &FeatureGates) -> Result<Plugins> {
        let (on, off) = (&self.enable_admission_plugins, &self.disable_admission_plugins);
        for (flag, names) in [("enable", on), ("disable", off)] {
            for name in names {
                let name = name.as_str();
                if !ON_BY_DEFAULT.contains(&name) && !OFF_BY_DEFAULT.contains(&name) {
                    bail!("{flag}-admission-plugins plugin {name:?} is unknown");
                }
            }
        }
        if let Some(both) = on.iter().find(|it| off.contains(it)) {
            bail!("{both:?} in enable-admission-plugins and disable-admission-plugins overlapped");
        }
        let mut configuration = self.admission_configuration()?;
        let from_files = features.enabled(MANIFEST_BASED_ADMISSION);
        configuration
            .load_manifests(from_files)
            .map_err(|why| anyhow!("failed to initialize admission: {why}"))?;
        configuration.check(on).map_err(|why| anyhow!("failed to initialize admission: {why}"))?;
        Ok(Plugins {
            on: on.clone(),
            off: off.clone(),
            not_ready: self.default_not_ready_toleration_seconds,
            unreachable: self.default_unreachable_toleration_seconds,
            configuration,
        })
    }

    fn admission_configuration(&self) -> Result<AdmissionConfiguration> {
        let Some(file) = &self.admission_control_config_file else {
            return Ok(AdmissionConfiguration::default());
        };
        let shown = file.display();
        let text = std::fs::read(file).with_context(|| format!("could not read {shown}"))?;
        // Files that it names lie beside it.
        let read = |path: &str| {
            let path = file.parent().map_or_else(|| path.into(), |folder| folder.join(path));
            std::fs::read(&path).map_err(|why| format!("could not read {}: {why}", path.display()))
        };
        AdmissionConfiguration::parse(&text, read)
            .map_err(|why| anyhow!("could not use the admission configuration {shown}: {why}"))
    }

    /// Which APIs are served.
    fn apis(&self, features: &FeatureGates, removed: bool) -> Result<Apis> {
        let features = Features {
            generic_workload: features.enabled(GENERIC_WORKLOAD),
            coordinated_leader_election: features.enabled(COORDINATED_LEADER_ELECTION),
            workload_with_job: features.enabled(WORKLOAD_WITH_JOB),
            topology_aware_workloads: features.enabled(TOPOLOGY_AWARE_WORKLOADS),
            max_unavailable_stateful_set: features.enabled("MaxUnavailableStatefulSet"),
            hpa_scale_to_zero: features.enabled("HPAScaleToZero"),
            claim_unused_since_time: features.enabled("PersistentVolumeClaimUnusedSinceTime"),
            manifest_based_admission: features.enabled(MANIFEST_BASED_ADMISSION),
            storage_version_api: features.enabled(STORAGE_VERSION_API),
            resource_pool_status: features.enabled(RESOURCE_POOL_STATUS),
        };
        let apis = Apis::default().with_features(features).with_removed(removed);
        Ok(apis.configure(&self.runtime_config)?)
    }

    /// The resources that are served, in their versions, with those that upstream has removed or without; what is asked for
    /// and not built is told in the log.
    pub(crate) fn registry(&self, features: &FeatureGates, removed: bool) -> Result<Registry> {
        let apis = self.apis(features, removed)?;
        for api in apis.not_built() {
            tracing::warn!(api, "--runtime-config: not built yet, and not served");
        }
        Ok(Registry::of(apis))
    }

    /// What features need of the API and would wait for without end.
    pub(crate) fn check_features(&self, features: &FeatureGates) -> Result<()> {
        let registry = Registry::of(self.apis(features, true)?);
        for (feature, group, version, plural) in [
            (GENERIC_WORKLOAD, "scheduling.k8s.io", "v1beta1", "podgroups"),
            (COORDINATED_LEADER_ELECTION, "coordination.k8s.io", "v1beta1", "leasecandidates"),
            (STORAGE_VERSION_API, "internal.apiserver.k8s.io", "v1alpha1", "storageversions"),
            (RESOURCE_POOL_STATUS, "resource.k8s.io", "v1alpha3", "resourcepoolstatusrequests"),
        ] {
            if features.enabled(feature) && registry.find(group, version, plural).is_none() {
                bail!(
                    "--feature-gates {feature}=true needs its API: add --runtime-config {group}/{version}=true"
                );
            }
        }
        Ok(())
    }

    /// The times of the election among servers of who elects.
    ///
    /// # Errors
    /// When they do not fit each other.
    pub(crate) fn coordination(&self) -> Result<Times> {
        let times = Times {
            lease: self.coordinated_leadership_lease_duration,
            renew: self.coordinated_leadership_renew_deadline,
            retry: self.coordinated_leadership_retry_period,
        };
        times.check().map_err(|error| anyhow!("--coordinated-leadership-*: {error}"))
    }
}

/// `30000-32767`, `30000+2767`.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let number = |it: &str| it.trim().parse::<u16>().map_err(|_| format!("unable to parse {it:?}"));
    let range = if let Some((first, last)) = text.split_once('-') {
        number(first)?..=number(last)?
    } else if let Some((first, more)) = text.split_once('+') {
        let first = number(first)?;
        first..=first.saturating_add(number(more)?)
    } else {
        return Err("it is FIRST-LAST".into());
    };
    if *range.start() == 0 || range.is_empty() {
        return Err("it has no ports".into());
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: OperatingOptions,
    }

    fn refusal(line: &str) -> String {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let options = Line::parse_from(words).options;
        let features = Arc::default();
        let done = options.operating(&features).and_then(|_| options.plugins(&features));
        let done = done.and_then(|_| options.registry(&features, false));
        done.err().map(|it| format!("{it:#}")).unwrap_or_default()
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (line, expected) in [
            ("", ""),
            ("--goaway-chance 0.5", "can not be less than 0 or greater than 0.02"),
            ("--cors-allowed-origins (", "invalid regular expression"),
            ("--strict-transport-security-directives max-age=5,preload", ""),
            ("--strict-transport-security-directives now", "invalid, allowed values"),
            ("--enable-admission-plugins NodeRestriction,PodSecurity", ""),
            ("--enable-admission-plugins Nope", "plugin \"Nope\" is unknown"),
            ("--enable-admission-plugins AlwaysPullImages,NamespaceExists", ""),
            (
                "--enable-admission-plugins EventRateLimit",
                "couldn't init admission plugin \"EventRateLimit\": limits: Invalid value",
            ),
            ("--enable-admission-plugins ImagePolicyWebhook", "no config specified"),
            (
                "--enable-admission-plugins Priority --disable-admission-plugins Priority",
                "overlapped",
            ),
            ("--runtime-config apps/v1,api/ga=true,api/beta=true", ""),
            ("--runtime-config autoscaling/v1=false", ""),
            ("--runtime-config apps/v9=true", "group version apps/v9 that has not been registered"),
            ("--runtime-config lifecycle.k8s.io/v1alpha1=true", "has not built"),
        ] {
            let said = refusal(line);
            assert!(
                said.contains(expected) && said.is_empty() == expected.is_empty(),
                "{line}: {said}"
            );
        }
    }

    #[test]
    fn a_feature_needs_its_api() {
        let of = |feature: &str, line: &str| {
            let words = std::iter::once("x").chain(line.split_whitespace());
            let gates = crate::gates::parse(&[format!("{feature}=true")]).unwrap();
            Line::parse_from(words).options.check_features(&gates).map_err(|it| it.to_string())
        };
        let check = |line: &str| of("GenericWorkload", line);
        assert!(check("").unwrap_err().contains("scheduling.k8s.io/v1beta1=true"));
        let missing = of("CoordinatedLeaderElection", "").unwrap_err();
        assert!(missing.contains("coordination.k8s.io/v1beta1=true"), "{missing}");
        assert_eq!(check("--runtime-config scheduling.k8s.io/v1beta1=true"), Ok(()));
        assert_eq!(check("--runtime-config api/beta=true"), Ok(()));
    }

    #[test]
    fn ports_are_a_range() {
        assert_eq!(ports("30000-32767"), Ok(30_000..=32_767));
        assert_eq!(ports("100+5"), Ok(100..=105));
        for bad in ["", "5", "9-2", "0-4", "a-b", "1-70000"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
