//! Writing an object: managed fields, encoding, the store.

use std::sync::Arc;

use apimachinery::obj::{self, Obj};
use apimachinery::{Status, Value, managed_fields};
use bytes::Bytes;
use storage::{At, Expect, Key, Kv, Put, Rev, StorageError, Ttl};

use crate::Server;
use crate::cache::cache_key;
use crate::corrupt;
use crate::error;
use crate::hub::object_of;
use crate::options::WriteOptions;
use crate::target::Target;
use crate::traces;

/// An object as the store has it, decoded.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) value: Arc<Value>,
    pub(crate) kv: Kv,
}

/// Reads an object as it is now.
///
/// # Errors
/// 404 where there is none.
pub(crate) async fn current(
    server: &Server,
    target: &Target,
    name: &str,
) -> Result<Current, Status> {
    match try_current(server, target, name).await? {
        Some(current) => Ok(current),
        None => Err(Status::not_found(target.group_resource(), name)),
    }
}

/// Reads an object as it is now, if there is one.
pub(crate) async fn try_current(
    server: &Server,
    target: &Target,
    name: &str,
) -> Result<Option<Current>, Status> {
    let key = target.key(name)?;
    let mut part = traces::storage("get", target);
    let read = spans::run(&mut part, server.hub.store().get(&key, At::Latest)).await;
    drop(part);
    let Some(kv) = corrupt::read(server, &key, read)? else { return Ok(None) };
    // Who writes to what has just changed finds it decoded.
    let cached = target.cache.get(&cache_key(&target.namespace, name));
    let cached = cached.filter(|object| object.resource_version == kv.mod_rev.0);
    match cached.and_then(|object| object.kept()) {
        Some(value) => Ok(Some(Current { value: target.read_stored(value).await?, kv })),
        None => decode(server, target, kv).await.map(Some),
    }
}

async fn decode(server: &Server, target: &Target, kv: Kv) -> Result<Current, Status> {
    kv.readable().map_err(|error| error::general(&error))?;
    let mut value = obj::decode(&kv.value, kv.mod_rev.0)
        .map_err(|error| corrupt::broken(server, &kv, &error.to_string()))?;
    // As it is stored, not as it was asked for.
    target.cache.resource().ingest(&mut value);
    let value = target.read_stored(Arc::new(value)).await?;
    Ok(Current { value, kv })
}

/// Decodes what a store's error brought along.
pub(crate) async fn decode_current(
    server: &Server,
    target: &Target,
    kv: &Kv,
) -> Result<Current, Status> {
    decode(server, target, kv.clone()).await
}

/// An object as a write leaves it.
#[derive(Debug)]
pub(crate) enum Written {
    /// It is stored like this.
    Stored(Obj),
    /// It is not stored, or not any more.
    Only(Value),
}

impl Written {
    fn stored(bytes: Bytes, revision: Rev) -> Result<Self, Status> {
        Obj::unindexed(bytes, revision.0).map(Self::Stored).map_err(Status::internal)
    }

    /// What was stored in another version.
    fn converted(mut value: Value, revision: Rev) -> Self {
        value.set_at(&["metadata", "resourceVersion"], revision.0.to_string());
        Self::Only(value)
    }

    /// The revision that it has.
    pub(crate) fn revision(&self) -> Rev {
        match self {
            Self::Stored(object) => Rev(object.resource_version),
            Self::Only(value) => {
                let version = value.str_at(&["metadata", "resourceVersion"]);
                Rev(version.parse().unwrap_or_default())
            }
        }
    }

    /// The object as a value, with its resource version.
    pub(crate) fn into_value(self) -> Result<Value, Status> {
        match self {
            Self::Stored(object) => object.to_value().map_err(Status::internal),
            Self::Only(value) => Ok(value),
        }
    }
}

/// Stores a new object.
pub(crate) async fn create(
    server: &Server,
    target: &Target,
    name: &str,
    value: Value,
    dry_run: bool,
) -> Result<Written, Status> {
    let key = target.key(name)?;
    let store = server.hub.store();
    if dry_run {
        let (kv, _) = store.get(&key, At::Latest).await.map_err(|error| error::general(&error))?;
        return match kv {
            Some(_) => Err(Status::already_exists(target.group_resource(), name)),
            None => Ok(Written::Only(value)),
        };
    }
    let bytes = encoded(target, target.to_stored(&value).await?.as_ref());
    let shown = target.has_own_pipeline().then(|| value.clone());
    let facts = target.served.facts;
    let registers = (facts.group, facts.resource) == ("apiregistration.k8s.io", "apiservices")
        && value.at(&["spec", "service"]).is_some();
    let put = put(server, target, value, key, bytes.clone(), Expect::Absent).await;
    let put = put.map_err(|error| error::of_object(&error, target.group_resource(), name))?;
    settle(server, target, put.rev).await;
    if registers {
        server.aggregator.looked_at(put.rev.0).await;
    }
    match shown {
        Some(value) => Ok(Written::converted(value, put.rev)),
        None => Written::stored(bytes, put.rev),
    }
}

/// How long a write waits for the caches at most. They are there in far less, unless the server is overloaded.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(500);

/// Waits until the caches hold a write to what requests are judged by, so that who has just given a right, or set a
/// bound, finds it in force.
pub(crate) async fn settle(server: &Server, target: &Target, revision: Rev) {
    let facts = target.served.facts;
    let judged_by = matches!(
        (facts.group, facts.resource),
        ("rbac.authorization.k8s.io", _)
            | ("", "limitranges" | "resourcequotas")
            | ("storage.k8s.io", "storageclasses")
            | ("networking.k8s.io", "ingressclasses")
            | ("scheduling.k8s.io", "priorityclasses")
            | ("admissionregistration.k8s.io", _)
    );
    if judged_by {
        let reached = server.hub.progress().reached(revision.0);
        // Too late is no failure: the write is done.
        let _ = tokio::time::timeout(SETTLE, reached).await;
    }
}

/// What became of an attempt to replace an object.
#[derive(Debug)]
pub(crate) enum Replaced {
    /// It is stored.
    Done(Written),
    /// Somebody else was faster; this is the object now.
    Conflict(Current),
}

/// Replaces an object where it is still `current`.
pub(crate) async fn replace(
    server: &Server,
    target: &Target,
    name: &str,
    current: &Kv,
    mut value: Value,
    dry_run: bool,
) -> Result<Replaced, Status> {
    if dry_run {
        value.set_at(&["metadata", "resourceVersion"], current.mod_rev.0.to_string());
        return Ok(Replaced::Done(Written::Only(value)));
    }
    let bytes = encoded(target, target.to_stored(&value).await?.as_ref());
    let shown = target.has_own_pipeline().then(|| value.clone());
    let written = |bytes, revision| match shown {
        Some(value) => Ok(Written::converted(value, revision)),
        None => Written::stored(bytes, revision),
    };
    let stale = || server.hub.store().is_stale(current);
    if bytes == current.value && !stale().await.map_err(|error| error::general(&error))? {
        // Nothing changed: no new version and no event. What would be stored otherwise now is written all the same.
        return written(bytes, current.mod_rev).map(Replaced::Done);
    }
    let key = current.key.clone();
    let expect = Expect::ModRev(current.mod_rev);
    match put(server, target, value, key, bytes.clone(), expect).await {
        Ok(put) => {
            settle(server, target, put.rev).await;
            written(bytes, put.rev).map(Replaced::Done)
        }
        Err(StorageError::Conflict { current }) => {
            Ok(Replaced::Conflict(decode(server, target, *current).await?))
        }
        Err(error) => Err(error::of_object(&error, target.group_resource(), name)),
    }
}

/// The bytes of a value as it is stored.
fn encoded(target: &Target, value: &Value) -> Bytes {
    if target.resource().is_custom() { obj::encode_custom(value) } else { obj::encode(value) }
        .into()
}

/// Stores the bytes of a value.
async fn put(
    server: &Server,
    target: &Target,
    value: Value,
    key: Key,
    bytes: Bytes,
    expect: Expect,
) -> Result<Put, StorageError> {
    // What another version than the stored one wrote is looked at again when it comes back.
    let resource = target.resource();
    if !resource.is_custom() || target.is_storage_version() {
        server.hub.note(resource, value, &bytes);
    }
    let mut part = traces::storage("put", target);
    let put = server.hub.store().put(key, bytes.clone(), expect, ttl(server, target));
    let put = spans::run(&mut part, put).await;
    drop(part);
    if put.is_err() {
        server.hub.forget(&bytes);
    }
    put
}

/// How long an object is kept: what there is of that sort is events.
fn ttl(server: &Server, target: &Target) -> Option<Ttl> {
    let expires = target.resource().rules().ttl_seconds > 0;
    let seconds = u32::try_from(server.operating.event_ttl.as_secs()).unwrap_or(u32::MAX);
    expires.then_some(Ttl { seconds: seconds.max(1) })
}

/// The objects of a page of the store.
pub(crate) fn objects_of(target: &Target, kvs: &[Kv]) -> Result<Vec<Arc<Obj>>, Status> {
    kvs.iter()
        .map(|kv| {
            object_of(target.cache.resource().as_ref(), kv).map_err(|error| error::general(&error))
        })
        .collect()
}

/// Records in managed fields what a write changed, and who wrote.
pub(crate) fn track_fields(
    server: &Server,
    target: &Target,
    subresource: &str,
    options: &WriteOptions,
    value: &mut Value,
    old: Option<&Value>,
) {
    let version = target.served.facts.api_version();
    let now = apimachinery::time::format_time(server.clock.now());
    let write = tracked_write(target, subresource, options, &version, &now);
    managed_fields::update(&write, old, value);
    if subresource == "scale" {
        keep_times(value, old);
    }
}

/// A write through `scale` leaves times alone, as upstream's does: who is new has none.
fn keep_times(value: &mut Value, old: Option<&Value>) {
    let path = ["metadata", "managedFields"];
    let before = old.map(|it| it.items_at(&path)).unwrap_or_default();
    let same = |a: &Value, b: &Value| {
        ["manager", "operation", "apiVersion", "subresource"].iter().all(|it| a[it] == b[it])
    };
    for entry in value.items_at_mut(&path) {
        match before.iter().find(|it| same(it, entry)).and_then(|it| it.get("time")) {
            Some(time) => entry.set_at(&["time"], time.clone()),
            None => {
                entry.remove_at(&["time"]);
            }
        }
    }
}

/// A write as managed fields see it.
pub(crate) fn tracked_write<'w>(
    target: &'w Target,
    subresource: &'w str,
    options: &'w WriteOptions,
    api_version: &'w str,
    now: &'w str,
) -> managed_fields::Write<'w> {
    managed_fields::Write {
        schema: target.resource().types(&target.served),
        node: target.served.node,
        manager: &options.field_manager,
        api_version,
        subresource,
        now,
        reset: reset_fields(target, subresource),
    }
}

/// The fields that a write to this part cannot set.
fn reset_fields(target: &Target, subresource: &str) -> &'static [&'static [&'static str]] {
    match subresource {
        "status" if target.resource().is_custom() => &[&["metadata"], &["spec"]],
        "status" => &[&["spec"]],
        "" if target.resource().rules().has_status => &[&["status"]],
        _ => &[],
    }
}
