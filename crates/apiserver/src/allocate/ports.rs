//! Ports of nodes: which ones a service needs, and who has which. Upstream: `initNodePorts`, `updateNodePorts` and
//! `pkg/registry/core/service/portallocator`. A port is a number, whatever the protocols that use it.
//!
//! Who has which is what the stored services say, so that a crash can leave nothing behind, and what writes in flight
//! have reserved. Where other servers share the store, [`super::bitmap`] decides instead.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use apimachinery::{FieldErrors, Path, Status, Value};
use component_base::Random;

use super::bitmap;
use super::metrics::Metrics;
use crate::Server;
use crate::bootstrap::Bootstrap;
use crate::cache::{Cache, CacheKey, Change as CacheChange, Cursor, Next, cache_key};

/// How many random ports are tried before the free ones are searched in order.
const RANDOM_ATTEMPTS: usize = 16;
/// How many changes of services are looked at in one go.
const BATCH: usize = 256;
const TAKEN: &str = "provided port is already allocated";
const FULL: &str = "range is full";
/// After which port those of a write begin that is not to happen (upstream's).
const PRETENDED: u16 = 32_768;

/// A write as it concerns ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change<'c> {
    pub(super) old: Option<&'c Value>,
    pub(super) dry_run: bool,
}

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pub(super) reserved: Vec<u16>,
    pub(super) let_go: Vec<u16>,
}

/// Who has which port.
#[derive(Debug, Default)]
pub(super) struct State {
    taken: Taken,
    /// What writes in flight have reserved.
    pending: BTreeSet<u16>,
}

/// What stored services have.
#[derive(Debug, Default)]
struct Taken {
    /// Up to which change the rest is right; `None` before the first look.
    cursor: Option<Cursor>,
    /// How many services have a port: more than one where somebody has written past the server.
    ports: BTreeMap<u16, usize>,
    held: BTreeMap<CacheKey, Vec<u16>>,
}

impl Taken {
    /// Takes in what has changed since the last look; all services, where the log does not reach back that far.
    fn catch_up(&mut self, cache: &Cache) {
        loop {
            let Some(cursor) = self.cursor else {
                self.start_again(cache);
                continue;
            };
            match cache.read(cursor, BATCH).0 {
                Next::FellOut => self.cursor = None,
                Next::Events(events, _) if events.is_empty() => return,
                Next::Events(events, next) => {
                    for event in events {
                        let facts = &event.object.facts;
                        let owner = cache_key(&facts.namespace, &facts.name);
                        let now = (event.change != CacheChange::Deleted).then_some(&event.object);
                        let value = now.and_then(|it| it.to_value().ok());
                        self.replace(owner, value.as_ref());
                    }
                    self.cursor = Some(next);
                }
            }
        }
    }

    fn start_again(&mut self, cache: &Cache) {
        *self = Self::default();
        let snapshot = cache.everything("", 0);
        for service in snapshot.objects.iter() {
            let owner = cache_key(&service.facts.namespace, &service.facts.name);
            self.replace(owner, service.to_value().ok().as_ref());
        }
        self.cursor = Some(snapshot.cursor);
    }

    fn replace(&mut self, owner: CacheKey, service: Option<&Value>) {
        for port in self.held.remove(&owner).unwrap_or_default() {
            if let Some(count) = self.ports.get_mut(&port) {
                *count -= 1;
                if *count == 0 {
                    self.ports.remove(&port);
                }
            }
        }
        let ports = service.map(of).unwrap_or_default();
        if ports.is_empty() {
            return;
        }
        for port in &ports {
            *self.ports.entry(*port).or_default() += 1;
        }
        self.held.insert(owner, ports);
    }
}

/// The ports that a service has, each once.
pub(super) fn of(service: &Value) -> Vec<u16> {
    let number = |port: i64| u16::try_from(port).ok().filter(|it| *it != 0);
    let ports = service.items_at(&["spec", "ports"]).iter();
    let mut all: BTreeSet<u16> =
        ports.filter_map(|port| number(port.i64_at(&["nodePort"])?)).collect();
    all.extend(service.i64_at(&["spec", "healthCheckNodePort"]).and_then(number));
    all.into_iter().collect()
}

/// Where ports are got from.
pub(super) trait Source {
    fn has(&self, port: u16) -> bool;
    fn take(&mut self, port: u16);
    fn give_back(&mut self, port: u16);
    fn any(&mut self) -> Option<u16>;
}

/// The first ports of a range are kept for people to choose, as long as there are others.
fn kept(range: &RangeInclusive<u16>) -> u16 {
    let size = u32::from(range.end().saturating_sub(*range.start())) + 1;
    if size <= 16 { 0 } else { u16::try_from((size / 32).clamp(16, 128)).unwrap_or_default() }
}

/// A free port of a range.
pub(super) fn pick(
    random: &dyn Random,
    range: &RangeInclusive<u16>,
    is_free: impl Fn(u16) -> bool,
) -> Option<u16> {
    let start = range.start().saturating_add(kept(range));
    let size = u64::from(range.end().saturating_sub(start)) + 1;
    for _ in 0..RANDOM_ATTEMPTS {
        let offset = u16::try_from(random.below(size)).unwrap_or_default();
        let candidate = start.saturating_add(offset);
        if range.contains(&candidate) && is_free(candidate) {
            return Some(candidate);
        }
    }
    (start..=*range.end()).chain(*range.start()..start).find(|it| is_free(*it))
}

/// Those of stored services and of writes in flight.
struct Memory<'m> {
    random: &'m dyn Random,
    range: RangeInclusive<u16>,
    state: &'m mut State,
}

impl Source for Memory<'_> {
    fn has(&self, port: u16) -> bool {
        self.state.taken.ports.contains_key(&port) || self.state.pending.contains(&port)
    }

    fn take(&mut self, port: u16) {
        self.state.pending.insert(port);
    }

    fn give_back(&mut self, port: u16) {
        self.state.pending.remove(&port);
    }

    fn any(&mut self) -> Option<u16> {
        let port = pick(self.random, &self.range, |it| !self.has(it))?;
        self.take(port);
        Some(port)
    }
}

/// Those of a write that is not to happen.
struct Pretended<'p> {
    below: Memory<'p>,
    taken: Vec<u16>,
}

impl Source for Pretended<'_> {
    fn has(&self, port: u16) -> bool {
        self.below.has(port) || self.taken.contains(&port)
    }

    fn take(&mut self, port: u16) {
        self.taken.push(port);
    }

    fn give_back(&mut self, port: u16) {
        self.taken.retain(|it| *it != port);
    }

    fn any(&mut self) -> Option<u16> {
        let last = self.taken.iter().copied().max().unwrap_or(PRETENDED);
        self.take(last.saturating_add(1));
        Some(last.saturating_add(1))
    }
}

/// Reserves the ports that a service needs, and writes them into it.
pub(super) async fn reserve(
    server: &Arc<Server>,
    change: &Change<'_>,
    service: &mut Value,
) -> Result<Ports, Status> {
    if server.shares_store && !change.dry_run {
        return bitmap::reserve(server, change, service).await;
    }
    let mut state = server.allocator.ports.lock();
    catch_up(server, &mut state);
    let (range, metrics) = (server.allocator.node_ports.clone(), &server.allocator.metrics);
    let mut memory =
        Memory { random: server.random.as_ref(), range: range.clone(), state: &mut state };
    if change.dry_run {
        let mut source = Pretended { below: memory, taken: Vec::new() };
        return Planning::new(&mut source, &range, metrics).run(change, service);
    }
    Planning::new(&mut memory, &range, metrics).run(change, service)
}

fn catch_up(server: &Arc<Server>, state: &mut State) {
    if let Some(cache) = Bootstrap::new(server).objects().cache("", "services") {
        state.taken.catch_up(&cache);
    }
}

/// How many ports stored services have of the range.
pub(super) fn used(server: &Arc<Server>) -> usize {
    let mut state = server.allocator.ports.lock();
    catch_up(server, &mut state);
    let range = &server.allocator.node_ports;
    state.taken.ports.keys().filter(|it| range.contains(it)).count()
}

/// What was reserved for a write that did not happen is free at once.
pub(super) fn forget(server: &Server, ports: &[u16]) {
    let pending = &mut server.allocator.ports.lock().pending;
    ports.iter().for_each(|it| {
        pending.remove(it);
    });
}

/// What was reserved is no longer held once the caches show whether the service has it.
pub(super) fn settle(server: &Arc<Server>, ports: Vec<u16>) {
    if ports.is_empty() {
        return;
    }
    let server = Arc::clone(server);
    tokio::spawn(async move {
        // An error means that the store is ending; then reservations do not matter.
        let _ = server.hub().catch_up().await;
        forget(&server, &ports);
    });
}

/// One service's ports in the making.
pub(super) struct Planning<'p> {
    source: &'p mut dyn Source,
    range: &'p RangeInclusive<u16>,
    metrics: &'p Metrics,
    ports: Ports,
}

fn kind(service: &Value) -> &str {
    service.str_at(&["spec", "type"])
}

fn has_node_ports(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

/// Whether ports are chosen that nobody asks for.
fn chooses(service: &Value) -> bool {
    let declined = service.at(&["spec", "allocateLoadBalancerNodePorts"]);
    kind(service) == "NodePort" || declined.and_then(Value::as_bool) != Some(false)
}

fn needs_health_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

fn node_port(port: &Value) -> i64 {
    port.i64_at(&["nodePort"]).unwrap_or_default()
}

impl<'p> Planning<'p> {
    pub(super) fn new(
        source: &'p mut dyn Source,
        range: &'p RangeInclusive<u16>,
        metrics: &'p Metrics,
    ) -> Self {
        Self { source, range, metrics, ports: Ports::default() }
    }

    /// # Errors
    /// What cannot be had; then nothing is reserved.
    pub(super) fn run(mut self, change: &Change<'_>, service: &mut Value) -> Result<Ports, Status> {
        match self.fill(change.old, service) {
            Ok(()) => Ok(self.ports),
            Err(status) => {
                self.ports.reserved.iter().for_each(|it| self.source.give_back(*it));
                Err(status)
            }
        }
    }

    fn fill(&mut self, old: Option<&Value>, service: &mut Value) -> Result<(), Status> {
        if has_node_ports(service) {
            match old {
                Some(old) => self.changed(service, old)?,
                None => self.new_ones(service)?,
            }
        }
        let had = old.is_some_and(needs_health_port);
        if needs_health_port(service) && !had {
            self.health_port(service)?;
        }
        let kept = of(service);
        let before = old.map(of).unwrap_or_default();
        self.ports.let_go = before.into_iter().filter(|it| !kept.contains(it)).collect();
        Ok(())
    }

    /// Ports of one number and different protocols share a node port.
    fn new_ones(&mut self, service: &mut Value) -> Result<(), Status> {
        let chooses = chooses(service);
        let ports: Vec<(i64, i64)> = service
            .items_at(&["spec", "ports"])
            .iter()
            .map(|it| (it.i64_at(&["port"]).unwrap_or_default(), node_port(it)))
            .collect();
        let mut shared: BTreeMap<i64, i64> = BTreeMap::new();
        for (index, (number, asked)) in ports.iter().copied().enumerate() {
            if asked == 0 && !chooses {
                continue;
            }
            let given = match shared.get(&number).copied() {
                Some(given) if asked == 0 || asked == given => given,
                Some(_) => self.asked(service, index, asked)?,
                None => {
                    let of_number = ports.iter().find(|it| it.0 == number && it.1 != 0);
                    let given = match of_number {
                        Some((_, asked)) => self.asked(service, index, *asked)?,
                        None => i64::from(self.any()?),
                    };
                    shared.insert(number, given);
                    given
                }
            };
            service.items_at_mut(&["spec", "ports"])[index].set_at(&["nodePort"], given);
        }
        Ok(())
    }

    fn changed(&mut self, service: &mut Value, old: &Value) -> Result<(), Status> {
        let chooses = chooses(service);
        let before: Vec<i64> = old.items_at(&["spec", "ports"]).iter().map(node_port).collect();
        let mut seen: Vec<(String, i64)> = Vec::new();
        for index in 0..service.items_at(&["spec", "ports"]).len() {
            let port = &service.items_at(&["spec", "ports"])[index];
            let (protocol, mut number) = (port.str_at(&["protocol"]).to_owned(), node_port(port));
            if number == 0 && !chooses {
                continue;
            }
            if number == 0 {
                number = i64::from(self.any()?);
                service.items_at_mut(&["spec", "ports"])[index].set_at(&["nodePort"], number);
            } else if !before.contains(&number) && !self.has_reserved(number) {
                self.asked(service, index, number)?;
            }
            if seen.contains(&(protocol.clone(), number)) {
                let why = format!("duplicate nodePort: {{{protocol} {number}}}");
                return Err(Status { code: 500, message: why, ..Status::default() });
            }
            seen.push((protocol, number));
        }
        Ok(())
    }

    fn has_reserved(&self, number: i64) -> bool {
        self.ports.reserved.iter().any(|it| i64::from(*it) == number)
    }

    /// The port on which a node says whether it has endpoints, for load balancers that ask.
    fn health_port(&mut self, service: &mut Value) -> Result<(), Status> {
        let asked = service.i64_at(&["spec", "healthCheckNodePort"]).unwrap_or_default();
        if asked != 0 {
            return self.take(asked).map_err(|why| {
                Status::internal(format!(
                    "failed to allocate requested HealthCheck NodePort {asked}: {why}"
                ))
            });
        }
        let port = self.try_any().map_err(|why| {
            Status::internal(format!("failed to allocate a HealthCheck NodePort 0: {why}"))
        })?;
        service.set_at(&["spec", "healthCheckNodePort"], i64::from(port));
        Ok(())
    }

    fn any(&mut self) -> Result<u16, Status> {
        self.try_any()
            .map_err(|why| Status::internal(format!("failed to allocate a nodePort: {why}")))
    }

    fn try_any(&mut self) -> Result<u16, &'static str> {
        let any = self.source.any();
        self.metrics.port("dynamic", any.is_some());
        let port = any.ok_or(FULL)?;
        self.ports.reserved.push(port);
        Ok(port)
    }

    fn asked(&mut self, service: &Value, index: usize, asked: i64) -> Result<i64, Status> {
        self.take(asked).map(|()| asked).map_err(|why| {
            let mut errors = FieldErrors::new();
            let spec = Path::new("spec");
            let ports = spec.child("ports");
            let item = ports.index(index);
            errors.invalid(&item.child("nodePort"), &Value::from(asked), &why);
            Status::invalid("", "Service", service.str_at(&["metadata", "name"]), &errors)
        })
    }

    fn take(&mut self, asked: i64) -> Result<(), String> {
        let taken = match u16::try_from(asked).ok().filter(|it| self.range.contains(it)) {
            None => Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.range.start(),
                self.range.end()
            )),
            Some(port) if self.source.has(port) => Err(TAKEN.to_owned()),
            Some(port) => {
                self.source.take(port);
                self.ports.reserved.push(port);
                Ok(())
            }
        };
        self.metrics.port("static", taken.is_ok());
        taken
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::json;
    use component_base::SeededRandom;

    use super::*;

    fn service(spec: &str) -> Value {
        json::parse(format!(r#"{{"spec":{spec}}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn a_change_takes_back_what_the_service_had() {
        let mut taken = Taken::default();
        let of = |port: i64| {
            service(&format!(
                r#"{{"ports":[{{"nodePort":{port}}},{{"nodePort":{port}}}],"healthCheckNodePort":31000}}"#
            ))
        };
        taken.replace("a/b".into(), Some(&of(30001)));
        taken.replace("a/b".into(), Some(&of(30002)));
        taken.replace("a/c".into(), Some(&of(30002)));
        taken.replace("a/c".into(), None);
        let ports: Vec<u16> = taken.ports.keys().copied().collect();
        assert_eq!(ports, [30002, 31000]);
        taken.replace("a/b".into(), None);
        assert!(taken.ports.is_empty() && taken.held.is_empty());
    }

    /// The ports of a service after a write, where 30001 is another's, and what it lets go; or why not.
    fn check(spec: &str, old: Option<&str>, expected: &str) {
        let mut state = State::default();
        state.taken.replace("a/other".into(), Some(&service(r#"{"ports":[{"nodePort":30001}]}"#)));
        let old = old.map(service);
        state.taken.replace("a/b".into(), old.as_ref());
        let (random, range, metrics) = (SeededRandom::new(1), 30000..=30003, Metrics::default());
        let mut memory = Memory { random: &random, range: range.clone(), state: &mut state };
        let mut new = service(spec);
        let change = Change { old: old.as_ref(), dry_run: false };
        let done = Planning::new(&mut memory, &range, &metrics).run(&change, &mut new);
        let got = match done {
            Err(status) => status.message,
            Ok(ports) => {
                let all: Vec<i64> =
                    new.items_at(&["spec", "ports"]).iter().map(node_port).collect();
                let health = new.i64_at(&["spec", "healthCheckNodePort"]);
                format!("{all:?} {health:?} -{:?}", ports.let_go)
            }
        };
        assert_eq!(got, expected, "{spec}");
    }

    #[test]
    fn ports_are_given_asked_for_and_let_go() {
        let asked = |port: i64| {
            format!(
                r#"{{"type":"NodePort","ports":[{{"port":80,"protocol":"TCP","nodePort":{port}}}]}}"#
            )
        };
        check(&asked(30002), None, "[30002] None -[]");
        let taken = "Service \"\" is invalid: spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated";
        check(&asked(30001), None, taken);
        check(
            &asked(7),
            None,
            "Service \"\" is invalid: spec.ports[0].nodePort: Invalid value: 7: provided port is not in the valid range. \
             The range of valid ports is 30000-30003",
        );
        check(&asked(30002), Some(&asked(30002)), "[30002] None -[]");
        check(&asked(30003), Some(&asked(30002)), "[30003] None -[30002]");
        check(
            r#"{"type":"ClusterIP","ports":[{"port":80}]}"#,
            Some(&asked(30002)),
            "[0] None -[30002]",
        );
        let both = r#"{"type":"NodePort","ports":[{"port":53,"protocol":"UDP"},{"port":53,"protocol":"TCP","nodePort":30003}]}"#;
        check(both, None, "[30003, 30003] None -[]");
        let balancer = r#"{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,"externalTrafficPolicy":"Local","healthCheckNodePort":30003,"ports":[{"port":80}]}"#;
        check(balancer, None, "[0] Some(30003) -[]");
        let many = r#"{"type":"NodePort","ports":[{"port":1},{"port":2},{"port":3},{"port":4}]}"#;
        check(many, None, "Internal error occurred: failed to allocate a nodePort: range is full");
    }
}
