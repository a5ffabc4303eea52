//! What is counted of zones, in upstream's names.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::zones::Zones;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfZone {
    zone: String,
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    evictions: Family<OfZone, Counter>,
    health: Family<OfZone, Gauge<f64, AtomicU64>>,
    size: Family<OfZone, Gauge>,
    unhealthy: Family<OfZone, Gauge>,
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let help = "[STABLE] Number of Node evictions that happened since current instance of NodeController started.";
        registry.register("node_collector_evictions", help, self.evictions.clone());
        let help = "[ALPHA] Gauge measuring percentage of healthy nodes per zone.";
        registry.register("node_collector_zone_health", help, self.health.clone());
        let help = "[ALPHA] Gauge measuring number of registered Nodes per zones.";
        registry.register("node_collector_zone_size", help, self.size.clone());
        let help = "[ALPHA] Gauge measuring number of not Ready Nodes per zones.";
        registry.register("node_collector_unhealthy_nodes_in_zone", help, self.unhealthy.clone());
    }

    pub(super) fn evicts(&self, zone: &str) {
        self.evictions.get_or_create(&OfZone { zone: zone.to_owned() }).inc();
    }

    pub(super) fn zones(&self, zones: &Zones) {
        let count = |it: usize| i64::try_from(it).unwrap_or(i64::MAX);
        for (name, zone) in zones.iter() {
            let of = OfZone { zone: name.to_owned() };
            self.health.get_or_create(&of).set(zone.health());
            self.size.get_or_create(&of).set(count(zone.size()));
            self.unhealthy.get_or_create(&of).set(count(zone.not_ready));
        }
    }
}
