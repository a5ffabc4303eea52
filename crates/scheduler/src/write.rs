//! What the scheduler writes: bindings, the condition of pods that fit nowhere, the end of those that make room.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, time, value};
use client::call::{DeleteParams, PatchKind};
use client::events::{EventType, ObjectReference};
use client::{Client, ClientError, EventRecorder, ObjectKey, Resource, Store};
use component_base::{Clock, ShutdownSignal};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::bindings::Binder;
use crate::pod::PodLite;
use crate::preemption::{Preemption, VictimKey};
use crate::run::Inbox;
use crate::volumes::Bindings;

/// How many pods that fit nowhere are told so in a second, and how many at once after a quiet time. Twice what
/// upstream's client allows it for all of its writes.
const REFUSALS_PER_SECOND: u32 = 100;
const REFUSALS_AT_ONCE: u32 = 200;

/// Pods that fit nowhere, with the reason, until they are told. Bounded by the pods there are.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pending: Mutex<BTreeMap<ObjectKey, String>>,
    wake: Notify,
}

/// Writes in the background, bounded by its permits.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) events: Arc<EventRecorder>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) binder: Binder,
}

impl Writer {
    /// Gives a pod the node it is assumed on. Waits only while too much is under way.
    pub(crate) async fn bind(&self, pod: Arc<PodLite>) {
        let permit = self.permit().await;
        let writer = self.clone();
        tokio::spawn(async move {
            writer.bind_now(&pod).await;
            drop(permit);
        });
    }

    /// Has the pod's claims bound, and then gives it its node. Claims may take long: no permit is held meanwhile. Bounded
    /// by the pods there are.
    pub(crate) fn bind_with_volumes(&self, pod: Arc<PodLite>, bindings: Vec<Bindings>) {
        let writer = self.clone();
        tokio::spawn(async move {
            for bindings in &bindings {
                if let Err(error) = writer.binder.pre_bind(&pod, bindings).await {
                    return writer.not_pre_bound(&pod, &error).await;
                }
            }
            writer.bind(pod).await;
        });
    }

    async fn not_pre_bound(&self, pod: &PodLite, error: &str) {
        tracing::warn!(pod = %pod.key, node = %pod.node, error, "could not bind a pod's volumes");
        if let Some(live) = self.binder.pods.get(&pod.key).map(|it| it.value()) {
            let message = format!("running PreBind plugin \"VolumeBinding\": {error}");
            self.refused_now(&live, &message, None).await;
        }
        self.inbox.not_bound(pod.key.clone(), pod.uid.clone());
    }

    /// Tells of a pod that fits nowhere, soon.
    pub(crate) fn refused(&self, key: ObjectKey, message: String) {
        self.refusals.pending.lock().insert(key, message);
        self.refusals.wake.notify_one();
    }

    /// Tells of refused pods until `stop`, no faster than a few do harm: a thousand pods that fit nowhere are no reason
    /// to keep the server from its work.
    pub(crate) async fn tell_of_refusals(self, pods: Store, stop: ShutdownSignal) {
        let interval = Duration::from_secs(1) / REFUSALS_PER_SECOND;
        let mut due = Instant::now();
        loop {
            let next = self.refusals.pending.lock().pop_first();
            let Some((key, message)) = next else {
                tokio::select! {
                    () = self.refusals.wake.notified() => continue,
                    () = stop.requested() => return,
                }
            };
            due = due.max(Instant::now()) + interval;
            tokio::select! {
                () = tokio::time::sleep_until(due - interval * REFUSALS_AT_ONCE) => {}
                () = stop.requested() => return,
            }
            // It may be gone by now, or have found a node.
            let Some(pod) = pods.get(&key).map(|it| it.value()) else { continue };
            if pod.str_at(&["spec", "nodeName"]).is_empty() {
                self.refused_now(&pod, &message, None).await;
            }
        }
    }

    /// Tells of a pod that fits nowhere yet, and removes the pods that make room for it.
    pub(crate) async fn preempting(&self, pod: Arc<Value>, message: String, by: Preemption) {
        let permit = self.permit().await;
        let writer = self.clone();
        tokio::spawn(async move {
            writer.refused_now(&pod, &message, Some(&by)).await;
            drop(permit);
        });
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        let permits = Arc::clone(&self.permits);
        permits.acquire_owned().await.expect("because the semaphore is never closed")
    }

    async fn bind_now(&self, pod: &PodLite) {
        let (namespace, name) = (pod.key.namespace.as_str(), pod.key.name.as_str());
        let about = about(pod.key.clone(), &pod.uid);
        let binding = value!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": (pod.uid.as_str())},
            "target": {"kind": "Node", "name": (pod.node.as_str())}
        });
        let pods = Resource::built_in("", "pods");
        match self.client.create_subresource(&pods, namespace, name, "binding", &binding).await {
            Ok(_) => {
                let message = format!("Successfully assigned {} to {}", pod.key, pod.node);
                self.events.record(about, EventType::Normal, "Scheduled", message);
            }
            Err(error) => {
                tracing::warn!(pod = %pod.key, node = %pod.node, %error, "could not bind a pod");
                if !error.is_not_found() {
                    let message = format!("binding rejected: {error}");
                    self.events.record(about, EventType::Warning, "FailedScheduling", message);
                }
                self.inbox.not_bound(pod.key.clone(), pod.uid.clone());
            }
        }
    }

    async fn refused_now(&self, pod: &Value, message: &str, preemption: Option<&Preemption>) {
        let about = ObjectReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            ..ObjectReference::of(pod)
        };
        self.events.record(about, EventType::Warning, "FailedScheduling", message);
        let node = preemption.map(|it| it.node.as_str());
        if let Some(patch) = self.status_patch(pod, message, node)
            && let Err(error) = self.patch_status(pod, &patch).await
        {
            self.failed(pod, "write the condition of", &error);
        }
        let Some(preemption) = preemption else { return };
        for victim in &preemption.pods {
            if let Err(error) = self.preempt(victim, pod, &preemption.node).await {
                self.failed(pod, "make room for", &error);
            }
        }
    }

    fn failed(&self, pod: &Value, what: &str, error: &ClientError) {
        if !error.is_not_found() {
            let name = pod.str_at(&["metadata", "name"]);
            tracing::warn!(pod = name, %error, "could not {what} a pod");
        }
    }

    /// The condition that says why, where it does not say so already.
    fn status_patch(&self, pod: &Value, message: &str, node: Option<&str>) -> Option<Value> {
        let conditions = pod.items_at(&["status", "conditions"]);
        let old = conditions.iter().find(|it| it.str_at(&["type"]) == "PodScheduled");
        let refused = old.filter(|it| it.str_at(&["status"]) == "False");
        let said = refused.is_some_and(|it| {
            it.str_at(&["reason"]) == "Unschedulable" && it.str_at(&["message"]) == message
        });
        let nominated = pod.str_at(&["status", "nominatedNodeName"]);
        if said && node.is_none_or(|node| node == nominated) {
            return None;
        }
        let now = time::format_time(self.clock.now());
        let since =
            refused.map(|it| it.str_at(&["lastTransitionTime"])).filter(|it| !it.is_empty());
        let mut condition = value!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastTransitionTime": (since.unwrap_or(&now))
        });
        if let Some(generation) = pod.i64_at(&["metadata", "generation"]) {
            condition.set_at(&["observedGeneration"], generation);
        }
        let mut patch = value!({"status": {"conditions": [condition]}});
        if let Some(node) = node {
            patch.set_at(&["status", "nominatedNodeName"], node);
        }
        Some(patch)
    }

    async fn patch_status(&self, pod: &Value, patch: &Value) -> Result<(), ClientError> {
        let (namespace, name) =
            (pod.str_at(&["metadata", "namespace"]), pod.str_at(&["metadata", "name"]));
        let pods = Resource::built_in("", "pods");
        let kind = PatchKind::Strategic;
        self.client.patch(&pods, namespace, name, "status", kind, patch).await.map(drop)
    }

    /// Marks a pod as preempted and deletes it.
    async fn preempt(&self, victim: &VictimKey, by: &Value, node: &str) -> Result<(), ClientError> {
        let (namespace, name) = (victim.key.namespace.as_str(), victim.key.name.as_str());
        let scheduler = by.str_at(&["spec", "schedulerName"]);
        let message = format!("{scheduler}: preempting to accommodate a higher priority pod");
        let now = time::format_time(self.clock.now());
        let patch = value!({"metadata": {"uid": (victim.uid.as_str())}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": message, "lastTransitionTime": now
        }]}});
        let pods = Resource::built_in("", "pods");
        let kind = PatchKind::Strategic;
        self.client.patch(&pods, namespace, name, "status", kind, &patch).await?;
        let params = DeleteParams { uid: Some(victim.uid.to_string()), ..DeleteParams::default() };
        self.client.delete(&pods, namespace, name, &params).await?;
        let uid = by.str_at(&["metadata", "uid"]);
        let message = format!("Preempted by pod {uid} on node {node}");
        let about = about(victim.key.clone(), &victim.uid);
        self.events.record(about, EventType::Normal, "Preempted", message);
        Ok(())
    }
}

fn about(key: client::ObjectKey, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: "v1".into(),
        kind: "Pod".into(),
        namespace: key.namespace.into(),
        name: key.name.into(),
        uid: uid.into(),
        ..ObjectReference::default()
    }
}
