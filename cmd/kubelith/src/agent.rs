//! `kubelith agent`: one node of a cluster in this process.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use client::Client;
use component_base::{Clock, Random, RealClock, Shutdown, SystemRandom};
use ipnet::IpNet;
use kubelet::{Kubelet, Parts, Serving};
use network::PodNetwork;
use runtime::{EmbeddedRuntime, Registries, ZygoteCommand};
use sys::netlink::Netns;

use crate::http::{Access, HttpTransport};
use crate::node::pod_network::RuntimeNetwork;
use crate::pki::{Directory, Subject};

/// The first argument of the process that shims are forked from.
pub(crate) const ZYGOTE: &str = "zygote";
/// The group of shims, outside of all pods.
const SHIM_CGROUP: &str = "/kubelith/shims";

/// Flags of `kubelith agent`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Credentials for the API server
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Address of the API server (default: the kubeconfig's)
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Name of the node
    #[arg(long, value_name = "NAME")]
    node_name: String,
    /// Addresses of the node
    #[arg(long, value_delimiter = ',', value_name = "IP", required = true)]
    node_ip: Vec<IpAddr>,
    /// Labels of the node
    #[arg(long, value_delimiter = ',', value_name = "KEY=VALUE", value_parser = label)]
    node_labels: Vec<(String, String)>,
    /// Where everything is kept: images, containers, volumes. Image archives in DIR/agent/images are imported
    #[arg(long, default_value = "/var/lib/kubelith", value_name = "DIR")]
    data_dir: PathBuf,
    /// Where sockets and pinned namespaces lie
    #[arg(long, default_value = "/run/kubelith", value_name = "DIR")]
    state_dir: PathBuf,
    /// Addresses that this node gives to pods
    #[arg(long, default_value = "10.42.0.0/24", value_delimiter = ',', value_name = "CIDR")]
    pod_cidr: Vec<IpNet>,
    /// Addresses of all pods
    #[arg(long, default_value = "10.42.0.0/16", value_delimiter = ',', value_name = "CIDR")]
    cluster_cidr: Vec<IpNet>,
    /// Addresses of services
    #[arg(long, default_value = "10.96.0.0/12", value_delimiter = ',', value_name = "CIDR")]
    service_cidr: Vec<IpNet>,
    /// The cluster's DNS servers
    #[arg(long, default_value = "10.96.0.10", value_delimiter = ',', value_name = "IP")]
    cluster_dns: Vec<IpAddr>,
    /// The cluster's domain
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    cluster_domain: String,
    /// The node's resolver configuration
    #[arg(long, default_value = "/etc/resolv.conf", value_name = "FILE")]
    resolv_conf: PathBuf,
    /// Address that the node agent's server listens on
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    bind_address: IpAddr,
    /// Port of the node agent's server
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    port: u16,
    /// The most pods on the node
    #[arg(long, default_value_t = 110, value_name = "N")]
    max_pods: u32,
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    pair.ok_or_else(|| format!("{text:?} is not KEY=VALUE"))
}

/// Runs until it is told to stop; containers go on.
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
    let access = Access::read(&options.kubeconfig)?.at(options.server.clone());
    let client = Client::new(Arc::new(HttpTransport::new(&access)?), "kubelet/v1.37.1");
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let random: Arc<dyn Random> = Arc::new(SystemRandom::new());
    let runtime = open_runtime(&options, (&clock, &random)).await?;
    let parts = Parts {
        config: config(&options),
        client,
        runtime: Arc::new(runtime.clone()),
        images: Arc::new(runtime),
        clock,
        random,
        serving: Some(serving(&options, access.authority()).await?),
    };
    let kubelet = Kubelet::open(parts).await.context("could not start the node agent")?;
    tracing::info!(node = options.node_name, "node agent ready");
    let signals = shutdown.clone();
    tokio::spawn(async move {
        crate::server::wait_for_signal().await;
        signals.request();
    });
    kubelet.run(shutdown.signal()).await;
    Ok(())
}

/// The socket of the agent's server. Its certificate is its own authority's unless the cluster gives it one.
async fn serving(options: &Options, clients: &str) -> Result<Serving> {
    let pki = Directory::new(options.data_dir.join("agent/pki"))?;
    let authority = pki.authority("ca", "kubelith-node-ca")?;
    let name = format!("system:node:{}", options.node_name);
    let names = [options.node_name.clone(), "localhost".to_owned()];
    let subject = Subject::Server {
        name: &name,
        names: &names,
        addresses: &options.node_ip,
        groups: &["system:nodes"],
    };
    let identity = pki.identity("kubelet", &authority, &subject)?;
    let address = SocketAddr::new(options.bind_address, options.port);
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("could not listen on {address}"))?;
    let mut tls = identity.server_config(clients)?;
    // Upgrades are of HTTP/1.1.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Serving { listener, tls: Arc::new(tls) })
}

async fn open_runtime(
    options: &Options,
    (clock, random): (&Arc<dyn Clock>, &Arc<dyn Random>),
) -> Result<EmbeddedRuntime> {
    let network = PodNetwork::start(network::Config {
        namespace: Netns::own(),
        device: network::Config::DEVICE.to_owned(),
        pod_cidrs: options.pod_cidr.clone(),
        cluster_cidrs: options.cluster_cidr.clone(),
        service_cidrs: options.service_cidr.clone(),
        mtu: None,
        state_dir: options.state_dir.join("network"),
    })
    .context("could not start the pod network")?;
    let runtime = EmbeddedRuntime::open(runtime::Options {
        root_dir: options.data_dir.join("runtime"),
        state_dir: options.state_dir.join("runtime"),
        zygote: ZygoteCommand {
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec![ZYGOTE.into()],
        },
        shim_cgroup: SHIM_CGROUP.into(),
        registries: Registries::default(),
        network: Arc::new(RuntimeNetwork::new(Arc::new(network))),
        clock: Arc::clone(clock),
        random: Arc::clone(random),
    })
    .await
    .context("could not start the container runtime")?;
    import_images(&runtime, &options.data_dir.join("agent/images")).await?;
    Ok(runtime)
}

/// Images that an operator laid into a directory.
async fn import_images(runtime: &EmbeddedRuntime, dir: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        let ids = runtime
            .import_image(path.clone(), None)
            .await
            .with_context(|| format!("could not import the images of {}", path.display()))?;
        tracing::info!(path = %path.display(), images = ids.len(), "images imported");
    }
    Ok(())
}

fn config(options: &Options) -> kubelet::Config {
    kubelet::Config {
        node_ips: options.node_ip.clone(),
        labels: options.node_labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        cluster_dns: options.cluster_dns.clone(),
        cluster_domain: options.cluster_domain.clone(),
        resolv_conf: Some(options.resolv_conf.clone()),
        max_pods: options.max_pods,
        port: options.port,
        version: format!("v1.37.1+kubelith{}", env!("CARGO_PKG_VERSION")),
        ..kubelet::Config::new(&options.node_name, &options.data_dir.join("agent"))
    }
}
