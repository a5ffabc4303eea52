//! The node in the server's process: its clients are in the process too, its certificates the cluster's own.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use apimachinery::value;
use apiserver::bootstrap;
use auth::UserInfo;
use client::reflector::Caches;

use super::{Cluster, Part};
use crate::join::NODES;
use crate::node::{self, Dns, Node, OnlyNode};
use crate::pki::Subject;
use crate::startup::Startup;
use crate::tls;

impl Cluster {
    /// Starts the node, and tells when it is ready; none where the agent is left out.
    pub(super) async fn start_node(&self, startup: &Startup) -> Result<Option<Node>> {
        let options = &self.options;
        if !options.runs(Part::Agent) {
            return Ok(None);
        }
        let only = OnlyNode::here()?;
        self.let_nodes_proxy().await?;
        let name = options.node.name();
        let user = format!("system:node:{name}");
        let certificate = self.serving_of_node(&name, &user)?;
        let address = SocketAddr::new(options.bind_address, options.node.kubelet.port);
        let serving = node::serving(address, &certificate, &self.authority.certificate).await?;
        let node = node::start(node::Setup {
            options: options.node.clone(),
            data_dir: options.data_dir.clone(),
            client: self.parts.client(UserInfo::new(&user, &[NODES]), "kubelet"),
            serving,
            clock: Arc::clone(&self.parts.clock),
            random: Arc::clone(&self.parts.random),
            stop: self.shutdown.signal(),
            proxy: options.runs(Part::Proxy),
            only,
        })
        .await
        .with_context(|| format!("could not start the node {name}"))?;
        if options.runs(Part::Dns) {
            self.start_dns(&node, *startup).await?;
        }
        self.tell_ready(&node, *startup);
        Ok(Some(node))
    }

    /// What the node agent's server presents, renewed as long as this process runs.
    fn serving_of_node(&self, name: &str, user: &str) -> Result<tls::Serving> {
        let (pki, authority) = (self.pki.clone(), Arc::clone(&self.authority));
        let names = [name.to_owned(), "localhost".to_owned()];
        let (user, addresses) = (user.to_owned(), self.options.node.addresses());
        let make = move || {
            let subject = Subject::Server {
                name: &user,
                names: &names,
                addresses: &addresses,
                groups: &[NODES],
            };
            pki.identity("kubelet", &authority, &subject)
        };
        let certificate = tls::Serving::new(&make()?)?;
        certificate.keep_fresh(make, self.shutdown.signal());
        Ok(certificate)
    }

    fn tell_ready(&self, node: &Node, startup: Startup) {
        let (watched, stop) = (node.watch_ready(), self.shutdown.signal());
        tokio::spawn(async move {
            tokio::select! {
                line = watched => startup.up("node", &line),
                () = stop.requested() => {}
            }
        });
    }

    /// Nodes may read what their service proxies need: one certificate a node, not two.
    async fn let_nodes_proxy(&self) -> Result<()> {
        let binding = value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "kubelith:node-proxier"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": NODES}]});
        bootstrap::ensure_all(&self.server, vec![binding]).await?;
        Ok(())
    }

    /// The cluster's DNS, which begins as soon as the node has a pod network.
    async fn start_dns(&self, node: &Node, startup: Startup) -> Result<()> {
        let options = &self.options;
        let service_ips = options.node.dns();
        let mut lasting = node::dns_objects(&service_ips);
        bootstrap::ensure_all(&self.server, lasting.clone()).await?;
        let account = UserInfo::service_account("kube-system", node::DNS_ACCOUNT);
        let random = Arc::clone(&self.parts.random);
        let stop = self.shutdown.signal();
        let own =
            Caches::new(self.parts.client(account, "coredns"), Arc::clone(&random), stop.clone());
        let dns = Dns {
            domain: options.node.cluster_domain.clone(),
            service_ips,
            resolv_conf: options.node.resolv_conf.clone(),
            random,
            stop: stop.clone(),
        };
        let (server, name) = (Arc::clone(&self.server), node.name.clone());
        let (caches, mut network) = (Arc::clone(&node.caches), node.network.clone());
        tokio::spawn(async move {
            let found = tokio::select! {
                found = network.wait_for(Option::is_some) => found.ok().and_then(|it| it.clone()),
                () = stop.requested() => None,
            };
            let Some(network) = found else { return };
            match dns.start(&network, &own, &caches).await {
                Ok(addresses) => {
                    startup.up("DNS", &format!("{addresses:?}"));
                    lasting.push(node::dns_slice(&name, &addresses));
                    bootstrap::keep(server, lasting, stop).await;
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the cluster has no DNS")
                }
            }
        });
        Ok(())
    }
}
