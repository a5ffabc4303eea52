//! `kubelith server`: the whole cluster in one process.

mod node;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use apiserver::allocate::ServiceRange;
use apiserver::bootstrap::FrontProxySettings;
use apiserver::client_certificates::Speaking;
use apiserver::component_statuses::{ControlPart, Place};
use apiserver::{NodeDialer, Server, Version, bootstrap};
use component_base::feature_gates::FeatureGates;
use component_base::{Clock, Random, RealClock, Shutdown, ShutdownSignal, SystemRandom};
use ipnet::IpNet;
use storage::Store;
use storage::memory::MemoryStore;
use storage_embedded::EmbeddedStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::access::Setting;
use crate::etcd::Opened;
use crate::pki::{Authority, Directory, Identity, Subject};
use crate::startup::Startup;
use crate::{control_plane, data_dir, datastore, join, log, memory, presenting, tls};

/// How long the audit may take to send what waits, when the server ends.
const AUDIT_END: std::time::Duration = std::time::Duration::from_secs(10);

/// How long other servers may take to be told that this one goes.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(2);

/// Between two tries to make what could not be encrypted.
const MAKE_AGAIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Flags of `kubelith server`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Flags in a YAML file, by their names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where everything is kept: the store, keys, images, containers. Archives in DIR/images are imported at start
    #[arg(long, default_value = crate::node::options::DATA_DIR, value_name = "DIR", value_parser = crate::data_dir::place)]
    data_dir: PathBuf,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    bind_address: IpAddr,
    /// Port of the API server
    #[arg(long, default_value_t = 6443, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    secure_port: u16,
    /// Where objects are kept
    #[arg(long, value_enum, default_value_t = Storage::Embedded, conflicts_with = "etcd_servers")]
    storage: Storage,
    /// Parts of the cluster that this process does not run; without the agent it needs no root
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    disable: Vec<Part>,
    /// Where the administrator's kubeconfig is written (default: DATA_DIR/kubeconfig)
    #[arg(long, value_name = "PATH")]
    write_kubeconfig: Option<PathBuf>,
    /// Features of upstream to switch: Name=true,Other=false
    #[arg(long, value_name = "GATES")]
    feature_gates: Vec<String>,
    /// Serve versions of resources too that Kubernetes has removed, such as extensions/v1beta1 and batch/v1beta1
    #[arg(long)]
    serve_removed_apis: bool,
    /// How old what is told of the use of nodes and pods may be (metrics-server: --metric-resolution)
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = control_plane::period)]
    metrics_resolution: std::time::Duration,
    /// Nodes without machines besides, on which pods only seem to run: for trying out large clusters. Best with
    /// --disable agent,proxy,dns
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(fakenodes::MAX_NODES)))]
    fake_nodes: u32,
    #[command(flatten)]
    parts: crate::flags::PartArguments,
    #[command(flatten)]
    log: log::Options,
    #[command(flatten)]
    access: crate::access::Options,
    #[command(flatten)]
    audit: crate::audit_log::AuditOptions,
    #[command(flatten)]
    etcd: crate::etcd::EtcdOptions,
    #[command(flatten)]
    operating: crate::operating::OperatingOptions,
    #[command(flatten)]
    encryption: crate::at_rest::EncryptionOptions,
    #[command(flatten)]
    manager: crate::controller_manager::ManagerOptions,
    #[command(flatten)]
    manager_election: crate::controller_manager::EmbeddedElection,
    #[command(flatten)]
    scheduler: crate::scheduler::EmbeddedOptions,
    #[command(flatten)]
    adapter: crate::metrics_adapter::AdapterOptions,
    #[command(flatten)]
    node: crate::node::Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Storage {
    /// In memory: gone when the process ends
    Memory,
    /// On disk, durable
    Embedded,
}

/// What a process may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// The node agent with its runtime and network; proxy and DNS need it
    Agent,
    /// The service proxy
    Proxy,
    /// The cluster's DNS server
    Dns,
    /// The scheduler
    Scheduler,
    /// The controllers
    Controllers,
    /// The API of what nodes and pods use, metrics.k8s.io
    Metrics,
}

/// Runs until it is told to stop.
pub(crate) fn run(options: Options, warnings: &[String]) -> Result<()> {
    options.log.start(warnings)?;
    memory::give_back();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

impl Options {
    fn runs(&self, part: Part) -> bool {
        !self.disable.contains(&part)
    }

    fn node_ranges(&self) -> Result<controllers::node_ipam::NodeRanges> {
        self.manager.node_ranges(&self.node.cluster_cidr, &self.node.service_cidr)
    }

    fn setting(
        &self,
        clock: &Arc<dyn Clock>,
        metrics: auth::metrics::Metrics,
        shutdown: &Shutdown,
    ) -> Result<Setting> {
        Ok(Setting {
            clock: Arc::clone(clock),
            metrics,
            stop: shutdown.signal(),
            takes_bootstrap_tokens: true,
            plugins: self.operating.plugins(&*crate::gates::parse(&self.feature_gates)?)?,
        })
    }

    /// What a server is told by flags and features, besides where it listens and whom it knows.
    fn told(
        &self,
        config: apiserver::Config,
        features: &Arc<FeatureGates>,
        ends: &Ends,
    ) -> Result<apiserver::Config> {
        let tracer = self.operating.tracer((&config.clock, &config.random), ends)?;
        let operating = self.operating.operating(features)?;
        operating.memory.as_ref().map_or(Ok(()), memory::watch_over)?;
        Ok(apiserver::Config {
            operating: apiserver::Operating {
                tracer,
                size_poll_interval: self.etcd.etcd_db_metric_poll_interval,
                ..operating
            },
            registry: self.operating.registry(features, self.serve_removed_apis)?,
            explain: Some(self.explain(features)?),
            ..config
        })
    }

    /// Who says why objects are as they are: by the configuration of the scheduler.
    fn explain(&self, features: &FeatureGates) -> Result<Arc<dyn apiserver::explain::Explain>> {
        let config = self.scheduler.configuration(self.etcd.is_wanted(), features)?;
        let profiles = config.profiles().map_err(|error| anyhow!(error))?;
        Ok(Arc::new(crate::explain::FromCaches(why::Explainer::new(profiles))))
    }

    fn kubeconfig(&self) -> PathBuf {
        self.write_kubeconfig.clone().unwrap_or_else(|| self.data_dir.join("kubeconfig"))
    }

    /// What cannot be, before anything is begun.
    fn check(&self) -> Result<()> {
        let features = crate::gates::parse(&self.feature_gates)?;
        self.operating.operating(&features)?;
        self.operating.plugins(&features)?;
        self.operating.check_features(&features)?;
        self.operating.coordination()?;
        self.manager.check()?;
        self.adapter.source()?;
        if self.runs(Part::Scheduler) {
            self.scheduler.configuration(self.etcd.is_wanted(), &features)?;
        }
        if self.runs(Part::Agent) && !rustix::process::geteuid().is_root() {
            bail!("a node needs root: run as root, or with --disable agent,proxy,dns");
        }
        if self.runs(Part::Agent) {
            self.node.check(&self.data_dir)?;
        }
        Ok(())
    }
}

async fn serve(options: Options) -> Result<()> {
    options.check()?;
    let signals = Signals::catch()?;
    let startup = Startup::begin("server");
    let held = data_dir::hold(&options.data_dir)?;
    let address = SocketAddr::new(options.bind_address, options.secure_port);
    let listener = bind(address, false).await?;
    let ends = Ends::default();
    signals.end(&ends.shutdown);
    let cluster = Box::pin(Cluster::start(options, &ends, &startup)).await?;
    let listening = cluster.listen(listener, &startup)?;
    let node = cluster.start_node(&startup).await?;
    cluster.tell(&startup);
    listening.await??;
    if let Some(node) = node {
        node.ended().await;
    }
    ends.last(cluster.living, cluster.audit.as_deref()).await;
    drop(held);
    Ok(())
}

/// The two ends of a server: it is told to stop, and then everything it had begun is over.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) shutdown: Shutdown,
    /// The caches follow the store until here: writes wait for them.
    pub(crate) over: Shutdown,
    /// What is not over before that.
    late: parking_lot::Mutex<Vec<tokio::task::JoinHandle<()>>>,
}

impl Ends {
    /// The last that is done, once nobody is answered any more.
    pub(crate) async fn last(
        &self,
        living: Option<tokio::task::JoinHandle<()>>,
        audit: Option<&audit::Audit>,
    ) {
        if let Some(living) = living {
            // The others go on without it, now or a little later.
            let _ = tokio::time::timeout(GOODBYE, living).await;
        }
        if let Some(audit) = audit {
            // What waits is sent, if somebody takes it.
            let _ = tokio::time::timeout(AUDIT_END, audit.finish()).await;
        }
        self.over.request();
        let late = std::mem::take(&mut *self.late.lock());
        let _ = tokio::time::timeout(GOODBYE, futures::future::join_all(late)).await;
    }

    /// Has something end last that goes on until everything else is over.
    pub(crate) fn wait_for(&self, task: tokio::task::JoinHandle<()>) {
        self.late.lock().push(task);
    }
}

/// Starts the engines that run in this process.
fn start_engines(
    options: &Options,
    parts: &control_plane::Parts,
    features: &Arc<FeatureGates>,
) -> Result<()> {
    let given = (&parts.clock, &parts.random);
    let times = (options.operating.coordination()?, parts.elections.clone());
    crate::elections::start(&parts.server, features, given, times, parts.stop.clone());
    // By turns with those of other servers, where there may be some.
    let shares_store = options.etcd.is_wanted();
    let caches = control_plane::caches(parts);
    if options.runs(Part::Controllers) {
        let random = parts.random.as_ref();
        let election = options.manager_election.election(shares_store, random)?;
        control_plane::start_controllers(parts, &caches, &options.manager, election, features)?;
    }
    if options.runs(Part::Scheduler) {
        let config = options.scheduler.configuration(shares_store, features)?;
        control_plane::start_scheduler(parts, &caches, config, features)?;
    }
    if options.fake_nodes > 0 {
        control_plane::start_fake_nodes(parts, options.fake_nodes);
    }
    parts.server.set_control_parts(control_parts(options));
    Ok(())
}

/// Where scheduler and controllers are: in this process, unless they were left out.
fn control_parts(options: &Options) -> Vec<ControlPart> {
    let here = |name| match name {
        "scheduler" => options.runs(Part::Scheduler),
        _ => options.runs(Part::Controllers),
    };
    let place = |it: ControlPart| if here(it.name) { Place::Here } else { it.place };
    let parts = apiserver::component_statuses::ELSEWHERE.into_iter();
    parts.map(|it| ControlPart { place: place(it), ..it }).collect()
}

/// The socket, before anything is written: whether it can be had is known at once.
pub(crate) async fn bind(address: SocketAddr, shares_port: bool) -> Result<TcpListener> {
    let advice = |kind| match kind {
        ErrorKind::AddrInUse => "; end what listens there, or choose another --secure-port",
        ErrorKind::AddrNotAvailable => "; this machine does not have it: see --bind-address",
        ErrorKind::PermissionDenied => "; choose a --secure-port that users may listen on",
        _ => "",
    };
    let bound = apiserver::listen::bind(address, shares_port).await;
    bound.map_err(|error| anyhow!("{error}{}", advice(error.kind())))
}

/// The control plane of this process, with what a node in it needs.
struct Cluster {
    options: Options,
    server: Arc<Server>,
    parts: control_plane::Parts,
    pki: Directory,
    authority: Arc<Authority>,
    /// In whose name this server asks others, and whom it believes who somebody else is.
    front_proxy: FrontProxySettings,
    serving: Identity,
    /// Those of the serving certificate.
    names: Names,
    audit: Option<Arc<audit::Audit>>,
    /// Tells other servers that this one lives, and last that it goes.
    living: Option<tokio::task::JoinHandle<()>>,
    shutdown: Shutdown,
}

/// Makes anew what somebody deletes of the objects that every cluster has, and tells of authorities as their files have
/// them; `own` is always one of clients'.
pub(crate) fn keep_objects(
    server: &Arc<Server>,
    mut settings: bootstrap::Settings,
    (access, own): (&crate::access::Options, String),
    stop: ShutdownSignal,
) {
    let (server, access) = (Arc::clone(server), access.clone());
    let (tell, mut told) = tokio::sync::watch::channel(());
    let files = access.authority_files();
    if !files.is_empty() {
        let changed = async move |_| tell.send_replace(());
        tokio::spawn(crate::files::follow(files, stop.clone(), changed));
    }
    tokio::spawn(async move {
        loop {
            let lasting = bootstrap::lasting(&server, &settings);
            let changed = async {
                if told.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                () = bootstrap::keep(Arc::clone(&server), lasting, stop.clone()) => return,
                () = changed => {}
            }
            // What cannot be read is told of where it is to be used.
            if let Ok(authorities) = access.authorities(&own, "") {
                settings.client_authority = authorities.clients;
                if let Some(front) = &mut settings.front_proxy
                    && !authorities.front_proxies.is_empty()
                {
                    front.authority = authorities.front_proxies;
                }
            }
        }
    });
}

impl Cluster {
    #[allow(clippy::too_many_lines, reason = "the parts in the order in which they begin")]
    async fn start(options: Options, ends: &Ends, startup: &Startup) -> Result<Self> {
        let shutdown = &ends.shutdown;
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let random: Arc<dyn Random> = Arc::new(SystemRandom::new());
        let pki = Directory::new(options.data_dir.join("pki"))?;
        let authority = Arc::new(pki.authority("ca", "kubelith-ca")?);
        let network = Network::of(&options)?;
        let serving = serving_identity(&pki, &authority, &network.names)?;
        let shares_store = options.etcd.is_wanted();
        let opened = open_store(&options, &clock, shutdown).await?;
        let kept = {
            let (with, server) = ((&clock, &random), &network.advertised);
            options.encryption.wrap(opened.store, with, server, shutdown.signal()).await?
        };
        let store = apiserver::StoredForms::over(kept.store, options.etcd.write_as());
        let metrics = auth::metrics::Metrics::new(&network.advertised.to_string());
        let audit = options.audit.start(&clock, &random, metrics.calls())?;
        startup.up("store", &options.data_dir.display().to_string());
        let front_proxy = options.access.front_proxy(Some(&pki))?;
        let front_proxy = front_proxy.context("the front proxy's authority is made")?;
        let setting = options.setting(&clock, metrics, shutdown)?;
        let credentials =
            options.access.credentials(Some(&pki), Some(&front_proxy), &setting).await?;
        let features = crate::gates::parse(&options.feature_gates)?;
        let config = apiserver::Config {
            proxy_client: options.access.proxy_client(Some(&pki))?,
            audit: audit.clone(),
            checks: kept.checks,
            ..config(&options, store, (&clock, &random), &network, dialer(&pki, &authority)?)
        };
        let config = options.told(config, &features, ends)?;
        let tokens = Arc::new(control_plane::SecretTokens(credentials.issuer()));
        let (uses, used) = apiserver::legacy_tokens::channel();
        let access = |objects: &Arc<apiserver::CachedObjects>| {
            credentials.access(objects, Arc::clone(&clock), Arc::clone(&random), uses)
        };
        let server = Server::start(config, shutdown.signal(), access);
        let server = server.await.context("could not load the store")?;
        kept.encrypted.iter().for_each(|kept| server.metrics().register(|it| kept.register(it)));
        Opened::register(opened.metrics.as_ref(), &server);
        follow_store(&server, ends);
        let own = format!("{}\n", authority.certificate.trim_end());
        let clients = options.access.authorities(&own, "")?.clients;
        let settings = network.settings(clients, &front_proxy, shares_store);
        furnish(&server, &settings, used, shutdown).await?;
        let parts = control_plane::Parts {
            server: Arc::clone(&server),
            clock,
            random,
            root_ca: authority.certificate.as_str().into(),
            node_ranges: options.node_ranges()?,
            authority: Arc::clone(&authority) as _,
            tokens,
            elections: client::leader::Metrics::default(),
            shares_store,
            stop: shutdown.signal(),
        };
        server.metrics().register(|it| parts.elections.register(it));
        start_engines(&options, &parts, &features)?;
        let joining = network.joining(&options, &pki, &authority, parts.random.as_ref())?;
        make_joining(&server, joining, kept.encrypted.is_some(), shutdown).await?;
        bootstrap::ensure_all(&server, apiserver::node_metrics::objects(&server)).await?;
        let scaled_objects = options.manager.enables(crate::metrics_adapter::SCALED_OBJECTS);
        let (adapter, stop) = (&options.adapter, parts.stop.clone());
        crate::metrics_adapter::start(&server, &parts.clock, adapter, scaled_objects, stop).await?;
        keep_objects(&server, settings, (&options.access, own), parts.stop.clone());
        let living = shares_store.then(|| network.tell_of(&server, &parts, shutdown));
        Ok(Self {
            options,
            server,
            parts,
            pki,
            authority,
            front_proxy,
            serving,
            names: network.names,
            audit,
            living,
            shutdown: shutdown.clone(),
        })
    }

    /// Answers clients from now on.
    fn listen(
        &self,
        listener: TcpListener,
        startup: &Startup,
    ) -> Result<tokio::task::JoinHandle<std::io::Result<()>>> {
        let options = &self.options;
        let subject = Subject::Client { name: "kubernetes-admin", groups: &["system:masters"] };
        let admin = self.pki.identity("admin", &self.authority, &subject)?;
        let url = format!("https://127.0.0.1:{}", options.secure_port);
        let text =
            crate::kubeconfig::text(&url, &self.authority.certificate, "kubernetes-admin", &admin);
        crate::pki::write_secret(&options.kubeconfig(), text.as_bytes())?;
        let tls = self.speaking()?;
        let server = Arc::clone(&self.server);
        startup.up("API server", &url);
        Ok(tokio::spawn(apiserver::listen::listen(server, listener, tls)))
    }

    /// What the server presents, its own certificate renewed before it ends, and whose certificates it believes.
    fn speaking(&self) -> Result<Speaking> {
        let (access, stop) = (&self.options.access, self.shutdown.signal());
        let certificate = match presenting::of_files(access, &stop)? {
            Some(certificate) => certificate,
            None => {
                let certificate = tls::Serving::new(&self.serving)?;
                let (pki, authority) = (self.pki.clone(), Arc::clone(&self.authority));
                let names = self.names.clone();
                let renew = move || serving_identity(&pki, &authority, &names);
                certificate.keep_fresh(renew, stop.clone());
                certificate
            }
        };
        // The cluster's own authority signs the certificates of nodes.
        let own = format!("{}\n", self.authority.certificate.trim_end());
        let front_proxies = self.front_proxy.authority.clone();
        presenting::speaking(access, &certificate, (own, front_proxies), stop)
    }

    fn tell(&self, startup: &Startup) {
        startup.next(&format!("export KUBECONFIG={}", self.options.kubeconfig().display()));
        startup.next("kubectl get nodes");
    }
}

/// Makes what every cluster has, and goes on to keep what the server keeps by itself.
pub(crate) async fn furnish(
    server: &Arc<Server>,
    settings: &bootstrap::Settings,
    used: apiserver::legacy_tokens::Waiting,
    shutdown: &Shutdown,
) -> Result<()> {
    let made = bootstrap::ensure(server, settings).await?;
    tracing::info!(made.created, made.updated, "what every cluster has is there");
    tokio::spawn(apiserver::legacy_tokens::write(Arc::clone(server), used, shutdown.signal()));
    tokio::spawn(apiserver::tended::run(Arc::clone(server), shutdown.signal()));
    tokio::spawn(apiserver::allocate::repair::run(Arc::clone(server), shutdown.signal()));
    Ok(())
}

/// Makes what nodes join by, later where it cannot be encrypted yet.
async fn make_joining(
    server: &Arc<Server>,
    objects: Vec<apimachinery::Value>,
    encrypts: bool,
    shutdown: &Shutdown,
) -> Result<()> {
    match bootstrap::ensure_all(server, objects.clone()).await {
        Ok(_) => Ok(()),
        Err(error) if encrypts => {
            tracing::warn!(%error, "nodes cannot join before secrets can be encrypted");
            make_later(server, objects, shutdown);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes objects once they can be encrypted: what keeps the key may come after the server.
fn make_later(server: &Arc<Server>, objects: Vec<apimachinery::Value>, shutdown: &Shutdown) {
    let (server, stop) = (Arc::clone(server), shutdown.signal());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(MAKE_AGAIN) => {}
                () = stop.requested() => return,
            }
            if bootstrap::ensure_all(&server, objects.clone()).await.is_ok() {
                return;
            }
        }
    });
}

/// Where the server is found.
struct Network {
    advertised: IpAddr,
    port: u16,
    services: ServiceRange,
    names: Names,
}

/// What the server's certificate is good for.
#[derive(Debug, Clone)]
struct Names {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Names {
    fn of(options: &Options, addresses: &[IpAddr]) -> Self {
        let known = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        let mut names: Vec<String> = known.map(str::to_owned).into();
        let mut addresses = addresses.to_vec();
        for name in &options.access.tls_san {
            match name.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => names.push(name.clone()),
            }
        }
        Self { names, addresses }
    }
}

/// The ranges of services' addresses.
pub(crate) fn service_range(ranges: &[IpNet], flag: &str) -> Result<ServiceRange> {
    ServiceRange::of(ranges).map_err(|why| anyhow::anyhow!("{flag}: {why}"))
}

impl Network {
    fn of(options: &Options) -> Result<Self> {
        let services = service_range(&options.node.service_cidr, "--service-cidr")?;
        let nodes = options.node.addresses();
        let taken = |it: &IpAddr| options.node.service_cidr.iter().any(|range| range.contains(it));
        if let Some(address) = nodes.iter().find(|it| taken(it)) {
            anyhow::bail!(
                "the node's address {address} lies in the range of services: give another --service-cidr or --node-ip"
            );
        }
        let advertised = options.access.advertised(options.bind_address, &options.node.node_ip);
        let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), services.address(1), advertised];
        Ok(Self {
            advertised,
            port: options.secure_port,
            names: Names::of(options, &own),
            services,
        })
    }

    /// Tells the servers that share the store of this one.
    fn tell_of(
        &self,
        server: &Arc<Server>,
        parts: &control_plane::Parts,
        shutdown: &Shutdown,
    ) -> tokio::task::JoinHandle<()> {
        let reached = (self.advertised, self.port);
        let membership = crate::etcd::membership(reached, parts.random.as_ref());
        let server = Arc::clone(server);
        tokio::spawn(apiserver::masterleases::run(server, membership, shutdown.signal()))
    }

    /// The address of the service `kubernetes`.
    fn service_address(&self) -> IpAddr {
        self.services.address(1)
    }

    /// What lets nodes join; the token is made where there is none.
    fn joining(
        &self,
        options: &Options,
        pki: &Directory,
        authority: &Authority,
        random: &dyn Random,
    ) -> Result<Vec<apimachinery::Value>> {
        let file = options.data_dir.join("node-token");
        let made = || Ok(join::Token::make(&authority.certificate, random));
        let token = pki.secret_at(&file, made)?;
        let url = format!("https://{}", SocketAddr::new(self.advertised, self.port));
        join::objects(&token, &authority.certificate, &url)
            .with_context(|| format!("could not use {}: remove it for a new one", file.display()))
    }

    fn settings(
        &self,
        client_authority: String,
        front_proxy: &FrontProxySettings,
        shares_store: bool,
    ) -> bootstrap::Settings {
        bootstrap::Settings {
            front_proxy: Some(front_proxy.clone()),
            address: self.advertised,
            port: self.port,
            service_ranges: self.services.texts(),
            service_address: self.service_address(),
            client_authority,
            shares_store,
        }
    }
}

fn config(
    options: &Options,
    store: Arc<dyn Store>,
    (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
    network: &Network,
    nodes: NodeDialer,
) -> apiserver::Config {
    apiserver::Config {
        store,
        registry: registry::Registry::built_in(),
        clock: Arc::clone(clock),
        random: Arc::clone(random),
        max_mutating_in_flight: options.access.max_mutating_requests_inflight,
        max_in_flight: options.access.max_requests_inflight,
        priority_and_fairness: options.access.enable_priority_and_fairness,
        service_range: network.services,
        external_address: SocketAddr::new(network.advertised, network.port).to_string(),
        nodes: Some(nodes),
        proxy_client: None,
        metrics_resolution: options.runs(Part::Metrics).then_some(options.metrics_resolution),
        audit: None,
        checks: Vec::new(),
        store_check_timeout: options.etcd.etcd_healthcheck_timeout,
        shares_store: options.etcd.is_wanted(),
        operating: apiserver::Operating::default(),
        explain: None,
        version: Version { major: "1".into(), minor: "37".into(), git: crate::VERSION.into() },
    }
}

/// The way to nodes' agents, as the user that upstream's API server is there.
fn dialer(pki: &Directory, authority: &Authority) -> Result<NodeDialer> {
    // It may what an agent's client needs, and no more: a node says itself where its agent is.
    let subject = Subject::Client { name: join::AGENTS_CLIENT, groups: &[] };
    let identity = pki.identity("apiserver-kubelet-client", authority, &subject)?;
    let mut tls = identity.client_config(&authority.certificate)?;
    // Upgrades are of HTTP/1.1.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(NodeDialer::new(Arc::new(tls)))
}

/// Feeds the caches from the store; the process ends where that cannot go on.
pub(crate) fn follow_store(server: &Arc<Server>, ends: &Ends) {
    let hub = Arc::clone(server.hub());
    let (stop, ending) = (ends.over.signal(), ends.shutdown.clone());
    tokio::spawn(Arc::clone(server).follow_definitions());
    tokio::spawn(Arc::clone(server).follow_api_services());
    tokio::spawn(async move {
        if let Err(error) = hub.run(stop).await {
            tracing::error!(%error, "the store's changes cannot be followed: stopping");
            ending.request();
        }
    });
}

/// The API server's certificate.
fn serving_identity(pki: &Directory, authority: &Authority, names: &Names) -> Result<Identity> {
    let Names { names, addresses } = names;
    let subject = Subject::Server { name: "kube-apiserver", names, addresses, groups: &[] };
    pki.identity("apiserver", authority, &subject)
}

async fn open_store(
    options: &Options,
    clock: &Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> Result<Opened> {
    if options.etcd.is_wanted() {
        return options.etcd.open(shutdown.signal()).await;
    }
    match options.storage {
        Storage::Memory => {
            let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::clone(clock)));
            Ok(store.into())
        }
        Storage::Embedded => open_embedded(&options.data_dir, shutdown).map(Into::into),
    }
}

/// The store in a data directory. Where it fails the process ends.
pub(crate) fn open_embedded(data_dir: &Path, shutdown: &Shutdown) -> Result<Arc<dyn Store>> {
    let ending = shutdown.clone();
    let fatal = move |why: &str| {
        tracing::error!(
            why,
            "the store has failed: stopping, nothing that was acknowledged is lost"
        );
        ending.request();
    };
    let options = storage_embedded::Options::new(data_dir.join("store"), Arc::new(fatal));
    let store = EmbeddedStore::open(&options)
        .with_context(|| format!("could not open the data directory {}", data_dir.display()))?;
    let store = Arc::new(store);
    datastore::serve(data_dir, &store, shutdown.signal());
    Ok(store)
}

/// The signals that ask for an end, caught from now on.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn catch() -> Result<Self> {
        let catching = || "could not catch signals";
        Ok(Self {
            terminate: signal(SignalKind::terminate()).with_context(catching)?,
            interrupt: signal(SignalKind::interrupt()).with_context(catching)?,
        })
    }

    /// Asks for the end once one has come; whoever sends another does not want to wait for it: the process ends at once,
    /// with status 1, as upstream's do.
    pub(crate) fn end(mut self, shutdown: &Shutdown) {
        let ending = shutdown.clone();
        tokio::spawn(async move {
            self.next().await;
            tracing::info!("a signal: ending, which a second one does not wait for");
            ending.request();
            self.next().await;
            tracing::warn!("a second signal: ending at once");
            std::process::exit(1);
        });
    }

    /// Resolves when one has come.
    pub(crate) async fn wait(mut self) {
        self.next().await;
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
