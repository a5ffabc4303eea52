//! Volume claims that are not bound, and why.

use apimachinery::Value;
use client::ObjectKey;

use crate::Case;
use crate::explanation::{Explanation, Finding, State};
use crate::objects::Objects;

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Why a claim is as it is.
pub(crate) fn explain(case: &Case<'_>) -> Explanation {
    let (name, phase) = (case.name(), case.object.str_at(&["status", "phase"]));
    match finding(case.objects, &case.subject.key) {
        Some(finding) => {
            let summary = finding.message.clone();
            Explanation::new(case.subject, State::Waiting, summary).with(vec![finding])
        }
        None => Explanation::new(case.subject, State::Settled, format!("{name} is {phase}")),
    }
}

/// Why a claim is not bound that says itself which volume it is to have.
fn of_named_volume(objects: &dyn Objects, claim: &Value, key: &ObjectKey) -> Option<String> {
    let volume = claim.str_at(&["spec", "volumeName"]);
    if volume.is_empty() {
        return None;
    }
    let Some(found) = objects.get("", "persistentvolumes", &ObjectKey::new("", volume)) else {
        return Some(format!("names volume {volume}, which does not exist"));
    };
    let of = |member| found.str_at(&["spec", "claimRef", member]);
    let (namespace, name, uid) = (of("namespace"), of("name"), of("uid"));
    if name.is_empty() {
        return Some(format!("names volume {volume}: it is bound once that fits it"));
    }
    let is_its = (namespace, name) == (key.namespace.as_str(), key.name.as_str())
        && (uid.is_empty() || uid == claim.str_at(&["metadata", "uid"]));
    Some(match is_its {
        true => format!("names volume {volume}, which is being bound to it"),
        false => format!("names volume {volume}, which belongs to claim {namespace}/{name}"),
    })
}

/// Why a claim cannot be used; `None` where it is bound.
pub(crate) fn finding(objects: &dyn Objects, key: &ObjectKey) -> Option<Finding> {
    const RESOURCE: &str = "persistentvolumeclaims";
    let name = &key.name;
    let Some(claim) = objects.get("", RESOURCE, key) else {
        let message = format!("volume claim {name} does not exist");
        return Some(Finding::new("ClaimMissing", message).of(RESOURCE, key));
    };
    let found = |reason, why: String| {
        Some(Finding::new(reason, format!("volume claim {name} {why}")).of(RESOURCE, key))
    };
    match claim.str_at(&["status", "phase"]) {
        "Bound" => return None,
        "Lost" => {
            let volume = claim.str_at(&["spec", "volumeName"]);
            return found("ClaimLost", format!("has lost its volume {volume}"));
        }
        _ => {}
    }
    if let Some(why) = of_named_volume(objects, &claim, key) {
        return found("VolumeNamed", why);
    }
    let class = match claim.at(&["spec", "storageClassName"]).and_then(Value::as_str) {
        Some("") => {
            return found(
                "NoClass",
                "has storageClassName \"\": it waits for a volume that somebody makes by hand and that fits it".into(),
            );
        }
        Some(class) => class.to_owned(),
        None => {
            let classes = objects.list("storage.k8s.io", "storageclasses", "");
            let is_default = |it: &&std::sync::Arc<Value>| {
                it.str_at(&["metadata", "annotations", DEFAULT_CLASS]) == "true"
            };
            let Some(class) = classes.iter().find(is_default) else {
                return found(
                    "NoDefaultClass",
                    "names no storage class, and none is the default".into(),
                );
            };
            class.str_at(&["metadata", "name"]).to_owned()
        }
    };
    let key_of_class = ObjectKey::new("", class.as_str());
    let Some(object) = objects.get("storage.k8s.io", "storageclasses", &key_of_class) else {
        return found("ClassMissing", format!("names storage class {class}, which does not exist"));
    };
    let provisioner = object.str_at(&["provisioner"]);
    if provisioner == NO_PROVISIONER {
        let why = format!(
            "is of class {class}, of which nobody makes volumes: one that fits has to be made by hand"
        );
        return found("NoProvisioner", why);
    }
    let waits = object.str_at(&["volumeBindingMode"]) == "WaitForFirstConsumer";
    let selected = claim.str_at(&["metadata", "annotations", "volume.kubernetes.io/selected-node"]);
    if waits && selected.is_empty() {
        let why =
            format!("waits for a pod that is scheduled (class {class}, WaitForFirstConsumer)");
        return found("WaitForFirstConsumer", why);
    }
    let why = format!("waits for provisioner {provisioner} of class {class} to make its volume");
    found("WaitsForProvisioner", why)
}
