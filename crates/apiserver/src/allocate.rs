//! Addresses and ports that services reserve: cluster IPs, node ports, ports of health checks.
//!
//! What is taken is what the stored services say, so that a crash can leave nothing behind. The allocator follows the
//! cache of services through its log of changes and keeps who has what; reservations of writes in flight are held
//! beside that and given back unless the write is committed.

mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use apimachinery::{FieldErrors, Path, Status, Value};
use component_base::Random;
use parking_lot::Mutex;
use storage::Key;

pub(crate) use self::shared::reserve;
use crate::Server;
use crate::cache::{Cache, CacheKey, Change, Cursor, Next, cache_key};
use crate::target::Target;

/// How many random addresses or ports are tried before the free ones are searched in order.
const RANDOM_ATTEMPTS: usize = 16;
/// How many changes of services are looked at in one go.
const BATCH: usize = 256;
const TAKEN: &str = "provided port is already allocated";

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

/// A node port: its number and its protocol.
type Port = (u16, &'static str);

/// Who has which address and port.
#[derive(Debug)]
pub struct Allocator {
    range: ServiceRange,
    /// The first and last port of nodes that services may have.
    node_ports: std::ops::RangeInclusive<u16>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: Taken,
    pending: Pending,
}

/// What writes in flight have reserved.
#[derive(Debug, Default)]
struct Pending {
    addresses: BTreeSet<u32>,
    ports: BTreeSet<Port>,
}

/// What stored services have.
#[derive(Debug, Default)]
struct Taken {
    /// Up to which change the rest is right; `None` before the first look.
    cursor: Option<Cursor>,
    addresses: BTreeMap<u32, CacheKey>,
    ports: BTreeMap<Port, CacheKey>,
    /// The same by owner, so that a change can take it back.
    held: BTreeMap<CacheKey, Held>,
}

#[derive(Debug, Default)]
struct Held {
    addresses: Vec<u32>,
    ports: Vec<Port>,
}

impl Allocator {
    /// Nothing is reserved.
    #[must_use]
    pub fn new(range: ServiceRange, node_ports: std::ops::RangeInclusive<u16>) -> Self {
        Self { range, node_ports, state: Mutex::default() }
    }
}

impl Taken {
    /// Takes in what has changed since the last look; all services, where the log does not reach back that far.
    fn catch_up(&mut self, cache: &Cache, range: ServiceRange) {
        loop {
            let Some(cursor) = self.cursor else {
                self.start_again(cache, range);
                continue;
            };
            match cache.read(cursor, BATCH).0 {
                Next::FellOut => self.cursor = None,
                Next::Events(events, _) if events.is_empty() => return,
                Next::Events(events, next) => {
                    for event in events {
                        let facts = &event.object.facts;
                        let owner = cache_key(&facts.namespace, &facts.name);
                        let now = (event.change != Change::Deleted).then_some(&event.object);
                        let value = now.and_then(|it| it.to_value().ok());
                        self.replace(owner, value.as_ref(), range);
                    }
                    self.cursor = Some(next);
                }
            }
        }
    }

    fn start_again(&mut self, cache: &Cache, range: ServiceRange) {
        *self = Self::default();
        let snapshot = cache.everything("", 0);
        for service in snapshot.objects.iter() {
            let owner = cache_key(&service.facts.namespace, &service.facts.name);
            self.replace(owner, service.to_value().ok().as_ref(), range);
        }
        self.cursor = Some(snapshot.cursor);
    }

    fn replace(&mut self, owner: CacheKey, service: Option<&Value>, range: ServiceRange) {
        if let Some(held) = self.held.remove(&owner) {
            for address in held.addresses {
                self.addresses.remove(&address);
            }
            for port in held.ports {
                self.ports.remove(&port);
            }
        }
        let held = service.map(|it| held_by(it, range)).unwrap_or_default();
        if held.addresses.is_empty() && held.ports.is_empty() {
            return;
        }
        for address in &held.addresses {
            self.addresses.insert(*address, owner.clone());
        }
        for port in &held.ports {
            self.ports.insert(*port, owner.clone());
        }
        self.held.insert(owner, held);
    }
}

/// What a service has.
fn held_by(service: &Value, range: ServiceRange) -> Held {
    let ips = service.items_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    let number = |port: i64| u16::try_from(port).ok().filter(|it| *it != 0);
    let mut ports: Vec<Port> = service
        .items_at(&["spec", "ports"])
        .iter()
        .filter_map(|port| Some((number(port.i64_at(&["nodePort"])?)?, protocol(port))))
        .collect();
    let health = service.i64_at(&["spec", "healthCheckNodePort"]).and_then(number);
    ports.extend(health.map(|it| (it, "TCP")));
    Held { addresses: ips.filter_map(|ip| range.offset_of(ip.parse().ok()?)).collect(), ports }
}

/// What one write has reserved; given back when dropped, whether the write happened (then the stored service says it)
/// or not.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    server: Option<Arc<Server>>,
    addresses: Vec<u32>,
    ports: Vec<Port>,
    /// The same among servers that share the store.
    claims: Vec<Key>,
}

impl Reserved {
    /// The write failed. Where it is not known whether it happened the claims stay until they expire.
    pub(crate) fn failed(&mut self, status: &Status) {
        if status.code >= 500 {
            self.claims.clear();
        }
    }

    /// The write happened: the reservation is released once the caches show the service.
    pub(crate) fn commit(mut self) {
        let Some(server) = self.server.take() else { return };
        shared::give_back(&server, std::mem::take(&mut self.claims));
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
            shared::give_back(server, std::mem::take(&mut self.claims));
        }
    }
}

fn release(server: &Server, addresses: &[u32], ports: &[Port]) {
    let pending = &mut server.allocator.state.lock().pending;
    addresses.iter().for_each(|it| {
        pending.addresses.remove(it);
    });
    ports.iter().for_each(|it| {
        pending.ports.remove(it);
    });
}

/// Reserves what a service asks for or needs, and writes it into the service.
///
/// # Errors
/// 422 where something asked for is taken or outside the range, 500 where nothing is free.
fn allocate(server: &Arc<Server>, target: &Target, value: &mut Value) -> Result<Reserved, Status> {
    if target.served.facts.resource != "services" || !target.served.facts.group.is_empty() {
        return Ok(Reserved::default());
    }
    let (addresses, ports, claims) = Default::default();
    let mut reserved = Reserved { server: Some(Arc::clone(server)), addresses, ports, claims };
    if value.str_at(&["spec", "type"]) == "ExternalName" {
        return Ok(reserved);
    }
    let owner =
        cache_key(value.str_at(&["metadata", "namespace"]), value.str_at(&["metadata", "name"]));
    let mut errors = FieldErrors::new();
    let mut state = server.allocator.state.lock();
    let state = &mut *state;
    state.taken.catch_up(&target.cache, server.allocator.range);
    let mut request = Request {
        random: server.random.as_ref(),
        range: server.allocator.range,
        node_ports: server.allocator.node_ports.clone(),
        taken: &state.taken,
        pending: &mut state.pending,
        owner,
        reserved: &mut reserved,
    };
    // What was reserved before an error is given back when `reserved` is dropped, once the lock is free again.
    let outcome = request
        .cluster_ip(value, &mut errors)
        .and_then(|()| request.node_ports(value, &mut errors))
        .and_then(|()| request.health_port(value, &mut errors));
    if let Err(status) = outcome {
        return Err(give_back(state, reserved, status));
    }
    if errors.is_empty() {
        return Ok(reserved);
    }
    let status = Status::invalid("", "Service", value.str_at(&["metadata", "name"]), &errors);
    Err(give_back(state, reserved, status))
}

/// Gives back what a failed request had reserved, under the lock that it holds.
fn give_back(state: &mut State, mut reserved: Reserved, status: Status) -> Status {
    for address in std::mem::take(&mut reserved.addresses) {
        state.pending.addresses.remove(&address);
    }
    for port in std::mem::take(&mut reserved.ports) {
        state.pending.ports.remove(&port);
    }
    // Nothing is left to give back, so that dropping it does not wait for the lock.
    reserved.server = None;
    status
}

fn protocol(port: &Value) -> &'static str {
    match port.str_at(&["protocol"]) {
        "UDP" => "UDP",
        "SCTP" => "SCTP",
        _ => "TCP",
    }
}

/// One service's reservations in the making.
struct Request<'r> {
    random: &'r dyn Random,
    range: ServiceRange,
    node_ports: std::ops::RangeInclusive<u16>,
    taken: &'r Taken,
    pending: &'r mut Pending,
    owner: CacheKey,
    reserved: &'r mut Reserved,
}

impl Request<'_> {
    fn has_address(&self, offset: u32) -> bool {
        self.taken.addresses.get(&offset) == Some(&self.owner)
    }

    fn has_port(&self, port: Port) -> bool {
        self.taken.ports.get(&port) == Some(&self.owner)
    }

    fn is_free_address(&self, offset: u32) -> bool {
        !self.taken.addresses.contains_key(&offset) && !self.pending.addresses.contains(&offset)
    }

    fn is_free_port(&self, port: Port) -> bool {
        !self.taken.ports.contains_key(&port) && !self.pending.ports.contains(&port)
    }

    fn reserve_address(&mut self, offset: u32) {
        self.pending.addresses.insert(offset);
        self.reserved.addresses.push(offset);
    }

    fn reserve_port(&mut self, port: Port) {
        self.pending.ports.insert(port);
        self.reserved.ports.push(port);
    }

    fn cluster_ip(&mut self, value: &mut Value, errors: &mut FieldErrors) -> Result<(), Status> {
        if !families(value, errors) {
            return Ok(());
        }
        let asked = value.str_at(&["spec", "clusterIP"]).to_owned();
        match asked.as_str() {
            "None" => {
                value.default_at(&["spec", "clusterIPs"], Value::from_iter(["None"]));
                return Ok(());
            }
            "" => {}
            asked => {
                self.given_address(asked, errors);
                value.default_at(&["spec", "clusterIPs"], Value::from_iter([asked]));
                return Ok(());
            }
        }
        let range = self.range;
        let free = |offset: &u32| self.is_free_address(*offset);
        let offset = pick(self.random, range.static_part()..range.size - 1, free)
            .or_else(|| (1..range.static_part()).find(free))
            .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
        self.reserve_address(offset);
        let address = range.address(offset).to_string();
        value.set_at(&["spec", "clusterIPs"], Value::from_iter([address.as_str()]));
        value.set_at(&["spec", "clusterIP"], address);
        Ok(())
    }

    fn given_address(&mut self, asked: &str, errors: &mut FieldErrors) {
        let spec = Path::new("spec");
        let mut refuse = |why: &str| {
            let detail = format!("failed to allocate IP {asked}: {why}");
            let shown = Value::from_iter([asked]);
            errors.invalid(&spec.child("clusterIPs"), &shown, &detail);
        };
        match asked.parse().ok().and_then(|it| self.range.offset_of(it)) {
            None => refuse("the provided network does not match the current range"),
            Some(offset) if self.has_address(offset) => {}
            Some(offset) if self.is_free_address(offset) => self.reserve_address(offset),
            Some(_) => refuse("provided IP is already allocated"),
        }
    }

    fn node_ports(&mut self, value: &mut Value, errors: &mut FieldErrors) -> Result<(), Status> {
        let kind = value.str_at(&["spec", "type"]).to_owned();
        let declined = value.at(&["spec", "allocateLoadBalancerNodePorts"]);
        let declined = declined.and_then(Value::as_bool) == Some(false);
        if !matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        let wants = kind == "NodePort" || !declined;
        let spec = Path::new("spec");
        let ports_path = spec.child("ports");
        // Ports of one number and different protocols share a node port.
        let mut shared: BTreeMap<i64, u16> = BTreeMap::new();
        for (index, port) in value.items_at_mut(&["spec", "ports"]).iter_mut().enumerate() {
            let item = ports_path.index(index);
            let (protocol, number) = (protocol(port), port.i64_at(&["port"]).unwrap_or_default());
            let asked = port.i64_at(&["nodePort"]).unwrap_or_default();
            if asked != 0 {
                let at = item.child("nodePort");
                let given = self.given_port(asked, protocol, &at, errors);
                shared.extend(given.map(|it| (number, it)));
                continue;
            }
            if !wants {
                continue;
            }
            let same = shared.get(&number).copied();
            let node_port = match same.filter(|it| self.is_free_port((*it, protocol))) {
                Some(node_port) => node_port,
                None => self.any_port()?,
            };
            self.reserve_port((node_port, protocol));
            shared.insert(number, node_port);
            port.set_at(&["nodePort"], i64::from(node_port));
        }
        Ok(())
    }

    /// A port that was asked for; its number, where it can be had.
    fn given_port(
        &mut self,
        asked: i64,
        protocol: &'static str,
        at: &Path<'_>,
        errors: &mut FieldErrors,
    ) -> Option<u16> {
        let Some(number) = u16::try_from(asked).ok().filter(|it| self.node_ports.contains(it))
        else {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.node_ports.start(),
                self.node_ports.end()
            );
            errors.invalid(at, &Value::from(asked), &detail);
            return None;
        };
        let port = (number, protocol);
        if self.has_port(port) {
            return Some(number);
        }
        if !self.is_free_port(port) {
            errors.invalid(at, &Value::from(asked), TAKEN);
            return None;
        }
        self.reserve_port(port);
        Some(number)
    }

    /// A port that is free for every protocol.
    fn any_port(&self) -> Result<u16, Status> {
        let range = u32::from(*self.node_ports.start())..u32::from(*self.node_ports.end()) + 1;
        let free = |number: &u32| {
            let number = u16::try_from(*number);
            let all = ["TCP", "UDP", "SCTP"];
            number.is_ok_and(|it| all.iter().all(|protocol| self.is_free_port((it, protocol))))
        };
        pick(self.random, range, free)
            .and_then(|it| u16::try_from(it).ok())
            .ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))
    }

    /// The port on which a node says whether it has endpoints, for load balancers that ask.
    fn health_port(&mut self, value: &mut Value, errors: &mut FieldErrors) -> Result<(), Status> {
        let asks = value.str_at(&["spec", "type"]) == "LoadBalancer"
            && value.str_at(&["spec", "externalTrafficPolicy"]) == "Local";
        if !asks {
            return Ok(());
        }
        let asked = value.i64_at(&["spec", "healthCheckNodePort"]).unwrap_or_default();
        if asked != 0 {
            let spec = Path::new("spec");
            self.given_port(asked, "TCP", &spec.child("healthCheckNodePort"), errors);
            return Ok(());
        }
        let port = self.any_port()?;
        self.reserve_port((port, "TCP"));
        value.set_at(&["spec", "healthCheckNodePort"], i64::from(port));
        Ok(())
    }
}

/// Address families: one on a cluster of one family, unless nobody chooses the endpoints. Says whether they can be had.
fn families(value: &mut Value, errors: &mut FieldErrors) -> bool {
    let spec = Path::new("spec");
    let list = spec.child("ipFamilies");
    let before = errors.len();
    let selector = value.at(&["spec", "selector"]).and_then(Value::as_object);
    let without_selector = selector.is_none_or(apimachinery::Object::is_empty);
    let headless = value.str_at(&["spec", "clusterIP"]) == "None" && without_selector;
    let policy = value.str_at(&["spec", "ipFamilyPolicy"]).to_owned();
    if headless {
        value.default_at(&["spec", "ipFamilyPolicy"], "RequireDualStack");
        value.default_at(&["spec", "ipFamilies"], Value::from_iter(["IPv4"]));
        let given = value.items_at(&["spec", "ipFamilies"]).to_vec();
        if policy != "SingleStack" && given.len() == 1 {
            let other = if given[0].as_str() == Some("IPv6") { "IPv4" } else { "IPv6" };
            let both: Value = given.into_iter().chain([other.into()]).collect();
            value.set_at(&["spec", "ipFamilies"], both);
        }
        return true;
    }
    for (index, family) in value.items_at(&["spec", "ipFamilies"]).iter().enumerate() {
        if family.as_str() == Some("IPv6") {
            errors.invalid(&list.index(index), family, "not configured on this cluster");
        }
    }
    if policy == "RequireDualStack" {
        let detail = "this cluster is not configured for dual-stack services";
        errors.invalid_text(&spec.child("ipFamilyPolicy"), &policy, detail);
    }
    value.default_at(&["spec", "ipFamilies"], Value::from_iter(["IPv4"]));
    value.default_at(&["spec", "ipFamilyPolicy"], "SingleStack");
    errors.len() == before
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

#[cfg(test)]
mod tests {
    use super::*;
    use apimachinery::value;

    #[test]
    fn a_change_takes_back_what_the_service_had() {
        let range = ServiceRange::new(Ipv4Addr::new(10, 96, 0, 0), 16);
        let mut taken = Taken::default();
        let service = |ip: &str, port: i64| value!({"spec": {"clusterIPs": [ip], "ports": [{"nodePort": port, "protocol": "UDP"}], "healthCheckNodePort": 31000}});
        taken.replace("a/b".into(), Some(&service("10.96.0.7", 30001)), range);
        taken.replace("a/b".into(), Some(&service("10.96.0.8", 30002)), range);
        let addresses: Vec<u32> = taken.addresses.keys().copied().collect();
        let ports: Vec<Port> = taken.ports.keys().copied().collect();
        assert_eq!((addresses, ports), (vec![8], vec![(30002, "UDP"), (31000, "TCP")]));
        taken.replace("a/b".into(), None, range);
        assert!(taken.addresses.is_empty() && taken.ports.is_empty() && taken.held.is_empty());
    }
}
