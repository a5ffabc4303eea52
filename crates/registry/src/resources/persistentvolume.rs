//! PersistentVolume.

use apimachinery::{FieldErrors, Path, Value, time};
use jiff::Timestamp;

use super::printing;
use crate::declaration::{Declaration, MetadataChecks};
use crate::pod_spec::defaults::resource_list;
use crate::pod_spec::persistent;
use crate::{Part, Rules, check, go, table};

pub(super) fn resource() -> Declaration {
    Declaration {
        resource: "persistentvolumes",
        warnings: |it, _| warnings(it),
        default,
        prepare_create: |it| {
            it.set_at(&["status", "phase"], "Pending");
            let now = it["metadata"]["creationTimestamp"].clone();
            it.set_at(&["status", "lastPhaseTransitionTime"], now);
        },
        stamp,
        validate: |it, errors| {
            let name = it.str_at(&["metadata", "name"]);
            persistent::spec(&it["spec"], name, &Path::new("spec"), errors);
        },
        validate_update,
        metadata_checks: MetadataChecks::NewTwice,
        row,
        rules: Rules { has_status: true, returns_deleted: true, ..Declaration::PLAIN.rules },
        ..Declaration::PLAIN
    }
}

/// Notes when the phase changed, where who changed it does not say.
fn stamp(part: Part<'_>, volume: &mut Value, old: &Value, now: Timestamp) {
    if part != Part::Status {
        return;
    }
    let path = ["status", "lastPhaseTransitionTime"];
    let (time, before) = (volume.str_at(&path), old.str_at(&path));
    let changed = volume.str_at(&["status", "phase"]) != old.str_at(&["status", "phase"]);
    if changed && (time.is_empty() || time == before) {
        volume.set_at(&path, time::format_time(now));
    } else if !changed && time.is_empty() && !before.is_empty() {
        volume.set_at(&path, before);
    }
}

fn default(volume: &mut Value) {
    resource_list(volume.at_mut(&["spec", "capacity"]));
    volume.default_at(&["spec", "persistentVolumeReclaimPolicy"], "Retain");
    volume.default_at(&["spec", "volumeMode"], "Filesystem");
    volume.default_at(&["status", "phase"], "Pending");
    for (source, member, text) in [
        ("hostPath", "type", ""),
        ("iscsi", "iscsiInterface", "default"),
        ("rbd", "pool", "rbd"),
        ("rbd", "user", "admin"),
        ("rbd", "keyring", "/etc/ceph/keyring"),
        ("azureDisk", "cachingMode", "ReadWrite"),
        ("azureDisk", "kind", "Shared"),
        ("azureDisk", "fsType", "ext4"),
        ("scaleIO", "storageMode", "ThinProvisioned"),
        ("scaleIO", "fsType", "xfs"),
    ] {
        if let Some(source) = volume.at_mut(&["spec", source]) {
            source.default_at(&[member], text);
        }
    }
    if let Some(disk) = volume.at_mut(&["spec", "azureDisk"]) {
        disk.default_at(&["readOnly"], false);
    }
}

/// Labels of nodes that have another name today.
const RENAMED: [(&str, &str); 5] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

fn validate_update(volume: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    let (mut spec, before) = (volume["spec"].clone(), &old["spec"]);
    let secret = ["csi", "controllerExpandSecretRef"];
    if before.get("csi").is_some() && before.at(&secret).is_none() {
        spec.remove_at(&secret);
    }
    let changed =
        persistent::SOURCES.iter().any(|(source, _)| spec.get(source) != before.get(source));
    if changed {
        let diff = go::difference(before, &spec, go::VOLUME_SOURCE);
        let detail = format!("spec.persistentvolumesource is immutable after creation\n{diff}");
        errors.forbidden(&path.child("persistentvolumesource"), &detail);
    }
    // Upstream names this and the next as if they stood in no spec.
    let at = Path::new("volumeMode");
    check::immutable(spec.get("volumeMode"), before.get("volumeMode"), &at, errors);
    node_affinity(spec.get("nodeAffinity"), before.get("nodeAffinity"), errors);
    let class = "volumeAttributesClassName";
    if before.get(class).is_some() && spec.get(class).is_none() {
        errors.forbidden(&path.child(class), "update from non-nil value to nil is forbidden");
    }
}

/// Where a volume is stays once it is said; labels may get the names that they have today.
fn node_affinity(now: Option<&Value>, before: Option<&Value>, errors: &mut FieldErrors) {
    let Some(before) = before else { return };
    let (mut renamed, terms) = (before.clone(), ["required", "nodeSelectorTerms"]);
    let wanted = now.map_or(&[][..], |it| it.items_at(&terms));
    for (term, wanted) in renamed.items_at_mut(&terms).iter_mut().zip(wanted) {
        for list in ["matchExpressions", "matchFields"] {
            let all = term.items_at_mut(&[list]).iter_mut();
            for (requirement, wanted) in all.zip(wanted.items_at(&[list])) {
                let (key, name) = (requirement.str_at(&["key"]), wanted.str_at(&["key"]));
                if RENAMED.contains(&(key, name)) {
                    requirement.set_at(&["key"], name.to_owned());
                }
            }
        }
    }
    if now != Some(&renamed) {
        let shown = now.map_or_else(|| "null".into(), |it| go::compact(it, go::VOLUME_AFFINITY));
        let detail = "field is immutable, except for updating from beta label to GA";
        check::invalid_shown(&Path::new("nodeAffinity"), &shown, detail, errors);
    }
}

fn row(volume: &Value, now: Timestamp) -> Vec<Value> {
    let deleting = volume.at(&["metadata", "deletionTimestamp"]).is_some();
    let phase = if deleting { "Terminating" } else { volume.str_at(&["status", "phase"]) };
    let spec = |member| volume.str_at(&["spec", member]);
    let claim = volume
        .at(&["spec", "claimRef"])
        .map(|it| format!("{}/{}", it.str_at(&["namespace"]), it.str_at(&["name"])));
    vec![
        volume.str_at(&["metadata", "name"]).into(),
        volume.str_at(&["spec", "capacity", "storage"]).into(),
        printing::access_modes(volume.items_at(&["spec", "accessModes"])),
        spec("persistentVolumeReclaimPolicy").into(),
        phase.into(),
        claim.unwrap_or_default().into(),
        spec("storageClassName").into(),
        printing::or_unset(volume.at(&["spec", "volumeAttributesClassName"])),
        volume.str_at(&["status", "reason"]).into(),
        table::created(volume, now),
        printing::or_unset(volume.at(&["spec", "volumeMode"])),
    ]
}

/// The annotation that named a class before there was a field.
pub(super) const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// What is said of it.
pub(super) const CLASS_OLD: &str =
    "deprecated since v1.8; use \"storageClassName\" attribute instead";
/// Kinds of volumes that are gone, in upstream's order.
const OLD: [(&str, &str); 6] = [
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Upstream: `pkg/api/persistentvolume/util.go`.
fn warnings(volume: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if volume.at(&["metadata", "annotations", CLASS]).is_some() {
        found.push(format!("metadata.annotations[{CLASS}]: {CLASS_OLD}"));
    }
    if volume.str_at(&["spec", "persistentVolumeReclaimPolicy"]) == "Recycle" {
        found.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".into());
    }
    let terms = volume.items_at(&["spec", "nodeAffinity", "required", "nodeSelectorTerms"]);
    for (index, term) in terms.iter().enumerate() {
        let at = format!("spec.nodeAffinity.required.nodeSelectorTerms[{index}]");
        crate::pod_spec::warnings::of_term(term, &at, &mut found);
    }
    for (kind, said) in OLD {
        if volume.at(&["spec", kind]).is_some() {
            found.push(format!("spec.{kind}: {said}"));
        }
    }
    found
}
