//! What a deployment asks of its sets. Upstream: `pkg/controller/deployment/util`.

use apimachinery::{Value, hash, value};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::owner::{self, Owner, to_value};
use crate::share::{self, Rounding};

/// The label that tells the pods of one template from those of another.
pub(super) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// The revision that a deployment is to go back to.
pub(super) const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// Annotations of a deployment that its sets do not take over.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX_REPLICAS,
    ROLLBACK_TO,
];

/// The spec of a deployment.
pub(super) fn spec(deployment: &Deployment) -> &DeploymentSpec {
    &deployment.spec
}

pub(super) fn wanted(deployment: &Deployment) -> i32 {
    spec(deployment).replicas.unwrap_or(1)
}

/// How many replicas a set asks for.
pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

pub(super) fn total_wanted<'s>(sets: impl IntoIterator<Item = &'s ReplicaSet>) -> i32 {
    sets.into_iter().map(replicas).sum()
}

pub(super) fn status_replicas(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or_default()
}

pub(super) fn is_rolling(deployment: &Deployment) -> bool {
    let kind = spec(deployment).strategy.as_ref().and_then(|it| it.type_.as_deref());
    kind.unwrap_or("RollingUpdate") == "RollingUpdate"
}

/// How many more pods than wanted there may be, and how many fewer may be available. Both 0 would be no way forward:
/// then one may be missing.
pub(super) fn surge_and_unavailable(deployment: &Deployment) -> (i32, i32) {
    if !is_rolling(deployment) {
        return (0, 0);
    }
    let rolling = spec(deployment).strategy.as_ref().and_then(|it| it.rolling_update.as_ref());
    let total = wanted(deployment);
    let quarter = IntOrString::String("25%".into());
    let surge = rolling.and_then(|it| it.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|it| it.max_unavailable.as_ref()).unwrap_or(&quarter);
    let (surge, unavailable) =
        (share::of(surge, total, Rounding::Up), share::of(unavailable, total, Rounding::Down));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub(super) fn max_surge(deployment: &Deployment) -> i32 {
    surge_and_unavailable(deployment).0
}

pub(super) fn max_unavailable(deployment: &Deployment) -> i32 {
    surge_and_unavailable(deployment).1.min(wanted(deployment))
}

/// A template without the label that the controller adds.
pub(super) fn plain_template(template: &impl serde::Serialize) -> Value {
    let mut template = to_value(template);
    template.remove_at(&["metadata", "labels", HASH_LABEL]);
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("creationTimestamp");
        if metadata
            .get("labels")
            .and_then(Value::as_object)
            .is_some_and(apimachinery::Object::is_empty)
        {
            metadata.remove("labels");
        }
    }
    template
}

/// The set of the deployment's present template: the oldest, should there be several.
pub(super) fn new_set<'s>(
    deployment: &Deployment,
    sets: &'s [ReplicaSet],
) -> Option<&'s ReplicaSet> {
    let template = plain_template(&spec(deployment).template);
    let mut candidates: Vec<&ReplicaSet> = sets
        .iter()
        .filter(|set| set.spec.template.as_ref().map(plain_template).as_ref() == Some(&template))
        .collect();
    candidates.sort_by(|a, b| by_age(a, b));
    candidates.first().copied()
}

/// Older first.
pub(super) fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> std::cmp::Ordering {
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    created(a).cmp(&created(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

pub(super) fn annotation<'s>(set: &'s ReplicaSet, key: &str) -> Option<&'s str> {
    set.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// How many names are tried before the last one stands.
const MAX_COLLISIONS: i32 = 100;

/// The hash of the present template, made another one by each collision.
fn template_hash(deployment: &Deployment, collisions: Option<i32>) -> String {
    hash::template_hash(&to_value(&spec(deployment).template), collisions)
}

/// How often the name of the present template's set is taken: by a set of another template, or one that neither is its own nor
/// will be.
pub(super) fn collisions(
    deployment: &Deployment,
    taken: impl Fn(&str) -> Option<ReplicaSet>,
) -> Option<i32> {
    let mut count = deployment.status.as_ref().and_then(|status| status.collision_count);
    let template = plain_template(&spec(deployment).template);
    let selector = owner::selector(&spec(deployment).selector);
    let own = |set: &ReplicaSet| {
        let same = set.spec.template.as_ref().map(plain_template).as_ref() == Some(&template);
        let owner = owner::controller_of(&set.metadata);
        let keeps = owner.is_none_or(|it| Some(&it.uid) == deployment.metadata.uid.as_ref());
        same && keeps && owner::matches(&selector, &set.metadata)
    };
    let name = deployment.metadata.name.clone().unwrap_or_default();
    loop {
        let tried = count.unwrap_or_default();
        let set = taken(&format!("{name}-{}", template_hash(deployment, count)));
        if set.as_ref().is_none_or(own) || tried >= MAX_COLLISIONS {
            return count;
        }
        count = Some(tried + 1);
    }
}

/// How large a new set is, and which revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) replicas: i32,
    pub(super) revision: i64,
}

/// The set for the present template, as it is to be created.
pub(super) fn make_set(
    deployment: &Deployment,
    owner: &Owner<'_>,
    collisions: Option<i32>,
    size: &Size,
) -> Value {
    let hash = template_hash(deployment, collisions);
    let name = format!("{}-{hash}", deployment.metadata.name.clone().unwrap_or_default());
    let mut template = to_value(&spec(deployment).template);
    template.set_at(&["metadata", "labels", HASH_LABEL], hash.as_str());
    let labels = template.at(&["metadata", "labels"]).cloned().unwrap_or_default();
    let mut selector = to_value(&spec(deployment).selector);
    selector.set_at(&["matchLabels", HASH_LABEL], hash.as_str());
    let mut set = value!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": (deployment.metadata.namespace.clone().unwrap_or_default()),
            "labels": labels, "ownerReferences": [(owner.reference())]
        },
        "spec": {"replicas": (size.replicas), "selector": selector, "template": template}
    });
    if let Some(seconds) = spec(deployment).min_ready_seconds.filter(|it| *it != 0) {
        set.set_at(&["spec", "minReadySeconds"], seconds);
    }
    for (key, text) in copied_annotations(deployment) {
        set.set_at(&["metadata", "annotations", key], text);
    }
    set.set_at(&["metadata", "annotations", REVISION], size.revision.to_string());
    annotate_size(deployment, &mut set);
    set
}

/// Whether a set and its deployment share an annotation.
pub(super) fn is_shared(annotation: &str) -> bool {
    !NOT_COPIED.contains(&annotation)
}

fn copied_annotations(deployment: &Deployment) -> impl Iterator<Item = (&str, &str)> {
    let all = deployment.metadata.annotations.iter().flatten();
    all.map(|(key, text)| (key.as_str(), text.as_str())).filter(|(key, _)| is_shared(key))
}

/// Notes how large the deployment was when this set was last sized.
pub(super) fn annotate_size(deployment: &Deployment, set: &mut Value) {
    let desired = wanted(deployment).to_string();
    let most = (wanted(deployment) + max_surge(deployment)).to_string();
    for (key, text) in [(DESIRED, desired), (MAX_REPLICAS, most)] {
        set.set_at(&["metadata", "annotations", key], text);
    }
}

/// Brings the annotations of the new set up to date; `None` where they are.
pub(super) fn updated_set(
    deployment: &Deployment,
    set: &ReplicaSet,
    next_revision: i64,
) -> Option<Value> {
    let mut object = to_value(set);
    let mut changed = false;
    for (key, text) in copied_annotations(deployment) {
        if annotation(set, key) != Some(text) {
            object.set_at(&["metadata", "annotations", key], text);
            changed = true;
        }
    }
    let old = revision(set);
    if old < next_revision {
        if old > 0 {
            let history = annotation(set, REVISION_HISTORY);
            let history = history.map_or(old.to_string(), |history| format!("{history},{old}"));
            object.set_at(&["metadata", "annotations", REVISION_HISTORY], history);
        }
        object.set_at(&["metadata", "annotations", REVISION], next_revision.to_string());
        changed = true;
    }
    let seconds = spec(deployment).min_ready_seconds.unwrap_or_default();
    if set.spec.min_ready_seconds.unwrap_or_default() != seconds {
        object.set_at(&["spec", "minReadySeconds"], seconds);
        changed = true;
    }
    changed.then_some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_is_not_its_own_and_will_not_be_has_taken_the_name() {
        let template = r#"{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[]}}"#;
        let deployment = format!(
            r#"{{"metadata":{{"name":"d","uid":"U"}},"spec":{{"selector":{{"matchLabels":{{"a":"b"}}}},"template":{template}}}}}"#
        );
        let deployment: Deployment = serde_json::from_str(&deployment).unwrap();
        let first = template_hash(&deployment, None);
        let check = |metadata: &str, expected| {
            let set = format!(
                r#"{{"metadata":{metadata},"spec":{{"selector":{{}},"template":{template}}}}}"#
            );
            let taken =
                |name: &str| name.ends_with(&first).then(|| serde_json::from_str(&set).unwrap());
            assert_eq!(collisions(&deployment, taken), expected);
        };
        let owned = |uid: &str, label: &str| {
            format!(
                r#"{{"labels":{{"a":"{label}"}},"ownerReferences":[{{"apiVersion":"apps/v1","kind":"Deployment","name":"d","uid":"{uid}","controller":true}}]}}"#
            )
        };
        check(&owned("U", "b"), None);
        check(&owned("X", "b"), Some(1));
        // It is let go of, is adopted, or was let go of.
        check(&owned("U", "z"), Some(1));
        check(r#"{"labels":{"a":"b"}}"#, None);
        check(r#"{"labels":{"a":"z"}}"#, Some(1));
    }
}
