//! Tells pods that may have one volume with different SELinux labels, of which one node can give the volume to one only.
//! Runs where it is asked for, and changes nothing. Upstream: `pkg/controller/volume/selinuxwarning` (KEP-1710).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::Value;
use client::ObjectKey;
use client::csi_translation::OfDriver;
use client::events::{EventType, ObjectReference};
use client::indexes::{BY_CLAIM, claim_entry, has_claims};
use client::reflector::{Cached, StoreChange};
use compact_str::{CompactString, format_compact};
use controller::{Controller, Plan, Snapshot, Watches};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::CSIDriver;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

const POLICY: &str = "SELinuxChangePolicy";
const LABEL: &str = "SELinux label";
const MOUNT_OPTION: &str = "MountOption";
const RECURSIVE: &str = "Recursive";

/// The controller.
#[derive(Debug, Clone, Default)]
pub struct SeLinuxWarnings {
    /// What it tells besides.
    pub metrics: Metrics,
}

/// The controller's metrics: the conflicts that there are. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Volumes>>);

/// Who has which volume, and how.
#[derive(Debug, Default)]
struct Volumes(BTreeMap<CompactString, BTreeMap<ObjectKey, Use>>);

/// How a pod has a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Of which CSI driver, if of one.
    driver: CompactString,
    /// The label that it is mounted with; empty for none.
    label: String,
    policy: &'static str,
}

/// What two pods do not agree on.
#[derive(Debug)]
struct Conflict {
    property: &'static str,
    pod: ObjectKey,
    value: String,
    other: ObjectKey,
    other_value: String,
}

/// What it sees of a pod.
#[derive(Debug)]
pub struct Observed {
    key: ObjectKey,
    /// Its volumes by what they are called anywhere.
    uses: Vec<(CompactString, Use)>,
    /// Volumes of it that are mounted with several labels.
    torn: Vec<String>,
    /// Pods by name, to tell of: this one, and those that have a volume of it.
    pods: BTreeMap<ObjectKey, Arc<Value>>,
}

impl Controller for SeLinuxWarnings {
    const NAME: &'static str = "selinux-warning-controller";
    const SOURCE: &'static str = "selinux_warning";
    const QUEUE: &'static str = "selinux_warning";
    /// A pod.
    type Key = ObjectKey;
    type Observed = Observed;
    type Memory = ();

    fn watches(&self, watches: Watches<ObjectKey>) -> Watches<ObjectKey> {
        let known = Arc::clone(&self.metrics.0);
        watches
            .on::<Pod>(of_pod)
            .on::<PersistentVolumeClaim>(|change, snapshot| {
                let volume = |it: &Cached| it.value().str_at(&["spec", "volumeName"]).to_owned();
                let key = change.key();
                if is_set(change, volume) {
                    pods_of(snapshot, &key.namespace, &key.name)
                } else {
                    Vec::new()
                }
            })
            .on::<PersistentVolume>(|change, snapshot| {
                let claim =
                    |it: &Cached| it.value().str_at(&["spec", "claimRef", "uid"]).to_owned();
                let Some(new) = change.new.as_ref().filter(|_| is_set(change, claim)) else {
                    return Vec::new();
                };
                let value = new.value();
                let [namespace, name] =
                    ["namespace", "name"].map(|it| value.str_at(&["spec", "claimRef", it]));
                pods_of(snapshot, namespace, name)
            })
            .on::<CSIDriver>(move |change, _| {
                let mounts = |it: &Option<Arc<Cached>>| {
                    it.as_ref().is_some_and(|it| it.value().bool_at(&["spec", "seLinuxMount"]))
                };
                if mounts(&change.old) == mounts(&change.new) {
                    return Vec::new();
                }
                known.lock().of_driver(&change.key().name)
            })
    }

    fn observe(&self, snapshot: &Snapshot, key: &ObjectKey) -> Option<Observed> {
        let pod = snapshot.store::<Pod>().get(key).map(|it| it.value());
        let Some(pod) = pod.filter(|it| !is_over(it)) else {
            self.metrics.0.lock().forget(key);
            return None;
        };
        let (mut uses, mut torn) = (Vec::new(), Vec::new());
        for (volume, labels) in mounted(&pod) {
            let Some((name, driver)) = place(snapshot, &pod, volume) else { continue };
            if labels.len() > 1 {
                torn.push(volume.to_owned());
                continue;
            }
            let mounts = driver.is_empty() || mounts_with_label(snapshot, &driver);
            let label = labels.into_iter().next().unwrap_or_default();
            uses.push((name, use_of(&pod, driver, label, mounts)));
        }
        let mut pods = BTreeMap::from([(key.clone(), Arc::clone(&pod))]);
        for other in self.metrics.0.lock().beside(uses.iter().map(|it| &it.0)) {
            if let Some(pod) = snapshot.store::<Pod>().get(&other) {
                pods.entry(other).or_insert_with(|| pod.value());
            }
        }
        Some(Observed { key: key.clone(), uses, torn, pods })
    }

    fn plan(&self, observed: &Observed, (): &mut (), _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        for volume in &observed.torn {
            let message = format!(
                "Volume {volume:?} is mounted twice with different SELinux labels inside this pod"
            );
            let pod = &observed.pods[&observed.key];
            plan.event(
                ObjectReference::of(pod),
                EventType::Warning,
                "MultipleSELinuxLabels",
                message,
            );
        }
        for (volume, new) in &observed.uses {
            for conflict in self.metrics.0.lock().add(volume, &observed.key, new) {
                // One that is gone conflicts with nobody.
                if let Some(pod) = observed.pods.get(&conflict.pod) {
                    let (reason, message) = (conflict.reason(), conflict.message());
                    plan.event(ObjectReference::of(pod), EventType::Normal, reason, message);
                }
            }
        }
        plan
    }
}

fn is_over(pod: &Value) -> bool {
    matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed")
}

/// A pod that comes, goes, or ends: nothing else that matters changes.
fn of_pod(change: &StoreChange, _: &Snapshot) -> Vec<ObjectKey> {
    let concerned = match (&change.old, &change.new) {
        (Some(old), Some(new)) => is_over(&new.value()) && !is_over(&old.value()),
        (old, new) => old.as_ref().or(new.as_ref()).is_some_and(|it| has_volumes(it)),
    };
    if concerned { vec![change.key()] } else { Vec::new() }
}

fn has_volumes(pod: &Cached) -> bool {
    has_claims(pod) || pod.mentions("iscsi") || pod.mentions("\"fc\"")
}

/// Whether something that matters is there, and was not before.
fn is_set(change: &StoreChange, of: impl Fn(&Cached) -> String) -> bool {
    let new = change.new.as_deref().map(&of).unwrap_or_default();
    !new.is_empty() && change.old.as_deref().map(of).is_none_or(|old| old != new)
}

fn pods_of(snapshot: &Snapshot, namespace: &str, claim: &str) -> Vec<ObjectKey> {
    let pods = snapshot.store::<Pod>().by_index(BY_CLAIM, &claim_entry(namespace, claim));
    pods.into_iter().map(|it| it.key.clone()).collect()
}

/// The volumes that containers of a pod mount, with the labels that are said for them.
fn mounted(pod: &Value) -> BTreeMap<&str, BTreeSet<String>> {
    let mut volumes: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in pod.items_at(&["spec", list]) {
            let options = ["securityContext", "seLinuxOptions"];
            let said = container.at(&options).or_else(|| pod.at(&["spec", options[0], options[1]]));
            for mount in container.items_at(&["volumeMounts"]) {
                let labels = volumes.entry(mount.str_at(&["name"])).or_default();
                labels.extend(said.map(label_of));
            }
        }
    }
    volumes
}

/// `user:role:type:level` without what is only known on nodes; empty where nothing is said.
fn label_of(options: &Value) -> String {
    let parts = ["user", "role", "type", "level"].map(|it| options.str_at(&[it]));
    if parts.iter().all(|it| it.is_empty()) { String::new() } else { parts.join(":") }
}

/// What a pod's volume is called anywhere, and its driver: of those that can be mounted with a label.
fn place(snapshot: &Snapshot, pod: &Value, name: &str) -> Option<(CompactString, CompactString)> {
    let mut volumes = pod.items_at(&["spec", "volumes"]).iter();
    let volume = volumes.find(|it| it.str_at(&["name"]) == name)?;
    let [namespace, pod_name] = ["namespace", "name"].map(|it| pod.str_at(&["metadata", it]));
    let claim = match volume.str_at(&["persistentVolumeClaim", "claimName"]) {
        "" if volume.at(&["ephemeral"]).is_some() => format_compact!("{pod_name}-{name}"),
        "" => return Some((without_driver(volume)?, CompactString::default())),
        claim => claim.into(),
    };
    let claim = snapshot.store::<PersistentVolumeClaim>().get(&ObjectKey::new(namespace, claim))?;
    let bound = claim.value().str_at(&["spec", "volumeName"]).to_owned();
    let volume = snapshot.store::<PersistentVolume>().get(&ObjectKey::new("", bound))?.value();
    if volume.str_at(&["spec", "claimRef", "uid"]) != claim.uid {
        return None;
    }
    match OfDriver::of(&volume) {
        Some(of) => Some((of.unique_name(), of.driver)),
        None => Some((without_driver(&volume["spec"])?, CompactString::default())),
    }
}

/// The name of a volume of the plugins without driver that mount with a label.
fn without_driver(source: &Value) -> Option<CompactString> {
    if let Some(iscsi) = source.at(&["iscsi"]) {
        let [portal, iqn] = ["targetPortal", "iqn"].map(|it| iscsi.str_at(&[it]));
        let lun = iscsi.i64_at(&["lun"]).unwrap_or(0);
        return Some(format_compact!("kubernetes.io/iscsi/{portal}:{iqn}:{lun}"));
    }
    let fc = source.at(&["fc"])?;
    let first = |member| fc.items_at(&[member]).first().and_then(Value::as_str);
    Some(match (first("targetWWNs"), first("wwids")) {
        (Some(wwn), _) => {
            let lun = fc.i64_at(&["lun"]).unwrap_or(0);
            format_compact!("kubernetes.io/fc/{wwn}:{lun}")
        }
        (None, wwid) => format_compact!("kubernetes.io/fc/{}", wwid.unwrap_or_default()),
    })
}

fn mounts_with_label(snapshot: &Snapshot, driver: &str) -> bool {
    let driver = snapshot.store::<CSIDriver>().get(&ObjectKey::new("", driver));
    driver.is_some_and(|it| it.value().bool_at(&["spec", "seLinuxMount"]))
}

fn use_of(pod: &Value, driver: CompactString, label: String, mounts: bool) -> Use {
    let said = pod.str_at(&["spec", "securityContext", "seLinuxChangePolicy"]);
    let mounts = mounts && said != RECURSIVE && !label.is_empty();
    let policy = if mounts { MOUNT_OPTION } else { RECURSIVE };
    Use { driver, label: if mounts { label } else { String::new() }, policy }
}

/// Whether two labels differ in a part that both say: what one leaves out a node may fill in as the other has it.
fn differ(a: &str, b: &str) -> bool {
    let said = |(a, b): (&str, &str)| !a.is_empty() && !b.is_empty() && a != b;
    a.splitn(4, ':').zip(b.splitn(4, ':')).any(said)
}

impl Volumes {
    fn forget(&mut self, pod: &ObjectKey) {
        self.0.retain(|_, pods| {
            pods.remove(pod);
            !pods.is_empty()
        });
    }

    /// The pods that have one of these volumes.
    fn beside<'v>(&self, volumes: impl Iterator<Item = &'v CompactString>) -> BTreeSet<ObjectKey> {
        volumes.filter_map(|it| self.0.get(it)).flat_map(|it| it.keys().cloned()).collect()
    }

    fn of_driver(&self, driver: &str) -> Vec<ObjectKey> {
        let uses = self.0.values().flatten().filter(|(_, it)| it.driver == driver);
        uses.map(|(pod, _)| pod.clone()).collect()
    }

    /// Takes in how a pod has a volume; what that conflicts with comes back, for both pods.
    fn add(&mut self, volume: &str, pod: &ObjectKey, new: &Use) -> Vec<Conflict> {
        let pods = self.0.entry(volume.into()).or_default();
        pods.insert(pod.clone(), new.clone());
        let mut conflicts = Vec::new();
        for (other, its) in pods.iter() {
            conflicts.extend(between((pod, new), (other, its)));
            conflicts.extend(between((other, its), (pod, new)));
        }
        conflicts
    }

    /// All conflicts, told from both sides.
    fn conflicts(&self) -> impl Iterator<Item = Conflict> {
        self.0.values().flat_map(|pods| {
            let sides = pods.iter().flat_map(move |one| pods.iter().map(move |other| (one, other)));
            sides.flat_map(|(one, other)| between(one, other))
        })
    }
}

fn between(
    (pod, its): (&ObjectKey, &Use),
    (other, others): (&ObjectKey, &Use),
) -> impl Iterator<Item = Conflict> {
    let conflict = |property, value: &str, other_value: &str| Conflict {
        property,
        pod: pod.clone(),
        value: value.to_owned(),
        other: other.clone(),
        other_value: other_value.to_owned(),
    };
    let policies =
        (its.policy != others.policy).then(|| conflict(POLICY, its.policy, others.policy));
    let labels = differ(&its.label, &others.label);
    let labels = labels.then(|| conflict(LABEL, &its.label, &others.label));
    policies.into_iter().chain(labels)
}

impl Conflict {
    fn reason(&self) -> &'static str {
        if self.property == POLICY { "SELinuxChangePolicyConflict" } else { "SELinuxLabelConflict" }
    }

    fn message(&self) -> String {
        let Self { property, value, other_value, .. } = self;
        let end = "If both pods land on the same node, only one of them may access the volume.";
        if self.pod.namespace == self.other.namespace {
            let other = &self.other.name;
            return format!(
                "{property} \"{value}\" conflicts with pod {other} that uses the same volume as this pod with {property} \"{other_value}\". {end}"
            );
        }
        // Nobody is told of pods in other namespaces.
        format!(
            "{property}\"{value}\" conflicts with another pod that uses the same volume as this pod with a different {property}. {end}"
        )
    }
}

impl Metrics {
    /// Registers them under upstream's names.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }
}

#[derive(Debug, Clone, EncodeLabelSet)]
struct Labels {
    property: &'static str,
    pod1_namespace: String,
    pod1_name: String,
    pod1_value: String,
    pod2_namespace: String,
    pod2_name: String,
    pod2_value: String,
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let conflicts: Vec<Conflict> = self.0.lock().conflicts().collect();
        let gauge = ConstGauge::new(1_i64);
        let mut family = encoder.encode_descriptor(
            "selinux_warning_controller_selinux_volume_conflict",
            "[ALPHA] Conflict between two Pods using the same volume",
            None,
            gauge.metric_type(),
        )?;
        for it in conflicts {
            let labels = Labels {
                property: it.property,
                pod1_namespace: it.pod.namespace.into(),
                pod1_name: it.pod.name.into(),
                pod1_value: it.value,
                pod2_namespace: it.other.namespace.into(),
                pod2_name: it.other.name.into(),
                pod2_value: it.other_value,
            };
            gauge.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_label_leaves_out_conflicts_with_nothing() {
        for (a, b, expected) in [
            ("u:r:t:s0:c1,c2", ":::s0:c1,c2", false),
            ("u:r:t:s0:c1,c2", ":::s0:c98,c99", true),
            ("u:r:t:s0", "", false),
            ("u:r:t:s0", "v:r:t:s0", true),
        ] {
            assert_eq!((differ(a, b), differ(b, a)), (expected, expected), "{a} {b}");
        }
    }
}
