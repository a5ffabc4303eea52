//! The scheduler as it runs: watches fill the cluster and the queue, one pod at a time is decided, and what follows is
//! written in the background while the next is decided.
//!
//! One task owns cluster and queue, so that a decision always sees the one before it (the pod is assumed on its node
//! until the watch tells of it).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::Value;
use client::reflector::{Caches, Listener};
use client::{Client, EventRecorder, ObjectKey, Resource, Store};
use compact_str::CompactString;
use component_base::{Clock, Random, ShutdownSignal};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use crate::bindings::Binder;
use crate::cluster::Cluster;
use crate::decide::{Decision, Diagnosis, How, decide};
use crate::framework::{Cycle, Profile};
use crate::node::NodeLite;
use crate::pod::PodLite;
use crate::queue::{Happened, Queue};
use crate::volumes::Bindings;
use crate::write::Writer;

/// How many bindings and status writes are under way at most.
const MAX_WRITES: usize = 100;
/// How many pods are decided before others get a turn on this thread.
const BATCH: usize = 64;

/// What a scheduler needs.
#[derive(Debug)]
pub struct Scheduler {
    /// Writes bindings and status.
    pub client: Client,
    /// Reads everything.
    pub caches: Arc<Caches>,
    /// Tells people; its loop is run by the caller.
    pub events: Arc<EventRecorder>,
    /// For conditions' times.
    pub clock: Arc<dyn Clock>,
    /// Chooses among equal nodes.
    pub random: Arc<dyn Random>,
    /// The plugins.
    pub profile: Profile,
}

/// What is watched, in the order in which changes are taken over: nodes before pods.
const WATCHED: &[(&str, &str)] = &[
    ("", "namespaces"),
    ("", "nodes"),
    ("", "services"),
    ("", "replicationcontrollers"),
    ("apps", "replicasets"),
    ("apps", "statefulsets"),
    ("policy", "poddisruptionbudgets"),
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
    ("", "pods"),
];

/// Where pods are in [`WATCHED`].
const PODS: usize = WATCHED.len() - 1;
/// Where claims and volumes are.
const CLAIMS: usize = 7;
const VOLUMES: usize = 8;

/// What changed since the loop looked last. Each object is in it once, so that it is bounded by the objects there are.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    changed: Mutex<BTreeSet<(usize, ObjectKey)>>,
    /// With their uids: another pod of the name may be under way by now.
    unbound: Mutex<Vec<(ObjectKey, CompactString)>>,
    wake: Notify,
}

impl Inbox {
    /// A pod could not be bound.
    pub(crate) fn not_bound(&self, key: ObjectKey, uid: CompactString) {
        self.unbound.lock().push((key, uid));
        self.wake.notify_one();
    }
}

impl Scheduler {
    /// Runs until `stop`.
    pub async fn run(self, stop: ShutdownSignal) {
        let inbox = Arc::new(Inbox::default());
        let stores: Vec<Store> = WATCHED
            .iter()
            .map(|(group, plural)| self.caches.store(&Resource::built_in(group, plural)))
            .collect();
        for (index, store) in stores.iter().enumerate() {
            let inbox = Arc::clone(&inbox);
            let listener: Listener = Arc::new(move |change| {
                inbox.changed.lock().insert((index, change.key()));
                inbox.wake.notify_one();
            });
            store.listen(listener);
        }
        for store in &stores {
            tokio::select! {
                () = store.reached(0) => {}
                () = stop.requested() => return,
            }
        }
        let permits = Arc::new(Semaphore::new(MAX_WRITES));
        let writer = Writer {
            client: self.client.clone(),
            events: Arc::clone(&self.events),
            clock: Arc::clone(&self.clock),
            inbox: Arc::clone(&inbox),
            permits: Arc::clone(&permits),
            refusals: Arc::default(),
            binder: Binder {
                client: self.client.clone(),
                claims: stores[CLAIMS].clone(),
                volumes: stores[VOLUMES].clone(),
                pods: stores[PODS].clone(),
                changed: Arc::default(),
                permits,
            },
        };
        let telling = writer.clone().tell_of_refusals(stores[PODS].clone(), stop.clone());
        tokio::spawn(telling);
        let state = State {
            cluster: Cluster::default(),
            queue: Queue::default(),
            assumed: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        Running { scheduler: self, stores, inbox, writer, state }.run(stop).await;
    }
}

/// What the loop owns.
struct State {
    cluster: Cluster,
    queue: Queue,
    /// Pods that are being bound, with their uids.
    assumed: BTreeMap<ObjectKey, CompactString>,
    /// What of each waiting pod was seen last, as a hash: its own status does not count as a change.
    seen: BTreeMap<ObjectKey, u64>,
}

struct Running {
    scheduler: Scheduler,
    stores: Vec<Store>,
    inbox: Arc<Inbox>,
    writer: Writer,
    state: State,
}

impl Running {
    async fn run(mut self, stop: ShutdownSignal) {
        loop {
            self.take_over();
            let mut decided = 0;
            while decided < BATCH && self.decide_next().await {
                decided += 1;
                self.take_over();
            }
            if stop.is_requested() {
                return;
            }
            if decided == BATCH {
                tokio::task::yield_now().await;
                continue;
            }
            let deadline = self.state.queue.deadline();
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.inbox.wake.notified() => {}
                () = due => {}
                () = stop.requested() => return,
            }
        }
    }

    /// Takes over what changed.
    fn take_over(&mut self) {
        let changed = std::mem::take(&mut *self.inbox.changed.lock());
        if changed.iter().any(|(index, key)| self.concerns_binding(*index, key)) {
            self.writer.binder.changed.notify_waiters();
        }
        for (index, key) in changed {
            let value = self.stores[index].get(&key).map(|it| it.value());
            self.changed(WATCHED[index].1, &key, value.as_deref());
        }
        let unbound = std::mem::take(&mut *self.inbox.unbound.lock());
        let now = self.scheduler.clock.monotonic();
        for (key, uid) in unbound {
            if self.state.assumed.get(&key) == Some(&uid) {
                self.state.assumed.remove(&key);
                let pod = self.state.cluster.remove_pod(&key);
                if let Some(pod) = pod {
                    self.unreserve(&pod);
                }
                self.state.queue.retry(&key, now);
                self.state.queue.happened(Happened::PodGone, now);
            }
        }
    }

    /// Whether a pod that is being bound may wait for this.
    fn concerns_binding(&self, index: usize, key: &ObjectKey) -> bool {
        match index {
            CLAIMS | VOLUMES => true,
            PODS => self.state.assumed.contains_key(key),
            _ => false,
        }
    }

    fn unreserve(&mut self, pod: &PodLite) {
        for plugin in self.scheduler.profile.reserve.iter() {
            plugin.unreserve(&mut self.state.cluster, pod);
        }
    }

    /// Something about volumes changed; false where the resource is another.
    fn storage_changed(&mut self, plural: &str, key: &ObjectKey, value: Option<&Value>) -> bool {
        let volumes = &mut self.state.cluster.volumes;
        match plural {
            "persistentvolumeclaims" => volumes.set_claim(key, value),
            "persistentvolumes" => volumes.set_volume(&key.name, value),
            "storageclasses" => volumes.set_class(&key.name, value),
            "csinodes" => volumes.set_csi_node(&key.name, value),
            "csidrivers" => volumes.set_csi_driver(&key.name, value),
            "csistoragecapacities" => volumes.set_capacity(key, value),
            "volumeattachments" => volumes.set_attachment(&key.name, value),
            _ => return false,
        }
        self.state.queue.happened(Happened::Other, self.scheduler.clock.monotonic());
        true
    }

    fn changed(&mut self, plural: &str, key: &ObjectKey, value: Option<&Value>) {
        if self.storage_changed(plural, key, value) {
            return;
        }
        let now = self.scheduler.clock.monotonic();
        let (cluster, queue) = (&mut self.state.cluster, &mut self.state.queue);
        match plural {
            "nodes" => match value {
                Some(value) => {
                    let node = NodeLite::from_value(value);
                    if cluster.row(&node.name).is_none_or(|row| *row.node != node) {
                        cluster.set_node(node);
                        queue.happened(Happened::Node, now);
                    }
                }
                None => cluster.remove_node(&key.name),
            },
            "namespaces" => {
                cluster.set_namespace(&key.name, value);
                queue.happened(Happened::Other, now);
            }
            "services" => cluster.set_service(key, value),
            "replicationcontrollers" => cluster.set_workload("ReplicationController", key, value),
            "replicasets" => cluster.set_workload("ReplicaSet", key, value),
            "statefulsets" => cluster.set_workload("StatefulSet", key, value),
            "poddisruptionbudgets" => cluster.set_budget(key, value),
            _ => self.pod_changed(key, value.filter(|it| !PodLite::has_ended(it))),
        }
    }

    /// `value` is `None` for a pod that is gone or has ended.
    fn pod_changed(&mut self, key: &ObjectKey, value: Option<&Value>) {
        let now = self.scheduler.clock.monotonic();
        let state = &mut self.state;
        let Some(value) = value else { return state.forget(key, now) };
        if !value.str_at(&["spec", "nodeName"]).is_empty() {
            let pod = Arc::new(PodLite::from_value(value));
            state.cluster.volumes.unreserve(key);
            state.assumed.remove(key);
            state.seen.remove(key);
            state.queue.remove(key);
            state.cluster.nominate(&pod, None);
            state.cluster.set_pod(pod);
            return state.queue.happened(Happened::PodPlaced, now);
        }
        let mine =
            value.str_at(&["spec", "schedulerName"]) == self.scheduler.profile.scheduler_name;
        let going = !value.str_at(&["metadata", "deletionTimestamp"]).is_empty();
        if !mine || going {
            return state.forget(key, now);
        }
        if state.assumed.get(key).is_some_and(|uid| uid == value.str_at(&["metadata", "uid"])) {
            return;
        }
        let hash = relevant(value);
        if state.seen.insert(key.clone(), hash) == Some(hash) {
            return;
        }
        let pod = Arc::new(PodLite::from_value(value));
        let gated = self.scheduler.profile.pre_enqueue.iter().any(|it| it.blocks(&pod).is_some());
        let nominated = pod.ask.nominated_node.as_str();
        if !nominated.is_empty() {
            state.cluster.nominate(&pod, Some(nominated));
        }
        state.queue.put(pod, gated, now);
    }

    /// Decides about the next pod; false where none is ready.
    async fn decide_next(&mut self) -> bool {
        let now = self.scheduler.clock.monotonic();
        let Some(pod) = self.state.queue.pop(now) else { return false };
        let cycle = Cycle { pod: &pod, cluster: &self.state.cluster };
        let how = How { random: self.scheduler.random.next_u64(), parts: false };
        match decide(cycle, &self.scheduler.profile, how) {
            Decision::Place(placement) => {
                let mut assumed = PodLite::clone(&pod);
                assumed.node = placement.node;
                let assumed = Arc::new(assumed);
                let Some(bindings) = self.reserve(&assumed) else {
                    self.state.queue.retry(&pod.key, now);
                    return true;
                };
                self.state.assumed.insert(pod.key.clone(), pod.uid.clone());
                self.state.cluster.nominate(&assumed, None);
                self.state.cluster.set_pod(Arc::clone(&assumed));
                self.state.queue.happened(Happened::PodPlaced, now);
                if bindings.is_empty() {
                    self.writer.bind(assumed).await;
                } else {
                    self.writer.bind_with_volumes(assumed, bindings);
                }
            }
            Decision::Reject(diagnosis) => self.refused(&pod, diagnosis).await,
        }
        true
    }

    /// Takes what the pod needs besides its node; `None` where it cannot be had after all.
    fn reserve(&mut self, pod: &PodLite) -> Option<Vec<Bindings>> {
        let mut all = Vec::new();
        let profile = self.scheduler.profile.clone();
        for plugin in profile.reserve.iter() {
            match plugin.reserve(&mut self.state.cluster, pod, &pod.node) {
                Ok(bindings) => all.extend(bindings),
                Err(error) => {
                    let plugin = plugin.name();
                    tracing::warn!(pod = %pod.key, plugin, error, "could not reserve for a pod");
                    self.unreserve(pod);
                    return None;
                }
            }
        }
        Some(all)
    }

    async fn refused(&mut self, pod: &Arc<PodLite>, diagnosis: Diagnosis) {
        let now = self.scheduler.clock.monotonic();
        self.state.queue.failed(&pod.key, diagnosis.plugins, now);
        if let Some(preemption) = &diagnosis.preemption {
            self.state.cluster.nominate(pod, Some(&preemption.node));
        }
        match diagnosis.preemption {
            None => self.writer.refused(pod.key.clone(), diagnosis.message),
            Some(preemption) => {
                let live = self.stores[PODS].get(&pod.key).map(|it| it.value());
                let Some(live) = live else { return };
                self.writer.preempting(live, diagnosis.message, preemption).await;
            }
        }
    }
}

impl State {
    fn forget(&mut self, key: &ObjectKey, now: tokio::time::Instant) {
        self.seen.remove(key);
        self.assumed.remove(key);
        self.cluster.volumes.unreserve(key);
        if let Some(pod) = self.queue.get(key).cloned() {
            self.cluster.nominate(&pod, None);
            self.queue.remove(key);
        }
        if self.cluster.remove_pod(key).is_some() {
            self.queue.happened(Happened::PodGone, now);
        }
    }
}

/// A hash of what decides about a pod. What this scheduler writes into its status is not in it.
fn relevant(pod: &Value) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    // The generation moves with the spec; a server that has none for pods leaves the spec itself.
    let generation = pod.i64_at(&["metadata", "generation"]).filter(|it| *it > 0);
    generation.hash(&mut hasher);
    let spec: &[&str] = if generation.is_some() { &[] } else { &["spec"] };
    let parts: [&[&str]; 4] =
        [&["metadata", "uid"], &["metadata", "labels"], &["metadata", "ownerReferences"], spec];
    for part in parts.into_iter().filter(|it| !it.is_empty()) {
        let value = pod.at(part).unwrap_or(&Value::Null);
        apimachinery::json::to_vec(value).hash(&mut hasher);
    }
    hasher.finish()
}
