//! Addresses and ports that services reserve: cluster IPs and node ports.
//!
//! What is taken is what the stored services say, so that a crash can leave nothing behind; reservations of writes in
//! flight are held in memory and given back unless the write is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use apimachinery::{FieldErrors, Path, Status, Value};
use component_base::Random;
use parking_lot::Mutex;

use crate::Server;
use crate::target::Target;

/// The first and last node port (upstream's default range).
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// How many random addresses or ports are tried before the free ones are searched in order.
const RANDOM_ATTEMPTS: usize = 16;

/// The range services get their addresses from.
#[derive(Debug, Clone, Copy)]
pub struct ServiceRange {
    base: u32,
    size: u32,
}

impl ServiceRange {
    /// The addresses of `base/prefix_length`.
    #[must_use]
    pub fn new(base: Ipv4Addr, prefix_length: u8) -> Self {
        let bits = 32 - u32::from(prefix_length.min(30));
        let mask = u32::MAX << bits;
        Self { base: u32::from(base) & mask, size: 1 << bits }
    }

    /// The address at an offset: 0 is the network's own, 1 the API server's.
    #[must_use]
    pub fn address(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + offset)
    }

    fn offset_of(&self, address: IpAddr) -> Option<u32> {
        let IpAddr::V4(address) = address else { return None };
        let offset = u32::from(address).checked_sub(self.base)?;
        (offset > 0 && offset < self.size - 1).then_some(offset)
    }

    /// Upstream keeps the lower part for addresses that people choose: `min(max(16, size/16), 256)` of them.
    fn static_part(&self) -> u32 {
        (self.size / 16).clamp(16, 256).min(self.size / 2)
    }
}

/// What is reserved beyond what stored services say.
#[derive(Debug)]
pub struct Allocator {
    range: ServiceRange,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    addresses: BTreeSet<u32>,
    ports: BTreeSet<(u16, &'static str)>,
}

impl Allocator {
    /// Nothing is reserved.
    #[must_use]
    pub fn new(range: ServiceRange) -> Self {
        Self { range, pending: Mutex::default() }
    }
}

/// What one write has reserved; given back when dropped, whether the write happened (then the stored service says it)
/// or not.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    server: Option<Arc<Server>>,
    addresses: Vec<u32>,
    ports: Vec<(u16, &'static str)>,
}

impl Reserved {
    /// The write happened: the reservation is released once the caches show the service.
    pub(crate) fn commit(mut self) {
        let Some(server) = self.server.take() else { return };
        let (addresses, ports) =
            (std::mem::take(&mut self.addresses), std::mem::take(&mut self.ports));
        if addresses.is_empty() && ports.is_empty() {
            return;
        }
        tokio::spawn(async move {
            // An error means that the store is ending; then reservations do not matter.
            let _ = server.hub().catch_up().await;
            release(&server, &addresses, &ports);
        });
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            release(server, &self.addresses, &self.ports);
        }
    }
}

fn release(server: &Server, addresses: &[u32], ports: &[(u16, &'static str)]) {
    let mut pending = server.allocator.pending.lock();
    addresses.iter().for_each(|it| {
        pending.addresses.remove(it);
    });
    ports.iter().for_each(|it| {
        pending.ports.remove(it);
    });
}

/// What stored services hold.
struct Taken {
    addresses: BTreeSet<u32>,
    ports: BTreeMap<(u16, &'static str), String>,
}

/// Reserves what a service asks for or needs, and writes it into the service.
///
/// # Errors
/// 422 where something asked for is taken or outside the range, 500 where nothing is free.
pub(crate) fn allocate(
    server: &Arc<Server>,
    target: &Target,
    value: &mut Value,
    old: Option<&Value>,
) -> Result<Reserved, Status> {
    if target.served.facts.resource != "services" || !target.served.facts.group.is_empty() {
        return Ok(Reserved::default());
    }
    let mut reserved =
        Reserved { server: Some(Arc::clone(server)), addresses: Vec::new(), ports: Vec::new() };
    let kind = value.str_at(&["spec", "type"]).to_owned();
    if kind == "ExternalName" {
        return Ok(reserved);
    }
    let own = own_key(value);
    let mut pending = server.allocator.pending.lock();
    let taken = taken(target, &server.allocator.range, &own);
    let name = value.str_at(&["metadata", "name"]).to_owned();
    let mut errors = FieldErrors::new();
    let outcome = cluster_ip(server, &mut pending, &taken, value, old, &mut reserved, &mut errors)
        .and_then(|()| {
            node_ports(server, &mut pending, &taken, value, &kind, &mut reserved, &mut errors)
        })
        .and_then(|()| health_port(server, &mut pending, &taken, value, old, &mut reserved));
    drop(pending);
    outcome?;
    if errors.is_empty() {
        Ok(reserved)
    } else {
        Err(Status::invalid("", "Service", &name, &errors))
    }
}

fn own_key(value: &Value) -> String {
    format!("{}/{}", value.str_at(&["metadata", "namespace"]), value.str_at(&["metadata", "name"]))
}

fn taken(target: &Target, range: &ServiceRange, except: &str) -> Taken {
    let mut taken = Taken { addresses: BTreeSet::new(), ports: BTreeMap::new() };
    let services = target.cache.snapshot("", 0, |_| true).objects;
    for service in services {
        let key = format!("{}/{}", service.facts.namespace, service.facts.name);
        if key == except {
            continue;
        }
        let Ok(value) = service.to_value() else { continue };
        for address in value.items_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str) {
            taken.addresses.extend(address.parse().ok().and_then(|it| range.offset_of(it)));
        }
        for port in value.items_at(&["spec", "ports"]) {
            if let Some(number) = port.i64_at(&["nodePort"]).and_then(|it| u16::try_from(it).ok()) {
                taken.ports.insert((number, protocol(port)), key.clone());
            }
        }
        let health = value.i64_at(&["spec", "healthCheckNodePort"]);
        if let Some(number) = health.and_then(|it| u16::try_from(it).ok()).filter(|it| *it > 0) {
            taken.ports.insert((number, "TCP"), key.clone());
        }
    }
    taken
}

fn protocol(port: &Value) -> &'static str {
    match port.str_at(&["protocol"]) {
        "UDP" => "UDP",
        "SCTP" => "SCTP",
        _ => "TCP",
    }
}

fn cluster_ip(
    server: &Server,
    pending: &mut Pending,
    taken: &Taken,
    value: &mut Value,
    old: Option<&Value>,
    reserved: &mut Reserved,
    errors: &mut FieldErrors,
) -> Result<(), Status> {
    let range = server.allocator.range;
    let asked = value.str_at(&["spec", "clusterIP"]).to_owned();
    if asked == "None" {
        value.default_at(&["spec", "clusterIPs"], Value::from_iter(["None"]));
        families(value);
        return Ok(());
    }
    let spec = Path::new("spec");
    let ips = spec.child("clusterIPs");
    if !asked.is_empty() {
        let unchanged = old.is_some_and(|old| old.str_at(&["spec", "clusterIP"]) == asked);
        let Some(offset) = asked.parse().ok().and_then(|it| range.offset_of(it)) else {
            if !unchanged {
                let detail = format!(
                    "failed to allocate IP {asked}: the provided network does not match the current range"
                );
                errors.invalid(&ips, &Value::from_iter([asked.as_str()]), &detail);
            }
            return Ok(());
        };
        if !unchanged && (taken.addresses.contains(&offset) || !pending.addresses.insert(offset)) {
            let detail = format!("failed to allocate IP {asked}: provided IP is already allocated");
            errors.invalid(&ips, &Value::from_iter([asked.as_str()]), &detail);
            return Ok(());
        }
        if !unchanged {
            reserved.addresses.push(offset);
        }
        value.default_at(&["spec", "clusterIPs"], Value::from_iter([asked.as_str()]));
        families(value);
        return Ok(());
    }
    let free =
        |offset: &u32| !taken.addresses.contains(offset) && !pending.addresses.contains(offset);
    let offset = pick(server.random.as_ref(), range.static_part()..range.size - 1, free)
        .or_else(|| (1..range.static_part()).find(free))
        .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
    pending.addresses.insert(offset);
    reserved.addresses.push(offset);
    let address = range.address(offset).to_string();
    value.set_at(&["spec", "clusterIPs"], Value::from_iter([address.as_str()]));
    value.set_at(&["spec", "clusterIP"], address);
    families(value);
    Ok(())
}

fn families(value: &mut Value) {
    value.default_at(&["spec", "ipFamilies"], Value::from_iter(["IPv4"]));
    value.default_at(&["spec", "ipFamilyPolicy"], "SingleStack");
}

/// A free number of a range: random ones first, then the first free one.
fn pick(
    random: &dyn Random,
    range: std::ops::Range<u32>,
    free: impl Fn(&u32) -> bool,
) -> Option<u32> {
    let size = u64::from(range.end.saturating_sub(range.start));
    for _ in 0..RANDOM_ATTEMPTS {
        let offset = u32::try_from(random.below(size)).unwrap_or_default();
        let candidate = range.start + offset;
        if range.contains(&candidate) && free(&candidate) {
            return Some(candidate);
        }
    }
    range.into_iter().find(free)
}

fn node_ports(
    server: &Server,
    pending: &mut Pending,
    taken: &Taken,
    value: &mut Value,
    kind: &str,
    reserved: &mut Reserved,
    errors: &mut FieldErrors,
) -> Result<(), Status> {
    let wants = match kind {
        "NodePort" => true,
        "LoadBalancer" => value
            .at(&["spec", "allocateLoadBalancerNodePorts"])
            .is_none_or(|it| it.as_bool() != Some(false)),
        _ => false,
    };
    if !wants && kind != "LoadBalancer" {
        return Ok(());
    }
    let spec = Path::new("spec");
    let ports_path = spec.child("ports");
    let mut given: BTreeMap<u16, BTreeSet<&'static str>> = BTreeMap::new();
    for (index, port) in value.items_at_mut(&["spec", "ports"]).iter_mut().enumerate() {
        let item = ports_path.index(index);
        let at = item.child("nodePort");
        let protocol = protocol(port);
        let asked = port.i64_at(&["nodePort"]).unwrap_or_default();
        if asked != 0 {
            let Some(number) = u16::try_from(asked).ok().filter(|it| NODE_PORTS.contains(it))
            else {
                let detail = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    NODE_PORTS.start(),
                    NODE_PORTS.end()
                );
                errors.invalid(&at, &Value::from(asked), &detail);
                continue;
            };
            if taken.ports.contains_key(&(number, protocol))
                || !pending.ports.insert((number, protocol))
            {
                errors.invalid(&at, &Value::from(asked), "provided port is already allocated");
                continue;
            }
            reserved.ports.push((number, protocol));
            given.entry(number).or_default().insert(protocol);
            continue;
        }
        if !wants {
            continue;
        }
        let free = |number: &u32| {
            let Ok(number) = u16::try_from(*number) else { return false };
            ["TCP", "UDP", "SCTP"].iter().all(|it| {
                !taken.ports.contains_key(&(number, it)) && !pending.ports.contains(&(number, *it))
            })
        };
        let range = u32::from(*NODE_PORTS.start())..u32::from(*NODE_PORTS.end()) + 1;
        // Two ports of one number and different protocols share a node port.
        let number = pick(server.random.as_ref(), range, free)
            .and_then(|it| u16::try_from(it).ok())
            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
        pending.ports.insert((number, protocol));
        reserved.ports.push((number, protocol));
        port.set_at(&["nodePort"], i64::from(number));
    }
    Ok(())
}

/// The port that a load balancer asks whether this node has endpoints: of services that keep to their node.
fn health_port(
    server: &Server,
    pending: &mut Pending,
    taken: &Taken,
    value: &mut Value,
    old: Option<&Value>,
    reserved: &mut Reserved,
) -> Result<(), Status> {
    const PORT: &[&str] = &["spec", "healthCheckNodePort"];
    let port_of = |it: &Value| it.i64_at(PORT).filter(|it| *it != 0);
    let needed = value.str_at(&["spec", "type"]) == "LoadBalancer"
        && value.str_at(&["spec", "externalTrafficPolicy"]) == "Local";
    let before = old.and_then(port_of);
    if !needed {
        // What the type does not have any more goes with it, unless a client changed it: that is for validation.
        if port_of(value) == before {
            value.remove_at(PORT);
        }
        return Ok(());
    }
    if port_of(value).is_some() {
        return Ok(());
    }
    if let Some(before) = before {
        value.set_at(PORT, before);
        return Ok(());
    }
    let free = |number: &u32| {
        let Ok(number) = u16::try_from(*number) else { return false };
        !taken.ports.contains_key(&(number, "TCP")) && !pending.ports.contains(&(number, "TCP"))
    };
    let range = u32::from(*NODE_PORTS.start())..u32::from(*NODE_PORTS.end()) + 1;
    let number = pick(server.random.as_ref(), range, free)
        .and_then(|it| u16::try_from(it).ok())
        .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
    pending.ports.insert((number, "TCP"));
    reserved.ports.push((number, "TCP"));
    value.set_at(PORT, i64::from(number));
    Ok(())
}
