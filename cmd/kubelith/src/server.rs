//! `kubelith server`: the whole cluster in one process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use apiserver::allocate::ServiceRange;
use apiserver::{Server, Version, bootstrap};
use component_base::{Clock, Random, RealClock, Shutdown, SystemRandom};
use storage::Store;
use storage::memory::MemoryStore;
use storage_embedded::EmbeddedStore;

use crate::control_plane;
use crate::pki::{Authority, Directory, Identity, Subject};

/// The range that services get their addresses from, and its prefix length.
const SERVICES: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 12);

/// Flags of `kubelith server`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where everything is kept: the store, keys, images, containers
    #[arg(long, default_value = "/var/lib/kubelith", value_name = "DIR")]
    data_dir: PathBuf,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    bind_address: IpAddr,
    /// Port of the API server
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    secure_port: u16,
    /// Where objects are kept
    #[arg(long, value_enum, default_value_t = Storage::Embedded)]
    storage: Storage,
    /// Parts of the cluster that this process does not run
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    disable: Vec<Part>,
    #[command(flatten)]
    access: crate::access::Options,
    /// Where the administrator's kubeconfig is written (default: DATA_DIR/kubeconfig)
    #[arg(long, value_name = "PATH")]
    write_kubeconfig: Option<PathBuf>,
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
    /// The node agent with its runtime and network
    Agent,
    /// The service proxy
    Proxy,
    /// The cluster's DNS server
    Dns,
    /// The scheduler
    Scheduler,
    /// The controllers
    Controllers,
}

/// Runs until it is told to stop.
pub(crate) fn run(options: Options) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new("info"))
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> Result<()> {
    let shutdown = Shutdown::new();
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let random: Arc<dyn Random> = Arc::new(SystemRandom::new());
    let pki = Directory::new(options.data_dir.join("pki"))?;
    let authority = pki.authority("ca", "kubelith-ca")?;
    let network = Network::of(&options);
    let (serving, admin) = identities(&pki, &authority, &network.addresses())?;
    let store = open_store(&options, &clock, &shutdown)?;
    let credentials = options.access.credentials(&pki)?;
    let config = config(store, (&clock, &random), &network);
    let access = |objects: &Arc<apiserver::CachedObjects>| {
        credentials.access(objects, Arc::clone(&clock), Arc::clone(&random))
    };
    let server = Server::start(config, shutdown.signal(), access)
        .await
        .context("could not load the store")?;
    follow_store(&server, &shutdown);
    let made = bootstrap::ensure(&server, &network.settings(&authority.certificate)).await?;
    tracing::info!(made.created, made.updated, "what every cluster has is there");
    let parts = control_plane::Parts {
        server: Arc::clone(&server),
        clock,
        random,
        root_ca: authority.certificate.as_str().into(),
        stop: shutdown.signal(),
    };
    if !options.disable.contains(&Part::Controllers) {
        control_plane::start_controllers(&parts);
    }
    if !options.disable.contains(&Part::Scheduler) {
        control_plane::start_scheduler(&parts);
    }
    let kubeconfig =
        options.write_kubeconfig.clone().unwrap_or_else(|| options.data_dir.join("kubeconfig"));
    let url = format!("https://127.0.0.1:{}", options.secure_port);
    let text = crate::kubeconfig::text(&url, &authority.certificate, "kubernetes-admin", &admin);
    crate::pki::write_secret(&kubeconfig, text.as_bytes())?;
    let tls = Arc::new(serving.server_config(&authority.certificate)?);
    let listener =
        apiserver::listen::bind(SocketAddr::new(options.bind_address, options.secure_port)).await?;
    tracing::info!(url, kubeconfig = %kubeconfig.display(), "API server ready");
    let signals = shutdown.clone();
    tokio::spawn(async move {
        wait_for_signal().await;
        signals.request();
    });
    apiserver::listen::listen(server, listener, tls, shutdown.signal()).await?;
    Ok(())
}

/// Where the server is found.
struct Network {
    advertised: IpAddr,
    port: u16,
    services: ServiceRange,
}

impl Network {
    fn of(options: &Options) -> Self {
        Self {
            advertised: options.access.advertised(options.bind_address),
            port: options.secure_port,
            services: ServiceRange::new(SERVICES.0, SERVICES.1),
        }
    }

    /// The address of the service `kubernetes`.
    fn service_address(&self) -> IpAddr {
        IpAddr::V4(self.services.address(1))
    }

    /// The addresses that the server's certificate is for.
    fn addresses(&self) -> [IpAddr; 3] {
        [IpAddr::V4(Ipv4Addr::LOCALHOST), self.service_address(), self.advertised]
    }

    fn settings(&self, client_authority: &str) -> bootstrap::Settings {
        bootstrap::Settings {
            address: self.advertised,
            port: self.port,
            service_range: format!("{}/{}", SERVICES.0, SERVICES.1),
            service_address: self.service_address(),
            client_authority: client_authority.to_owned(),
        }
    }
}

fn config(
    store: Arc<dyn Store>,
    (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
    network: &Network,
) -> apiserver::Config {
    apiserver::Config {
        store,
        registry: registry::Registry::built_in(),
        clock: Arc::clone(clock),
        random: Arc::clone(random),
        max_mutating_in_flight: 200,
        max_in_flight: 400,
        service_range: network.services,
        external_address: SocketAddr::new(network.advertised, network.port).to_string(),
        nodes: None,
        version: Version {
            major: "1".into(),
            minor: "37".into(),
            git: format!("v1.37.1+kubelith{}", env!("CARGO_PKG_VERSION")),
        },
    }
}

/// Feeds the caches from the store; the process ends where that cannot go on.
fn follow_store(server: &Arc<Server>, shutdown: &Shutdown) {
    let hub = Arc::clone(server.hub());
    let (stop, ending) = (shutdown.signal(), shutdown.clone());
    tokio::spawn(async move {
        if let Err(error) = hub.run(stop).await {
            tracing::error!(%error, "the store's changes cannot be followed: stopping");
            ending.request();
        }
    });
}

/// The API server's certificate and the administrator's.
fn identities(
    pki: &Directory,
    authority: &Authority,
    addresses: &[IpAddr],
) -> Result<(Identity, Identity)> {
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned);
    let subject = Subject::Server { name: "kube-apiserver", names: &names, addresses, groups: &[] };
    let admin = Subject::Client { name: "kubernetes-admin", groups: &["system:masters"] };
    Ok((pki.identity("apiserver", authority, &subject)?, pki.identity("admin", authority, &admin)?))
}

fn open_store(
    options: &Options,
    clock: &Arc<dyn Clock>,
    shutdown: &Shutdown,
) -> Result<Arc<dyn Store>> {
    match options.storage {
        Storage::Memory => Ok(Arc::new(MemoryStore::new(Arc::clone(clock)))),
        Storage::Embedded => {
            let ending = shutdown.clone();
            let fatal = move |why: &str| {
                tracing::error!(
                    why,
                    "the store has failed: stopping, nothing that was acknowledged is lost"
                );
                ending.request();
            };
            let dir = options.data_dir.join("store");
            let store = EmbeddedStore::open(&storage_embedded::Options::new(dir, Arc::new(fatal)))
                .with_context(|| {
                    format!("could not open the data directory {}", options.data_dir.display())
                })?;
            Ok(Arc::new(store))
        }
    }
}

pub(crate) async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
