//! The names and volumes of a StatefulSet's pods. Upstream: `stateful_set_utils.go`.

use apimachinery::{Value, value};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;

use super::claims;
use crate::owner::Owner;
use crate::pods;

/// The label that tells a pod's revision.
pub(super) const REVISION_LABEL: &str = "controller-revision-hash";
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// The set and the ordinal that the name of a pod is made of.
pub(super) fn split(pod: &str) -> Option<(&str, i32)> {
    let (set, ordinal) = pod.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    Some((set, ordinal.parse().ok().filter(|_| digits)?))
}

/// Whether the name of a pod is one of a set's.
pub(super) fn is_member(set: &str, pod: &Pod) -> bool {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    split(name).is_some_and(|(of, _)| of == set)
}

/// The number of a pod; `None` where its name has none.
pub(super) fn ordinal(pod: &Pod) -> Option<i32> {
    split(pod.metadata.name.as_deref()?).map(|(_, ordinal)| ordinal)
}

/// The name of a set's pod.
pub(super) fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.metadata.name.as_deref().unwrap_or_default())
}

/// The first ordinal.
pub(super) fn start(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|it| it.start).unwrap_or_default()
}

/// How many pods there are to be.
pub(super) fn replicas(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// Whether a set is to have a pod of this number.
pub(super) fn is_in_range(set: &StatefulSet, ordinal: i32) -> bool {
    let first = start(set);
    ordinal >= first && ordinal - first < replicas(set)
}

/// The numbers that a plan looks at: of the pods there are, and the first `most` that are missing.
pub(super) fn looked_at(
    set: &StatefulSet,
    present: impl Iterator<Item = i32>,
    most: usize,
) -> Vec<i32> {
    let present: std::collections::BTreeSet<i32> =
        present.filter(|it| is_in_range(set, *it)).collect();
    let first = start(set);
    let all = first..first.saturating_add(replicas(set));
    let mut numbers: Vec<i32> = all.filter(|it| !present.contains(it)).take(most).collect();
    numbers.extend(present);
    numbers.sort_unstable();
    numbers
}

/// The revision that a pod says it is of.
pub(super) fn revision(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|it| it.get(REVISION_LABEL)).map(String::as_str).unwrap_or_default()
}

/// A pod of a set, of this template and revision.
pub(super) fn pod(
    set: &StatefulSet,
    template: &Value,
    claim_templates: &[Value],
    revision: &str,
    ordinal: i32,
) -> Value {
    let owner = Owner { api_version: "apps/v1", kind: "StatefulSet", metadata: &set.metadata };
    let mut pod = pods::from_template_value(template.clone(), &owner);
    let name = pod_name(set, ordinal);
    identify(&mut pod, &name, ordinal);
    pod.set_at(&["metadata", "name"], name.as_str());
    pod.set_at(&["metadata", "namespace"], set.metadata.namespace.clone().unwrap_or_default());
    pod.set_at(&["metadata", "labels", REVISION_LABEL], revision);
    pod.set_at(&["spec", "hostname"], name);
    if let Some(service) = set.spec.service_name.as_deref().filter(|it| !it.is_empty()) {
        pod.set_at(&["spec", "subdomain"], service);
    }
    mount(&mut pod, set, claim_templates, ordinal);
    pod
}

/// Labels a pod with its name and number.
pub(super) fn identify(pod: &mut Value, name: &str, ordinal: i32) {
    pod.set_at(&["metadata", "labels", NAME_LABEL], name);
    pod.set_at(&["metadata", "labels", INDEX_LABEL], ordinal.to_string());
}

/// Whether a pod has its name in its labels.
pub(super) fn is_identified(pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|it| it.get(NAME_LABEL)) == pod.metadata.name.as_ref()
}

/// Gives a pod the volumes of its claims, in place of others of their names.
pub(super) fn mount(pod: &mut Value, set: &StatefulSet, templates: &[Value], ordinal: i32) {
    if templates.is_empty() {
        return;
    }
    let named = |it: &Value| it.str_at(&["metadata", "name"]).to_owned();
    let mut volumes: Vec<Value> = templates
        .iter()
        .map(|template| {
            let claim = claims::name(set, template, ordinal);
            value!({"name": (named(template)), "persistentVolumeClaim": {"claimName": claim}})
        })
        .collect();
    let others = pod.items_at(&["spec", "volumes"]).iter();
    let others = others
        .filter(|it| !templates.iter().any(|template| named(template) == it.str_at(&["name"])));
    volumes.extend(others.cloned().collect::<Vec<_>>());
    pod.set_at(&["spec", "volumes"], Value::Array(volumes));
}

/// Whether a pod has the volumes of its claims.
pub(super) fn is_mounted(pod: &Pod, set: &StatefulSet, templates: &[Value], ordinal: i32) -> bool {
    let volumes = pod.spec.as_ref().and_then(|it| it.volumes.as_deref()).unwrap_or_default();
    templates.iter().all(|template| {
        let claim = claims::name(set, template, ordinal);
        volumes.iter().any(|volume| {
            let source = volume.persistent_volume_claim.as_ref();
            volume.name == template.str_at(&["metadata", "name"])
                && source.is_some_and(|it| it.claim_name == claim)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_set_and_a_number() {
        let check = |name: &str, expected: Option<(&str, i32)>| assert_eq!(split(name), expected);
        check("web-0", Some(("web", 0)));
        check("my-web-12", Some(("my-web", 12)));
        check("web", None);
        check("web-a", None);
        check("web-+1", None);
        check("web-99999999999", None);
    }
}
