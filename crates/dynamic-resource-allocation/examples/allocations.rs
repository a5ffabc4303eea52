//! How long it takes to choose devices for a claim on every node of a cluster: `--example allocations NODES DEVICES`.

#![allow(clippy::print_stdout, clippy::disallowed_types, reason = "a measurement for people")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use apimachinery::{Value, value};
use dynamic_resource_allocation::slice::Labels;
use dynamic_resource_allocation::{
    Allocated, Allocation, Allocator, Claim, Class, Node, Selectors, Slice, Slices, Supply,
};

#[derive(Debug)]
struct NoLabels;

impl Labels for NoLabels {
    fn value(&self, _: &str) -> Option<&str> {
        None
    }
}

fn slice(node: &str, devices: usize) -> Slice {
    let device = |number: usize| {
        value!({"name": (format!("gpu-{number}")),
            "attributes": {"model": {"string": "a"}, "index": {"int": (i64::try_from(number).unwrap_or_default())}},
            "capacity": {"memory": {"value": "80Gi"}}})
    };
    let mut slice = value!({"metadata": {"name": node}, "spec": {"driver": "d.example.com", "nodeName": node,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}});
    slice.set_at(&["spec", "devices"], Value::Array((0..devices).map(device).collect()));
    Slice::from_value(&slice)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number =
        |default: usize| arguments.next().and_then(|it| it.parse().ok()).unwrap_or(default);
    let (nodes, devices) = (number(500), number(10));
    let mut slices = Slices::default();
    let names: Vec<String> = (0..nodes).map(|it| format!("node-{it}")).collect();
    for name in &names {
        slices.set(name, Some(Arc::new(slice(name, devices))));
    }
    let class = value!({"metadata": {"name": "gpu"}, "spec": {"selectors": [{"cel": {"expression": "device.driver == 'd.example.com'"}}]}});
    let classes = BTreeMap::from([("gpu".into(), Class::from_value(&class))]);
    let claim = value!({"metadata": {"namespace": "n", "name": "c"}, "spec": {"devices": {"requests": [{"name": "r", "exactly": {
        "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1,
        "selectors": [{"cel": {"expression": "device.capacity['d.example.com'].memory.compareTo(quantity('40Gi')) > 0"}}]}}]}}});
    let claim = Claim::from_value(&claim);
    let (selectors, mut allocated) = (Selectors::default(), Allocated::default());
    let rounds = ["the first pod", "the second", "when all is taken"];
    for (number, round) in rounds.into_iter().enumerate() {
        let begun = Instant::now();
        let mut found = Vec::new();
        let supply = Supply {
            slices: &slices,
            classes: &classes,
            allocated: &allocated,
            selectors: &selectors,
            interrupted: Box::new(|| false),
        };
        let allocator = Allocator::new(supply, vec![std::borrow::Cow::Borrowed(&claim)]);
        for name in &names {
            let node = Node { name, labels: &NoLabels };
            found.extend(allocator.allocate(node).ok().flatten().into_iter().flatten());
        }
        let each = begun.elapsed() / u32::try_from(nodes).unwrap_or(1);
        println!(
            "{round}: {nodes} nodes of {devices} devices, {each:?} a node, {} will do",
            found.len()
        );
        drop(allocator);
        if number == 1 {
            for name in &names {
                for device in 0..devices {
                    let given = value!({"driver": "d.example.com", "pool": (name.as_str()), "device": (format!("gpu-{device}"))});
                    allocated
                        .take(&Allocation::from_value(&value!({"devices": {"results": [given]}})));
                }
            }
        }
    }
}
