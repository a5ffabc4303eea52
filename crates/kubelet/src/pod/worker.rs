//! One pod's loop: news, observe, plan, apply, status; then sleep until there is news or the plan's time has come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::{Value, value};
use client::call::{DeleteParams, PatchKind};
use client::events::EventType;
use client::reflector::Cached;
use client::{ClientError, Resource};
use component_base::{Shutdown, ShutdownSignal};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;

use super::inbox::{Inbox, News, Outcome, ProbeKind};
use super::memory::{Busy, Memory, ProbeResults, Stage};
use super::observed::{Observed, is_running, marks, time_of};
use super::plan::{Action, plan};
use super::start::{self, StartRequest};
use super::stop::{self, KillRequest};
use super::{messages, patch, remove, status};
use crate::objects::User;
use crate::probes;
use crate::shared::Shared;
use crate::spec::{self, ContainerKind};
use crate::static_pods::{self, mirror};
use crate::volumes::{self, VolumeContext};

/// Between tries of a sandbox, doubled.
const SANDBOX_RETRY: SignedDuration = SignedDuration::from_millis(500);
const SANDBOX_RETRY_MAX: SignedDuration = SignedDuration::from_secs(122);
/// Between tries of a status that the server did not take, and of a clean-up that failed.
const WRITE_RETRY: SignedDuration = SignedDuration::from_secs(2);

/// The worker of a pod.
#[derive(Debug)]
pub(crate) struct Worker {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    object: Arc<Cached>,
    memory: Memory,
    /// The object is gone from the server.
    removed: bool,
    sandbox_pause: SignedDuration,
    /// The volumes were made once by this process: from then on they are kept up to date.
    has_volumes: bool,
    /// What stands in them may have changed since they were written.
    is_stale: bool,
    /// Held while the pod's volumes are written: the first making and a refresh would trip over each other.
    volumes: Arc<tokio::sync::Mutex<()>>,
    /// The pod that they tell of. Whoever's turn it is takes it: the last to write writes the newest.
    newest: Arc<Mutex<Pod>>,
    /// Probes under way, by container id and kind.
    probes: BTreeMap<(String, ProbeKind), Shutdown>,
    /// Ends what need not be finished when the pod ends.
    cancel: Shutdown,
    /// The status that the server took last.
    written: Option<Value>,
    /// The object as the server answered the last status.
    answered: Option<Value>,
    retry_at: Option<Timestamp>,
    /// The pod is of a file: the server has a mirror of it.
    is_static: bool,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>, inbox: Arc<Inbox>, object: Arc<Cached>) -> Self {
        let memory = Memory { start_time: Some(shared.clock.now()), ..Memory::default() };
        Self {
            shared,
            inbox,
            object,
            memory,
            removed: false,
            sandbox_pause: SANDBOX_RETRY,
            has_volumes: false,
            is_stale: false,
            volumes: Arc::default(),
            newest: Arc::default(),
            probes: BTreeMap::new(),
            cancel: Shutdown::new(),
            written: None,
            answered: None,
            retry_at: None,
            is_static: false,
        }
    }

    /// Runs until nothing of the pod is left, or until `stop`; then what runs goes on without the agent.
    pub(crate) async fn run(mut self, stop: ShutdownSignal) {
        loop {
            let news = self.inbox.take();
            let objects = news.objects;
            self.learn(news);
            let Some(mut pod) = self.object.decode::<Pod>() else { return };
            self.is_static = static_pods::is_static(&pod);
            if self.is_static {
                self.read_mirror(&mut pod);
            }
            if objects && self.memory.stage == Stage::Running {
                self.objects_changed();
            }
            let wake_at = self.sync(&pod).await;
            if self.is_over(&pod).await {
                break;
            }
            let pause = wake_at.map(|at| {
                let left = at.duration_since(self.shared.clock.now());
                Duration::try_from(left).unwrap_or_default()
            });
            tokio::select! {
                () = self.inbox.wait() => {}
                () = sleep(pause) => {}
                () = stop.requested() => break,
            }
        }
        self.probes.values().for_each(Shutdown::request);
    }

    /// What was told of a static pod stands in its mirror, or in the answer to the last write, which may come first:
    /// whoever goes by the older of two times writes them in turn for ever.
    fn read_mirror(&mut self, pod: &mut Pod) {
        let there = self.shared.mirrors.get(&self.object.key).map(|it| it.value());
        let Some(mirror) = there.filter(|it| mirror::is_good(it, &self.object.value())) else {
            self.written = None;
            return;
        };
        let newest = patch::newest(&mirror, self.answered.as_ref());
        let status = newest.get("status").map(apimachinery::json::to_vec).unwrap_or_default();
        pod.status = serde_json::from_slice(&status).ok();
    }

    /// The object on the server that the status is written to.
    async fn target(&self) -> Result<Value, ClientError> {
        if self.is_static {
            return mirror::ensure(&self.shared, &self.object).await;
        }
        Ok(self.object.to_value())
    }

    fn learn(&mut self, news: News) {
        if let Some(pod) = news.pod {
            self.is_stale |= tells_otherwise(&self.object.value(), &pod.value());
            self.object = pod;
        }
        self.removed |= news.removed;
        if let Some(failure) = news.failure {
            self.memory.failure.get_or_insert(failure);
        }
        if self.removed && self.memory.stage == Stage::Running {
            self.memory.stage = Stage::Terminating;
        }
        for outcome in news.outcomes {
            self.outcome(outcome);
        }
    }

    fn outcome(&mut self, outcome: Outcome) {
        let memory = &mut self.memory;
        let now = self.shared.clock.now();
        match outcome {
            Outcome::Sandbox(result) => {
                memory.busy.remove(&Busy::Sandbox);
                if result.is_ok() {
                    self.sandbox_pause = SANDBOX_RETRY;
                    memory.sandbox_retry_at = None;
                } else {
                    memory.sandbox_retry_at = Some(now + self.sandbox_pause);
                    self.sandbox_pause =
                        (self.sandbox_pause + self.sandbox_pause).min(SANDBOX_RETRY_MAX);
                }
            }
            Outcome::Start(name, result) => {
                memory.busy.remove(&Busy::Start(name.clone()));
                match result {
                    Ok(()) => drop(memory.failures.remove(&name)),
                    Err(failure) => drop(memory.failures.insert(name, failure)),
                }
            }
            Outcome::PostStart(id, Ok(())) => {
                memory.post_start.remove(&id);
            }
            Outcome::PostStart(id, Err(text)) if text.is_empty() => {
                memory.post_start.insert(id);
            }
            Outcome::PostStart(id, Err(_)) => {
                drop(memory.condemned.insert(id, "FailedPostStartHook".into()));
            }
            Outcome::Kill(id) => {
                memory.busy.remove(&Busy::Kill(id));
            }
            Outcome::Clean(result) => {
                memory.busy.remove(&Busy::Clean);
                match result {
                    Ok(()) => memory.stage = Stage::Cleaned,
                    Err(error) => {
                        tracing::warn!(pod = %self.object.key, error, "could not clean up after a pod, will try again");
                        self.retry_at = Some(now + WRITE_RETRY);
                        memory.busy.insert(Busy::Clean);
                    }
                }
            }
            Outcome::Probe(id, kind, word) => {
                let results: &mut ProbeResults = memory.probes.entry(id).or_default();
                match kind {
                    ProbeKind::Startup => results.startup = Some(word),
                    ProbeKind::Readiness => results.readiness = Some(word),
                    ProbeKind::Liveness => results.liveness = Some(word),
                }
            }
        }
    }

    /// What waited for an object is tried again, and what was made from one is brought up to date.
    fn objects_changed(&mut self) {
        let now = self.shared.clock.now();
        self.memory.sandbox_retry_at = None;
        for failure in self.memory.failures.values_mut() {
            if failure.reason == "CreateContainerConfigError" {
                failure.retry_at = now;
            }
        }
        self.is_stale = true;
    }

    /// Brings volumes made from objects, and from the pod itself, up to date.
    fn refresh(&mut self, pod: &Pod) {
        self.is_stale = false;
        self.newest.lock().clone_from(pod);
        let (shared, turn) = (Arc::clone(&self.shared), Arc::clone(&self.volumes));
        let (newest, user) = (Arc::clone(&self.newest), self.user(pod));
        tokio::spawn(async move {
            let _turn = turn.lock().await;
            let pod = newest.lock().clone();
            let pod_ips = ips(&pod);
            let cx = VolumeContext { shared: &shared, pod: &pod, user: &user, pod_ips };
            if let Err(failure) = volumes::set_up(&cx).await {
                shared.event(&pod, EventType::Warning, "FailedMount", &failure.message);
            }
        });
    }

    fn user(&self, pod: &Pod) -> User {
        User {
            namespace: spec::namespace(pod).to_owned(),
            uid: spec::uid(pod).to_owned(),
            inbox: Arc::downgrade(&self.inbox),
        }
    }

    /// One round. The time to look again.
    async fn sync(&mut self, pod: &Pod) -> Option<Timestamp> {
        let now = self.shared.clock.now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.memory.busy.remove(&Busy::Clean);
        }
        let observed = match super::observe::observe(&self.shared, spec::uid(pod)).await {
            Ok(it) => messages::fill(&self.shared, it),
            Err(error) => {
                tracing::warn!(pod = %self.object.key, %error, "could not ask the runtime, will try again");
                return Some(now + WRITE_RETRY);
            }
        };
        if observed.ready_sandbox().is_some() && !self.has_volumes {
            self.has_volumes = true;
            // An earlier process made them: they are watched from now on.
            self.is_stale |= self.written.is_none();
        }
        if self.is_stale && self.has_volumes && self.memory.stage == Stage::Running {
            self.refresh(pod);
        }
        self.forget_old(&observed);
        self.remove_dead(&observed);
        let mut planned = plan(pod, &observed, &mut self.memory, now);
        if self.memory.stage > Stage::Running {
            self.cancel.request();
        }
        for action in planned.actions.drain(..) {
            self.apply(pod, &observed, action);
        }
        self.probe(pod, &observed, now);
        if !self.removed
            && let Err(error) = self.write_status(pod, &observed, now).await
            && !error.is_not_found()
        {
            tracing::warn!(pod = %self.object.key, %error, "could not write a pod's status, will try again");
            planned.wake(now + WRITE_RETRY);
        }
        if let Some(at) = self.retry_at {
            planned.wake(at);
        }
        if self.memory.stage == Stage::Running
            && let Some(at) = self.shared.tokens.renew_at(spec::uid(pod))
        {
            if at <= now && self.has_volumes {
                self.refresh(pod);
            }
            planned.wake(at.max(now + WRITE_RETRY));
        }
        planned.wake_at
    }

    /// What is remembered of containers that the runtime does not have any more.
    fn forget_old(&mut self, observed: &Observed) {
        let known = |id: &String| observed.container(id).is_some();
        let running = |id: &String| observed.container(id).is_some_and(is_running);
        self.memory.probes.retain(|id, _| known(id));
        self.memory.condemned.retain(|id, _| running(id));
        self.memory.kill_deadlines.retain(|id, _| running(id));
        self.probes.retain(|(id, _), stop| {
            let keep = running(id);
            if !keep {
                stop.request();
            }
            keep
        });
    }

    /// Of each container the last that ended is kept, for its log and its exit code; others go, as do sandboxes
    /// that were replaced.
    fn remove_dead(&mut self, observed: &Observed) {
        let old: Vec<cri::ContainerStatus> = observed
            .replaced()
            .filter(|it| !self.memory.is_being_killed(&it.container.id))
            .cloned()
            .collect();
        let empty: Vec<String> = observed.empty_sandboxes().collect();
        if old.is_empty() && empty.is_empty() {
            return;
        }
        self.memory.busy.extend(old.iter().map(|it| Busy::Kill(it.container.id.clone())));
        let (shared, inbox) = (Arc::clone(&self.shared), Arc::clone(&self.inbox));
        tokio::spawn(async move {
            for container in old {
                remove::container(&shared, &container).await;
                inbox.report(Outcome::Kill(container.container.id));
            }
            for id in empty {
                remove::sandbox(&shared, &id).await;
            }
        });
    }

    fn apply(&mut self, pod: &Pod, observed: &Observed, action: Action) {
        match action {
            Action::CreateSandbox { attempt } => self.create_sandbox(pod, attempt),
            Action::StopSandbox { id } => self.stop_sandbox(id),
            Action::Start { kind, name, restart_count } => {
                self.start(pod, observed, (kind, &name), restart_count);
            }
            Action::Kill { id, name, message, grace_seconds } => {
                self.memory.busy.insert(Busy::Kill(id.clone()));
                let request = KillRequest {
                    pod: pod.clone(),
                    id,
                    name,
                    message,
                    grace: Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0)),
                    pod_ip: ips(pod).into_iter().next(),
                };
                let (shared, inbox) = (Arc::clone(&self.shared), Arc::clone(&self.inbox));
                tokio::spawn(async move {
                    stop::container(&shared, &request).await;
                    inbox.report(Outcome::Kill(request.id));
                });
            }
            Action::Remove { id } => self.remove(id),
            Action::TellBackOff { kind, name } => {
                let message = format!(
                    "Back-off restarting failed container {name} in pod {}",
                    spec::full_name(pod)
                );
                let event = (EventType::Warning, "BackOff");
                self.shared.container_event(pod, (kind, &name), event, &message);
            }
            Action::TellDeadline { message } => {
                self.shared.event(pod, EventType::Normal, "DeadlineExceeded", &message);
            }
            Action::Clean => {
                self.memory.busy.insert(Busy::Clean);
                let (shared, inbox, pod) =
                    (Arc::clone(&self.shared), Arc::clone(&self.inbox), pod.clone());
                tokio::spawn(async move {
                    let result = stop::clean(&shared, &pod).await;
                    inbox.report(Outcome::Clean(result));
                });
            }
        }
    }

    fn create_sandbox(&mut self, pod: &Pod, attempt: u32) {
        self.memory.busy.insert(Busy::Sandbox);
        self.newest.lock().clone_from(pod);
        let (shared, inbox, user) =
            (Arc::clone(&self.shared), Arc::clone(&self.inbox), self.user(pod));
        let (newest, turn) = (Arc::clone(&self.newest), Arc::clone(&self.volumes));
        tokio::spawn(async move {
            let _turn = turn.lock().await;
            let pod = newest.lock().clone();
            let result = start::sandbox(&shared, &pod, attempt, &user).await;
            inbox.report(Outcome::Sandbox(result));
        });
    }

    fn stop_sandbox(&mut self, id: String) {
        self.memory.busy.insert(Busy::Sandbox);
        let (shared, inbox) = (Arc::clone(&self.shared), Arc::clone(&self.inbox));
        tokio::spawn(async move {
            let result = shared.runtime.stop_pod_sandbox(&id).await;
            if let Err(error) = &result {
                tracing::warn!(sandbox = id, %error, "could not stop a sandbox, will try again");
            }
            inbox.report(Outcome::Sandbox(result.map_err(|it| it.message)));
        });
    }

    fn remove(&mut self, id: String) {
        self.memory.busy.insert(Busy::Kill(id.clone()));
        let (shared, inbox) = (Arc::clone(&self.shared), Arc::clone(&self.inbox));
        tokio::spawn(async move {
            if let Err(error) = shared.runtime.remove_container(&id).await {
                tracing::warn!(container = id, %error, "could not remove a container");
            }
            inbox.report(Outcome::Kill(id));
        });
    }

    fn start(
        &mut self,
        pod: &Pod,
        observed: &Observed,
        (kind, name): (ContainerKind, &str),
        restart_count: i32,
    ) {
        let Some((_, container)) = spec::find_container(pod, name) else { return };
        let Some(sandbox) = observed.ready_sandbox() else { return };
        let target = spec::target_of(pod, name).and_then(|it| observed.latest(it));
        let request = StartRequest {
            pod: pod.clone(),
            kind,
            container,
            restart_count,
            sandbox: sandbox.clone(),
            target_id: target.map(|it| it.container.id.clone()),
        };
        self.memory.busy.insert(Busy::Start(name.to_owned()));
        let (shared, inbox) = (Arc::clone(&self.shared), Arc::clone(&self.inbox));
        tokio::spawn(start::container(shared, request, inbox, self.cancel.signal()));
    }

    /// Begins the probes of containers that run and are to be asked.
    fn probe(&mut self, pod: &Pod, observed: &Observed, now: Timestamp) {
        if self.memory.stage > Stage::Running {
            // A pod that ends is still ready while it runs, but nothing restarts it.
            self.probes.retain(|(_, kind), stop| {
                if *kind != ProbeKind::Readiness {
                    stop.request();
                }
                *kind == ProbeKind::Readiness
            });
            return;
        }
        for (list, container) in spec::all_containers(pod) {
            let probed = match list {
                ContainerKind::Main => true,
                ContainerKind::Init => spec::is_sidecar(&container),
                ContainerKind::Ephemeral => false,
            };
            let Some(status) =
                observed.latest(&container.name).filter(|it| probed && is_running(it))
            else {
                continue;
            };
            let id = &status.container.id;
            let started = super::containers::is_started(&container, status, &self.memory);
            for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
                let due = (kind == ProbeKind::Startup) != started;
                let Some(probe) = probes::probe_of(&container, kind).filter(|_| due) else {
                    continue;
                };
                if self.probes.contains_key(&(id.clone(), kind)) || self.memory.is_being_killed(id)
                {
                    continue;
                }
                let stop = Shutdown::new();
                self.probes.insert((id.clone(), kind), stop.clone());
                let age = now.duration_since(time_of(status.started_at));
                let subject = probes::Subject {
                    pod: pod.clone(),
                    list,
                    container: container.clone(),
                    container_id: id.clone(),
                    pod_ip: self.pod_ip(pod, observed),
                    age: Duration::try_from(age).unwrap_or_default(),
                    kind,
                    probe: probe.clone(),
                };
                let (shared, inbox) = (Arc::clone(&self.shared), Arc::clone(&self.inbox));
                tokio::spawn(probes::run(shared, subject, inbox, stop.signal()));
            }
        }
    }

    fn pod_ip(&self, pod: &Pod, observed: &Observed) -> Option<String> {
        if spec::is_host_network(pod) {
            return self.shared.config.node_ips.first().map(ToString::to_string);
        }
        observed.sandboxes.first()?.ips.first().map(ToString::to_string)
    }

    async fn write_status(
        &mut self,
        pod: &Pod,
        observed: &Observed,
        now: Timestamp,
    ) -> Result<(), ClientError> {
        let facts = self.shared.node_facts();
        let status = status::status(pod, observed, &self.memory, &facts, now);
        let text = serde_json::to_vec(&status).map_err(|it| ClientError::Encode(it.to_string()))?;
        let mut new = apimachinery::json::parse(&text).unwrap_or_default();
        keep_nulls(&mut new);
        if self.written.as_ref() == Some(&new) {
            return Ok(());
        }
        let watched = self.target().await?;
        let old = patch::newest(&watched, self.answered.as_ref()).get("status").cloned();
        let old = old.unwrap_or_default();
        let Some(changed) = patch::patch(&old, &new) else {
            self.written = Some(new);
            return Ok(());
        };
        let uid = watched.str_at(&["metadata", "uid"]);
        let body = value!({"metadata": {"uid": uid}, "status": changed});
        let resource = Resource::built_in("", "pods");
        let (namespace, name) = (spec::namespace(pod), spec::name(pod));
        let client = &self.shared.client;
        let answer =
            client.patch(&resource, namespace, name, "status", PatchKind::Strategic, &body).await?;
        self.answered = Some(answer);
        self.written = Some(new);
        Ok(())
    }

    /// Whether the worker has nothing left to do. Deletes the object when all of a deleted pod is gone.
    async fn is_over(&mut self, pod: &Pod) -> bool {
        if self.memory.stage != Stage::Cleaned {
            return false;
        }
        if !self.removed && !spec::is_deleting(pod) {
            // The object stays, and so does what the runtime keeps of it: logs and exit codes.
            return false;
        }
        if !self.removed {
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                uid: Some(spec::uid(pod).to_owned()),
                ..DeleteParams::default()
            };
            let resource = Resource::built_in("", "pods");
            let (namespace, name) = (spec::namespace(pod), spec::name(pod));
            if let Err(error) = self.shared.client.delete(&resource, namespace, name, &params).await
                && error.code() != Some(404)
                && error.code() != Some(409)
            {
                tracing::warn!(pod = %self.object.key, %error, "could not delete a pod that has ended, will try again");
                self.retry_at = Some(self.shared.clock.now() + WRITE_RETRY);
                let inbox = Arc::clone(&self.inbox);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::try_from(WRITE_RETRY).unwrap_or_default()).await;
                    inbox.nudge();
                });
                return false;
            }
        }
        if self.is_static
            && let Err(error) = mirror::remove(&self.shared, &self.object.key).await
        {
            tracing::warn!(pod = %self.object.key, %error, "could not remove the mirror of a static pod");
        }
        forget(&self.shared, pod).await;
        true
    }
}

/// Nobody asks for the logs of a pod that is gone.
async fn forget(shared: &Shared, pod: &Pod) {
    let uid = spec::uid(pod);
    match super::observe::observe(shared, uid).await {
        Ok(observed) => {
            let mut ids = BTreeSet::new();
            for sandbox in &observed.sandboxes {
                remove::sandbox(shared, &sandbox.sandbox.id).await;
            }
            ids.extend(observed.containers.iter().map(|it| it.container.id.clone()));
            shared.messages.lock().retain(|id, _| !ids.contains(id));
        }
        Err(error) => {
            tracing::warn!(pod = uid, %error, "could not remove what the runtime keeps of a pod")
        }
    }
    let logs = shared.config.pod_log_dir(spec::namespace(pod), spec::name(pod), uid);
    if let Err(error) = sys::fs::remove_tree(&logs) {
        tracing::warn!(pod = uid, %error, "could not remove the logs of a pod");
    }
}

fn ips(pod: &Pod) -> Vec<String> {
    let status = pod.status.as_ref().and_then(|it| it.pod_ips.as_ref());
    status.into_iter().flatten().map(|it| it.ip.clone()).collect()
}

/// Whether what containers can read of their pod in a volume may differ.
fn tells_otherwise(old: &Value, new: &Value) -> bool {
    let parts: [&[&str]; 3] = [&["metadata", "labels"], &["metadata", "annotations"], &["spec"]];
    parts.iter().any(|path| old.at(path) != new.at(path))
}

/// Members that upstream writes although they are empty.
fn keep_nulls(status: &mut Value) {
    for condition in status.items_at_mut(&["conditions"]) {
        condition.default_at(&["lastProbeTime"], Value::Null);
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// The label by which everything of a pod is found.
pub(crate) fn selector(uid: &str) -> BTreeMap<String, String> {
    [(marks::POD_UID.to_owned(), uid.to_owned())].into()
}
