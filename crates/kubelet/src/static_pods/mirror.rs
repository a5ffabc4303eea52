//! Mirrors of static pods on the API server: made so that people see what runs, made anew when somebody deletes them, and
//! removed with the pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::{Value, value};
use client::call::DeleteParams;
use client::reflector::{Cached, StoreChange};
use client::{ClientError, ObjectKey, Resource};
use parking_lot::Mutex;

use super::HASH;
use crate::shared::Shared;

/// Says that a pod is a mirror, and of which content.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The mirrors on the server that are of this node.
#[derive(Debug, Default)]
pub(crate) struct Mirrors(Mutex<BTreeMap<ObjectKey, Arc<Cached>>>);

impl Mirrors {
    /// Takes a change of a mirror; false when it is of another pod.
    pub(crate) fn take(&self, change: &StoreChange) -> bool {
        let any = change.new.as_ref().or(change.old.as_ref());
        if !any.is_some_and(|it| is_mirror(&it.value())) {
            return false;
        }
        let mut all = self.0.lock();
        match &change.new {
            Some(new) => drop(all.insert(change.key(), Arc::clone(new))),
            None => drop(all.remove(&change.key())),
        }
        true
    }

    /// The mirror of a static pod, if it has one.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<Cached>> {
        self.0.lock().get(key).cloned()
    }
}

fn is_mirror(pod: &Value) -> bool {
    !pod.str_at(&["metadata", "annotations", MIRROR]).is_empty()
}

fn resource() -> Resource {
    Resource::built_in("", "pods")
}

/// The mirror of a static pod: the one that is there, or a new one in place of one that is old or about to go.
///
/// # Errors
/// When the server refuses.
pub(crate) async fn ensure(shared: &Shared, pod: &Cached) -> Result<Value, ClientError> {
    let wanted = pod.to_value();
    if let Some(there) = shared.mirrors.get(&pod.key).map(|it| it.to_value()) {
        if is_good(&there, &wanted) {
            return Ok(there);
        }
        delete(shared, &there).await?;
    }
    match create(shared, pod, wanted.clone()).await {
        // It was made before the news of it came: by an earlier process, or a moment ago.
        Err(error) if error.code() == Some(409) => {
            let there = shared.client.get(&resource(), &pod.key.namespace, &pod.key.name).await?;
            if is_good(&there, &wanted) {
                return Ok(there);
            }
            if !is_mirror(&there) {
                return Err(error);
            }
            delete(shared, &there).await?;
            create(shared, pod, wanted).await
        }
        answer => answer,
    }
}

/// Whether a mirror is of this content and stays.
pub(crate) fn is_good(mirror: &Value, wanted: &Value) -> bool {
    let same = mirror.str_at(&["metadata", "annotations", MIRROR])
        == wanted.str_at(&["metadata", "annotations", HASH]);
    same && mirror.str_at(&["metadata", "deletionTimestamp"]).is_empty()
}

async fn create(shared: &Shared, pod: &Cached, wanted: Value) -> Result<Value, ClientError> {
    let name = shared.config.node_name.as_str();
    let node = shared.client.get(&Resource::built_in("", "nodes"), "", name).await?;
    let mirror = mirror_of(wanted, name, node.str_at(&["metadata", "uid"]));
    shared.client.create(&resource(), &pod.key.namespace, &mirror).await
}

/// Removes the mirror of a static pod that is gone.
///
/// # Errors
/// When the server refuses.
pub(crate) async fn remove(shared: &Shared, key: &ObjectKey) -> Result<(), ClientError> {
    match shared.mirrors.get(key) {
        Some(there) => delete(shared, &there.value()).await,
        None => Ok(()),
    }
}

async fn delete(shared: &Shared, mirror: &Value) -> Result<(), ClientError> {
    let at = |field: &str| mirror.str_at(&["metadata", field]).to_owned();
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        uid: Some(at("uid")),
        ..DeleteParams::default()
    };
    match shared.client.delete(&resource(), &at("namespace"), &at("name"), &params).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn mirror_of(mut pod: Value, node: &str, node_uid: &str) -> Value {
    let hash = pod.str_at(&["metadata", "annotations", HASH]).to_owned();
    pod.set_at(&["metadata", "annotations", MIRROR], hash.as_str());
    for of_pod in ["uid", "resourceVersion"] {
        pod.remove_at(&["metadata", of_pod]);
    }
    pod.remove_at(&["status"]);
    let owner = value!({
        "apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": true
    });
    pod.set_at(&["metadata", "ownerReferences"], Value::Array(vec![owner]));
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_tells_its_content_and_belongs_to_the_node() {
        let pod = value!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "0",
            "annotations": {"kubernetes.io/config.hash": "h"}},
            "status": {"phase": "Pending"}});
        assert!(!is_mirror(&pod));
        let mirror = mirror_of(pod, "n", "nu");
        assert!(is_mirror(&mirror));
        assert!(mirror.at(&["metadata", "uid"]).is_none());
        assert!(mirror.at(&["metadata", "resourceVersion"]).is_none());
        let owner = &mirror.items_at(&["metadata", "ownerReferences"])[0];
        assert_eq!((owner.str_at(&["kind"]), owner.str_at(&["uid"])), ("Node", "nu"));
    }
}
