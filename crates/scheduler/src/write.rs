//! What the scheduler writes: bindings, the condition of pods that fit nowhere, the end of those that make room.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apimachinery::{Value, time, value};
use client::call::{DeleteParams, PatchKind};
use client::events::{EventType, ObjectReference};
use client::{Client, ClientError, EventRecorder, ObjectKey, Resource, Store};
use compact_str::CompactString;
use component_base::{Clock, ShutdownSignal};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::bindings::Binder;
use crate::claims::ClaimBinder;
use crate::config::DynamicResourcesArgs;
use crate::extender::Extender;
use crate::framework::ReservedWrites;
use crate::metrics::{Metrics, Outcome};
use crate::pod::PodLite;
use crate::preemption::Candidate;
use crate::run::Inbox;

/// How many pods that fit nowhere are told so in a second, and how many at once after a quiet time. Twice what
/// upstream's client allows it for all of its writes.
const REFUSALS_PER_SECOND: u32 = 100;
const REFUSALS_AT_ONCE: u32 = 200;

/// How long it is asked whether a pod was bound, where nobody answers: a leader that gets no answers for so long is none.
const NO_ANSWER_MAX: Duration = Duration::from_secs(15);
/// How long apart, at first and at most.
const NO_ANSWER_PAUSE: Duration = Duration::from_millis(50);
const NO_ANSWER_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a pod has no node.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// `Unschedulable`, or `SchedulerError`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// Whether the pod is promised no node any more.
    pub(crate) hopeless: bool,
}

impl Refusal {
    /// No node will do.
    pub(crate) fn unschedulable(message: String, hopeless: bool) -> Self {
        Self { reason: "Unschedulable", message, hopeless }
    }

    /// It could not be found out, or done.
    pub(crate) fn error(message: String) -> Self {
        Self { reason: "SchedulerError", message, hopeless: true }
    }
}

/// Whether a group's pods have got their nodes.
#[derive(Debug, Clone)]
pub(crate) struct GroupCondition {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl GroupCondition {
    /// They have.
    pub(crate) fn scheduled() -> Self {
        Self { status: "True", reason: "Scheduled", message: String::new() }
    }

    /// They have not.
    pub(crate) fn refused(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    /// What is to be written into a group's status; `None` where it says so already. Once its pods had their nodes that
    /// stays so.
    fn patch(&self, group: &Value, now: &str) -> Option<Value> {
        const TYPE: &str = "PodGroupInitiallyScheduled";
        let Self { status, reason, message } = self;
        let conditions = group.items_at(&["status", "conditions"]);
        let old = conditions.iter().find(|it| it.str_at(&["type"]) == TYPE);
        let said = |member: &str| old.map_or("", |it| it.str_at(&[member]));
        let same_status = said("status") == *status;
        if (said("status") == "True" && !same_status)
            || (same_status && said("reason") == *reason && said("message") == message)
        {
            return None;
        }
        let since = if same_status { said("lastTransitionTime") } else { now };
        let mut condition = value!({
            "type": TYPE, "status": (*status), "reason": (*reason), "message": (message.as_str()),
            "lastTransitionTime": since
        });
        if let Some(generation) = group.i64_at(&["metadata", "generation"]) {
            condition.set_at(&["observedGeneration"], generation);
        }
        let uid = group.str_at(&["metadata", "uid"]);
        Some(value!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}}))
    }
}

/// For whom pods make room.
#[derive(Debug, Clone)]
pub(crate) struct Preemptor {
    pub(crate) scheduler: CompactString,
    pub(crate) uid: CompactString,
    /// `pod`, `podgroup`
    pub(crate) kind: &'static str,
    /// Where.
    pub(crate) node: CompactString,
}

/// A pod for which a node is being emptied.
#[derive(Debug, Clone)]
pub(crate) struct Promise {
    pub(crate) pod: Arc<Value>,
    pub(crate) node: CompactString,
    pub(crate) refusal: Refusal,
}

/// Pods that fit nowhere, with the reason, until they are told. Bounded by the pods there are.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pending: Mutex<BTreeMap<ObjectKey, Refusal>>,
    wake: Notify,
}

/// A pod that is to be bound, and what is known of the attempt.
#[derive(Debug, Clone)]
pub(crate) struct ToBind {
    /// With its node.
    pub(crate) pod: Arc<PodLite>,
    /// When the attempt began.
    pub(crate) begun: Instant,
    /// The attempts until now.
    pub(crate) attempts: u32,
    /// Since when it waits.
    pub(crate) since: Instant,
    /// How long its volumes may take.
    pub(crate) volume_timeout: Duration,
    /// How long its devices may take.
    pub(crate) devices: DynamicResourcesArgs,
    /// The name of the claim that was made for it, where one is to be made.
    pub(crate) made: Option<Arc<OnceLock<CompactString>>>,
}

/// Writes in the background, bounded by its permits.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) client: Client,
    /// By the name under which pods ask for a scheduler.
    pub(crate) events: Arc<BTreeMap<CompactString, Arc<EventRecorder>>>,
    pub(crate) metrics: Metrics,
    /// Who binds pods instead, where they are its business.
    pub(crate) binder_extender: Option<Extender>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) binder: Binder,
    pub(crate) claims: ClaimBinder,
}

impl Writer {
    /// Tells of a pod in the name of its scheduler.
    fn tell(
        &self,
        scheduler: &str,
        about: ObjectReference,
        kind: EventType,
        reason: &str,
        message: &str,
    ) {
        if let Some(events) = self.events.get(scheduler) {
            events.record(about, kind, reason, message);
        }
    }

    /// Gives a pod the node it is assumed on. Waits only while too much is under way.
    pub(crate) async fn bind(&self, to_bind: ToBind) {
        let permit = self.permit().await;
        let writer = self.clone();
        tokio::spawn(async move {
            writer.bind_now(&to_bind).await;
            drop(permit);
        });
    }

    /// Has the pod's volumes and claims bound, and then gives it its node. That may take long: no permit is held meanwhile.
    /// Bounded by the pods there are.
    pub(crate) fn bind_with(&self, to_bind: ToBind, reserved: Vec<ReservedWrites>) {
        let writer = self.clone();
        tokio::spawn(async move {
            let (begun, pod) = (writer.clock.monotonic(), &to_bind.pod);
            let profile = pod.ask.scheduler_name.as_str();
            for writes in &reserved {
                let bound = writer.pre_bind(&to_bind, writes).await;
                let took = writer.clock.monotonic() - begun;
                writer.metrics.point("PreBind", profile, bound.is_ok(), took);
                if let Err(error) = bound {
                    return writer.not_pre_bound(&to_bind, writes.plugin(), &error).await;
                }
            }
            writer.bind(to_bind).await;
        });
    }

    async fn pre_bind(&self, to_bind: &ToBind, writes: &ReservedWrites) -> Result<(), String> {
        let pod = &to_bind.pod;
        match writes {
            ReservedWrites::Volumes(bindings) => {
                self.binder.pre_bind(pod, bindings, to_bind.volume_timeout).await
            }
            ReservedWrites::Claims(bindings) => {
                if self.claims.write(pod, bindings).await? {
                    let about = about(pod.key.clone(), &pod.uid);
                    let message =
                        format!("waiting for binding conditions for device on node {}", pod.node);
                    let (scheduler, reason) = (&pod.ask.scheduler_name, "BindingConditionsPending");
                    self.tell(scheduler, about, EventType::Normal, reason, &message);
                    self.claims.ready(pod, bindings, to_bind.devices).await?;
                }
                Ok(())
            }
        }
    }

    async fn not_pre_bound(&self, to_bind: &ToBind, plugin: &str, error: &str) {
        let pod = &to_bind.pod;
        tracing::warn!(pod = %pod.key, node = %pod.node, plugin, error, "could not prepare to bind a pod");
        self.ended(to_bind, Outcome::Error);
        self.claims.release(pod, to_bind.made.as_deref()).await;
        if let Some(live) = self.binder.pods.get(&pod.key).map(|it| it.value()) {
            let message = format!("running PreBind plugin \"{plugin}\": {error}");
            self.refused_now(&live, &Refusal::error(message), None).await;
        }
        self.inbox.not_bound(pod.key.clone(), pod.uid.clone());
    }

    /// Has a claim that nobody uses give back what it was given, in the background.
    pub(crate) fn deallocate(&self, claim: ObjectKey) {
        let writer = self.clone();
        tokio::spawn(async move {
            let permit = writer.permit().await;
            writer.claims.deallocate(&claim).await;
            drop(permit);
        });
    }

    /// Counts an attempt.
    fn ended(&self, to_bind: &ToBind, outcome: Outcome) {
        let took = self.clock.monotonic() - to_bind.begun;
        self.metrics.attempted(&to_bind.pod.ask.scheduler_name, outcome, took);
    }

    /// Tells of a pod that fits nowhere, soon.
    pub(crate) fn refused(&self, key: ObjectKey, refusal: Refusal) {
        self.refusals.pending.lock().insert(key, refusal);
        self.refusals.wake.notify_one();
    }

    /// Tells of refused pods until `stop`, no faster than a few do harm: a thousand pods that fit nowhere are no reason
    /// to keep the server from its work.
    pub(crate) async fn tell_of_refusals(self, pods: Store, stop: ShutdownSignal) {
        let interval = Duration::from_secs(1) / REFUSALS_PER_SECOND;
        let mut due = Instant::now();
        loop {
            let next = self.refusals.pending.lock().pop_first();
            let Some((key, refusal)) = next else {
                tokio::select! {
                    biased;
                    () = self.refusals.wake.notified() => continue,
                    () = stop.requested() => return,
                }
            };
            due = due.max(Instant::now()) + interval;
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due - interval * REFUSALS_AT_ONCE) => {}
                () = stop.requested() => return,
            }
            // It may be gone by now, or have found a node.
            let Some(pod) = pods.get(&key).map(|it| it.value()) else { continue };
            if pod.str_at(&["spec", "nodeName"]).is_empty() {
                self.refused_now(&pod, &refusal, None).await;
            }
        }
    }

    /// Tells of a pod that fits nowhere yet, and removes the pods that make room for it.
    pub(crate) async fn preempting(&self, pod: Arc<Value>, refusal: Refusal, by: Candidate) {
        let permit = self.permit().await;
        let writer = self.clone();
        tokio::spawn(async move {
            writer.refused_now(&pod, &refusal, Some(&by.node)).await;
            drop(permit);
            let preemptor = Preemptor {
                scheduler: pod.str_at(&["spec", "schedulerName"]).into(),
                uid: pod.str_at(&["metadata", "uid"]).into(),
                kind: "pod",
                node: by.node,
            };
            if !writer.make_room(by.victims.to_vec(), preemptor).await {
                writer.inbox.not_emptied(vec![key_of(&pod)]);
            }
        });
    }

    /// Tells a pod that no node is being emptied for it any more, in the background.
    pub(crate) fn take_back_promise(&self, key: ObjectKey) {
        let writer = self.clone();
        tokio::spawn(async move {
            let permit = writer.permit().await;
            if let Some(pod) = writer.binder.pods.get(&key).map(|it| it.value()) {
                let patch = value!({"status": {"nominatedNodeName": null}});
                if let Err(error) = writer.patch_status(&pod, &patch).await {
                    writer.failed(&pod, "take back the node of", &error);
                }
            }
            drop(permit);
        });
    }

    /// Tells the pods of a group of the nodes that are being emptied for them, and removes the pods that make room.
    pub(crate) fn preempting_group(
        &self,
        promises: Vec<Promise>,
        victims: Vec<Arc<PodLite>>,
        preemptor: Preemptor,
    ) {
        let writer = self.clone();
        let pods: Vec<ObjectKey> = promises.iter().map(|it| key_of(&it.pod)).collect();
        tokio::spawn(async move {
            let mut telling = tokio::task::JoinSet::new();
            for Promise { pod, node, refusal } in promises {
                let permit = writer.permit().await;
                let writer = writer.clone();
                telling.spawn(async move {
                    writer.refused_now(&pod, &refusal, Some(&node)).await;
                    drop(permit);
                });
            }
            while telling.join_next().await.is_some() {}
            if !writer.make_room(victims, preemptor).await {
                writer.inbox.not_emptied(pods);
            }
        });
    }

    /// Tells a group whether its pods have got their nodes.
    pub(crate) async fn tell_group(
        &self,
        groups: Store,
        key: ObjectKey,
        condition: GroupCondition,
    ) {
        let permit = self.permit().await;
        let writer = self.clone();
        tokio::spawn(async move {
            writer.tell_group_now(&groups, &key, &condition).await;
            drop(permit);
        });
    }

    async fn tell_group_now(&self, groups: &Store, key: &ObjectKey, condition: &GroupCondition) {
        let Some(group) = groups.get(key).map(|it| it.value()) else { return };
        let now = time::format_time(self.clock.now());
        let Some(patch) = condition.patch(&group, &now) else { return };
        let resource = Resource::built_in("scheduling.k8s.io", "podgroups");
        let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
        let kind = PatchKind::Strategic;
        let told = self.client.patch(&resource, namespace, name, "status", kind, &patch).await;
        if let Err(error) = told.map(drop)
            && !error.is_not_found()
        {
            tracing::warn!(group = %key, %error, "could not write the condition of a pod group");
        }
    }

    /// Removes pods, all but the last at once: when that is seen going, the others are. False where one of them stays.
    async fn make_room(&self, victims: Vec<Arc<PodLite>>, preemptor: Preemptor) -> bool {
        let begun = self.clock.monotonic();
        let kind = preemptor.kind;
        // Who is going already need not be told.
        let mut staying: Vec<_> = victims.into_iter().filter(|it| !it.terminating).collect();
        let last = staying.pop();
        let mut going = tokio::task::JoinSet::new();
        for victim in staying {
            let permit = self.permit().await;
            let (writer, preemptor) = (self.clone(), preemptor.clone());
            going.spawn(async move {
                let goes = writer.goes(&victim, &preemptor).await;
                drop(permit);
                goes
            });
        }
        let mut good = true;
        while let Some(goes) = going.join_next().await {
            good &= goes.unwrap_or_default();
        }
        if let Some(last) = last {
            let permit = self.permit().await;
            good &= self.goes(&last, &preemptor).await;
            drop(permit);
        }
        self.metrics.made_room(kind, good, self.clock.monotonic() - begun);
        good
    }

    /// Removes a pod; false where it stays.
    async fn goes(&self, victim: &PodLite, preemptor: &Preemptor) -> bool {
        let gone = self.preempt(victim, preemptor).await;
        let lost = gone.err().filter(|it| !it.is_not_found());
        if let Some(error) = &lost {
            tracing::warn!(pod = %victim.key, %error, "could not remove a pod that makes room");
        }
        lost.is_none()
    }

    async fn permit(&self) -> OwnedSemaphorePermit {
        let permits = Arc::clone(&self.permits);
        permits.acquire_owned().await.expect("because the semaphore is never closed")
    }

    async fn bind_now(&self, to_bind: &ToBind) {
        let pod = &to_bind.pod;
        let (scheduler, about) = (&pod.ask.scheduler_name, about(pod.key.clone(), &pod.uid));
        let begun = self.clock.monotonic();
        let bound = self.bound(pod).await;
        let (now, good) = (self.clock.monotonic(), bound.is_ok());
        self.metrics.point("Bind", scheduler, good, now - begun);
        self.ended(to_bind, if good { Outcome::Scheduled } else { Outcome::Error });
        match bound {
            Ok(()) => {
                self.metrics.placed(to_bind.attempts, now - to_bind.since);
                let message = format!("Successfully assigned {} to {}", pod.key, pod.node);
                self.tell(scheduler, about, EventType::Normal, "Scheduled", &message);
            }
            Err(error) => {
                tracing::warn!(pod = %pod.key, node = %pod.node, error = error.text, "could not bind a pod");
                let live = self.binder.pods.get(&pod.key).map(|it| it.value());
                let live = live.filter(|it| it.str_at(&["metadata", "uid"]) == pod.uid);
                if let Some(live) = live.filter(|_| !error.gone) {
                    self.refused_now(&live, &Refusal::error(error.text), None).await;
                }
                self.claims.release(pod, to_bind.made.as_deref()).await;
                self.inbox.not_bound(pod.key.clone(), pod.uid.clone());
            }
        }
    }

    async fn bound(&self, pod: &PodLite) -> Result<(), NotBound> {
        if let Some(extender) = self.binder_extender.as_ref().filter(|it| it.is_interested(pod)) {
            match extender.bind(pod).await {
                Ok(()) => return Ok(()),
                Err(text) => extender
                    .ignore(text, "could not bind a pod")
                    .map_err(|text| NotBound { text, gone: false })?,
            }
        }
        let (namespace, name) = (pod.key.namespace.as_str(), pod.key.name.as_str());
        let binding = value!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": (pod.uid.as_str())},
            "target": {"kind": "Node", "name": (pod.node.as_str())}
        });
        let pods = Resource::built_in("", "pods");
        let bound = self.client.create_subresource(&pods, namespace, name, "binding", &binding);
        match bound.await {
            Ok(_) => Ok(()),
            Err(error) if error.may_be_done() && self.is_bound(pod).await => Ok(()),
            Err(error) => {
                let text = format!("running Bind plugin \"DefaultBinder\": {error}");
                Err(NotBound { gone: error.is_not_found(), text })
            }
        }
    }

    /// Whether a pod has the node that it was to get, where no answer said so: if it has, and its place there were given
    /// to others before that is seen in the cache, the node would hold too much.
    async fn is_bound(&self, pod: &PodLite) -> bool {
        let (namespace, name) = (pod.key.namespace.as_str(), pod.key.name.as_str());
        let pods = Resource::built_in("", "pods");
        let until = self.clock.monotonic() + NO_ANSWER_MAX;
        let mut pause = NO_ANSWER_PAUSE;
        loop {
            match self.client.get(&pods, namespace, name).await {
                Ok(now) => {
                    return now.str_at(&["metadata", "uid"]) == pod.uid
                        && now.str_at(&["spec", "nodeName"]) == pod.node;
                }
                Err(error) if error.is_not_found() || self.clock.monotonic() >= until => {
                    return false;
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(NO_ANSWER_PAUSE_MAX);
        }
    }

    async fn refused_now(&self, pod: &Value, refusal: &Refusal, node: Option<&str>) {
        let about = ObjectReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            ..ObjectReference::of(pod)
        };
        let scheduler = pod.str_at(&["spec", "schedulerName"]);
        let message = short(&refusal.message);
        self.tell(scheduler, about, EventType::Warning, "FailedScheduling", &message);
        if let Some(patch) = self.status_patch(pod, refusal, node)
            && let Err(error) = self.patch_status(pod, &patch).await
        {
            self.failed(pod, "write the condition of", &error);
        }
    }

    fn failed(&self, pod: &Value, what: &str, error: &ClientError) {
        if !error.is_not_found() {
            let name = pod.str_at(&["metadata", "name"]);
            tracing::warn!(pod = name, %error, "could not {what} a pod");
        }
    }

    /// The condition that says why, where it does not say so already, and the node that is being emptied for the pod:
    /// none any more where none is named.
    fn status_patch(&self, pod: &Value, refusal: &Refusal, node: Option<&str>) -> Option<Value> {
        let Refusal { reason, message, hopeless } = refusal;
        let conditions = pod.items_at(&["status", "conditions"]);
        let old = conditions.iter().find(|it| it.str_at(&["type"]) == "PodScheduled");
        let refused = old.filter(|it| it.str_at(&["status"]) == "False");
        let said = refused.is_some_and(|it| {
            it.str_at(&["reason"]) == *reason && it.str_at(&["message"]) == message
        });
        let nominated = pod.str_at(&["status", "nominatedNodeName"]);
        let promised = match node {
            Some(node) => node,
            None if *hopeless => "",
            None => nominated,
        };
        if said && promised == nominated {
            return None;
        }
        let now = time::format_time(self.clock.now());
        let since =
            refused.map(|it| it.str_at(&["lastTransitionTime"])).filter(|it| !it.is_empty());
        let mut condition = value!({
            "type": "PodScheduled", "status": "False", "reason": (*reason), "message": (message.as_str()),
            "lastTransitionTime": (since.unwrap_or(&now))
        });
        if let Some(generation) = pod.i64_at(&["metadata", "generation"]) {
            condition.set_at(&["observedGeneration"], generation);
        }
        let mut patch = value!({"status": {"conditions": [condition]}});
        if promised != nominated {
            let promised = Some(promised).filter(|it| !it.is_empty());
            let promised = promised.map_or(Value::Null, Value::from);
            patch.set_at(&["status", "nominatedNodeName"], promised);
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
    async fn preempt(&self, victim: &PodLite, preemptor: &Preemptor) -> Result<(), ClientError> {
        let (namespace, name) = (victim.key.namespace.as_str(), victim.key.name.as_str());
        let Preemptor { scheduler, uid, kind: what, node } = preemptor;
        let message = format!("{scheduler}: preempting to accommodate a higher priority {what}");
        let now = time::format_time(self.clock.now());
        let patch = value!({"metadata": {"uid": (victim.uid.as_str())}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": message, "observedGeneration": (victim.generation), "lastTransitionTime": now
        }]}});
        let pods = Resource::built_in("", "pods");
        let kind = PatchKind::Strategic;
        self.client.patch(&pods, namespace, name, "status", kind, &patch).await?;
        let params = DeleteParams { uid: Some(victim.uid.to_string()), ..DeleteParams::default() };
        self.client.delete(&pods, namespace, name, &params).await?;
        let message = format!("Preempted by {what} {uid} on node {node}");
        let about = about(victim.key.clone(), &victim.uid);
        self.tell(scheduler, about, EventType::Normal, "Preempted", &message);
        Ok(())
    }
}

/// A message as long as an event's may be, in bytes.
fn short(message: &str) -> Cow<'_, str> {
    const MOST: usize = 1024;
    const MORE: &str = " ...";
    if message.len() <= MOST {
        return Cow::Borrowed(message);
    }
    let end = message.floor_char_boundary(MOST - MORE.len());
    Cow::Owned([&message[..end], MORE].concat())
}

/// A binding that was not made.
struct NotBound {
    text: String,
    /// The pod is gone: nobody needs to be told.
    gone: bool,
}

fn key_of(pod: &Value) -> ObjectKey {
    ObjectKey::new(pod.str_at(&["metadata", "namespace"]), pod.str_at(&["metadata", "name"]))
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
