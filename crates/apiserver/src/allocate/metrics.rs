//! What is counted of addresses and ports that services get. Upstream: `metrics.go` of its allocators and of those who
//! repair what they leave.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{addresses, ports};
use crate::Server;
use crate::bootstrap::Bootstrap;

/// Upstream's buckets: the default ones of its library.
const DURATIONS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scoped {
    cidr: String,
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRange {
    cidr: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scope {
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfType {
    r#type: &'static str,
}

/// Counters of the allocator.
#[derive(Debug)]
pub(super) struct Metrics {
    given: Family<Scoped, Counter>,
    refused: Family<Scoped, Counter>,
    durations: Family<OfRange, Histogram, fn() -> Histogram>,
    ports: Family<Scope, Counter>,
    refused_ports: Family<Scope, Counter>,
    address_errors: Family<OfType, Counter>,
    port_errors: Family<OfType, Counter>,
    failed_repairs: Counter,
    failed_port_repairs: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let durations = Family::new_with_constructor((|| Histogram::new(DURATIONS)) as fn() -> _);
        let (given, refused, ports, refused_ports) = Default::default();
        let (address_errors, port_errors, failed_repairs, failed_port_repairs) = Default::default();
        Self {
            given,
            refused,
            durations,
            ports,
            refused_ports,
            address_errors,
            port_errors,
            failed_repairs,
            failed_port_repairs,
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        const IPS: &str = "kube_apiserver_clusterip_allocator";
        const PORTS: &str = "kube_apiserver_nodeport_allocator";
        let name = |of: &str, what: &str| format!("{of}_{what}");
        let mut scoped = |name: String, help: &str, it: &Family<Scoped, Counter>| {
            registry.register(name, help, Family::clone(it));
        };
        scoped(name(IPS, "allocation"), "Addresses that services got", &self.given);
        scoped(name(IPS, "allocation_errors"), "Addresses that could not be had", &self.refused);
        registry.register(
            name(IPS, "allocation_duration_seconds"),
            "How long it took to get an address",
            Family::clone(&self.durations),
        );
        registry.register(
            name(PORTS, "allocation"),
            "Ports of nodes that services got",
            Family::clone(&self.ports),
        );
        registry.register(
            name(PORTS, "allocation_errors"),
            "Ports of nodes that could not be had",
            Family::clone(&self.refused_ports),
        );
        registry.register(
            "apiserver_clusterip_repair_ip_errors",
            "What was found wrong with addresses of services",
            Family::clone(&self.address_errors),
        );
        registry.register(
            "apiserver_nodeport_repair_port_errors",
            "What was found wrong with ports of nodes",
            Family::clone(&self.port_errors),
        );
        registry.register(
            "apiserver_clusterip_repair_reconcile_errors",
            "Looks at addresses of services that failed",
            self.failed_repairs.clone(),
        );
        registry.register(
            "apiserver_nodeport_repair_reconcile_errors",
            "Looks at ports of nodes that failed",
            self.failed_port_repairs.clone(),
        );
    }

    pub(super) fn given(&self, net: &IpNet, scope: &'static str, took: Duration) {
        let cidr = net.to_string();
        self.durations.get_or_create(&OfRange { cidr: cidr.clone() }).observe(took.as_secs_f64());
        self.given.get_or_create(&Scoped { cidr, scope }).inc();
    }

    pub(super) fn refused(&self, net: &IpNet, scope: &'static str) {
        self.refused.get_or_create(&Scoped { cidr: net.to_string(), scope }).inc();
    }

    pub(super) fn port(&self, scope: &'static str, was_given: bool) {
        let of = if was_given { &self.ports } else { &self.refused_ports };
        of.get_or_create(&Scope { scope }).inc();
    }

    pub(super) fn wrong_address(&self, r#type: &'static str) {
        self.address_errors.get_or_create(&OfType { r#type }).inc();
    }

    pub(super) fn wrong_port(&self, r#type: &'static str) {
        self.port_errors.get_or_create(&OfType { r#type }).inc();
    }

    pub(super) fn failed_repair(&self) {
        self.failed_repairs.inc();
    }

    pub(super) fn failed_port_repair(&self) {
        self.failed_port_repairs.inc();
    }
}

/// How many addresses and ports are taken, and how many are left.
pub(crate) fn text(server: &Arc<Server>, out: &mut String) {
    let objects = Bootstrap::new(server);
    let ranges = addresses::ranges(server, objects.objects());
    let all = addresses::cache(objects.objects(), "ipaddresses");
    let all = all.map(|it| it.everything("", 0).objects);
    let mut taken = vec![0_u128; ranges.len()];
    for address in all.iter().flat_map(|it| it.iter()) {
        let Ok(address) = address.facts.name.parse() else { continue };
        for (range, count) in ranges.iter().zip(&mut taken) {
            *count += u128::from(range.contains(address));
        }
    }
    let mut gauge = |name: &str, help: &str, values: &mut dyn Iterator<Item = (String, u128)>| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in values {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let label = |it: &addresses::Range| format!("{{cidr=\"{}\"}}", it.net());
    let counted = || ranges.iter().zip(&taken);
    gauge(
        "kube_apiserver_clusterip_allocator_allocated_ips",
        "Addresses that are taken",
        &mut counted().map(|(it, taken)| (label(it), *taken)),
    );
    gauge(
        "kube_apiserver_clusterip_allocator_available_ips",
        "Addresses that are left",
        &mut counted().map(|(it, taken)| (label(it), it.size().saturating_sub(*taken))),
    );
    let used = ports::used(server) as u128;
    let size = server.allocator.node_ports.len() as u128;
    gauge(
        "kube_apiserver_nodeport_allocator_allocated_ports",
        "Ports of nodes that are taken",
        &mut std::iter::once((String::new(), used)),
    );
    gauge(
        "kube_apiserver_nodeport_allocator_available_ports",
        "Ports of nodes that are left",
        &mut std::iter::once((String::new(), size.saturating_sub(used))),
    );
}
