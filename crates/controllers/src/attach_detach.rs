//! Volumes of CSI drivers are attached to the nodes whose pods have them, and detached when no pod of a node does. Upstream:
//! `pkg/controller/volume/attachdetach`.
//!
//! A VolumeAttachment is the order; the driver's attacher carries it out and says so in its status. The node's status tells
//! the node's agent what is attached: an entry goes before the order does, so that nothing is mounted that is going.
//! Knows no driver; volumes of in-tree plugins are the drivers' that took over, on nodes that say so.

mod metrics;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use client::csi_translation::{self, Plugin};
use client::indexes::{
    BY_ATTACHED, BY_CLAIM, BY_NODE, BY_VOLUME, claim_entry, claims_of_pod, has_claims,
};
use client::reflector::{Cached, StoreChange};
use compact_str::CompactString;
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, VolumeAttachment};

pub use metrics::Metrics;
pub use plan::Memory;

/// Says that a node's volumes are this controller's business.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// Says that pods that are over keep their volumes.
const KEEP_OVER: &str = "volumes.kubernetes.io/keep-terminated-pod-volumes";
/// A node with this taint is known to be off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// How the controller detaches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether a node that is not ready keeps for ever what it has mounted (upstream:
    /// `--disable-force-detach-on-timeout`).
    pub never_forced: bool,
}

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct AttachDetach {
    /// How it detaches.
    pub options: Options,
    /// What it counts.
    pub metrics: Metrics,
}

/// What it sees of a volume.
#[derive(Debug)]
pub struct Observed {
    /// Its name.
    name: CompactString,
    /// None where it is gone, or no driver's.
    csi: Option<Csi>,
    /// The nodes that have it, are to have it, or say that they have it.
    nodes: BTreeMap<CompactString, OnNode>,
}

/// What a volume says of itself.
#[derive(Debug)]
struct Csi {
    driver: String,
    handle: String,
    /// Whether it can be on one node at a time only.
    exclusive: bool,
    /// Whether its driver attaches at all.
    attaches: bool,
    /// The in-tree plugin whose volume it was.
    plugin: Option<&'static Plugin>,
}

impl Csi {
    /// What the volume is called in a node's status.
    fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }
}

/// What there is of a volume on one node.
#[derive(Debug, Default)]
struct OnNode {
    /// None where there is no such node.
    node: Option<Arc<Value>>,
    /// Whether it leaves volumes of the in-tree plugin to the driver.
    left: bool,
    /// The pods that have it there.
    pods: Vec<Arc<Value>>,
    /// The orders to attach it there.
    attachments: Vec<Arc<Value>>,
}

impl Controller for AttachDetach {
    const NAME: &'static str = "persistentvolume-attach-detach-controller";
    const ACCOUNT: &'static str = "attachdetach-controller";
    const SOURCE: &'static str = "attachdetach-controller";
    const QUEUE: &'static str = "pvcs";
    /// A volume.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        watches
            .on::<PersistentVolume>(|change, _| vec![change.key()])
            .on::<PersistentVolumeClaim>(of_claim)
            .on::<Pod>(of_pod)
            .on::<VolumeAttachment>(of_attachment)
            .on::<Node>(of_node)
            .on::<CSIDriver>(of_driver)
            .on::<CSINode>(of_csi_node)
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let volume = snapshot.store::<PersistentVolume>().get(key).map(|it| it.value());
        let csi = volume.as_deref().and_then(|it| csi(snapshot, it));
        let mut nodes: BTreeMap<CompactString, OnNode> = BTreeMap::new();
        for it in snapshot.store::<VolumeAttachment>().by_index(BY_VOLUME, &key.name) {
            let attachment = it.value();
            let name = attachment.str_at(&["spec", "nodeName"]).into();
            nodes.entry(name).or_default().attachments.push(attachment);
        }
        if let Some(csi) = &csi {
            for it in snapshot.store::<Node>().by_index(BY_ATTACHED, &csi.unique_name()) {
                nodes.entry(it.key.name.clone()).or_default();
            }
        }
        for pod in volume.iter().flat_map(|it| pods_of(snapshot, it)).filter(|_| csi.is_some()) {
            let name = pod.str_at(&["spec", "nodeName"]).into();
            nodes.entry(name).or_default().pods.push(pod);
        }
        for (name, on) in &mut nodes {
            let node = snapshot.store::<Node>().get(&ObjectKey::new("", name.clone()));
            on.node = node.map(|it| it.value());
            let plugin = csi.as_ref().and_then(|it| it.plugin);
            on.left = plugin.is_none_or(|it| leaves(snapshot, name, it));
            let keep = on.node.as_ref().is_some_and(|it| says(it, KEEP_OVER));
            on.pods.retain(|pod| keep || !is_over(pod));
        }
        let observed = Observed { name: key.name.clone(), csi, nodes };
        self.metrics.see(&key.name, plan::total(&observed).as_ref());
        (observed.csi.is_some() || !observed.nodes.is_empty()).then_some(observed)
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        plan::plan(self, observed, memory, now)
    }
}

fn csi(snapshot: &Snapshot, volume: &Value) -> Option<Csi> {
    let (driver, handle, plugin) = whose(volume)?;
    let known = snapshot.store::<CSIDriver>().get(&ObjectKey::new("", driver.as_str()));
    let said = known.and_then(|it| it.value().at(&["spec", "attachRequired"])?.as_bool());
    let modes: Vec<&str> =
        volume.items_at(&["spec", "accessModes"]).iter().filter_map(Value::as_str).collect();
    let shared = |it: &&str| matches!(*it, "ReadWriteMany" | "ReadOnlyMany");
    Some(Csi {
        driver,
        handle,
        exclusive: !modes.is_empty() && !modes.iter().any(shared),
        attaches: said.unwrap_or(true),
        plugin,
    })
}

/// The driver of a volume, what it calls it, and the in-tree plugin that it was of.
fn whose(volume: &Value) -> Option<(String, String, Option<&'static Plugin>)> {
    if let Some(csi) = volume.at(&["spec", "csi"]).filter(|it| !it.is_null()) {
        let said = |member| csi.str_at(&[member]).to_owned();
        return Some((said("driver"), said("volumeHandle"), None));
    }
    let it = csi_translation::of_volume(volume)?;
    Some((it.plugin.driver.to_owned(), it.handle.to_string(), Some(it.plugin)))
}

/// Whether a node leaves the volumes of an in-tree plugin to the driver.
fn leaves(snapshot: &Snapshot, node: &str, plugin: &Plugin) -> bool {
    let said = snapshot.store::<CSINode>().get(&ObjectKey::new("", node));
    said.is_some_and(|it| csi_translation::left_by(&it.value()).contains(plugin.name))
}

/// The pods on nodes whose claim has the volume.
fn pods_of(snapshot: &Snapshot, volume: &Value) -> Vec<Arc<Value>> {
    let reference = |member| volume.str_at(&["spec", "claimRef", member]);
    let (namespace, name) = (reference("namespace"), reference("name"));
    let claim = snapshot.store::<PersistentVolumeClaim>().get(&ObjectKey::new(namespace, name));
    let bound = claim.is_some_and(|it| {
        let claim = it.value();
        claim.str_at(&["spec", "volumeName"]) == volume.str_at(&["metadata", "name"])
            && claim.str_at(&["status", "phase"]) == "Bound"
            && reference("uid") == it.uid.as_str()
    });
    if !bound {
        return Vec::new();
    }
    let pods = snapshot.store::<Pod>().by_index(BY_CLAIM, &claim_entry(namespace, name));
    let placed = |pod: &Arc<Value>| !pod.str_at(&["spec", "nodeName"]).is_empty();
    pods.iter().map(|it| it.value()).filter(placed).collect()
}

/// Whether an annotation is there and not empty, as upstream reads these.
fn says(node: &Value, annotation: &str) -> bool {
    !node.str_at(&["metadata", "annotations", annotation]).is_empty()
}

/// Whether nothing of a pod runs any more, or will.
fn is_over(pod: &Value) -> bool {
    if matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
        return true;
    }
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let mut statuses = lists.iter().flat_map(|list| pod.items_at(&["status", list]));
    let still = |it: &Value| {
        let is = |state| it.at(&["state", state]).is_some_and(|it| !it.is_null());
        is("terminated") || is("waiting")
    };
    pod.at(&["metadata", "deletionTimestamp"]).is_some() && statuses.all(still)
}

fn key(volume: &str) -> Option<ObjectKey> {
    (!volume.is_empty()).then(|| ObjectKey::new("", volume))
}

fn of_claim(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    let claims = [&change.old, &change.new].into_iter().flatten();
    let mut keys: Vec<_> =
        claims.filter_map(|it| key(it.value().str_at(&["spec", "volumeName"]))).collect();
    keys.dedup();
    keys
}

fn of_pod(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let Some(pod) = change.new.as_ref().or(change.old.as_ref()) else { return Vec::new() };
    if pod.pod().node.is_empty() || !has_claims(pod) {
        return Vec::new();
    }
    let (claims, namespace) = (snapshot.store::<PersistentVolumeClaim>(), change.key().namespace);
    let volume = |name| {
        let claim = claims.get(&ObjectKey::new(namespace.clone(), name))?;
        key(claim.value().str_at(&["spec", "volumeName"]))
    };
    claims_of_pod(&pod.value()).into_iter().filter_map(volume).collect()
}

fn of_attachment(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    let attachment = change.new.as_ref().or(change.old.as_ref());
    let name = ["spec", "source", "persistentVolumeName"];
    attachment.and_then(|it| key(it.value().str_at(&name))).into_iter().collect()
}

/// What of a node decides about its volumes.
fn facts(node: &Value) -> (bool, bool, bool, bool, Vec<Value>, Vec<Value>) {
    (
        says(node, MANAGED),
        says(node, KEEP_OVER),
        is_ready(node),
        is_out_of_service(node),
        node.items_at(&["status", "volumesInUse"]).to_vec(),
        node.items_at(&["status", "volumesAttached"]).to_vec(),
    )
}

fn is_ready(node: &Value) -> bool {
    let conditions = node.items_at(&["status", "conditions"]);
    conditions.iter().any(|it| it.str_at(&["type"]) == "Ready" && it.str_at(&["status"]) == "True")
}

fn is_out_of_service(node: &Value) -> bool {
    node.items_at(&["spec", "taints"]).iter().any(|it| it.str_at(&["key"]) == OUT_OF_SERVICE)
}

/// The volumes that are on a node, or that its pods want there, where something about it changed that matters.
fn of_node(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let facts = |it: &Option<Arc<Cached>>| it.as_ref().map(|it| facts(&it.value()));
    if facts(&change.old) == facts(&change.new) {
        return Vec::new();
    }
    volumes_on(snapshot, &change.key().name)
}

/// The volumes of a node that leaves other in-tree plugins to drivers than it did.
fn of_csi_node(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let left = |it: &Option<Arc<Cached>>| {
        it.as_ref().map(|it| csi_translation::left_by(&it.value())).unwrap_or_default()
    };
    if left(&change.old) == left(&change.new) {
        return Vec::new();
    }
    volumes_on(snapshot, &change.key().name)
}

/// The volumes that are attached to a node, or that its pods want there.
fn volumes_on(snapshot: &Snapshot, name: &str) -> Vec<ObjectKey> {
    let attachments = snapshot.store::<VolumeAttachment>().by_index(BY_NODE, name);
    let mut keys: Vec<ObjectKey> = attachments
        .iter()
        .filter_map(|it| key(it.value().str_at(&["spec", "source", "persistentVolumeName"])))
        .collect();
    let claims = snapshot.store::<PersistentVolumeClaim>();
    for pod in snapshot.store::<Pod>().by_index(BY_NODE, name) {
        for claim in claims_of_pod(&pod.value()) {
            let claim = claims.get(&ObjectKey::new(pod.key.namespace.clone(), claim));
            keys.extend(claim.and_then(|it| key(it.value().str_at(&["spec", "volumeName"]))));
        }
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The volumes of a driver that says something else about attaching now.
fn of_driver(change: &StoreChange, snapshot: &Snapshot) -> Vec<ObjectKey> {
    let said = |it: &Option<Arc<Cached>>| {
        let said = it.as_ref().and_then(|it| it.value().at(&["spec", "attachRequired"])?.as_bool());
        said.unwrap_or(true)
    };
    if said(&change.old) == said(&change.new) {
        return Vec::new();
    }
    let driver = change.key().name;
    let volumes = snapshot.store::<PersistentVolume>().list("");
    let its = volumes.iter().filter(|it| whose(&it.value()).is_some_and(|it| it.0 == driver));
    its.map(|it| it.key.clone()).collect()
}
