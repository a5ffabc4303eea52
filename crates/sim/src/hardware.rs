//! What a cluster's hardware is to the API: the driver of its disks, with what upstream's sidecars do for one (external-provisioner,
//! external-attacher, node-driver-registrar), and the driver of its devices. Both are clients of the API like any others.
//!
//! What is really attached where is told to [`Reality`], which says what must not be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, value};
use auth::UserInfo;
use auth::user::MASTERS;
use client::call::{DeleteParams, ListParams, PatchKind};
use client::reflector::Cached;
use client::{Client, ClientError, ObjectKey, Reflector, Resource, Store};
use compact_str::CompactString;
use component_base::{Random, Shutdown};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::dice::Dice;
use crate::link::{FaultyTransport, Link};
use crate::node::Site;
use crate::reality::Reality;

/// The driver of disks.
pub(crate) const DISKS: &str = "disk.sim.example";
/// The driver of devices.
pub(crate) const DEVICES: &str = "gpu.sim.example";
/// Disks that are made where a pod is to be, and go with their claims.
pub(crate) const LATE: &str = "late";
/// Disks that are made at once, and are kept.
pub(crate) const NOW_KEPT: &str = "kept";
/// Disks that nobody makes.
pub(crate) const MANUAL: &str = "manual";
/// How many devices a node has.
pub(crate) const DEVICES_A_NODE: usize = 6;
/// How many disks a node can have.
const DISKS_A_NODE: i64 = 16;

const ZONE: &str = "topology.kubernetes.io/zone";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const HELD: &str = "external-attacher/disk-sim-example";

/// After something that failed.
const RETRY: Duration = Duration::from_millis(900);
/// Between two looks where nothing changes.
const LOOK: Duration = Duration::from_secs(60);
/// How often, in a thousand, there is no room for a disk where it was asked for.
const NO_ROOM: u32 = 80;

/// What a disk is called in a node's status.
pub(crate) fn unique_name(handle: &str) -> String {
    format!("kubernetes.io/csi/{DISKS}^{handle}")
}

#[derive(Debug)]
struct Stores {
    claims: Store,
    volumes: Store,
    nodes: Store,
    attachments: Store,
}

/// The drivers.
#[derive(Debug)]
pub(crate) struct Hardware {
    client: Client,
    dice: Dice,
    link: Arc<Link>,
    reality: Arc<Reality>,
    stores: Stores,
    changed: Arc<Notify>,
    /// When what belongs to nodes was made sure of last, by their uids.
    registered: Mutex<BTreeMap<CompactString, Instant>>,
}

impl Hardware {
    /// Starts them for the whole run.
    pub(crate) fn start(site: &Site, link: &Arc<Link>) {
        let user = UserInfo::new("hardware", &[MASTERS]);
        let client = Client::new(FaultyTransport::new(&site.slot, user, link, false), "hardware");
        let changed = Arc::new(Notify::new());
        let follow = |group, plural| follow(&client, &site.random, &changed, group, plural);
        let stores = Stores {
            claims: follow("", "persistentvolumeclaims"),
            volumes: follow("", "persistentvolumes"),
            nodes: follow("", "nodes"),
            attachments: follow("storage.k8s.io", "volumeattachments"),
        };
        let hardware = Self {
            dice: Dice::new(site.seed, "hardware"),
            link: Arc::clone(link),
            reality: Arc::clone(&site.reality),
            client,
            stores,
            changed,
            registered: Mutex::default(),
        };
        tokio::spawn(hardware.work());
    }

    async fn work(self) {
        loop {
            let fine = self.pass().await;
            let until = Instant::now() + if fine { LOOK } else { RETRY };
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            }
            tokio::time::sleep(self.dice.millis(5, 400)).await;
        }
    }

    /// Does everything that there is to do; whether all of it was done.
    async fn pass(&self) -> bool {
        let Stores { claims, volumes, nodes, attachments } = &self.stores;
        if ![claims, volumes, nodes, attachments].iter().all(|it| it.is_synced()) {
            return false;
        }
        let mut fine = true;
        for node in nodes.list("") {
            let known = self.registered.lock().get(&node.uid).is_some_and(|at| at.elapsed() < LOOK);
            if known {
                continue;
            }
            let done = self.register(&node).await.is_ok();
            if done {
                self.registered.lock().insert(node.uid.clone(), Instant::now());
            }
            fine &= done;
        }
        for claim in claims.list("") {
            fine &= self.provision(&claim.value()).await.is_ok();
        }
        for attachment in attachments.list("") {
            fine &= self.attach(&attachment).await.is_ok();
        }
        for volume in volumes.list("") {
            fine &= self.delete(&volume).await.is_ok();
        }
        fine
    }

    /// Says of a node that the driver is there, and which devices it has.
    async fn register(&self, node: &Cached) -> Result<(), ClientError> {
        let (name, uid) = (node.key.name.as_str(), node.uid.as_str());
        let owner = value!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid});
        let driver = value!({"name": DISKS, "nodeID": name, "topologyKeys": [ZONE],
            "allocatable": {"count": DISKS_A_NODE}});
        let csi_node = value!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode",
            "metadata": {"name": name, "ownerReferences": [(owner.clone())]}, "spec": {"drivers": [driver]}});
        self.ensure("storage.k8s.io", "csinodes", uid, &csi_node).await?;
        let devices =
            (0..DEVICES_A_NODE).map(|number| value!({"name": (format!("gpu-{number}"))})).collect();
        let mut slice = value!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
            "metadata": {"name": (format!("{name}-gpus")), "ownerReferences": [owner]},
            "spec": {"driver": DEVICES, "nodeName": name,
                "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}}});
        slice.set_at(&["spec", "devices"], Value::Array(devices));
        self.ensure("resource.k8s.io", "resourceslices", uid, &slice).await
    }

    /// Makes an object of a node, or takes it over where it was another node's of that name.
    async fn ensure(
        &self,
        group: &'static str,
        plural: &'static str,
        node_uid: &str,
        object: &Value,
    ) -> Result<(), ClientError> {
        let resource = Resource::built_in(group, plural);
        let name = object.str_at(&["metadata", "name"]);
        let found = match self.client.get(&resource, "", name).await {
            Err(error) if error.is_not_found() => {
                return self.client.create(&resource, "", object).await.map(drop);
            }
            other => other?,
        };
        let owners = found.items_at(&["metadata", "ownerReferences"]);
        if owners.iter().any(|it| it.str_at(&["uid"]) == node_uid) {
            return Ok(());
        }
        let patch = value!({"metadata": {
            "ownerReferences": (object["metadata"]["ownerReferences"].clone())}});
        self.client.patch(&resource, "", name, "", PatchKind::Merge, &patch).await.map(drop)
    }

    /// Makes a disk for a claim that is to have one from here.
    async fn provision(&self, claim: &Value) -> Result<(), ClientError> {
        let annotation = |name| claim.str_at(&["metadata", "annotations", name]);
        let class = claim.str_at(&["spec", "storageClassName"]);
        if annotation(PROVISIONER) != DISKS
            || !claim.str_at(&["spec", "volumeName"]).is_empty()
            || !claim.str_at(&["metadata", "deletionTimestamp"]).is_empty()
        {
            return Ok(());
        }
        let name = format!("pvc-{}", claim.str_at(&["metadata", "uid"]));
        if self.stores.volumes.get(&ObjectKey::new("", name.as_str())).is_some() {
            return Ok(());
        }
        let mut zone = String::new();
        if class == LATE {
            let selected = annotation(SELECTED_NODE);
            if selected.is_empty() {
                return Ok(());
            }
            let node = self.stores.nodes.get(&ObjectKey::new("", selected));
            let no_room = self.link.is_bad() && self.dice.chance(NO_ROOM);
            let Some(node) = node.filter(|_| !no_room) else {
                return self.choose_again(claim).await;
            };
            zone = node.value().str_at(&["metadata", "labels", ZONE]).to_owned();
        }
        let volume = disk(claim, &name, &zone);
        let volumes = Resource::built_in("", "persistentvolumes");
        match self.client.create(&volumes, "", &volume).await {
            Err(error) if error.is_already_exists() => Ok(()),
            other => other.map(drop),
        }
    }

    /// There is no room where a pod was to be: the scheduler is to choose another node.
    async fn choose_again(&self, claim: &Value) -> Result<(), ClientError> {
        let mut claim = claim.clone();
        claim.remove_at(&["metadata", "annotations", SELECTED_NODE]);
        let claims = Resource::built_in("", "persistentvolumeclaims");
        self.client.update(&claims, "", &claim).await.map(drop)
    }

    /// Attaches a disk as it was ordered, or detaches it.
    async fn attach(&self, cached: &Cached) -> Result<(), ClientError> {
        let order = cached.value();
        let finalizers = order.items_at(&["metadata", "finalizers"]);
        let held = finalizers.iter().any(|it| it.as_str() == Some(HELD));
        let going = !order.str_at(&["metadata", "deletionTimestamp"]).is_empty();
        let attached = order.bool_at(&["status", "attached"]);
        let volume = order.str_at(&["spec", "source", "persistentVolumeName"]);
        let node = order.str_at(&["spec", "nodeName"]);
        let name = cached.key.name.as_str();
        let orders = Resource::built_in("storage.k8s.io", "volumeattachments");
        let uid = cached.uid.as_str();
        if going {
            if held {
                self.reality.detaches(volume, node);
                let patch = value!({"metadata": {"uid": uid, "finalizers": null}});
                let kind = PatchKind::Merge;
                self.client.patch(&orders, "", name, "", kind, &patch).await?;
            }
            return Ok(());
        }
        if held && attached {
            return Ok(());
        }
        if !held {
            let patch = value!({"metadata": {"uid": uid, "finalizers": [HELD]}});
            let kind = PatchKind::Merge;
            let done = self.client.patch(&orders, "", name, "", kind, &patch).await?;
            if !done.str_at(&["metadata", "deletionTimestamp"]).is_empty() {
                return Ok(());
            }
        }
        self.reality.attaches(volume, node);
        let patch = value!({"metadata": {"uid": uid}, "status": {"attached": true}});
        self.client.patch(&orders, "", name, "status", PatchKind::Merge, &patch).await.map(drop)
    }

    /// Deletes a disk whose claim is gone, once it is attached nowhere.
    async fn delete(&self, cached: &Cached) -> Result<(), ClientError> {
        let volume = cached.value();
        let name = cached.key.name.as_str();
        let is_ours = volume.str_at(&["metadata", "annotations", PROVISIONED_BY]) == DISKS;
        let goes = volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == "Delete"
            && volume.str_at(&["status", "phase"]) == "Released"
            && volume.str_at(&["metadata", "deletionTimestamp"]).is_empty();
        if !is_ours || !goes {
            return Ok(());
        }
        let orders = self.stores.attachments.list("");
        let is_its = |it: &Value| it.str_at(&["spec", "source", "persistentVolumeName"]) == name;
        if orders.iter().any(|it| is_its(&it.value())) {
            return Ok(());
        }
        let volumes = Resource::built_in("", "persistentvolumes");
        let params = DeleteParams { uid: Some(cached.uid.to_string()), ..DeleteParams::default() };
        match self.client.delete(&volumes, "", name, &params).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Follows a resource for the whole run.
fn follow(
    client: &Client,
    random: &Arc<dyn Random>,
    changed: &Arc<Notify>,
    group: &'static str,
    plural: &'static str,
) -> Store {
    let store = Store::new(Resource::built_in(group, plural), &[]);
    let waking = Arc::clone(changed);
    store.listen(Arc::new(move |_| waking.notify_one()));
    let params = ListParams::default();
    let reflector = Reflector::new(client.clone(), store.clone(), "", params, Arc::clone(random));
    tokio::spawn(reflector.run(Shutdown::new().signal()));
    store
}

/// A disk that is made for a claim.
fn disk(claim: &Value, name: &str, zone: &str) -> Value {
    let metadata = |member| claim.str_at(&["metadata", member]);
    let class = claim.str_at(&["spec", "storageClassName"]);
    let policy = if class == LATE { "Delete" } else { "Retain" };
    let size = claim.str_at(&["spec", "resources", "requests", "storage"]);
    let mut volume = value!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "annotations": {PROVISIONED_BY: DISKS}},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": policy, "storageClassName": class,
            "csi": {"driver": DISKS, "volumeHandle": name},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": (metadata("namespace")),
                "name": (metadata("name")), "uid": (metadata("uid")),
                "resourceVersion": (metadata("resourceVersion"))}}});
    if !zone.is_empty() {
        let place = value!({"key": ZONE, "operator": "In", "values": [zone]});
        let terms = value!({"nodeSelectorTerms": [{"matchExpressions": [place]}]});
        volume.set_at(&["spec", "nodeAffinity", "required"], terms);
    }
    volume
}
