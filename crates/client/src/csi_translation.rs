//! Volumes of upstream's in-tree plugins whose work CSI drivers have taken over: which driver's they are, and what it calls
//! them. Upstream: `csi-translation-lib`. Knows no cluster: values in, an answer out.

use std::collections::BTreeSet;

use apimachinery::Value;
use compact_str::{CompactString, format_compact};

use crate::volumes::annotation;

/// Says on a CSINode which in-tree plugins the node leaves to drivers, separated by commas.
pub const MIGRATED_PLUGINS: &str = "storage.alpha.kubernetes.io/migrated-plugins";

/// What the names of drivers' volumes in the status of nodes begin with.
const UNIQUE: &str = "kubernetes.io/csi/";
const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";
const BETA_ZONE: &str = "failure-domain.beta.kubernetes.io/zone";
const BETA_REGION: &str = "failure-domain.beta.kubernetes.io/region";
/// Separates zones in a label.
const ZONES: &str = "__";
/// Stands for what of a disk's place is not known.
const UNSPECIFIED: &str = "UNSPECIFIED";
/// Says of a volume of Azure's files in which group of resources they are.
const RESOURCE_GROUP: &str = "kubernetes.io/azure-file-resource-group";

/// An in-tree plugin of old, and the driver that does its work.
#[derive(Debug)]
pub struct Plugin {
    /// What it is called, also where a storage class names who makes its volumes.
    pub name: &'static str,
    /// The CSI driver.
    pub driver: &'static str,
    /// The member that has its volumes' source.
    source: &'static str,
    /// The label by which the driver tells where a node is.
    zone: Option<&'static str>,
    /// What the driver calls a volume; `None` where it cannot be said.
    handle: fn(Source<'_>) -> Option<CompactString>,
    /// Whether the scheduler takes its volumes for the driver's.
    pub scheduled: Scheduled,
}

impl PartialEq for Plugin {
    /// There is one of each name.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// On which nodes the scheduler counts a plugin's volumes for the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduled {
    /// On all.
    Everywhere,
    /// Where the node says that it leaves them to the driver.
    WhereSaid,
    /// Nowhere.
    Nowhere,
}

/// The source of a volume, and whose it is.
#[derive(Debug, Clone, Copy)]
struct Source<'a> {
    source: &'a Value,
    of: Of<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Of<'a> {
    Volume(&'a Value),
    Pod { volume: &'a Value, namespace: &'a str },
}

/// A volume as its driver knows it.
#[derive(Debug, Clone)]
pub struct Translated {
    /// Whose it was.
    pub plugin: &'static Plugin,
    /// What the driver calls it.
    pub handle: CompactString,
}

/// Every plugin.
const PLUGINS: &[Plugin] = &[
    Plugin {
        name: "kubernetes.io/aws-ebs",
        driver: "ebs.csi.aws.com",
        source: "awsElasticBlockStore",
        zone: Some("topology.ebs.csi.aws.com/zone"),
        handle: ebs,
        scheduled: Scheduled::Everywhere,
    },
    Plugin {
        name: "kubernetes.io/azure-disk",
        driver: "disk.csi.azure.com",
        source: "azureDisk",
        zone: Some("topology.disk.csi.azure.com/zone"),
        handle: |it| named(it.source, "diskURI"),
        scheduled: Scheduled::Everywhere,
    },
    Plugin {
        name: "kubernetes.io/azure-file",
        driver: "file.csi.azure.com",
        source: "azureFile",
        zone: None,
        handle: azure_file,
        scheduled: Scheduled::Nowhere,
    },
    Plugin {
        name: "kubernetes.io/cinder",
        driver: "cinder.csi.openstack.org",
        source: "cinder",
        zone: Some("topology.cinder.csi.openstack.org/zone"),
        handle: |it| named(it.source, "volumeID"),
        scheduled: Scheduled::Everywhere,
    },
    Plugin {
        name: "kubernetes.io/gce-pd",
        driver: "pd.csi.storage.gke.io",
        source: "gcePersistentDisk",
        zone: Some("topology.gke.io/zone"),
        handle: gce,
        scheduled: Scheduled::Everywhere,
    },
    Plugin {
        name: "kubernetes.io/portworx-volume",
        driver: "pxd.portworx.com",
        source: "portworxVolume",
        zone: None,
        handle: |it| named(it.source, "volumeID"),
        scheduled: Scheduled::WhereSaid,
    },
    Plugin {
        name: "kubernetes.io/vsphere-volume",
        driver: "csi.vsphere.vmware.com",
        source: "vsphereVolume",
        zone: None,
        handle: |it| named(it.source, "volumePath"),
        scheduled: Scheduled::Nowhere,
    },
];

/// A volume of a driver.
#[derive(Debug, Clone)]
pub struct OfDriver {
    /// The driver.
    pub driver: CompactString,
    /// What the driver calls the volume.
    pub handle: CompactString,
    /// The in-tree plugin that it was of.
    pub plugin: Option<&'static Plugin>,
}

impl OfDriver {
    /// A persistent volume, where it is a driver's.
    #[must_use]
    pub fn of(volume: &Value) -> Option<Self> {
        if let Some(csi) = volume.at(&["spec", "csi"]).filter(|it| !it.is_null()) {
            let said = |member| csi.str_at(&[member]).into();
            return Some(Self {
                driver: said("driver"),
                handle: said("volumeHandle"),
                plugin: None,
            });
        }
        let Translated { plugin, handle } = of_volume(volume)?;
        Some(Self { driver: plugin.driver.into(), handle, plugin: Some(plugin) })
    }

    /// What it is called in the status of nodes.
    #[must_use]
    pub fn unique_name(&self) -> CompactString {
        let Self { driver, handle, .. } = self;
        format_compact!("{UNIQUE}{driver}^{handle}")
    }

    /// The driver and the handle that are in such a name; `None` where it is no driver's.
    #[must_use]
    pub fn parts(unique_name: &str) -> Option<(&str, &str)> {
        unique_name.strip_prefix(UNIQUE)?.split_once('^')
    }
}

/// The in-tree plugin of a name.
#[must_use]
pub fn plugin(name: &str) -> Option<&'static Plugin> {
    PLUGINS.iter().find(|it| it.name == name)
}

/// A persistent volume of an in-tree plugin, as its driver knows it.
#[must_use]
pub fn of_volume(volume: &Value) -> Option<Translated> {
    find(volume.at(&["spec"])?, Of::Volume(volume))
}

/// A volume of an in-tree plugin that a pod names itself, as its driver knows it.
#[must_use]
pub fn of_pod(volume: &Value, namespace: &str) -> Option<Translated> {
    find(volume, Of::Pod { volume, namespace })
}

fn find(spec: &Value, of: Of<'_>) -> Option<Translated> {
    let source = |plugin: &Plugin| spec.get(plugin.source).filter(|it| !it.is_null());
    let (plugin, source) = PLUGINS.iter().find_map(|it| Some((it, source(it)?)))?;
    let handle = (plugin.handle)(Source { source, of })?;
    Some(Translated { plugin, handle })
}

/// The names of the plugins whose volumes a node (its CSINode) leaves to drivers.
#[must_use]
pub fn left_by(csi_node: &Value) -> BTreeSet<&'static str> {
    let said = annotation(csi_node, MIGRATED_PLUGINS).unwrap_or_default().split(',');
    said.filter_map(|it| Some(plugin(it)?.name)).collect()
}

impl Plugin {
    /// What a persistent volume requires of its node, by the labels that the driver gives to nodes (a `NodeSelector`);
    /// `None` where it requires nothing.
    #[must_use]
    pub fn node_affinity(&self, volume: &Value) -> Option<Value> {
        let required = volume.at(&["spec", "nodeAffinity", "required"]).filter(|it| !it.is_null());
        let Some(own) = self.zone else { return required.cloned() };
        let beta = is_beta(volume, required);
        let (zone, region) = if beta { (BETA_ZONE, BETA_REGION) } else { (ZONE, REGION) };
        let mut all = required.cloned().unwrap_or(Value::object());
        let stated = requirements(&all)
            .any(|it| it.str_at(&["key"]) == zone && !it.items_at(&["values"]).is_empty());
        if stated {
            rename(&mut all, zone, own);
        } else {
            add_zones(&mut all, own, volume.str_at(&["metadata", "labels", zone]));
        }
        if beta {
            rename(&mut all, region, REGION);
        }
        (!all.items_at(&["nodeSelectorTerms"]).is_empty()).then_some(all)
    }
}

/// Whether a volume's place is told by the labels of old.
fn is_beta(volume: &Value, required: Option<&Value>) -> bool {
    let requires =
        |key| required.is_some_and(|it| requirements(it).any(|it| it.str_at(&["key"]) == key));
    let has = |key| volume.at(&["metadata", "labels", key]).is_some();
    if requires(ZONE) {
        return false;
    }
    requires(BETA_ZONE) || (!has(ZONE) && has(BETA_ZONE))
}

fn requirements(selector: &Value) -> impl Iterator<Item = &Value> {
    let terms = selector.items_at(&["nodeSelectorTerms"]).iter();
    terms.flat_map(|it| it.items_at(&["matchExpressions"]))
}

fn rename(selector: &mut Value, from: &str, to: &str) {
    for term in selector.items_at_mut(&["nodeSelectorTerms"]) {
        for it in term.items_at_mut(&["matchExpressions"]) {
            if it.str_at(&["key"]) == from {
                it.set_at(&["key"], to);
            }
        }
    }
}

/// Has every term require one of the zones of a label.
fn add_zones(selector: &mut Value, key: &str, label: &str) {
    let mut zones: Vec<&str> =
        label.split(ZONES).map(str::trim).filter(|it| !it.is_empty()).collect();
    zones.sort_unstable();
    zones.dedup();
    if zones.is_empty() {
        return;
    }
    let zones = Value::Array(zones.into_iter().map(Into::into).collect());
    let requirement = apimachinery::value!({"key": key, "operator": "In", "values": zones});
    let mut terms = selector.items_at(&["nodeSelectorTerms"]).to_vec();
    if terms.is_empty() {
        terms.push(Value::object());
    }
    for term in &mut terms {
        let mut all = term.items_at(&["matchExpressions"]).to_vec();
        all.push(requirement.clone());
        term.set_at(&["matchExpressions"], Value::Array(all));
    }
    selector.set_at(&["nodeSelectorTerms"], Value::Array(terms));
}

fn named(source: &Value, member: &str) -> Option<CompactString> {
    Some(source.str_at(&[member]).into())
}

/// EBS: `vol-1`, or `aws://ZONE/vol-1`.
fn ebs(it: Source<'_>) -> Option<CompactString> {
    let id = it.source.str_at(&["volumeID"]);
    let Some(rest) = id.strip_prefix("aws://") else { return Some(id.into()) };
    let path = rest.split_once('/').map_or("", |(_, path)| path).trim_matches('/');
    (path.starts_with("vol-") && !path.contains('/')).then(|| path.into())
}

/// GCE's disks have their zone, or where they are in several zones their region, in their name.
fn gce(it: Source<'_>) -> Option<CompactString> {
    let disk = it.source.str_at(&["pdName"]);
    let label = match it.of {
        Of::Pod { .. } => "",
        Of::Volume(volume) => {
            let label = |key| volume.str_at(&["metadata", "labels", key]);
            if label(ZONE).is_empty() { label(BETA_ZONE) } else { label(ZONE) }
        }
    };
    let zones: Vec<&str> = label.split(ZONES).collect();
    Some(match zones.as_slice() {
        [] | [""] => format_compact!("projects/{UNSPECIFIED}/zones/{UNSPECIFIED}/disks/{disk}"),
        [zone] => format_compact!("projects/{UNSPECIFIED}/zones/{zone}/disks/{disk}"),
        several => {
            let region = region_of(several)?;
            format_compact!("projects/{UNSPECIFIED}/regions/{region}/disks/{disk}")
        }
    })
}

/// The region that all zones are in: `a-b` of `a-b-c`.
fn region_of(zones: &[&str]) -> Option<CompactString> {
    let region = |zone: &str| {
        let parts: Vec<&str> = zone.split('-').collect();
        let [place, region, _] = parts.as_slice() else { return None };
        Some(format_compact!("{place}-{region}"))
    };
    let mut all = zones.iter().map(|it| region(it));
    let first = all.next()??;
    all.all(|it| it.as_ref() == Some(&first)).then_some(first)
}

/// Azure's files are named by group, account, share, volume and the namespace of the secret.
fn azure_file(it: Source<'_>) -> Option<CompactString> {
    let said = |member| it.source.str_at(&[member]);
    let secret = said("secretName");
    let within = secret.split_once("azure-storage-account-").map(|(_, it)| it);
    let account = within.and_then(|it| it.rsplit_once("-secret")).map(|(it, _)| it);
    let account = account.filter(|it| !it.is_empty()).unwrap_or(secret);
    let share = said("shareName");
    let (group, name, namespace) = match it.of {
        Of::Pod { volume, namespace } => {
            let namespace = if namespace.is_empty() { "default" } else { namespace };
            ("", volume.str_at(&["name"]), namespace)
        }
        Of::Volume(volume) => {
            let own = it.source.get("secretNamespace").and_then(Value::as_str);
            let claim = || volume.str_at(&["spec", "claimRef", "namespace"]);
            let group = annotation(volume, RESOURCE_GROUP).unwrap_or_default();
            (group, volume.str_at(&["metadata", "name"]), own.unwrap_or_else(claim))
        }
    };
    (!namespace.is_empty()).then(|| format_compact!("{group}#{account}#{share}#{name}#{namespace}"))
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn volumes_are_called_what_their_drivers_call_them() {
        let of = |labels: Value, spec: Value| {
            let volume = value!({"metadata": {"name": "pv", "labels": labels}, "spec": spec});
            of_volume(&volume).map(|it| format!("{} {}", it.plugin.driver, it.handle))
        };
        let plain = || value!({});
        let zones = |it: &str| value!({"topology.kubernetes.io/zone": it});
        let ebs = |id: &str| of(plain(), value!({"awsElasticBlockStore": {"volumeID": id}}));
        let gce = |labels| of(labels, value!({"gcePersistentDisk": {"pdName": "d"}}));
        for (found, expected) in [
            (ebs("vol-1"), Some("ebs.csi.aws.com vol-1")),
            (ebs("aws://us-east-1a/vol-2"), Some("ebs.csi.aws.com vol-2")),
            (ebs("aws:///vol-3"), Some("ebs.csi.aws.com vol-3")),
            (ebs("aws://z/other"), None),
            (
                gce(plain()),
                Some("pd.csi.storage.gke.io projects/UNSPECIFIED/zones/UNSPECIFIED/disks/d"),
            ),
            (
                gce(zones("us-east1-a")),
                Some("pd.csi.storage.gke.io projects/UNSPECIFIED/zones/us-east1-a/disks/d"),
            ),
            (
                gce(zones("us-east1-a__us-east1-b")),
                Some("pd.csi.storage.gke.io projects/UNSPECIFIED/regions/us-east1/disks/d"),
            ),
            (gce(zones("us-east1-a__us-west1-b")), None),
            (
                of(plain(), value!({"azureDisk": {"diskName": "n", "diskURI": "/uri"}})),
                Some("disk.csi.azure.com /uri"),
            ),
            (
                of(
                    plain(),
                    value!({"azureFile": {"secretName": "azure-storage-account-a-secret", "shareName": "s"},
                        "claimRef": {"namespace": "d"}}),
                ),
                Some("file.csi.azure.com #a#s#pv#d"),
            ),
            (
                of(plain(), value!({"cinder": {"volumeID": "c"}})),
                Some("cinder.csi.openstack.org c"),
            ),
            (of(plain(), value!({"csi": {"driver": "x"}})), None),
        ] {
            assert_eq!(found.as_deref(), expected);
        }
        let inline = value!({"name": "v", "azureFile": {"secretName": "own", "shareName": "s"}});
        assert_eq!(of_pod(&inline, "ns").unwrap().handle, "#own#s#v#ns");
    }

    #[test]
    fn zones_are_required_by_the_drivers_label() {
        let terms = |labels: Value, required: Value| {
            let volume = value!({"metadata": {"labels": labels}, "spec": {
                "awsElasticBlockStore": {"volumeID": "v"}, "nodeAffinity": {"required": required}}});
            of_volume(&volume).unwrap().plugin.node_affinity(&volume)
        };
        let term = |key: &str| value!({"nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "In", "values": ["z"]}]}]});
        let own = Some(term("topology.ebs.csi.aws.com/zone"));
        assert_eq!(terms(value!({}), term(ZONE)), own);
        assert_eq!(terms(value!({}), term(BETA_ZONE)), own);
        assert_eq!(terms(value!({"topology.kubernetes.io/zone": "z"}), Value::Null), own);
        assert_eq!(terms(value!({}), Value::Null), None);
        assert_eq!(terms(value!({}), term("other")), Some(term("other")));
    }
}
