//! What a mirror pod may not name: anything that its node would get to read, or others would have to do something for. Upstream:
//! `HasAPIObjectReference` (`pkg/api/pod`).

use apimachinery::Value;
use auth::pod_references;

/// Volumes that name nothing but perhaps a secret, which is looked for before.
const HARMLESS: [&str; 23] = [
    "awsElasticBlockStore",
    "azureDisk",
    "cephfs",
    "cinder",
    "downwardAPI",
    "emptyDir",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];
/// Volumes that name something, in upstream's words.
const VOLUMES: [(&str, &str); 7] = [
    ("configMap", "configmaps (via configmap volumes)"),
    ("secret", "secrets (via secret volumes)"),
    ("csi", "csidrivers (via CSI volumes)"),
    ("glusterfs", "endpoints (via glusterFS volumes)"),
    ("persistentVolumeClaim", "persistentvolumeclaims"),
    ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
    ("azureFile", "secrets (via azureFile volumes)"),
];
/// The same of sources of projected volumes.
const SOURCES: [(&str, &str); 5] = [
    ("configMap", "configmaps (via projected volumes)"),
    ("secret", "secrets (via projected volumes)"),
    ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
    ("clusterTrustBundle", "clustertrustbundles"),
    ("podCertificate", "podcertificates"),
];

/// The plural of the first resource that a pod names.
///
/// # Errors
/// Where a volume is of a kind that is not known.
pub(super) fn first_of(pod: &Value) -> Result<Option<&'static str>, String> {
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return Ok(Some("serviceaccounts"));
    }
    if !pod_references::secrets(pod).is_empty() {
        return Ok(Some("secrets"));
    }
    if !pod_references::config_maps(pod).is_empty() {
        return Ok(Some("configmaps"));
    }
    if !pod.items_at(&["spec", "resourceClaims"]).is_empty() {
        return Ok(Some("resourceclaims"));
    }
    for volume in pod.items_at(&["spec", "volumes"]) {
        if let Some(named) = of_volume(volume)? {
            return Ok(Some(named));
        }
    }
    Ok(None)
}

fn of_volume(volume: &Value) -> Result<Option<&'static str>, String> {
    let named = VOLUMES.iter().find(|(member, _)| has(volume, member));
    if let Some((_, named)) = named {
        return Ok(Some(named));
    }
    let name = volume.str_at(&["name"]);
    let mut sources = volume.as_object().into_iter().flat_map(|it| it.keys());
    if sources.any(|it| it != "name" && has(volume, it) && !HARMLESS.contains(&it)) {
        return Err(format!("unknown volume type for volume  {name:?}"));
    }
    for source in volume.items_at(&["projected", "sources"]) {
        match SOURCES.iter().find(|(member, _)| has(source, member)) {
            Some((_, named)) => return Ok(Some(named)),
            None if has(source, "downwardAPI") => {}
            None => return Err(format!("unknown source for projected volume {name:?}")),
        }
    }
    Ok(None)
}

fn has(value: &Value, member: &str) -> bool {
    value.get(member).is_some_and(|it| !it.is_null())
}
