//! Volumes of CSI drivers are attached to the nodes whose pods have them, and detached when no pod of a node does. Upstream:
//! `pkg/controller/volume/attachdetach`.
//!
//! A VolumeAttachment is the order; the driver's attacher carries it out and says so in its status. The node's status tells
//! the node's agent what is attached: an entry goes before the order does, so that nothing is mounted that is going.
//! Knows no driver; volumes of in-tree plugins are the drivers' that took over, on nodes that say so.

mod metrics;
mod plan;
mod strays;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use client::csi_translation::{self, OfDriver, Plugin};
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

/// What it works on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A volume.
    Volume(CompactString),
    /// A node whose status may name volumes that are gone.
    Node(CompactString),
}

/// What it sees.
#[derive(Debug)]
pub enum Observed {
    /// Of a volume.
    Volume(OfVolume),
    /// Of a node: what its status names and is no volume's any more.
    Node(Arc<Value>, BTreeSet<CompactString>),
}

/// What it sees of a volume.
#[derive(Debug)]
pub struct OfVolume {
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
    /// Whose it is.
    of: OfDriver,
    /// Whether it can be on one node at a time only.
    exclusive: bool,
    /// Whether its driver attaches at all.
    attaches: bool,
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
    /// What it is called in the node's status; unknown where volume and order are gone.
    entry: Option<CompactString>,
}

impl Controller for AttachDetach {
    const NAME: &'static str = "persistentvolume-attach-detach-controller";
    const ACCOUNT: &'static str = "attachdetach-controller";
    const SOURCE: &'static str = "attachdetach-controller";
    const QUEUE: &'static str = "pvcs";
    type Key = Key;
    type Observed = Observed;
    type Memory = Memory;

    fn watches(&self, watches: Watches<Key>) -> Watches<Key> {
        watches
            .on::<PersistentVolume>(of_volume)
            .on::<PersistentVolumeClaim>(of_claim)
            .on::<Pod>(of_pod)
            .on::<VolumeAttachment>(of_attachment)
            .on::<Node>(of_node)
            .on::<CSIDriver>(of_driver)
            .on::<CSINode>(of_csi_node)
    }

    fn observe(&self, snapshot: &Snapshot, key: &Key) -> Option<Observed> {
        match key {
            Key::Volume(name) => self.volume(snapshot, name).map(Observed::Volume),
            Key::Node(name) => strays::of_node(snapshot, name),
        }
    }

    fn plan(&self, observed: &Observed, memory: &mut Memory, now: Timestamp) -> Plan {
        match observed {
            Observed::Volume(volume) => plan::plan(self, volume, memory, now),
            Observed::Node(node, strays) => strays::plan(node, strays),
        }
    }
}

impl AttachDetach {
    fn volume(&self, snapshot: &Snapshot, name: &str) -> Option<OfVolume> {
        let volume = snapshot.store::<PersistentVolume>().get(&ObjectKey::new("", name));
        let volume = volume.map(|it| it.value());
        let csi = volume.as_deref().and_then(|it| csi(snapshot, it));
        let mut nodes: BTreeMap<CompactString, OnNode> = BTreeMap::new();
        for it in snapshot.store::<VolumeAttachment>().by_index(BY_VOLUME, name) {
            let attachment = it.value();
            let name = attachment.str_at(&["spec", "nodeName"]).into();
            nodes.entry(name).or_default().attachments.push(attachment);
        }
        if let Some(csi) = &csi {
            for it in snapshot.store::<Node>().by_index(BY_ATTACHED, &csi.of.unique_name()) {
                let node = &it.key.name;
                // Of two volumes that are one disk, the one that was ordered has the entry.
                let order = plan::attachment_name(&csi.of.driver, &csi.of.handle, node);
                let is_another = |it: Arc<Cached>| attached_by(&it.value()) != name;
                let order = snapshot.store::<VolumeAttachment>().get(&ObjectKey::new("", order));
                if !order.is_some_and(is_another) {
                    nodes.entry(node.clone()).or_default();
                }
            }
        }
        for pod in volume.iter().flat_map(|it| pods_of(snapshot, it)).filter(|_| csi.is_some()) {
            let name = pod.str_at(&["spec", "nodeName"]).into();
            nodes.entry(name).or_default().pods.push(pod);
        }
        for (name, on) in &mut nodes {
            let node = snapshot.store::<Node>().get(&ObjectKey::new("", name.clone()));
            on.node = node.map(|it| it.value());
            let plugin = csi.as_ref().and_then(|it| it.of.plugin);
            on.left = plugin.is_none_or(|it| leaves(snapshot, name, it));
            let keep = on.node.as_ref().is_some_and(|it| says(it, KEEP_OVER));
            on.pods.retain(|pod| keep || !is_over(pod));
            on.entry = match &csi {
                Some(csi) => Some(csi.of.unique_name()),
                None => on.node.as_deref().and_then(|it| strays::entry_of(it, &on.attachments)),
            };
        }
        let observed = OfVolume { name: name.into(), csi, nodes };
        self.metrics.see(name, plan::total(&observed).as_ref());
        (observed.csi.is_some() || !observed.nodes.is_empty()).then_some(observed)
    }
}

fn csi(snapshot: &Snapshot, volume: &Value) -> Option<Csi> {
    let of = OfDriver::of(volume)?;
    let known = snapshot.store::<CSIDriver>().get(&ObjectKey::new("", of.driver.as_str()));
    let said = known.and_then(|it| it.value().at(&["spec", "attachRequired"])?.as_bool());
    let modes: Vec<&str> =
        volume.items_at(&["spec", "accessModes"]).iter().filter_map(Value::as_str).collect();
    let shared = |it: &&str| matches!(*it, "ReadWriteMany" | "ReadOnlyMany");
    Some(Csi {
        of,
        exclusive: !modes.is_empty() && !modes.iter().any(shared),
        attaches: said.unwrap_or(true),
    })
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

fn key(volume: &str) -> Option<Key> {
    (!volume.is_empty()).then(|| Key::Volume(volume.into()))
}

/// The volume, and the nodes that have it as their own where it is gone.
fn of_volume(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let mut keys = vec![Key::Volume(change.key().name)];
    let gone = change.old.as_ref().filter(|_| change.new.is_none());
    if let Some(of) = gone.and_then(|it| OfDriver::of(&it.value())) {
        let nodes = snapshot.store::<Node>().by_index(BY_ATTACHED, &of.unique_name());
        keys.extend(nodes.into_iter().map(|it| Key::Node(it.key.name.clone())));
    }
    keys
}

fn of_claim(change: &StoreChange, _: &Snapshot) -> Vec<Key> {
    let claims = [&change.old, &change.new].into_iter().flatten();
    let mut keys: Vec<_> =
        claims.filter_map(|it| key(it.value().str_at(&["spec", "volumeName"]))).collect();
    keys.dedup();
    keys
}

fn of_pod(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
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

/// The volume that an order is about.
fn attached_by(attachment: &Value) -> &str {
    attachment.str_at(&["spec", "source", "persistentVolumeName"])
}

/// The volume of an order, and its node where the order is gone: it may name what nobody else knows any more.
fn of_attachment(change: &StoreChange, _: &Snapshot) -> Vec<Key> {
    let Some(attachment) = change.new.as_ref().or(change.old.as_ref()) else { return Vec::new() };
    let attachment = attachment.value();
    let node = change.new.is_none().then(|| attachment.str_at(&["spec", "nodeName"]));
    let mut keys: Vec<Key> = node.map(|it| Key::Node(it.into())).into_iter().collect();
    keys.extend(key(attached_by(&attachment)));
    keys
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
fn of_node(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let facts = |it: &Option<Arc<Cached>>| it.as_ref().map(|it| facts(&it.value()));
    let (old, new) = (facts(&change.old), facts(&change.new));
    if old == new {
        return Vec::new();
    }
    let mut keys = volumes_on(snapshot, &change.key().name);
    // Nothing that is in use is looked for among what is attached and nobody's.
    let names = new.is_some_and(|it| !it.5.is_empty());
    keys.extend(names.then(|| Key::Node(change.key().name)));
    keys
}

/// The volumes of a node that leaves other in-tree plugins to drivers than it did.
fn of_csi_node(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let left = |it: &Option<Arc<Cached>>| {
        it.as_ref().map(|it| csi_translation::left_by(&it.value())).unwrap_or_default()
    };
    if left(&change.old) == left(&change.new) {
        return Vec::new();
    }
    volumes_on(snapshot, &change.key().name)
}

/// The volumes that are attached to a node, that its status names, or that its pods want there.
fn volumes_on(snapshot: &Snapshot, name: &str) -> Vec<Key> {
    let attachments = snapshot.store::<VolumeAttachment>().by_index(BY_NODE, name);
    let mut keys: Vec<Key> =
        attachments.iter().filter_map(|it| key(attached_by(&it.value()))).collect();
    let claims = snapshot.store::<PersistentVolumeClaim>();
    for pod in snapshot.store::<Pod>().by_index(BY_NODE, name) {
        for claim in claims_of_pod(&pod.value()) {
            let claim = claims.get(&ObjectKey::new(pod.key.namespace.clone(), claim));
            keys.extend(claim.and_then(|it| key(it.value().str_at(&["spec", "volumeName"]))));
        }
    }
    if let Some(node) = snapshot.store::<Node>().get(&ObjectKey::new("", name)) {
        let volumes = snapshot.store::<PersistentVolume>();
        for it in node.value().items_at(&["status", "volumesAttached"]) {
            let its = volumes.by_index(BY_ATTACHED, it.str_at(&["name"]));
            keys.extend(its.iter().map(|it| Key::Volume(it.key.name.clone())));
        }
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The volumes of a driver that says something else about attaching now.
fn of_driver(change: &StoreChange, snapshot: &Snapshot) -> Vec<Key> {
    let said = |it: &Option<Arc<Cached>>| {
        let said = it.as_ref().and_then(|it| it.value().at(&["spec", "attachRequired"])?.as_bool());
        said.unwrap_or(true)
    };
    if said(&change.old) == said(&change.new) {
        return Vec::new();
    }
    let driver = change.key().name;
    let volumes = snapshot.store::<PersistentVolume>().list("");
    let is_its = |it: &OfDriver| it.driver == driver;
    let its = volumes.iter().filter(|it| OfDriver::of(&it.value()).as_ref().is_some_and(is_its));
    its.map(|it| Key::Volume(it.key.name.clone())).collect()
}
