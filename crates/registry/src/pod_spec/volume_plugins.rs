//! Checks of the volumes of storage systems, mostly those of the past.

use apimachinery::{FieldErrors, Path, Value};

use crate::check;

/// The largest number of a LUN.
const LUN_MAX: i64 = 255;

/// Checks a source by its name. What upstream checks of these is little: what must be there, and a few ranges.
pub(super) fn source(kind: &str, source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for member in required(kind) {
        check::required_text(source, member, path, errors);
    }
    match kind {
        "gcePersistentDisk" | "awsElasticBlockStore" => partition(source, path, errors),
        "nfs" => {
            let place = source.str_at(&["path"]);
            if !place.starts_with('/') {
                let detail = "must be an absolute path";
                errors.invalid_text(&path.child("path"), place, detail);
            }
        }
        "cephfs" | "rbd" if source.items_at(&["monitors"]).is_empty() => {
            errors.required(&path.child("monitors"), "");
        }
        "flocker" => flocker(source, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "iscsi" => {
            let lun = source.i64_at(&["lun"]).unwrap_or_default();
            range(lun, LUN_MAX, &path.child("lun"), errors);
        }
        "gitRepo" => {
            let directory = source.str_at(&["directory"]);
            super::volumes::descending_path(directory, &path.child("directory"), errors);
        }
        "image" => {
            let policies = ["Always", "IfNotPresent", "Never"];
            check::one_of(source, "pullPolicy", &policies, path, errors);
        }
        "csi" => {
            if let Some(secret) = source.get("nodePublishSecretRef") {
                let at = path.child("nodePublishSecretRef");
                check::required_text(secret, "name", &at, errors);
            }
        }
        _ => {}
    }
}

fn required(kind: &str) -> &'static [&'static str] {
    match kind {
        "gitRepo" => &["repository"],
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" | "cinder" => &["volumeID"],
        "nfs" => &["server", "path"],
        "iscsi" => &["targetPortal", "iqn"],
        "glusterfs" => &["endpoints", "path"],
        "rbd" => &["image"],
        "quobyte" => &["registry", "volume"],
        "flexVolume" | "csi" => &["driver"],
        "azureFile" => &["secretName", "shareName"],
        "vsphereVolume" => &["volumePath"],
        "photonPersistentDisk" => &["pdID"],
        "portworxVolume" => &["volumeID"],
        "azureDisk" => &["diskName", "diskURI"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "image" => &["reference"],
        _ => &[],
    }
}

fn range(number: i64, most: i64, path: &Path<'_>, errors: &mut FieldErrors) {
    for problem in apimachinery::validation::in_range(number, 0, most) {
        errors.invalid(path, &number.into(), &problem);
    }
}

fn partition(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let number = source.i64_at(&["partition"]).unwrap_or_default();
    range(number, LUN_MAX, &path.child("partition"), errors);
}

fn flocker(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (name, uuid) = (source.str_at(&["datasetName"]), source.str_at(&["datasetUUID"]));
    if name.is_empty() && uuid.is_empty() {
        errors.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        errors.invalid_text(path, "resource", detail);
    }
}

fn fibre_channel(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let names = !source.items_at(&["targetWWNs"]).is_empty();
    let ids = !source.items_at(&["wwids"]).is_empty();
    if !names && !ids {
        errors.required(
            &path.child("targetWWNs"),
            "must specify either targetWWNs or wwids, but not both",
        );
    }
    if names && ids {
        errors.invalid(
            &path.child("targetWWNs"),
            &source["targetWWNs"],
            "targetWWNs and wwids can not be specified simultaneously",
        );
    }
    if names {
        match source.i64_at(&["lun"]) {
            None => {
                errors.required(&path.child("lun"), "lun is required if targetWWNs is specified")
            }
            Some(lun) => range(lun, LUN_MAX, &path.child("lun"), errors),
        }
    }
}
