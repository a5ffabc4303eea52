//! Checks of volumes and of the paths in them.

use apimachinery::quantity::Quantity;
use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use super::env;
use super::volume_plugins::{self, Within};
use crate::check;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const BACKSTEPS: &str = "must not contain '..'";
/// Every source of a volume, in upstream's order; the second name stands in upstream's message, where it differs.
const SOURCES: [(&str, &str); 30] = [
    ("emptyDir", "emptyDir"),
    ("hostPath", "hostPath"),
    ("gitRepo", "gitRepo"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", "secret"),
    ("nfs", "nfs"),
    ("iscsi", "iscsi"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd"),
    ("cinder", "cinder"),
    ("cephfs", "cephFS"),
    ("quobyte", "quobyte"),
    ("downwardAPI", "downwarAPI"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("configMap", "configMap"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("storageos", "storageos"),
    ("projected", "projected"),
    ("scaleIO", "scaleIO"),
    ("csi", "csi"),
    ("ephemeral", "ephemeral"),
    ("image", "image"),
];

/// Checks the volumes of a pod. Those that are fine come back: mounts of the others count as mounts of nothing.
pub(super) fn volumes<'v>(
    list: &'v [Value],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) -> Vec<&'v Value> {
    let mut names: Vec<&str> = Vec::new();
    let mut fine = Vec::new();
    for (index, volume) in list.iter().enumerate() {
        let at = path.index(index);
        let before = errors.len();
        let name = volume.str_at(&["name"]);
        source(volume, &at, errors);
        if name.is_empty() {
            errors.required(&at.child("name"), "");
            continue;
        }
        errors.invalid_all(&at.child("name"), name, validation::dns1123_label(name));
        if names.contains(&name) {
            errors.duplicate(&at.child("name"), &name.into());
        }
        if errors.len() == before {
            names.push(name);
            fine.push(volume);
        }
    }
    fine
}

fn source(volume: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut count = 0;
    for (member, said) in SOURCES {
        let Some(source) = volume.get(member) else { continue };
        if count > 0 {
            errors.forbidden(&path.child(said), "may not specify more than 1 volume type");
            if member == "iscsi" {
                super::iscsi::long_portal(volume, source, path, errors);
            }
            continue;
        }
        count += 1;
        let at = path.child(if member == "gcePersistentDisk" { "persistentDisk" } else { member });
        match member {
            "emptyDir" => empty_dir(source, &at, errors),
            "hostPath" => host_path(source, &at, errors),
            "secret" => {
                check::required_text(source, "secretName", &at, errors);
                files(source, &at, errors);
            }
            "configMap" => {
                check::required_text(source, "name", &at, errors);
                files(source, &at, errors);
            }
            "persistentVolumeClaim" => {
                check::required_text(source, "claimName", &at, errors);
            }
            "downwardAPI" => {
                default_mode(source, &at, errors);
                downward_items(source.items_at(&["items"]), &at, errors);
            }
            "projected" => {
                default_mode(source, &at, errors);
                super::projected::sources(source, &at, errors);
            }
            "ephemeral" => ephemeral(source, &at, errors),
            "iscsi" => {
                volume_plugins::source("iscsi", source, Within::Pod, &at, errors);
                super::iscsi::long_portal(volume, source, path, errors);
            }
            other => volume_plugins::source(other, source, Within::Pod, &at, errors),
        }
    }
    if count == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn empty_dir(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let limit = source.str_at(&["sizeLimit"]);
    if Quantity::parse(limit).is_ok_and(|it| it.sign() < 0) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.forbidden(&path.child("sizeLimit"), detail);
    }
}

/// A directory of the node.
pub(super) fn host_path(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if !check::required_text(source, "path", path, errors) {
        return;
    }
    no_backsteps(source.str_at(&["path"]), &path.child("path"), errors);
    let types = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    check::one_of(source, "type", &types, path, errors);
}

fn ephemeral(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("volumeClaimTemplate");
    let Some(template) = source.get("volumeClaimTemplate") else {
        errors.required(&at, "");
        return;
    };
    let metadata = template.get("metadata");
    check::label_map(metadata.and_then(|it| it.get("labels")), &at.child("labels"), errors);
    if let Some(map) = metadata.and_then(|it| it.get("annotations")).and_then(Value::as_object) {
        crate::metadata::annotations(map, &at.child("annotations"), errors);
    }
    let empty = Value::object();
    let spec = template.get("spec").unwrap_or(&empty);
    super::claims::spec(spec, &at.child("spec"), errors);
}

/// Modes and items of volumes that are made of the entries of an object.
pub(super) fn files(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    default_mode(source, path, errors);
    items(source.items_at(&["items"]), path, errors);
}

fn default_mode(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    mode(source, "defaultMode", path, errors);
}

pub(super) fn mode(of: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(mode) = of.i64_at(&[member]).filter(|it| !(0..=0o777).contains(it)) {
        errors.invalid(&path.child(member), &mode.into(), MODE);
    }
}

pub(super) fn items(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    let items = path.child("items");
    for (index, item) in list.iter().enumerate() {
        let at = items.index(index);
        check::required_text(item, "key", &at, errors);
        if check::required_text(item, "path", &at, errors) {
            local_path(item.str_at(&["path"]), &at.child("path"), errors);
        }
        mode(item, "mode", &at, errors);
    }
}

/// Files that show fields of the pod. Upstream names them without their list.
pub(super) fn downward_items(list: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    for item in list {
        if check::required_text(item, "path", path, errors) {
            local_path(item.str_at(&["path"]), &path.child("path"), errors);
        }
        match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (Some(field), Some(_)) => {
                env::field_ref(field, env::FILE_FIELDS, &path.child("fieldRef"), errors);
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid_text(path, "resource", detail);
            }
            (Some(field), None) => {
                env::field_ref(field, env::FILE_FIELDS, &path.child("fieldRef"), errors);
            }
            (None, Some(resource)) => {
                let at = path.child("resourceFieldRef");
                env::resource_field_ref(resource, true, &at, errors);
            }
            (None, None) => {
                errors.required(path, "one of fieldRef and resourceFieldRef is required");
            }
        }
        mode(item, "mode", path, errors);
    }
}

fn no_backsteps(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if text.split('/').any(|part| part == "..") {
        errors.invalid_text(path, text, BACKSTEPS);
    }
}

/// A path below another one.
pub(crate) fn descending_path(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if text.starts_with('/') {
        errors.invalid_text(path, text, "must be a relative path");
    }
    no_backsteps(text, path, errors);
}

/// A path below a volume that leaves the names free that the volume needs for itself.
pub(crate) fn local_path(text: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    descending_path(text, path, errors);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.invalid_text(path, text, "must not start with '..'");
    }
}
