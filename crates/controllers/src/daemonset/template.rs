//! The pods of a DaemonSet.

use apimachinery::{Object, Value, value};
use client::indexes::NODE_TERMS;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Toleration;

use crate::owner::Owner;
use crate::pods;

/// The label that tells a pod's revision.
pub(super) const HASH_LABEL: &str = "controller-revision-hash";
/// The label that tells the generation of a pod's template.
pub(super) const GENERATION_LABEL: &str = "pod-template-generation";
/// The annotation that counts a set's templates.
const GENERATION: &str = "deprecated.daemonset.template.generation";
/// The taints that pods of daemons stand, with the effect.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// Stood by pods in the node's own network.
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// The generation of a set's template; `None` where it does not say.
pub(super) fn generation(set: &DaemonSet) -> Option<&str> {
    let text = set.metadata.annotations.as_ref()?.get(GENERATION)?;
    text.parse::<i64>().ok().map(|_| text.as_str())
}

fn tolerated(set: &DaemonSet) -> impl Iterator<Item = (&'static str, &'static str)> {
    let host = set.spec.template.spec.as_ref().and_then(|it| it.host_network).unwrap_or_default();
    TOLERATED.iter().copied().chain(host.then_some(NETWORK))
}

/// What the pods of a set stand: what its template says, and what all daemons stand.
pub(super) fn tolerations(set: &DaemonSet) -> Vec<Toleration> {
    let spec = set.spec.template.spec.as_ref();
    let mut all = spec.and_then(|it| it.tolerations.clone()).unwrap_or_default();
    all.extend(tolerated(set).map(|(key, effect)| Toleration {
        key: Some(key.into()),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        ..Toleration::default()
    }));
    all
}

/// The pod of a set for a node.
pub(super) fn pod(
    set: &DaemonSet,
    template: &Value,
    hash: &str,
    owner: &Owner<'_>,
    node: &str,
) -> Value {
    let mut pod = pods::from_template_value(template.clone(), owner);
    if let Some(generation) = generation(set) {
        pod.set_at(&["metadata", "labels", GENERATION_LABEL], generation);
    }
    pod.set_at(&["metadata", "labels", HASH_LABEL], hash);
    let term =
        value!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
    pod.set_at(&NODE_TERMS, value!([term]));
    let mut all = pod.items_at(&["spec", "tolerations"]).to_vec();
    for (key, effect) in tolerated(set) {
        add_toleration(&mut all, key, effect);
    }
    pod.set_at(&["spec", "tolerations"], Value::Array(all));
    pod
}

/// Adds a toleration, or takes the time limit from the one that is there.
fn add_toleration(all: &mut Vec<Value>, key: &str, effect: &str) {
    let wanted = value!({"key": key, "operator": "Exists", "effect": effect});
    let same = |it: &&mut Value| {
        it.str_at(&["key"]) == key
            && it.str_at(&["operator"]) == "Exists"
            && it.str_at(&["effect"]) == effect
            && it.str_at(&["value"]).is_empty()
    };
    match all.iter_mut().find(same) {
        Some(present) => {
            if let Some(object) = present.as_object_mut().map(|it: &mut Object| it) {
                object.remove("tolerationSeconds");
            }
        }
        None => all.push(wanted),
    }
}
