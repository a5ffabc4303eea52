//! Hints by the sizes of zones: each zone gets a part of the endpoints that is like its part of the processors. Upstream:
//! `topologycache`.
//!
//! Pure: slices that do not change keep their hints where these still fit, so that a pod that comes moves few others.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use apimachinery::{Value, value};
use client::reflector::Cached;

/// How much more than its part an endpoint may get.
const OVERLOAD: f64 = 0.2;
/// Nodes with these labels take no part.
const EXCLUDED: &[&str] =
    &["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
const ZONE: &str = "topology.kubernetes.io/zone";

const NO_NODE_INFO: &str =
    "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes";
const NO_ZONE: &str = "One or more endpoints do not have a zone specified";
const TOO_FEW: &str = "Insufficient number of endpoints";
const OVERLOADED: &str = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold";

/// What counts of a node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeFacts {
    zone: String,
    milli_cpu: i64,
}

impl NodeFacts {
    /// `None` for a node that takes no part.
    pub(super) fn of(node: &Cached) -> Option<Self> {
        let node = node.value();
        let labels = node.at(&["metadata", "labels"]);
        if EXCLUDED.iter().any(|it| labels.is_some_and(|labels| labels.get(it).is_some())) {
            return None;
        }
        let mut conditions = node.items_at(&["status", "conditions"]).iter();
        let ready = conditions.find(|it| it.str_at(&["type"]) == "Ready")?;
        if ready.str_at(&["status"]) != "True" {
            return None;
        }
        let cpu = Quantity::parse(node.str_at(&["status", "allocatable", "cpu"]));
        Some(Self {
            zone: node.str_at(&["metadata", "labels", ZONE]).to_owned(),
            milli_cpu: cpu.map_or(0, |it| it.milli_value()),
        })
    }
}

/// The part of the processors that each zone has; `None` where that is not known, or there is one zone.
pub(super) type Parts = Option<BTreeMap<String, f64>>;

/// The parts of zones.
#[expect(clippy::cast_precision_loss, reason = "processors of a cluster are no such large numbers")]
pub(super) fn parts(nodes: impl Iterator<Item = NodeFacts>) -> Parts {
    let mut zones: BTreeMap<String, i64> = BTreeMap::new();
    for node in nodes {
        if node.zone.is_empty() || node.milli_cpu == 0 {
            return None;
        }
        let sum = zones.entry(node.zone).or_default();
        *sum = sum.saturating_add(node.milli_cpu);
    }
    let total: i64 = zones.values().fold(0, |sum, it| sum.saturating_add(*it));
    (zones.len() >= 2 && total > 0)
        .then(|| zones.into_iter().map(|(zone, it)| (zone, it as f64 / total as f64)).collect())
}

/// The slices of one family of addresses.
#[derive(Debug, Default)]
pub(super) struct Slices {
    /// Those that are written in any case.
    pub(super) written: Vec<Value>,
    /// Those that are not, unless their hints change.
    pub(super) unchanged: Vec<Value>,
}

/// What came of it.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Hinted,
    /// Why there are no hints.
    Without(String),
}

#[derive(Debug, Clone, Copy)]
struct Allocation {
    maximum: i64,
    desired: f64,
}

type Counts = BTreeMap<String, i64>;

impl Slices {
    /// Gives all slices their hints, or takes them away where they cannot be given. Of the unchanged those stay that need
    /// not be written.
    pub(super) fn hint(&mut self, parts: &Parts) -> Outcome {
        let total = self.written.iter().chain(&self.unchanged).flat_map(endpoints);
        let total = total.filter(|it| is_ready(it)).count();
        let allocations = match allocations(parts, i64::try_from(total).unwrap_or(i64::MAX)) {
            Ok(allocations) => allocations,
            Err(why) => return self.without(why),
        };
        let mut hinted = Counts::new();
        let unchanged = std::mem::take(&mut self.unchanged);
        for slice in unchanged {
            match kept(&slice, &hinted, &allocations) {
                Some(counts) => {
                    counts
                        .into_iter()
                        .for_each(|(zone, it)| *hinted.entry(zone).or_default() += it);
                    self.unchanged.push(slice);
                }
                None => self.written.push(slice),
            }
        }
        let all_have_zones = self.written.iter().flat_map(endpoints);
        let mut all_have_zones = all_have_zones.filter(|it| is_ready(it));
        if !all_have_zones.all(|it| !it.str_at(&["zone"]).is_empty()) {
            return self.without(NO_ZONE.into());
        }
        for endpoint in self.written.iter_mut().flat_map(endpoints_mut) {
            endpoint.remove_at(&["hints"]);
            if is_ready(endpoint) {
                let zone = endpoint.str_at(&["zone"]).to_owned();
                set(endpoint, &zone);
                *hinted.entry(zone).or_default() += 1;
            }
        }
        let (giving, receiving) = moves(&allocations, &hinted);
        self.redistribute(giving, receiving);
        Outcome::Hinted
    }

    /// Takes hints from what has some.
    pub(super) fn without(&mut self, why: String) -> Outcome {
        let has = |slice: &Value| endpoints(slice).iter().any(|it| it.get("hints").is_some());
        let (hinted, plain) = std::mem::take(&mut self.unchanged).into_iter().partition(has);
        self.unchanged = plain;
        let hinted: Vec<Value> = hinted;
        self.written.extend(hinted);
        for endpoint in self.written.iter_mut().flat_map(endpoints_mut) {
            endpoint.remove_at(&["hints"]);
        }
        Outcome::Without(why)
    }

    fn redistribute(&mut self, mut giving: Counts, mut receiving: Counts) {
        for endpoint in self.written.iter_mut().flat_map(endpoints_mut).filter(|it| is_ready(it)) {
            let Some(left) = giving.get_mut(endpoint.str_at(&["zone"])).filter(|it| **it > 0)
            else {
                continue;
            };
            let Some((zone, wanted)) = receiving.iter_mut().find(|(_, it)| **it > 0) else {
                return;
            };
            *left -= 1;
            *wanted -= 1;
            let zone = zone.clone();
            set(endpoint, &zone);
        }
    }
}

fn endpoints(slice: &Value) -> &[Value] {
    slice.items_at(&["endpoints"])
}

fn endpoints_mut(slice: &mut Value) -> &mut [Value] {
    slice.items_at_mut(&["endpoints"])
}

fn is_ready(endpoint: &Value) -> bool {
    endpoint.bool_at(&["conditions", "ready"])
}

fn set(endpoint: &mut Value, zone: &str) {
    endpoint.set_at(&["hints"], value!({"forZones": [{"name": zone}]}));
}

/// How many endpoints each zone is to have, and may.
#[expect(clippy::cast_possible_truncation, reason = "as many as there are endpoints at most")]
#[expect(clippy::cast_precision_loss, reason = "endpoints are no such large numbers")]
fn allocations(parts: &Parts, total: i64) -> Result<BTreeMap<String, Allocation>, String> {
    let Some(parts) = parts else { return Err(NO_NODE_INFO.into()) };
    let zones = i64::try_from(parts.len()).unwrap_or(i64::MAX);
    if zones > total {
        return Err(format!("{TOO_FEW} ({total} endpoints, {zones} zones)"));
    }
    let least = |part: f64| (part * total as f64 / (1.0 + OVERLOAD)).ceil() as i64;
    let sum: i64 = parts.values().map(|it| least(*it)).sum();
    if sum > total {
        return Err(format!("{OVERLOADED} ({total} endpoints, {zones} zones)"));
    }
    let allocation = |part: f64| {
        let minimum = least(part);
        let desired = (part * total as f64).max(minimum as f64);
        Allocation { maximum: minimum + total - sum, desired }
    };
    Ok(parts.iter().map(|(zone, part)| (zone.clone(), allocation(*part))).collect())
}

/// The hints of a slice, where all of them still fit.
fn kept(
    slice: &Value,
    hinted: &Counts,
    allocations: &BTreeMap<String, Allocation>,
) -> Option<Counts> {
    let mut counts = Counts::new();
    for endpoint in endpoints(slice).iter().filter(|it| is_ready(it)) {
        let zones = endpoint.items_at(&["hints", "forZones"]);
        if zones.is_empty() {
            return None;
        }
        for zone in zones {
            *counts.entry(zone.str_at(&["name"]).to_owned()).or_default() += 1;
        }
    }
    let fits = counts.iter().all(|(zone, count)| {
        let before = hinted.get(zone).copied().unwrap_or_default();
        allocations.get(zone).is_some_and(|it| before + count <= it.maximum)
    });
    fits.then_some(counts)
}

/// How many endpoints zones give to others, and how many they get.
#[expect(clippy::cast_precision_loss, reason = "endpoints are no such large numbers")]
fn moves(allocations: &BTreeMap<String, Allocation>, hinted: &Counts) -> (Counts, Counts) {
    let excess = allocations.iter().map(|(zone, it)| {
        let has = hinted.get(zone).copied().unwrap_or_default() as f64;
        (zone, has - it.desired)
    });
    let (mut more, mut less): (Vec<_>, Vec<_>) =
        excess.filter(|(_, it)| *it != 0.0).partition(|(_, it)| *it > 0.0);
    less.iter_mut().for_each(|(_, it)| *it = -*it);
    let (mut giving, mut receiving) = (Counts::new(), Counts::new());
    while let (Some(most), Some(fewest)) = (largest(&mut more), largest(&mut less)) {
        if (most.1 < 1.0 && fewest.1 < 1.0) || most.1 < 0.5 || fewest.1 < 0.5 {
            break;
        }
        *giving.entry(most.0.clone()).or_default() += 1;
        *receiving.entry(fewest.0.clone()).or_default() += 1;
        most.1 -= 1.0;
        fewest.1 -= 1.0;
    }
    (giving, receiving)
}

fn largest<'v, 'z>(zones: &'v mut [(&'z String, f64)]) -> Option<&'v mut (&'z String, f64)> {
    // The first by name of several: upstream takes any.
    let place = (0..zones.len()).rev().max_by(|a, b| zones[*a].1.total_cmp(&zones[*b].1))?;
    zones.get_mut(place).filter(|it| it.1 > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts_of(cpus: &[(&str, i64)]) -> Parts {
        let node =
            |(zone, cpu): &(&str, i64)| NodeFacts { zone: (*zone).into(), milli_cpu: cpu * 1000 };
        parts(cpus.iter().map(node))
    }

    /// A slice with an endpoint in each of these zones, hinted for what follows the stroke.
    fn slice(zones: &[&str]) -> Value {
        let endpoint = |text: &&str| {
            let (zone, hint) = text.split_once('/').unwrap_or((text, ""));
            let mut endpoint = value!({"zone": zone, "conditions": {"ready": true}});
            if !hint.is_empty() {
                set(&mut endpoint, hint);
            }
            endpoint
        };
        value!({"endpoints": (zones.iter().map(endpoint).collect::<Value>())})
    }

    fn told(slices: &[Value]) -> String {
        let hint = |it: &Value| match it.items_at(&["hints", "forZones"]) {
            [zone] => zone.str_at(&["name"]).to_owned(),
            _ => "-".to_owned(),
        };
        slices.iter().flat_map(endpoints).map(hint).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn zones_get_endpoints_by_their_processors() {
        for (cpus, zones, expected) in [
            // As much in each zone: everybody stays at home.
            (&[("a", 1), ("b", 1)][..], &["a", "b", "a", "b"][..], "a b a b"),
            // All in one zone: it gives half away.
            (&[("a", 1), ("b", 1)], &["a", "a", "a", "a"], "b b a a"),
            (&[("a", 3), ("b", 1)], &["b", "b", "a", "b"], "a a a b"),
        ] {
            let mut slices = Slices { written: vec![slice(zones)], unchanged: Vec::new() };
            assert_eq!(slices.hint(&parts_of(cpus)), Outcome::Hinted, "{cpus:?} {zones:?}");
            assert_eq!(told(&slices.written), expected, "{cpus:?} {zones:?}");
        }
    }

    #[test]
    fn where_hints_would_overload_there_are_none() {
        for (cpus, zones, expected) in [
            (
                &[("a", 1), ("b", 1)][..],
                &["a"][..],
                "Insufficient number of endpoints (1 endpoints, 2 zones)",
            ),
            (
                &[("a", 1), ("b", 1)],
                &["a", "b", "a"],
                "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold (3 endpoints, 2 zones)",
            ),
            (&[("a", 1)], &["a", "a"], NO_NODE_INFO),
            (&[("a", 1), ("", 1)], &["a", "a"], NO_NODE_INFO),
            (&[("a", 1), ("b", 1)], &["a", ""], NO_ZONE),
        ] {
            let mut slices = Slices { written: vec![slice(zones)], unchanged: Vec::new() };
            let outcome = slices.hint(&parts_of(cpus));
            assert_eq!(outcome, Outcome::Without(expected.into()), "{cpus:?} {zones:?}");
            assert!(told(&slices.written).chars().all(|it| it == '-' || it == ' '));
        }
    }

    #[test]
    fn unchanged_slices_are_written_only_where_their_hints_do_not_fit() {
        let cpus = parts_of(&[("a", 1), ("b", 1)]);
        let fitting = slice(&["a/b", "b/a", "a/a", "b/b"]);
        let mut slices = Slices { written: Vec::new(), unchanged: vec![fitting.clone()] };
        assert_eq!(slices.hint(&cpus), Outcome::Hinted);
        assert_eq!((slices.written.len(), &slices.unchanged), (0, &vec![fitting]));
        let mut slices =
            Slices { written: Vec::new(), unchanged: vec![slice(&["a/a", "b/a", "a/a", "b/a"])] };
        assert_eq!(slices.hint(&cpus), Outcome::Hinted);
        assert_eq!((told(&slices.written).as_str(), slices.unchanged.len()), ("a b a b", 0));
        // Without nodes to go by, what was hinted before is no more.
        let mut slices = Slices { written: Vec::new(), unchanged: vec![slice(&["a/a", "b/b"])] };
        assert_eq!(slices.hint(&None), Outcome::Without(NO_NODE_INFO.into()));
        assert_eq!(told(&slices.written), "- -");
    }
}
