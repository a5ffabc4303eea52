//! What two objects may not have at once: addresses of services, ports and ranges of nodes, volumes, devices.

use std::collections::BTreeMap;

use apimachinery::Value;

use super::{Rule, uid};
use crate::observer::{Change, Context};

const RULE: &str = "addresses, ports, ranges, volumes and devices are given once";

#[derive(Debug, Default)]
pub(super) struct Unique {
    held: BTreeMap<String, String>,
}

/// What an object holds.
fn holds(kind: &str, object: &Value) -> Vec<String> {
    match kind {
        "Service" => {
            let addresses = object.items_at(&["spec", "clusterIPs"]).iter();
            let addresses = addresses.filter_map(Value::as_str).filter(|it| *it != "None");
            let ports = object.items_at(&["spec", "ports"]).iter();
            let ports = ports.filter_map(|it| {
                let port = it.i64_at(&["nodePort"]).filter(|it| *it > 0)?;
                Some(format!("node port {port}/{}", it.str_at(&["protocol"])))
            });
            addresses.map(|it| format!("address {it}")).chain(ports).collect()
        }
        "Node" => {
            let ranges = object.items_at(&["spec", "podCIDRs"]).iter();
            ranges.filter_map(Value::as_str).map(|it| format!("range {it}")).collect()
        }
        "PersistentVolumeClaim" => {
            let volume = object.str_at(&["spec", "volumeName"]);
            if volume.is_empty() { Vec::new() } else { vec![format!("volume {volume}")] }
        }
        "ResourceClaim" => {
            let results = object.items_at(&["status", "allocation", "devices", "results"]).iter();
            let name = |it: &Value| {
                let part = |member| it.str_at(&[member]);
                format!("device {}/{}/{}", part("driver"), part("pool"), part("device"))
            };
            results.map(name).collect()
        }
        _ => Vec::new(),
    }
}

impl Rule for Unique {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        if let Some(old) = change.old {
            for held in holds(change.kind, old) {
                if self.held.get(&held).is_some_and(|it| it == uid(old)) {
                    self.held.remove(&held);
                }
            }
        }
        let Some(new) = change.new else { return };
        for held in holds(change.kind, new) {
            let owner = uid(new).to_owned();
            let name = &change.place.name;
            if let Some(other) = self.held.insert(held.clone(), owner.clone())
                && other != owner
            {
                let what = format!("{} {name} has {held}, which {other} has", change.kind);
                context.ledger.violation(RULE, what);
            }
        }
    }
}
