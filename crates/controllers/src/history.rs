//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had, so that it can go back to one. Upstream:
//! `pkg/controller/history`.

use apimachinery::{Value, hash, value};
use client::{ObjectKey, Resource};
use controller::{Action, Snapshot};
use k8s_openapi::api::apps::v1::ControllerRevision;

use crate::owner::{self, Owner, to_value};

/// How many names are tried before the last one stands; each is as likely to be taken as a hash is to be met twice.
const MAX_COLLISIONS: i32 = 100;

/// A template as its revision keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The patch that leads back to it.
    pub data: Value,
    /// What tells it from others, as its label says.
    pub hash: String,
    /// The name of its revision.
    pub name: String,
    /// How many names were taken by other templates; what the status already counts at least.
    pub collisions: Option<i32>,
    /// The revision of that name and this template, where there is one whoever owns it.
    pub existing: Option<ControllerRevision>,
}

/// Finds the name for the revision of a template: one that is free or already this template's.
#[must_use]
pub fn keep(
    snapshot: &Snapshot,
    workload: &ObjectKey,
    template: &Value,
    collisions: Option<i32>,
) -> Kept {
    let taken = |name: &str| snapshot.get(&ObjectKey::new(workload.namespace.clone(), name));
    keep_with(&workload.name, template, collisions, taken)
}

fn keep_with(
    workload: &str,
    template: &Value,
    mut collisions: Option<i32>,
    taken: impl Fn(&str) -> Option<ControllerRevision>,
) -> Kept {
    let data = data(template);
    loop {
        let hash = hash::template_hash(template, collisions.filter(|it| *it != 0));
        let name = format!("{workload}-{hash}");
        let existing = taken(&name);
        let other = existing.as_ref().is_some_and(|it| to_value(&it.data) != data);
        let count = collisions.unwrap_or_default();
        if !other || count >= MAX_COLLISIONS {
            return Kept { data, hash, name, collisions, existing };
        }
        collisions = Some(count + 1);
    }
}

/// The patch that puts a template back.
fn data(template: &Value) -> Value {
    let mut template = template.clone();
    template.set_at(&["$patch"], "replace");
    value!({"spec": {"template": template}})
}

/// The template that a revision keeps.
#[must_use]
pub fn template(revision: &ControllerRevision) -> Value {
    let data = to_value(&revision.data);
    let mut template = data.at(&["spec", "template"]).cloned().unwrap_or_default();
    template.remove_at(&["$patch"]);
    template
}

/// The number of a revision.
#[must_use]
pub fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or_default()
}

/// Whether a revision keeps this template.
#[must_use]
pub fn is_of(revision: &ControllerRevision, kept: &Kept) -> bool {
    to_value(&revision.data) == kept.data
}

/// Older first: by number, then by age, then by name.
pub fn sort(revisions: &mut [&ControllerRevision]) {
    revisions.sort_by_key(|it| {
        let created = it.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (number(it), created, it.metadata.name.clone())
    });
}

/// Creates the revision of a template. `label` is the key under which its hash is shown.
#[must_use]
pub fn create(owner: &Owner<'_>, kept: &Kept, number: i64, label: &str) -> Action {
    let namespace = owner.metadata.namespace.clone().unwrap_or_default();
    let labels = kept.data.at(&["spec", "template", "metadata", "labels"]);
    let mut object = value!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"name": (kept.name.as_str()), "namespace": (namespace.as_str()),
            "labels": (labels.cloned().unwrap_or_else(Value::object)), "ownerReferences": [(owner.reference())]},
        "data": (kept.data.clone()), "revision": number
    });
    object.set_at(&["metadata", "labels", label], kept.hash.as_str());
    for (key, text) in owner.metadata.annotations.iter().flatten() {
        object.set_at(&["metadata", "annotations", key], text.as_str());
    }
    Action::Create { resource: resource(), namespace, object, exists_is_fine: false }
}

/// Makes an old revision the newest.
#[must_use]
pub fn renumber(revision: &ControllerRevision, number: i64) -> Action {
    let mut object = to_value(revision);
    object.set_at(&["revision"], number);
    Action::Update { resource: resource(), subresource: "", object }
}

/// Deletes a revision.
#[must_use]
pub fn delete(revision: &ControllerRevision) -> Action {
    owner::delete(resource(), &revision.metadata)
}

/// The resource.
#[must_use]
pub fn resource() -> Resource {
    Resource::of::<ControllerRevision>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_this_template_s_or_free() {
        let template = value!({"metadata": {"labels": {"a": "b"}}});
        let first = keep_with("s", &template, None, |_| None);
        assert_eq!(first.collisions, None);
        let revision = |data: &Value| -> ControllerRevision {
            let mut object = value!({"metadata": {}, "revision": 1});
            object.set_at(&["data"], data.clone());
            serde_json::from_slice(&apimachinery::json::to_vec(&object)).unwrap()
        };
        let own = keep_with("s", &template, None, |_| Some(revision(&first.data)));
        assert_eq!((&own.name, own.collisions), (&first.name, None));
        assert_eq!(super::template(own.existing.as_ref().unwrap()), template);
        let taken = first.name.clone();
        let other = keep_with("s", &template, None, |name| {
            (name == taken).then(|| revision(&value!({"spec": {}})))
        });
        assert_eq!(other.collisions, Some(1));
        assert_ne!(other.name, first.name);
    }
}
