//! What is to become of an object, by what has become of its owners.

use apimachinery::{Value, value};
use client::call::PatchKind;
use client::events::{EventType, ObjectReference};
use client::reflector::Cached;
use client::{ObjectKey, Resource};
use controller::{Action, Event, Plan};

use super::{Observed, Owner};
use crate::custom::is_custom;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

pub(super) fn plan(observed: &Observed) -> Plan {
    let mut plan = Plan::nothing();
    if is_deleting(&observed.object) {
        going(&mut plan, observed);
        return plan;
    }
    if observed.owners.is_empty() {
        return plan;
    }
    for (_, owner) in &observed.owners {
        if let Owner::Unknown(fetch) = owner {
            plan.fetches.push(fetch.clone());
        }
    }
    if plan.fetches.is_empty() {
        owned(&mut plan, observed);
    }
    plan
}

fn is_deleting(object: &Value) -> bool {
    object.at(&["metadata", "deletionTimestamp"]).is_some()
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    object.items_at(&["metadata", "finalizers"]).iter().any(|it| it.as_str() == Some(name))
}

/// Whether an object that goes waits for its dependents, or is to leave them orphans.
pub(super) fn works_on(object: &Cached) -> bool {
    object.finalizers().iter().any(|it| it == FOREGROUND || it == ORPHAN)
}

/// Whether an owner is going and waits for its dependents.
pub(super) fn waits(owner: &Value) -> bool {
    is_deleting(owner) && has_finalizer(owner, FOREGROUND)
}

fn uid(object: &Value) -> String {
    object.str_at(&["metadata", "uid"]).to_owned()
}

/// An object with owners: gone ones are forgotten, and without any other it goes as well.
fn owned(plan: &mut Plan, observed: &Observed) {
    let (mut solid, mut gone, mut waiting) = (0, Vec::new(), Vec::new());
    for (reference, owner) in &observed.owners {
        match owner {
            Owner::Present { waits: true } => waiting.push(reference),
            Owner::Misplaced { exists } => {
                solid += 1;
                plan.events.extend(exists.then(|| misplaced(observed, reference)));
            }
            Owner::Present { waits: false } | Owner::Foreign => solid += 1,
            Owner::Elsewhere => {
                plan.events.push(misplaced(observed, reference));
                gone.push(reference);
            }
            Owner::Gone | Owner::Unknown(_) => gone.push(reference),
        }
    }
    if solid > 0 {
        if gone.is_empty() && waiting.is_empty() {
            return;
        }
        let references: Value = gone
            .iter()
            .chain(&waiting)
            .map(|it| value!({"$patch": "delete", "uid": (it.str_at(&["uid"]))}))
            .collect();
        plan.act(patch_owners(observed, references));
        return;
    }
    let propagation = if waiting.is_empty() || observed.dependents.is_empty() {
        // Whatever finalizers an earlier delete has left say what is to become of its own dependents.
        match (has_finalizer(&observed.object, ORPHAN), has_finalizer(&observed.object, FOREGROUND))
        {
            (true, _) => "Orphan",
            (_, true) => "Foreground",
            _ => "Background",
        }
    } else {
        let dependents = observed.dependents.iter();
        if dependents.into_iter().any(|(_, it)| is_deleting(it) && has_finalizer(it, FOREGROUND)) {
            // Whoever waits for this object is waited for by it: it lets them go first.
            plan.act(unblock(observed));
            plan.then();
        }
        "Foreground"
    };
    plan.act(Action::Delete {
        resource: observed.resource.clone(),
        key: observed.key.clone(),
        uid: uid(&observed.object),
        propagation: Some(propagation),
        grace_period_seconds: None,
        // As it was judged: what has got another owner since, or none, is judged again.
        resource_version: observed.object.str_at(&["metadata", "resourceVersion"]).to_owned(),
    });
}

/// Tells that an object names an owner that it cannot have.
fn misplaced(observed: &Observed, reference: &Value) -> Event {
    let text = |name: &str| reference.str_at(&[name]);
    let namespace = observed.key.namespace.as_str();
    let message = format!(
        "ownerRef [{}/{}, namespace: {namespace}, name: {}, uid: {}] does not exist in namespace \"{namespace}\"",
        text("apiVersion"),
        text("kind"),
        text("name"),
        text("uid")
    );
    let about = ObjectReference {
        kind: observed.resource.kind.to_string(),
        resource_version: String::new(),
        ..ObjectReference::of(&observed.object)
    };
    Event { about, kind: EventType::Warning, reason: "OwnerRefInvalidNamespace", message }
}

/// An object that holds up none of its owners any more.
fn unblock(observed: &Observed) -> Action {
    let references: Value = observed
        .owners
        .iter()
        .map(|(reference, _)| {
            let mut reference = reference.clone();
            reference.set_at(&["blockOwnerDeletion"], false);
            reference
        })
        .collect();
    patch_owners(observed, references)
}

/// Changes these references of an object.
fn patch_owners(observed: &Observed, references: Value) -> Action {
    let (kind, patch) = owners_patch(&observed.resource, &observed.object, references);
    Action::Patch {
        resource: observed.resource.clone(),
        key: observed.key.clone(),
        subresource: "",
        kind,
        patch,
        gone_is_fine: true,
    }
}

/// The patch that changes these references of an object. Custom resources take no strategic patch: theirs has the
/// whole list, of the object as it was judged.
fn owners_patch(resource: &Resource, object: &Value, references: Value) -> (PatchKind, Value) {
    if !is_custom(resource) {
        let patch = value!({"metadata": {"ownerReferences": references, "uid": (uid(object))}});
        return (PatchKind::Strategic, patch);
    }
    let changes = references.as_array().unwrap_or_default();
    let changed = |it: &Value| changes.iter().find(|change| change.get("uid") == it.get("uid"));
    let is_gone = |it: &&Value| it.str_at(&["$patch"]) == "delete";
    let rest: Value = object
        .items_at(&["metadata", "ownerReferences"])
        .iter()
        .filter(|it| !changed(it).is_some_and(|change| is_gone(&change)))
        .map(|it| changed(it).unwrap_or(it).clone())
        .collect();
    let version = object.str_at(&["metadata", "resourceVersion"]);
    let patch = value!({"metadata": {"ownerReferences": rest, "uid": (uid(object)),
        "resourceVersion": version}});
    (PatchKind::Merge, patch)
}

/// An object that is being deleted and waits for its dependents, or is to leave them orphans.
fn going(plan: &mut Plan, observed: &Observed) {
    let object = &observed.object;
    if has_finalizer(object, ORPHAN) {
        for (resource, dependent) in &observed.dependents {
            plan.act(forget_owner(resource, dependent, &uid(object)));
        }
        plan.then();
        plan.act(without_finalizer(observed, ORPHAN));
        return;
    }
    if !has_finalizer(object, FOREGROUND) {
        return;
    }
    let own = uid(object);
    let blocks = |dependent: &Value| {
        let references = dependent.items_at(&["metadata", "ownerReferences"]);
        references
            .iter()
            .any(|it| it.str_at(&["uid"]) == own && it.bool_at(&["blockOwnerDeletion"]))
    };
    if !observed.dependents.iter().any(|(_, dependent)| blocks(dependent)) {
        plan.act(without_finalizer(observed, FOREGROUND));
    } else if observed.in_circle {
        // Somebody has to go first (upstream's wait for ever, where each was deleted so that it waits).
        plan.act(unblock(observed));
    }
}

fn forget_owner(resource: &Resource, dependent: &Value, owner: &str) -> Action {
    let key = ObjectKey::new(
        dependent.str_at(&["metadata", "namespace"]),
        dependent.str_at(&["metadata", "name"]),
    );
    let references = value!([{"$patch": "delete", "uid": owner}]);
    let (kind, patch) = owners_patch(resource, dependent, references);
    Action::Patch {
        resource: resource.clone(),
        key,
        subresource: "",
        kind,
        patch,
        gone_is_fine: true,
    }
}

fn without_finalizer(observed: &Observed, name: &str) -> Action {
    let rest: Value = observed
        .object
        .items_at(&["metadata", "finalizers"])
        .iter()
        .filter(|it| it.as_str() != Some(name))
        .cloned()
        .collect();
    let version = observed.object.str_at(&["metadata", "resourceVersion"]);
    Action::Patch {
        resource: observed.resource.clone(),
        key: observed.key.clone(),
        subresource: "",
        kind: PatchKind::Merge,
        patch: value!({"metadata": {"finalizers": rest, "resourceVersion": version}}),
        gone_is_fine: true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_object_goes_with_its_last_owner_as_it_was_judged() {
        let parse = |text: &str| apimachinery::json::parse(text.as_bytes()).unwrap();
        let check = |owners: &[Owner], dependents: &[&str], expected: &str| {
            let reference =
                |place: usize| parse(&format!(r#"{{"uid":"o{place}","blockOwnerDeletion":true}}"#));
            let owners = owners.iter().enumerate();
            let observed = Observed {
                resource: Resource::built_in("", "configmaps"),
                key: ObjectKey::new("ns", "x"),
                object: Arc::new(parse(
                    r#"{"metadata":{"name":"x","uid":"X","resourceVersion":"7"}}"#,
                )),
                owners: owners.map(|(place, it)| (reference(place), it.clone())).collect(),
                dependents: dependents
                    .iter()
                    .map(|it| (Resource::built_in("", "pods"), parse(it)))
                    .collect(),
                in_circle: false,
            };
            let plan = plan(&observed);
            let actions = plan.stages.iter().flat_map(|it| &it.actions);
            let shown = actions.map(|it| match &it.action {
                Action::Delete { propagation, resource_version, .. } => {
                    format!("delete {resource_version} {}", propagation.unwrap_or_default())
                }
                Action::Patch { patch, .. } => {
                    let references = patch.items_at(&["metadata", "ownerReferences"]).iter();
                    let show = |it: &Value| match it.str_at(&["$patch"]) {
                        "" => format!("unblock {}", it.str_at(&["uid"])),
                        _ => format!("forget {}", it.str_at(&["uid"])),
                    };
                    references.map(show).collect::<Vec<_>>().join(" ")
                }
                _ => "other".into(),
            });
            assert_eq!(shown.collect::<Vec<_>>().join(", "), expected);
        };
        let present = |text: &str| Owner::Present { waits: super::waits(&parse(text)) };
        let there = present(r#"{"metadata":{"uid":"o"}}"#);
        let going = r#"{"metadata":{"deletionTimestamp":"x","finalizers":["foregroundDeletion"]}}"#;
        let waits = present(going);
        check(&[], &[], "");
        check(std::slice::from_ref(&there), &[], "");
        check(&[Owner::Gone], &[], "delete 7 Background");
        check(&[Owner::Gone, there.clone()], &[], "forget o0");
        check(&[waits.clone(), there], &[], "forget o0");
        check(&[Owner::Misplaced { exists: false }], &[], "");
        check(&[Owner::Elsewhere], &[], "delete 7 Background");
        check(std::slice::from_ref(&waits), &[], "delete 7 Background");
        check(std::slice::from_ref(&waits), &["{}"], "delete 7 Foreground");
        // Whoever waits for this object is waited for by it.
        check(&[waits], &[going], "unblock o0, delete 7 Foreground");
    }
}
