//! What a node's status says is attached, and is no volume's any more: volume and order went before the entry could.

use std::collections::BTreeSet;
use std::sync::Arc;

use apimachinery::{Value, value};
use client::call::PatchKind;
use client::csi_translation::OfDriver;
use client::indexes::BY_ATTACHED;
use client::{ObjectKey, Resource};
use compact_str::CompactString;
use controller::{Action, Plan, Snapshot};
use k8s_openapi::api::core::v1::{Node, PersistentVolume};
use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::plan::attachment_name;
use super::{Observed, is_out_of_service};

/// The names in a node's status of volumes that there are neither volumes nor orders of, and that it does not use.
pub(super) fn of_node(snapshot: &Snapshot, name: &str) -> Option<Observed> {
    let node = snapshot.store::<Node>().get(&ObjectKey::new("", name))?.value();
    let volumes = snapshot.store::<PersistentVolume>();
    let orders = snapshot.store::<VolumeAttachment>();
    let let_go = is_out_of_service(&node);
    let in_use = node.items_at(&["status", "volumesInUse"]);
    let is_stray = |entry: &str| {
        let Some((driver, handle)) = OfDriver::parts(entry) else { return false };
        let order = ObjectKey::new("", attachment_name(driver, handle, name));
        let used = !let_go && in_use.iter().any(|it| it.as_str() == Some(entry));
        !used && volumes.by_index(BY_ATTACHED, entry).is_empty() && orders.get(&order).is_none()
    };
    let entries = names(&node).filter(|it| is_stray(it)).map(CompactString::from);
    let strays: BTreeSet<CompactString> = entries.collect();
    Some(Observed::Node(node, strays))
}

pub(super) fn plan(node: &Arc<Value>, strays: &BTreeSet<CompactString>) -> Plan {
    let mut plan = Plan::nothing();
    if !strays.is_empty() {
        let entries = node.items_at(&["status", "volumesAttached"]).iter();
        let rest = entries.filter(|it| !strays.contains(it.str_at(&["name"])));
        plan.act(tell_node(node, rest.cloned().collect()));
    }
    plan
}

/// What a volume that is gone is called in the status of a node, by the orders that there still are.
pub(super) fn entry_of(node: &Value, orders: &[Arc<Value>]) -> Option<CompactString> {
    let place = node.str_at(&["metadata", "name"]);
    let is_its = |entry: &&str| {
        let Some((driver, handle)) = OfDriver::parts(entry) else { return false };
        let order = attachment_name(driver, handle, place);
        orders.iter().any(|it| it.str_at(&["metadata", "name"]) == order)
    };
    names(node).find(is_its).map(CompactString::from)
}

fn names(node: &Value) -> impl Iterator<Item = &str> {
    node.items_at(&["status", "volumesAttached"]).iter().map(|it| it.str_at(&["name"]))
}

/// Writes what is attached into the status of a node.
pub(super) fn tell_node(node: &Value, attached: Vec<Value>) -> Action {
    let metadata = |member| node.str_at(&["metadata", member]);
    let attached = if attached.is_empty() { Value::Null } else { Value::Array(attached) };
    Action::Patch {
        resource: Resource::of::<Node>(),
        key: ObjectKey::new("", metadata("name")),
        subresource: "status",
        kind: PatchKind::Merge,
        // The whole list: who changed it meanwhile is not overwritten.
        patch: value!({"metadata": {"resourceVersion": (metadata("resourceVersion"))},
            "status": {"volumesAttached": attached}}),
        gone_is_fine: true,
    }
}
