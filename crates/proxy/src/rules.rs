//! The rules that follow from a Service and its endpoints, as entries of maps. The rules proper are constant
//! (`skeleton`); a Service is nothing but entries.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::resolve::{Backend, ResolvedPort};
use crate::service::{Front, PortSpec, ServiceSpec, family_of};

/// Where places of local endpoints begin, in the map of all endpoints.
pub(crate) const LOCAL_BASE: u32 = 1 << 31;

/// Which endpoints of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pool {
    /// All.
    Cluster,
    /// Those of this node.
    Local,
}

/// A chain that translates to one of `endpoints` endpoints. One for all ports alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainSpec {
    /// Whether its fronts are node ports.
    pub node_port: bool,
    /// Which endpoints.
    pub pool: Pool,
    /// How many.
    pub endpoints: u32,
    /// Whether answers must come back by this node.
    pub masquerade: bool,
    /// How long a client keeps its endpoint.
    pub affinity_seconds: Option<u32>,
}

impl fmt::Display for ChainSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.node_port { "node-" } else { "ip-" })?;
        f.write_str(if self.pool == Pool::Local { "local-" } else { "cluster-" })?;
        write!(f, "{}", self.endpoints)?;
        if self.masquerade {
            f.write_str("-masq")?;
        }
        match self.affinity_seconds {
            Some(seconds) => write!(f, "-affinity-{seconds}"),
            None => Ok(()),
        }
    }
}

/// The key of an entry, and by its variant the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// `service-ips`: where packets for a front go, and the number of the port behind it.
    Service(Front),
    /// `internal-ips`: where those from inside the cluster go, of a front with a policy for those from outside.
    Internal(Front),
    /// `external-ips`: where those from outside go.
    External(Front),
    /// `refused-services` or `dropped-services`: what becomes of packets for a front that has no endpoints.
    NoEndpoint(Front),
    /// `firewall-ips`: fronts that not everyone may use.
    Firewall(Front),
    /// `firewall-allow`: who may.
    Allow(Front, IpNet),
    /// `endpoints`: the endpoint at a place of a port; the family tells the table.
    Endpoint {
        /// Whether the table is that of IPv6.
        v6: bool,
        /// The port's number.
        id: u32,
        /// The place.
        place: u32,
    },
    /// `affinity-endpoints`: endpoints that a client may keep.
    AffinityEndpoint(u32, IpAddr, u16),
    /// `cluster-ips`: addresses of services.
    ClusterIp(IpAddr),
    /// `hairpin`: endpoints of this node, which may reach themselves.
    Hairpin(IpAddr),
}

/// What an entry maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Nothing: the map is a set.
    None,
    /// A port's number, and somewhere to go.
    Service(u32, Target),
    /// An endpoint.
    Endpoint(IpAddr, u16),
    /// Somewhere to go.
    Goto(Target),
}

/// Somewhere to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A chain that translates.
    Chain(ChainSpec),
    /// The chain that tells clients inside from clients outside.
    ExternalLocal {
        /// Whether the fronts are node ports.
        node_port: bool,
    },
    /// The sender is told that nobody is there.
    Reject,
    /// The sender is not answered.
    Drop,
}

impl Entry {
    pub(crate) fn is_v6(&self) -> bool {
        match self {
            Self::Service(front)
            | Self::Internal(front)
            | Self::External(front)
            | Self::NoEndpoint(front)
            | Self::Firewall(front)
            | Self::Allow(front, _) => front.ip.is_ipv6(),
            Self::Endpoint { v6, .. } => *v6,
            Self::AffinityEndpoint(_, ip, _) | Self::ClusterIp(ip) | Self::Hairpin(ip) => {
                ip.is_ipv6()
            }
        }
    }

    /// Whether several services may have the same entry.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::ClusterIp(_) | Self::Hairpin(_))
    }
}

/// What rules need to know of the node and the cluster.
#[derive(Debug, Clone, Copy, Default)]
pub struct Facts<'a> {
    /// The node's own addresses.
    pub node_ips: &'a [IpAddr],
    /// Whether everything to cluster addresses is masqueraded.
    pub masquerade_all: bool,
}

/// The entries of one Service, sorted, each once.
#[must_use]
pub fn rules(
    spec: &ServiceSpec,
    resolved: &[ResolvedPort],
    facts: Facts<'_>,
) -> Vec<(Entry, Value)> {
    let mut entries = Vec::new();
    for one in resolved {
        if let Some(port) = spec.ports.get(usize::from(one.port)) {
            Port { spec, port, one, facts }.rules(&mut entries);
        }
    }
    entries.sort_unstable_by_key(|(entry, _)| *entry);
    entries.dedup_by_key(|(entry, _)| *entry);
    entries
}

type Entries = Vec<(Entry, Value)>;

struct Port<'a> {
    spec: &'a ServiceSpec,
    port: &'a PortSpec,
    one: &'a ResolvedPort,
    facts: Facts<'a>,
}

impl Port<'_> {
    fn rules(&self, entries: &mut Entries) {
        for ip in self.ips(&self.spec.cluster_ips) {
            entries.push((Entry::ClusterIp(ip), Value::None));
            self.internal(entries, self.front(ip));
        }
        for ip in self.ips(&self.spec.external_ips) {
            self.external(entries, self.front(ip));
        }
        for ip in self.ips(&self.spec.load_balancer_ips) {
            self.external(entries, self.front(ip));
            self.firewall(entries, self.front(ip));
        }
        let PortSpec { protocol, node_port, .. } = *self.port;
        let node_ports = self.spec.node_port_fronts(protocol, node_port);
        for front in node_ports.filter(|front| family_of(front.ip) == self.one.family) {
            self.external(entries, front);
        }
        self.endpoints(entries);
    }

    fn ips<'a>(&'a self, ips: &'a [IpAddr]) -> impl Iterator<Item = IpAddr> + 'a {
        ips.iter().copied().filter(|ip| family_of(*ip) == self.one.family)
    }

    fn front(&self, ip: IpAddr) -> Front {
        Front { ip, protocol: self.port.protocol, port: self.port.port }
    }

    fn chain(&self, front: Front, pool: Pool, masquerade: bool) -> Option<Target> {
        let backends = match pool {
            Pool::Cluster => &self.one.cluster,
            Pool::Local => &self.one.local,
        };
        let endpoints = u32::try_from(backends.len()).ok().filter(|count| *count > 0)?;
        Some(Target::Chain(ChainSpec {
            node_port: front.is_node_port(),
            pool,
            endpoints,
            masquerade,
            affinity_seconds: self.spec.affinity_seconds,
        }))
    }

    /// Whether it gets the front at all.
    fn owns(&self, front: Front) -> bool {
        !self.spec.lost.contains(&front)
    }

    fn serve(&self, entries: &mut Entries, front: Front, target: Target) {
        entries.push((Entry::Service(front), Value::Service(self.one.id, target)));
    }

    /// Nobody at all is refused; nobody of this node, where a policy asks for those, is not answered, so that the
    /// client tries elsewhere.
    fn refuse(&self, entries: &mut Entries, front: Front) {
        let target = if self.one.cluster.is_empty() { Target::Reject } else { Target::Drop };
        entries.push((Entry::NoEndpoint(front), Value::Goto(target)));
    }

    fn internal(&self, entries: &mut Entries, front: Front) {
        if !self.owns(front) {
            return;
        }
        let pool = if self.spec.internal_local { Pool::Local } else { Pool::Cluster };
        match self.chain(front, pool, self.facts.masquerade_all) {
            Some(target) => self.serve(entries, front, target),
            None => self.refuse(entries, front),
        }
    }

    fn external(&self, entries: &mut Entries, front: Front) {
        if !self.owns(front) {
            return;
        }
        if !self.spec.external_local {
            return match self.chain(front, Pool::Cluster, true) {
                Some(target) => self.serve(entries, front, target),
                None => self.refuse(entries, front),
            };
        }
        // Clients inside the cluster get any endpoint: for them the address is a short cut.
        if let Some(target) = self.chain(front, Pool::Cluster, false) {
            entries.push((Entry::Internal(front), Value::Goto(target)));
            self.serve(entries, front, Target::ExternalLocal { node_port: front.is_node_port() });
        }
        match self.chain(front, Pool::Local, false) {
            Some(target) => entries.push((Entry::External(front), Value::Goto(target))),
            None => self.refuse(entries, front),
        }
    }

    fn firewall(&self, entries: &mut Entries, front: Front) {
        if self.spec.source_ranges.is_empty() || !self.owns(front) {
            return;
        }
        entries.push((Entry::Firewall(front), Value::None));
        let ranges = self.spec.source_ranges.iter().map(IpNet::trunc);
        let mut allowed: Vec<_> =
            ranges.filter(|range| family_of(range.addr()) == self.one.family).collect();
        // A node that may use it may also appear with the balancer's own address.
        let node_may = |ip: &IpAddr| allowed.iter().any(|range| range.contains(ip));
        if self.facts.node_ips.iter().any(node_may) {
            allowed.push(front.ip.into());
        }
        for range in IpNet::aggregate(&allowed) {
            entries.push((Entry::Allow(front, range), Value::None));
        }
    }

    fn endpoints(&self, entries: &mut Entries) {
        let v6 = self.one.family == sys::nftables::Family::Ip6;
        let cluster = self.spec.uses_cluster().then_some((0, &self.one.cluster));
        for (base, backends) in cluster.into_iter().chain([(LOCAL_BASE, &self.one.local)]) {
            for (place, Backend { ip, port, local }) in (base..).zip(backends.iter().copied()) {
                let key = Entry::Endpoint { v6, id: self.one.id, place };
                entries.push((key, Value::Endpoint(ip, port)));
                if self.spec.affinity_seconds.is_some() {
                    let key = Entry::AffinityEndpoint(self.one.id, ip, port);
                    entries.push((key, Value::None));
                }
                if local {
                    entries.push((Entry::Hairpin(ip), Value::None));
                }
            }
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(front) => write!(f, "service-ips {front}"),
            Self::Internal(front) => write!(f, "internal-ips {front}"),
            Self::External(front) => write!(f, "external-ips {front}"),
            Self::NoEndpoint(front) => write!(f, "no-endpoint-services {front}"),
            Self::Firewall(front) => write!(f, "firewall-ips {front}"),
            Self::Allow(front, range) => write!(f, "firewall-allow {front} . {range}"),
            Self::Endpoint { id, place, .. } if *place >= LOCAL_BASE => {
                write!(f, "endpoints {id} . local {}", place - LOCAL_BASE)
            }
            Self::Endpoint { id, place, .. } => write!(f, "endpoints {id} . {place}"),
            Self::AffinityEndpoint(id, ip, port) => {
                write!(f, "affinity-endpoints {id} . {ip} . {port}")
            }
            Self::ClusterIp(ip) => write!(f, "cluster-ips {ip}"),
            Self::Hairpin(ip) => write!(f, "hairpin {ip}"),
        }
    }
}

impl Value {
    /// Where it leads.
    pub(crate) fn target(&self) -> Option<Target> {
        match self {
            Self::Service(_, target) | Self::Goto(target) => Some(*target),
            Self::None | Self::Endpoint(..) => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain(chain) => write!(f, "goto {chain}"),
            Self::ExternalLocal { node_port: false } => f.write_str("goto external-local"),
            Self::ExternalLocal { node_port: true } => f.write_str("goto node-external-local"),
            Self::Reject => f.write_str("reject"),
            Self::Drop => f.write_str("drop"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Service(id, target) => write!(f, " : {id} {target}"),
            Self::Endpoint(ip, port) => write!(f, " : {ip} . {port}"),
            Self::Goto(target) => write!(f, " : {target}"),
        }
    }
}
