//! The scheduler as it runs: watches fill the cluster and the queue, one pod at a time is decided, and what follows is
//! written in the background while the next is decided.
//!
//! One task owns cluster and queue, so that a decision always sees the one before it (the pod is assumed on its node
//! until the watch tells of it).

mod emptying;
mod gang;
mod hints;
mod placement;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use apimachinery::Value;
use client::reflector::{Caches, Listener};
use client::{Client, EventRecorder, ObjectKey, Resource, Store};
use compact_str::CompactString;
use component_base::{Clock, Random, ShutdownSignal};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use self::emptying::Emptying;
use crate::bindings::Binder;
use crate::claims::ClaimBinder;
use crate::cluster::Cluster;
use crate::decide::{Decision, Diagnosis, How, Others, Placement, decide, feasible, promised};
use crate::devices::ClaimChange;
use crate::extender::{self, Extender, Objects};
use crate::framework::{Cycle, Profile, ReservedWrites};
use crate::metrics::{Metrics, Outcome, Parts};
use crate::node::NodeLite;
use crate::pod::{PodLite, Sorts};
use crate::preemption::{self, Candidate};
use crate::queue::{Backoff, Happened, Queue};
use crate::told::{Lap, Point, Told};
use crate::write::{Refusal, ToBind, Writer};

/// How many bindings and status writes are under way at most.
const MAX_WRITES: usize = 100;
/// Of so many decisions one has its plugins timed one by one (upstream: a tenth).
const TIMED: u64 = 10;
/// How many pods are decided before others get a turn on this thread.
const BATCH: usize = 64;

/// A scheduler.
#[derive(Debug)]
pub struct Scheduler {
    /// Writes bindings and status.
    pub client: Client,
    /// Reads everything.
    pub caches: Arc<Caches>,
    /// For conditions' times.
    pub clock: Arc<dyn Clock>,
    /// Chooses among equal nodes.
    pub random: Arc<dyn Random>,
    /// The plugins, for each name under which pods may ask for a scheduler.
    pub profiles: Vec<Profile>,
    /// The others who have a say.
    pub extenders: Vec<Extender>,
    /// The pauses after failures.
    pub backoff: Backoff,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether pods are scheduled in groups: the feature `GenericWorkload`.
    pub pod_groups: bool,
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
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceslices"),
    ("resource.k8s.io", "devicetaintrules"),
    ("resource.k8s.io", "resourceclaims"),
    ("", "pods"),
];

/// What is watched besides where pods are scheduled in groups. It comes last.
const GROUPS: (&str, &str) = ("scheduling.k8s.io", "podgroups");

/// Where pods are in [`WATCHED`].
const PODS: usize = WATCHED.len() - 1;
/// Where nodes, claims and volumes are.
const NODES: usize = 1;
const CLAIMS: usize = 7;
const VOLUMES: usize = 8;
const CSI_NODES: usize = 10;
/// Where resource claims are.
const RESOURCE_CLAIMS: usize = PODS - 1;

/// What a change of an object means to pods that wait, where it means something.
fn happened(plural: &str) -> Option<Happened> {
    match plural {
        "deviceclasses" | "resourceslices" | "devicetaintrules" => Some(Happened::Devices),
        "services"
        | "replicationcontrollers"
        | "replicasets"
        | "statefulsets"
        | "poddisruptionbudgets" => None,
        _ => Some(Happened::Other),
    }
}

/// What changed since the loop looked last. Each object is in it once, so that it is bounded by the objects there are.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    changed: Mutex<BTreeSet<(usize, ObjectKey)>>,
    /// With their uids: another pod of the name may be under way by now.
    unbound: Mutex<Vec<(ObjectKey, CompactString)>>,
    /// Resource claims as this scheduler wrote them, before the watch tells of them.
    written: Mutex<Vec<(ObjectKey, Value)>>,
    /// Pods for which others were to go, which did not.
    not_emptied: Mutex<Vec<ObjectKey>>,
    wake: Notify,
}

impl Inbox {
    /// Not all pods went that were to make room for these.
    pub(crate) fn not_emptied(&self, pods: Vec<ObjectKey>) {
        self.not_emptied.lock().extend(pods);
        self.wake.notify_one();
    }

    /// A resource claim says what was decided.
    pub(crate) fn claim_written(&self, key: ObjectKey, claim: Value) {
        self.written.lock().push((key, claim));
        self.wake.notify_one();
    }

    /// A pod could not be bound.
    pub(crate) fn not_bound(&self, key: ObjectKey, uid: CompactString) {
        self.unbound.lock().push((key, uid));
        self.wake.notify_one();
    }
}

impl Scheduler {
    /// Fills the caches, so that a later start need not wait for them.
    pub fn warm(&self) {
        for (group, plural) in self.watched() {
            self.caches.store(&Resource::built_in(group, plural));
        }
    }

    fn watched(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        WATCHED.iter().copied().chain(Some(GROUPS).filter(|_| self.pod_groups))
    }

    /// Runs until `stop`.
    pub async fn run(self, stop: ShutdownSignal) {
        let inbox = Arc::new(Inbox::default());
        let stores: Vec<Store> = self
            .watched()
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
                biased;
                () = store.reached(0) => {}
                () = stop.requested() => return,
            }
        }
        let permits = Arc::new(Semaphore::new(MAX_WRITES));
        let changed: Arc<Notify> = Arc::default();
        let writer = Writer {
            client: self.client.clone(),
            events: Arc::new(self.recorders(&stop)),
            metrics: self.metrics.clone(),
            binder_extender: self.extenders.iter().find(|it| it.binds()).cloned(),
            clock: Arc::clone(&self.clock),
            inbox: Arc::clone(&inbox),
            permits: Arc::clone(&permits),
            refusals: Arc::default(),
            binder: Binder {
                client: self.client.clone(),
                claims: stores[CLAIMS].clone(),
                volumes: stores[VOLUMES].clone(),
                nodes: stores[NODES].clone(),
                csi_nodes: stores[CSI_NODES].clone(),
                pods: stores[PODS].clone(),
                changed: Arc::clone(&changed),
                permits: Arc::clone(&permits),
            },
            claims: ClaimBinder {
                client: self.client.clone(),
                claims: stores[RESOURCE_CLAIMS].clone(),
                clock: Arc::clone(&self.clock),
                random: Arc::clone(&self.random),
                inbox: Arc::clone(&inbox),
                changed,
                permits,
            },
        };
        let telling = writer.clone().tell_of_refusals(stores[PODS].clone(), stop.clone());
        tokio::spawn(telling);
        let state = State::new(self.backoff, &self.clock);
        let profiles =
            self.profiles.iter().map(|it| (it.scheduler_name.clone(), Arc::new(it.clone())));
        let profiles = profiles.collect();
        Running { scheduler: self, profiles, stores, inbox, writer, state }.run(stop).await;
    }

    /// Who tells people, for each scheduler.
    fn recorders(&self, stop: &ShutdownSignal) -> BTreeMap<CompactString, Arc<EventRecorder>> {
        let recorder = |profile: &Profile| {
            let (clock, random) = (Arc::clone(&self.clock), Arc::clone(&self.random));
            let recorder = EventRecorder::new(&profile.scheduler_name, "", clock, random);
            tokio::spawn(Arc::clone(&recorder).run(self.client.clone(), stop.clone()));
            (profile.scheduler_name.clone(), recorder)
        };
        self.profiles.iter().map(recorder).collect()
    }
}

/// What the loop owns.
struct State {
    cluster: Cluster,
    queue: Queue,
    /// Pods that are being bound, with their uids.
    assumed: BTreeMap<ObjectKey, CompactString>,
    /// Who is kept back until others have been told to go.
    emptying: Emptying,
    /// What of each waiting pod was seen last, as a hash: its own status does not count as a change.
    seen: BTreeMap<ObjectKey, u64>,
    sorts: Sorts,
    /// The row at which the next search for a node begins.
    start: usize,
    /// What plugins had a part in, by scheduler, until it is told.
    parts: BTreeMap<CompactString, Parts>,
}

impl State {
    fn new(backoff: Backoff, clock: &Arc<dyn Clock>) -> Self {
        let mut cluster = Cluster::default();
        cluster.devices.set_clock(Arc::clone(clock));
        Self {
            cluster,
            queue: Queue::new(backoff),
            assumed: BTreeMap::new(),
            emptying: Emptying::default(),
            seen: BTreeMap::new(),
            sorts: Sorts::default(),
            start: 0,
            parts: BTreeMap::new(),
        }
    }
}

struct Running {
    scheduler: Scheduler,
    profiles: BTreeMap<CompactString, Arc<Profile>>,
    stores: Vec<Store>,
    inbox: Arc<Inbox>,
    writer: Writer,
    state: State,
}

impl Running {
    async fn run(mut self, stop: ShutdownSignal) {
        loop {
            self.take_over();
            let state = &mut self.state;
            let (nodes, pods) = (state.cluster.rows().len(), state.cluster.placed());
            let metrics = &self.scheduler.metrics;
            metrics.state(&mut state.queue, nodes, pods, state.assumed.len());
            for (name, parts) in &mut state.parts {
                if let Some(profile) = self.profiles.get(name) {
                    metrics.parts(profile, parts);
                }
            }
            metrics.under_way(MAX_WRITES - self.writer.permits.available_permits());
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
                biased;
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
            let plural = WATCHED.get(index).map_or(GROUPS.1, |it| it.1);
            self.changed(plural, &key, value.as_deref());
        }
        let written = std::mem::take(&mut *self.inbox.written.lock());
        for (key, claim) in written {
            self.claim_changed(&key, Some(&claim));
        }
        let not_emptied = std::mem::take(&mut *self.inbox.not_emptied.lock());
        not_emptied.iter().for_each(|it| self.not_emptied(it));
        let unbound = std::mem::take(&mut *self.inbox.unbound.lock());
        let now = self.scheduler.clock.monotonic();
        for (key, uid) in unbound {
            // Whether or not the pod is there still: its claims have been given up.
            self.state.cluster.devices.unreserve(&uid);
            if self.state.assumed.get(&key) == Some(&uid) {
                self.state.assumed.remove(&key);
                let pod = self.state.cluster.remove_pod(&key);
                if let Some(pod) = pod {
                    self.unreserve(&pod);
                    self.state.cluster.groups.waits(&pod);
                }
                self.state.queue.retry(&key, now);
                self.state.queue.happened(Happened::PodGone, now);
            }
        }
    }

    /// Whether a pod that is being bound may wait for this.
    fn concerns_binding(&self, index: usize, key: &ObjectKey) -> bool {
        match index {
            CLAIMS | VOLUMES | RESOURCE_CLAIMS => true,
            PODS => self.state.assumed.contains_key(key),
            _ => false,
        }
    }

    fn profile_of(&self, pod: &PodLite) -> Option<Arc<Profile>> {
        self.profiles.get(&pod.ask.scheduler_name).cloned()
    }

    fn unreserve(&mut self, pod: &PodLite) {
        let Some(profile) = self.profile_of(pod) else { return };
        for plugin in profile.reserve.iter() {
            plugin.unreserve(&mut self.state.cluster, pod);
        }
    }

    /// Tells those who wait for a resource claim, and all who wait for devices where it gave some back.
    fn claim_changed(&mut self, key: &ObjectKey, value: Option<&Value>) {
        let change = self.state.cluster.devices.set_claim(key, value);
        let now = self.scheduler.clock.monotonic();
        let gave_back = match change {
            ClaimChange::Nothing => return,
            ClaimChange::GaveBack => true,
            ClaimChange::Changed => false,
        };
        if gave_back {
            self.state.queue.happened(Happened::Devices, now);
        }
        for (pod, gated) in self.state.queue.users_of(key) {
            if gated && !self.is_gated(&pod) {
                self.state.queue.put(pod, false, now);
            } else if !gated && !gave_back {
                self.state.queue.happened_to_one(Happened::Devices, now, &pod.key);
            }
        }
    }

    fn is_gated(&self, pod: &PodLite) -> bool {
        let profile = self.profiles.get(&pod.ask.scheduler_name);
        let cluster = &self.state.cluster;
        profile.is_some_and(|it| it.pre_enqueue.iter().any(|it| it.blocks(cluster, pod).is_some()))
    }

    fn changed(&mut self, plural: &str, key: &ObjectKey, value: Option<&Value>) {
        match plural {
            "nodes" => self.node_changed(key, value),
            "resourceclaims" => self.claim_changed(key, value),
            "podgroups" => self.group_changed(key, value),
            "pods" => {
                self.pod_changed(key, value.filter(|it| !PodLite::has_ended(it)));
                self.victim_changed(key);
            }
            _ => {
                self.state.cluster.set(plural, key, value);
                if let Some(happened) = happened(plural) {
                    self.happened(happened);
                }
                if plural == "deviceclasses" {
                    let now = self.scheduler.clock.monotonic();
                    let asks = |pod: &PodLite| !pod.ask.extended().is_empty();
                    self.state.queue.happened_to(Happened::Classes, now, asks);
                }
            }
        }
    }

    fn node_changed(&mut self, key: &ObjectKey, value: Option<&Value>) {
        let cluster = &mut self.state.cluster;
        let Some(value) = value else {
            cluster.remove_node(&key.name);
            return self.happened(Happened::NodeGone);
        };
        let node = NodeLite::from_value(value);
        if cluster.row(&node.name).is_none_or(|row| *row.node != node) {
            cluster.set_node(node);
            self.happened(Happened::Node);
        }
    }

    /// `value` is `None` for a pod that is gone or has ended.
    fn pod_changed(&mut self, key: &ObjectKey, value: Option<&Value>) {
        let now = self.scheduler.clock.monotonic();
        let state = &mut self.state;
        let Some(value) = value else { return state.forget(key, now) };
        if !value.str_at(&["spec", "nodeName"]).is_empty() {
            let pod = state.sorts.share(PodLite::from_value(value));
            state.cluster.volumes.unreserve(key);
            state.assumed.remove(key);
            state.seen.remove(key);
            state.queue.remove(key);
            state.cluster.nominate(&pod, None);
            let before = state.cluster.pod(key).cloned();
            state.cluster.set_pod(Arc::clone(&pod));
            return self.placed(before.as_ref(), &pod);
        }
        let ours = self.profiles.contains_key(value.str_at(&["spec", "schedulerName"]));
        let going = !value.str_at(&["metadata", "deletionTimestamp"]).is_empty();
        if going || !ours {
            return state.forget(key, now);
        }
        if state.assumed.get(key).is_some_and(|uid| uid == value.str_at(&["metadata", "uid"])) {
            return;
        }
        let hash = relevant(value);
        if state.seen.insert(key.clone(), hash) == Some(hash) {
            return;
        }
        let pod = state.sorts.share(PodLite::from_value(value));
        let nominated = pod.ask.nominated_node.as_str();
        if !nominated.is_empty() {
            state.cluster.nominate(&pod, Some(nominated));
        }
        let joins = self.state.cluster.groups.waits(&pod);
        let (gated, group) = (self.is_gated(&pod), self.group_of(&pod));
        self.state.queue.put(pod, gated, now);
        if let Some(group) = group.filter(|_| joins) {
            self.reconsider_group(&group);
        }
    }

    /// The cache of groups, where pods are scheduled in groups.
    fn groups_store(&self) -> Option<&Store> {
        self.stores.get(WATCHED.len())
    }

    /// Decides about the next pod; false where none is ready.
    async fn decide_next(&mut self) -> bool {
        let begun = self.scheduler.clock.monotonic();
        let Some(pod) = self.state.queue.pop(begun) else { return false };
        if let Some(group) = self.group_of(&pod) {
            self.decide_group(pod, &group, begun).await;
            return true;
        }
        let Some(profile) = self.profile_of(&pod) else { return true };
        let decision = self.decide(&pod, &profile, None).await;
        self.scheduler.metrics.decided(self.scheduler.clock.monotonic() - begun);
        match decision {
            Ok(Decision::Place(placement)) => self.place(&pod, &profile, placement, begun).await,
            Ok(Decision::Reject(diagnosis)) => self.refused(&pod, diagnosis, begun).await,
            Ok(Decision::Fail(error)) | Err(error) => {
                let now = self.scheduler.clock.monotonic();
                let name = &profile.scheduler_name;
                self.scheduler.metrics.attempted(name, Outcome::Error, now - begun);
                self.state.cluster.nominate(&pod, None);
                self.state.queue.retry(&pod.key, now);
                self.writer.refused(pod.key.clone(), Refusal::error(error));
            }
        }
        true
    }

    /// Decides, with extenders where the pod is their business.
    async fn decide(
        &mut self,
        pod: &PodLite,
        profile: &Profile,
        within: Option<&[usize]>,
    ) -> Result<Decision, String> {
        let (random, start) = (self.scheduler.random.next_u64(), self.state.start);
        let others = self.ask_others(pod, profile, (random, start, within)).await?;
        let told = Told::new(Arc::clone(&self.scheduler.clock), random % TIMED == 0);
        let (others, parts) = (others.as_ref(), false);
        let how = How { random, start, within, others, told: Some(&told), parts };
        let decision = decide(Cycle { pod, cluster: &self.state.cluster }, profile, how);
        self.tell(profile, &told);
        if let Decision::Place(placement) = &decision {
            let rows = self.state.cluster.rows().len().max(1);
            self.state.start = (start + placement.evaluated) % rows;
        }
        Ok(decision)
    }

    /// What extenders say of the nodes that will do; `None` where the pod is not their business, or no node will.
    async fn ask_others(
        &self,
        pod: &PodLite,
        profile: &Profile,
        (random, start, within): (u64, usize, Option<&[usize]>),
    ) -> Result<Option<Others>, String> {
        let extenders: Vec<Extender> =
            self.scheduler.extenders.iter().filter(|it| it.is_interested(pod)).cloned().collect();
        if extenders.is_empty() {
            return Ok(None);
        }
        let Some(value) = self.stores[PODS].get(&pod.key).map(|it| it.value()) else {
            return Ok(None);
        };
        let how = || How { random, start, within, ..How::default() };
        let cycle = Cycle { pod, cluster: &self.state.cluster };
        let objects = Objects { pods: &self.stores[PODS], nodes: &self.stores[NODES] };
        let promised = promised(cycle, profile, how());
        if let Some(node) = promised {
            let others = extender::ask(&extenders, pod, &value, vec![node.clone()], objects).await;
            if others.as_ref().is_ok_and(|it| !it.refused.contains_key(&node)) {
                return others.map(Some);
            }
        }
        let nodes = feasible(cycle, profile, how());
        if nodes.is_empty() {
            return Ok(None);
        }
        extender::ask(&extenders, pod, &value, nodes, objects).await.map(Some)
    }

    /// Tells of a decision.
    fn tell(&mut self, profile: &Profile, told: &Told) {
        self.scheduler.metrics.told(&profile.scheduler_name, told);
        let parts = self.state.parts.entry(profile.scheduler_name.clone()).or_default();
        parts.count(profile, told);
    }

    /// Pods that an event may help are tried again.
    fn happened(&mut self, what: Happened) {
        let begun = self.scheduler.clock.monotonic();
        self.state.queue.happened(what, begun);
        let took = self.scheduler.clock.monotonic() - begun;
        self.scheduler.metrics.handled(what.name(), took);
    }

    /// Assumes a pod on its node, and has it bound.
    async fn place(
        &mut self,
        pod: &Arc<PodLite>,
        profile: &Profile,
        placement: Placement,
        begun: Instant,
    ) {
        let now = self.scheduler.clock.monotonic();
        let (assumed, reserved) = match self.hold(pod, profile, placement.node) {
            Ok(held) => held,
            Err(error) => {
                let name = &profile.scheduler_name;
                self.scheduler.metrics.attempted(name, Outcome::Error, now - begun);
                self.state.cluster.nominate(pod, None);
                self.writer.refused(pod.key.clone(), Refusal::error(error));
                return self.state.queue.retry(&pod.key, now);
            }
        };
        self.bind_held(assumed, reserved, profile, begun).await;
    }

    /// Thinks a pod onto a node, and takes what it needs besides.
    ///
    /// # Errors
    /// When that cannot be had after all.
    fn hold(
        &mut self,
        pod: &Arc<PodLite>,
        profile: &Profile,
        node: CompactString,
    ) -> Result<(Arc<PodLite>, Vec<ReservedWrites>), String> {
        let mut held = PodLite::clone(pod);
        held.node = node;
        let held = Arc::new(held);
        let reserved = self.reserve(&held, profile)?;
        self.state.cluster.set_pod(Arc::clone(&held));
        Ok((held, reserved))
    }

    /// Has a pod bound to the node that it is thought onto.
    async fn bind_held(
        &mut self,
        pod: Arc<PodLite>,
        reserved: Vec<ReservedWrites>,
        profile: &Profile,
        begun: Instant,
    ) {
        self.state.assumed.insert(pod.key.clone(), pod.uid.clone());
        self.state.cluster.nominate(&pod, None);
        self.placed(None, &pod);
        let (attempts, since) = self.state.queue.tried(&pod.key).unwrap_or((1, begun));
        if self.state.queue.is_flushed(&pod.key) {
            self.scheduler.metrics.placed_after_flush();
        }
        let (volume_timeout, devices) = (profile.volume_timeout, profile.devices);
        let uid = pod.uid.clone();
        let made = reserved.iter().find_map(ReservedWrites::made);
        let to_bind = ToBind { pod, begun, attempts, since, volume_timeout, devices, made };
        let asked = |it: &ReservedWrites| profile.pre_bind.iter().any(|name| name == it.plugin());
        let (reserved, kept): (Vec<_>, Vec<_>) = reserved.into_iter().partition(asked);
        if kept.iter().any(|it| matches!(it, ReservedWrites::Claims(_))) {
            // Nobody will ever write it.
            self.state.cluster.devices.unreserve(&uid);
        }
        if reserved.is_empty() {
            self.writer.bind(to_bind).await;
        } else {
            self.writer.bind_with(to_bind, reserved);
        }
    }

    /// Takes what the pod needs besides its node.
    ///
    /// # Errors
    /// When it cannot be had after all.
    fn reserve(&mut self, pod: &PodLite, profile: &Profile) -> Result<Vec<ReservedWrites>, String> {
        let told = Told::new(Arc::clone(&self.scheduler.clock), false);
        let mut lap = Lap::begin(Some(&told).filter(|_| !profile.reserve.is_empty()));
        let reserved = self.reserve_all(pod, profile);
        lap.end(Point::Reserve, None, if reserved.is_ok() { "Success" } else { "Error" });
        self.scheduler.metrics.told(&profile.scheduler_name, &told);
        reserved
    }

    fn reserve_all(
        &mut self,
        pod: &PodLite,
        profile: &Profile,
    ) -> Result<Vec<ReservedWrites>, String> {
        let mut all = Vec::new();
        for plugin in profile.reserve.iter() {
            match plugin.reserve(&mut self.state.cluster, pod, &pod.node) {
                Ok(writes) => all.extend(writes),
                Err(error) => {
                    let plugin = plugin.name();
                    self.unreserve(pod);
                    return Err(format!("running Reserve plugin \"{plugin}\": {error}"));
                }
            }
        }
        Ok(all)
    }

    async fn refused(&mut self, pod: &Arc<PodLite>, diagnosis: Diagnosis, begun: Instant) {
        let now = self.scheduler.clock.monotonic();
        let Diagnosis { mut message, mut remarks, plugins, candidates, .. } = diagnosis;
        let Diagnosis { asked_for_room, hopeless, deallocate, .. } = diagnosis;
        if asked_for_room {
            self.scheduler.metrics.preempting();
        }
        if let Some(claim) = deallocate {
            self.writer.deallocate(claim);
        }
        let name = &pod.ask.scheduler_name;
        self.scheduler.metrics.attempted(name, Outcome::Unschedulable, now - begun);
        self.state.queue.failed(&pod.key, plugins, now);
        let live = self.stores[PODS].get(&pod.key).map(|it| it.value());
        let chosen = match &live {
            Some(live) if !candidates.is_empty() => {
                match self.choose_victims(pod, live, candidates).await {
                    Ok(chosen) => Some(chosen),
                    Err(NotChosen { why, alone }) => {
                        remarks.retain(|_| !alone);
                        remarks.push(format!("preemption: {why}"));
                        message = format!("{message} {}", remarks.join(", "));
                        None
                    }
                }
            }
            _ => None,
        };
        if let Some(chosen) = &chosen {
            self.take_back_promises(pod, &chosen.node);
        }
        if hopeless || chosen.is_some() {
            self.state.cluster.nominate(pod, chosen.as_ref().map(|it| it.node.as_str()));
        }
        let refusal = Refusal::unschedulable(message, hopeless);
        match (chosen, live) {
            (Some(chosen), Some(live)) => {
                self.scheduler.metrics.preempted(chosen.victims.len());
                self.keep_back(&pod.key, &chosen.victims);
                self.writer.preempting(live, refusal, chosen).await;
            }
            _ => self.writer.refused(pod.key.clone(), refusal),
        }
    }

    /// Less important pods for which the same node was being emptied have to look for another.
    fn take_back_promises(&mut self, pod: &PodLite, node: &str) {
        let promised = self.state.cluster.nominated_on(node).iter();
        let less = promised.filter(|it| it.priority < pod.priority).cloned();
        for it in less.collect::<Vec<_>>() {
            self.state.cluster.nominate(&it, None);
            self.writer.take_back_promise(it.key.clone());
        }
    }

    /// The node that is emptied, once extenders have had their say.
    ///
    /// # Errors
    /// Why there is none.
    async fn choose_victims(
        &self,
        pod: &PodLite,
        live: &Value,
        candidates: Vec<Candidate>,
    ) -> Result<Candidate, NotChosen> {
        let objects = Objects { pods: &self.stores[PODS], nodes: &self.stores[NODES] };
        let cluster = &self.state.cluster;
        let extenders = &self.scheduler.extenders;
        let left = extender::ask_about_victims(extenders, pod, live, candidates, cluster, objects);
        let best = match left.await {
            Ok(left) => preemption::best(left),
            Err(why) => return Err(NotChosen { why, alone: true }),
        };
        let why = || "no candidate node for preemption".to_owned();
        best.ok_or_else(|| NotChosen { why: why(), alone: false })
    }
}

/// Why no node is emptied though some could be.
struct NotChosen {
    why: String,
    /// Whether nothing else is said of what plugins could do.
    alone: bool,
}

impl State {
    fn forget(&mut self, key: &ObjectKey, now: tokio::time::Instant) {
        self.seen.remove(key);
        self.assumed.remove(key);
        self.cluster.volumes.unreserve(key);
        self.cluster.groups.gone(key);
        if let Some(pod) = self.queue.get(key).cloned() {
            let was_promised = self.cluster.is_nominated(key);
            self.cluster.nominate(&pod, None);
            self.queue.remove(key);
            if was_promised {
                // To those that do not come before it, it was as if it were on its node.
                let after = |it: &PodLite| it.priority <= pod.priority;
                self.queue.happened_to(Happened::PodGone, now, after);
            }
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
    let parts: [&[&str]; 5] = [
        &["metadata", "uid"],
        &["metadata", "labels"],
        &["metadata", "ownerReferences"],
        &["status", "resourceClaimStatuses"],
        spec,
    ];
    for part in parts.into_iter().filter(|it| !it.is_empty()) {
        let value = pod.at(part).unwrap_or(&Value::Null);
        apimachinery::json::to_vec(value).hash(&mut hasher);
    }
    hasher.finish()
}
