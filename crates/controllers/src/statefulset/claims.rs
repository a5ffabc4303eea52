//! The claims of a StatefulSet's pods, and who owns them so that they go with a pod or with the set. Upstream:
//! `stateful_set_utils.go`, `stateful_pod_control.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use client::{ObjectKey, Resource};
use controller::{Action, Snapshot};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::identity;
use crate::owner::Owner;

/// The name of the claim that a pod of a set has of a template.
pub(super) fn name(set: &StatefulSet, template: &Value, ordinal: i32) -> String {
    format!("{}-{}", template.str_at(&["metadata", "name"]), identity::pod_name(set, ordinal))
}

/// The claims there are of a set's pods, those of pods to come included.
pub(super) fn of_set(
    snapshot: &Snapshot,
    set: &StatefulSet,
    templates: &[Value],
    pods: &[Arc<Pod>],
) -> BTreeMap<String, Arc<Value>> {
    let store = snapshot.store::<PersistentVolumeClaim>();
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let numbers = || pods.iter().filter_map(|pod| identity::ordinal(pod));
    let wanted = identity::looked_at(set, numbers(), super::plan::BURST);
    let others = numbers().filter(|it| !identity::is_in_range(set, *it));
    let mut claims = BTreeMap::new();
    for ordinal in wanted.into_iter().chain(others) {
        for template in templates {
            let name = name(set, template, ordinal);
            if let Some(claim) = store.get(&ObjectKey::new(namespace.as_str(), name.as_str())) {
                claims.insert(name, claim.value());
            }
        }
    }
    claims
}

/// What becomes of claims whose pod or set is gone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    with_set: bool,
    with_pod: bool,
}

impl Policy {
    pub(super) fn of(set: &StatefulSet) -> Self {
        let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
        let deletes = |it: Option<&String>| it.is_some_and(|it| it == "Delete");
        Self {
            with_set: deletes(policy.and_then(|it| it.when_deleted.as_ref())),
            with_pod: deletes(policy.and_then(|it| it.when_scaled.as_ref())),
        }
    }

    /// Whether claims go where a set shrinks.
    pub(super) fn goes_with_pod(self) -> bool {
        self.with_pod
    }

    fn keeps(self) -> bool {
        !self.with_set && !self.with_pod
    }

    /// Who is to own the claims of a pod that the set wants, or does not want any more.
    fn wanted(self, wanted_pod: bool) -> Wanted {
        match (self.with_pod, self.with_set, wanted_pod) {
            (true, _, false) => Wanted::Pod,
            (true, true, true) | (false, true, _) => Wanted::Set,
            (true, false, true) | (false, false, _) => Wanted::Nobody,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Nobody,
    Set,
    Pod,
}

/// A claim as it is to be created for a pod that the set wants.
pub(super) fn make(set: &StatefulSet, template: &Value, ordinal: i32) -> Value {
    let mut claim = template.clone();
    claim.set_at(&["apiVersion"], "v1");
    claim.set_at(&["kind"], "PersistentVolumeClaim");
    claim.set_at(&["metadata", "name"], name(set, template, ordinal));
    claim.set_at(&["metadata", "namespace"], set.metadata.namespace.clone().unwrap_or_default());
    for (key, text) in set.spec.selector.match_labels.iter().flatten() {
        claim.set_at(&["metadata", "labels", key], text.as_str());
    }
    if Policy::of(set).wanted(true) == Wanted::Set {
        claim.set_at(
            &["metadata", "ownerReferences"],
            Value::Array(vec![set_owner(set).reference()]),
        );
    }
    claim
}

fn set_owner(set: &StatefulSet) -> Owner<'_> {
    Owner { api_version: "apps/v1", kind: "StatefulSet", metadata: &set.metadata }
}

fn pod_owner(metadata: &ObjectMeta) -> Owner<'_> {
    Owner { api_version: "v1", kind: "Pod", metadata }
}

fn refers(reference: &Value, owner: &Owner<'_>) -> bool {
    reference.str_at(&["apiVersion"]) == owner.api_version
        && reference.str_at(&["kind"]) == owner.kind
        && Some(reference.str_at(&["name"])) == owner.metadata.name.as_deref()
}

/// Whether a claim is still owned by an earlier object of an owner's name.
fn is_stale(claim: &Value, owner: &Owner<'_>) -> bool {
    let owners = claim.items_at(&["metadata", "ownerReferences"]).iter();
    owners
        .into_iter()
        .find(|it| refers(it, owner))
        .is_some_and(|it| it.str_at(&["uid"]) != owner.uid())
}

/// Whether a claim is to go with an earlier pod of this name, which has to be waited for.
pub(super) fn waits_for_earlier_pod(claim: &Value, pod_name: &str) -> bool {
    let metadata = ObjectMeta { name: Some(pod_name.to_owned()), ..ObjectMeta::default() };
    is_stale(claim, &pod_owner(&metadata))
}

fn is_owner(claim: &Value, owner: &Owner<'_>) -> bool {
    let owners = claim.items_at(&["metadata", "ownerReferences"]).iter();
    !owner.uid().is_empty() && owners.into_iter().any(|it| it.str_at(&["uid"]) == owner.uid())
}

fn has_other_controller(claim: &Value, policy: Policy, owners: &[Owner<'_>; 2]) -> bool {
    !policy.keeps()
        && claim.items_at(&["metadata", "ownerReferences"]).iter().any(|reference| {
            match owners.iter().find(|it| refers(reference, it)) {
                Some(owner) => reference.str_at(&["uid"]) != owner.uid(),
                None => reference.bool_at(&["controller"]),
            }
        })
}

/// The write that gives a claim the owners it is to have; `None` where it has them or is somebody else's affair.
pub(super) fn own(
    set: &StatefulSet,
    pod: &ObjectMeta,
    wanted_pod: bool,
    claim: &Value,
) -> Option<Action> {
    let owners = [set_owner(set), pod_owner(pod)];
    if owners.iter().any(|it| is_stale(claim, it)) {
        return None;
    }
    let policy = Policy::of(set);
    let wanted = policy.wanted(wanted_pod);
    let [of_set, of_pod] = [is_owner(claim, &owners[0]), is_owner(claim, &owners[1])];
    let other = has_other_controller(claim, policy, &owners);
    let plain = claim.items_at(&["metadata", "ownerReferences"]).iter().any(|it| {
        owners.iter().any(|owner| it.str_at(&["uid"]) == owner.uid())
            && !it.bool_at(&["controller"])
    });
    let right = if other {
        !of_set && !of_pod
    } else {
        !plain && of_set == (wanted == Wanted::Set) && of_pod == (wanted == Wanted::Pod)
    };
    if right {
        return None;
    }
    let mut references = claim.items_at(&["metadata", "ownerReferences"]).to_vec();
    references.retain(|it| !owners.iter().any(|owner| refers(it, owner)));
    match wanted {
        Wanted::Set | Wanted::Pod if other => {}
        Wanted::Nobody => {}
        Wanted::Set => references.push(owners[0].reference()),
        Wanted::Pod => references.push(owners[1].reference()),
    }
    let mut object = claim.clone();
    object.set_at(&["metadata", "ownerReferences"], Value::Array(references));
    Some(Action::Update { resource: resource(), subresource: "", object })
}

/// The resource.
pub(super) fn resource() -> Resource {
    Resource::of::<PersistentVolumeClaim>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_belongs_to_whom_the_policy_says() {
        let check = |deleted: &str,
                     scaled: &str,
                     wanted_pod: bool,
                     before: &str,
                     expected: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"s","uid":"S"}},"spec":{{"selector":{{}},"serviceName":"s","template":{{}},"persistentVolumeClaimRetentionPolicy":{{"whenDeleted":"{deleted}","whenScaled":"{scaled}"}}}}}}"#
            );
            let set: StatefulSet = serde_json::from_str(&text).unwrap();
            let pod = ObjectMeta {
                name: Some("s-0".into()),
                uid: Some("P".into()),
                ..ObjectMeta::default()
            };
            let claim = format!(r#"{{"metadata":{{"ownerReferences":{before}}}}}"#);
            let claim = apimachinery::json::parse(claim.as_bytes()).unwrap();
            let outcome = match own(&set, &pod, wanted_pod, &claim) {
                None => "right".to_owned(),
                Some(Action::Update { object, .. }) => {
                    let owners = object.items_at(&["metadata", "ownerReferences"]).iter();
                    let owners: Vec<&str> = owners.map(|it| it.str_at(&["uid"])).collect();
                    owners.join(",")
                }
                Some(_) => "other".to_owned(),
            };
            assert_eq!(outcome, expected, "{deleted} {scaled} {wanted_pod} {before}");
        };
        let of_set = r#"[{"apiVersion":"apps/v1","kind":"StatefulSet","name":"s","uid":"S","controller":true}]"#;
        let of_pod =
            r#"[{"apiVersion":"v1","kind":"Pod","name":"s-0","uid":"P","controller":true}]"#;
        let of_earlier =
            r#"[{"apiVersion":"v1","kind":"Pod","name":"s-0","uid":"Q","controller":true}]"#;
        let foreign =
            r#"[{"apiVersion":"v1","kind":"Pod","name":"x","uid":"X","controller":true}]"#;
        check("Retain", "Retain", true, "[]", "right");
        check("Retain", "Retain", true, of_set, "");
        check("Delete", "Retain", true, "[]", "S");
        check("Delete", "Retain", false, of_set, "right");
        check("Retain", "Delete", true, "[]", "right");
        check("Retain", "Delete", false, "[]", "P");
        check("Delete", "Delete", true, of_pod, "S");
        check("Delete", "Delete", false, of_set, "P");
        check("Delete", "Delete", false, of_earlier, "right");
        check("Delete", "Delete", true, foreign, "right");
    }
}
