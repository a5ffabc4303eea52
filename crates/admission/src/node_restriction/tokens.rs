//! For which audiences a node gets tokens of the accounts of its pods: those that a pod's volumes say, unless somebody has granted
//! it more. Upstream: the feature `ServiceAccountNodeAudienceRestriction`.

use api::pod_references::claim_of_volume;
use apimachinery::status::GroupResource;
use apimachinery::{Status, Value};

use super::{NodeRestriction, lacking};
use crate::Attributes;

/// What has to be granted for a token of another audience; the audience is the resource.
const VERB: &str = "request-serviceaccounts-token-audience";
/// Sources of volumes whose work CSI drivers have taken over, and the drivers.
const TRANSLATED: [(&str, &str); 7] = [
    ("awsElasticBlockStore", "ebs.csi.aws.com"),
    ("azureDisk", "disk.csi.azure.com"),
    ("azureFile", "file.csi.azure.com"),
    ("cinder", "cinder.csi.openstack.org"),
    ("gcePersistentDisk", "pd.csi.storage.gke.io"),
    ("portworxVolume", "pxd.portworx.com"),
    ("vsphereVolume", "csi.vsphere.vmware.com"),
];

impl NodeRestriction {
    /// Whether the token that is asked for has an audience that the pod's volumes say, or that is granted.
    pub(super) async fn audience(
        &self,
        attributes: &Attributes<'_>,
        pod: &Value,
    ) -> Result<(), Status> {
        let audience = match attributes.object.items_at(&["spec", "audiences"]) {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return Err(attributes.forbid("node may only request 0 or 1 audiences")),
        };
        let in_pod = self.is_in_pod(pod, audience).await?;
        let why = match in_pod {
            Ok(true) => return Ok(()),
            Ok(false) if self.is_granted(attributes, audience).await => return Ok(()),
            Ok(false) => format!(
                "audience {audience:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
                attributes.user.name
            ),
            Err(why) => format!("error validating audience {audience:?}: {why}"),
        };
        Err(attributes.forbid(&why))
    }

    async fn is_granted(&self, attributes: &Attributes<'_>, audience: &str) -> bool {
        // The server's own audience has no name here, and what has none is no resource: it takes a grant of all.
        let audience = if audience.is_empty() { "*" } else { audience };
        let asked = auth::Attributes {
            verb: VERB,
            version: "v1",
            resource: audience,
            namespace: attributes.namespace,
            name: attributes.name,
            ..auth::Attributes::of(attributes.user)
        };
        self.authorizer.authorize(&asked).await.is_allowed()
    }

    /// Whether a volume of the pod says the audience; inside, why that is not known.
    async fn is_in_pod(&self, pod: &Value, audience: &str) -> Result<Result<bool, String>, Status> {
        let mut unknown: Vec<String> = Vec::new();
        for volume in pod.items_at(&["spec", "volumes"]) {
            let mut sources = volume.items_at(&["projected", "sources"]).iter();
            let tokens = sources.find(|source| {
                let token = source.get("serviceAccountToken").filter(|it| !it.is_null());
                token.is_some_and(|it| it.str_at(&["audience"]) == audience)
            });
            if tokens.is_some() {
                return Ok(Ok(true));
            }
            match self.is_driver_s(pod, volume, audience).await? {
                Ok(true) => return Ok(Ok(true)),
                Ok(false) => {}
                Err(why) if unknown.contains(&why) => {}
                Err(why) => unknown.push(why),
            }
        }
        Ok(match unknown.as_slice() {
            [] => Ok(false),
            [one] => Err(one.clone()),
            // As Go writes several errors.
            many => Err(format!("[{}]", many.join(", "))),
        })
    }

    /// Whether the CSI driver of a volume wants tokens of the audience; inside, what of the way to it is not there.
    async fn is_driver_s(
        &self,
        pod: &Value,
        volume: &Value,
        audience: &str,
    ) -> Result<Result<bool, String>, Status> {
        let mut source = volume.clone();
        if let Some(claim) = claim_of_volume(pod, volume) {
            let namespace = pod.str_at(&["metadata", "namespace"]);
            let Some(found) = self.now("", "persistentvolumeclaims", (namespace, &claim)).await?
            else {
                return Ok(Err(absent(("", "persistentvolumeclaim"), &claim)));
            };
            let name = found.str_at(&["spec", "volumeName"]);
            let Some(mut found) = self.now("", "persistentvolumes", ("", name)).await? else {
                return Ok(Err(absent(("", "persistentvolume"), name)));
            };
            source = found.member_mut("spec").clone();
        }
        let translated = || TRANSLATED.iter().find(|(member, _)| source.get(member).is_some());
        let driver = match source.str_at(&["csi", "driver"]) {
            "" => translated().map_or("", |(_, driver)| driver),
            driver => driver,
        };
        if driver.is_empty() {
            return Ok(Ok(false));
        }
        let Some(found) = self.now("storage.k8s.io", "csidrivers", ("", driver)).await? else {
            return Ok(Err(absent(("storage.k8s.io", "csidriver"), driver)));
        };
        let wanted = found.items_at(&["spec", "tokenRequests"]);
        Ok(Ok(wanted.iter().any(|it| it.str_at(&["audience"]) == audience)))
    }
}

fn absent((group, resource): (&str, &str), name: &str) -> String {
    lacking(GroupResource { group, resource }, name).message
}
