//! What is counted of slices, in upstream's names: read from what a service has and what is planned for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use controller::{Action, Plan};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::plan::{MAX_ENDPOINTS, annotation, hints_by_zones};
use super::{Observed, key_of};
use crate::owner::to_value;

const PREFIX: &str = "endpoint_slice_controller";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOperation {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResult {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTraffic {
    topology: &'static str,
    traffic_distribution: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfDistribution {
    traffic_distribution: String,
}

/// What there is of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Totals {
    endpoints: i64,
    slices: i64,
    /// As many slices as the endpoints need.
    needed: i64,
    distribution: String,
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    added: Histogram,
    removed: Histogram,
    endpoints: Gauge,
    slices: Gauge,
    needed: Gauge,
    changes: Family<OfOperation, Counter>,
    changed: Family<OfTraffic, Histogram, fn() -> Histogram>,
    syncs: Family<OfResult, Counter>,
    distributions: Family<OfDistribution, Gauge>,
    services: Arc<Mutex<BTreeMap<ObjectKey, Totals>>>,
}

/// The buckets of a histogram that names none.
const USUAL: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

impl Default for Metrics {
    fn default() -> Self {
        let counts = || Histogram::new(exponential_buckets(2.0, 2.0, 15));
        Self {
            added: counts(),
            removed: counts(),
            endpoints: Gauge::default(),
            slices: Gauge::default(),
            needed: Gauge::default(),
            changes: Family::default(),
            changed: Family::new_with_constructor(|| Histogram::new(USUAL)),
            syncs: Family::default(),
            distributions: Family::default(),
            services: Arc::default(),
        }
    }
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix(PREFIX);
        let help = "[ALPHA] Endpoints that a look at a service added to its slices";
        registry.register("endpoints_added_per_sync", help, self.added.clone());
        let help = "[ALPHA] Endpoints that a look at a service took from its slices";
        registry.register("endpoints_removed_per_sync", help, self.removed.clone());
        let help = "[ALPHA] Endpoints that services are to have";
        registry.register("endpoints_desired", help, self.endpoints.clone());
        let help = "[ALPHA] Slices of services";
        registry.register("num_endpoint_slices", help, self.slices.clone());
        let help = "[ALPHA] Slices that there would be if all of them were full";
        registry.register("desired_endpoint_slices", help, self.needed.clone());
        let help = "[ALPHA] Changes of slices, by what they are";
        registry.register("changes", help, self.changes.clone());
        let help = "[ALPHA] Slices that a look at a service changed";
        registry.register("endpointslices_changed_per_sync", help, self.changed.clone());
        let help = "[ALPHA] Looks at services, by how they ended";
        registry.register("syncs", help, self.syncs.clone());
        let help = "[ALPHA] Services by the traffic distribution that they ask for";
        registry.register(
            "services_count_by_traffic_distribution",
            help,
            self.distributions.clone(),
        );
    }

    /// A service needs no slices, or is gone.
    pub(super) fn gone(&self, key: &ObjectKey) {
        self.replace(key, None);
    }

    /// Takes note of what is planned for a service.
    pub(super) fn planned(&self, observed: &Observed, plan: &Plan) {
        let before: Vec<Value> = observed.slices.iter().map(to_value).collect();
        let after = outcome(&before, plan);
        let (had, has) = (endpoints(&before), endpoints(&after));
        self.added.observe(count(has.difference(&had).count()));
        self.removed.observe(count(had.difference(&has).count()));
        let mut changes = 0;
        for planned in plan.stages.iter().flat_map(|it| &it.actions) {
            let operation = match &planned.action {
                Action::Create { .. } => "create",
                Action::Update { .. } => "update",
                Action::Delete { .. } => "delete",
                _ => continue,
            };
            changes += 1;
            self.changes.get_or_create(&OfOperation { operation }).inc();
        }
        let service = &observed.service;
        let distribution = service.spec.as_ref().and_then(|it| it.traffic_distribution.clone());
        let distribution = distribution.unwrap_or_default();
        let hinted = hints_by_zones(|key| annotation(service, key));
        let of = OfTraffic {
            topology: if hinted { "Auto" } else { "Disabled" },
            traffic_distribution: distribution.clone(),
        };
        self.changed.get_or_create(&of).observe(count(changes));
        let totals = Totals {
            endpoints: whole(after.iter().map(size).sum()),
            slices: whole(after.len()),
            needed: whole(needed(&after)),
            distribution,
        };
        self.replace(&key_of(&service.metadata), Some(totals));
    }

    /// Takes note of how a look ended.
    pub(super) fn synced(&self, failed: bool) {
        let result = if failed { "error" } else { "success" };
        self.syncs.get_or_create(&OfResult { result }).inc();
    }

    fn replace(&self, key: &ObjectKey, totals: Option<Totals>) {
        let mut services = self.services.lock();
        let before = match &totals {
            Some(totals) => services.insert(key.clone(), totals.clone()),
            None => services.remove(key),
        };
        let add = |totals: &Totals, sign: i64| {
            self.endpoints.inc_by(sign * totals.endpoints);
            self.slices.inc_by(sign * totals.slices);
            self.needed.inc_by(sign * totals.needed);
            if !totals.distribution.is_empty() {
                let of = OfDistribution { traffic_distribution: totals.distribution.clone() };
                self.distributions.get_or_create(&of).inc_by(sign);
            }
        };
        if let Some(before) = before {
            add(&before, -1);
        }
        if let Some(totals) = totals {
            add(&totals, 1);
        }
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "a service has fewer than 2^52 endpoints")]
fn count(count: usize) -> f64 {
    count as f64
}

/// The slices that there are once a plan is carried out.
fn outcome(before: &[Value], plan: &Plan) -> Vec<Value> {
    let name = |it: &Value| it.str_at(&["metadata", "name"]).to_owned();
    let mut after = before.to_vec();
    for planned in plan.stages.iter().flat_map(|it| &it.actions) {
        match &planned.action {
            Action::Create { object, .. } => after.push(object.clone()),
            Action::Update { object, .. } => {
                after.iter_mut().filter(|it| name(it) == name(object)).for_each(|it| {
                    it.clone_from(object);
                });
            }
            Action::Delete { key, .. } => after.retain(|it| name(it) != key.name.as_str()),
            _ => {}
        }
    }
    after
}

fn size(slice: &Value) -> usize {
    slice.items_at(&["endpoints"]).len()
}

/// Endpoints as they are told apart: by ports, address and what is there.
fn endpoints(slices: &[Value]) -> BTreeSet<(String, String, String)> {
    let of_slice = |slice: &Value| {
        let ports = apimachinery::json::to_string(&slice["ports"]);
        let each = slice.items_at(&["endpoints"]).iter().map(move |it| {
            let address = it.items_at(&["addresses"]).first().and_then(Value::as_str);
            let target = it.str_at(&["targetRef", "uid"]).to_owned();
            (ports.clone(), address.unwrap_or_default().to_owned(), target)
        });
        each.collect::<Vec<_>>()
    };
    slices.iter().flat_map(of_slice).collect()
}

/// How many slices full ones would be.
fn needed(slices: &[Value]) -> usize {
    let mut groups: BTreeMap<(String, String), usize> = BTreeMap::new();
    for slice in slices {
        let ports = apimachinery::json::to_string(&slice["ports"]);
        *groups.entry((slice.str_at(&["addressType"]).to_owned(), ports)).or_default() +=
            size(slice);
    }
    groups.values().map(|size| size.div_ceil(MAX_ENDPOINTS).max(1)).sum()
}
