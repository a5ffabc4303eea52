//! What is counted of nodes' ranges, in upstream's names: read from how nodes change.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use apimachinery::Value;
use client::reflector::StoreChange;
use ipnet::IpNet;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::{NodeRanges, count};

/// The label of a cluster range, whose name no Rust field has.
type OfCluster = [(&'static str, String); 1];

fn of_cluster(cluster: IpNet) -> OfCluster {
    [("clusterCIDR", cluster.to_string())]
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    given: Family<OfCluster, Counter>,
    returned: Family<OfCluster, Counter>,
    most: Family<OfCluster, Gauge>,
    usage: Family<OfCluster, Gauge<f64, AtomicU64>>,
    tries: Family<OfCluster, Histogram, fn() -> Histogram>,
    /// How many ranges nodes have, by cluster range.
    taken: Arc<Mutex<BTreeMap<IpNet, u32>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let tries: fn() -> Histogram = || Histogram::new([1.0, 5.0, 25.0, 125.0, 625.0]);
        let (given, returned, most, usage, taken) = Default::default();
        Self { given, returned, most, usage, tries: Family::new_with_constructor(tries), taken }
    }
}

impl Metrics {
    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        let of = registry.sub_registry_with_prefix("node_ipam_controller");
        let help = "[ALPHA] Counter measuring total number of CIDR allocations.";
        of.register("cidrset_cidrs_allocations", help, self.given.clone());
        let help = "[ALPHA] Counter measuring total number of CIDR releases.";
        of.register("cidrset_cidrs_releases", help, self.returned.clone());
        let help = "[ALPHA] Maximum number of CIDRs that can be allocated.";
        of.register("cirdset_max_cidrs", help, self.most.clone());
        let help = "[ALPHA] Gauge measuring percentage of allocated CIDRs.";
        of.register("cidrset_usage_cidrs", help, self.usage.clone());
        let help = "[ALPHA] Histogram measuring CIDR allocation tries per request.";
        of.register("cidrset_allocation_tries_per_request", help, self.tries.clone());
    }

    /// Forgets what nodes have: all of it is told anew.
    pub(super) fn begin(&self, ranges: &NodeRanges) {
        self.taken.lock().clear();
        for (cluster, mask) in ranges.cluster.iter().copied() {
            let of = of_cluster(cluster);
            self.most.get_or_create(&of).set(i64::from(count(cluster, mask)));
        }
    }

    /// A free range was found after so many that were not.
    pub(super) fn found(&self, cluster: IpNet, after: u32) {
        let of = of_cluster(cluster);
        self.tries.get_or_create(&of).observe(f64::from(after));
    }

    /// A node changed.
    pub(super) fn see(&self, change: &StoreChange, ranges: &NodeRanges) {
        let has = |node: Option<&Value>| -> Vec<IpNet> {
            let all = node.into_iter().flat_map(|it| it.items_at(&["spec", "podCIDRs"]));
            all.filter_map(|it| it.as_str()?.parse().ok()).collect()
        };
        let [old, new] = [&change.old, &change.new].map(|it| it.as_ref().map(|it| it.value()));
        let [old, new] = [old, new].map(|it| has(it.as_deref()));
        for (cluster, mask) in ranges.cluster.iter().copied() {
            let within = |it: &&IpNet| cluster.contains(*it);
            let given = new.iter().filter(within).filter(|it| !old.contains(it)).count();
            let returned = old.iter().filter(within).filter(|it| !new.contains(it)).count();
            self.count((cluster, mask), given, returned);
        }
    }

    fn count(&self, (cluster, mask): (IpNet, u8), given: usize, returned: usize) {
        if (given, returned) == (0, 0) {
            return;
        }
        let of = of_cluster(cluster);
        let [given, returned] = [given, returned].map(|it| u32::try_from(it).unwrap_or(u32::MAX));
        let mut all = self.taken.lock();
        let taken = all.entry(cluster).or_default();
        *taken = taken.saturating_add(given).saturating_sub(returned);
        let usage = f64::from(*taken) / f64::from(count(cluster, mask));
        self.usage.get_or_create(&of).set(usage);
        self.given.get_or_create(&of).inc_by(given.into());
        self.returned.get_or_create(&of).inc_by(returned.into());
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;
    use client::reflector::Cached;

    use super::*;

    #[test]
    fn ranges_are_counted_as_nodes_come_and_go() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let cluster = vec![("10.244.0.0/16".parse().unwrap(), 24)];
        let ranges = NodeRanges { cluster, reserved: Vec::new() };
        metrics.begin(&ranges);
        let node = |range: &str| {
            Some(Arc::new(Cached::new(value!({"kind": "Node", "apiVersion": "v1",
                "metadata": {"name": "a"}, "spec": {"podCIDRs": [range]}}))))
        };
        let (a, b) = (node("10.244.1.0/24"), node("10.244.2.0/24"));
        metrics.see(&StoreChange { old: None, new: a.clone() }, &ranges);
        metrics.see(&StoreChange { old: None, new: b }, &ranges);
        metrics.see(&StoreChange { old: a.clone(), new: a.clone() }, &ranges);
        metrics.see(&StoreChange { old: a, new: None }, &ranges);
        metrics.found(ranges.cluster[0].0, 2);
        let told = component_base::metrics::text(&registry);
        for line in [
            "node_ipam_controller_cidrset_cidrs_allocations_total{clusterCIDR=\"10.244.0.0/16\"} 2",
            "node_ipam_controller_cidrset_cidrs_releases_total{clusterCIDR=\"10.244.0.0/16\"} 1",
            "node_ipam_controller_cirdset_max_cidrs{clusterCIDR=\"10.244.0.0/16\"} 256",
            "node_ipam_controller_cidrset_usage_cidrs{clusterCIDR=\"10.244.0.0/16\"} 0.00390625",
            "node_ipam_controller_cidrset_allocation_tries_per_request_bucket{le=\"5.0\",clusterCIDR=\"10.244.0.0/16\"} 1",
        ] {
            assert!(told.lines().any(|it| it == line), "{line}: {told}");
        }
    }
}
