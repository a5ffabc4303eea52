//! `kubelith agent`: one node of a cluster in this process.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use client::Client;
use component_base::{Clock, Random, RealClock, Shutdown, SystemRandom};

use crate::http::{Access, HttpTransport};
use crate::node::{self, Node};
use crate::pki::{Directory, Subject};
use crate::startup::Startup;
use crate::{data_dir, log};

/// Flags of `kubelith agent`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Flags in a YAML file, by their names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Credentials for the API server
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Address of the API server (default: the kubeconfig's)
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Where everything is kept: images, containers, volumes. Archives in DIR/images are imported at start
    #[arg(long, default_value = node::options::DATA_DIR, value_name = "DIR")]
    data_dir: PathBuf,
    /// Address that the node agent's server listens on
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    bind_address: IpAddr,
    /// Features of upstream to switch: Name=true,Other=false
    #[arg(long, value_name = "GATES")]
    feature_gates: Vec<String>,
    #[command(flatten)]
    parts: crate::flags::PartArguments,
    #[command(flatten)]
    log: log::Options,
    #[command(flatten)]
    node: node::Options,
}

/// Runs until it is told to stop; containers go on.
pub(crate) fn run(options: Options) -> Result<()> {
    options.log.start()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> Result<()> {
    crate::gates::check(&options.feature_gates)?;
    let startup = Startup::begin("agent");
    let held = data_dir::hold(&options.data_dir)?;
    let shutdown = Shutdown::new();
    let node = start(options, &shutdown).await?;
    let ready = node.watch_ready();
    tokio::spawn(async move { startup.up("node", &format!("{} is Ready", ready.await)) });
    crate::server::wait_for_signal().await;
    shutdown.request();
    node.ended().await;
    drop(held);
    Ok(())
}

async fn start(options: Options, shutdown: &Shutdown) -> Result<Node> {
    let access = Access::read(&options.kubeconfig)?.at(options.server.clone());
    let client = Client::new(Arc::new(HttpTransport::new(&access)?), "kubelet/v1.37.1");
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let random: Arc<dyn Random> = Arc::new(SystemRandom::new());
    let serving = serving(&options, access.authority()).await?;
    node::start(node::Setup {
        options: options.node,
        data_dir: options.data_dir,
        client,
        serving,
        clock,
        random,
        stop: shutdown.signal(),
        proxy: true,
    })
    .await
}

/// The socket of the agent's server. Its certificate is its own authority's unless the cluster gives it one.
async fn serving(options: &Options, clients: &str) -> Result<kubelet::Serving> {
    let pki = Directory::new(options.data_dir.join("agent/pki"))?;
    let authority = pki.authority("ca", "kubelith-node-ca")?;
    let node = options.node.name();
    let names = [node.clone(), "localhost".to_owned()];
    let subject = Subject::Server {
        name: &format!("system:node:{node}"),
        names: &names,
        addresses: &options.node.addresses(),
        groups: &["system:nodes"],
    };
    let identity = pki.identity("kubelet", &authority, &subject)?;
    let address = SocketAddr::new(options.bind_address, options.node.kubelet.port);
    node::serving(address, &identity, clients).await
}
