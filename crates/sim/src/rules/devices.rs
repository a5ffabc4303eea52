//! Pods are bound with devices that are theirs, and keep them as long as they run.

use apimachinery::Value;

use super::{Rule, device_claims_of, is_terminal, uid};
use crate::observer::{Change, Context};

const OWN: &str = "pods are bound to nodes with devices that are theirs";
const KEPT: &str = "no device is taken from a pod that runs";

#[derive(Debug)]
pub(super) struct Devices;

impl Rule for Devices {
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>) {
        match change.kind {
            "Pod" => pod(change, context),
            "ResourceClaim" => claim(change, context),
            _ => {}
        }
    }
}

fn is_allocated(claim: &Value) -> bool {
    claim.at(&["status", "allocation"]).is_some_and(|it| !it.is_null())
}

fn is_for(claim: &Value, pod: &str) -> bool {
    let pods = claim.items_at(&["status", "reservedFor"]);
    pods.iter().any(|it| it.str_at(&["uid"]) == pod)
}

fn pod(change: &Change<'_>, context: &Context<'_>) {
    let Some(pod) = change.new else { return };
    let on_node = |it: &Value| !it.str_at(&["spec", "nodeName"]).is_empty();
    if !on_node(pod) || change.old.is_none_or(on_node) {
        return;
    }
    for place in device_claims_of(change.place, pod) {
        let claim = place.as_ref().and_then(|it| context.state.get("ResourceClaim", it));
        let fine = claim.is_some_and(|it| is_allocated(&it.value) && is_for(&it.value, uid(pod)));
        if !fine {
            let (namespace, name) = (&change.place.namespace, &change.place.name);
            let claim = claim.map(|it| &it.value["status"]);
            let what = format!("{namespace}/{name} is bound, and its claim {place:?} is {claim:?}");
            context.ledger.violation(OWN, what);
        }
    }
}

fn claim(change: &Change<'_>, context: &Context<'_>) {
    let Some(old) = change.old.filter(|it| is_allocated(it)) else { return };
    let users = context.state.all("Pod").filter(|(_, pod)| {
        let runs = !pod.str_at(&["spec", "nodeName"]).is_empty() && !is_terminal(pod);
        runs && is_for(old, uid(pod))
    });
    for (place, pod) in users {
        let kept = change.new.is_some_and(|it| is_allocated(it) && is_for(it, uid(pod)));
        if !kept {
            let name = &change.place.name;
            let what = format!("{}/{name} is taken from {}", place.namespace, place.name);
            context.ledger.violation(KEPT, what);
        }
    }
}
