//! Disks of pods: a pod begins once the node was told to have them all, and the node says which it uses before that.

use std::collections::BTreeSet;

use apimachinery::Value;
use client::reflector::Cached;
use client::{ClientError, Resource};

use super::Disk;
use super::agent::Agent;
use crate::hardware::{DISKS, unique_name};
use crate::observer::Place;
use crate::rules::claims_of;

impl Agent {
    /// The disks that the pods of the node use, or are about to.
    pub(super) fn in_use(&self) -> BTreeSet<String> {
        self.mounts.lock().values().flatten().map(|it| it.unique.clone()).collect()
    }

    /// The volumes of a pod that are disks.
    pub(super) fn disks(&self, uid: &str) -> Vec<String> {
        let mounts = self.mounts.lock();
        mounts.get(uid).into_iter().flatten().map(|it| it.volume.clone()).collect()
    }

    /// Whether all disks of a pod are there, so that it may begin.
    pub(super) async fn mount(&self, cached: &Cached, pod: &Value) -> Result<bool, ClientError> {
        let place =
            Place { namespace: cached.key.namespace.clone(), name: cached.key.name.clone() };
        let mut disks = Vec::new();
        for claim in claims_of(&place, pod) {
            let Some(disk) = self.disk_of(&claim).await? else { return Ok(false) };
            disks.extend(disk);
        }
        let wanted: Vec<String> = disks.iter().map(|it| it.unique.clone()).collect();
        if disks.is_empty() {
            return Ok(true);
        }
        self.mounts.lock().insert(cached.uid.clone(), disks);
        let told = wanted.iter().all(|it| self.told.lock().contains(it));
        if !told {
            return Ok(false);
        }
        // Read after that was told: who takes disks away looks there first.
        let nodes = Resource::built_in("", "nodes");
        let node = self.client.get(&nodes, "", &self.name).await?;
        let attached = node.items_at(&["status", "volumesAttached"]);
        Ok(wanted.iter().all(|name| attached.iter().any(|it| it.str_at(&["name"]) == name)))
    }

    /// The disk of a claim: nothing where it is not bound, and none where its volume is no disk.
    async fn disk_of(&self, claim: &Place) -> Result<Option<Option<Disk>>, ClientError> {
        let claims = Resource::built_in("", "persistentvolumeclaims");
        let claim = match self.client.get(&claims, &claim.namespace, &claim.name).await {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        if claim.str_at(&["status", "phase"]) != "Bound" {
            return Ok(None);
        }
        let name = claim.str_at(&["spec", "volumeName"]);
        let volumes = Resource::built_in("", "persistentvolumes");
        let volume = match self.client.get(&volumes, "", name).await {
            Err(error) if error.is_not_found() => return Ok(None),
            other => other?,
        };
        let is_its =
            volume.str_at(&["spec", "claimRef", "uid"]) == claim.str_at(&["metadata", "uid"]);
        let is_disk = volume.str_at(&["spec", "csi", "driver"]) == DISKS;
        let handle = volume.str_at(&["spec", "csi", "volumeHandle"]);
        let disk = Disk { volume: name.to_owned(), unique: unique_name(handle) };
        Ok(is_its.then(|| is_disk.then_some(disk)))
    }
}
