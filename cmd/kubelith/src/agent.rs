//! `kubelith agent`: one node of a cluster in this process.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};
use client::Client;
use client::transport::Transport;
use component_base::{Clock, Random, RealClock, Shutdown, SystemRandom};

use crate::http::{Access, HttpTransport};
use crate::join::{self, Asker};
use crate::node::{self, Node};
use crate::pki::{self, Directory, Subject};
use crate::renew::Renewal;
use crate::server::Signals;
use crate::startup::Startup;
use crate::{data_dir, log, memory, tls};

/// Flags of `kubelith agent`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Flags in a YAML file, by their names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address of the API server (default: the kubeconfig's)
    #[arg(long, value_name = "URL", required_unless_present = "kubeconfig")]
    server: Option<String>,
    /// What lets this node join: the server's DATA_DIR/node-token. Needed once
    #[arg(long, value_name = "TOKEN", env = "KUBELITH_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Credentials of this node (default: those it has got by its token, in DATA_DIR/agent/kubeconfig)
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Where everything is kept: images, containers, volumes. Archives in DIR/images are imported at start
    #[arg(long, default_value = node::options::DATA_DIR, value_name = "DIR", value_parser = crate::data_dir::place)]
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
pub(crate) fn run(options: Options, warnings: &[String]) -> Result<()> {
    options.log.start(warnings)?;
    memory::give_back();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> Result<()> {
    crate::gates::parse(&options.feature_gates)?;
    options.node.check(&options.data_dir)?;
    let signals = Signals::catch()?;
    let startup = Startup::begin("agent");
    let held = data_dir::hold(&options.data_dir)?;
    let shutdown = Shutdown::new();
    let node = start(options, &shutdown).await?;
    let ready = node.watch_ready();
    tokio::spawn(async move { startup.up("node", &ready.await) });
    signals.wait().await;
    shutdown.request();
    node.ended().await;
    drop(held);
    Ok(())
}

async fn start(options: Options, shutdown: &Shutdown) -> Result<Node> {
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let random: Arc<dyn Random> = Arc::new(SystemRandom::new());
    let kept = Arc::clone(&clock);
    let own = options.kubeconfig.is_none().then(|| own_kubeconfig(&options));
    let asker = Asker {
        name: options.node.name(),
        addresses: options.node.addresses(),
        random: Arc::clone(&random),
    };
    let access = access(&options, &asker).await?.at(options.server.clone());
    let transport = Arc::new(HttpTransport::new(&access)?);
    let client = Client::new(Arc::clone(&transport) as Arc<dyn Transport>, "kubelet/v1.37.1");
    let only = node::OnlyNode::here()?;
    let certificate = certificate(&options)?;
    let address = SocketAddr::new(options.bind_address, options.node.kubelet.port);
    let serving = node::serving(address, &certificate, access.authority()).await?;
    let node = node::start(node::Setup {
        options: options.node,
        data_dir: options.data_dir,
        client: client.clone(),
        serving,
        clock,
        random,
        stop: shutdown.signal(),
        proxy: true,
        only,
    })
    .await?;
    // The cluster signs only for addresses that it knows the node by: after it has registered.
    let (known, stop) = (node.watch_registered(), shutdown.signal());
    let renewal = Renewal { asker, client, clock: kept, stop: stop.clone() };
    tokio::spawn(async move {
        tokio::select! {
            () = known => {}
            () = stop.requested() => return,
        }
        if let Some(kubeconfig) = own {
            tokio::spawn(renewal.clone().credentials(transport, access, kubeconfig));
        }
        renewal.serving(certificate).await;
    });
    Ok(node)
}

/// What the node has got by its token.
fn own_kubeconfig(options: &Options) -> PathBuf {
    options.data_dir.join("agent/kubeconfig")
}

/// Credentials as a file has them, or as a token gets them.
async fn access(options: &Options, asker: &Asker) -> Result<Access> {
    if let Some(path) = &options.kubeconfig {
        return Access::read(path);
    }
    let own = own_kubeconfig(options);
    let user = format!("system:node:{}", asker.name);
    let subject = Subject::Client { name: &user, groups: &[join::NODES] };
    if own.exists() {
        let access = Access::read(&own)?;
        if pki::is_fresh(access.certificate(), &subject) || options.token.is_none() {
            return Ok(access);
        }
    }
    let (Some(server), Some(token)) = (&options.server, &options.token) else {
        bail!(
            "this node has no credentials yet: give --token, which is in node-token of the server's data directory"
        );
    };
    Directory::new(options.data_dir.join("agent"))?;
    join::join(server, token, asker, &own).await?;
    Access::read(&own)
}

/// What the agent's server presents at first: its own, until the cluster signs another.
fn certificate(options: &Options) -> Result<tls::Serving> {
    let pki = Directory::new(options.data_dir.join("agent/pki"))?;
    let authority = pki.authority("ca", "kubelith-node-ca")?;
    let node = options.node.name();
    let names = [node.clone(), "localhost".to_owned()];
    let subject = Subject::Server {
        name: &format!("system:node:{node}"),
        names: &names,
        addresses: &options.node.addresses(),
        groups: &[join::NODES],
    };
    tls::Serving::new(&pki.identity("kubelet", &authority, &subject)?)
}
