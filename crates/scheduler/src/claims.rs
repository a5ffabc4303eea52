//! What is written into a pod's resource claims before the pod is bound, and waiting until their devices are ready:
//! upstream's PreBind of DynamicResources.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apimachinery::{Value, time, value};
use client::call::{DeleteParams, PatchKind};
use client::{Client, ClientError, ObjectKey, Resource, Store};
use compact_str::CompactString;
use component_base::{Clock, Random};
use dynamic_resource_allocation::Claim;
use dynamic_resource_allocation::claim::{EXTENDED_RESOURCE_CLAIM, FINALIZER};
use tokio::sync::{Notify, Semaphore};

use crate::config::DynamicResourcesArgs;
use crate::devices::{ClaimBindings, ExtendedClaim, name_shares};
use crate::plugins::is_late;
use crate::pod::PodLite;
use crate::run::Inbox;

/// How often a claim is written again that others write at the same time, and how long after.
const CONFLICTS_MAX: usize = 5;
const CONFLICT_PAUSE: Duration = Duration::from_millis(10);

/// Writes resource claims, and sees what becomes of them.
#[derive(Debug, Clone)]
pub(crate) struct ClaimBinder {
    pub(crate) client: Client,
    pub(crate) claims: Store,
    pub(crate) clock: Arc<dyn Clock>,
    /// Names shares of devices.
    pub(crate) random: Arc<dyn Random>,
    pub(crate) inbox: Arc<Inbox>,
    /// Something about claims or pods that are being bound changed.
    pub(crate) changed: Arc<Notify>,
    /// Shared with all other writes.
    pub(crate) permits: Arc<Semaphore>,
}

fn resource() -> Resource {
    Resource::built_in("resource.k8s.io", "resourceclaims")
}

/// Why a claim was not written.
enum NotWritten {
    /// Somebody else wrote it; it is to be read again.
    Conflict(String),
    /// It cannot be.
    Refused(String),
}

impl ClaimBinder {
    /// Has a pod's claims say what they got, and that the pod has them. True where devices have to get ready.
    ///
    /// # Errors
    /// Why they do not, in upstream's words where it has some.
    pub(crate) async fn write(
        &self,
        pod: &PodLite,
        bindings: &ClaimBindings,
    ) -> Result<bool, String> {
        let permit = self.permits.acquire().await.map_err(|it| it.to_string())?;
        let mut waits = false;
        for (key, allocation) in &bindings.claims {
            let claim = self.write_one(pod, key, allocation.as_ref()).await?;
            let read = Claim::from_value(&claim);
            waits |= read.allocation.as_ref().is_some_and(|it| it.has_binding_conditions());
            self.inbox.claim_written(key.clone(), claim);
        }
        if let Some(extended) = &bindings.extended {
            let claim = self.write_extended(pod, extended).await?;
            let read = Claim::from_value(&claim);
            waits |= read.allocation.as_ref().is_some_and(|it| it.has_binding_conditions());
            let key = ObjectKey::new(read.namespace, read.name);
            self.inbox.claim_written(key, claim);
        }
        drop(permit);
        Ok(waits)
    }

    /// Makes the claim for a pod's extended resources, and has the pod say which containers have what of it.
    async fn write_extended(&self, pod: &PodLite, it: &ExtendedClaim) -> Result<Value, String> {
        let (namespace, name) = (pod.key.namespace.as_str(), pod.key.name.as_str());
        let uid = pod.uid.as_str();
        let owner = value!({"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid, "controller": true});
        let start = format!("{name}-extended-resources-");
        let requests = Value::Array(it.requests.clone());
        let claim = value!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
            "metadata": {"namespace": namespace, "generateName": start, "ownerReferences": [owner],
                "annotations": {EXTENDED_RESOURCE_CLAIM: "true"}},
            "spec": {"devices": {"requests": requests}}});
        let made = self.client.create(&resource(), namespace, &claim).await;
        let made = made.map_err(|error| {
            format!("create claim for extended resources {namespace}/<extended-resources>: {error}")
        })?;
        let key = ObjectKey::new(namespace, made.str_at(&["metadata", "name"]));
        it.made.get_or_init(|| key.name.clone());
        let written = self.write_live(pod, &key, made, Some(&it.allocation)).await?;
        let mappings = Value::Array(it.mappings.clone());
        let patch = value!({"metadata": {"uid": uid}, "status": {"extendedResourceClaimStatus": {
            "requestMappings": mappings, "resourceClaimName": (key.name.as_str())}}});
        let (pods, kind) = (Resource::built_in("", "pods"), PatchKind::Strategic);
        let told = self.client.patch(&pods, namespace, name, "status", kind, &patch).await;
        told.map_err(|error| {
            format!("update pod {namespace}/{name} ExtendedResourceClaimStatus: {error}")
        })?;
        Ok(written)
    }

    async fn write_one(
        &self,
        pod: &PodLite,
        key: &ObjectKey,
        allocation: Option<&Value>,
    ) -> Result<Value, String> {
        let cached = self.claims.get(key).map(|it| it.value());
        let cached = cached.ok_or_else(|| format!("could not find ResourceClaim \"{key}\""))?;
        let claim = if allocation.is_none() && Claim::from_value(&cached).is_reserved_for(&pod.uid)
        {
            // It may have been given up since, after a binding that failed, and the cache does not show that yet.
            let live = self.client.get(&resource(), &key.namespace, &key.name).await;
            live.map_err(|it| format!("get claim {key} that is reserved: {it}"))?
        } else {
            Value::clone(&cached)
        };
        self.write_live(pod, key, claim, allocation).await
    }

    async fn write_live(
        &self,
        pod: &PodLite,
        key: &ObjectKey,
        mut claim: Value,
        allocation: Option<&Value>,
    ) -> Result<Value, String> {
        let mut tried = 0;
        loop {
            match self.try_write(pod, key, claim, allocation).await {
                Ok(claim) => return Ok(claim),
                Err(NotWritten::Refused(why)) => return Err(why),
                Err(NotWritten::Conflict(why)) if tried >= CONFLICTS_MAX => return Err(why),
                Err(NotWritten::Conflict(_)) => {}
            }
            tried += 1;
            tokio::time::sleep(CONFLICT_PAUSE).await;
            let live = self.client.get(&resource(), &key.namespace, &key.name).await;
            claim = live.map_err(|it| format!("get updated claim {key} after conflict: {it}"))?;
        }
    }

    async fn try_write(
        &self,
        pod: &PodLite,
        key: &ObjectKey,
        mut claim: Value,
        allocation: Option<&Value>,
    ) -> Result<Value, NotWritten> {
        let refused = |why: String| Err(NotWritten::Refused(why));
        if claim.at(&["metadata", "deletionTimestamp"]).is_some() {
            return refused(format!("claim {key} got deleted in the meantime"));
        }
        let reserved = claim.items_at(&["status", "reservedFor"]);
        if allocation.is_none() {
            if claim.at(&["status", "allocation"]).is_none_or(Value::is_null) {
                return refused(format!("claim {key} got deallocated in the meantime"));
            }
            if reserved.iter().any(|it| it.str_at(&["uid"]) == pod.uid) {
                return Ok(claim);
            }
        }
        let mut what = "add reservation to claim";
        if let Some(allocation) = allocation {
            let there = claim.at(&["status", "allocation"]).filter(|it| !it.is_null());
            if there.is_some() {
                return refused(format!("claim {key} got allocated elsewhere in the meantime"));
            }
            what = "add allocation and reservation to claim";
            claim = self.with_finalizer(key, claim).await?;
            let mut allocation = allocation.clone();
            name_shares(&mut allocation, || self.random.uid().to_string());
            let at = ["allocationTimestamp"];
            allocation.default_at(&at, time::format_time(self.clock.now()).as_str());
            claim.set_at(&["status", "allocation"], allocation);
        }
        let consumer = value!({"resource": "pods", "name": (pod.key.name.as_str()), "uid": (pod.uid.as_str())});
        let mut reserved = claim.items_at(&["status", "reservedFor"]).to_vec();
        reserved.push(consumer);
        claim.set_at(&["status", "reservedFor"], Value::Array(reserved));
        let written = self.client.update(&resource(), "status", &claim).await;
        written.map_err(|error| not_written(what, key, &error))
    }

    async fn with_finalizer(&self, key: &ObjectKey, mut claim: Value) -> Result<Value, NotWritten> {
        let mut finalizers = claim.items_at(&["metadata", "finalizers"]).to_vec();
        if finalizers.iter().any(|it| it.as_str() == Some(FINALIZER)) {
            return Ok(claim);
        }
        finalizers.push(FINALIZER.into());
        claim.set_at(&["metadata", "finalizers"], Value::Array(finalizers));
        let written = self.client.update(&resource(), "", &claim).await;
        written.map_err(|error| not_written("add finalizer to claim", key, &error))
    }

    /// Waits until the devices of a pod's claims are ready.
    ///
    /// # Errors
    /// Why they never will be, or that they take too long.
    pub(crate) async fn ready(
        &self,
        pod: &PodLite,
        bindings: &ClaimBindings,
        args: DynamicResourcesArgs,
    ) -> Result<(), String> {
        let all = async {
            loop {
                let changed = self.changed.notified();
                if self.are_ready(&pod.key.namespace, bindings, args)? {
                    return Ok(());
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(args.binding_timeout, all).await;
        waited.unwrap_or_else(|_| Err("device binding timeout".into()))
    }

    fn are_ready(
        &self,
        namespace: &str,
        bindings: &ClaimBindings,
        args: DynamicResourcesArgs,
    ) -> Result<bool, String> {
        let extended = bindings.extended.as_ref().and_then(|it| it.made.get());
        let extended = extended.map(|name| ObjectKey::new(namespace, name.clone()));
        for key in bindings.claims.iter().map(|(key, _)| key).chain(&extended) {
            let claim = self.claims.get(key).map(|it| it.value());
            if claim.is_none() && Some(key) == extended.as_ref() {
                // It was made a moment ago, and the cache does not show it yet.
                return Ok(false);
            }
            let claim = claim.ok_or_else(|| format!("could not find ResourceClaim \"{key}\""))?;
            let claim = Claim::from_value(&claim);
            if !claim.is_ready_for_binding()? {
                if is_late(&claim, Some(self.clock.now()), args) {
                    return Err(format!("claim {} binding timeout", claim.name));
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Has the claims of a pod that is not bound after all say that the pod does not have them. The one that was made for it
    /// goes.
    pub(crate) async fn release(&self, pod: &PodLite, made: Option<&OnceLock<CompactString>>) {
        if let Some(name) = made.and_then(OnceLock::get) {
            self.remove(&ObjectKey::new(pod.key.namespace.clone(), name.clone())).await;
        }
        for name in pod.ask.resource_claims.iter().filter_map(|it| it.claim.name()) {
            let namespace = pod.key.namespace.as_str();
            if let Err(error) = self.release_one(pod, namespace, name).await
                && !error.is_not_found()
            {
                tracing::warn!(pod = %pod.key, claim = %name, %error, "could not release a resource claim");
            }
        }
    }

    async fn release_one(
        &self,
        pod: &PodLite,
        namespace: &str,
        name: &str,
    ) -> Result<(), ClientError> {
        let live = self.client.get(&resource(), namespace, name).await?;
        if !Claim::from_value(&live).is_reserved_for(&pod.uid) {
            return Ok(());
        }
        let uid = live.str_at(&["metadata", "uid"]);
        let patch = value!({"metadata": {"uid": uid}, "status": {"reservedFor": [{"$patch": "delete", "uid": (pod.uid.as_str())}]}});
        let kind = PatchKind::Strategic;
        let written =
            self.client.patch(&resource(), namespace, name, "status", kind, &patch).await?;
        self.inbox.claim_written(ObjectKey::new(namespace, name), written);
        Ok(())
    }

    /// Deletes a claim that was made for a pod, whatever it was given.
    async fn remove(&self, key: &ObjectKey) {
        if let Err(error) = self.try_remove(key).await
            && !error.is_not_found()
        {
            tracing::warn!(claim = %key, %error, "could not delete a resource claim");
        }
    }

    async fn try_remove(&self, key: &ObjectKey) -> Result<(), ClientError> {
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        let mut tried = 0;
        let uid = loop {
            let mut claim = self.client.get(&resource(), namespace, name).await?;
            let finalizers = claim.items_at(&["metadata", "finalizers"]).iter();
            let others = finalizers.filter(|it| it.as_str() != Some(FINALIZER)).cloned().collect();
            claim.set_at(&["metadata", "finalizers"], Value::Array(others));
            match self.client.update(&resource(), "", &claim).await {
                Ok(_) => break claim.str_at(&["metadata", "uid"]).to_owned(),
                Err(error) if error.is_conflict() && tried < CONFLICTS_MAX => tried += 1,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(CONFLICT_PAUSE).await;
        };
        let params = DeleteParams { uid: Some(uid), ..DeleteParams::default() };
        self.client.delete(&resource(), namespace, name, &params).await.map(drop)
    }

    /// Has a claim that nobody uses give back what it was given; one that was made for a pod goes.
    pub(crate) async fn deallocate(&self, key: &ObjectKey) {
        let Some(cached) = self.claims.get(key).map(|it| it.value()) else { return };
        if Claim::from_value(&cached).extended {
            return self.remove(key).await;
        }
        let mut claim = Value::clone(&cached);
        for member in ["reservedFor", "allocation", "devices"] {
            claim.remove_at(&["status", member]);
        }
        if let Err(error) = self.client.update(&resource(), "status", &claim).await {
            tracing::warn!(claim = %key, %error, "could not deallocate a resource claim");
        }
    }
}

fn not_written(what: &str, key: &ObjectKey, error: &ClientError) -> NotWritten {
    let why = format!("{what} {key}: {error}");
    if error.is_conflict() { NotWritten::Conflict(why) } else { NotWritten::Refused(why) }
}
