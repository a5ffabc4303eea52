//! Puts right what crashes, older servers and people leave behind of addresses and ports of services: addresses without
//! an object, objects without a service, the bitmap of node ports.
//!
//! What is wrong with a service or an address is decided without I/O ([`of_service`], [`of_address`]); [`run`] looks at
//! all of them now and then, and at each as it changes. Upstream: `repairip.go` of
//! `pkg/registry/core/service/ipallocator/controller`, and `repair.go` of the allocator of ports.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::validation::parse_ip;
use apimachinery::{Value, time, value};
use auth::Objects as _;
use component_base::ShutdownSignal;
use http::Method;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::addresses::{self, FAMILY, MANAGED_BY, MANAGER, Range};
use super::bitmap::{self, Bitmap, Written};
use super::families::Family;
use super::{EXTERNAL_NAME, ports};
use crate::Server;
use crate::bootstrap::{Bootstrap, BootstrapError};
use crate::cache::{Cache, Change, Cursor, Next, Scope};

/// How often everything is looked at (upstream's).
const INTERVAL: Duration = Duration::from_mins(3);
/// How long an address may be there without its service, which may be on its way.
const GRACE: Duration = Duration::from_mins(1);
/// In how many looks a port must be found without a service before it is free.
const LEAK_LOOKS: u32 = 3;
/// How many changes are looked at in one go.
const BATCH: usize = 256;
/// How many events are remembered, so that they are not told again and again.
const TOLD_MAX: usize = 10_000;
/// How often a bitmap is tried that others change at the same time.
const TRIES: usize = 5;
const ADDRESSES: &str = "ipallocator-repair-controller";
const PORTS: &str = "portallocator-repair-controller";

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    reason: &'static str,
    note: String,
    /// How it is counted.
    r#type: &'static str,
    repair: Repair,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Repair {
    /// Nobody can but people.
    Nothing,
    /// The address has no object, or a wrong one.
    Make(IpAddr),
    /// The object goes.
    Remove,
}

/// What is known of other objects.
trait Known {
    fn address(&self, name: &str) -> Option<Value>;
    fn service(&self, namespace: &str, name: &str) -> Option<Value>;
}

fn name_of(object: &Value) -> (&str, &str) {
    (object.str_at(&["metadata", "namespace"]), object.str_at(&["metadata", "name"]))
}

/// The addresses that a service says it has.
fn texts(service: &Value) -> impl Iterator<Item = &str> {
    let ips = service.items_at(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str);
    ips.filter(|it| !it.is_empty() && *it != super::HEADLESS)
}

/// What is wrong with a service's addresses.
fn of_service(service: &Value, ranges: &[Range], known: &dyn Known) -> Vec<Finding> {
    if service.str_at(&["spec", "type"]) == EXTERNAL_NAME {
        return Vec::new();
    }
    texts(service).filter_map(|ip| of_cluster_ip(service, ip, ranges, known)).collect()
}

fn of_cluster_ip(
    service: &Value,
    ip: &str,
    ranges: &[Range],
    known: &dyn Known,
) -> Option<Finding> {
    let found = |reason, r#type, repair, note| Some(Finding { reason, note, r#type, repair });
    let Some(address) = parse_ip(ip) else {
        let note = format!("Cluster IP {ip} is not a valid IP; please recreate Service");
        return found("ClusterIPNotValid", "invalid", Repair::Nothing, note);
    };
    let family = Family::of(&address).as_str();
    if !ranges.iter().any(|it| it.contains(address)) {
        let note = format!(
            "Cluster IP [{family}]: {address} is not within any configured Service CIDR; please recreate service"
        );
        return found("ClusterIPOutOfRange", "outOfRange", Repair::Nothing, note);
    }
    let make = Repair::Make(address);
    let Some(object) = known.address(&address.to_string()) else {
        let note = format!("Cluster IP [{family}]: {address} is not allocated; repairing");
        return found("ClusterIPNotAllocated", "repair", make, note);
    };
    let (namespace, name) = name_of(service);
    let wrong = format!(
        "the ClusterIP [{family}]: {address} for Service {namespace}/{name} has a wrong reference; repairing"
    );
    let parent = |member| object.str_at(&["spec", "parentRef", member]);
    if !parent("group").is_empty() || parent("resource") != "services" {
        return found("ClusterIPNotAllocated", "repair", make, wrong);
    }
    if !addresses::is_of(&object, namespace, name) {
        let Some(other) = known.service(parent("namespace"), parent("name")) else {
            return found("ClusterIPNotAllocated", "repair", make, wrong);
        };
        if texts(&other).any(|it| parse_ip(it) == Some(address)) {
            let note = format!(
                "Cluster IP [{family}]:{address} was assigned to multiple services; please recreate service"
            );
            return found("ClusterIPAlreadyAllocated", "duplicate", Repair::Nothing, note);
        }
        return found("ClusterIPNotAllocated", "repair", make, wrong);
    }
    let label = |name| object.str_at(&["metadata", "labels", name]);
    let is_labelled = label(FAMILY) == family && label(MANAGED_BY) == MANAGER;
    // Nobody is told of labels.
    (!is_labelled).then(|| Finding {
        reason: "",
        note: String::new(),
        r#type: "repair",
        repair: Repair::Make(address),
    })
}

/// What is to be done about an address.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fine,
    /// Its service may be on its way for so long.
    Later(Duration),
    Wrong(Finding),
}

/// What is wrong with an address that the server has made.
fn of_address(address: &Value, known: &dyn Known, now: Timestamp) -> Verdict {
    if address.str_at(&["metadata", "labels", MANAGED_BY]) != MANAGER {
        return Verdict::Fine;
    }
    let wrong = |reason, note| {
        Verdict::Wrong(Finding { reason, note, r#type: "leak", repair: Repair::Remove })
    };
    let (_, ip) = name_of(address);
    let parent = |member| address.str_at(&["spec", "parentRef", member]);
    let (group, resource) = (parent("group"), parent("resource"));
    let (namespace, name) = (parent("namespace"), parent("name"));
    if !group.is_empty() || resource != "services" {
        let note = format!(
            "IPAddress {ip} appears to have been modified, not referencing a Service &ParentReference{{Group:{group},\
             Resource:{resource},Namespace:{namespace},Name:{name},}}: cleaning up"
        );
        return wrong("IPAddressNotAllocated", note);
    }
    let Some(service) = known.service(namespace, name) else {
        let made = time::parse_time(address.str_at(&["metadata", "creationTimestamp"]));
        let age = made.map(|it| now.duration_since(it)).unwrap_or_default();
        let age = Duration::try_from(age).unwrap_or_default();
        if age <= GRACE {
            return Verdict::Later(GRACE - age);
        }
        let note = format!(
            "IPAddress: {ip} for Service {namespace}/{name} appears to have leaked: cleaning up"
        );
        return wrong("IPAddressNotAllocated", note);
    };
    if texts(&service).any(|it| parse_ip(it) == parse_ip(ip)) {
        return Verdict::Fine;
    }
    let note = format!(
        "IPAddress: {ip} for Service {namespace}/{name} has a wrong reference; cleaning up"
    );
    wrong("IPAddressWrongReference", note)
}

/// Who repairs.
struct Repairer<'r> {
    server: &'r Arc<Server>,
    bootstrap: Bootstrap<'r>,
    services: Arc<Cache>,
    addresses: Arc<Cache>,
    /// Addresses to look at again.
    later: BTreeMap<String, Instant>,
    /// Events that were told: of whom, which, and what.
    told: BTreeSet<(String, &'static str, String)>,
    /// Ports without a service, and in how many more looks they may be found so.
    leaks: BTreeMap<u16, u32>,
}

impl Known for Repairer<'_> {
    fn address(&self, name: &str) -> Option<Value> {
        self.addresses.get(name)?.to_value().ok()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Value> {
        let found = self.bootstrap.objects().get("", "services", namespace, name)?;
        found.to_value().ok()
    }
}

/// Puts everything right that is wrong now, before the server answers anybody.
pub(crate) async fn once(server: &Arc<Server>) {
    if let Some(mut repairer) = Repairer::new(server) {
        repairer.everything().await;
    }
}

/// Repairs until the server stops.
pub async fn run(server: Arc<Server>, stop: ShutdownSignal) {
    let Some(mut repairer) = Repairer::new(&server) else { return };
    loop {
        let cursors = (repairer.services.end(), repairer.addresses.end());
        repairer.everything().await;
        repairer.ports().await;
        if repairer.follow(cursors, &stop).await {
            return;
        }
    }
}

/// Told of each change of a cache, from now on.
fn notified(notify: &Notify) -> std::pin::Pin<Box<tokio::sync::futures::Notified<'_>>> {
    let mut notified = Box::pin(notify.notified());
    notified.as_mut().enable();
    notified
}

impl<'r> Repairer<'r> {
    fn new(server: &'r Arc<Server>) -> Option<Self> {
        let bootstrap = Bootstrap::new(server);
        let services = bootstrap.objects().cache("", "services").map(Cow::into_owned)?;
        let addresses =
            addresses::cache(bootstrap.objects(), "ipaddresses").map(Cow::into_owned)?;
        let (later, told, leaks) = Default::default();
        Some(Self { server, bootstrap, services, addresses, later, told, leaks })
    }

    /// Looks at what changes until it is time to look at everything; says whether the server stops.
    async fn follow(&mut self, cursors: (Cursor, Cursor), stop: &ShutdownSignal) -> bool {
        let (mut of_services, mut of_addresses) = cursors;
        let all = Instant::now() + INTERVAL;
        let notifies = [&self.services, &self.addresses].map(|cache| cache.wake_for(Scope::All));
        loop {
            // Made before looking, so that what happens meanwhile is seen.
            let [services, addresses] = &notifies;
            let (services, addresses) = (notified(services), notified(addresses));
            let (Some(service_cursor), Some(address_cursor)) =
                (self.services_since(of_services).await, self.addresses_since(of_addresses).await)
            else {
                return false;
            };
            (of_services, of_addresses) = (service_cursor, address_cursor);
            self.due().await;
            let next = self.later.values().copied().min().unwrap_or(all).min(all);
            tokio::select! {
                biased;
                () = stop.requested() => return true,
                () = services => {}
                () = addresses => {}
                () = tokio::time::sleep_until(next) => {}
            }
            if Instant::now() >= all {
                return false;
            }
        }
    }

    /// `None` where the log does not reach back that far.
    async fn services_since(&mut self, mut cursor: Cursor) -> Option<Cursor> {
        loop {
            let Next::Events(events, next) = self.services.read(cursor, BATCH).0 else {
                return None;
            };
            if events.is_empty() {
                return Some(cursor);
            }
            for event in events.iter().filter(|it| it.change != Change::Deleted) {
                let facts = &event.object.facts;
                self.look_at_service(&facts.namespace, &facts.name).await;
            }
            cursor = next;
        }
    }

    async fn addresses_since(&mut self, mut cursor: Cursor) -> Option<Cursor> {
        loop {
            let Next::Events(events, next) = self.addresses.read(cursor, BATCH).0 else {
                return None;
            };
            if events.is_empty() {
                return Some(cursor);
            }
            for event in &events {
                let name = &event.object.facts.name;
                if event.change != Change::Deleted {
                    self.look_at_address(name).await;
                    continue;
                }
                self.later.remove(name.as_str());
                // Where people have taken it away its service lacks it.
                if let Ok(gone) = event.object.to_value() {
                    let parent = |member| gone.str_at(&["spec", "parentRef", member]);
                    self.look_at_service(parent("namespace"), parent("name")).await;
                }
            }
            cursor = next;
        }
    }

    /// Looks again at addresses whose services were on their way.
    async fn due(&mut self) {
        let now = Instant::now();
        let due = self.later.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone());
        for name in due.collect::<Vec<_>>() {
            self.later.remove(&name);
            self.look_at_address(&name).await;
        }
    }

    async fn everything(&mut self) {
        if self.told.len() > TOLD_MAX {
            self.told.clear();
        }
        for service in self.services.everything("", 0).objects.iter() {
            self.look_at_service(&service.facts.namespace, &service.facts.name).await;
        }
        for address in self.addresses.everything("", 0).objects.iter() {
            self.look_at_address(&address.facts.name).await;
        }
    }

    async fn look_at_service(&mut self, namespace: &str, name: &str) {
        let Some(service) = self.service(namespace, name) else { return };
        let ranges = addresses::ranges(self.server, self.bootstrap.objects());
        for finding in of_service(&service, &ranges, self) {
            let about = About { object: &service, kind: "Service", api_version: "v1" };
            self.tell(&about, &finding, (ADDRESSES, "ClusterIPAllocation")).await;
            self.server.allocator.metrics.wrong_address(finding.r#type);
            if let Repair::Make(address) = finding.repair {
                let made = self.make(address, namespace, name).await;
                self.done(made);
            }
        }
    }

    async fn make(
        &self,
        address: IpAddr,
        namespace: &str,
        name: &str,
    ) -> Result<(), BootstrapError> {
        let path = "/apis/networking.k8s.io/v1/ipaddresses";
        if self.addresses.get(&address.to_string()).is_some() {
            self.bootstrap.send(Method::DELETE, &format!("{path}/{address}"), None).await?;
        }
        let object = addresses::object(address, namespace, name);
        self.bootstrap.send(Method::POST, path, Some(&object)).await?;
        Ok(())
    }

    fn done(&self, result: Result<(), BootstrapError>) {
        if let Err(error) = result {
            self.server.allocator.metrics.failed_repair();
            tracing::debug!(%error, "what services have could not be put right yet");
        }
    }

    async fn look_at_address(&mut self, name: &str) {
        let Some(address) = self.address(name) else { return };
        match of_address(&address, self, self.server.clock.now()) {
            Verdict::Fine => {}
            Verdict::Later(wait) => {
                // A moment more, so that it is over by then.
                let at = Instant::now() + wait + Duration::from_millis(1);
                self.later.insert(name.to_owned(), at);
            }
            Verdict::Wrong(finding) => {
                let api_version = "networking.k8s.io/v1";
                let about = About { object: &address, kind: "IPAddress", api_version };
                self.tell(&about, &finding, (ADDRESSES, "IPAddressAllocation")).await;
                self.server.allocator.metrics.wrong_address(finding.r#type);
                let path = format!("/apis/networking.k8s.io/v1/ipaddresses/{name}");
                let gone = self.bootstrap.send(Method::DELETE, &path, None).await;
                self.done(gone.map(|_| ()));
            }
        }
    }

    /// Makes an event of what was found, once.
    async fn tell(&mut self, about: &About<'_>, finding: &Finding, by: (&str, &str)) {
        let uid = about.object.str_at(&["metadata", "uid"]).to_owned();
        if finding.note.is_empty() || !self.told.insert((uid, finding.reason, finding.note.clone()))
        {
            return;
        }
        tracing::warn!(reason = finding.reason, "{}", finding.note);
        let event =
            about.event(finding, by, self.server.clock.now(), &self.server.random.suffix(10));
        let namespace = event.str_at(&["metadata", "namespace"]);
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        if let Err(error) = self.bootstrap.send(Method::POST, &path, Some(&event)).await {
            tracing::debug!(%error, "an event could not be made");
        }
    }

    /// Makes the bitmap of node ports say what services have.
    async fn ports(&mut self) {
        for _ in 0..TRIES {
            match self.try_ports().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    self.server.allocator.metrics.failed_port_repair();
                    tracing::debug!(%error, "the bitmap of node ports could not be written");
                    return;
                }
            }
        }
    }

    /// Whether nobody else was faster.
    async fn try_ports(&mut self) -> Result<bool, storage::StorageError> {
        let stored = bitmap::read(self.server).await?;
        // Whatever was taken before has its service in the caches, or is seen as a leak for a while.
        self.server.hub().catch_up().await?;
        let mut rebuilt = Bitmap::default();
        let mut left = stored.bitmap.clone();
        for service in self.services.everything("", 0).objects.iter() {
            let Ok(service) = service.to_value() else { continue };
            for port in ports::of(&service) {
                self.look_at_port(&service, port, (&mut rebuilt, &mut left)).await;
            }
        }
        for port in left.0 {
            let looks = self.leaks.entry(port).or_insert(LEAK_LOOKS);
            *looks -= 1;
            if *looks > 0 {
                rebuilt.0.insert(port);
            } else {
                self.leaks.remove(&port);
                self.server.allocator.metrics.wrong_port("leak");
                tracing::warn!(port, "the node port appears to have leaked: cleaning up");
            }
        }
        if stored.is_written() && stored.bitmap == rebuilt {
            return Ok(true);
        }
        let written = bitmap::write(self.server, &stored, rebuilt).await?;
        Ok(matches!(written, Written::Done(_)))
    }

    async fn look_at_port(
        &mut self,
        service: &Value,
        port: u16,
        (rebuilt, left): (&mut Bitmap, &mut Bitmap),
    ) {
        let range = &self.server.allocator.node_ports;
        let found =
            |reason, r#type, note| Finding { reason, note, r#type, repair: Repair::Nothing };
        let finding = if !range.contains(&port) {
            let note = format!(
                "Port {port} is not within the port range {}-{}; please recreate service",
                range.start(),
                range.end()
            );
            found("PortOutOfRange", "outOfRange", note)
        } else if !rebuilt.0.insert(port) {
            let note =
                format!("Port {port} was assigned to multiple services; please recreate service");
            found("PortAlreadyAllocated", "duplicate", note)
        } else {
            self.leaks.remove(&port);
            // Where nobody else reads the bitmap it is behind the services at any time.
            if left.0.remove(&port) || !self.server.shares_store {
                return;
            }
            let note = format!("Port {port} is not allocated; repairing");
            found("PortNotAllocated", "repair", note)
        };
        self.server.allocator.metrics.wrong_port(finding.r#type);
        let about = About { object: service, kind: "Service", api_version: "v1" };
        self.tell(&about, &finding, (PORTS, "PortAllocation")).await;
    }
}

/// What an event is about.
struct About<'a> {
    object: &'a Value,
    kind: &'a str,
    api_version: &'a str,
}

impl About<'_> {
    fn event(
        &self,
        finding: &Finding,
        (controller, action): (&str, &str),
        now: Timestamp,
        suffix: &str,
    ) -> Value {
        let (of, name) = name_of(self.object);
        let namespace = if of.is_empty() { "default" } else { of };
        let metadata = |member| self.object["metadata"][member].clone();
        let mut regarding = value!({"kind": (self.kind), "apiVersion": (self.api_version), "name": name,
            "uid": (metadata("uid")), "resourceVersion": (metadata("resourceVersion"))});
        if !of.is_empty() {
            regarding.set_at(&["namespace"], of);
        }
        value!({"kind": "Event", "apiVersion": "events.k8s.io/v1",
            "metadata": {"name": (format!("{name}.{suffix}")), "namespace": namespace},
            "eventTime": (time::format_micro_time(now)), "reportingController": controller,
            "reportingInstance": (format!("{controller}-kubelith")), "action": action,
            "reason": (finding.reason), "regarding": regarding, "note": (finding.note.as_str()),
            "type": "Warning"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Services and addresses by name.
    #[derive(Default)]
    struct Objects(BTreeMap<String, Value>);

    impl Objects {
        fn with(mut self, object: &Value) -> Self {
            self.0.insert(object.str_at(&["metadata", "name"]).to_owned(), object.clone());
            self
        }
    }

    impl Known for Objects {
        fn address(&self, name: &str) -> Option<Value> {
            self.0.get(name).cloned()
        }

        fn service(&self, _namespace: &str, name: &str) -> Option<Value> {
            self.0.get(name).cloned()
        }
    }

    fn service(name: &str, ip: &str) -> Value {
        value!({"metadata": {"name": name, "namespace": "n"}, "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}})
    }

    fn address(ip: &str, service: &str) -> Value {
        let mut it = addresses::object(ip.parse().unwrap(), "n", service);
        it.set_at(&["metadata", "creationTimestamp"], "2026-01-01T00:00:00Z");
        it
    }

    #[test]
    fn a_service_has_an_address_of_its_own() {
        let ranges = addresses::tests::ranges_of_one("10.0.0.0/24");
        let check = |service: &Value, known: Objects, expected: &str| {
            let found = of_service(service, &ranges, &known);
            let found = found.iter().map(|it| match it.repair {
                Repair::Nothing => it.reason.to_owned(),
                _ => format!("{}+", it.reason),
            });
            assert_eq!(found.collect::<Vec<_>>().join(" "), expected, "{service:?}");
        };
        let (a, b) = (service("a", "10.0.0.7"), service("b", "10.0.0.7"));
        let of_a = address("10.0.0.7", "a");
        check(&a, Objects::default().with(&of_a), "");
        check(&a, Objects::default(), "ClusterIPNotAllocated+");
        check(&b, Objects::default().with(&of_a).with(&a), "ClusterIPAlreadyAllocated");
        check(&b, Objects::default().with(&of_a), "ClusterIPNotAllocated+");
        check(
            &b,
            Objects::default().with(&of_a).with(&service("a", "10.0.0.8")),
            "ClusterIPNotAllocated+",
        );
        check(&service("a", "10.1.0.7"), Objects::default(), "ClusterIPOutOfRange");
        check(&service("a", "None"), Objects::default(), "");
        let mut other = of_a.clone();
        other.set_at(&["spec", "parentRef", "resource"], "gateways");
        check(&a, Objects::default().with(&other), "ClusterIPNotAllocated+");
        let mut unlabelled = of_a.clone();
        unlabelled.remove_at(&["metadata", "labels"]);
        check(&a, Objects::default().with(&unlabelled), "+");
    }

    #[test]
    fn an_address_has_a_service_or_goes() {
        let check = |address: &Value, known: Objects, seconds: i64, expected: &str| {
            let now = time::parse_time("2026-01-01T00:00:00Z").unwrap();
            let now = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
            let got = match of_address(address, &known, now) {
                Verdict::Fine => "fine".to_owned(),
                Verdict::Later(wait) => format!("{}s", wait.as_secs()),
                Verdict::Wrong(finding) => finding.note,
            };
            assert_eq!(got, expected);
        };
        let of_a = address("10.0.0.7", "a");
        check(&of_a, Objects::default().with(&service("a", "10.0.0.7")), 600, "fine");
        check(&of_a, Objects::default(), 20, "40s");
        let leaked = "IPAddress: 10.0.0.7 for Service n/a appears to have leaked: cleaning up";
        check(&of_a, Objects::default(), 61, leaked);
        let wrong = "IPAddress: 10.0.0.7 for Service n/a has a wrong reference; cleaning up";
        check(&of_a, Objects::default().with(&service("a", "10.0.0.8")), 600, wrong);
        let mut foreign = of_a;
        foreign.remove_at(&["metadata", "labels"]);
        check(&foreign, Objects::default(), 600, "fine");
    }
}
