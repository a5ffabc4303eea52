//! Which objects the pods of a node need.
//!
//! Pods are kept by node as they change; what one needs is read from it when it is first asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use api::pod_references::{self, claim_of_volume, is_mirror};
use apimachinery::Value;
use apimachinery::obj::Obj;
use compact_str::CompactString;
use parking_lot::RwLock;
use tokio::time::Instant;

use crate::Objects;
use crate::metrics::{GraphAction, Metrics};
use crate::objects::{Change, Changes, Feed, Key, key_of};

const CLAIMS: &str = "persistentvolumeclaims";
/// The sources of persistent volumes whose `secretRef` is of the claim's namespace where it says none.
const OF_CLAIM_S_NAMESPACE: [&str; 5] = ["cephfs", "flexVolume", "rbd", "scaleIO", "iscsi"];
/// The secrets of CSI volumes that nodes need; the others are the controllers' of the driver.
const OF_NODES: [&str; 3] = ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"];

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

    /// Whether this object is the node's, or one of its pods needs it.
    pub(super) fn reaches(&self, node: &str, wanted: Wanted<'_>) -> bool {
        match wanted.resource {
            "volumeattachments" => self.is_of(node, "storage.k8s.io", wanted),
            "resourceslices" => self.is_of(node, "resource.k8s.io", wanted),
            "podcertificaterequests" => self.is_of(node, "certificates.k8s.io", wanted),
            _ => self.is_needed(node, wanted),
        }
    }

    fn value(&self, group: &str, wanted: Wanted<'_>) -> Option<Value> {
        let Wanted { resource, namespace, name } = wanted;
        self.objects.get(group, resource, namespace, name)?.to_value().ok()
    }

    /// Whether an object says that it is the node's.
    fn is_of(&self, node: &str, group: &str, wanted: Wanted<'_>) -> bool {
        self.value(group, wanted).is_some_and(|it| it.str_at(&["spec", "nodeName"]) == node)
    }

    /// Whether a pod of the node needs the object.
    fn is_needed(&self, node: &str, wanted: Wanted<'_>) -> bool {
        if self.pods.read().feed.as_ref().is_some_and(|feed| feed.is_behind()) {
            self.pods.write().catch_up(&self.metrics);
        }
        let pods = self.pods.read();
        let Some(pods) = pods.by_node.get(node) else { return false };
        match wanted.resource {
            "pods" => pods.contains_key(&(wanted.namespace.into(), wanted.name.into())),
            "persistentvolumes" => self.value("", wanted).is_some_and(|volume| {
                let (namespace, name) = claim_of(&volume);
                needed(pods, Wanted { resource: CLAIMS, namespace, name })
            }),
            "secrets" => needed(pods, wanted) || self.needed_by_volume(pods, wanted),
            _ => needed(pods, wanted),
        }
    }

    /// Whether a volume that is bound to a claim of one of the pods needs the secret.
    fn needed_by_volume(&self, pods: &BTreeMap<Key, Pod>, secret: Wanted<'_>) -> bool {
        pods.values().any(|pod| {
            let namespace = pod.object.facts.namespace.as_str();
            pod.needs().iter().filter(|need| need.resource == CLAIMS).any(|need| {
                let claim = Wanted { resource: CLAIMS, namespace, name: &need.name };
                self.claim_needs(claim, secret)
            })
        })
    }

    /// Whether the volume that a claim is bound to needs the secret. That the claim names the volume is not enough: anybody who
    /// makes claims may write that. The volume has to name the claim, as upstream's graph goes.
    fn claim_needs(&self, claim: Wanted<'_>, secret: Wanted<'_>) -> bool {
        let Some(value) = self.value("", claim) else { return false };
        let name = value.str_at(&["spec", "volumeName"]);
        let volume = Wanted { resource: "persistentvolumes", namespace: "", name };
        let Some(volume) = self.value("", volume) else { return false };
        claim_of(&volume) == (claim.namespace, claim.name)
            && names_secret(&volume, (secret.namespace, secret.name))
    }
}

/// Namespace and name of the claim that a volume is bound to; empty where it is to none.
fn claim_of(volume: &Value) -> (&str, &str) {
    let of = |member| volume.str_at(&["spec", "claimRef", member]);
    (of("namespace"), of("name"))
}

fn needed(pods: &BTreeMap<Key, Pod>, wanted: Wanted<'_>) -> bool {
    let first = (wanted.namespace.into(), CompactString::default());
    let mut here = pods.range(first..).take_while(|(key, _)| key.0 == wanted.namespace);
    here.any(|(_, pod)| {
        pod.needs().iter().any(|it| it.resource == wanted.resource && it.name == wanted.name)
    })
}

/// Whether a persistent volume names the secret, and a node needs it for the volume. Upstream: `VisitPVSecretNames`.
fn names_secret(volume: &Value, secret: (&str, &str)) -> bool {
    let spec = &volume["spec"];
    let of_claim = claim_of(volume).0;
    let or_claim_s = |namespace| if str::is_empty(namespace) { of_claim } else { namespace };
    let azure = &spec["azureFile"];
    if (or_claim_s(azure.str_at(&["secretNamespace"])), azure.str_at(&["secretName"])) == secret {
        return true;
    }
    let named = |source: &str, member: &str, default_namespace: bool| {
        let reference = &spec[source][member];
        let namespace = reference.str_at(&["namespace"]);
        let namespace = if default_namespace { or_claim_s(namespace) } else { namespace };
        (namespace, reference.str_at(&["name"])) == secret
    };
    OF_CLAIM_S_NAMESPACE.iter().any(|source| named(source, "secretRef", true))
        || ["cinder", "storageos"].iter().any(|source| named(source, "secretRef", false))
        || OF_NODES.iter().any(|member| named("csi", member, false))
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
                changes.into_iter().for_each(|change| self.changed(change, &mut count));
            }
        }
    }

    fn changed(&mut self, change: Change, count: &mut dyn FnMut(GraphAction)) {
        let key = key_of(&change.object);
        if change.deleted {
            count(GraphAction::DeletePod);
            return self.remove(&key);
        }
        let node = self.node_of.get(&key);
        let known = node.and_then(|node| self.by_node.get_mut(node)?.get_mut(&key));
        match known {
            // A pod stays on its node: the text need not be read again to know it.
            Some(known) if is_same(&known.object, &change.object) => {
                *known = Pod::of(change.object);
            }
            _ => {
                self.remove(&key);
                if self.set(change.object) {
                    count(GraphAction::AddPod);
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
        if !object.mentions("\"nodeName\":") {
            return false;
        }
        let Ok(value) = object.to_value() else { return false };
        let node = CompactString::from(value.str_at(&["spec", "nodeName"]));
        if node.is_empty() {
            return false;
        }
        let key = key_of(&object);
        self.node_of.insert(key.clone(), node.clone());
        self.by_node.entry(node).or_default().insert(key, Pod::of(object));
        true
    }
}

/// Whether two states are of one pod.
fn is_same(before: &Obj, now: &Obj) -> bool {
    let uid = now.uid();
    !uid.is_empty() && before.uid() == uid
}

impl Pod {
    fn of(object: Arc<Obj>) -> Self {
        Self { object, needs: OnceLock::new() }
    }

    fn needs(&self) -> &[Need] {
        self.needs.get_or_init(|| {
            let value = self.object.to_value().unwrap_or_default();
            needs_of(&value)
        })
    }
}

/// Everything a pod names in its namespace. A mirror pod needs nothing: its node makes it, and would read whatever it names.
fn needs_of(pod: &Value) -> Vec<Need> {
    if is_mirror(pod) {
        return Vec::new();
    }
    let mut needs = Vec::new();
    let mut add = |resource, names: Vec<&str>| {
        needs.extend(names.into_iter().map(|name| Need { resource, name: name.into() }));
    };
    let account = pod.str_at(&["spec", "serviceAccountName"]);
    if !account.is_empty() {
        add("serviceaccounts", vec![account]);
    }
    add("secrets", pod_references::secrets(pod));
    add("configmaps", pod_references::config_maps(pod));
    add("resourceclaims", pod_references::resource_claims(pod));
    let volumes = pod.items_at(&["spec", "volumes"]).iter();
    let claims = volumes.filter_map(|volume| claim_of_volume(pod, volume));
    needs.extend(claims.map(|name| Need { resource: CLAIMS, name: name.into() }));
    needs
}
