//! Checks of the spec of a persistent volume, which stands alone or inside an attachment.

use apimachinery::quantity::Quantity;
use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use super::{claims, scheduling, volume_plugins, volumes};
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

/// Checks the spec of a volume that is an object of its own.
pub(crate) fn spec(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    access_modes(spec, path, errors);
    capacity(spec, path, errors);
    let policies = ["Delete", "Recycle", "Retain"];
    check::optional_one_of(spec, "persistentVolumeReclaimPolicy", &policies, path, errors);
    common(spec, path, errors);
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
    for (member, owner) in [
        ("claimRef", "claimRef"),
        ("capacity", "capacity"),
        ("persistentVolumeReclaimPolicy", "persistentVolumeReclaimPolicy"),
        ("storageClassName", "storageClassName"),
        ("volumeMode", "volumeMode"),
    ] {
        if spec.get(member).is_some() {
            errors.forbidden(
                &path.child(owner),
                "may not be specified in the context of inline volumes",
            );
        }
    }
    access_modes(spec, path, errors);
    common(spec, path, errors);
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
        if Quantity::parse(text).is_ok_and(|it| it.sign() <= 0) {
            errors.invalid_text(&at.key(name), text, "must be greater than zero");
        }
    }
}

/// Where the volume can be used, and what it is.
fn common(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(affinity) = spec.get("nodeAffinity") {
        let at = path.child("nodeAffinity");
        let required = at.child("required");
        match affinity.get("required") {
            Some(selector) => scheduling::node_selector(selector, &required, errors),
            None => errors.required(&required, "must specify required node constraints"),
        }
    }
    let mut count = 0;
    for (member, said) in SOURCES {
        let Some(source) = spec.get(member) else { continue };
        count += 1;
        // Upstream counts this one, and takes it beside others.
        if count > 1 && member != "flexVolume" {
            errors.forbidden(&path.child(said), "may not specify more than 1 volume type");
            continue;
        }
        let at = path.child(said);
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
            "csi" => csi(source, &at, errors),
            other => volume_plugins::source(other, source, &at, errors),
        }
    }
    if count == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn csi(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if check::required_text(source, "driver", path, errors) {
        let driver = source.str_at(&["driver"]);
        let at = path.child("driver");
        errors.invalid_all(&at, driver, validation::dns1123_subdomain(&driver.to_lowercase()));
    }
    check::required_text(source, "volumeHandle", path, errors);
    for member in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        if let Some(reference) = source.get(member) {
            let at = path.child(member);
            check::required_text(reference, "name", &at, errors);
            check::required_text(reference, "namespace", &at, errors);
        }
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
