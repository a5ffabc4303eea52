//! PersistentVolumeClaims stay while a pod has them that has come to a node; and they say since when no pod has them, where
//! that is asked for. Upstream: `pkg/controller/volume/pvcprotection`.

use std::sync::Arc;

use apimachinery::{Value, time, value};
use client::indexes::{BY_CLAIM, claim_entry, claims_of_pod, has_claims};
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Action, Controller, Fetch, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::finalizers::{self, Step};

/// The controller.
#[derive(Debug, Clone, Copy, Default)]
pub struct PvcProtection {
    /// `PersistentVolumeClaimUnusedSinceTime`: whether bound claims get the condition [`UNUSED`].
    pub tells_unused: bool,
}

const FINALIZER: &str = "kubernetes.io/pvc-protection";
const UNUSED: &str = "Unused";

/// What it sees of a claim.
#[derive(Debug)]
pub struct Observed {
    claim: Arc<Value>,
    /// Whether a pod in the cache that has not ended names it, on a node or not.
    named: bool,
    /// Whether a pod in the cache uses it.
    used: bool,
    /// Whether a pod uses it by a live read; `None` where none was made.
    used_live: Option<bool>,
}

impl Controller for PvcProtection {
    const NAME: &'static str = "persistentvolumeclaim-protection-controller";
    const ACCOUNT: &'static str = "pvc-protection-controller";
    const QUEUE: &'static str = "pvcprotection";
    /// A claim.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        let tells_unused = self.tells_unused;
        let of_pod = move |change: &StoreChange, _: &Snapshot| of_pod(change, tells_unused);
        watches.own::<PersistentVolumeClaim>().on::<Pod>(of_pod)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let claim = snapshot.store::<PersistentVolumeClaim>().get(key)?.value();
        let entry = claim_entry(&key.namespace, &key.name);
        let pods = snapshot.store::<Pod>().by_index(BY_CLAIM, &entry);
        let used = pods.iter().any(|pod| uses(&pod.value(), &claim));
        let named = self.tells_unused && pods.iter().any(|pod| names(&pod.value(), &claim));
        let live = snapshot.fetched(&fetch(&key.namespace)).flatten();
        let used_live = live
            .map(|pods| pods.as_array().unwrap_or_default().iter().any(|pod| uses(pod, &claim)));
        Some(Observed { claim, named, used, used_live })
    }

    fn plan(&self, observed: &Observed, (): &mut (), now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let claim = &observed.claim;
        let in_use = || observed.used || observed.used_live == Some(true);
        let step = finalizers::step(claim, FINALIZER, in_use);
        // The cache may not know the last pod yet: what it says is made sure of before a claim goes.
        if step == Step::Release && observed.used_live.is_none() {
            plan.fetches.push(fetch(claim.str_at(&["metadata", "namespace"])));
            return plan;
        }
        let resource = Resource::of::<PersistentVolumeClaim>();
        if let Some(write) = finalizers::write(resource, claim, FINALIZER, step) {
            plan.act(write);
        } else if self.tells_unused
            && let Some(write) = tell_unused(claim, observed.named, now)
        {
            plan.act(write);
        }
        plan
    }
}

/// The write of the condition of a claim that is bound and not going, where it is to change.
fn tell_unused(claim: &Value, named: bool, now: Timestamp) -> Option<Action> {
    let going = claim.at(&["metadata", "deletionTimestamp"]).is_some();
    if going || claim.str_at(&["status", "phase"]) != "Bound" {
        return None;
    }
    let (status, reason, message) = if named {
        ("False", "PodUsingPVC", "A pod is currently referencing this PVC")
    } else {
        ("True", "NoPodsUsingPVC", "No pods are currently referencing this PVC")
    };
    let mut conditions = claim.items_at(&["status", "conditions"]).to_vec();
    let known = conditions.iter().position(|it| it.str_at(&["type"]) == UNUSED);
    if known.is_some_and(|it| conditions[it].str_at(&["status"]) == status) {
        return None;
    }
    let since = time::format_time(now);
    let condition = value!({"type": UNUSED, "status": status, "lastProbeTime": null,
        "lastTransitionTime": (since.to_string()), "reason": reason, "message": message});
    match known {
        Some(place) => conditions[place] = condition,
        None => conditions.push(condition),
    }
    let mut object = claim.clone();
    object.set_at(&["status", "conditions"], Value::Array(conditions));
    let resource = Resource::of::<PersistentVolumeClaim>();
    Some(Action::Update { resource, subresource: "status", object })
}

fn fetch(namespace: &str) -> Fetch {
    Fetch::read(Resource::of::<Pod>(), ObjectKey::new(namespace, ""))
}

/// Whether a pod is on a node and has this claim. Kubelets refuse a claim that is going to pods that come later.
fn uses(pod: &Value, claim: &Value) -> bool {
    if pod.str_at(&["spec", "nodeName"]).is_empty() {
        return false;
    }
    let shut_down = pod.at(&["metadata", "deletionTimestamp"]).is_some()
        && pod.i64_at(&["metadata", "deletionGracePeriodSeconds"]) == Some(0);
    // A pod that nothing runs of any more may wait for its claims to go first. Upstream sees that of ephemeral volumes only,
    // and claims of sets that go when they are scaled wait for ever (found by the simulation, seed 30004).
    if owner(pod, claim).is_some() && shut_down {
        return false;
    }
    has_volume(pod, claim)
}

/// Whether a pod that has not ended is to have this claim, wherever it is.
fn names(pod: &Value, claim: &Value) -> bool {
    !matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") && has_volume(pod, claim)
}

/// What a claim says of a pod that owns it.
fn owner<'c>(pod: &Value, claim: &'c Value) -> Option<&'c Value> {
    let mut owners = claim.items_at(&["metadata", "ownerReferences"]).iter();
    owners.find(|it| it.str_at(&["uid"]) == pod.str_at(&["metadata", "uid"]))
}

/// Whether a pod has a volume of this claim.
fn has_volume(pod: &Value, claim: &Value) -> bool {
    let name = claim.str_at(&["metadata", "name"]);
    let made_for = owner(pod, claim).is_some_and(|it| it.bool_at(&["controller"]));
    pod.items_at(&["spec", "volumes"]).iter().any(|volume| {
        let named = volume.str_at(&["persistentVolumeClaim", "claimName"]) == name;
        let own = volume.at(&["ephemeral"]).is_some()
            && format!("{}-{}", pod.str_at(&["metadata", "name"]), volume.str_at(&["name"]))
                == name;
        named || (own && made_for)
    })
}

/// The claims that a pod lets go of: it is gone, going or over, or it has not come to a node. Those of a new one too, where
/// they are to say whether a pod has them.
fn of_pod(change: &StoreChange, tells_unused: bool) -> Vec<ObjectKey> {
    let is_new = tells_unused && change.old.is_none();
    let holds = change
        .new
        .as_ref()
        .is_some_and(|it| it.pod().is_active() && !it.pod().node.is_empty() && !it.is_deleting());
    let object = change.old.as_ref().or(change.new.as_ref());
    // Most pods have no claims, which their text tells.
    let object = object.filter(|it| (!holds || is_new) && has_claims(it));
    let names = object.map(|it| claims_of_pod(&it.value())).unwrap_or_default();
    let namespace = change.key().namespace;
    names.into_iter().map(|name| ObjectKey::new(namespace.clone(), name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_goes_when_no_pod_on_a_node_has_it() {
        let parse = |text: &str| apimachinery::json::parse(text.as_bytes()).unwrap();
        let check = |pod: &str, owner: &str, expected: bool| {
            let claim = format!(
                r#"{{"metadata":{{"name":"p-v","ownerReferences":[{{"controller":true,"uid":"{owner}"}}]}}}}"#
            );
            assert_eq!(uses(&parse(pod), &parse(&claim)), expected, "{pod}");
        };
        let named = r#"{"metadata":{"name":"x"},"spec":{"nodeName":"n","volumes":[{"name":"a","persistentVolumeClaim":{"claimName":"p-v"}}]}}"#;
        check(named, "", true);
        check(&named.replace("\"nodeName\":\"n\",", ""), "", false);
        check(&named.replace("p-v", "other"), "", false);
        let own = r#"{"metadata":{"name":"p","uid":"U"},"spec":{"nodeName":"n","volumes":[{"name":"v","ephemeral":{}}]}}"#;
        check(own, "U", true);
        check(own, "V", false);
        let gone = own.replace(
            r#""uid":"U""#,
            r#""uid":"U","deletionTimestamp":"x","deletionGracePeriodSeconds":0"#,
        );
        check(&gone, "U", false);
        let gone = named.replace(
            r#""name":"x""#,
            r#""name":"x","uid":"U","deletionTimestamp":"x","deletionGracePeriodSeconds":0"#,
        );
        check(&gone, "U", false);
        check(&gone, "V", true);
    }

    #[test]
    fn before_a_claim_goes_the_server_is_asked() {
        let check = |used: bool, used_live: Option<bool>, expected: &str| {
            let text = r#"{"metadata":{"name":"c","deletionTimestamp":"x","finalizers":["kubernetes.io/pvc-protection"]}}"#;
            let claim = apimachinery::json::parse(text.as_bytes()).unwrap().into();
            let observed = Observed { claim, named: false, used, used_live };
            let plan = PvcProtection::default().plan(&observed, &mut (), Timestamp::UNIX_EPOCH);
            let outcome = match (plan.fetches.len(), plan.is_quiet()) {
                (1, true) => "ask",
                (0, false) => "release",
                _ => "",
            };
            assert_eq!(outcome, expected, "{used} {used_live:?}");
        };
        check(true, None, "");
        check(false, None, "ask");
        check(false, Some(true), "");
        check(false, Some(false), "release");
    }

    #[test]
    fn a_bound_claim_says_since_when_no_pod_has_it() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let check = |claim: &str, named: bool, expected: Option<(&str, &str)>| {
            let claim: Arc<Value> = apimachinery::json::parse(claim.as_bytes()).unwrap().into();
            let observed = Observed { claim, named, used: false, used_live: None };
            let plan = PvcProtection { tells_unused: true }.plan(&observed, &mut (), now);
            let written = plan.stages.iter().flat_map(|it| &it.actions).find_map(|it| {
                let Action::Update { subresource: "status", object, .. } = &it.action else {
                    return None;
                };
                let conditions = object.items_at(&["status", "conditions"]);
                let told = conditions.iter().find(|it| it.str_at(&["type"]) == UNUSED)?;
                assert_eq!(told.str_at(&["lastTransitionTime"]), "2026-01-02T00:00:00Z");
                let word = |member| told.str_at(&[member]).to_owned();
                Some((word("status"), word("reason")))
            });
            let written = written.as_ref().map(|it| (it.0.as_str(), it.1.as_str()));
            assert_eq!(written, expected);
        };
        let claim = |phase: &str, conditions: &str, going: &str| {
            format!(
                r#"{{"metadata":{{"name":"c"{going},"finalizers":["kubernetes.io/pvc-protection"]}},"status":{{"phase":"{phase}","conditions":[{conditions}]}}}}"#
            )
        };
        let told = |status: &str| {
            format!(r#"{{"type":"Resizing"}},{{"type":"Unused","status":"{status}"}}"#)
        };
        check(&claim("Pending", "", ""), false, None);
        check(&claim("Bound", "", ""), false, Some(("True", "NoPodsUsingPVC")));
        check(&claim("Bound", "", ""), true, Some(("False", "PodUsingPVC")));
        check(&claim("Bound", &told("True"), ""), false, None);
        check(&claim("Bound", &told("True"), ""), true, Some(("False", "PodUsingPVC")));
        check(&claim("Bound", &told("False"), ""), false, Some(("True", "NoPodsUsingPVC")));
        check(&claim("Bound", "", r#","deletionTimestamp":"x""#), false, None);
    }
}
