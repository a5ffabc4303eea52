//! Checks of where containers see the volumes of their pod.

use apimachinery::{FieldErrors, Path, Value};

use super::volumes::descending_path;
use crate::check;

/// Checks the mounts and block devices of a container against each other and the pod's volumes.
pub(super) fn mounts_and_devices(
    container: &Value,
    volumes: &[&Value],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let mounts = container.items_at(&["volumeMounts"]);
    let devices = container.items_at(&["volumeDevices"]);
    let mut seen: Vec<&str> = Vec::new();
    let list = path.child("volumeMounts");
    for (index, mount) in mounts.iter().enumerate() {
        let at = list.index(index);
        let place = mount.str_at(&["mountPath"]);
        check::required_text(mount, "name", &at, errors);
        let name = mount.str_at(&["name"]);
        if find(volumes, name).is_none() {
            errors.not_found(&at.child("name"), &name.into());
        }
        check::required_text(mount, "mountPath", &at, errors);
        if seen.contains(&place) {
            errors.invalid_text(&at.child("mountPath"), place, "must be unique");
        }
        seen.push(place);
        if has(devices, "name", name) {
            let detail = "must not already exist in volumeDevices";
            errors.invalid_text(&at.child("name"), name, detail);
        }
        if has(devices, "devicePath", place) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.invalid_text(&at.child("mountPath"), place, detail);
        }
        mount_options(mount, container, &list, &at, errors);
    }
    self::devices(devices, mounts, volumes, &path.child("volumeDevices"), errors);
}

fn find<'v>(volumes: &[&'v Value], name: &str) -> Option<&'v Value> {
    volumes.iter().copied().find(|it| !name.is_empty() && it.str_at(&["name"]) == name)
}

fn has(list: &[Value], member: &str, text: &str) -> bool {
    list.iter().any(|it| it.str_at(&[member]) == text)
}

fn mount_options(
    mount: &Value,
    container: &Value,
    list: &Path<'_>,
    at: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let (sub, expression) = (mount.str_at(&["subPath"]), mount.str_at(&["subPathExpr"]));
    if !sub.is_empty() {
        descending_path(sub, &list.child("subPath"), errors);
    }
    if !expression.is_empty() {
        if !sub.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid_text(&at.child("subPathExpr"), expression, detail);
        }
        descending_path(expression, &list.child("subPathExpr"), errors);
    }
    let modes = ["Bidirectional", "HostToContainer", "None"];
    check::optional_one_of(mount, "mountPropagation", &modes, list, errors);
    if mount.str_at(&["mountPropagation"]) == "Bidirectional"
        && !container.bool_at(&["securityContext", "privileged"])
    {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(&list.child("mountPropagation"), detail);
    }
    recursive_read_only(mount, list, errors);
}

fn recursive_read_only(mount: &Value, list: &Path<'_>, errors: &mut FieldErrors) {
    let modes = ["Disabled", "Enabled", "IfPossible"];
    check::optional_one_of(mount, "recursiveReadOnly", &modes, list, errors);
    if !matches!(mount.str_at(&["recursiveReadOnly"]), "Enabled" | "IfPossible") {
        return;
    }
    let at = list.child("recursiveReadOnly");
    if !mount.bool_at(&["readOnly"]) {
        errors.forbidden(&at, "may only be specified when readOnly is true");
    }
    if !matches!(mount.str_at(&["mountPropagation"]), "" | "None") {
        let detail = "may only be specified when mountPropagation is None or not specified";
        errors.forbidden(&at, detail);
    }
}

fn devices(
    devices: &[Value],
    mounts: &[Value],
    volumes: &[&Value],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let (mut names, mut places): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for (index, device) in devices.iter().enumerate() {
        let at = path.index(index);
        let (name, place) = (device.str_at(&["name"]), device.str_at(&["devicePath"]));
        let (name_at, place_at) = (at.child("name"), at.child("devicePath"));
        check::required_text(device, "name", &at, errors);
        if names.contains(&name) {
            errors.invalid_text(&name_at, name, "must be unique");
        }
        match find(volumes, name) {
            None => errors.not_found(&name_at, &name.into()),
            Some(it)
                if it.get("persistentVolumeClaim").is_none() && it.get("ephemeral").is_none() =>
            {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid_text(&name_at, name, detail);
            }
            Some(_) => {}
        }
        check::required_text(device, "devicePath", &at, errors);
        if places.contains(&place) {
            errors.invalid_text(&place_at, place, "must be unique");
        }
        if place.split('/').any(|part| part == "..") {
            errors.invalid_text(&place_at, place, "can not contain backsteps ('..')");
        } else {
            places.push(place);
        }
        if has(mounts, "name", name) {
            errors.invalid_text(&name_at, name, "must not already exist in volumeMounts");
        }
        if has(mounts, "mountPath", place) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.invalid_text(&place_at, place, detail);
        }
        if !name.is_empty() {
            names.push(name);
        }
    }
}
