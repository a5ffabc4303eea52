//! The pods of the node: lets them in, gives each a worker, brings news to the workers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use apimachinery::Value;
use client::events::EventType;
use client::reflector::{Cached, StoreChange};
use client::{ObjectKey, Resource, Store};
use component_base::ShutdownSignal;
use cri::RuntimeEvent;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::admission::{self, HostPort, Room};
use crate::checkpoint::Checkpoint;
use crate::pod::inbox::Inbox;
use crate::pod::memory::Failure;
use crate::pod::phase::Phase;
use crate::pod::worker::Worker;
use crate::qos;
use crate::resources;
use crate::shared::Shared;
use crate::spec;
use crate::static_pods::{self, mirror};
use crate::sysctls::Allowlist;

/// A pod that has a worker.
#[derive(Debug, Clone)]
struct Entry {
    inbox: Arc<Inbox>,
    object: Arc<Cached>,
    /// Its source has it no more: what is left of it ends.
    is_gone: bool,
    /// It is of a file, and the server has a mirror of it.
    is_static: bool,
}

/// The pods of the node.
#[derive(Debug)]
pub(crate) struct Manager {
    shared: Arc<Shared>,
    checkpoint: Checkpoint,
    nodes: Store,
    /// By uid.
    entries: Mutex<BTreeMap<String, Entry>>,
    /// Sandboxes by id, with the uid of their pods.
    sandboxes: Mutex<BTreeMap<String, String>>,
    /// Static pods whose files changed: each begins when the pod of the old content has ended. By uid.
    waiting: Mutex<BTreeMap<String, Arc<Cached>>>,
    changes: Mutex<VecDeque<StoreChange>>,
    wake: Notify,
}

impl Manager {
    pub(crate) fn new(shared: Arc<Shared>, nodes: Store) -> Arc<Self> {
        let checkpoint = Checkpoint::open(shared.config.data_dir.join("admitted.json"));
        Arc::new(Self {
            shared,
            checkpoint,
            nodes,
            entries: Mutex::default(),
            sandboxes: Mutex::default(),
            waiting: Mutex::default(),
            changes: Mutex::default(),
            wake: Notify::new(),
        })
    }

    /// A source of pods has a change. Sources are merged by the uid of their pods.
    pub(crate) fn change(&self, change: StoreChange) {
        self.changes.lock().push_back(change);
        self.wake.notify_one();
    }

    /// Runs until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: ShutdownSignal) {
        let events = tokio::spawn(Arc::clone(&self).follow_runtime(stop.clone()));
        loop {
            let next = self.changes.lock().pop_front();
            if let Some(change) = next {
                self.take(change, &stop).await;
                continue;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = stop.requested() => break,
            }
        }
        if events.await.is_err() {
            tracing::error!("the task that follows the runtime's events failed");
        }
    }

    async fn take(self: &Arc<Self>, change: StoreChange, stop: &ShutdownSignal) {
        if self.shared.mirrors.take(&change) {
            self.mirror_changed(&change);
            return;
        }
        let gone =
            change.old.filter(|old| change.new.as_ref().is_none_or(|new| new.uid != old.uid));
        if let Some(old) = gone {
            self.waiting.lock().remove(old.uid.as_str());
            if let Some(entry) = self.entries.lock().get_mut(old.uid.as_str()) {
                entry.is_gone = true;
                entry.inbox.remove();
            }
        }
        let Some(object) = change.new else { return };
        let known = {
            let mut entries = self.entries.lock();
            entries.get_mut(object.uid.as_str()).map(|entry| {
                entry.object = Arc::clone(&object);
                entry.inbox.put_pod(Arc::clone(&object));
            })
        };
        if known.is_none() {
            self.begin(object, stop).await;
        }
    }

    /// A static pod's worker sees to its mirror; one without a pod is of an earlier process, or of a file that is gone.
    fn mirror_changed(self: &Arc<Self>, change: &StoreChange) {
        let key = change.key();
        let entries = self.entries.lock();
        let own = entries.values().find(|it| it.object.key == key && it.is_static);
        if let Some(entry) = own {
            entry.inbox.nudge();
        } else if change.new.is_some() {
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                if let Err(error) = mirror::remove(&shared, &key).await {
                    tracing::warn!(pod = %key, %error, "could not remove a mirror without a pod");
                }
            });
        }
    }

    async fn begin(self: &Arc<Self>, object: Arc<Cached>, stop: &ShutdownSignal) {
        let Some(pod) = object.decode::<Pod>() else { return };
        let is_static = static_pods::is_static(&pod);
        if is_static && self.has_static(&object.key) {
            self.waiting.lock().insert(object.uid.to_string(), object);
            return;
        }
        let inbox = Arc::new(Inbox::default());
        if let Err(failure) = self.admit(&pod).await {
            self.shared.event(&pod, EventType::Warning, &failure.reason, &failure.message);
            inbox.fail(failure);
        }
        let uid = object.uid.to_string();
        let admitted = self.checkpoint.has(&uid);
        let entry = Entry {
            inbox: Arc::clone(&inbox),
            object: Arc::clone(&object),
            is_gone: false,
            is_static,
        };
        self.entries.lock().insert(uid.clone(), entry);
        if admitted {
            self.weigh();
        }
        let worker = Worker::new(Arc::clone(&self.shared), inbox, object);
        let (manager, stop) = (Arc::clone(self), stop.clone());
        tokio::spawn(async move {
            worker.run(stop.clone()).await;
            if !stop.is_requested() {
                manager.end(&uid);
            }
        });
    }

    fn has_static(&self, key: &ObjectKey) -> bool {
        self.entries.lock().values().any(|it| it.is_static && it.object.key == *key)
    }

    fn end(&self, uid: &str) {
        let ended = self.entries.lock().remove(uid);
        self.sandboxes.lock().retain(|_, it| it != uid);
        if let Err(error) = self.checkpoint.remove(uid) {
            tracing::warn!(uid, %error, "could not forget an admitted pod");
        }
        self.weigh();
        let Some(ended) = ended.filter(|it| it.is_static) else { return };
        let mut waiting = self.waiting.lock();
        for next in waiting.extract_if(.., |_, it| it.key == ended.object.key) {
            self.change(StoreChange { old: None, new: Some(next.1) });
        }
    }

    /// The classes of pods weigh what their pods ask for.
    fn weigh(&self) {
        let Some(hierarchies) = &self.shared.hierarchies else { return };
        let plan = qos::plan_shares(&self.shared.config, hierarchies, &self.active_pods());
        if let Err(error) = sys::cgroup::apply(&plan) {
            tracing::warn!(%error, "could not weigh the classes of pods");
        }
    }

    async fn admit(&self, pod: &Pod) -> Result<(), Failure> {
        let uid = spec::uid(pod);
        let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref()).and_then(Phase::parse);
        let began = phase.is_some_and(|it| it != Phase::Pending);
        if self.checkpoint.has(uid) || began || spec::is_deleting(pod) {
            return Ok(());
        }
        let mut room = self.room();
        match admission::admit(pod, &room) {
            // The scheduler may have seen a label of the node before its own agent: the server decides.
            Err(failure) if failure.reason == admission::NODE_AFFINITY => {
                if let Some(node) = self.node_on_server().await {
                    room.take_node(&node);
                }
                admission::admit(pod, &room)?;
            }
            other => other?,
        }
        self.checkpoint.add(uid, resources::pod_requests(pod)).map_err(|error| Failure {
            reason: "UnexpectedAdmissionError".into(),
            message: format!("could not note the pod: {error}"),
            grace_period_seconds: None,
            rejected: true,
            disrupted: false,
        })
    }

    async fn node_on_server(&self) -> Option<Value> {
        let name = &self.shared.config.node_name;
        let node = self.shared.client.get(&Resource::built_in("", "nodes"), "", name).await;
        node.inspect_err(|error| {
            tracing::warn!(node = name, %error, "could not read the labels of the node");
        })
        .ok()
    }

    fn room(&self) -> Room {
        let mut room = Room {
            node_name: self.shared.config.node_name.clone(),
            allocatable: self.shared.machine.allocatable(&self.shared.config),
            short: self.shared.pressure.told(self.shared.clock.monotonic()),
            has_apparmor: self.shared.machine.has_apparmor,
            sysctls: Allowlist::new(
                &self.shared.machine.kernel,
                &self.shared.config.allowed_unsafe_sysctls,
            ),
            ..Room::default()
        };
        if let Some(node) = self.nodes.get(&ObjectKey::new("", room.node_name.as_str())) {
            room.take_node(&node.value());
        }
        // What a pod that was deleted by force still holds is not held against the next, as upstream does not.
        for pod in self.admitted(|it| !it.is_gone) {
            room.pods += 1;
            room.ports.extend(HostPort::of(&pod));
            for (name, amount) in resources::pod_requests(&pod) {
                *room.used.entry(name).or_default() += amount;
            }
        }
        room
    }

    /// The pods that were let in and have not ended.
    pub(crate) fn active_pods(&self) -> Vec<Pod> {
        self.admitted(|_| true)
    }

    fn admitted(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<Pod> {
        let entries = self.entries.lock();
        let objects = entries.values().filter(|it| wanted(it)).map(|it| Arc::clone(&it.object));
        let objects: Vec<Arc<Cached>> = objects.collect();
        drop(entries);
        let ended = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
            phase.and_then(Phase::parse).is_some_and(Phase::is_terminal)
        };
        let pods = objects.iter().filter_map(|it| it.decode::<Pod>());
        pods.filter(|it| !ended(it) && self.checkpoint.has(spec::uid(it))).collect()
    }

    /// The pods that have a worker, as objects.
    pub(crate) fn objects(&self) -> Vec<Arc<Cached>> {
        self.entries.lock().values().map(|it| Arc::clone(&it.object)).collect()
    }

    /// Gives a pod up.
    pub(crate) fn fail(&self, uid: &str, failure: Failure) {
        if let Some(entry) = self.entries.lock().get(uid) {
            entry.inbox.fail(failure);
        }
    }

    async fn follow_runtime(self: Arc<Self>, stop: ShutdownSignal) {
        let mut events = self.shared.runtime.container_events();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = stop.requested() => return,
            };
            match event {
                Some(RuntimeEvent::Container(it)) => self.nudge(&it.pod_sandbox_id).await,
                Some(RuntimeEvent::Relist) => {
                    self.entries.lock().values().for_each(|it| it.inbox.nudge());
                }
                None => {
                    tracing::error!("the runtime ended its events");
                    return;
                }
            }
        }
    }

    async fn nudge(&self, sandbox_id: &str) {
        let known = self.sandboxes.lock().get(sandbox_id).cloned();
        let uid = match known {
            Some(uid) => uid,
            None => match self.shared.runtime.pod_sandbox_status(sandbox_id).await {
                Ok(it) => {
                    let uid = it.sandbox.metadata.uid;
                    self.sandboxes.lock().insert(sandbox_id.to_owned(), uid.clone());
                    uid
                }
                // It is gone: its worker removed it.
                Err(_) => return,
            },
        };
        if let Some(entry) = self.entries.lock().get(&uid) {
            entry.inbox.nudge();
        }
    }
}
