//! What is counted of mirrored slices, in upstream's names: read from what Endpoints have and what is planned for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, json};
use client::ObjectKey;
use controller::{Action, Plan};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::Observed;

const PREFIX: &str = "endpoint_slice_mirroring_controller";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOperation {
    operation: &'static str,
}

/// What there is of one service's Endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    endpoints: i64,
    slices: i64,
    /// As many slices as the endpoints need.
    needed: i64,
}

/// The controller's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    added: Histogram,
    updated: Histogram,
    removed: Histogram,
    skipped: Histogram,
    took: Histogram,
    endpoints: Gauge,
    slices: Gauge,
    needed: Gauge,
    changes: Family<OfOperation, Counter>,
    services: Arc<Mutex<BTreeMap<ObjectKey, Totals>>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let counts = || Histogram::new(exponential_buckets(2.0, 2.0, 15));
        Self {
            added: counts(),
            updated: counts(),
            removed: counts(),
            skipped: counts(),
            took: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            endpoints: Gauge::default(),
            slices: Gauge::default(),
            needed: Gauge::default(),
            changes: Family::default(),
            services: Arc::default(),
        }
    }
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix(PREFIX);
        let help = "[ALPHA] Endpoints that a look at Endpoints added to their slices";
        registry.register("endpoints_added_per_sync", help, self.added.clone());
        let help = "[ALPHA] Endpoints of slices that a look at Endpoints changed";
        registry.register("endpoints_updated_per_sync", help, self.updated.clone());
        let help = "[ALPHA] Endpoints that a look at Endpoints took from their slices";
        registry.register("endpoints_removed_per_sync", help, self.removed.clone());
        let help = "[ALPHA] Addresses that a look at Endpoints left out: invalid, or too many";
        registry.register("addresses_skipped_per_sync", help, self.skipped.clone());
        let help = "[ALPHA] How long a look at Endpoints takes, in seconds";
        registry.register("endpoints_sync_duration", help, self.took.clone());
        let help = "[ALPHA] Endpoints that are to be mirrored";
        registry.register("endpoints_desired", help, self.endpoints.clone());
        let help = "[ALPHA] Slices that mirror Endpoints";
        registry.register("num_endpoint_slices", help, self.slices.clone());
        let help = "[ALPHA] Slices that there would be if all of them were full";
        registry.register("desired_endpoint_slices", help, self.needed.clone());
        let help = "[ALPHA] Changes of slices, by what they are";
        registry.register("changes", help, self.changes.clone());
    }

    /// Nothing is mirrored of these Endpoints.
    pub(super) fn gone(&self, key: &ObjectKey) {
        self.replace(key, None);
    }

    /// A look took so long.
    pub(super) fn took(&self, took: Duration) {
        self.took.observe(took.as_secs_f64());
    }

    /// Takes note of what is planned; `skipped` addresses are not mirrored.
    pub(super) fn planned(&self, observed: &Observed, plan: &Plan, skipped: usize) {
        let (before, after) = touched(&observed.slices, plan);
        let added = after.keys().filter(|it| !before.contains_key(*it)).count();
        let removed = before.keys().filter(|it| !after.contains_key(*it)).count();
        let updated =
            after.iter().filter(|(key, it)| before.get(*key).is_some_and(|had| had != *it));
        self.added.observe(count(added));
        self.updated.observe(count(updated.count()));
        self.removed.observe(count(removed));
        self.skipped.observe(count(skipped));
        for planned in plan.stages.iter().flat_map(|it| &it.actions) {
            let operation = match &planned.action {
                Action::Create { .. } => "create",
                Action::Update { .. } => "update",
                Action::Delete { .. } => "delete",
                _ => continue,
            };
            self.changes.get_or_create(&OfOperation { operation }).inc();
        }
        let totals = observed.endpoints.is_some().then(|| totals(&observed.slices, plan));
        self.replace(&observed.key, totals);
    }

    fn replace(&self, key: &ObjectKey, totals: Option<Totals>) {
        let mut services = self.services.lock();
        let before = match totals {
            Some(totals) => services.insert(key.clone(), totals),
            None => services.remove(key),
        };
        let add = |totals: Totals, sign: i64| {
            self.endpoints.inc_by(sign * totals.endpoints);
            self.slices.inc_by(sign * totals.slices);
            self.needed.inc_by(sign * totals.needed);
        };
        if let Some(before) = before {
            add(before, -1);
        }
        if let Some(totals) = totals {
            add(totals, 1);
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "Endpoints have fewer than 2^52 addresses")]
fn count(count: usize) -> f64 {
    count as f64
}

/// What endpoints of one slice have in common.
fn sort(slice: &Value) -> String {
    format!("{} {}", slice.str_at(&["addressType"]), json::to_string(&slice["ports"]))
}

/// Endpoints by what tells them apart (what their slice is for, and their address), and what is said of each.
type Endpoints = BTreeMap<(String, String), String>;

fn add_endpoints(slice: &Value, to: &mut Endpoints) {
    let sort = sort(slice);
    for it in slice.items_at(&["endpoints"]) {
        let address = it.items_at(&["addresses"]).first().and_then(Value::as_str);
        let address = address.unwrap_or_default().to_owned();
        to.insert((sort.clone(), address), json::to_string(it));
    }
}

/// What the slices that a plan changes have before and after it.
fn touched(slices: &[Arc<Value>], plan: &Plan) -> (Endpoints, Endpoints) {
    let (mut before, mut after) = (Endpoints::new(), Endpoints::new());
    let mut had = |name: &str| {
        let slice = slices.iter().find(|it| it.str_at(&["metadata", "name"]) == name);
        if let Some(slice) = slice {
            add_endpoints(slice, &mut before);
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

/// What there is once a plan is carried out.
fn totals(slices: &[Arc<Value>], plan: &Plan) -> Totals {
    let name = |it: &Value| it.str_at(&["metadata", "name"]).to_owned();
    let mut after: BTreeMap<String, &Value> = slices.iter().map(|it| (name(it), &**it)).collect();
    let mut made: Vec<&Value> = Vec::new();
    for planned in plan.stages.iter().flat_map(|it| &it.actions) {
        match &planned.action {
            Action::Create { object, .. } => made.push(object),
            Action::Update { object, .. } => {
                after.insert(name(object), object);
            }
            Action::Delete { key, .. } => {
                after.remove(key.name.as_str());
            }
            _ => {}
        }
    }
    let all: Vec<&Value> = after.into_values().chain(made).collect();
    let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    Totals {
        endpoints: whole(all.iter().map(|it| it.items_at(&["endpoints"]).len()).sum()),
        slices: whole(all.len()),
        // What is of one sort is no more than fits into one slice.
        needed: whole(all.iter().map(|it| sort(it)).collect::<BTreeSet<_>>().len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_look_adds_changes_and_takes_away_is_counted() {
        let parse = |text: &str| json::parse(text.as_bytes()).unwrap();
        let had = parse(
            r#"{"addressType":"IPv4","ports":[],"metadata":{"name":"s"},
                "endpoints":[{"addresses":["1"]},{"addresses":["2"]}]}"#,
        );
        let mut has = had.clone();
        has.set_at(
            &["endpoints"],
            parse(r#"[{"addresses":["2"],"nodeName":"n"},{"addresses":["3"]}]"#),
        );
        let mut plan = Plan::nothing();
        let resource = client::Resource::built_in("discovery.k8s.io", "endpointslices");
        plan.act(Action::Update { resource, subresource: "", object: has });
        let slices = vec![Arc::new(had)];
        let observed = Observed {
            key: ObjectKey::new("ns", "s"),
            endpoints: Some(Arc::new(Value::object())),
            slices,
        };
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.planned(&observed, &plan, 4);
        let text = component_base::metrics::text(&registry);
        for line in [
            "endpoints_added_per_sync_sum 1.0",
            "endpoints_updated_per_sync_sum 1.0",
            "endpoints_removed_per_sync_sum 1.0",
            "addresses_skipped_per_sync_sum 4.0",
            "endpoints_desired 2",
            "num_endpoint_slices 1",
            "changes_total{operation=\"update\"} 1",
        ] {
            let line = format!("{PREFIX}_{line}");
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
        metrics.gone(&observed.key);
        assert!(component_base::metrics::text(&registry).contains("endpoints_desired 0"));
    }
}
