//! What the scheduler keeps of claims, volumes, storage classes, CSI drivers and what they can attach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::Value;
use apimachinery::labels::Selector;
use apimachinery::node_selector::NodeSelectorTerm;
use client::ObjectKey;
use client::csi_translation::{self, Plugin, Scheduled};
use client::volumes::{self, BIND_COMPLETED, SELECTED_NODE, annotation};
use compact_str::{CompactString, format_compact};

use crate::labels::Labels;
use crate::resources::quantity;

/// Labels of volumes and nodes that say where they are.
pub const PLACES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

/// A class of volumes that nobody makes.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// A claim.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The volume that it is bound to; `None` while it is not.
    pub volume: Option<CompactString>,
    /// Whether it names a volume, bound or not.
    pub names_volume: bool,
    /// Whether one pod only may use it.
    pub one_pod: bool,
    /// Its storage class.
    pub class: CompactString,
    /// Whether it is being deleted.
    pub going: bool,
    /// The volume that it has lost.
    pub lost: Option<CompactString>,
    /// The uid of the object that controls it; empty for none.
    pub controller: CompactString,
    /// The whole of it, while it is not bound.
    pub open: Option<Arc<Value>>,
}

impl Claim {
    /// How much it asks for, while it is not bound.
    #[must_use]
    pub fn wanted(&self) -> i64 {
        self.open.as_ref().map_or(0, |it| volumes::wanted(it).value())
    }
}

/// A volume of a CSI driver's.
#[derive(Debug, Clone, PartialEq)]
pub struct Csi {
    /// The driver.
    pub driver: CompactString,
    /// What names the volume to it.
    pub handle: CompactString,
    /// The in-tree plugin whose volume it was.
    pub plugin: Option<&'static Plugin>,
}

impl From<csi_translation::Translated> for Csi {
    fn from(it: csi_translation::Translated) -> Self {
        Self { driver: it.plugin.driver.into(), handle: it.handle, plugin: Some(it.plugin) }
    }
}

/// A volume.
#[derive(Debug, Clone)]
pub struct Volume {
    /// One of these terms must match the node; `None` where any will do.
    pub nodes: Option<Vec<NodeSelectorTerm>>,
    /// Labels of nodes with the values that will do.
    pub places: Vec<(&'static str, Vec<CompactString>)>,
    /// The CSI driver's that it is, where it is one's.
    pub csi: Option<Csi>,
    /// Of a volume of an in-tree plugin what is required of nodes that leave it to its driver.
    translated: Option<Vec<NodeSelectorTerm>>,
    /// Its class.
    pub class: CompactString,
    /// The whole of it, while it is not bound.
    open: Option<Arc<Value>>,
}

impl Volume {
    /// Whether it can be had on every node.
    #[must_use]
    pub fn reaches_all(&self) -> bool {
        self.nodes.is_none() && self.translated.is_none()
    }

    /// How much it holds; of a volume that is bound nothing is known any more.
    #[must_use]
    pub fn holds(&self) -> i64 {
        let stated = self.open.as_ref().and_then(|it| it.at(&["spec", "capacity", "storage"]));
        stated.map_or(0, |it| quantity(it).value())
    }
}

/// A storage class.
#[derive(Debug, Clone)]
struct Class {
    waits_for_pods: bool,
    provisioner: CompactString,
    /// One of these must match the labels of the node: of each term each key has one of its values. Empty for any.
    topologies: Vec<Vec<(CompactString, Vec<CompactString>)>>,
}

/// What a driver has left for volumes of a class, where.
#[derive(Debug, Clone)]
struct Capacity {
    class: CompactString,
    nodes: Option<Selector>,
    most: Option<i64>,
    total: Option<i64>,
}

/// Why no volume is made for a claim on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotMade {
    /// Nobody makes volumes of its class there.
    NotThere,
    /// There is not enough room.
    NoRoom,
}

/// What was decided for a pod: which claims get which volumes, and which are made for its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bindings {
    /// Claims with the volumes that they get.
    pub chosen: Vec<(ObjectKey, CompactString)>,
    /// Claims whose volumes are to be made.
    pub made: Vec<ObjectKey>,
}

/// Everything about volumes.
#[derive(Debug, Clone, Default)]
pub struct Volumes {
    claims: BTreeMap<ObjectKey, Claim>,
    volumes: BTreeMap<CompactString, Volume>,
    /// The volumes that are not bound, by class.
    open: BTreeMap<CompactString, BTreeSet<CompactString>>,
    classes: BTreeMap<CompactString, Class>,
    /// By node, how many volumes of a driver it attaches.
    limits: BTreeMap<CompactString, BTreeMap<CompactString, i64>>,
    /// By attachment, its node and its volume.
    attached: BTreeMap<CompactString, (CompactString, CompactString)>,
    /// The other way round: by node, its volumes and attachments.
    attached_on: BTreeMap<CompactString, BTreeSet<(CompactString, CompactString)>>,
    /// By driver, how many nodes have each limit.
    limits_of: BTreeMap<CompactString, BTreeMap<i64, usize>>,
    /// By node, the in-tree plugins that it leaves to drivers.
    left_by: BTreeMap<CompactString, BTreeSet<&'static str>>,
    /// By node, the drivers that are installed there.
    installed: BTreeMap<CompactString, BTreeSet<CompactString>>,
    /// The drivers without which a node is nothing for their volumes.
    needed: BTreeSet<CompactString>,
    /// The drivers that tell how much room they have.
    tell_capacity: BTreeSet<CompactString>,
    capacities: BTreeMap<ObjectKey, Capacity>,
    /// What was decided for pods that are not bound yet, with their nodes.
    reserved: BTreeMap<ObjectKey, (CompactString, Bindings)>,
    /// Of those the volumes, with the claims that get them and the pods.
    given: BTreeMap<CompactString, BTreeSet<(ObjectKey, ObjectKey)>>,
    /// Of those the claims whose volumes are to be made, with the pods.
    to_make: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
}

impl Volumes {
    /// A claim.
    #[must_use]
    pub fn claim(&self, key: &ObjectKey) -> Option<&Claim> {
        self.claims.get(key)
    }

    /// A volume.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Volume> {
        self.volumes.get(name)
    }

    /// Whether the volumes of a class are bound when a pod needs them.
    #[must_use]
    pub fn waits_for_pods(&self, class: &str) -> bool {
        self.classes.get(class).is_some_and(|it| it.waits_for_pods)
    }

    /// The node that a claim's volume is to be made for, as it says or as was decided.
    #[must_use]
    pub fn selected_node<'a>(&'a self, key: &ObjectKey, claim: &'a Claim) -> Option<&'a str> {
        let says = claim.open.as_ref().and_then(|it| annotation(it, SELECTED_NODE));
        let decided = || {
            let pod = self.to_make.get(key)?.first()?;
            self.reserved.get(pod).map(|(node, _)| node.as_str())
        };
        says.or_else(decided)
    }

    /// The volumes that an unbound claim can have, the best first, but for those that were given to others a moment ago.
    #[must_use]
    pub fn suitable(&self, key: &ObjectKey, claim: &Claim) -> Vec<(&str, &Volume)> {
        let Some(open) = &claim.open else { return Vec::new() };
        let given = |name: &str| {
            let mut claims = self.given.get(name).into_iter().flatten();
            claims.any(|(claim, _)| claim != key)
        };
        let names = self.open.get(&claim.class).into_iter().flatten();
        let free = names.filter(|name| !given(name));
        let values = free.filter_map(|name| self.volumes.get(name)?.open.as_deref());
        let suited = volumes::suitable(open, values);
        let named = suited.into_iter().map(|it| it.str_at(&["metadata", "name"]));
        named.filter_map(|name| Some((name, self.volumes.get(name)?))).collect()
    }

    /// Whether a volume can be made for a claim on a node; how much room there is for such, where that is told.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn can_be_made(&self, claim: &Claim, labels: &Labels) -> Result<Option<i64>, NotMade> {
        let class = self.classes.get(&claim.class).ok_or(NotMade::NotThere)?;
        if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER {
            return Err(NotMade::NotThere);
        }
        let has = |(key, values): &(CompactString, Vec<CompactString>)| {
            labels.get(key).is_some_and(|label| values.iter().any(|it| it == label))
        };
        let terms = &class.topologies;
        // A term that asks for nothing is met by no node.
        let met = |term: &Vec<_>| !term.is_empty() && term.iter().all(has);
        if !terms.is_empty() && !terms.iter().any(met) {
            return Err(NotMade::NotThere);
        }
        if !self.tell_capacity.contains(&class.provisioner) {
            return Ok(None);
        }
        let wanted = claim.wanted();
        let enough = self.capacities.values().find(|it| {
            it.class == claim.class
                && it.most.is_some_and(|most| most >= wanted)
                && it.nodes.as_ref().is_some_and(|it| it.matches(|key| labels.get(key)))
        });
        enough.map(|it| it.total).ok_or(NotMade::NoRoom)
    }

    /// How many volumes of each driver a node attaches; `None` where it does not say.
    #[must_use]
    pub fn limits(&self, node: &str) -> Option<&BTreeMap<CompactString, i64>> {
        self.limits.get(node).filter(|it| !it.is_empty())
    }

    /// The volumes that are attached to a node, whoever uses them.
    pub fn attached<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Volume> {
        let here = self.attached_on.get(node).into_iter().flatten();
        here.filter_map(|(volume, _)| self.volumes.get(volume))
    }

    /// How many volumes are attached to a node at most, whoever uses them.
    #[must_use]
    pub fn attachments(&self, node: &str) -> usize {
        self.attached_on.get(node).map_or(0, BTreeSet::len)
    }

    /// The same of the node that has the most of them.
    #[must_use]
    pub fn attachments_most(&self) -> usize {
        self.attached_on.values().map(BTreeSet::len).max().unwrap_or_default()
    }

    /// How many volumes of a driver every node attaches at least; `None` where no node says how many it attaches.
    #[must_use]
    pub fn least_limit(&self, driver: &str) -> Option<i64> {
        self.limits_of.get(driver)?.keys().next().copied()
    }

    /// The driver of a claim's volume and what names the volume: for a claim that has none yet, that of its class and a
    /// name of its own.
    #[must_use]
    pub fn csi(&self, key: &ObjectKey) -> Option<Csi> {
        let claim = self.claims.get(key)?;
        if let Some(volume) = claim.volume.as_ref().and_then(|it| self.volumes.get(it)) {
            return volume.csi.clone();
        }
        let class = self.classes.get(&claim.class)?;
        let plugin = csi_translation::plugin(&class.provisioner);
        let driver = plugin.map_or_else(|| class.provisioner.clone(), |it| it.driver.into());
        Some(Csi { driver, handle: format_compact!("to be made for {key}"), plugin })
    }

    /// Whether a volume counts for its driver on a node.
    #[must_use]
    pub fn counts_on(&self, csi: &Csi, node: &str) -> bool {
        csi.plugin.is_none_or(|plugin| match plugin.scheduled {
            Scheduled::Everywhere => true,
            Scheduled::WhereSaid => self.leaves(node, plugin),
            Scheduled::Nowhere => false,
        })
    }

    /// Whether a node is nothing for the volumes of a driver that is not installed there.
    #[must_use]
    pub fn needs(&self, driver: &str) -> bool {
        self.needed.contains(driver)
    }

    /// Whether a driver is installed on a node.
    #[must_use]
    pub fn is_installed(&self, driver: &str, node: &str) -> bool {
        self.installed.get(node).is_some_and(|it| it.contains(driver))
    }

    /// Whether a node leaves the volumes of an in-tree plugin to the driver.
    fn leaves(&self, node: &str, plugin: &Plugin) -> bool {
        self.left_by.get(node).is_some_and(|it| it.contains(plugin.name))
    }

    /// Whether a volume can be had on a node.
    #[must_use]
    pub fn reaches(&self, volume: &Volume, node: &str, labels: &Labels) -> bool {
        let plugin = volume.csi.as_ref().and_then(|it| it.plugin);
        let translated = plugin.is_some_and(|plugin| {
            plugin.scheduled != Scheduled::Nowhere && self.leaves(node, plugin)
        });
        let terms = if translated { &volume.translated } else { &volume.nodes };
        // Volumes are where labels say, not names: upstream does not tell its node's.
        let matches = |it: &NodeSelectorTerm| it.matches("", |key| labels.get(key));
        terms.as_ref().is_none_or(|terms| terms.iter().any(matches))
    }

    /// Notes what was decided for a pod.
    pub fn reserve(&mut self, pod: &ObjectKey, node: &str, bindings: Bindings) {
        self.unreserve(pod);
        for (claim, volume) in &bindings.chosen {
            let claims = self.given.entry(volume.clone()).or_default();
            claims.insert((claim.clone(), pod.clone()));
        }
        for claim in &bindings.made {
            self.to_make.entry(claim.clone()).or_default().insert(pod.clone());
        }
        self.reserved.insert(pod.clone(), (node.into(), bindings));
    }

    /// Forgets what was decided for a pod.
    pub fn unreserve(&mut self, pod: &ObjectKey) {
        let Some((_, bindings)) = self.reserved.remove(pod) else { return };
        for (claim, volume) in bindings.chosen {
            leave(&mut self.given, &volume, &(claim, pod.clone()));
        }
        for claim in bindings.made {
            leave(&mut self.to_make, &claim, pod);
        }
    }

    /// Sets or forgets a claim.
    pub fn set_claim(&mut self, key: &ObjectKey, claim: Option<&Value>) {
        let Some(value) = claim else {
            self.claims.remove(key);
            return;
        };
        let complete = annotation(value, BIND_COMPLETED).is_some();
        let volume = value.str_at(&["spec", "volumeName"]);
        let mut modes = value.items_at(&["spec", "accessModes"]).iter();
        let mut owners = value.items_at(&["metadata", "ownerReferences"]).iter();
        let controller = owners.find(|it| it.bool_at(&["controller"]));
        let bound = complete && !volume.is_empty();
        let lost = value.str_at(&["status", "phase"]) == "Lost";
        let claim = Claim {
            volume: bound.then(|| volume.into()),
            names_volume: !volume.is_empty(),
            one_pod: modes.any(|it| it.as_str() == Some("ReadWriteOncePod")),
            class: volumes::class(value).into(),
            going: value.at(&["metadata", "deletionTimestamp"]).is_some(),
            lost: lost.then(|| volume.into()),
            controller: controller.map(|it| it.str_at(&["uid"]).into()).unwrap_or_default(),
            open: (!bound).then(|| Arc::new(value.clone())),
        };
        self.claims.insert(key.clone(), claim);
    }

    /// Sets or forgets a volume.
    pub fn set_volume(&mut self, name: &str, volume: Option<&Value>) {
        if let Some(old) = self.volumes.remove(name)
            && let Some(names) = self.open.get_mut(&old.class)
        {
            names.remove(name);
        }
        let Some(value) = volume else { return };
        let required = value.at(&["spec", "nodeAffinity", "required"]);
        let terms = |it: &Value| {
            it.items_at(&["nodeSelectorTerms"]).iter().map(NodeSelectorTerm::from_value).collect()
        };
        let place = |key: &'static str| {
            let value = value.str_at(&["metadata", "labels", key]);
            let names = value.split("__");
            // One that is not a list of names is no label.
            let is_list = names.clone().all(|it| !it.is_empty());
            is_list.then(|| (key, names.map(Into::into).collect()))
        };
        let stated = value.at(&["spec", "csi"]).filter(|it| !it.is_null()).map(|it| Csi {
            driver: it.str_at(&["driver"]).into(),
            handle: it.str_at(&["volumeHandle"]).into(),
            plugin: None,
        });
        let csi = stated.or_else(|| csi_translation::of_volume(value).map(Csi::from));
        let plugin = csi.as_ref().and_then(|it| it.plugin);
        let translated = plugin.and_then(|it| it.node_affinity(value)).as_ref().map(terms);
        let open = value.str_at(&["status", "phase"]) != "Bound";
        let volume = Volume {
            nodes: required.map(terms),
            places: PLACES.into_iter().filter_map(place).collect(),
            csi,
            translated,
            class: volumes::class(value).into(),
            open: open.then(|| Arc::new(value.clone())),
        };
        if open {
            self.open.entry(volume.class.clone()).or_default().insert(name.into());
        }
        self.volumes.insert(name.into(), volume);
    }

    /// Sets or forgets a storage class.
    pub fn set_class(&mut self, name: &str, class: Option<&Value>) {
        let Some(value) = class else {
            self.classes.remove(name);
            return;
        };
        let texts = |it: &Value| {
            let values = it.items_at(&["values"]).iter().filter_map(Value::as_str);
            (it.str_at(&["key"]).into(), values.map(Into::into).collect())
        };
        let terms = value.items_at(&["allowedTopologies"]).iter();
        let class = Class {
            waits_for_pods: value.str_at(&["volumeBindingMode"]) == "WaitForFirstConsumer",
            provisioner: value.str_at(&["provisioner"]).into(),
            topologies: terms
                .map(|it| it.items_at(&["matchLabelExpressions"]).iter().map(texts).collect())
                .collect(),
        };
        self.classes.insert(name.into(), class);
    }

    /// Sets or forgets what a node attaches (CSINode).
    pub fn set_csi_node(&mut self, name: &str, node: Option<&Value>) {
        for (driver, limit) in self.limits.remove(name).into_iter().flatten() {
            let Some(counts) = self.limits_of.get_mut(&driver) else { continue };
            if let Some(count) = counts.get_mut(&limit) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&limit);
                }
            }
            if counts.is_empty() {
                self.limits_of.remove(&driver);
            }
        }
        self.left_by.remove(name);
        self.installed.remove(name);
        let Some(value) = node else { return };
        let left = csi_translation::left_by(value);
        if !left.is_empty() {
            self.left_by.insert(name.into(), left);
        }
        let drivers = value.items_at(&["spec", "drivers"]).iter();
        let names = drivers.clone().map(|it| it.str_at(&["name"]).into()).collect();
        self.installed.insert(name.into(), names);
        let limits = drivers.filter_map(|it| {
            Some((it.str_at(&["name"]).into(), it.i64_at(&["allocatable", "count"])?))
        });
        let limits: BTreeMap<CompactString, i64> = limits.collect();
        for (driver, limit) in &limits {
            let counts = self.limits_of.entry(driver.clone()).or_default();
            *counts.entry(*limit).or_default() += 1;
        }
        self.limits.insert(name.into(), limits);
    }

    /// Sets or forgets a driver (CSIDriver).
    pub fn set_csi_driver(&mut self, name: &str, driver: Option<&Value>) {
        let says = |member| driver.is_some_and(|it| it.bool_at(&["spec", member]));
        for (set, is) in [
            (&mut self.tell_capacity, says("storageCapacity")),
            (&mut self.needed, says("preventPodSchedulingIfMissing")),
        ] {
            if is {
                set.insert(name.into());
            } else {
                set.remove(name);
            }
        }
    }

    /// Sets or forgets how much room there is somewhere (CSIStorageCapacity).
    pub fn set_capacity(&mut self, key: &ObjectKey, capacity: Option<&Value>) {
        let Some(value) = capacity else {
            self.capacities.remove(key);
            return;
        };
        let nodes = value.at(&["nodeTopology"]).filter(|it| !it.is_null());
        let amount = |member| value.get(member).filter(|it| !it.is_null());
        let bytes = |it: &Value| quantity(it).value();
        let most = amount("maximumVolumeSize").or_else(|| amount("capacity"));
        let capacity = Capacity {
            class: value.str_at(&["storageClassName"]).into(),
            nodes: nodes.map(|it| Selector::from_value(Some(it)).unwrap_or(Selector::NOTHING)),
            most: most.map(bytes),
            total: amount("capacity").map(bytes),
        };
        self.capacities.insert(key.clone(), capacity);
    }

    /// Sets or forgets an attachment (VolumeAttachment).
    pub fn set_attachment(&mut self, name: &str, attachment: Option<&Value>) {
        if let Some((node, volume)) = self.attached.remove(name) {
            leave(&mut self.attached_on, &node, &(volume, name.into()));
        }
        let Some(value) = attachment else { return };
        let volume: CompactString =
            value.str_at(&["spec", "source", "persistentVolumeName"]).into();
        let node: CompactString = value.str_at(&["spec", "nodeName"]).into();
        let here = self.attached_on.entry(node.clone()).or_default();
        here.insert((volume.clone(), name.into()));
        self.attached.insert(name.into(), (node, volume));
    }
}

/// Takes something out of the set of a key.
fn leave<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn what_was_decided_for_pods_is_found_by_volume_and_by_claim_until_it_is_forgotten() {
        let key = |name: &str| ObjectKey::new("d", name);
        let mut all = Volumes::default();
        let chosen = || vec![(key("c"), CompactString::from("v"))];
        for (pod, node) in [("a", "n1"), ("b", "n2"), ("a", "n3")] {
            let bindings = Bindings { chosen: chosen(), made: vec![key("m")] };
            all.reserve(&key(pod), node, bindings);
        }
        assert_eq!(all.given["v"].len(), 2);
        all.unreserve(&key("b"));
        let claim = value!({"metadata": {"name": "m"}});
        all.set_claim(&key("m"), Some(&claim));
        let claim = all.claim(&key("m")).unwrap();
        assert_eq!(all.selected_node(&key("m"), claim), Some("n3"));
        all.unreserve(&key("a"));
        assert!(all.given.is_empty() && all.to_make.is_empty() && all.reserved.is_empty());
    }

    #[test]
    fn attachments_and_limits_are_counted_by_node_and_driver() {
        let mut all = Volumes::default();
        let limit = |count: i64| value!({"spec": {"drivers": [{"name": "x", "allocatable": {"count": count}}]}});
        all.set_csi_node("n1", Some(&limit(5)));
        all.set_csi_node("n2", Some(&limit(3)));
        assert_eq!(all.least_limit("x"), Some(3));
        all.set_csi_node("n2", Some(&limit(7)));
        assert_eq!(all.least_limit("x"), Some(5));
        all.set_csi_node("n1", None);
        all.set_csi_node("n2", None);
        assert!(all.limits_of.is_empty() && all.least_limit("x").is_none());
        let at = |node: &str| value!({"spec": {"nodeName": node, "source": {"persistentVolumeName": "v"}}});
        all.set_attachment("a", Some(&at("n1")));
        all.set_attachment("a", Some(&at("n2")));
        assert_eq!([all.attachments("n1"), all.attachments("n2")], [0, 1]);
        assert_eq!(all.attachments_most(), 1);
        all.set_attachment("a", None);
        assert!(all.attached.is_empty() && all.attached_on.is_empty());
    }
}
