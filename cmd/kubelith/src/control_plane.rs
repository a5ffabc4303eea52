//! Controllers in the server's process, each under upstream's identity, through the same filters as any client.

use std::sync::Arc;

use anyhow::{Result, bail};
use apimachinery::duration::Duration;
use apiserver::{InProcess, Server};
use auth::UserInfo;
use auth::service_account::{Named, TokenIssuer};
use client::leader::{self, Election};
use client::reflector::Caches;
use client::{Client, EventRecorder};
use component_base::{Clock, Random, Shutdown, ShutdownSignal};
use controllers::Setup;
use controllers::certificates::CertificateSigner;
use controllers::node_ipam::NodeRanges;
use controllers::node_lifecycle::NodeLifecycle;
use controllers::pod_gc::PodGc;
use controllers::podautoscaler;
use controllers::serviceaccount_token::{TokenFor, TokenSigner};
use ipnet::IpNet;

/// The namespace of the controllers' service accounts.
const NAMESPACE: &str = "kube-system";
/// The identity under which the caches are filled that the controllers share.
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
/// What the controllers together are called, as the holder of a lease.
const MANAGER: &str = "kube-controller-manager";
/// How long others leave its lease alone, how long the leader tries to renew it, and how often (upstream's).
const LEASE_DURATION: std::time::Duration = std::time::Duration::from_secs(15);
const RENEW_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
const RETRY_PERIOD: std::time::Duration = std::time::Duration::from_secs(2);

/// The identity of the scheduler.
const SCHEDULER: &str = "system:kube-scheduler";

/// Under which fake nodes write.
const FAKE_NODES: &str = "system:kubelith:fake-nodes";
/// How often a fake node renews its lease: half of what it is good for, since thousands share a process.
const FAKE_RENEWAL: std::time::Duration = std::time::Duration::from_secs(20);

/// What the parts of the control plane are given.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) server: Arc<Server>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    /// The cluster's authority, as PEM.
    pub(crate) root_ca: Arc<str>,
    /// How nodes get the ranges of their pods' addresses.
    pub(crate) node_ranges: NodeRanges,
    /// Signs approved certificate requests.
    pub(crate) authority: Arc<dyn CertificateSigner>,
    /// Signs the tokens in Secrets.
    pub(crate) tokens: Arc<dyn TokenSigner>,
    pub(crate) stop: ShutdownSignal,
}

/// The issuer of tokens, as the controller of Secrets needs it.
#[derive(Debug)]
pub(crate) struct SecretTokens(pub(crate) Arc<TokenIssuer>);

impl TokenSigner for SecretTokens {
    fn sign(&self, token: TokenFor<'_>) -> Result<String, String> {
        let account = Named { name: token.account.to_owned(), uid: token.uid.to_owned() };
        let signed = self.0.issue_legacy(token.namespace, &account, token.secret);
        signed.map_err(|error| error.to_string())
    }
}

impl Parts {
    /// A client in the process, as this user.
    pub(crate) fn client(&self, user: UserInfo, agent: &str) -> Client {
        Client::new(Arc::new(InProcess::new(Arc::clone(&self.server), user)), agent)
    }

    /// Caches under this identity.
    pub(crate) fn caches(&self, user: &str) -> Arc<Caches> {
        let client = self.client(UserInfo::new(user, &[]), user.trim_start_matches("system:"));
        Caches::new(client, Arc::clone(&self.random), self.stop.clone())
    }
}

/// Upstream's flags of the controller manager.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "controller-manager")]
#[command(next_help_heading = "kube-controller-manager")]
pub(crate) struct ManagerOptions {
    /// Prefix length of the range that a node gets of an IPv4 range of pods
    #[arg(
        long,
        default_value_t = 24,
        value_name = "BITS",
        visible_alias = "node-cidr-mask-size-ipv4"
    )]
    node_cidr_mask_size: u8,
    /// Prefix length of the range that a node gets of an IPv6 range of pods
    #[arg(long, default_value_t = 64, value_name = "BITS")]
    node_cidr_mask_size_ipv6: u8,
    /// How long a node may be silent
    #[arg(long, default_value = "50s", value_name = "DURATION", value_parser = seconds)]
    node_monitor_grace_period: i64,
    /// How long a new node may take to say its first word
    #[arg(long, default_value = "1m", value_name = "DURATION", value_parser = seconds)]
    node_startup_grace_period: i64,
    /// How long a certificate that the cluster signs is good at most
    #[arg(long, default_value = "8760h", value_name = "DURATION", value_parser = seconds)]
    cluster_signing_duration: i64,
    /// How many pods that are over may stay; 0 is any number
    #[arg(long, default_value_t = 12_500, value_name = "N")]
    terminated_pod_gc_threshold: usize,
    #[command(flatten)]
    autoscaler: AutoscalerOptions,
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
        }
    }
}

/// A number that is not negative.
fn part(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    if number.is_finite() && number >= 0.0 { Ok(number) } else { Err("must be 0 or more".into()) }
}

/// A second at least.
pub(crate) fn period(text: &str) -> Result<std::time::Duration, String> {
    Ok(std::time::Duration::from_secs(seconds(text)?.unsigned_abs()))
}

/// Whole seconds of a duration.
fn seconds(text: &str) -> Result<i64, String> {
    let duration = Duration::parse(text).map_err(|error| error.to_string())?;
    if duration.as_seconds() < 1 {
        return Err("must be a second at least".into());
    }
    Ok(duration.as_seconds())
}

impl ManagerOptions {
    /// How nodes get their ranges of these.
    pub(crate) fn node_ranges(&self, cluster: &[IpNet], services: &[IpNet]) -> Result<NodeRanges> {
        let mask = |range: &IpNet| match range {
            IpNet::V4(_) => self.node_cidr_mask_size,
            IpNet::V6(_) => self.node_cidr_mask_size_ipv6,
        };
        let cluster = cluster.iter().map(|range| (*range, mask(range))).collect();
        Ok(NodeRanges { cluster, reserved: services.to_vec() }.checked()?)
    }

    /// Whether a controller runs: the last word on it, or on all, counts (upstream: `IsControllerEnabled`).
    fn enables(&self, name: &str) -> bool {
        let all = self.controllers.iter().any(|it| it == "*");
        let own = self.controllers.iter().find_map(|it| match it.strip_prefix('-') {
            Some(off) if off == name => Some(false),
            None if it == name => Some(true),
            _ => None,
        });
        own.unwrap_or(all && !controllers::OFF_BY_DEFAULT.contains(&name))
    }

    /// # Errors
    /// When it names a controller that there is none of.
    pub(crate) fn check(&self) -> Result<()> {
        for name in self.controllers.iter().filter(|it| *it != "*") {
            let name = name.strip_prefix('-').unwrap_or(name);
            if !controllers::CONTROLLERS.iter().any(|(known, _)| *known == name) {
                let known: Vec<&str> = controllers::CONTROLLERS.iter().map(|it| it.0).collect();
                bail!(
                    "--controllers: there is no controller {name:?} here; there are {}",
                    known.join(", ")
                );
            }
        }
        Ok(())
    }
}

/// Runs the controllers whenever no other server does, until the server stops.
pub(crate) fn start_elected_controllers(parts: &Parts, options: &ManagerOptions) {
    let (parts, options) = (parts.clone(), options.clone());
    tokio::spawn(async move {
        while !parts.stop.is_requested() {
            let Err(error) = lead_controllers(&parts, &options).await else { return };
            tracing::error!(%error, "the controllers have ended: they begin anew once it is their turn");
        }
    });
}

/// # Errors
/// When the lease was lost.
async fn lead_controllers(parts: &Parts, options: &ManagerOptions) -> Result<(), leader::Lost> {
    let (clock, random) = (Arc::clone(&parts.clock), Arc::clone(&parts.random));
    let client = parts.client(UserInfo::new(CONTROLLER_MANAGER, &[]), MANAGER);
    let events = EventRecorder::new(MANAGER, "", Arc::clone(&clock), Arc::clone(&random));
    let telling = tokio::spawn(Arc::clone(&events).run(client.clone(), parts.stop.clone()));
    let election = Election {
        namespace: NAMESPACE.to_owned(),
        name: MANAGER.to_owned(),
        identity: format!("{}_{}", crate::scheduler::hostname(), random.uid()),
        lease_duration: LEASE_DURATION,
        renew_deadline: RENEW_DEADLINE,
        retry_period: RETRY_PERIOD,
        release: true,
    };
    let candidate = leader::Candidate::new(client, clock, random, events, election);
    let Some(leader) = candidate.acquire(&parts.stop).await else { return Ok(()) };
    let leading = Shutdown::new();
    start_controllers(&Parts { stop: leading.signal(), ..parts.clone() }, options);
    let kept = leader.keep(&parts.stop).await;
    leading.request();
    telling.abort();
    kept
}

/// Starts the controllers.
pub(crate) fn start_controllers(parts: &Parts, options: &ManagerOptions) {
    let for_controllers = parts.clone();
    let setup = Setup {
        caches: parts.caches(CONTROLLER_MANAGER),
        client_for: Box::new(move |account| {
            let user = match account {
                controllers::ROOT_ACCOUNT => UserInfo::new(CONTROLLER_MANAGER, &[]),
                account => UserInfo::service_account(NAMESPACE, account),
            };
            for_controllers.client(user, "kube-controller-manager")
        }),
        clock: Arc::clone(&parts.clock),
        random: Arc::clone(&parts.random),
        root_ca: Arc::clone(&parts.root_ca),
        node_ranges: parts.node_ranges.clone(),
        node_lifecycle: NodeLifecycle {
            grace_seconds: options.node_monitor_grace_period,
            startup_grace_seconds: options.node_startup_grace_period,
        },
        podautoscaler: options.autoscaler.options(),
        pod_gc: PodGc { terminated_threshold: options.terminated_pod_gc_threshold },
        authority: Some(Arc::clone(&parts.authority)),
        signing_duration: std::time::Duration::from_secs(
            options.cluster_signing_duration.unsigned_abs(),
        ),
        tokens: Some(Arc::clone(&parts.tokens)),
        stop: parts.stop.clone(),
    };
    controllers::start_all(&setup, |name| options.enables(name));
}

/// Starts the scheduler.
pub(crate) fn start_scheduler(parts: &Parts, config: scheduler::Configuration) -> Result<()> {
    let metrics = scheduler::Metrics::default();
    parts.server.metrics().register(|registry| metrics.register(registry));
    let own = crate::scheduler::Parts {
        client: parts.client(UserInfo::new(SCHEDULER, &[]), "kube-scheduler"),
        clock: Arc::clone(&parts.clock),
        random: Arc::clone(&parts.random),
        stop: parts.stop.clone(),
    };
    crate::scheduler::start(own, config, metrics)
}

/// Starts nodes without machines, which say that they are of this version.
pub(crate) fn start_fake_nodes(parts: &Parts, count: u32) {
    let settings = fakenodes::Settings {
        count,
        capacity: fakenodes::Capacity::default(),
        version: crate::VERSION.into(),
        renew_every: FAKE_RENEWAL,
    };
    let user = UserInfo::new(FAKE_NODES, &[auth::user::MASTERS]);
    let own = fakenodes::Parts {
        client: parts.client(user, "fake-nodes"),
        clock: Arc::clone(&parts.clock),
        random: Arc::clone(&parts.random),
        stop: parts.stop.clone(),
    };
    tokio::spawn(fakenodes::run(settings, own));
}
