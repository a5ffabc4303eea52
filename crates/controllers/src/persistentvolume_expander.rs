//! Claims that ask for more than they have: says who is to give it to them. Upstream: `pkg/controller/volume/expand`, whose
//! own plugins are gone; the resizers of CSI drivers do the work. A claim whose volume is of an in-tree plugin is told whose
//! resizer is to do it.

use std::sync::Arc;

use apimachinery::quantity::Quantity;
use apimachinery::{Value, value};
use client::call::PatchKind;
use client::csi_translation::{self, Plugin};
use client::events::{EventType, ObjectReference};
use client::volumes::annotation;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct PersistentVolumeExpander;

/// Says on a claim whose resizer is to do it.
const RESIZER: &str = "volume.kubernetes.io/storage-resizer";
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
        let wants = prepared || quantity(asked) > quantity(has);
        if !wants {
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
            let plugin = csi_translation::of_volume(volume).map(|it| it.plugin);
            let message = plugin.map_or_else(
                || "waiting for an external controller to expand this PVC".to_owned(),
                |it| {
                    let plugin = it.name;
                    format!("CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc")
                },
            );
            plan.event(about, EventType::Normal, "ExternalExpanding", message);
        }
        if let Some(it) = csi_translation::of_volume(volume).filter(|_| wants) {
            name_resizer(&mut plan, claim, it.plugin);
        }
        plan
    }
}

/// Has a claim say whose resizer is to do it.
fn name_resizer(plan: &mut Plan, claim: &Value, plugin: &Plugin) {
    if annotation(claim, RESIZER) == Some(plugin.driver) {
        return;
    }
    let metadata = |member| claim.str_at(&["metadata", member]);
    let uid = metadata("uid");
    plan.act(Action::Patch {
        resource: Resource::of::<PersistentVolumeClaim>(),
        key: ObjectKey::new(metadata("namespace"), metadata("name")),
        subresource: "status",
        kind: PatchKind::Merge,
        patch: value!({"metadata": {"uid": uid, "annotations": {RESIZER: (plugin.driver)}}}),
        gone_is_fine: true,
    });
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
        let check = |asked: &str, has: &str, uid: &str, source: &str, wanted: &str| {
            let claim = format!(
                r#"{{"metadata":{{"name":"c","namespace":"d","uid":"u"}},
                "spec":{{"volumeName":"v","resources":{{"requests":{{"storage":"{asked}"}}}}}},
                "status":{{"phase":"Bound","capacity":{{"storage":"{has}"}}}}}}"#
            );
            let volume =
                format!(r#"{{"spec":{{{source}"claimRef":{{"namespace":"d","uid":"{uid}"}}}}}}"#);
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
            let named = plan.stages.iter().flat_map(|it| &it.actions).count();
            assert_eq!(named, usize::from(told.contains("CSI migration")));
        };
        let told = "ExternalExpanding: waiting for an external controller to expand this PVC";
        check("2Gi", "1Gi", "u", "", told);
        check("1024Mi", "1Gi", "u", "", "");
        check("1Gi", "2Gi", "u", "", "");
        check("2Gi", "1Gi", "x", "", "persistent Volume is not bound to PVC being updated : d/c");
        let told = "ExternalExpanding: CSI migration enabled for kubernetes.io/cinder; waiting for external resizer to \
            expand the pvc";
        check("2Gi", "1Gi", "u", r#""cinder":{"volumeID":"c"},"#, told);
        check("1Gi", "2Gi", "u", r#""cinder":{"volumeID":"c"},"#, "");
    }
}
