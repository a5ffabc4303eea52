use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::{Value, value};
use compact_str::CompactString;

use super::*;
use crate::slice::{Labels, Slice};

struct NodeLabels;

impl Labels for NodeLabels {
    fn value(&self, key: &str) -> Option<&str> {
        (key == "zone").then_some("a")
    }
}

/// What there is in a case.
struct World {
    slices: Slices,
    classes: BTreeMap<CompactString, Class>,
    allocated: Allocated,
}

impl World {
    fn new(slices: &[Value]) -> Self {
        let mut world = Self {
            slices: Slices::default(),
            classes: BTreeMap::new(),
            allocated: Allocated::default(),
        };
        for (number, spec) in slices.iter().enumerate() {
            let mut spec = spec.clone();
            spec.default_at(&["driver"], "d");
            spec.default_at(&["pool", "name"], "p");
            spec.default_at(&["pool", "generation"], 1);
            spec.default_at(&["pool", "resourceSliceCount"], i64::try_from(slices.len()).unwrap());
            let name = format!("s{number}");
            let slice = value!({"metadata": {"name": (name.as_str())}, "spec": spec});
            world.slices.set(&name, Some(Arc::new(Slice::from_value(&slice))));
        }
        for (name, selector) in
            [("any", "true"), ("d", "device.driver == 'd'"), ("bad", "device.attributes['d'].nope")]
        {
            let class = value!({"metadata": {"name": name}, "spec": {"selectors": [{"cel": {"expression": selector}}],
                "config": [{"opaque": {"driver": "d", "parameters": {"of": name}}}]}});
            world.classes.insert(name.into(), Class::from_value(&class));
        }
        world
    }

    fn taken(mut self, devices: &[&str]) -> Self {
        for name in devices {
            let given = value!({"driver": "d", "pool": "p", "device": (*name)});
            self.allocated.take(&crate::claim::Allocation::from_value(
                &value!({"devices": {"results": [given]}}),
            ));
        }
        self
    }

    fn allocate(&self, claims: &[Value]) -> Result<Option<Vec<Value>>, AllocateError> {
        let claims: Vec<Claim> = claims
            .iter()
            .enumerate()
            .map(|(number, devices)| {
                let name = format!("c{number}");
                Claim::from_value(&value!({"metadata": {"namespace": "ns", "name": name}, "spec": {"devices": (devices.clone())}}))
            })
            .collect();
        let claims = claims.iter().map(std::borrow::Cow::Borrowed).collect();
        let selectors = Selectors::default();
        let asked = Cell::new(0);
        let supply = Supply {
            slices: &self.slices,
            classes: &self.classes,
            allocated: &self.allocated,
            selectors: &selectors,
            interrupted: Box::new(|| asked.replace(asked.get() + 1) > 50),
        };
        Allocator::new(supply, claims).allocate(Node { name: "n", labels: &NodeLabels })
    }

    /// `request=device`, claim by claim.
    fn check(&self, claims: &[Value], expected: &str) {
        let told = match self.allocate(claims) {
            Ok(None) => "nothing".to_owned(),
            Err(AllocateError::Claim(why) | AllocateError::Node(why)) => why,
            Err(AllocateError::TimedOut) => "timed out".to_owned(),
            Ok(Some(allocations)) => {
                let each = allocations.iter().map(|it| {
                    let results = it.items_at(&["devices", "results"]).iter();
                    let results = results.map(|it| {
                        format!("{}={}", it.str_at(&["request"]), it.str_at(&["device"]))
                    });
                    results.collect::<Vec<_>>().join(" ")
                });
                each.collect::<Vec<_>>().join("; ")
            }
        };
        assert_eq!(told, expected, "{claims:?}");
    }
}

fn devices(names: &[&str]) -> Value {
    let devices = names
        .iter()
        .map(|it| value!({"name": (*it), "attributes": {"kind": {"string": (&it[..1])}}}));
    let mut spec = value!({"nodeName": "n"});
    spec.set_at(&["devices"], Value::Array(devices.collect()));
    spec
}

fn request(name: &str, count: i64) -> Value {
    value!({"name": name, "exactly": {"deviceClassName": "any", "allocationMode": "ExactCount", "count": count}})
}

fn of_kind(name: &str, count: i64, kind: &str) -> Value {
    let mut request = request(name, count);
    let expression = format!("device.attributes['d'].kind == '{kind}'");
    let selector = value!({"cel": {"expression": expression}});
    request.set_at(&["exactly", "selectors"], Value::Array(vec![selector]));
    request
}

fn claim(requests: &[Value]) -> Value {
    let mut claim = value!({});
    claim.set_at(&["requests"], Value::Array(requests.to_vec()));
    claim
}

#[test]
fn the_first_devices_in_order_are_given() {
    let world = World::new(&[devices(&["a1", "a2", "b1"]), devices(&["b2"])]);
    world.check(&[claim(&[request("r", 1)])], "r=a1");
    world.check(&[claim(&[request("r", 3)])], "r=a1 r=a2 r=b1");
    world.check(&[claim(&[of_kind("r", 2, "b")])], "r=b1 r=b2");
    world.check(&[claim(&[of_kind("r", 3, "b")])], "nothing");
    world.check(&[claim(&[request("r", 1)]), claim(&[request("r", 1)])], "r=a1; r=a2");
    let world = world.taken(&["a1", "b1"]);
    world.check(&[claim(&[request("r", 2)])], "r=a2 r=b2");
}

#[test]
fn the_search_goes_back_where_a_choice_leaves_nothing_for_another() {
    let world = World::new(&[devices(&["a1", "b1"])]);
    world.check(&[claim(&[request("any", 1), of_kind("a", 1, "a")])], "any=b1 a=a1");
    world.check(&[claim(&[request("any", 1)]), claim(&[of_kind("a", 1, "a")])], "any=b1; a=a1");
}

#[test]
fn what_cannot_be_had_is_found_out_without_trying_every_combination() {
    let names: Vec<String> = (0..60).map(|it| format!("a{it:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::new(&[devices(&names)]).taken(&names[..32]);
    world.check(&[claim(&[request("r", 29)])], "nothing");
    world.check(&[claim(&[request("r", 10), of_kind("b", 1, "b")])], "nothing");
    // Here every combination of a request is like the others, which nobody knows.
    let mut apart = claim(&[request("r", 10), request("s", 2)]);
    apart.set_at(&["constraints"], value!([{"requests": ["s"], "distinctAttribute": "d/kind"}]));
    world.check(&[apart], "timed out");
}

#[test]
fn all_devices_are_all_or_none() {
    let all = value!({"name": "all", "exactly": {"deviceClassName": "d", "allocationMode": "All"}});
    let world = World::new(&[devices(&["a1", "a2"])]);
    world.check(&[claim(std::slice::from_ref(&all))], "all=a1 all=a2");
    let world = world.taken(&["a2"]);
    world.check(&[claim(std::slice::from_ref(&all))], "nothing");
    let mut watching = all.clone();
    watching.set_at(&["exactly", "adminAccess"], true);
    world.check(&[claim(&[watching])], "all=a1 all=a2");
    World::new(&[]).check(&[claim(std::slice::from_ref(&all))], "nothing");
    let mut incomplete = devices(&["a1"]);
    incomplete.set_at(&["pool", "resourceSliceCount"], 2);
    World::new(&[incomplete]).check(
        &[claim(&[all])],
        "claim ns/c0, request all: asks for all devices, but resource pool d/p is currently being updated",
    );
}

#[test]
fn the_first_alternative_that_can_be_had_is_taken() {
    let way = |name: &str, count: i64| value!({"name": name, "deviceClassName": "any", "allocationMode": "ExactCount", "count": count});
    let request = value!({"name": "r", "firstAvailable": [(way("three", 3)), (way("two", 2)), (way("one", 1))]});
    let config = |name: &str| value!({"requests": [name], "opaque": {"driver": "d", "parameters": {"n": name}}});
    let mut claim = claim(&[request]);
    claim.set_at(&["config"], Value::Array(vec![config("r/three"), config("r/two"), config("r")]));
    let world = World::new(&[devices(&["a1", "a2"])]);
    world.check(std::slice::from_ref(&claim), "r/two=a1 r/two=a2");
    let allocation = world.allocate(std::slice::from_ref(&claim)).unwrap().unwrap().remove(0);
    let config = allocation.items_at(&["devices", "config"]);
    let told: Vec<String> = config
        .iter()
        .map(|it| {
            let parameters = &it["opaque"]["parameters"];
            format!(
                "{} {}{}",
                it.str_at(&["source"]),
                parameters.str_at(&["n"]),
                parameters.str_at(&["of"])
            )
        })
        .collect();
    assert_eq!(told, ["FromClass any", "FromClaim r/two", "FromClaim r"]);
    let claim = Claim::from_value(&value!({"spec": {"devices": claim}}));
    assert_eq!(rank(&claim, &allocation), 7);
}

#[test]
fn constraints_hold_of_all_devices_that_they_name() {
    let world = World::new(&[devices(&["a1", "b1", "b2", "c1"])]);
    let with = |constraint: Value| {
        let mut claim = claim(&[request("x", 1), request("y", 1)]);
        claim.set_at(&["constraints"], Value::Array(vec![constraint]));
        claim
    };
    world.check(&[with(value!({"matchAttribute": "d/kind"}))], "x=b1 y=b2");
    world.check(&[with(value!({"distinctAttribute": "d/kind"}))], "x=a1 y=b1");
    world.check(&[with(value!({"matchAttribute": "d/nope"}))], "nothing");
    world.check(&[with(value!({"matchAttribute": "d/kind", "requests": ["x"]}))], "x=a1 y=b1");
}

#[test]
fn taints_keep_those_away_who_do_not_bear_them() {
    let mut spec = devices(&["a1", "a2"]);
    let taint = value!([{"key": "broken", "effect": "NoSchedule"}]);
    spec.items_at_mut(&["devices"])[0].set_at(&["taints"], taint);
    let world = World::new(&[spec]);
    world.check(&[claim(&[request("r", 1)])], "r=a2");
    let mut bearing = request("r", 1);
    let toleration = value!([{"key": "broken", "operator": "Exists"}]);
    bearing.set_at(&["exactly", "tolerations"], toleration);
    world.check(&[claim(&[bearing])], "r=a1");
}

#[test]
fn partitions_of_one_device_share_its_counters() {
    let part = |name: &str, memory: &str| value!({"name": name, "consumesCounters": [{"counterSet": "gpu", "counters": {"memory": {"value": memory}}}]});
    let counters = value!({"nodeName": "n", "sharedCounters": [{"name": "gpu", "counters": {"memory": {"value": "80Gi"}}}]});
    let mut parts = value!({"nodeName": "n"});
    let list = vec![part("whole", "80Gi"), part("half-0", "40Gi"), part("half-1", "40Gi")];
    parts.set_at(&["devices"], Value::Array(list));
    let world = World::new(&[counters, parts]);
    world.check(&[claim(&[request("r", 1)])], "r=whole");
    world.check(&[claim(&[request("r", 2)])], "r=half-0 r=half-1");
    world.check(&[claim(&[request("r", 3)])], "nothing");
    let world = world.taken(&["half-0"]);
    world.check(&[claim(&[request("r", 1)])], "r=half-1");
}

#[test]
fn devices_that_are_shared_are_shared_until_they_are_used_up() {
    let spec = value!({"nodeName": "n", "devices": [
        {"name": "a", "allowMultipleAllocations": true, "capacity": {"memory": {"value": "10Gi",
            "requestPolicy": {"default": "1Gi", "validRange": {"min": "1Gi", "step": "1Gi"}}}}},
        {"name": "b", "allowMultipleAllocations": true, "capacity": {"memory": {"value": "10Gi"}}}]});
    let some = |name: &str, memory: &str| {
        let mut request = request(name, 1);
        request.set_at(&["exactly", "capacity", "requests", "memory"], memory);
        request
    };
    let mut world = World::new(&[spec]);
    world.check(&[claim(&[some("x", "4Gi"), some("y", "6Gi")])], "x=a y=a");
    world.check(&[claim(&[some("x", "4Gi"), some("y", "7Gi")])], "x=a y=b");
    let first = world.allocate(&[claim(&[some("x", "3500Mi")])]).unwrap().unwrap().remove(0);
    let result = &first.items_at(&["devices", "results"])[0];
    assert_eq!(result.str_at(&["consumedCapacity", "memory"]), "4Gi");
    assert!(result.get("shareID").is_some());
    world.allocated.take(&crate::claim::Allocation::from_value(&first));
    world.check(&[claim(&[some("x", "7Gi")])], "x=b");
    world.check(&[claim(&[some("x", "6Gi")])], "x=a");
}

#[test]
fn an_allocation_says_where_it_can_be_used() {
    let check = |place: Value, expected: &str| {
        let mut spec = place;
        spec.set_at(&["devices"], value!([{"name": "a"}]));
        let world = World::new(&[spec]);
        let allocation = world.allocate(&[claim(&[request("r", 1)])]).unwrap().unwrap().remove(0);
        let selector = allocation.get("nodeSelector");
        let told = selector.map(|it| String::from_utf8(apimachinery::json::to_vec(it)).unwrap());
        assert_eq!(told.unwrap_or_default(), expected);
    };
    check(value!({"allNodes": true}), "");
    check(
        value!({"nodeName": "n"}),
        r#"{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"In","values":["n"]}]}]}"#,
    );
    check(
        value!({"nodeSelector": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]}}),
        r#"{"nodeSelectorTerms":[{"matchExpressions":[{"key":"zone","operator":"In","values":["a"]}]}]}"#,
    );
}

#[test]
fn what_is_wrong_with_a_claim_or_class_is_told() {
    let world = World::new(&[devices(&["a1"])]);
    let of_class = |class: &str| {
        let mut request = request("r", 1);
        request.set_at(&["exactly", "deviceClassName"], class);
        claim(&[request])
    };
    world.check(
        &[of_class("nope")],
        "claim ns/c0, request r: could not retrieve device class nope: deviceclass.resource.k8s.io \"nope\" not found",
    );
    world.check(
        &[of_class("bad")],
        "class bad: selector #0 on device d/p/a1: CEL runtime error: no such key: nope",
    );
    world.check(
        &[claim(&[request("r", 33)])],
        "claim ns/c0: number of requested devices 33 exceeds the claim limit of 32",
    );
    let double = World::new(&[devices(&["a1"]), devices(&["a1"])]);
    double.check(&[claim(&[request("r", 1)])], "invalid resource pools were encountered");
}
