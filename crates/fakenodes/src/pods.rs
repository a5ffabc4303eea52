//! The pods of the nodes: which there are, and what happens to them next.

use std::net::Ipv4Addr;
use std::sync::Arc;

use apimachinery::Value;
use client::reflector::{Cached, StoreChange};
use client::{ObjectKey, Resource};
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::addresses::{self, Addresses};
use crate::lifecycle::{self, Place};

/// Moves pods on.
#[derive(Debug)]
pub(crate) struct Pods {
    addresses: Arc<Addresses>,
}

/// A pod, and where it is.
#[derive(Debug)]
pub(crate) struct Observed {
    pod: Arc<Value>,
    place: Place,
}

impl Pods {
    pub(crate) fn new(addresses: Arc<Addresses>) -> Self {
        Self { addresses }
    }
}

/// The number of the node that a pod is bound to; `None` where that is none of ours.
fn node_of(pod: &Value) -> Option<u32> {
    crate::number(pod.str_at(&["spec", "nodeName"]))
}

fn address_of(pod: &Value) -> Option<Ipv4Addr> {
    pod.str_at(&["status", "podIP"]).parse().ok()
}

/// The keys that a change concerns; what a pod had that is gone is free again.
fn concerned(addresses: &Addresses, change: &StoreChange) -> Vec<ObjectKey> {
    let ours = |cached: &Arc<Cached>| crate::number(&cached.pod().node).is_some();
    let settled = |it: &Arc<Cached>| it.pod().is_over() && !it.pod().deleting;
    match (&change.old, &change.new) {
        // Its address was given back when it ended.
        (Some(old), Some(new)) if settled(old) && settled(new) => Vec::new(),
        (_, Some(new)) if ours(new) => vec![new.key.clone()],
        (Some(old), None) if ours(old) => {
            let pod = old.value();
            let over = lifecycle::is_over(&pod);
            addresses.free(&old.key, address_of(&pod).filter(|_| !over));
            Vec::new()
        }
        _ => Vec::new(),
    }
}

impl Controller for Pods {
    const NAME: &'static str = "fake-nodes";
    /// A pod.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        let addresses = Arc::clone(&self.addresses);
        watches.on::<Pod>(move |change, _| concerned(&addresses, change))
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let pod = snapshot.store_for(&Resource::of::<Pod>()).get(key)?.value();
        let node = node_of(&pod)?;
        let known = address_of(&pod);
        match known {
            _ if lifecycle::is_over(&pod) => self.addresses.free(key, known),
            Some(known) => self.addresses.told(key, known),
            None => {}
        }
        let node_address = addresses::of_node(node);
        let address = match known {
            Some(known) => Some(known),
            None if pod.bool_at(&["spec", "hostNetwork"]) => Some(node_address),
            None => self.addresses.give(key, node),
        };
        Some(Observed { pod, place: Place { node: node_address, pod: address } })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        lifecycle::next(&observed.pod, &observed.place, now)
    }
}
