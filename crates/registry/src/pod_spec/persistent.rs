//! Checks of the spec of a persistent volume, which stands alone or inside an attachment.

use apimachinery::quantity::Quantity;
use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use super::volume_plugins::{self, Within};
use super::{claims, iscsi, scheduling, volumes};
use crate::check;
use crate::rules;

/// Every source of a persistent volume, in upstream's order; the second name stands in upstream's message.
pub(crate) const SOURCES: [(&str, &str); 22] = [
    ("hostPath", "hostPath"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("nfs", "nfs"),
    ("rbd", "rbd"),
    ("quobyte", "quobyte"),
    ("cephfs", "cephFS"),
    ("iscsi", "iscsi"),
    ("cinder", "cinder"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("scaleIO", "scaleIO"),
    ("local", "local"),
    ("storageos", "storageos"),
    ("csi", "csi"),
];

/// Checks the spec of a volume that is an object of its own, of that name.
pub(crate) fn spec(spec: &Value, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    access_modes(spec, path, errors);
    capacity(spec, path, errors);
    let policies = ["Delete", "Recycle", "Retain"];
    check::optional_one_of(spec, "persistentVolumeReclaimPolicy", &policies, path, errors);
    node_affinity(spec, path, errors);
    source(spec, name, path, errors);
    let root = spec.str_at(&["hostPath", "path"]) == "/";
    if root && spec.str_at(&["persistentVolumeReclaimPolicy"]) == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), detail);
    }
    check::optional_name(spec, "storageClassName", validation::dns1123_subdomain, path, errors);
    check::optional_one_of(spec, "volumeMode", &["Block", "Filesystem"], path, errors);
    attributes_class(spec, path, errors);
}

/// Checks the spec of a volume that is part of an attachment.
pub(crate) fn inline_spec(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let forbid = |member, errors: &mut FieldErrors| {
        let detail = "may not be specified in the context of inline volumes";
        errors.forbidden(&path.child(member), detail);
    };
    if spec.get("claimRef").is_some() {
        forbid("claimRef", errors);
    }
    if rules::quantities(spec, "capacity").next().is_some() {
        forbid("capacity", errors);
    }
    if spec.get("csi").is_none() {
        let detail = "has to be specified in the context of inline volumes";
        errors.required(&path.child("csi"), detail);
    }
    access_modes(spec, path, errors);
    if !matches!(spec.str_at(&["persistentVolumeReclaimPolicy"]), "" | "Retain") {
        let detail = "may only be Retain in the context of inline volumes";
        errors.forbidden(&path.child("persistentVolumeReclaimPolicy"), detail);
    }
    if spec.get("nodeAffinity").is_some() {
        forbid("nodeAffinity", errors);
    }
    source(spec, "", path, errors);
    if !spec.str_at(&["storageClassName"]).is_empty() {
        forbid("storageClassName", errors);
    }
    if spec.get("volumeMode").is_some_and(|it| it.as_str() != Some("Filesystem")) {
        let detail =
            "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.forbidden(&path.child("volumeMode"), detail);
    }
}

fn access_modes(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("accessModes");
    let modes = spec.items_at(&["accessModes"]);
    if modes.is_empty() {
        errors.required(&at, "");
    } else {
        claims::access_modes(modes, &at, errors);
    }
}

fn capacity(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("capacity");
    let amounts: Vec<(&str, &str)> = rules::quantities(spec, "capacity").collect();
    if amounts.is_empty() {
        errors.required(&at, "");
    }
    if amounts.len() != 1 || amounts[0].0 != "storage" {
        errors.not_supported(&at, &spec["capacity"], ["storage"]);
    }
    for (name, text) in amounts {
        let Ok(amount) = Quantity::parse(text) else { continue };
        if amount.sign() < 0 {
            let detail = "must be a valid resource quantity";
            errors.invalid(&at.key(name), &amount.value().into(), detail);
        }
        if amount.sign() <= 0 {
            errors.invalid_text(&at.key(name), text, "must be greater than zero");
        }
    }
}

/// Where the volume can be used.
fn node_affinity(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(affinity) = spec.get("nodeAffinity") else { return };
    let at = path.child("nodeAffinity");
    let required = at.child("required");
    match affinity.get("required") {
        Some(selector) => scheduling::node_selector(selector, &required, errors),
        None => errors.required(&required, "must specify required node constraints"),
    }
}

/// What it is.
fn source(spec: &Value, name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut count = 0;
    for (member, said) in SOURCES {
        let Some(source) = spec.get(member) else { continue };
        count += 1;
        // Upstream counts this one, and takes it beside others.
        if count > 1 && member != "flexVolume" {
            errors.forbidden(&path.child(said), "may not specify more than 1 volume type");
            continue;
        }
        let at = path.child(if member == "gcePersistentDisk" { "persistentDisk" } else { member });
        match member {
            "hostPath" => volumes::host_path(source, &at, errors),
            "local" => {
                if check::required_text(source, "path", &at, errors) {
                    let text = source.str_at(&["path"]);
                    if text.split('/').any(|part| part == "..") {
                        errors.invalid_text(&at.child("path"), text, "must not contain '..'");
                    }
                }
                if spec.get("nodeAffinity").is_none() {
                    let detail = "Local volume requires node affinity";
                    errors.required(&path.child("nodeAffinity"), detail);
                }
            }
            other => {
                if other == "iscsi" {
                    iscsi::long_portal_of(source, name, &at, errors);
                }
                volume_plugins::source(other, source, Within::PersistentVolume, &at, errors);
            }
        }
    }
    if count == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn attributes_class(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("volumeAttributesClassName");
    match spec.get("volumeAttributesClassName").and_then(Value::as_str) {
        None => {}
        Some("") => errors.required(&at, "an empty string is disallowed"),
        Some(name) => errors.invalid_all(&at, name, validation::dns1123_subdomain(name)),
    }
}
