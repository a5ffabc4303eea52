//! PersistentVolumes stay while they are bound. Upstream: `pkg/controller/volume/pvprotection`.

use std::sync::Arc;

use apimachinery::Value;
use client::{ObjectKey, Resource};
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PersistentVolume;

use crate::finalizers;

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct PvProtection;

const FINALIZER: &str = "kubernetes.io/pv-protection";

impl Controller for PvProtection {
    const NAME: &'static str = "persistentvolume-protection-controller";
    const ACCOUNT: &'static str = "pv-protection-controller";
    const QUEUE: &'static str = "pvprotection";
    /// A volume.
    type Key = ObjectKey;
    type Observed = Arc<Value>;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches.own::<PersistentVolume>()
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Arc<Value>> {
        snapshot.store::<PersistentVolume>().get(key).map(|it| it.value())
    }

    fn plan(&self, volume: &Arc<Value>, (): &mut (), _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let bound = || volume.str_at(&["status", "phase"]) == "Bound";
        let step = finalizers::step(volume, FINALIZER, bound);
        let resource = Resource::of::<PersistentVolume>();
        if let Some(write) = finalizers::write(resource, volume, FINALIZER, step) {
            plan.act(write);
        }
        plan
    }
}
