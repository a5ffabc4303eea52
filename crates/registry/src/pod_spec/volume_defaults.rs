//! The defaults of volumes.

use apimachinery::Value;

use super::defaults::{field_ref, resource_list};
use super::image;

/// The mode of files that a volume makes of data: 0644.
const FILE_MODE: i64 = 0o644;
/// How long a projected service account token lives, in seconds.
const TOKEN_SECONDS: i64 = 3600;
/// How long a projected certificate lives at most, in seconds.
const CERTIFICATE_SECONDS: i64 = 86400;

/// Sets the defaults of one volume.
pub(super) fn volume(volume: &mut Value) {
    let Some(object) = volume.as_object() else { return };
    if object.iter().all(|(key, value)| key == "name" || value.is_null()) {
        volume.set_at(&["emptyDir"], Value::object());
        return;
    }
    for (source, member, default) in TEXTS {
        if let Some(source) = volume.get_mut(source) {
            // An empty text is dropped where Go drops it and kept where it is a pointer: only absence counts.
            source.default_at(&[member], default);
        }
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            source.default_at(&["defaultMode"], FILE_MODE);
        }
    }
    if let Some(disk) = volume.get_mut("azureDisk") {
        disk.default_at(&["readOnly"], false);
    }
    for item in volume.items_at_mut(&["downwardAPI", "items"]) {
        field_ref(item.get_mut("fieldRef"));
    }
    for source in volume.items_at_mut(&["projected", "sources"]) {
        projected_source(source);
    }
    if let Some(template) = volume.at_mut(&["ephemeral", "volumeClaimTemplate", "spec"]) {
        claim_spec(template);
    }
    if let Some(image) = volume.get_mut("image") {
        let latest = image::tag(image.str_at(&["reference"])) == Some("latest");
        image.default_at(&["pullPolicy"], if latest { "Always" } else { "IfNotPresent" });
    }
    if let Some(Value::String(limit)) = volume.at_mut(&["emptyDir", "sizeLimit"]) {
        super::defaults::round_to_milli(limit);
    }
}

/// Source, member, text where it is absent or empty.
const TEXTS: [(&str, &str, &str); 10] = [
    ("hostPath", "type", ""),
    ("iscsi", "iscsiInterface", "default"),
    ("rbd", "pool", "rbd"),
    ("rbd", "user", "admin"),
    ("rbd", "keyring", "/etc/ceph/keyring"),
    ("azureDisk", "cachingMode", "ReadWrite"),
    ("azureDisk", "kind", "Shared"),
    ("azureDisk", "fsType", "ext4"),
    ("scaleIO", "fsType", "xfs"),
    ("scaleIO", "storageMode", "ThinProvisioned"),
];

fn projected_source(source: &mut Value) {
    for item in source.items_at_mut(&["downwardAPI", "items"]) {
        field_ref(item.get_mut("fieldRef"));
    }
    if let Some(token) = source.get_mut("serviceAccountToken") {
        token.default_at(&["expirationSeconds"], TOKEN_SECONDS);
    }
    if let Some(certificate) = source.get_mut("podCertificate") {
        certificate.default_at(&["maxExpirationSeconds"], CERTIFICATE_SECONDS);
    }
}

/// Sets the defaults of the spec of a claim, wherever it stands.
pub(crate) fn claim_spec(spec: &mut Value) {
    spec.default_at(&["volumeMode"], "Filesystem");
    if let Some(resources) = spec.get_mut("resources") {
        resource_list(resources.get_mut("limits"));
        resource_list(resources.get_mut("requests"));
    }
}
