//! What must hold at every revision, whatever goes wrong: one file a rule.
//!
//! A rule sees the changes of the store one by one, in order. Where components may act on what was so a moment ago, a rule
//! allows for the moment and no more.

mod autoscalers;
mod bindings;
mod budgets;
mod daemons;
mod definitions;
mod devices;
mod jobs;
mod metadata;
mod ordinals;
mod replicas;
mod rollouts;
mod unique;
mod volumes;

use std::collections::VecDeque;

use apimachinery::Value;
use compact_str::format_compact;
use tokio::time::Instant;

use crate::observer::{Change, Context, Place};

/// A rule.
pub(crate) trait Rule: Send {
    /// Judges a change.
    fn see(&mut self, change: &Change<'_>, context: &Context<'_>);
}

/// Every rule.
pub(crate) fn all() -> Vec<Box<dyn Rule>> {
    vec![
        Box::new(metadata::Metadata),
        Box::<replicas::Replicas>::default(),
        Box::<rollouts::Rollouts>::default(),
        Box::<ordinals::Ordinals>::default(),
        Box::<daemons::Daemons>::default(),
        Box::<jobs::Jobs>::default(),
        Box::<bindings::Bindings>::default(),
        Box::<budgets::Budgets>::default(),
        Box::<unique::Unique>::default(),
        Box::<volumes::Volumes>::default(),
        Box::new(devices::Devices),
        Box::new(definitions::Definitions),
        Box::<autoscalers::Autoscalers>::default(),
    ]
}

/// What a number was, and since when.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(VecDeque<(Instant, i64)>);

/// How many values are remembered of one number: more changes than that within a lag count as one.
const VALUES: usize = 200;

impl History {
    /// It is this from now on.
    pub(crate) fn set(&mut self, now: Instant, value: i64) {
        if self.0.back().is_some_and(|(_, last)| *last == value) {
            return;
        }
        self.0.push_back((now, value));
        if self.0.len() > VALUES {
            self.0.pop_front();
        }
    }

    /// The largest that it was since then.
    pub(crate) fn max_since(&self, since: Instant) -> i64 {
        let mut most = i64::MIN;
        for (at, value) in self.0.iter().rev() {
            most = most.max(*value);
            if *at <= since {
                break;
            }
        }
        most
    }
}

/// Says that users gave a claim or a volume up before they deleted it.
pub(crate) const GIVEN_UP: &str = "sim/given-up";

/// The claims of volumes that a pod uses.
pub(crate) fn claims_of(place: &Place, pod: &Value) -> Vec<Place> {
    let volumes = pod.items_at(&["spec", "volumes"]).iter();
    let claims = volumes.filter_map(|it| {
        let own = it.at(&["ephemeral"]).filter(|it| !it.is_null());
        match (it.str_at(&["persistentVolumeClaim", "claimName"]), own) {
            ("", None) => None,
            ("", Some(_)) => Some(format_compact!("{}-{}", place.name, it.str_at(&["name"]))),
            (name, _) => Some(name.into()),
        }
    });
    claims.map(|name| Place { namespace: place.namespace.clone(), name }).collect()
}

/// The claims of devices that a pod uses; `None` for one that has not been made for it yet.
pub(crate) fn device_claims_of(place: &Place, pod: &Value) -> Vec<Option<Place>> {
    let made = pod.items_at(&["status", "resourceClaimStatuses"]);
    let claims = pod.items_at(&["spec", "resourceClaims"]).iter().map(|wanted| {
        let named = wanted.str_at(&["resourceClaimName"]);
        let name = if named.is_empty() {
            let its = made.iter().find(|it| it.str_at(&["name"]) == wanted.str_at(&["name"]));
            its.map_or("", |it| it.str_at(&["resourceClaimName"]))
        } else {
            named
        };
        (!name.is_empty()).then(|| Place { namespace: place.namespace.clone(), name: name.into() })
    });
    claims.collect()
}

/// Whether a volume stays when its claim is gone.
pub(crate) fn is_retained(volume: &Value) -> bool {
    volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == "Retain"
}

/// The uid of the controller of an object, where it is of this kind.
pub(crate) fn controller<'v>(object: &'v Value, kind: &str) -> Option<&'v str> {
    let owners = object.items_at(&["metadata", "ownerReferences"]);
    let owner = owners.iter().find(|it| it.bool_at(&["controller"]))?;
    (owner.str_at(&["kind"]) == kind).then(|| owner.str_at(&["uid"]))
}

pub(crate) fn uid(object: &Value) -> &str {
    object.str_at(&["metadata", "uid"])
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    !object.str_at(&["metadata", "deletionTimestamp"]).is_empty()
}

pub(crate) fn is_terminal(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
}

/// Whether a pod counts for who wants it.
pub(crate) fn is_active(pod: &Value) -> bool {
    !is_deleting(pod) && !is_terminal(pod)
}

pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod.items_at(&["status", "conditions"]);
    conditions.iter().any(|it| it.str_at(&["type"]) == "Ready" && it.str_at(&["status"]) == "True")
}

#[cfg(test)]
mod tests;
