//! Runs a controller: the same for all of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use apimachinery::{Value, value};
use client::call::{DeleteParams, ListParams};
use client::reflector::{Caches, Store, StoreChange};
use client::{Client, ClientError, EventRecorder, ObjectKey, Resource};
use compact_str::CompactString;
use component_base::{Clock, ShutdownSignal};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::gate::Condition;
use crate::plan::{Action, Event, Failure, Fetch, Plan, PlannedAction};
use crate::queue::Queue;
use crate::snapshot::Snapshot;
use crate::watches::{Defined, Watched};
use crate::{Controller, Watches};

/// What is logged when a key fails.
const AGAIN: &str = "could not reconcile, will try again";
/// Once the pause between tries is this long, failures are logged as warnings.
const TELL_PAUSE: Duration = Duration::from_millis(100);

/// How many writes of one stage are in flight at once.
const MAX_PARALLEL_WRITES: usize = 16;
/// How often a plan may ask for live reads before that counts as a failure.
const MAX_FETCH_ROUNDS: usize = 4;

/// Between two tries to see what became of a write.
const MIN_FRESH_PAUSE: Duration = Duration::from_millis(50);
const MAX_FRESH_PAUSE: Duration = Duration::from_secs(5);

/// How long the read of a path may take: who answers may be somebody else's server.
const MAX_READ_TIME: Duration = Duration::from_secs(30);

/// What a read of a path found, for the plan.
fn told(read: Result<Value, ClientError>) -> Value {
    match read {
        Ok(answer) => value!({"answer": answer}),
        Err(error) => {
            let code = i64::from(error.code().unwrap_or_default());
            value!({"error": {"code": code, "message": (error.to_string())}})
        }
    }
}

fn told_late() -> Value {
    value!({"error": {"code": 504, "message": "context deadline exceeded"}})
}

/// What a runner is given.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The caches, shared by all controllers of a process.
    pub caches: Arc<Caches>,
    /// The controller's own client, under its own identity.
    pub client: Client,
    /// Where it records events.
    pub events: Arc<EventRecorder>,
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Where the queue counts.
    pub metrics: crate::Metrics,
    /// How many keys are worked on at once (upstream: `--concurrent-*-syncs`).
    pub workers: usize,
}

/// What is remembered of each key: the controller's own memory, and what the caches must show first.
type Remembered<C> = BTreeMap<<C as Controller>::Key, (<C as Controller>::Memory, Vec<Condition>)>;

/// Runs one controller.
pub struct Runner<C: Controller> {
    controller: C,
    environment: Environment,
    queue: Arc<Queue<C::Key>>,
    memory: Mutex<Remembered<C>>,
    /// How often a cache was filled anew.
    lists: AtomicUsize,
}

impl<C: Controller> std::fmt::Debug for Runner<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Runner({}, {} waiting)", C::NAME, self.queue.len())
    }
}

/// How a key went.
enum Outcome {
    Done,
    /// Planned again at this time.
    At(jiff::Timestamp),
    /// Planned again with back-off: a live read was ahead of the caches.
    Ahead,
    /// Tried again with back-off.
    Failed(Failure),
}

/// What mappers see; nothing once nobody has the caches any more.
fn of(caches: &Weak<Caches>) -> Option<Snapshot> {
    Some(Snapshot::new(caches.upgrade()?, BTreeMap::new()))
}

impl<C: Controller> Runner<C> {
    /// A runner that watches nothing yet.
    #[must_use]
    pub fn new(controller: C, environment: Environment) -> Arc<Self> {
        let queue = Arc::new(Queue::counted(environment.metrics.queue(C::QUEUE), C::BACKOFF));
        environment.metrics.follow(C::QUEUE, Arc::downgrade(&queue) as _);
        let (memory, lists) = (Mutex::default(), AtomicUsize::default());
        Arc::new(Self { controller, environment, queue, memory, lists })
    }

    /// The queue, for a component that adds keys itself.
    #[must_use]
    pub fn queue(&self) -> &Arc<Queue<C::Key>> {
        &self.queue
    }

    /// Watches and works until `stop`.
    pub async fn run(self: Arc<Self>, stop: ShutdownSignal) {
        let watches = self.controller.watches(Watches::default());
        let caches = &self.environment.caches;
        let stores: Vec<_> = watches.entries.iter().map(|it| caches.store(&it.resource)).collect();
        if let Some(defined) = watches.defined {
            let definitions = caches.store(&defined.by);
            tokio::select! {
                biased;
                () = definitions.reached(0) => self.follow(&definitions, defined),
                () = stop.requested() => return,
            }
        }
        for store in &stores {
            tokio::select! {
                biased;
                () = store.reached(0) => {}
                () = stop.requested() => return,
            }
        }
        for (Watched { mapper, held, .. }, store) in watches.entries.into_iter().zip(stores) {
            let this = Arc::downgrade(&self);
            store.after_lists(Arc::new(move || {
                if let Some(this) = this.upgrade() {
                    this.look_again();
                }
            }));
            let (queue, caches) = (Arc::clone(&self.queue), self.caches());
            store.listen(Arc::new(move |change| {
                let Some(snapshot) = of(&caches) else { return };
                for key in mapper(change, &snapshot) {
                    match held.is_zero() {
                        true => queue.add(key),
                        false => queue.add_held(key, held),
                    }
                }
            }));
        }
        self.environment.metrics.runs(C::NAME, true);
        // Only the worker that was woken is polled.
        let workers = (0..self.environment.workers.max(1)).map(|_| Arc::clone(&self).work());
        let workers: FuturesUnordered<_> = workers.collect();
        tokio::select! {
            biased;
            () = workers.for_each(|()| std::future::ready(())) => {}
            () = stop.requested() => {}
        }
        self.environment.metrics.runs(C::NAME, false);
    }

    /// The caches, for who is held by them in turn.
    fn caches(&self) -> Weak<Caches> {
        Arc::downgrade(&self.environment.caches)
    }

    /// Watches what is defined now and from now on, and no more what is not defined any more.
    fn follow(&self, definitions: &Store, defined: Defined<C::Key>) {
        let Defined { definer, mapper, .. } = defined;
        let (queue, caches) = (Arc::clone(&self.queue), self.caches());
        let seen = self.caches();
        let tell = Arc::new(move |resource: &Resource, change: &StoreChange| {
            let Some(snapshot) = of(&seen) else { return };
            mapper(resource, change, &snapshot).into_iter().for_each(|key| queue.add(key));
        });
        let known: Mutex<BTreeMap<CompactString, Store>> = Mutex::default();
        definitions.listen(Arc::new(move |change| {
            let Some(caches) = caches.upgrade() else { return };
            let name = change.key().name;
            let now = definer(change);
            let mut known = known.lock();
            if known.get(&name).map(Store::resource) == now.as_ref() {
                return;
            }
            if let Some(before) = known.remove(&name) {
                caches.forget(before.resource());
                // A definition goes after all that it defines: what was not seen going is gone as well.
                let lost = if change.new.is_none() { before.list("") } else { Vec::new() };
                for object in lost {
                    tell(before.resource(), &StoreChange { old: Some(object), new: None });
                }
            }
            let Some(resource) = now else { return };
            let store = caches.store(&resource);
            known.insert(name, store.clone());
            let tell = Arc::clone(&tell);
            store.listen(Arc::new(move |change| tell(&resource, change)));
        }));
    }

    async fn work(self: Arc<Self>) {
        loop {
            let key = self.queue.next().await;
            if self.wait_for_own_writes(&key) {
                self.queue.done(&key);
                continue;
            }
            match self.reconcile(&key).await {
                Outcome::Done => self.queue.forget(&key),
                Outcome::At(at) => {
                    self.queue.forget(&key);
                    let wait = at.duration_since(self.environment.clock.now());
                    let wait = std::time::Duration::try_from(wait).unwrap_or_default();
                    self.queue.add_at(key.clone(), Instant::now() + wait);
                }
                Outcome::Ahead => _ = self.queue.add_failed(key.clone()),
                Outcome::Failed(Failure { why: error, .. }) => {
                    let pause = self.queue.add_failed(key.clone());
                    // A conflict or two is how optimistic writes work; what lasts is for people.
                    if pause < TELL_PAUSE {
                        tracing::debug!(controller = C::NAME, ?key, error, ?pause, "{AGAIN}");
                    } else {
                        tracing::warn!(controller = C::NAME, ?key, error, ?pause, "{AGAIN}");
                    }
                }
            }
            self.queue.done(&key);
        }
    }

    /// What this wrote may have come and gone while a cache was filled anew, with no change to bring its key back (found by the
    /// simulation, seed 50032: the claim that was made for a pod).
    fn look_again(&self) {
        self.lists.fetch_add(1, Ordering::AcqRel);
        let memory = self.memory.lock();
        let wrote = memory.iter().filter(|(_, (_, conditions))| !conditions.is_empty());
        wrote.for_each(|(key, _)| self.queue.add(key.clone()));
    }

    /// Whether the key has to wait until the caches show its last writes; it is queued again then.
    fn wait_for_own_writes(self: &Arc<Self>, key: &C::Key) -> bool {
        let pending: Vec<Condition> = {
            let mut memory = self.memory.lock();
            let Some((_, conditions)) = memory.get_mut(key) else { return false };
            conditions.retain(|condition| !condition.is_met());
            conditions.clone()
        };
        let Some(first) = pending.first() else { return false };
        self.environment.metrics.skips(C::QUEUE, first.resource());
        let (queue, key) = (Arc::clone(&self.queue), key.clone());
        tokio::spawn(async move {
            for condition in pending {
                condition.met().await;
            }
            queue.add(key);
        });
        true
    }

    async fn reconcile(&self, key: &C::Key) -> Outcome {
        let (begun, mut fetched) = (Instant::now(), BTreeMap::new());
        for _ in 0..MAX_FETCH_ROUNDS {
            let snapshot = Snapshot::new(Arc::clone(&self.environment.caches), fetched.clone());
            let Some(observed) = self.controller.observe(&snapshot, key) else {
                self.memory.lock().remove(key);
                return Outcome::Done;
            };
            let mut memory =
                self.memory.lock().remove(key).map(|(memory, _)| memory).unwrap_or_default();
            let plan = self.controller.plan(&observed, &mut memory, self.environment.clock.now());
            self.memory.lock().insert(key.clone(), (memory, Vec::new()));
            if plan.fetches.is_empty() {
                let forget = plan.forget;
                let outcome = self.apply(key, plan).await;
                if let Some((memory, _)) = self.memory.lock().get_mut(key) {
                    let failure = match &outcome {
                        Outcome::Failed(failure) => Some(failure),
                        Outcome::Done | Outcome::At(_) | Outcome::Ahead => None,
                    };
                    self.controller.timed(memory, failure, begun.elapsed());
                }
                if forget {
                    self.memory.lock().remove(key);
                }
                return match outcome {
                    Outcome::Done | Outcome::At(_) if self.is_ahead(&fetched) => Outcome::Ahead,
                    outcome => outcome,
                };
            }
            let reads: Vec<_> = plan.fetches.iter().map(|it| self.fetch(it).boxed()).collect();
            let reads = futures::stream::iter(reads).buffered(MAX_PARALLEL_WRITES);
            let found: Vec<_> = reads.collect().await;
            for (fetch, found) in plan.fetches.into_iter().zip(found) {
                match found {
                    Ok(found) => {
                        fetched.insert(fetch, found);
                    }
                    Err(error) => return Outcome::failed(error.to_string()),
                }
            }
        }
        Outcome::failed("the plan asks for live reads again and again".into())
    }

    /// Whether a live read has found what the cache of its resource does not have. That may come and go while the cache is
    /// filled anew, with no change to bring the key back (found by the simulation, seeds 90101 and 400045: who has a claim,
    /// an owner).
    fn is_ahead(&self, fetched: &BTreeMap<Fetch, Option<Value>>) -> bool {
        let of_objects =
            fetched.iter().filter(|(it, _)| it.path.is_none() && it.question.is_none());
        let mut found = of_objects.filter_map(|(fetch, it)| Some((&fetch.resource, it.as_ref()?)));
        found.any(|(resource, found)| {
            let Some(store) = self.environment.caches.known(resource) else { return false };
            let objects = found.as_array().unwrap_or(std::slice::from_ref(found));
            objects.iter().any(|object| {
                let text = |name| object.str_at(&["metadata", name]);
                let cached = store.get(&ObjectKey::new(text("namespace"), text("name")));
                cached.is_none_or(|it| it.uid != text("uid"))
            })
        })
    }

    async fn fetch(&self, fetch: &Fetch) -> Result<Option<Value>, ClientError> {
        if let Some(path) = &fetch.path {
            let read = self.environment.client.read(path);
            let read = tokio::time::timeout(MAX_READ_TIME, read).await;
            return Ok(Some(read.map_or_else(|_| told_late(), told)));
        }
        if let Some(question) = &fetch.question {
            let question = apimachinery::json::parse(question.as_bytes()).unwrap_or_default();
            let client = &self.environment.client;
            return client.create(&fetch.resource, &fetch.key.namespace, &question).await.map(Some);
        }
        if fetch.key.name.is_empty() {
            let list = self
                .environment
                .client
                .list(&fetch.resource, &fetch.key.namespace, &ListParams::default())
                .await?;
            return Ok(Some(Value::Array(list.items)));
        }
        match self
            .environment
            .client
            .get(&fetch.resource, &fetch.key.namespace, &fetch.key.name)
            .await
        {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn apply(&self, key: &C::Key, plan: Plan) -> Outcome {
        plan.events.iter().for_each(|event| self.record(event, "", ""));
        let lists = self.lists.load(Ordering::Acquire);
        let (mut failure, mut again) = (None, false);
        for stage in plan.stages {
            let writes: Vec<_> =
                stage.actions.iter().map(|planned| self.carry_out(planned).boxed()).collect();
            let results: Vec<_> =
                futures::stream::iter(writes).buffer_unordered(MAX_PARALLEL_WRITES).collect().await;
            for result in results {
                match result {
                    Ok(conditions) => self.remember(key, conditions),
                    Err((failed, conditions)) => {
                        self.remember(key, conditions);
                        again |= !failed.is_final;
                        failure = failure.or(Some(failed));
                    }
                }
            }
            if let (Some(failed), Some(refused), false) = (&failure, &stage.refused, again) {
                let instead = (refused.write)(&refused.object, &failed.why);
                if let Ok((_, condition)) = self.write(&instead).await {
                    self.remember(key, condition.into_iter().collect());
                }
            }
            if !stage.goes_on && failure.is_some() {
                break;
            }
        }
        if let Some(failure) = failure {
            return Outcome::Failed(failure);
        }
        if self.lists.load(Ordering::Acquire) != lists {
            self.queue.add(key.clone());
        }
        match (plan.error, plan.requeue_at) {
            (Some(error), _) => Outcome::failed(error),
            (None, Some(at)) => Outcome::At(at),
            (None, None) => Outcome::Done,
        }
    }

    fn remember(&self, key: &C::Key, conditions: Vec<Condition>) {
        if let Some((_, all)) = self.memory.lock().get_mut(key) {
            all.extend(conditions);
        }
    }

    fn record(&self, event: &Event, name: &str, error: &str) {
        let message = event.message.replace("{name}", name).replace("{error}", error);
        self.environment.events.record(event.about.clone(), event.kind, event.reason, message);
    }

    async fn carry_out(
        &self,
        planned: &PlannedAction,
    ) -> Result<Vec<Condition>, (Failure, Vec<Condition>)> {
        let resource = resource_of(&planned.action).clone();
        let written = self.write(&planned.action).await;
        if let Some([succeeded, failed]) = &planned.counters {
            if written.is_ok() { succeeded } else { failed }.inc();
        }
        match written {
            Ok((answer, condition)) => {
                if let Some(event) = &planned.on_success {
                    self.record(event, answer.str_at(&["metadata", "name"]), "");
                }
                Ok(condition.into_iter().collect())
            }
            // Nothing comes into a namespace that is going: there is nothing left to do.
            Err(error) if error.is_namespace_terminating() => Ok(Vec::new()),
            Err(error) => {
                let is_told = !(planned.conflict_is_fine && error.is_conflict());
                for event in planned.on_failure.iter().filter(|_| is_told) {
                    self.record(event, "", &error.to_string());
                }
                let conditions = if error.is_unknown_outcome() {
                    self.fresh(&resource).await
                } else {
                    Vec::new()
                };
                let of = Some((verb_of(&planned.action), resource.plural.clone()));
                let is_final = is_final(&error);
                let namespace = namespace_of(&planned.action).into();
                let (why, code) = (error.to_string(), error.code());
                Err((Failure { why, is_final, of, namespace, code }, conditions))
            }
        }
    }

    /// A write may have happened: the cache must reach a version that is newer than any that it could have made. Without
    /// that version nothing may be planned, so it is asked for until it is known.
    async fn fresh(&self, resource: &Resource) -> Vec<Condition> {
        // What has no cache is not planned by.
        let Some(store) = self.environment.caches.known(resource) else { return Vec::new() };
        let mut pause = MIN_FRESH_PAUSE;
        loop {
            match self.environment.client.list(resource, "", &ListParams::default()).await {
                Ok(list) => {
                    let version = list.resource_version.parse().ok();
                    let reached = version.map(|it| Condition::Reached(store, it));
                    return reached.into_iter().collect();
                }
                // Whoever may not look, or has nothing to look at, does not plan by what lies there.
                Err(error) if error.is_forbidden() || error.is_not_found() => return Vec::new(),
                Err(error) => {
                    tracing::debug!(resource = %resource.plural, %error, "could not see what became of a write");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_FRESH_PAUSE);
        }
    }

    async fn write(&self, action: &Action) -> Result<(Value, Option<Condition>), ClientError> {
        // Of what was written only the version matters, and a name that the server made.
        let client = &self.environment.client.in_brief();
        let caches = &self.environment.caches;
        let written = |resource: &Resource, answer: Value| {
            let store = caches.known(resource);
            let condition = store.and_then(|it| Condition::after_write(&it, &answer));
            (answer, condition)
        };
        match action {
            Action::Create { resource, namespace, object, exists_is_fine } => {
                match client.create(resource, namespace, object).await {
                    Ok(answer) => Ok(written(resource, answer)),
                    Err(error) if *exists_is_fine && error.is_already_exists() => {
                        Ok((Value::Null, None))
                    }
                    Err(error) => Err(error),
                }
            }
            Action::Update { resource, subresource, object } => client
                .update(resource, subresource, object)
                .await
                .map(|answer| written(resource, answer)),
            Action::Patch { resource, key, subresource, kind, patch, gone_is_fine } => match client
                .patch(resource, &key.namespace, &key.name, subresource, *kind, patch)
                .await
            {
                Ok(answer) => Ok(written(resource, answer)),
                Err(error) if *gone_is_fine && error.is_not_found() => Ok((Value::Null, None)),
                Err(error) => Err(error),
            },
            Action::Delete {
                resource,
                key,
                uid,
                propagation,
                grace_period_seconds,
                resource_version: version,
            } => {
                let params = DeleteParams {
                    grace_period_seconds: *grace_period_seconds,
                    propagation: *propagation,
                    uid: (!uid.is_empty()).then(|| uid.clone()),
                    resource_version: (!version.is_empty()).then(|| version.clone()),
                };
                match client.delete(resource, &key.namespace, &key.name, &params).await {
                    Ok(answer) => {
                        let store = caches.known(resource);
                        let condition =
                            store.and_then(|it| Condition::after_delete(it, &answer, (key, uid)));
                        Ok((answer, condition))
                    }
                    Err(error) if error.is_not_found() => Ok((Value::Null, None)),
                    // Another object has the name: the one meant is gone.
                    Err(error) if error.is_conflict() && !uid.is_empty() && version.is_empty() => {
                        Ok((Value::Null, None))
                    }
                    Err(error) => Err(error),
                }
            }
            Action::DeleteCollection { resource, namespace } => {
                client.delete_collection(resource, namespace).await.map(|answer| (answer, None))
            }
            Action::Subresource { resource, key, subresource, object } => {
                let answer = client
                    .create_subresource(resource, &key.namespace, &key.name, subresource, object)
                    .await?;
                Ok((answer, None))
            }
        }
    }
}

impl Outcome {
    /// Where no write failed.
    fn failed(why: String) -> Self {
        let namespace = CompactString::default();
        Self::Failed(Failure { why, is_final: false, of: None, namespace, code: None })
    }
}

/// Whether the same write would fail again: the server refuses what it is, not when it comes.
fn is_final(error: &ClientError) -> bool {
    let passing = |code: u16| matches!(code, 404 | 408 | 409 | 410 | 429);
    error.code().is_some_and(|code| (400..500).contains(&code) && !passing(code))
}

fn verb_of(action: &Action) -> &'static str {
    match action {
        Action::Create { .. } | Action::Subresource { .. } => "create",
        Action::Update { .. } => "update",
        Action::Patch { .. } => "patch",
        Action::Delete { .. } | Action::DeleteCollection { .. } => "delete",
    }
}

fn namespace_of(action: &Action) -> &str {
    match action {
        Action::Create { namespace, .. } | Action::DeleteCollection { namespace, .. } => namespace,
        Action::Update { object, .. } => object.str_at(&["metadata", "namespace"]),
        Action::Subresource { key, .. }
        | Action::Patch { key, .. }
        | Action::Delete { key, .. } => &key.namespace,
    }
}

fn resource_of(action: &Action) -> &Resource {
    match action {
        Action::Create { resource, .. }
        | Action::Update { resource, .. }
        | Action::Patch { resource, .. }
        | Action::Delete { resource, .. }
        | Action::DeleteCollection { resource, .. }
        | Action::Subresource { resource, .. } => resource,
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use client::transport::{ResponseStream, Transport, TransportError};
    use component_base::{RealClock, SeededRandom, Shutdown};
    use http::{Method, Request, Response};
    use parking_lot::Mutex;

    use super::*;
    use crate::Snapshot;

    /// Answers lists, but not the first of them.
    #[derive(Debug, Default)]
    struct Failing(AtomicUsize);

    #[async_trait]
    impl Transport for Failing {
        async fn send(
            &self,
            _request: Request<Bytes>,
        ) -> Result<Response<ResponseStream>, TransportError> {
            if self.0.fetch_add(1, Ordering::Relaxed) < 3 {
                return Err(TransportError::NotSent("no way".into()));
            }
            let list =
                Bytes::from_static(b"{\"metadata\":{\"resourceVersion\":\"7\"},\"items\":[]}");
            Ok(Response::new(futures::stream::iter([Ok(list)]).boxed()))
        }
    }

    struct Nothing;

    impl Controller for Nothing {
        const NAME: &'static str = "nothing-controller";
        type Key = ObjectKey;
        type Observed = ();
        type Memory = ();

        fn watches(&self, watches: Watches<Self::Key>) -> Watches<Self::Key> {
            watches
        }

        fn observe(&self, _snapshot: &Snapshot, _key: &Self::Key) -> Option<()> {
            None
        }

        fn plan(&self, (): &(), (): &mut (), _now: jiff::Timestamp) -> Plan {
            Plan::nothing()
        }
    }

    /// What a runner needs, at one worker; its caches live as long as the guard.
    fn environment(client: Client) -> (Environment, Shutdown) {
        let random: Arc<dyn component_base::Random> = Arc::new(SeededRandom::new(1));
        let stop = Shutdown::new();
        let environment = Environment {
            caches: Caches::new(client.clone(), Arc::clone(&random), stop.signal()),
            client,
            events: EventRecorder::new("test", "", Arc::new(RealClock), random),
            clock: Arc::new(RealClock),
            metrics: crate::Metrics::default(),
            workers: 1,
        };
        (environment, stop)
    }

    /// Found by the simulation, seed 1020: the answer to a create was lost, then the list that should have told what became
    /// of it; the plan was made again on a cache that did not have the pod, and a set had one pod too many.
    #[tokio::test(start_paused = true)]
    async fn what_became_of_a_write_is_asked_until_it_is_known() {
        let client = Client::new(Arc::new(Failing::default()), "test");
        let (environment, _stop) = environment(client);
        let pods = Resource::built_in("", "pods");
        let _planned_by = environment.caches.store(&pods);
        let found = Runner::new(Nothing, environment).fresh(&pods).await;
        assert!(matches!(&found[..], [Condition::Reached(store, 7)] if *store.resource() == pods));
    }

    /// Answers reads of an object, and no lists.
    #[derive(Debug)]
    struct HasOne;

    #[async_trait]
    impl Transport for HasOne {
        async fn send(
            &self,
            request: Request<Bytes>,
        ) -> Result<Response<ResponseStream>, TransportError> {
            if !request.uri().path().ends_with("/a") {
                return std::future::pending().await;
            }
            let one = value!({"metadata": {"name": "a", "namespace": "ns", "uid": "u"}});
            let one = Bytes::from(apimachinery::json::to_vec(&one));
            Ok(Response::new(futures::stream::iter([Ok(one)]).boxed()))
        }
    }

    /// Reads an object, and does nothing.
    struct Reads;

    impl Reads {
        fn fetch() -> Fetch {
            Fetch::read(Resource::built_in("", "configmaps"), ObjectKey::new("ns", "a"))
        }
    }

    impl Controller for Reads {
        const NAME: &'static str = "reading-controller";
        type Key = ObjectKey;
        type Observed = bool;
        type Memory = ();

        fn watches(&self, watches: Watches<Self::Key>) -> Watches<Self::Key> {
            watches
        }

        fn observe(&self, snapshot: &Snapshot, _key: &Self::Key) -> Option<bool> {
            Some(snapshot.fetched(&Self::fetch()).is_some())
        }

        fn plan(&self, is_read: &bool, (): &mut (), _now: jiff::Timestamp) -> Plan {
            let fetches = if *is_read { Vec::new() } else { vec![Self::fetch()] };
            Plan { fetches, ..Plan::default() }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_cache_does_not_show_yet_is_looked_at_again() {
        let key = ObjectKey::new("ns", "a");
        let (environment, _stop) = environment(Client::new(Arc::new(HasOne), "test"));
        let caches = Arc::clone(&environment.caches);
        let runner = Runner::new(Reads, environment);
        // Nobody follows the resource.
        assert!(matches!(runner.reconcile(&key).await, Outcome::Done));
        let _store = caches.store(&Resource::built_in("", "configmaps"));
        assert!(matches!(runner.reconcile(&key).await, Outcome::Ahead));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_that_is_over_is_not_waited_for() {
        let client = Client::new(Arc::new(Failing::default()), "test");
        let (environment, _stop) = environment(client);
        let maps = Resource::built_in("", "configmaps");
        let store = environment.caches.store(&maps);
        let later = store.revision() + 1_000;
        let conditions = [
            Condition::Reached(store.clone(), later),
            Condition::Gone(store, ObjectKey::new("n", "a"), "u".into()),
        ];
        assert!(!conditions[0].is_met());
        let waits = tokio::spawn(async move {
            for condition in conditions {
                condition.met().await;
                assert!(condition.is_met());
            }
        });
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        assert!(!waits.is_finished());
        environment.caches.forget(&maps);
        tokio::time::timeout(std::time::Duration::from_secs(1), waits).await.unwrap().unwrap();
        assert!(environment.caches.known(&maps).is_none());
    }

    /// Refuses updates for now and patches for good, takes everything else and writes down what it was.
    #[derive(Debug, Default)]
    struct Refusing(Mutex<Vec<Method>>);

    #[async_trait]
    impl Transport for Refusing {
        async fn send(
            &self,
            request: Request<Bytes>,
        ) -> Result<Response<ResponseStream>, TransportError> {
            self.0.lock().push(request.method().clone());
            let code = match *request.method() {
                Method::PUT => 409,
                Method::PATCH => 422,
                _ => 201,
            };
            let body = Bytes::from_static(if code == 409 {
                br#"{"kind":"Status","status":"Failure","reason":"Conflict","code":409}"#
            } else {
                br#"{"metadata":{"name":"p","resourceVersion":"7"}}"#
            });
            let mut response = Response::new(futures::stream::iter([Ok(body)]).boxed());
            *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
            Ok(response)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stage_that_goes_on_does_not_keep_what_follows_from_being_done() {
        for (goes_on, expected) in
            [(true, vec![Method::PUT, Method::POST]), (false, vec![Method::PUT])]
        {
            let transport = Arc::new(Refusing::default());
            let client = Client::new(Arc::clone(&transport) as Arc<dyn Transport>, "test");
            let (environment, _stop) = environment(client);
            let mut plan = Plan::nothing();
            let sets = Resource::built_in("apps", "replicasets");
            let object = apimachinery::value!({"metadata": {"name": "s", "namespace": "ns"}});
            plan.act(Action::Update {
                resource: sets,
                subresource: "status",
                object: object.clone(),
            });
            plan.stages[0].goes_on = goes_on;
            plan.then().act(Action::Create {
                resource: Resource::built_in("", "pods"),
                namespace: "ns".into(),
                object,
                exists_is_fine: false,
            });
            let outcome =
                Runner::new(Nothing, environment).apply(&ObjectKey::new("ns", "s"), plan).await;
            let Outcome::Failed(failure) = outcome else { panic!("it did not fail") };
            assert!(failure.is_of("update", "replicasets") && !failure.is_of("create", "pods"));
            assert_eq!(*transport.0.lock(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_for_good_is_written_about() {
        let pods = Resource::built_in("", "pods");
        let object = apimachinery::value!({"metadata": {"name": "p", "namespace": "ns"}});
        let update =
            Action::Update { resource: pods.clone(), subresource: "", object: object.clone() };
        let patch = Action::Patch {
            resource: pods,
            key: ObjectKey::new("ns", "p"),
            subresource: "",
            kind: client::call::PatchKind::Merge,
            patch: object.clone(),
            gone_is_fine: false,
        };
        for (action, expected) in [
            (patch, vec![Method::PATCH, Method::POST]),
            // Somebody else was faster: the next try may do it.
            (update, vec![Method::PUT]),
        ] {
            let transport = Arc::new(Refusing::default());
            let client = Client::new(Arc::clone(&transport) as Arc<dyn Transport>, "test");
            let (environment, _stop) = environment(client);
            let mut plan = Plan::nothing();
            plan.act(action);
            plan.stages[0].refused = Some(crate::plan::Refused {
                object: object.clone(),
                write: |it, why| {
                    assert!(!why.is_empty());
                    Action::Create {
                        resource: Resource::built_in("", "pods"),
                        namespace: "ns".into(),
                        object: it.clone(),
                        exists_is_fine: false,
                    }
                },
            });
            let outcome =
                Runner::new(Nothing, environment).apply(&ObjectKey::new("ns", "s"), plan).await;
            assert!(matches!(outcome, Outcome::Failed(_)));
            assert_eq!(*transport.0.lock(), expected);
        }
    }

    /// A conflict has its next try either way; only whether it is told differs.
    #[tokio::test(start_paused = true)]
    async fn a_conflict_that_is_fine_is_not_told() {
        for (conflict_is_fine, expected) in
            [(true, vec![Method::PUT]), (false, vec![Method::PUT, Method::POST])]
        {
            let transport = Arc::new(Refusing::default());
            let client = Client::new(Arc::clone(&transport) as Arc<dyn Transport>, "test");
            let (environment, stop) = environment(client.clone());
            let events = Arc::clone(&environment.events);
            let object = apimachinery::value!({"metadata": {"name": "p", "namespace": "ns"}});
            let failed = Event {
                about: client::events::ObjectReference::of(&object),
                kind: client::events::EventType::Warning,
                reason: "FailedUpdate",
                message: "failed error: {error}".into(),
            };
            let mut plan = Plan::nothing();
            plan.add(PlannedAction {
                conflict_is_fine,
                ..PlannedAction::new(
                    Action::Update {
                        resource: Resource::built_in("", "pods"),
                        subresource: "",
                        object,
                    },
                    None,
                    vec![failed],
                )
            });
            let outcome =
                Runner::new(Nothing, environment).apply(&ObjectKey::new("ns", "s"), plan).await;
            assert!(matches!(outcome, Outcome::Failed(_)));
            stop.request();
            events.run(client, stop.signal()).await;
            assert_eq!(*transport.0.lock(), expected);
        }
    }
}
