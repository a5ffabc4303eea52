//! PersistentVolumeClaims stay while a pod has them that has come to a node. Upstream:
//! `pkg/controller/volume/pvcprotection`.

use std::sync::Arc;

use apimachinery::Value;
use client::indexes::{BY_CLAIM, claim_entry, claims_of_pod, has_claims};
use client::reflector::StoreChange;
use client::{ObjectKey, Resource};
use controller::{Controller, Fetch, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::finalizers::{self, Step};

/// The controller.
#[derive(Debug, Clone, Copy)]
pub struct PvcProtection;

const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// What it sees of a claim.
#[derive(Debug)]
pub struct Observed {
    claim: Arc<Value>,
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
        watches.own::<PersistentVolumeClaim>().on::<Pod>(of_pod)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let claim = snapshot.store::<PersistentVolumeClaim>().get(key)?.value();
        let entry = claim_entry(&key.namespace, &key.name);
        let pods = snapshot.store::<Pod>().by_index(BY_CLAIM, &entry);
        let used = pods.iter().any(|pod| uses(&pod.value(), &claim));
        let live = snapshot.fetched(&fetch(&key.namespace)).flatten();
        let used_live = live
            .map(|pods| pods.as_array().unwrap_or_default().iter().any(|pod| uses(pod, &claim)));
        Some(Observed { claim, used, used_live })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
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
        }
        plan
    }
}

fn fetch(namespace: &str) -> Fetch {
    Fetch::read(Resource::of::<Pod>(), ObjectKey::new(namespace, ""))
}

/// Whether a pod is on a node and has this claim. Kubelets refuse a claim that is going to pods that come later.
fn uses(pod: &Value, claim: &Value) -> bool {
    if pod.str_at(&["spec", "nodeName"]).is_empty() {
        return false;
    }
    let name = claim.str_at(&["metadata", "name"]);
    let shut_down = pod.at(&["metadata", "deletionTimestamp"]).is_some()
        && pod.i64_at(&["metadata", "deletionGracePeriodSeconds"]) == Some(0);
    let owners = claim.items_at(&["metadata", "ownerReferences"]);
    let by_pod = |it: &&Value| it.str_at(&["uid"]) == pod.str_at(&["metadata", "uid"]);
    let owner = owners.iter().find(by_pod);
    let made_for = owner.is_some_and(|it| it.bool_at(&["controller"]));
    // A pod that nothing runs of any more may wait for its claims to go first. Upstream sees that of ephemeral volumes only,
    // and claims of sets that go when they are scaled wait for ever (found by the simulation, seed 30004).
    if owner.is_some() && shut_down {
        return false;
    }
    pod.items_at(&["spec", "volumes"]).iter().any(|volume| {
        let named = volume.str_at(&["persistentVolumeClaim", "claimName"]) == name;
        let own = volume.at(&["ephemeral"]).is_some()
            && format!("{}-{}", pod.str_at(&["metadata", "name"]), volume.str_at(&["name"]))
                == name;
        named || (own && made_for)
    })
}

/// The claims that a pod lets go of: it is gone, going or over, or it has not come to a node.
fn of_pod(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    let holds = change
        .new
        .as_ref()
        .is_some_and(|it| it.pod().is_active() && !it.pod().node.is_empty() && !it.is_deleting());
    let object = change.old.as_ref().or(change.new.as_ref());
    // Most pods have no claims, which their text tells.
    let object = object.filter(|it| !holds && has_claims(it));
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
            let observed = Observed { claim, used, used_live };
            let plan = PvcProtection.plan(&observed, &mut (), Timestamp::UNIX_EPOCH);
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
}
