//! Claims that ask for more than they have: says who is to give it to them. Upstream: `pkg/controller/volume/expand`, whose
//! own plugins are gone; the resizers of CSI drivers do the work. Volumes of in-tree plugins that drivers have taken over
//! are not told who their driver is.

use std::sync::Arc;

use apimachinery::Value;
use apimachinery::quantity::Quantity;
use client::ObjectKey;
use client::events::{EventType, ObjectReference};
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct PersistentVolumeExpander;

/// A volume with this annotation is looked at although its claim asks for nothing.
const PRE_RESIZE: &str = "volume.alpha.kubernetes.io/pre-resize-capacity";

/// What it sees of a claim that is bound.
#[derive(Debug)]
pub struct Observed {
    claim: Arc<Value>,
    volume: Option<Arc<Value>>,
}

/// What was remembered of a claim: the request that was told of.
#[derive(Debug, Default)]
pub struct Memory {
    told: String,
}

impl Controller for PersistentVolumeExpander {
    const NAME: &'static str = "persistentvolume-expander-controller";
    const ACCOUNT: &'static str = "expand-controller";
    const SOURCE: &'static str = "volume_expand";
    const QUEUE: &'static str = "volume_expand";
    /// A claim.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<PersistentVolumeClaim>().on::<PersistentVolume>(|_, _| Vec::new())
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let claim = snapshot.store::<PersistentVolumeClaim>().get(key)?.value();
        if claim.str_at(&["status", "phase"]) != "Bound" {
            return None;
        }
        let name = claim.str_at(&["spec", "volumeName"]);
        let volume = snapshot.store::<PersistentVolume>().get(&ObjectKey::new("", name));
        Some(Observed { volume: volume.map(|it| it.value()), claim })
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let claim = &observed.claim;
        let metadata = |member| claim.str_at(&["metadata", member]).to_owned();
        let asked = claim.str_at(&["spec", "resources", "requests", "storage"]);
        let has = claim.str_at(&["status", "capacity", "storage"]);
        let Some(volume) = &observed.volume else {
            let name = claim.str_at(&["spec", "volumeName"]);
            plan.error = Some(format!("failed to get PV {name:?}: it is not there"));
            return plan;
        };
        let reference = |member| volume.str_at(&["spec", "claimRef", member]);
        if reference("uid") != metadata("uid") || reference("namespace") != metadata("namespace") {
            let key = format!("{}/{}", metadata("namespace"), metadata("name"));
            plan.error =
                Some(format!("persistent Volume is not bound to PVC being updated : {key}"));
            return plan;
        }
        let prepared = volume.at(&["metadata", "annotations", PRE_RESIZE]).is_some();
        if !prepared && quantity(asked) <= quantity(has) {
            memory.told.clear();
        } else if memory.told != asked {
            asked.clone_into(&mut memory.told);
            let about = ObjectReference {
                api_version: "v1".into(),
                kind: "PersistentVolumeClaim".into(),
                namespace: metadata("namespace"),
                name: metadata("name"),
                uid: metadata("uid"),
                resource_version: metadata("resourceVersion"),
                ..ObjectReference::default()
            };
            let message = "waiting for an external controller to expand this PVC";
            plan.event(about, EventType::Normal, "ExternalExpanding", message);
        }
        plan
    }
}

/// A quantity; the smallest where it says none.
fn quantity(text: &str) -> Option<Quantity> {
    Quantity::parse(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_asks_for_more_is_told_once_who_gives_it() {
        let check = |asked: &str, has: &str, uid: &str, wanted: &str| {
            let claim = format!(
                r#"{{"metadata":{{"name":"c","namespace":"d","uid":"u"}},
                "spec":{{"volumeName":"v","resources":{{"requests":{{"storage":"{asked}"}}}}}},
                "status":{{"phase":"Bound","capacity":{{"storage":"{has}"}}}}}}"#
            );
            let volume = format!(r#"{{"spec":{{"claimRef":{{"namespace":"d","uid":"{uid}"}}}}}}"#);
            let parse = |text: &str| Arc::new(apimachinery::json::parse(text.as_bytes()).unwrap());
            let observed = Observed { claim: parse(&claim), volume: Some(parse(&volume)) };
            let mut memory = Memory::default();
            let now = Timestamp::UNIX_EPOCH;
            let plan = PersistentVolumeExpander.plan(&observed, &mut memory, now);
            let told = plan.events.first().map_or_else(
                || plan.error.clone().unwrap_or_default(),
                |it| format!("{}: {}", it.reason, it.message),
            );
            assert_eq!(told, wanted, "{asked} {has}");
            let again = PersistentVolumeExpander.plan(&observed, &mut memory, now);
            assert!(again.events.is_empty());
        };
        let told = "ExternalExpanding: waiting for an external controller to expand this PVC";
        check("2Gi", "1Gi", "u", told);
        check("1024Mi", "1Gi", "u", "");
        check("1Gi", "2Gi", "u", "");
        check("2Gi", "1Gi", "x", "persistent Volume is not bound to PVC being updated : d/c");
    }
}
