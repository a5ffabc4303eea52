//! PodGroups stay while a pod that has not ended is in them. Upstream: `pkg/controller/scheduling/podgroupprotection`.

use std::sync::Arc;

use apimachinery::Value;
use client::reflector::{Cached, StoreChange};
use client::{ObjectKey, Resource};
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;

use crate::finalizers::{self, Step};

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct PodGroupProtection;

/// What keeps a group; admission gives it to new ones.
const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";

/// What it sees of a group.
#[derive(Debug)]
pub struct Observed {
    pub(crate) group: Arc<Value>,
    pub(crate) used: bool,
}

/// The group of a pod that has not ended.
fn group_of(pod: &Value) -> Option<&str> {
    let name = pod.str_at(&["spec", "schedulingGroup", "podGroupName"]);
    let ended = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed");
    Some(name).filter(|it| !it.is_empty() && !ended)
}

impl Controller for PodGroupProtection {
    const NAME: &'static str = "podgroup-protection-controller";
    const QUEUE: &'static str = "podgroupprotection";
    /// A group.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<PodGroup>().on::<Pod>(let_go)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let group = snapshot.store::<PodGroup>().get(key)?;
        // Who is in it matters only to one that is going.
        let used = group.is_deleting()
            && snapshot.store::<Pod>().list(&key.namespace).iter().any(|pod| {
                pod.mentions(&key.name) && group_of(&pod.value()) == Some(key.name.as_str())
            });
        Some(Observed { group: group.value(), used })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let step = finalizers::step(&observed.group, FINALIZER, || observed.used);
        // Groups get it when they are made, or not at all.
        if step == Step::Release
            && let Some(write) =
                finalizers::write(Resource::of::<PodGroup>(), &observed.group, FINALIZER, step)
        {
            plan.act(write);
        }
        plan
    }
}

/// The group that a pod was in and is in no more.
fn let_go(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    let of = |it: &Option<Arc<Cached>>| {
        it.as_ref().and_then(|it| group_of(&it.value()).map(str::to_owned))
    };
    let before = of(&change.old).filter(|it| of(&change.new).as_ref() != Some(it));
    before.map(|name| ObjectKey::new(change.key().namespace, name)).into_iter().collect()
}
