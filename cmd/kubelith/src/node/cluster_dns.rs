//! The cluster's DNS: told of namespaces, services and slices by watches, and told to the cluster as `kube-dns`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use apimachinery::{Value, value};
use client::reflector::Caches;
use component_base::{Random, ShutdownSignal};
use dns::{Index, Server, Zone};
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::PodNetwork;

const PORT: u16 = 53;
/// Tasks that answer on each address: as many as make use of two cores.
const WORKERS: usize = 2;
const NAMESPACE: &str = "kube-system";
/// The name that every cluster's DNS service has.
const SERVICE: &str = "kube-dns";
/// The account under which DNS reads, and its role.
pub(crate) const ACCOUNT: &str = "coredns";
const ROLE: &str = "system:coredns";

/// What a DNS server is made from.
#[derive(Debug)]
pub(crate) struct Dns {
    pub(crate) domain: String,
    /// The addresses of the service `kube-dns`.
    pub(crate) service_ips: Vec<IpAddr>,
    pub(crate) resolv_conf: PathBuf,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) stop: ShutdownSignal,
}

impl Dns {
    /// Listens on the node's addresses towards its pods. Says where. Namespaces come from caches of DNS' own identity,
    /// services and slices from the node's.
    pub(crate) async fn start(
        self,
        network: &PodNetwork,
        own: &Caches,
        node: &Caches,
    ) -> Result<Vec<IpAddr>> {
        let zone = Zone::new(&self.domain)?;
        let index = Arc::new(Index::new(zone, Index::TTL, self.service_ips.clone()));
        feed(&index, own, node);
        own.synced().await;
        node.synced().await;
        let addresses = network.gateways();
        let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_else(|error| {
            tracing::warn!(%error, file = %self.resolv_conf.display(), "no server to ask for names outside of the cluster");
            String::new()
        });
        let config = dns::Config {
            listen: addresses.iter().map(|it| SocketAddr::new(*it, PORT)).collect(),
            service_ips: self.service_ips,
            upstreams: dns::nameservers(&text),
            workers: WORKERS,
        };
        let server = Server::bind(&config, index, self.random)
            .await
            .context("could not start the cluster's DNS")?;
        tokio::spawn(server.run(self.stop));
        Ok(addresses)
    }
}

/// The objects that let DNS read what it tells, and let pods find it at `service_ips`.
pub(crate) fn objects(service_ips: &[IpAddr]) -> Vec<Value> {
    let ips: Vec<Value> = service_ips.iter().map(|it| it.to_string().into()).collect();
    let rule = |group: &str, resources: &[&str]| {
        let resources: Vec<Value> = resources.iter().map(|it| (*it).into()).collect();
        value!({"apiGroups": [group], "resources": (Value::Array(resources)), "verbs": ["list", "watch"]})
    };
    let rules = vec![
        rule("", &["endpoints", "services", "pods", "namespaces"]),
        rule("discovery.k8s.io", &["endpointslices"]),
    ];
    let port = |name: &str, protocol: &str| value!({"name": name, "protocol": protocol, "port": (i64::from(PORT)), "targetPort": (i64::from(PORT))});
    vec![
        value!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": NAMESPACE}}),
        value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ROLE},
            "rules": (Value::Array(rules))}),
        value!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": ROLE},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}]}),
        value!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": NAMESPACE, "labels": {"k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"}},
            "spec": {"clusterIP": (ips.first().cloned().unwrap_or_default()), "clusterIPs": (Value::Array(ips)),
                "ports": [(port("dns", "UDP")), (port("dns-tcp", "TCP"))]}}),
    ]
}

/// The slice that says where DNS answers on a node.
pub(crate) fn slice(node: &str, addresses: &[IpAddr]) -> Value {
    let addresses: Vec<Value> =
        addresses.iter().filter(|it| it.is_ipv4()).map(|it| it.to_string().into()).collect();
    let port = |name: &str, protocol: &str| value!({"name": name, "protocol": protocol, "port": (i64::from(PORT))});
    value!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": (format!("{SERVICE}-{node}")), "namespace": NAMESPACE, "labels": {
            "kubernetes.io/service-name": SERVICE, "k8s-app": "kube-dns",
            "endpointslice.kubernetes.io/managed-by": "kubelith"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": (Value::Array(addresses)), "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node}],
        "ports": [(port("dns", "UDP")), (port("dns-tcp", "TCP"))]})
}

/// Keeps an index up to date from now on.
fn feed(index: &Arc<Index>, own: &Caches, node: &Caches) {
    let it = Arc::clone(index);
    own.store_of::<Namespace>().listen(Arc::new(move |change| match &change.new {
        Some(object) => object.decode().iter().for_each(|namespace| it.apply_namespace(namespace)),
        None => it.delete_namespace(&change.key().name),
    }));
    let it = Arc::clone(index);
    node.store_of::<Service>().listen(Arc::new(move |change| match &change.new {
        Some(object) => object.decode().iter().for_each(|service| it.apply_service(service)),
        None => it.delete_service(&change.key().namespace, &change.key().name),
    }));
    let it = Arc::clone(index);
    node.store_of::<EndpointSlice>().listen(Arc::new(move |change| match &change.new {
        Some(object) => object.decode().iter().for_each(|slice| it.apply_slice(slice)),
        None => it.delete_slice(&change.key().namespace, &change.key().name),
    }));
}
