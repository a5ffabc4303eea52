//! What is counted of slices, in upstream's names: read from what a service has and what is planned for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use controller::{Action, Plan};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::plan::{annotation, hints_by_zones};
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
        let (had, has) = touched(&observed.slices, plan);
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
        let after = outcome(&observed.slices, plan);
        let totals = Totals {
            endpoints: whole(after.values().map(|it| it.size).sum()),
            slices: whole(after.len()),
            needed: whole(needed(after.values(), observed.max_endpoints)),
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

/// What a slice counts for.
struct Weight {
    /// What endpoints must have in common to be in one slice: the type of addresses, and the ports.
    sort: String,
    size: usize,
}

impl Weight {
    fn of(slice: &EndpointSlice) -> Self {
        let mut sort = slice.address_type.clone();
        for port in slice.ports.iter().flatten() {
            let texts = [&port.name, &port.protocol, &port.app_protocol];
            let texts = texts.map(|it| it.as_deref().unwrap_or_default());
            add_port(&mut sort, texts, port.port.unwrap_or_default().into());
        }
        Self { sort, size: slice.endpoints.iter().flatten().count() }
    }

    fn of_value(slice: &Value) -> Self {
        let mut sort = slice.str_at(&["addressType"]).to_owned();
        for port in slice.items_at(&["ports"]) {
            let texts = ["name", "protocol", "appProtocol"].map(|it| port.str_at(&[it]));
            add_port(&mut sort, texts, port.i64_at(&["port"]).unwrap_or_default());
        }
        Self { sort, size: slice.items_at(&["endpoints"]).len() }
    }
}

fn add_port(sort: &mut String, [name, protocol, app_protocol]: [&str; 3], number: i64) {
    let _ = write!(sort, " {name}:{protocol}:{number}:{app_protocol}");
}

/// The slices that there are once a plan is carried out, by name; those without one are created.
fn outcome<'a>(
    before: &'a [Arc<EndpointSlice>],
    plan: &'a Plan,
) -> BTreeMap<(&'a str, usize), Weight> {
    let mut after: BTreeMap<_, _> =
        before.iter().map(|it| ((name_of(it), 0), Weight::of(it))).collect();
    for (place, planned) in plan.stages.iter().flat_map(|it| &it.actions).enumerate() {
        match &planned.action {
            Action::Create { object, .. } => {
                after.insert(("", place + 1), Weight::of_value(object));
            }
            Action::Update { object, .. } => {
                let name = object.str_at(&["metadata", "name"]);
                after.insert((name, 0), Weight::of_value(object));
            }
            Action::Delete { key, .. } => {
                after.remove(&(key.name.as_str(), 0));
            }
            _ => {}
        }
    }
    after
}

fn name_of(slice: &EndpointSlice) -> &str {
    slice.metadata.name.as_deref().unwrap_or_default()
}

/// Endpoints as they are told apart: by ports, address and what is there.
type Endpoints = BTreeSet<(String, String, String)>;

/// What the slices that a plan changes have before and after it. Slices that stay as they are count in
/// neither, so that an endpoint that moves is in both.
fn touched(slices: &[Arc<EndpointSlice>], plan: &Plan) -> (Endpoints, Endpoints) {
    let mut before = Endpoints::new();
    let mut after = Endpoints::new();
    let mut had = |name: &str| {
        let slice = slices.iter().find(|it| name_of(it) == name);
        if let Some(slice) = slice {
            add_endpoints(&to_value(slice), &mut before);
        }
    };
    for planned in plan.stages.iter().flat_map(|it| &it.actions) {
        match &planned.action {
            Action::Create { object, .. } => add_endpoints(object, &mut after),
            Action::Update { object, .. } => {
                had(object.str_at(&["metadata", "name"]));
                add_endpoints(object, &mut after);
            }
            Action::Delete { key, .. } => had(key.name.as_str()),
            _ => {}
        }
    }
    (before, after)
}

fn add_endpoints(slice: &Value, to: &mut Endpoints) {
    let ports = apimachinery::json::to_string(&slice["ports"]);
    for it in slice.items_at(&["endpoints"]) {
        let address = it.items_at(&["addresses"]).first().and_then(Value::as_str);
        let target = it.str_at(&["targetRef", "uid"]).to_owned();
        to.insert((ports.clone(), address.unwrap_or_default().to_owned(), target));
    }
}

/// How many slices full ones would be.
fn needed<'a>(slices: impl Iterator<Item = &'a Weight>, max: usize) -> usize {
    let mut groups: BTreeMap<&str, usize> = BTreeMap::new();
    for slice in slices {
        *groups.entry(&slice.sort).or_default() += slice.size;
    }
    groups.values().map(|size| size.div_ceil(max.max(1)).max(1)).sum()
}
