//! `kubelith server`: the whole cluster in one process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use apiserver::allocate::ServiceRange;
use apiserver::{Access, Server, Version};
use auth::privileged::PrivilegedGroup;
use auth::static_token::StaticTokens;
use component_base::{Clock, Random, RealClock, Shutdown, SystemRandom};
use storage::Store;
use storage::memory::MemoryStore;
use storage_embedded::EmbeddedStore;

use crate::pki::{Directory, Subject};

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
    /// File of static bearer tokens: token,user,uid,"groups"
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
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
    let names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .to_vec();
    let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1))];
    let subject = Subject::Server {
        name: "kube-apiserver",
        names: &names,
        addresses: &addresses,
        groups: &[],
    };
    let serving = pki.identity("apiserver", &authority, &subject)?;
    let admin = Subject::Client { name: "kubernetes-admin", groups: &["system:masters"] };
    let admin = pki.identity("admin", &authority, &admin)?;
    let store = open_store(&options, &clock, &shutdown)?;
    let tokens = match &options.token_auth_file {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("could not read {}", path.display()))?,
        None => String::new(),
    };
    let tokens = Arc::new(StaticTokens::parse(&tokens)?);
    let config = apiserver::Config {
        store,
        registry: registry::Registry::built_in(),
        clock,
        random,
        max_mutating_in_flight: 200,
        max_in_flight: 400,
        service_range: ServiceRange::new(Ipv4Addr::new(10, 96, 0, 0), 12),
        nodes: None,
        version: Version {
            major: "1".into(),
            minor: "37".into(),
            git: format!("v1.37.1+kubelith{}", env!("CARGO_PKG_VERSION")),
        },
    };
    let access = |_: &Arc<apiserver::CachedObjects>| Access {
        authenticators: vec![tokens],
        authorizer: Arc::new(PrivilegedGroup),
        admission: admission::Chain::default(),
        anonymous: true,
    };
    let server = Server::start(config, shutdown.signal(), access)
        .await
        .context("could not load the store")?;
    let hub = Arc::clone(server.hub());
    let (stop, ending) = (shutdown.signal(), shutdown.clone());
    tokio::spawn(async move {
        if let Err(error) = hub.run(stop).await {
            tracing::error!(%error, "the store's changes cannot be followed: stopping");
            ending.request();
        }
    });
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
