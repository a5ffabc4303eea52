//! The scheduler: in the server's process, and alone as `kube-scheduler`.

mod flags;
mod pod_resources;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use client::Client;
use client::leader::Election;
use client::reflector::Caches;
use client::transport::Transport;
use component_base::feature_gates::FeatureGates;
use component_base::metrics::RestClient;
use component_base::{Clock, Random, RealClock, Shutdown, ShutdownSignal, SystemRandom};
use prometheus_client::registry::Registry;
use scheduler::config::Features;
use scheduler::{Configuration, Extender, Metrics, Scheduler};

use crate::elections;
use crate::gates::{GENERIC_WORKLOAD, STORAGE_CAPACITY_SCORING, TOPOLOGY_AWARE_WORKLOADS};
use crate::http::{Access, ExtenderPost, HttpTransport};
use crate::leading::{self, ElectionOptions, Member};
use crate::server::Signals;
use crate::serving::Check;
use crate::startup::Startup;
use crate::upstream::Given;
use crate::{log, memory, serving};
pub(crate) use flags::TABLE;
pub(crate) use pod_resources::Seen;

/// What the scheduler is called, as a user and where it tells of itself.
const NAME: &str = "kube-scheduler";
/// Where it tells of itself.
const SERVED: serving::Part = serving::Part { name: NAME, port: 10_259 };

/// Flags of the scheduler in the server's process.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "kube-scheduler")]
#[command(next_help_heading = "kube-scheduler")]
pub(crate) struct EmbeddedOptions {
    /// A KubeSchedulerConfiguration in a YAML file (also: --kube-scheduler-arg config=FILE)
    #[arg(long, value_name = "FILE")]
    kube_scheduler_config: Option<PathBuf>,
    /// Whether of several schedulers one works at a time (also: --kube-scheduler-arg leader-elect=BOOL)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    kube_scheduler_leader_elect: Option<bool>,
}

/// What a scheduler is given.
pub(crate) struct Parts {
    pub(crate) client: Client,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    /// What is counted of its elections.
    pub(crate) elections: client::leader::Metrics,
    /// What others of this process know too.
    pub(crate) caches: Option<Arc<Caches>>,
    pub(crate) stop: ShutdownSignal,
}

impl EmbeddedOptions {
    /// The configuration, where it can be had.
    pub(crate) fn configuration(
        &self,
        shares_store: bool,
        features: &FeatureGates,
    ) -> Result<Configuration> {
        let mut config = read(self.kube_scheduler_config.as_deref(), features)?;
        // There is one scheduler in this process. Where it is the only server others are asked for by name.
        let elect = self.kube_scheduler_leader_elect.or(config.leader_election.leader_elect);
        config.leader_election.leader_elect = Some(elect.unwrap_or(shares_store));
        config.profiles().map_err(|error| anyhow!(error))?;
        Ok(config)
    }
}

/// Starts a scheduler beside the API server.
pub(crate) fn start(
    parts: Parts,
    (config, seen): (Configuration, Seen),
    metrics: Metrics,
    features: &FeatureGates,
) -> Result<()> {
    let mut works = Works { seen, ..Works::new(parts, config, metrics, features) };
    works.extenders()?;
    tokio::spawn(async move {
        loop {
            let Err(error) = works.until_stopped_or_lost().await else { return };
            let error = format!("{error:#}");
            tracing::error!(error, "the scheduler has ended: it begins anew");
            tokio::time::sleep(works.config.leader_election.retry_period).await;
        }
    });
    Ok(())
}

/// A configuration file, or upstream's defaults.
fn read(path: Option<&Path>, features: &FeatureGates) -> Result<Configuration> {
    let features = Features {
        pod_groups: features.enabled(GENERIC_WORKLOAD),
        topology: features.enabled(TOPOLOGY_AWARE_WORKLOADS),
        storage_capacity_scoring: features.enabled(STORAGE_CAPACITY_SCORING),
    };
    let Some(path) = path else { return Ok(Configuration { features, ..Default::default() }) };
    let shown = path.display();
    let text = std::fs::read(path).with_context(|| format!("could not read {shown}"))?;
    Configuration::parse_with(&text, features).map_err(|error| anyhow!("{shown}: {error}"))
}

/// A scheduler that works when it may.
struct Works {
    parts: Parts,
    config: Configuration,
    metrics: Metrics,
    /// Whose pods are told of.
    seen: Seen,
    /// None where there is nobody else.
    election: Option<Election>,
}

impl Works {
    /// Stands for its lease, where holders are elected.
    fn new(parts: Parts, config: Configuration, metrics: Metrics, features: &FeatureGates) -> Self {
        let said = &config.leader_election;
        let mut election = said.leader_elect.unwrap_or(true).then(|| Election {
            namespace: said.resource_namespace.clone(),
            name: said.resource_name.clone(),
            identity: leading::identity(parts.random.as_ref()),
            lease_duration: said.lease_duration,
            renew_deadline: said.renew_deadline,
            retry_period: said.retry_period,
            release: true,
            coordinated: false,
        });
        if let Some(election) = &mut election {
            let (given, stop) = ((&parts.clock, &parts.random), parts.stop.clone());
            elections::stand(election, features, &parts.client, given, stop);
        }
        Self { parts, config, metrics, seen: Seen::default(), election }
    }

    fn extenders(&self) -> Result<Vec<Extender>> {
        let all = self.config.extenders.iter().map(|it| {
            let way = ExtenderPost::new(it)
                .with_context(|| format!("extender {:?} of the scheduler", it.url_prefix))?;
            Ok(Extender::new(it, Arc::new(way)))
        });
        all.collect()
    }

    /// A scheduler whose caches end with `stop`.
    fn scheduler(&self, stop: ShutdownSignal) -> Result<Scheduler> {
        let parts = &self.parts;
        // Who may lose a lease begins anew with caches of its own.
        let shared = parts.caches.clone().filter(|_| self.election.is_none());
        let own = || Caches::new(parts.client.clone(), Arc::clone(&parts.random), stop);
        let caches = shared.unwrap_or_else(own);
        self.seen.now(&caches);
        Ok(Scheduler {
            client: parts.client.clone(),
            caches,
            clock: Arc::clone(&parts.clock),
            random: Arc::clone(&parts.random),
            profiles: self.config.profiles().map_err(|error| anyhow!(error))?,
            extenders: self.extenders()?,
            backoff: self.config.backoff(),
            pod_groups: self.config.features.pod_groups,
            metrics: self.metrics.clone(),
        })
    }

    /// Schedules, once it is the leader where that has to be.
    ///
    /// # Errors
    /// When the lease was lost.
    async fn until_stopped_or_lost(&mut self) -> Result<()> {
        let stop = self.parts.stop.clone();
        let Some(election) = self.election.clone() else {
            let scheduler = self.scheduler(stop.clone())?;
            scheduler.run(stop).await;
            return Ok(());
        };
        let leading = Shutdown::new();
        let scheduler = self.scheduler(leading.signal())?;
        if !self.config.delay_cache_until_active {
            scheduler.warm();
        }
        let parts = &self.parts;
        let member = Member {
            name: NAME,
            client: parts.client.clone(),
            clock: Arc::clone(&parts.clock),
            random: Arc::clone(&parts.random),
            metrics: parts.elections.clone(),
            stop,
        };
        let work = Box::pin(scheduler.run(leading.signal()));
        leading::work(member, election, &leading, work).await
    }
}

/// Flags of `kubelith kube-scheduler`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// A KubeSchedulerConfiguration in a YAML file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How the API server is reached (default: what the configuration says)
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Address of the API server (default: the kubeconfig's)
    #[arg(long, value_name = "URL")]
    master: Option<String>,
    /// Features of upstream to switch: Name=true,Other=false
    #[arg(long, value_name = "GATES")]
    feature_gates: Vec<String>,
    #[command(flatten)]
    serving: serving::Options,
    #[command(flatten)]
    election: ElectionOptions,
    #[command(flatten)]
    log: log::Options,
}

/// What the flags say replaces the configuration's leader election.
fn elect(flags: &ElectionOptions, config: &mut Configuration) -> Result<()> {
    let election = &mut config.leader_election;
    let said = |given: &Option<Duration>, to: &mut Duration| {
        if let Some(given) = given {
            *to = *given;
        }
    };
    let named = |given: &Option<String>, to: &mut String| {
        if let Some(given) = given {
            to.clone_from(given);
        }
    };
    election.leader_elect = flags.leader_elect.or(election.leader_elect);
    said(&flags.leader_elect_lease_duration, &mut election.lease_duration);
    said(&flags.leader_elect_renew_deadline, &mut election.renew_deadline);
    said(&flags.leader_elect_retry_period, &mut election.retry_period);
    named(&flags.leader_elect_resource_lock, &mut election.resource_lock);
    named(&flags.leader_elect_resource_name, &mut election.resource_name);
    named(&flags.leader_elect_resource_namespace, &mut election.resource_namespace);
    config.validated().map_err(|error| anyhow!(error)).map(drop)
}

/// Runs a scheduler alone until it is told to stop, or has lost its lease.
pub(crate) fn run(options: Options, (given, warnings): (&Given, &[String])) -> Result<()> {
    options.log.start(warnings)?;
    memory::give_back();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(alone(options, given.all()))
}

async fn alone(options: Options, flags: Vec<(String, String)>) -> Result<()> {
    let features = crate::gates::parse(&options.feature_gates)?;
    let mut config = read(options.config.as_deref(), &features)?;
    elect(&options.election, &mut config)?;
    let said = Some(PathBuf::from(&config.client_connection.kubeconfig));
    let said = said.filter(|it| !it.as_os_str().is_empty());
    let Some(kubeconfig) = options.kubeconfig.or(said) else {
        bail!("say how the API server is reached: --kubeconfig, or clientConnection.kubeconfig");
    };
    let signals = Signals::catch()?;
    let startup = Startup::begin(NAME);
    let shutdown = Shutdown::new();
    let access = Access::read(&kubeconfig)?.at(options.master);
    let calls = RestClient::default();
    let transport = HttpTransport::new(&access)?.counted(calls.clone());
    let transport = Arc::new(transport) as Arc<dyn Transport>;
    let client = Client::new(transport, "kube-scheduler/v1.37.1");
    let (clock, random): (Arc<dyn Clock>, Arc<dyn Random>) =
        (Arc::new(RealClock), Arc::new(SystemRandom::new()));
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    calls.register(&mut registry);
    let elections = client::leader::Metrics::default();
    elections.register(&mut registry);
    let seen = Seen::default();
    let (told, synced, ends) = (seen.clone(), seen.clone(), shutdown.signal());
    let led = config.leader_election.leader_elect.unwrap_or(true).then(Check::leader_election);
    let before = Check::of_readiness("shutdown", move || !ends.is_requested());
    let knows = Check::of_readiness("sched-handler-sync", move || synced.is_synced());
    let pages = serving::Pages {
        resources: Some(Box::new(move || told.text())),
        profiling: config.profiling,
        checks: led.into_iter().chain([before, knows]).collect(),
        ..serving::Pages::new(registry, flags, Arc::clone(&features))
    };
    let address = options.serving.start(SERVED, &client, pages, shutdown.signal()).await?;
    if let Some(address) = address {
        startup.up("scheduler", &format!("https://{address}"));
    }
    let parts = Parts { client, clock, random, elections, caches: None, stop: shutdown.signal() };
    let mut works = Works { seen, ..Works::new(parts, config, metrics, &features) };
    signals.end(&shutdown);
    works.until_stopped_or_lost().await
}
