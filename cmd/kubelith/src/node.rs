//! One node: container runtime, node agent, pod network and service proxy, put together.
//!
//! The same in the server's process and alone; what differs is the client and the certificate it is given.

mod archives;
mod cluster_dns;
mod only;
pub(crate) mod options;
mod pod_network;
mod removed;
mod routes;
mod service_proxy;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use apimachinery::Value;
use client::reflector::Caches;
use client::{Client, ObjectKey, Resource, Store};
use component_base::{Clock, Random, ShutdownSignal};
use ipnet::IpNet;
use kubelet::{Kubelet, Serving};
use network::PodNetwork;
use proxy::{NodePortAddresses, Proxy};
use runtime::{EmbeddedRuntime, ZygoteCommand};
use sys::netlink::Netns;
use sys::nftables::Family;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use cluster_dns::{
    ACCOUNT as DNS_ACCOUNT, Dns, objects as dns_objects, slice as dns_slice,
};
pub(crate) use only::{OnlyNode, Place, place};
pub(crate) use options::Options;
use pod_network::RuntimeNetwork;
use removed::Removed;

use crate::{control, tls};

/// Below the data directory: which control group pods were in, for the uninstall.
pub(crate) const CGROUP_FILE: &str = "agent/pods-cgroup";
/// The first argument of the process that shims are forked from.
pub(crate) const ZYGOTE: &str = "zygote";
/// The group of shims, outside of all pods.
pub(crate) const SHIM_CGROUP: &str = "/kubelith/shims";

/// What a node is made from.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) options: Options,
    pub(crate) data_dir: PathBuf,
    /// Under the node's identity.
    pub(crate) client: Client,
    pub(crate) serving: Serving,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) stop: ShutdownSignal,
    /// Whether the service proxy runs.
    pub(crate) proxy: bool,
    pub(crate) only: OnlyNode,
}

/// A node that runs.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// What the node knows of nodes, services and slices.
    pub(crate) caches: Arc<Caches>,
    /// The pod network, once the node has a range of addresses.
    pub(crate) network: watch::Receiver<Option<Arc<PodNetwork>>>,
    kubelet: JoinHandle<()>,
    /// For as long as this node runs.
    _only: OnlyNode,
}

impl Node {
    /// That the node is ready, once the API server says so; and what keeps pods from it nevertheless.
    pub(crate) fn watch_ready(&self) -> impl Future<Output = String> + use<> {
        let (store, name) = (self.caches.store(&nodes()), self.name.clone());
        async move {
            until(&store, || {
                let node = store.get(&ObjectKey::new("", name.as_str()))?.value();
                let conditions = node.items_at(&["status", "conditions"]);
                readiness(&name, conditions)
            })
            .await
        }
    }

    /// Resolves once the API server knows the node's addresses.
    pub(crate) fn watch_registered(&self) -> impl Future<Output = ()> + use<> {
        let (store, name) = (self.caches.store(&nodes()), self.name.clone());
        async move {
            until(&store, || {
                let node = store.get(&ObjectKey::new("", name.as_str()))?.value();
                (!node.items_at(&["status", "addresses"]).is_empty()).then_some(())
            })
            .await;
        }
    }

    /// Waits until the agent has ended, after the stop. Containers go on.
    pub(crate) async fn ended(self) {
        if self.kubelet.await.is_err() {
            tracing::error!("the node agent failed");
        }
    }
}

/// What people are told of a node when it is ready: `n is Ready`.
fn readiness(name: &str, conditions: &[Value]) -> Option<String> {
    let holds = |kind: &str| {
        let mut all = conditions.iter();
        all.any(|it| it.str_at(&["type"]) == kind && it.str_at(&["status"]) == "True")
    };
    if !holds("Ready") {
        return None;
    }
    let short: Vec<&str> = ["MemoryPressure", "DiskPressure", "PIDPressure"]
        .into_iter()
        .filter(|it| holds(it))
        .collect();
    if short.is_empty() {
        return Some(format!("{name} is Ready"));
    }
    let short = short.join(" and ");
    Some(format!("{name} is Ready, but under {short}: pods that do not tolerate that stay Pending"))
}

fn nodes() -> Resource {
    Resource::built_in("", "nodes")
}

/// Waits until `look` finds what it looks for in a store.
pub(crate) async fn until<T>(store: &Store, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        store.reached(0).await;
        let revision = store.revision();
        if let Some(found) = look() {
            return found;
        }
        store.reached(revision + 1).await;
    }
}

/// The socket that the agent's server answers on. Clients may have certificates of `clients`.
pub(crate) async fn serving(
    address: SocketAddr,
    certificate: &tls::Serving,
    clients: &str,
) -> Result<Serving> {
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
        format!("could not listen on {address} for the node agent; --port gives another")
    })?;
    let mut tls = certificate.server_config(clients)?;
    // Upgrades are of HTTP/1.1.
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Serving { listener, tls: Arc::new(tls) })
}

/// Starts a node. What it does not have yet, such as its addresses, it waits for in the background.
pub(crate) async fn start(setup: Setup) -> Result<Node> {
    let Setup { options, data_dir, client, serving, clock, random, stop, proxy, only } = setup;
    let name = options.name();
    let state_dir = options.state_dir(&data_dir);
    let pods = RuntimeNetwork::new();
    let runtime = EmbeddedRuntime::open(runtime::Options {
        root_dir: data_dir.join("agent/runtime"),
        state_dir: state_dir.join("runtime"),
        zygote: ZygoteCommand {
            program: PathBuf::from("/proc/self/exe"),
            arguments: vec![ZYGOTE.into()],
        },
        shim_cgroup: SHIM_CGROUP.into(),
        registries: options.registries()?,
        network: Arc::new(pods.clone()),
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
    })
    .await
    .context("could not start the container runtime")?;
    let kept = data_dir.join(CGROUP_FILE);
    std::fs::write(&kept, options.pods_cgroup())
        .with_context(|| format!("could not write {}", kept.display()))?;
    only::keep(&data_dir)?;
    archives::import(&runtime, &data_dir.join("images"), &data_dir.join("agent/imported.json"))
        .await?;
    let caches = Caches::new(client.clone(), Arc::clone(&random), stop.clone());
    let parts = kubelet::Parts {
        config: options.kubelet_config(&data_dir)?,
        client,
        runtime: Arc::new(runtime.clone()),
        images: Arc::new(runtime.clone()),
        clock,
        random,
        serving: Some(serving),
    };
    let agent = Kubelet::open(parts).await.context("could not start the node agent")?;
    let status = agent.status_trigger();
    let kubelet = tokio::spawn(agent.run(stop.clone()));
    let removed = removed::listen()?;
    if proxy {
        let proxy =
            Proxy::new(proxy_config(&options)).context("could not start the service proxy")?;
        let running = service_proxy::run(proxy, Arc::clone(&caches), removed.clone(), stop.clone());
        tokio::spawn(running);
    }
    control::serve(&state_dir, runtime.clone(), stop.clone())?;
    let (sender, network) = watch::channel(None);
    let starting =
        Starting { options, state_dir, caches: Arc::clone(&caches), runtime, pods, removed };
    tokio::spawn(async move {
        tokio::select! {
            () = starting.run(sender, || status.notify_one()) => {}
            () = stop.requested() => {}
        }
    });
    Ok(Node { name, caches, network, kubelet, _only: only })
}

fn families(cidrs: &[IpNet]) -> Vec<Family> {
    let has = |v4: bool| cidrs.iter().any(|it| matches!(it, IpNet::V4(_)) == v4);
    let all = [(true, Family::Ip), (false, Family::Ip6)];
    all.into_iter().filter(|(v4, _)| has(*v4)).map(|(_, family)| family).collect()
}

fn proxy_config(options: &Options) -> proxy::Config {
    let given = &options.proxy;
    proxy::Config {
        namespace: Netns::own(),
        node_name: options.name(),
        node_ips: options.addresses(),
        families: families(&options.service_cidr),
        cluster_cidrs: options.cluster_cidr.clone(),
        service_cidrs: options.service_cidr.clone(),
        masquerade_all: given.masquerade_all,
        node_port_addresses: match given.nodeport_addresses.as_slice() {
            [] => NodePortAddresses::All,
            these => NodePortAddresses::These(these.to_vec()),
        },
        masquerade_bit: given.iptables_masquerade_bit,
    }
}

/// The pod network on its way: it needs the node's range of addresses, which a controller gives.
struct Starting {
    options: Options,
    state_dir: PathBuf,
    caches: Arc<Caches>,
    runtime: EmbeddedRuntime,
    pods: RuntimeNetwork,
    removed: Removed,
}

impl Starting {
    async fn run(self, sender: watch::Sender<Option<Arc<PodNetwork>>>, ready: impl Fn()) {
        let store = self.caches.store(&nodes());
        let name = self.options.name();
        let ranges = until(&store, || {
            let node = store.get(&ObjectKey::new("", name.as_str()))?.value();
            Some(routes::pod_cidrs(&node)).filter(|it| !it.is_empty())
        })
        .await;
        let network = match self.start(ranges) {
            Ok(network) => Arc::new(network),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "pods on this node get no network");
                return;
            }
        };
        self.pods.provide(Arc::clone(&network));
        ready();
        let restoring = removed::restore(Arc::clone(&network), self.removed.clone());
        tokio::spawn(restoring);
        self.repair(&network).await;
        sender.send_replace(Some(Arc::clone(&network)));
        routes::run(&network, &store, &name).await;
    }

    fn start(&self, ranges: Vec<IpNet>) -> Result<PodNetwork> {
        let config = network::Config {
            namespace: Netns::own(),
            device: network::Config::DEVICE.to_owned(),
            pod_cidrs: ranges,
            cluster_cidrs: self.options.cluster_cidr.clone(),
            service_cidrs: self.options.service_cidr.clone(),
            mtu: None,
            state_dir: self.state_dir.join("network"),
        };
        PodNetwork::start(config).context("could not start the pod network")
    }

    /// Takes back what sandboxes have that are gone: those that ended while no process looked.
    async fn repair(&self, network: &PodNetwork) {
        use cri::RuntimeService as _;
        let live = match self.runtime.list_pod_sandbox(&cri::PodSandboxFilter::default()).await {
            Ok(all) => all.into_iter().map(|it| it.id).collect(),
            Err(error) => {
                tracing::warn!(%error, "could not list sandboxes to repair their network");
                return;
            }
        };
        match network.repair(&live) {
            Ok(stale) if stale.is_empty() => {}
            Ok(stale) => {
                tracing::info!(sandboxes = stale.len(), "network of lost sandboxes removed")
            }
            Err(error) => tracing::warn!(%error, "could not repair the pod network"),
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn a_node_that_is_ready_says_what_keeps_pods_from_it() {
        let check = |ready: &str, memory: &str, disk: &str, expected: Option<&str>| {
            let conditions = [("MemoryPressure", memory), ("DiskPressure", disk), ("Ready", ready)]
                .map(|(kind, status)| value!({"type": kind, "status": status}));
            assert_eq!(readiness("n", &conditions).as_deref(), expected);
        };
        check("False", "False", "False", None);
        check("True", "False", "False", Some("n is Ready"));
        let disk =
            "n is Ready, but under DiskPressure: pods that do not tolerate that stay Pending";
        check("True", "False", "True", Some(disk));
        let both = "n is Ready, but under MemoryPressure and DiskPressure: pods that do not \
                    tolerate that stay Pending";
        check("True", "True", "True", Some(both));
    }
}
