//! What is written into a pod's resource claims before the pod is bound, and waiting until their devices are ready:
//! upstream's PreBind of DynamicResources.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, time, value};
use client::call::PatchKind;
use client::{Client, ClientError, ObjectKey, Resource, Store};
use component_base::{Clock, Random};
use dynamic_resource_allocation::Claim;
use dynamic_resource_allocation::claim::FINALIZER;
use tokio::sync::{Notify, Semaphore};

use crate::config::DynamicResourcesArgs;
use crate::devices::{ClaimBindings, name_shares};
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
        drop(permit);
        Ok(waits)
    }

    async fn write_one(
        &self,
        pod: &PodLite,
        key: &ObjectKey,
        allocation: Option<&Value>,
    ) -> Result<Value, String> {
        let cached = self.claims.get(key).map(|it| it.value());
        let cached = cached.ok_or_else(|| format!("could not find ResourceClaim \"{key}\""))?;
        let mut claim = Value::clone(&cached);
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
        if allocation.is_none() && reserved.iter().any(|it| it.str_at(&["uid"]) == pod.uid) {
            return Ok(claim);
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
            claim.set_at(&["status", "allocation"], allocation);
        }
        let consumer = value!({"resource": "pods", "name": (pod.key.name.as_str()), "uid": (pod.uid.as_str())});
        let mut reserved = claim.items_at(&["status", "reservedFor"]).to_vec();
        reserved.push(consumer);
        claim.set_at(&["status", "reservedFor"], Value::Array(reserved));
        let at = ["status", "allocation", "allocationTimestamp"];
        if claim.at(&at).is_none() {
            claim.set_at(&at, time::format_time(self.clock.now()).as_str());
        }
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
        bindings: &ClaimBindings,
        args: DynamicResourcesArgs,
    ) -> Result<(), String> {
        let all = async {
            loop {
                let changed = self.changed.notified();
                if self.are_ready(bindings, args)? {
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
        bindings: &ClaimBindings,
        args: DynamicResourcesArgs,
    ) -> Result<bool, String> {
        for (key, _) in &bindings.claims {
            let claim = self.claims.get(key).map(|it| it.value());
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

    /// Has the claims of a pod that is not bound after all say that the pod does not have them.
    pub(crate) async fn release(&self, pod: &PodLite) {
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
        self.client.patch(&resource(), namespace, name, "status", kind, &patch).await.map(drop)
    }

    /// Has a claim that nobody uses give back what it was given.
    pub(crate) async fn deallocate(&self, key: &ObjectKey) {
        let Some(cached) = self.claims.get(key).map(|it| it.value()) else { return };
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
