//! Definitions of custom resources as they come, change and go: one task follows them, gives them their names, serves
//! their objects, and clears those away before a definition goes. Upstream: the controllers of the API extensions
//! server.
//!
//! Objects are served before the definition says `Established`, so that who waits for that finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use apimachinery::obj::Obj;
use apimachinery::{Status, Value, json};
use auth::UserInfo;
use compact_str::CompactString;
use http::Request;
use http::header::{CONTENT_TYPE, USER_AGENT};
use registry::AnyResource;
use registry::custom::names::{self, Condition, Used};
use registry::custom::{Definition, DefinitionError};
use sha2::{Digest, Sha256};
use storage::StorageError;
use tokio::task::JoinSet;

use crate::cache::{Cache, Change, Cursor, Next, Scope};
use crate::catalog::Catalog;
use crate::conversion::{Calls, Conversion};
use crate::handlers::delete::{DeleteOptions, remove_unasked};
use crate::hub::Hub;
use crate::metrics::Expressions;
use crate::target::Target;
use crate::{Peer, RequestBody, Server};

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
/// How many changes are taken at once.
const CHANGES: usize = 500;
/// How long it is until what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Serves what was served when the server last ran.
pub(crate) async fn install_all(
    catalog: &Catalog,
    hub: &Hub,
    calls: &Arc<Calls>,
    stopwatch: &Arc<Expressions>,
) -> Result<(), StorageError> {
    let Some(cache) = definitions_of(catalog, hub) else { return Ok(()) };
    for object in cache.everything("", 0).objects.iter() {
        let Ok(value) = object.to_value() else { continue };
        if !names::holds(&value, "Established") {
            continue;
        }
        match Definition::timed(&value, object, Arc::clone(stopwatch) as _) {
            Ok(definition) => {
                let ending = names::is_ending(&value);
                let name = &object.facts.name;
                let conversion = Conversion::of(&value, calls);
                let made = (made_of(&value), ending);
                catalog.install(name, definition, made, conversion).await?;
            }
            Err(error) => {
                tracing::error!(name = %object.facts.name, %error, "could not serve a definition");
            }
        }
    }
    Ok(())
}

fn definitions_of(catalog: &Catalog, hub: &Hub) -> Option<Arc<Cache>> {
    let place = catalog.built_in().place(GROUP, PLURAL)?;
    Some(Arc::clone(hub.cache(place)))
}

/// What a custom resource is made of: it is another one where this is another.
fn made_of(definition: &Value) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(json::to_vec(&definition["spec"]));
    hash.update(json::to_vec(&definition["status"]["acceptedNames"]));
    hash.finalize().into()
}

/// Follows the definitions until the server stops.
pub(crate) async fn follow(server: Arc<Server>) {
    let Some(cache) = definitions_of(&server.catalog, &server.hub) else { return };
    let woken = cache.wake_for(Scope::All);
    let stop = server.stop.clone();
    let mut follower = Follower {
        server,
        cache,
        at: None,
        known: BTreeMap::new(),
        used: BTreeMap::new(),
        due: BTreeSet::new(),
        ending: BTreeSet::new(),
        endings: JoinSet::new(),
    };
    loop {
        let mut woken = std::pin::pin!(woken.notified());
        woken.as_mut().enable();
        follower.take();
        follower.work().await;
        if follower.is_behind() {
            continue;
        }
        let retry = !follower.due.is_empty();
        tokio::select! {
            biased;
            () = woken => {}
            () = stop.requested() => return,
            () = tokio::time::sleep(RETRY), if retry => {}
            Some(ended) = follower.endings.join_next(), if !follower.endings.is_empty() => {
                if let Ok(name) = ended {
                    follower.ending.remove(&name);
                    follower.due.insert(name);
                }
            }
        }
    }
}

struct Follower {
    server: Arc<Server>,
    cache: Arc<Cache>,
    at: Option<Cursor>,
    /// The definitions by name, with their groups.
    known: BTreeMap<CompactString, Known>,
    /// The names in use, by group.
    used: BTreeMap<CompactString, Used>,
    /// What is to be looked at.
    due: BTreeSet<CompactString>,
    /// Those whose objects are being cleared away.
    ending: BTreeSet<CompactString>,
    endings: JoinSet<CompactString>,
}

/// What is kept of a definition.
struct Known {
    object: Arc<Obj>,
    group: CompactString,
    /// Its accepted names alone.
    names: Value,
    /// It has not got all names that it wants.
    waits: bool,
}

impl Follower {
    fn is_behind(&self) -> bool {
        self.at.is_none_or(|at| at != self.cache.end())
    }

    /// Takes the changes since the last time.
    fn take(&mut self) {
        loop {
            let Some(at) = self.at else { return self.take_all() };
            let (Next::Events(events, next), _) = self.cache.read(at, CHANGES) else {
                return self.take_all();
            };
            self.at = Some(next);
            if events.is_empty() {
                return;
            }
            for event in events {
                let name = event.object.facts.name.clone();
                match event.change {
                    Change::Deleted => self.gone(&name),
                    Change::Added | Change::Modified => self.learn(name, &event.object),
                }
            }
        }
    }

    fn take_all(&mut self) {
        let snapshot = self.cache.everything("", 0);
        self.at = Some(snapshot.cursor);
        let there: BTreeSet<&CompactString> =
            snapshot.objects.iter().map(|it| &it.facts.name).collect();
        let gone: Vec<CompactString> =
            self.known.keys().filter(|it| !there.contains(it)).cloned().collect();
        gone.iter().for_each(|name| self.gone(name));
        for object in snapshot.objects.iter() {
            self.learn(object.facts.name.clone(), object);
        }
    }

    fn learn(&mut self, name: CompactString, object: &Arc<Obj>) {
        let Ok(value) = decoded(object) else { return };
        let mut names = Value::object();
        names.set_at(&["status", "acceptedNames"], value["status"]["acceptedNames"].clone());
        let group: CompactString = value.str_at(&["spec", "group"]).into();
        let used = self.used.entry(group.clone()).or_default();
        if let Some(before) = self.known.get(&name) {
            used.remove(&name, &before.names);
        }
        used.add(&name, &names);
        let waits = !names::holds(&value, "NamesAccepted");
        let known = Known { object: Arc::clone(object), group, names, waits };
        self.known.insert(name.clone(), known);
        self.due.insert(name);
    }

    /// Notes the names that a definition has been given.
    fn give_names(&mut self, name: &CompactString, value: &Value) {
        let Some(known) = self.known.get_mut(name) else { return };
        let used = self.used.entry(known.group.clone()).or_default();
        used.remove(name, &known.names);
        let accepted = value["status"]["acceptedNames"].clone();
        known.names.set_at(&["status", "acceptedNames"], accepted);
        used.add(name, &known.names);
    }

    fn gone(&mut self, name: &CompactString) {
        self.due.remove(name);
        self.server.catalog.remove(name);
        let Some(known) = self.known.remove(name) else { return };
        if let Some(used) = self.used.get_mut(&known.group) {
            used.remove(name, &known.names);
        }
        // Its names are free: others may have waited for them.
        let others = self.known.iter().filter(|(_, it)| it.waits && it.group == known.group);
        self.due.extend(others.map(|(name, _)| name.clone()));
    }

    /// Looks at everything that is due; what fails stays due.
    async fn work(&mut self) {
        for name in std::mem::take(&mut self.due) {
            if let Err(error) = self.look(&name).await {
                tracing::warn!(%name, %error, "could not bring a definition up to date");
                self.due.insert(name);
            }
        }
    }

    async fn look(&mut self, name: &CompactString) -> Result<(), LookError> {
        let Some(known) = self.known.get(name) else { return Ok(()) };
        let object = Arc::clone(&known.object);
        let mut value = decoded(&object)?;
        let used = self.used.entry(known.group.clone()).or_default();
        let now = self.server.clock.now();
        let mut decision = names::decide(&value, used);
        let mut changed = decision.write(&mut value, now);
        if decision.is_served
            && let Err(error) = self.serve(name, &object, &value).await?
        {
            decision.refuse(&error.to_string());
            value = decoded(&object)?;
            changed = decision.write(&mut value, now);
        }
        if changed {
            // What is written comes back as a change; its names are given from now on.
            if write_status(&self.server, name, &value).await? {
                self.give_names(name, &value);
            }
            return Ok(());
        }
        if names::is_ending(&value) && self.ending.insert(name.clone()) {
            self.server.catalog.terminate(name);
            let (server, name) = (Arc::clone(&self.server), name.clone());
            self.endings.spawn(async move {
                if let Err(error) = end(&server, &name).await {
                    tracing::warn!(%name, %error, "could not clear a definition's objects away");
                    tokio::time::sleep(RETRY).await;
                }
                name
            });
        }
        Ok(())
    }

    /// Serves the objects of a definition that has its names; the inner error is why it cannot be served.
    async fn serve(
        &self,
        name: &str,
        object: &Arc<Obj>,
        value: &Value,
    ) -> Result<Result<(), DefinitionError>, LookError> {
        let made_of = made_of(value);
        let installed = self.server.catalog.installed(name);
        if let Some(installed) = installed.filter(|it| it.made_of == made_of) {
            installed.definition.renew(object);
            return Ok(Ok(()));
        }
        // The names may be accepted just now, and not stored yet.
        let stopwatch = Arc::clone(&self.server.metrics.expressions);
        let definition = match Definition::timed(value, object, stopwatch) {
            Ok(definition) => definition,
            Err(error) => return Ok(Err(error)),
        };
        let ending = names::is_ending(value);
        let conversion = Conversion::of(value, &self.server.conversions);
        self.server.catalog.install(name, definition, (made_of, ending), conversion).await?;
        Ok(Ok(()))
    }
}

/// The definition as a value, decoded once where it has just changed.
fn decoded(object: &Obj) -> Result<Value, LookError> {
    let value = object.value().map_err(|error| LookError::Object(error.to_string()))?;
    Ok(Value::clone(&value))
}

/// What keeps a definition from being up to date, until it is tried again.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("the definition cannot be read: {0}")]
    Object(String),
    #[error("its objects cannot be read: {0}")]
    Storage(#[from] StorageError),
    #[error("the server answered {code}: {message}")]
    Answer { code: u16, message: String },
    #[error("an object could not be deleted: {}", .0.message)]
    Delete(Status),
}

/// Writes the status of a definition, by the way that clients take; says whether nobody else was faster.
async fn write_status(server: &Arc<Server>, name: &str, value: &Value) -> Result<bool, LookError> {
    let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}/status");
    let mut patch = Value::object();
    // Of the object as it was looked at.
    for member in ["resourceVersion", "finalizers"] {
        let it = value.at(&["metadata", member]).cloned().unwrap_or_default();
        patch.set_at(&["metadata", member], it);
    }
    patch.set_at(&["status"], value["status"].clone());
    let request = Request::patch(path)
        .header(CONTENT_TYPE, "application/merge-patch+json")
        .header(USER_AGENT, "kube-apiserver")
        .body(RequestBody::Bytes(json::to_vec(&patch).into()));
    let request = request.map_err(|error| LookError::Object(error.to_string()))?;
    let user = UserInfo {
        name: "system:apiserver".into(),
        groups: vec!["system:masters".into(), "system:authenticated".into()],
        ..UserInfo::anonymous()
    };
    let peer = Peer { user: Some(Arc::new(user)), ..Peer::default() };
    // Boxed: a request leads here, and from here another one.
    let response = Box::pin(server.serve(request, peer)).await;
    match response.status().as_u16() {
        200 => Ok(true),
        // Somebody else wrote it, which comes as a change.
        404 | 409 => Ok(false),
        code => {
            let message = match response.into_body() {
                crate::Body::Full(bytes) => {
                    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
                }
                crate::Body::Stream(_) => String::new(),
            };
            Err(LookError::Answer { code, message })
        }
    }
}

/// Deletes the objects of a definition, waits until they are gone, and lets the definition go.
async fn end(server: &Arc<Server>, name: &str) -> Result<(), LookError> {
    let Some(definitions) = definitions_of(&server.catalog, &server.hub) else { return Ok(()) };
    let current = || {
        let value = definitions.get(name)?.to_value().ok()?;
        names::is_ending(&value).then_some(value)
    };
    let Some(mut value) = current() else { return Ok(()) };
    if let Some(installed) = server.catalog.installed(name) {
        let now = server.clock.now();
        let message = "CustomResource deletion is in progress";
        let condition = Condition::new("Terminating", true, "InstanceDeletionInProgress", message);
        condition.set(&mut value, now);
        write_status(server, name, &value).await?;
        clear(server, &installed.cache, &Arc::clone(installed.definition.storage())).await?;
    }
    server.hub.catch_up().await?;
    let Some(mut value) = current() else { return Ok(()) };
    names::end_deletion(&mut value, server.clock.now());
    write_status(server, name, &value).await?;
    Ok(())
}

/// Deletes all objects and waits until the last is gone; finalizers may keep one for as long as they like.
async fn clear(
    server: &Arc<Server>,
    cache: &Arc<Cache>,
    storage: &Arc<registry::custom::CustomResource>,
) -> Result<(), LookError> {
    let woken = cache.wake_for(Scope::All);
    loop {
        let mut woken = std::pin::pin!(woken.notified());
        woken.as_mut().enable();
        server.hub.catch_up().await?;
        let objects = cache.everything("", 0).objects;
        if objects.is_empty() || cache.is_retired() {
            return Ok(());
        }
        for object in objects.iter() {
            let going = object
                .to_value()
                .is_ok_and(|it| it.at(&["metadata", "deletionTimestamp"]).is_some());
            if going {
                continue;
            }
            let target = Target {
                cache: Arc::clone(cache),
                resource: Arc::clone(storage) as Arc<dyn AnyResource>,
                served: storage.own(),
                conversion: None,
                namespace: object.facts.namespace.clone(),
            };
            let options = DeleteOptions::default();
            match remove_unasked(server, &target, &object.facts.name, &options).await {
                Ok(_) => {}
                Err(status) if status.reason == "NotFound" => {}
                Err(status) => return Err(LookError::Delete(status)),
            }
        }
        server.hub.catch_up().await?;
        if cache.is_empty() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = woken => {}
            () = server.stop.requested() => return Ok(()),
        }
    }
}
