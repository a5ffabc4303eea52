//! Which objects the pods of a node need.
//!
//! Pods are kept by node as they change; what one needs is read from it when it is first asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use apimachinery::Value;
use apimachinery::obj::Obj;
use compact_str::CompactString;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::Objects;
use crate::metrics::{GraphAction, Metrics};
use crate::objects::{Changes, Feed, Key, key_of};

/// What is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'w> {
    pub(super) resource: &'w str,
    pub(super) namespace: &'w str,
    pub(super) name: &'w str,
}

/// The objects that nodes need.
#[derive(Debug)]
pub(super) struct Graph {
    objects: Arc<dyn Objects>,
    pods: RwLock<Pods>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Pods {
    feed: Option<Box<dyn Feed>>,
    by_node: BTreeMap<CompactString, BTreeMap<Key, Pod>>,
    node_of: BTreeMap<Key, CompactString>,
}

#[derive(Debug)]
struct Pod {
    object: Arc<Obj>,
    needs: OnceLock<Vec<Need>>,
}

/// An object of the pod's namespace.
#[derive(Debug, PartialEq, Eq)]
struct Need {
    resource: &'static str,
    name: CompactString,
}

impl Graph {
    pub(super) fn new(objects: Arc<dyn Objects>, metrics: Metrics) -> Self {
        let feed = objects.feed("", "pods");
        let pods = Pods { feed, by_node: BTreeMap::new(), node_of: BTreeMap::new() };
        Self { objects, pods: RwLock::new(pods), metrics }
    }

    /// Whether a pod of the node needs this object.
    pub(super) fn reaches(&self, node: &str, wanted: Wanted<'_>) -> bool {
        if self.pods.read().feed.as_ref().is_some_and(|feed| feed.is_behind()) {
            self.pods.write().catch_up(&self.metrics);
        }
        let pods = self.pods.read();
        let Some(pods) = pods.by_node.get(node) else {
            return wanted.resource == "volumeattachments" && self.is_attached(node, wanted.name);
        };
        match wanted.resource {
            "pods" => pods.contains_key(&(wanted.namespace.into(), wanted.name.into())),
            "volumeattachments" => self.is_attached(node, wanted.name),
            "persistentvolumes" => {
                let Some(claim) = self.claim_of(wanted.name) else { return false };
                let (namespace, name) = (claim.0.as_str(), claim.1.as_str());
                needed(pods, Wanted { resource: "persistentvolumeclaims", namespace, name })
            }
            "secrets" => needed(pods, wanted) || self.needed_by_volume(pods, wanted),
            _ => needed(pods, wanted),
        }
    }

    fn value(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.objects.get(group, resource, namespace, name)?.to_value().ok()
    }

    fn is_attached(&self, node: &str, attachment: &str) -> bool {
        let value = self.value("storage.k8s.io", "volumeattachments", "", attachment);
        value.is_some_and(|it| it.str_at(&["spec", "nodeName"]) == node)
    }

    /// Namespace and name of the claim that a volume is bound to.
    fn claim_of(&self, volume: &str) -> Option<Key> {
        let volume = self.value("", "persistentvolumes", "", volume)?;
        let claim = volume.at(&["spec", "claimRef"])?;
        Some((claim.str_at(&["namespace"]).into(), claim.str_at(&["name"]).into()))
    }

    /// Whether a volume behind a claim of one of the pods needs the secret.
    fn needed_by_volume(&self, pods: &BTreeMap<Key, Pod>, secret: Wanted<'_>) -> bool {
        pods.values().any(|pod| {
            let namespace = pod.object.facts.namespace.as_str();
            pod.needs().iter().any(|need| {
                need.resource == "persistentvolumeclaims"
                    && self.claim_needs(namespace, &need.name, secret)
            })
        })
    }

    fn claim_needs(&self, namespace: &str, claim: &str, secret: Wanted<'_>) -> bool {
        let Some(claim) = self.value("", "persistentvolumeclaims", namespace, claim) else {
            return false;
        };
        let volume = claim.str_at(&["spec", "volumeName"]);
        let Some(volume) = self.value("", "persistentvolumes", "", volume) else { return false };
        let mut found = false;
        secrets_of_volume(&volume["spec"], &mut |reference| {
            let given = reference.str_at(&["namespace"]);
            let of = if given.is_empty() { namespace } else { given };
            found |= of == secret.namespace
                && [reference.str_at(&["name"]), reference.str_at(&["secretName"])]
                    .contains(&secret.name);
        });
        found
    }
}

fn needed(pods: &BTreeMap<Key, Pod>, wanted: Wanted<'_>) -> bool {
    let first = (wanted.namespace.into(), CompactString::default());
    let mut here = pods.range(first..).take_while(|(key, _)| key.0 == wanted.namespace);
    here.any(|(_, pod)| {
        pod.needs().iter().any(|it| it.resource == wanted.resource && it.name == wanted.name)
    })
}

/// Every secret that a persistent volume names.
fn secrets_of_volume(spec: &Value, found: &mut impl FnMut(&Value)) {
    for member in [
        "controllerPublishSecretRef",
        "nodePublishSecretRef",
        "nodeStageSecretRef",
        "nodeExpandSecretRef",
        "controllerExpandSecretRef",
    ] {
        found(&spec["csi"][member]);
    }
    for source in ["rbd", "cephfs", "iscsi", "flexVolume", "scaleIO", "storageos"] {
        found(&spec[source]["secretRef"]);
    }
    found(&spec["azureFile"]);
}

impl Pods {
    fn catch_up(&mut self, metrics: &Metrics) {
        let Some(feed) = &mut self.feed else { return };
        // Where one ends, the next begins.
        let mut began = Instant::now();
        let mut count = |action| {
            let now = Instant::now();
            metrics.graph_action(action, now - std::mem::replace(&mut began, now));
        };
        match feed.take() {
            Changes::All(objects) => {
                self.by_node.clear();
                self.node_of.clear();
                for object in objects {
                    if self.set(object) {
                        count(GraphAction::AddPod);
                    }
                }
            }
            Changes::Some(changes) => {
                for change in changes {
                    self.remove(&key_of(&change.object));
                    if change.deleted {
                        count(GraphAction::DeletePod);
                    } else if self.set(change.object) {
                        count(GraphAction::AddPod);
                    }
                }
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(node) = self.node_of.remove(key) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.remove(key);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    /// Takes a pod; whether it has a node.
    fn set(&mut self, object: Arc<Obj>) -> bool {
        let Ok(value) = object.to_value() else { return false };
        let node = CompactString::from(value.str_at(&["spec", "nodeName"]));
        if node.is_empty() {
            return false;
        }
        let key = key_of(&object);
        self.node_of.insert(key.clone(), node.clone());
        let pod = Pod { object, needs: OnceLock::new() };
        self.by_node.entry(node).or_default().insert(key, pod);
        true
    }
}

impl Pod {
    fn needs(&self) -> &[Need] {
        self.needs.get_or_init(|| {
            let value = self.object.to_value().unwrap_or_default();
            needs_of(&value)
        })
    }
}

/// Everything a pod names in its namespace.
fn needs_of(pod: &Value) -> Vec<Need> {
    let mut needs = Vec::new();
    let mut add = |resource: &'static str, name: &str| {
        if !name.is_empty() {
            needs.push(Need { resource, name: name.into() });
        }
    };
    add("serviceaccounts", pod.str_at(&["spec", "serviceAccountName"]));
    for secret in pod.items_at(&["spec", "imagePullSecrets"]) {
        add("secrets", secret.str_at(&["name"]));
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in pod.items_at(&["spec", list]) {
            needs_of_container(container, &mut add);
        }
    }
    let pod_name = pod.str_at(&["metadata", "name"]);
    for volume in pod.items_at(&["spec", "volumes"]) {
        needs_of_volume(pod_name, volume, &mut add);
    }
    for claim in pod.items_at(&["spec", "resourceClaims"]) {
        add("resourceclaims", claim.str_at(&["resourceClaimName"]));
    }
    for claim in pod.items_at(&["status", "resourceClaimStatuses"]) {
        add("resourceclaims", claim.str_at(&["resourceClaimName"]));
    }
    let extended = ["status", "extendedResourceClaimStatus", "resourceClaimName"];
    add("resourceclaims", pod.str_at(&extended));
    needs
}

fn needs_of_container(container: &Value, add: &mut impl FnMut(&'static str, &str)) {
    for source in container.items_at(&["envFrom"]) {
        add("secrets", source.str_at(&["secretRef", "name"]));
        add("configmaps", source.str_at(&["configMapRef", "name"]));
    }
    for variable in container.items_at(&["env"]) {
        add("secrets", variable.str_at(&["valueFrom", "secretKeyRef", "name"]));
        add("configmaps", variable.str_at(&["valueFrom", "configMapKeyRef", "name"]));
    }
}

fn needs_of_volume(pod: &str, volume: &Value, add: &mut impl FnMut(&'static str, &str)) {
    add("secrets", volume.str_at(&["secret", "secretName"]));
    add("configmaps", volume.str_at(&["configMap", "name"]));
    add("persistentvolumeclaims", volume.str_at(&["persistentVolumeClaim", "claimName"]));
    if volume.get("ephemeral").is_some() {
        add("persistentvolumeclaims", &format!("{pod}-{}", volume.str_at(&["name"])));
    }
    for source in volume.items_at(&["projected", "sources"]) {
        add("secrets", source.str_at(&["secret", "name"]));
        add("configmaps", source.str_at(&["configMap", "name"]));
    }
    secrets_of_volume(volume, &mut |reference| {
        add("secrets", reference.str_at(&["name"]));
        add("secrets", reference.str_at(&["secretName"]));
    });
}
