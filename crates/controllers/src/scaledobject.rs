//! ScaledObjects (`keda.sh/v1alpha1`): an autoscaler for each, by the external metrics of its triggers, and what no
//! autoscaler does: down to nothing and up from there. Upstream: KEDA's operator.
//!
//! It asks no trigger itself: what triggers say is read through `external.metrics.k8s.io`, as the autoscaler does. Off
//! unless asked for by name.

mod plan;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use client::{ObjectKey, Resource};
use controller::{Controller, Failure, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use keda::ScaledObject;
use parking_lot::Mutex;

use crate::custom;
use crate::podautoscaler::Kinds;

/// The controller.
#[derive(Debug, Default)]
pub struct ScaledObjects {
    kinds: Arc<Kinds>,
    /// The resource, while it is defined.
    own: Arc<Mutex<Option<Resource>>>,
}

/// What it sees of an object.
#[derive(Debug)]
pub struct Observed {
    object: Arc<Value>,
    own: Resource,
    scaled: Result<ScaledObject, String>,
    /// The resource that is scaled, or why it is none.
    target: Result<Resource, String>,
    autoscaler: Option<Arc<Value>>,
    answers: BTreeMap<String, Value>,
}

/// What it remembers of an object.
#[derive(Debug, Default)]
pub struct Memory {
    /// When its triggers are asked again.
    next: Option<Timestamp>,
    /// What of it was looked at last: its generation and its annotations.
    seen: Option<(i64, Value)>,
    /// What was said of it last, which is not said again.
    said: String,
}

impl Controller for ScaledObjects {
    const NAME: &'static str = "scaledobject-controller";
    const SOURCE: &'static str = "keda-operator";
    const QUEUE: &'static str = "scaledobject";
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        let (kinds, own) = (Arc::clone(&self.kinds), Arc::clone(&self.own));
        watches.owned_by::<HorizontalPodAutoscaler>(keda::KIND).on_defined(
            custom::definitions(),
            move |change| {
                let is_own = change.key().name == format!("{}.{}", keda::PLURAL, keda::GROUP);
                let defined = kinds.learn(change).filter(|_| is_own);
                if is_own {
                    own.lock().clone_from(&defined);
                }
                defined
            },
            |_, change, _| vec![change.key()],
        )
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let own = self.own.lock().clone()?;
        let object = snapshot.store_for(&own).get(key)?.value();
        let scaled = ScaledObject::parse(&object);
        let target = scaled.as_ref().map_err(Clone::clone).and_then(|it| {
            let found = self.kinds.in_group(&it.target.api_version, &it.target.kind);
            found.map_err(|why| format!("{} {why}", status::NO_TARGET))
        });
        let autoscaler = scaled.as_ref().ok().and_then(|it| {
            let name = ObjectKey::new(key.namespace.clone(), it.hpa_name.as_str());
            Some(snapshot.store::<HorizontalPodAutoscaler>().get(&name)?.value())
        });
        Some(Observed { object, own, scaled, target, autoscaler, answers: snapshot.answers() })
    }

    fn applied(&self, memory: &mut Memory, failure: Option<&Failure>) {
        // What could not be written is planned anew, not a period later.
        if failure.is_some() {
            memory.next = None;
        }
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        plan::plan(observed, memory, now)
    }
}
