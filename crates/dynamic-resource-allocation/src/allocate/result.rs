//! A solution as the status of claims says it.

use std::borrow::Cow;

use apimachinery::{Value, value};
use compact_str::CompactString;

use super::prepare::{Plan, Way};
use super::search::{Chosen, Solution};
use crate::capacity;
use crate::claim::{Claim, Request};
use crate::slice::Place;

/// `FirstAvailableDeviceRequestMaxSize`
const WAYS_MAX: usize = 8;

/// How good an allocation is: better where better alternatives were taken.
#[must_use]
pub fn rank(claim: &Claim, allocation: &Value) -> i64 {
    let results = allocation.items_at(&["devices", "results"]);
    let given = |name: &str| results.iter().any(|it| it.str_at(&["request"]) == name);
    let prioritized = claim.requests.iter().filter(|it| it.prioritized);
    let ways = prioritized.flat_map(|it| (0..it.ways.len()).map(move |way| (it, way)));
    let taken = ways.filter(|(request, way)| given(&request.reference(*way)));
    let sum: usize = taken.map(|(_, way)| WAYS_MAX.saturating_sub(way)).sum();
    i64::try_from(sum).unwrap_or(i64::MAX)
}

pub(super) fn allocations(
    claims: &[Cow<'_, Claim>],
    plan: &Plan<'_>,
    solution: &Solution<'_>,
    node: &str,
) -> Vec<Value> {
    let each = claims.iter().zip(plan).zip(solution);
    each.map(|((claim, ways), chosen)| allocation(claim, ways, chosen, node)).collect()
}

fn allocation(claim: &Claim, plan: &[Vec<Way<'_>>], chosen: &[Chosen<'_>], node: &str) -> Value {
    let results = chosen.iter().map(|it| result(&claim.requests[it.request], it));
    let mut devices = value!({});
    devices.set_at(&["results"], Value::Array(results.collect()));
    let config = config(claim, plan, chosen);
    if !config.is_empty() {
        devices.set_at(&["config"], Value::Array(config));
    }
    let mut allocation = value!({"devices": devices});
    if let Some(selector) = node_selector(chosen, node) {
        allocation.set_at(&["nodeSelector"], selector);
    }
    allocation
}

fn result(request: &Request, chosen: &Chosen<'_>) -> Value {
    let device = chosen.candidate.device;
    let ask = &request.ways[chosen.way];
    let id = &device.id;
    let mut result = value!({
        "request": (request.reference(chosen.way).as_str()), "driver": (id.driver.as_str()),
        "pool": (id.pool.as_str()), "device": (id.device.as_str())
    });
    if ask.admin {
        result.set_at(&["adminAccess"], true);
    }
    if !ask.written_tolerations.is_null() {
        result.set_at(&["tolerations"], ask.written_tolerations.clone());
    }
    if let Some(consumed) = &chosen.consumed {
        result.set_at(&["shareID"], "");
        let named = capacity::named_as_published(consumed, device);
        for (name, amount) in named {
            result.set_at(&["consumedCapacity", &name], amount.to_text().as_str());
        }
    }
    for (member, conditions) in [
        ("bindingConditions", &device.binding_conditions),
        ("bindingFailureConditions", &device.binding_failure_conditions),
    ] {
        if !conditions.is_empty() {
            let texts = conditions.iter().map(|it| Value::from(it.as_str()));
            result.set_at(&[member], Value::Array(texts.collect()));
        }
    }
    result
}

/// What is said to drivers: by the classes of the requests first, then by the claim.
fn config(claim: &Claim, plan: &[Vec<Way<'_>>], chosen: &[Chosen<'_>]) -> Vec<Value> {
    let way_of =
        |request: usize| chosen.iter().find(|it| it.request == request).map_or(0, |it| it.way);
    let mut all: Vec<(&str, Vec<CompactString>, &Value)> = Vec::new();
    let mut classes: Vec<(&str, std::ops::Range<usize>)> = Vec::new();
    for (index, ways) in plan.iter().enumerate() {
        let way = way_of(index);
        let name = claim.requests[index].reference(way);
        let Some(class) = ways.get(way).map(|it| it.class) else { continue };
        if let Some((_, range)) = classes.iter().find(|(it, _)| *it == class.name) {
            all[range.clone()].iter_mut().for_each(|(_, names, _)| names.push(name.clone()));
            continue;
        }
        let start = all.len();
        all.extend(class.config.iter().map(|it| ("FromClass", vec![name.clone()], it)));
        classes.push((&class.name, start..all.len()));
    }
    for config in &claim.config {
        let names = crate::slice::texts(config, "requests");
        if names.is_empty() {
            all.push(("FromClaim", names, config));
            continue;
        }
        for (index, request) in claim.requests.iter().enumerate() {
            let reference = request.reference(way_of(index));
            if names.contains(&request.name) || names.contains(&reference) {
                all.push(("FromClaim", names.clone(), config));
            }
        }
    }
    let count = claim.requests.len();
    let written = all.into_iter().map(|(source, names, config)| {
        let mut written = value!({"source": source});
        // Said of all requests, nobody needs to be named.
        if !names.is_empty() && names.len() != count {
            let names = names.iter().map(|it| Value::from(it.as_str()));
            written.set_at(&["requests"], Value::Array(names.collect()));
        }
        if let Some(opaque) = config.get("opaque") {
            written.set_at(&["opaque"], opaque.clone());
        }
        written
    });
    written.collect()
}

/// The nodes where all devices can be used; `None` for all.
fn node_selector(chosen: &[Chosen<'_>], node: &str) -> Option<Value> {
    let (mut fields, mut expressions): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for it in chosen {
        let (device, slice) = (it.candidate.device, it.candidate.slice);
        let place = if slice.place == Place::PerDevice { &device.place } else { &slice.place };
        if device.binds_to_node || matches!(place, Place::Node(_)) {
            let only = value!({"key": "metadata.name", "operator": "In", "values": [node]});
            return Some(value!({"nodeSelectorTerms": [{"matchFields": [only]}]}));
        }
        if let Place::Selected(_, selector) = place
            && let [term] = selector.items_at(&["nodeSelectorTerms"])
        {
            add_new(&mut fields, term.items_at(&["matchFields"]));
            add_new(&mut expressions, term.items_at(&["matchExpressions"]));
        }
    }
    let mut term = Value::object();
    for (member, list) in [("matchExpressions", expressions), ("matchFields", fields)] {
        if !list.is_empty() {
            term.set_at(&[member], Value::Array(list));
        }
    }
    let any = term.as_object().is_some_and(|it| !it.is_empty());
    any.then(|| value!({"nodeSelectorTerms": [term]}))
}

fn add_new(to: &mut Vec<Value>, from: &[Value]) {
    for requirement in from {
        if !to.contains(requirement) {
            to.push(requirement.clone());
        }
    }
}
