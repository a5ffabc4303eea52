//! What a pod names in its namespace: those who may not make a pod that names something, those who may read what a pod names and
//! those who run it have to mean the same by it. Upstream: `VisitPodSecretNames`, `HasAPIObjectReference` and their kin
//! (`pkg/api/pod`, `pkg/api/v1/pod`).

use apimachinery::Value;

/// What marks the shadow of a pod that only its node knows.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// The lists of containers in a pod's `spec`.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// The volumes that name a secret in `secretRef`.
const SECRET_REFS: [&str; 7] =
    ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"];

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

/// Whether a pod is the shadow of one that only its node knows.
#[must_use]
pub fn is_mirror(pod: &Value) -> bool {
    pod.at(&["metadata", "annotations", MIRROR]).is_some()
}

/// Every secret that a pod names, some of them more than once.
#[must_use]
pub fn secrets(pod: &Value) -> Vec<&str> {
    let mut names = Vec::new();
    names.extend(pod.items_at(&["spec", "imagePullSecrets"]).iter().map(|it| it.str_at(&["name"])));
    for container in containers(pod) {
        for source in container.items_at(&["envFrom"]) {
            names.push(source.str_at(&["secretRef", "name"]));
        }
        for variable in container.items_at(&["env"]) {
            names.push(variable.str_at(&["valueFrom", "secretKeyRef", "name"]));
        }
    }
    for volume in pod.items_at(&["spec", "volumes"]) {
        names.push(volume.str_at(&["secret", "secretName"]));
        names.push(volume.str_at(&["azureFile", "secretName"]));
        names.push(volume.str_at(&["csi", "nodePublishSecretRef", "name"]));
        names.extend(SECRET_REFS.map(|source| volume.str_at(&[source, "secretRef", "name"])));
        for source in volume.items_at(&["projected", "sources"]) {
            names.push(source.str_at(&["secret", "name"]));
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Every config map that a pod names, some of them more than once.
#[must_use]
pub fn config_maps(pod: &Value) -> Vec<&str> {
    let mut names = Vec::new();
    for container in containers(pod) {
        for source in container.items_at(&["envFrom"]) {
            names.push(source.str_at(&["configMapRef", "name"]));
        }
        for variable in container.items_at(&["env"]) {
            names.push(variable.str_at(&["valueFrom", "configMapKeyRef", "name"]));
        }
    }
    for volume in pod.items_at(&["spec", "volumes"]) {
        names.push(volume.str_at(&["configMap", "name"]));
        for source in volume.items_at(&["projected", "sources"]) {
            names.push(source.str_at(&["configMap", "name"]));
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The volume claim behind a volume of a pod: the one that it names, or the one that is made for it.
#[must_use]
pub fn claim_of_volume(pod: &Value, volume: &Value) -> Option<String> {
    let named = volume.str_at(&["persistentVolumeClaim", "claimName"]);
    if !named.is_empty() {
        return Some(named.to_owned());
    }
    volume.get("ephemeral")?;
    Some(format!("{}-{}", pod.str_at(&["metadata", "name"]), volume.str_at(&["name"])))
}

/// Every resource claim of a pod: those that it names, those that were made for it from templates that it names, and the one for
/// its extended resources.
#[must_use]
pub fn resource_claims(pod: &Value) -> Vec<&str> {
    let made = pod.items_at(&["status", "resourceClaimStatuses"]);
    let claims = pod.items_at(&["spec", "resourceClaims"]).iter().map(|claim| {
        let named = claim.str_at(&["resourceClaimName"]);
        if !named.is_empty() || claim.get("resourceClaimTemplateName").is_none() {
            return named;
        }
        let of_it = |it: &&Value| it.str_at(&["name"]) == claim.str_at(&["name"]);
        made.iter().find(of_it).map_or("", |it| it.str_at(&["resourceClaimName"]))
    });
    let mut names: Vec<&str> = claims.collect();
    names.push(pod.str_at(&["status", "extendedResourceClaimStatus", "resourceClaimName"]));
    names.retain(|name| !name.is_empty());
    names
}

/// The plural of the first resource that a pod names.
///
/// # Errors
/// Where a volume is of a kind that is not known.
pub fn first_of(pod: &Value) -> Result<Option<&'static str>, String> {
    if !pod.str_at(&["spec", "serviceAccountName"]).is_empty() {
        return Ok(Some("serviceaccounts"));
    }
    if !secrets(pod).is_empty() {
        return Ok(Some("secrets"));
    }
    if !config_maps(pod).is_empty() {
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

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    CONTAINERS.into_iter().flat_map(|list| pod.items_at(&["spec", list]))
}

#[cfg(test)]
mod tests {
    use apimachinery::value;

    use super::*;

    #[test]
    fn a_pod_names_secrets_and_config_maps_in_many_places() {
        let spec = |member: &str, item: Value| {
            let mut pod = value!({"metadata": {"name": "p"}});
            pod.set_at(&["spec", member], Value::Array(vec![item]));
            pod
        };
        assert_eq!(secrets(&spec("imagePullSecrets", value!({"name": "s"}))).join(" "), "s");
        for list in CONTAINERS {
            let from = value!({"envFrom": [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "m"}}],
                "env": [{"valueFrom": {"secretKeyRef": {"name": "t"}}}, {"valueFrom": {"configMapKeyRef": {"name": "n"}}}]});
            let pod = spec(list, from);
            assert_eq!(secrets(&pod).join(" "), "s t", "{list}");
            assert_eq!(config_maps(&pod).join(" "), "m n", "{list}");
        }
        for (volume, named, maps) in [
            (value!({"secret": {"secretName": "s"}}), "s", ""),
            (value!({"azureFile": {"secretName": "s"}}), "s", ""),
            (value!({"csi": {"nodePublishSecretRef": {"name": "s"}}}), "s", ""),
            (value!({"cephfs": {"secretRef": {"name": "s"}}}), "s", ""),
            (value!({"cinder": {"secretRef": {"name": "s"}}}), "s", ""),
            (value!({"flexVolume": {"secretRef": {"name": "s"}}}), "s", ""),
            (value!({"rbd": {"secretRef": {"name": "s"}}}), "s", ""),
            (value!({"scaleIO": {"secretRef": {"name": "s"}}}), "s", ""),
            (value!({"iscsi": {"secretRef": {"name": "s"}}}), "s", ""),
            (value!({"storageos": {"secretRef": {"name": "s"}}}), "s", ""),
            (value!({"configMap": {"name": "m"}}), "", "m"),
            (
                value!({"projected": {"sources": [{"secret": {"name": "s"}}, {"configMap": {"name": "m"}}]}}),
                "s",
                "m",
            ),
            (value!({"hostPath": {"path": "/"}}), "", ""),
        ] {
            let pod = spec("volumes", volume.clone());
            assert_eq!(secrets(&pod).join(" "), named, "{volume:?}");
            assert_eq!(config_maps(&pod).join(" "), maps, "{volume:?}");
        }
    }

    #[test]
    fn a_claim_of_a_status_counts_only_where_the_spec_asks_for_one() {
        let pod = value!({"spec": {"resourceClaims": [
                {"name": "a", "resourceClaimName": "named"}, {"name": "b", "resourceClaimTemplateName": "t"},
                {"name": "c", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": [
                {"name": "b", "resourceClaimName": "made"}, {"name": "c"}, {"name": "x", "resourceClaimName": "foreign"}],
                "extendedResourceClaimStatus": {"resourceClaimName": "extended"}}});
        assert_eq!(resource_claims(&pod).join(" "), "named made extended");
    }

    #[test]
    fn a_volume_s_claim_is_named_or_made_for_it() {
        let pod = value!({"metadata": {"name": "p"}});
        for (volume, claim) in [
            (value!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}}), Some("c")),
            (value!({"name": "v", "ephemeral": {}}), Some("p-v")),
            (value!({"name": "v", "emptyDir": {}}), None),
        ] {
            assert_eq!(claim_of_volume(&pod, &volume).as_deref(), claim, "{volume:?}");
        }
    }
}
