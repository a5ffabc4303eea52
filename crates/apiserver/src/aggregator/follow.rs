//! The task that knows the servers behind this one: it learns of them from the caches, asks them in turn, and says what
//! it found.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::Value;
use auth::Objects as _;
use compact_str::CompactString;
use http::Method;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::registration::{self, Known};
use super::routes::{Remote, Routes};
use super::view::{Priority, Version, View};
use super::{availability, discovery, openapi};
use crate::Server;
use crate::bootstrap::Bootstrap;
use crate::cache::{Cache, Scope};
use crate::computed::ComputedVersion;
use crate::objects::CachedObjects;
use crate::tended::Condition;

const GROUP: &str = "apiregistration.k8s.io";
const PLURAL: &str = "apiservices";
/// How long it is until a server that answered is asked again (upstream: the informer's resync).
const AGAIN: Duration = Duration::from_secs(30);
/// The pauses after failures, doubled from one to the next (upstream's).
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// How often a pause can be doubled before it is the longest in any case.
const MAX_DOUBLINGS: u32 = 13;

/// Follows APIServices until the server stops.
pub(crate) async fn follow(server: Arc<Server>) {
    let objects = CachedObjects::new(Arc::clone(&server.hub), Arc::clone(&server.catalog));
    let cache = |group, resource| objects.cache(group, resource).map(Cow::into_owned);
    let Some(services) = cache(GROUP, PLURAL) else { return };
    // Looked at only while an APIService names a service.
    let others: Vec<Arc<Cache>> = [("", "services"), ("discovery.k8s.io", "endpointslices")]
        .into_iter()
        .filter_map(|(group, resource)| cache(group, resource))
        .collect();
    let stop = server.stop.clone();
    let changed = Arc::clone(server.catalog.changed());
    let mut follower = Follower::new(server, objects);
    loop {
        let watched = others.iter().filter(|_| !follower.servers.is_empty());
        let notifies: Vec<_> = std::iter::once(&services)
            .chain(watched)
            .map(|cache| cache.wake_for(Scope::All))
            .chain(std::iter::once(Arc::clone(&changed)))
            .collect();
        // Made before looking, so that what happens meanwhile is seen.
        let woken = notifies.iter().map(|notify| {
            let mut notified = Box::pin(notify.notified());
            notified.as_mut().enable();
            notified
        });
        let woken = futures::future::select_all(woken.collect::<Vec<_>>());
        let had_any = !follower.servers.is_empty();
        let until = follower.server.hub.progress().revision();
        follower.look().await;
        follower.server.aggregator.looked.advance(until);
        if follower.servers.is_empty() == had_any {
            continue;
        }
        let due = follower.due();
        tokio::select! {
            biased;
            _ = woken => {}
            () = stop.requested() => return,
            () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {}
            Some(done) = follower.checks.join_next(), if !follower.checks.is_empty() => {
                if let Ok(found) = done {
                    follower.learn_of(found).await;
                }
            }
        }
    }
}

/// A server, and what was found of it so far.
struct Tended {
    remote: Arc<Remote>,
    /// The APIService as it was when it was looked at.
    object: Value,
    seen: Vec<u64>,
    due: Instant,
    failures: u32,
    asking: bool,
    told: Option<discovery::Told>,
    stale: bool,
    openapi: openapi::Told,
}

/// What asking a server has shown.
struct Found {
    name: CompactString,
    remote: Arc<Remote>,
    condition: Condition,
    told: Option<Result<discovery::Told, String>>,
    openapi: Option<openapi::Told>,
}

struct Follower {
    server: Arc<Server>,
    objects: CachedObjects,
    /// All APIServices, with the versions in which they were looked at.
    known: BTreeMap<CompactString, (u64, Known, Priority)>,
    servers: BTreeMap<CompactString, Tended>,
    checks: JoinSet<Found>,
    /// APIServices without a service that were not looked at yet.
    turned_local: BTreeMap<CompactString, Value>,
    /// What this process computes, as it was told last.
    computed: Vec<ComputedVersion>,
    /// When registration is tried again.
    registration_due: Option<Instant>,
}

impl Follower {
    fn new(server: Arc<Server>, objects: CachedObjects) -> Self {
        let (known, servers, checks) = (BTreeMap::new(), BTreeMap::new(), JoinSet::new());
        let (turned_local, computed) = (BTreeMap::new(), Vec::new());
        Self {
            server,
            objects,
            known,
            servers,
            checks,
            turned_local,
            computed,
            registration_due: None,
        }
    }

    /// When something is to be done that nothing wakes for.
    fn due(&self) -> Option<Instant> {
        let servers = self.servers.values().filter(|it| !it.asking).map(|it| it.due);
        servers.chain(self.registration_due).min()
    }

    async fn look(&mut self) {
        let computed = self.server.computed_versions();
        let computes_others = computed != self.computed;
        self.computed = computed;
        if self.take() || computes_others {
            self.route();
            self.tell();
        }
        self.look_at_computed();
        self.tell_local().await;
        let known = self.known.iter().map(|(name, (_, known, _))| (name.clone(), known.clone()));
        let good = registration::keep(&self.server, &known.collect()).await;
        self.registration_due = (!good).then(|| Instant::now() + MAX_PAUSE);
        let now = Instant::now();
        for tended in self.servers.values_mut() {
            let seen = availability::seen(&tended.remote, &self.objects);
            if seen != tended.seen {
                tended.seen = seen;
                tended.due = now;
                tended.failures = 0;
            }
        }
        let due: Vec<CompactString> = self
            .servers
            .iter()
            .filter(|(_, it)| !it.asking && it.due <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in due {
            self.check(&name).await;
        }
    }

    /// Takes what the cache has; says whether anything is different.
    fn take(&mut self) -> bool {
        let objects = self.objects.list(GROUP, PLURAL, "");
        let there: BTreeSet<&CompactString> = objects.iter().map(|it| &it.facts.name).collect();
        let before = self.known.len();
        self.known.retain(|name, _| there.contains(name));
        let mut changed = self.known.len() != before;
        for name in self.servers.keys().filter(|it| !there.contains(it)) {
            self.server.aggregator.metrics.forget(name);
        }
        self.servers.retain(|name, _| there.contains(name));
        for object in &objects {
            let name = &object.facts.name;
            let version = object.resource_version;
            if self.known.get(name).is_some_and(|it| it.0 == version) {
                continue;
            }
            let Ok(value) = object.to_value() else { continue };
            let number = |member| value.i64_at(&["spec", member]).unwrap_or_default();
            let priority = (number("groupPriorityMinimum"), number("versionPriority"));
            self.known.insert(name.clone(), (version, Known::of(&value), priority));
            self.learn(name, value);
            changed = true;
        }
        changed
    }

    fn learn(&mut self, name: &CompactString, object: Value) {
        let before = self.servers.remove(name);
        let remote =
            Remote::of(&self.server.aggregator, &object, before.as_ref().map(|it| &*it.remote));
        let Some(remote) = remote.map(Arc::new) else {
            self.server.aggregator.metrics.forget(name);
            self.turned_local.insert(name.clone(), object);
            return;
        };
        let tended = match before {
            Some(before) if before.remote.is_like(&remote) => Tended { remote, object, ..before },
            _ => Tended {
                seen: availability::seen(&remote, &self.objects),
                due: Instant::now(),
                failures: 0,
                asking: false,
                told: None,
                stale: true,
                openapi: openapi::Told::default(),
                remote,
                object,
            },
        };
        self.servers.insert(name.clone(), tended);
    }

    /// Sends requests to where they belong from now on.
    fn route(&self) {
        let remotes = self.servers.values().map(|it| Arc::clone(&it.remote)).collect();
        self.server.aggregator.routes.store(Arc::new(Routes::new(remotes)));
    }

    /// Says what discovery and OpenAPI tell from now on.
    fn tell(&self) {
        if self.servers.is_empty() && self.computed.is_empty() {
            self.server.catalog.set_remote(View::default());
            return;
        }
        let versions = self.servers.values().map(|it| Version {
            group: it.remote.group.clone(),
            version: it.remote.version.clone(),
            resources: it.told.as_ref().map(|it| it.resources.clone()).unwrap_or_default(),
            stale: it.stale,
            openapi: it.openapi.url.clone(),
            openapi_v2: it.openapi.v2.clone(),
        });
        let priorities = self.known.iter().filter_map(|(name, (_, _, priority))| {
            let (version, group) = name.split_once('.')?;
            Some(((group.into(), version.into()), *priority))
        });
        let mut versions: Vec<Version> = versions.collect();
        let computed = self.computed.iter().map(computed_version);
        let elsewhere = |it: &Version| {
            versions.iter().any(|other| other.group == it.group && other.version == it.version)
        };
        let computed: Vec<Version> = computed.filter(|it| !elsewhere(it)).collect();
        versions.extend(computed);
        let view = View { versions, priorities: priorities.collect() };
        if self.server.catalog.set_remote(view) {
            self.server.aggregator.metrics.merged();
        }
    }

    /// Looks whether a server can be asked, and asks it.
    async fn check(&mut self, name: &CompactString) {
        let Some(tended) = self.servers.get_mut(name) else { return };
        let remote = Arc::clone(&tended.remote);
        if let Err((reason, message)) = availability::unreachable(&remote, &self.objects) {
            let condition = availability::condition(false, reason, message);
            // Nothing but a change can help, and that wakes this task.
            tended.due = Instant::now() + AGAIN;
            tended.stale = true;
            self.tell();
            self.write(name, &condition).await;
            return;
        }
        tended.asking = true;
        let (server, name) = (Arc::clone(&self.server), name.clone());
        let (told, documents) = (tended.told.clone(), tended.openapi.clone());
        self.checks.spawn(async move {
            let condition = availability::asked(&server, &remote).await;
            if condition.status != "True" {
                return Found { name, remote, condition, told: None, openapi: None };
            }
            let told = discovery::ask(&server, &remote, told.as_ref()).await;
            let openapi = Some(openapi::ask(&server, &remote, &documents).await);
            Found { name, remote, condition, told: Some(told), openapi }
        });
    }

    async fn learn_of(&mut self, found: Found) {
        let Some(tended) = self.servers.get_mut(&found.name) else { return };
        tended.asking = false;
        if !tended.remote.is_like(&found.remote) {
            tended.due = Instant::now();
            return;
        }
        let mut good = found.condition.status == "True";
        match found.told {
            Some(Ok(told)) => {
                tended.told = Some(told);
                tended.stale = false;
            }
            Some(Err(error)) => {
                tracing::info!(name = %found.name, error, "could not read what an API server serves");
                tended.stale = true;
                good = false;
            }
            None => tended.stale = true,
        }
        if let Some(openapi) = found.openapi {
            tended.openapi = openapi;
        }
        tended.failures = if good { 0 } else { (tended.failures + 1).min(MAX_DOUBLINGS) };
        let pause = match tended.failures {
            0 => AGAIN,
            failures => (FIRST_PAUSE * 2_u32.pow(failures - 1)).min(MAX_PAUSE),
        };
        tended.due = Instant::now() + pause;
        // Told before it is available: who waits for that finds it.
        self.tell();
        self.write(&found.name, &found.condition).await;
    }

    /// Writes a condition where the APIService says something else.
    async fn write(&mut self, name: &CompactString, condition: &Condition) {
        let Some(tended) = self.servers.get_mut(name) else { return };
        let available = condition.status == "True";
        let turned = (tended.remote.available && !available).then_some(condition.reason);
        self.server.aggregator.metrics.found(name, available, turned);
        if condition.is_told_by(&tended.object) {
            return;
        }
        let mut object = tended.object.clone();
        availability::set(&mut object, condition, self.server.clock.now());
        let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}/status");
        let bootstrap = Bootstrap::new(&self.server);
        match bootstrap.send(Method::PUT, &path, Some(&object)).await {
            Ok(Some(_)) => {}
            // Somebody else wrote it meanwhile.
            Ok(None) => tended.due = Instant::now() + FIRST_PAUSE,
            Err(error) => {
                tracing::debug!(%error, "a condition could not be written");
                tended.due = Instant::now() + MAX_PAUSE;
            }
        }
    }

    /// Takes the APIServices of what this process computes: whether that can be asked changes without them.
    fn look_at_computed(&mut self) {
        for it in &self.computed {
            let name: CompactString = format!("{}.{}", it.version, it.group).into();
            if self.servers.contains_key(&name) || self.turned_local.contains_key(&name) {
                continue;
            }
            let found = self.objects.get(GROUP, PLURAL, "", &name);
            if let Some(object) = found.and_then(|it| it.to_value().ok()) {
                self.turned_local.insert(name, object);
            }
        }
    }

    /// What this server answers itself is available, also where that was another's until now.
    async fn tell_local(&mut self) {
        for (name, mut object) in std::mem::take(&mut self.turned_local) {
            let of = |member| object.str_at(&["spec", member]);
            let condition = match self.server.computed_available(of("group"), of("version")) {
                Some(Err(why)) => availability::condition(false, "FailedDiscoveryCheck", why),
                Some(Ok(())) | None => availability::local(),
            };
            if condition.is_told_by(&object) {
                continue;
            }
            availability::set(&mut object, &condition, self.server.clock.now());
            let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}/status");
            let written =
                Bootstrap::new(&self.server).send(Method::PUT, &path, Some(&object)).await;
            if let Err(error) = written {
                tracing::debug!(%error, "a condition could not be written");
            }
        }
    }
}

/// What discovery tells of what this process computes.
fn computed_version(it: &ComputedVersion) -> Version {
    Version {
        group: it.group.as_str().into(),
        version: it.version.as_str().into(),
        resources: discovery::aggregated(&it.resources),
        stale: false,
        openapi: String::new(),
        openapi_v2: None,
    }
}
