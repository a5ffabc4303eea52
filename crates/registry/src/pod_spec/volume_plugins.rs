//! Checks of the volumes of storage systems, mostly those of the past.

use apimachinery::validation;
use apimachinery::{FieldErrors, Path, Value};

use crate::{check, rules};

/// The largest number of a LUN, and of a partition.
pub(super) const LUN_MAX: i64 = 255;

/// The longest name of a CSI driver, in bytes.
const DRIVER_NAME_MAX: usize = 63;
/// The longest name of a tenant of Quobyte, in bytes.
const TENANT_MAX: usize = 64;
const REGISTRY: &str = "must be a host:port pair or multiple pairs separated by commas";
const MANAGED_DISK: &str = "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
const BLOB_DISK: &str =
    "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";

/// Where a source stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    Pod,
    PersistentVolume,
}

/// Checks a source by its name: `path` is where upstream sees it. Upstream: `validateXVolumeSource` and
/// `validateXPersistentVolumeSource` in `pkg/apis/core/validation/validation.go`.
pub(super) fn source(
    kind: &str,
    source: &Value,
    within: Within,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    if matches!(kind, "cephfs" | "rbd") && source.items_at(&["monitors"]).is_empty() {
        errors.required(&path.child("monitors"), "");
    }
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
        "flocker" => flocker(source, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "iscsi" => super::iscsi::after_portal(source, within, path, errors),
        "gitRepo" => {
            let directory = source.str_at(&["directory"]);
            super::volumes::descending_path(directory, &path.child("directory"), errors);
        }
        "image" => {
            let policies = ["Always", "IfNotPresent", "Never"];
            check::one_of(source, "pullPolicy", &policies, path, errors);
        }
        "cinder" => named_secret(source, within, path, errors),
        "storageos" => storageos(source, within, path, errors),
        "glusterfs" if within == Within::PersistentVolume => endpoints(source, path, errors),
        "azureFile" if within == Within::PersistentVolume => {
            check::not_empty(source, "secretNamespace", path, errors);
        }
        "azureDisk" => azure_disk(source, path, errors),
        "flexVolume" => options(source, path, errors),
        "quobyte" => quobyte(source, path, errors),
        "csi" => csi(source, within, path, errors),
        _ => {}
    }
}

/// The members that must be there, where nothing is checked of them before.
fn required(kind: &str) -> &'static [&'static str] {
    match kind {
        "gitRepo" => &["repository"],
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" | "cinder" => &["volumeID"],
        "nfs" => &["server", "path"],
        "iscsi" => &["targetPortal"],
        "glusterfs" => &["endpoints", "path"],
        "rbd" => &["image"],
        "flexVolume" => &["driver"],
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

/// The name of a CSI driver, and what must be there of its volume.
fn csi(source: &Value, within: Within, path: &Path<'_>, errors: &mut FieldErrors) {
    csi_driver(source, "driver", path, errors);
    if within == Within::Pod {
        let Some(secret) = source.get("nodePublishSecretRef") else { return };
        let at = path.child("nodePublishSecretRef");
        if check::required_text(secret, "name", &at, errors) {
            let name = secret.str_at(&["name"]);
            // Upstream names it as if it stood in the source.
            errors.invalid_all(&path.child("name"), name, validation::dns1123_subdomain(name));
        }
        return;
    }
    check::required_text(source, "volumeHandle", path, errors);
    for member in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let Some(reference) = source.get(member) else { continue };
        let at = path.child(member);
        check::required_name(reference, "name", validation::dns1123_subdomain, &at, errors);
        check::required_name(reference, "namespace", validation::dns1123_label, &at, errors);
    }
}

/// The name of a CSI driver where it stands in a field.
pub(crate) fn csi_driver(of: &Value, member: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if !check::required_text(of, member, path, errors) {
        return;
    }
    let (name, at) = (of.str_at(&[member]), path.child(member));
    if name.len() > DRIVER_NAME_MAX {
        errors.too_long(&at, DRIVER_NAME_MAX);
    }
    errors.invalid_all(&at, name, validation::dns1123_subdomain(&name.to_lowercase()));
}

/// A secret that is given has a name, and a namespace where the volume has none of its own.
fn named_secret(source: &Value, within: Within, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(secret) = source.get("secretRef") else { return };
    let at = path.child("secretRef");
    check::required_text(secret, "name", &at, errors);
    if within == Within::PersistentVolume {
        check::required_text(secret, "namespace", &at, errors);
    }
}

fn storageos(source: &Value, within: Within, path: &Path<'_>, errors: &mut FieldErrors) {
    check::required_name(source, "volumeName", validation::dns1123_label, path, errors);
    check::optional_name(source, "volumeNamespace", validation::dns1123_label, path, errors);
    named_secret(source, within, path, errors);
}

fn endpoints(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let at = path.child("endpointsNamespace");
    match source.get("endpointsNamespace").and_then(Value::as_str) {
        None => {}
        Some("") => {
            let detail = "if the endpointnamespace is set, it must be a valid namespace name";
            errors.invalid_text(&at, "", detail);
        }
        Some(name) => errors.invalid_all(&at, name, validation::dns1123_label(name)),
    }
}

fn azure_disk(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check::optional_one_of(source, "cachingMode", &["None", "ReadOnly", "ReadWrite"], path, errors);
    check::optional_one_of(source, "kind", &["Dedicated", "Managed", "Shared"], path, errors);
    let Some(kind) = source.get("kind").and_then(Value::as_str) else { return };
    let (start, shown) = match kind {
        "Managed" => ("/subscriptions/", MANAGED_DISK),
        _ => ("https://", BLOB_DISK),
    };
    let place = source.str_at(&["diskURI"]);
    if !place.starts_with(start) {
        errors.not_supported(&path.child("diskURI"), &place.into(), [shown]);
    }
}

/// Options of a driver leave Kubernetes' own names alone.
fn options(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let options = path.child("options");
    for (key, _) in rules::quantities(source, "options") {
        let domain = format!(".{}", key.split('/').next().unwrap_or(key).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid_text(&options.key(key), key, detail);
        }
    }
}

fn quobyte(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let registry = source.str_at(&["registry"]);
    let at = path.child("registry");
    if registry.is_empty() {
        errors.required(&at, REGISTRY);
    } else if source.str_at(&["tenant"]).len() > TENANT_MAX {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.child("tenant"), detail);
    } else {
        for _ in registry.split(',').filter(|it| !is_host_and_port(it)) {
            errors.invalid_text(&at, registry, REGISTRY);
        }
    }
    check::required_text(source, "volume", path, errors);
}

/// Whether Go's `net.SplitHostPort` takes it: one colon, others within brackets around the host alone.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let brackets = |it: &str| it.contains(['[', ']']);
    match host.strip_prefix('[') {
        Some(rest) => {
            let inner = rest.strip_suffix(']');
            inner.is_some_and(|it| !brackets(it)) && !brackets(port)
        }
        None => !host.contains(':') && !brackets(host) && !brackets(port),
    }
}

pub(super) fn range(number: i64, most: i64, path: &Path<'_>, errors: &mut FieldErrors) {
    for problem in validation::in_range(number, 0, most) {
        errors.invalid(path, &number.into(), &problem);
    }
}

fn partition(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let number = source.i64_at(&["partition"]).unwrap_or_default();
    if !(0..=LUN_MAX).contains(&number) {
        // Upstream takes none, which is 0, and says otherwise.
        let detail = validation::inclusive_range(1, LUN_MAX);
        errors.invalid(&path.child("partition"), &number.into(), &detail);
    }
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
    if name.contains('/') {
        errors.invalid_text(&path.child("datasetName"), name, "must not contain '/'");
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
