//! The pod network as others call it: start, set up and tear down sandboxes, routes, repair, uninstall.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use parking_lot::Mutex;
use sys::netlink::{Address, NetlinkError, Netns, Route, RouteKind, Rtnetlink};
use sys::nftables::{Conntrack, Nftables};

use crate::config::is_v4;
use crate::ipam::Ipam;
use crate::pod::{self, Interface, PROTOCOL};
use crate::record::{PortMapping, Protocol, Record, Records, check_id};
use crate::{Config, LocalNode, NetworkError, RoutePlan, rules, sysctl};

const MTU_FALLBACK: u32 = 1500;
/// The most that a veth device has; the loopback device has one more.
const MTU_MAX: u32 = 65_535;

/// The pod network of one node. Calls block for a few milliseconds; they may come from any thread.
#[derive(Debug)]
pub struct PodNetwork {
    config: Config,
    mtu: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rtnetlink: Rtnetlink,
    nftables: Nftables,
    conntrack: Conntrack,
    records: Records,
    sandboxes: BTreeMap<String, Record>,
    ipam: Ipam,
}

fn node(doing: &'static str) -> impl FnOnce(NetlinkError) -> NetworkError {
    move |source| NetworkError::Node { doing, source }
}

impl PodNetwork {
    /// Furnishes the node and takes up what an earlier process left. Sandboxes set up before keep working
    /// throughout.
    ///
    /// # Errors
    /// When the configuration is wrong or the kernel refuses.
    pub fn start(config: Config) -> Result<Self, NetworkError> {
        config.check()?;
        let opening = || node("open sockets to the kernel");
        let mut rtnetlink = Rtnetlink::open(&config.namespace).map_err(opening())?;
        let mut nftables = Nftables::open(&config.namespace).map_err(opening())?;
        let conntrack = Conntrack::open(&config.namespace).map_err(opening())?;
        let records = Records::open(&config.state_dir)?;
        let mut ipam = Ipam::new(&config.pod_cidrs);
        let mut sandboxes = records.load()?;
        sandboxes.retain(|id, record| record.ips.iter().all(|ip| ipam.adopt(*ip, id)));
        let namespace = config.namespace.clone();
        namespace.run(|| forward(&config)).map_err(node("enter the node's namespace"))??;
        let mtu = furnish(&mut rtnetlink, &config).map_err(node("furnish the node"))?;
        let installing = node("install the rules of the pod network");
        rules::install(&mut nftables, &config, &sandboxes).map_err(installing)?;
        let state = State { rtnetlink, nftables, conntrack, records, sandboxes, ipam };
        Ok(Self { config, mtu, state: Mutex::new(state) })
    }

    /// Gives a sandbox its interface, addresses and host ports. A sandbox that has them keeps its addresses.
    ///
    /// # Errors
    /// When there is no address left, a host port is taken, or the kernel refuses. Nothing is left then.
    pub fn setup(
        &self,
        sandbox: &str,
        namespace: &Netns,
        ports: &[PortMapping],
    ) -> Result<Vec<IpAddr>, NetworkError> {
        check_id(sandbox)?;
        let mut state = self.state.lock();
        state.check_host_ports(sandbox, ports)?;
        if let Some(old) = state.sandboxes.get(sandbox).cloned() {
            if old.ports == ports && state.is_furnished(sandbox, namespace)? {
                return Ok(old.ips);
            }
            state.teardown(sandbox)?;
        }
        let record = Record { ips: state.ipam.allocate(sandbox)?, ports: ports.to_vec() };
        match self.furnish_sandbox(&mut state, sandbox, namespace, &record) {
            Ok(()) => Ok(record.ips),
            Err(error) => {
                // The first error is the one to tell; what undoing leaves behind, repair finds by its record.
                let _ = state.teardown(sandbox);
                Err(error)
            }
        }
    }

    fn furnish_sandbox(
        &self,
        state: &mut State,
        sandbox: &str,
        namespace: &Netns,
        record: &Record,
    ) -> Result<(), NetworkError> {
        // The record comes first: whatever exists, a record or an alias leads to it.
        state.sandboxes.insert(sandbox.to_owned(), record.clone());
        state.records.write(sandbox, record)?;
        let failed = |source| NetworkError::Setup { sandbox: sandbox.to_owned(), source };
        let addresses: Vec<_> =
            record.ips.iter().filter_map(|ip| Some((*ip, self.config.gateway_of(*ip)?))).collect();
        let interface = Interface { sandbox, namespace, addresses: &addresses, mtu: self.mtu };
        pod::create(&mut state.rtnetlink, &interface).map_err(failed)?;
        rules::add(&mut state.nftables, record).map_err(failed)?;
        let harden = || harden(&pod::link_name(sandbox));
        self.config.namespace.run(harden).map_err(failed)?
    }

    /// Takes back what a sandbox has. Nothing to do is a success.
    ///
    /// # Errors
    /// When something is left; call again.
    pub fn teardown(&self, sandbox: &str) -> Result<(), NetworkError> {
        check_id(sandbox)?;
        self.state.lock().withdraw(sandbox)?;
        let failed = |source| NetworkError::Teardown { sandbox: sandbox.to_owned(), source };
        // The kernel takes tens of milliseconds to be sure that nobody uses a link any more. Sandboxes that are set up
        // meanwhile need not wait for that.
        let mut own = Rtnetlink::open(&self.config.namespace).map_err(failed)?;
        pod::delete(&mut own, sandbox).map_err(failed)?;
        self.state.lock().forget(sandbox)
    }

    /// Removes what belongs to no sandbox in `live`, after a crash or a reboot. Says which sandboxes that were.
    ///
    /// # Errors
    /// When something is left; call again.
    pub fn repair(&self, live: &BTreeSet<String>) -> Result<BTreeSet<String>, NetworkError> {
        let mut state = self.state.lock();
        let looking = || node("list the links of sandboxes");
        let linked = pod::list(&mut state.rtnetlink).map_err(looking())?.into_keys();
        let known: BTreeSet<_> = state.sandboxes.keys().cloned().chain(linked).collect();
        let stale: BTreeSet<_> = known.difference(live).cloned().collect();
        for sandbox in &stale {
            state.teardown(sandbox)?;
        }
        for link in pod::list_unfinished(&mut state.rtnetlink).map_err(looking())? {
            state.rtnetlink.delete_link(link.index).map_err(node("delete an unfinished link"))?;
        }
        Ok(stale)
    }

    /// Puts the rules back where somebody else has removed a table of them. Says whether that was so.
    ///
    /// # Errors
    /// When the kernel refuses; call again.
    pub fn restore_rules(&self) -> Result<bool, NetworkError> {
        let mut state = self.state.lock();
        let State { nftables, sandboxes, .. } = &mut *state;
        if rules::are_installed(nftables).map_err(node("list tables"))? {
            return Ok(false);
        }
        let installing = node("install the rules of the pod network");
        rules::install(nftables, &self.config, sandboxes).map_err(installing)?;
        Ok(true)
    }

    /// The addresses of every sandbox.
    #[must_use]
    pub fn sandboxes(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let state = self.state.lock();
        state.sandboxes.iter().map(|(id, record)| (id.clone(), record.ips.clone())).collect()
    }

    /// The node's address towards its pods, one for each family.
    #[must_use]
    pub fn gateways(&self) -> Vec<IpAddr> {
        self.config.gateways().collect()
    }

    /// What this node is to a [`crate::plan`] of routes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn local_node(&self, name: &str) -> Result<LocalNode, NetworkError> {
        const GLOBAL: u8 = 0;
        let addresses = self.state.lock().rtnetlink.addresses();
        let addresses = addresses.map_err(node("list the node's addresses"))?;
        let gateways = self.gateways();
        let real =
            |address: &&Address| address.scope == GLOBAL && !gateways.contains(&address.net.addr());
        let segments = addresses.iter().filter(real).map(|address| address.net.trunc()).collect();
        Ok(LocalNode { name: name.to_owned(), segments })
    }

    /// Makes the routes to other nodes' pods what the plan says. Says how many were changed.
    ///
    /// # Errors
    /// When the kernel refuses; call again.
    pub fn apply_routes(&self, plan: &RoutePlan) -> Result<usize, NetworkError> {
        let mut state = self.state.lock();
        let rt = &mut state.rtnetlink;
        let current = rt.routes().map_err(node("list routes"))?;
        let ours = |route: &&Route| route.protocol == PROTOCOL && route.gateway.is_some();
        let current: BTreeMap<IpNet, Route> =
            current.iter().filter(ours).map(|route| (route.destination, *route)).collect();
        let mut changed = 0;
        for wanted in &plan.routes {
            let there = current.get(&wanted.pod_cidr);
            if there.is_none_or(|route| route.gateway != Some(wanted.via)) {
                let source = self.config.gateways().find(|ip| ip.is_ipv4() == wanted.via.is_ipv4());
                let route = pod::route(wanted.pod_cidr, Some(wanted.via), 0, source);
                rt.replace_route(&route).map_err(node("set a route to another node's pods"))?;
                changed += 1;
            }
        }
        let wanted: BTreeSet<_> = plan.routes.iter().map(|route| route.pod_cidr).collect();
        for route in current.values().filter(|route| !wanted.contains(&route.destination)) {
            rt.delete_route(route).map_err(node("delete a route to another node's pods"))?;
            changed += 1;
        }
        Ok(changed)
    }

    /// Removes everything this crate has made: links, routes, rules and records. Forwarding stays on, since others
    /// may rely on it.
    ///
    /// # Errors
    /// When something is left; call again.
    pub fn uninstall(self) -> Result<(), NetworkError> {
        let mut state = self.state.into_inner();
        let State { rtnetlink, nftables, records, .. } = &mut state;
        remove_all(rtnetlink, nftables, &self.config.device)?;
        records.remove_all()
    }

    /// [`Self::uninstall`] for a network that no process runs any more.
    ///
    /// # Errors
    /// When something is left; call again.
    pub fn remove(namespace: &Netns, device: &str, state_dir: &Path) -> Result<(), NetworkError> {
        let opening = || node("open sockets to the kernel");
        let mut rtnetlink = Rtnetlink::open(namespace).map_err(opening())?;
        let mut nftables = Nftables::open(namespace).map_err(opening())?;
        remove_all(&mut rtnetlink, &mut nftables, device)?;
        Records::open(state_dir)?.remove_all()
    }
}

/// Removes links, routes and rules.
fn remove_all(
    rt: &mut Rtnetlink,
    nftables: &mut Nftables,
    device: &str,
) -> Result<(), NetworkError> {
    let removing = || node("remove the pod network");
    match rules::remove(nftables) {
        Err(error) if !error.is_not_found() => return Err(removing()(error)),
        _ => {}
    }
    let pods = pod::list(rt).map_err(removing())?.into_values();
    let pods: Vec<_> = pods.chain(pod::list_unfinished(rt).map_err(removing())?).collect();
    let device = rt.link(device).map_err(removing())?;
    // Namespaces of pods that have just ended take their links with them, and links their routes.
    let unless_gone = |it: Result<(), NetlinkError>| match it {
        Err(error) if !error.is_not_found() => Err(removing()(error)),
        _ => Ok(()),
    };
    for link in pods.into_iter().chain(device) {
        unless_gone(rt.delete_link(link.index))?;
    }
    for route in rt.routes().map_err(removing())? {
        if route.protocol == PROTOCOL {
            unless_gone(rt.delete_route(&route))?;
        }
    }
    Ok(())
}

impl State {
    fn check_host_ports(&self, sandbox: &str, ports: &[PortMapping]) -> Result<(), NetworkError> {
        let others = self.sandboxes.iter().filter(|(id, _)| *id != sandbox);
        let taken = others.flat_map(|(id, record)| record.ports.iter().map(move |p| (id, p)));
        let same = |a: &PortMapping, b: &PortMapping| {
            (a.protocol, a.host_ip, a.host_port) == (b.protocol, b.host_ip, b.host_port)
        };
        for (owner, other) in taken {
            if let Some(port) = ports.iter().find(|port| same(port, other)) {
                return Err(NetworkError::HostPortTaken {
                    protocol: port.protocol,
                    address: port.host_ip.unwrap_or(IpAddr::from([0; 4])),
                    port: port.host_port,
                    owner: owner.clone(),
                });
            }
        }
        Ok(())
    }

    /// Whether the sandbox's pair is whole, and its far end in this very namespace.
    fn is_furnished(&mut self, sandbox: &str, namespace: &Netns) -> Result<bool, NetworkError> {
        let failed = |source| NetworkError::Setup { sandbox: sandbox.to_owned(), source };
        let links = pod::list(&mut self.rtnetlink).map_err(failed)?;
        if !links.contains_key(sandbox) {
            return Ok(false);
        }
        let mut pod = Rtnetlink::open(namespace).map_err(failed)?;
        let have = pod.addresses().map_err(failed)?;
        let record = self.sandboxes.get(sandbox);
        let ips = record.map(|record| record.ips.as_slice()).unwrap_or_default();
        Ok(ips.iter().all(|ip| have.iter().any(|address| address.net.addr() == *ip)))
    }

    fn teardown(&mut self, sandbox: &str) -> Result<(), NetworkError> {
        self.withdraw(sandbox)?;
        let failed = |source| NetworkError::Teardown { sandbox: sandbox.to_owned(), source };
        pod::delete(&mut self.rtnetlink, sandbox).map_err(failed)?;
        self.forget(sandbox)
    }

    /// Takes back rules and host ports; the addresses stay the sandbox's until its link is gone.
    fn withdraw(&mut self, sandbox: &str) -> Result<(), NetworkError> {
        let failed = |source| NetworkError::Teardown { sandbox: sandbox.to_owned(), source };
        if let Some(record) = self.sandboxes.get(sandbox).cloned() {
            match rules::delete(&mut self.nftables, &record) {
                Err(error) if !error.is_not_found() => return Err(failed(error)),
                _ => {}
            }
            self.forget_connections(&record).map_err(failed)?;
            self.sandboxes.insert(sandbox.to_owned(), Record { ports: Vec::new(), ..record });
        }
        Ok(())
    }

    /// Frees the addresses of a sandbox whose link is gone.
    fn forget(&mut self, sandbox: &str) -> Result<(), NetworkError> {
        // The record goes last: until then a second try knows what there was.
        self.records.remove(sandbox)?;
        if let Some(record) = self.sandboxes.remove(sandbox) {
            self.ipam.release(&record.ips, sandbox);
        }
        Ok(())
    }

    /// UDP has no end that would free a host port's translation for the next pod.
    fn forget_connections(&mut self, record: &Record) -> Result<(), NetlinkError> {
        if record.ports.iter().all(|port| port.protocol != Protocol::Udp) {
            return Ok(());
        }
        let udp = Protocol::Udp.number();
        self.conntrack
            .delete_matching(|original, reply| {
                original.protocol == udp
                    && record.ips.contains(&reply.source)
                    && original.destination != reply.source
            })
            .map(drop)
    }
}

/// Inside the node's namespace: packets of pods pass through. A pod that reaches itself through a service would be
/// sent redirects, and those use up the few errors a second that the kernel grants each peer, rejections included; the
/// kernel sends none only if both the parameter of the link and that of all links say so.
fn forward(config: &Config) -> Result<(), NetworkError> {
    sysctl::set("ipv4/ip_forward", "1")?;
    sysctl::set("ipv4/conf/all/send_redirects", "0")?;
    if config.pod_cidrs.iter().any(|cidr| !is_v4(cidr)) {
        sysctl::set("ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Inside the node's namespace: a pod cannot send with an address that is not its own.
fn harden(link: &str) -> Result<(), NetworkError> {
    sysctl::set(&format!("ipv4/conf/{link}/send_redirects"), "0")?;
    sysctl::set(&format!("ipv4/conf/{link}/rp_filter"), "1")
}

/// The link with the gateway addresses, and routes so that what nobody has is refused at once. The MTU for pods.
fn furnish(rt: &mut Rtnetlink, config: &Config) -> Result<u32, NetlinkError> {
    let device = if let Some(device) = rt.link(&config.device)? {
        device
    } else {
        rt.create_bridge(&config.device)?;
        let doing = || format!("find link {} just made", config.device);
        rt.link(&config.device)?.ok_or_else(|| NetlinkError::Malformed { doing: doing() })?
    };
    rt.set_up(device.index)?;
    for gateway in config.gateways() {
        let net = pod::host_net(gateway);
        rt.add_address(&Address { link: device.index, net, scope: 0 })?;
    }
    for cidr in &config.pod_cidrs {
        let unreachable = pod::route(*cidr, None, 0, None);
        rt.replace_route(&Route { kind: RouteKind::Unreachable, ..unreachable })?;
    }
    for cidr in &config.service_cidrs {
        let source = config.gateways().find(|ip| ip.is_ipv4() == is_v4(cidr));
        if source.is_some() {
            rt.replace_route(&pod::route(cidr.trunc(), None, device.index, source))?;
        }
    }
    match config.mtu {
        Some(mtu) => Ok(mtu),
        None => default_mtu(rt),
    }
}

fn default_mtu(rt: &mut Rtnetlink) -> Result<u32, NetlinkError> {
    let default = rt.routes()?.into_iter().find(|route| route.destination.prefix_len() == 0);
    let Some(default) = default else { return Ok(MTU_FALLBACK) };
    let links = rt.links()?;
    let link = links.iter().find(|link| link.index == default.link);
    Ok(link.map_or(MTU_FALLBACK, |link| link.mtu.min(MTU_MAX)))
}
