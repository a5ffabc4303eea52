//! Who owns what: references, adoption and release.

use std::sync::Arc;

use apimachinery::labels::Selector;
use apimachinery::{Value, value};
use client::call::PatchKind;
use client::events::ObjectReference;
use client::{ObjectKey, Resource};
use controller::{Action, Plan};
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};

/// An object that controls others.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'o> {
    /// `apps/v1`
    pub api_version: &'static str,
    /// `ReplicaSet`
    pub kind: &'static str,
    /// Its metadata.
    pub metadata: &'o ObjectMeta,
}

impl Owner<'_> {
    /// Its uid.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The reference that its objects carry.
    #[must_use]
    pub fn reference(&self) -> Value {
        value!({
            "apiVersion": (self.api_version), "kind": (self.kind), "name": (self.metadata.name.clone().unwrap_or_default()),
            "uid": (self.uid()), "controller": true, "blockOwnerDeletion": true
        })
    }

    /// Takes an orphan whose labels fit.
    #[must_use]
    pub fn adopt(&self, resource: Resource, orphan: &ObjectMeta) -> Action {
        self.adopt_at(resource, key_of(orphan), orphan.uid.as_deref().unwrap_or_default())
    }

    /// The same of an orphan that only its place and uid are known of.
    #[must_use]
    pub fn adopt_at(&self, resource: Resource, key: ObjectKey, uid: &str) -> Action {
        let owners = value!([(self.reference())]);
        patch_at(resource, key, owners, uid)
    }

    /// Lets go of an object whose labels do not fit any more.
    #[must_use]
    pub fn release(&self, resource: Resource, object: &ObjectMeta) -> Action {
        self.release_at(resource, key_of(object), object.uid.as_deref().unwrap_or_default())
    }

    /// The same of an object that only its place and uid are known of.
    #[must_use]
    pub fn release_at(&self, resource: Resource, key: ObjectKey, uid: &str) -> Action {
        let owners = value!([{"$patch": "delete", "uid": (self.uid())}]);
        patch_at(resource, key, owners, uid)
    }
}

/// Sorts out which objects are an owner's: those that it controls and that fit are; those that do not fit any more are let
/// go of; orphans that fit are taken. `objects` are its own, by index, and orphans.
pub fn claim<'o, T: Metadata<Ty = ObjectMeta>>(
    plan: &mut Plan,
    owner: &Owner<'_>,
    resource: &Resource,
    objects: &'o [Arc<T>],
    fits: impl Fn(&T) -> bool,
) -> Vec<&'o T> {
    let deleting = is_deleting(owner.metadata);
    let mut mine = Vec::new();
    for object in objects.iter().map(AsRef::as_ref) {
        let metadata = object.metadata();
        match controller_of(metadata) {
            Some(_) if fits(object) => mine.push(object),
            Some(_) if !deleting => {
                plan.act(owner.release(resource.clone(), metadata));
            }
            None if !deleting && !is_deleting(metadata) && fits(object) => {
                plan.act(owner.adopt(resource.clone(), metadata));
                mine.push(object);
            }
            Some(_) | None => {}
        }
    }
    mine
}

/// Deletes this very object, in its own time.
#[must_use]
pub fn delete(resource: Resource, metadata: &ObjectMeta) -> Action {
    delete_at(resource, key_of(metadata), metadata.uid.clone().unwrap_or_default())
}

/// The same of an object that is a value.
#[must_use]
pub fn delete_value(resource: Resource, object: &Value) -> Action {
    let at = |member: &str| object.str_at(&["metadata", member]);
    delete_at(resource, ObjectKey::new(at("namespace"), at("name")), at("uid").to_owned())
}

/// The same of an object that only its place and uid are known of.
#[must_use]
pub fn delete_at(resource: Resource, key: ObjectKey, uid: String) -> Action {
    Action::Delete {
        resource,
        key,
        uid,
        propagation: None,
        grace_period_seconds: None,
        resource_version: String::new(),
    }
}

fn patch_at(resource: Resource, key: ObjectKey, owners: Value, uid: &str) -> Action {
    Action::Patch {
        resource,
        key,
        subresource: "",
        kind: PatchKind::Strategic,
        patch: value!({"metadata": {"ownerReferences": (owners), "uid": (uid)}}),
        gone_is_fine: true,
    }
}

/// Where an object lies.
#[must_use]
pub fn key_of(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// An object as events name it.
#[must_use]
pub fn reference_to(api_version: &str, kind: &str, metadata: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: api_version.into(),
        kind: kind.into(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        field_path: String::new(),
    }
}

/// The reference to the controller of an object.
#[must_use]
pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether an object with this metadata is being deleted.
#[must_use]
pub fn is_deleting(metadata: &ObjectMeta) -> bool {
    metadata.deletion_timestamp.is_some()
}

/// Whether a namespace takes nothing new.
#[must_use]
pub fn is_terminating(namespace: &Namespace) -> bool {
    is_deleting(&namespace.metadata)
        || namespace.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Terminating")
}

/// The selector of a workload; nothing where it cannot be read, which validation prevents.
#[must_use]
pub fn selector(selector: &LabelSelector) -> Selector {
    let value = serde_json::to_string(selector)
        .ok()
        .and_then(|text| apimachinery::json::parse(text.as_bytes()).ok());
    Selector::from_value(value.as_ref()).unwrap_or_else(|_| nothing())
}

fn nothing() -> Selector {
    Selector::from_value(None).expect("because no selector at all selects nothing")
}

/// Whether labels fit a selector.
#[must_use]
pub fn matches(selector: &Selector, metadata: &ObjectMeta) -> bool {
    selector.matches(|key| {
        metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str)
    })
}

/// A Rust value as an API value.
#[must_use]
pub fn to_value<T: serde::Serialize>(object: &T) -> Value {
    let text = serde_json::to_vec(object).unwrap_or_default();
    apimachinery::json::parse(&text).unwrap_or_default()
}
