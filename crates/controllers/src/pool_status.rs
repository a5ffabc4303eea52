//! Answers questions about a driver's pools of devices, once each: how many devices there are, are taken, and are left.
//! Upstream: `pkg/controller/resourcepoolstatusrequest` (KEP-5677).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::quantity::Quantity;
use apimachinery::{Value, time, value};
use client::reflector::Cached;
use client::{ObjectKey, Resource};
use compact_str::CompactString;
use controller::{Action, Controller, Plan, Snapshot, Watches};
use jiff::{SignedDuration, Timestamp};

use crate::owner;

/// How long an answer stays, and a question that gets none.
const ANSWERED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);
/// How many pools an answer has where the question does not say.
const LIMIT: i64 = 100;
/// How many capacities, and bytes of what is wrong, an answer may have of a pool.
const CAPACITIES_MAX: usize = 32;
const ERROR_BYTES_MAX: usize = 256;

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct PoolStatus {
    /// Whether rules taint devices (`DRADeviceTaintRules`).
    pub taints: bool,
}

/// What it sees of a question.
#[derive(Debug)]
pub struct Observed {
    request: Arc<Value>,
    slices: Vec<Arc<Value>>,
    /// Of all claims what they were given.
    results: Vec<Value>,
    taints: Vec<Arc<Value>>,
}

fn resource(plural: &str) -> Resource {
    Resource::built_in("resource.k8s.io", plural)
}

fn is_answered(request: &Value) -> bool {
    request.at(&["status"]).and_then(Value::as_object).is_some_and(|it| !it.is_empty())
}

fn driver(object: &Value) -> &str {
    object.str_at(&["spec", "driver"])
}

impl Controller for PoolStatus {
    const NAME: &'static str = "resourcepoolstatusrequest-controller";
    /// A question.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        let requests = || resource("resourcepoolstatusrequests");
        // A pool that is being published is waited for.
        let waiting = move |slice: &Cached, snapshot: &Snapshot| -> Vec<ObjectKey> {
            let slice = slice.value();
            let all = snapshot.store_for(&requests()).list("").into_iter();
            let waits = |it: &Value| !is_answered(it) && driver(it) == driver(&slice);
            all.filter(|it| waits(&it.value())).map(|it| it.key.clone()).collect()
        };
        let none = |_: &_, _: &Snapshot| Vec::new();
        let watches = watches
            .on_resource(requests(), |change, _| vec![change.key()])
            .on_resource(resource("resourceslices"), move |change, snapshot| {
                change.new.as_ref().map(|it| waiting(it, snapshot)).unwrap_or_default()
            })
            .on_resource(resource("resourceclaims"), none);
        if self.taints { watches.on_resource(resource("devicetaintrules"), none) } else { watches }
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let request = snapshot.store_for(&resource("resourcepoolstatusrequests")).get(key)?.value();
        if is_answered(&request) {
            let (slices, results, taints) = Default::default();
            return Some(Observed { request, slices, results, taints });
        }
        let all = |plural| {
            snapshot.store_for(&resource(plural)).list("").into_iter().map(|it| it.value())
        };
        let pool = request.str_at(&["spec", "poolName"]);
        let is_asked = |slice: &Arc<Value>| {
            driver(slice) == driver(&request)
                && (pool.is_empty() || slice.str_at(&["spec", "pool", "name"]) == pool)
        };
        let results = all("resourceclaims").flat_map(|claim| {
            let path = ["status", "allocation", "devices", "results"];
            let its = claim.items_at(&path).iter();
            // Who only watches a device does not take it.
            let takes = |it: &&Value| {
                it.str_at(&["driver"]) == driver(&request) && !it.bool_at(&["adminAccess"])
            };
            its.filter(takes).cloned().collect::<Vec<_>>()
        });
        Some(Observed {
            slices: all("resourceslices").filter(is_asked).collect(),
            results: results.collect(),
            taints: if self.taints { all("devicetaintrules").collect() } else { Vec::new() },
            request: Arc::clone(&request),
        })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let request = &observed.request;
        let due = due(request, now);
        if now >= due {
            plan.act(owner::delete_value(resource("resourcepoolstatusrequests"), request));
            return plan;
        }
        plan.requeue_by(due);
        if is_answered(request) {
            return plan;
        }
        let pools = pools(observed);
        if pools.values().any(Pool::is_incomplete) {
            return plan;
        }
        let limit = request.i64_at(&["spec", "limit"]).unwrap_or(LIMIT);
        let limit = usize::try_from(limit).unwrap_or_default();
        let told: Vec<Value> = pools
            .iter()
            .take(limit)
            .map(|(name, pool)| pool.status(driver(request), name))
            .collect();
        let wrong = told.iter().filter(|it| it.get("validationError").is_some()).count();
        let mut message = format!("Calculated status for {} pools", told.len());
        if wrong > 0 {
            message = format!("{message} ({wrong} incomplete)");
        }
        let mut object = Value::clone(request);
        object.set_at(
            &["status"],
            value!({"poolCount": (number(pools.len())), "pools": told,
                "conditions": [{"type": "Complete", "status": "True", "reason": "CalculationComplete",
                    "message": message, "lastTransitionTime": (time::format_time(now).to_string())}]}),
        );
        let resource = resource("resourcepoolstatusrequests");
        plan.act(Action::Update { resource, subresource: "status", object });
        plan
    }
}

/// When a question is to go.
fn due(request: &Value, now: Timestamp) -> Timestamp {
    let created = request.str_at(&["metadata", "creationTimestamp"]);
    let (since, stay) = match is_answered(request) {
        true => {
            let mut conditions = request.items_at(&["status", "conditions"]).iter();
            let told = conditions.find(|it| matches!(it.str_at(&["type"]), "Complete" | "Failed"));
            (told.map_or(created, |it| it.str_at(&["lastTransitionTime"])), ANSWERED)
        }
        false => (created, PENDING),
    };
    let since: Timestamp = since.parse().unwrap_or(now);
    since.saturating_add(stay).unwrap_or(Timestamp::MAX)
}

/// A pool as its slices of the newest generation tell it.
#[derive(Debug, Default)]
struct Pool<'o> {
    generation: i64,
    slices: Vec<&'o Value>,
    /// The devices that somebody has, and how much of what is shared is had.
    taken: BTreeSet<&'o str>,
    consumed: BTreeMap<&'o str, Quantity>,
    taints: &'o [Arc<Value>],
}

fn pools(observed: &Observed) -> BTreeMap<CompactString, Pool<'_>> {
    let mut pools: BTreeMap<CompactString, Pool<'_>> = BTreeMap::new();
    for slice in &observed.slices {
        let of = &slice["spec"]["pool"];
        let generation = of.i64_at(&["generation"]).unwrap_or_default();
        let pool = pools.entry(of.str_at(&["name"]).into()).or_default();
        pool.taints = &observed.taints;
        if pool.slices.is_empty() || generation > pool.generation {
            pool.generation = generation;
            pool.slices.clear();
        }
        if generation == pool.generation {
            pool.slices.push(slice);
        }
    }
    for result in &observed.results {
        let Some(pool) = pools.get_mut(result.str_at(&["pool"])) else { continue };
        pool.taken.insert(result.str_at(&["device"]));
        let consumed = result.at(&["consumedCapacity"]).and_then(Value::as_object);
        for (name, amount) in consumed.into_iter().flat_map(|it| it.iter()) {
            let sum = pool.consumed.entry(name).or_default();
            *sum += quantity(amount);
        }
    }
    pools
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn quantity(value: &Value) -> Quantity {
    Quantity::parse(value.as_str().unwrap_or_default()).unwrap_or_default()
}

impl<'o> Pool<'o> {
    /// How many slices it has when all are there.
    fn expected(&self) -> usize {
        let first = self.slices.first();
        let count = first.and_then(|it| it.i64_at(&["spec", "pool", "resourceSliceCount"]));
        usize::try_from(count.unwrap_or_default()).unwrap_or_default()
    }

    fn is_incomplete(&self) -> bool {
        self.slices.len() < self.expected()
    }

    fn devices(&self) -> impl Iterator<Item = &'o Value> {
        self.slices.iter().flat_map(|it| it.items_at(&["spec", "devices"]))
    }

    fn status(&self, driver: &str, name: &str) -> Value {
        let total = self.devices().count();
        let unavailable = self.devices().filter(|it| self.is_unavailable(driver, name, it)).count();
        let taken = self.taken.len();
        let mut status = value!({"driver": driver, "poolName": name, "generation": (self.generation),
            "resourceSliceCount": (number(self.slices.len())), "totalDevices": (number(total)),
            "allocatedDevices": (number(taken)), "unavailableDevices": (number(unavailable)),
            "availableDevices": (number(total.saturating_sub(taken + unavailable)))});
        let mut nodes = self.slices.iter().map(|it| it.str_at(&["spec", "nodeName"]));
        if let Some(node) = nodes.next().filter(|it| !it.is_empty())
            && nodes.all(|it| it == node)
        {
            status.set_at(&["nodeName"], node);
        }
        match self.shareable() {
            Ok(Some(summary)) => status.set_at(&["shareableSummary"], summary),
            Ok(None) => {}
            Err(count) => {
                let mut why = format!(
                    "ShareableSummaryOverCap: pool {driver}/{name} has {count} shareable capacity keys, exceeding the maximum of {CAPACITIES_MAX}"
                );
                why.truncate(why.floor_char_boundary(ERROR_BYTES_MAX));
                status.set_at(&["validationError"], why);
            }
        }
        status
    }

    /// Whether a taint keeps a device from pods: its own, or that of a rule.
    fn is_unavailable(&self, driver: &str, pool: &str, device: &Value) -> bool {
        let keeps = |taint: &Value| matches!(taint.str_at(&["effect"]), "NoSchedule" | "NoExecute");
        let place = [("driver", driver), ("pool", pool), ("device", device.str_at(&["name"]))];
        let selects = |rule: &Value| {
            rule.at(&["spec", "deviceSelector"]).is_some_and(|it| {
                place
                    .iter()
                    .all(|(member, is)| it.get(member).is_none_or(|it| it.as_str() == Some(is)))
            })
        };
        device.items_at(&["taints"]).iter().any(keeps)
            || self.taints.iter().any(|it| keeps(&it["spec"]["taint"]) && selects(it))
    }

    /// What the devices that several claims may have hold together; `None` without any.
    ///
    /// # Errors
    /// How many capacities there are, where they are too many to tell.
    fn shareable(&self) -> Result<Option<Value>, usize> {
        let shared: Vec<&Value> =
            self.devices().filter(|it| it.bool_at(&["allowMultipleAllocations"])).collect();
        if shared.is_empty() {
            return Ok(None);
        }
        let used = shared.iter().filter(|it| self.taken.contains(it.str_at(&["name"]))).count();
        let mut totals: BTreeMap<&str, Quantity> = BTreeMap::new();
        for (name, capacity) in shared
            .iter()
            .filter_map(|it| it.at(&["capacity"])?.as_object())
            .flat_map(|it| it.iter())
        {
            let sum = totals
                .entry(name)
                .or_insert_with(|| Quantity::new(0, quantity(&capacity["value"]).format()));
            *sum += quantity(&capacity["value"]);
        }
        if totals.len() > CAPACITIES_MAX {
            return Err(totals.len());
        }
        let told = totals.iter().map(|(name, total)| {
            let consumed = self.consumed.get(name).copied().unwrap_or_default();
            let left = *total - consumed;
            let left = if left.sign() < 0 { Quantity::new(0, total.format()) } else { left };
            value!({"name": (*name), "total": (total.to_text().as_str()), "consumed": (consumed.to_text().as_str()),
                "available": (left.to_text().as_str())})
        });
        Ok(Some(value!({"fullyAvailableDevices": (number(shared.len() - used)),
            "partiallyAvailableDevices": (number(used)), "capacity": (told.collect::<Value>())})))
    }
}
