//! What is written for a pod's claims before the pod is bound, and waiting until they are: upstream's PreBind of
//! VolumeBinding.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use client::volumes::{BIND_COMPLETED, SELECTED_NODE, annotation, is_meant_for, with_claim};
use client::{Client, ObjectKey, Resource, Store};
use tokio::sync::{Notify, Semaphore};

use crate::labels::Labels;
use crate::pod::PodLite;
use crate::volumes::{Bindings, Volumes};

/// Writes claims and volumes, and sees what becomes of them.
#[derive(Debug, Clone)]
pub(crate) struct Binder {
    pub(crate) client: Client,
    pub(crate) claims: Store,
    pub(crate) volumes: Store,
    pub(crate) nodes: Store,
    pub(crate) csi_nodes: Store,
    pub(crate) pods: Store,
    /// Something about claims, volumes or pods that are being bound changed.
    pub(crate) changed: Arc<Notify>,
    /// Shared with all other writes.
    pub(crate) permits: Arc<Semaphore>,
}

impl Binder {
    /// Has a pod's claims bound, which may take `longest`.
    ///
    /// # Errors
    /// Why they are not, in upstream's words where it has some.
    pub(crate) async fn pre_bind(
        &self,
        pod: &PodLite,
        bindings: &Bindings,
        longest: Duration,
    ) -> Result<(), String> {
        self.write(pod, bindings).await.map_err(|it| format!("binding volumes: {it}"))?;
        let waiting = tokio::time::timeout(longest, self.bound(pod, bindings));
        match waiting.await {
            Ok(result) => result.map_err(|it| format!("binding volumes: {it}")),
            Err(_) => Err("binding volumes: context deadline exceeded".to_owned()),
        }
    }

    async fn write(&self, pod: &PodLite, bindings: &Bindings) -> Result<(), String> {
        let permit = self.permits.acquire().await.map_err(|it| it.to_string())?;
        for (claim_key, volume) in &bindings.chosen {
            let claim = self.claim(claim_key)?;
            let key = ObjectKey::new("", volume.as_str());
            let volume = self.volumes.get(&key).map(|it| it.value());
            let volume =
                volume.ok_or_else(|| format!("persistentvolume \"{}\" not found", key.name))?;
            let uid = claim.str_at(&["metadata", "uid"]);
            if is_meant_for(&volume, &claim) && volume.str_at(&["spec", "claimRef", "uid"]) == uid {
                continue;
            }
            let volumes = Resource::built_in("", "persistentvolumes");
            let written = self.client.update(&volumes, "", &with_claim(&volume, &claim)).await;
            written.map_err(|it| it.to_string())?;
        }
        for key in &bindings.made {
            let claim = self.claim(key)?;
            if annotation(&claim, SELECTED_NODE) == Some(pod.node.as_str()) {
                continue;
            }
            let mut changed = Value::clone(&claim);
            changed.set_at(&["metadata", "annotations", SELECTED_NODE], pod.node.as_str());
            let claims = Resource::built_in("", "persistentvolumeclaims");
            self.client.update(&claims, "", &changed).await.map_err(|it| it.to_string())?;
        }
        drop(permit);
        Ok(())
    }

    async fn bound(&self, pod: &PodLite, bindings: &Bindings) -> Result<(), String> {
        // A claim that is being made says so only once the cache shows this scheduler's own write.
        let mut selected: Vec<bool> = vec![false; bindings.made.len()];
        loop {
            let changed = self.changed.notified();
            if self.are_bound(pod, bindings, &mut selected)? {
                return Ok(());
            }
            changed.await;
        }
    }

    fn are_bound(
        &self,
        pod: &PodLite,
        bindings: &Bindings,
        selected: &mut [bool],
    ) -> Result<bool, String> {
        let live = self.pods.get(&pod.key).map(|it| it.value());
        let same = |it: &Arc<Value>| {
            it.str_at(&["metadata", "uid"]) == pod.uid
                && it.at(&["metadata", "deletionTimestamp"]).is_none()
        };
        if !live.as_ref().is_some_and(same) {
            return Err(format!("pod {} does not exist any more", pod.key));
        }
        let mut all = true;
        for (key, volume) in &bindings.chosen {
            self.reaches(volume, pod)?;
            all &= is_complete(&*self.claim(key)?);
        }
        for (key, selected) in bindings.made.iter().zip(selected) {
            let claim = self.claim(key)?;
            if is_complete(&claim) {
                // What was made need not be what was meant.
                self.reaches(claim.str_at(&["spec", "volumeName"]), pod)?;
                continue;
            }
            all = false;
            match annotation(&claim, SELECTED_NODE) {
                Some(node) if node == pod.node => *selected = true,
                Some(node) if *selected => {
                    return Err(format!(
                        "selectedNode annotation value \"{node}\" not set to scheduled node \"{}\"",
                        pod.node
                    ));
                }
                // Who was to make the volume has given up on the node.
                None if *selected => {
                    return Err(format!("provisioning failed for PVC \"{}\"", key.name));
                }
                Some(_) | None => {}
            }
        }
        Ok(all)
    }

    /// Whether a volume can be had on a pod's node, where both are known.
    fn reaches(&self, volume: &str, pod: &PodLite) -> Result<(), String> {
        let node_key = ObjectKey::new("", pod.node.clone());
        let found = self.volumes.get(&ObjectKey::new("", volume)).zip(self.nodes.get(&node_key));
        let Some((value, node)) = found.map(|(volume, node)| (volume.value(), node.value())) else {
            return Ok(());
        };
        let csi_node = self.csi_nodes.get(&node_key).map(|it| it.value());
        let mut all = Volumes::default();
        all.set_volume(volume, Some(&value));
        all.set_csi_node(&pod.node, csi_node.as_deref());
        let labels = Labels::from_value(node.at(&["metadata", "labels"]));
        if all.volume(volume).is_none_or(|it| all.reaches(it, &pod.node, &labels)) {
            return Ok(());
        }
        let node = &pod.node;
        Err(format!(
            "pv \"{volume}\" node affinity doesn't match node \"{node}\": no matching NodeSelectorTerms"
        ))
    }

    fn claim(&self, key: &ObjectKey) -> Result<Arc<Value>, String> {
        let claim = self.claims.get(key).map(|it| it.value());
        let claim =
            claim.ok_or_else(|| format!("persistentvolumeclaim \"{}\" not found", key.name))?;
        if claim.at(&["metadata", "deletionTimestamp"]).is_some() {
            return Err(format!("persistentvolumeclaim \"{}\" is being deleted", key.name));
        }
        Ok(claim)
    }
}

fn is_complete(claim: &Value) -> bool {
    annotation(claim, BIND_COMPLETED).is_some() && !claim.str_at(&["spec", "volumeName"]).is_empty()
}
