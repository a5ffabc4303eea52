//! VolumeAttributesClasses stay while a claim or a volume has them. Upstream: `pkg/controller/volume/vacprotection`.

use std::sync::Arc;

use apimachinery::Value;
use client::indexes::{BY_ATTRIBUTES_CLASS, attributes_classes};
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;

use crate::finalizers;

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct VacProtection;

const FINALIZER: &str = "kubernetes.io/vac-protection";

/// What it sees of a class.
#[derive(Debug)]
pub struct Observed {
    class: Arc<Value>,
    used: bool,
}

impl Controller for VacProtection {
    const NAME: &'static str = "volumeattributesclass-protection-controller";
    /// A class.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches
            .own::<VolumeAttributesClass>()
            .on::<PersistentVolumeClaim>(let_go)
            .on::<PersistentVolume>(let_go)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let class = snapshot.store::<VolumeAttributesClass>().get(key)?.value();
        let claims = snapshot.store::<PersistentVolumeClaim>();
        let volumes = snapshot.store::<PersistentVolume>();
        let used = claims.count_index(BY_ATTRIBUTES_CLASS, &key.name)
            + volumes.count_index(BY_ATTRIBUTES_CLASS, &key.name)
            > 0;
        Some(Observed { class, used })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let step = finalizers::step(&observed.class, FINALIZER, || observed.used);
        let resource = Resource::of::<VolumeAttributesClass>();
        if let Some(write) = finalizers::write(resource, &observed.class, FINALIZER, step) {
            plan.act(write);
        }
        plan
    }
}

/// The classes that a claim or a volume has no more.
fn let_go(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    let classes = |it: &Option<Arc<client::reflector::Cached>>| {
        it.as_ref().map(|it| attributes_classes(&it.value())).unwrap_or_default()
    };
    let now = classes(&change.new);
    let before = classes(&change.old).into_iter().filter(|it| !now.contains(it));
    before.map(|name| ObjectKey::new("", name)).collect()
}
