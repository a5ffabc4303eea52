//! What the proxy needs of a Service.

use std::fmt;
use std::net::IpAddr;

use compact_str::CompactString;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServiceSpec as ApiSpec};
use sys::nftables::Family;

/// Upstream's default for `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: u32 = 10_800;
/// A Service with this label is for another proxy.
pub(crate) const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Namespace and name of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: CompactString,
    /// The name.
    pub name: CompactString,
}

impl ServiceKey {
    /// A key of its two parts.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A protocol that the kernels we support can translate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The protocol of that name; TCP where there is none.
    #[must_use]
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some(_) => None,
        }
    }

    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// Where clients connect to. A node port is one at the unspecified address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Front {
    /// The address.
    pub ip: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl Front {
    /// A node port.
    #[must_use]
    pub fn node_port(family: Family, protocol: Protocol, port: u16) -> Self {
        let ip = match family {
            Family::Ip6 => IpAddr::from([0; 16]),
            Family::Ip | Family::Inet => IpAddr::from([0; 4]),
        };
        Self { ip, protocol, port }
    }

    /// Whether it is a port of every node.
    #[must_use]
    pub fn is_node_port(&self) -> bool {
        self.ip.is_unspecified()
    }
}

impl fmt::Display for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ip, protocol, port } = self;
        if self.is_node_port() {
            write!(f, "{} . {protocol} . {port}", if ip.is_ipv4() { "node" } else { "node6" })
        } else {
            write!(f, "{ip} . {protocol} . {port}")
        }
    }
}

pub(crate) fn family_of(ip: IpAddr) -> Family {
    if ip.is_ipv4() { Family::Ip } else { Family::Ip6 }
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Its name, empty where there is one port only.
    pub name: CompactString,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port clients use.
    pub port: u16,
    /// The port of every node; 0 is none.
    pub node_port: u16,
}

/// A Service with an address, reduced to what rules follow from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceSpec {
    /// Cluster addresses.
    pub cluster_ips: Box<[IpAddr]>,
    /// `externalIPs`.
    pub external_ips: Box<[IpAddr]>,
    /// Addresses of the load balancer that reach the node untranslated.
    pub load_balancer_ips: Box<[IpAddr]>,
    /// Who may use the load balancer's addresses; empty is everyone.
    pub source_ranges: Box<[IpNet]>,
    /// The ports.
    pub ports: Box<[PortSpec]>,
    /// Whether clients inside the cluster get endpoints of their own node only.
    pub internal_local: bool,
    /// Whether clients outside get endpoints of the node they reach only.
    pub external_local: bool,
    /// How long a client keeps its endpoint.
    pub affinity_seconds: Option<u32>,
    /// Fronts that an older Service has; this one does not get them.
    pub lost: Box<[Front]>,
}

impl ServiceSpec {
    /// What rules follow from; `None` for Services that have none: headless, external names, another proxy's.
    /// What cannot be had is told to `problem`.
    pub fn project(service: &Service, mut problem: impl FnMut(String)) -> Option<Self> {
        let labels = service.metadata.labels.as_ref();
        if labels.is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL)) {
            return None;
        }
        let spec = service.spec.as_ref()?;
        let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
        let cluster_ips = cluster_ips(spec);
        if kind == "ExternalName" || cluster_ips.is_empty() {
            return None;
        }
        let has_node_ports = matches!(kind, "NodePort" | "LoadBalancer");
        let ranges = spec.load_balancer_source_ranges.iter().flatten();
        let affinity = spec.session_affinity.as_deref() == Some("ClientIP");
        let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        Some(Self {
            cluster_ips,
            external_ips: spec
                .external_ips
                .iter()
                .flatten()
                .filter_map(|ip| parse_ip(ip))
                .collect(),
            load_balancer_ips: load_balancer_ips(service, kind),
            source_ranges: ranges.filter_map(|range| range.trim().parse().ok()).collect(),
            ports: ports(spec, has_node_ports, &mut problem),
            internal_local: local(&spec.internal_traffic_policy),
            external_local: local(&spec.external_traffic_policy),
            affinity_seconds: affinity.then(|| affinity_seconds(spec)),
            lost: Box::default(),
        })
    }

    /// Whether clients outside the cluster can reach it.
    #[must_use]
    pub fn is_external(&self) -> bool {
        !self.external_ips.is_empty()
            || !self.load_balancer_ips.is_empty()
            || self.ports.iter().any(|port| port.node_port != 0)
    }

    /// Whether some clients get any endpoint.
    pub(crate) fn uses_cluster(&self) -> bool {
        !self.internal_local || self.is_external()
    }

    /// Whether some clients get endpoints of this node only.
    pub(crate) fn uses_local(&self) -> bool {
        self.internal_local || (self.external_local && self.is_external())
    }

    /// Every front it asks for, whether or not it gets it.
    pub fn fronts(&self) -> impl Iterator<Item = Front> {
        self.ports.iter().flat_map(|port| {
            let ips = self.cluster_ips.iter().chain(&self.external_ips);
            let ips = ips.chain(&self.load_balancer_ips);
            let PortSpec { protocol, port, node_port, .. } = *port;
            ips.map(move |ip| Front { ip: *ip, protocol, port })
                .chain(self.node_port_fronts(protocol, node_port))
        })
    }

    pub(crate) fn node_port_fronts(
        &self,
        protocol: Protocol,
        node_port: u16,
    ) -> impl Iterator<Item = Front> {
        let families = [Family::Ip, Family::Ip6].into_iter().filter(move |family| {
            node_port != 0 && self.cluster_ips.iter().any(|ip| family_of(*ip) == *family)
        });
        families.map(move |family| Front::node_port(family, protocol, node_port))
    }
}

/// Addresses as upstream's proxy reads them; what is no address is left out, validation has seen to it.
fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

fn cluster_ips(spec: &ApiSpec) -> Box<[IpAddr]> {
    let many = spec.cluster_ips.iter().flatten().filter_map(|ip| parse_ip(ip));
    let mut ips: Vec<_> = many.collect();
    if ips.is_empty() {
        ips.extend(spec.cluster_ip.as_deref().and_then(parse_ip));
    }
    ips.into()
}

fn load_balancer_ips(service: &Service, kind: &str) -> Box<[IpAddr]> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|status| status.ingress.as_ref()).into_iter().flatten();
    // In mode Proxy the balancer translates the address itself, so traffic to it must go there.
    let direct = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let ips = direct.filter_map(|ingress| parse_ip(ingress.ip.as_deref()?));
    if kind == "LoadBalancer" { ips.collect() } else { Box::default() }
}

fn affinity_seconds(spec: &ApiSpec) -> u32 {
    let config = spec.session_affinity_config.as_ref();
    let client_ip = config.and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
    seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY_SECONDS)
}

fn ports(
    spec: &ApiSpec,
    has_node_ports: bool,
    problem: &mut impl FnMut(String),
) -> Box<[PortSpec]> {
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else {
            let name = port.protocol.as_deref().unwrap_or_default();
            problem(format!("port {} is not served: protocol {name} is not supported", port.port));
            continue;
        };
        let Ok(number) = u16::try_from(port.port) else { continue };
        let node_port = port.node_port.and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
        ports.push(PortSpec {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol,
            port: number,
            node_port: if has_node_ports { node_port } else { 0 },
        });
    }
    ports.into()
}
